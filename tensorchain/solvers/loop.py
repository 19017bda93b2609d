"""The one loop around every solver.

A solver is a generator of iterates: it holds the algorithm and nothing else.  In order, the loop

1. asks the solver for the next iterate, with floating-point warnings off and few BLAS threads;
2. ends the run where its figures are not finite;
3. hands the state of the run to who keeps it (a checkpoint), where the solver says that it can go on from here;
4. counts it, and remembers it if no earlier one was better in the order of the constraint, or if it is the answer;
5. shows it to the callback, and looks at the clock, at which long steps look as well
   (:mod:`tensorchain.kernels.interruption`).

Whatever ends the run, the best iterate is returned, so that a run is never worse than its start.  Why it ended is
judged afterwards, on that very model (:mod:`tensorchain.solvers.reasons`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tensorchain.fit import History, StopReason
from tensorchain.kernels import blas_threads, recycling
from tensorchain.kernels.interruption import OutOfTime, interruptible
from tensorchain.models import Model
from tensorchain.solvers.problem import Callback, Iterate, Memory, Problem, Solver

_SMALL_TENSOR = 1_000_000
"""Entries up to which one BLAS thread is used: more save nothing (measured here: see benchmarks)."""


_MOST_STAGES = 200
"""Most minimisers along sensitivity paths that are remembered."""


@dataclass(frozen=True)
class Run:
    """What the loop returns, in the scale ||T|| = 1.

    Attributes
    ----------
    best : Iterate
        The best iterate.
    reason : StopReason
        Why the solver stopped, in its own words.
    history : History
        Figures of every iterate.
    seconds : float
        Of this and of earlier parts of the run.
    optimality : float or None
        Of the best iterate, where the solver has measured it.
    way : str
        Which way the solver took, where it chose among several.
    stages : tuple of Iterate
        Minimisers along sensitivity paths.
    """

    best: Iterate
    reason: StopReason
    history: History
    seconds: float
    optimality: float | None = None
    way: str = ""
    stages: tuple[Iterate, ...] = ()


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
    keep: Callable[[RunState], object] | None = None,
    resume: RunState | None = None,
) -> Run:
    """Drive `solver` from `start` and remember the best iterate.

    Parameters
    ----------
    solver : Solver
        Its `steps` are driven.
    problem : Problem
        The data, the constraint and the clock.
    start : Model
        The first model.
    callback : Callback, optional
        Called with each iterate; a true return value stops the run.
    keep : callable, optional
        Given the state at iterates from which the run can be resumed.
    resume : RunState, optional
        Such a state, to go on from.
    """
    tracker = _Tracker(resume)
    reason, optimality = StopReason.INTERRUPTED, None
    threads = 1 if math.prod(start.shape) <= _SMALL_TENSOR else None

    def out_of_time() -> bool:
        # Something is there to be returned.
        return tracker.best is not None and problem.clock.expired

    with np.errstate(all="ignore"), recycling(), blas_threads(threads), interruptible(out_of_time):
        # Here, since the first run of a process finds its BLAS libraries first.
        began = time.perf_counter() - (0.0 if resume is None else resume.seconds)
        steps = solver.steps(problem, start, *([] if resume is None else [resume.memory]))
        try:
            while True:
                try:
                    iterate = next(steps)
                except StopIteration as stop:
                    reason, optimality = stop.value.reason, stop.value.optimality
                    break
                seconds = time.perf_counter() - began
                if not (math.isfinite(iterate.error) and math.isfinite(iterate.sensitivity)):
                    reason = StopReason.NON_FINITE
                    break
                if iterate.memory is not None and keep is not None and tracker.best is not None:
                    # Before this iterate is counted: a resumed run begins with it again.
                    with interruptible(None):
                        keep(RunState(list(tracker.rows), tracker.best, iterate.memory, seconds))
                tracker.take(iterate, seconds)
                if callback is not None:
                    shown = replace(iterate, iteration=len(tracker.rows) - 1, seconds=seconds, memory=None)
                    with interruptible(None):
                        ends = callback(shown)
                    if ends:
                        reason = StopReason.CALLBACK
                        break
                if problem.clock.expired:
                    reason = StopReason.TIME_LIMIT
                    break
        except KeyboardInterrupt:
            if tracker.best is None:
                raise
        except OutOfTime:
            reason = StopReason.TIME_LIMIT
        finally:
            steps.close()
    best = tracker.best or Iterate(start, math.inf, math.inf, (math.inf, math.inf))
    if best.model is not tracker.last:
        optimality = None
    return Run(
        best, reason, tracker.history(), time.perf_counter() - began, optimality, tracker.way, tuple(tracker.stages)
    )


class _Tracker:
    """History and best iterate."""

    def __init__(self, resume: RunState | None) -> None:
        self.rows = [] if resume is None else list(resume.rows)
        self.best = None if resume is None else resume.best
        self.last: Model | None = None
        self.way = ""
        self.stages: list[Iterate] = []

    def take(self, iterate: Iterate, seconds: float) -> None:
        """Count an iterate."""
        self.rows.append((iterate.error, iterate.sensitivity, iterate.penalty, seconds))
        self.last = iterate.model
        if self.best is None or iterate.answer or (not self.best.answer and _merit(iterate) <= _merit(self.best)):
            self.best = iterate
        if iterate.stage_of is not None and len(self.stages) < _MOST_STAGES:
            self.stages.append(replace(iterate, memory=None))
        if iterate.way:
            self.way = iterate.way

    def history(self) -> History:
        """What was counted, as arrays."""
        columns = [np.array(column) for column in zip(*self.rows, strict=True)] if self.rows else [np.empty(0)] * 4
        return History(*columns)


def _merit(iterate: Iterate) -> tuple[bool, float, float]:
    """By which iterates are compared: one whose error was measured is better than any whose error is an estimate."""
    gap, objective = (0.0, iterate.error**2) if iterate.merit is None else iterate.merit
    return iterate.standard_error is not None, gap, objective


def children(rng: np.random.Generator, count: int) -> list[np.random.Generator]:
    """Independent generators, one for each of several tasks."""
    return [np.random.default_rng(seed) for seed in draw_seeds(rng, count)]


def draw_seeds(rng: np.random.Generator, count: int) -> list[int]:
    """Seeds of independent generators."""
    return [int(seed) for seed in rng.integers(2**63, size=count)]
