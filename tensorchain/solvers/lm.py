"""Levenberg-Marquardt on the augmented Lagrangian phi(theta) = ||T - X(theta)||^2 + nu SS(theta) + ...

With w_j the slopes and c_j twice the second derivatives of the terms of phi at the values of their quantities
(:mod:`tensorchain.solvers.constraints.lagrangian`), v_j half the gradient and A_j half the curvature of quantity j,
the step d solves

    (sum_j w_j A_j + sum_j c_j v_j v_j^H + mu I) d = -sum_j w_j v_j.

Without a constraint this is (J^H J + mu I) d = J^H (T - X); a penalty adds nu blockdiag(I (x) Q_k) to the matrix and
-nu B_k Q_k^T to the right-hand side; a bound that is active also adds one rank, for which the factor is not changed
(Woodbury's identity).  The damping mu follows Nielsen's rule from the ratio of actual to predicted decrease.

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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tensorchain.evaluation import Evaluator
from tensorchain.fit import StopReason
from tensorchain.kernels import Array, cholesky, cholesky_solve, diagonal_blocks
from tensorchain.models import Model
from tensorchain.solvers.constraints import Constraint, Domain, Lagrangian, Quantity, Sensitivity, SquaredError
from tensorchain.solvers.constraints.domain import EVERYWHERE
from tensorchain.solvers.constraints.lagrangian import half_gradient
from tensorchain.solvers.krylov import Operator, conjugate_gradients, preconditioner, split
from tensorchain.solvers.optimality import STATIONARY, attainable_decrease
from tensorchain.solvers.problem import Ended, Memory, Problem, Stage, Steps, iterate_at

_SMALLEST_DAMPING = 1e-15
_LARGEST_DAMPING = 1e12
_TINY_PREDICTION = 1e-15
_LEAST_RATIO = 1e-4
_SLOW_STEPS = 3
_FRUITLESS = 12
"""Updates of the multipliers in a row that bring no bound closer, after which the run ends."""
_ROUNDS, _HALVINGS = 4, 30
"""Most solutions of the equations of a step in a domain, and most halvings of a step along the gradient."""


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
    TypeError, ValueError
        When an option is not a number, or out of range.

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
        """Iterate from `start`, or go on from the memory of an iterate."""
        at = problem.evaluator(start if memory is None else memory.models["point"])
        constraint = problem.constraint
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
        problem : iterates are compared by its constraint.
        at : the model to begin with.
        state : multipliers and damping, and what lies behind of a run that is resumed.
        resumable : whether iterates carry a memory.
        asked : the constraint that the Lagrangian is made of, where it is not that of the problem.
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
                    before = lagrangian.violation
                    lagrangian = lagrangian.updated(values)
                    fruitless = fruitless + 1 if lagrangian.violation > 0.9 * before else 0
                    if fruitless >= _FRUITLESS:
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
                    if growth == 2.0 and damping > _SMALLEST_DAMPING and not self._at_end(
                        at, lagrangian, values, constraint.domain
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

    def _at_end(
        self, at: Evaluator, lagrangian: Lagrangian, values: dict[Quantity, float], domain: Domain
    ) -> bool:
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


class NormalEquations:
    """The equations of a step at one point, for several mu."""

    def __init__(
        self,
        at: Evaluator,
        lagrangian: Lagrangian,
        values: dict[Quantity, float],
        dense_limit: int,
        domain: Domain = EVERYWHERE,
    ) -> None:
        model = at.model
        self.at, self.model = at, model
        self.shapes = [matrix.shape for matrix in model.matrices]
        self.weights = {q: w for q, w in lagrangian.weights(values).items() if w > 0.0}
        self.rhs = [-block for block in half_gradient(lagrangian, values, at)]
        self.ranks = [
            (2.0 * bend, _filled(quantity.half_gradient(at), model))
            for quantity, bend in lagrangian.bends(values).items()
        ]
        size = sum(matrix.size for matrix in model.matrices)
        self._both: Array | None = None
        floors = domain.floors(model)
        structured = at.complete and model.has_damped_inverse
        self.dense = size <= dense_limit and (floors is not None or not structured)
        self.floors = None if floors is None else Floors(floors)
        if self.dense:
            self._form()

    def solve(self, damping: float) -> tuple[list[Array], float] | None:
        """Step and predicted decrease of phi, or None when the matrix is not positive definite."""
        if self.floors is not None:
            return self._solve_within(self.floors, damping)
        if not self.dense:
            return self._solve_iteratively(damping)
        np.add(self.undamped, damping, out=self.diagonal)
        factor = cholesky(self.matrix)
        if factor is None:
            return None
        flat = cholesky_solve(factor, self.flat)
        if self.columns is not None:
            # (A + U U^H)^-1 b = x - Y (1 + U^H Y)^-1 U^H x,  Y = A^-1 U.
            solved = cholesky_solve(factor, self.columns)
            small = np.eye(solved.shape[1]) + self.columns.conj().T @ solved
            flat = flat - solved @ np.linalg.solve(small, self.columns.conj().T @ flat)
        predicted = float(np.vdot(flat, self.flat).real + damping * np.vdot(flat, flat).real)
        return split(flat, self.shapes), predicted

    def _form(self) -> None:
        """The matrix, its diagonal, the right-hand side and the columns of the active bounds, as arrays."""
        weight = self.weights.get(SquaredError(), 0.0)
        self.matrix = self.at.gauss_newton()
        if weight != 1.0:
            self.matrix *= weight
        for quantity, other in self.weights.items():
            if quantity == SquaredError():
                continue
            start = 0
            for k, (rows, width) in enumerate(self.shapes):
                curvature = quantity.curvature(self.at, k)
                if curvature is not None:
                    diagonal_blocks(self.matrix, start, rows, width)[...] += other * curvature
                start += rows * width
        self.diagonal = np.einsum("ii->i", self.matrix)
        self.undamped = self.diagonal.copy()
        self.flat = np.concatenate([block.ravel() for block in self.rhs])
        columns = [np.sqrt(bend) * np.concatenate([v.ravel() for v in vectors]) for bend, vectors in self.ranks]
        self.columns = np.stack(columns, axis=1) if columns else None

    def _solve_iteratively(self, damping: float) -> tuple[list[Array], float] | None:
        inverse = self._inverse(damping)
        if inverse is None:
            return None
        delta = conjugate_gradients(lambda blocks: self._applied(blocks, damping), inverse, self.rhs)
        pairs = zip(delta, self.rhs, strict=True)
        predicted = float(sum(np.vdot(d, g).real + damping * np.vdot(d, d).real for d, g in pairs))
        return delta, predicted

    def _inverse(self, damping: float) -> Operator | None:
        """The preconditioner."""
        self.at.hold(self.model)
        error = max(self.weights.get(SquaredError(), 0.0), 1e-3)
        penalty = self.weights.get(Sensitivity(), 0.0)
        inverse = preconditioner(self.at, penalty / error, damping / error)
        return None if inverse is None else lambda blocks: [block / error for block in inverse(blocks)]

    def _solve_within(self, floors: Floors, damping: float) -> tuple[list[Array], float] | None:
        """The step in a domain: entries that would leave it end at its edge, and the others are solved for again."""
        if self.dense:
            whole, flat = self._whole(), self.flat
            solve = partial(_free_part, whole, flat, damping)
            image = whole.__matmul__
        else:
            inverse = self._inverse(damping)
            if inverse is None:
                return None
            flat = np.concatenate([block.ravel() for block in self.rhs])
            solve = partial(self._free_part, inverse, flat, damping)

            def image(step: Array) -> Array:
                return np.concatenate([b.ravel() for b in self._applied(split(step, self.shapes), 0.0)])

        found = floors.step(flat, solve, image)
        return None if found is None else (split(found[0], self.shapes), found[1])

    def _whole(self) -> Array:
        """The matrix without damping, with both triangles and the ranks of the bounds."""
        if self._both is None:
            upper = np.triu(self.matrix, 1)
            self._both = upper + upper.T
            np.fill_diagonal(self._both, self.undamped)
            if self.columns is not None:
                self._both += self.columns @ self.columns.T
        return self._both

    def _free_part(self, inverse: Operator, flat: Array, damping: float, step: Array, free: Array) -> Array:
        """The entries of a step that are free, by conjugate gradients, where the others are given."""
        mask = [part.astype(float) for part in split(free, self.shapes)]
        fixed = self._applied(split(np.where(free, 0.0, step), self.shapes), damping)
        rhs = [m * (b - f) for m, b, f in zip(mask, split(flat, self.shapes), fixed, strict=True)]

        def masked(operator: Operator) -> Operator:
            return lambda blocks: [m * b for m, b in zip(mask, operator(blocks), strict=True)]

        found = conjugate_gradients(masked(lambda blocks: self._applied(blocks, damping)), masked(inverse), rhs)
        return np.concatenate([block.ravel() for block in found])[free]

    def _applied(self, blocks: Sequence[Array], damping: float) -> list[Array]:
        """The matrix times a change of the blocks."""
        result = [damping * block for block in blocks]
        for quantity, weight in self.weights.items():
            if quantity == SquaredError():
                images: Sequence[Array | None] = self.at.gauss_newton_matvec(blocks)
            else:
                images = [quantity.apply(self.at, k, block) for k, block in enumerate(blocks)]
            result = [r if image is None else r + weight * image for r, image in zip(result, images, strict=True)]
        for bend, vectors in self.ranks:
            share = bend * sum(np.vdot(v, b) for v, b in zip(vectors, blocks, strict=True))
            result = [r + share * v for r, v in zip(result, vectors, strict=True)]
        return result


class Floors:
    """How far down each entry may go in a step, and the step that heeds it.

    Entries at the edge of the domain whose gradient pushes outwards are held there; the others solve the equations.
    Those that would go beyond the edge are put onto it, and the rest solve again, some times.  What is left beyond is
    cut off.  Where that gains nothing the step is along the gradient, cut off likewise.

    Reference: Bertsekas, "Projected Newton methods for optimization problems with simple constraints" (1982).
    """

    def __init__(self, floors: Sequence[Array]) -> None:
        self.floor = np.concatenate([floor.ravel() for floor in floors])

    def step(
        self, flat: Array, solve: Callable[[Array, Array], Array | None], image: Callable[[Array], Array]
    ) -> tuple[Array, float] | None:
        """The step d and 2 <b, d> - <d, A d>; None where the equations have no solution.

        Parameters
        ----------
        flat : b, the right-hand side.
        solve : from a step and the mask of its free entries to these.
        image : A times a step.
        """
        floor = self.floor
        held = (floor >= 0.0) & (flat <= 0.0)
        step = np.zeros_like(flat)
        for _ in range(_ROUNDS):
            free = ~held
            if not free.any():
                break
            found = solve(step, free)
            if found is None:
                return None
            step[free] = found
            beyond = free & (step < floor)
            if not beyond.any():
                break
            step[beyond] = floor[beyond]
            held |= beyond
        step = np.maximum(step, floor)
        predicted = float(step @ (2.0 * flat - image(step)))
        if predicted > 0.0:
            return step, predicted
        direction = np.where((floor >= 0.0) & (flat <= 0.0), 0.0, flat)
        curvature = float(direction @ image(direction))
        if not curvature > 0.0:
            return np.zeros_like(flat), 0.0
        length = float(direction @ direction) / curvature
        for _ in range(_HALVINGS):
            step = np.maximum(length * direction, floor)
            predicted = float(step @ (2.0 * flat - image(step)))
            if predicted > 0.0:
                break
            length *= 0.5
        return step, max(predicted, 0.0)


def _free_part(whole: Array, flat: Array, damping: float, step: Array, free: Array) -> Array | None:
    """The entries of a step that are free, by a Cholesky factor, where the others are given."""
    part = whole[free]
    matrix = np.ascontiguousarray(part[:, free])
    np.einsum("ii->i", matrix)[...] += damping
    factor = cholesky(matrix)
    if factor is None:
        return None
    return cholesky_solve(factor, flat[free] - part[:, ~free] @ step[~free])


def _filled(gradient: Sequence[Array | None], model: Model) -> list[Array]:
    return [np.zeros_like(m) if part is None else part for part, m in zip(gradient, model.matrices, strict=True)]


def check_options(kind: str, **options: float) -> None:
    """Iteration limits must be integers of at least 1, tolerances and dampings not negative."""
    for name, value in options.items():
        if name.startswith("max_") and (isinstance(value, bool) or not isinstance(value, (int, np.integer))):
            raise TypeError(f"{kind}: {name} is {value!r}; an integer is needed")
        smallest = 1 if name.startswith("max_") else 0
        if not value >= smallest:
            raise ValueError(f"{kind}: {name} is {value!r}; it must be at least {smallest}")
