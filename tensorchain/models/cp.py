"""Canonical polyadic decomposition (CPD): X = sum_r a_r^(1) o ... o a_r^(N).

All Grams are Hadamard products of the R x R moments C_n = A_n^H A_n; the derivative that
serves sensitivities and Gauss-Newton products is the product rule on them.

References: Kolda and Bader, "Tensor decompositions and applications" (2009), section 3;
Phan, Tichavsky, Cichocki, "Low complexity damped Gauss-Newton algorithms for CPD" (2013).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from tensorchain.kernels import Array
from tensorchain.models.base import Model
from tensorchain.models.cp_newton import DampedInverse
from tensorchain.models.network import Network
from tensorchain.models.validation import check_blocks, check_order, check_rank

_LEAST_PARAMETERS, _LARGEST_STRUCTURE = 300, 800
"""Where the structured inverse pays: below the first a Cholesky factor of the whole Gauss-Newton matrix takes less, and
beyond the second, rows of the structured system, conjugate gradients do (benchmarks/README.md)."""


class CP(Model):
    """CPD of rank R.

    Parameters
    ----------
    factors : arrays of shape (I_n, R), N >= 2 of them.

    Raises
    ------
    ValueError when the factors differ in their number of columns, are empty, or hold NaN or infinity.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> cp = tc.CP([np.eye(3), np.eye(3), np.eye(3)])
    >>> float(cp.full().sum()), cp.sensitivity()
    (3.0, 27.0)
    """

    name = "cp"

    def __init__(self, factors: Sequence[Any]) -> None:
        blocks = check_blocks("CP", factors, ndim=2)
        check_order("CP", len(blocks))
        ranks = [factor.shape[1] for factor in blocks]
        if len(set(ranks)) > 1:
            raise ValueError(f"CP: factors have {ranks} columns; all need the same number, the rank")
        self._build(cp_network(len(blocks), ranks[0]), blocks)

    @classmethod
    def wiring(cls, shape: tuple[int, ...], rank: Any) -> Network:
        return cp_network(len(shape), check_rank("CP", rank))

    @property
    def factors(self) -> tuple[Array, ...]:
        """Factors (I_n, R); the same as `blocks`."""
        return self.blocks

    @property
    def rank(self) -> int:
        return self.network.widths[0]

    @property
    def block_names(self) -> tuple[str, ...]:
        return tuple(f"factor {n + 1}" for n in range(self.order))

    def gram_at(self, moments: Sequence[Array], k: int) -> Array:
        return _hadamard([*moments[:k], *moments[k + 1 :]])

    def gram_jets(self, moments: Sequence[Array], directions: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        grams, slopes = [], []
        for k in range(len(moments)):
            others = [n for n in range(len(moments)) if n != k]
            value, slope = moments[others[0]], directions[others[0]]
            for n in others[1:]:
                value, slope = value * moments[n], slope * moments[n] + value * directions[n]
            grams.append(value)
            slopes.append(slope)
        return grams, slopes

    def gram_traces(self) -> list[float]:
        # M_k has on its diagonal the products of the squared column norms of the others.
        squares = np.array([self.moment(k).diagonal().real for k in range(self.order)])
        return [float(np.delete(squares, k, axis=0).prod(axis=0).sum()) for k in range(self.order)]

    def _cross_gauss_newton(self, k: int, m: int, out: Array) -> None:
        rest = [moment for n, moment in enumerate(self.moments) if n not in (k, m)]
        common = _hadamard(rest) if rest else np.ones((self.rank, self.rank))
        # H[(i, r), (j, s)] = B_k[i, s] conj(B_m[j, r]) Gamma[r, s]
        left = self.matrices[k][:, None, None, :] * common[None, :, None, :]
        np.multiply(left, np.conj(self.matrices[m]).T[None, :, :, None], out=out)

    @property
    def has_damped_inverse(self) -> bool:
        rows = DampedInverse.size(self.shape, self.rank)
        return self.n_parameters >= _LEAST_PARAMETERS and rows <= min(_LARGEST_STRUCTURE, self.n_parameters // 2)

    def damped_inverse(self, penalty: float, damping: float) -> Callable[[Sequence[Array]], list[Array]] | None:
        moments = [self.moment(k) for k in range(self.order)]
        diagonal = [self.gram(k) + damping * np.eye(self.rank) for k in range(self.order)]
        if penalty:
            diagonal = [gram + penalty * self.sensitivity_metric(k) for k, gram in enumerate(diagonal)]
        try:
            return DampedInverse(self.matrices, moments, diagonal)
        except ArithmeticError:
            return None

    @cached_property
    def gauge_dimension(self) -> int:
        """R (N - 1): the scales of the columns."""
        return self.rank * (self.order - 1) if self.order > 2 else super().gauge_dimension

    def _without_mode(self, mode: int, row: Array) -> CP:
        first, *rest = [matrix for n, matrix in enumerate(self.matrices) if n != mode]
        return type(self).from_matrices(cp_network(self.order - 1, self.rank), [first * row, *rest])

    def _reordered(self, order: tuple[int, ...]) -> CP:
        return type(self).from_matrices(self.network, [self.matrices[n] for n in order])


def cp_network(order: int, rank: int) -> Network:
    """The wiring of a CPD."""
    return Network.single(("r",) * order, {"r": rank}, tuple(range(order)))


def _hadamard(matrices: Sequence[Array]) -> Array:
    result = matrices[0]
    for matrix in matrices[1:]:
        result = result * matrix
    return result
