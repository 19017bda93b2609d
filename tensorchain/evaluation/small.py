"""Small arrays: blocks, moments, Grams and all that follows from them lie in memory that stays where it is.

A solver on small data spends less time on arithmetic than on asking for arrays and looking up how they are multiplied.
For a model of one term whose blocks all carry a mode (CP, chains) that is done once, when the evaluator is made or a
question is first asked.  Sweeps (`rhs`, `gram`, `replace`) and Levenberg-Marquardt (`error`, `gradient`,
`gauss_newton`, `metric`) share the same blocks.

    B_k, conj(B_k)              copied when a block is replaced, which counts `versions[k]` and `changes`;
    C_k, M_k, W_k, T - X, ...   made when they are asked for, once for each state of the blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tensorchain.evaluation.evaluator import Evaluator
from tensorchain.evaluation.fixed_blocks import FixedBlocks
from tensorchain.evaluation.fixed_newton import FixedNewton
from tensorchain.evaluation.fixed_products import FixedProducts
from tensorchain.kernels import Array, GramSystem, System
from tensorchain.kernels.linalg import trace
from tensorchain.kernels.program import Program
from tensorchain.models import Model

if TYPE_CHECKING:
    from tensorchain.tensors import Tensor

_LARGEST = 1 << 21
"""Entries of T beyond which the arithmetic takes nearly all of the time."""

_NARROW = 25
"""Columns of blocks up to which all Grams take less time than their traces alone, which a model has formulas for."""


class SmallEvaluator(Evaluator):
    """Answers about a small array at models of one term without cores.

    Parameters
    ----------
    tensor, model : Tensor or Model
        As for `Evaluator`.
    array : ndarray
        The entries of the tensor before its scale, in C order.
    """

    def __init__(self, tensor: Tensor, model: Model, array: Array) -> None:
        super().__init__(tensor, model)
        count = len(model.matrices)
        self._array = array
        self._blocks = FixedBlocks(model)
        self._moments = [np.zeros((width, width), array.dtype) for width in self.network.widths]
        self._stale: set[int] = set()
        """Blocks that were replaced since their moments were made."""
        self._held: list[Array | None] = [None] * count
        """The blocks that were copied last; an interrupt in between leaves None."""
        self._behind = False
        """Whether blocks were replaced since the model was made."""
        self._versions, self._changes = [0] * count, 0
        self._grams = [np.zeros_like(moment) for moment in self._moments]
        self._gram_programs = [self._write_gram(k) for k in range(count)]
        self._grams_ran = [-1] * count
        self._products: FixedProducts | None = None
        self._newton: FixedNewton | None = None
        self._newton_fits = FixedNewton.fit(model, array)
        for k, matrix in enumerate(model.matrices):
            self._put(k, matrix)

    @staticmethod
    def fits(model: Model, array: Array) -> bool:
        """Whether there is such an evaluator for this model and array, and it pays."""
        small = array.size <= _LARGEST and array.dtype != np.float32
        return small and FixedBlocks.fit(model, array) and FixedProducts.fit(model.network, array.shape)

    # -- where it stands ----------------------------------------------------------------

    @property
    def model(self) -> Model:
        if self._behind:
            self._make_moments()
            blocks = [self.matrix(k) for k in range(len(self._held))]
            self._model = self._model.with_matrices(blocks, [moment.copy() for moment in self._moments])
            # The model holds views of the blocks, and will be given back with them.
            self._held = list(self._model.matrices)
            self._behind = False
        return self._model

    def matrix(self, k: int) -> Array:
        held = self._held[k]
        if held is None:
            raise RuntimeError("the evaluator was interrupted while it moved; hold a model first")
        return held

    def hold(self, model: Model) -> None:
        self._check(model)
        if self._newton is not None and model.row_counts != self._model.row_counts:
            self._newton = None
        before = self._changes
        for k, matrix in enumerate(model.matrices):
            if matrix is not self._held[k]:
                self._put(k, matrix)
        self._model, self._behind = model, False
        if self._changes != before:
            self._residual = None

    def replace(self, k: int, matrix: Array) -> None:
        self._put(k, matrix)
        self._behind, self._residual = True, None

    def state(self) -> list[list[int]]:
        return [] if self._products is None else self._products.state(self._versions)

    def restore(self, state: Sequence[Sequence[int]]) -> None:
        self._fixed_products().restore(self._versions, state)

    # -- answers ------------------------------------------------------------------------

    def error(self) -> float:
        newton = self._fixed_newton()
        return super().error() if newton is None else newton.error(self._changes)

    def gradient(self) -> list[Array]:
        newton = self._fixed_newton()
        return super().gradient() if newton is None else newton.gradient(self._changes)

    def rhs(self, k: int) -> Array:
        return self._fixed_products().rhs(k, self._versions).copy()

    def joint_rhs(self, k: int) -> Array | None:
        return None

    def gram(self, k: int) -> Array:
        if self._grams_ran[k] != self._changes:
            self._make_moments()
            self._gram_programs[k].run()
            self._grams_ran[k] = self._changes
        return self._grams[k].copy()

    def system(self, k: int) -> System:
        return GramSystem(self.gram(k))

    def gauss_newton(self) -> Array:
        newton = self._fixed_newton()
        if newton is None:
            return super().gauss_newton()
        for k in range(len(self._grams)):
            self.gram(k)
        return newton.gauss_newton()

    def sensitivity(self) -> float:
        if max(self.network.widths) > _NARROW:
            return super().sensitivity()
        counts = self._model.row_counts
        return sum(rows * trace(self.gram(k)) for k, rows in enumerate(counts))

    def metric(self, k: int) -> Array:
        newton = self._fixed_newton()
        return super().metric(k) if newton is None else newton.metric(k, self._changes)

    def apply_metric(self, k: int, block: Array) -> Array:
        return np.asarray(block @ self.metric(k).T)

    # -- inside -------------------------------------------------------------------------

    def _put(self, k: int, matrix: Array) -> None:
        if matrix.shape != self._blocks.matrices[k].shape:
            raise ValueError(f"block {k} has shape {self._blocks.matrices[k].shape}; {matrix.shape} was given")
        self._held[k] = None
        self._changes += 1
        self._versions[k] = self._changes
        self._stale.add(k)
        self._blocks.put(k, matrix)
        self._held[k] = matrix

    def _make_moments(self) -> None:
        for k in list(self._stale):
            np.matmul(self._blocks.conjugates[k].T, self._blocks.matrices[k], out=self._moments[k])
            self._stale.discard(k)

    def _write_gram(self, k: int) -> Program:
        program = Program()
        program.call(np.copyto, self._grams[k], self._blocks.gram(program, k, self._moments))
        return program

    def _fixed_products(self) -> FixedProducts:
        if self._products is None:
            self._products = FixedProducts(self._array, self.network, self._blocks, scale=self.tensor.scale)
        return self._products

    def _fixed_newton(self) -> FixedNewton | None:
        """Programs for small tensors, with the moments up to date; None for larger ones."""
        if not self._newton_fits:
            return None
        self._make_moments()
        if self._newton is None:
            data = np.ascontiguousarray(self.tensor.to_dense())

            self._newton = FixedNewton(data, self._model, blocks=self._blocks, moments=self._moments, grams=self._grams)
        return self._newton
