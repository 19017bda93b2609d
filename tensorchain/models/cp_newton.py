"""The damped Gauss-Newton matrix of a CPD, solved through its structure.

With G_n = M_n + nu Q_n + mu the blocks on the diagonal (M_n the Gram, Q_n the metric of the sensitivity),

    J^H J + nu Q + mu = G + Z K Z^H,     G : X_n -> X_n G_n^T,     Z : Y_n -> B_n Y_n^T,

Y_n being R x R, and K couples different modes: (K Y)_n = sum over m != n of Gamma_nm * Y_m^T, element by element,
where Gamma_nm is the product of the Grams C_l of all modes but n and m.  By the Woodbury identity

    (G + Z K Z^H)^-1 = G^-1 - G^-1 Z (K - K F S^-1 F^H K) Z^H G^-1,       S = 1 + F^H K F,

with F F^H = Z^H G^-1 Z, block by block G_n^-1 (x) C_n, so F_n = L^-H (x) E with G_n = L L^H and C_n = E E^H.
S is positive definite exactly when the whole matrix is.

Cost: S has N R^2 rows, whatever the sizes I_n of the modes: (N R^2)^3 / 3 for its Cholesky factor and
R^5 for each pair of modes, against (R sum I_n)^3 / 3.  Rounding grows with the condition of G; whoever needs more
digits takes it as the preconditioner of conjugate gradients, which then end after one or two steps.

Reference: Phan, Tichavsky, Cichocki, "Low complexity damped Gauss-Newton algorithms for CANDECOMP/PARAFAC" (2013).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorchain.kernels import Array, cholesky, cholesky_solve, memory
from tensorchain.kernels.linalg import lapack

_RANK = 1e-14


class DampedInverse:
    """(J^H J + nu Q + mu)^-1, applied to blocks.

    Parameters
    ----------
    matrices : sequence of ndarray
        The factors B_n, (I_n, R).
    moments : sequence of ndarray
        C_n = B_n^H B_n, (R, R).
    diagonal : sequence of ndarray
        G_n, (R, R), Hermitian.

    Raises
    ------
    ArithmeticError
        When the matrix is not positive definite to rounding.
    """

    def __init__(self, matrices: Sequence[Array], moments: Sequence[Array], diagonal: Sequence[Array]) -> None:
        self.matrices, self.moments = matrices, moments
        self.order, self.rank = len(matrices), len(moments[0])
        self.couplings = _couplings(moments)
        self.inverses = [_inverse_root(gram) for gram in diagonal]
        self.roots = [_root(moment) for moment in moments]
        self.sizes = [self.rank * root.shape[1] for root in self.roots]
        factor = cholesky(self._small())
        if factor is None:
            raise ArithmeticError("the damped Gauss-Newton matrix is not positive definite")
        self.factor = factor

    @staticmethod
    def size(shape: Sequence[int], rank: int) -> int:
        """Rows of S."""
        return rank * sum(min(rank, rows) for rows in shape)

    def __call__(self, blocks: Sequence[Array]) -> list[Array]:
        first = [self._diagonal_solve(n, block) for n, block in enumerate(blocks)]
        coupled = self._couple([(matrix.conj().T @ x).T for matrix, x in zip(self.matrices, first, strict=True)])
        # F^H Y = A^H Y conj(E)
        narrow = [
            (a.conj().T @ y @ e.conj()).ravel() for a, y, e in zip(self.inverses, coupled, self.roots, strict=True)
        ]
        solved = cholesky_solve(self.factor, np.concatenate(narrow))
        pieces = np.split(solved, np.cumsum(self.sizes)[:-1])
        back = self._couple(
            [
                a @ piece.reshape(self.rank, -1) @ e.T
                for a, piece, e in zip(self.inverses, pieces, self.roots, strict=True)
            ]
        )
        return [
            x - self._diagonal_solve(n, matrix @ (y - z).T)
            for n, (x, matrix, y, z) in enumerate(zip(first, self.matrices, coupled, back, strict=True))
        ]

    def _diagonal_solve(self, n: int, block: Array) -> Array:
        """X_n with X_n G_n^T = block; G_n^-1 = A A^H."""
        root = self.inverses[n]
        return (block @ root.conj()) @ root.T

    def _couple(self, small: Sequence[Array]) -> list[Array]:
        """K Y."""
        result = []
        for n in range(self.order):
            total = np.zeros((self.rank, self.rank), dtype=small[0].dtype)
            for m in range(self.order):
                if m != n:
                    total = total + self.couplings[min(n, m), max(n, m)] * small[m].T
            result.append(total)
        return result

    def _small(self) -> Array:
        """S = 1 + F^H K F, its upper triangle: (N R^2, N R^2)."""
        starts = np.concatenate([[0], np.cumsum(self.sizes)])
        count = int(starts[-1])
        result = memory.empty((count, count), np.result_type(*self.moments))
        result[...] = 0.0
        np.einsum("ii->i", result)[...] = 1.0
        rank = self.rank
        for n in range(self.order):
            for m in range(n + 1, self.order):
                a, e = self.inverses[n].conj(), self.roots[n].conj()
                # S[(p', q'), (p, q)] = sum_rs conj(A_n[r, p'] E_n[s, q']) Gamma[r, s] A_m[s, p] E_m[r, q]
                left = (a[:, :, None] * self.roots[m][:, None, :]).reshape(rank, -1)
                right = (e[:, :, None] * self.inverses[m][:, None, :]).reshape(rank, -1)
                product = left.T @ (self.couplings[n, m] @ right)
                shaped = product.reshape(rank, self.roots[m].shape[1], e.shape[1], rank).transpose(0, 2, 3, 1)
                block = result[starts[n] : starts[n + 1], starts[m] : starts[m + 1]]
                block.reshape(rank, e.shape[1], rank, self.roots[m].shape[1])[...] = shaped
        return result


def _couplings(moments: Sequence[Array]) -> dict[tuple[int, int], Array]:
    """Gamma_nm for n < m."""
    result = {}
    for n in range(len(moments)):
        for m in range(n + 1, len(moments)):
            product = np.ones_like(moments[0])
            for k, moment in enumerate(moments):
                if k not in (n, m):
                    product = product * moment
            result[n, m] = product
    return result


def _inverse_root(gram: Array) -> Array:
    """A with A A^H = gram^-1."""
    factor, failed = lapack("potrf", gram)(gram, lower=1, clean=1)
    if failed:
        raise ArithmeticError("a diagonal block is not positive definite")
    inverse, failed = lapack("trtri", factor)(factor, lower=1)
    if failed:
        raise ArithmeticError("a diagonal block is singular")
    return np.asarray(inverse.conj().T)


def _root(moment: Array) -> Array:
    """E with E E^H = moment, as many columns as its rank."""
    values, vectors = np.linalg.eigh(moment)
    keep = values > _RANK * values[-1]
    return np.asarray(vectors[:, keep] * np.sqrt(values[keep]))
