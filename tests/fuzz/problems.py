"""Random problems: a seed gives data of some class, dtype, size and layout, a model, a solver and a constraint.

What is drawn is what users have: exact and noisy tensors, zeros, constants, integers, huge ranges, NaN; masks and
weights; every data class; and arguments that fit, or nearly fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import dask.array
import numpy as np

import tensorchain as tc

KINDS = (
    "array",
    "dense",
    "list",
    "fortran",
    "strided",
    "ma",
    "masked",
    "weighted",
    "observed",
    "sparse",
    "lazy",
    "dask",
)
DTYPES = ("f8",) * 6 + ("f4", "f4", "f2", "c16", "c8", "i4", "u1", "?", ">f8", ">f4", ">c16", "g")
EXPONENTS = (0,) * 12 + (3, -3, -30, 30, 100, -100, 150, -150, -200, 200, -290, 290, -299, 299, 20, -20, -40, 37)
CONTENTS = ("noise",) * 3 + ("exact",) * 4 + ("constant", "one", "zero slices", "twins", "huge", "integers")
RARE = ("nan", "zero")
RANGES = {"f4": (-37, 37), "c8": (-37, 37), "f2": (-3, 3), "i4": (0, 3), "u1": (0, 0), "?": (0, 0)}
"""Powers of ten that a dtype holds."""


@dataclass(frozen=True)
class Drawn:
    """A problem, and what an independent computation needs of it.

    Attributes
    ----------
    words : what it is, for a report.
    data : what `decompose` is given.
    values, weights : the numbers in extended precision, and the weights (0 where missing) as given.
    arguments : of `decompose`.
    """

    words: str
    data: Any
    values: Any
    weights: Any
    arguments: dict[str, Any]


def drawn(seed: int) -> Drawn:
    """The problem of a seed."""
    rng = np.random.default_rng([41, seed])
    order = int(rng.integers(2, 5)) if rng.random() < 0.9 else int(rng.integers(5, 8))
    least = 1 if rng.random() < 0.3 else 2
    shape = tuple(int(size) for size in rng.integers(least, 6 if order < 5 else 4, size=order))
    kind, dtype = str(rng.choice(KINDS)), str(rng.choice(DTYPES))
    exponent, content = int(rng.choice(EXPONENTS)), str(rng.choice(CONTENTS if rng.random() < 0.95 else RARE))
    if rng.random() < 0.9:
        # Nearly all are numbers of their dtype.
        exponent = int(np.clip(exponent, *RANGES.get(dtype[-2:], (-299, 299))))
    array = numbers(rng, content, shape, dtype, exponent)
    weights = np.ones(shape)
    if kind in ("ma", "masked", "weighted", "observed"):
        weights = (rng.random(shape) < 0.85) * 1.0
        # Every slice is seen, in nearly all of them.
        if rng.random() < 0.95:
            weights[tuple(np.arange(max(shape)) % size for size in shape)] = 1.0
    if kind == "weighted":
        weights = weights * 10.0 ** rng.uniform(-2, 2, shape)
    if kind == "sparse":
        array = np.where(rng.random(shape) < 0.5, array, array.dtype.type(0))
    model, rank = wiring(rng, shape)
    arguments = {"model": model, "rank": rank, "rng": seed, "max_seconds": 20.0, "jobs": 1}
    arguments["solver"] = [
        tc.ALS(max_iter=int(rng.choice([1, 6, 40]))),
        tc.LM(max_iter=int(rng.choice([1, 6, 40]))),
        tc.Path(max_iter=20, stage_iter=8),
        tc.ALS(max_iter=400),
        tc.LM(max_iter=400),
        tc.Auto(slack=float(rng.choice([0.0, 0.01]))),
    ][int(rng.choice(6, p=[0.35, 0.3, 0.15, 0.08, 0.08, 0.04]))]
    arguments["constraint"] = constraint(rng)
    arguments["init"] = "svd" if rng.random() < 0.25 else "random"
    arguments["starts"] = 2 if rng.random() < 0.1 else 1
    words = f"seed {seed}: {content} {shape} {dtype} 1e{exponent} {kind}, " + ", ".join(
        f"{name}={value!r}" for name, value in arguments.items() if name not in ("rng", "max_seconds", "jobs")
    )
    return Drawn(words, wrapped(kind, array, weights), _extended(array), weights, arguments)


def numbers(rng: np.random.Generator, content: str, shape: tuple[int, ...], dtype: str, exponent: int) -> Any:
    """An array of this content, dtype and size."""
    array = rng.standard_normal(shape)
    if content == "exact":
        array = np.zeros(shape)
        for _ in range(int(rng.integers(1, 4))):
            term = np.ones(())
            for size in shape:
                term = np.multiply.outer(term, rng.standard_normal(size))
            array = array + term
    elif content == "constant":
        array = np.full(shape, 1.5)
    elif content == "one":
        array = np.zeros(shape)
        array[tuple(rng.integers(0, size) for size in shape)] = -7.0
    elif content == "zero slices":
        array[0] = 0.0
    elif content == "twins":
        array[-1] = array[0]
    elif content == "huge":
        array = array * 10.0 ** (50.0 * rng.integers(-1, 2, size=shape))
    elif content == "integers":
        array = rng.integers(-5, 6, shape).astype(float)
    elif content == "zero":
        array = np.zeros(shape)
    elif content == "nan":
        array[tuple(rng.integers(0, size) for size in shape)] = rng.choice([np.nan, np.inf])
    with np.errstate(all="ignore"):
        if np.dtype(dtype).kind in "iub":
            return np.clip(np.nan_to_num(3.0 * array), 0, 100).astype(dtype)
        if np.dtype(dtype).kind == "c":
            array = array + 1j * rng.standard_normal(shape) * (array != 0)
        return (array * np.longdouble(10.0) ** exponent).astype(dtype)


def wiring(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[str, Any]:
    """A model and its rank; one in ten is too large."""
    beyond, order = rng.random() < 0.1, len(shape)
    model = str(rng.choice(["cp", "tucker", "tc", "btd"]))
    if model == "cp":
        most = math.prod(shape) // max(shape)
        return model, most + 3 if beyond else int(rng.integers(1, min(most, 4) + 1))
    ranks = tuple(int(rng.integers(1, min(size, 3) + 1 + 3 * beyond)) for size in shape)
    if model == "tucker":
        return model, ranks
    if model == "btd":
        return model, [ranks, tuple(1 for _ in ranks)][: int(rng.integers(1, 3))]
    return model, 6 if beyond else tuple(int(bond) for bond in rng.integers(1, 3, size=order))


def constraint(rng: np.random.Generator) -> Any:
    """None for most; bounds and penalties over many decades else, alone and together, and blocks without a sign."""
    value = float(10.0 ** rng.uniform(-6, 6)) if rng.random() < 0.8 else float(10.0 ** rng.choice([-300, -30, 30, 300]))
    draw = rng.random()
    price, bound = tc.Penalty(value), tc.SensitivityBound(value)
    close = tc.ErrorBound(float(10.0 ** rng.uniform(-6, 0)))
    positive = tc.NonNegative(None if rng.random() < 0.5 else int(rng.integers(2)))
    for share, chosen in ((0.45, None), (0.62, price), (0.76, bound), (0.88, close)):
        if draw < share:
            return chosen
    return [positive, positive, bound & price, bound & close, positive & bound, positive & close, positive & price][
        int(rng.integers(7))
    ]


def wrapped(kind: str, array: Any, weights: Any) -> Any:
    """The array as one of the kinds; ValueError or TypeError from the data class itself is an answer, too."""
    seen = weights > 0
    if kind == "list":
        return array.tolist()
    if kind == "fortran":
        return np.asfortranarray(array)
    if kind == "strided":
        wide = np.zeros([2 * size for size in array.shape], dtype=array.dtype)
        view = wide[tuple(slice(None, None, 2) for _ in array.shape)]
        view[...] = array
        return view
    if kind == "ma":
        return np.ma.array(array, mask=~seen)
    made = {
        "dense": lambda: tc.Dense(array),
        "masked": lambda: tc.Masked(np.where(seen, array, array.dtype.type(1)), seen),
        "weighted": lambda: tc.Masked(array, weights=weights),
        "observed": lambda: tc.Observed(np.argwhere(seen), array[seen], array.shape),
        "sparse": lambda: tc.Sparse(np.argwhere(array != 0), array[array != 0], array.shape),
        "lazy": lambda: tc.Lazy(array, box_entries=5),
        "dask": lambda: tc.Lazy(dask.array.from_array(array, chunks=3)),
    }.get(kind)
    return array if made is None else made


def _extended(array: Any) -> Any:
    return array.astype(np.clongdouble if array.dtype.kind == "c" else np.longdouble)
