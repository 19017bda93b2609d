"""Larger and smaller ranks for a model at hand: starts for a search over ranks.

A bond grows by new indices whose entries are small and random, in every block that has the bond: the model hardly
changes, and the first sweeps fill the new part with what the data still hold.  A sum of Tucker terms also grows by a
term of ranks one, and a term in all its bonds at once, since one rank beyond the product of the others is of no use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from tensorchain.kernels import Array
from tensorchain.models.base import Model
from tensorchain.models.block_term import BlockTerm
from tensorchain.models.network import Network, Term
from tensorchain.models.refit import assembled, smaller

M = TypeVar("M", bound=Model)

_SIZE = 0.1
"""Entries of a new part, relative to those of the block."""

__all__ = ["larger", "smaller"]


def larger(model: M, rng: np.random.Generator, *, fixed: Sequence[str] = ()) -> Iterator[M]:
    """Models with a longer bond, a larger term, or one more term.

    Parameters
    ----------
    model : Model
    rng : numpy.random.Generator
    fixed : sequence of str
        Letters of bonds that stay as they are.
    """
    terms = model.network.terms
    operands = [model.operands(t) for t in range(len(terms))]
    has_core = None in model.network.modes
    for t, term in enumerate(terms):
        letters = [letter for letter, _ in term.sizes if letter not in fixed]
        for group in [letters] if has_core else [[letter] for letter in letters]:
            sizes = {letter: _grown(model, term, letter) for letter in group}
            changed = {letter: size for letter, size in sizes.items() if size > term.size_of[letter]}
            if changed:
                grown = _padded(operands[t], term, changed, rng)
                yield assembled(model, *_with(terms, operands, t, _sized(term, changed), grown))
    if isinstance(model, BlockTerm):
        ones = _sized(terms[0], {letter: 1 for letter, _ in terms[0].sizes})
        scale = _SIZE * model.norm() ** (1.0 / len(model.matrices))
        fresh = []
        for operand in operands[0]:
            shape = (len(operand),) + (1,) * (operand.ndim - 1)
            fresh.append(_normal(shape, scale / math.sqrt(len(operand)), operand, rng))
        yield assembled(model, [*terms, ones], [*operands, fresh])


def _grown(model: Model, term: Term, letter: str) -> int:
    """A size of a bond that is a quarter larger, and at least by one; a factor has no more columns than rows."""
    size = term.size_of[letter]
    grown = size + max(1, size // 4)
    if None in model.network.modes:
        owners = [k for k, bonds in enumerate(term.bonds) if letter in bonds and model.network.modes[k] is not None]
        grown = min([grown, *(len(model.matrices[k]) for k in owners)])
    return grown


def _sized(term: Term, changed: dict[str, int]) -> Term:
    return replace(term, sizes=tuple((letter, changed.get(letter, size)) for letter, size in term.sizes))


def _with(
    terms: Sequence[Term], operands: Sequence[Sequence[Array]], t: int, term: Term, parts: Sequence[Array]
) -> tuple[list[Term], list[Sequence[Array]]]:
    return [*terms[:t], term, *terms[t + 1 :]], [*operands[:t], parts, *operands[t + 1 :]]


def _padded(operands: Sequence[Array], term: Term, changed: dict[str, int], rng: np.random.Generator) -> list[Array]:
    """The operands of a term with longer bonds."""
    result = []
    for operand, bonds in zip(operands, term.bonds, strict=True):
        shape = (len(operand), *(changed.get(letter, term.size_of[letter]) for letter in bonds))
        scale = _SIZE * float(np.linalg.norm(operand)) / math.sqrt(operand.size)
        padded = _normal(shape, scale, operand, rng)
        padded[tuple(map(slice, operand.shape))] = operand
        result.append(padded)
    return result


def _normal(shape: tuple[int, ...], scale: float, like: Array, rng: np.random.Generator) -> Array:
    fresh = rng.standard_normal(shape)
    if like.dtype.kind == "c":
        fresh = (fresh + 1j * rng.standard_normal(shape)) / math.sqrt(2.0)
    return np.asarray(scale * fresh).astype(like.dtype)


def grown_to(model: M, network: Network, rng: np.random.Generator) -> M:
    """The model with a larger wiring: longer bonds, more terms, filled with small random numbers.

    Parameters
    ----------
    model : Model
    network : Network
        With at least as many terms, of the same bonds, each at least as long.
    rng : numpy.random.Generator
    """
    old = model.network.terms
    operands: list[Sequence[Array]] = []
    for t, term in enumerate(network.terms):
        if t < len(old):
            operands.append(_padded(model.operands(t), old[t], dict(term.sizes), rng))
            continue
        scale = _SIZE * model.norm() ** (1.0 / len(model.matrices))
        fresh = []
        for like, bonds in zip(model.operands(0), term.bonds, strict=True):
            shape = (len(like), *(term.size_of[letter] for letter in bonds))
            fresh.append(_normal(shape, scale / math.sqrt(math.prod(shape)), like, rng))
        operands.append(fresh)
    return assembled(model, network.terms, operands)
