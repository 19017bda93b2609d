"""Alternating least squares: each block at its best, with the others as they are.

Where only the error counts the sweeps are those of :mod:`tensorchain.solvers.sweeps`.  Else each block minimises the
augmented Lagrangian of :mod:`tensorchain.solvers.constraints.lagrangian`, in which it is convex
(:mod:`tensorchain.solvers.blocks`), so that phi falls with every block.  All blocks share one multiplier for each
bound: blocks that meet a bound one by one, each with a multiplier of its own, come to rest where none of them can move
although together they could.  Multipliers are updated as soon as phi falls slowly.

Cost per sweep: one contraction of T with all blocks but one, for each block, with the partial products
that the evaluator reuses; P_k^3 for each small system.

References: Kolda and Bader (2009), section 3.4; Phan et al., "How to train your unstable looped tensor
network" (2022), for sensitivity-controlled updates.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from tensorchain.evaluation import Evaluator
from tensorchain.evaluation.device import DeviceEvaluator
from tensorchain.fit import StopReason
from tensorchain.kernels.interruption import OutOfTime, check_time
from tensorchain.models import Model
from tensorchain.solvers.blocks import BlockProblem, best_change
from tensorchain.solvers.constraints import Lagrangian, Quantity, Sensitivity, SquaredError
from tensorchain.solvers.constraints.lagrangian import FRUITLESS
from tensorchain.solvers.lm import check_options
from tensorchain.solvers.problem import Ended, Iterate, Memory, Problem, Steps, iterate_at
from tensorchain.solvers.resident import penalty_of, resident_steps, stays_there
from tensorchain.solvers.sweeps import starting_error, sweep, sweep_steps

_LOST = 1e-6
"""Fall of the squared error since it was last evaluated, from which it is evaluated anew."""


@dataclass(frozen=True)
class ALS:
    """Alternating least squares.

    Parameters
    ----------
    max_iter : int
        Most sweeps over the blocks.
    tol : float
        Relative decrease in a sweep at which to stop: of the error, under a constraint of what is minimised.
    exact : float
        Relative error below which the fit is exact.

    Raises
    ------
    TypeError
        When an option is not a number.
    ValueError
        When an option is out of range.

    See Also
    --------
    tensorchain.Auto : The default, which chooses.
    tensorchain.LM : All blocks at once.
    tensorchain.SampledALS : Sweeps over a sample of the data.

    Notes
    -----
    With the other blocks fixed, block k solves the least-squares problem min ||T - L_k B_k||, whose normal equations
    are B_k M_k^T = W_k with the small Gram M_k = L_k^H L_k and W_k = L_k^H vec(T).  Under a constraint it minimises the
    augmented Lagrangian instead, in which it is convex.  Tucker models take HOOI: singular vectors in turn.

    References
    ----------
    Kolda and Bader, "Tensor decompositions and applications" (2009), section 3.4.

    Examples
    --------
    >>> import tensorchain as tc
    >>> T = tc.datasets.inverse_radius(order=3, size=6)
    >>> tc.decompose(T, "cp", rank=2, solver=tc.ALS(max_iter=100), rng=0).error < 0.05
    True
    """

    max_iter: int = 500
    tol: float = 1e-8
    exact: float = 1e-14

    def __post_init__(self) -> None:
        check_options("ALS", max_iter=self.max_iter, tol=self.tol, exact=self.exact)

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
        at = problem.evaluator(start if memory is None else memory.models["point"])
        if isinstance(at, DeviceEvaluator) and stays_there(at, problem.constraint):
            return (yield from resident_steps(self, problem, at, memory))
        if problem.constraint.error_alone and not problem.constraint.bounds:
            return (yield from self._free_steps(problem, at, memory))
        return (yield from self._constrained_steps(problem, at, memory))

    def _free_steps(self, problem: Problem, at: Evaluator, memory: Memory | None) -> Steps:
        """Plain sweeps."""
        previous: float | None = None
        if memory is None:
            error, used = starting_error(at), 0
        else:
            figures = memory.figures
            error, used, previous = figures["error"], figures["used"], figures["previous"]
            at.restore(figures["evaluator"])
        exact, domain = max(self.exact, at.rounding), problem.constraint.domain
        while True:
            model = at.model
            figures = {"error": error, "used": used, "previous": previous, "evaluator": at.state()}
            yield Iterate(model, error, at.sensitivity(), memory=Memory(figures, {"point": model}))
            if error <= exact:
                return Ended(StopReason.EXACT)
            if previous is not None and previous - error <= self.tol * previous:
                # What the last sweep took off is what another one would at most.
                return Ended(StopReason.CONVERGED, 2.0 * (previous - error) / previous)
            if used >= self.max_iter:
                return Ended(StopReason.ITERATION_LIMIT)
            previous, used = error, used + 1
            error = sweep(at, error, domain)
            if error > previous:
                return Ended(StopReason.CONVERGED)
            at.hold(balanced(at.model, domain.fixed(at.network)))

    def _constrained_steps(self, problem: Problem, at: Evaluator, memory: Memory | None) -> Steps:
        """Sweeps over the augmented Lagrangian."""
        constraint = problem.constraint
        lagrangian = Lagrangian.of(constraint, constraint.measured(at))
        used, fruitless, converged = 0, 0, False
        if memory is not None:
            lagrangian = lagrangian.recalled(memory.figures["lagrangian"])
            used, fruitless = memory.figures["used"], memory.figures["fruitless"]
            converged = memory.figures["converged"]
        values = lagrangian.values(at)
        if memory is not None:
            # The squared error is followed from block to block: to the last bit it is where it came from.
            values = dict(zip(lagrangian.quantities, memory.figures["values"], strict=True))
        exact = max(self.exact, at.rounding) if constraint.error_alone else -1.0
        while True:
            figures = {"lagrangian": lagrangian.figures(), "used": used, "fruitless": fruitless}
            figures |= {"converged": converged, "values": [values[quantity] for quantity in lagrangian.quantities]}
            memory = Memory(figures, {"point": at.model})
            iterate = iterate_at(at, constraint, lagrangian, values=values, memory=memory)
            yield iterate
            if iterate.error <= exact and iterate.merit is not None and iterate.merit[0] <= 0.0:
                return Ended(StopReason.EXACT)
            if converged:
                return Ended(StopReason.CONVERGED)
            if used >= self.max_iter:
                return Ended(StopReason.ITERATION_LIMIT)
            used += 1
            phi = lagrangian.value(values)
            values = constrained_sweep(problem, at, lagrangian, values)
            if phi - lagrangian.value(values) > lagrangian.slow(values, self.tol):
                continue
            if lagrangian.settled(values):
                converged = True
                continue
            lagrangian, fruitless = lagrangian.next(values, fruitless)
            converged = fruitless >= FRUITLESS


def constrained_sweep(
    problem: Problem, at: Evaluator, lagrangian: Lagrangian, values: dict[Quantity, float]
) -> dict[Quantity, float]:
    """Every block at its best once, and a cycle of the gauge; the quantities afterwards."""
    values = dict(values)
    penalty = None if lagrangian.bounded or lagrangian.extra else penalty_of(problem.constraint)
    if penalty and isinstance(at, DeviceEvaluator) and at.resident(penalty) and problem.constraint.allows_gauge:
        row = at.sweeps(1, penalty)[0]
        return {SquaredError(): row.error**2, Sensitivity(): row.sensitivity}
    evaluated, domain = values.get(SquaredError(), 0.0), problem.constraint.domain
    fixed = domain.fixed(at.network)
    # Blocks that are updated when time is up count.
    with suppress(OutOfTime):
        for k in (k for step in sweep_steps(at.model) for k in step if k not in fixed):
            check_time()
            block = BlockProblem.of(at, k, values, domain=domain, fine=lagrangian.bounded)
            found = best_change(block, lagrangian)
            if found is not None:
                at.replace(k, at.model.matrices[k] + found[0])
                # The other quantities do not feel a change of one block through rounding; small errors do.
                values = found[1]
    if values.get(SquaredError(), math.inf) < max(_LOST * evaluated, _LOST):
        values[SquaredError()] = at.error() ** 2
    if problem.constraint.allows_gauge:
        at.hold(domain.gauge_cycle(at.model))
        # X is as it was: only what depends on the gauge is measured anew.
        values = {q: v if q == SquaredError() else q.value(at) for q, v in values.items()}
    return values


def balanced(model: Model, fixed: Collection[int] = ()) -> Model:
    """Blocks scaled to nearly one norm, but for fixed ones: X is unchanged, overflow is out of reach.

    The factors are powers of two whose product is one: nothing is rounded, and blocks that are balanced already
    stay the very same arrays.
    """
    free = [k for k in range(len(model.matrices)) if k not in fixed]
    norms = [math.sqrt(float(np.vdot(model.matrices[k], model.matrices[k]).real)) for k in free]
    if min(norms) <= 0.0 or not all(map(math.isfinite, norms)):
        return model
    logs = [math.log2(norm) for norm in norms]
    wanted = [math.fsum(logs) / len(logs) - log for log in logs]
    exponents = [round(exponent) for exponent in wanted]
    surplus = sum(exponents)
    # The exponents that were rounded furthest give way.
    step = 1 if surplus > 0 else -1
    for k in sorted(range(len(logs)), key=lambda k: step * (wanted[k] - exponents[k]))[: abs(surplus)]:
        exponents[k] -= step
    if not any(exponents):
        return model
    factors = dict(zip(free, exponents, strict=True))
    return model.rescaled([2.0 ** factors.get(k, 0) for k in range(len(model.matrices))])
