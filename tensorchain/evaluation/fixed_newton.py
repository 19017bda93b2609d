"""T - X, its gradient, J^H J and Q of small tensors, on memory that stays where it is.

A step of Levenberg-Marquardt on a tensor of 9^3 entries takes some sixty products of small matrices.  For a model of
one term whose blocks all carry a mode they are written once as programs (:mod:`tensorchain.kernels.program`), from
the wiring alone; the formulas are those of :mod:`tensorchain.models.form`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorchain import kernels
from tensorchain.evaluation.fixed_blocks import FixedBlocks
from tensorchain.evaluation.tree import Plan, plans
from tensorchain.kernels import Array, diagonal_blocks
from tensorchain.kernels.program import Program
from tensorchain.models import Model

_ENTRIES, _PARAMETERS, _ORDER = 1 << 14, 800, 5
"""Sizes up to which more time goes into calls than into arithmetic."""


class FixedNewton:
    """Programs for blocks, moments and Grams that lie in fixed memory, and one array.

    Each method answers for what lies there now; `stamp` is another number whenever that has changed.

    Parameters
    ----------
    data : ndarray
        T with its scale, in double precision.
    model : Model
        Of the wiring and shape, with the row counts that the metric counts.
    blocks, moments, grams : FixedBlocks or list of ndarray
        Where B_k, C_k and M_k lie; the last must be up to date for `gauss_newton`.
    """

    def __init__(
        self, data: Array, model: Model, *, blocks: FixedBlocks, moments: list[Array], grams: list[Array]
    ) -> None:
        self._network, self._data, self._row_counts = model.network, data, model.row_counts
        self._blocks, self._moments, self._grams = blocks, moments, grams
        self._error = np.zeros(data.shape, data.dtype)
        self._values, self._slope, self._metric, self._curvature = (Program() for _ in range(4))
        self._ran = {"values": -1, "metric": -1}
        value = self._values.contract(self._network.evaluations[0], *blocks.operands)
        self._values.call(np.subtract, data, value, out=self._error)
        self._gradient = self._write_gradient()
        self._metrics = self._write_metrics()
        self._matrix = self._write_matrix()

    @staticmethod
    def fit(model: Model, array: Array) -> bool:
        """Whether such programs pay."""
        return array.size <= _ENTRIES and model.n_parameters <= _PARAMETERS and 2 < array.ndim <= _ORDER

    def error(self, stamp: int) -> float:
        """||T - X||."""
        self._evaluate(stamp)
        square = float(np.vdot(self._error, self._error).real)
        return math.sqrt(square) if 1e-280 < square < 1e280 else kernels.norm(self._error)

    def gradient(self, stamp: int) -> list[Array]:
        """J_k^H (T - X)."""
        self._evaluate(stamp)
        self._slope.run()
        return [block.copy() for block in self._gradient]

    def gauss_newton(self) -> Array:
        """J^H J, its upper block triangle: the caller's until the next call."""
        self._curvature.run()
        return self._matrix

    def metric(self, k: int, stamp: int) -> Array:
        """Q_k; all of them are made at once."""
        if self._ran["metric"] != stamp:
            self._metric.run()
            self._ran["metric"] = stamp
        return self._metrics[k].copy()

    def _evaluate(self, stamp: int) -> None:
        if self._ran["values"] != stamp:
            self._values.run()
            self._ran["values"] = stamp

    # -- programs -----------------------------------------------------------------------

    def _write_gradient(self) -> list[Array]:
        made: dict[Any, Array] = {}
        gradient: list[Array] = [np.zeros_like(matrix) for matrix in self._blocks.matrices]
        for k in self._network.block_of_mode:
            choice = plans(self._network, 0, k, self._data.shape)
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
        rows = zip(self._row_counts, self._blocks.matrices, strict=True)
        noise = [count * np.eye(m.shape[1], dtype=m.dtype) for count, m in rows]
        metrics = [np.zeros_like(gram) for gram in self._grams]
        for k, metric in enumerate(metrics):
            self._metric.call(np.copyto, metric, 0.0)
            for n in range(len(noise)):
                if n != k:
                    moments: Sequence[Array] = [noise[m] if m == n else one for m, one in enumerate(self._moments)]
                    part = self._blocks.gram(self._metric, k, moments)
                    self._metric.call(np.add, metric, part, out=metric)
        return metrics

    def _write_matrix(self) -> Array:
        matrices = self._blocks.matrices
        starts = [0, *itertools.accumulate([m.size for m in matrices])]
        matrix = np.zeros((starts[-1], starts[-1]), self._data.dtype)
        for k, (rows, width) in enumerate(m.shape for m in matrices):
            self._curvature.call(np.copyto, diagonal_blocks(matrix, starts[k], rows, width), self._grams[k])
            for m in range(k + 1, len(matrices)):
                value = self._blocks.cross(self._curvature, k, m, self._moments)
                target = matrix[starts[k] : starts[k + 1], starts[m] : starts[m + 1]].reshape(value.shape)
                self._curvature.call(np.copyto, target, value)
        return matrix
