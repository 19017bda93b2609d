"""A fit that is quick where the rank is too high: sweeps from cheap starts, joint steps from the best, and no path.

A study of ranks fits most ranks in vain.  There the least error may have no minimiser, several starts never come to
the same one, and the default solver would search long for what the study throws away.  Here

1. complete data of many rows are reduced to a core (:mod:`tensorchain.solvers.reduction`);
2. a few sweeps go from each of the starts: singular vectors and, for a CP, the algebraic solution (for data with gaps,
   of an estimate of the core without gaps), and the model that is given, or else random blocks;
3. loops and block terms, which run off from such starts, also take short sensitivity paths
   (:mod:`tensorchain.solvers.path`) from random blocks;
4. joint steps (LM) go on from the best of them, and on the tensor itself after a reduction.

A study compares ranks, and errors that differ by less than a thousandth count as equal in it: that is where the steps
end.  Constraints are met from the start on; where they restrict blocks, singular vectors say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tensorchain.fit import StopReason
from tensorchain.models import CP, Model
from tensorchain.solvers.als import ALS
from tensorchain.solvers.estimate import from_estimate
from tensorchain.solvers.lm import LM
from tensorchain.solvers.path import Path
from tensorchain.solvers.problem import Ended, Iterate, Memory, Problem, Stage, Steps, iterate_at
from tensorchain.solvers.reduced import Reduced, order_of, shifted
from tensorchain.solvers.reduction import reduce, reduced_shape, worthwhile
from tensorchain.solvers.starts import is_tree, random_start, start_by
from tensorchain.tensors import Sparse

_SWEEPS = ALS(max_iter=20, tol=1e-4)
"""From each start."""
_LARGE = 2000
"""Unknowns beyond which sweeps go on in place of joint steps."""
_MORE = ALS(max_iter=100, tol=1e-5)
_REDUCED = 100_000
"""Entries from which complete data are reduced."""
_PATH = Path(cycles=2, run_off=20.0, stage_tol=1e-2, stage_iter=15, max_iter=40, tol=1e-5)
"""For loops and block terms."""
_FINISH = ALS(max_iter=5, tol=1e-6)


@dataclass(frozen=True)
class Quick:
    """Sweeps from cheap starts, joint steps from the best.

    Parameters
    ----------
    random : bool
        Whether random blocks are the only start, beside a model that is given: for starts that are compared.
    max_iter : int
        Most joint steps.
    tol : float
        Relative decrease of the objective that counts as slow in these.
    """

    random: bool = False
    max_iter: int = 60
    tol: float = 1e-5

    def steps(self, problem: Problem, start: Model, memory: Memory | None = None) -> Steps:
        """Iterate from cheap starts, and from `start` where that was given."""
        reduced = self._reduced(problem, start)
        if problem.warm:
            yield iterate_at(problem.evaluator(start), problem.constraint)
        best: Iterate | None = None
        reason = StopReason.ITERATION_LIMIT
        for first in self._starts(reduced, start):
            found, why = _ended(reduced.drive(_SWEEPS, first))
            if best is None or order_of(found) < order_of(best):
                best, reason = found, why
            if reason is StopReason.EXACT or problem.clock.expired:
                break
        more = problem.constraint.domain.whole and reason is not StopReason.EXACT and not problem.clock.expired
        if best is None or (more and _runs_off(start)):
            fresh = Reduced(replace(problem, warm=False), reduced.reduction)
            found, why = _ended(fresh.drive(_PATH, reduced.lower(start).random_like(problem.rng)))
            if best is None or order_of(found) < order_of(best):
                best, reason = found, why
        if reason is StopReason.EXACT:
            yield reduced.lifted(best)
        else:
            large = best.model.n_parameters > _LARGE or is_tree(best.model)
            solver = _MORE if large else LM(max_iter=self.max_iter, tol=self.tol)
            best, reason = yield from reduced.drive(solver, best.model)
        if reduced.reduction is not None:
            whole = Reduced(replace(problem, warm=True), None)
            best, reason = yield from whole.drive(_FINISH, reduced.lift(best.model))
        return Ended(reason)

    def _reduced(self, problem: Problem, start: Model) -> Reduced:
        tensor = problem.tensor
        large = math.prod(tensor.shape) >= _REDUCED and worthwhile(start.network, tensor.shape)
        if not (large and tensor.complete and problem.constraint.domain.whole) or isinstance(tensor, Sparse):
            return Reduced(problem, None)
        reduction = reduce(tensor, reduced_shape(start.network, tensor.shape), problem.rng)
        met = shifted(problem.constraint, reduction.remainder) is not None
        return Reduced(problem, reduction if met else None)

    def _starts(self, reduced: Reduced, start: Model) -> Iterator[Model]:
        problem, like = reduced.problem, reduced.lower(start)
        if problem.warm:
            yield like
        if not problem.constraint.domain.whole:
            if not problem.warm:
                yield like
            return
        if not self.random:
            names = ("svd",) if is_tree(like) else ("algebraic", "svd")
            if problem.tensor.complete:
                for name in names:
                    first = start_by(name, like, problem.tensor, problem.rng)
                    if first is not None:
                        yield first
            else:
                first = from_estimate(problem, like, names, _SWEEPS)
                if first is not None:
                    yield first
        if not _runs_off(like) and (self.random or not (problem.warm or is_tree(like))):
            yield random_start(like.random_like(problem.rng), problem.tensor, problem.rng)


def _ended(stage: Stage[tuple[Iterate, StopReason]]) -> tuple[Iterate, StopReason]:
    """What a stage comes to; its iterates are no part of the run, whose history is that of the last start alone."""
    found: list[tuple[Iterate, StopReason]] = []

    def whole() -> Iterator[Iterate]:
        found.append((yield from stage))

    for _ in whole():
        pass
    return found[0]


def _runs_off(model: Model) -> bool:
    """Whether sweeps and joint steps often diverge for such models: loops and sums of block terms."""
    return not is_tree(model) and not isinstance(model, CP)
