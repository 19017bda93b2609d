"""J^H J and the metric of the sensitivity of a small CPD, applied to all factors at once.

For few entries the calls around a product cost more than the product: conjugate gradients on a CPD of rank 29 of
9 x 12 x 12 make forty products of 20 microseconds in each step.  So the factors lie in one array (N, I, R), filled up
with zeros to the longest, and what does not change along a step is formed once:

    (J^H J d)_k = d_k M_k^T + B_k (sum over m != k of G_km * (B_m^H d_m))^T,    G_km = * of C_n over n other than k, m.

Zeros stay zeros, in images and in what the preconditioner makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorchain.kernels import Array

_LARGEST = 1 << 14
"""Entries, zeros among them, up to which packed products are faster."""


class PackedNewton:
    """weight J^H J + penalty Q at one CPD.

    Parameters
    ----------
    matrices : sequence of array
        Factors (I_n, R), in double precision.
    moments : sequence of array
        B_n^H B_n, (R, R).
    metrics : sequence of array
        weight M_k + penalty Q_k, (R, R).
    weight : float
        Of J^H J.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.models.cp_packed import PackedNewton
    >>> cp = tc.CP.random((2, 3, 4), 2, rng=0)
    >>> packed = PackedNewton(cp.matrices, cp.moments, [cp.gram(k) for k in range(3)], 1.0)
    >>> image = packed.unpack(packed.apply(packed.pack(cp.matrices)))
    >>> all(np.allclose(*pair) for pair in zip(image, cp.gauss_newton_matvec(cp.matrices)))
    True
    """

    def __init__(
        self, matrices: Sequence[Array], moments: Sequence[Array], metrics: Sequence[Array], weight: float
    ) -> None:
        self.rows = [len(matrix) for matrix in matrices]
        self.blocks = self.pack(matrices)
        self.adjoints = np.ascontiguousarray(self.blocks.conj().transpose(0, 2, 1))
        order = len(matrices)
        self.pairs = np.zeros((order, order, *moments[0].shape), self.blocks.dtype)
        for k in range(order):
            for m in range(k):
                pair = np.full(moments[0].shape, weight, self.blocks.dtype)
                for n in set(range(order)) - {k, m}:
                    pair *= moments[n]
                self.pairs[k, m] = self.pairs[m, k] = pair
        self.metrics = np.stack([metric.T for metric in metrics])

    @staticmethod
    def fits(matrices: Sequence[Array]) -> bool:
        """Whether the factors are few and in double precision."""
        rows, rank = max(len(matrix) for matrix in matrices), matrices[0].shape[1]
        return len(matrices) * rows * rank <= _LARGEST and matrices[0].dtype in (np.float64, np.complex128)

    def pack(self, blocks: Sequence[Array]) -> Array:
        """Blocks as one array (N, I, R)."""
        packed = np.zeros((len(blocks), max(self.rows), blocks[0].shape[1]), np.result_type(*blocks))
        for place, block in zip(packed, blocks, strict=True):
            place[: len(block)] = block
        return packed

    def unpack(self, packed: Array) -> list[Array]:
        """The blocks in an array (N, I, R)."""
        return [place[:rows] for place, rows in zip(packed, self.rows, strict=True)]

    def apply(self, packed: Array, damping: float = 0.0) -> Array:
        """(weight J^H J + penalty Q + damping) d."""
        slopes = (self.pairs * (self.adjoints @ packed)).sum(axis=1)
        image = packed @ self.metrics + self.blocks @ slopes.transpose(0, 2, 1)
        if damping:
            image += damping * packed
        return np.asarray(image)

    def block_inverse(self, damping: float) -> Array | None:
        """The inverses of the blocks of the diagonal, to be applied from the right; None where one is not positive.

        Parameters
        ----------
        damping : float
            Added to the diagonal.

        Returns
        -------
        array or None
            (N, R, R).
        """
        system = self.metrics + damping * np.eye(self.metrics.shape[1])
        try:
            np.linalg.cholesky(system)
            return np.asarray(np.linalg.inv(system))
        except np.linalg.LinAlgError:
            return None
