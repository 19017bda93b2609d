"""Equations in the cores of several terms, which are coupled: conjugate gradients with Kronecker products.

With C_n^st the Grams of mode n between terms s and t, and I_n its rows,

    M_0^st = C_1^st (x) ... (x) C_N^st,
    Q_0^tt = sum_n I_n C_1^tt (x) ... 1 in the place of n ... (x) C_N^tt,        Q_0^st = 0 for s != t,

have the square of the numbers in the cores.  They are applied by mode products instead.  For one term both are diagonal
in one basis, the eigenvectors of C_1, ..., C_N, so that M_0 + nu Q_0 + mu has a direct inverse; that of each term alone
is the preconditioner for several.

Cost of a step: N mode products with R x R matrices for each pair of terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tensorchain.kernels import Array
from tensorchain.kernels.interruption import check_time
from tensorchain.kernels.systems import mode_product

_TOL, _MOST = 1e-13, 500

Apply = Callable[[Array], Array]


class CoreSystem:
    """Normal equations of cores that are coupled, (1, P_0), without their matrix.

    Parameters
    ----------
    image : Apply
        B -> B M^T.
    precondition : Apply
        An approximate inverse, positive definite.
    size : float
        tr M.
    tol : float, optional
        Relative residual of solutions.
    """

    def __init__(self, image: Apply, precondition: Apply, *, size: float, tol: float = _TOL) -> None:
        self._image, self._precondition, self._size, self._tol = image, precondition, size, tol

    def apply(self, block: Array) -> Array:
        """B M^T."""
        return self._image(block)

    def solve(self, rhs: Array) -> Array:
        """B with B M^T = rhs; where M is singular, one without large parts that M does not see."""
        return conjugate_gradients(self._image, self._precondition, rhs, self._tol)

    def trace(self) -> float:
        """tr M."""
        return self._size


def one_term_solver(grams: Sequence[Array], row_counts: Sequence[int], penalty: float, damping: float) -> Apply | None:
    """The inverse of M_0 + penalty Q_0 + damping for one term, applied to its core; None if not positive definite.

    Without damping it is the pseudoinverse.

    Parameters
    ----------
    grams : sequence of ndarray
        C_n, (R_n, R_n).
    row_counts : sequence of int
        I_n.
    """
    pairs = [np.linalg.eigh(gram) for gram in grams]
    values = [np.maximum(pair[0], 0.0) for pair in pairs]
    weights = _outer(values) + damping
    if penalty:
        for n, size in enumerate(row_counts):
            ones = np.ones_like(values[n])
            weights = weights + penalty * size * _outer([ones if m == n else v for m, v in enumerate(values)])
    if not damping:
        # What the matrix does not see to rounding stays out of the solution, which is that of least norm.
        seen = weights > np.finfo(float).eps * weights.size * float(weights.max())
        weights = np.where(seen, weights, np.inf)
    if not float(weights.min()) > 0.0:
        return None

    def solve(block: Array) -> Array:
        value = block.reshape(weights.shape)
        for n, (_, vectors) in enumerate(pairs):
            value = mode_product(value, vectors.conj().T, n)
        value = value / weights
        for n, (_, vectors) in enumerate(pairs):
            value = mode_product(value, vectors, n)
        return value.reshape(block.shape)

    return solve


def one_term_metric(grams: Sequence[Array], row_counts: Sequence[int], core: Array) -> Array:
    """sum_n I_n times the core with C_m multiplied into every mode m but n."""
    total = np.zeros(core.shape, dtype=np.result_type(core, *grams))
    for n, size in enumerate(row_counts):
        value = core
        for m, gram in enumerate(grams):
            if m != n:
                value = mode_product(value, gram, m)
        total += size * value
    return total


def conjugate_gradients(image: Apply, precondition: Apply, rhs: Array, tol: float = _TOL) -> Array:
    """The solution of image(x) = rhs, unless told otherwise to the last digits that the matrix allows."""
    solution = np.zeros_like(rhs)
    residual = rhs.copy()
    direction = np.array(precondition(residual))
    energy = float(np.vdot(residual, direction).real)
    target = tol * math.sqrt(float(np.vdot(rhs, rhs).real))
    for _ in range(_MOST):
        check_time()
        if not energy > 0.0 or math.sqrt(float(np.vdot(residual, residual).real)) <= target:
            break
        moved = image(direction)
        curvature = float(np.vdot(direction, moved).real)
        if not curvature > 0.0:
            break
        step = energy / curvature
        solution += step * direction
        residual -= step * moved
        better = precondition(residual)
        energy, before = float(np.vdot(residual, better).real), energy
        direction = better + (energy / before) * direction
    return solution


def _outer(vectors: Sequence[Array]) -> Array:
    result = vectors[0]
    for vector in vectors[1:]:
        result = np.multiply.outer(result, vector)
    return result
