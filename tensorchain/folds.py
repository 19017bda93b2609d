"""Parts of data: folds of the observed entries, and halves of the slices of a mode.

**Folds.**  The observed entries are divided at random into F parts.  The data without one of them are data with gaps,
and the part is what a fit to them is measured on,

    e_f = sqrt( sum_(i in f) w_i |T_i - X_i|^2 / sum_(i in f) w_i |T_i|^2 ).

**Halves.**  The slices of one mode are divided at random into two tensors, which share all other modes.

In both, every slice of a part has entries: divisions are drawn until that is so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorchain.kernels import Array, norm
from tensorchain.models import Model
from tensorchain.tensors import Dense, Masked, Observed, Sparse, Tensor

_FORMED = 1 << 24
"""Entries up to which a tensor of zeros, mostly, is formed."""
_DRAWS = 50
"""Random divisions that are tried until every slice of the tensor has an entry in each part."""


@dataclass(frozen=True, eq=False)
class Fold:
    """A part of the entries.

    Attributes
    ----------
    rest : Tensor
        The data without it.
    indices, values : ndarray
        (E, N) and (E,), the part itself.
    weights : ndarray or None
        (E,).

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain import compression
    >>> compression.Fold(2).groups
    2
    """

    rest: Tensor
    indices: Array
    values: Array
    weights: Array | None

    def error(self, model: Model) -> float:
        """Relative error of a model on the part; NaN where that is zero everywhere."""
        roots = 1.0 if self.weights is None else np.sqrt(self.weights)
        size = norm(self.values * roots)
        return norm((self.values - model.entries(self.indices)) * roots) / size if size > 0.0 else math.nan


@dataclass(frozen=True, eq=False)
class Entries:
    """The observed entries of a tensor, one by one.

    Attributes
    ----------
    tensor : Tensor
        Where they come from.
    indices : ndarray
        (E, N).
    values : ndarray
        (E,).
    weights : ndarray or None
        (E,).
    """

    tensor: Tensor
    indices: Array
    values: Array
    weights: Array | None

    @classmethod
    def of(cls, tensor: Tensor) -> Entries:
        """The entries of a tensor.

        Raises
        ------
        TypeError
            For data whose entries cannot be listed.
        """
        if isinstance(tensor, Observed):
            return cls(tensor, tensor.indices, tensor.values * tensor.scale, tensor.weights)
        if isinstance(tensor, Sparse) and math.prod(tensor.shape) > _FORMED:
            raise TypeError(
                f"{tensor!r} is too large to hold out entries, zeros included; give tc.Observed(...) instead"
            )
        if not isinstance(tensor, (Dense, Masked, Sparse)):
            raise TypeError(f"{tensor!r} cannot be divided into folds; an array, tc.Masked or tc.Observed is needed")
        array = tensor.to_dense()
        observed = tensor.observed if isinstance(tensor, Masked) else np.ones(array.shape, dtype=bool)
        weights = tensor.weights if isinstance(tensor, Masked) else None
        indices = np.argwhere(observed)
        return cls(tensor, indices, array[observed], None if weights is None else weights[observed])

    def folds(self, count: int, rng: np.random.Generator) -> Iterator[Fold]:
        """Folds, drawn at once and made one after the other.

        Raises
        ------
        ValueError
            Where there are fewer entries than folds, or a fold takes all entries of a slice.
        """
        if count > len(self.values):
            raise ValueError(f"{count} folds were asked for and {len(self.values)} entries are observed; ask for fewer")
        member = self._divided(count, rng)
        for f in range(count):
            yield self._fold(np.flatnonzero(member == f))

    def halves(self, mode: int, rng: np.random.Generator) -> tuple[Tensor, Tensor] | None:
        """The slices of a mode as two tensors; None where no division leaves both with entries in every slice."""
        size = self.tensor.shape[mode]
        if size < 4:
            return None
        for _ in range(_DRAWS):
            order = rng.permutation(size)
            sides = np.sort(order[: size // 2]), np.sort(order[size // 2 :])
            if all(self._seen(mode, side) for side in sides):
                first, second = (self._slices(mode, side) for side in sides)
                return first, second
        return None

    def _fold(self, fold: Array) -> Fold:
        seen = np.ones(len(self.values), dtype=bool)
        seen[fold] = False
        weights = None if self.weights is None else self.weights[fold]
        return Fold(self._part(seen, self.tensor.shape, self.indices), self.indices[fold], self.values[fold], weights)

    def _part(self, chosen: Array, shape: tuple[int, ...], indices: Array) -> Tensor:
        """The data with these of the entries."""
        indices, values = indices[chosen], self.values[chosen]
        weights = None if self.weights is None else self.weights[chosen]
        if isinstance(self.tensor, Observed):
            return Observed(indices, values, shape, weights=weights)
        array, mask = np.zeros(shape, dtype=values.dtype), np.zeros(shape, dtype=bool)
        array[tuple(indices.T)], mask[tuple(indices.T)] = values, True
        if weights is None:
            return Masked(array, mask)
        weight = np.zeros(shape)
        weight[tuple(indices.T)] = weights
        return Masked(array, mask, weights=weight)

    def _slices(self, mode: int, side: Array) -> Tensor:
        """The tensor of these slices of a mode."""
        if not isinstance(self.tensor, (Observed, Masked)):
            return Dense(self.tensor.to_dense().take(side, axis=mode))
        shape = tuple(len(side) if n == mode else size for n, size in enumerate(self.tensor.shape))
        place = np.full(self.tensor.shape[mode], -1)
        place[side] = np.arange(len(side))
        indices = self.indices.copy()
        indices[:, mode] = place[indices[:, mode]]
        return self._part(indices[:, mode] >= 0, shape, indices)

    def _seen(self, mode: int, side: Array) -> bool:
        """Whether the part of these slices of a mode has an entry in every slice of the others."""
        if not isinstance(self.tensor, (Observed, Masked)):
            return True
        rows = self.indices[np.isin(self.indices[:, mode], side)]
        return all(len(np.unique(rows[:, n])) == size for n, size in enumerate(self.tensor.shape) if n != mode)

    def _divided(self, folds: int, rng: np.random.Generator) -> Array:
        """The fold of each entry; no slice of the tensor lies in one fold."""
        count = len(self.values)
        for _ in range(_DRAWS):
            member: Array = rng.permutation(np.arange(count) % folds)
            if all(_spread(self.indices[:, n], member, size) for n, size in enumerate(self.tensor.shape)):
                return member
        raise ValueError(
            f"some slice of the tensor has so few of the {count} observed entries that a fold takes all of them; "
            "drop slices with one or two entries, or ask for more folds"
        )


def checked_folds(folds: Any, shown: str) -> int:
    """F >= 2; `shown` is how the argument reads in the error."""
    if isinstance(folds, (bool, np.bool_)) or not isinstance(folds, (int, np.integer)) or folds < 2:
        raise ValueError(f"folds is {shown}; an integer of at least 2 is needed")
    return int(folds)


def _spread(rows: Array, member: Array, size: int) -> bool:
    """Whether each slice has entries in more than one fold."""
    least, most = np.full(size, member.max() + 1), np.full(size, -1)
    np.minimum.at(least, rows, member)
    np.maximum.at(most, rows, member)
    return bool(np.all(least < most))
