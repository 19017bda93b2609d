"""Alternating least squares, with the sensitivity held down block by block.

With the other blocks fixed, f = ||T - L_k B_k||^2 + nu SS is quadratic in B_k, and so is SS:

    (M_k + nu Q_k) b = w        for each row b of B_k, w of W_k = L_k^H vec(T).

One generalised eigen-decomposition M_k V = Q_k V diag(lambda), V^H Q_k V = 1, gives the whole family in nu,

    b(nu) = V (lambda + nu)^{-1} V^H w,
    SS(nu)      = sum_j |w~_j|^2 / (lambda_j + nu)^2 + I_k tr M_k,             w~ = V^H w,
    error(nu)^2 = error(0)^2 + sum_j |w~_j|^2 nu^2 / (lambda_j (lambda_j + nu)^2),

both monotone, so a bound on either fixes nu by a root find in one dimension.  Without a constraint the sweeps are
those of :mod:`tensorchain.solvers.sweeps`.

Cost per sweep: one contraction of T with all blocks but one, for each block, with the partial products
that the door reuses; P_k^3 for the small systems.

References: Kolda and Bader (2009), section 3.4; Phan et al., "How to train your unstable looped tensor
network" (2022), for sensitivity-controlled updates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy

from tensorchain.evaluation import Evaluator
from tensorchain.fit import StopReason
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.solvers.constraints import Constraint, ErrorBound, Penalty, SensitivityBound
from tensorchain.solvers.lm import check_options
from tensorchain.solvers.loop import Iterate, Memory, Problem, Steps
from tensorchain.solvers.sweeps import starting_error, sweep, sweep_steps
from tensorchain.stability.gauge import gauge_cycle


@dataclass(frozen=True)
class ALS:
    """Alternating least squares.

    Parameters
    ----------
    max_iter : most sweeps over the blocks.
    tol : relative decrease of the objective in a sweep at which to stop.
    exact : relative error below which the fit is exact.
    """

    max_iter: int = 500
    tol: float = 1e-8
    exact: float = 1e-14

    def __post_init__(self) -> None:
        check_options("ALS", max_iter=self.max_iter, tol=self.tol, exact=self.exact)

    def steps(self, problem: Problem, start: Model, memory: Memory | None = None) -> Steps:
        """Iterate from `start`, or go on from the memory of an iterate."""
        tensor, constraint = problem.tensor, problem.constraint
        free = type(constraint) is Constraint
        evaluator = tensor.evaluator(start if memory is None else memory.models["point"])
        previous: tuple[float, float] | None = None
        if memory is None:
            model, penalty, used = start, 0.0, 0
            error = starting_error(evaluator)
        else:
            figures = memory.figures
            model, error, penalty, used = memory.models["point"], figures["error"], figures["penalty"], figures["used"]
            previous = None if figures["previous"] is None else (figures["previous"][0], figures["previous"][1])
            evaluator.restore(figures["evaluator"])
        while True:
            figures = {"error": error, "penalty": penalty, "used": used, "previous": previous}
            figures["evaluator"] = evaluator.state()
            sensitivity = evaluator.sensitivity()
            yield Iterate(model, error, sensitivity, penalty, memory=Memory(figures, {"point": model}))
            merit = constraint.merit(error, sensitivity)
            reason = self._reason(merit, previous, error, tensor.rounding)
            if reason is not None:
                return reason
            if used >= self.max_iter:
                return StopReason.ITERATION_LIMIT
            previous, used = merit, used + 1
            if not free:
                error, penalty = self._sweep(evaluator, constraint)
                model = gauge_cycle(evaluator.model)
                evaluator.hold(model)
                continue
            swept_error = sweep(evaluator, error)
            if swept_error > error:
                return StopReason.CONVERGED
            model, error = balanced(evaluator.model), swept_error
            evaluator.hold(model)

    def _reason(
        self, merit: tuple[float, float], previous: tuple[float, float] | None, error: float, rounding: float
    ) -> StopReason | None:
        """Why to stop after a sweep; None to go on.  A merit is (violation of the bound, objective)."""
        if error <= max(self.exact, rounding) and merit[0] == 0.0:
            return StopReason.EXACT
        if previous is None:
            return None
        if merit[0] > 0.0 and previous[0] > 0.0 and previous[0] - merit[0] <= self.tol * previous[0]:
            return StopReason.INFEASIBLE
        if merit[0] == previous[0] == 0.0 and previous[1] - merit[1] <= self.tol * previous[1]:
            return StopReason.CONVERGED
        return None

    def _sweep(self, evaluator: Evaluator, constraint: Constraint) -> tuple[float, float]:
        """Update every block once under the constraint; the error, and the last penalty."""
        penalty, norm = 0.0, evaluator.norm
        for step in sweep_steps(evaluator.model):
            for k in step:
                rhs, gram = evaluator.rhs(k), evaluator.gram(k)
                metric, offset = evaluator.metric(k), evaluator.model.block_sensitivities()[k]
                updated, penalty = constrained_update(constraint, gram, metric, rhs, offset, norm, evaluator.matrix(k))
                evaluator.replace(k, updated)
        return evaluator.error(), penalty


def constrained_update(
    constraint: Constraint, gram: Array, metric: Array, rhs: Array, offset: float, norm: float, matrix: Array
) -> tuple[Array, float]:
    """Block that solves the constrained problem in B_k, and its penalty nu.

    `offset` = I_k tr M_k is the part of SS that does not depend on the block, `norm` = ||T||.
    """
    family = PenaltyFamily(gram, metric, rhs)
    if isinstance(constraint, Penalty):
        nu = constraint.weight
    elif isinstance(constraint, SensitivityBound):
        now = float(np.vdot(matrix, matrix @ metric.T).real)
        room = constraint.limit - offset
        # Too little room for this block alone: take its share down and let the others follow.
        nu = family.penalty_for_sensitivity(max(room, 0.25 * min(now, family.sensitivity(0.0))))
    elif isinstance(constraint, ErrorBound):
        nu = family.penalty_for_error(constraint.limit**2 - (norm**2 - family.explained))
    else:
        raise TypeError(f"ALS does not know the constraint {constraint!r}")
    return family.block(nu), nu


class PenaltyFamily:
    """b(nu) for all nu at once, from one generalised eigen-decomposition (per row when Grams differ)."""

    def __init__(self, gram: Array, metric: Array, rhs: Array) -> None:
        width = len(metric)
        ridge = 1e-14 * max(float(np.trace(metric).real), np.finfo(float).tiny) / width
        root = scipy.linalg.cholesky(metric + ridge * np.eye(width), lower=True, check_finite=False)
        # M V = Q V diag(lambda)  <=>  (L^-1 M L^-H) Y = Y diag(lambda), V = L^-H Y
        inverse = scipy.linalg.solve_triangular(root, np.eye(width), lower=True, check_finite=False)
        values, vectors = np.linalg.eigh(inverse @ gram @ inverse.conj().T)
        self.vectors = inverse.conj().T @ vectors
        cutoff = np.finfo(float).eps * width * values.max(axis=-1, keepdims=True, initial=0.0)
        alive = values > cutoff
        self.values = np.where(alive, values, 1.0)
        rotated = rhs @ self.vectors.conj() if gram.ndim == 2 else np.einsum("ip,ipj->ij", rhs, self.vectors.conj())
        self.rotated = np.where(alive, rotated, 0.0)
        self.power = np.abs(self.rotated) ** 2
        self.explained = float((self.power / self.values).sum())
        """||T||^2 - error(0)^2."""
        self.largest = float(self.values.max(initial=1.0))

    def block(self, nu: float) -> Array:
        """B(nu), (I_k, P_k)."""
        coefficients = self.rotated / (self.values + nu)
        if self.vectors.ndim == 2:
            return np.asarray(coefficients @ self.vectors.T)
        return np.asarray(np.einsum("ij,ipj->ip", coefficients, self.vectors))

    def sensitivity(self, nu: float) -> float:
        """SS(nu) less I_k tr M_k."""
        return float((self.power / (self.values + nu) ** 2).sum())

    def excess(self, nu: float) -> float:
        """error(nu)^2 - error(0)^2."""
        return float((self.power * nu**2 / (self.values * (self.values + nu) ** 2)).sum())

    def penalty_for_sensitivity(self, target: float) -> float:
        """Least nu with SS(nu) - I_k tr M_k <= target."""
        if self.sensitivity(0.0) <= target:
            return 0.0
        return _root(lambda nu: self.sensitivity(nu) - target, self.largest)

    def penalty_for_error(self, room: float) -> float:
        """Largest nu with error(nu)^2 - error(0)^2 <= room; 0 when there is none."""
        if room <= 0.0:
            return 0.0
        if self.explained <= room:
            return 1e12 * self.largest
        return _root(lambda nu: room - self.excess(nu), self.largest)


def _root(decreasing: object, scale: float) -> float:
    """Zero in nu > 0 of a decreasing function that is positive at 0, found in log nu."""
    assert callable(decreasing)
    low, high = 1e-14 * scale, scale
    while decreasing(high) > 0.0 and high < 1e18 * scale:
        high *= 100.0
    if decreasing(low) <= 0.0:
        return low
    if decreasing(high) > 0.0:
        return high
    root = scipy.optimize.brentq(lambda t: decreasing(np.exp(t)), np.log(low), np.log(high), xtol=1e-10, rtol=1e-12)
    return float(np.exp(root))


def balanced(model: Model) -> Model:
    """Blocks scaled to nearly one norm: X is unchanged, overflow is out of reach.

    The factors are powers of two whose product is one: nothing is rounded, and blocks that are balanced already
    stay the very same arrays.
    """
    norms = [math.sqrt(float(np.vdot(matrix, matrix).real)) for matrix in model.matrices]
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
    return model.rescaled([2.0**exponent for exponent in exponents]) if any(exponents) else model
