"""What is asked of a decomposition beside a small error: the protocol that every solver speaks.

A constraint says which quantities are minimised, each with a weight, and which are bounded:

    min  sum_j w_j r_j(theta)      subject to      r_b(theta) <= limit_b      for every bound b,

where the r are :mod:`quantities <tensorchain.solvers.constraints.quantities>`, each quadratic in every block; and
where the blocks may lie, its :mod:`domain <tensorchain.solvers.constraints.domain>`: everywhere, if nothing is said.
All else follows here, so that no solver asks what kind of constraint it has: how far a model is from meeting the bounds
(`gap`), which of two models is better (`merit`), whether an error of zero ends the run (`error_alone`), and the
augmented Lagrangian that a run minimises (:mod:`tensorchain.solvers.constraints.lagrangian`).

A new constraint is a subclass that gives `objective`, `bounds` or `domain`, in the scale of T as given.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tensorchain.evaluation import Evaluator
from tensorchain.models.listing import Listing, public_names
from tensorchain.models.scale import Scale
from tensorchain.solvers.constraints.domain import EVERYWHERE, Domain
from tensorchain.solvers.constraints.quantities import Quantity, Sensitivity, SquaredError

SLACK = 1e-6
"""Relative violation of a bound that counts as met."""
_MOST = 1e150
"""Largest weight and limit where ||T|| = 1: beyond it nothing changes, and products of weights would overflow."""


@dataclass(frozen=True)
class Weighted:
    """A part of the objective, weight * r.

    `relative` says that the weight is a share: weight r / r_0 is added to ||T - X||^2 / ||T||^2, where r_0 is the
    sensitivity of a random start of norm 1.
    """

    quantity: Quantity
    weight: float
    relative: bool = False


@dataclass(frozen=True)
class Bounded:
    """r <= limit.

    `tightens` says that more weight on the sensitivity lowers r (True), raises it (False), or does neither (None):
    how the sensitivity path sees that it has come to the bound.  `relative` says that the limit is one for T / ||T||.
    """

    quantity: Quantity
    limit: float
    tightens: bool | None = None
    relative: bool = False


Values = Mapping[Quantity, float]
"""The quantities of a constraint at one model."""


class Constraint(Listing):
    """No constraint: the least error."""

    @property
    def objective(self) -> tuple[Weighted, ...]:
        """What is minimised, and with which weights."""
        return (Weighted(SquaredError(), 1.0),)

    @property
    def bounds(self) -> tuple[Bounded, ...]:
        """What is bounded."""
        return ()

    @property
    def domain(self) -> Domain:
        """Where the blocks may lie."""
        return EVERYWHERE

    def __and__(self, other: Any) -> Constraint:
        """Both constraints at once."""
        from tensorchain.solvers.constraints.combined import combine

        if not isinstance(other, Constraint):
            return NotImplemented
        return combine(self, other)

    # -- what follows -------------------------------------------------------------------

    @property
    def quantities(self) -> list[Quantity]:
        """All quantities of objective and bounds, each once."""
        minimised, bounded = [part.quantity for part in self.objective], [bound.quantity for bound in self.bounds]
        return list(dict.fromkeys([*minimised, *bounded]))

    def normalised(self, scale: Scale) -> Constraint:
        """The same constraint for T / ||T||.

        Parameters
        ----------
        scale : Scale
            ||T||, and the blocks of the model.

        Returns
        -------
        Constraint
            In the scale ||T|| = 1.
        """
        error = SquaredError()

        def unit(value: float, degree: float) -> float:
            # What is no number at this scale becomes the nearest that is one.
            moved = float(scale.times(value, degree))
            return min(max(moved, sys.float_info.min), _MOST) if value > 0.0 else moved

        # Without the error in it the objective has units of its own, and errors are bounded relative to ||T||.
        priced = any(part.quantity == error for part in self.objective)
        base = error.degree(scale.blocks)
        weights: dict[Quantity, float] = {}
        for part in self.objective:
            weight = part.weight
            if part.relative:
                weight = weight / scale.start_sensitivity
            elif priced:
                weight = unit(weight, part.quantity.degree(scale.blocks) - base)
            weights[part.quantity] = min(weights.get(part.quantity, 0.0) + weight, _MOST)
        tightest: dict[Quantity, Bounded] = {}
        for bound in self.bounds:
            if bound.quantity != error and not bound.relative:
                bound = replace(bound, limit=unit(bound.limit, -bound.quantity.degree(scale.blocks)))
            bound = replace(bound, limit=min(bound.limit, _MOST), relative=False)
            if bound.quantity not in tightest or bound.limit < tightest[bound.quantity].limit:
                tightest[bound.quantity] = bound
        objective = tuple(Weighted(quantity, weight) for quantity, weight in weights.items())
        return Normalised(objective, tuple(tightest.values()), self, self.domain)

    def with_room(self, rounding: float) -> Constraint:
        """The same for ||T|| = 1, with bounds that are met after X and its quantities move by `rounding`.

        Parameters
        ----------
        rounding : float
            Relative, of X and its quantities.

        Returns
        -------
        Constraint
            With bounds that are a little tighter.
        """

        def roomy(bound: Bounded) -> Bounded:
            if bound.quantity != SquaredError():
                return replace(bound, limit=bound.limit * (1.0 - rounding))
            error = math.sqrt(bound.limit)
            return replace(bound, limit=max(error - rounding, 0.5 * error) ** 2)

        return Normalised(self.objective, tuple(map(roomy, self.bounds)), self, self.domain)

    def measured(self, at: Evaluator, error: float | None = None) -> Values:
        """All quantities at the model that the evaluator holds; `error` is ||T - X|| there, where it is at hand.

        Parameters
        ----------
        at : Evaluator
            Which holds the model.
        error : float, optional
            ||T - X|| there, where it is known.

        Returns
        -------
        Values
            By quantity.
        """
        known: dict[Quantity, float] = {} if error is None else {SquaredError(): error**2}
        return {quantity: known[quantity] if quantity in known else quantity.value(at) for quantity in self.quantities}

    def gap(self, values: Values) -> float:
        """Largest relative violation of a bound; 0 where all are met.

        Parameters
        ----------
        values : Values
            Of the quantities at a model.

        Returns
        -------
        float
            0 where all bounds are met.
        """
        worst = 0.0
        for bound in self.bounds:
            excess = values[bound.quantity] / bound.limit - 1.0
            if bound.quantity == SquaredError():
                excess = math.sqrt(excess + 1.0) - 1.0
            worst = max(worst, excess)
        return worst if worst > SLACK else 0.0

    def value(self, values: Values) -> float:
        """The objective.

        Parameters
        ----------
        values : Values
            Of the quantities at a model.

        Returns
        -------
        float
            What is minimised.
        """
        return sum(part.weight * values[part.quantity] for part in self.objective)

    def merit(self, values: Values) -> tuple[float, float]:
        """(violation, objective): the tuple that is smaller is the better model.

        Parameters
        ----------
        values : Values
            Of the quantities at a model.

        Returns
        -------
        tuple of (float, float)
            Violation of the bounds, then the objective.
        """
        return self.gap(values), self.value(values)

    @property
    def error_alone(self) -> bool:
        """Whether the error is all that is minimised: a model without error that meets the bounds is then optimal."""
        parts = [part.quantity for part in self.objective if part.weight > 0.0]
        return parts == [SquaredError()]

    def crossed(self, values: Values) -> bool:
        """Whether a sensitivity path, whose penalty falls, has come to a bound.

        Parameters
        ----------
        values : Values
            Of the quantities at a model.

        Returns
        -------
        bool
            True from the bound on.
        """
        for bound in self.bounds:
            excess = values[bound.quantity] - bound.limit
            if (bound.tightens is True and excess > 0.0) or (bound.tightens is False and excess <= 0.0):
                return True
        return False

    @property
    def ends_path(self) -> bool:
        """Whether there is a bound that a sensitivity path comes to."""
        return any(bound.tightens is not None for bound in self.bounds)

    def along_path(self) -> Constraint:
        """What holds at every penalty of a sensitivity path: all but the bounds that it comes to.

        Returns
        -------
        Constraint
            Without the bounds.
        """
        objective = self.objective
        if not any(part.quantity == SquaredError() for part in objective):
            objective = (Weighted(SquaredError(), 1.0),)
        return Normalised(objective, tuple(b for b in self.bounds if b.tightens is None), self, self.domain)

    @property
    def squared_error_limit(self) -> float:
        """The squared error that is allowed; 0 where less is always better."""
        return min((b.limit for b in self.bounds if b.quantity == SquaredError()), default=0.0)

    @property
    def least_penalty(self) -> float:
        """nu at which a sensitivity path ends: what the constraint itself asks for."""
        if not any(part.quantity == SquaredError() for part in self.objective):
            return 0.0
        return sum(part.weight for part in self.objective if part.quantity == Sensitivity())

    @property
    def allows_gauge(self) -> bool:
        """Whether the gauge of least sensitivity is at least as good as any other."""
        return all(quantity.falls_with_sensitivity for quantity in self.quantities)

    @property
    def free(self) -> bool:
        """Whether nothing is asked but a small error."""
        return self.error_alone and not self.bounds and self.domain.whole


Constraint._hooks = public_names(Constraint)


@dataclass(frozen=True)
class Normalised(Constraint):
    """A constraint in the scale ||T|| = 1."""

    parts: tuple[Weighted, ...]
    limits: tuple[Bounded, ...]
    given: Constraint
    region: Domain = EVERYWHERE

    @property
    def objective(self) -> tuple[Weighted, ...]:
        return self.parts

    @property
    def bounds(self) -> tuple[Bounded, ...]:
        return self.limits

    @property
    def domain(self) -> Domain:
        return self.region

    def __repr__(self) -> str:
        return f"{self.given!r} for the tensor of norm 1"


class Free(Constraint):
    """No constraint: the least error."""

    def __repr__(self) -> str:
        return "Free()"

    def __eq__(self, other: object) -> bool:
        return type(other) is Free

    def __hash__(self) -> int:
        return hash(Free)


@dataclass(frozen=True)
class Within(Constraint):
    """The least error within a domain."""

    region: Domain

    @property
    def domain(self) -> Domain:
        return self.region


def check_number(kind: str, name: str, value: Any, *, allow_zero: bool = False) -> float:
    """A finite number > 0, or >= 0."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{kind}: {name} is {value!r}; a number is needed")
    if not math.isfinite(value) or value < 0 or (value == 0 and not allow_zero):
        raise ValueError(f"{kind}: {name} is {value!r}; a finite number {'>= 0' if allow_zero else '> 0'} is needed")
    return float(value)


def check_flag(kind: str, name: str, value: Any) -> None:
    """True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{kind}: {name} is {value!r}; True or False is needed")
