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

**Restarts.**  Too strong a first penalty can lead into the basin of a less sensitive decomposition that misses
components (for the matrix multiplication tensor: 23 of the 27 standard components, at a third of the
sensitivity of the exact solution), which no collapse of norms or ranks betrays.  So a path that ends on a plateau
is run again from a fresh random start on the next level, `share` * factor^(0, -4, -6), until three paths agree
or `cycles` is reached.  A warm start is not thrown away: its path starts where nu SS equals its misfit.

**Bounds.** A bound on the sensitivity or on the error is met somewhere along the path. The stage that crosses it is
run again from the minimiser before it, with the bound and its multiplier in place of the penalty: the less sensitive
side is the safer start, since it cannot have run off along a divergent branch.
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
from tensorchain.solvers.constraints import Lagrangian
from tensorchain.solvers.lm import LM, State, check_options
from tensorchain.solvers.loop import children
from tensorchain.solvers.problem import Ended, Memory, Problem, Stage, Steps, iterate_at
from tensorchain.solvers.revive import revived, spare_parts

_LEVELS = (0, 4, 6)
"""Powers of `factor` by which the first penalties of successive paths are lower."""
_JUMP_ITERATIONS = 15
_BOUND_TOL = 1e-8
_REVIVALS = 3
"""How often dead components are set anew on a path, at most."""


class Outcome(enum.Enum):
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
class Path:
    """The sensitivity path: Levenberg-Marquardt with a penalty on the sensitivity that is lowered in steps.

    Parameters
    ----------
    share : float
        First penalty, as nu * SS of a balanced random start of norm 1.
    factor : float
        By which nu is lowered from one stage to the next.
    smallest : float
        Penalty below which a path that is still falling is called degenerate.
    stage_iter, stage_tol : int, float
        Iteration limit and relative tolerance of each stage.
    cycles : int
        Most paths from fresh random starts; 1 for a single path.
    first_cycle : int
        Cycles that lie behind, so that the first path is that of this one: 1 for a weaker first penalty.
    levels : tuple of int
        Powers of `factor` by which the first penalties of successive paths are lower.
    run_off : float
        Growth of SS since the first stage of a path beyond which it is left as degenerate.
    restart_above : float
        A plateau at a lower error than this is not questioned by a restart.
    finish : bool
        Whether the best plateau is followed to the tolerance; without it the fit ends as ITERATION_LIMIT there.
    max_iter, tol, exact : int, float, float
        As in `LM`, for the last stage of a path.

    Raises
    ------
    TypeError
        When an option is not a number.
    ValueError
        When an option is out of range.

    See Also
    --------
    tensorchain.Auto : The default, which takes this path where cheap starts do not agree.
    tensorchain.degeneracy_profile : The path as a curve.

    References
    ----------
    Phan et al., "How to train your unstable looped tensor network" (2022), for the control of sensitivity.

    Examples
    --------
    >>> import tensorchain as tc
    >>> chain = tc.TensorChain.random((5, 5, 5), 2, rng=0)
    >>> tc.decompose(chain.full(), "tc", rank=2, solver=tc.Path(), rng=0).error < 1e-10
    True
    """

    share: float = 1.5
    factor: float = 3.0
    smallest: float = 1e-16
    stage_iter: int = 100
    stage_tol: float = 1e-4
    cycles: int = 6
    first_cycle: int = 0
    levels: tuple[int, ...] = _LEVELS
    run_off: float = math.inf
    restart_above: float = 1e-3
    finish: bool = True
    max_iter: int = 300
    tol: float = 1e-9
    exact: float = 1e-13

    def __post_init__(self) -> None:
        check_options(
            "Path", max_iter=self.max_iter, max_stage_iter=self.stage_iter, max_cycles=self.cycles,
            tol=self.tol, exact=self.exact, share=self.share, smallest=self.smallest,
        )  # fmt: skip
        if not self.factor > 1.0:
            raise ValueError(f"Path: factor is {self.factor!r}; it must be above 1, so that the penalty falls")

    def steps(self, problem: Problem, start: Model, memory: Memory | None = None) -> Steps:
        """Iterate from `start`, or go on from the memory of an iterate.

        Parameters
        ----------
        problem : Problem
            The data, the constraint and the clock.
        start : Model
            The first model.
        memory : Memory, optional
            Of an iterate from which to go on.

        Returns
        -------
        Steps
            Iterates, and at the end why it stopped.
        """
        walk = _Walk(self, problem, start)
        first = 0 if problem.warm else self.first_cycle
        search = Search(first) if memory is None else Search.recall(memory)
        generators = children(problem.rng, first + max(self.cycles, 1))
        while search.path is not None or search.cycle < first + self._cycles(problem):
            if search.path is None:
                search = replace(search, path=walk.departure(search, generators))
            point, outcome = yield from walk.along(search)
            search = walk.arrived(search, point, outcome)
            if search.outcome is Outcome.EXACT or walk.settled(search):
                break
            if search.hits >= _CONFIRMATIONS.get(search.outcome, 2):
                break
        assert search.best is not None
        if search.outcome is Outcome.PLATEAU and self.finish:
            return (yield from walk.finish(search.best))
        return Ended(_REASONS[search.outcome])

    def _cycles(self, problem: Problem) -> int:
        if not problem.warm:
            return self.cycles
        return 1 + len(_LEVELS) if problem.constraint.ends_path else 1


@dataclass(frozen=True)
class Point:
    """A minimiser, with what its comparison needs."""

    model: Model
    error: float
    sensitivity: float
    merit: tuple[float, float]
    damping: float


class _Walk:
    """Paths of one run: what does not change between them."""

    def __init__(self, options: Path, problem: Problem, start: Model) -> None:
        self.options, self.problem, self.start = options, problem, start
        self.at: Evaluator = problem.evaluator(start)
        self.bounded, self.domain = problem.constraint.ends_path, problem.constraint.domain
        self.asked = problem.constraint.along_path()
        self.floor = problem.constraint.least_penalty

    # -- departure ----------------------------------------------------------------------

    def departure(self, search: Search, generators: Sequence[np.random.Generator]) -> _Path:
        """The beginning of the next path."""
        options, cycle, start = self.options, search.cycle, self.start
        if self.problem.warm:
            if cycle == 0:
                self.at.hold(start)
                # The limit of an error bound is error that need not be lowered.
                misfit = max(self.at.error() ** 2, options.exact**2, self.problem.constraint.squared_error_limit)
                return self._path(start, misfit / max(self.at.sensitivity(), 1e-300))
            # A start in a swamp cannot be mended along its own branch: leave it by a stronger penalty.
            unit = self._scaled(self.domain.drawn(start, generators[0]))[1]
            return self._path(start, options.share * options.factor ** -_LEVELS[-cycle] * unit)
        model = start if cycle == 0 else self.domain.drawn(start, generators[cycle])
        scaled, unit = self._scaled(model)
        if cycle > 0:
            # One unit for all cycles: their paths pass through the same penalties and can be compared.
            unit = self._scaled(start)[1]
        return self._path(scaled, options.share * options.factor ** -options.levels[cycle % len(options.levels)] * unit)

    def _path(self, model: Model, penalty: float) -> _Path:
        return _Path(model, LM.damping, max(penalty, self.floor))

    def _scaled(self, model: Model) -> tuple[Model, float]:
        """A random start scaled by <X, T> / <X, X>, and the unit of nu: 1 / SS of the same start at norm 1."""
        size = model.norm()
        if not size > 0.0:
            return model, 1.0
        unit = self.domain.optimal_gauge(self.domain.scaled(model, 1.0 / size), tol=1e-4)
        sensitivity = float(unit.block_sensitivities().sum())
        self.at.hold(unit)
        # With ||X|| = 1 the best factor is <X, T>.
        factor = complex(np.vdot(unit.matrices[0], self.at.rhs(0)))
        best = factor if unit.dtype.kind == "c" else factor.real
        if abs(best) < 1e-12 or not (self.domain.whole or complex(best).real > 0.0):
            return unit, 1.0 / sensitivity
        return self.domain.scaled(unit, best), 1.0 / sensitivity

    # -- on the way ---------------------------------------------------------------------

    def along(self, search: Search) -> Stage[tuple[Point, Outcome]]:
        """Lower the penalty stage by stage."""
        assert search.path is not None
        path, options = search.path, self.options
        inner = LM(max_iter=options.stage_iter, tol=options.stage_tol, exact=options.exact)
        while True:
            # Stages are short: an interrupted run goes on from the beginning of one.
            self.at.hold(path.model)
            lagrangian = self._lagrangian(path.penalty)
            memory = replace(search, path=path).memory()
            here = iterate_at(self.at, self.problem.constraint, lagrangian, damping=path.damping, memory=memory)
            yield replace(here, penalty=path.penalty, stage_of=None if path.previous is None else path.previous[0])
            state = State(lagrangian, path.damping)
            end = yield from inner.stage(self.problem, self.at, state, asked=self.asked)
            point = self._point(end.damping)
            if self.bounded and self.problem.constraint.crossed(self.problem.constraint.measured(self.at)):
                return (yield from self._meet(path))
            if end.reason is StopReason.EXACT:
                return point, Outcome.EXACT
            outcome = self._outcome(path, point, end.used)
            fresh = None if outcome is None else self._revived(path, point)
            if fresh is not None and outcome is not Outcome.ATTAINED:
                # What a strong penalty has removed sees what is missing again, at this penalty.
                path = _Path(fresh, LM.damping, path.penalty, revivals=path.revivals + 1)
                continue
            if outcome is not None and fresh is None:
                return (yield from self._arrive(point, outcome))
            path = _Path(
                model=point.model,
                damping=end.damping,
                penalty=max(path.penalty / options.factor, self.floor),
                previous=(path.penalty, point.error),
                revivals=path.revivals,
                begun=path.begun or point.sensitivity,
            )

    def _revived(self, path: _Path, point: Point) -> Model | None:
        """The model with spare parts set anew; None where there are none, or they were often enough."""
        if path.revivals >= _REVIVALS or not self.problem.constraint.allows_gauge:
            return None
        if self.domain.fixed(self.start.network):
            # Parts that vanish with a fixed block stay.
            return None
        model, parts = spare_parts(self.domain.optimal_gauge(point.model, tol=1e-3), point.error)
        if not parts:
            return None
        return self.domain.folded(revived(model, parts, np.random.default_rng(path.revivals)))

    def _lagrangian(self, penalty: float) -> Lagrangian:
        """That of the constraint without what ends the path, at a penalty that is at least its own."""
        return Lagrangian.of(self.asked, self.asked.measured(self.at), extra=max(penalty - self.floor, 0.0))

    def _point(self, damping: float) -> Point:
        at, constraint = self.at, self.problem.constraint
        return Point(at.model, at.error(), at.sensitivity(), constraint.merit(constraint.measured(at)), damping)

    def _outcome(self, path: _Path, point: Point, count: int) -> Outcome | None:
        """What the stage that led to `point` says of the path; None to go on."""
        penalty = path.penalty
        if penalty <= self.floor:
            return Outcome.FLOOR
        if penalty < self.options.smallest or point.sensitivity > self.options.run_off * (path.begun or math.inf):
            return Outcome.DEGENERATE
        if path.previous is None or not point.error > 0.0:
            return None
        slope = math.log(path.previous[1] / point.error) / math.log(path.previous[0] / penalty)
        ratio = penalty * point.sensitivity / point.error**2
        if slope < 0.1 and ratio < 1.0:
            return Outcome.PLATEAU
        if slope > 0.7 and ratio > 3.0 and count <= _JUMP_ITERATIONS and not self.bounded:
            return Outcome.ATTAINED
        return None

    def _arrive(self, point: Point, outcome: Outcome) -> Stage[tuple[Point, Outcome]]:
        """The last stage of a path: long where it pays, short on a plateau, none where blocks would diverge."""
        options = self.options
        if outcome is Outcome.ATTAINED or (outcome is Outcome.FLOOR and self.floor > 0.0):
            last = LM(max_iter=options.max_iter, tol=options.tol, exact=options.exact)
        elif outcome is Outcome.PLATEAU:
            last = LM(max_iter=15, tol=1e-6, exact=options.exact)
        else:
            return point, outcome
        state = State(self._lagrangian(0.0), point.damping)
        end = yield from last.stage(self.problem, self.at, state, asked=self.asked)
        if outcome is not Outcome.PLATEAU:
            if end.reason is StopReason.EXACT:
                outcome = Outcome.EXACT
            elif end.reason is StopReason.ITERATION_LIMIT:
                outcome = Outcome.UNFINISHED
        return self._point(end.damping), outcome

    def _meet(self, path: _Path) -> Stage[tuple[Point, Outcome]]:
        """The bound was crossed in the stage after `path`: meet it, from the minimiser before."""
        options, constraint = self.options, self.problem.constraint
        if path.previous is not None:
            self.at.hold(path.model)
        lagrangian = Lagrangian.of(constraint, constraint.measured(self.at), penalty=path.penalty)
        solver = LM(max_iter=options.max_iter, tol=_BOUND_TOL, exact=options.exact)
        end = yield from solver.stage(self.problem, self.at, State(lagrangian, LM.damping))
        return self._point(end.damping), Outcome.BOUND

    def finish(self, point: Point) -> Steps:
        """From the best plateau to the tolerance."""
        options = self.options
        self.at.hold(point.model)
        solver = LM(max_iter=options.max_iter, tol=options.tol, exact=options.exact)
        state = State(self._lagrangian(0.0), point.damping)
        end = yield from solver.stage(self.problem, self.at, state, asked=self.asked)
        return Ended(end.reason, end.optimality)

    # -- between paths ------------------------------------------------------------------

    def arrived(self, search: Search, point: Point, outcome: Outcome) -> Search:
        """Compare a finished path with the best one."""
        hit = search.best is not None and self._agree(search, point, outcome)
        if search.best is None or point.merit < search.best.merit:
            return Search(search.cycle + 1, point, outcome, int(hit))
        return Search(search.cycle + 1, search.best, search.outcome, search.hits + hit)

    def settled(self, search: Search) -> bool:
        """Whether the error is so small that it is not questioned."""
        assert search.best is not None
        sound = search.outcome is not Outcome.DEGENERATE and search.best.merit[0] <= 0.0
        return sound and search.best.error <= self.options.restart_above

    @staticmethod
    def _agree(search: Search, point: Point, outcome: Outcome) -> bool:
        """Whether two paths reached the same objective (and the same sensitivity, where it is finite)."""
        assert search.best is not None
        first, second = search.best.merit, point.merit
        if first[0] > 0.0 or second[0] > 0.0:
            return False
        if not first[1] > 0.0:
            return not second[1] > 0.0
        # An objective is a square; what is compared is the error.
        apart = 0.5 * abs(first[1] - second[1]) / first[1]
        if search.outcome is outcome and outcome in _CONFIRMATIONS:
            return apart <= 0.05 if outcome is Outcome.DEGENERATE else apart <= 0.02
        return apart <= 1e-3 and abs(search.best.sensitivity - point.sensitivity) <= 1e-2 * search.best.sensitivity


@dataclass(frozen=True)
class _Path:
    """A path at the beginning of a stage: what `along` needs to go on."""

    model: Model
    damping: float
    penalty: float
    previous: tuple[float, float] | None = None
    """Penalty and error of the stage before, whose minimiser the model is."""
    revivals: int = 0
    """How often components that had died were set anew."""
    begun: float | None = None
    """SS at the end of the first stage."""


@dataclass(frozen=True)
class Search:
    """All paths so far: the best, how it ended, how often it was met again, and the path under way."""

    cycle: int = 0
    best: Point | None = None
    outcome: Outcome = Outcome.MISSED
    hits: int = 0
    path: _Path | None = None

    def memory(self) -> Memory:
        """Plain figures and models, from which `recall` makes the same search."""
        assert self.path is not None
        best = self.best
        figures = {
            "cycle": self.cycle,
            "outcome": self.outcome.name,
            "hits": self.hits,
            "penalty": self.path.penalty,
            "damping": self.path.damping,
            "previous": self.path.previous,
            "begun": self.path.begun,
            "revivals": self.path.revivals,
            "best": None if best is None else [best.error, best.sensitivity, *best.merit, best.damping],
        }
        models = {"point": self.path.model}
        if best is not None:
            models["best"] = best.model
        return Memory(figures, models)

    @classmethod
    def recall(cls, memory: Memory) -> Search:
        """The search that `memory` describes."""
        figures, models = memory.figures, memory.models
        previous, row = figures["previous"], figures["best"]
        path = _Path(
            model=models["point"],
            damping=figures["damping"],
            penalty=figures["penalty"],
            previous=None if previous is None else (previous[0], previous[1]),
            begun=figures["begun"],
            revivals=figures["revivals"],
        )
        best = None if row is None else Point(models["best"], row[0], row[1], (row[2], row[3]), row[4])
        return cls(figures["cycle"], best, Outcome[figures["outcome"]], figures["hits"], path)


_CONFIRMATIONS = {Outcome.DEGENERATE: 1, Outcome.BOUND: 1}
"""How many paths must agree with the best one before no other is tried: two, where nothing else is said."""

_REASONS = {
    Outcome.EXACT: StopReason.EXACT,
    Outcome.ATTAINED: StopReason.CONVERGED,
    Outcome.FLOOR: StopReason.CONVERGED,
    Outcome.UNFINISHED: StopReason.ITERATION_LIMIT,
    Outcome.PLATEAU: StopReason.ITERATION_LIMIT,
    Outcome.BOUND: StopReason.CONVERGED,
    Outcome.DEGENERATE: StopReason.DIVERGING,
    Outcome.MISSED: StopReason.STALLED,
}
