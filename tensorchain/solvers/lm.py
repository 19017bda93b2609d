"""Levenberg-Marquardt on the augmented Lagrangian phi(theta) = ||T - X(theta)||^2 + nu SS(theta) + ...

With w_j the slopes and c_j twice the second derivatives of the terms of phi at the values of their quantities
(:mod:`tensorchain.solvers.constraints.lagrangian`), v_j half the gradient and A_j half the curvature of quantity j,
the step d solves

    (sum_j w_j A_j + sum_j c_j v_j v_j^H + mu I) d = -sum_j w_j v_j.

Without a constraint this is (J^H J + mu I) d = J^H (T - X); a penalty adds nu blockdiag(I (x) Q_k) to the matrix and
-nu B_k Q_k^T to the right-hand side; a bound that is active also adds one rank, for which the factor is not changed
(Woodbury's identity).  Where the constraint restricts blocks the step stays in its domain, and all else is the same
(:mod:`tensorchain.solvers.normal_equations`).  The damping mu follows Nielsen's rule from the ratio of actual to
predicted decrease.

Multipliers are updated as soon as phi falls slowly, within the same run.  The run ends where bounds and multipliers are
settled and phi falls by less than `tol` three times in a row, or no step lowers it, and no block alone could lower it
either: a short step under heavy damping is no end (:mod:`tensorchain.solvers.optimality`).

J^H J comes from the wiring of the model, at a cost that does not depend on the data; the gradient is one pass over T.
Cost per iteration: that pass, plus n^3 / 3 for a Cholesky factorisation with n parameters; beyond
`dense_limit` parameters conjugate gradients with J^H J applied block-wise take its place.

References: Nielsen, "Damping parameter in Marquardt's method" (1999); Tichavsky, Phan, Cichocki,
"Krylov-Levenberg-Marquardt algorithm for structured Tucker tensor decompositions" (2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tensorchain.evaluation import Evaluator
from tensorchain.fit import StopReason
from tensorchain.models import Model
from tensorchain.solvers.constraints import Constraint, Domain, Lagrangian, Quantity, SquaredError
from tensorchain.solvers.constraints.lagrangian import FRUITLESS
from tensorchain.solvers.normal_equations import NormalEquations
from tensorchain.solvers.optimality import STATIONARY, attainable_decrease
from tensorchain.solvers.problem import Ended, Memory, Problem, Stage, Steps, iterate_at

_SMALLEST_DAMPING = 1e-15
_LARGEST_DAMPING = 1e12
_TINY_PREDICTION = 1e-15
_LEAST_RATIO = 1e-4
_SLOW_STEPS = 3


@dataclass(frozen=True)
class LM:
    """Levenberg-Marquardt.

    Parameters
    ----------
    max_iter : int
        Most iterations (trial steps).
    tol : float
        Relative decrease of the objective over an iteration that counts as slow; three slow ones in a row end the
        run.
    exact : float
        Relative error below which the fit is exact.
    damping : float
        First damping mu, in the scale ||T|| = 1.
    dense_limit : int
        Most parameters for which J^H J is formed and factorised (the default is where conjugate gradients take over
        on hard problems, measured here; on easy ones they are faster from 300 on).

    Raises
    ------
    TypeError
        When an option is not a number.
    ValueError
        When an option is out of range.

    See Also
    --------
    tensorchain.Auto : The default, which chooses.
    tensorchain.Path : The same with a penalty that is lowered in steps.
    tensorchain.ALS : One block at a time.

    References
    ----------
    Nielsen, "Damping parameter in Marquardt's method" (1999).

    Examples
    --------
    >>> import tensorchain as tc
    >>> T = tc.datasets.inverse_radius(order=3, size=6)
    >>> tc.decompose(T, "cp", rank=2, solver=tc.LM(max_iter=100), rng=0).error < 0.02
    True
    """

    max_iter: int = 500
    tol: float = 1e-9
    exact: float = 1e-14
    damping: float = 1e-2
    dense_limit: int = 800

    def __post_init__(self) -> None:
        check_options("LM", max_iter=self.max_iter, tol=self.tol, exact=self.exact, damping=self.damping)

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
        constraint = problem.constraint
        if (
            memory is None
            and not problem.warm
            and constraint.domain.whole
            and at.error() ** 2 > 1.0 + start.norm() ** 2
        ):
            # <X, T> < 0: from there the way to less error leads through zero, where every gradient vanishes.
            at.replace(0, -start.matrices[0])
        lagrangian = Lagrangian.of(constraint, constraint.measured(at))
        state = State(lagrangian, self.damping) if memory is None else State.recalled(memory.figures, lagrangian)
        yield iterate_at(at, constraint, state.lagrangian, damping=state.damping, memory=state.memory(at))
        end = yield from self.stage(problem, at, state, resumable=True)
        return Ended(end.reason, end.optimality)

    def stage(
        self, problem: Problem, at: Evaluator, state: State, *, resumable: bool = False, asked: Constraint | None = None
    ) -> Stage[End]:
        """Minimise phi from the model that the evaluator holds, which afterwards holds the last model.

        Parameters
        ----------
        problem : Problem
            Iterates are compared by its constraint.
        at : Evaluator
            The model to begin with.
        state : State
            Multipliers and damping, and what lies behind of a run that is resumed.
        resumable : bool, default False
            Whether iterates carry a memory.
        asked : Constraint, optional
            The constraint that the Lagrangian is made of, where it is not that of the problem.

        Returns
        -------
        Stage[End]
            Iterates, and at the end where it stopped.
        """
        lagrangian, damping = state.lagrangian, state.damping
        constraint = problem.constraint if asked is None else asked
        exact = max(self.exact, at.rounding) if self.exact and constraint.error_alone else -1.0
        slow, fruitless, growth, system = state.slow, state.fruitless, 2.0, None
        used = state.used
        values = lagrangian.values(at)
        if self._exact(constraint, at, values, exact):
            return End(StopReason.EXACT, lagrangian, damping, used)
        while True:
            phi, size = lagrangian.value(values), lagrangian.size(values)
            if slow >= _SLOW_STEPS or (slow and not lagrangian.settled(values)):
                if lagrangian.settled(values):
                    left = attainable_decrease(at, lagrangian, values, constraint.domain)
                    if left <= max(STATIONARY, self.tol):
                        return End(StopReason.CONVERGED, lagrangian, damping, used, left)
                    slow = 0
                else:
                    lagrangian, fruitless = lagrangian.next(values, fruitless)
                    if fruitless >= FRUITLESS:
                        return End(StopReason.CONVERGED, lagrangian, damping, used)
                    slow, system = 0, None
                    continue
            if used >= self.max_iter:
                return End(StopReason.ITERATION_LIMIT, lagrangian, damping, used)
            if system is None:
                here = at.model
                system = NormalEquations(at, lagrangian, values, self.dense_limit, constraint.domain)
            used += 1
            step = system.solve(damping)
            if step is not None:
                delta, predicted = step
                if not predicted > _TINY_PREDICTION * max(size, abs(phi)):
                    at.hold(here)
                    if (
                        growth == 2.0
                        and damping > _SMALLEST_DAMPING
                        and not self._at_end(at, lagrangian, values, constraint.domain)
                    ):
                        # The damping alone makes the step short.
                        damping = max(0.1 * damping, _SMALLEST_DAMPING)
                        continue
                    if not lagrangian.settled(values):
                        slow = _SLOW_STEPS
                        continue
                    return End(StopReason.CONVERGED, lagrangian, damping, used)
                at.hold(here.with_matrices([m + d for m, d in zip(here.matrices, delta, strict=True)]))
                trial = lagrangian.values(at)
                decrease = phi - lagrangian.value(trial)
                if decrease > _LEAST_RATIO * predicted and decrease > 0.0:
                    ratio = decrease / predicted
                    damping = max(damping * max(1.0 / 3.0, 1.0 - (2.0 * ratio - 1.0) ** 3), _SMALLEST_DAMPING)
                    values, growth, system = trial, 2.0, None
                    slow = slow + 1 if decrease < lagrangian.slow(values, self.tol) else 0
                    memory = None
                    if resumable:
                        memory = State(lagrangian, damping, slow, used, fruitless).memory(at)
                    yield iterate_at(at, problem.constraint, lagrangian, values=values, damping=damping, memory=memory)
                    if self._exact(constraint, at, values, exact):
                        return End(StopReason.EXACT, lagrangian, damping, used)
                    continue
                at.hold(here)
            damping *= growth
            growth *= 2.0
            if damping > _LARGEST_DAMPING:
                if not lagrangian.settled(values):
                    damping, growth, slow = self.damping, 2.0, _SLOW_STEPS
                    continue
                return End(StopReason.STALLED, lagrangian, damping, used)

    @staticmethod
    def _exact(constraint: Constraint, at: Evaluator, values: dict[Quantity, float], exact: float) -> bool:
        error = values.get(SquaredError())
        if exact < 0.0 or error is None or error > exact**2:
            return False
        return constraint.gap(constraint.measured(at)) <= 0.0

    def _at_end(self, at: Evaluator, lagrangian: Lagrangian, values: dict[Quantity, float], domain: Domain) -> bool:
        return attainable_decrease(at, lagrangian, values, domain) <= max(STATIONARY, self.tol)


@dataclass(frozen=True)
class State:
    """What a stage begins with: multipliers, damping, and counts of what lies behind."""

    lagrangian: Lagrangian
    damping: float
    slow: int = 0
    used: int = 0
    fruitless: int = 0

    def memory(self, at: Evaluator) -> Memory:
        """In plain numbers, with the model."""
        figures = {"damping": self.damping, "slow": self.slow, "used": self.used, "fruitless": self.fruitless}
        return Memory({**figures, "lagrangian": self.lagrangian.figures()}, {"point": at.model})

    @classmethod
    def recalled(cls, figures: dict[str, object], like: Lagrangian) -> State:
        """The state that these figures describe."""
        counts = {name: figures[name] for name in ("damping", "slow", "used", "fruitless")}
        return cls(like.recalled(figures["lagrangian"]), **counts)  # type: ignore[arg-type]


@dataclass(frozen=True)
class End:
    """How a stage ended; the evaluator holds its model."""

    reason: StopReason
    lagrangian: Lagrangian
    damping: float
    used: int
    optimality: float | None = None


def check_options(kind: str, **options: float) -> None:
    """Iteration limits must be integers of at least 1, tolerances and dampings not negative."""
    for name, value in options.items():
        if name.startswith("max_") and (isinstance(value, bool) or not isinstance(value, (int, np.integer))):
            raise TypeError(f"{kind}: {name} is {value!r}; an integer is needed")
        smallest = 1 if name.startswith("max_") else 0
        if not value >= smallest:
            raise ValueError(f"{kind}: {name} is {value!r}; it must be at least {smallest}")
