"""Plain sweeps over a small array, on memory that stays where it is.

The updates are those of :mod:`tensorchain.solvers.sweeps`, and the products with T those of the tree in
:mod:`tensorchain.tensors.tree`.  They are written once, as programs (:mod:`tensorchain.kernels.program`), for a model
of one term whose blocks all carry a mode: on a tensor of 20^4 entries that takes three quarters of the time.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorchain.kernels import Array
from tensorchain.kernels.program import Program
from tensorchain.kernels.systems import solve_rows
from tensorchain.models import Model
from tensorchain.models.fixed_blocks import FixedBlocks
from tensorchain.solvers.sweeps import model_error
from tensorchain.tensors import Tensor
from tensorchain.tensors.tree import Plan, filled, plans

_LARGEST = 1 << 21
"""Entries of T beyond which the arithmetic takes nearly all of the time."""


class Update:
    """What block k needs beside its program: W, M, and room for products of the size of the block."""

    def __init__(self, block: Array) -> None:
        self.rhs, self.residual, self.image = (np.zeros_like(block) for _ in range(3))
        self.gram = np.zeros((block.shape[1], block.shape[1]), block.dtype)
        self.system = Program()
        """From the moments of the other blocks to M, and from M, W and B to W - B M."""
        self.products: list[tuple[Plan, Program | None]] = []
        """From a partial product to W, for each plan; written when it is first asked for."""


class FixedSweeps:
    """Sweeps of models of one wiring over one array.

    Blocks and their moments lie in fixed memory; `_versions` counts the changes of each.
    """

    def __init__(self, tensor: Tensor, array: Array, model: Model) -> None:
        self.tensor, self.array, self.norm = tensor, array, tensor.norm()
        self.network = model.network
        self._blocks = FixedBlocks(model)
        self._moments = [np.zeros((width, width), array.dtype) for width in self.network.widths]
        self._held: list[Array | None] = [None] * len(self._moments)
        self._versions = [0] * len(self._moments)
        self._updates = [self._update(k) for k in range(len(self._moments))]
        self._partials: dict[tuple[Any, ...], tuple[Array, Program]] = {}
        self._current: tuple[Any, ...] | None = None
        every = [plan for update in self._updates for plan, _ in update.products]
        self._room = np.zeros(max(filled(p.width) * p.matrices[0] * p.matrices[2] for p in every), array.dtype)

    @classmethod
    def of(cls, tensor: Tensor, model: Model) -> FixedSweeps | None:
        """Sweeps from this model on; None where they would not be faster, or need more than is written here."""
        array, network = tensor.in_memory, model.network
        if array is None or array.size > _LARGEST or not FixedBlocks.fit(model, array):
            return None
        choices = [plan for k in range(len(network.modes)) for plan in plans(network, 0, k, array.shape)]
        whole = all(plan.step >= array.shape[_first(model, plan)] for plan in choices)
        return cls(tensor, array, model) if whole else None

    def error(self, model: Model) -> float:
        """||T - X||."""
        self._load(model)
        k = self.network.block_of_mode[0]
        update, block = self._updates[k], self._blocks.matrices[k]
        self._prepare(k)
        return model_error(self.tensor, model, self.norm**2 - float(np.vdot(block, update.rhs + update.residual).real))

    def sweep(self, model: Model, error: float) -> tuple[Model, float]:
        """Every block updated once, and ||T - X||."""
        self._load(model)
        square = error**2
        for k in self.network.block_of_mode:
            square = self._improve(k, square)
        swept = model.with_matrices(
            [block.copy() for block in self._blocks.matrices], [m.copy() for m in self._moments]
        )
        self._held = list(swept.matrices)
        return swept, model_error(self.tensor, swept, square)

    def kept(self, model: Model) -> list[list[int]]:
        """The partial product at hand, if it is one of the model."""
        if self._current is None or any(map(operator.is_not, self._held, model.matrices)):
            return []
        for k, update in enumerate(self._updates):
            for n, (plan, _) in enumerate(update.products):
                if self._key(plan) == self._current:
                    return [[0, k, n]]
        return []

    def keep(self, model: Model, kept: Sequence[Sequence[int]]) -> None:
        """Make the partial product that `kept` said."""
        self._load(model)
        for _, k, n in kept:
            self._contract(self._updates[k].products[n][0])

    # -- one block ----------------------------------------------------------------------

    def _improve(self, k: int, square: float) -> float:
        """Block k at its best, and ||T - X||^2; both as they were where that is no better."""
        self._prepare(k)
        update, block = self._updates[k], self._blocks.matrices[k]
        change = solve_rows(update.gram, update.residual)
        image = np.matmul(change, update.gram.T, out=update.image)
        if not float(np.vdot(change, image).real) < 2.0 * float(np.vdot(change, update.residual).real):
            return square
        np.add(block, change, out=block)
        self._changed(k)
        np.add(update.rhs, update.residual, out=update.rhs)
        np.subtract(update.rhs, image, out=update.rhs)
        return self.norm**2 - float(np.vdot(block, update.rhs).real)

    def _prepare(self, k: int) -> None:
        """W, M and W - B M of block k."""
        update = self._updates[k]
        n = next((n for n, (plan, _) in enumerate(update.products) if self._key(plan) == self._current), 0)
        plan, product = update.products[n]
        partial = self._contract(plan)
        if product is None:
            product = self._product(k, plan, partial)
            update.products[n] = (plan, product)
        product.run()
        update.system.run()

    def _changed(self, k: int) -> None:
        self._blocks.conjugate(k)
        np.matmul(self._blocks.conjugates[k].T, self._blocks.matrices[k], out=self._moments[k])
        self._versions[k] += 1

    def _load(self, model: Model) -> None:
        """Copy the blocks that are not there already."""
        for k, matrix in enumerate(model.matrices):
            if matrix is not self._held[k]:
                np.copyto(self._blocks.matrices[k], matrix)
                self._held[k] = matrix
                self._changed(k)

    # -- programs -----------------------------------------------------------------------

    def _update(self, k: int) -> Update:
        block = self._blocks.matrices[k]
        update = Update(block)
        update.system.call(np.copyto, update.gram, self._blocks.gram(update.system, k, self._moments))
        update.system.product(block, update.gram.T, out=update.image)
        update.system.call(np.subtract, update.rhs, update.image, out=update.residual)
        update.products = [(plan, None) for plan in plans(self.network, 0, k, self.array.shape)]
        return update

    def _product(self, k: int, plan: Plan, partial: Array) -> Program:
        """From the partial product to W, with the scale of the tensor."""
        program = Program()
        rhs = self._updates[k].rhs
        value = plan.finished(program.contract, partial, [self._blocks.conjugated[m] for m in plan.rest])
        program.call(np.multiply, value, self.tensor.scale, out=rhs.reshape(value.shape))
        return program

    def _contract(self, plan: Plan) -> Array:
        """The partial product of a plan, made where it is not at hand."""
        found = self._partials.get(plan.signature)
        if found is None:
            found = self._partials[plan.signature] = self._written(plan)
        key = self._key(plan)
        if key != self._current:
            found[1].run()
            self._current = key
        return found[0]

    def _written(self, plan: Plan) -> tuple[Array, Program]:
        """A partial product in the room that all of them share, and its program."""
        program, (before, rows, behind) = Program(), plan.matrices
        if plan.half is None:
            value = program.contract(plan.sequence, self.array, *[self._blocks.conjugated[m] for m in plan.used])
            kept = self._room[: value.size].reshape(plan.shape)
            program.call(np.copyto, kept, value)
            return kept, program
        width = plan.width if before > 1 and behind > 1 else filled(plan.width)
        half = program.contract(plan.half, *[self._blocks.conjugated[m] for m in plan.used])
        half = program.matrix(half, (plan.width, rows))
        if width > plan.width:
            wide = np.zeros((width, rows), half.dtype)
            program.call(np.copyto, wide[: plan.width], half)
            half = wide
        data = self.array.reshape(plan.matrices)
        room = self._room[: width * before * behind]
        if before > 1 and behind > 1:
            program.product(half, data, out=room.reshape(before, width, behind))
        else:
            program.product(half, data[0] if before == 1 else data[:, :, 0].T, out=room.reshape(width, -1))
        return room[: plan.width * before * behind].reshape(plan.shape), program

    def _key(self, plan: Plan) -> tuple[Any, ...]:
        return (plan.signature, *[self._versions[m] for m in plan.used])


def _first(model: Model, plan: Plan) -> int:
    """The first mode that a partial product sums over."""
    mode = model.network.modes[plan.used[0]]
    assert mode is not None
    return mode
