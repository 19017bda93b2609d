"""The best of a few values in a row, sought step by step from one that is often near it."""

from __future__ import annotations

from collections.abc import Callable


def lowest_from(begin: int, count: int, error_of: Callable[[int], float]) -> int:
    """The place from which an error rises on both sides.

    The next place is tried as long as the error falls, upwards first, and downwards where no step upwards was better.

    Parameters
    ----------
    begin : int
        Where the search starts.
    count : int
        Of places.
    error_of : callable
        Of a place; each is asked once.

    Examples
    --------
    >>> lowest_from(3, 9, lambda k: abs(k - 1)), lowest_from(3, 9, lambda k: abs(k - 6))
    (1, 6)
    """
    best, least = begin, error_of(begin)
    for step in (1, -1):
        while 0 <= best + step < count:
            error = error_of(best + step)
            if not error < least:
                break
            best, least = best + step, error
        if best > begin:
            break
    return best
