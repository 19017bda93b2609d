"""The augmented Lagrangian of a constrained fit, which sweeps and joint steps minimise.

For bounds r <= limit with h = r / limit - 1 (Powell, Hestenes and Rockafellar)

    phi = sum_j w_j r_j + sum_b psi_b(r_b),
    psi(r) = limit / (2 rho) * (max(0, w + rho h)^2 - w^2),        psi'(r) = max(0, w + rho h),

where w >= 0 is the multiplier: at a solution psi' = w, and w h = 0.  Every psi is convex and does not fall, so phi is
convex in each block, and a step of Newton's kind has the matrix

    sum_j psi_j' A_j + 2 psi_j'' v_j v_j^H,        v_j half the gradient of r_j, A_j half of its curvature:

that of a penalised problem, and one rank for each bound that is active.  When phi no longer falls, `updated` takes
w <- psi'(r), which divides the distance to the right multiplier by 1 + rho times the slope of log r in log w.

**Far from a bound** its limit is approached in stages (`stage`), at most a factor of ten in r at once: pulled down
hard, a model that has blown up would lose the tensor.

**Units.**  The weight of the squared error stays near one, so that damping means the same everywhere.  Where the error
is what is bounded (min SS subject to ||T - X|| <= e), the weight of the objective moves instead.

References: Nocedal and Wright, "Numerical Optimization" (2006), section 17.3; Bertsekas, "Constrained Optimization and
Lagrange Multiplier Methods" (1982), chapter 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy

from tensorchain.evaluation import Evaluator
from tensorchain.kernels import Array
from tensorchain.solvers.constraints.base import SLACK, Bounded, Constraint, Values
from tensorchain.solvers.constraints.quantities import Quantity, Sensitivity, SquaredError

_STIFFNESS, _STIFFEST = 10.0, 1e4
"""rho over w at the beginning, and at most."""
_LEAST_WEIGHT, _MOST_WEIGHT = 1e-3, 10.0
"""Range of the weight of a bounded error that is believed: beyond the bound it is only a push, within it a ratio."""
_LOOSE, _TIGHT = 1e-2, 0.1
"""Decrease of phi at which multipliers are updated: shares of the Lagrangian, and of what is owed to wrong ones."""
FRUITLESS = 12
"""Updates of the multipliers in a row that bring no bound closer, after which a run ends."""
_STEP = 10.0
"""Factor by which r has to fall in a stage at most."""
_ACTIVE = 1e-3
"""Relative distance to a limit within which a bound may have a multiplier."""
_SHRINKING = 0.1
_SHARE = 1e-3
"""First multiplier of a bound that is violated or met: share of the objective at the start."""


@dataclass(frozen=True)
class Term:
    """psi(r): weight * r, or that of a bound."""

    quantity: Quantity
    weight: float
    limit: float | None = None
    rho: float = 0.0
    target: float = 0.0
    """The limit in the end; `limit` is that of the stage."""
    violation: float = float("inf")
    """How far r was from its limit in the end at the last update, as in `miss`."""

    def slope(self, value: float) -> float:
        """psi'."""
        return self.weight if self.limit is None else max(0.0, self.weight + self.rho * (value / self.limit - 1.0))

    def psi(self, value: float) -> float:
        """Value of the term."""
        if self.limit is None:
            return self.weight * value
        return self.limit / (2.0 * self.rho) * (self.slope(value) ** 2 - self.weight**2)

    def bend(self, value: float) -> float:
        """psi''."""
        return 0.0 if self.limit is None or self.slope(value) == 0.0 else self.rho / self.limit

    def miss(self, value: float) -> float:
        """How far r is from where w asks it to be: |h|, or w / rho on a bound that is not active."""
        assert self.limit is not None
        return abs(max(value / self.limit - 1.0, -self.weight / self.rho))


@dataclass(frozen=True)
class Lagrangian:
    """phi, at one set of multipliers; immutable.

    `extra` is a weight on the sensitivity beside the constraint: that of the sensitivity path.
    """

    terms: tuple[Term, ...]
    extra: float = 0.0

    @classmethod
    def of(
        cls, constraint: Constraint, values: Values, *, penalty: float | None = None, extra: float = 0.0
    ) -> Lagrangian:
        """Multipliers to begin with.

        Parameters
        ----------
        constraint : Constraint
            In the scale ||T|| = 1.
        values : Values
            Its quantities where the run begins.
        penalty : float, optional
            nu at which the bounds are nearly met, where it is known.
        extra : float, default 0.0
            Weight on the sensitivity beside the constraint.
        """
        terms = [Term(part.quantity, part.weight) for part in constraint.objective if part.weight > 0.0]
        size = max(sum(term.psi(values[term.quantity]) for term in terms), 1e-30)
        if constraint.bounds and all(term.quantity != SquaredError() for term in terms):
            # The bounded error weighs 1, and the objective nu.
            error = next((b for b in constraint.bounds if b.quantity == SquaredError()), None)
            assert error is not None
            nu = penalty or _first_price(values[error.quantity], error.limit) / size
            terms = [replace(term, weight=nu * term.weight) for term in terms]
            size = max(error.limit, 1e-30)
        for bound in constraint.bounds:
            terms.append(_begun(bound, values[bound.quantity], size, penalty))
        return cls(tuple(terms), extra)

    @classmethod
    def fitted(cls, constraint: Constraint, at: Evaluator, values: Values) -> Lagrangian:
        """The Lagrangian whose multipliers bring its gradient closest to zero, at the model that is held.

        A bound that is not reached has the multiplier zero.
        """
        terms = [Term(part.quantity, part.weight) for part in constraint.objective if part.weight > 0.0]
        active = [b for b in constraint.bounds if values[b.quantity] >= (1.0 - _ACTIVE) * b.limit]
        if active:
            target = _stacked([(term.weight, term.quantity.half_gradient(at)) for term in terms], at)
            columns = np.stack([_stacked([(1.0, b.quantity.half_gradient(at))], at) for b in active], axis=1)
            inside = constraint.domain.movable(at.model)
            if inside is not None:
                # At the edge, and in fixed blocks, a gradient need not vanish; complex entries count twice.
                inside = np.tile(inside, len(target) // len(inside))
                target, columns = target[inside], columns[inside]
            sizes = np.maximum(np.linalg.norm(columns, axis=0), np.finfo(float).tiny)
            weights = scipy.optimize.nnls(columns / sizes, -target)[0] / sizes
            terms += [Term(b.quantity, float(weight)) for b, weight in zip(active, weights, strict=True)]
        return cls(tuple(terms))

    # -- values -------------------------------------------------------------------------

    @property
    def quantities(self) -> list[Quantity]:
        """All quantities, each once."""
        found = [term.quantity for term in self.terms] + ([Sensitivity()] if self.extra else [])
        return list(dict.fromkeys(found))

    def values(self, at: Evaluator) -> dict[Quantity, float]:
        """All quantities at the model that the evaluator holds."""
        return {quantity: quantity.value(at) for quantity in self.quantities}

    def value(self, values: Values) -> float:
        """phi.

        Parameters
        ----------
        values : Values
            Of the quantities at a model.

        Returns
        -------
        float
            What is minimised.
        """
        return sum(term.psi(values[term.quantity]) for term in self.terms) + self._extra_value(values)

    def size(self, values: Values) -> float:
        """The Lagrangian sum_j psi_j' r_j: the scale of what a decrease is compared with."""
        return sum(weight * values[quantity] for quantity, weight in self.weights(values).items())

    def _extra_value(self, values: Values) -> float:
        return self.extra * values[Sensitivity()] if self.extra else 0.0

    def weights(self, values: Values) -> dict[Quantity, float]:
        """psi_j' summed for each quantity."""
        found: dict[Quantity, float] = {}
        for term in self.terms:
            found[term.quantity] = found.get(term.quantity, 0.0) + term.slope(values[term.quantity])
        if self.extra:
            found[Sensitivity()] = found.get(Sensitivity(), 0.0) + self.extra
        return found

    def bends(self, values: Values) -> dict[Quantity, float]:
        """psi_j'' summed for each quantity, where not zero."""
        found: dict[Quantity, float] = {}
        for term in self.terms:
            bend = term.bend(values[term.quantity])
            if bend > 0.0:
                found[term.quantity] = found.get(term.quantity, 0.0) + bend
        return found

    def penalty(self, values: Values) -> float:
        """nu: weight of SS over that of the squared error."""
        weights = self.weights(values)
        error = weights.get(SquaredError(), 0.0)
        if error > 0.0:
            return weights.get(Sensitivity(), 0.0) / error
        return self.objective_weight

    @property
    def objective_weight(self) -> float:
        """Weight of SS that is not a bound's."""
        return self.extra + sum(t.weight for t in self.terms if t.limit is None and t.quantity == Sensitivity())

    # -- multipliers --------------------------------------------------------------------

    @property
    def bounded(self) -> bool:
        """Whether there are multipliers."""
        return any(term.limit is not None for term in self.terms)

    def settled(self, values: Values) -> bool:
        """Whether every bound has its limit and its multiplier, to the slack."""
        return all(
            term.limit == term.target and term.miss(values[term.quantity]) <= 0.5 * SLACK for term in self._bounds()
        )

    def slow(self, values: Values, tol: float) -> float:
        """Decrease of phi below which its minimum is not waited for.

        Once the multipliers are right this is a share `tol` of the Lagrangian.  Before, it is a part of what phi owes
        to wrong ones, rho limit h^2 / 2 for each bound.
        """
        size = self.size(values)
        if self.settled(values):
            return tol * size
        owed = sum(0.5 * t.rho * t.limit * t.miss(values[t.quantity]) ** 2 for t in self._bounds() if t.limit)
        return max(tol * size, min(_LOOSE * size, _TIGHT * owed))

    @property
    def violation(self) -> float:
        """How far the bounds were from what their multipliers asked for at the last update."""
        return max((term.violation for term in self._bounds()), default=0.0)

    def updated(self, values: Values) -> Lagrangian:
        """The multipliers after phi has been minimised."""
        terms = tuple(_updated(term, values[term.quantity]) for term in self.terms)
        error = next((t for t in terms if t.quantity == SquaredError()), None)
        if error is None or error.limit is None or any(t.limit is None and t.quantity == error.quantity for t in terms):
            return replace(self, terms=terms)
        # The error weighs 1 again: the objective moves instead.
        factor = 1.0 / min(max(error.weight, _LEAST_WEIGHT), _MOST_WEIGHT)
        rescaled = [replace(t, weight=t.weight * factor, rho=t.rho * factor) for t in terms if t is not error]
        return Lagrangian((*rescaled, replace(error, weight=1.0)), self.extra * factor)

    def next(self, values: Values, fruitless: int) -> tuple[Lagrangian, int]:
        """The updated multipliers, and how many updates in a row have brought no bound closer, this one included."""
        updated = self.updated(values)
        return updated, fruitless + 1 if updated.violation > 0.9 * self.violation else 0

    def _bounds(self) -> Iterator[Term]:
        return (term for term in self.terms if term.limit is not None)

    # -- in plain numbers ---------------------------------------------------------------

    def figures(self) -> dict[str, Any]:
        """For a checkpoint."""
        rows = [
            [t.weight, t.limit, t.rho, t.target, t.violation if np.isfinite(t.violation) else None] for t in self.terms
        ]
        return {"terms": rows, "extra": self.extra}

    def recalled(self, figures: dict[str, Any]) -> Lagrangian:
        """The one whose figures these are, for the constraint that this one is made of."""
        terms = []
        for term, (weight, limit, rho, target, violation) in zip(self.terms, figures["terms"], strict=True):
            missed = float("inf") if violation is None else violation
            terms.append(replace(term, weight=weight, limit=limit, rho=rho, target=target, violation=missed))
        return Lagrangian(tuple(terms), figures["extra"])


def half_gradient(lagrangian: Lagrangian, values: Values, at: Evaluator) -> list[Array]:
    """Half the gradient of phi, block by block."""
    total: list[Array] = [np.zeros_like(matrix) for matrix in at.model.matrices]
    for quantity, weight in lagrangian.weights(values).items():
        if weight == 0.0:
            continue
        for k, part in enumerate(quantity.half_gradient(at)):
            if part is not None:
                total[k] = total[k] + weight * part
    return total


def _stacked(parts: list[tuple[float, list[Array | None]]], at: Evaluator) -> Array:
    """A weighted sum of gradients as one real vector."""
    flat = []
    for k, matrix in enumerate(at.model.matrices):
        total = np.zeros_like(matrix)
        for weight, gradient in parts:
            part = gradient[k]
            if part is not None:
                total = total + weight * part
        flat.append(total.ravel())
    vector = np.concatenate(flat)
    return np.concatenate([vector.real, vector.imag]) if vector.dtype.kind == "c" else vector


def _first_price(square: float, limit: float) -> float:
    """nu SS to begin with, under a bound on the squared error.

    Shrinking X by a share d costs an error d and takes about d off SS, so that nu SS is about the error that is left
    to give times the error in the end; where none is left, a share of the misfit.
    """
    left = math.sqrt(max(limit - square, 0.0))
    return max(0.3 * left * math.sqrt(limit), _SHARE * max(square, limit))


def _begun(bound: Bounded, value: float, size: float, penalty: float | None) -> Term:
    # What it would cost to shrink X into the bound, where the error at the start says nothing of the error in the end.
    size = max(size, _SHRINKING * max(1.0 - bound.limit / value, 0.0) ** 2) if value > 0.0 else size
    limit = max(bound.limit, value / _STEP)
    if bound.quantity == SquaredError():
        weight = 1.0
    elif penalty is not None and bound.quantity == Sensitivity():
        weight = penalty
    else:
        weight = _SHARE * size / limit
    rho = _STIFFNESS * max(weight, 0.1 * size / limit)
    return Term(bound.quantity, weight, limit, rho, bound.limit)


def _updated(term: Term, value: float) -> Term:
    if term.limit is None:
        return term
    staged, weight, rho = term.limit > term.target, term.slope(value), term.rho
    violation = replace(term, limit=term.target).miss(value)
    if violation > 0.25 * term.violation and not staged:
        # The multiplier comes too slowly.
        rho = min(4.0 * rho, max(_STIFFEST * weight, rho))
    limit = max(term.target, min(term.limit, value / _STEP))
    return replace(term, weight=weight, limit=limit, rho=rho, violation=violation)
