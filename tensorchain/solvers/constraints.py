"""What is asked of a decomposition beside a small error.

Without a constraint the solvers minimise f = ||T - X||^2.  With one,

    Penalty(nu)             min ||T - X||^2 + nu SS
    SensitivityBound(s)     min ||T - X||   subject to SS <= s
    ErrorBound(e)           min SS          subject to ||T - X|| <= e ||T||

The last two have the first as their Lagrangian: each solver reaches them by choosing nu.
`merit` orders two iterates: the tuple that is smaller is the better one.

Solvers see the tensor scaled to norm 1.  With K blocks a scale c on X is c^(1/K) on each block and
c^(2(K-1)/K) on SS, so `normalised` rewrites s and nu accordingly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_SLACK = 1e-6
"""Relative violation of a bound that counts as met."""


@dataclass(frozen=True)
class Constraint:
    """No constraint."""

    def normalised(self, norm: float, blocks: int) -> Constraint:
        """The same constraint for T / norm."""
        return self

    def merit(self, error: float, sensitivity: float) -> tuple[float, float]:
        """(violation, objective): smaller is better."""
        return 0.0, error

    def feasible(self, error: float, sensitivity: float) -> bool:
        """Whether the bound holds."""
        return self.merit(error, sensitivity)[0] <= 0.0


@dataclass(frozen=True)
class Penalty(Constraint):
    """Minimise ||T - X||^2 + weight * SS, for T as given.

    Parameters
    ----------
    weight : nu >= 0.
    """

    weight: float

    def __post_init__(self) -> None:
        _check_number("Penalty", "weight", self.weight, allow_zero=True)

    def normalised(self, norm: float, blocks: int) -> Penalty:
        return Penalty(self.weight * norm ** (-2.0 / blocks))

    def merit(self, error: float, sensitivity: float) -> tuple[float, float]:
        return 0.0, error**2 + self.weight * sensitivity


@dataclass(frozen=True)
class SensitivityBound(Constraint):
    """Least error subject to SS <= limit, for T as given.

    Parameters
    ----------
    limit : s > 0.
    """

    limit: float

    def __post_init__(self) -> None:
        _check_number("SensitivityBound", "limit", self.limit)

    def normalised(self, norm: float, blocks: int) -> SensitivityBound:
        return SensitivityBound(self.limit * norm ** (-2.0 * (blocks - 1) / blocks))

    def merit(self, error: float, sensitivity: float) -> tuple[float, float]:
        excess = sensitivity / self.limit - 1.0
        return (excess, error) if excess > _SLACK else (0.0, error)


@dataclass(frozen=True)
class ErrorBound(Constraint):
    """Least SS subject to ||T - X|| <= limit * ||T||.

    Parameters
    ----------
    limit : e > 0, relative error.
    """

    limit: float

    def __post_init__(self) -> None:
        _check_number("ErrorBound", "limit", self.limit)

    def merit(self, error: float, sensitivity: float) -> tuple[float, float]:
        excess = error / self.limit - 1.0
        return (excess, sensitivity) if excess > _SLACK else (0.0, sensitivity)


def _check_number(kind: str, name: str, value: float, allow_zero: bool = False) -> None:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{kind}: {name} is {value!r}; a number is needed")
    if not math.isfinite(value) or value < 0 or (value == 0 and not allow_zero):
        raise ValueError(f"{kind}: {name} is {value!r}; a finite number {'>= 0' if allow_zero else '> 0'} is needed")
