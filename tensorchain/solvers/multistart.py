"""Several starts of one problem, in this process or through joblib.

Every start has a seed of its own, drawn in advance, so the result does not depend on where or in which
order the starts run.  joblib brings its backends: processes on this machine (the default), and Dask or Ray
clusters inside ``with joblib.parallel_config("dask"):``.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Protocol

from tensorchain.fit import Fit, StopReason
from tensorchain.solvers.problem import Clock

_WORTHWHILE = 10.0
"""Seconds of work left from which processes, which take seconds to start, pay off."""

_ENDS_ALL = (StopReason.INTERRUPTED, StopReason.TIME_LIMIT, StopReason.CALLBACK)


class Job(Protocol):
    """One start: from its seed, the seconds it may take, and its number, to a fit.  Picklable, to run elsewhere."""

    def __call__(self, seed: int, max_seconds: float | None, number: int = 0) -> Fit:
        """Run the start."""


def run_starts(job: Job, seeds: Sequence[int], jobs: int | None, clock: Clock) -> Iterator[tuple[int, Fit]]:
    """Numbers and fits of all seeds, as they come.

    Parameters
    ----------
    job : Job
        What runs one start.
    seeds : sequence of int
        One for each start.
    jobs : int or None
        Number of workers, -1 for all cores, 1 for none beside this process; None decides after the first start, from
        the time that it took.
    clock : Clock
        Limit over all starts.  At least one fit comes, and none is begun after the limit.
    """
    waiting = list(enumerate(seeds))
    if jobs is None or jobs == 1:
        while waiting:
            began = time.monotonic()
            number, seed = waiting.pop(0)
            fit = job(seed, _seconds(clock), number)
            yield number, fit
            if fit.reason in _ENDS_ALL or clock.expired:
                return
            if jobs is None and (time.monotonic() - began) * len(waiting) > _WORTHWHILE and can_run_parallel():
                break
    if waiting:
        yield from _in_parallel(job, waiting, -1 if jobs is None else jobs, clock, len(seeds) - len(waiting))


def can_run_parallel() -> bool:
    """Whether there is a second core, and joblib to use it."""
    return (os.cpu_count() or 1) > 1 and importlib.util.find_spec("joblib") is not None


def _in_parallel(
    job: Job, waiting: Sequence[tuple[int, int]], jobs: int, clock: Clock, finished: int
) -> Iterator[tuple[int, Fit]]:
    try:
        from joblib import Parallel, delayed
    except ImportError as error:
        raise ImportError("parallel starts need joblib: pip install tensorchain[parallel], or jobs=1") from error
    # Workers on other machines have clocks of their own: they are told a wall-clock time.
    left = clock.left
    wall = None if left is None else time.time() + left
    calls = (delayed(_timed)(job, number, seed, wall) for number, seed in waiting)
    try:
        with closing(Parallel(n_jobs=jobs, return_as="generator_unordered")(calls)) as results:
            for found in results:
                if found is not None:
                    finished += 1
                    yield found
    except KeyboardInterrupt:
        # What is finished is with the caller already.
        _end_workers()
        raise
    if not finished:
        # The workers took longer to come up than the limit allows.
        number, seed = waiting[0]
        yield number, job(seed, 1e-3, number)


def _end_workers() -> None:
    """End the processes that joblib started on this machine, and what they are at; none outlives an interrupt."""
    loky = sys.modules.get("joblib.externals.loky.reusable_executor")
    executor = getattr(loky, "_executor", None)
    if executor is not None:
        executor.shutdown(wait=True, kill_workers=True)


def _seconds(clock: Clock) -> float | None:
    left = clock.left
    return None if left is None else max(left, 1e-3)


def _timed(job: Job, number: int, seed: int, wall: float | None) -> tuple[int, Fit] | None:
    if wall is None:
        return number, job(seed, None, number)
    left = wall - time.time()
    return (number, job(seed, left, number)) if left > 0.0 else None
