"""Runs that survive: the state of a run in one file, written atomically, from which it goes on.

The file is an archive of plain arrays (:mod:`tensorchain.models.archives`): a JSON header (figures, history, seeds,
what is being solved, and a digest of all of it) and the blocks of the models.  A run that was interrupted and resumed
ends with the same result, bit for bit, as one that was not: solvers say at which iterates they can go on and with what
(`Iterate.memory`).

- **Whose it is.**  A file belongs to one problem: the digest of the data (entries, mask, weights, class), the model,
  the start, the solver and the constraint.  For any other it is refused, and the message names what differs.
- **One process.**  A run that finds that another one has written the file since stops writing it, and goes on.
- **A full disk** costs the checkpoint and not the run: a failed write is a warning.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tensorchain.fit import Fit, History
from tensorchain.fit_files import fit_from
from tensorchain.fit_writing import figures_of
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.solvers.loop import RunState
from tensorchain.solvers.problem import Iterate, Memory
from tensorchain.solvers.sealed import OtherProblemError, SealedFile, history_of, history_record, pack, unpacked
from tensorchain.tensors import Tensor
from tensorchain.tensors.intake import digest_of

_FORMAT = 3
_ITERATE = ("error", "sensitivity", "merit", "penalty", "damping", "standard_error", "answer", "least_error")
"""Figures of an iterate that are written as they are."""
_INTERVAL = 2.0
"""Least seconds between two writes."""


def problem_of(
    tensor: Tensor, template: Model, init: str | Model, solver: Any, constraint: Any, starts: int
) -> dict[str, str]:
    """What a run solves, part by part: two runs with the same parts have the same result from the same seeds."""
    return {
        "data": f"{type(tensor).__name__} of norm {tensor.norm():.6g}, digest {tensor.digest()}",
        "model": f"{type(template).__name__} {template.shape}, rank {template.rank}, {template.dtype}",
        "init": init if isinstance(init, str) else f"a model, digest {digest_of(init.matrices)}",
        "solver": repr(solver),
        "constraint": repr(constraint),
        "starts": str(starts),
    }


@dataclass
class Checkpoint:
    """A checkpoint file.

    Parameters
    ----------
    path : str or path-like
        The file; it need not exist, its folder must.
    problem : mapping of str
        What is solved, see `problem_of`; a file of another problem is refused.
    template : Model
        A model of the wiring and shape that is fitted.
    seeds : list of int
        Of the starts; those in the file take their place.

    Raises
    ------
    ValueError
        When no file can be written there.
    """

    path: str | os.PathLike[str]
    problem: Mapping[str, str]
    template: Model
    seeds: list[int] = field(default_factory=list)
    finished: list[Fit] = field(default_factory=list)
    current: RunState | None = None
    _written: float = 0.0
    _seen: tuple[int, int] | None = None
    """The file as this run has left it: inode and time."""
    _lost: bool = False

    def __post_init__(self) -> None:
        self._file = SealedFile(self.path, "checkpoint", _FORMAT, what="a checkpoint", work="run")

    def read(self) -> bool:
        """Fill in what the file holds; False when there is none.

        Raises
        ------
        ValueError
            When the file is damaged or belongs to another problem.
        """
        self._seen = self._stamp()
        try:
            with self._file.understood():
                self._take(*self._file.read())
        except FileNotFoundError:
            return False
        return True

    def _take(self, header: dict[str, Any], arrays: dict[str, Array]) -> None:
        self._check_problem(self._file.name, header["problem"])
        self.seeds = [int(seed) for seed in header["seeds"]]
        if len(self.seeds) != int(self.problem["starts"]) or len(header["finished"]) > len(self.seeds):
            raise ValueError(f"it has {len(self.seeds)} seeds for {self.problem['starts']} starts")
        self.finished = [
            self._to_fit(row, self._model(arrays, f"finished{n}")) for n, row in enumerate(header["finished"])
        ]
        self.current = None if header["current"] is None else self._to_run(header["current"], arrays)

    def offer(self, run: RunState) -> None:
        """Take the state of the run under way, and write it if the last write is long enough ago."""
        self.current = run
        if time.monotonic() - self._written >= _INTERVAL:
            self.write()

    def close(self, fit: Fit) -> None:
        """A start is finished."""
        self.finished.append(fit)
        self.current = None
        self.write()

    def write(self) -> None:
        """Write the file; where that fails the run goes on, with a warning."""
        if self._lost:
            return
        if self._stamp() != self._seen:
            self._lost = True
            warnings.warn(
                f"another run has written the checkpoint {self._file.name!r}; this run goes on and leaves it alone: "
                "give each run a file of its own",
                RuntimeWarning,
                stacklevel=2,
            )
            return
        arrays: dict[str, Array] = {}
        for n, fit in enumerate(self.finished):
            pack(arrays, f"finished{n}", fit.model)
        current = None if self.current is None else self._from_run(self.current, arrays)
        header = {
            "problem": dict(self.problem),
            "seeds": self.seeds,
            "finished": [_from_fit(fit) for fit in self.finished],
            "current": current,
        }
        self._file.write(header, arrays)
        self._seen, self._written = self._stamp(), time.monotonic()

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _check_problem(self, name: str, problem: Any) -> None:
        now = dict(self.problem)
        if problem == now:
            return
        parts = [part for part in now if not isinstance(problem, dict) or problem.get(part) != now[part]]
        then = problem if isinstance(problem, dict) else {}
        told = "; ".join(f"{part} then: {str(then.get(part))[:200]}, now: {now[part][:200]}" for part in parts)
        raise OtherProblemError(
            f"{name!r} is the checkpoint of another problem ({told}). Give the same tensor, model, init, solver and "
            "constraint, or another file"
        )

    def _from_run(self, run: RunState, arrays: dict[str, Array]) -> dict[str, Any]:
        pack(arrays, "best", run.best.model)
        for name, model in run.memory.models.items():
            pack(arrays, f"memory-{name}", model)
        best = {key: getattr(run.best, key) for key in _ITERATE}
        return {
            "rows": run.rows,
            "best": best,
            "figures": run.memory.figures,
            "models": list(run.memory.models),
            "seconds": run.seconds,
        }

    def _to_run(self, row: dict[str, Any], arrays: dict[str, Array]) -> RunState:
        models = {name: self._model(arrays, f"memory-{name}") for name in row["models"]}
        figures = dict(row["best"])
        merit = figures.pop("merit")
        best = Iterate(self._model(arrays, "best"), merit=None if merit is None else tuple(merit), **figures)
        rows = [tuple(float(value) for value in values) for values in row["rows"]]
        if any(len(values) != len(History.__dataclass_fields__) for values in rows):
            raise ValueError("its history has rows of another length")
        return RunState(rows, best, Memory(row["figures"], models), float(row["seconds"]))  # type: ignore[arg-type]

    def _model(self, arrays: dict[str, Array], name: str) -> Model:
        shapes = [matrix.shape for matrix in self.template.matrices]
        return self.template.with_matrices(unpacked(arrays, name, shapes, "problem"))

    def _to_fit(self, row: dict[str, Any], model: Model) -> Fit:
        return fit_from(model, row, history_of(row["history"]))


def _from_fit(fit: Fit) -> dict[str, Any]:
    return {**figures_of(fit), "history": history_record(fit.history)}
