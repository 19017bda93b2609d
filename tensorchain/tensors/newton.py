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
from tensorchain.models.network import COLUMN, ROW
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
        self.network, self.data = model.network, data
        self.term = self.network.terms[0]
        self._held: list[Array | None] = [None] * len(model.matrices)
        self._blocks: list[Array] = [np.zeros(matrix.shape, data.dtype) for matrix in model.matrices]
        complex_like = data.dtype.kind == "c"
        self._conjugates = [np.zeros_like(block) if complex_like else block for block in self._blocks]
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
        plain = len(model.network.terms) == 1 and not model.network.has_cores
        return small and plain and data.dtype != np.float32 and all(m.dtype == data.dtype for m in model.matrices)

    def residual(self, model: Model) -> Residual:
        """T - X; the model is told its Grams."""
        self._load(model.matrices)
        model.know([gram.copy() for gram in self._grams], partial(self.metrics, model.matrices))
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
        for block, conjugate, matrix in zip(self._blocks, self._conjugates, matrices, strict=True):
            np.copyto(block, matrix)
            if conjugate is not block:
                np.conjugate(block, out=conjugate)
        self._values.run()
        self._held = list(matrices)

    # -- programs -----------------------------------------------------------------------

    def _write_values(self) -> None:
        """Moments, T - X and Grams."""
        write = self._values
        pairs = zip(self._conjugates, self._blocks, strict=True)
        self._moments = [write.product(conjugate.T, block) for conjugate, block in pairs]
        value = write.contract(self.network.evaluations[0], *[self._operand(b, k) for k, b in enumerate(self._blocks)])
        write.call(np.subtract, self.data, value, out=self._error)
        self._grams = [self._gram(write, k, self._moments) for k in range(len(self._blocks))]

    def _write_gradient(self) -> list[Array]:
        made: dict[Any, Array] = {}
        gradient: list[Array] = [np.zeros_like(block) for block in self._blocks]
        for k in self.network.block_of_mode:
            choice = plans(self.network, 0, k, self.data.shape)
            plan = next((plan for plan in choice if plan.signature in made), choice[0])
            if plan.signature not in made:
                made[plan.signature] = self._partial(plan)
            first = made[plan.signature]
            if plan.final is None:
                value = first.reshape(plan.width, -1).T
            else:
                rest = [self._operand(self._conjugates[m], m) for m in plan.rest]
                value = self._slope.contract(plan.final, first, *rest)
            self._slope.call(np.copyto, gradient[k].reshape(value.shape), value)
        return gradient

    def _partial(self, plan: Plan) -> Array:
        operands = [self._operand(self._conjugates[m], m) for m in plan.used]
        return self._slope.matrix(self._slope.contract(plan.sequence, self._error, *operands), plan.shape)

    def _write_metrics(self) -> list[Array]:
        """Q_k, the derivative of M_k along I_n * identity in the place of each moment."""
        noise = [len(block) * np.eye(block.shape[1], dtype=block.dtype) for block in self._blocks]
        metrics = [np.zeros_like(gram) for gram in self._grams]
        for k, metric in enumerate(metrics):
            self._metric.call(np.copyto, metric, 0.0)
            for n in range(len(self._blocks)):
                if n != k:
                    moments = [noise[m] if m == n else moment for m, moment in enumerate(self._moments)]
                    part = self._gram(self._metric, k, moments)
                    self._metric.call(np.add, metric, part, out=metric)
        return metrics

    def _write_matrix(self) -> Array:
        starts = [0, *itertools.accumulate([block.size for block in self._blocks])]
        matrix = np.zeros((starts[-1], starts[-1]), self.data.dtype)
        for k, (rows, width) in enumerate(block.shape for block in self._blocks):
            self._curvature.call(np.copyto, diagonal_blocks(matrix, starts[k], rows, width), self._grams[k])
            for m in range(k + 1, len(self._blocks)):
                value = self._cross(k, m)
                target = matrix[starts[k] : starts[k + 1], starts[m] : starts[m + 1]].reshape(value.shape)
                self._curvature.call(np.copyto, target, value)
        return matrix

    def _gram(self, write: Program, k: int, moments: list[Array]) -> Array:
        bonds = self.term.bonds
        labels, operands = self._pairs(moments, (k,))
        value = write.contract(",".join(labels) + "->" + bonds[k] + bonds[k].upper(), *operands)
        return write.matrix(value, (self.term.widths[k], self.term.widths[k]))

    def _cross(self, k: int, m: int) -> Array:
        """J_k^H J_m, (I_k, *bonds, I_m, *bonds): as in `Form`."""
        bonds = self.term.bonds
        labels, operands = self._pairs(self._moments, (k, m))
        labels += [ROW + bonds[k].upper(), COLUMN + bonds[m]]
        operands += [self._operand(self._blocks[k], k), self._operand(self._conjugates[m], m)]
        target = ROW + bonds[k] + COLUMN + bonds[m].upper()
        return self._curvature.contract(",".join(labels) + "->" + target, *operands)

    def _pairs(self, moments: list[Array], without: tuple[int, ...]) -> tuple[list[str], list[Array]]:
        """Letters and moments of all blocks but some, with one axis for each bond."""
        others = [m for m in range(len(moments)) if m not in without]
        labels = [self.term.bonds[m] + self.term.bonds[m].upper() for m in others]
        return labels, [moments[m].reshape(self.term.shapes[m] * 2) for m in others]

    def _operand(self, block: Array, k: int) -> Array:
        return block.reshape(-1, *self.term.shapes[k])
