"""BLAS threads: one is faster than many for small matrices, and two sets of them get in each other's way.

Threads that wait for each other in a Cholesky factorisation of a few hundred unknowns cost more than they
save, and on a busy machine a hundred times more.

The wheels of NumPy and of SciPy bring a BLAS each, with threads of its own that stay awake for some milliseconds
after their work.  A solver that turns from a matrix product (NumPy) to a small factorisation (SciPy) and back then
has more threads awake than there are cores: measured here on two cores, sweeps took 3 to 20 times as long.  So
SciPy's BLAS, to which only small matrices are given, is held to one thread while a solver runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from threadpoolctl import ThreadpoolController


@contextmanager
def blas_threads(limit: int | None) -> Iterator[None]:
    """Context in which BLAS uses at most `limit` threads; with None a second BLAS, that of SciPy, uses one."""
    pools = [(pool, pool.num_threads) for pool in _pools() if limit is not None or _is_second(pool)]
    wanted = 1 if limit is None else limit
    try:
        for pool, threads in pools:
            if threads > wanted:
                pool.set_num_threads(wanted)
        yield
    finally:
        for pool, threads in pools:
            if threads > wanted:
                pool.set_num_threads(threads)


@lru_cache(maxsize=1)
def _pools() -> tuple[Any, ...]:
    """The BLAS libraries of this process, that of SciPy among them: it is there as soon as `scipy.linalg` is."""
    importlib.import_module("scipy.linalg")
    return tuple(pool for pool in ThreadpoolController().lib_controllers if pool.user_api == "blas")


def _is_second(pool: Any) -> bool:
    """Whether the library came with SciPy's wheel, so that NumPy does not use it."""
    path = Path(pool.filepath)
    return len(_pools()) > 1 and ("scipy.libs" in path.parts or path.parent.parent.name == "scipy")
