"""Tensors given entry by entry: positions and values, what sparse and sparsely observed data have in common.

Entries are sorted once, in blocks of 4096 rows of every mode, so that the rows of the blocks that nearby entries
touch stay in the cache; entries given twice are summed, or refused.  Then, with D_k[z] the row of L_k at the
entry z (`Model.design_rows`),

    L_k^H vec(V)[i] = sum over z with i_k[z] = i of  v[z] conj(D_k[z]),

is one pass over the entries for each block.  For CP the rows are products of rows of the factors, made and
used in one compiled loop; for other models they are formed for a chunk of entries at a time, by batched
matrix products.  The entries are shared among as many threads as OMP_NUM_THREADS (or the processor) allows,
each with its own sum.

Cost: Z R N multiplications for CP, Z N R^3 for a chain of bonds R; memory for one chunk.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np

from tensorchain.kernels import Array
from tensorchain.kernels.interruption import check_time
from tensorchain.models import Model
from tensorchain.tensors.base import Tensor
from tensorchain.tensors.boxes import in_double
from tensorchain.tensors.dtypes import double_of, kept_dtype
from tensorchain.tensors.intake import check_shape, moderate
from tensorchain.tensors.outside import either, on_host, opened, shown

Source = TypeVar("Source", bound="Listed")

_BLOCK_BITS = 12
"""Rows of a block of the sorted order: 2^12 rows of 16 numbers fill half a megabyte."""
_CHUNK = 1 << 20
"""Numbers in the design rows of a chunk (8 MB in double precision)."""
_SHARE = 1 << 15
"""Entries that are worth a thread."""
_HELD = 1 << 26
"""Most entries of a tensor that is formed whole."""


class Listed(Tensor):
    """Positions `indices` (Z, N), sorted and distinct, with `values` (Z,)."""

    indices: Array
    values: Array

    def scaled(self: Source, factor: float) -> Source:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.scale = self.scale * factor
        return twin

    def _described(self) -> list[str]:
        share = 100.0 * len(self.values) / math.prod(self.shape)
        return [f"{len(self.values)} entries ({share:.3g} %)", str(self.dtype)]

    def contract_all_but(self, model: Model, k: int) -> Array:
        return contract_listed(model, k, self.indices, self._masses()) * self.scale

    def mode_gram(self, mode: int) -> Array:
        """T_(n) T_(n)^H with the entries that are not listed as zero, (I_n, I_n).

        Parameters
        ----------
        mode : int
            From 0.

        Returns
        -------
        ndarray
            (I_n, I_n).
        """
        from scipy import sparse

        if self.shape[mode] ** 2 > _HELD:
            raise TypeError(f"the Gram of mode {mode + 1} is {self.shape[mode]} squared; use init='random' or a model")
        others = [n for n in range(self.order) if n != mode]
        if math.prod(self.shape[n] for n in others) < 2**62:
            # One number for each column: sorting rows of numbers takes ten times as long.
            key = np.ravel_multi_index(
                [self.indices[:, n].astype(np.int64) for n in others], [self.shape[n] for n in others]
            )
            _, columns = np.unique(key, return_inverse=True)
        else:
            _, columns = np.unique(self.indices[:, others], axis=0, return_inverse=True)
        sides = (self.shape[mode], int(columns.max()) + 1)
        unfolded = sparse.csr_array((self.values, (self.indices[:, mode], columns.ravel())), shape=sides)
        gram = np.asarray((unfolded @ unfolded.conj().T).toarray())
        return gram.astype(double_of(gram), copy=False) * self.scale * self.scale

    def to_dense(self) -> Array:
        """The tensor as an array, entries that are not listed as zero.

        Returns
        -------
        ndarray
            (I_1, ..., I_N).
        """
        if math.prod(self.shape) > _HELD:
            raise TypeError(f"a tensor of shape {self.shape} is not held in memory whole; use init='random' or a model")
        result = np.zeros(self.shape, dtype=self.values.dtype)
        # In double precision first: the scale may be no number of single precision.
        result[tuple(self.indices.T)] = np.multiply(self.values, self.scale, dtype=double_of(self.values))
        return result

    def _masses(self) -> Array:
        """What a contraction sums: the values, times their weights where there are some."""
        return self.values


def contract_listed(model: Model, k: int, indices: Array, values: Array) -> Array:
    """L_k^H vec(V) for a tensor V of `values` (Z,) at `indices` (Z, N), in double precision: (I_k, P_k)."""
    from tensorchain.kernels import entries

    mode, model = model.network.modes[k], in_double(model)
    dtype = double_of(values, *model.matrices)
    shape = model.matrices[k].shape
    values = values.astype(dtype, copy=False)
    if mode is not None and is_product(model):
        factors = conjugated(ordered_factors(model, dtype))

        def work(target: Array, chosen: slice) -> None:
            entries.add_products(target, mode, indices[chosen], values[chosen], factors)

        return in_threads(len(values), work, shape, dtype)

    def general(target: Array, chosen: slice) -> None:
        for chunk in chunks(chosen, _CHUNK // shape[1]):
            rows = model.design_rows(k, indices[chunk]).conj().astype(dtype, copy=False)
            if mode is None:
                target[0] += values[chunk] @ rows
            else:
                entries.add_rows(target, indices[chunk, mode], values[chunk], rows)

    return in_threads(len(values), general, shape, dtype)


def is_product(model: Model) -> bool:
    """Whether every entry is a sum of products of numbers, one from each block (CP), by the wiring."""
    terms = model.network.terms
    return len(terms) == 1 and len(set(terms[0].bonds)) == 1 and None not in model.network.modes


def ordered_factors(model: Model, dtype: np.dtype[Any]) -> tuple[Array, ...]:
    """The factors in the order of the modes, (I_n, R)."""
    return tuple(model.matrices[k].astype(dtype, copy=False) for k in model.network.block_of_mode)


def conjugated(factors: tuple[Array, ...]) -> tuple[Array, ...]:
    """Conjugates; the factors themselves where they are real."""
    return tuple(factor.conj() for factor in factors) if factors[0].dtype.kind == "c" else factors


def in_threads(count: int, work: Callable[[Array, slice], None], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The sum over `count` entries that `work(target, slice of them)` adds to a target of zeros."""
    target = np.zeros(shape, dtype=dtype)
    number = min(threads(), count // _SHARE, 4 * count // target.size)
    if number <= 1:
        work(target, slice(0, count))
        return target
    ends = np.linspace(0, count, number + 1).astype(int)
    targets = [target, *(np.zeros(shape, dtype=dtype) for _ in range(number - 1))]
    with ThreadPoolExecutor(number) as pool:
        list(pool.map(work, targets, map(slice, ends[:-1], ends[1:])))
    for part in targets[1:]:
        target += part
    return target


def threads() -> int:
    """OMP_NUM_THREADS, or the processors that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if given.isdigit() and int(given) > 0:
        return int(given)
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def chunks(chosen: slice, length: int) -> Iterator[slice]:
    """Cut a slice of entries into pieces of at most `length`."""
    length = max(1, length)
    for start in range(chosen.start, chosen.stop, length):
        check_time()
        yield slice(start, min(start + length, chosen.stop))


# -- what users give --------------------------------------------------------------------------


class Entries(NamedTuple):
    """What a user listed, checked."""

    indices: Array
    """(Z, N) in the smallest of int32 and int64."""
    values: Array
    """(Z,) of moderate size: the entries are `scale` times these."""
    shape: tuple[int, ...]
    scale: float
    chosen: Array | None
    """Which of those given these are, where a mask hides some; None for all."""


def checked_entries(kind: str, indices: Any, values: Any, shape: Any) -> Entries:
    """Positions and values as they are held; entries that a mask hides are left out."""
    sizes = _checked_shape(kind, shape)
    inside = on_host(kind, opened(indices))
    positions, numbers, hidden = np.asarray(inside.data), *checked_values(kind, values)
    if inside.missing is not None:
        hidden = either(hidden, np.asarray(inside.missing.reshape(len(inside.missing), -1).any(axis=1)))
    if positions.dtype.kind not in "iu":
        raise TypeError(
            f"{kind}: indices have dtype {positions.dtype}; integers are needed: np.asarray(indices, dtype=int)"
        )
    if positions.ndim != 2 or positions.shape[1] != len(sizes):
        hint = "; they are transposed: pass indices.T" if positions.shape == (len(sizes), len(numbers)) else ""
        raise ValueError(
            f"{kind}: indices have shape {positions.shape}; one row for each entry and one column for each of the "
            f"{len(sizes)} modes are needed{hint}"
        )
    if len(positions) != len(numbers):
        raise ValueError(f"{kind}: {len(positions)} positions and {len(numbers)} values were given; one each is needed")
    if hidden is not None and kind == "Sparse" and hidden.any():
        raise ValueError(
            f"Sparse: {int(hidden.sum())} values are masked, and what a Sparse does not list is zero; use tc.Observed, "
            "where it is missing, or np.ma.filled(values, 0)"
        )
    if hidden is not None:
        positions, numbers = positions[~hidden], numbers[~hidden]
    if len(numbers) == 0:
        raise ValueError(f"{kind}: no entry was given; one or more are needed")
    outside = np.any((positions < 0) | (positions >= np.array(sizes)), axis=1)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise ValueError(
            f"{kind}: {int(outside.sum())} positions lie outside the shape {sizes}, the first is indices[{first}] = "
            f"{positions[first].tolist()}; indices start at 0"
        )
    held, scale, size = moderate(numbers)
    if not math.isfinite(size):
        raise ValueError(f"{kind}: values hold NaN or infinity; drop these entries or clean them with np.nan_to_num")
    kept = np.int32 if max(sizes) < 2**31 else np.int64
    chosen = None if hidden is None else ~hidden
    return Entries(np.ascontiguousarray(positions, dtype=kept), held, sizes, scale, chosen)


def checked_values(kind: str, values: Any) -> tuple[Array, Array | None]:
    """Numbers (Z,), real float32, float64 or complex128, and where a mask hides them."""
    inside = on_host(kind, opened(values))
    numbers = inside.data
    if numbers.ndim != 1:
        raise ValueError(f"{kind}: values have shape {numbers.shape}; one number for each entry is needed, shape (Z,)")
    try:
        with np.errstate(over="ignore"):
            numbers = numbers.astype(kept_dtype(numbers.dtype), copy=False)
    except TypeError:
        raise TypeError(
            f"{kind}: values have dtype {numbers.dtype}; numbers are needed: np.asarray(values, dtype=float)"
        ) from None
    if inside.missing is not None:
        numbers = np.where(inside.missing, numbers.dtype.type(0), numbers)
    return numbers, inside.missing


def _checked_shape(kind: str, shape: Any) -> tuple[int, ...]:
    try:
        sizes = tuple(operator.index(size) for size in shape)
    except TypeError:
        raise TypeError(f"{kind}: shape is {shown(shape)}; a sequence of integers is needed") from None
    try:
        check_shape(sizes)
    except ValueError as error:
        raise ValueError(f"{kind}: {error}") from None
    return sizes


def sorted_entries(indices: Array, shape: Sequence[int]) -> tuple[Array, Array]:
    """The order of the entries in blocks, and where each distinct position begins in it."""
    high, low = indices >> _BLOCK_BITS, indices & ((1 << _BLOCK_BITS) - 1)
    counts = [(size - 1 >> _BLOCK_BITS) + 1 for size in shape]
    radices = [*counts, *(min(size, 1 << _BLOCK_BITS) for size in shape)]
    columns = [*high.T, *low.T]
    if math.prod(radices) < 2**62:
        key = np.zeros(len(indices), dtype=np.int64)
        for column, radix in zip(columns, radices, strict=True):
            key *= radix
            key += column
        order = np.argsort(key, kind="stable")
        changes = np.diff(key[order]) != 0
    else:
        order = np.lexsort(columns[::-1])
        changes = np.any(np.diff(indices[order], axis=0) != 0, axis=1)
    return order, np.concatenate([[0], np.flatnonzero(changes) + 1])
