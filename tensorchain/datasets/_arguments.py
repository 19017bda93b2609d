"""Arguments that the generators share: their checks, and random arrays of any dtype."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from tensorchain.kernels import Array

DTYPES = ("float32", "float64", "complex128")


def checked_generator(rng: np.random.Generator) -> np.random.Generator:
    """`rng` itself, if it is a generator."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"rng is {type(rng).__name__!r}, but a numpy.random.Generator is needed: "
            "pass numpy.random.default_rng(seed)"
        )
    return rng


def checked_count(name: str, value: int, least: int = 1) -> int:
    """`value` as an int of at least `least`."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, but an integer is needed") from None
    if count < least:
        raise ValueError(f"{name} is {count}, but at least {least} is needed")
    return count


def checked_sizes(name: str, sizes: Sequence[int], *, count: int | None = None, least: int = 1) -> tuple[int, ...]:
    """`sizes` as a tuple of ints of at least `least`; `count` of them, or two and more."""
    try:
        given = tuple(sizes)
    except TypeError:
        raise TypeError(f"{name} is {sizes!r}, but a sequence of integers is needed, one a mode") from None
    if count is None and len(given) < 2:
        raise ValueError(f"{name} has {len(given)} entries, but a tensor has at least two modes")
    if count is not None and len(given) != count:
        raise ValueError(f"{name} has {len(given)} entries, but the shape has {count} modes: give one a mode")
    return tuple(checked_count(f"{name}[{n}]", size, least) for n, size in enumerate(given))


def checked_real(name: str, value: float, low: float, high: float = math.inf, *, open_high: bool = False) -> float:
    """`value` as a float in [low, high], or in [low, high)."""
    number = float(value)
    inside = low <= number < high if open_high or math.isinf(high) else low <= number <= high
    if not inside:
        closing = ")" if open_high or math.isinf(high) else "]"
        raise ValueError(f"{name} is {number:g}, but a number in [{low:g}, {high:g}{closing} is needed")
    return number


def checked_dtype(dtype: DTypeLike) -> np.dtype[np.generic]:
    """`dtype`, if models come in it."""
    given = np.dtype(dtype)
    if given.name not in DTYPES:
        raise ValueError(f"dtype is {given.name}, but one of {', '.join(DTYPES)} is needed")
    return given


def gaussian(shape: tuple[int, ...], rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Array:
    """Independent normal entries of mean 0 and variance 1.

    They are drawn in double precision, so one seed means one array whatever the precision.
    """
    if np.dtype(dtype).kind == "c":
        pairs = rng.standard_normal((*shape, 2))
        return np.asarray((pairs[..., 0] + 1j * pairs[..., 1]) / math.sqrt(2.0), dtype=dtype)
    return np.asarray(rng.standard_normal(shape), dtype=dtype)


def orthonormal(rows: int, columns: int, rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Array:
    """Orthonormal columns, uniformly distributed: (rows, columns) with rows >= columns."""
    q, r = np.linalg.qr(gaussian((rows, columns), rng, np.result_type(dtype, np.float64)))
    # LAPACK fixes the signs of q, not of the diagonal of r; without them q is not uniform.
    diagonal = np.diagonal(r)
    return np.asarray(q * (diagonal / np.abs(diagonal)), dtype=dtype)
