"""Normal equations of one block, B M^T = W: to apply and to solve, whatever form M has.

M is a Hermitian, positive semidefinite Gram (P, P); one Gram for each row where rows see different entries;
or a Kronecker product of small ones, for a core, which is never formed: with C_n multiplied into mode n,

    (C_1 (x) ... (x) C_N) vec(B)  takes N mode products, and its inverse N small systems.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tensorchain.kernels.linalg import Array, cholesky_solution, trace

SMALLEST_PIVOT = 1e-7
"""Of a Cholesky factor relative to the largest, below which its matrix counts as singular."""


class System(Protocol):
    """Normal equations of one block."""

    def apply(self, block: Array) -> Array:
        """B M^T."""
        ...

    def solve(self, rhs: Array) -> Array:
        """B of least norm with B M^T = rhs."""
        ...

    def trace(self) -> float:
        """tr M = ||L||_F^2; the largest of them where rows differ."""
        ...


class GramSystem:
    """Normal equations with a Gram (P, P), or one for each row, (I, P, P)."""

    def __init__(self, gram: Array) -> None:
        self.gram = gram

    def apply(self, block: Array) -> Array:
        """B M^T."""
        if self.gram.ndim == 2:
            return block @ self.gram.T
        return np.asarray(np.einsum("ipq,iq->ip", self.gram, block))

    def solve(self, rhs: Array) -> Array:
        """B of least norm with B M^T = rhs."""
        return solve_rows(self.gram, rhs)

    def trace(self) -> float:
        """tr M; the largest of them where rows differ."""
        if self.gram.ndim == 2:
            return trace(self.gram)
        return float(np.einsum("ipp->i", self.gram).real.max())


class KroneckerSystem:
    """Normal equations of a core whose Gram is C_1 (x) ... (x) C_N.

    Parameters
    ----------
    factors : sequence of ndarray
        Hermitian, positive semidefinite, (R_n, R_n).
    """

    def __init__(self, factors: Sequence[Array]) -> None:
        self.factors = factors
        self.shape = tuple(len(factor) for factor in factors)

    def apply(self, block: Array) -> Array:
        """B M^T."""
        value = block.reshape(self.shape)
        for n, factor in enumerate(self.factors):
            value = mode_product(value, factor, n)
        return value.reshape(block.shape)

    def solve(self, rhs: Array) -> Array:
        """B of least norm with B M^T = rhs."""
        value = rhs.reshape(self.shape)
        for n, factor in enumerate(self.factors):
            rows = np.moveaxis(value, n, -1)
            value = np.moveaxis(solve_rows(factor, rows.reshape(-1, len(factor))).reshape(rows.shape), -1, n)
        return value.reshape(rhs.shape)

    def trace(self) -> float:
        """tr M."""
        return math.prod(trace(factor) for factor in self.factors)


def solve_rows(gram: Array, rhs: Array) -> Array:
    """Rows x of the least-norm solution of gram @ x = r, for each row r of `rhs`.

    Parameters
    ----------
    gram : ndarray
        Hermitian, positive semidefinite, (P, P); or (I, P, P), one for each row.
    rhs : ndarray
        (I, P).
    """
    if gram.ndim == 2:
        factor, solution = cholesky_solution(gram, rhs.T)
        if factor is not None:
            pivots = factor.diagonal().real.tolist()
            # Below this the smallest eigenvalue is rounding: least norm instead.
            if min(pivots) > SMALLEST_PIVOT * max(pivots):
                return solution.T
        values, vectors = np.linalg.eigh(gram)
        keep = values > np.finfo(float).eps * len(values) * max(values[-1], 0.0)
        inverse = (vectors[:, keep] / values[keep]) @ vectors[:, keep].conj().T
        return np.asarray(rhs @ inverse.T)
    values, vectors = np.linalg.eigh(gram)
    alive = values > np.finfo(float).eps * values.shape[-1] * values[..., -1:]
    rotated = np.einsum("ip,ipj->ij", rhs, vectors.conj())
    coefficients = np.where(alive, rotated / np.where(alive, values, 1.0), 0.0)
    return np.asarray(np.einsum("ij,ipj->ip", coefficients, vectors))


def mode_product(array: Array, matrix: Array, n: int) -> Array:
    """result[.., p, ..] = sum_q matrix[p, q] array[.., q, ..], along mode n."""
    shape = array.shape
    target = (*shape[:n], len(matrix), *shape[n + 1 :])
    if n == len(shape) - 1:
        return (array.reshape(-1, shape[n]) @ matrix.T).reshape(target)
    return (matrix @ array.reshape(math.prod(shape[:n]), shape[n], -1)).reshape(target)
