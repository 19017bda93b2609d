"""Sums of terms with one core each: the algebra that Tucker and block-term models share.

X = sum_t core_t x_1 U_1^t ... x_N U_N^t.  With C_n^st = (U_n^s)^H U_n^t the Grams between two terms are

    core        M_0^st = C_1^st (x) ... (x) C_N^st,
    factor n    M_n^st = the product of conj(core_s) and Z_n, unfolded along n and summed over the other modes,
                Z_n = core_t with C_m^st multiplied into each mode m but n.

The moment of a core has the square of its entries and is never formed: mode products with matrices R x R do
all of it, at R times the entries of the core each.  Derivatives follow by the product rule, carried along
with the values.  All pairs of terms are done at once, as stacks (s, t, ...): terms of smaller rank are padded
with zeros.  For one term the Gram of the core is a Kronecker product, so that equations in the core are solved
mode by mode, however large it is; for several see :mod:`tensorchain.models.core_system`.

Reference: De Lathauwer, "Decompositions of a higher-order tensor in block terms" (2008).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy as np

from tensorchain.kernels import Array, KroneckerSystem, System, contract, memory
from tensorchain.kernels.systems import mode_product
from tensorchain.models import least_sensitivity
from tensorchain.models.base import Model
from tensorchain.models.core_system import CoreSystem, conjugate_gradients, one_term_metric, one_term_solver
from tensorchain.models.hooi import inverse_root, leading_vectors
from tensorchain.models.network import Network

Self = TypeVar("Self", bound="CoreTerms")

_FORMED = 500
"""Numbers in the cores of several terms up to which their Gram is formed (2 MB)."""
_RIDGE = 1e-10
"""Of the mean eigenvalue, in the preconditioner of a Gram that may be singular."""

WithSlope = tuple[Array, Array | None]
"""A value and its derivative; None for zero."""


@dataclass(frozen=True)
class Padding:
    """Where the columns of each block stand once every term is padded to the largest rank.

    ranks : (R_1, ..., R_N) of the largest.
    places : per block the places of its columns among those of all padded terms; None where nothing is padded.
    """

    count: int
    ranks: tuple[int, ...]
    places: tuple[Array | None, ...]

    def widen(self, k: int, matrix: Array) -> Array:
        """Columns of block k, padded."""
        places = self.places[k]
        if places is None:
            return matrix
        wide = np.zeros((len(matrix), self.count * self.width(k)), dtype=matrix.dtype)
        wide[:, places] = matrix
        return wide

    def pairs(self, k: int, matrix: Array) -> Array:
        """A matrix between the columns of block k, (P_k, P_k), as (s, t, R, R)."""
        wide = self.widen(k, self.widen(k, matrix).T).T if self.places[k] is not None else matrix
        return wide.reshape(self.count, self.width(k), self.count, self.width(k)).transpose(0, 2, 1, 3)

    def matrix(self, k: int, pairs: Array) -> Array:
        """The inverse of `pairs`."""
        size = self.count * self.width(k)
        wide = pairs.transpose(0, 2, 1, 3).reshape(size, size)
        places = self.places[k]
        return wide if places is None else wide[places[:, None], places]

    def width(self, k: int) -> int:
        """Columns of block k in one padded term."""
        return math.prod(self.ranks) if k == 0 else self.ranks[k - 1]


@lru_cache(maxsize=256)
def _padding(network: Network) -> Padding:
    ranks = tuple(max(sizes) for sizes in zip(*(term.shapes[0] for term in network.terms), strict=True))
    if all(term.shapes[0] == ranks for term in network.terms):
        return Padding(len(network.terms), ranks, (None,) * (len(ranks) + 1))
    grids = [np.indices(term.shapes[0]).reshape(len(ranks), -1) for term in network.terms]
    whole = math.prod(ranks)
    cores = [t * whole + np.ravel_multi_index(tuple(grid), ranks) for t, grid in enumerate(grids)]
    factors = [
        np.concatenate([t * rank + np.arange(term.shapes[0][n]) for t, term in enumerate(network.terms)])
        for n, rank in enumerate(ranks)
    ]
    return Padding(len(network.terms), ranks, (np.concatenate(cores), *factors))


@lru_cache(maxsize=256)
def _absorbing(network: Network, k: int) -> Network:
    """The wiring of one term without factor k, whose mode the core carries."""
    term = network.terms[0]
    gone = term.bonds[k]
    bonds = (term.bonds[0].replace(gone, ""), *(letters for m, letters in enumerate(term.bonds) if m not in (0, k)))
    modes = (network.modes[k], *(mode for m, mode in enumerate(network.modes) if m not in (0, k)))
    return Network.single(bonds, {letter: size for letter, size in term.sizes if letter != gone}, modes)


class CoreTerms(Model):
    """A sum of terms, each a core times one factor for each mode; block 0 holds the cores."""

    def _gram_of(self, moments: Sequence[Array] | None, k: int) -> Array:
        if moments is not None:
            return super()._gram_of(moments, k)
        pad, factors = self._padding, self._stacks
        if k == 0:
            return pad.matrix(0, kronecker(factors))
        return pad.matrix(k, close(self._cores[:, None], self._closed(k - 1), k - 1))

    def gram_factors(self, t: int, k: int) -> list[Array] | None:
        return None if k else self._own_grams(t)

    def _closed(self, *open_modes: int) -> Array:
        """core_t with C_m^st multiplied into every mode but the open ones: (s, t, R_1, ..., R_N)."""
        value = self._cores[None]
        for m, factor in enumerate(self._stacks):
            if m not in open_modes:
                value = mode_products(value, factor, m)
        return np.broadcast_to(value, (len(self._cores), *value.shape[1:]))

    def gram_traces(self) -> list[float]:
        # Only pairs of a term with itself stand on the diagonal.
        own = [np.einsum("ttab->tab", stack)[:, None] for stack in self._stacks]
        traces = np.prod([np.trace(factor, axis1=-2, axis2=-1) for factor in own], axis=0)
        totals = [float(traces.sum().real)]
        cores = self._cores[:, None]
        for n in range(self.order):
            value = cores
            for m, factor in enumerate(own):
                if m != n:
                    value = mode_products(value, factor, m)
            totals.append(float(np.vdot(cores, value).real))
        return totals

    @cached_property
    def _gram_derivatives(self) -> tuple[list[Array], list[Array]]:
        """Grams, and their derivatives along the moments of unit noise."""
        whole, change = kronecker_jet(self._stacks, self._spread)
        grams, slopes = self._factor_derivatives
        return [self._padding.matrix(0, whole), *grams], [self._padding.matrix(0, change), *slopes]

    @cached_property
    def _factor_derivatives(self) -> tuple[list[Array], list[Array]]:
        """The same of the factors alone: those of the cores have the square of their entries."""
        pad, factors = self._padding, self._stacks
        grams, slopes, _ = core_derivatives(self._cores, (self._cores[None], None), factors, self._spread)
        # Noise on the cores: its moment is the identity of each term, which closes every mode but one by a trace.
        traces = [np.einsum("ttaa->t", factor) for factor in factors]
        for n, slope in enumerate(slopes):
            rest = np.prod([trace for m, trace in enumerate(traces) if m != n], axis=0)
            np.einsum("ttaa->ta", slope)[...] += rest.reshape(-1, 1)
        return (
            [pad.matrix(k, gram) for k, gram in enumerate(grams, start=1)],
            [pad.matrix(k, slope) for k, slope in enumerate(slopes, start=1)],
        )

    @property
    def _spread(self) -> list[Array]:
        """I_n * identity within each term, (s, t, R_n, R_n)."""
        pairs = zip(self.row_counts[1:], self.matrices[1:], strict=True)
        return [self._padding.pairs(k, rows * np.eye(m.shape[1])) for k, (rows, m) in enumerate(pairs, start=1)]

    def sensitivity_metric(self, k: int) -> Array:
        return self._gram_derivatives[1][0] if k == 0 else self._factor_derivatives[1][k - 1]

    def apply_metric(self, k: int, block: Array) -> Array:
        if k:
            return super().apply_metric(k, block)
        counts = self.row_counts[1:]
        pieces = []
        for t, columns in enumerate(self.network.columns):
            grams = self._own_grams(t)
            core = block[:, columns[0]].reshape([len(gram) for gram in grams])
            pieces.append(one_term_metric(grams, counts, core).reshape(1, -1))
        return np.concatenate(pieces, axis=1)

    @property
    def _has_grams(self) -> bool:
        # Grams are made one by one: that of the cores may be too large for anything.
        return False

    def gauss_newton_matvec(self, delta: Sequence[Array]) -> list[Array]:
        pad, factors = self._padding, self._stacks
        crossed = [pad.pairs(k, m.conj().T @ d) for k, (m, d) in enumerate(zip(self.matrices, delta, strict=True)) if k]
        moved = pad.widen(0, delta[0]).reshape(self._cores.shape)
        grams, slopes, change = core_derivatives(self._cores, (self._cores[None], moved[None]), factors, crossed)
        core = change.sum(axis=1).reshape(1, -1)
        blocks = [core if pad.places[0] is None else core[:, pad.places[0]]]
        for k, (gram, slope) in enumerate(zip(grams, slopes, strict=True), start=1):
            blocks.append(delta[k] @ pad.matrix(k, gram).T + self.matrices[k] @ pad.matrix(k, slope).T)
        return blocks

    def _cross_gauss_newton(self, k: int, m: int, out: Array) -> None:
        pad = self._padding
        there = pad.widen(m, self.matrices[m]).conj().reshape(len(self.matrices[m]), pad.count, -1)
        if k == 0:
            # H[(s, r), (j, t, b')] = conj(U_m^s)[j, r_m] W^st[r with b' in place of r_m]
            shape = self._cores.shape[1:]
            before, after = math.prod(shape[: m - 1]), math.prod(shape[m:])
            closed = self._closed(m - 1).reshape(pad.count, pad.count, before, shape[m - 1], after)
            value = contract("Jsn,stpBq->spnqJtB", there, closed)
        else:
            # H[(i, s, a), (j, t, b')] = sum U_k^t[i, a'] conj(U_m^s)[j, b] conj(core_s)[a, b, ..] Z^st[a', b', ..]
            here = pad.widen(k, self.matrices[k]).reshape(len(self.matrices[k]), pad.count, -1)
            open_last = (*(n for n in range(self.order) if n not in (k - 1, m - 1)), k - 1, m - 1)
            left = self._cores.conj().transpose(0, *(1 + n for n in open_last))
            right = self._closed(k - 1, m - 1).transpose(0, 1, *(2 + n for n in open_last))
            a, b = left.shape[-2:]
            left, right = left.reshape(pad.count, -1, a, b), right.reshape(pad.count, pad.count, -1, a, b)
            value = contract("ItA,sqab,stqAB,Jsb->IsaJtB", here, left, right, there)
        value = value.reshape(out.shape[0], -1, out.shape[2], pad.count * pad.width(m))
        rows, columns = pad.places[k], pad.places[m]
        value = value if rows is None else value[:, rows]
        out[...] = value if columns is None else value[..., columns]

    # -- a single term ------------------------------------------------------------------

    @property
    def least_sensitivity(self) -> float:
        """That of P equal terms: (N + 1) (I_1 ... I_N)^(1/(N+1)) P^(2/(N+1) - 1)."""
        return least_sensitivity.of_terms(self.shape, len(self.network.terms))

    def absorbed(self, k: int) -> Model | None:
        if k == 0 or self._padding.count > 1:
            return None
        network = _absorbing(self.network, k)
        others = [matrix for m, matrix in enumerate(self.matrices) if m not in (0, k)]
        return Model.from_matrices(network, [np.zeros((self.shape[k - 1], network.widths[0])), *others])

    def rejoined(self: Self, k: int, rhs: Array) -> tuple[Self, float] | None:
        # With L_m L_m^H = C_m the columns of U_m L_m^-H are orthonormal: in that basis the best factor holds the
        # leading singular vectors (HOOI), and the best core is what they project out.
        mode, ranks = k - 1, self._padding.ranks
        roots = [inverse_root(stack[0, 0]) for n, stack in enumerate(self._stacks) if n != mode]
        value, number = rhs.reshape(-1, *ranks[:mode], *ranks[k:]), 1.0
        for n, root in enumerate(roots, start=1):
            if root is None:
                return None
            if isinstance(root, float):
                number *= root
            else:
                value = mode_product(value, root, n)
        unfolded = value.reshape(len(rhs), -1)
        factor = leading_vectors(unfolded, ranks[mode])
        core = number * (factor.conj().T @ unfolded)
        explained = float(np.vdot(core, core).real)
        core = number * core.reshape(-1, *value.shape[1:])
        for n, root in enumerate(roots, start=1):
            if isinstance(root, np.ndarray):
                core = mode_product(core, root.conj().T, n)
        # About as large as the old factor: blocks that are balanced stay so.
        size = np.linalg.norm(self.matrices[k]) / math.sqrt(ranks[mode])
        scale = 2.0 ** round(math.log2(size)) if 0.0 < size < math.inf else 1.0
        matrices = list(self.matrices)
        matrices[0], matrices[k] = np.moveaxis(core, 0, mode).reshape(1, -1) / scale, factor * scale
        return self.with_matrices(matrices), explained

    def system(self, k: int) -> System:
        if k:
            return super().system(k)
        if self._padding.count == 1:
            return KroneckerSystem(self._own_grams(0))
        if self.network.widths[0] <= _FORMED:
            return super().system(k)
        size = self.gram_traces()[0]
        precondition = self._term_solvers(0.0, _RIDGE * size / self.network.widths[0])
        assert precondition is not None
        return CoreSystem(self._core_image, precondition, size=size)

    def damped_solver(self, k: int, penalty: float, damping: float) -> Callable[[Array], Array] | None:
        if k or (self._padding.count > 1 and self.network.widths[0] <= _FORMED):
            return super().damped_solver(k, penalty, damping)
        solver = self._term_solvers(penalty, damping)
        if solver is None or self._padding.count == 1:
            return solver

        def image(block: Array) -> Array:
            result = self._core_image(block) + damping * block
            return result + penalty * self.apply_metric(0, block) if penalty else result

        return lambda block: conjugate_gradients(image, solver, block.astype(self._cores.dtype, copy=False))

    def penalised_solver(self, k: int, penalty: float) -> Callable[[Array], Array] | None:
        if k or (self._padding.count > 1 and self.network.widths[0] <= _FORMED):
            return super().penalised_solver(k, penalty)
        return self.damped_solver(k, penalty, 0.0)

    def _term_solvers(self, penalty: float, damping: float) -> Callable[[Array], Array] | None:
        """The inverse of M_0 + penalty Q_0 + damping within each term, the coupling of terms left out."""
        places = [columns[0] for columns in self.network.columns]
        found = [one_term_solver(self._own_grams(t), self.row_counts[1:], penalty, damping) for t in range(len(places))]
        solvers = [solver for solver in found if solver is not None]
        if len(solvers) < len(found):
            return None
        if len(solvers) == 1:
            return solvers[0]
        return lambda block: np.concatenate(
            [solver(block[:, here]) for solver, here in zip(solvers, places, strict=True)], axis=1
        )

    def _core_image(self, block: Array) -> Array:
        """B M_0^T for block 0, by mode products."""
        pad = self._padding
        value = pad.widen(0, block).reshape(1, *self._cores.shape)
        for n, stack in enumerate(self._stacks):
            value = mode_products(value, stack, n)
        image = value.sum(axis=1).reshape(1, -1)
        return np.asarray(image if pad.places[0] is None else image[:, pad.places[0]])

    def _own_grams(self, t: int) -> list[Array]:
        """C_n^tt of one term, (R_n, R_n)."""
        sizes = self.network.terms[t].shapes[0]
        return [stack[t, t, :size, :size] for stack, size in zip(self._stacks, sizes, strict=True)]

    # -- inside -------------------------------------------------------------------------

    @property
    def _padding(self) -> Padding:
        return _padding(self.network)

    @cached_property
    def _cores(self) -> Array:
        """Cores (t, R_1, ..., R_N), padded."""
        cores = self._padding.widen(0, self.matrices[0]).reshape(-1, *self._padding.ranks)
        return cores.astype(np.result_type(cores, np.float64), copy=False)

    @cached_property
    def _stacks(self) -> list[Array]:
        """C_n^st of every mode: (s, t, R_n, R_n)."""
        return [self._padding.pairs(k, self.moment(k)) for k in range(1, self.order + 1)]


def core_derivatives(
    left: Array, right: WithSlope, factors: Sequence[Array], changes: Sequence[Array]
) -> tuple[list[Array], list[Array], Array]:
    """Grams of the factors between cores, their derivatives, and the derivative of the product with all modes.

    Parameters
    ----------
    left : ndarray
        (s, R_1, ..., R_N), to be conjugated.
    right : WithSlope
        (1, t, R_1, ..., R_N), and its derivative if it has one.
    factors, changes : sequence of ndarray
        C_n (s, t, R_n, R_n), multiplied into the modes of the right core, and their derivatives.
    """
    left = left[:, None]
    grams, slopes = [], []
    for n in range(len(factors)):
        value = right
        for m in range(n + 1, len(factors)):
            value = _multiply(value, factors[m], changes[m], m)
        grams.append(close(left, value[0], n))
        slopes.append(np.zeros_like(grams[-1]) if value[1] is None else close(left, value[1], n))
        # What comes before the next mode is multiplied once for all modes behind it.
        right = _multiply(right, factors[n], changes[n], n)
    assert right[1] is not None
    return grams, slopes, right[1]


def _multiply(pair: WithSlope, factor: Array, change: Array, n: int) -> WithSlope:
    value, slope = pair
    moved = mode_products(value, change, n)
    return mode_products(value, factor, n), moved if slope is None else moved + mode_products(slope, factor, n)


def mode_products(array: Array, matrices: Array, n: int) -> Array:
    """`mode_product` for stacks: array (s, t, R_1, ..., R_N), matrices (s, t, R, R_n); sizes 1 are repeated."""
    stack, shape = array.shape[:2], array.shape[2:]
    if n == len(shape) - 1:
        result = array.reshape(*stack, -1, shape[n]) @ matrices.swapaxes(-1, -2)
    else:
        result = matrices[:, :, None] @ array.reshape(*stack, math.prod(shape[:n]), shape[n], -1)
    return result.reshape(*result.shape[:2], *shape[:n], matrices.shape[-2], *shape[n + 1 :])


def close(left: Array, right: Array, n: int) -> Array:
    """sum over all modes but n of conj(left) times right, for stacks: (s, t, R_n, R_n)."""
    one, two = (
        array.reshape(*array.shape[:2], math.prod(array.shape[2 : 2 + n]), array.shape[2 + n], -1)
        .swapaxes(2, 3)
        .reshape(*array.shape[:2], array.shape[2 + n], -1)
        for array in (left.conj(), right)
    )
    return np.asarray(one @ two.swapaxes(-1, -2))


def kronecker(factors: Sequence[Array]) -> Array:
    """factors[0] (x) factors[1] (x) ..., for stacks of matrices."""
    result = factors[-1]
    # From the last one on: the innermost loop then runs over long rows.
    for factor in reversed(factors[:-1]):
        result = _kron(factor, result)
    return result


def kronecker_jet(factors: Sequence[Array], changes: Sequence[Array]) -> tuple[Array, Array]:
    """Kronecker product and its derivative."""
    value, slope = factors[-1], changes[-1]
    for factor, change in zip(reversed(factors[:-1]), reversed(changes[:-1]), strict=True):
        moved = _kron(factor, slope)
        moved += _kron(change, value)
        value, slope = _kron(factor, value), moved
    return value, slope


def _kron(left: Array, right: Array) -> Array:
    one, two = left[..., :, None, :, None], right[..., None, :, None, :]
    product = memory.empty(np.broadcast_shapes(one.shape, two.shape), np.result_type(left, right))
    np.multiply(one, two, out=product)
    rows, columns = left.shape[-2] * right.shape[-2], left.shape[-1] * right.shape[-1]
    return product.reshape(*product.shape[:-4], rows, columns)
