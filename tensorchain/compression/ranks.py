"""Ranks from the data: how many components of a matrix stand out of its noise, or hold its energy.

**Empirical variational Bayes** (EVBMF): :mod:`tensorchain.kernels.evbmf`.

**Energy.**  The fewest singular values that hold a share of the sum of squares.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorchain.compression.plans import kernel_tensor
from tensorchain.kernels import Array
from tensorchain.kernels.evbmf import VariationalRank, evbmf, kept_above

__all__ = ["VariationalRank", "energy_rank", "evbmf", "kept_above", "multilinear_rank"]


def energy_rank(singular: Array, share: float) -> int:
    """Fewest singular values that hold at least `share` of the sum of squares.

    Parameters
    ----------
    singular : ndarray
        (n,), falling.
    share : float
        Between 0 and 1.

    Returns
    -------
    int
        At least 1.

    Examples
    --------
    >>> import numpy as np
    >>> energy_rank(np.array([2.0, 1.0, 1.0]), 0.8)
    2
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share is {share!r}; a number above 0, up to 1, is needed")
    sums = np.cumsum(np.sort(np.asarray(singular, dtype=np.float64))[::-1] ** 2)
    # Rounding must not ask for one more at share = 1.
    return int(np.searchsorted(sums, share * sums[-1] * (1.0 - 1e-12))) + 1


def multilinear_rank(kernel: Array, by: str = "evbmf", share: float = 0.9) -> tuple[int, int]:
    """Ranks (a, b) of a kernel in its input and output channels.

    Parameters
    ----------
    kernel : ndarray
        (T, S, D1, D2).
    by : str, default "evbmf"
        "evbmf", or "energy" for the share of the energy in each mode.
    share : float, default 0.9
        Of the energy.

    Returns
    -------
    tuple of (int, int)
        In input and output channels.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> kernel = np.einsum("ta,asij->tsij", rng.standard_normal((8, 2)), rng.standard_normal((2, 6, 3, 3)))
    >>> multilinear_rank(kernel, "energy", 0.999)
    (6, 2)
    """
    if by not in ("evbmf", "energy"):
        raise ValueError(f"by is {by!r}; 'evbmf' or 'energy' is needed")
    tensor: Any = kernel_tensor(kernel)
    ranks = []
    for mode in (0, 2):
        unfolding = np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)
        if by == "evbmf":
            ranks.append(max(1, evbmf(unfolding).rank))
        else:
            ranks.append(energy_rank(np.linalg.svd(unfolding, compute_uv=False), share))
    return ranks[0], ranks[1]
