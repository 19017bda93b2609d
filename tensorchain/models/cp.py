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
from tensorchain.models import least_sensitivity
from tensorchain.models.arrays import ArrayLike
from tensorchain.models.base import Model
from tensorchain.models.cp_newton import DampedInverse
from tensorchain.models.cp_packed import PackedNewton
from tensorchain.models.network import Network
from tensorchain.models.normal_forms import WeightedFactors, weighted_factors
from tensorchain.models.validation import check_blocks, check_order, check_rank

_LEAST_PARAMETERS, _LARGEST_STRUCTURE = 300, 800
"""Where the structured inverse pays: below the first a Cholesky factor of the whole Gauss-Newton matrix takes less, and
beyond the second, rows of the structured system, conjugate gradients do (benchmarks/README.md)."""


class CP(Model):
    """Canonical polyadic decomposition (CP) of rank R: a sum of R outer products of vectors.

    Parameters
    ----------
    factors : sequence of object
        Arrays of shape (I_n, R), N >= 2 of them.

    Raises
    ------
    ValueError
        When the factors differ in their number of columns, are empty, or hold NaN or infinity.

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

    def gram_derivatives(
        self, moments: Sequence[Array], directions: Sequence[Array]
    ) -> tuple[list[Array], list[Array]]:
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

    def packed_newton(self, weight: float, penalty: float) -> PackedNewton | None:
        if not PackedNewton.fits(self.matrices):
            return None
        metrics = [weight * self.gram(k) for k in range(self.order)]
        if penalty:
            metrics = [metric + penalty * self.sensitivity_metric(k) for k, metric in enumerate(metrics)]
        return PackedNewton(self.matrices, self.moments, metrics, weight)

    @property
    def least_sensitivity(self) -> float:
        """That of R equal components: N (I_1 ... I_N)^(1/N) R^(2/N - 1)."""
        return least_sensitivity.of_loop(self.shape, self.rank)

    @cached_property
    def gauge_dimension(self) -> int:
        """R (N - 1): the scales of the columns."""
        return self.rank * (self.order - 1) if self.order > 2 else super().gauge_dimension

    def normalized(self) -> WeightedFactors:
        """Unit columns and weights, in an order and with signs that do not depend on the start of a fit.

        Columns have norm 1 and weights fall.  In every factor but the first the leading entry of a column is positive:
        the first of those whose magnitude is within 1e-6 of its largest; the first factor takes the signs that are
        left (phases, for complex models).  Components of equal weight are ordered by where their columns lead.

        Returns
        -------
        WeightedFactors
            `weights` (R,) and `factors`, X = sum_r weights[r] a_r o b_r o ...; unpack it as
            ``weights, factors = cp.normalized()``.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> cp = tc.CP([np.array([[3.0, -6.0], [4.0, 8.0]]), np.array([[0.0, 2.0], [-1.0, 0.0]])])
        >>> weights, factors = cp.normalized()
        >>> weights, factors[0]
        (array([20.,  5.]), array([[-0.6, -0.6],
               [ 0.8, -0.8]]))
        """
        return weighted_factors(self.factors)

    def _parts(self) -> list[ArrayLike]:
        single = cp_network(self.order, 1)
        return [type(self).from_matrices(single, [m[:, r : r + 1] for m in self.matrices]) for r in range(self.rank)]

    @classmethod
    def from_weights(cls, weights: Any, factors: Sequence[Any]) -> CP:
        """The CP sum_r weights[r] a_r o b_r o ..., each weight spread evenly over its columns, its sign on the first.

        Parameters
        ----------
        weights : array_like, (R,)
        factors : sequence of array_like, (I_n, R)

        Returns
        -------
        CP

        Raises
        ------
        ValueError
            When the number of weights is not that of the columns, or `CP` refuses the factors.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> cp = tc.CP.random((3, 4, 5), 2, rng=0)
        >>> bool(np.allclose(tc.CP.from_weights(*cp.normalized()), cp))
        True
        """
        given = cls(factors)
        (sizes,) = check_blocks("CP", [weights])
        if sizes.shape != (given.rank,):
            raise ValueError(
                f"CP: weights of shape {sizes.shape} were given for {given.rank} columns; one each is needed"
            )
        share = np.abs(sizes) ** (1.0 / given.order)
        phases = np.where(sizes != 0, sizes / np.where(sizes != 0, np.abs(sizes), 1.0), 1.0)
        first, *rest = given.factors
        return cls([first * (share * phases), *(factor * share for factor in rest)])

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
