"""The default: which start, which data and which solver, by the model and by what the first sweeps show.

1. **Reduction.**  Complete data of many rows are reduced to a core first (:mod:`tensorchain.solvers.reduction`); what
   follows up to step 4 costs the core.
2. **Cheap starts.**  Sweeps, and joint steps where these have not converged, from the algebraic solution (CP), from
   singular vectors, from random blocks.  For a tree (Tucker, a chain with a bond of 1) singular vectors are
   quasi-optimal and the only start.  For the others, two starts that come to the same minimiser end the search:
   ordinary noisy data do not pay for hard ones.  Only where much is left in the core, and little outside of
   it, have they met in a local minimum, and the search goes on.
3. **The path** where they do not: swamps, exact solutions that are hard to find, no best approximation.  It is left
   after one cycle where it comes to what a cheap start has found.  Beyond some thousand unknowns an iteration of the
   path is expensive, and joint steps from the best start take its place.
4. **Finish**, on the tensor: sweeps until they no longer lower the error, joint steps where sweeps are slow.
5. **Slack.**  Where the sensitivity can fall tenfold while the error rises by no more than the slack, the model of
   least sensitivity within the slack is the answer (:mod:`tensorchain.solvers.stabilise`).

A start that is given is not thrown away, and constraints are met along the path: with either, step 2 is left out.
Where all blocks are non-negative and nothing else is asked, sweeps and joint steps from the start are all that is done
(:mod:`tensorchain.solvers.within`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from tensorchain.fit import StopReason
from tensorchain.models import BlockTerm, Model
from tensorchain.solvers.als import ALS
from tensorchain.solvers.constraints import Free, Penalty
from tensorchain.solvers.estimate import from_estimate
from tensorchain.solvers.ledger import Ledger
from tensorchain.solvers.lm import LM, check_options
from tensorchain.solvers.path import Path
from tensorchain.solvers.problem import Ended, Iterate, Memory, Problem, Stage, Steps, iterate_at
from tensorchain.solvers.reduced import Reduced, order_of, shifted
from tensorchain.solvers.reduction import reduce, reduced_shape, worthwhile
from tensorchain.solvers.stabilise import growth, stabilised
from tensorchain.solvers.starts import is_tree, random_start, start_by
from tensorchain.solvers.within import closed, swept
from tensorchain.stability.gauge import optimal_gauge
from tensorchain.tensors import Device, Sparse

_SWEEPS = ALS(max_iter=30, tol=1e-6)
"""From a cheap start."""
_STEPS = LM(max_iter=40, tol=1e-7)
"""Where sweeps have not converged."""
_TREE = ALS(max_iter=100, tol=1e-6)
_FAST = 1000
"""Unknowns of the core up to which joint steps cost no more than some sweeps."""
_LARGE = 2000
"""Unknowns of the core beyond which the path is not taken."""
_RUN_OFF = 4.0
"""Growth of the sensitivity at which a path is left for another start."""
_LEVELS = (4, 4, 5)
"""First penalties of the paths beyond the first one, as in `Path`: that one has tried the strongest."""
_FIRST_BATCH, _MORE = 5, 6
"""Paths beyond the first one, and more of them where the best ran off."""
_AGREE = 0.05
"""Distance of two models, relative to their error, within which they are one minimiser."""
_TRIES = 8
"""Starts by joint steps before a path is taken."""
_FEW = 3
"""Starts up to which two that agree are enough; three beyond."""
_NO_NOISE = 1e-10
"""Relative size of an entry outside of the core, up to which data are without noise."""
_FAR = 60.0
"""Squared error within the core over that of noise, from which a better model is looked for."""
_LARGE_STEPS = LM(max_iter=60, tol=1e-4)
_PRICE, _PENALISED = 0.1, ALS(max_iter=2, tol=1e-4)
"""Of data with gaps: nu SS over the squared error in the first sweeps."""
_DRAWN = 10.0
"""SS over that of a random start, up to which blocks have not grown."""
_ENDED = (StopReason.CONVERGED, StopReason.EXACT)
_FORMED = 1 << 20
"""Entries up to which models are compared entry by entry."""
_FINISH = ALS(max_iter=8, tol=1e-7)


@dataclass(frozen=True)
class Auto:
    """Choose by model and data: the default solver.

    Parameters
    ----------
    slack : float
        Share of the least error that may be given up where that lowers the sensitivity tenfold; 0 for the least error.
    exact : float
        Relative error below which the fit is exact.

    See Also
    --------
    tensorchain.Path : The sensitivity path alone.
    tensorchain.LM : Levenberg-Marquardt alone.
    tensorchain.ALS : Sweeps alone.

    Examples
    --------
    >>> import tensorchain as tc
    >>> T = tc.datasets.inverse_radius(order=3, size=6)
    >>> tc.decompose(T, "cp", rank=2, solver=tc.Auto(slack=0), rng=0).solver[:4]
    'Auto'
    """

    slack: float = 0.01
    exact: float = 1e-13

    def __post_init__(self) -> None:
        check_options("Auto", slack=self.slack, exact=self.exact)

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
        return (yield from _Search(self, problem, start).steps(memory))


@dataclass(frozen=True, eq=False)
class _Point:
    """Where a start led, on the core."""

    name: str
    best: Iterate
    reason: StopReason


class _Search:
    """One run."""

    def __init__(self, options: Auto, problem: Problem, start: Model) -> None:
        # Few entries of a device come to the host: a path asks thousands of small questions.
        self.options, self.problem, self.start = options, replace(problem, tensor=problem.tensor.near()), start
        self.way: list[str] = []
        self.stages: list[Iterate] = []
        self.settled, self.fresh = False, True
        self.ledger = Ledger(problem.rng, start) if problem.resumable else None
        self.reduced = Reduced(self.problem, None, self.ledger)
        self.path = Path(exact=options.exact)

    def steps(self, memory: Memory | None) -> Steps:
        problem, start = self.problem, self.start
        self.fresh = memory is None
        if memory is not None and self.ledger is not None:
            self.ledger.recall(memory)
        if problem.tensor.complete and problem.constraint.domain.whole:
            self._reduce()
        if (problem.warm or not problem.tensor.complete) and self.fresh:
            # Over missing entries a start of the search's own may take longer than the time that is left.
            yield iterate_at(problem.evaluator(start), problem.constraint)
        if closed(problem.constraint, start.network):
            best, reason = yield from swept(self.reduced, start, self.options.exact, self.way)
            found = _Point("start", best, reason)
        elif problem.warm or not problem.constraint.domain.whole:
            found = yield from self._along_path(self.reduced.lower(start), self.path)
        elif not problem.constraint.free:
            found = yield from self._constrained()
        elif problem.tensor.complete:
            found = yield from self._cheap_starts()
        else:
            found = yield from self._incomplete()
        best, reason = yield from self._finish(found)
        if found.reason is StopReason.DIVERGING and problem.constraint.free and reason is not StopReason.EXACT:
            # Sweeps that creep have not come to an end that the path did not find.
            reason = StopReason.DIVERGING
        yield replace(best, way=", ".join(self.way))
        # A run is never worse than a start that was given.
        healthy = reason is StopReason.EXACT or is_tree(start) or problem.warm
        if healthy or not problem.constraint.free or not self.options.slack:
            return Ended(reason)
        answer = stabilised(self.reduced, best, self.stages, self.options.slack, settled=self.settled)
        if answer is None:
            return Ended(reason)
        yield answer
        return Ended(StopReason.STABILISED)

    def _reduce(self) -> None:
        problem, network = self.problem, self.start.network
        if not worthwhile(network, problem.tensor.shape) or isinstance(problem.tensor, Sparse):
            return
        reduction = reduce(problem.tensor, reduced_shape(network, problem.tensor.shape), problem.rng)
        if shifted(problem.constraint, reduction.remainder) is None:
            return
        self.reduced = Reduced(problem, reduction, self.ledger)
        self.way.append("core " + "x".join(map(str, reduction.core.shape)))

    # -- on the core --------------------------------------------------------------------

    def _cheap_starts(self) -> Stage[_Point]:
        """Sweeps from several starts until two agree; the path, or joint steps, where they do not."""
        like = self.reduced.lower(self.start)
        tries = 1 if is_tree(like) else _TRIES if _joint(like) else 2
        found: list[_Point] = []
        for name in (*_starts_of(like), *["random"] * tries):
            first = start_by(name, like, self.reduced.problem.tensor, self.problem.rng)
            if first is None:
                continue
            point = yield from self._cheap(name, first)
            if point.reason is StopReason.EXACT or is_tree(like):
                return self._taken(point, f"sweeps from {name}")
            same = [other for other in found if self._agree(other, point)]
            found.append(point)
            best_point = min(found, key=_error)
            # Among many starts two may meet in a local minimum.
            enough = len(same) >= (1 if len(found) <= _FEW else 2) and best_point in (point, *same)
            if enough and not self._doubted(best_point):
                self.settled = True
                return self._taken(best_point, "sweeps from " + " and ".join(p.name for p in (*same, point)))
            if len(found) == tries:
                break
        if not found:
            # Of data that are too large for singular vectors.
            first = random_start(like, self.reduced.problem.tensor, self.problem.rng)
            point = yield from self._cheap("random", first)
            return self._taken(point, "sweeps from random")
        if like.n_parameters > _LARGE:
            best, reason = yield from self.reduced.drive(_LARGE_STEPS, best_point.best.model)
            return self._taken(_Point(best_point.name, best, reason), f"joint steps from {best_point.name}")
        if self._unquestioned(best_point, like):
            point = yield from self._finished(best_point)
            return self._taken(point, f"joint steps from {point.name}")
        return (yield from self._paths(like, found))

    def _unquestioned(self, point: _Point, like: Model) -> bool:
        """Whether the error is so small that a path would not question it, and SS about that of drawn blocks."""
        if not _error(point) <= self.path.restart_above:
            return False
        drawn = random_start(like, self.reduced.problem.tensor, self.problem.rng)
        return growth(point.best.model, drawn) <= _DRAWN

    def _paths(self, like: Model, found: list[_Point]) -> Stage[_Point]:
        """The path, until it comes to what was found before; one that runs off is followed to its end only once.

        Most paths that run off are a bad start of a problem that has a solution; where all of them do, it has none.
        """
        first = yield from self._along_path(like, replace(self.path, cycles=1, finish=False))
        if first.reason is StopReason.EXACT:
            return first
        confirmed = any(other.reason in _ENDED and self._near(first, other) for other in found)
        if (confirmed and not self._doubted(first)) or self._unquestioned(first, like):
            return (yield from self._finished(first))
        points = [first, *found]
        for batch in (_FIRST_BATCH, _MORE):
            path = replace(self.path, cycles=batch, levels=_LEVELS, run_off=_RUN_OFF)
            point = yield from self._along_path(like.random_like(self.problem.rng), path)
            points.append(point)
            if point.reason is StopReason.EXACT:
                return point
            if point.reason is not StopReason.DIVERGING:
                if self._doubted(min(points, key=_error)):
                    if batch == _FIRST_BATCH:
                        continue
                    exact = yield from self._exact(like)
                    if exact is not None:
                        return exact
                best = min(points, key=_error)
                return (yield from self._finished(best)) if best is first else best
        point = min(points[2:], key=_error)
        warm = Reduced(replace(self.problem, warm=True), self.reduced.reduction)
        end, reason = yield from warm.drive(self.path, point.best.model, stages=self.stages)
        best = min(*points, self._taken(_Point("path", end, reason), "to its end"), key=_error)
        if reason is not StopReason.DIVERGING:
            if best.reason is StopReason.DIVERGING:
                # A path that was left when it ran off, and might have come back.
                best = replace(best, reason=StopReason.ITERATION_LIMIT)
        elif best.best.sensitivity >= end.sensitivity:
            # Farther along the same branch.
            best = replace(best, reason=StopReason.DIVERGING)
        return (yield from self._finished(best)) if best is first else best

    def _exact(self, like: Model) -> Stage[_Point | None]:
        """A model without error by joint steps from random starts, where paths have found none."""
        for _ in range(_TRIES * 4 if _joint(like) else 0):
            point = yield from self._cheap("random", random_start(like, self.reduced.problem.tensor, self.problem.rng))
            if point.reason is StopReason.EXACT:
                return self._taken(point, "joint steps from random")
        return None

    def _doubted(self, point: _Point) -> bool:
        """Whether the core holds far more that is not noise than the model has found, so that there is a better one.

        Noise is as large in the core, for each degree of freedom that the model leaves there, as outside of it.
        Measured data hold 10 to 70 times as much, which no model of their size finds.
        """
        reduction, model = self.reduced.reduction, point.best.model
        if reduction is None or point.reason is StopReason.EXACT:
            return False
        entries = math.prod(reduction.core.shape)
        noise = reduction.remainder / (math.prod(self.problem.tensor.shape) - entries)
        if not _joint(model) and noise > _NO_NOISE**2:
            # A path costs far more than the starts.
            return False
        freedom = entries - (model.n_parameters - model.gauge_dimension)
        return freedom > 0 and _error(point) ** 2 > _FAR * freedom * noise

    def _finished(self, point: _Point) -> Stage[_Point]:
        """A path's end on a plateau, followed to the tolerance; what ran off has none."""
        if point.reason is StopReason.DIVERGING:
            return point
        best, reason = yield from self.reduced.drive(LM(exact=self.options.exact), point.best.model)
        return _Point(point.name, best, reason)

    def _incomplete(self) -> Stage[_Point]:
        """Sweeps from an estimate of the core without gaps; the path, or joint steps, where they do not converge."""
        like, tensor = self.start, self.problem.tensor
        first = from_estimate(self.problem, like, _starts_of(like), _SWEEPS)
        if first is not None:
            at = tensor.evaluator(first)
            if self.fresh:
                yield iterate_at(at, self.problem.constraint)
            price = _PRICE * at.error() ** 2 / first.sensitivity()
            first = self.reduced.aside(_PENALISED, first, Penalty(price)).model
            best, reason = yield from self.reduced.drive(_SWEEPS, first)
            point = _Point("an estimated core", best, reason)
            if reason is StopReason.EXACT or (reason is StopReason.CONVERGED and like.n_parameters > _LARGE):
                return self._taken(point, "sweeps from an estimated core")
            if like.n_parameters > _LARGE:
                best, reason = yield from self.reduced.drive(_LARGE_STEPS, best.model)
                return self._taken(_Point("an estimated core", best, reason), "joint steps from an estimated core")
            return (yield from self._paths(like, [point]))
        return (yield from self._along_path(like, self.path))

    def _constrained(self) -> Stage[_Point]:
        """The path, and joint steps from singular vectors, which see at once what a path may miss."""
        like = self.reduced.lower(self.start)
        unbound = yield from self._without_bounds(like)
        if unbound is not None:
            return unbound
        found = yield from self._along_path(like, self.path)
        if not self.problem.tensor.complete or like.n_parameters > _LARGE:
            return found
        names = ["svd", *["random"] * (_TRIES if _joint(like) else 0)]
        starts = ((name, start_by(name, like, self.reduced.problem.tensor, self.problem.rng)) for name in names)
        free = [(name, self.reduced.aside(_STEPS, first, Free())) for name, first in starts if first is not None]
        if not free:
            return found
        name, near = min(free, key=lambda pair: pair[1].error)
        steps = LM(max_iter=200, tol=1e-8, exact=self.options.exact)
        best, reason = yield from self.reduced.drive(steps, near.model)
        if order_of(best) < order_of(found.best):
            return self._taken(_Point(name, best, reason), f"joint steps from {name}")
        return found

    def _without_bounds(self, like: Model) -> Stage[_Point | None]:
        """A model without error that meets the bounds, from a cheap start, where the error is all that is minimised."""
        problem = self.reduced.problem
        if not problem.constraint.error_alone or not problem.tensor.complete or like.n_parameters > _LARGE:
            return None
        for name in _starts_of(like)[:2]:
            first = start_by(name, like, problem.tensor, self.problem.rng)
            if first is None:
                continue
            model = optimal_gauge(self.reduced.aside(_STEPS, first, Free()).model)
            at = problem.evaluator(model)
            if at.error() <= max(self.options.exact, at.rounding) and not problem.constraint.gap(
                problem.constraint.measured(at)
            ):
                best, reason = yield from self.reduced.drive(LM(max_iter=1, exact=self.options.exact), model)
                return self._taken(_Point(name, best, reason), f"joint steps from {name}")
        return None

    def _cheap(self, name: str, first: Model) -> Stage[_Point]:
        small = first.n_parameters <= _FAST
        if not _joint(first):
            best, reason = yield from self.reduced.drive(_TREE if is_tree(first) else _SWEEPS, first)
            if reason is not StopReason.ITERATION_LIMIT or not small:
                return _Point(name, best, reason)
            first = best.model
        best, reason = yield from self.reduced.drive(_STEPS, first)
        return _Point(name, best, reason)

    def _agree(self, one: _Point, two: _Point) -> bool:
        """Whether two starts came to the same minimiser."""
        return one.reason in _ENDED and two.reason in _ENDED and self._near(one, two)

    @staticmethod
    def _near(one: _Point, two: _Point) -> bool:
        apart = distance(one.best.model, two.best.model)
        return apart <= _AGREE * min(_error(one), _error(two))

    def _along_path(self, start: Model, path: Path) -> Stage[_Point]:
        steps = self.reduced.drive(path, start, stages=self.stages)
        best, reason = yield from steps
        return self._taken(_Point("path", best, reason), "path")

    def _taken(self, point: _Point, what: str) -> _Point:
        self.way.append(what)
        return point

    # -- on the tensor ------------------------------------------------------------------

    def _finish(self, point: _Point) -> Stage[tuple[Iterate, StopReason]]:
        if self.reduced.reduction is None:
            return point.best, point.reason
        model = self.reduced.lift(point.best.model)
        whole = Reduced(replace(self.problem, warm=True), None, self.ledger)
        tensor = self.problem.tensor
        if tensor.in_memory is None and not isinstance(tensor, Device):
            # A step reads the data once, a sweep once for each block.
            return (yield from whole.drive(LM(max_iter=1, damping=1e-6, exact=self.options.exact), model))
        if not self.problem.constraint.free:
            # At a limit of steps a bound is not met yet, and all they have gained is lost.
            few = self.start.n_parameters > _LARGE
            steps = LM(max_iter=50 if few else 300, tol=1e-7, exact=self.options.exact)
            return (yield from whole.drive(steps, model))
        best, reason = yield from whole.drive(_FINISH, model)
        if reason is StopReason.ITERATION_LIMIT:
            small = len(np.concatenate(point.best.model.matrices, axis=None)) <= _LARGE
            steps = LM(max_iter=100 if small else 8, tol=1e-6 if small else 1e-4, exact=self.options.exact)
            best, reason = yield from whole.drive(steps, best.model)
        return best, reason


def _joint(model: Model) -> bool:
    """Whether starts begin with joint steps: sweeps over several terms cost as much.

    Such starts are also cheap beside a path, and find what it finds more often for the same time: many are made.
    """
    return isinstance(model, BlockTerm) and model.n_parameters <= _FAST


def _starts_of(model: Model) -> tuple[str, ...]:
    """Names of the cheap starts, in the order in which they are tried."""
    return ("svd",) if is_tree(model) else ("algebraic", "svd", "random")


def distance(one: Model, two: Model) -> float:
    """||X - Y||, from the entries where there are few, and from inner products else."""
    if math.prod(one.shape) <= _FORMED:
        return float(np.linalg.norm(one.full() - two.full()))
    square = one.norm() ** 2 - 2.0 * complex(one.inner(two)).real + two.norm() ** 2
    return math.sqrt(max(square, 0.0))


def _error(point: _Point) -> float:
    return point.best.error
