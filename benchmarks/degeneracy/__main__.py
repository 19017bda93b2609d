"""Compare solvers on tensors on which decompositions break.

    python -m benchmarks.degeneracy [--quick] [--seeds N] [--jobs N] [--limit SECONDS] [--only TEXT] [--out FOLDER]

writes `runs.csv`, one row a run, and `success`, `time` and `sensitivity` as PNG and PDF to the folder, and prints the
success rates.  Runs that are in the table are not repeated: the command may be stopped and started again, and
`--seeds` raised.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.degeneracy.figures import draw, summary
from benchmarks.degeneracy.methods import methods
from benchmarks.degeneracy.problems import suite
from benchmarks.degeneracy.runner import Row, Table, Task, run_all, tasks

_LIMIT, _QUICK_LIMIT = 20.0, 1.0
_SEEDS, _QUICK_SEEDS = 10, 1


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Run the suite; the rows."""
    options = _parser().parse_args(arguments)
    seeds = options.seeds or (_QUICK_SEEDS if options.quick else _SEEDS)
    limit = options.limit or (_QUICK_LIMIT if options.quick else _LIMIT)
    problems = [p for p in suite() if (p.quick or not options.quick) and options.only in p.name]
    competitors = [method for method in methods() if method.quick or not options.quick]
    wanted = list(tasks(problems, competitors, seeds, limit))
    if not wanted:
        raise SystemExit(
            f"no problem has {options.only!r} in its name; there are: {', '.join(p.name for p in suite())}"
        )
    table = Table(options.out / "runs.csv")
    rows = _with_progress(wanted, table, options.jobs)
    files = draw(rows, options.out)
    print(summary(rows))
    print(f"{len(rows)} runs in {table.path}; pictures: {', '.join(path.name for path in files)}")
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.degeneracy", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few small problems and methods, within a minute")
    parser.add_argument("--seeds", type=_positive, help=f"starts of each method ({_SEEDS}, quick {_QUICK_SEEDS})")
    parser.add_argument("--jobs", type=_positive, default=2, help="processes")
    parser.add_argument("--limit", type=float, help=f"seconds for each run ({_LIMIT:g}, quick {_QUICK_LIMIT:g})")
    parser.add_argument("--only", default="", help="problems with this in their name")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/degeneracy/results"), help="folder")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} was given; at least 1 is needed")
    return value


def _with_progress(wanted: Sequence[Task], table: Table, jobs: int) -> list[Row]:
    """Run with a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}"),
    )  # fmt: skip
    began = time.perf_counter()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        line = bar.add_task("", total=len(wanted))

        def progress(done: int, total: int, task: Task | None) -> None:
            text = "" if task is None else f"{task.method} on {task.problem}"
            bar.update(line, completed=done, total=total, description=text)

        rows = run_all(wanted, table, jobs, progress)
        bar.update(line, description=f"done in {time.perf_counter() - began:.0f} s")
    return rows


if __name__ == "__main__":
    main()
