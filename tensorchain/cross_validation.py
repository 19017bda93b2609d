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
from tensorchain.folds import Entries, checked_folds
from tensorchain.kernels import Array
from tensorchain.keywords import helpful
from tensorchain.models import Model
from tensorchain.solvers import Constraint, Solver
from tensorchain.tensors import as_tensor
from tensorchain.tensors.outside import shown


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
    count = checked_folds(folds, shown(folds))
    data = Entries.of(as_tensor(tensor))
    generator = np.random.default_rng(rng)
    errors, fits = [], []
    for fold in data.folds(count, generator):
        fit = decompose(fold.rest, model, rank, constraint=constraint, solver=solver, starts=starts, rng=generator)
        errors.append(fold.error(fit.model))
        fits.append(fit)
    return CrossValidation(np.array(errors), tuple(fits))
