"""Arrays in memory.

Contractions go through one GEMM on a reshape of T wherever the wiring allows it.  The modes are
cut into a left and a right half; T is contracted with the blocks of one half (a *partial*), and all
blocks of the other half are then served from the partial: a dimension tree of depth two, so that a
sweep over an order-3 CP costs two passes over T, not three.  The partial is kept until a block it was
made from is replaced; blocks are immutable, so identity of the arrays is an exact test.

A partial has its bonds in front and its modes behind: products are then a small matrix times a wide one,
which BLAS does fastest, and nothing large is ever transposed.  Blocks of a half that are merged before the
product (a Khatri-Rao product for CP, a subchain for TC) are made in slices that stay in the cache, so the
memory of a sweep beyond T is that of the partials.

`residual` forms T - X, that of large tensors box by box, so it stays exact at errors near rounding, and needs the
memory of a box beyond T.

Reference for the tree: Phan, Tichavsky, Cichocki, "Fast alternating LS algorithms for high order
CANDECOMP/PARAFAC tensor factorizations" (2013).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from tensorchain import kernels
from tensorchain.kernels import Array, contract, memory
from tensorchain.models import Model
from tensorchain.models.network import Network, Term
from tensorchain.tensors.base import Residual, Tensor
from tensorchain.tensors.boxes import BOX_ENTRIES, Box, boxes, empty_blocks, part, rows_of

_KEPT = 1 << 21
"""Most entries of T - X that are made at once and kept for the gradient (16 MB in double); of more, box by box."""
_SMALL_PARTIAL = 1 << 16
_HALF = 1 << 18
"""Entries of a slice of the blocks of one half, merged (2 MB in double)."""


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
        self._partials: dict[tuple[int, tuple[int, ...]], tuple[tuple[Any, ...], tuple[Array, ...], Array]] = {}
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
        size = self.shape[mode]
        slices = self.array.reshape(math.prod(self.shape[:mode]), size, -1)
        step = max(1, BOX_ENTRIES // max(1, slices[0].size))
        gram = np.zeros((size, size), dtype=self._double)
        for start in range(0, len(slices), step):
            rows = slices[start : start + step].swapaxes(0, 1).reshape(size, -1)
            gram += rows @ rows.conj().T
        return np.asarray(gram * self.scale**2)

    def residual_norm(self, model: Model) -> float:
        return float(
            np.linalg.norm([kernels.norm(self._residual(model, box)) for box in boxes(self.shape, BOX_ENTRIES)])
        )

    def contract_all_but(self, model: Model, k: int) -> Array:
        pieces = [self._contract_term(model, t, k) for t in range(len(model.network.terms))]
        result = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)
        double = np.result_type(result, self._double)
        return np.multiply(result, self.scale, dtype=double) if self.scale != 1.0 else result.astype(double, copy=False)

    def residual(self, model: Model) -> Residual:
        if self.array.size <= _KEPT:
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
        door.array, door.shape, door.dtype = array, array.shape, array.dtype
        door._partials, door._norm = {}, math.nan
        return door

    # -- inside -------------------------------------------------------------------------

    @property
    def _double(self) -> Any:
        return np.complex128 if self.dtype.kind == "c" else np.float64

    def _residual(self, model: Model, box: Box) -> Array:
        data, value = self.array[box], part(model, box).full()
        result = memory.empty(data.shape, np.result_type(value, self._double))
        np.multiply(data, self.scale, out=result)
        np.subtract(result, value, out=result)
        return result

    def _contract_term(self, model: Model, t: int, k: int) -> Array:
        """One term of L_k^H vec(T), from the partial product that serves block k."""
        network = model.network
        plans = _plans(network, t, k, self.shape)
        # A core is served by either half: by the one that is there.
        plan = next((plan for plan in plans if self._current(model, t, plan) is not None), plans[0])
        partial = self._current(model, t, plan)
        if partial is None:
            # The old one goes first: two at a time would double the memory.
            self._partials.pop((t, plan.used), None)
            partial = self._partial(model, t, plan)
            self._partials[t, plan.used] = (plan.signature, tuple([model.matrices[m] for m in plan.used]), partial)
        if plan.final is None:
            value = partial.reshape(plan.width, -1).T
        else:
            # From a small partial on double precision costs nothing.
            small = partial.size <= _SMALL_PARTIAL
            operands = [_conj(model.operands(t)[m]) if small else self._operand(model, t, m) for m in plan.rest]
            value = contract(plan.final, partial, *operands)
        return value.reshape(len(model.matrices[k]), -1)

    def _current(self, model: Model, t: int, plan: Plan) -> Array | None:
        """The partial product that is kept, if the blocks in it are those of the model."""
        signature, sources, partial = self._partials.get((t, plan.used), (None, (), None))
        # Wirings that differ elsewhere may share a partial.
        if signature != plan.signature or not all(map(operator.is_, sources, [model.matrices[m] for m in plan.used])):
            return None
        return partial

    def _partial(self, model: Model, t: int, plan: Plan) -> Array:
        """T contracted with the blocks of one half of the modes: open bonds first, then kept modes."""
        if plan.half is None:
            operands = [self._operand(model, t, m) for m in plan.used]
            return np.ascontiguousarray(contract(plan.sequence, self.array, *operands))
        # The half closes on few bonds: contract its blocks first, then one GEMM with T.  A large half is
        # never whole: slices of its first mode follow one another while they are in the cache.
        first = model.network.modes[plan.used[0]]
        assert first is not None
        length = self.shape[first]
        step = max(1, length // max(1, plan.rows * plan.width // _HALF)) if plan.sliced else length
        result = memory.empty((plan.width, self.array.size // plan.rows), self.dtype)
        for start in range(0, length, step):
            rows = slice(start, start + step)
            half = contract(
                plan.half, *[self._operand(model, t, m, rows if m == plan.used[0] else None) for m in plan.used]
            )
            data = self.array[rows] if plan.leading else self.array.reshape(-1, length, plan.rows // length)[:, rows]
            matrix = data.reshape(-1, result.shape[1]) if plan.leading else data.reshape(result.shape[1], -1).T
            half = half.reshape(plan.width, -1)
            if start == 0:
                result = np.matmul(half, matrix, out=result if half.dtype == self.dtype else None)
            else:
                result += half @ matrix
        return result.reshape(plan.shape)

    def _operand(self, model: Model, t: int, m: int, rows: slice | None = None) -> Array:
        """Conjugated block, in the precision of the data, so that products with them run in it."""
        operand = model.operands(t)[m]
        if rows is not None:
            operand = operand[rows]
        complex_like = np.result_type(self.dtype, np.complex64)
        return _conj(operand).astype(complex_like if operand.dtype.kind == "c" else self.dtype, copy=False)


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
    """Entries of the half of T that is summed."""
    width: int
    """Product of the open bonds."""
    cost: int
    """Multiplications of the partial."""
    sliced: bool
    """Whether the half is so large that it is made in slices."""
    shape: tuple[int, ...]
    """Shape of the partial: open bonds, kept modes."""
    signature: tuple[Any, ...]
    """What the partial depends on beside the blocks: its subscripts and the bonds of the blocks."""
    final: str | None
    """Subscripts of the rest, from the partial to (I_k, P_k); None when the partial is the result."""
    rest: tuple[int, ...]


@lru_cache(maxsize=4096)
def _plans(network: Network, t: int, k: int, shape: tuple[int, ...]) -> tuple[Plan, ...]:
    """One plan for a block that carries a mode; for a core one with each half, the cheaper one first."""
    left, right = _halves(shape)
    mode = network.modes[k]
    if mode is None:
        both = _plan(network, t, k, shape, left, right), _plan(network, t, k, shape, right, left)
        return tuple(sorted(both, key=lambda plan: plan.cost))
    return (_plan(network, t, k, shape, *((right, left) if mode in right else (left, right))),)


def _plan(
    network: Network, t: int, k: int, shape: tuple[int, ...], kept: tuple[int, ...], gone: tuple[int, ...]
) -> Plan:
    term, labels = network.terms[t], network.labels[t]
    used = tuple(network.block_of_mode[n] for n in gone)
    outside = "".join(bonds for m, bonds in enumerate(term.bonds) if m not in used)
    open_bonds = "".join(dict.fromkeys(x for m in used for x in term.bonds[m] if x in outside))
    # Bonds first: the product with T and those that follow then read their operands as they lie.
    letters = open_bonds + "".join(network.output[n] for n in kept)
    width = math.prod(term.size_of[x] for x in open_bonds)
    rows = math.prod(shape[n] for n in gone)
    blocks = ",".join(labels[m] for m in used)
    modes = "".join(network.output[n] for n in gone)
    # Merging pays where the half closes on no more bonds than its outermost block alone.
    outermost = used[-1] if gone[-1] == len(shape) - 1 else used[0]
    merged = width <= term.widths[outermost]
    rest = tuple(m for m in range(len(labels)) if m != k and m not in used)
    target = (network.physical[k] if network.modes[k] is not None else "") + term.bonds[k]
    final = ",".join([letters, *(labels[m] for m in rest)]) + "->" + target
    size, slices = math.prod(shape), width * rows // _HALF
    return Plan(
        used=used,
        half=f"{blocks}->{open_bonds}{modes}" if merged else None,
        sequence=f"{network.output},{blocks}->{letters}",
        leading=gone[0] == 0,
        rows=rows,
        width=width,
        cost=size * width if merged else _one_by_one(term, used, [shape[n] for n in gone], size),
        # Each slice adds to the whole result.
        sliced=slices >= 2 and 2 * slices * size < rows * rows,
        shape=(*(term.size_of[x] for x in open_bonds), *(shape[n] for n in kept)),
        signature=(blocks, letters, *(term.shapes[m] for m in used)),
        final=None if not rest and target == letters[len(open_bonds) :] + open_bonds else final,
        rest=rest,
    )


def _one_by_one(term: Term, used: tuple[int, ...], sizes: list[int], volume: int) -> int:
    """Multiplications when blocks with one bond each follow one another."""
    cost = 0
    for m, size in sorted(zip(used, sizes, strict=True), key=lambda pair: term.widths[pair[0]] / pair[1]):
        cost += volume * term.widths[m]
        volume = volume // size * term.widths[m]
    return cost


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


def add_gradient(blocks: Sequence[Array], model: Model, box: Box, piece: Array) -> None:
    """blocks[k] += J_k^H piece, for a piece of a tensor that lies in `box`."""
    door, inside = Dense.bare(piece), part(model, box)
    for k, block in enumerate(blocks):
        block[rows_of(model, k, box)] += door.contract_all_but(inside, k)
