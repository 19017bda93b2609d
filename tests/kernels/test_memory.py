"""Recycled memory is never handed out while someone looks at it."""

from __future__ import annotations

import threading

import numpy as np

from tensorchain.kernels import memory, recycling

SHAPE = (64, 128)


def address(array: object) -> int:
    return int(np.asarray(array).__array_interface__["data"][0])


def test_memory_that_is_free_is_used_again() -> None:
    with recycling():
        first = memory.empty(SHAPE, np.float64)
        where = address(first)
        del first
        assert address(memory.empty(SHAPE, np.float64)) == where


def test_memory_in_use_is_not_handed_out() -> None:
    with recycling():
        first = memory.empty(SHAPE, np.float64)
        view = first[3:, ::2].T
        where = address(first)
        del first
        # The view still refers to it.
        view[...] = 7.0
        second = memory.empty(SHAPE, np.float64)
        second[...] = 0.0
        assert address(second) != where
        assert np.all(view == 7.0)


def test_types_share_memory_of_one_size() -> None:
    with recycling():
        first = memory.empty((64, 64), np.complex128)
        where = address(first)
        del first
        second = memory.empty(SHAPE, np.float64)
        assert address(second) == where
        assert second.dtype == np.float64
        assert second.shape == SHAPE


def test_results_outlive_the_context() -> None:
    with recycling():
        kept = memory.copy(np.full(SHAPE, 3.0))
    other = memory.empty(SHAPE, np.float64)
    other[...] = 0.0
    assert np.all(kept == 3.0)


def test_contexts_may_be_nested() -> None:
    with recycling():
        with recycling():
            first = memory.empty(SHAPE, np.float64)
        where = address(first)
        del first
        assert address(memory.empty(SHAPE, np.float64)) == where


def test_no_more_is_kept_than_allowed() -> None:
    with recycling():
        held = [memory.empty((1 << 20, 8), np.float64) for _ in range(6)]
        assert memory._shelves.kept <= memory._KEPT
        assert len({address(array) for array in held}) == 6
    assert memory._shelves.kept == 0


def test_threads_do_not_share() -> None:
    seen: list[bool] = []
    with recycling():
        thread = threading.Thread(target=lambda: seen.append(memory._shelves.owners is None))
        thread.start()
        thread.join()
    assert seen == [True]
