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
from tensorchain.tensors.intake import dense_numbers, moderate

_WHOLE = 1 << 21
"""Most entries of T - X that are made at once, and held for the gradient (16 MB in double); of more, box by box."""


_WIDENED = 1 << 18
"""Entries up to which single precision is widened for a run: products in double cost little, and where blocks cancel
those in single precision are spoilt by their rounding."""


class Dense(Tensor):
    """A NumPy array, `numpy.memmap` included.

    Parameters
    ----------
    array : array_like
        Order 2 to 50, real float32/float64 or complex128; other real and integer dtypes are converted to float64,
        float16 to float32, complex64 to complex128.  The names of an `xarray.DataArray` are kept.

    Raises
    ------
    TypeError
        For other dtypes, and for what is no array: tables, models, paths, sparse or device arrays.
    ValueError
        For empty arrays, NaN or infinity, masked entries, an unsupported order, or ragged lists.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> tc.Dense(np.ones((3, 4), dtype="int16"))
    Dense(3 x 4, float64)
    """

    def __init__(self, array: Any) -> None:
        values, given = dense_numbers("Dense", array)
        if given.missing is not None and given.missing.any():
            raise ValueError(
                f"{np.count_nonzero(given.missing)} entries are masked; use tc.Masked(array), which does not count them"
            )
        held, self.scale, self._norm = moderate(values)
        if not math.isfinite(self._norm):
            raise ValueError(
                "the tensor holds NaN or infinity; use tc.Masked(T, mask) for missing entries, "
                "or clean it with np.nan_to_num"
            )
        self.array = np.ascontiguousarray(held)
        self._name(given)
        self.shape = self.array.shape
        self.dtype = self.array.dtype

    _rounding: float | None = None

    def scaled(self, factor: float) -> Dense:
        twin = object.__new__(Dense)
        twin.__dict__.update(self.__dict__)
        twin.scale = self.scale * factor
        return twin

    def computed(self) -> Dense:
        if self.dtype != np.float32 or self.array.size > _WIDENED:
            return self
        twin = self.scaled(1.0)
        twin.array, twin.dtype = self.array.astype(np.float64), np.dtype(np.float64)
        twin._rounding = self.rounding
        return twin

    @property
    def rounding(self) -> float:
        return super().rounding if self._rounding is None else self._rounding

    def norm(self) -> float:
        return self.scale * self._norm

    def _content(self) -> Iterable[Any]:
        return (self.array,)

    def to_dense(self) -> Array:
        if self.scale == 1.0:
            return self.array
        # In double precision first: the scale may be no number of single precision.
        return np.asarray(np.multiply(self.array, self.scale, dtype=self._double).astype(self.dtype, copy=False))

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
        return np.asarray(gram * self.scale * self.scale)

    def residual_norm(self, model: Model) -> float:
        model = in_double(model)
        return kernels.norm(
            np.array([kernels.norm(self._residual(model, box)) for box in boxes(self.shape, BOX_ENTRIES)])
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
        """A data source without checks, for finite arrays in C order that are made here.

        Parameters
        ----------
        array : ndarray
            Finite, in C order.

        Returns
        -------
        Dense
            Without a copy.
        """
        source = object.__new__(cls)
        source.array, source.shape, source.dtype, source._norm = array, array.shape, array.dtype, math.nan
        return source

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


def add_gradient(blocks: Sequence[Array], model: Model, box: Box, piece: Array) -> None:
    """blocks[k] += J_k^H piece, for a piece of a tensor that lies in `box`."""
    products, inside = Partials(piece), part(model, box)
    for k in model.network.update_order:
        blocks[k][rows_of(model, k, box)] += products.all_but(inside, k)
