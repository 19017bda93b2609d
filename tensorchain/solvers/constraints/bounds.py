"""Bounds on the sensitivity and on the error."""

from __future__ import annotations

from dataclasses import dataclass, field

from tensorchain.solvers.constraints.base import Bounded, Constraint, Weighted, check_flag, check_number
from tensorchain.solvers.constraints.quantities import Sensitivity, SquaredError


@dataclass(frozen=True)
class SensitivityBound(Constraint):
    """Least error subject to SS <= limit, for T as given.

    Parameters
    ----------
    limit : float
        s > 0, in units of ||T||^(2 (K - 1) / K) for a model of K blocks.
    relative : bool
        Whether the bound is SS <= limit ||T||^(2 (K - 1) / K) instead, so that one number serves data of all scales; up
        to the error, what `model.sensitivity(relative=True)` says.

    Raises
    ------
    TypeError
        When `limit` is not a number, or `relative` not True or False.
    ValueError
        When it is not positive and finite.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> T = tc.datasets.inverse_radius(order=3, size=6)
    >>> fit = tc.decompose(T, "cp", rank=2, constraint=tc.SensitivityBound(20.0), rng=0)
    >>> fit.sensitivity <= 20.0 * (1 + 1e-6)
    True
    >>> fit = tc.decompose(1e6 * T, "cp", rank=2, constraint=tc.SensitivityBound(20.0, relative=True), rng=0)
    >>> bool(fit.sensitivity <= 20.0 * (1e6 * np.linalg.norm(T)) ** (4 / 3) * (1 + 1e-6))
    True
    """

    limit: float
    relative: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_number("SensitivityBound", "limit", self.limit)
        check_flag("SensitivityBound", "relative", self.relative)

    @property
    def bounds(self) -> tuple[Bounded, ...]:
        return (Bounded(Sensitivity(), float(self.limit), tightens=True, relative=self.relative),)

    def __repr__(self) -> str:
        return f"SensitivityBound(limit={self.limit!r}{', relative=True' if self.relative else ''})"


@dataclass(frozen=True)
class ErrorBound(Constraint):
    """Least SS subject to ||T - X|| <= limit * ||T||.

    Parameters
    ----------
    limit : float
        e, the relative error that is allowed: 0 < e < 1.

    Raises
    ------
    TypeError
        When `limit` is not a number.
    ValueError
        When it is not positive, or 1 or more: the zero model has a relative error of 1.

    Examples
    --------
    >>> import tensorchain as tc
    >>> T = tc.datasets.inverse_radius(order=3, size=6)
    >>> fit = tc.decompose(T, "cp", rank=2, constraint=tc.ErrorBound(0.05), rng=0)
    >>> fit.error <= 0.05 * (1 + 1e-6)
    True
    """

    limit: float

    def __post_init__(self) -> None:
        check_number("ErrorBound", "limit", self.limit)
        if self.limit >= 1.0:
            raise ValueError(
                f"ErrorBound: limit is {self.limit!r}, a relative error ||T - X|| / ||T||, and the zero model has 1: "
                f"give a number below 1 (for {self.limit:g} percent: ErrorBound({self.limit / 100:g}))"
            )

    @property
    def objective(self) -> tuple[Weighted, ...]:
        return (Weighted(Sensitivity(), 1.0),)

    @property
    def bounds(self) -> tuple[Bounded, ...]:
        return (Bounded(SquaredError(), float(self.limit) ** 2, tightens=False),)
