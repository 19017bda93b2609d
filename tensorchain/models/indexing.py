"""Positions that users give, checked: what `Model.restrict`, `Model.entries` and `model[...]` take.

NumPy's rules hold for all that is accepted; what NumPy would lay out in another order than its modes is refused, and so
is what would change the order of a tensor where the order is to stay.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tensorchain.kernels import Array


class Selection(NamedTuple):
    """What an index selects.

    Attributes
    ----------
    parts : tuple of int or slice or ndarray
        Per mode a position (the mode goes), or a slice or positions (it stays).
    points : ndarray or None
        (..., N) positions of single entries where the index names such, else None.
    """

    parts: tuple[int | slice | Array, ...]
    points: Array | None = None


def checked_rows(shape: tuple[int, ...], rows: Sequence[Any]) -> list[slice | Array | None]:
    """What `restrict` takes: None, a slice or positions for each mode.

    Raises
    ------
    TypeError
        For one position, which would drop a mode, and for what is no index.
    IndexError
        For another number of indices than of modes, positions out of range, and where no row is left.
    """
    if not hasattr(rows, "__len__") or isinstance(rows, str):
        raise TypeError(f"{rows!r} was given; a list with a selection for each of {len(shape)} modes is needed")
    if len(rows) != len(shape):
        raise IndexError(f"{len(rows)} selections were given for {len(shape)} modes; give one for each, None for all")
    checked: list[slice | Array | None] = []
    for mode, (part, size) in enumerate(zip(rows, shape, strict=True)):
        if part is None:
            checked.append(None)
        elif isinstance(part, slice):
            checked.append(_checked_slice(part, size, mode))
        elif np.ndim(part) == 0:
            raise TypeError(
                f"{part!r} was given for mode {mode + 1}, and restrict leaves all modes: "
                f"give a slice, positions such as [{part!r}], or None; model[...] drops a mode"
            )
        else:
            checked.append(_checked_positions(part, size, mode))
    return checked


def checked_entries(shape: tuple[int, ...], indices: Any) -> Array:
    """Positions (..., N) of entries, from 0; negative ones count from the end.

    Raises
    ------
    TypeError
        When they are no integers.
    IndexError
        When there is another number of them than of modes, or one is out of range.
    """
    array = np.asarray(indices)
    if array.size == 0 and array.ndim <= 2:
        return np.zeros((0, len(shape)), dtype=np.intp)
    if array.ndim == 0 or array.shape[-1] != len(shape):
        raise IndexError(f"positions of shape {array.shape} were given; {len(shape)} for each entry are needed, (Z, N)")
    if array.dtype.kind not in "iu":
        raise TypeError(f"positions of dtype {array.dtype} were given; integers are needed")
    flat = array.reshape(-1, len(shape))
    lowest, highest = flat.min(axis=0), flat.max(axis=0)
    for mode, size in enumerate(shape):
        if highest[mode] >= size or lowest[mode] < -size:
            wrong = int(highest[mode] if highest[mode] >= size else lowest[mode])
            raise IndexError(f"position {wrong} is out of range in mode {mode + 1} of size {size}")
    if array.dtype.kind == "i" and int(lowest.min()) < 0:
        return np.where(array < 0, array + np.array(shape), array)
    return array


def selected(shape: tuple[int, ...], key: Any) -> Selection:
    """What `model[key]` selects.

    Raises
    ------
    IndexError
        For an index out of range, too many of them, a new axis, or arrays that NumPy would lay out anew.
    """
    if isinstance(key, np.ndarray) and key.dtype == np.bool_ and key.ndim == len(shape):
        if key.shape != shape:
            raise IndexError(f"a mask of shape {key.shape} was given for a tensor of shape {shape}")
        return Selection((), np.argwhere(key))
    parts = _expanded(shape, key)
    checked = [_part(part, size, mode) for mode, (part, size) in enumerate(zip(parts, shape, strict=True))]
    arrays = {mode: part for mode, part in enumerate(checked) if isinstance(part, np.ndarray)}
    slices = [mode for mode, part in enumerate(checked) if isinstance(part, slice)]
    if arrays and not slices:
        try:
            points = np.broadcast_arrays(*map(np.asarray, checked))
        except ValueError as error:
            raise IndexError(f"positions of different shapes were given for the modes: {error}") from error
        return Selection((), np.stack(points, axis=-1))
    if len(arrays) > 1 or any(array.ndim > 1 for array in arrays.values()):
        raise IndexError(
            "positions were given for several modes beside slices; take model.restrict([...]) for all combinations of "
            "them, or model.entries([...]) for single entries"
        )
    for mode in arrays:
        fixed = [m for m, part in enumerate(checked) if not isinstance(part, slice)]
        if fixed[-1] - fixed[0] >= len(fixed) and any(m < mode for m in slices):
            raise IndexError("NumPy would move these positions to the front; select in two steps: model[...][...]")
    return Selection(tuple(checked))


def checked_mode(mode: Any, order: int) -> int:
    """A mode from 0, or from the end.

    Raises
    ------
    TypeError
        When it is no integer, or there is no such mode.
    IndexError
        When it is no integer, or there is no such mode.
    """
    try:
        number = operator.index(mode)
    except TypeError:
        number = None
    if number is None or isinstance(mode, (bool, np.bool_)):
        raise TypeError(f"mode {mode!r} was given; an integer is needed")
    if not -order <= number < order:
        raise IndexError(f"mode {number} was given; a tensor of order {order} has modes 0 to {order - 1}")
    return number % order


def _expanded(shape: tuple[int, ...], key: Any) -> list[Any]:
    """One part for each mode."""
    parts = list(key) if isinstance(key, tuple) else [key]
    if any(part is None for part in parts):
        raise IndexError("None was given, a new axis; a model has no such: index np.asarray(model)")
    gaps = [position for position, part in enumerate(parts) if part is Ellipsis]
    if len(gaps) > 1:
        raise IndexError("more than one ... was given")
    given = len(parts) - len(gaps)
    if given > len(shape):
        raise IndexError(f"{given} indices were given for a tensor of order {len(shape)}")
    where = gaps[0] if gaps else len(parts)
    return [*parts[:where], *[slice(None)] * (len(shape) - given), *parts[where + 1 :]]


def _part(part: Any, size: int, mode: int) -> int | slice | Array:
    if isinstance(part, slice):
        return _checked_slice(part, size, mode)
    if isinstance(part, (bool, np.bool_)):
        raise IndexError(f"{part!r} was given for mode {mode + 1}; positions, a slice or a mask of the mode are needed")
    try:
        number = operator.index(part)
    except TypeError:
        return _checked_positions(part, size, mode)
    if not -size <= number < size:
        raise IndexError(f"position {number} is out of range in mode {mode + 1} of size {size}")
    return number % size


def _checked_slice(part: slice, size: int, mode: int) -> slice:
    try:
        left = len(range(size)[part])
    except TypeError as error:
        raise IndexError(f"{part!r} was given for mode {mode + 1}; slices need integers") from error
    except ValueError as error:
        raise IndexError(f"{part!r} was given for mode {mode + 1}: {error}") from error
    if left == 0:
        raise IndexError(
            f"{part!r} leaves nothing of mode {mode + 1}, which has size {size}; a model has no empty mode"
        )
    return part


def _checked_positions(part: Any, size: int, mode: int) -> Array:
    array = np.asarray(part)
    if array.dtype == np.bool_:
        if array.shape != (size,):
            raise IndexError(f"a mask of shape {array.shape} was given for mode {mode + 1} of size {size}")
        array = np.flatnonzero(array)
    if array.size == 0:
        raise IndexError(f"no position of mode {mode + 1} was given; a model has no empty mode")
    if array.dtype.kind not in "iu":
        raise IndexError(f"positions {part!r} were given for mode {mode + 1}; integers, a mask or a slice are needed")
    if array.max() >= size or array.min() < -size:
        wrong = int(array.max() if array.max() >= size else array.min())
        raise IndexError(f"position {wrong} is out of range in mode {mode + 1} of size {size}")
    return np.where(array < 0, array + size, array) if array.dtype.kind == "i" else array
