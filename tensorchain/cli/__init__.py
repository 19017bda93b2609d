"""The command line: `tensorchain COMMAND ...`, one module a command.

A command is a module with `add_parser(commands)`, which declares its options, and `run(arguments)`, which does the
work and returns a `Status`.  It raises `CommandError` for what the user can mend; here that, and whatever else goes
wrong, becomes one line on stderr and an exit status.  Results go to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

from tensorchain._version import __version__
from tensorchain.cli import (
    completion,
    compress,
    decompose,
    diagnose,
    export,
    figures,
    output,
    rank_study,
    reconstruct,
    show,
)
from tensorchain.cli.arguments import Parser
from tensorchain.cli.errors import EXIT_STATUS, CommandError, Status, one_line

COMMANDS = (decompose, show, rank_study, diagnose, reconstruct, export, compress, figures, completion)

DESCRIPTION = "Tensor decompositions whose sensitivity is measured and controlled."

EPILOG = f"""\
examples:
  tensorchain decompose data.npy --model tc --rank 3,3,3 --out fit.npz --plot fit.png
  tensorchain show fit.npz
  tensorchain rank-study data.npy --model cp --ranks 1-8
  tensorchain diagnose fit.npz data.npy
  tensorchain export fit.npz --out tables/
  tensorchain compress model.onnx --method tc --keep-macs 0.3 --out small.onnx
  tensorchain figures instability --quick
  eval "$(tensorchain completion bash)"
  tensorchain decompose --help

{EXIT_STATUS}"""


def make_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(
        prog="tensorchain",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tensorchain {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    # A command may speak about the whole program.
    parser.set_defaults(program=parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the program's name; those of the process by default.

    Returns
    -------
    int
        The exit status, see `Status`.

    Examples
    --------
    >>> from tensorchain.cli import main
    >>> main(["show", "absent.npz"])
    2
    """
    _open_closed_streams()
    try:
        arguments = make_parser().parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        output.unread = False
        status = arguments.run(arguments)
        sys.stdout.flush()
        if output.unread and getattr(arguments, "out", None) is not None:
            with suppress(OSError):
                sys.stderr.write(
                    f"tensorchain: nobody read the report to its end; {one_line(arguments.out)} is saved\n"
                )
        return int(status)
    except (Exception, KeyboardInterrupt) as error:
        status, message = explain(error)
        with suppress(OSError):
            if arguments.traceback:
                traceback.print_exc()
            sys.stderr.write(f"tensorchain: error: {one_line(message)}\n")
            sys.stderr.flush()
    return int(status)


def _open_closed_streams() -> None:
    """What is written to a stream that the shell has closed (`>&-`) goes nowhere; the work is done all the same."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open as long as the process


def explain(error: BaseException) -> tuple[Status, str]:
    """Exit status and message for what a command raised."""
    if isinstance(error, CommandError):
        return error.status, str(error)
    if isinstance(error, KeyboardInterrupt):
        return Status.INTERRUPTED, "interrupted"
    if isinstance(error, MemoryError):
        return Status.FAILED, f"not enough memory: {error}"
    if isinstance(error, OSError) and error.strerror:
        return Status.FAILED, f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return Status.FAILED, f"{type(error).__name__}: {error} (tensorchain --traceback ... shows where)"


__all__ = ["COMMANDS", "main", "make_parser"]
