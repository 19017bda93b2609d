"""The linear algebra of higher-order orthogonal iteration (HOOI): leading singular vectors, and bases from Grams.

With the other factors of a Tucker model fixed, the best factor of mode n holds the leading left singular vectors of the
tensor that was projected on the spans of the others, unfolded along n.

Reference: Kolda and Bader, "Tensor decompositions and applications" (2009), section 4.2.
"""

from __future__ import annotations

import math

import numpy as np

from tensorchain.kernels import Array, leading_eigenpairs
from tensorchain.kernels.linalg import lapack
from tensorchain.kernels.systems import SMALLEST_PIVOT

_WIDE_SPECTRUM = 1e-4
"""Eigenvalue of a Gram over its largest, below which singular vectors from it need another step."""
_ORTHONORMAL = 1e-14
"""Departure of U^H U from a multiple of the identity that is rounding."""


def leading_vectors(matrix: Array, count: int) -> Array:
    """Orthonormal basis of the leading left singular vectors of a matrix (I, P): (I, count).

    From the eigenvectors of the smaller Gram.  The Gram has lost the digits of singular values below 1e-8 of the
    largest; where some are far smaller than that one, a step of iteration on both sides follows.
    """
    rows, columns = matrix.shape
    small = matrix @ matrix.conj().T if rows <= columns else matrix.conj().T @ matrix
    found = min(count, len(small))
    values, vectors = leading_eigenpairs(small, found)
    if rows <= columns and values[0] > _WIDE_SPECTRUM * values[-1]:
        # Orthonormal to the last digit: what LAPACK returns is so to two or three digits less.
        return np.asarray(1.5 * vectors - vectors @ (0.5 * (vectors.conj().T @ vectors)))
    right = matrix.conj().T @ vectors if rows <= columns else vectors
    left: Array = np.linalg.qr(matrix @ np.linalg.qr(right)[0])[0]
    if found < count:
        # Fewer rows in the other modes than columns here: the rest is free, and orthogonal.
        spare = np.eye(rows, count - found, dtype=left.dtype)
        left = np.linalg.qr(np.concatenate([left, spare], axis=1))[0]
    return left


def inverse_root(gram: Array) -> Array | float | None:
    """L^-1 with L L^H = gram; a number where it is a multiple of the identity; None where gram is singular to rounding.

    The last is so for factors that such an update has made.
    """
    size = float(gram[0, 0].real)
    if size > 0.0 and np.abs(gram - size * np.eye(len(gram))).max() < _ORTHONORMAL * size:
        return 1.0 / math.sqrt(size)
    factor, failed = lapack("potrf", gram)(gram, lower=1, clean=1)
    pivots = np.diagonal(factor).real
    if failed or not pivots.min() > SMALLEST_PIVOT * pivots.max():
        return None
    inverse, _ = lapack("trtri", factor)(factor, lower=1)
    return np.asarray(inverse)
