"""Dense linear algebra in the form that the solvers need it: no copies, no exceptions, no overflow."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

Array = NDArray[Any]


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
