"""`tensorchain figures`: list and draw the figures of the repository.

The scripts that draw them, `paper_figures`, are not part of the installed package: they need its data, its benchmarks'
weights and other packages.  They are found beside the package when that is installed from a checkout in place
(pip install -e), or in the current folder; they run in a process of their own, `python -m paper_figures`, whose exit
status is that of the command.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tensorchain._version import __version__
from tensorchain.cli.arguments import positive_integer, seed
from tensorchain.cli.errors import EXIT_STATUS, CommandError, Status

DESCRIPTION = """\
Measure and draw the figures: PDF and PNG, with the numbers as CSV beside them.

Without a name, and without --quick or --full, the figures are listed.  Runs in a checkout of the repository.  What is
measured is kept, so a run that was stopped goes on where it was.
"""

EPILOG = f"""\
examples:
  tensorchain figures
  tensorchain figures instability perturbation --quick
  tensorchain figures --full --seed 3
  tensorchain figures trade_off --redraw --json

{EXIT_STATUS}"""

_SCRIPTS = "paper_figures"


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "figures",
        help="list and draw the figures (in a checkout)",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which figures; all of them with --quick or --full")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small sizes and few seeds, minutes in all (default)")
    size.add_argument("--full", action="store_true", help="the sizes of a publication, hours")
    parser.add_argument("--list", action="store_true", help="list the figures and stop")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of data and starts (default 0)")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: paper_figures/out of the checkout)")
    parser.add_argument("--images", metavar="DIR", help="copy the PNG files there as well")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--redraw", action="store_true", help="measure nothing, draw the numbers that are there")
    again.add_argument("--restart", action="store_true", help="measure again what is there already")
    parser.add_argument("--jobs", type=positive_integer, metavar="N", help="processes (default: all cores)")
    parser.add_argument("--json", action="store_true", help="print JSON: the list, or the files that were written")


def run(arguments: argparse.Namespace) -> Status:
    """Hand over to the scripts."""
    root = checkout()
    if root is None:
        raise CommandError(
            "the scripts that draw the figures are not part of the installed package: get the source repository of "
            f"tensorchain {__version__}, and run this command in its top folder, where {_SCRIPTS}/ is"
        )
    command = [sys.executable, "-m", _SCRIPTS, *_handed_over(arguments)]
    # The scripts see the checkout first, and so do the processes that they start.
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})
    try:
        status = process.wait()
    except KeyboardInterrupt:
        # The terminal has sent it to the scripts, too: they save and say so.
        status = process.wait()
    return _status(status)


def checkout() -> Path | None:
    """The top folder of a checkout: around this package, or the current folder."""
    for root in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (root / _SCRIPTS / "__main__.py").is_file() and (root / "tensorchain" / "_version.py").is_file():
            return root
    return None


def _handed_over(arguments: argparse.Namespace) -> list[str]:
    """The options, as `python -m paper_figures` takes them; folders as seen from here."""
    json = ["--json"] if arguments.json else []
    work = [f"--{name}" for name in ("quick", "full", "redraw", "restart") if getattr(arguments, name)]
    if arguments.list or not (arguments.names or work):
        return ["--list", *json]
    folders = [(name, getattr(arguments, name)) for name in ("out", "images")]
    chosen = [word for name, folder in folders if folder for word in (f"--{name}", str(Path(folder).absolute()))]
    jobs = [] if arguments.jobs is None else ["--jobs", str(arguments.jobs)]
    return [*work, *json, "--seed", str(arguments.seed), *chosen, *jobs, "--", *arguments.names]


def _status(code: int) -> Status:
    """Exit status of the scripts; a signal that ended them is a failure."""
    return Status(code) if code in (Status.OK, Status.BAD_INPUT, Status.INTERRUPTED) else Status.FAILED
