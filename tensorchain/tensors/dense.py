"""Arrays in memory.

`residual` forms T - X in double precision, that of large tensors box by box, so it stays exact at errors near rounding,
and needs the memory of a box beyond T.  Products with the blocks of a model are made by
:mod:`tensorchain.evaluation.partials`; what they have in common is used again by the evaluator of a run, and nothing
of it stays here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tensorchain import kernels
from tensorchain.evaluation import DenseEvaluator, Evaluator, Partials, SmallEvaluator
from tensorchain.kernels import Array, memory
from tensorchain.models import Model
from tensorchain.tensors.base import Residual, Tensor
from tensorchain.tensors.boxes import BOX_ENTRIES, Box, boxes, empty_blocks, in_double, part, rows_of

_WHOLE = 1 << 21
"""Most entries of T - X that are made at once, and held for the gradient (16 MB in double); of more, box by box."""


class Dense(Tensor):
    """A NumPy array, `numpy.memmap` included.

    Parameters
    ----------
    array : order 2 to 10, real float32/float64 or complex128; other real and integer dtypes are
        converted to float64, float16 to float32, complex64 to complex128.

    Raises
    ------
    TypeError for other dtypes; ValueError for empty arrays, NaN or infinity, or an unsupported order.
    """

    def __init__(self, array: Any) -> None:
        self.array = _checked(array)
        self.shape = self.array.shape
        self.dtype = self.array.dtype
        self._norm = kernels.norm(self.array)

    def scaled(self, factor: float) -> Dense:
        twin = object.__new__(Dense)
        twin.__dict__.update(self.__dict__)
        twin.scale = self.scale * factor
        size = self._norm
        if not 1e-100 < size < 1e100 or not 1e-100 < abs(twin.scale) < 1e100:
            # Products of such entries overflow or vanish before the scale is applied: copy once.
            twin.array = _times(self.array, twin.scale)
            twin.scale, twin._norm = 1.0, kernels.norm(twin.array)
        return twin

    def norm(self) -> float:
        return self.scale * self._norm

    def to_dense(self) -> Array:
        return self.array if self.scale == 1.0 else self.array * self.array.dtype.type(self.scale)

    @property
    def in_memory(self) -> Array | None:
        return self.array

    def mode_gram(self, mode: int) -> Array:
        size = self.shape[mode]
        slices = self.array.reshape(math.prod(self.shape[:mode]), size, -1)
        step = max(1, BOX_ENTRIES // max(1, slices[0].size))
        gram = np.zeros((size, size), dtype=self._double)
        for start in range(0, len(slices), step):
            rows = slices[start : start + step].swapaxes(0, 1).reshape(size, -1)
            gram += rows @ rows.conj().T
        return np.asarray(gram * self.scale**2)

    def residual_norm(self, model: Model) -> float:
        model = in_double(model)
        return float(
            np.linalg.norm([kernels.norm(self._residual(model, box)) for box in boxes(self.shape, BOX_ENTRIES)])
        )

    def contract_all_but(self, model: Model, k: int) -> Array:
        product = Partials(self.array).all_but(model, k)
        return product if self.scale == 1.0 else product * self.scale

    def evaluator(self, model: Model) -> Evaluator:
        if SmallEvaluator.fits(model, self.array):
            return SmallEvaluator(self, model, self.array)
        return DenseEvaluator(self, model, self.array, scale=self.scale)

    def residual(self, model: Model) -> Residual:
        model = in_double(model)
        if self.array.size <= _WHOLE:
            whole = tuple(slice(0, size) for size in self.shape)
            error = self._residual(model, whole)
            return Residual(kernels.norm(error), lambda: self._gradient(model, [(whole, error)]))
        pieces = ((box, self._residual(model, box)) for box in boxes(self.shape, BOX_ENTRIES))
        return Residual(self.residual_norm(model), lambda: self._gradient(model, pieces))

    def _gradient(self, model: Model, pieces: Iterable[tuple[Box, Array]]) -> list[Array]:
        blocks = empty_blocks(model, self.dtype)
        for box, piece in pieces:
            add_gradient(blocks, model, box, piece)
        return blocks

    @classmethod
    def bare(cls, array: Array) -> Dense:
        """A door without checks, for finite arrays in C order that are made here."""
        door = object.__new__(cls)
        door.array, door.shape, door.dtype, door._norm = array, array.shape, array.dtype, math.nan
        return door

    # -- inside -------------------------------------------------------------------------

    @property
    def _double(self) -> Any:
        return np.complex128 if self.dtype.kind == "c" else np.float64

    def _residual(self, model: Model, box: Box) -> Array:
        data, value = self.array[box], part(model, box).full()
        result = memory.empty(data.shape, np.result_type(value, self._double))
        # In the dtype of the result: a number alone does not widen single precision.
        np.multiply(data, self.scale, out=result, dtype=result.dtype)
        np.subtract(result, value, out=result)
        return result


def _times(array: Array, factor: float) -> Array:
    """array * factor without intermediate overflow or underflow."""
    exponent = int(np.floor(np.log2(abs(factor))))
    half = exponent // 2
    rest = factor / np.ldexp(1.0, exponent) if abs(exponent) < 1000 else np.ldexp(factor, -exponent)
    real = np.float64 if array.dtype.kind != "c" else np.complex128
    return np.asarray(array.astype(real) * np.ldexp(1.0, half) * np.ldexp(1.0, exponent - half) * rest)


def _checked(array: Any) -> Array:
    given = np.asarray(array) if not isinstance(array, np.ndarray) else array
    kind = given.dtype.kind
    if kind not in "iubfc":
        advice = "convert it with np.asarray(T, dtype=float)"
        raise TypeError(f"the tensor has dtype {given.dtype}; numbers are needed: {advice}")
    if kind in "iub" or given.dtype == np.longdouble:
        given = given.astype(np.float64)
    elif given.dtype == np.float16:
        given = given.astype(np.float32)
    elif kind == "c" and given.dtype != np.complex128:
        given = given.astype(np.complex128)
    given = given.astype(given.dtype.newbyteorder("="), copy=False)
    if not 2 <= given.ndim <= 10:
        raise ValueError(f"the tensor has shape {given.shape}, order {given.ndim}; orders 2 to 10 are supported")
    if given.size == 0:
        raise ValueError(f"the tensor is empty, shape {given.shape}; every mode needs at least one entry")
    if not np.isfinite(kernels.norm(given)):
        raise ValueError(
            "the tensor holds NaN or infinity; use tc.Masked(T, mask) for missing entries, "
            "or clean it with np.nan_to_num"
        )
    return np.ascontiguousarray(given)


def add_gradient(blocks: Sequence[Array], model: Model, box: Box, piece: Array) -> None:
    """blocks[k] += J_k^H piece, for a piece of a tensor that lies in `box`."""
    products, inside = Partials(piece), part(model, box)
    for k in model.network.update_order:
        blocks[k][rows_of(model, k, box)] += products.all_but(inside, k)
