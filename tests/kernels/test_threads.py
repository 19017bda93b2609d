"""Threads of BLAS are held down inside and given back outside."""

from __future__ import annotations

from typing import Any

import pytest

from tensorchain.kernels import blas_threads, threads


class Pool:
    """A BLAS library with threads of its own."""

    user_api = "blas"

    def __init__(self, filepath: str, num_threads: int) -> None:
        self.filepath, self.num_threads = filepath, num_threads

    def set_num_threads(self, count: int) -> None:
        self.num_threads = count


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found = [Pool("site/numpy.libs/libblas-1.so", 8), Pool("site/scipy.libs/libblas-2.so", 4)]
    monkeypatch.setattr(threads, "_pools", lambda: tuple(found))
    return found


def test_a_second_library_gets_one_thread(pools: list[Any]) -> None:
    with blas_threads(None):
        assert [pool.num_threads for pool in pools] == [8, 1]
    assert [pool.num_threads for pool in pools] == [8, 4]


def test_one_library_for_both_is_left_alone(pools: list[Any]) -> None:
    del pools[0]
    with blas_threads(None):
        assert pools[0].num_threads == 4


def test_a_limit_is_for_all_and_never_raises(pools: list[Any]) -> None:
    with blas_threads(6):
        assert [pool.num_threads for pool in pools] == [6, 4]
        with blas_threads(1), pytest.raises(ZeroDivisionError), blas_threads(None):
            raise ZeroDivisionError
        assert [pool.num_threads for pool in pools] == [6, 4]
    assert [pool.num_threads for pool in pools] == [8, 4]


def test_the_libraries_of_this_process_are_found() -> None:
    assert threads._pools()
    with blas_threads(1):
        assert {pool.num_threads for pool in threads._pools()} == {1}
