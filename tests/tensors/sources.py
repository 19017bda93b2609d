"""All data classes of the same data, for the contract that all of them keep.

`Way` makes a data source from an array, and says which entries it sees with which weights.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import array_api_strict
import dask.array
import numpy as np

from tensorchain.tensors.base import Tensor
from tensorchain.tensors.dense import Dense
from tensorchain.tensors.device import Device
from tensorchain.tensors.lazy import Lazy
from tensorchain.tensors.masked import Masked
from tensorchain.tensors.observed import Observed
from tensorchain.tensors.sparse import Sparse
from tests.cases import Case, double, jacobian


@dataclass(frozen=True)
class Way:
    """A way to hand over an array.

    open : data source of (array, weights); entries of weight zero must not be looked at.
    weights : weights of the entries of a tensor of some shape.
    """

    name: str
    open: Callable[[Any, Any], Tensor]
    weights: Callable[[tuple[int, ...]], Any] = np.ones

    def __str__(self) -> str:
        return self.name


def holes(shape: tuple[int, ...]) -> Any:
    """About a third of the entries missing, every slice seen."""
    rng = np.random.default_rng(7)
    seen = rng.random(shape) < 0.6
    # The wrapped diagonal touches every slice of every mode.
    seen[tuple(np.arange(max(shape)) % size for size in shape)] = True
    return seen.astype(float)


def uneven(shape: tuple[int, ...]) -> Any:
    """Weights between 0.2 and 5, missing entries among them; mean 1 over the others."""
    weights = holes(shape) * np.exp(np.random.default_rng(8).uniform(-1.6, 1.6, shape))
    return weights / weights[weights > 0].mean()


def spoilt(array: Any, weights: Any) -> Any:
    """NaN where an entry must not be looked at."""
    return np.where(weights > 0, array, np.nan)


def listed(kind: Any, array: Any, weights: Any, **options: Any) -> Any:
    where = np.argwhere(weights > 0)
    order = np.random.default_rng(9).permutation(len(where))
    return kind(where[order], array[tuple(where[order].T)], array.shape, **options)


def observed_weighted(array: Any, weights: Any) -> Any:
    where = np.argwhere(weights > 0)
    return Observed(where, array[tuple(where.T)], array.shape, weights=3.0 * weights[tuple(where.T)])


def from_torch(array: Any, weights: Any) -> Any:
    import torch

    return Device(torch.from_numpy(array.copy()))


FULL = [
    Way("dense", lambda array, weights: Dense(array)),
    Way("masked", lambda array, weights: Masked(array, np.ones(array.shape, dtype=bool))),
    Way("masked-equal-weights", lambda array, weights: Masked(array, weights=2.0 * weights)),
    Way("observed", lambda array, weights: listed(Observed, array, weights)),
    Way("sparse", lambda array, weights: listed(Sparse, array, weights)),
    Way("lazy-slices", lambda array, weights: Lazy(array, box_entries=7)),
    Way("lazy-dask", lambda array, weights: Lazy(dask.array.from_array(array, chunks=3))),
    Way("device-strict", lambda array, weights: Device(array_api_strict.asarray(array))),
]
"""Ways that see every entry."""

if importlib.util.find_spec("torch") is not None:
    FULL.append(Way("device-torch", from_torch))

PARTIAL = [
    Way("masked-holes", lambda array, weights: Masked(spoilt(array, weights), weights > 0), holes),
    Way("masked-weights", lambda array, weights: Masked(spoilt(array, weights), weights=0.1 * weights), uneven),
    Way("observed-holes", lambda array, weights: listed(Observed, array, weights), holes),
    Way("observed-weights", observed_weighted, uneven),
]
"""Ways that see some entries, or not all alike."""


def model_and_jacobian(case: Case) -> tuple[Any, Any]:
    """A model in double precision and its Jacobian, column by column; each is made once."""
    name = f"{case} {case.shape} {case.rank}"
    if name not in _MADE:
        model = double(case.model())
        _MADE[name] = model, jacobian(model)
    return _MADE[name]


_MADE: dict[str, tuple[Any, Any]] = {}
