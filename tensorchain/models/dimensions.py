"""What the modes of a tensor are called, and where its entries lie along them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorchain.kernels import Array


@dataclass(frozen=True)
class Dimension:
    """A mode with its name.

    Attributes
    ----------
    name : str
        Such as "wavelength"; "mode 1" where none was given.
    coordinates : ndarray or None
        One for each entry, numbers or names; None for their positions.
    """

    name: str
    coordinates: Array | None = None


def dimensions_of(shape: tuple[int, ...], dims: Any = None) -> tuple[Dimension, ...]:
    """Name and coordinates of each mode.

    Parameters
    ----------
    shape : tuple of int
        (I_1, ..., I_N).
    dims : optional
        Names, one for each mode; a mapping of names to coordinates, or to None, in the order of the modes; or an
        `xarray.DataArray` of this shape, whose dimensions and coordinates are taken.

    Returns
    -------
    tuple of Dimension

    Raises
    ------
    ValueError
        When there is not one name for each mode, two are equal, or coordinates have another number.
    TypeError
        When `dims` is none of these.

    Examples
    --------
    >>> from tensorchain.models.dimensions import dimensions_of
    >>> [dimension.name for dimension in dimensions_of((2, 3), {"sample": ["a", "b"], "time": None})]
    ['sample', 'time']
    """
    pairs: list[tuple[Any, Any]]
    if dims is None:
        pairs = [(f"mode {n + 1}", None) for n in range(len(shape))]
    elif hasattr(dims, "dims") and hasattr(dims, "coords"):
        pairs = [(name, dims.coords[name].values if name in dims.coords else None) for name in dims.dims]
    elif isinstance(dims, Mapping):
        pairs = list(dims.items())
    elif isinstance(dims, Sequence) and not isinstance(dims, str):
        pairs = [(name, None) for name in dims]
    else:
        raise TypeError(f"dims is a {type(dims).__name__}; names, or a mapping of names to coordinates, are needed")
    names = [str(name) for name, _ in pairs]
    if len(names) != len(shape) or len(set(names)) < len(names):
        raise ValueError(f"dims names {names}; {len(shape)} different names are needed, one for each mode")
    return tuple(
        Dimension(name, _checked(name, coordinates, size))
        for name, (_, coordinates), size in zip(names, pairs, shape, strict=True)
    )


def _checked(name: str, coordinates: Any, size: int) -> Array | None:
    if coordinates is None:
        return None
    array = np.asarray(coordinates)
    if array.shape != (size,):
        raise ValueError(f"{name!r} has coordinates of shape {array.shape}; ({size},) is needed, one for each entry")
    return array
