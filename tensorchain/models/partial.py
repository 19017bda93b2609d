"""Partial Tucker decomposition: some modes are left as they are, X = core x_n U_n over the other modes alone.

The unfolding of the core along an untouched mode has as many columns as the product of the other ranks, so a Tucker
model whose rank there is the lesser of the two numbers is the same set of tensors.  That is what is fitted; then the
factor of the mode is multiplied into the core, and an identity takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorchain.models.tucker import Tucker


def partial_rank(rank: Any, shape: Sequence[int]) -> tuple[Any, tuple[int, ...]]:
    """The rank to fit, and the modes that are untouched: those whose rank is None.

    Examples
    --------
    >>> from tensorchain.models.partial import partial_rank
    >>> partial_rank((5, None, None), (20, 30, 40)), partial_rank((2, 2, None), (20, 30, 40))
    (((5, 30, 40), (1, 2)), ((2, 2, 4), (2,)))
    """
    if not isinstance(rank, (tuple, list)) or len(rank) != len(shape) or all(r is not None for r in rank):
        return rank, ()
    untouched = tuple(n for n, r in enumerate(rank) if r is None)
    ranks = [size if r is None else r for r, size in zip(rank, shape, strict=True)]
    if not all(isinstance(r, (int, np.integer)) for r in ranks):
        return rank, ()
    for n in untouched:
        ranks[n] = min(shape[n], math.prod(ranks[:n] + ranks[n + 1 :]))
    return tuple(ranks), untouched


def with_identities(model: Tucker, untouched: Sequence[int]) -> Tucker:
    """The same tensor with identities as factors of these modes.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.models.partial import with_identities
    >>> tucker = tc.Tucker.random((4, 5, 6), (2, 2, 3), rng=0)
    >>> partial = with_identities(tucker, [2])
    >>> partial.rank, bool(np.allclose(partial, tucker))
    ((2, 2, 6), True)
    """
    core, factors = model.core, list(model.factors)
    for n in untouched:
        core = np.moveaxis(np.tensordot(factors[n], core, axes=(1, n)), 0, n)
        factors[n] = np.eye(len(factors[n]), dtype=core.dtype)
    return Tucker(core, factors)
