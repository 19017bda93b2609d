"""A tensor and a model that both lie on a device: sweeps stay there, and questions of the host are answered.

Blocks go to the device when something there needs them, and only those that have changed.  `sweeps` updates them there
as often as it is asked to and brings back one small array for all of these sweeps: error and sensitivity after each,
and the norms of the blocks.  The model after a sweep is one whose blocks come to the host if someone looks at them.

Everything else is the generic answer of :class:`Evaluator`: products with the data are made on the device, and come
back with the size of a block; Grams, J^H J and systems are small, follow from the model, and stay on the host.

The short formula for the error (:mod:`tensorchain.evaluation.device_sweeps`) has no digits left where the error is
small; from the first time that this is seen T - X itself is formed there, a box at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorchain.evaluation.device_blocks import DeviceBlocks
from tensorchain.evaluation.device_partials import DevicePartials
from tensorchain.evaluation.device_sweeps import DeviceSweeps, Square
from tensorchain.evaluation.evaluator import Evaluator
from tensorchain.kernels import Array
from tensorchain.models import Model, Network

if TYPE_CHECKING:
    from tensorchain.tensors.device import Device

_DIGITS = 1e5
"""How far ||T - X||^2 must be above its rounding errors to be taken from the short formula, as on the host."""


class Swept(NamedTuple):
    """A model after a sweep, with its figures."""

    model: Model
    error: float
    sensitivity: float


class _Row(NamedTuple):
    """A model on the device, and what its figures are made of."""

    model: Model
    matrices: list[Any]
    square: Square
    traces: list[Any]


class DeviceEvaluator(Evaluator):
    """Answers about a tensor on a device.

    Parameters
    ----------
    tensor : Device
        The data.
    model : Model
        The model to begin with.
    """

    tensor: Device

    def __init__(self, tensor: Device, model: Model) -> None:
        super().__init__(tensor, model)
        self._names = tensor.namespace
        double = np.result_type(tensor.dtype, model.dtype, np.float64)
        self._blocks = DeviceBlocks(self._names, model.network, model.row_counts, double)
        self._sent: list[Array | None] = [None] * len(model.matrices)
        """The blocks of the host that lie on the device; None where those there are newer."""
        self._source: Model | None = None
        """A model that is what lies on the device, though its blocks may never have come to the host."""
        self._partials = DevicePartials(tensor.array_for(double), self._names)
        self._absorbing = _absorbing(model)
        self._sweeps = DeviceSweeps(self._partials, self._blocks, self._absorbing)
        self.measured = False
        """Whether the short formula for the error has run out of digits."""

    # -- where it stands ----------------------------------------------------------------

    def hold(self, model: Model) -> None:
        if model.row_counts != self._model.row_counts:
            self._blocks.row_counts = model.row_counts
        super().hold(model)

    def _upload(self) -> DeviceBlocks:
        """The blocks of the model on the device: those that have changed are sent."""
        model = self._model
        if model is self._source:
            return self._blocks
        if self._source is not None:
            # Its blocks have come to the host, if any of them is part of the new model.
            self._sent = list(self._source.matrices)
            self._source = None
        for k, matrix in enumerate(model.matrices):
            if matrix is not self._sent[k]:
                self._blocks.put(k, self._names.send(matrix, self._blocks.dtype))
                self._sent[k] = matrix
                self._sweeps.moved()
        return self._blocks

    def state(self) -> list[list[int]]:
        return self._partials.state(self._upload())

    def restore(self, state: Sequence[Sequence[int]]) -> None:
        self._partials.restore(self._upload(), state)

    # -- answers to the host --------------------------------------------------------------

    def error(self) -> float:
        if self._residual is None:
            self._residual = self.tensor.residual_of(self._upload(), self._model)
        return self._residual.norm

    def gradient(self) -> list[Array]:
        self.error()
        assert self._residual is not None
        return self._residual.gradient

    def rhs(self, k: int) -> Array:
        product = self._partials.all_but(self._upload(), k, self._blocks.dtype)
        return _double(self._names.fetch(product)) * self.tensor.scale

    def joint_rhs(self, k: int) -> Array | None:
        return None

    # -- sweeps on the device --------------------------------------------------------------

    def resident(self, penalty: float) -> bool:
        """Whether sweeps with this weight on the sensitivity can stay on the device."""
        return DeviceSweeps.fit(self.network, self._absorbing, penalty)

    def begin(self) -> Swept:
        """The model as it is, with its figures: one transfer."""
        self._upload()
        square = self._sweeps.begun(self.tensor.scale)
        return self._brought([self._after(self._model, square)])[0]

    def sweeps(self, count: int, penalty: float = 0.0, until: Callable[[], bool] | None = None) -> list[Swept]:
        """Update every block `count` times, and bring the figures of all these sweeps back in one transfer.

        Parameters
        ----------
        count : int
            Sweeps.
        penalty : float
            Weight nu of the sensitivity; with one, each sweep ends with a cycle of the gauge.
        until : callable, optional
            Says when there is to be no other sweep.
        """
        blocks, rows = self._upload(), []
        if self._absorbing is not None and not penalty and self._sweeps.unsized:
            self._sweeps.orthonormalise([_power_of_two(m) for m in self._model.matrices])
        for _ in range(count):
            square = self._sweeps.sweep(self.tensor.scale, penalty)
            model = self._model.deferred(_fetching(self._names, list(blocks.matrices)))
            rows.append(self._after(model, square))
            if until is not None and until():
                break
        found = self._brought(rows, balanced=not penalty)
        # The last one is what lies on the device.
        self._model, self._residual, self._source = found[-1].model, None, found[-1].model
        return found

    def reduced(self, most: int, settled: float) -> list[Array]:
        """The blocks of a Tucker model with orthonormal factors, after sweeps until what it leaves out settles.

        Parameters
        ----------
        most : int
            Most sweeps.
        settled : float
            Relative fall of ||T||^2 - ||X||^2 in a sweep at which to stop.
        """
        self._upload()
        self._sweeps.orthonormalise([1.0] * len(self.network.modes))
        square, left = self.norm**2, math.inf
        for _ in range(most):
            found = square - self._names.number(self._sweeps.sweep(self.tensor.scale, 0.0).cross)
            noise = self.tensor.rounding * square
            if found <= noise or left - found <= settled * found + noise:
                break
            left = found
        return [_double(self._names.fetch(matrix)) for matrix in self._blocks.matrices]

    def _after(self, model: Model, square: Square) -> _Row:
        """What is to be known of the blocks as they are; nothing is asked yet."""
        blocks = self._blocks
        traces = [blocks.gram_trace(k) for k in range(len(blocks.matrices))]
        return _Row(model, list(blocks.matrices), square, traces)

    def _brought(self, rows: list[_Row], *, balanced: bool = False) -> list[Swept]:
        count, balanced = len(rows), balanced and self._absorbing is None
        figures = self._names.fetch(self._figures(rows, balanced)).tolist()
        if not self.measured and any(math.isnan(square) for square in figures[:count]):
            self.measured = True
            figures = self._names.fetch(self._figures(rows, balanced)).tolist()
        models = [row.model for row in rows]
        if balanced:
            exponents = _balancing(figures[2 * count :])
            if any(exponents):
                for k, exponent in enumerate(exponents):
                    if exponent:
                        self._blocks.put(k, self._blocks.matrices[k] * 2.0**exponent)
                models[-1] = self._model.deferred(_fetching(self._names, list(self._blocks.matrices)))
        return [
            Swept(model, math.sqrt(max(square, 0.0)) if square == square else math.nan, sensitivity)
            for model, square, sensitivity in zip(models, figures[:count], figures[count : 2 * count], strict=True)
        ]

    def _figures(self, rows: list[_Row], balanced: bool) -> Any:
        """||T - X||^2 of each row, SS of each row, and squared norms of the blocks, one array on the device.

        ||T - X||^2 is not a number where the short formula has lost it.
        """
        xp, count = self._names.xp, len(rows)
        norms = self._blocks.norms() if balanced else []
        every = xp.stack([scalar for row in rows for scalar in (*row.square[:3], *row.traces)] + norms)
        width = 3 + len(rows[0].traces)
        table = self._names.reshape(every[: count * width], (count, width))
        cross, image, length, trace = (table[:, n] for n in (0, 1, 2, 3 + rows[0].square.block))
        parts = [float(size) * table[:, 3 + k] for k, size in enumerate(self._blocks.row_counts)]
        sensitivities = sum(parts[1:], start=parts[0])
        if self.measured:
            squares = xp.stack([self.tensor.squared_residual(self.network, row.matrices) for row in rows])
        else:
            size, length = self.norm**2, length * trace
            squares = size - 2.0 * cross + image
            least = (_DIGITS * self.tensor.rounding) * (size + self.norm * xp.sqrt(length) + length)
            squares = xp.where(squares > least, squares, xp.full_like(squares, math.nan))
        return xp.concat([squares, sensitivities, every[count * width :]])


def _absorbing(model: Model) -> list[Network | None] | None:
    """The networks of the models whose core has taken in each factor; None for models that have no such form."""
    if not model.network.has_cores:
        return None
    found: list[Network | None] = []
    for k, mode in enumerate(model.network.modes):
        absorbed = None if mode is None else model.absorbed(k)
        if mode is not None and absorbed is None:
            return None
        found.append(None if absorbed is None else absorbed.network)
    return found


def _fetching(names: Any, matrices: list[Any]) -> Any:
    """What brings the blocks of a model to the host."""
    return lambda: [_double(names.fetch(matrix)) for matrix in matrices]


def _double(array: Array) -> Array:
    return array.astype(np.result_type(array, np.float64), copy=False)


def _power_of_two(matrix: Array) -> float:
    """About the size of a column of a block."""
    size = float(np.linalg.norm(matrix)) / math.sqrt(matrix.shape[1])
    return 2.0 ** round(math.log2(size)) if 0.0 < size < math.inf else 1.0


def _balancing(squares: list[float]) -> list[int]:
    """Exponents of two that bring blocks of these squared norms to nearly one norm, and whose sum is zero."""
    if not all(0.0 < square < math.inf for square in squares):
        return [0] * len(squares)
    logs = [0.5 * math.log2(square) for square in squares]
    mean = math.fsum(logs) / len(logs)
    exponents = [round(mean - log) for log in logs]
    surplus = sum(exponents)
    step = 1 if surplus > 0 else -1
    for k in sorted(range(len(logs)), key=lambda k: step * (mean - logs[k] - exponents[k]))[: abs(surplus)]:
        exponents[k] -= step
    return exponents
