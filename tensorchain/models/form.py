"""The multilinear form of a model, and all that follows from it.

With the moments C_k = B_k^H B_k (P_k x P_k) of the blocks,

    ||X||^2 = F(C_1, ..., C_K),      M_k = dF/dC_k,

and F is linear in each C_k.  The rest follows from directional derivatives of M_k:

    inner(other)        F at the cross moments B_k^H B'_k
    SS = ||J||_F^2      sum_k I_k tr M_k
    Q_k                 derivative of M_k along D_n = I_n * identity  (SS = <B_k, B_k Q_k> + I_k tr M_k)
    J^H J delta         derivative of M_k along D_n = B_n^H delta_n
    E||X(theta+noise)||^2   F at C_k + s^2 I_k * identity             (tensorchain.stability.perturbation)

Here all of it is done by generic contraction over the wiring.  A model overrides `gram_at`, `gram_derivatives` or
`_cross_gauss_newton` only to be faster, and the tests hold the override against this file.

Long by its docstrings: the code alone has fewer than 300 lines.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np

from tensorchain.kernels import (
    Array,
    GramSystem,
    System,
    cholesky,
    cholesky_solve,
    contract,
    diagonal_blocks,
    memory,
    norm,
)
from tensorchain.kernels.linalg import trace
from tensorchain.kernels.systems import SMALLEST_PIVOT
from tensorchain.models.blocks import Blocks
from tensorchain.models.network import COLUMN, ROW

Self = TypeVar("Self", bound="Form")

_SLAB, _EVALUATED = 1 << 21, 100_000_000
"""Entries of X evaluated at once, and at most, where the moments have lost its norm."""


class Form(Blocks):
    """Grams, sensitivities and Gauss-Newton products, generic in the wiring: the base of `Model`."""

    # -- Grams --------------------------------------------------------------------------

    def moment(self, k: int) -> Array:
        """C_k = B_k^H B_k, in double precision.

        Parameters
        ----------
        k : int
            Position of the block, from 0.

        Returns
        -------
        ndarray
            (P_k, P_k).

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> tc.CP([np.ones((2, 1)), np.ones((3, 1))]).moment(1)
        array([[3.]])
        """
        moment = self._moments[k]
        if moment is None:
            moment = self._moments[k] = _moment(self._matrices[k], self._matrices[k])
        return moment

    @cached_property
    def moments(self) -> tuple[Array, ...]:
        """All C_k."""
        return tuple([self.moment(k) for k in range(len(self._matrices))])

    @cached_property
    def identity_moments(self) -> tuple[Array, ...]:
        """I_k * identity: the second moment of unit noise on block k."""
        return tuple(rows * unit for rows, unit in zip(self.row_counts, self.network.identities, strict=True))

    def gram_at(self, moments: Sequence[Array], k: int) -> Array:
        """M_k = dF/dC_k at any moments, (P_k, P_k); rows belong to the conjugated side.

        Parameters
        ----------
        moments : sequence of ndarray
            C_k of each block.
        k : int
            Position of the block, from 0.

        Returns
        -------
        ndarray
            (P_k, P_k).
        """
        return self._gram_of(moments, k)

    def _gram_of(self, moments: Sequence[Array] | None, k: int) -> Array:
        rows = []
        for s, lower in enumerate(self.network.terms):
            row = []
            for t, upper in enumerate(self.network.terms):
                labels, operands = self._moment_operands(moments, s, t, (k,))
                target = lower.bonds[k] + upper.bonds[k].upper()
                value = contract(",".join(labels) + "->" + target, *operands)
                row.append(value.reshape(lower.widths[k], upper.widths[k]))
            rows.append(row)
        return rows[0][0] if len(rows) == 1 else np.block(rows)

    def _moment_operands(
        self, moments: Sequence[Array] | None, s: int, t: int, without: tuple[int, ...]
    ) -> tuple[list[str], list[Array]]:
        """Moments between terms s (conjugated) and t, of all blocks but `without`, with their letters.

        With None for the moments those of this model; a core has one row, so that its moment is the product
        of two vectors, which is not formed.
        """
        network = self.network
        lower, upper = network.terms[s], network.terms[t]
        labels, operands = [], []
        for m, mode in enumerate(network.modes):
            if m in without:
                continue
            if mode is None and moments is None:
                double = np.result_type(self._matrices[m], np.float64)
                labels += [lower.bonds[m], upper.bonds[m].upper()]
                operands += [np.conj(self.operands(s)[m][0]).astype(double, copy=False)]
                operands += [self.operands(t)[m][0].astype(double, copy=False)]
                continue
            moment = self.moment(m) if moments is None else moments[m]
            block = moment[network.columns[s][m], network.columns[t][m]]
            operands.append(block.reshape(lower.shapes[m] + upper.shapes[m]))
            labels.append(lower.bonds[m] + upper.bonds[m].upper())
        return labels, operands

    def gram_derivatives(
        self, moments: Sequence[Array], directions: Sequence[Array]
    ) -> tuple[list[Array], list[Array]]:
        """All M_k and their derivatives along `directions`.

        dM_k = sum over n != k of M_k with C_n replaced by D_n.

        Parameters
        ----------
        moments : sequence of ndarray
            C_k of each block.
        directions : sequence of ndarray
            D_k of each block.

        Returns
        -------
        tuple of (list of ndarray, list of ndarray)
            M_k and their derivatives, for each block.
        """
        grams, slopes = [], []
        for k in range(len(moments)):
            grams.append(self.gram_at(moments, k))
            slope = np.zeros_like(grams[-1])
            for n in range(len(moments)):
                if n != k:
                    slope = slope + self.gram_at([*moments[:n], directions[n], *moments[n + 1 :]], k)
            slopes.append(slope)
        return grams, slopes

    @cached_property
    def _gram_derivatives(self) -> tuple[list[Array], list[Array]]:
        return self.gram_derivatives(self.moments, self.identity_moments)

    @cached_property
    def grams(self) -> list[Array]:
        """All M_k; without their derivatives where no one asked for these."""
        if "_gram_derivatives" in self.__dict__:
            return self._gram_derivatives[0]
        if self.network.has_cores:
            return [self._gram_of(None, k) for k in range(len(self._matrices))]
        return self.all_grams(self.moments)

    @property
    def _has_grams(self) -> bool:
        return "_gram_derivatives" in self.__dict__ or "grams" in self.__dict__

    def all_grams(self, moments: Sequence[Array]) -> list[Array]:
        """M_k at any moments, for every k.

        Parameters
        ----------
        moments : sequence of ndarray
            C_k of each block.

        Returns
        -------
        list of ndarray
            (P_k, P_k) for each block.
        """
        return [self.gram_at(moments, k) for k in range(len(moments))]

    def gram(self, k: int) -> Array:
        """M_k = L_k^H L_k without the identity over I_k: (P_k, P_k), Hermitian.

        Parameters
        ----------
        k : int
            Position of the block, from 0.

        Returns
        -------
        ndarray
            (P_k, P_k), Hermitian.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> model = tc.CP([np.ones((2, 1)), np.ones((3, 1))])
        >>> model.gram(0)  # of the other factor
        array([[3.]])
        """
        if self._has_grams:
            return self.grams[k]
        return self._gram_of(None, k) if self.network.has_cores else self.gram_at(self.moments, k)

    def system(self, k: int) -> System:
        """L_k^H L_k, to apply to block k and to solve.

        Parameters
        ----------
        k : int
            Position of the block, from 0.

        Returns
        -------
        System
            To apply to block k and to solve.
        """
        return GramSystem(self.gram(k))

    def damped_solver(self, k: int, penalty: float, damping: float) -> Callable[[Array], Array] | None:
        """The inverse of M_k + penalty Q_k + damping, applied to a block; None where it is not positive definite.

        Parameters
        ----------
        k : int
            Position of the block, from 0.
        penalty : float
            Weight of the metric of the sensitivity.
        damping : float
            Added to the diagonal.

        Returns
        -------
        callable or None
            From a right-hand side to the solution; None where the matrix is not positive definite.
        """
        system = self.gram(k) + damping * np.eye(self.network.widths[k])
        if penalty:
            system = system + penalty * self.sensitivity_metric(k)
        factor = cholesky(system)
        return None if factor is None else lambda block: cholesky_solve(factor, np.ascontiguousarray(block.T)).T

    def penalised_solver(self, k: int, penalty: float) -> Callable[[Array], Array] | None:
        """The inverse of M_k + penalty Q_k, applied to a block, where M_k + penalty Q_k may be too large to be formed.

        Parameters
        ----------
        k : int
            The block.
        penalty : float
            Weight nu of the sensitivity.

        Returns
        -------
        callable or None
            From W, (I_k, P_k), to B with B (M_k + nu Q_k)^T = W; None where the matrix is singular to rounding.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> model = tc.Tucker.random((4, 5, 6), 2, rng=0)
        >>> core = model.matrices[0]
        >>> solved = model.penalised_solver(0, 0.1)(core)
        >>> bool(np.allclose(model.system(0).apply(solved) + 0.1 * model.apply_metric(0, solved), core))
        True
        """
        system = self.gram(k) + penalty * self.sensitivity_metric(k)
        factor = cholesky(system)
        if factor is None:
            return None
        pivots = factor.diagonal().real
        if not pivots.min() > SMALLEST_PIVOT * pivots.max():
            return None
        return lambda block: cholesky_solve(factor, np.ascontiguousarray(block.T)).T

    def gram_traces(self) -> list[float]:
        """tr M_k of each block, without the Grams.

        Returns
        -------
        list of float
            One trace for each block.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> [float(trace) for trace in tc.CP([np.ones((2, 1)), np.ones((3, 1))]).gram_traces()]
        [3.0, 2.0]
        """
        traces = []
        for k in range(len(self._matrices)):
            total = 0.0
            for t, term in enumerate(self.network.terms):
                labels, operands = self._moment_operands(None, t, t, (k,))
                for letter in term.bonds[k]:
                    labels.append(letter + letter.upper())
                    operands.append(np.eye(term.size_of[letter]))
                total += float(contract(",".join(labels) + "->", *operands).real)
            traces.append(total)
        return traces

    # -- sensitivity and norm -----------------------------------------------------------

    def sensitivity_metric(self, k: int) -> Array:
        """Q_k with SS = <B_k, B_k Q_k^T> + I_k tr M_k; the gradient of SS in B_k is 2 B_k Q_k^T.

        Parameters
        ----------
        k : int
            Position of the block, from 0.

        Returns
        -------
        ndarray
            (P_k, P_k), Hermitian.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> model = tc.TensorChain.random((3, 4, 5), 2, rng=0)
        >>> block, metric = model.matrices[0], model.sensitivity_metric(0)
        >>> rest = len(block) * np.trace(model.gram(0))
        >>> bool(np.isclose(np.sum(block * (block @ metric.T)) + rest, model.sensitivity()))
        True
        """
        return self._gram_derivatives[1][k]

    def apply_metric(self, k: int, block: Array) -> Array:
        """B Q_k^T; half the gradient of SS where B is block k.  Q_k of a core is not formed.

        Parameters
        ----------
        k : int
            The block.
        block : array
            B, (I_k, P_k).

        Returns
        -------
        array
            (I_k, P_k).

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> model = tc.CP([np.ones((2, 1)), np.ones((3, 1))])  # SS = 3 |a|^2 + 2 |b|^2
        >>> model.apply_metric(0, model.matrices[0])
        array([[3.],
               [3.]])
        """
        return np.asarray(block @ self.sensitivity_metric(k).T)

    def block_sensitivities(self) -> Array:
        """||dX/dblock_k||_F^2 = I_k tr M_k for each block; their sum is SS.

        Returns
        -------
        ndarray
            (K,), one entry for each block.

        See Also
        --------
        sensitivity : Their sum.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> model = tc.CP([np.ones((2, 1)), np.ones((3, 1))])
        >>> model.block_sensitivities()
        array([6., 6.])
        """
        traces = [trace(gram) for gram in self.grams] if self._has_grams else self.gram_traces()
        return np.array([rows * trace for rows, trace in zip(self.row_counts, traces, strict=True)])

    def sensitivity(self, relative: bool = False) -> float:
        """SS = ||J||_F^2, the expected squared change of X per unit variance of noise on the blocks.

        Parameters
        ----------
        relative : bool, default False
            SS / ||X||^(2(K-1)/K) for K blocks, which does not change when X is scaled.

        Returns
        -------
        float
            The sensitivity.

        See Also
        --------
        block_sensitivities : The part of each block.
        tensorchain.optimal_gauge : The same tensor with the least sensitivity.

        Notes
        -----
        For every model SS = sum_k I_k tr M_k, with I_k rows in block k and its Gram M_k: exact, and cheap.

        References
        ----------
        Tichavsky, Phan, Cichocki, "Sensitivity in tensor decomposition" (2019).

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> model = tc.CP([np.ones((2, 1)), np.ones((8, 1))])
        >>> model.sensitivity(), (10 * model).sensitivity(), round((10 * model).sensitivity(relative=True), 6)
        (32.0, 320.0, 8.0)
        """
        unit, exponent = self._unit_scale()
        count = len(self._matrices)
        value = float(unit.block_sensitivities().sum())
        if relative:
            size = unit.norm()
            if size == 0.0:
                raise ValueError("the relative sensitivity of a zero tensor is undefined; use relative=False")
            return float(value / size ** (2 * (count - 1) / count))
        return _power(value, 2 * (count - 1) * exponent)

    def _unit_scale(self: Self) -> tuple[Self, int]:
        """(model / 2^(K e), e) with blocks of moderate size: squares neither overflow nor vanish."""
        largest = [float(np.abs(matrix).max(initial=0.0)) for matrix in self._matrices]
        if min(largest) == 0.0 or 1e-12 < min(largest) <= max(largest) < 1e12:
            return self, 0
        exponent = round(sum(math.log2(value) for value in largest) / len(largest))
        # One common exponent keeps the balance between blocks, on which SS depends.
        return self.with_matrices([_ldexp(matrix, -exponent) for matrix in self._matrices]), exponent

    def inner(self, other: Form) -> complex | float:
        """<self, other> = sum conj(self) * other, without forming either tensor.

        Parameters
        ----------
        other : Model
            Of the same shape; it may be of another kind.

        Returns
        -------
        complex or float
            Complex for complex models.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> one, other = tc.CP.random((3, 4, 5), 2, rng=0), tc.TensorChain.random((3, 4, 5), 2, rng=1)
        >>> bool(np.isclose(one.inner(other), np.sum(one.full() * other.full())))
        True
        """
        if self.shape != other.shape:
            raise ValueError(f"inner product needs equal shapes, got {self.shape} and {other.shape}")
        total: complex = 0.0
        for s in range(len(self.network.terms)):
            lower = self.network.labels[s]
            conjugated = [np.conj(operand) for operand in self.operands(s)]
            for t, term in enumerate(other.network.terms):
                upper = [p + b.upper() for p, b in zip(other.network.physical, term.bonds, strict=True)]
                value = contract(",".join([*lower, *upper]) + "->", *conjugated, *other.operands(t))
                total += complex(value)
        return total if "c" in (self.dtype.kind, other.dtype.kind) else total.real

    def norm(self) -> float:
        """||X||_F from the moments, without forming X.

        In a gauge so bad that terms 1e10 times larger than X cancel, the moments have lost it: then X is
        evaluated slab by slab, as long as it has at most 1e8 entries.

        Returns
        -------
        float
            The Frobenius norm.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> tc.CP([np.ones((2, 1)), np.ones((8, 1))]).norm()
        4.0
        """
        unit, exponent = self._unit_scale()
        k = min(range(len(self._matrices)), key=self.network.widths.__getitem__)
        moment, gram = unit.moment(k), unit.gram(k)
        square = float(np.sum(moment * gram).real)
        bound = float(np.trace(moment).real * np.trace(gram).real)
        if square < 1e-10 * bound and math.prod(self.shape) <= _EVALUATED:
            size = unit._evaluated_norm()
        else:
            size = math.sqrt(max(square, 0.0))
        return _power(size, len(self._matrices) * exponent)

    def _evaluated_norm(self) -> float:
        rows = self.shape[0]
        step = max(1, rows * _SLAB // math.prod(self.shape))
        rest = [None] * (self.order - 1)
        return math.hypot(
            *(norm(self.restrict([slice(start, start + step), *rest]).full()) for start in range(0, rows, step))
        )

    # -- Gauss-Newton -------------------------------------------------------------------

    def gauss_newton(self, upper: bool = False) -> Array:
        """J^H J, (n, n) with n = n_parameters, blocks in matrix form flattened row by row.

        With `upper` the blocks below the diagonal are left undefined, for solvers that do not read them.

        Parameters
        ----------
        upper : bool, default False
            Leave the blocks below the diagonal undefined, for whoever does not read them.

        Returns
        -------
        ndarray
            (n, n) with n = `n_parameters`.

        See Also
        --------
        gauss_newton_matvec : Its product with a vector, without the matrix.

        Examples
        --------
        >>> import tensorchain as tc
        >>> tc.CP.random((3, 4), 2, rng=0).gauss_newton().shape
        (14, 14)
        """
        starts = [0, *itertools.accumulate([matrix.size for matrix in self._matrices])]
        result = memory.empty((starts[-1], starts[-1]), np.result_type(self.dtype, np.float64))
        for k, matrix in enumerate(self._matrices):
            rows, width = matrix.shape
            result[starts[k] : starts[k + 1], starts[k] : starts[k + 1]] = 0.0
            diagonal_blocks(result, starts[k], rows, width)[...] = self.gram(k)
            for m in range(k + 1, len(self._matrices)):
                block = result[starts[k] : starts[k + 1], starts[m] : starts[m + 1]]
                self._cross_gauss_newton(k, m, block.reshape(rows, width, *self._matrices[m].shape))
                if not upper:
                    result[starts[m] : starts[m + 1], starts[k] : starts[k + 1]] = block.conj().T
        return result

    def _cross_gauss_newton(self, k: int, m: int, out: Array) -> None:
        """Write J_k^H J_m for two blocks k < m into `out`, (I_k, P_k, I_m, P_m).

        A block that is differentiated leaves its bonds open on one side and itself on the other:
        B_k closes the unconjugated side at k, conj(B_m) closes the conjugated side at m.
        """
        network = self.network
        for s, lower in enumerate(network.terms):
            conjugated = np.conj(self.operands(s)[m])
            for t, upper in enumerate(network.terms):
                labels, operands = self._moment_operands(None, s, t, (k, m))
                labels += [ROW + upper.bonds[k].upper(), COLUMN + lower.bonds[m]]
                operands += [self.operands(t)[k], conjugated]
                target = ROW + lower.bonds[k] + COLUMN + upper.bonds[m].upper()
                value = contract(",".join(labels) + "->" + target, *operands)
                target_view = out[:, network.columns[s][k], :, network.columns[t][m]]
                target_view[...] = value.reshape(target_view.shape)

    def gauss_newton_matvec(self, delta: Sequence[Array]) -> list[Array]:
        """J^H J delta without forming J: delta_k M_k^T + B_k dM_k^T, dM_k along D_n = B_n^H delta_n.

        Parameters
        ----------
        delta : sequence of ndarray
            One matrix (I_k, P_k) for each block.

        Returns
        -------
        list of ndarray
            One matrix for each block.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> model = tc.CP.random((3, 4), 2, rng=0)
        >>> image = model.gauss_newton_matvec(model.blocks)
        >>> flat = np.concatenate([block.ravel() for block in model.blocks])
        >>> np.allclose(model.gauss_newton() @ flat, np.concatenate([block.ravel() for block in image]))
        True
        """
        directions = [_moment(matrix, change) for matrix, change in zip(self._matrices, delta, strict=True)]
        grams, slopes = self.gram_derivatives(self.moments, directions)
        return [
            change @ gram.T + matrix @ slope.T
            for matrix, change, gram, slope in zip(self._matrices, delta, grams, slopes, strict=True)
        ]


def _moment(left: Array, right: Array) -> Array:
    """B^H B' in double precision."""
    double = np.complex128 if np.iscomplexobj(left) or np.iscomplexobj(right) else np.float64
    return np.asarray(left.conj().T.astype(double, copy=False) @ right.astype(double, copy=False))


def _power(value: float, exponent: int) -> float:
    """value * 2^exponent, infinite where that overflows."""
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.inf


def _ldexp(matrix: Array, exponent: int) -> Array:
    factor = np.ldexp(1.0, exponent // 2), np.ldexp(1.0, exponent - exponent // 2)
    return np.asarray(matrix * matrix.dtype.type(factor[0]) * matrix.dtype.type(factor[1]))
