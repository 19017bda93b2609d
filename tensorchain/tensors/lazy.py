"""Arrays larger than memory: read a box at a time, on this machine or on a cluster.

Everything a solver asks is a sum over boxes (:mod:`tensorchain.tensors.boxes`), so a box is read, contracted
with the rows of the model that it touches, and forgotten; only block-sized sums travel.  Beside the sum that is
asked for, a pass makes what is certain to be asked next: `residual` gives ||T - X|| and J_k^H (T - X) for every
block from one pass, so a Levenberg-Marquardt iteration reads the data once (alternating least squares once for
each block).

* A dask array is computed by dask: with threads here, or on the cluster of the `dask.distributed` client that is
  active.  The model is sent once a pass, and the sums are added in a tree.
* Anything else that can be sliced (`numpy.memmap`, an HDF5 or Zarr dataset) is read in boxes along its first modes.

Cost: one pass over the data; memory for a box (a chunk of the dask array) and its residual on each thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import numpy as np

from tensorchain import kernels
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.tensors.base import Residual, Tensor
from tensorchain.tensors.boxes import Box, boxes, in_double, part, rows_of
from tensorchain.tensors.dense import Dense, add_gradient
from tensorchain.tensors.dtypes import double_of, kept_dtype

_BRANCHES = 16
"""Sums that are added in one task of a dask graph."""
_HELD = 1 << 24
"""Most entries of an array that `to_dense` reads whole."""


class Part(NamedTuple):
    """What one box, or several together, adds: squares of norms (as norms) and rows of blocks."""

    norms: list[float]
    blocks: dict[int, list[tuple[slice, Array]]]


Job = Callable[..., Part]
"""job(piece, box, *arguments): what one box adds."""


class Source(Protocol):
    """Where the boxes come from."""

    def total(self, job: Job, *arguments: Any) -> Part:
        """Sum of job(piece, box, *arguments) over all boxes."""


class Lazy(Tensor):
    """An array that is read one box at a time.

    Parameters
    ----------
    array : a dask array, a `numpy.memmap`, or anything with `shape`, `dtype` and slicing, of order 2 to 10.
        Dtypes are converted box by box as by `Dense`.
    box_entries : most entries of a box, for what is not a dask array (which has its own chunks).

    Raises
    ------
    TypeError for what cannot be sliced or holds no numbers; ValueError for an unsupported order, unknown chunk
        sizes, and, when the data are first read, NaN or infinity.

    Examples
    --------
    >>> import numpy as np, tempfile, tensorchain as tc
    >>> from tensorchain.tensors.lazy import Lazy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     disk = np.memmap(f"{folder}/T.bin", dtype="float32", mode="w+", shape=(30, 20, 10))
    ...     disk[:] = tc.datasets.inverse_radius(order=3, size=30)[:, :20, :10]
    ...     fit = tc.decompose(Lazy(disk, box_entries=1000), "cp", rank=4, rng=0)
    ...     del disk
    >>> fit.error < 1e-2
    True
    """

    def __init__(self, array: Any, *, box_entries: int = 1 << 21) -> None:
        if not all(hasattr(array, name) for name in ("shape", "dtype", "__getitem__")):
            raise TypeError(f"a {type(array).__name__} cannot be sliced; a dask array or a numpy.memmap is needed")
        if box_entries < 1:
            raise ValueError(f"box_entries is {box_entries}; it must be at least 1")
        self.dtype = kept_dtype(array.dtype)
        if any(not isinstance(size, (int, np.integer)) for size in array.shape):
            raise ValueError(
                f"the array has shape {array.shape}; its chunk sizes are unknown: call compute_chunk_sizes()"
            )
        self.shape = tuple(int(size) for size in array.shape)
        if not 2 <= len(self.shape) <= 10:
            raise ValueError(
                f"the tensor has shape {self.shape}, order {len(self.shape)}; orders 2 to 10 are supported"
            )
        if min(self.shape) < 1:
            raise ValueError(f"the tensor is empty, shape {self.shape}; every mode needs at least one entry")
        self.array, self._box_entries = array, int(box_entries)
        self._known: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"Lazy({' x '.join(map(str, self.shape))}, {self.dtype}, {type(self.array).__name__})"

    def scaled(self, factor: float) -> Lazy:
        twin = object.__new__(Lazy)
        twin.__dict__.update(self.__dict__)
        twin.scale = self.scale * factor
        return twin

    def norm(self) -> float:
        """||T||_F; the first call reads the data once."""
        if "norm" not in self._known:
            size = float(np.linalg.norm(self._source.total(_norm).norms))
            if not np.isfinite(size):
                raise ValueError("the tensor holds NaN or infinity; clean it first, as with dask.array.nan_to_num")
            self._known["norm"] = size
        return self.scale * self._known["norm"]

    def contract_all_but(self, model: Model, k: int) -> Array:
        sums = self._source.total(_contract, model, k)
        return _assembled(model, sums.blocks, self.dtype)[k] * self.scale

    def residual_norm(self, model: Model) -> float:
        return float(np.linalg.norm(self._source.total(_residual, in_double(model), self.scale, False).norms))

    def residual(self, model: Model) -> Residual:
        # One pass for both: reading costs more than the products of a step that is then refused.
        model = in_double(model)
        sums = self._source.total(_residual, model, self.scale, True)
        return Residual(float(np.linalg.norm(sums.norms)), lambda: _assembled(model, sums.blocks, self.dtype))

    def mode_gram(self, mode: int) -> Array:
        return self.mode_grams([mode])[0]

    def mode_grams(self, modes: Sequence[int]) -> list[Array]:
        if math.prod(self.shape[mode] for mode in modes) > max(_HELD, self._box_entries) and len(modes) > 1:
            # A box that cuts none of these modes would be too large.
            return [self.mode_gram(mode) for mode in modes]
        whole = tuple(modes)
        sums = _source_of(self.array, self._box_entries, whole).total(_mode_grams, whole)
        return [np.asarray(sum(gram for _, gram in sums.blocks[mode]) * self.scale**2) for mode in modes]

    def to_dense(self) -> Array:
        if math.prod(self.shape) > _HELD:
            raise TypeError(
                f"an array of shape {self.shape} is not read into memory whole; use init='random' or a model"
            )
        return np.asarray(np.asarray(self.array[...]).astype(self.dtype, copy=False) * self.dtype.type(self.scale))

    @cached_property
    def _source(self) -> Source:
        return _source_of(self.array, self._box_entries)


# -- what is summed over boxes; these run on workers and are sent there by name ---------------


def _norm(piece: Array, box: Box) -> Part:
    return Part([kernels.norm(_kept(piece))], {})


def _contract(piece: Array, box: Box, model: Model, k: int) -> Part:
    rows = Dense.bare(_kept(piece)).contract_all_but(part(model, box), k)
    return Part([], {k: [(rows_of(model, k, box), rows)]})


def _residual(piece: Array, box: Box, model: Model, scale: float, with_gradient: bool) -> Part:
    """||T - X|| in a box and, with the gradient, J_k^H (T - X) from it; the residual is formed in smaller boxes."""
    piece, inside = _kept(piece), part(model, box)
    dtype = double_of(piece, inside.dtype)
    blocks = [np.zeros(matrix.shape, dtype=dtype) for matrix in inside.matrices] if with_gradient else []
    norms = []
    for small in boxes(piece.shape):
        value = part(inside, small).full()
        error = np.subtract(np.multiply(piece[small], scale, dtype=dtype), value, dtype=dtype)
        norms.append(kernels.norm(error))
        if with_gradient:
            add_gradient(blocks, inside, small, error)
    return Part(norms, {k: [(rows_of(model, k, box), block)] for k, block in enumerate(blocks)})


def _mode_grams(piece: Array, box: Box, modes: tuple[int, ...]) -> Part:
    # In double precision: a Gram squares what there is, and eigenvectors are lost below the root of the rounding.
    piece = _kept(piece)
    data = Dense.bare(piece.astype(double_of(piece), copy=False))
    return Part([], {mode: [(slice(None), data.mode_gram(mode))] for mode in modes})


def _together(parts: Iterable[Part]) -> Part:
    """Sum of several parts: rows at the same place are added, so that what travels does not grow."""
    norms: list[float] = []
    blocks: dict[int, dict[tuple[Any, Any], tuple[slice, Array]]] = {}
    for one in parts:
        norms = [float(np.linalg.norm([*norms, *one.norms]))] if one.norms else norms
        for k, pieces in one.blocks.items():
            sums = blocks.setdefault(k, {})
            for rows, piece in pieces:
                place = (rows.start, rows.stop)
                sums[place] = (rows, sums[place][1] + piece) if place in sums else (rows, piece)
    return Part(norms, {k: list(sums.values()) for k, sums in blocks.items()})


def _assembled(model: Model, blocks: dict[int, list[tuple[slice, Array]]], dtype: Any) -> list[Array]:
    """Blocks shaped like those of the model from their rows."""
    result = [np.zeros(matrix.shape, dtype=double_of(dtype, matrix)) for matrix in model.matrices]
    for k, pieces in blocks.items():
        for rows, piece in pieces:
            result[k][rows] += piece
    return result


# -- where boxes come from ----------------------------------------------------------------------


def _source_of(array: Any, box_entries: int, whole: tuple[int, ...] = ()) -> Source:
    """Boxes of an array; none of them cuts a mode of `whole`."""
    if hasattr(array, "to_delayed"):
        cut = {mode: -1 if mode in whole else "auto" for mode in range(array.ndim)}
        return Chunks(array.rechunk(cut) if whole else array)
    return Slices(array, box_entries, whole)


class Slices:
    """Boxes of anything that can be sliced, read one after the other."""

    def __init__(self, array: Any, box_entries: int, whole: tuple[int, ...] = ()) -> None:
        self.array, self.box_entries, self.whole = array, box_entries, whole

    def _boxes(self) -> Iterator[Box]:
        shape = tuple(int(size) for size in self.array.shape)
        cut = [mode for mode in range(len(shape)) if mode not in self.whole]
        limit = max(1, self.box_entries // math.prod(shape[mode] for mode in self.whole))
        for box in boxes([shape[mode] for mode in cut], limit):
            sides = dict(zip(cut, box, strict=True))
            yield tuple(sides.get(mode, slice(0, size)) for mode, size in enumerate(shape))

    def total(self, job: Job, *arguments: Any) -> Part:
        return _together(job(np.asarray(self.array[box]), box, *arguments) for box in self._boxes())


class Chunks:
    """Chunks of a dask array, computed wherever dask computes."""

    def __init__(self, array: Any) -> None:
        self.pieces = array.to_delayed().ravel()
        sides = [
            [slice(int(stop - size), int(stop)) for size, stop in zip(sizes, np.cumsum(sizes), strict=True)]
            for sizes in array.chunks
        ]
        counts = [len(side) for side in sides]
        self.boxes = [tuple(s[i] for s, i in zip(sides, at, strict=True)) for at in np.ndindex(*counts)]

    def total(self, job: Job, *arguments: Any) -> Part:
        dask: Any = import_module("dask")

        # Wrapped once, an argument is one object in the graph, however many chunks use it.
        sent = [dask.delayed(argument, traverse=False) for argument in arguments]
        work, add = dask.delayed(job, pure=False, traverse=False), dask.delayed(_together, pure=False)
        tasks = [work(piece, box, *sent) for piece, box in zip(self.pieces, self.boxes, strict=True)]
        while len(tasks) > 1:
            tasks = [add(tasks[start : start + _BRANCHES]) for start in range(0, len(tasks), _BRANCHES)]
        (result,) = dask.compute(tasks[0])
        return _together([result])


def _kept(piece: Any) -> Array:
    array = np.asarray(piece)
    return np.ascontiguousarray(array, dtype=kept_dtype(array.dtype))
