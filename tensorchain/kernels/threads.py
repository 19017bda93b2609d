"""BLAS threads: one is faster than many for small matrices, and never slower by a wide margin.

Threads that wait for each other in a Cholesky factorisation of a few hundred unknowns cost more than they
save, and on a busy machine a hundred times more.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

from threadpoolctl import ThreadpoolController


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def blas_threads(limit: int | None) -> AbstractContextManager[Any]:
    """Context in which BLAS uses at most `limit` threads; None leaves it alone."""
    return nullcontext() if limit is None else _controller().limit(limits=limit, user_api="blas")
