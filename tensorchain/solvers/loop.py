"""The one loop around every solver.

A solver is a generator of iterates: it holds the algorithm and nothing else.  The loop here owns what
all of them share: the clock, callbacks, history, the check for overflow, Ctrl-C, and the best iterate
so far (in the order that the constraint gives), which is what a run returns whatever happens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from tensorchain.fit import History, StopReason
from tensorchain.kernels import blas_threads, recycling
from tensorchain.models import Model
from tensorchain.solvers.constraints import Constraint
from tensorchain.tensors import Tensor

_SMALL_TENSOR = 1_000_000
"""Entries up to which one BLAS thread is used: more save nothing (measured here: see benchmarks)."""


@dataclass(frozen=True)
class Problem:
    """What a solver is given.

    Attributes
    ----------
    tensor : door to T / ||T||.
    constraint : in that scale.
    rng : randomness, for restarts.
    warm : whether the start carries information, so that it must not be thrown away.
    """

    tensor: Tensor
    constraint: Constraint
    rng: np.random.Generator
    warm: bool = False


@dataclass(frozen=True)
class Memory:
    """What a solver needs to go on from an iterate: plain figures (JSON) and models of one wiring."""

    figures: dict[str, Any]
    models: dict[str, Model]


@dataclass(frozen=True)
class Iterate:
    """A point on the way, in the scale ||T|| = 1."""

    model: Model
    error: float
    sensitivity: float
    penalty: float = 0.0
    damping: float = float("nan")
    iteration: int = 0
    seconds: float = 0.0
    memory: Memory | None = field(default=None, repr=False)
    """Set where the run can be resumed from."""


Steps = Generator[Iterate, None, StopReason]
"""A solver's run: iterates as they come, and why it stopped."""

T_co = TypeVar("T_co", covariant=True)
Stage = Generator[Iterate, None, T_co]
"""A part of a run that hands a result to the part that called it."""


class Solver(Protocol):
    """Anything with `steps`."""

    def steps(self, problem: Problem, start: Model, memory: Memory | None = None) -> Steps:
        """Iterate from `start` (the first iterate is the start itself), or go on from `memory`."""
        ...


Callback = Callable[[Iterate], object]
"""Called after each iteration; a true return value stops the run."""


@dataclass(frozen=True)
class Run:
    """What the loop returns, in the scale ||T|| = 1."""

    best: Iterate
    reason: StopReason
    history: History
    seconds: float


@dataclass(frozen=True)
class RunState:
    """A run under way, from which it can go on."""

    rows: list[tuple[float, float, float, float]]
    best: Iterate
    memory: Memory
    seconds: float


def run(
    solver: Solver,
    problem: Problem,
    start: Model,
    *,
    callback: Callback | None = None,
    max_seconds: float | None = None,
    keep: Callable[[RunState], object] | None = None,
    resume: RunState | None = None,
) -> Run:
    """Drive `solver` from `start` and keep the best iterate.

    `keep` is given the state at iterates from which the run can be resumed; `resume` is such a state.
    """
    tracker = _Tracker(problem.constraint, resume)
    reason = StopReason.INTERRUPTED
    with np.errstate(all="ignore"), recycling(), blas_threads(1 if math.prod(start.shape) <= _SMALL_TENSOR else None):
        # Here, since the first run of a process finds its BLAS libraries first.
        began = time.perf_counter() - (0.0 if resume is None else resume.seconds)
        steps = solver.steps(problem, start, *([] if resume is None else [resume.memory]))
        try:
            while True:
                try:
                    iterate = next(steps)
                except StopIteration as stop:
                    reason = stop.value
                    break
                seconds = time.perf_counter() - began
                if not (math.isfinite(iterate.error) and math.isfinite(iterate.sensitivity)):
                    reason = StopReason.NON_FINITE
                    break
                if iterate.memory is not None and keep is not None and tracker.best is not None:
                    # Before this iterate is counted: a resumed run begins with it again.
                    keep(RunState(list(tracker.rows), tracker.best, iterate.memory, seconds))
                tracker.take(iterate, seconds)
                if callback is not None and callback(
                    replace(iterate, iteration=len(tracker.rows) - 1, seconds=seconds, memory=None)
                ):
                    reason = StopReason.CALLBACK
                    break
                if max_seconds is not None and seconds >= max_seconds:
                    reason = StopReason.TIME_LIMIT
                    break
        except KeyboardInterrupt:
            if tracker.best is None:
                raise
        finally:
            steps.close()
    best = tracker.best or Iterate(start, float("inf"), float("inf"))
    if reason.success and not problem.constraint.feasible(best.error, best.sensitivity):
        reason = StopReason.INFEASIBLE
    history = tracker.history()
    if type(problem.constraint) is Constraint and reason in _OPEN and diverges(history):
        reason = StopReason.DIVERGING
    return Run(best, reason, history, time.perf_counter() - began)


class _Tracker:
    """History and best iterate."""

    def __init__(self, constraint: Constraint, resume: RunState | None) -> None:
        self.constraint = constraint
        self.rows = [] if resume is None else list(resume.rows)
        self.best = None if resume is None else resume.best
        self._merit = None if self.best is None else constraint.merit(self.best.error, self.best.sensitivity)

    def take(self, iterate: Iterate, seconds: float) -> None:
        """Count an iterate."""
        self.rows.append((iterate.error, iterate.sensitivity, iterate.penalty, seconds))
        merit = self.constraint.merit(iterate.error, iterate.sensitivity)
        if self._merit is None or merit <= self._merit:
            self.best, self._merit = iterate, merit

    def history(self) -> History:
        """What was counted, as arrays."""
        columns = [np.array(column) for column in zip(*self.rows, strict=True)] if self.rows else [np.empty(0)] * 4
        return History(*columns)


def children(rng: np.random.Generator, count: int) -> list[np.random.Generator]:
    """Independent generators, one for each of several tasks."""
    return [np.random.default_rng(seed) for seed in draw_seeds(rng, count)]


def draw_seeds(rng: np.random.Generator, count: int) -> list[int]:
    """Seeds of independent generators."""
    return [int(seed) for seed in rng.integers(2**63, size=count)]


_OPEN = (StopReason.CONVERGED, StopReason.ITERATION_LIMIT, StopReason.STALLED)


def diverges(history: History) -> bool:
    """Whether SS grew tenfold in the second half of a run while the error fell by less than half."""
    middle, last = len(history) // 2, len(history) - 1
    if last - middle < 10 or history.penalty[last] > 0.0 or history.penalty[middle] > 0.0:
        return False
    grown = history.sensitivity[last] > 10.0 * history.sensitivity[middle]
    return bool(grown and history.error[last] > 0.5 * history.error[middle])
