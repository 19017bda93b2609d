"""The augmented Lagrangian in one block, and its minimiser.

With the other blocks fixed every quantity is quadratic, r(B + D) = r + 2 <v, D> + <D, D A^T>, and phi is convex in D.
At given weights w_j the minimiser of sum_j w_j r_j solves

    (sum_j w_j A_j) D = -sum_j w_j v_j,

written for the change D, which keeps its digits when the residual is small.  A bound asks in addition that its weight
is the slope of its term where D leads, w = psi'(r(D(w))): the left side rises in w and the right side falls, so there
is one such w, found by bisection and regula falsi in log w.  With several bounds the weights depend on each other:
they maximise the dual function

    min over D of sum_j w_j r_j(D)  -  sum over bounds of w_b limit_b + limit_b (w_b - multiplier_b)^2 / (2 rho_b),

which is concave, by Newton's method with w >= 0 (its second derivatives are -2 <g_b, S^-1 g_c>, g half the gradients at
D, S the matrix above).

Where the domain of the constraint restricts the block, D is the minimiser over the changes that do not leave it, which
has no closed form (:mod:`tensorchain.kernels.nonnegative`); all else is the same.

Cost: P_k^3 for each weight that is tried; some sweeps of I_k P_k^2 over a restricted block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tensorchain.evaluation import Evaluator
from tensorchain.kernels import Array, GramSystem
from tensorchain.kernels.interruption import check_time
from tensorchain.solvers.constraints import Domain, Lagrangian, Quantity, Sensitivity, SquaredError
from tensorchain.solvers.constraints.domain import EVERYWHERE
from tensorchain.solvers.constraints.lagrangian import Term
from tensorchain.solvers.krylov import conjugate_gradients
from tensorchain.solvers.normal_equations import Floors
from tensorchain.tensors.curvature import unformed

_FORMED = 2000
"""Width of a core up to which its matrix is formed, where a domain restricts it."""
_ACCURACY = 1e-6
"""Relative accuracy of the weight of a bound."""
_UNFORMED = 1e-6
"""Relative accuracy of the update of a large core of data with gaps."""
_TRIES, _HALVINGS = 60, 20
_SMALLEST, _LARGEST = 1e-18, 1e18
_UNSEEN = 1e-14


@dataclass(frozen=True)
class BlockProblem:
    """All quantities as functions of one block.

    Attributes
    ----------
    values : mapping of Quantity to float
        r_j at the block as it is.
    gradients : mapping of Quantity to ndarray
        v_j, (I_k, P_k), of the quantities that the block counts in.
    apply : callable
        From a quantity and D to D A_j^T.
    solve : callable
        From weights w_j and a right-hand side W to D with D (sum_j w_j A_j)^T = W, or the nearest to it, in the metric
        of that matrix, with which the block stays in its domain.
    """

    values: Mapping[Quantity, float]
    gradients: Mapping[Quantity, Array]
    apply: Callable[[Quantity, Array], Array]
    solve: Callable[[Mapping[Quantity, float], Array], Array]

    @classmethod
    def of(
        cls,
        at: Evaluator,
        k: int,
        values: Mapping[Quantity, float],
        gradients: Mapping[Quantity, Array | None] | None = None,
        *,
        domain: Domain = EVERYWHERE,
        fine: bool = True,
    ) -> BlockProblem:
        """Block k of the model that the evaluator holds, whose quantities (and gradients) are given.

        `fine` as in `Domain.best_change`.
        """
        found = {}
        for quantity in values:
            gradient = quantity.block_gradient(at, k) if gradients is None else gradients[quantity]
            if gradient is not None:
                found[quantity] = gradient

        # Over missing entries a Gram is a pass over the data: it is made once for all weights that are tried.
        formed: dict[Quantity, Array | None] = {}

        def curvature(quantity: Quantity) -> Array | None:
            if quantity not in formed:
                formed[quantity] = quantity.curvature(at, k)
            return formed[quantity]

        def apply(quantity: Quantity, change: Array) -> Array:
            formed = not at.complete and quantity == SquaredError() and not unformed(at.model, k)
            matrix = curvature(quantity) if formed else None
            image = quantity.apply(at, k, change) if matrix is None else GramSystem(matrix).apply(change)
            assert image is not None
            return image

        def within(weights: Mapping[Quantity, float], rhs: Array) -> Array:
            positive = {quantity: weight for quantity, weight in weights.items() if weight > 0.0}
            if rhs.shape[1] > _FORMED and at.network.modes[k] is None:
                return _within_unformed(at, k, positive, rhs)
            system = _system(positive, curvature)
            if system is None:
                return np.zeros_like(rhs)
            return domain.best_change(at.model.matrices[k], system.gram, rhs, fine=fine)

        if k in domain.restricted(at.network):
            return cls(values, found, apply, within)
        return cls(values, found, apply, lambda weights, rhs: solved(at, k, weights, rhs, curvature))

    @classmethod
    def from_matrices(
        cls,
        values: Mapping[Quantity, float],
        gradients: Mapping[Quantity, Array],
        curvatures: Mapping[Quantity, Array],
        *,
        domain: Domain = EVERYWHERE,
        matrix: Array | None = None,
    ) -> BlockProblem:
        """From the matrices A_j themselves; `matrix` is the block where the domain restricts it."""

        def solve(weights: Mapping[Quantity, float], rhs: Array) -> Array:
            system = _summed(curvatures, weights)
            return system.solve(rhs) if matrix is None else domain.best_change(matrix, system.gram, rhs, fine=True)

        return cls(values, gradients, lambda quantity, change: GramSystem(curvatures[quantity]).apply(change), solve)

    def change(self, weights: Mapping[Quantity, float]) -> Array:
        """D at given weights."""
        check_time()
        parts = [weights.get(quantity, 0.0) * gradient for quantity, gradient in self.gradients.items()]
        return self.solve(weights, -sum(parts[1:], start=parts[0]))

    def after(self, change: Array) -> dict[Quantity, float]:
        """All quantities at B + D."""
        found = dict(self.values)
        for quantity, gradient in self.gradients.items():
            image = self.apply(quantity, change)
            found[quantity] = max(found[quantity] + float(np.vdot(change, 2.0 * gradient + image).real), 0.0)
        return found


def solved(
    at: Evaluator,
    k: int,
    weights: Mapping[Quantity, float],
    rhs: Array,
    formed: Callable[[Quantity], Array | None],
) -> Array:
    """D with D (sum_j w_j A_j)^T = rhs, of least norm, through the structure of the model where it has one.

    `formed` gives the matrices A_j where they are needed.
    """
    positive = {quantity: weight for quantity, weight in weights.items() if weight > 0.0}
    if positive and set(positive) <= {SquaredError(), Sensitivity()}:
        sensitivity = positive.get(Sensitivity(), 0.0)
        # Q_k alone is inverted beside a share of M_k that does not count: by the structure of both.
        error = max(positive.get(SquaredError(), 0.0), _UNSEEN * sensitivity)
        penalty = sensitivity / error
        if not penalty and at.complete:
            return at.system(k).solve(rhs / error)
        inverse = at.model.penalised_solver(k, penalty) if at.complete else None
        if inverse is not None:
            return inverse(rhs / error)
    if not at.complete and unformed(at.model, k):
        return _unformed(at, k, positive, rhs)
    system = _system(positive, formed)
    return np.zeros_like(rhs) if system is None else system.solve(rhs)


def _unformed(at: Evaluator, k: int, weights: Mapping[Quantity, float], rhs: Array) -> Array:
    """The same for a large core of data with gaps, by conjugate gradients from the solution for complete data."""
    sensitivity = weights.get(Sensitivity(), 0.0)
    share = max(weights.get(SquaredError(), 0.0), _UNSEEN * sensitivity) * at.tensor.mean_weight
    inverse = at.model.penalised_solver(k, sensitivity / share) if share else None

    def near(block: Array) -> Array:
        return block if inverse is None else inverse(block / share)

    return conjugate_gradients(lambda b: [_image(at, k, weights, b[0])], lambda b: [near(b[0])], [rhs], tol=_UNFORMED)[
        0
    ]


def _image(at: Evaluator, k: int, weights: Mapping[Quantity, float], step: Array) -> Array:
    """D (sum_j w_j A_j)^T, without the matrices."""
    images = ((quantity.apply(at, k, step), weight) for quantity, weight in weights.items())
    parts = [weight * part for part, weight in images if part is not None]
    return np.asarray(sum(parts[1:], start=parts[0])) if parts else np.zeros_like(step)


def change_within(at: Evaluator, k: int, residual: Array, domain: Domain) -> Array:
    """D that lowers ||T - X||^2 most within the domain, or goes far towards it; `residual` is L_k^H (T - X)."""
    if residual.shape[1] > _FORMED and at.network.modes[k] is None:
        return _within_unformed(at, k, {SquaredError(): 1.0}, residual)
    return domain.best_change(at.model.matrices[k], at.gram(k), residual)


def _within_unformed(at: Evaluator, k: int, weights: Mapping[Quantity, float], rhs: Array) -> Array:
    """The same in a domain for a large core, whose matrix is never formed: towards D, by conjugate gradients."""

    def image(step: Array) -> Array:
        return _image(at, k, weights, step.reshape(rhs.shape)).ravel()

    def solve(step: Array, free: Array) -> Array:
        right = np.where(free, rhs.ravel() - image(np.where(free, 0.0, step)), 0.0)
        found = conjugate_gradients(lambda b: [np.where(free, image(b[0]), 0.0)], lambda b: [b[0]], [right], tol=1e-4)
        return found[0][free]

    found = Floors([-at.model.matrices[k]]).step(rhs.ravel(), solve, image)
    return np.zeros_like(rhs) if found is None else found[0].reshape(rhs.shape)


def _system(weights: Mapping[Quantity, float], formed: Callable[[Quantity], Array | None]) -> GramSystem | None:
    """sum_j w_j A_j; None where the block counts in none of them."""
    curvatures = {}
    for quantity in weights:
        matrix = formed(quantity)
        if matrix is not None:
            curvatures[quantity] = matrix
    return _summed(curvatures, weights) if curvatures else None


def _summed(curvatures: Mapping[Quantity, Array], weights: Mapping[Quantity, float]) -> GramSystem:
    parts = [weights.get(quantity, 0.0) * curvature for quantity, curvature in curvatures.items()]
    return GramSystem(sum(parts[1:], start=parts[0]))


def best_change(problem: BlockProblem, lagrangian: Lagrangian) -> tuple[Array, dict[Quantity, float]] | None:
    """D that minimises phi over the block, and the quantities there; None where that is no better."""
    weights = lagrangian.weights(problem.values)
    bounds = [term for term in lagrangian.terms if term.limit is not None and term.quantity in problem.gradients]
    unbounded = replace(lagrangian, terms=tuple(term for term in lagrangian.terms if term.limit is None))
    base = dict.fromkeys(weights, 0.0) | unbounded.weights(problem.values)
    if not bounds:
        change = problem.change(weights)
    elif len(bounds) == 1:
        change = _consistent(problem, bounds[0], base, weights)[1]
    else:
        change = _jointly_consistent(problem, bounds, base)
    values = problem.after(change)
    return (change, values) if lagrangian.value(values) < lagrangian.value(problem.values) else None


def _consistent(
    problem: BlockProblem, term: Term, others: Mapping[Quantity, float], start: Mapping[Quantity, float]
) -> tuple[float, Array]:
    """The weight w of a bound with w = psi'(r(D(w))), beside the other weights, and D there."""
    found: dict[float, Array] = {}

    def difference(weight: float) -> float:
        found[weight] = problem.change({**others, term.quantity: others[term.quantity] + weight})
        return term.slope(problem.after(found[weight])[term.quantity]) - weight

    rest = sum(weight for quantity, weight in others.items() if quantity in problem.gradients)
    if rest > 0.0 and difference(0.0) <= 0.0:
        return 0.0, found[0.0]
    middle = start[term.quantity] - others[term.quantity]
    if not middle > 0.0:
        middle = max(term.weight, 1e-3 * term.rho)
    low, high = _bracket(difference, middle)
    weight = _root(difference, low, high)
    return weight, found[weight]


def _jointly_consistent(problem: BlockProblem, bounds: Sequence[Term], base: Mapping[Quantity, float]) -> Array:
    """D at the weights of several bounds that are the slopes of their terms there."""
    limits = np.array([term.limit for term in bounds], dtype=float)
    rho, multipliers = (np.array([getattr(term, name) for term in bounds]) for name in ("rho", "weight"))

    def at(bound_weights: Array) -> tuple[float, Array, Array, dict[Quantity, float]]:
        """The dual function, its gradient, D, and the total weights."""
        total = dict(base)
        for term, weight in zip(bounds, bound_weights, strict=True):
            total[term.quantity] += float(weight)
        change = problem.change(total)
        values = problem.after(change)
        missing = np.array([values[term.quantity] for term in bounds]) - limits
        away = bound_weights - multipliers
        dual = sum(total[q] * values[q] for q in total) - float(bound_weights @ limits)
        dual -= float(np.sum(limits * away**2 / (2.0 * rho)))
        return dual, missing - limits * away / rho, change, total

    weights = np.array([term.slope(problem.values[term.quantity]) for term in bounds])
    weights = np.where(weights > 0.0, weights, np.maximum(multipliers, 1e-3 * rho))
    dual, gradient, change, total = at(weights)
    for _ in range(_TRIES):
        free = (weights > 0.0) | (gradient > 0.0)
        if np.all(np.abs(gradient * rho / limits)[free] <= _ACCURACY * weights[free]):
            break
        slopes = [problem.gradients[t.quantity] + problem.apply(t.quantity, change) for t in bounds]
        solved_slopes = [problem.solve(total, slope) for slope in slopes]
        bend = np.array([[2.0 * float(np.vdot(g, s).real) for s in solved_slopes] for g in slopes])
        bend[np.diag_indices_from(bend)] += limits / rho
        step = np.zeros_like(weights)
        step[free] = np.linalg.solve(bend[np.ix_(free, free)], gradient[free])
        for share in 0.5 ** np.arange(_HALVINGS):
            trial = np.maximum(weights + share * step, 0.0)
            found = at(trial)
            if found[0] > dual:
                break
        else:
            break
        weights, (dual, gradient, change, total) = trial, found
    return change


def _bracket(difference: Callable[[float], float], middle: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """(w, difference) on either side of the root: the differences fall with w."""
    here = (middle, difference(middle))
    factor = 4.0 if here[1] > 0.0 else 0.25
    while _SMALLEST < here[0] < _LARGEST:
        there = (here[0] * factor, 0.0)
        there = (there[0], difference(there[0]))
        if (there[1] > 0.0) != (here[1] > 0.0):
            return (here, there) if factor > 1.0 else (there, here)
        here, factor = there, factor**2 if 1e-4 < factor < 1e4 else factor
    return here, here


def _root(difference: Callable[[float], float], low: tuple[float, float], high: tuple[float, float]) -> float:
    """Where the difference vanishes between `low` (positive) and `high` (not positive): Illinois' rule in log w."""
    if low == high:
        return low[0]
    (a, fa), (b, fb) = low, high
    last = b
    for _ in range(_TRIES):
        if b <= a * (1.0 + _ACCURACY) or fb == 0.0:
            break
        share = fa / (fa - fb)
        if not 0.01 < share < 0.99:
            share = 0.5
        last = a * math.exp(share * math.log(b / a))
        value = difference(last)
        if abs(value) <= _ACCURACY * last:
            return last
        if value > 0.0:
            a, fa, fb = last, value, 0.5 * fb
        else:
            b, fb, fa = last, value, 0.5 * fa
    return last
