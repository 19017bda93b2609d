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
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tensorchain.evaluation import Evaluator
from tensorchain.fit import StopReason
from tensorchain.models import Model
from tensorchain.solvers.bounds import Anchor, anchor, bracket, close_in
from tensorchain.solvers.constraints import Constraint, ErrorBound, Penalty, SensitivityBound
from tensorchain.solvers.lm import LM, Point, check_options
from tensorchain.solvers.loop import Memory, Problem, Stage, Steps, children
from tensorchain.stability.gauge import optimal_gauge

_RUNGS = (0, 4, 6)
_JUMP_ITERATIONS = 15


class Ending(enum.Enum):
    """Where a path led."""

    EXACT = enum.auto()
    ATTAINED = enum.auto()
    PLATEAU = enum.auto()
    DEGENERATE = enum.auto()
    FLOOR = enum.auto()
    UNFINISHED = enum.auto()
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

    def steps(self, problem: Problem, start: Model, memory: Memory | None = None) -> Steps:
        """Iterate from `start`, or go on from the memory of an iterate."""
        evaluator, constraint = problem.tensor.evaluator(start), problem.constraint
        floor = constraint.weight if isinstance(constraint, Penalty) else 0.0
        state = _Search() if memory is None else _Search.recall(memory, evaluator)
        generators = children(problem.rng, max(self.cycles, 1))
        while state.path is not None or state.cycle < self._cycles(problem):
            if state.path is None:
                departure, penalty = self._depart(problem, evaluator, start, state, generators)
                state = replace(state, path=_Path(departure, max(penalty, floor)))
            point, ending = yield from self._path(evaluator, constraint, state, floor)
            state = self._arrived(constraint, state, point, ending)
            if state.ending is Ending.EXACT or self._settled(constraint, state):
                break
            if state.hits >= _CONFIRMATIONS.get(state.ending, 2):
                break
        assert state.best is not None
        if state.ending is Ending.PLATEAU:
            _, reason = yield from self._last(self.tol).stage(evaluator, state.best, floor)
            return reason
        return _REASONS[state.ending]

    def _cycles(self, problem: Problem) -> int:
        bounded = isinstance(problem.constraint, (SensitivityBound, ErrorBound))
        if not problem.warm:
            return self.cycles
        return 1 + len(_RUNGS) if bounded else 1

    def _depart(
        self,
        problem: Problem,
        evaluator: Evaluator,
        start: Model,
        state: _Search,
        generators: Sequence[np.random.Generator],
    ) -> tuple[Point, float]:
        """Where the next path begins, and with which penalty."""
        cycle = state.cycle
        if problem.warm:
            point = Point.at(evaluator, start, LM.damping)
            if cycle == 0:
                return point, max(point.error**2, self.exact**2) / max(point.sensitivity, 1e-300)
            # A start in a swamp cannot be tamed along its own branch: leave it by a stronger penalty.
            unit = self._unit(evaluator, start.random_like(generators[0]))[1]
            return point, self.share * self.factor ** -_RUNGS[-cycle] * unit
        model = start if cycle == 0 else start.random_like(generators[cycle])
        scaled, unit = self._unit(evaluator, model)
        if cycle > 0:
            # One unit for all cycles: their paths pass through the same penalties and can be compared.
            unit = self._unit(evaluator, start)[1]
        return Point.at(evaluator, scaled, LM.damping), self.share * self.factor ** -_RUNGS[cycle % len(_RUNGS)] * unit

    @staticmethod
    def _unit(evaluator: Evaluator, model: Model) -> tuple[Model, float]:
        """A random start scaled by <X, T> / <X, X>, and the unit of nu: 1 / SS of the same start at norm 1."""
        size = model.norm()
        if not size > 0.0:
            return model, 1.0
        unit = optimal_gauge(model.scaled(1.0 / size), tol=1e-4)
        sensitivity = float(unit.block_sensitivities().sum())
        # With ||X|| = 1 the best factor is <X, T>.
        factor = complex(np.vdot(unit.matrices[0], evaluator.tensor.contract_all_but(unit, 0)))
        best = factor if unit.dtype.kind == "c" else factor.real
        if abs(best) < 1e-12:
            return unit, 1.0 / sensitivity
        scaled = unit.scaled(abs(best))
        return scaled.with_matrix(0, scaled.matrices[0] * (best / abs(best))), 1.0 / sensitivity

    def _last(self, tol: float, max_iter: int | None = None) -> LM:
        return LM(max_iter=max_iter or self.max_iter, tol=tol, exact=self.exact)

    def _path(
        self, evaluator: Evaluator, constraint: Constraint, state: _Search, floor: float
    ) -> Stage[tuple[Point, Ending]]:
        """Lower the penalty stage by stage."""
        assert state.path is not None
        path = state.path
        bounded = isinstance(constraint, (SensitivityBound, ErrorBound))
        inner = LM(max_iter=self.stage_iter, tol=self.stage_tol, exact=0.0 if bounded else self.exact)
        while True:
            # Stages are short: an interrupted run goes on from the beginning of one.
            yield replace(path.point.iterate(path.penalty), memory=replace(state, path=path).memory())
            point, reason, count = yield from _counted(inner.stage(evaluator, path.point, path.penalty))
            if bounded:
                here = anchor(constraint, point, path.penalty)
                if here.gap > 0.0:
                    met = yield from self._meet(evaluator, constraint, here, path)
                    return met, Ending.BOUND
            if reason is StopReason.EXACT:
                return point, Ending.EXACT
            ending = self._ending(path, point, count, floor, bounded)
            if ending is not None:
                return (yield from self._finish(evaluator, point, ending, floor))
            path = _Path(
                point=point,
                penalty=max(path.penalty / self.factor, floor),
                previous=(path.penalty, point.error),
                tame=point.model if bounded else None,
            )

    def _ending(self, path: _Path, point: Point, count: int, floor: float, bounded: bool) -> Ending | None:
        """What the stage that led to `point` says of the path; None to go on."""
        penalty = path.penalty
        if penalty <= floor:
            return Ending.FLOOR
        if penalty < self.smallest:
            return Ending.DEGENERATE
        if path.previous is None:
            return None
        slope = math.log(path.previous[1] / point.error) / math.log(path.previous[0] / penalty)
        ratio = penalty * point.sensitivity / point.error**2
        if slope < 0.1 and ratio < 1.0:
            return Ending.PLATEAU
        if slope > 0.7 and ratio > 3.0 and count <= _JUMP_ITERATIONS and not bounded:
            return Ending.ATTAINED
        return None

    def _finish(self, evaluator: Evaluator, point: Point, ending: Ending, floor: float) -> Stage[tuple[Point, Ending]]:
        """The last stage of a path: long where it pays, short on a plateau, none where blocks would diverge."""
        if ending is Ending.ATTAINED or (ending is Ending.FLOOR and floor > 0.0):
            point, reason = yield from self._last(self.tol).stage(evaluator, point, floor)
            if reason is StopReason.EXACT:
                ending = Ending.EXACT
            elif reason is StopReason.ITERATION_LIMIT:
                ending = Ending.UNFINISHED
        elif ending is Ending.PLATEAU:
            point, _ = yield from self._last(1e-6, 15).stage(evaluator, point, floor)
        return point, ending

    def _meet(self, evaluator: Evaluator, constraint: Constraint, here: Anchor, path: _Path) -> Stage[Point]:
        """The bound was crossed in this stage: close in between it and the stage before."""
        solver = LM(max_iter=self.stage_iter, tol=1e-5, exact=0.0)
        if path.tame is None or path.previous is None:
            return (yield from bracket(solver, evaluator, constraint, here))
        tame = anchor(constraint, Point.at(evaluator, path.tame, LM.damping), path.previous[0])
        return (yield from close_in(solver, evaluator, constraint, here, tame))

    def _arrived(self, constraint: Constraint, state: _Search, point: Point, ending: Ending) -> _Search:
        """Compare a finished path with the best one."""
        hit = state.best is not None and self._agree(constraint, state, point, ending)
        if state.best is None or _merit(constraint, point) < _merit(constraint, state.best):
            return _Search(state.cycle + 1, point, ending, int(hit))
        return _Search(state.cycle + 1, state.best, state.ending, state.hits + hit)

    def _settled(self, constraint: Constraint, state: _Search) -> bool:
        """Whether the error is so small that no component can be missing."""
        assert state.best is not None
        sound = state.ending is not Ending.DEGENERATE and _merit(constraint, state.best)[0] <= 0.0
        return sound and state.best.error <= self.restart_above

    def _agree(self, constraint: Constraint, state: _Search, point: Point, ending: Ending) -> bool:
        """Whether two paths reached the same objective (and the same sensitivity, where it is finite)."""
        assert state.best is not None
        first, second = _merit(constraint, state.best), _merit(constraint, point)
        if first[0] > 0.0 or second[0] > 0.0:
            return False
        apart = abs(first[1] - second[1]) / first[1]
        if state.ending is ending and ending in _CONFIRMATIONS:
            return apart <= 0.05 if ending is Ending.DEGENERATE else apart <= 0.02
        return apart <= 1e-3 and abs(state.best.sensitivity - point.sensitivity) <= 1e-2 * state.best.sensitivity


@dataclass(frozen=True)
class _Path:
    """A path at the beginning of a stage: what `_path` needs to go on."""

    point: Point
    penalty: float
    previous: tuple[float, float] | None = None
    """Penalty and error of the stage before."""
    tame: Model | None = None
    """Minimiser of the stage before, where a bound has to be met."""


@dataclass(frozen=True)
class _Search:
    """All paths so far: the best, how it ended, how often it was met again, and the path under way."""

    cycle: int = 0
    best: Point | None = None
    ending: Ending = Ending.MISSED
    hits: int = 0
    path: _Path | None = None

    def memory(self) -> Memory:
        """Plain figures and models, from which `recall` makes the same search."""
        assert self.path is not None
        figures = {
            "cycle": self.cycle,
            "ending": self.ending.name,
            "hits": self.hits,
            "penalty": self.path.penalty,
            "damping": self.path.point.damping,
            "previous": self.path.previous,
            "best_damping": self.best.damping if self.best else None,
        }
        models = {"point": self.path.point.model}
        if self.best is not None:
            models["best"] = self.best.model
        if self.path.tame is not None:
            models["tame"] = self.path.tame
        return Memory(figures, models)

    @classmethod
    def recall(cls, memory: Memory, evaluator: Evaluator) -> _Search:
        """The search that `memory` describes."""
        figures, models = memory.figures, memory.models
        previous = figures["previous"]
        path = _Path(
            point=Point.at(evaluator, models["point"], figures["damping"]),
            penalty=figures["penalty"],
            previous=None if previous is None else (previous[0], previous[1]),
            tame=models.get("tame"),
        )
        best = Point.at(evaluator, models["best"], figures["best_damping"]) if "best" in models else None
        return cls(figures["cycle"], best, Ending[figures["ending"]], figures["hits"], path)


_CONFIRMATIONS = {Ending.DEGENERATE: 1, Ending.BOUND: 1}
"""How many paths must agree with the best one before no other is tried: two, where nothing else is said."""

_REASONS = {
    Ending.EXACT: StopReason.EXACT,
    Ending.ATTAINED: StopReason.CONVERGED,
    Ending.FLOOR: StopReason.CONVERGED,
    Ending.UNFINISHED: StopReason.ITERATION_LIMIT,
    Ending.BOUND: StopReason.CONVERGED,
    Ending.DEGENERATE: StopReason.DIVERGING,
    Ending.MISSED: StopReason.STALLED,
}


def _merit(constraint: Constraint, point: Point) -> tuple[float, float]:
    return constraint.merit(point.error, point.sensitivity)


def _counted(stage: Stage[tuple[Point, StopReason]]) -> Stage[tuple[Point, StopReason, int]]:
    """A stage, with the number of its iterations."""
    count = 0
    while True:
        try:
            iterate = next(stage)
        except StopIteration as stop:
            return *stop.value, count
        yield iterate
        count += 1
