"""The sensitivity path: Levenberg-Marquardt on ||T - X||^2 + nu SS with nu lowered in steps to zero.

A strong penalty makes the first problem nearly convex and keeps the blocks bounded; lowered in steps, it
leads around the swamps in which blocks diverge and cancel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tensorchain.fit import StopReason
from tensorchain.models import Model
from tensorchain.solvers.constraints import Constraint, ErrorBound, Penalty, SensitivityBound
from tensorchain.solvers.lm import LM, Point, check_options
from tensorchain.solvers.loop import Problem, Steps


@dataclass(frozen=True)
class Continuation:
    """The sensitivity path.

    Parameters
    ----------
    share : first penalty, as nu * SS of the balanced random start at norm 1.
    factor : by which nu is lowered from one stage to the next.
    end : last penalty, relative to the first, before nu = 0.
    floor : smallest penalty, as a fraction of the first; 0 ends the path with nu = 0.
    stage_iter, stage_tol : iteration limit and tolerance of each stage.
    max_iter, tol, exact : as in `LM`, for the last stage.
    """

    share: float = 1.5
    factor: float = 3.0
    end: float = 1e-6
    stage_iter: int = 100
    stage_tol: float = 1e-5
    max_iter: int = 500
    tol: float = 1e-9
    exact: float = 1e-14

    def __post_init__(self) -> None:
        check_options("Continuation", max_iter=self.max_iter, tol=self.tol, exact=self.exact, share=self.share)

    def steps(self, problem: Problem, start: Model) -> Steps:
        """Iterate from `start`."""
        from tensorchain.solvers.bounds import anchor, close_in

        tensor, constraint = problem.tensor, problem.constraint
        inner = LM(max_iter=self.stage_iter, tol=self.stage_tol, exact=self.exact)
        last = LM(max_iter=self.max_iter, tol=self.tol, exact=self.exact)
        point = Point.at(tensor, start, damping=inner.damping)
        penalty = self.share / point.sensitivity
        lowest = constraint.weight if isinstance(constraint, Penalty) else 0.0
        yield point.iterate(penalty)
        final = self.end * penalty
        tame = None
        while penalty > max(final, lowest):
            point, reason = yield from inner.stage(tensor, point, penalty)
            if isinstance(constraint, (SensitivityBound, ErrorBound)):
                here = anchor(constraint, point, penalty)
                crossed = here.gap > 0.0
                if crossed and tame is not None:
                    return (yield from close_in(replace(last, tol=1e-7), tensor, constraint, here, tame))
                if crossed:
                    break
                tame = here
            if reason is StopReason.EXACT:
                return reason
            penalty /= self.factor
        _, reason = yield from last.stage(tensor, point, lowest)
        return reason
