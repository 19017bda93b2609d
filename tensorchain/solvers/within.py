"""What the default does where blocks are fixed or all of them non-negative, and nothing else is asked.

With non-negative blocks a best approximation exists, and nothing runs off; fixed blocks say what the others have to
fit.  Sweeps and joint steps from one start are all that is done.

1. Sweeps; over a large tensor first such that see it through its core (:mod:`tensorchain.solvers.compressed`).
2. Joint steps, in rounds as long as each lowers the error by a hundredth: they end sweeps that creep.
3. Sweeps again where these creep as well, as on data without structure: they are cheaper.
"""

from __future__ import annotations

import math
from dataclasses import replace

from tensorchain.fit import StopReason
from tensorchain.models import Model, Network
from tensorchain.solvers.als import ALS
from tensorchain.solvers.compressed import Compressed
from tensorchain.solvers.constraints import Constraint
from tensorchain.solvers.lm import LM
from tensorchain.solvers.problem import Iterate, Stage
from tensorchain.solvers.reduced import Reduced
from tensorchain.solvers.reduction import reduce, reduced_shape
from tensorchain.tensors import Sparse

_SWEEPS, _STEPS, _LAST = ALS(max_iter=100, tol=1e-6), LM(max_iter=30, tol=1e-8), ALS(max_iter=500, tol=1e-7)
_LARGE = 2000
"""Unknowns beyond which joint steps are not taken."""
_ROUNDS, _PAYS = 20, 0.99
"""Most rounds of joint steps, and the share of the error at which a round was worth another one."""
_SMALL, _SEEN_THROUGH = 1_000_000, 20
"""Entries up to which, and times the core up to which, the tensor itself is swept over."""


def closed(constraint: Constraint, network: Network) -> bool:
    """Whether nothing is asked but a domain in which no part can grow and cancel others, or one with fixed blocks."""
    only = constraint.error_alone and not constraint.bounds
    return only and (constraint.domain.closed(network) or bool(constraint.domain.fixed(network)))


def swept(whole: Reduced, start: Model, exact: float, way: list[str]) -> Stage[tuple[Iterate, StopReason]]:
    """The best iterate from a start, and why it ended.

    Parameters
    ----------
    whole : Reduced
        The problem, without a reduction.
    start : Model
        In the domain.
    exact : float
        Relative error below which the fit is exact.
    way : list of str
        To which what was done is added.
    """
    small = start.n_parameters <= _LARGE
    best, reason = yield from whole.drive(_SWEEPS, _from_core(whole, start, way))
    if len(start.matrices) - len(whole.problem.constraint.domain.fixed(start.network)) == 1:
        # Linear least squares.
        way.append("one block")
        return best, StopReason.CONVERGED if reason is StopReason.ITERATION_LIMIT else reason
    way.append("sweeps and joint steps" if small else "sweeps")
    if small and reason is not StopReason.EXACT:
        for _ in range(_ROUNDS):
            before = best.error
            best, reason = yield from whole.drive(replace(_STEPS, exact=exact), best.model)
            if reason is not StopReason.ITERATION_LIMIT or best.error > _PAYS * before:
                break
    if reason is StopReason.ITERATION_LIMIT or not (small or reason is StopReason.EXACT):
        best, reason = yield from whole.drive(replace(_LAST, exact=exact), best.model)
    return best, reason


def _from_core(whole: Reduced, start: Model, way: list[str]) -> Model:
    """Where sweeps lead that see a large tensor through its core, at the cost of the core."""
    problem, tensor = whole.problem, whole.problem.tensor
    sizes, entries = reduced_shape(start.network, tensor.shape), math.prod(tensor.shape)
    if problem.warm or not tensor.complete or isinstance(tensor, Sparse):
        return start
    if entries < max(_SMALL, _SEEN_THROUGH * math.prod(sizes)):
        return start
    reduction = reduce(tensor, sizes, problem.rng)
    way.append("core " + "x".join(map(str, reduction.core.shape)))
    seen = Reduced(replace(problem, tensor=Compressed(reduction)), None)
    return seen.aside(_SWEEPS, start, problem.constraint).model
