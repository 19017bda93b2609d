"""The one loop around every solver.

A solver is a generator of iterates: it holds the algorithm and nothing else.  The loop here owns what
all of them share: the clock, callbacks, history, the check for overflow, Ctrl-C, and the best iterate
so far (in the order that the constraint gives), which is what a run returns whatever happens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from tensorchain.fit import History, StopReason
from tensorchain.kernels import blas_threads
from tensorchain.models import Model
from tensorchain.solvers.constraints import Constraint
from tensorchain.tensors import Tensor


_SMALL_MODEL, _SMALL_TENSOR = 1500, 1_000_000
"""Parameters and entries up to which one BLAS thread is used (measured here: see benchmarks)."""


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
class Iterate:
    """A point on the way, in the scale ||T|| = 1."""

    model: Model
    error: float
    sensitivity: float
    penalty: float = 0.0
    damping: float = float("nan")
    iteration: int = 0
    seconds: float = 0.0


Steps = Generator[Iterate, None, StopReason]
"""A solver's run: iterates as they come, and why it stopped."""

T_co = TypeVar("T_co", covariant=True)
Stage = Generator[Iterate, None, T_co]
"""A part of a run that hands a result to the part that called it."""


class Solver(Protocol):
    """Anything with `steps`."""

    def steps(self, problem: Problem, start: Model) -> Steps:
        """Iterate from `start`; the first iterate is the start itself."""
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


def run(
    solver: Solver,
    problem: Problem,
    start: Model,
    *,
    callback: Callback | None = None,
    max_seconds: float | None = None,
) -> Run:
    """Drive `solver` from `start` and keep the best iterate."""
    began = time.perf_counter()
    rows: list[tuple[float, float, float, float]] = []
    best: Iterate | None = None
    best_merit = (float("inf"), float("inf"))
    reason = StopReason.INTERRUPTED
    with np.errstate(all="ignore"), blas_threads(1 if _is_small(problem.tensor, start) else None):
        steps = solver.steps(problem, start)
        try:
            while True:
                try:
                    iterate = next(steps)
                except StopIteration as stop:
                    reason = stop.value
                    break
                seconds = time.perf_counter() - began
                if not (np.isfinite(iterate.error) and np.isfinite(iterate.sensitivity)):
                    reason = StopReason.NON_FINITE
                    break
                rows.append((iterate.error, iterate.sensitivity, iterate.penalty, seconds))
                merit = problem.constraint.merit(iterate.error, iterate.sensitivity)
                if best is None or merit <= best_merit:
                    best, best_merit = iterate, merit
                if callback is not None and callback(_stamped(iterate, len(rows) - 1, seconds)):
                    reason = StopReason.CALLBACK
                    break
                if max_seconds is not None and seconds >= max_seconds:
                    reason = StopReason.TIME_LIMIT
                    break
        except KeyboardInterrupt:
            if best is None:
                raise
            reason = StopReason.INTERRUPTED
        finally:
            steps.close()
    if best is None:
        best = Iterate(start, float("inf"), float("inf"))
    if reason.success and not problem.constraint.feasible(best.error, best.sensitivity):
        reason = StopReason.INFEASIBLE
    columns = [np.array(column) for column in zip(*rows, strict=True)] if rows else [np.empty(0)] * 4
    history = History(*columns)
    if type(problem.constraint) is Constraint and reason in _OPEN and diverges(history):
        reason = StopReason.DIVERGING
    return Run(best, reason, history, time.perf_counter() - began)


def _is_small(tensor: Tensor, model: Model) -> bool:
    return model.n_parameters <= _SMALL_MODEL and math.prod(tensor.shape) <= _SMALL_TENSOR


_OPEN = (StopReason.CONVERGED, StopReason.ITERATION_LIMIT, StopReason.STALLED)


def diverges(history: History) -> bool:
    """Whether SS grew tenfold in the second half of a run while the error fell by less than half."""
    middle, last = len(history) // 2, len(history) - 1
    if last - middle < 10 or history.penalty[last] > 0.0 or history.penalty[middle] > 0.0:
        return False
    grown = history.sensitivity[last] > 10.0 * history.sensitivity[middle]
    return bool(grown and history.error[last] > 0.5 * history.error[middle])


def _stamped(iterate: Iterate, iteration: int, seconds: float) -> Iterate:
    return Iterate(
        iterate.model,
        iterate.error,
        iterate.sensitivity,
        iterate.penalty,
        iterate.damping,
        iteration,
        seconds,
    )
