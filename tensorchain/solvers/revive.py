"""Components that contribute nothing, and how to bring them back to life.

A bond of value r that carries nothing, such as a column of zeros in one factor of a CPD, is a trap: with the matching
parts of the other blocks at zero too, every gradient in them vanishes, and a solver takes a saddle for a solution.
Here such parts are found and set anew: zero in one block and random in all others.  X does not change, and the gradient
of the one block is that of a least-squares problem, which sees what is missing.

Strong penalties on a sensitivity path produce such components, and so do warm starts of a higher rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeVar

import numpy as np

from tensorchain.models import Model

AnyModel = TypeVar("AnyModel", bound=Model)

DEAD = 1e-2
"""Size of a component, over that of what is missing, below which it counts as dead."""
_SIZE = 0.5
"""Of new entries, in units of the root mean square of their block."""


def dead_parts(model: Model, missing: float) -> list[tuple[int, str, int]]:
    """(term, bond, value) of the parts of a model that contribute less than a share of `missing`, in norm.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.solvers.revive import dead_parts
    >>> dead_parts(tc.CP([np.array([[1.0, 0.0], [2.0, 0.0]]), np.ones((2, 2)), np.ones((2, 2))]), missing=0.1)
    [(0, 'a', 1)]
    """
    found = []
    for t, letter, owners in _bonds(model):
        sizes = np.ones(model.network.terms[t].size_of[letter])
        rest = 1.0
        for k in range(len(model.matrices)):
            operand = model.operands(t)[k]
            if k in owners:
                axis = 1 + model.network.terms[t].bonds[k].index(letter)
                others = tuple(n for n in range(operand.ndim) if n != axis)
                sizes = sizes * np.sqrt((np.abs(operand) ** 2).sum(axis=others))
            else:
                rest *= float(np.linalg.norm(operand))
        found += [(t, letter, int(r)) for r in np.flatnonzero(sizes * rest < DEAD * missing)]
    return found


def revived(model: AnyModel, parts: list[tuple[int, str, int]], rng: np.random.Generator) -> AnyModel:
    """The same tensor, up to what `parts` contributed, with these parts zero in one block and random in the others."""
    matrices = [np.array(matrix) for matrix in model.matrices]
    sizes = [math.sqrt(float(np.vdot(m, m).real) / m.size) for m in matrices]
    typical = max(sizes) if max(sizes) > 0.0 else 1.0
    bonds = {(t, letter): owners for t, letter, owners in _bonds(model)}
    for t, letter, value in parts:
        term = model.network.terms[t]
        for position, k in enumerate(bonds[t, letter]):
            columns = np.arange(term.widths[k]).reshape(term.shapes[k])
            chosen = np.take(columns, value, axis=term.bonds[k].index(letter)).ravel()
            target = np.arange(matrices[k].shape[1])[model.network.columns[t][k]][chosen]
            fresh = rng.standard_normal((len(matrices[k]), len(target)))
            if matrices[k].dtype.kind == "c":
                fresh = fresh + 1j * rng.standard_normal(fresh.shape)
            size = sizes[k] if sizes[k] > 1e-3 * typical else typical
            matrices[k][:, target] = 0.0 if position == 0 else _SIZE * size * fresh
    return model.with_matrices(matrices)


def _bonds(model: Model) -> Iterator[tuple[int, str, tuple[int, ...]]]:
    """(term, letter, blocks that carry it) of every bond of two or more blocks."""
    for t, term in enumerate(model.network.terms):
        for letter in dict(term.sizes):
            owners = tuple(k for k, letters in enumerate(term.bonds) if letter in letters)
            if len(owners) > 1:
                yield t, letter, owners
