"""T - X, its gradient and J^H J of small tensors, on memory that stays where it is.

A step of Levenberg-Marquardt on a tensor of 9^3 entries takes some sixty products of small matrices.  For a model of
one term whose blocks all carry a mode they are written once as programs (:mod:`tensorchain.kernels.program`), from
the wiring alone; the formulas are those of :mod:`tensorchain.models.form`.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from tensorchain import kernels
from tensorchain.kernels import Array, diagonal_blocks
from tensorchain.kernels.program import Program
from tensorchain.models import Model
from tensorchain.models.fixed_blocks import FixedBlocks
from tensorchain.tensors.base import Residual
from tensorchain.tensors.tree import Plan, plans

_ENTRIES, _PARAMETERS, _ORDER = 1 << 14, 800, 5
"""Sizes up to which more time goes into calls than into arithmetic."""


class Newton:
    """Programs for models of one wiring and one array.

    Parameters
    ----------
    data : T with its scale, in double precision.
    model : of the wiring.
    """

    def __init__(self, data: Array, model: Model) -> None:
        self.network, self.data, self.row_counts = model.network, data, model.row_counts
        self._blocks = FixedBlocks(model)
        self._held: list[Array | None] = [None] * len(model.matrices)
        self._error = np.zeros(data.shape, data.dtype)
        self._values, self._slope, self._metric, self._curvature = (Program() for _ in range(4))
        self._write_values()
        self._gradient = self._write_gradient()
        self._metrics = self._write_metrics()
        self._matrix = self._write_matrix()

    @staticmethod
    def fits(data: Array, model: Model) -> bool:
        """Whether programs are written for such a model, and pay."""
        small = data.size <= _ENTRIES and model.n_parameters <= _PARAMETERS and 2 < data.ndim <= _ORDER
        return small and FixedBlocks.fit(model, data)

    def serves(self, model: Model) -> bool:
        """Whether these programs are for the wiring (the very same object) and the dtype of a model."""
        return (
            self.network is model.network
            and self.row_counts == model.row_counts
            and all(matrix.dtype is self.data.dtype for matrix in model.matrices)
        )

    def residual(self, model: Model) -> Residual:
        """T - X; the model is told its Grams."""
        self._load(model.matrices)
        model.know([gram.copy() for gram in self._grams], self)
        square = float(np.vdot(self._error, self._error).real)
        size = math.sqrt(square) if 1e-280 < square < 1e280 else kernels.norm(self._error)
        return Residual(size, partial(self.gradient, model.matrices))

    def gradient(self, matrices: Sequence[Array]) -> list[Array]:
        """J_k^H (T - X)."""
        self._load(matrices)
        self._slope.run()
        return [block.copy() for block in self._gradient]

    def gauss_newton(self, matrices: Sequence[Array]) -> Array:
        """J^H J, its upper block triangle: the caller's until the next call."""
        self._load(matrices)
        self._curvature.run()
        return self._matrix

    def metrics(self, matrices: Sequence[Array]) -> list[Array]:
        """Q_k."""
        self._load(matrices)
        self._metric.run()
        return [metric.copy() for metric in self._metrics]

    def _load(self, matrices: Sequence[Array]) -> None:
        if all(map(operator.is_, self._held, matrices)):
            return
        # An interrupt leaves nothing that could be taken for what was there.
        self._held = [None] * len(matrices)
        for k, matrix in enumerate(matrices):
            self._blocks.put(k, matrix)
        self._values.run()
        self._held = list(matrices)

    # -- programs -----------------------------------------------------------------------

    def _write_values(self) -> None:
        """Moments, T - X and Grams."""
        write, blocks = self._values, self._blocks
        pairs = zip(blocks.conjugates, blocks.matrices, strict=True)
        self._moments = [write.product(conjugate.T, matrix) for conjugate, matrix in pairs]
        value = write.contract(self.network.evaluations[0], *blocks.operands)
        write.call(np.subtract, self.data, value, out=self._error)
        self._grams = [blocks.gram(write, k, self._moments) for k in range(len(self._moments))]

    def _write_gradient(self) -> list[Array]:
        made: dict[Any, Array] = {}
        gradient: list[Array] = [np.zeros_like(matrix) for matrix in self._blocks.matrices]
        for k in self.network.block_of_mode:
            choice = plans(self.network, 0, k, self.data.shape)
            plan = next((plan for plan in choice if plan.signature in made), choice[0])
            if plan.signature not in made:
                made[plan.signature] = self._partial(plan)
            operands = [self._blocks.conjugated[m] for m in plan.rest]
            value = plan.finished(self._slope.contract, made[plan.signature], operands)
            self._slope.call(np.copyto, gradient[k].reshape(value.shape), value)
        return gradient

    def _partial(self, plan: Plan) -> Array:
        operands = [self._blocks.conjugated[m] for m in plan.used]
        return self._slope.matrix(self._slope.contract(plan.sequence, self._error, *operands), plan.shape)

    def _write_metrics(self) -> list[Array]:
        """Q_k, the derivative of M_k along I_n * identity in the place of each moment."""
        rows = zip(self.row_counts, self._blocks.matrices, strict=True)
        noise = [count * np.eye(m.shape[1], dtype=m.dtype) for count, m in rows]
        metrics = [np.zeros_like(gram) for gram in self._grams]
        for k, metric in enumerate(metrics):
            self._metric.call(np.copyto, metric, 0.0)
            for n in range(len(noise)):
                if n != k:
                    moments = [noise[m] if m == n else moment for m, moment in enumerate(self._moments)]
                    part = self._blocks.gram(self._metric, k, moments)
                    self._metric.call(np.add, metric, part, out=metric)
        return metrics

    def _write_matrix(self) -> Array:
        matrices = self._blocks.matrices
        starts = [0, *itertools.accumulate([m.size for m in matrices])]
        matrix = np.zeros((starts[-1], starts[-1]), self.data.dtype)
        for k, (rows, width) in enumerate(m.shape for m in matrices):
            self._curvature.call(np.copyto, diagonal_blocks(matrix, starts[k], rows, width), self._grams[k])
            for m in range(k + 1, len(matrices)):
                value = self._blocks.cross(self._curvature, k, m, self._moments)
                target = matrix[starts[k] : starts[k + 1], starts[m] : starts[m + 1]].reshape(value.shape)
                self._curvature.call(np.copyto, target, value)
        return matrix
