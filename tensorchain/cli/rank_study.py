"""`tensorchain rank-study`: which rank the tensor in a file bears out."""

from __future__ import annotations

import argparse
import csv
import io
import math
import sys
from pathlib import Path
from typing import Any

from tensorchain.cli.arguments import (
    model_names,
    parse_ranks,
    positive_integer,
    positive_number,
    rank_of,
    seed,
    workers,
)
from tensorchain.cli.decompose import add_data, data_of
from tensorchain.cli.errors import EXIT_STATUS, CommandError, Status
from tensorchain.cli.output import print_columns, print_json, print_report
from tensorchain.cli.reading import check_source, read_array
from tensorchain.cli.writing import check_target, replace_file
from tensorchain.selection import RankStudy, StudyStep, rank_study
from tensorchain.solvers import NonNegative

_MODES = ("auto", "log", "none")
_ENDINGS = (".html", ".png", ".pdf", ".svg", ".csv")

DESCRIPTION = """\
Fit a model at several ranks and say which one the data bear out: held-out error, what each rank explains beyond the
one before, core consistency (CP), and whether halves of the data and several starts find the same components.
"""

EPILOG = f"""\
examples:
  tensorchain rank-study data.npy --model cp --ranks 1-8
  tensorchain rank-study data.npy --model cp --ranks 1-6 --non-negative --split-mode 0 --out study.html
  tensorchain rank-study table.csv --missing nan --model cp --ranks 1-4 --json
  tensorchain rank-study data.npy --model tucker --ranks "2,2,2 3,2,2 3,3,3" --out study.png
  tensorchain rank-study data.npy --model cp --ranks 1-8 --checkpoint study.ckpt --jobs -1

{EXIT_STATUS}"""


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "rank-study",
        help="say which rank the tensor in a file bears out",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    add_data(parser, "file", "FILE")
    parser.add_argument(
        "--model", choices=model_names(), type=str.lower, metavar="MODEL", required=True,
        help="cp, tucker, btd (block terms), tc (tensor chain) or tt (train); other names in use are understood",
    )  # fmt: skip
    parser.add_argument(
        "--ranks", type=parse_ranks, metavar="RANKS", required=True,
        help="1-8, or 1,2,4, or ranks of several numbers with blanks between them: '2,2,2 3,3,3'",
    )  # fmt: skip
    parser.add_argument("--non-negative", action="store_true", help="blocks whose entries are all >= 0")
    parser.add_argument("--starts", type=positive_integer, default=5, metavar="N", help="starts of a fit (default 5)")
    parser.add_argument("--folds", type=positive_integer, default=5, metavar="N", help="parts held out (default 5)")
    parser.add_argument("--splits", type=seed, default=2, metavar="N", help="divisions into halves (default 2)")
    parser.add_argument("--split-mode", type=seed, metavar="N", help="mode that is halved, from 0 (default: longest)")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of the study (default 0)")
    parser.add_argument("--jobs", type=workers, default=1, metavar="N", help="processes; -1 for all cores")
    parser.add_argument("--max-seconds", type=positive_number, metavar="S", help="begin no rank after S seconds")
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="save finished ranks there; where FILE exists, the study goes on from it"
    )
    parser.add_argument("--out", metavar="FILE", help="write the study: .html, .csv, or a picture .png, .pdf or .svg")
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    parser.add_argument(
        "--progress", choices=_MODES, default="auto",
        help="lines in a log, or none; auto (default) shows a line on terminals",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(arguments: argparse.Namespace) -> Status:
    """Read, fit, report."""
    target = None if arguments.out is None else check_target("--out", arguments.out, _ENDINGS)
    checkpoint = None if arguments.checkpoint is None else check_target("--checkpoint", arguments.checkpoint)
    source = check_source(arguments.file)
    for option, path in (("--out", target), ("--checkpoint", checkpoint)):
        if path is not None and path.exists() and path.samefile(source):
            raise CommandError(f"{option} {path}: is the file that is read; choose another name")
    if target is not None and checkpoint is not None and target.resolve() == checkpoint.resolve():
        raise CommandError(f"--checkpoint {checkpoint}: is --out as well; choose another name")
    array = read_array(source, arguments.key)
    mode = "none" if arguments.quiet else arguments.progress
    try:
        study = rank_study(
            data_of(array, arguments.missing),
            arguments.model,
            [rank_of(arguments.model, rank) for rank in arguments.ranks],
            starts=arguments.starts,
            folds=arguments.folds,
            splits=arguments.splits,
            split_mode=arguments.split_mode,
            constraint=NonNegative() if arguments.non_negative else None,
            rng=arguments.seed,
            jobs=arguments.jobs,
            checkpoint=checkpoint,
            max_seconds=arguments.max_seconds,
            callback=_line if mode == "log" else None,
            progress=mode == "auto",
        )
    except (ValueError, TypeError, ImportError) as error:
        raise CommandError(f"{arguments.file}: {error}") from error
    if target is not None:
        write(study, target)
    if arguments.json:
        out = {} if target is None else {"out": str(target)}
        print_json({**study.to_dict(), "file": str(source), **out})
    else:
        header, *rows = study.table()
        print_columns(header, rows)
        saved = [] if target is None else [("saved", str(target))]
        print_report([*study.report(), *saved], title=f"{source}: {study.title()}")
    return Status.OK if study.complete or arguments.max_seconds is not None else Status.INTERRUPTED


def write(study: RankStudy, path: Path) -> None:
    """The study as a page, a table or a picture, by the ending of the name."""
    ending = path.suffix.lower()
    if ending == ".html":
        page = f'<!DOCTYPE html>\n<meta charset="utf-8">\n<title>Rank study</title>\n{study._repr_html_()}\n'
        replace_file(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    elif ending == ".csv":
        replace_file(path, lambda temporary: temporary.write_text(_csv(study), encoding="utf-8"))
    else:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        study.plot(ax=figure.subplots())
        replace_file(path, lambda temporary: figure.savefig(temporary, dpi=150))


def _csv(study: RankStudy) -> str:
    stream = io.StringIO()
    records = study.records()
    writer = csv.DictWriter(stream, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    for record in records:
        plain = {name: "" if isinstance(v, float) and math.isnan(v) else v for name, v in record.items()}
        writer.writerow({**plain, "objections": "; ".join(record["objections"])})
    return stream.getvalue()


def _line(step: StudyStep) -> None:
    """A line to stderr when a rank is finished."""
    if step.done == step.of:
        sys.stderr.write("  ".join(f"{name} {value}" for name, value in step.report()) + "\n")
        sys.stderr.flush()
