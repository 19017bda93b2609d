"""A few fibers and entries of a tensor, for solvers that do not read all of it.

`fibers` reads whole lines of a tensor along one mode, or single entries, from data sources that can be read in any
order: arrays in memory, memory-mapped files and dask arrays.  Another data source joins with

    @fibers.register
    def _(data: MyTensor, mode, positions): ...
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np

from tensorchain.kernels import Array
from tensorchain.tensors.base import Tensor
from tensorchain.tensors.dense import Dense
from tensorchain.tensors.lazy import Lazy


@singledispatch
def fibers(source: Tensor, mode: int | None, positions: Array) -> Array:
    """Fibers of a tensor along a mode.

    Parameters
    ----------
    source : Tensor
        Array that can be read in any order.
    mode : int or None
        The mode along which the fibers run, or None for single entries.
    positions : ndarray
        Integers (S, N), where they lie along the other modes; column `mode` is not read.

    Returns
    -------
    ndarray
        (S, I_n), or (S, 1) without a mode.

    Raises
    ------
    TypeError
        For data sources that cannot be read in any order.

    Examples
    --------
    >>> import numpy as np
    >>> T = Dense(np.arange(12.0).reshape(3, 4))
    >>> fibers(T, 0, np.array([[0, 1], [0, 3]]))
    array([[ 1.,  5.,  9.], [ 3.,  7., 11.]])
    """
    raise TypeError(
        f"a {type(source).__name__} tensor cannot be sampled: most of its entries are zero, missing or elsewhere; "
        "use another solver, such as ALS()"
    )


@fibers.register
def _(source: Dense, mode: int | None, positions: Array) -> Array:
    return _picked(source.array, mode, positions) * source.scale


@fibers.register
def _(source: Lazy, mode: int | None, positions: Array) -> Array:
    if hasattr(source.array, "vindex"):
        picked = source.array.vindex[_index(mode, positions)].compute()
        picked = picked[:, None] if mode is None else picked
    else:
        picked = _picked(source.array, mode, positions)
    return np.asarray(picked, dtype=source.dtype) * source.scale


def _picked(array: Any, mode: int | None, positions: Array) -> Array:
    picked = np.asarray(array[_index(mode, positions)])
    if mode is None:
        return picked[:, None]
    # NumPy puts the axis of what is picked first, unless only the first axis is sliced.
    return picked.T if mode == 0 else picked


def _index(mode: int | None, positions: Array) -> tuple[Any, ...]:
    return tuple(slice(None) if n == mode else column for n, column in enumerate(positions.T))
