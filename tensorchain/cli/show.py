"""`tensorchain show`: what a saved decomposition is, and where its sensitivity sits."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from tensorchain.cli.errors import EXIT_STATUS, CommandError, Status
from tensorchain.cli.output import print_columns, print_json, print_report
from tensorchain.cli.reading import check_file
from tensorchain.fit_files import load
from tensorchain.fit_writing import figures_of
from tensorchain.models import Model
from tensorchain.models.files import read_model
from tensorchain.stability import sensitivity

DESCRIPTION = """\
Print the report of a decomposition saved by `tensorchain decompose`, Fit.save or Model.save, and the share that
each block has in its sensitivity: the block with the largest share is the one to store most precisely.
"""

EPILOG = f"""\
examples:
  tensorchain show fit.npz
  tensorchain show fit.npz --json | jq .sensitivity

{EXIT_STATUS}"""


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "show",
        help="print the report of a saved decomposition",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("file", metavar="FIT.npz", help="written by `tensorchain decompose`: .npz or .safetensors")
    parser.add_argument("--json", action="store_true", help="print JSON, not tables")


def run(arguments: argparse.Namespace) -> Status:
    """Read and report."""
    path = check_file(arguments.file)
    try:
        found = load(path)
        header = read_model(path)[0] if isinstance(found, Model) else {}
    except (ValueError, ImportError) as error:
        raise CommandError(str(error)) from error
    model = found if isinstance(found, Model) else found.model
    report = saved_report(header, found) if isinstance(found, Model) else [("holds", "a fit"), *found.report()]
    shares = np.asarray(sensitivity(model, per_block=True))
    blocks = list(zip(model.block_names, model.blocks, shares, strict=True))
    if arguments.json:
        listed = [{"name": name, "shape": block.shape, "sensitivity": share} for name, block, share in blocks]
        figures = {} if isinstance(found, Model) else {"fit": figures_of(found)}
        print_json({"file": str(path), **record_of(model), **figures, "report": dict(report), "blocks": listed})
    else:
        total = float(shares.sum())
        print_report(report, title=str(path))
        print_columns(
            ("block", "shape", "sensitivity", "share"),
            [
                (name, " x ".join(map(str, block.shape)), f"{share:.4g}", f"{share / total:.1%}" if total > 0 else "-")
                for name, block, share in blocks
            ],
        )
    return Status.OK


def record_of(model: Model) -> dict[str, Any]:
    """The figures of a model, for programs; those of the fit are text, in the report."""
    return {
        "model": model.name,
        "shape": model.shape,
        "rank": model.rank,
        "dtype": str(model.dtype),
        "parameters": model.n_parameters,
        "sensitivity": model.sensitivity(),
        "relative_sensitivity": model.sensitivity(relative=True) if model.norm() > 0.0 else None,
    }


def saved_report(header: dict[str, Any], model: Model) -> list[tuple[str, str]]:
    """The report in the file of a model; of one that was saved without a report, what the model itself tells."""
    extra = header.get("extra")
    rows = extra.get("report") if isinstance(extra, dict) else None
    if isinstance(rows, list) and all(isinstance(row, list) and len(row) == 2 for row in rows) and rows:
        return [("holds", "a model, with the report of its fit"), *((str(name), str(value)) for name, value in rows)]
    return [
        ("holds", "a model, saved without a fit"),
        ("model", repr(model)),
        ("sensitivity", f"{model.sensitivity():.4g}"),
        ("report", "none: the file was written by Model.save; Fit.save writes the fit too"),
    ]
