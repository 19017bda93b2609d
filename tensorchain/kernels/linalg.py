"""Dense linear algebra in the form that the solvers need it: no copies, no exceptions, no overflow.

Here and elsewhere ``import scipy`` brings in SciPy's parts when they are first used: they take as long to import as
all that they are used by.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from tensorchain.kernels import memory

Array = NDArray[Any]

_PIECE = 1 << 20
_BLOCK = 32
"""Columns that LAPACK treats at once, and the size below which all eigenvectors cost no more than some."""


def lapack(name: str, array: Array) -> Callable[..., Any]:
    """SciPy's function for LAPACK's routine of this name in double precision, for an array that is real or complex."""
    return getattr(scipy.linalg.lapack, ("z" if array.dtype.kind == "c" else "d") + name)  # type: ignore[no-any-return]


def cholesky(matrix: Array) -> Array | None:
    """Factor of a Hermitian matrix for `cholesky_solve`, or None if it is not positive definite.

    Only the upper triangle of `matrix` (C order) is read.  To LAPACK, which counts along columns, that is
    the lower triangle of the conjugate, and no copy has to be transposed.
    """
    factor, info = lapack("potrf", matrix)(memory.copy(matrix).T, lower=1, clean=0, overwrite_a=1)
    return None if info else factor


def cholesky_solve(factor: Array, rhs: Array) -> Array:
    """Solve matrix @ x = rhs with the factor of `cholesky`."""
    factor = _like(factor, rhs)
    complex_like = factor.dtype.kind == "c"
    if complex_like:
        rhs = rhs.conj()
    if rhs.ndim == 1:
        # LAPACK treats one right-hand side as a matrix, which takes twice as long.
        trsv = scipy.linalg.blas.ztrsv if complex_like else scipy.linalg.blas.dtrsv
        half = trsv(factor, rhs, lower=1)
        solution = trsv(factor, half, lower=1, trans=2, overwrite_x=1)
    else:
        solution, _ = lapack("potrs", factor)(factor, rhs, lower=1)
    return np.asarray(solution.conj() if complex_like else solution)


def cholesky_solution(matrix: Array, rhs: Array) -> tuple[Array | None, Array]:
    """Factor or None, as of `cholesky`, and solution for a matrix `rhs`, as of `cholesky_solve`: in one call."""
    matrix = _like(matrix, rhs)
    complex_like = matrix.dtype.kind == "c"
    factor, solution, info = lapack("posv", matrix)(
        memory.copy(matrix).T, rhs.conj() if complex_like else rhs, lower=1, overwrite_a=1, overwrite_b=complex_like
    )
    return None if info else factor, solution.conj() if complex_like else solution


def _like(matrix: Array, rhs: Array) -> Array:
    """A complex matrix where the right-hand side is: LAPACK's routines for real numbers would drop a part of it."""
    return matrix.astype(np.complex128) if rhs.dtype.kind == "c" and matrix.dtype.kind != "c" else matrix


def leading_eigenpairs(matrix: Array, count: int) -> tuple[Array, Array]:
    """The `count` largest eigenvalues of a Hermitian matrix (n, n), in rising order, and their vectors (n, count).

    Tridiagonal form, its eigenvectors by relatively robust representations, and back.  LAPACK's own driver finds some
    of the eigenvectors by bisection and inverse iteration: twice as long in all (measured here).
    """
    size = len(matrix)
    if size < _BLOCK or 2 * count > size:
        return _last_eigenpairs(matrix, count)
    reduce, rotate = ("hetrd", "unmqr") if matrix.dtype.kind == "c" else ("sytrd", "ormqr")
    reflectors, diagonal, beside, scales, _ = lapack(reduce, matrix)(matrix, lower=1, lwork=_BLOCK * size)
    found, values, vectors, failed = lapack("stemr", diagonal)(
        diagonal, np.append(beside, 0.0), 2, 0.0, 0.0, size - count + 1, size
    )
    if failed or found != count:
        return _last_eigenpairs(matrix, count)
    result = np.array(vectors[:, :count], dtype=matrix.dtype, order="F")
    # The reflectors leave the first row alone.
    result[1:] = lapack(rotate, matrix)("L", "N", reflectors[1:, :-1], scales, result[1:], _BLOCK * count)[0]
    return values[:count], result


def _last_eigenpairs(matrix: Array, count: int) -> tuple[Array, Array]:
    values, vectors = np.linalg.eigh(matrix)
    return values[len(values) - count :], vectors[:, len(values) - count :]


def diagonal_blocks(matrix: Array, start: int, count: int, width: int) -> Array:
    """View (count, width, width) of the square blocks on the diagonal from `start` on; writable."""
    stop = start + count * width
    view = matrix[start:stop, start:stop].reshape(count, width, count, width)
    return np.asarray(np.einsum("ipiq->ipq", view))


def trace(matrix: Array) -> float:
    """The trace of a Hermitian matrix; for a small one NumPy's takes three times as long."""
    return float(sum(matrix.diagonal().real.tolist()))


def norm(array: Array) -> float:
    """Euclidean norm of all entries, safe from overflow and underflow (e.g. at scales 1e-200, 1e200)."""
    size, exponent = scaled_norm(array)
    try:
        return math.ldexp(size, exponent)
    except OverflowError:
        return math.inf


def scaled_norm(array: Array) -> tuple[float, int]:
    """(s, e) with ||array|| = s 2^e, s moderate: the norm of finite numbers, even where it is none itself.

    Not finite numbers give a number s that is not finite.
    """
    flat = array.ravel(order="K")
    if flat.dtype != np.float32:
        with np.errstate(over="ignore", invalid="ignore"):
            direct = float(np.linalg.norm(flat))
        if 1e-140 < direct < 1e140:
            return direct, 0
    parts = (flat.real, flat.imag) if flat.dtype.kind == "c" else (flat,)
    # No array of absolute values: it would be as large as the tensor.
    largest = max(float(max(part.max(initial=0.0), -part.min(initial=0.0))) for part in parts)
    if largest == 0.0 or not np.isfinite(largest):
        return largest, 0
    # A power of two scales without rounding; subnormal numbers need it in two steps.
    exponent = -int(np.floor(np.log2(largest)))
    total = 0.0
    for part in parts:
        for start in range(0, len(part), _PIECE):
            piece = np.ldexp(part[start : start + _PIECE].astype(np.float64), exponent)
            total += float(piece @ piece)
    return math.sqrt(total), -exponent
