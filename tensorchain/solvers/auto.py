"""The default: which start, which data and which solver, by the model and by what the first sweeps show.

1. **Reduction.**  Complete data of many rows are reduced to a core first (:mod:`tensorchain.solvers.reduction`); what
   follows up to step 4 costs the core.
2. **Cheap starts.**  Sweeps from the algebraic solution (CP), from singular vectors, from random blocks.  For a tree
   (Tucker, a chain with a bond of 1) singular vectors are quasi-optimal and the only start.  For the others, two starts
   that come to the same minimiser end the search: ordinary noisy data do not pay for hard ones.
3. **The path** where they do not: swamps, exact solutions that are hard to find, no best approximation.  Beyond some
   thousand unknowns an iteration of the path is expensive, and joint steps from the best start take its place.
4. **Finish**, on the tensor: sweeps until they no longer lower the error, joint steps where sweeps are slow.

A start that is given is not thrown away, and constraints are met along the path: with either, step 2 is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tensorchain.fit import StopReason
from tensorchain.models import Model
from tensorchain.solvers.als import ALS
from tensorchain.solvers.lm import LM, check_options
from tensorchain.solvers.path import Path
from tensorchain.solvers.problem import Iterate, Memory, Problem, Solver, Stage, Steps
from tensorchain.solvers.reduced import Reduced, shifted
from tensorchain.solvers.reduction import reduce, reduced_shape, worthwhile
from tensorchain.solvers.starts import STARTS, is_tree
from tensorchain.tensors import Observed, Sparse

_SWEEPS = ALS(max_iter=60, tol=1e-6)
"""From a cheap start."""
_LARGE = 2000
"""Unknowns of the core beyond which the path is not taken."""
_AGREE = 0.05
"""Distance of two models, relative to their error, within which they are one minimiser."""
_FINISH = ALS(max_iter=8, tol=1e-7)


@dataclass(frozen=True)
class Auto:
    """Choose by model and data: the default solver.

    Parameters
    ----------
    exact : float
        Relative error below which the fit is exact.
    """

    exact: float = 1e-13

    def __post_init__(self) -> None:
        check_options("Auto", exact=self.exact)

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
        self.reduced = Reduced(problem, None)

    def steps(self, memory: Memory | None) -> Steps:
        problem, start = self.problem, self.start
        if not problem.tensor.complete:
            return (yield from Path(exact=self.options.exact).steps(problem, start, *([memory] if memory else [])))
        self._reduce()
        if problem.warm or not problem.constraint.free:
            found = yield from self._along_path(self.reduced.lower(start))
        else:
            found = yield from self._cheap_starts()
        return (yield from self._finish(found))

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
        for name in ("svd",) if is_tree(like) else ("algebraic", "svd", "random", "random"):
            first = STARTS[name](like, self.reduced.problem.tensor, self.problem.rng)
            if first is None:
                continue
            best, reason = yield from self.reduced.drive(_SWEEPS, first)
            point = _Point(name, best, reason)
            if reason is StopReason.EXACT or is_tree(like):
                return self._taken(point, f"sweeps from {name}")
            agreeing = next((other for other in found if self._agree(point, other)), None)
            found.append(point)
            if agreeing is not None:
                return self._taken(min(point, agreeing, key=_error), f"sweeps from {agreeing.name} and {name}")
        best_point = min(found, key=_error)
        if like.n_parameters > _LARGE:
            best, reason = yield from self.reduced.drive(LM(max_iter=100, tol=1e-6), best_point.best.model)
            return self._taken(_Point(best_point.name, best, reason), f"sweeps and joint steps from {best_point.name}")
        return (yield from self._along_path(like, best_point))

    def _agree(self, one: _Point, two: _Point) -> bool:
        """Whether two starts came to the same minimiser."""
        if one.reason is not StopReason.CONVERGED or two.reason is not StopReason.CONVERGED:
            return False
        apart = float(np.linalg.norm(one.best.model.full() - two.best.model.full()))
        return apart <= _AGREE * min(_error(one), _error(two))

    def _along_path(self, start: Model, other: _Point | None = None) -> Stage[_Point]:
        """The path on the core; where it ends no better than a cheap start, that start."""
        best, reason = yield from self.reduced.drive(Path(exact=self.options.exact), start)
        point = _Point("path", best, reason)
        if other is not None and _error(other) < _error(point):
            return self._taken(other, f"sweeps from {other.name}")
        return self._taken(point, "path")

    def _taken(self, point: _Point, what: str) -> _Point:
        self.way.append(what)
        return point

    # -- on the tensor ------------------------------------------------------------------

    def _finish(self, point: _Point) -> Steps:
        if self.reduced.reduction is None:
            return point.reason
        model = self.reduced.lift(point.best.model)
        whole = Reduced(replace(self.problem, warm=True), None)
        if not self.problem.constraint.free:
            _, reason = yield from whole.drive(LM(max_iter=50, tol=1e-7, exact=self.options.exact), model)
            return reason
        best, reason = yield from whole.drive(_FINISH, model)
        if reason is StopReason.ITERATION_LIMIT:
            _, reason = yield from whole.drive(LM(max_iter=20, tol=1e-7, exact=self.options.exact), best.model)
        return reason


def _error(point: _Point) -> float:
    return point.best.error
