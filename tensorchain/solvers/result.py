"""From the best iterate to what is returned: the model in its gauge, scale and precision, and *its* figures.

Solvers work in double precision on T / ||T||.  What the user gets has another gauge, another scale and the precision of
the data, and blocks that nearly cancel may survive none of these.  So the candidates below are built in turn, each is
measured on the data, in double precision, and the first that is as good as the iterate is returned, or else the best:

1. the iterate in the gauge of least sensitivity;
2. the iterate as it is;
3. for data in single precision, iterates whose sensitivity was lowered until they survive the rounding of their blocks:
   rounding to a relative step u adds about u^2 SS to the squared error where ||T|| = 1, for entries of order one, so
   that is the penalty, and larger ones if need be;
4. the start.

Error, sensitivity and reason of the Fit are those of that very model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tensorchain.evaluation import Evaluator
from tensorchain.models import Model
from tensorchain.solvers.als import balanced, constrained_sweep
from tensorchain.solvers.constraints import Lagrangian, Penalty
from tensorchain.solvers.constraints.base import Normalised, Values
from tensorchain.solvers.loop import Run
from tensorchain.solvers.problem import Ended, Iterate, Problem, Solver
from tensorchain.solvers.reasons import EXACT, Measured, judged, optimality

_TOLERANCE, _ROUNDING = 1e-6, 1e-13
"""Relative and absolute (in the scale ||T|| = 1) rise of the merit that counts as rounding."""
_SWEEPS = 20
_FACTORS = (1.0, 1e2, 1e4, 1e6)
_HURRIED = 1 << 26
"""Most products of X that are made in extended precision when the time is up: some tenths of a second."""


@dataclass(frozen=True)
class Result:
    """What is returned, for T as given.

    Attributes
    ----------
    model : Model
        In the scale and the dtype of T.
    error : float
        ||T - X|| / ||T|| of that model.
    merit : tuple of (float, float)
        (gap, objective) of that model in the scale ||T|| = 1.
    at : Evaluator or None
        Holds that model, scaled to ||T|| = 1; None where the data were not read again.
    values : Values
        The quantities of the constraint there.
    as_iterated : bool
        Whether it is as good as the best iterate, up to rounding.
    """

    model: Model
    error: float
    merit: tuple[float, float]
    at: Evaluator | None
    values: Values = field(default_factory=dict)
    as_iterated: bool = False


@dataclass(frozen=True)
class Given:
    """The start as it was given, in the scale ||T|| = 1.

    Attributes
    ----------
    model : Model
        The start.
    merit : tuple of (float, float) or None
        Of it, where the run did not begin with that very model; None where it did.
    """

    model: Model
    merit: tuple[float, float] | None = None


def finished(
    problem: Problem, best: Iterate, start: Given, *, norm: float, dtype: np.dtype[Any], measure: bool = True
) -> Result:
    """The model to return, and its figures.

    Parameters
    ----------
    problem : Problem
        That was solved, of the tensor of norm 1.
    best : Iterate
        The best iterate.
    start : Given
        A run is never worse.
    norm : float
        ||T||.
    dtype : dtype
        Of the model that is returned.
    measure : bool, default True
        Whether the data are read again where the error is an estimate.
    """
    estimate = best.standard_error is not None and not measure
    found: Result | None = None
    wanted = min(merit for merit in (best.merit or (0.0, best.error**2), start.merit) if merit is not None)
    rounding = max(_ROUNDING, 10.0 * float(np.finfo(dtype).eps) if dtype == np.float32 else 0.0)
    for candidate in _candidates(problem, best, start.model, dtype):
        result = _measured(problem, candidate, norm, dtype, best.error if estimate else None)
        good = _as_good(result.merit, wanted, rounding)
        if found is None or result.merit < found.merit:
            found = replace(result, as_iterated=good)
        if estimate or good:
            break
    assert found is not None
    return found


def reason_of(outcome: Run, problem: Problem, result: Result, solver: Solver) -> Ended:
    """Why the run ended, as the model that is returned bears it out, and how far that is from a solution."""
    if result.at is None:
        return Ended(outcome.reason)
    measured = Measured(result.at, problem.constraint, result.values, result.error)
    left = outcome.optimality if result.as_iterated else None
    if not problem.constraint.domain.whole and not problem.clock.expired:
        left = optimality(measured)
    ended = Ended(outcome.reason, left)
    exact, tol = max(getattr(solver, "exact", 0.0), EXACT), getattr(solver, "tol", 0.0)
    if result.model.dtype == np.float32:
        # Blocks are rounded too.
        exact = max(exact, 2.0 * float(np.finfo(np.float32).eps))
    return replace(ended, reason=judged(ended, measured, outcome.history, exact=exact, tol=tol))


def _candidates(problem: Problem, best: Iterate, start: Model, dtype: np.dtype[Any]) -> Iterator[Model]:
    if problem.constraint.allows_gauge:
        yield problem.constraint.domain.optimal_gauge(best.model)
    yield best.model
    if dtype == np.float32:
        yield from _survivors(problem, best.model)
    yield start


def _survivors(problem: Problem, model: Model) -> Iterator[Model]:
    """Models close to this one that lose less when their blocks are rounded to single precision."""
    step = float(np.finfo(np.float32).eps)
    if not all(np.all(np.isfinite(matrix)) for matrix in model.matrices):
        return
    domain = problem.constraint.domain
    current = domain.optimal_gauge(balanced(model, domain.fixed(model.network)))
    for factor in _FACTORS:
        priced = Penalty(step**2 * factor)
        constraint = Normalised(priced.objective, (), priced, domain)
        relaxed = replace(problem, constraint=constraint)
        at = relaxed.evaluator(current)
        lagrangian = Lagrangian.of(constraint, constraint.measured(at))
        values = lagrangian.values(at)
        for _ in range(_SWEEPS):
            if problem.clock.expired:
                return
            values = constrained_sweep(relaxed, at, lagrangian, values)
        yield at.model


def _measured(problem: Problem, model: Model, norm: float, dtype: np.dtype[Any], estimate: float | None) -> Result:
    """The model as it is returned, measured on the data."""
    with np.errstate(all="ignore"):
        returned = problem.constraint.domain.as_given(model.scaled(norm).astype(dtype))
        double = np.dtype(np.complex128 if dtype.kind == "c" else np.float64)
        unit = returned.astype(double).scaled(1.0 / norm)
        if estimate is not None:
            return Result(returned, estimate, (0.0, estimate**2), None)
        if not all(np.all(np.isfinite(matrix)) for matrix in unit.matrices):
            return Result(returned, math.inf, (math.inf, math.inf), None)
        at, constraint = problem.evaluator(unit), problem.constraint
        hurried = problem.clock.expired and problem.tensor.n_observed * max(unit.network.widths) > _HURRIED
        error = problem.tensor.residual_norm(unit) if hurried else problem.tensor.exact_error(unit)
        values = constraint.measured(at, error)
        return Result(returned, error, constraint.merit(values), at, values)


def _as_good(one: tuple[float, float], other: tuple[float, float], rounding: float) -> bool:
    """Whether a merit is that of the iterate, up to rounding."""
    gap = one[0] <= other[0] * (1.0 + _TOLERANCE) + 1e-9
    # An objective is a square: so is the rise that rounding may cause.
    return gap and math.sqrt(max(one[1], 0.0)) <= math.sqrt(max(other[1], 0.0)) * (1.0 + _TOLERANCE) + rounding
