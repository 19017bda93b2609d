r"""Held-out error: fit to a part of the observed entries, measure on the rest, in turn.

The observed entries are divided at random into folds.  For each fold, the model is fitted to the others, and

    e_f = sqrt( sum_(i in f) w_i |T_i - X_i|^2 / sum_(i in f) w_i |T_i|^2 )

is its error on entries that it has not seen.  The error of a fit falls with every rank; the held-out error rises again
where the model begins to follow the noise, so that it compares ranks, models and penalties.  The standard error is
that of the mean over folds; folds share most of their data, so it is a rough one.

Reference: Bro, Kjeldahl, Smilde, Kiers, "Cross-validation of component models: a critical look at current methods"
(2008).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorchain.api import decompose
from tensorchain.fit import Fit
from tensorchain.kernels import Array, norm
from tensorchain.keywords import helpful
from tensorchain.models import Model
from tensorchain.solvers import Constraint, Solver
from tensorchain.tensors import Dense, Masked, Observed, Sparse, Tensor, as_tensor
from tensorchain.tensors.outside import shown

_FORMED = 1 << 24
"""Entries up to which a tensor of zeros, mostly, is formed."""
_DRAWS = 50
"""Random divisions that are tried until every slice of the tensor keeps an entry in each fit."""


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Held-out errors, fold by fold.

    Attributes
    ----------
    errors : ndarray
        (F,), relative error on the entries of each fold, of the fit to the others.
    fits : tuple of Fit
        One for each fold; `fit.error` is the error on the entries that it was fitted to.

    Examples
    --------
    >>> import tensorchain as tc
    >>> T = tc.datasets.inverse_radius(order=3, size=6)
    >>> len(tc.cross_validate(T, "cp", 1, folds=2, solver="als", rng=0).fits)
    2
    """

    errors: Array
    fits: tuple[Fit, ...] = field(repr=False)

    @property
    def mean(self) -> float:
        """Mean of the held-out errors."""
        return float(self.errors.mean())

    @property
    def standard_error(self) -> float:
        """Standard deviation over folds divided by sqrt(F)."""
        return float(self.errors.std(ddof=1) / math.sqrt(len(self.errors)))

    def report(self) -> list[tuple[str, str]]:
        """(name, value) pairs: what `repr` prints.

        Returns
        -------
        list of tuple of (str, str)
            In the order in which `repr` prints them.

        Examples
        --------
        >>> import tensorchain as tc
        >>> T = tc.datasets.inverse_radius(order=3, size=6)
        >>> found = tc.cross_validate(T, "cp", 1, folds=2, solver="als", rng=0)
        >>> len(found.report()) > 1
        True
        """
        model = self.fits[0].model
        rows = [("model", f"{type(model).__name__}, rank {model.rank}"), ("fold", "held-out error, error, reason")]
        for number, (error, fit) in enumerate(zip(self.errors, self.fits, strict=True), start=1):
            rows.append((str(number), f"{error:.4g}, {fit.error:.4g}, {fit.reason.name}"))
        return [*rows, ("mean", f"{self.mean:.4g} with standard error {self.standard_error:.2g}")]

    def __repr__(self) -> str:
        return "\n".join(f"{name:<12} {value}" for name, value in self.report())


@helpful()
def cross_validate(
    tensor: Any,
    model: str | type[Model],
    rank: Any,
    *,
    folds: int = 5,
    constraint: Constraint | None = None,
    solver: str | Solver | None = None,
    starts: int = 1,
    rng: int | np.random.Generator | None = None,
) -> CrossValidation:
    """Error on entries that were held out, by folds over the observed entries.

    Parameters
    ----------
    tensor : array_like or Tensor
        Arrays, `Dense`, `Masked` and `Observed` data; `Sparse` data that fit in memory as arrays: zeros are observed.
    model : str or type of Model
        As in `decompose`.
    rank : int, tuple or list
        As in `decompose`.
    folds : int
        F >= 2.
    constraint : Constraint, optional
        As in `decompose`; those with ``relative=True`` mean the same for every fold.
    solver : str or Solver, optional
        As in `decompose`.
    starts : int
        Starts of each fit.
    rng : int or numpy.random.Generator, optional
        For the folds and the fits; equal seeds give equal folds, so that ranks are compared on the same ones.

    Returns
    -------
    CrossValidation

    Raises
    ------
    ValueError
        For less than two folds, more folds than entries, and data so few that some slice of the tensor would lose all
        its entries to a fold.
    TypeError
        For data that cannot be divided.

    References
    ----------
    R. Bro, K. Kjeldahl, A. Smilde, H. Kiers, "Cross-validation of component models: a critical look at current
    methods", 2008.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> rng = np.random.default_rng(0)
    >>> T = tc.CP.random((6, 7, 8), 2, rng).full() + 0.1 * rng.standard_normal((6, 7, 8))
    >>> one, two, three = (tc.cross_validate(T, "cp", rank, folds=2, rng=0).mean for rank in (1, 2, 3))
    >>> two < one, two < three
    (True, True)
    """
    count = _checked_folds(folds)
    data = _Entries.of(as_tensor(tensor))
    generator = np.random.default_rng(rng)
    if count > len(data.values):
        raise ValueError(f"{count} folds were asked for and {len(data.values)} entries are observed; ask for fewer")
    errors, fits = [], []
    for fold in _divided(data, count, generator):
        seen = np.ones(len(data.values), dtype=bool)
        seen[fold] = False
        fit = decompose(
            data.part(seen), model, rank, constraint=constraint, solver=solver, starts=starts, rng=generator
        )  # fmt: skip
        roots = 1.0 if data.weights is None else np.sqrt(data.weights[fold])
        size = norm(data.values[fold] * roots)
        missed = norm((data.values[fold] - fit.model.entries(data.indices[fold])) * roots)
        errors.append(missed / size if size > 0.0 else math.nan)
        fits.append(fit)
    return CrossValidation(np.array(errors), tuple(fits))


def _checked_folds(folds: Any) -> int:
    if isinstance(folds, (bool, np.bool_)) or not isinstance(folds, (int, np.integer)) or folds < 2:
        raise ValueError(f"folds is {shown(folds)}; an integer of at least 2 is needed")
    return int(folds)


@dataclass(frozen=True)
class _Entries:
    """The observed entries of a tensor, one by one."""

    tensor: Tensor
    indices: Array
    values: Array
    weights: Array | None

    @classmethod
    def of(cls, tensor: Tensor) -> _Entries:
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

    def part(self, chosen: Array) -> Tensor:
        """The data with these of its entries."""
        shape, indices, values = self.tensor.shape, self.indices[chosen], self.values[chosen]
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


def _divided(data: _Entries, folds: int, rng: np.random.Generator) -> list[Array]:
    """The numbers of the entries of each fold; no slice of the tensor lies in one fold."""
    count = len(data.values)
    for _ in range(_DRAWS):
        member = rng.permutation(np.arange(count) % folds)
        if all(_spread(data.indices[:, n], member, size) for n, size in enumerate(data.tensor.shape)):
            return [np.flatnonzero(member == f) for f in range(folds)]
    raise ValueError(
        f"some slice of the tensor has so few of the {count} observed entries that a fold takes all of them; "
        "drop slices with one or two entries, or ask for more folds"
    )


def _spread(rows: Array, member: Array, size: int) -> bool:
    """Whether each slice has entries in more than one fold."""
    least, most = np.full(size, member.max() + 1), np.full(size, -1)
    np.minimum.at(least, rows, member)
    np.maximum.at(most, rows, member)
    return bool(np.all(least < most))
