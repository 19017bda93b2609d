"""Checks of what users hand to a model."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from tensorchain.kernels import Array
from tensorchain.models.network import BOND_LETTERS, MODE_LETTERS, Network

MAX_ORDER = len(MODE_LETTERS)


def check_blocks(kind: str, blocks: Sequence[Any], ndim: int | None = None) -> list[Array]:
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
        if array.dtype.kind not in "fc":
            raise TypeError(f"{kind}: block {position} has dtype {array.dtype}; real or complex numbers are needed")
        if ndim is not None and array.ndim != ndim:
            raise ValueError(f"{kind}: block {position} has shape {array.shape}; {ndim} dimensions are needed")
        if array.size == 0:
            raise ValueError(f"{kind}: block {position} is empty, shape {array.shape}")
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{kind}: block {position} holds NaN or infinity")
        arrays.append(array)
    dtype = np.result_type(*arrays) if arrays else np.dtype(float)
    # A copy: a model is immutable, whatever happens to the arrays that it was made from.
    return [np.array(array, dtype=dtype, order="C") for array in arrays]


def check_order(kind: str, order: int) -> None:
    """Orders 2 to 50."""
    if not 2 <= order <= MAX_ORDER:
        raise ValueError(f"{kind}: order {order} was given; orders 2 to {MAX_ORDER} are supported")


def bond_letters(count: int) -> str:
    """The first `count` bond letters."""
    return BOND_LETTERS[:count]


def shown_rank(rank: Any) -> str:
    """A rank in a message; never a whole array."""
    shape, text = getattr(rank, "shape", None), "" if hasattr(rank, "shape") else repr(rank)
    if shape is not None and math.prod(shape) == 1:
        return repr(rank)
    return text if 0 < len(text) <= 200 else f"a {type(rank).__name__}"


def check_rank(kind: str, rank: Any) -> int:
    """One positive integer."""
    if rank is None:
        raise ValueError(f"{kind}: no rank was given; a positive integer is needed")
    try:
        value = operator.index(rank)
    except TypeError:
        raise TypeError(f"{kind}: rank {shown_rank(rank)} was given; one positive integer is needed") from None
    if isinstance(rank, (bool, np.bool_)):
        raise TypeError(f"{kind}: rank {shown_rank(rank)} was given; one positive integer is needed")
    if value < 1:
        raise ValueError(f"{kind}: rank {shown_rank(rank)} was given; it must be at least 1")
    return value


def check_ranks(kind: str, rank: Any, count: int | None) -> tuple[int, ...]:
    """Positive integers; one integer stands for `count` equal ones."""
    if rank is None:
        raise ValueError(f"{kind}: no rank was given; a positive integer or {count or 'several'} of them are needed")
    if isinstance(rank, (int, np.integer)) and not isinstance(rank, bool) and count is not None:
        rank = (rank,) * count
    try:
        ranks = tuple(operator.index(value) for value in rank)
    except TypeError:
        needed = "a positive integer or a sequence of them is needed"
        raise TypeError(f"{kind}: rank {shown_rank(rank)} was given; {needed}") from None
    if count is not None and len(ranks) != count:
        raise ValueError(
            f"{kind}: {len(ranks)} ranks {shown_rank(ranks)} were given; a tensor of order {count} needs {count}"
        )
    if not ranks or min(ranks) < 1:
        raise ValueError(f"{kind}: rank {shown_rank(rank)} was given; ranks must be at least 1")
    return ranks


class Wired(Protocol):
    """A class that makes its network from a shape and a rank."""

    @classmethod
    def wiring(cls, shape: tuple[int, ...], rank: Any) -> Network:
        """The network for a tensor of this shape.

        Parameters
        ----------
        shape : tuple of int
            (I_1, ..., I_N).
        rank : int, tuple or list
            As in `decompose`.

        Returns
        -------
        Network
            Bonds, modes and terms.

        Raises
        ------
        ValueError
            When the rank does not fit the shape.
        """


def checked_wiring(kind: type[Any], shape: tuple[int, ...], rank: Any) -> Network:
    """`kind.wiring(shape, rank)`, after checks that hold for every model.

    A block with more columns than the rest of the tensor has entries cannot be determined by any data.
    """
    name = kind.__name__
    check_order(name, len(shape))
    if min(shape) < 1:
        raise ValueError(f"{name}: shape {shape} has an empty mode; every mode needs at least one entry")
    network: Network = kind.wiring(shape, rank)
    entries = math.prod(shape)
    for mode, width in zip(network.modes, network.widths, strict=True):
        available = entries if mode is None else entries // shape[mode]
        if width > available:
            where = "the core" if mode is None else f"mode {mode + 1}"
            raise ValueError(
                f"{name}: rank {rank!r} is beyond the size of a tensor of shape {shape}: the block of {where} "
                f"would have {width} unknowns for each row and only {available} data; lower the rank"
            )
    return network
