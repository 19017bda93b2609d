"""Memory that a run asks for again and again is kept and handed out again.

An array of a megabyte comes from the operating system as pages that are mapped, zeroed and given back with every
use.  In a solver, whose iterations all ask for arrays of the same few sizes, that costs as much as the arithmetic:
inside `recycling()`, `empty` hands out memory whose last user is gone.  Nothing has to be returned by hand: memory
is free when nobody but its shelf refers to it any more, which the reference count of its owner tells, since every
view of an array refers to the array that owns the memory.

Outside of `recycling()`, and in other threads, `empty` is `numpy.empty`.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SMALLEST, _LARGEST = 1 << 15, 1 << 26
"""Sizes in bytes that are worth keeping: the allocator serves smaller ones well, larger ones are seldom asked for."""
_KEPT = 1 << 28
"""Bytes that a thread keeps at most."""


class _Shelves(threading.local):
    """Owners of memory by their size in bytes; None outside of `recycling`."""

    owners: dict[int, list[NDArray[np.uint8]]] | None = None
    kept: int = 0


_shelves = _Shelves()


def empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array of any content, in memory that was used before where there is some."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    shelves = _shelves.owners
    if shelves is None or not _SMALLEST <= size <= _LARGEST:
        return np.empty(shape, dtype)
    shelf = shelves.setdefault(size, [])
    for owner in shelf:
        if sys.getrefcount(owner) <= _UNUSED:
            return np.asarray(owner.view(dtype).reshape(shape))
    fresh = np.empty(size, np.uint8)
    if _shelves.kept + size > _KEPT:
        _clear(shelves)
    if _shelves.kept + size <= _KEPT:
        shelf.append(fresh)
        _shelves.kept += size
    return np.asarray(fresh.view(dtype).reshape(shape))


def copy(array: NDArray[Any]) -> NDArray[Any]:
    """A copy in C order, in memory from `empty`."""
    result = empty(array.shape, array.dtype)
    result[...] = array
    return result


@contextmanager
def recycling() -> Iterator[None]:
    """Within this context `empty` recycles memory, which is given up at its end.  May be nested."""
    if _shelves.owners is not None:
        yield
        return
    _shelves.owners, _shelves.kept = {}, 0
    try:
        yield
    finally:
        _shelves.owners, _shelves.kept = None, 0


def _clear(shelves: dict[int, list[NDArray[np.uint8]]]) -> None:
    """Give up all memory that is not in use."""
    for shelf in shelves.values():
        used = []
        for owner in shelf:
            if sys.getrefcount(owner) <= _UNUSED:
                _shelves.kept -= owner.nbytes
            else:
                used.append(owner)
        shelf[:] = used


def _count_unused() -> int:
    """What `getrefcount` says of memory on a shelf that nobody uses; it depends on the interpreter."""
    for owner in [np.empty(1, np.uint8)]:
        return sys.getrefcount(owner)
    raise AssertionError


_UNUSED = _count_unused()
