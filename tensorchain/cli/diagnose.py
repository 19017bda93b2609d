"""`tensorchain diagnose`: whether a saved decomposition is healthy, and what cures it if it is not."""

from __future__ import annotations

import argparse
from typing import Any

from tensorchain.cli.arguments import positive_number, seed
from tensorchain.cli.decompose import add_data, data_of
from tensorchain.cli.errors import EXIT_STATUS, CommandError, Status
from tensorchain.cli.output import print_json, print_report
from tensorchain.cli.reading import check_file, read_array
from tensorchain.diagnosis import diagnose
from tensorchain.fit_files import load

DESCRIPTION = """\
Measure a decomposition and say what is wrong with it, with the evidence and the cure.  With the data the sensitivity
path is traced, which takes about as long as a fit and tells for certain; without them the model alone decides.
"""

EPILOG = f"""\
examples:
  tensorchain diagnose fit.npz
  tensorchain diagnose fit.npz data.npy --json | jq .verdict

{EXIT_STATUS}"""


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "diagnose",
        help="say whether a saved decomposition is healthy",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("file", metavar="FIT.npz", help="written by `tensorchain decompose`: .npz or .safetensors")
    add_data(parser, "data", "FILE", nargs="?")
    parser.add_argument("--starts", type=seed, default=2, metavar="N", help="other starts that are asked (default 2)")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of these (default 0)")
    parser.add_argument("--max-seconds", type=positive_number, metavar="S", help="time limit of each path")
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")


def run(arguments: argparse.Namespace) -> Status:
    """Read, measure, report."""
    path = check_file(arguments.file)
    if arguments.data is None and (arguments.key is not None or arguments.missing is not None):
        raise CommandError("--key and --missing are about FILE, and none was given")
    try:
        model = load(path)
        array = None if arguments.data is None else read_array(arguments.data, arguments.key)
        diagnosis = diagnose(
            model, None if array is None else data_of(array, arguments.missing), starts=arguments.starts,
            rng=arguments.seed, max_seconds=arguments.max_seconds,
        )  # fmt: skip
    except (ValueError, TypeError, ImportError) as error:
        raise CommandError(f"{arguments.file}: {error}") from error
    if arguments.json:
        print_json({"file": str(path), **diagnosis.to_dict()})
    else:
        print_report(diagnosis.report(), title=str(path))
    return Status.OK
