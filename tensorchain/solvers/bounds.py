"""Meeting a bound exactly: the weight nu of ||T - X||^2 + nu SS, found by a root search.

Along a branch of minimisers SS falls and the error rises with nu, and the minimiser at the nu where
the bound is met with equality solves the bounded problem (it is its Karush-Kuhn-Tucker point).  Both
figures are nearly powers of nu, so the search is a bracketed secant in log nu, each evaluation a
warm-started Levenberg-Marquardt run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorchain.evaluation import Evaluator
from tensorchain.fit import StopReason
from tensorchain.solvers.constraints import Constraint, ErrorBound, SensitivityBound
from tensorchain.solvers.loop import Stage, Steps

if TYPE_CHECKING:
    from tensorchain.solvers.lm import LM, Point

_TOL = 1e-3
_MAX_EVALUATIONS = 30
_MAX_BRACKET = 24


@dataclass(frozen=True)
class Anchor:
    """A minimiser, its nu, and log(figure / limit), which falls as the model becomes more tame."""

    penalty: float
    point: Point
    gap: float


def gap(constraint: Constraint, point: Point) -> float:
    """Positive where nu must rise: log(SS / s), or log(e / error)."""
    if isinstance(constraint, SensitivityBound):
        return math.log(max(point.sensitivity, 1e-300) / constraint.limit)
    if isinstance(constraint, ErrorBound):
        return math.log(constraint.limit / max(point.error, 1e-300))
    raise TypeError(f"{constraint!r} is not a bound; SensitivityBound and ErrorBound are")


def meet_bound(solver: LM, evaluator: Evaluator, constraint: Constraint, point: Point) -> Steps:
    """From any point to the bound."""
    penalty = max(point.error**2, 1e-12) / max(point.sensitivity, 1e-300)
    here = yield from _evaluate(solver, evaluator, constraint, point, penalty)
    yield from bracket(solver, evaluator, constraint, here)
    return StopReason.CONVERGED


def bracket(solver: LM, evaluator: Evaluator, constraint: Constraint, here: Anchor) -> Stage[Point]:
    """Move nu by decades until the bound is crossed, then close in on it."""
    rising = here.gap > 0.0
    for _ in range(_MAX_BRACKET):
        there = yield from _evaluate(
            solver, evaluator, constraint, here.point, here.penalty * (10.0 if rising else 0.1)
        )
        if (there.gap > 0.0) != rising:
            low, high = (here, there) if rising else (there, here)
            return (yield from close_in(solver, evaluator, constraint, low, high))
        here = there
    if rising:
        return here.point
    # The bound never binds: what is left is the problem without it.
    point, _ = yield from solver.stage(evaluator, here.point, 0.0)
    return point


def close_in(solver: LM, evaluator: Evaluator, constraint: Constraint, low: Anchor, high: Anchor) -> Stage[Point]:
    """Root search between anchors with gap(low) > 0 >= gap(high) and low.penalty < high.penalty."""
    previous = math.inf
    for _ in range(_MAX_EVALUATIONS):
        width = math.log(high.penalty / low.penalty)
        if width < 1e-9:
            break
        share = low.gap / (low.gap - high.gap)
        if not 0.02 < share < 0.98 or width > 0.7 * previous:
            share = 0.5
        previous = width
        penalty = low.penalty * math.exp(share * width)
        # The tamer side is the safer start: it cannot have run off along a divergent branch.
        middle = yield from _evaluate(solver, evaluator, constraint, high.point, penalty)
        if middle.gap > 0.0:
            low = middle
        else:
            high = middle
        feasible = constraint.feasible(middle.point.error, middle.point.sensitivity)
        if feasible and abs(middle.gap) < _TOL:
            return middle.point
    return high.point if isinstance(constraint, SensitivityBound) else low.point


def anchor(constraint: Constraint, point: Point, penalty: float) -> Anchor:
    """Anchor at a minimiser that is already there."""
    return Anchor(penalty, point, gap(constraint, point))


def _evaluate(solver: LM, evaluator: Evaluator, constraint: Constraint, point: Point, penalty: float) -> Stage[Anchor]:
    minimiser, _ = yield from solver.stage(evaluator, point, penalty)
    return anchor(constraint, minimiser, penalty)
