"""Dense linear algebra in the form that the solvers need it: no copies, no exceptions, no overflow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from tensorchain.kernels import memory

Array = NDArray[Any]

_PIECE = 1 << 20


def cholesky(matrix: Array) -> Array | None:
    """Factor of a Hermitian matrix for `cholesky_solve`, or None if it is not positive definite.

    Only the upper triangle of `matrix` (C order) is read.  To LAPACK, which counts along columns, that is
    the lower triangle of the conjugate, and no copy has to be transposed.
    """
    potrf = lapack.zpotrf if matrix.dtype.kind == "c" else lapack.dpotrf
    factor, info = potrf(memory.copy(matrix).T, lower=1, clean=0, overwrite_a=1)
    return None if info else factor


def cholesky_solve(factor: Array, rhs: Array) -> Array:
    """Solve matrix @ x = rhs with the factor of `cholesky`."""
    if factor.dtype.kind == "c":
        solution, _ = lapack.zpotrs(factor, rhs.conj(), lower=1)
        return np.asarray(solution.conj())
    solution, _ = lapack.dpotrs(factor, rhs, lower=1)
    return np.asarray(solution)


def diagonal_blocks(matrix: Array, start: int, count: int, width: int) -> Array:
    """View (count, width, width) of the square blocks on the diagonal from `start` on; writable."""
    stop = start + count * width
    view = matrix[start:stop, start:stop].reshape(count, width, count, width)
    return np.asarray(np.einsum("ipiq->ipq", view))


def norm(array: Array) -> float:
    """Euclidean norm of all entries, safe from overflow and underflow (e.g. at scales 1e-200, 1e200)."""
    flat = array.ravel(order="K")
    with np.errstate(over="ignore"):
        direct = float(np.linalg.norm(flat))
    if 1e-140 < direct < 1e140 and flat.dtype != np.float32:
        return direct
    parts = (flat.real, flat.imag) if flat.dtype.kind == "c" else (flat,)
    # No array of absolute values: it would be as large as the tensor.
    largest = max(float(max(part.max(initial=0.0), -part.min(initial=0.0))) for part in parts)
    if largest == 0.0 or not np.isfinite(largest):
        return largest
    # A power of two scales without rounding; subnormal numbers need it in two steps.
    exponent = -int(np.floor(np.log2(largest)))
    total = 0.0
    for part in parts:
        for start in range(0, len(part), _PIECE):
            piece = np.ldexp(part[start : start + _PIECE].astype(np.float64), exponent)
            total += float(piece @ piece)
    try:
        return math.ldexp(math.sqrt(total), -exponent)
    except OverflowError:
        return math.inf
