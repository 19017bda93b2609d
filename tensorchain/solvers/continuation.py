"""The sensitivity path: Levenberg-Marquardt on ||T - X||^2 + nu SS with nu lowered in steps to zero.

A strong penalty makes the first problem nearly convex and keeps the blocks bounded; lowered in steps it
leads around the swamps in which blocks diverge and cancel.  All figures are in the scale ||T|| = 1.

**Start.**  The unit of nu is 1 / SS of a balanced random start of norm 1; the first penalty is `share` of it.
The start itself is scaled by <X, T> / <X, X>.

**Stages.**  nu falls by `factor`; each stage is a short warm-started LM run.  Two figures tell where the path
leads: the slope s = d log(error) / d log(nu) and the ratio r = nu SS / error^2.

    s > 0.7 and r > 3    *attained*: the error is only what the penalty costs; go to nu = 0 at once
    s < 0.1 and r < 1    *plateau*: the penalty no longer matters; the noise level, or a wrong basin
    nu at its smallest   *degenerate*: SS grows as a power of 1/nu while the error creeps: no best approximation

**Restarts.**  Too strong a first penalty can lead into the basin of a tamer decomposition that misses
components (for the matrix multiplication tensor: 23 of the 27 standard components, at a third of the
sensitivity of the exact solution), which no collapse of norms or ranks betrays.  So a path that ends on a plateau
is run again from a fresh random start on the next rung, `share` * factor^(0, -4, -6), until three paths agree
or `cycles` is reached.  A warm start is not thrown away: its path starts where nu SS equals its misfit.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tensorchain.fit import StopReason
from tensorchain.models import Model
from tensorchain.solvers.bounds import anchor, bracket, close_in
from tensorchain.solvers.constraints import Constraint, ErrorBound, Penalty, SensitivityBound
from tensorchain.solvers.lm import LM, Point, check_options
from tensorchain.solvers.loop import Problem, Stage, Steps
from tensorchain.stability.gauge import optimal_gauge
from tensorchain.tensors import Tensor

_RUNGS = (0, 4, 6)
_JUMP_ITERATIONS = 15
_CONFIRMATIONS = 2


class Ending(enum.Enum):
    """Where a path led."""

    EXACT = enum.auto()
    ATTAINED = enum.auto()
    PLATEAU = enum.auto()
    DEGENERATE = enum.auto()
    FLOOR = enum.auto()
    BOUND = enum.auto()
    MISSED = enum.auto()


@dataclass(frozen=True)
class Continuation:
    """The sensitivity path, the default solver.

    Parameters
    ----------
    share : first penalty, as nu * SS of a balanced random start of norm 1.
    factor : by which nu is lowered from one stage to the next.
    smallest : penalty below which a path that is still falling is called degenerate.
    stage_iter, stage_tol : iteration limit and relative tolerance of each stage.
    cycles : most paths from fresh random starts; 1 for a single path.
    restart_above : a plateau at a lower error than this is not questioned by a restart.
    max_iter, tol, exact : as in `LM`, for the last stage of a path.
    """

    share: float = 1.5
    factor: float = 3.0
    smallest: float = 1e-16
    stage_iter: int = 100
    stage_tol: float = 1e-4
    cycles: int = 6
    restart_above: float = 1e-3
    max_iter: int = 300
    tol: float = 1e-9
    exact: float = 1e-13

    def __post_init__(self) -> None:
        check_options(
            "Continuation", max_iter=self.max_iter, max_stage_iter=self.stage_iter, max_cycles=self.cycles,
            tol=self.tol, exact=self.exact, share=self.share, smallest=self.smallest,
        )  # fmt: skip
        if not self.factor > 1.0:
            raise ValueError(f"Continuation: factor is {self.factor!r}; it must be above 1, so that the penalty falls")

    def steps(self, problem: Problem, start: Model) -> Steps:
        """Iterate from `start`."""
        tensor, constraint = problem.tensor, problem.constraint
        floor = constraint.weight if isinstance(constraint, Penalty) else 0.0
        best: Point | None = None
        best_ending, hits = Ending.MISSED, 0
        for departure, penalty in self._departures(problem, start):
            yield departure.iterate(max(penalty, floor))
            point, ending = yield from self._path(tensor, constraint, departure, penalty, floor)
            hit = best is not None and self._agree(constraint, best, best_ending, point, ending)
            if best is None or _merit(constraint, point) < _merit(constraint, best):
                best, best_ending, hits = point, ending, int(hit)
            else:
                hits += hit
            if best_ending is Ending.EXACT or self._settled(constraint, best, best_ending):
                break
            if hits >= (1 if best_ending is Ending.DEGENERATE else _CONFIRMATIONS):
                break
        assert best is not None
        if best_ending is Ending.PLATEAU:
            _, reason = yield from self._last(self.tol).stage(tensor, best, floor)
            return reason
        return _REASONS[best_ending]

    def _departures(self, problem: Problem, start: Model) -> Iterator[tuple[Point, float]]:
        """Where the paths begin, and with which penalty."""
        tensor = problem.tensor
        if problem.warm:
            point = Point.at(tensor, start, LM.damping)
            yield point, max(point.error**2, self.exact**2) / max(point.sensitivity, 1e-300)
            if isinstance(problem.constraint, (SensitivityBound, ErrorBound)):
                # A start in a swamp cannot be tamed along its own branch: leave it by a stronger penalty.
                unit = self._unit(tensor, start.random_like(problem.rng))[1]
                for rung in reversed(_RUNGS):
                    yield point, self.share * self.factor**-rung * unit
            return
        unit = 0.0
        for cycle in range(self.cycles):
            model = start if cycle == 0 else start.random_like(problem.rng)
            scaled, own_unit = self._unit(tensor, model)
            # One unit for all cycles: their paths pass through the same penalties and can be compared.
            unit = unit or own_unit
            yield Point.at(tensor, scaled, LM.damping), self.share * self.factor ** -_RUNGS[cycle % len(_RUNGS)] * unit

    @staticmethod
    def _unit(tensor: Tensor, model: Model) -> tuple[Model, float]:
        """A random start scaled by <X, T> / <X, X>, and the unit of nu: 1 / SS of the same start at norm 1."""
        size = model.norm()
        if not size > 0.0:
            return model, 1.0
        unit = optimal_gauge(model.scaled(1.0 / size), tol=1e-4)
        sensitivity = float(unit.block_sensitivities().sum())
        # With ||X|| = 1 the best factor is <X, T>.
        factor = complex(np.vdot(unit.matrices[0], tensor.contract_all_but(unit, 0)))
        best = factor if unit.dtype.kind == "c" else factor.real
        if abs(best) < 1e-12:
            return unit, 1.0 / sensitivity
        scaled = unit.scaled(abs(best))
        return scaled.with_matrix(0, scaled.matrices[0] * (best / abs(best))), 1.0 / sensitivity

    def _last(self, tol: float, max_iter: int | None = None) -> LM:
        return LM(max_iter=max_iter or self.max_iter, tol=tol, exact=self.exact)

    def _path(
        self, tensor: Tensor, constraint: Constraint, point: Point, penalty: float, floor: float
    ) -> Stage[tuple[Point, Ending]]:
        """Lower the penalty stage by stage."""
        bounded = isinstance(constraint, (SensitivityBound, ErrorBound))
        inner = LM(max_iter=self.stage_iter, tol=self.stage_tol, exact=0.0 if bounded else self.exact)
        previous: tuple[float, float] | None = None
        tame = None
        ending: Ending | None = None
        while ending is None:
            penalty = max(penalty, floor)
            count = 0
            stage = inner.stage(tensor, point, penalty)
            try:
                while True:
                    yield next(stage)
                    count += 1
            except StopIteration as stop:
                point, reason = stop.value
            if bounded:
                here = anchor(constraint, point, penalty)
                if here.gap > 0.0:
                    solver = self._last(1e-7)
                    if tame is None:
                        met = yield from bracket(solver, tensor, constraint, here)
                    else:
                        met = yield from close_in(solver, tensor, constraint, here, tame)
                    return met, Ending.BOUND
                tame = here
            if reason is StopReason.EXACT:
                return point, Ending.EXACT
            if penalty <= floor:
                ending = Ending.FLOOR
            elif penalty < self.smallest:
                ending = Ending.DEGENERATE
            elif previous is not None:
                slope = math.log(previous[1] / point.error) / math.log(previous[0] / penalty)
                ratio = penalty * point.sensitivity / point.error**2
                if slope < 0.1 and ratio < 1.0:
                    ending = Ending.PLATEAU
                elif slope > 0.7 and ratio > 3.0 and count <= _JUMP_ITERATIONS and not bounded:
                    ending = Ending.ATTAINED
            previous = (penalty, point.error)
            penalty /= self.factor
        if ending is Ending.ATTAINED or (ending is Ending.FLOOR and floor > 0.0):
            point, reason = yield from self._last(self.tol).stage(tensor, point, floor)
            ending = Ending.EXACT if reason is StopReason.EXACT else ending
        elif ending is Ending.PLATEAU:
            point, reason = yield from self._last(1e-6, 15).stage(tensor, point, floor)
        return point, ending

    def _settled(self, constraint: Constraint, point: Point, ending: Ending) -> bool:
        """Whether the error is so small that no component can be missing."""
        sound = ending is not Ending.DEGENERATE and constraint.feasible(point.error, point.sensitivity)
        return sound and point.error <= self.restart_above

    def _agree(self, constraint: Constraint, a: Point, ending_a: Ending, b: Point, ending_b: Ending) -> bool:
        """Whether two paths reached the same objective (and the same sensitivity, where it is finite)."""
        first, second = constraint.merit(a.error, a.sensitivity), constraint.merit(b.error, b.sensitivity)
        if first[0] > 0.0 or second[0] > 0.0:
            return False
        if ending_a is ending_b is Ending.DEGENERATE:
            return abs(first[1] - second[1]) <= 0.05 * first[1]
        close = abs(first[1] - second[1]) <= 1e-3 * first[1]
        return close and abs(a.sensitivity - b.sensitivity) <= 1e-2 * a.sensitivity


_REASONS = {
    Ending.EXACT: StopReason.EXACT,
    Ending.ATTAINED: StopReason.CONVERGED,
    Ending.FLOOR: StopReason.CONVERGED,
    Ending.BOUND: StopReason.CONVERGED,
    Ending.DEGENERATE: StopReason.DIVERGING,
    Ending.MISSED: StopReason.STALLED,
}


def _merit(constraint: Constraint, point: Point) -> tuple[float, float]:
    return constraint.merit(point.error, point.sensitivity)

