"""Tucker ranks from the data alone: in each mode as many directions as stand out of the noise.

The unfolding T_(n), (I_n, the product of the other sizes), is a matrix of low rank and noise; its rank is that of
empirical variational Bayes (:mod:`tensorchain.kernels.evbmf`).  Its singular values are the square roots of the
eigenvalues of the Gram T_(n) T_(n)^T, which every complete data class has.  Values below 1e-7 of the
largest are rounding.

Cost: one pass over the data for each mode.

Reference: Kim, Park, Yoo, Choi, Yang, Shin, "Compression of deep convolutional neural networks for fast and low power
mobile applications" (2016), for ranks of Tucker models by variational Bayes.
"""

from __future__ import annotations

import math

import numpy as np

from tensorchain.kernels.evbmf import evbmf_of_values
from tensorchain.tensors import Tensor

AUTOMATIC = "evbmf"
"""What is given in place of ranks."""
_ROUNDING = 1e-14
"""Share of the largest eigenvalue of a Gram below which another one is rounding."""


def tucker_rank(tensor: Tensor) -> tuple[int, ...]:
    """Ranks (R_1, ..., R_N) of a Tucker model.

    Parameters
    ----------
    tensor : Tensor
        Real and complete.

    Returns
    -------
    tuple of int
        At least 1, and none above the product of the others.

    Raises
    ------
    ValueError
        For complex data, and data with gaps.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.solvers.automatic_rank import tucker_rank
    >>> rng = np.random.default_rng(0)
    >>> T = tc.Tucker.random((12, 13, 14), (2, 3, 4), rng).full() + 0.3 * rng.standard_normal((12, 13, 14))
    >>> tucker_rank(tc.Dense(T))
    (2, 3, 4)
    """
    if tensor.dtype.kind == "c":
        raise ValueError("rank='evbmf' needs real data, and the tensor is complex; give ranks, or error=0.05")
    if not tensor.complete:
        raise ValueError("rank='evbmf' needs every entry, and some are missing; give ranks, or use cross_validate")
    unit = tensor.scaled(1.0 / tensor.norm())
    entries = math.prod(tensor.shape)
    ranks = []
    for size, gram in zip(tensor.shape, unit.mode_grams(range(tensor.order)), strict=True):
        squares = np.linalg.eigvalsh(np.asarray(gram, dtype=np.float64))[::-1][: min(size, entries // size)]
        values = np.sqrt(np.where(squares > _ROUNDING * squares[0], squares, 0.0))
        ranks.append(max(1, evbmf_of_values(values, max(size, entries // size)).rank))
    for n in range(len(ranks)):
        ranks[n] = min(ranks[n], math.prod(ranks[:n] + ranks[n + 1 :]))
    return tuple(ranks)
