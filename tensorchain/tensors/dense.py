"""Arrays in memory.

Contractions go through one GEMM on a reshape of T wherever the wiring allows it.  T is contracted with the
blocks of some modes (a *partial*), and all blocks of the others are then served from the partial: which modes
these are is decided in :mod:`tensorchain.tensors.tree`.  The partial is kept until a block it was made from is
replaced; blocks are immutable, so identity of the arrays is an exact test.

Blocks that are merged before the product (a Khatri-Rao product for CP, a subchain for TC) are made in slices
that stay in the cache, so the memory of a sweep beyond T is that of one partial.

`residual` forms T - X, that of large tensors box by box, so it stays exact at errors near rounding, and needs the
memory of a box beyond T.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np

from tensorchain import kernels
from tensorchain.kernels import Array, contract, memory
from tensorchain.models import Model
from tensorchain.tensors.base import Residual, Tensor
from tensorchain.tensors.boxes import BOX_ENTRIES, Box, boxes, empty_blocks, part, rows_of
from tensorchain.tensors.intake import dense_numbers, moderate
from tensorchain.tensors.newton import Newton
from tensorchain.tensors.tree import Plan, filled, plans

_KEPT = 1 << 21
"""Most entries of T - X that are made at once and kept for the gradient (16 MB in double); of more, box by box."""
_SMALL_PARTIAL = 1 << 16


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
        self._partials: dict[int, tuple[tuple[Any, ...], tuple[Array, ...], Array]] = {}
        """For each term the signature of a partial product, the blocks in it, and the product."""
        self._newton: Newton | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Programs are views of their own memory, which a copy would tear apart.
        return {**self.__dict__, "_partials": {}, "_newton": None}

    def scaled(self, factor: float) -> Dense:
        twin = object.__new__(Dense)
        twin.__dict__.update(self.__dict__)
        twin.scale = self.scale * factor
        twin._partials, twin._newton = {}, None
        return twin

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
        return kernels.norm(
            np.array([kernels.norm(self._residual(model, box)) for box in boxes(self.shape, BOX_ENTRIES)])
        )

    def contract_all_but(self, model: Model, k: int) -> Array:
        pieces = [self._contract_term(model, t, k) for t in range(len(model.network.terms))]
        result = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)
        double = np.result_type(result, self._double)
        return np.multiply(result, self.scale, dtype=double) if self.scale != 1.0 else result.astype(double, copy=False)

    def kept(self, model: Model) -> list[list[int]]:
        found = []
        for t in self._partials:
            serving = (
                [t, k, n]
                for k in model.network.block_of_mode
                for n, plan in enumerate(plans(model.network, t, k, self.shape))
                if self._current(model, t, plan) is not None
            )
            found += list(islice(serving, 1))
        return found

    def keep(self, model: Model, kept: Sequence[Sequence[int]]) -> None:
        for t, k, n in kept:
            self._renewed(model, t, plans(model.network, t, k, self.shape)[n])

    def residual(self, model: Model) -> Residual:
        newton = self._newton_of(model)
        if newton is not None:
            return newton.residual(model)
        if self.array.size <= _KEPT:
            whole = tuple(slice(0, size) for size in self.shape)
            error = self._residual(model, whole)
            return Residual(kernels.norm(error), lambda: self._gradient(model, [(whole, error)]))
        pieces = ((box, self._residual(model, box)) for box in boxes(self.shape, BOX_ENTRIES))
        return Residual(self.residual_norm(model), lambda: self._gradient(model, pieces))

    def gauss_newton(self, model: Model) -> Array:
        newton = self._newton_of(model)
        return super().gauss_newton(model) if newton is None else newton.gauss_newton(model.matrices)

    def _newton_of(self, model: Model) -> Newton | None:
        """Programs for models of this wiring, where there are some."""
        if self._newton is not None and self._newton.serves(model):
            return self._newton
        if not Newton.fits(self.array, model):
            return None
        newton = self._newton
        if newton is None or newton.network != model.network or newton.row_counts != model.row_counts:
            self._newton = Newton(np.ascontiguousarray(self.to_dense()), model)
        return self._newton

    def _gradient(self, model: Model, pieces: Iterable[tuple[Box, Array]]) -> list[Array]:
        blocks = empty_blocks(model, self.dtype)
        for box, piece in pieces:
            add_gradient(blocks, model, box, piece)
        return blocks

    @classmethod
    def bare(cls, array: Array) -> Dense:
        """A door without checks, for finite arrays in C order that are made here."""
        door = object.__new__(cls)
        door.array, door.shape, door.dtype = array, array.shape, array.dtype
        door._partials, door._norm, door._newton = {}, math.nan, None
        return door

    # -- inside -------------------------------------------------------------------------

    @property
    def _double(self) -> Any:
        return np.complex128 if self.dtype.kind == "c" else np.float64

    def _residual(self, model: Model, box: Box) -> Array:
        data, value = self.array[box], part(model, box).full()
        result = memory.empty(data.shape, np.result_type(value, self._double))
        np.multiply(data, self.scale, out=result, dtype=result.dtype)
        np.subtract(result, value, out=result)
        return result

    def _contract_term(self, model: Model, t: int, k: int) -> Array:
        """One term of L_k^H vec(T), from a partial product that serves block k."""
        choice = plans(model.network, t, k, self.shape)
        plan, partial = choice[0], None
        for candidate in choice:
            partial = self._current(model, t, candidate)
            if partial is not None:
                plan = candidate
                break
        if partial is None:
            partial = self._renewed(model, t, plan)
        # From a small partial on double precision costs nothing.
        small = partial.size <= _SMALL_PARTIAL
        operands = [_conj(model.operands(t)[m]) if small else self._operand(model, t, m) for m in plan.rest]
        return plan.finished(contract, partial, operands).reshape(len(model.matrices[k]), -1)

    def _current(self, model: Model, t: int, plan: Plan) -> Array | None:
        """The partial product that is kept, if it is that of the plan and made from the blocks of the model."""
        signature, sources, partial = self._partials.get(t, (None, (), None))
        if signature != plan.signature or not all(map(operator.is_, sources, [model.matrices[m] for m in plan.used])):
            return None
        return partial

    def _renewed(self, model: Model, t: int, plan: Plan) -> Array:
        """The partial product of the plan, kept from now on."""
        # The old one goes first: two at a time would double the memory.
        self._partials.pop(t, None)
        partial = self._partial(model, t, plan)
        self._partials[t] = (plan.signature, tuple([model.matrices[m] for m in plan.used]), partial)
        return partial

    def _partial(self, model: Model, t: int, plan: Plan) -> Array:
        """T contracted with the blocks of some modes: open bonds first, then kept modes."""
        if plan.half is None:
            operands = [self._operand(model, t, m) for m in plan.used]
            return np.ascontiguousarray(contract(plan.sequence, self.array, *operands))
        # The half closes on few bonds: contract its blocks first, then one GEMM with T.  A large half is
        # never whole: slices of its first mode follow one another while they are in the cache.
        before, _, behind = plan.matrices
        first = model.network.modes[plan.used[0]]
        assert first is not None
        length = self.shape[first]
        if before > 1 and behind > 1:
            half = self._half(model, t, plan, slice(None), plan.width)
            result = memory.empty((before, plan.width, behind), np.result_type(half, self.dtype))
            return np.matmul(half, self.array.reshape(plan.matrices), out=result).reshape(plan.shape)
        data = self.array.reshape(length, -1, behind) if before == 1 else self.array.reshape(before, length, -1)
        width = filled(plan.width)
        result = memory.empty((width, before * behind), self.dtype)
        for start in range(0, length, plan.step):
            some = slice(start, start + plan.step)
            half = self._half(model, t, plan, some, width)
            matrix = data[some].reshape(-1, behind) if before == 1 else data[:, some].reshape(before, -1).T
            if start == 0:
                result = np.matmul(half, matrix, out=result if half.dtype == self.dtype else None)
            else:
                result += half @ matrix
        return result[: plan.width].reshape(plan.shape)

    def _half(self, model: Model, t: int, plan: Plan, some: slice, width: int) -> Array:
        """Blocks of the modes that are summed, merged: open bonds by entries, with zeros up to `width`."""
        assert plan.half is not None
        operands = [self._operand(model, t, m, some if m == plan.used[0] else None) for m in plan.used]
        half = contract(plan.half, *operands).reshape(plan.width, -1)
        if width == plan.width:
            return half
        wide = np.zeros((width, half.shape[1]), half.dtype)
        wide[: plan.width] = half
        return wide

    def _operand(self, model: Model, t: int, m: int, rows: slice | None = None) -> Array:
        """Conjugated block, in the precision of the data, so that products with them run in it."""
        operand = model.operands(t)[m]
        if rows is not None:
            operand = operand[rows]
        complex_like = np.result_type(self.dtype, np.complex64)
        return _conj(operand).astype(complex_like if operand.dtype.kind == "c" else self.dtype, copy=False)


def _conj(operand: Array) -> Array:
    return operand.conj() if operand.dtype.kind == "c" else operand


def add_gradient(blocks: Sequence[Array], model: Model, box: Box, piece: Array) -> None:
    """blocks[k] += J_k^H piece, for a piece of a tensor that lies in `box`."""
    door, inside = Dense.bare(piece), part(model, box)
    for k in model.network.update_order:
        blocks[k][rows_of(model, k, box)] += door.contract_all_but(inside, k)
