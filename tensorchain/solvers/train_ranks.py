r"""Bonds of a tensor train for an error: the budget goes where it saves most.

TT-SVD cuts the unfoldings T_<n> = (I_1 ... I_n) x (I_{n+1} ... I_N) one after the other.  With bonds r_n its squared
error is at most the sum of the tails

    e^2 ||T||^2 = sum_n t_n(r_n),        t_n(r) = sum_{i > r} sigma_i(T_<n>)^2,

so that any bonds whose tails fit into the budget meet it.  The textbook gives each cut the same share.  Fewer
parameters, sum_n r_{n-1} I_n r_n, come from minimising

    sum_n r_{n-1} I_n r_n  +  lambda sum_n t_n(r_n)

over all bonds at once: a shortest path through the cuts, solved exactly by dynamic programming for each lambda, and the
largest price of parameters (the least lambda) that meets the budget by bisection.

Cost: the singular values of each unfolding, and N R^2 for each lambda.

Reference: Oseledets, "Tensor-train decomposition" (2011), algorithm 1 and theorem 2.2, for the bound and equal shares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tensorchain.kernels import Array, norm
from tensorchain.kernels.interruption import check_time

_NEGLIGIBLE = 1e-3
"""Share of the budget below which a tail is not lowered further."""
_MOST = 512
"""Largest bond that is looked at."""
_HALVINGS = 40
_FIRST, _LAST = 1e-4, 1e16
"""lambda, in parameters for all of the budget."""


def train_svd(array: Array, error: float, ranks: Sequence[int] | None = None) -> list[Array]:
    """Cores (R_n, I_n, R_{n+1}) of a tensor train within a relative error: TT-SVD.

    Parameters
    ----------
    array : ndarray, (I_1, ..., I_N)
    error : float
        The largest ||T - X|| / ||T||.
    ranks : sequence of int, optional
        The inner bonds; by default each cut gets an equal share of what is left of the squared error.

    References
    ----------
    I. Oseledets, "Tensor-train decomposition", 2011, algorithm 1.
    """
    limit, spent = error * norm(array), 0.0
    cores, rest, left = [], array.reshape(1, -1), 1
    for n, size in enumerate(array.shape[:-1]):
        check_time()
        u, s, vh = np.linalg.svd(rest.reshape(left * size, -1), full_matrices=False)
        tails = _tails(s)
        if ranks is None:
            share = math.sqrt(max(limit**2 - spent, 0.0) / (array.ndim - 1 - n))
            rank = max(1, int(np.argmax(np.sqrt(tails) <= share)))
        else:
            rank = min(ranks[n], len(s))
        spent += float(tails[rank])
        cores.append(u[:, :rank].reshape(left, size, rank))
        rest, left = s[:rank, None] * vh[:rank], rank
    return [*cores, rest.reshape(left, array.shape[-1], 1)]


def fewest_ranks(array: Array, error: float) -> list[int] | None:
    """Inner bonds of few parameters whose tails fit into a relative error.

    Parameters
    ----------
    array : ndarray, (I_1, ..., I_N)
    error : float
        The largest ||T - X|| / ||T||.

    Returns
    -------
    list of int
        None where bonds would be larger than what is looked at.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.solvers.train_ranks import fewest_ranks
    >>> matrix = np.diag([1.0, 0.1, 0.01])
    >>> fewest_ranks(matrix, 0.05), fewest_ranks(matrix, 0.001)
    ([2], [3])
    """
    budget = (error * norm(array)) ** 2
    tails = []
    for n in range(1, array.ndim):
        check_time()
        unfolding = array.reshape(math.prod(array.shape[:n]), -1)
        tail = _tails(np.linalg.svd(unfolding, compute_uv=False))
        most = max(1, int(np.argmax(tail <= _NEGLIGIBLE * budget)))
        if most > _MOST:
            return None
        tails.append(tail[1 : most + 1] / budget)
    low, high = math.log(_FIRST), math.log(_LAST)
    found = None
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        ranks = _shortest(array.shape, tails, math.exp(middle))
        if sum(float(tail[rank - 1]) for tail, rank in zip(tails, ranks, strict=True)) <= 1.0:
            found, high = ranks, middle
        else:
            low = middle
    return found


def _shortest(shape: Sequence[int], tails: Sequence[Array], price: float) -> list[int]:
    """Bonds that minimise the parameters and a price on the tails."""
    bonds = [np.arange(1, len(tail) + 1) for tail in tails]
    cost, choices = shape[0] * bonds[0] + price * tails[0], []
    for n in range(1, len(tails)):
        steps = cost[:, None] + shape[n] * np.outer(bonds[n - 1], bonds[n])
        choices.append(np.argmin(steps, axis=0))
        cost = steps[choices[-1], np.arange(len(bonds[n]))] + price * tails[n]
    at = int(np.argmin(cost + shape[-1] * bonds[-1]))
    ranks = [at + 1]
    for choice in reversed(choices):
        at = int(choice[at])
        ranks.append(at + 1)
    return ranks[::-1]


def _tails(singular: Array) -> Array:
    """t(0), t(1), ..., 0."""
    return np.append(np.cumsum((singular**2)[::-1])[::-1], 0.0)
