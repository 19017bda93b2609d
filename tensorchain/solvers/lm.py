"""Levenberg-Marquardt on f(theta) = ||T - X(theta)||^2 + nu SS(theta).

With e = T - X, the step d solves

    (J^H J + nu blockdiag(I (x) Q_k) + mu I) d = J^H e - nu Q theta,

where Q_k is the metric of the sensitivity: SS is quadratic in each block, with gradient 2 B_k Q_k^T.
The damping mu follows Nielsen's rule from the ratio of actual to predicted decrease.  J^H J comes from
the wiring of the model, at a cost that does not depend on the data; the gradient is one pass over T.
Cost per iteration: that pass, plus n^3 / 3 for a Cholesky factorisation with n parameters; beyond
`dense_limit` parameters conjugate gradients with J^H J applied block-wise take its place.

References: Nielsen, "Damping parameter in Marquardt's method" (1999); Tichavsky, Phan, Cichocki,
"Krylov-Levenberg-Marquardt algorithm for structured Tucker tensor decompositions" (2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tensorchain.evaluation import Evaluator
from tensorchain.fit import StopReason
from tensorchain.kernels import Array, cholesky, cholesky_solve, diagonal_blocks
from tensorchain.models import Model
from tensorchain.solvers.constraints import Constraint, Penalty
from tensorchain.solvers.krylov import conjugate_gradients, split
from tensorchain.solvers.loop import Iterate, Memory, Problem, Stage, Steps

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
    max_iter : most iterations (factorisations), at each penalty when a bound has to be met.
    tol : relative decrease of the objective over an iteration that counts as slow; three slow ones in a
        row end the run.
    exact : relative error below which the fit is exact.
    damping : first damping mu, in the scale ||T|| = 1.
    dense_limit : most parameters for which J^H J is formed and factorised (the default is where conjugate gradients
        take over on hard problems, measured here; on easy ones they are faster from 300 on).
    """

    max_iter: int = 500
    tol: float = 1e-9
    exact: float = 1e-14
    damping: float = 1e-2
    dense_limit: int = 800

    def __post_init__(self) -> None:
        check_options("LM", max_iter=self.max_iter, tol=self.tol, exact=self.exact, damping=self.damping)

    def steps(self, problem: Problem, start: Model, memory: Memory | None = None) -> Steps:
        """Iterate from `start`, or go on from the memory of an iterate."""
        from tensorchain.solvers.bounds import meet_bound

        evaluator, constraint = problem.tensor.evaluator(start), problem.constraint
        bounded = not (isinstance(constraint, Penalty) or type(constraint) is Constraint)
        weight = constraint.weight if isinstance(constraint, Penalty) else 0.0
        slow = used = 0
        if memory is None:
            point = Point.at(evaluator, start, damping=self.damping)
        else:
            point = Point.at(evaluator, memory.models["point"], damping=memory.figures["damping"])
            slow, used = memory.figures["slow"], memory.figures["used"]
        yield point.iterate(weight, None if bounded else _memory(point, slow, used))
        if bounded:
            return (yield from meet_bound(self, evaluator, constraint, point))
        _, reason = yield from self.stage(evaluator, point, weight, resumable=True, slow=slow, used=used)
        return reason

    def stage(
        self,
        evaluator: Evaluator,
        point: Point,
        penalty: float,
        *,
        resumable: bool = False,
        slow: int = 0,
        used: int = 0,
    ) -> Stage[tuple[Point, StopReason]]:
        """Minimise f at one penalty nu; `slow` steps in a row and `used` iterations lie behind."""
        growth = 2.0
        system: NormalEquations | None = None
        exact = max(self.exact, evaluator.rounding) if self.exact else 0.0
        if point.error <= exact:
            return point, StopReason.EXACT
        if slow >= _SLOW_STEPS:
            return point, StopReason.CONVERGED
        for iteration in range(used, self.max_iter):
            if system is None:
                system = NormalEquations(evaluator, point, penalty, self.dense_limit)
            objective = point.objective(penalty)
            step = system.solve(point.damping)
            if step is not None:
                delta, predicted = step
                trial = point.moved(evaluator, delta)
                decrease = objective - trial.objective(penalty)
                if decrease > _LEAST_RATIO * predicted and decrease > 0.0:
                    ratio = decrease / predicted
                    damping = point.damping * max(1.0 / 3.0, 1.0 - (2.0 * ratio - 1.0) ** 3)
                    point = replace(trial, damping=max(damping, _SMALLEST_DAMPING))
                    growth, system = 2.0, None
                    slow = slow + 1 if decrease < self.tol * (objective - decrease) else 0
                    yield point.iterate(penalty, _memory(point, slow, iteration + 1) if resumable else None)
                    if point.error <= exact:
                        return point, StopReason.EXACT
                    if slow >= _SLOW_STEPS:
                        return point, StopReason.CONVERGED
                    continue
                if not predicted > _TINY_PREDICTION * objective:
                    return point, StopReason.CONVERGED
            point = replace(point, damping=point.damping * growth)
            growth *= 2.0
            if point.damping > _LARGEST_DAMPING:
                return point, StopReason.STALLED
        return point, StopReason.ITERATION_LIMIT


@dataclass(frozen=True)
class Point:
    """A model with its error, sensitivity and damping."""

    model: Model
    error: float
    sensitivity: float
    damping: float

    @classmethod
    def at(cls, evaluator: Evaluator, model: Model, damping: float) -> Point:
        """Evaluate `model`."""
        evaluator.hold(model)
        return cls(model, evaluator.error(), evaluator.sensitivity(), damping)

    def objective(self, penalty: float) -> float:
        """||T - X||^2 + nu SS."""
        return self.error**2 + penalty * self.sensitivity

    def moved(self, evaluator: Evaluator, delta: Sequence[Array]) -> Point:
        """The point at theta + delta."""
        matrices = [matrix + change for matrix, change in zip(self.model.matrices, delta, strict=True)]
        return Point.at(evaluator, self.model.with_matrices(matrices), self.damping)

    def iterate(self, penalty: float, memory: Memory | None = None) -> Iterate:
        """The point as the loop takes it."""
        return Iterate(self.model, self.error, self.sensitivity, penalty, self.damping, memory=memory)


def _memory(point: Point, slow: int, used: int) -> Memory:
    """After an accepted step the damping, the slow steps in a row and the iterations used are the whole state."""
    return Memory({"damping": point.damping, "slow": slow, "used": used}, {"point": point.model})


class NormalEquations:
    """(J^H J + nu Q + mu I) d = J^H e - nu Q theta at one point, for several mu."""

    def __init__(self, evaluator: Evaluator, point: Point, penalty: float, dense_limit: int) -> None:
        model = point.model
        self.evaluator, self.model, self.penalty = evaluator, model, penalty
        evaluator.hold(model)
        self.sizes = [matrix.size for matrix in model.matrices]
        self.shapes = [matrix.shape for matrix in model.matrices]
        blocks = evaluator.gradient()
        if penalty:
            blocks = [
                block - penalty * evaluator.apply_metric(k, matrix)
                for k, (block, matrix) in enumerate(zip(blocks, model.matrices, strict=True))
            ]
        self.rhs = blocks
        self.dense = sum(self.sizes) <= dense_limit and not (evaluator.complete and model.has_damped_inverse)
        if self.dense:
            self.matrix = evaluator.gauss_newton()
            if penalty:
                self._add_metric()
            self.diagonal = np.einsum("ii->i", self.matrix)
            self.undamped = self.diagonal.copy()
            self.flat = np.concatenate([block.ravel() for block in blocks])

    def _add_metric(self) -> None:
        start = 0
        for k, (rows, width) in enumerate(self.shapes):
            diagonal_blocks(self.matrix, start, rows, width)[...] += self.penalty * self.evaluator.metric(k)
            start += rows * width

    def solve(self, damping: float) -> tuple[list[Array], float] | None:
        """Step and predicted decrease of f, or None when the matrix is not positive definite."""
        if not self.dense:
            self.evaluator.hold(self.model)
            delta = conjugate_gradients(self.evaluator, self.rhs, self.penalty, damping)
            if delta is None:
                return None
            return delta, self.predicted(delta, damping)
        np.add(self.undamped, damping, out=self.diagonal)
        factor = cholesky(self.matrix)
        if factor is None:
            return None
        flat = cholesky_solve(factor, self.flat)
        predicted = float(np.vdot(flat, self.flat).real + damping * np.vdot(flat, flat).real)
        return split(flat, self.shapes), predicted

    def predicted(self, delta: Sequence[Array], damping: float) -> float:
        """d^H (g + mu d): the decrease of the quadratic model when d solves the equations."""
        return float(
            sum(np.vdot(d, g).real + damping * np.vdot(d, d).real for d, g in zip(delta, self.rhs, strict=True))
        )


def check_options(kind: str, **options: float) -> None:
    """Iteration limits must be integers of at least 1, tolerances and dampings not negative."""
    for name, value in options.items():
        if name.startswith("max_") and (isinstance(value, bool) or not isinstance(value, (int, np.integer))):
            raise TypeError(f"{kind}: {name} is {value!r}; an integer is needed")
        smallest = 1 if name.startswith("max_") else 0
        if not value >= smallest:
            raise ValueError(f"{kind}: {name} is {value!r}; it must be at least {smallest}")
