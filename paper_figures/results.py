"""Numbers on disk: a CSV file of rows, and a JSON file that says what was run.

Rows belong to jobs: a job has a key, a few columns such as (case, method, seed), and its rows carry it.  Rows are
written as soon as their job is done, the whole file under a temporary name and then renamed, so that a run can be
interrupted at any time and continues where it stopped.  Rows count only together with the settings that they were
measured with: the figure's own parameters, the versions of the packages, and the code of tensorchain itself.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

Row = dict[str, Any]

MEASURING = ("api.py", "datasets", "diagnosis", "fit.py", "kernels", "models", "solvers", "stability", "tensors")
"""Parts of tensorchain that decide the numbers of a fit; a change there makes rows on disk stale."""


@dataclass(frozen=True)
class Settings:
    """What the command line asks for.

    Attributes
    ----------
    full : the sizes of a publication, or those that take minutes.
    seed : from which all random numbers follow.
    """

    full: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Job:
    """A part of a measurement.

    Attributes
    ----------
    key : columns that tell this job from the others of its figure.
    run : measures; its rows get the key in front.
    """

    key: Mapping[str, str | int]
    run: Callable[[], list[Row]]


class Results:
    """The rows of one figure.

    Parameters
    ----------
    folder : where NAME.csv and NAME.json lie.
    name : of the figure.
    settings : what the rows have to be measured with; None takes those that are there.
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any] | None) -> None:
        self.csv, self.json = folder / f"{name}.csv", folder / f"{name}.json"
        self.settings = dict(settings) if settings is not None else None
        self._key: list[str] = []
        self._order: dict[tuple[str, ...], int] = {}
        same = settings is None or self._stored() == json.loads(json.dumps(settings))
        self.rows: list[Row] = _read(self.csv) if same and self.csv.exists() else []

    def _key_of(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(row.get(column)) for column in self._key)

    def _stored(self) -> Any:
        try:
            return json.loads(self.json.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def missing(self, jobs: Iterable[Job]) -> list[Job]:
        """The jobs that have no rows yet."""
        jobs = list(jobs)
        self._key = list(jobs[0].key) if jobs else []
        self._order = {self._key_of(job.key): position for position, job in enumerate(jobs)}
        there = {self._key_of(row) for row in self.rows}
        return [job for job in jobs if self._key_of(job.key) not in there]

    def add(self, job: Job, rows: Sequence[Row]) -> None:
        """Append the rows of a job, and save."""
        # What is in memory is what a later run reads back: text.
        self.rows += [{name: _text(value) for name, value in {**job.key, **row}.items()} for row in rows]
        # Workers are done in any order; the rows are in the order of the jobs, on which colours depend.
        self.rows.sort(key=lambda row: self._order.get(self._key_of(row), 0))
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        replace_text(self.json, json.dumps(self.settings, indent=2) + "\n")
        lines = [columns, *([row.get(name, "") for name in columns] for row in self.rows)]
        replace_text(self.csv, lambda stream: csv.writer(stream, lineterminator="\n").writerows(lines))


def column(rows: Iterable[Row], name: str) -> list[float]:
    """A column as numbers."""
    return [float(row[name]) for row in rows]


def groups(rows: Iterable[Row], *names: str) -> dict[Any, list[Row]]:
    """Rows by their values in these columns, in the order of appearance; one name gives plain keys."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        key = tuple(row[name] for name in names)
        found.setdefault(key if len(names) > 1 else key[0], []).append(row)
    return found


def provenance() -> dict[str, str]:
    """Versions of what the numbers depend on, and a fingerprint of tensorchain's code without its comments."""
    import numpy as np
    import scipy

    import tensorchain

    return {
        "tensorchain": tensorchain.__version__,
        "code": fingerprint(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


@cache
def fingerprint() -> str:
    """Of the code, as this process has imported it, without its comments."""
    import tensorchain

    digest = hashlib.sha256()
    root = Path(tensorchain.__file__).parent
    for path in sorted(p for p in root.rglob("*.py") if p.relative_to(root).parts[0] in MEASURING):
        digest.update(ast.dump(ast.parse(path.read_text(encoding="utf-8"))).encode())
    return digest.hexdigest()[:16]


def replace_text(path: Path, content: str | Callable[[Any], object]) -> None:
    """Write text under a temporary name, then rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", newline="") as stream:
        if isinstance(content, str):
            stream.write(content)
        else:
            content(stream)
    os.replace(temporary, path)


def _read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _text(value: Any) -> str:
    return repr(float(value)) if isinstance(value, float) else str(value)
