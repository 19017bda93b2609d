"""Checks of what users hand to a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorchain.kernels import Array
from tensorchain.models.network import BOND_LETTERS, MODE_LETTERS

MAX_ORDER = len(MODE_LETTERS)


def check_blocks(kind: str, blocks: Sequence[Any], ndim: int | None = None, complex_allowed: bool = True) -> list[Array]:
    """Validate the blocks of a model: numeric, finite, not empty; integers become float64."""
    arrays = []
    for position, block in enumerate(blocks):
        array = np.asarray(block)
        if array.dtype.kind in "iub":
            array = array.astype(np.float64)
        elif array.dtype == np.float16:
            array = array.astype(np.float32)
        elif array.dtype == np.complex64 or array.dtype == np.clongdouble:
            array = array.astype(np.complex128)
        elif array.dtype == np.longdouble:
            array = array.astype(np.float64)
        if array.dtype.kind not in ("fc" if complex_allowed else "f"):
            raise TypeError(f"{kind}: block {position} has dtype {array.dtype}; real or complex numbers are needed")
        if ndim is not None and array.ndim != ndim:
            raise ValueError(f"{kind}: block {position} has shape {array.shape}; {ndim} dimensions are needed")
        if array.size == 0:
            raise ValueError(f"{kind}: block {position} is empty, shape {array.shape}")
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{kind}: block {position} holds NaN or infinity")
        arrays.append(array)
    dtype = np.result_type(*arrays) if arrays else np.dtype(float)
    return [array.astype(dtype, copy=False) for array in arrays]


def check_order(kind: str, order: int) -> None:
    """Orders 2 to 10."""
    if not 2 <= order <= MAX_ORDER:
        raise ValueError(f"{kind}: order {order} was given; orders 2 to {MAX_ORDER} are supported")


def bond_letters(count: int) -> str:
    """The first `count` bond letters."""
    return BOND_LETTERS[:count]
