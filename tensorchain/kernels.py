"""Contractions on bare arrays: the only module that knows how to make them fast.

`contract` is an einsum whose contraction order is searched once for each pair
(subscripts, shapes) and then replayed; every pairwise step that is a matrix
product goes to BLAS.  Everything above this module speaks in subscripts.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

Array = NDArray[Any]

_DIRECT = 3
"""Up to this many operands of small size plain einsum beats a searched path."""
_SMALL = 20_000


@lru_cache(maxsize=4096)
def _path(subscripts: str, shapes: tuple[tuple[int, ...], ...]) -> Any:
    dummies = [np.broadcast_to(np.empty((), dtype=np.float64), shape) for shape in shapes]
    return np.einsum_path(subscripts, *dummies, optimize="greedy")[0]


@lru_cache(maxsize=4096)
def _volume(subscripts: str, shapes: tuple[tuple[int, ...], ...]) -> int:
    sizes: dict[str, int] = {}
    for letters, shape in zip(subscripts.split("->")[0].split(","), shapes, strict=True):
        sizes.update(zip(letters, shape, strict=True))
    return int(np.prod([float(size) for size in sizes.values()]))


def contract(subscripts: str, *operands: Array) -> Array:
    """Einsum with a cached contraction order.

    `subscripts` is explicit, e.g. ``"iab,jbc,kca->ijk"``.
    """
    shapes = tuple(operand.shape for operand in operands)
    if len(operands) < _DIRECT and _volume(subscripts, shapes) < _SMALL:
        return np.asarray(np.einsum(subscripts, *operands))
    return np.asarray(np.einsum(subscripts, *operands, optimize=_path(subscripts, shapes)))


def cholesky(matrix: Array) -> Array | None:
    """Lower Cholesky factor of a Hermitian matrix, or None if it is not positive definite.

    Only the lower triangle is read; the strict upper triangle of the result is undefined.
    """
    potrf = lapack.zpotrf if np.iscomplexobj(matrix) else lapack.dpotrf
    factor, info = potrf(matrix, lower=1, clean=0, overwrite_a=0)
    return None if info else factor


def cholesky_solve(factor: Array, rhs: Array) -> Array:
    """Solve L L^H x = rhs with the factor of `cholesky`."""
    potrs = lapack.zpotrs if np.iscomplexobj(factor) else lapack.dpotrs
    solution, _ = potrs(factor, rhs, lower=1)
    return np.asarray(solution)


def norm(array: Array) -> float:
    """Euclidean norm of all entries, safe from overflow and underflow (e.g. at scales 1e-200, 1e200)."""
    flat = array.ravel()
    largest = float(np.abs(flat).max(initial=0.0))
    if largest == 0.0 or not np.isfinite(largest):
        return largest
    if 1e-100 < largest < 1e100 and flat.dtype != np.float32:
        return float(np.linalg.norm(flat))
    # A power of two scales without rounding.
    exponent = -int(np.floor(np.log2(largest)))
    scaled = np.ldexp(flat.real, exponent).astype(np.float64)
    total = float(scaled @ scaled)
    if np.iscomplexobj(flat):
        scaled = np.ldexp(flat.imag, exponent)
        total += float(scaled @ scaled)
    return float(np.ldexp(np.sqrt(total), -exponent))
