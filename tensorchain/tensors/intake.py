"""How data come in: the one place where every data class gets its numbers from.

Whatever was given, what is held afterwards is

- float32, float64 or complex128, in the byte order of the machine (:mod:`tensorchain.tensors.dtypes`),
- a plain array: no `numpy.matrix`, no mask (masks become missing entries), nothing that is not finite,
- of order 2 to 50, no mode empty,
- of moderate size: T = 2^e T', where e = 0 unless ||T|| is so large or small that squares and products of its entries
  would overflow or vanish.  A power of two adds no rounding; it goes into the `scale` of the data class.

Cost: one pass over the data for the norm, and a copy where the dtype or the size asks for one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tensorchain.kernels import Array
from tensorchain.kernels.linalg import scaled_norm
from tensorchain.models.validation import MAX_ORDER
from tensorchain.tensors.dtypes import kept_dtype
from tensorchain.tensors.outside import Given, on_host, opened

MODERATE = {"float32": 40, "float64": 330, "complex128": 330}
"""Binary exponents of ||T|| up to which the data are held as they are: their squares and products are numbers."""
_ROWS = 1 << 31
"""Most slices, over all modes: a model has a row of numbers for each of them."""


def dense_numbers(kind: str, given: Any) -> tuple[Array, Given]:
    """The numbers of a dense array in the dtype in which they are held, and what came with them.

    Not finite numbers pass: where they are missing entries they do not count.
    """
    inside = on_host(kind, opened(given))
    dtype = kept_dtype(inside.data.dtype)
    check_shape(inside.data.shape)
    with np.errstate(over="ignore"):
        return inside.data.astype(dtype, copy=False), inside


def check_shape(shape: Sequence[int]) -> None:
    """Order 2 to 50, no mode empty, and no more slices than blocks can have rows.

    Raises
    ------
    ValueError
    """
    sizes = tuple(shape)
    if not 2 <= len(sizes) <= MAX_ORDER:
        raise ValueError(f"the tensor has shape {sizes}, order {len(sizes)}; orders 2 to {MAX_ORDER} are supported")
    if min(sizes) < 1:
        raise ValueError(f"the tensor is empty, shape {sizes}; every mode needs at least one entry")
    if sum(sizes) > _ROWS:
        raise ValueError(
            f"the tensor has shape {sizes}: a model would hold a row of numbers for each of its {sum(sizes)} slices; "
            "number the slices that hold an entry, as with np.unique(indices[:, n], return_inverse=True)"
        )


def moderate(array: Array) -> tuple[Array, float, float]:
    """(T', s, ||T'||) with T = s T', s a power of two: T' is T itself unless its size is extreme.

    A norm that is not finite says that an entry is not.
    """
    size, exponent = scaled_norm(array)
    if size == 0.0 or not math.isfinite(size):
        return array, 1.0, size
    shift = exponent + math.frexp(size)[1]
    if abs(shift) <= MODERATE[array.dtype.name]:
        return array, 1.0, math.ldexp(size, exponent)
    # The power itself has to be a number of double precision.
    shift = max(-1074, min(shift, 1023))
    return ldexp(array, -shift), math.ldexp(1.0, shift), math.ldexp(size, exponent - shift)


def ldexp(array: Array, exponent: int) -> Array:
    """2^exponent times an array, exactly, in its dtype."""
    if exponent == 0:
        return array
    if array.dtype.kind == "c":
        return np.asarray(np.ldexp(array.real, exponent) + 1j * np.ldexp(array.imag, exponent))
    return np.asarray(np.ldexp(array, exponent))


def digest_of(parts: Iterable[Any]) -> str:
    """A digest of texts, numbers and arrays, the same on every machine of one byte order.

    Arrays count with their dtype, shape and entries in C order, however they lie in memory.
    """
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            state.update(f"{part.dtype.str}{part.shape}".encode())
            for piece in _pieces(part):
                state.update(np.ascontiguousarray(piece).data.cast("B") if piece.size else b"")
        else:
            state.update(f"{part!r};".encode())
    return state.hexdigest()


def _pieces(array: Array) -> Iterable[Array]:
    """An array in C order, in pieces where it would have to be copied."""
    if array.ndim == 0 or array.flags.c_contiguous:
        return (array,)
    step = max(1, (1 << 20) * len(array) // max(1, array.size))
    return (array[start : start + step] for start in range(0, len(array), step))


def entry_sums(values: Array, first: Array) -> tuple[int, int]:
    """Two sums of mixed entries, each with its position: the same in whatever order and pieces entries come.

    Parameters
    ----------
    values : ndarray
        (Z,) in the dtype in which data are held.
    first : ndarray
        (Z,) positions as unsigned integers.
    """
    words = np.ascontiguousarray(values).view(np.uint32 if values.dtype.itemsize == 4 else np.uint64)
    words = words.reshape(len(values), -1).astype(np.uint64)
    sums = []
    for seed in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F):
        mixed = _mixed(first.astype(np.uint64) * np.uint64(seed | 1) + np.uint64(seed))
        for column in words.T:
            mixed = _mixed(mixed ^ column)
        sums.append(int(np.sum(mixed, dtype=np.uint64)))
    return sums[0], sums[1]


def _mixed(words: Array) -> Array:
    """The finaliser of splitmix64: every bit of a word moves half of the bits of the result."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(words ^ (words >> np.uint64(31)))
