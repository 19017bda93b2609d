"""The directions in which the blocks may move without moving X: the tangent space of the gauge orbit.

On a bond shared by blocks k and m, inserting exp(t E) and exp(-t E) changes B_k by t B_k E and B_m by
-t E B_m, for any matrix E (R x R).  On a hyperedge, such as the r of CP, only diagonal E are allowed, between
the first of its blocks and each of the others.  The tangents of all bonds span the gauge directions; they
depend on each other where a gauge acts twice, such as a scalar carried around a loop.

Every gauge fixed by minimum norm means: moved orthogonally to these directions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy

from tensorchain.kernels import Array
from tensorchain.models import Model

_DEPENDENT = 1e-10
"""Singular values of the tangents, each of norm 1, below which they depend on each other."""


def gauge_tangent(model: Model) -> Array:
    """Orthonormal basis of the gauge directions at a model.

    Parameters
    ----------
    model : Model
        Any model.

    Returns
    -------
    ndarray
        (n, g) with n parameters, blocks in matrix form flattened row by row, one after the other; J times it is zero.
        g equals `model.gauge_dimension`, or less at special points such as a zero block.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.stability.gauge_tangent import gauge_tangent
    >>> product = tc.CP([np.ones((1, 1)), np.ones((1, 1))])  # x y stays when x grows as y shrinks
    >>> gauge_tangent(product).shape
    (2, 1)
    """
    directions = [direction for direction in _directions(model) if np.any(direction)]
    if not directions:
        return np.zeros((model.n_parameters, 0), dtype=model.dtype)
    columns = np.array([direction / np.linalg.norm(direction) for direction in directions]).T
    basis, values, _ = scipy.linalg.svd(columns, full_matrices=False, check_finite=False)
    return np.asarray(basis[:, values > _DEPENDENT * values[0]])


def gauge_complement(model: Model) -> Array:
    """Orthonormal basis (n, n - g) of what is orthogonal to the gauge directions."""
    tangent = gauge_tangent(model)
    if not tangent.size:
        return np.eye(model.n_parameters, dtype=model.dtype)
    full, _ = scipy.linalg.qr(tangent, check_finite=False)
    return np.asarray(full[:, tangent.shape[1] :])


def _directions(model: Model) -> Iterator[Array]:
    """Flat tangent vectors, some of them dependent or zero."""
    starts = np.cumsum([0, *(matrix.size for matrix in model.matrices)])
    for t, term in enumerate(model.network.terms):
        operands = model.operands(t)
        pairs = [(letter, (k, m), True) for letter, k, m in term.gauge_bonds]
        pairs += [(letter, (owners[0], m), False) for letter, owners in term.hyperedges for m in owners[1:]]
        for letter, (k, m), whole in pairs:
            size = term.size_of[letter]
            for p in range(size):
                for q in range(size) if whole else (p,):
                    flat = np.zeros(starts[-1], dtype=model.dtype)
                    # Slice p of B_k moves by its slice q, and slice q of B_m by minus its slice p.
                    for block, target, source, sign in ((k, p, q, 1.0), (m, q, p, -1.0)):
                        axis = 1 + term.bonds[block].index(letter)
                        change = np.zeros_like(operands[block])
                        moved, kept = np.moveaxis(change, axis, 0), np.moveaxis(operands[block], axis, 0)
                        moved[target] = sign * kept[source]
                        matrix = model.matrices[block]
                        view = flat[starts[block] : starts[block + 1]].reshape(matrix.shape)
                        view[:, model.network.columns[t][block]] = change.reshape(len(change), -1)
                    yield flat
