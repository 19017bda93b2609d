"""The equations of a joint step, at one point and for several dampings mu:

    (sum_j w_j A_j + sum_j c_j v_j v_j^H + mu I) d = -sum_j w_j v_j,

with the letters of :mod:`tensorchain.solvers.lm`; solved by a Cholesky factor, or by conjugate gradients.  Where the
domain of the constraint restricts blocks, d is a step within it (`Floors`).  Fixed blocks
are left out of the equations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from tensorchain.evaluation import Evaluator
from tensorchain.kernels import Array, cholesky, cholesky_solve, diagonal_blocks
from tensorchain.models import Model
from tensorchain.models.cp_packed import PackedNewton
from tensorchain.solvers.constraints import Domain, Lagrangian, Quantity, Sensitivity, SquaredError
from tensorchain.solvers.constraints.domain import EVERYWHERE, free_entries
from tensorchain.solvers.constraints.lagrangian import half_gradient
from tensorchain.solvers.krylov import Operator, conjugate_gradients, preconditioner, split

_ROUNDS, _HALVINGS = 4, 30
"""Most solutions of the equations of a step in a domain, and most halvings of a step along the gradient."""


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
        self.fixed = domain.fixed(model.network)
        self.rhs = self._free([-block for block in half_gradient(lagrangian, values, at)])
        self.ranks = [
            (2.0 * bend, self._free(_filled(quantity.half_gradient(at), model)))
            for quantity, bend in lagrangian.bends(values).items()
        ]
        size = sum(matrix.size for matrix in model.matrices)
        self._both: Array | None = None
        floors = domain.floors(model)
        structured = at.complete and model.has_damped_inverse
        self.dense = size <= dense_limit and (floors is not None or not structured)
        self.floors = None if floors is None else Floors(floors)
        # In a domain with floors fixed entries are held like others at the edge.
        self.entries = free_entries(model, self.fixed) if self.fixed and floors is None else None
        if self.dense:
            self._form()
        plain = not (self.dense or structured or self.ranks or self.fixed) and floors is None
        self.packed = self._packed() if plain and at.complete else None

    def _free(self, blocks: Sequence[Array]) -> list[Array]:
        """Zeros in place of fixed blocks."""
        return [np.zeros_like(block) if k in self.fixed else block for k, block in enumerate(blocks)]

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
        if self.entries is not None:
            whole = np.zeros(self.entries.size, flat.dtype)
            whole[self.entries] = flat
            flat = whole
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
        self.flat = np.concatenate([block.ravel() for block in self.rhs])
        columns = [np.sqrt(bend) * np.concatenate([v.ravel() for v in vectors]) for bend, vectors in self.ranks]
        self.columns = np.stack(columns, axis=1) if columns else None
        if self.entries is not None:
            self.matrix, self.flat = self.matrix[np.ix_(self.entries, self.entries)], self.flat[self.entries]
            self.columns = None if self.columns is None else self.columns[self.entries]
        self.diagonal = np.einsum("ii->i", self.matrix)
        self.undamped = self.diagonal.copy()

    def _packed(self) -> PackedNewton | None:
        """The matrix without damping for all blocks at once, where the model has that form."""
        others = set(self.weights) - {SquaredError(), Sensitivity()}
        weight = self.weights.get(SquaredError(), 0.0)
        return None if others or not weight else self.model.packed_newton(weight, self.weights.get(Sensitivity(), 0.0))

    def _solve_iteratively(self, damping: float) -> tuple[list[Array], float] | None:
        delta = self._from_blocks(damping) if self.packed is None else self._from_packed(self.packed, damping)
        if delta is None:
            return None
        pairs = zip(delta, self.rhs, strict=True)
        predicted = float(sum(np.vdot(d, g).real + damping * np.vdot(d, d).real for d, g in pairs))
        return delta, predicted

    def _from_blocks(self, damping: float) -> list[Array] | None:
        """The solution, with the matrix applied block by block."""
        inverse = self._inverse(damping)
        if inverse is None:
            return None
        return conjugate_gradients(lambda blocks: self._applied(blocks, damping), inverse, self.rhs)

    def _from_packed(self, packed: PackedNewton, damping: float) -> list[Array] | None:
        """The solution, with the matrix applied to all blocks at once."""
        inverse = packed.block_inverse(damping)
        if inverse is None:
            return None
        rhs = packed.pack(self.rhs)
        delta = conjugate_gradients(lambda d: [packed.apply(d[0], damping)], lambda d: [d[0] @ inverse], [rhs])
        return packed.unpack(delta[0])

    def _inverse(self, damping: float) -> Operator | None:
        """The preconditioner."""
        self.at.hold(self.model)
        error = max(self.weights.get(SquaredError(), 0.0), 1e-3)
        penalty = self.weights.get(Sensitivity(), 0.0)
        inverse = preconditioner(self.at, penalty / error, damping / error)
        return None if inverse is None else lambda blocks: self._free([block / error for block in inverse(blocks)])

    def _solve_within(self, floors: Floors, damping: float) -> tuple[list[Array], float] | None:
        """The step in a domain: entries that would leave it end at its edge, and the others are solved for again."""
        if self.dense:
            whole, flat = self._whole(), self.flat
            found = floors.step(flat, partial(_free_part, whole, flat, damping), lambda step: whole @ step)
        else:
            inverse = self._inverse(damping)
            if inverse is None:
                return None
            flat = np.concatenate([block.ravel() for block in self.rhs])
            found = floors.step(flat, partial(self._free_part, inverse, flat, damping), self._image)
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

    def _image(self, step: Array) -> Array:
        """The matrix without damping times a flat step."""
        return np.concatenate([block.ravel() for block in self._applied(split(step, self.shapes), 0.0)])

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
        return self._free(result)


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
        flat : ndarray
            b, the right-hand side.
        solve : callable
            From a step and the mask of its free entries to these.
        image : callable
            A times a step.
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
