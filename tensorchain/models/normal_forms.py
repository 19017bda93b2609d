"""Normal forms: one representative of all gauges of a model, so that two fits can be compared entry by entry.

| model | form | unique up to |
|---|---|---|
| CP | unit columns, weights w_1 >= w_2 >= ..., the phase of each column by a rule | nothing, where the CP is unique |
| Tucker | orthonormal factors, all-orthogonal core (HOSVD) | signs set by the rule; equal singular values of a mode |
| train | cores orthonormal towards a centre | an orthogonal matrix on each bond |

**The rule of phases.**  The leading entry of a column is the first of those whose magnitude is within 1e-6 of the
largest: with that slack, rounding does not choose between two equal ones.  Columns are turned so that their leading
entry is positive; what that takes away is put into the first factor (CP) or the core (Tucker).

References: Kolda and Bader, "Tensor decompositions and applications" (2009); De Lathauwer, De Moor, Vandewalle, "A
multilinear singular value decomposition" (2000); Oseledets, "Tensor-train decomposition" (2011).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tensorchain import kernels
from tensorchain.kernels import Array
from tensorchain.kernels.systems import mode_product

_TIE = 1e-6
"""Magnitudes, and weights, that differ by less relative to the larger count as equal."""


class WeightedFactors(NamedTuple):
    """A CP with its sizes apart: X = sum_r weights[r] factors[0][:, r] o ... o factors[N-1][:, r].

    Attributes
    ----------
    weights : ndarray
        (R,), not negative, falling.
    factors : tuple of ndarray
        Arrays (I_n, R) with columns of norm 1; those of a component of weight 0 are zero.
    """

    weights: Array
    factors: tuple[Array, ...]


def weighted_factors(factors: Sequence[Array]) -> WeightedFactors:
    """The normal form of a CP with these factors (I_n, R)."""
    rank = factors[0].shape[1]
    mantissas, exponents = np.ones(rank), np.zeros(rank, dtype=int)
    directions = []
    for factor in factors:
        norms = np.array([kernels.norm(column) for column in factor.T])
        directions.append(factor / np.where(norms > 0.0, norms, 1.0).astype(norms.dtype))
        # A product of norms may pass through values that floats do not hold.
        mantissas, more = np.frexp(mantissas * np.frexp(norms)[0])
        exponents = exponents + more + np.frexp(norms)[1]
    weights = np.array([_ldexp(m, int(e)) for m, e in zip(mantissas, exponents, strict=True)])
    for n in range(1, len(directions)):
        phases = _phases(directions[n])
        directions[n] = directions[n] / phases
        directions[0] = directions[0] * phases
    directions = [
        np.where(weights > 0.0, direction, 0.0).astype(factor.dtype, copy=False)
        for direction, factor in zip(directions, factors, strict=True)
    ]
    order = _order(weights, directions)
    return WeightedFactors(weights[order], tuple(np.ascontiguousarray(d[:, order]) for d in directions))


def orthogonal_tucker(core: Array, factors: Sequence[Array]) -> tuple[Array, list[Array]]:
    """Core and factors of the same Tucker model: factors orthonormal, core all-orthogonal with falling slices.

    With U_n = Q_n R_n the core of the Q_n is core x_n R_n; its HOSVD turns the Q_n.  Ranks beyond what the shape or the
    core can hold fall to that.
    """
    bases = []
    for n, factor in enumerate(factors):
        basis, triangle = np.linalg.qr(factor)
        bases.append(basis)
        core = mode_product(core, triangle, n)
    for n, basis in enumerate(bases):
        unfolded = np.moveaxis(core, n, 0).reshape(core.shape[n], -1)
        turn = np.linalg.svd(unfolded, full_matrices=False)[0]
        turned = basis @ turn
        phases = _phases(turned)
        bases[n] = turned / phases
        core = mode_product(core, (turn / phases).conj().T, n)
    return core, bases


def orthogonal_train(cores: Sequence[Array], center: int) -> list[Array]:
    """Cores (R_n, I_n, R_{n+1}) of the same train: orthonormal towards `center` from both sides.

    Before it sum_{a,i} conj(A[a, i, b]) A[a, i, b'] is the identity, behind it sum_{i,b} A[a, i, b] conj(A[a', i, b]).
    The first bond of a train is 1, and so is the one behind its last core.
    """
    result = list(cores)
    for n in range(center):
        left, size, right = result[n].shape
        basis, triangle = _positive_qr(result[n].reshape(left * size, right))
        result[n] = basis.reshape(left, size, -1)
        result[n + 1] = np.einsum("ab,bic->aic", triangle, result[n + 1])
    for n in range(len(result) - 1, center, -1):
        left, size, right = result[n].shape
        basis, triangle = _positive_qr(result[n].reshape(left, size * right).conj().T)
        result[n] = basis.conj().T.reshape(-1, size, right)
        result[n - 1] = np.einsum("aib,cb->aic", result[n - 1], triangle.conj())
    return result


def _positive_qr(matrix: Array) -> tuple[Array, Array]:
    """QR with a positive diagonal of R: it is unique for full column rank."""
    basis, triangle = np.linalg.qr(matrix)
    diagonal = np.diagonal(triangle)
    sizes = np.abs(diagonal)
    phases = np.where(sizes > 0.0, diagonal / np.where(sizes > 0.0, sizes, 1.0), 1.0).astype(basis.dtype)
    return basis * phases, triangle / phases[:, None]


def _phases(columns: Array) -> Array:
    """The phase (sign) of the leading entry of each column; 1 for a column of zeros."""
    sizes = np.abs(columns)
    first = np.argmax(sizes >= (1.0 - _TIE) * sizes.max(axis=0), axis=0)
    leading = columns[first, np.arange(columns.shape[1])]
    size = np.abs(leading)
    return np.where(size > 0.0, leading / np.where(size > 0.0, size, 1.0), 1.0).astype(columns.dtype)


def _order(weights: Array, directions: Sequence[Array]) -> list[int]:
    """By falling weight; equal weights by where the columns lead, mode by mode, then by their entries."""
    falling = sorted(range(len(weights)), key=lambda r: -weights[r])
    group, groups = 0, {}
    for before, r in zip([falling[0], *falling], falling, strict=False):
        group += weights[r] < (1.0 - _TIE) * weights[before]
        groups[r] = group

    def key(r: int) -> tuple[object, ...]:
        columns = [direction[:, r] for direction in directions]
        sizes = [np.abs(column) for column in columns]
        leads = [int(np.argmax(size >= (1.0 - _TIE) * size.max())) for size in sizes]
        entries = [np.round(np.stack([column.real, column.imag]) / _TIE).ravel().tolist() for column in columns]
        return (groups[r], leads, entries)

    return sorted(falling, key=key)


def _ldexp(mantissa: float, exponent: int) -> float:
    try:
        return math.ldexp(mantissa, exponent)
    except OverflowError:
        return math.inf
