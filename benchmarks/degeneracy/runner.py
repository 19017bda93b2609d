"""Run methods on problems over seeds: in parallel, with a time limit, resumable.

A run is a (problem, method, seed, limit).  Its row is written to `runs.csv` as soon as it is known, to a temporary file
that is then renamed, so that a run that is killed leaves a whole table; rows that are there are not run again.

Error and sensitivity are measured here, from the returned model, in the same way for every method.
"""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from benchmarks.degeneracy.methods import Method, attempt, methods
from benchmarks.degeneracy.problems import Problem, suite
from tensorchain.stability import optimal_gauge

_WRITE_EVERY = 2.0
"""Seconds between two writes of the table."""


@dataclass(frozen=True)
class Row:
    """One run in the table; figures are NaN when the method returned no model.

    Attributes
    ----------
    target : relative error that counts as success, NaN where it depends on what others reach.
    limit : seconds that the method was given.
    error : ||T - X|| / ||T||.
    sensitivity : SS as returned.
    gauged_sensitivity : SS in the optimal gauge.
    relative_sensitivity : SS as returned over that of a stable random model of the same norm.
    seconds : of the whole run.
    reached : seconds after which the target was met, NaN where the method does not let one see it.
    """

    problem: str
    family: str
    model: str
    method: str
    package: str
    seed: int
    limit: float
    target: float
    error: float
    sensitivity: float
    gauged_sensitivity: float
    relative_sensitivity: float
    seconds: float
    reached: float
    iterations: int
    stopped: str

    @property
    def key(self) -> tuple[str, str, int, float]:
        """What makes it the same run."""
        return self.problem, self.method, self.seed, self.limit


@dataclass(frozen=True)
class Task:
    """A run to be done; methods and problems are named, since they do not travel between processes."""

    problem: str
    method: str
    seed: int
    limit: float

    @property
    def key(self) -> tuple[str, str, int, float]:
        return self.problem, self.method, self.seed, self.limit


def tasks(problems: Iterable[Problem], competitors: Sequence[Method], seeds: int, limit: float) -> Iterator[Task]:
    """Every method on every problem it can fit; one seed where neither depends on it."""
    for problem in problems:
        for method in competitors:
            if problem.model in method.models:
                count = 1 if method.deterministic and not problem.random else seeds
                for seed in range(count):
                    yield Task(problem.name, method.name, seed, limit)


def execute(task: Task) -> Row:
    """Do one run and measure what it returned."""
    problem = next(problem for problem in suite() if problem.name == task.problem)
    method = next(method for method in methods() if method.name == task.method)
    tensor = problem.make(task.seed)
    outcome, seconds = attempt(method, problem, tensor, task.seed, task.limit)
    error = sensitivity = gauged = relative = math.nan
    stopped = outcome.stopped
    if outcome.model is not None and all(np.all(np.isfinite(matrix)) for matrix in outcome.model.matrices):
        with np.errstate(all="ignore"):
            error = float(np.linalg.norm(tensor - outcome.model.full()) / np.linalg.norm(tensor))
            sensitivity = outcome.model.sensitivity()
            gauged = optimal_gauge(outcome.model, tol=1e-4).sensitivity()
            relative = sensitivity / problem.tame_sensitivity(tensor)
    elif outcome.model is not None:
        stopped = "NON_FINITE"
    return Row(
        problem=problem.name, family=problem.family, model=problem.model, method=method.name, package=method.package,
        seed=task.seed, limit=task.limit, target=math.nan if problem.target is None else problem.target,
        error=error, sensitivity=sensitivity, gauged_sensitivity=gauged, relative_sensitivity=relative,
        seconds=seconds, reached=math.nan if outcome.reached is None else outcome.reached,
        iterations=-1 if outcome.iterations is None else outcome.iterations, stopped=stopped,
    )  # fmt: skip


class Table:
    """The rows done so far, in a CSV file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = {row.key: row for row in read(path)}
        self._written = time.monotonic()

    def add(self, row: Row) -> None:
        """Keep a row; it is on the disk within seconds."""
        self.rows[row.key] = row
        if time.monotonic() - self._written > _WRITE_EVERY:
            self.write()

    def write(self) -> None:
        """Write the whole table under another name, then rename it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in sorted(self.rows.values(), key=lambda row: row.key))
        os.replace(part, self.path)
        self._written = time.monotonic()


def read(path: Path) -> list[Row]:
    """The rows of a table, none when there is no file."""
    if not path.exists():
        return []
    kinds = {"str": str, "int": int, "float": float}
    with path.open(newline="") as file:
        return [
            Row(**{field.name: kinds[str(field.type)](line[field.name]) for field in fields(Row)})
            for line in csv.DictReader(file)
        ]


def run_all(
    wanted: Sequence[Task], table: Table, jobs: int, progress: Callable[[int, int, Task | None], None]
) -> list[Row]:
    """Do the tasks that are not in the table; rows of all tasks, done now or before.

    `progress` is called with (done, total, the task just done).
    """
    from joblib import Parallel, delayed, parallel_config

    missing = [task for task in wanted if task.key not in table.rows]
    done = len(wanted) - len(missing)
    progress(done, len(wanted), None)
    try:
        with parallel_config(backend="loky", inner_max_num_threads=1):
            results = Parallel(n_jobs=jobs, return_as="generator_unordered")(delayed(execute)(task) for task in missing)
            for row in results:
                table.add(row)
                done += 1
                progress(done, len(wanted), Task(*row.key))
    finally:
        if missing:
            table.write()
    return [table.rows[task.key] for task in wanted]
