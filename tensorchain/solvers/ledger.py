"""A run that is made of runs, and how it goes on after an interruption.

A solver that drives other solvers one after the other has as its state: what the finished ones found, and the memory of
the one under way.  Both stand in a ledger, with the state of the random numbers before the run under way and after each
that is finished.  A resumed run goes through the same calls again; those that are finished return what they found at
once, and the one that was under way goes on from its memory.

A checkpoint holds models of the shape of T, so those of a core are padded with rows of zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorchain.fit import StopReason
from tensorchain.models import Model
from tensorchain.solvers.problem import Iterate, Memory

_FIGURES = ("error", "sensitivity", "merit", "penalty", "damping")


@dataclass
class Ledger:
    """Finished runs in their order, and the memory of the one under way.

    Parameters
    ----------
    rng : numpy.random.Generator
        Whose state belongs to the run.
    template : Model
        A model of the shape of T.
    """

    rng: np.random.Generator
    template: Model
    finished: list[tuple[dict[str, Any], Model]] = field(default_factory=list)
    inner: Memory | None = None
    _position: int = 0
    _best: tuple[dict[str, Any], Model] | None = None
    _before: Any = None

    def recall(self, memory: Memory) -> None:
        """Take over what `memory` of an interrupted run says."""
        rows = memory.figures["finished"]
        self.finished = [(row, memory.models[f"finished{n}"]) for n, row in enumerate(rows)]
        models = {name[6:]: model for name, model in memory.models.items() if name.startswith("inner-")}
        self.inner = Memory(memory.figures["inner"], models)
        self._before = memory.figures["before"]
        self._best = memory.figures["best"], memory.models["best"]

    def opened(self, start: Model) -> tuple[Iterate, StopReason] | tuple[Iterate, Memory] | None:
        """What the next run has found, in the end, or so far with the memory to go on from; None for a new one."""
        position, self._position = self._position, self._position + 1
        if position < len(self.finished):
            row, model = self.finished[position]
            self.rng.bit_generator.state = row["after"]
            return _iterate(row, model, start), StopReason[row["reason"]]
        if self.inner is not None:
            assert self._best is not None
            self.rng.bit_generator.state = self._before
            memory = Memory(self.inner.figures, {name: _cut(m, start) for name, m in self.inner.models.items()})
            self.inner = None
            return _iterate(*self._best, start), memory
        self._before = self.rng.bit_generator.state
        return None

    def memory(self, inner: Memory, best: Iterate) -> Memory:
        """From which the whole run can go on, where the run under way can from `inner`; `best` is its best so far."""
        models = {f"finished{n}": model for n, (_, model) in enumerate(self.finished)}
        models |= {f"inner-{name}": self._padded(model) for name, model in inner.models.items()}
        models["best"] = self._padded(best.model)
        figures = {"finished": [row for row, _ in self.finished], "best": _row(best)}
        return Memory({**figures, "inner": inner.figures, "before": self._before}, models)

    def close(self, best: Iterate, reason: StopReason) -> None:
        """The run under way has ended."""
        row = {**_row(best), "reason": reason.name, "after": self.rng.bit_generator.state}
        self.finished.append((row, self._padded(best.model)))

    def _padded(self, model: Model) -> Model:
        pairs = zip(model.matrices, self.template.matrices, strict=True)
        wide = [np.pad(m, ((0, len(like) - len(m)), (0, 0))) for m, like in pairs]
        return model.with_matrices(wide).with_row_counts(None)


def _row(iterate: Iterate) -> dict[str, Any]:
    return {name: getattr(iterate, name) for name in _FIGURES}


def _iterate(row: dict[str, Any], model: Model, like: Model) -> Iterate:
    figures = {name: row[name] for name in _FIGURES}
    merit = figures.pop("merit")
    return Iterate(_cut(model, like), merit=None if merit is None else (merit[0], merit[1]), **figures)


def _cut(model: Model, like: Model) -> Model:
    """The rows of a padded model that one of the core has."""
    return like.with_matrices([m[: len(o)] for m, o in zip(model.matrices, like.matrices, strict=True)])
