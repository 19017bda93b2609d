"""Parts of a model that contribute nothing, and how to put them to use.

A bond of value r that carries nothing, such as a column of zeros in one factor of a CPD, is a trap: with the matching
parts of the other blocks at zero too, every gradient in them vanishes, and a solver takes a saddle for a solution.
Here such parts are found and set anew: zero in one block and random in all others.  X does not change, and the gradient
of the one block is that of a least-squares problem, which sees what is missing.

Two components of a CPD that are collinear are the same trap in disguise: one of them could do the work of both.  They
are merged, component r taking c = <X_r, X_r + X_s> / ||X_r||^2 times its weight, where that costs little, and the other
one is spare.

Strong penalties on a sensitivity path produce such parts, and so do warm starts of a higher rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeVar

import numpy as np

from tensorchain.kernels import Array
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
    [(0, 'r', 1)]
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


def spare_parts(model: AnyModel, missing: float) -> tuple[AnyModel, list[tuple[int, str, int]]]:
    """The model with collinear components merged, and its parts that contribute next to nothing.

    Parameters
    ----------
    model : Model
        In a gauge of little sensitivity, in which what can be small is small.
    missing : float
        ||T - X||; what changes X by a hundredth of that is next to nothing.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.solvers.revive import spare_parts
    >>> column = np.array([[1.0], [2.0]])
    >>> twice = tc.CP([np.hstack([column, 3 * column]), np.ones((2, 2)), np.ones((2, 2))])
    >>> once, parts = spare_parts(twice, missing=0.1)
    >>> bool(np.allclose(once.full(), twice.full())), parts
    (True, [(0, 'r', 0)])
    """
    merged = _merged(model, DEAD * missing)
    return merged, dead_parts(merged, missing)


def _merged(model: AnyModel, most: float) -> AnyModel:
    """The model with collinear components of a term merged, X changing by less than `most` each time."""
    matrices, merged = list(model.matrices), False
    for t, letter, owners in _bonds(model):
        if len(owners) < len(matrices) or any(len(model.network.terms[t].bonds[k]) > 1 for k in owners):
            continue
        if model.network.terms[t].size_of[letter] < 2:
            continue
        columns = [model.network.columns[t][k] for k in owners]
        gram = np.prod([np.conj(m[:, c]).T @ m[:, c] for m, c in zip(matrices, columns, strict=True)], axis=0)
        for r, s, factor in _collinear(gram, most):
            merged = True
            for k, part in zip(owners, columns, strict=True):
                block = np.array(matrices[k])
                block[:, part.start + s] = 0.0
                if k == owners[0]:
                    block[:, part.start + r] *= factor
                matrices[k] = block
    return model.with_matrices(matrices) if merged else model


def _collinear(gram: Array, most: float) -> list[tuple[int, int, complex]]:
    """(r, s, c): component s may go if r is multiplied by c, for ||X_r + X_s - c X_r|| < most."""
    found: list[tuple[int, int, complex]] = []
    taken: set[int] = set()
    sizes = gram.diagonal().real
    for s in np.argsort(sizes, kind="stable"):
        for r in np.argsort(-sizes, kind="stable"):
            if r == s or {int(r), int(s)} & taken or not sizes[r] > 0.0 or not sizes[s] > 0.0:
                continue
            share = gram[r, s] / sizes[r]
            if sizes[s] - abs(share) ** 2 * sizes[r] < most**2:
                factor = 1.0 + share
                found.append((int(r), int(s), factor if gram.dtype.kind == "c" else float(factor.real)))
                taken |= {int(r), int(s)}
                break
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
