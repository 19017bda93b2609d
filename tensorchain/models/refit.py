"""Rounding of any wiring: leave out one index of a bond, fit the rest again, repeat.

For X given as a model and a smaller model Y of the same wiring,

    ||X - Y||^2 = ||X||^2 - 2 Re <X, Y> + ||Y||^2,      L_k^H vec(X),      M_k = L_k^H L_k

are contractions of blocks with blocks: sweeps of alternating least squares that never form the tensor.

1. Each block with more rows than columns, B = Q R, is replaced by R, which changes no norm: X and Y live in the
   columns of Q.
2. Every bond between two blocks is put into its balanced gauge (singular vectors of the two blocks joined), of which
   the last index matters least.  Any index may go of a bond shared by more blocks, as the components of a CP; of a sum
   also a whole term.
3. The candidate of the least increase of the squared error for each parameter saved, after one sweep, is fitted by more
   sweeps.  If it meets the error it is taken; if not, the next one is tried.
4. It ends when no candidate meets the error.

The result is a local one: it need not be the smallest model within the error, and a CP or a loop may pay for small
errors with components that cancel, as every least-squares fit of these; look at its sensitivity.  A loop fitted
with too large bonds need not be near any loop of smaller ones, and sweeps from there are slow: often it stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from tensorchain.kernels import Array, contract
from tensorchain.models.arrays import ArrayLike
from tensorchain.models.network import Network, Term

M = TypeVar("M", bound=ArrayLike)

_SWEEPS = 400
"""Most sweeps after an index has gone; loops that are fitted with too large bonds need some hundred."""
_SLOW = 0.002
"""Share of the distance to the target below which a sweep is not worth another."""
_EXACT = 1e-12
"""Relative error that sweeps reach at best."""
_WEAKEST = 12
"""Indices of one hyperedge that are tried at once, weakest first."""


def refitted(model: M, error: float) -> tuple[M, float]:
    """A model of fewer parameters within a relative error, and its error."""
    size = model.norm()
    if size == 0.0 or not math.isfinite(size):
        return model, 0.0
    target, bases = _compact(model.astype(np.result_type(model.dtype, np.float64)).scaled(1.0 / size))
    limit, best, reached = max(error, _EXACT), target, 0.0
    while True:
        found = next(_within(target, best, limit, reached), None)
        if found is None:
            break
        best, reached = found
    if best is target:
        return model, 0.0
    lifted = [matrix if basis is None else basis @ matrix for basis, matrix in zip(bases, best.matrices, strict=True)]
    return best.with_matrices(lifted).scaled(size).astype(model.dtype), reached


def _compact(model: M) -> tuple[M, list[Array | None]]:
    """The model with R of B = Q R in place of every tall block, and the Q."""
    bases: list[Array | None] = []
    matrices = []
    for matrix in model.matrices:
        tall = matrix.shape[0] > matrix.shape[1]
        basis, rest = np.linalg.qr(matrix) if tall else (None, matrix)
        bases.append(basis)
        matrices.append(rest)
    return model.with_matrices(matrices), bases


def _within(target: M, best: M, limit: float, reached: float) -> Iterator[tuple[M, float]]:
    """Smaller models within the limit, those of the least increase of the error for each parameter first."""
    ranked: list[tuple[float, int, M, float]] = []
    for fewer in smaller(best):
        swept = _sweep(target, fewer)
        saved = best.n_parameters - fewer.n_parameters
        distance = _distance(target, swept)
        ranked.append(((distance**2 - reached**2) / saved, len(ranked), swept, distance))
    for _, _, fewer, distance in sorted(ranked, key=lambda entry: entry[:2]):
        fitted, final = _fitted(target, fewer, distance, limit)
        if final <= limit:
            yield fitted, final


def _fitted(target: M, model: M, distance: float, limit: float) -> tuple[M, float]:
    """Sweeps until the limit is met, or will not be."""
    for _ in range(_SWEEPS):
        if distance <= limit:
            break
        moved = _sweep(target, model)
        after = _distance(target, moved)
        if not after < distance or distance - after < _SLOW * (after - limit):
            break
        model, distance = moved, after
    return model, distance


def _distance(target: ArrayLike, model: ArrayLike) -> float:
    return float((target - model).norm())


def _sweep(target: ArrayLike, model: M) -> M:
    """One sweep of alternating least squares of a model to another."""
    for k in model.network.update_order:
        model = model.with_matrix(k, model.system(k).solve(_projected(target, model, k)))
    return model


def _projected(target: ArrayLike, model: ArrayLike, k: int) -> Array:
    """L_k^H vec(X) for X given as a model of the same modes, (I_k, P_k)."""
    network = model.network
    letter = network.physical[k]
    columns = []
    for s, term in enumerate(network.terms):
        value: Array | float = 0.0
        labels = [p + b for p, b in zip(network.physical, term.bonds, strict=True)]
        conjugated = [np.conj(operand) for operand in model.operands(s)]
        for t, other in enumerate(target.network.terms):
            upper = [p + b.upper() for p, b in zip(target.network.physical, other.bonds, strict=True)]
            lower = [label for m, label in enumerate(labels) if m != k]
            operands = [operand for m, operand in enumerate(conjugated) if m != k]
            if network.modes[k] is None:
                subscripts = ",".join([*lower, *upper]) + "->" + term.bonds[k]
            else:
                subscripts = ",".join([*lower, *upper]) + "->" + letter + term.bonds[k]
            value = value + contract(subscripts, *operands, *target.operands(t))
        columns.append(np.asarray(value).reshape(len(model.matrices[k]), -1))
    return np.concatenate(columns, axis=1)


def smaller(model: M, *, turned: bool = True) -> Iterator[M]:
    """Models without one index of a bond, or without a term.

    Parameters
    ----------
    model : Model
    turned : bool
        Whether a bond may be turned into its balanced gauge before an index goes, which mixes signs.
    """
    terms = model.network.terms
    operands = [model.operands(t) for t in range(len(terms))]
    for t, term in enumerate(terms):
        if len(terms) > 1:
            yield assembled(model, [*terms[:t], *terms[t + 1 :]], [*operands[:t], *operands[t + 1 :]])
        for letter, k, m in term.gauge_bonds:
            if term.size_of[letter] > 1 and not turned:
                index = int(np.argmin(_weights(operands[t], term, letter, (k, m))))
                yield _without(model, operands, t, letter, index, operands[t])
            elif term.size_of[letter] > 1:
                balanced = _balanced(operands[t], term, letter, (k, m))
                yield _without(model, operands, t, letter, term.size_of[letter] - 1, balanced)
        for letter, owners in term.hyperedges:
            if term.size_of[letter] > 1:
                norms = _weights(operands[t], term, letter, owners)
                for index in np.argsort(norms, kind="stable")[:_WEAKEST]:
                    yield _without(model, operands, t, letter, int(index), operands[t])


def _weights(operands: Sequence[Array], term: Term, letter: str, owners: Sequence[int]) -> Array:
    """For each index of a bond the product of the norms of what the blocks hold there."""
    slices = (np.moveaxis(operands[k], _axis(term, k, letter), -1) for k in owners)
    norms = [np.linalg.norm(part.reshape(-1, part.shape[-1]), axis=0) for part in slices]
    return np.asarray(np.prod(norms, axis=0))


def _without(
    model: M, operands: Sequence[Sequence[Array]], t: int, letter: str, index: int, parts: Sequence[Array]
) -> M:
    """The model without one index of a bond; `parts` are the operands of its term."""
    terms = list(model.network.terms)
    cut = [
        np.delete(part, index, axis=_axis(terms[t], k, letter)) if letter in terms[t].bonds[k] else part
        for k, part in enumerate(parts)
    ]
    sizes = tuple((name, size - (name == letter)) for name, size in terms[t].sizes)
    terms[t] = replace(terms[t], sizes=sizes)
    return assembled(model, terms, [*operands[:t], cut, *operands[t + 1 :]])


def assembled(model: M, terms: Sequence[Term], operands: Sequence[Sequence[Array]]) -> M:
    """The model of these terms, from the operands of each."""
    network = Network(tuple(terms), model.network.modes)
    matrices = [
        np.concatenate([parts[k].reshape(len(parts[k]), -1) for parts in operands], axis=1)
        for k in range(len(model.matrices))
    ]
    return type(model).from_matrices(network, matrices)


def _balanced(operands: Sequence[Array], term: Term, letter: str, pair: tuple[int, int]) -> list[Array]:
    """The operands with a bond in its balanced gauge: its indices matter less and less to the two blocks joined."""
    k, m = pair
    left = np.moveaxis(operands[k], _axis(term, k, letter), -1)
    right = np.moveaxis(operands[m], _axis(term, m, letter), 0)
    size = left.shape[-1]
    one, two = np.linalg.qr(left.reshape(-1, size)), np.linalg.qr(right.reshape(size, -1).T)
    u, s, vh = np.linalg.svd(one[1] @ two[1].T, full_matrices=False)
    root = np.sqrt(s)
    # Where the blocks hold less than the bond, the rest of it is empty.
    first, second = np.zeros_like(left).reshape(-1, size), np.zeros_like(right).reshape(size, -1)
    first[:, : len(s)] = (one[0] @ u) * root
    second[: len(s)] = root[:, None] * (vh @ two[0].T)
    result = list(operands)
    result[k] = np.moveaxis(first.reshape(left.shape), -1, _axis(term, k, letter))
    result[m] = np.moveaxis(second.reshape(right.shape), 0, _axis(term, m, letter))
    return result


def _axis(term: Term, k: int, letter: str) -> int:
    """The axis of a bond in the operand of block k."""
    return 1 + term.bonds[k].index(letter)
