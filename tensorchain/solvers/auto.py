"""The default: which start, which data and which solver, by the model and by what the first sweeps show.

1. **Reduction.**  Complete data of many rows are reduced to a core first (:mod:`tensorchain.solvers.reduction`); what
   follows up to step 4 costs the core.
2. **Cheap starts.**  Sweeps, and joint steps where these have not converged, from the algebraic solution (CP), from
   singular vectors, from random blocks.  For a tree (Tucker, a chain with a bond of 1) singular vectors are
   quasi-optimal and the only start.  For the others, two starts that come to the same minimiser end the search:
   ordinary noisy data do not pay for hard ones.
3. **The path** where they do not: swamps, exact solutions that are hard to find, no best approximation.  It is left
   after one cycle where it comes to what a cheap start has found.  Beyond some thousand unknowns an iteration of the
   path is expensive, and joint steps from the best start take its place.
4. **Finish**, on the tensor: sweeps until they no longer lower the error, joint steps where sweeps are slow.
5. **Slack.**  Where the sensitivity can fall tenfold while the error rises by no more than the slack, the model of
   least sensitivity within the slack is the answer (:mod:`tensorchain.solvers.stabilise`).

A start that is given is not thrown away, and constraints are met along the path: with either, step 2 is left out.
Where all blocks are non-negative and nothing else is asked a best approximation exists: sweeps and joint steps from the
start are all that is done.  A reduced core loses the signs of entries, so that non-negative blocks are not fitted to
it; the first sweeps over a large tensor see it through its core (:mod:`tensorchain.solvers.compressed`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from tensorchain.fit import StopReason
from tensorchain.models import BlockTerm, Model
from tensorchain.solvers.als import ALS
from tensorchain.solvers.compressed import Compressed
from tensorchain.solvers.lm import LM, check_options
from tensorchain.solvers.path import Path
from tensorchain.solvers.problem import Ended, Iterate, Memory, Problem, Stage, Steps, iterate_at
from tensorchain.solvers.reduced import Reduced, shifted
from tensorchain.solvers.reduction import reduce, reduced_shape, worthwhile
from tensorchain.solvers.stabilise import stabilised
from tensorchain.solvers.starts import STARTS, is_tree
from tensorchain.tensors import Sparse

_SWEEPS = ALS(max_iter=30, tol=1e-6)
"""From a cheap start."""
_STEPS = LM(max_iter=40, tol=1e-7)
"""Where sweeps have not converged."""
_TREE = ALS(max_iter=50, tol=1e-6)
_FAST = 1000
"""Unknowns of the core up to which joint steps cost no more than some sweeps."""
_LARGE = 2000
"""Unknowns of the core beyond which the path is not taken."""
_AGREE = 0.05
"""Distance of two models, relative to their error, within which they are one minimiser."""
_LARGE_STEPS = LM(max_iter=60, tol=1e-4)
_FINISH = ALS(max_iter=8, tol=1e-7)
_WITHIN, _WITHIN_STEPS, _LAST_SWEEPS = (
    ALS(max_iter=100, tol=1e-5),
    LM(max_iter=20, tol=1e-8),
    ALS(max_iter=500, tol=1e-7),
)
"""In a domain."""
_ROUNDS, _PAYS = 20, 0.99
"""Most rounds of joint steps, and the share of the error at which a round was worth another one."""
_SMALL, _SEEN_THROUGH = 1_000_000, 20
"""Entries up to which, and times the core up to which, the tensor itself is swept over."""


@dataclass(frozen=True)
class Auto:
    """Choose by model and data: the default solver.

    Parameters
    ----------
    slack : float
        Share of the least error that may be given up where that lowers the sensitivity tenfold; 0 for the least error.
    exact : float
        Relative error below which the fit is exact.
    """

    slack: float = 0.01
    exact: float = 1e-13

    def __post_init__(self) -> None:
        check_options("Auto", slack=self.slack, exact=self.exact)

    def steps(self, problem: Problem, start: Model, memory: Memory | None = None) -> Steps:
        """Iterate from `start`, or go on from the memory of an iterate."""
        return (yield from _Search(self, problem, start).steps(memory))


@dataclass(frozen=True)
class _Point:
    """Where a start led, on the core."""

    name: str
    best: Iterate
    reason: StopReason


class _Search:
    """One run."""

    def __init__(self, options: Auto, problem: Problem, start: Model) -> None:
        self.options, self.problem, self.start = options, problem, start
        self.way: list[str] = []
        self.stages: list[Iterate] = []
        self.reduced = Reduced(problem, None)
        self.path = Path(exact=options.exact)

    def steps(self, memory: Memory | None) -> Steps:
        problem, start = self.problem, self.start
        if problem.tensor.complete and problem.constraint.domain.whole:
            self._reduce()
        if problem.warm:
            yield iterate_at(problem.evaluator(start), problem.constraint)
        if problem.warm or not problem.constraint.free or not problem.tensor.complete:
            if self._closed():
                found = yield from self._swept(start)
            else:
                found = yield from self._along_path(self.reduced.lower(start), self.path)
        else:
            found = yield from self._cheap_starts()
        best, reason = yield from self._finish(found)
        yield replace(best, way=", ".join(self.way))
        # A run is never worse than a start that was given.
        healthy = reason is StopReason.EXACT or is_tree(start) or problem.warm
        if healthy or not problem.constraint.free or not self.options.slack:
            return Ended(reason)
        answer = stabilised(self.reduced, best, self.stages, self.options.slack)
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
        self.reduced = Reduced(problem, reduction)
        self.way.append("core " + "x".join(map(str, reduction.core.shape)))

    # -- on the core --------------------------------------------------------------------

    def _cheap_starts(self) -> Stage[_Point]:
        """Sweeps from several starts until two agree; the path, or joint steps, where they do not."""
        like = self.reduced.lower(self.start)
        found: list[_Point] = []
        for name in _starts_of(like):
            first = STARTS[name](like, self.reduced.problem.tensor, self.problem.rng)
            if first is None:
                continue
            point = yield from self._cheap(name, first)
            if point.reason is StopReason.EXACT or is_tree(like):
                return self._taken(point, f"sweeps from {name}")
            found.append(point)
            if len(found) > 1 and self._agree(*found[-2:]):
                return self._taken(min(found, key=_error), "sweeps from " + " and ".join(p.name for p in found))
            if len(found) == 2:
                break
        best_point = min(found, key=_error)
        if like.n_parameters > _LARGE:
            best, reason = yield from self.reduced.drive(_LARGE_STEPS, best_point.best.model)
            return self._taken(_Point(best_point.name, best, reason), f"joint steps from {best_point.name}")
        point = yield from self._along_path(like, replace(self.path, cycles=1))
        if point.reason is StopReason.EXACT or any(self._agree(point, other) for other in found):
            return point
        rest = replace(self.path, cycles=self.path.cycles - 1, first_cycle=1)
        again = yield from self._along_path(like.random_like(self.problem.rng), rest)
        return min(point, again, best_point, key=_error)

    def _cheap(self, name: str, first: Model) -> Stage[_Point]:
        small = first.n_parameters <= _FAST
        if not (small and isinstance(first, BlockTerm)):
            # Sweeps over several terms cost as much as joint steps.
            best, reason = yield from self.reduced.drive(_TREE if is_tree(first) else _SWEEPS, first)
            if reason is not StopReason.ITERATION_LIMIT or not small:
                return _Point(name, best, reason)
            first = best.model
        best, reason = yield from self.reduced.drive(_STEPS, first)
        return _Point(name, best, reason)

    def _agree(self, one: _Point, two: _Point) -> bool:
        """Whether two starts came to the same minimiser."""
        ended = (StopReason.CONVERGED, StopReason.EXACT)
        if one.reason not in ended or two.reason not in ended:
            return False
        apart = float(np.linalg.norm(one.best.model.full() - two.best.model.full()))
        return apart <= _AGREE * min(_error(one), _error(two))

    def _closed(self) -> bool:
        """Whether nothing is asked but a domain that restricts every block: no part can grow and cancel others."""
        constraint, network = self.problem.constraint, self.start.network
        only = constraint.error_alone and not constraint.bounds
        return only and len(constraint.domain.restricted(network)) == len(network.modes)

    def _swept(self, start: Model) -> Stage[_Point]:
        """Some sweeps, some joint steps, and sweeps again where these have not converged."""
        best, reason = yield from self.reduced.drive(_WITHIN, self._from_core(start))
        way, small = "sweeps", start.n_parameters <= _LARGE
        if small and reason is not StopReason.EXACT:
            # Joint steps end sweeps that creep; where these creep as well, sweeps are cheaper.
            way = "sweeps and joint steps"
            steps = replace(_WITHIN_STEPS, exact=self.options.exact)
            for _ in range(_ROUNDS):
                before = best.error
                best, reason = yield from self.reduced.drive(steps, best.model)
                if reason is not StopReason.ITERATION_LIMIT or best.error > _PAYS * before:
                    break
        if reason is StopReason.ITERATION_LIMIT or not (small or reason is StopReason.EXACT):
            best, reason = yield from self.reduced.drive(replace(_LAST_SWEEPS, exact=self.options.exact), best.model)
        return self._taken(_Point("start", best, reason), way)

    def _from_core(self, start: Model) -> Model:
        """Where sweeps lead that see a large tensor through its core, at the cost of the core."""
        tensor, shape = self.problem.tensor, self.problem.tensor.shape
        sizes = reduced_shape(start.network, shape)
        if not tensor.complete or isinstance(tensor, Sparse) or math.prod(shape) < _SEEN_THROUGH * math.prod(sizes):
            return start
        if self.problem.warm or math.prod(shape) < _SMALL:
            return start
        reduction = reduce(tensor, sizes, self.problem.rng)
        self.way.append("core " + "x".join(map(str, reduction.core.shape)))
        seen = Reduced(replace(self.problem, tensor=Compressed(reduction)), None)
        return seen.aside(_WITHIN, start, self.problem.constraint).model

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
        whole = Reduced(replace(self.problem, warm=True), None)
        if not self.problem.constraint.free:
            return (yield from whole.drive(LM(max_iter=50, tol=1e-7, exact=self.options.exact), model))
        best, reason = yield from whole.drive(_FINISH, model)
        if reason is StopReason.ITERATION_LIMIT:
            small = len(np.concatenate(point.best.model.matrices, axis=None)) <= _LARGE
            steps = LM(max_iter=20 if small else 8, tol=1e-6 if small else 1e-4, exact=self.options.exact)
            best, reason = yield from whole.drive(steps, best.model)
        return best, reason


def _starts_of(model: Model) -> tuple[str, ...]:
    """Names of the cheap starts, in the order in which they are tried."""
    return ("svd",) if is_tree(model) else ("algebraic", "svd", "random")


def _error(point: _Point) -> float:
    return point.best.error
