"""Sensitivity: SS(theta) = ||J||_F^2 = sum_k ||dX/dblock_k||_F^2 = sum_k I_k tr M_k.

It is the expected squared change of X for unit noise on the blocks, to first order; a decomposition
that diverges has SS -> infinity while its error creeps down.

Reference: Tichavsky, Phan, Cichocki, "Sensitivity in tensor decomposition", IEEE SPL (2019).
"""

from __future__ import annotations

from tensorchain.kernels import Array
from tensorchain.models import Model


def sensitivity(model: Model, *, relative: bool = False, per_block: bool = False) -> float | Array:
    """Sensitivity of a model.

    Parameters
    ----------
    model : any model.
    relative : SS / ||X||^(2(K-1)/K) with K blocks, the figure that does not change with the scale of X.
    per_block : the share of each block, ||dX/dblock_k||_F^2 (K,), instead of their sum.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> model = tc.CP([np.ones((2, 1)), np.ones((3, 1))])
    >>> tc.sensitivity(model), tc.sensitivity(model, per_block=True)
    (12.0, array([6., 6.]))
    """
    total = model.sensitivity(relative=relative)
    if not per_block:
        return total
    shares = model._unit_scale()[0].block_sensitivities()
    sum_of_shares = float(shares.sum())
    return shares * (total / sum_of_shares) if sum_of_shares > 0 else shares
