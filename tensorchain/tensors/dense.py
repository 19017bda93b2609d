"""Arrays in memory.

Contractions go through one GEMM on a reshape of T wherever the wiring allows it.  The modes are
cut into a left and a right half; T is contracted with the blocks of one half (a *partial*), and all
blocks of the other half are then served from the partial: a dimension tree of depth two, so that a
sweep over an order-3 CP costs two passes over T, not three.  The partial is kept until a block it was
made from is replaced; blocks are immutable, so identity of the arrays is an exact test.

`residual` forms T - X in slabs along the first mode, so it stays exact at errors near rounding, and
needs memory for one slab beyond T.

Reference for the tree: Phan, Tichavsky, Cichocki, "Fast alternating LS algorithms for high order
CANDECOMP/PARAFAC tensor factorizations" (2013).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from tensorchain import kernels
from tensorchain.kernels import Array, contract
from tensorchain.models import Model
from tensorchain.models.network import Network
from tensorchain.tensors.base import Residual, Tensor

_SLAB = 1 << 21
"""Entries of T - X held at once (16 MB in double)."""


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
        self._partials: dict[tuple[int, tuple[int, ...]], tuple[Network, tuple[Array, ...], Array]] = {}
        self._norm = kernels.norm(self.array)

    def scaled(self, factor: float) -> Dense:
        twin = object.__new__(Dense)
        twin.__dict__.update(self.__dict__)
        twin.scale = self.scale * factor
        twin._partials = {}
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

    def mode_gram(self, mode: int) -> Array:
        others = [n for n in range(self.order) if n != mode]
        gram = np.tensordot(self.array, self.array.conj(), axes=(others, others))
        return np.asarray(gram, dtype=self._double) * self.scale**2

    def residual_norm(self, model: Model) -> float:
        norms = [kernels.norm(self._residual(model, rows)) for rows in self._slabs()]
        return float(np.linalg.norm(norms))

    def contract_all_but(self, model: Model, k: int) -> Array:
        pieces = [self._contract_term(model, t, k) for t in range(len(model.network.terms))]
        result = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)
        double = np.result_type(result, self._double)
        return np.multiply(result, self.scale, dtype=double) if self.scale != 1.0 else result.astype(double, copy=False)

    def residual(self, model: Model) -> Residual:
        slabs = self._slabs()
        if len(slabs) == 1:
            # It fits: keep it for the gradient.
            whole = self._residual(model, slabs[0])
            return Residual(kernels.norm(whole), lambda: self._gradient(model, [(slabs[0], whole)]))
        pieces = ((rows, self._residual(model, rows)) for rows in slabs)
        return Residual(self.residual_norm(model), lambda: self._gradient(model, pieces))

    def _gradient(self, model: Model, pieces: Iterable[tuple[slice, Array]]) -> list[Array]:
        first = model.network.block_of_mode[0]
        blocks = [np.zeros(matrix.shape, dtype=np.result_type(matrix, self._double)) for matrix in model.matrices]
        for rows, piece in pieces:
            door = Dense._bare(piece)
            part = self._part(model, rows)
            for k in range(len(blocks)):
                target = blocks[k][rows] if k == first else blocks[k]
                target += door.contract_all_but(part, k)
        return blocks

    # -- inside -------------------------------------------------------------------------

    @classmethod
    def _bare(cls, array: Array) -> Dense:
        """A door without checks, for arrays made here."""
        door = object.__new__(cls)
        door.array, door.shape, door.dtype = array, array.shape, array.dtype
        door._partials, door._norm = {}, math.nan
        return door

    @property
    def _double(self) -> Any:
        return np.complex128 if self.dtype.kind == "c" else np.float64

    def _slabs(self) -> list[slice]:
        rows = self.shape[0]
        step = max(1, _SLAB // max(1, math.prod(self.shape[1:])))
        if step >= rows:
            return [slice(None)]
        return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]

    def _part(self, model: Model, rows: slice) -> Model:
        return model if rows == slice(None) else model.restrict([rows] + [None] * (self.order - 1))

    def _residual(self, model: Model, rows: slice) -> Array:
        data = self.array[rows]
        value = self._part(model, rows).full()
        if self.scale != 1.0:
            data = data * self.scale
        return np.subtract(data, value, dtype=np.result_type(value, self._double))

    def _contract_term(self, model: Model, t: int, k: int) -> Array:
        """One term of L_k^H vec(T), from the partial product that serves block k."""
        network = model.network
        plan = _plan(network, t, k, self.shape)
        sources = tuple([model.matrices[m] for m in plan.used])
        cached = self._partials.get((t, plan.used))
        if cached is not None and cached[0] == network and all(map(operator.is_, cached[1], sources)):
            partial = cached[2]
        else:
            partial = self._partial(model, t, plan)
            self._partials[t, plan.used] = (network, sources, partial)
        if plan.final is None:
            return partial.reshape(len(model.matrices[k]), -1)
        operands = model.operands(t)
        value = contract(plan.final, partial, *[_conj(operands[m]) for m in plan.rest])
        return value.reshape(len(model.matrices[k]), -1)

    def _partial(self, model: Model, t: int, plan: Plan) -> Array:
        """T contracted with the blocks of one half of the modes: kept modes first, then open bonds."""
        operands = [_conj(model.operands(t)[m]) for m in plan.used]
        if plan.half is None:
            return contract(plan.sequence, self.array, *[self._cast(operand) for operand in operands])
        # The half closes on few bonds: contract its blocks first, then one GEMM with T.
        half = self._cast(contract(plan.half, *operands)).reshape(plan.rows, -1)
        matrix = self.array.reshape(plan.rows, -1).T if plan.leading else self.array.reshape(-1, plan.rows)
        return (matrix @ half).reshape(plan.shape)

    def _cast(self, operand: Array) -> Array:
        """To the precision of the data, so that the product with them runs in it."""
        dtype = np.dtype(np.complex128) if operand.dtype.kind == "c" else self.dtype
        return operand.astype(dtype, copy=False)


class Plan(NamedTuple):
    """How L_k^H vec(T) is computed for one term and block."""

    used: tuple[int, ...]
    """Blocks that the partial product contains."""
    half: str | None
    """Subscripts that merge these blocks before the product with T, or None to go one by one."""
    sequence: str
    """Subscripts of the product one by one."""
    leading: bool
    """Whether the half consists of the first modes."""
    rows: int
    shape: tuple[int, ...]
    """Shape of the partial: kept modes, open bonds."""
    final: str | None
    """Subscripts of the rest, from the partial to (I_k, P_k); None when the partial is the result."""
    rest: tuple[int, ...]


@lru_cache(maxsize=4096)
def _plan(network: Network, t: int, k: int, shape: tuple[int, ...]) -> Plan:
    term, labels = network.terms[t], network.labels[t]
    left, right = _halves(shape)
    mode = network.modes[k]
    kept, gone = (right, left) if mode is not None and mode in right else (left, right)
    used = tuple(network.block_of_mode[n] for n in gone)
    outside = "".join(bonds for m, bonds in enumerate(term.bonds) if m not in used)
    open_bonds = "".join(dict.fromkeys(x for m in used for x in term.bonds[m] if x in outside))
    letters = "".join(network.output[n] for n in kept) + open_bonds
    width = math.prod(term.size_of[x] for x in open_bonds)
    blocks = ",".join(labels[m] for m in used)
    modes = "".join(network.output[n] for n in gone)
    # Merging pays where the half closes on no more bonds than its outermost block alone.
    outermost = used[-1] if gone[-1] == len(shape) - 1 else used[0]
    merged = width <= term.widths[outermost]
    rest = tuple(m for m in range(len(labels)) if m != k and m not in used)
    target = (network.physical[k] if mode is not None else "") + term.bonds[k]
    final = ",".join([letters, *(labels[m] for m in rest)]) + "->" + target
    return Plan(
        used=used,
        half=f"{blocks}->{modes}{open_bonds}" if merged else None,
        sequence=f"{network.output},{blocks}->{letters}",
        leading=gone[0] == 0,
        rows=math.prod(shape[n] for n in gone),
        shape=(*(shape[n] for n in kept), *(term.size_of[x] for x in open_bonds)),
        final=None if letters == target and not rest else final,
        rest=rest,
    )


def _conj(operand: Array) -> Array:
    return operand.conj() if operand.dtype.kind == "c" else operand


def _halves(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Cut the modes where the larger half is smallest; on a tie the left half is the shorter one."""
    order = len(shape)
    cut = min(range(1, order), key=lambda c: max(math.prod(shape[:c]), math.prod(shape[c:])))
    return tuple(range(cut)), tuple(range(cut, order))


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
