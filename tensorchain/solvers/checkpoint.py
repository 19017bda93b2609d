"""Runs that survive: the state of a run in one file, written atomically, from which it goes on.

The file is an .npz archive without pickle: a JSON header (figures, history, seeds, what is being solved) and
the blocks of the models.  A run that was interrupted and resumed ends with the same result, bit for bit, as
one that was not: solvers say at which iterates they can go on and with what (`Iterate.memory`).
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorchain.fit import Fit, History, StopReason
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.models.files import write_npz
from tensorchain.solvers.loop import RunState
from tensorchain.solvers.problem import Iterate, Memory

_FORMAT = 2
_ITERATE = ("error", "sensitivity", "merit", "penalty", "damping", "standard_error", "answer", "least_error")
_FIT = (
    "error", "sensitivity", "iterations", "seconds", "solver", "gap", "objective", "standard_error", "least_error"
)  # fmt: skip
"""Figures of an iterate and of a fit that are written as they are."""
_INTERVAL = 2.0
"""Least seconds between two writes."""


@dataclass
class Checkpoint:
    """A checkpoint file.

    Parameters
    ----------
    path : the file; it need not exist.
    problem : text that identifies tensor, model, solver and constraint; a file of another problem is refused.
    template : a model of the wiring and shape that is fitted.
    """

    path: str | os.PathLike[str]
    problem: str
    template: Model
    seeds: list[int] = field(default_factory=list)
    finished: list[Fit] = field(default_factory=list)
    current: RunState | None = None
    _written: float = 0.0

    def read(self) -> bool:
        """Fill in what the file holds; False when there is none.

        Raises
        ------
        ValueError when the file is damaged or belongs to another problem.
        """
        name = os.fspath(self.path)
        try:
            with open(self.path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
                header = json.loads(str(archive["header"][()]))
                arrays = {key: archive[key] for key in archive.files if key != "header"}
            if header["checkpoint"] != _FORMAT:
                raise ValueError(f"format {header['checkpoint']}")
            if header["problem"] != self.problem:
                raise OtherProblemError(
                    f"{name!r} is the checkpoint of another problem: {header['problem']}; now: {self.problem}. "
                    "Give the same tensor, model, solver and constraint, or another file"
                )
            self.seeds = [int(seed) for seed in header["seeds"]]
            self.finished = [
                self._to_fit(row, self._model(arrays, f"finished{n}")) for n, row in enumerate(header["finished"])
            ]
            self.current = None if header["current"] is None else self._to_run(header["current"], arrays)
        except FileNotFoundError:
            return False
        except OtherProblemError:
            raise
        except Exception as error:
            advice = "delete it to start anew"
            raise ValueError(f"{name!r} is not a checkpoint that can be read ({error}); {advice}") from error
        return True

    def offer(self, run: RunState) -> None:
        """Keep the state of the run under way, if the last write is long enough ago."""
        self.current = run
        if time.monotonic() - self._written >= _INTERVAL:
            self.write()

    def close(self, fit: Fit) -> None:
        """A start is finished."""
        self.finished.append(fit)
        self.current = None
        self.write()

    def write(self) -> None:
        """Write the file under a temporary name and rename it."""
        arrays: dict[str, Array] = {}
        for n, fit in enumerate(self.finished):
            _pack(arrays, f"finished{n}", fit.model)
        current = None if self.current is None else self._from_run(self.current, arrays)
        header = {
            "checkpoint": _FORMAT,
            "problem": self.problem,
            "seeds": self.seeds,
            "finished": [_from_fit(fit) for fit in self.finished],
            "current": current,
        }
        write_npz(self.path, json.dumps(header), arrays)
        self._written = time.monotonic()

    def _from_run(self, run: RunState, arrays: dict[str, Array]) -> dict[str, Any]:
        _pack(arrays, "best", run.best.model)
        for name, model in run.memory.models.items():
            _pack(arrays, f"memory-{name}", model)
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
        return RunState(rows, best, Memory(row["figures"], models), float(row["seconds"]))  # type: ignore[arg-type]

    def _model(self, arrays: dict[str, Array], name: str) -> Model:
        matrices = [arrays[f"{name}.{k}"] for k in range(len(self.template.matrices))]
        for matrix, like in zip(matrices, self.template.matrices, strict=True):
            if matrix.shape != like.shape or not np.all(np.isfinite(matrix)):
                raise ValueError(f"model {name} does not fit the problem")
        return self.template.with_matrices(matrices)

    def _to_fit(self, row: dict[str, Any], model: Model) -> Fit:
        history = History(*(np.array(row["history"][key]) for key in History.__dataclass_fields__))
        figures = {key: row[key] for key in _FIT}
        names = row["dimension_names"]
        return Fit(
            model=model,
            reason=StopReason[row["reason"]],
            history=history,
            dimension_names=None if names is None else tuple(names),
            **figures,
        )


class OtherProblemError(ValueError):
    """The checkpoint belongs to another problem."""


def _from_fit(fit: Fit) -> dict[str, Any]:
    row = {key: getattr(fit, key) for key in _FIT}
    row["reason"] = fit.reason.name
    row["dimension_names"] = fit.dimension_names
    row["history"] = {key: getattr(fit.history, key).tolist() for key in History.__dataclass_fields__}
    return row


def _pack(arrays: dict[str, Array], name: str, model: Model) -> None:
    for k, matrix in enumerate(model.matrices):
        arrays[f"{name}.{k}"] = matrix
