"""Layers side by side: pieces of work that do not depend on each other, in several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from threadpoolctl import threadpool_limits

Work = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function and its arguments."""


def in_parallel(work: Sequence[Work], jobs: int = 1) -> Iterator[Any]:
    """The results of pieces of work, in their order, each as soon as those before it are there.

    Parameters
    ----------
    work : sequence of (function, arguments)
    jobs : int
        Processes, each with one thread; -1 for one a processor.

    Yields
    ------
    object

    Raises
    ------
    ValueError
        When `jobs` is neither positive nor -1.
    ImportError
        When several processes are asked for and joblib is missing.

    Examples
    --------
    >>> list(in_parallel([(pow, (2, n)) for n in range(4)]))
    [1, 2, 4, 8]
    """
    if jobs != -1 and (isinstance(jobs, bool) or jobs < 1):
        raise ValueError(f"jobs is {jobs!r}; a positive number of processes, or -1 for all processors, is needed")
    if jobs == 1 or len(work) < 2:
        for function, arguments in work:
            yield function(*arguments)
        return
    try:
        import joblib
    except ImportError as error:
        raise ImportError("several jobs need joblib: pip install tensorchain[parallel]") from error
    yield from joblib.Parallel(n_jobs=jobs, return_as="generator")(joblib.delayed(_alone)(*piece) for piece in work)


def _alone(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """A piece of work on one thread: the processes are as many as the processors."""
    with threadpool_limits(1):
        return function(*arguments)
