"""Several starts of one problem, in this process or through joblib.

Every start has a seed of its own, drawn in advance, so the result does not depend on where or in which
order the starts run.  joblib brings its backends: processes on this machine (the default), and Dask or Ray
clusters inside ``with joblib.parallel_config("dask"):``.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Protocol, TypeVar

from tensorchain.fit import Fit, StopReason

_WORTHWHILE = 10.0
"""Seconds of work left from which processes, which take seconds to start, pay off."""

_ENDS_ALL = (StopReason.INTERRUPTED, StopReason.TIME_LIMIT, StopReason.CALLBACK)


class Job(Protocol):
    """One start: from its seed, and the seconds it may take, to a fit.  Must be picklable to run elsewhere."""

    def __call__(self, seed: int, max_seconds: float | None) -> Fit:
        """Run the start."""


JobType = TypeVar("JobType", bound=Job)


def run_starts(job: Job, seeds: Sequence[int], jobs: int | None, max_seconds: float | None) -> Iterator[Fit]:
    """Fits of all seeds, as they come.

    Parameters
    ----------
    jobs : number of workers, -1 for all cores, 1 for none beside this process; None decides after the
        first start, from the time that it took.
    max_seconds : limit over all starts.  At least one fit is returned, and none is begun after it.
    """
    deadline = None if max_seconds is None else time.monotonic() + max_seconds
    waiting = list(seeds)
    if jobs is None or jobs == 1:
        while waiting:
            began = time.monotonic()
            fit = job(waiting.pop(0), None if deadline is None else max(deadline - began, 1e-3))
            yield fit
            now = time.monotonic()
            if fit.reason in _ENDS_ALL or (deadline is not None and now >= deadline):
                return
            if jobs is None and (now - began) * len(waiting) > _WORTHWHILE and can_run_parallel():
                break
    if waiting:
        yield from _in_parallel(
            job, waiting, -1 if jobs is None else jobs, deadline, finished=len(seeds) - len(waiting)
        )


def can_run_parallel() -> bool:
    """Whether there is a second core, and joblib to use it."""
    return (os.cpu_count() or 1) > 1 and importlib.util.find_spec("joblib") is not None


def _in_parallel(job: Job, seeds: Sequence[int], jobs: int, deadline: float | None, finished: int) -> Iterator[Fit]:
    try:
        from joblib import Parallel, delayed
    except ImportError as error:
        raise ImportError("parallel starts need joblib: pip install tensorchain[parallel], or jobs=1") from error
    # Workers on other machines have clocks of their own: they are told a wall-clock time.
    wall = None if deadline is None else time.time() + deadline - time.monotonic()
    calls = (delayed(_timed)(job, seed, wall) for seed in seeds)
    try:
        with closing(Parallel(n_jobs=jobs, return_as="generator_unordered")(calls)) as results:
            for fit in results:
                if fit is not None:
                    finished += 1
                    yield fit
    except KeyboardInterrupt:
        # What is finished is with the caller already.
        if not finished:
            raise
        return
    if not finished:
        # The workers took longer to come up than the limit allows.
        yield job(seeds[0], 1e-3)


def _timed(job: Job, seed: int, wall: float | None) -> Fit | None:
    if wall is None:
        return job(seed, None)
    left = wall - time.time()
    return job(seed, left) if left > 0.0 else None
