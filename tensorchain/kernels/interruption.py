"""Long computations that end when their time is up.

A time limit is looked at between the steps of a solver, and some steps take longer than the limit: a Gram over all
entries with gaps, conjugate gradients for a large core, a pass over a file.  Whoever works in pieces calls `check_time`
between them.  Inside of `interruptible` it asks whether the work should go on, and raises `OutOfTime` where not; the
caller then goes on with what it has.  Outside it costs next to nothing.

Each thread has its own (:mod:`contextvars`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_expired: ContextVar[Callable[[], bool] | None] = ContextVar("expired", default=None)


class OutOfTime(BaseException):
    """Raised by `check_time`.  No error: what handles errors on the way lets it pass."""


@contextmanager
def interruptible(expired: Callable[[], bool] | None) -> Iterator[None]:
    """Context in which `check_time` raises `OutOfTime` once `expired` returns true; with None it never does.

    Parameters
    ----------
    expired : callable, optional
        Asked between pieces of work.

    Examples
    --------
    >>> from tensorchain.kernels.interruption import OutOfTime, check_time, interruptible
    >>> check_time()
    >>> try:
    ...     with interruptible(lambda: True):
    ...         check_time()
    ... except OutOfTime:
    ...     print("time is up")
    time is up
    """
    token = _expired.set(expired)
    try:
        yield
    finally:
        _expired.reset(token)


def check_time() -> None:
    """Between two pieces of work."""
    expired = _expired.get()
    if expired is not None and expired():
        raise OutOfTime
