"""Arrays larger than memory: read a box at a time, on this machine or on a cluster.

Everything a solver asks is a sum over boxes (:mod:`tensorchain.tensors.boxes`), so a box is read, contracted
with the rows of the model that it touches, and forgotten; only block-sized sums travel.  Beside the sum that is
asked for, a pass makes what is certain to be asked next: `residual` gives ||T - X|| and J_k^H (T - X) for every
block from one pass, so a Levenberg-Marquardt iteration reads the data once (alternating least squares once for
each block).

* A dask array is computed by dask: with threads here, or on the cluster of the `dask.distributed` client that is
  active.  The model is sent once a pass, and the sums are added in a tree.
  Chunks of CuPy, PyTorch or JAX are multiplied where they are (:mod:`tensorchain.tensors.device`).
* Anything else that can be sliced (`numpy.memmap`, an HDF5 or Zarr dataset) is read in boxes along its first modes.

Cost: one pass over the data; memory for a box (a chunk of the dask array) and its residual on each thread.
"""

from __future__ import annotations

import math
import operator
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
from tensorchain.tensors.device import Device
from tensorchain.tensors.dtypes import double_of, kept_dtype
from tensorchain.tensors.intake import MODERATE, check_shape, entry_sums, ldexp
from tensorchain.tensors.outside import lies_elsewhere, opened, shown

_BRANCHES = 16
"""Sums that are added in one task of a dask graph."""
_HELD = 1 << 24
"""Most entries of an array that `to_dense` reads whole."""


class Part(NamedTuple):
    """What one box, or several together, adds: norms, rows of blocks, and sums of integers."""

    norms: list[Any]
    blocks: dict[int, list[tuple[slice, Array]]]
    sums: tuple[int, ...] = ()


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
    array : dask.array.Array or numpy.memmap
        Or anything else with `shape`, `dtype` and slicing, of order 2 to 50.  Dtypes are converted box by box as by
        `Dense`; the names of an `xarray.DataArray` are kept.
    box_entries : int, optional
        Most entries of a box, for what is not a dask array (which has its own chunks).

    Raises
    ------
    TypeError
        For what cannot be sliced or holds no numbers.
    ValueError
        For an unsupported order, unknown chunk sizes and masked arrays; when the data are first read, for NaN or
        infinity, masked entries, and slices that have not the shape that the array says.

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
        given = opened(array)
        data = given.data
        sliced = all(hasattr(data, name) for name in ("shape", "dtype", "__getitem__"))
        if not sliced or isinstance(array, (list, tuple)):
            raise TypeError(f"a {type(array).__name__} cannot be sliced; a dask array or a numpy.memmap is needed")
        count: Any = box_entries
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
            raise ValueError(f"box_entries is {shown(box_entries)}; it must be an integer of at least 1")
        hidden = given.missing is not None and bool(given.missing.any())
        if hidden or isinstance(getattr(data, "_meta", None), np.ma.MaskedArray):
            raise ValueError("the array is masked; use tc.Masked(array), which holds it in memory, or tc.Observed")
        self.dtype = kept_dtype(data.dtype)
        if any(not isinstance(size, (int, np.integer)) for size in data.shape):
            raise ValueError(
                f"the array has shape {tuple(data.shape)}; its chunk sizes are unknown: call compute_chunk_sizes()"
            )
        self.shape = tuple(int(size) for size in data.shape)
        check_shape(self.shape)
        self.array, self._box_entries = data, int(box_entries)
        self._name(given)
        self._known: dict[str, tuple[float, int]] = {}
        """The norm of the data, once they have been read: ||T|| = s 2^e / scale as (s, e)."""

    def _described(self) -> list[str]:
        return [str(self.dtype), type(self.array).__name__]

    def _content(self) -> Iterable[Any]:
        # The same in whatever boxes the data are read: a checkpoint outlives another choice of chunks.
        sums = self._source.total(_digest, self.shape).sums
        return [value % (1 << 64) for value in sums]

    def scaled(self, factor: float) -> Lazy:
        twin = object.__new__(Lazy)
        twin.__dict__.update(self.__dict__)
        twin.scale = self.scale * factor
        return twin

    def norm(self) -> float:
        """||T||_F; the first call reads the data once.

        Returns
        -------
        float
            The Frobenius norm.
        """
        if "norm" not in self._known:
            # A piece may be too large or small for a norm in double precision: its power of two is apart.
            found = self._source.total(_norm)
            sizes = found.norms
            self._known["elsewhere"] = float(found.sums[0]), 0
            top = max((exponent for size, exponent in sizes if size), default=0)
            size = kernels.norm(np.array([math.ldexp(size, max(exponent - top, -2000)) for size, exponent in sizes]))
            if not np.isfinite(size):
                raise ValueError("the tensor holds NaN or infinity; clean it first, as with dask.array.nan_to_num")
            self._known["norm"] = size, top
        size, exponent = self._known["norm"]
        return _times(size * self.scale, exponent)

    @property
    def _shift(self) -> int:
        """e such that products are made with 2^-e T, where T is too large or small to be squared; 0 for most."""
        # Not known before the data are read; solvers ask for the norm first.
        size, exponent = self._known.get("norm", (0.0, 0))
        shift = exponent + math.frexp(size)[1]
        return 0 if size == 0.0 or abs(shift) <= MODERATE[self.dtype.name] else shift

    @property
    def _unit(self) -> float:
        """What 2^-e T is multiplied with to give the tensor."""
        return _times(self.scale, self._shift)

    def contract_all_but(self, model: Model, k: int) -> Array:
        sums = self._source.total(_contract, self._shift, model, k)
        return _assembled(model, sums.blocks, self.dtype)[k] * self._unit

    def residual_norm(self, model: Model) -> float:
        model = in_double(model)
        return kernels.norm(np.array(self._source.total(_residual, self._shift, model, self._unit, False).norms))

    def residual(self, model: Model) -> Residual:
        # One pass for both: reading costs more than the products of a step that is then refused.
        model = in_double(model)
        sums = self._source.total(_residual, self._shift, model, self._unit, True)
        return Residual(kernels.norm(np.array(sums.norms)), lambda: _assembled(model, sums.blocks, self.dtype))

    def mode_gram(self, mode: int) -> Array:
        return self._grams([mode], self._near if self._cut_elsewhere([mode]) else self.array)[0]

    def mode_grams(self, modes: Sequence[int]) -> list[Array]:
        if self._cut_elsewhere(modes):
            raise TypeError("chunks on a device cut a mode: no Gram of it is formed there, only products")
        if math.prod(self.shape[mode] for mode in modes) > max(_HELD, self._box_entries) and len(modes) > 1:
            # A box that cuts none of these modes would be too large.
            return [self.mode_gram(mode) for mode in modes]
        return self._grams(modes, self.array)

    def _grams(self, modes: Sequence[int], array: Any) -> list[Array]:
        whole = tuple(modes)
        source = self._source if self._elsewhere and array is self.array else None
        source = source or _source_of(array, self._box_entries, self.shape, whole)
        sums = source.total(_mode_grams, self._shift, whole)
        grams = [sum(gram for _, gram in sums.blocks[mode]) for mode in modes]
        return [np.asarray(gram * self._unit * self._unit) for gram in grams]

    @property
    def _elsewhere(self) -> bool:
        """Whether this is a dask array with chunks of another library."""
        if not hasattr(self.array, "to_delayed"):
            return False
        self.norm()
        return self._known["elsewhere"][0] > 0.0

    def _cut_elsewhere(self, modes: Sequence[int]) -> bool:
        """Whether chunks of another library, which dask does not join, cut one of these modes."""
        return self._elsewhere and any(len(self.array.chunks[mode]) > 1 for mode in modes)

    @property
    def _near(self) -> Any:
        """The dask array with chunks of NumPy."""
        return self.array.map_blocks(_kept, dtype=self.dtype, meta=np.empty((0,) * self.order, self.dtype))

    def to_dense(self) -> Array:
        if math.prod(self.shape) > _HELD:
            raise TypeError(
                f"an array of shape {self.shape} is not read into memory whole; use init='random' or a model"
            )
        array = self._near if hasattr(self.array, "to_delayed") else self.array
        whole = _kept(array[(slice(None),) * self.order], self._shift)
        return np.multiply(whole, self._unit, dtype=double_of(whole)).astype(self.dtype, copy=False)

    @cached_property
    def _source(self) -> Source:
        return _source_of(self.array, self._box_entries, self.shape)


# -- what is summed over boxes; these run on workers and are sent there by name ---------------


def _norm(piece: Any, box: Box) -> Part:
    if lies_elsewhere(piece):
        return Part([Device.bare(piece).scaled_norm()], {}, (1,))
    return Part([kernels.scaled_norm(_kept(piece))], {}, (0,))


def _digest(piece: Any, box: Box, shape: tuple[int, ...]) -> Part:
    """Two sums over the entries, each mixed with its position."""
    strides = [math.prod(shape[n + 1 :]) for n in range(len(shape))]
    position = np.zeros(tuple(piece.shape), dtype=np.uint64)
    for n, (side, stride) in enumerate(zip(box, strides, strict=True)):
        along = np.arange(side.start, side.stop, dtype=np.uint64) * np.uint64(stride)
        position += along.reshape([-1 if m == n else 1 for m in range(len(shape))])
    return Part([], {}, entry_sums(_kept(piece).ravel(), position.ravel()))


def _contract(piece: Any, box: Box, shift: int, model: Model, k: int) -> Part:
    rows = _data(piece, shift).contract_all_but(part(model, box), k)
    return Part([], {k: [(rows_of(model, k, box), rows)]})


def _residual(piece: Any, box: Box, shift: int, model: Model, scale: float, with_gradient: bool) -> Part:
    """||T - X|| in a box and, with the gradient, J_k^H (T - X) from it; the residual is formed in smaller boxes."""
    inside = part(model, box)
    if lies_elsewhere(piece):
        residual = _data(piece, shift).scaled(scale).residual(inside)
        blocks = residual.gradient if with_gradient else []
        return Part([residual.norm], {k: [(rows_of(model, k, box), block)] for k, block in enumerate(blocks)})
    piece = _kept(piece, shift)
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


def _mode_grams(piece: Any, box: Box, shift: int, modes: tuple[int, ...]) -> Part:
    # In double precision: a Gram squares what there is, and eigenvectors are lost below the root of the rounding.
    data = _data(piece, shift, double=True)
    return Part([], {mode: [(slice(None), data.mode_gram(mode))] for mode in modes})


def _data(piece: Any, shift: int, *, double: bool = False) -> Tensor:
    """A piece as data, where it is."""
    if lies_elsewhere(piece):
        return Device.bare(piece, shift=-shift, double=double)
    held = _kept(piece, shift)
    return Dense.bare(held.astype(double_of(held), copy=False) if double else held)


def _together(parts: Iterable[Part]) -> Part:
    """Sum of several parts: rows at the same place are added, so that what travels does not grow."""
    norms: list[Any] = []
    blocks: dict[int, dict[tuple[Any, Any], tuple[slice, Array]]] = {}
    sums: tuple[int, ...] = ()
    for one in parts:
        norms += one.norms
        sums = tuple(map(operator.add, sums, one.sums)) if sums else one.sums
        for k, pieces in one.blocks.items():
            found = blocks.setdefault(k, {})
            for rows, piece in pieces:
                place = (rows.start, rows.stop)
                found[place] = (rows, found[place][1] + piece) if place in found else (rows, piece)
    return Part(norms, {k: list(pieces.values()) for k, pieces in blocks.items()}, sums)


def _assembled(model: Model, blocks: dict[int, list[tuple[slice, Array]]], dtype: Any) -> list[Array]:
    """Blocks shaped like those of the model from their rows."""
    result = [np.zeros(matrix.shape, dtype=double_of(dtype, matrix)) for matrix in model.matrices]
    for k, pieces in blocks.items():
        for rows, piece in pieces:
            result[k][rows] += piece
    return result


# -- where boxes come from ----------------------------------------------------------------------


def _source_of(array: Any, box_entries: int, shape: tuple[int, ...], whole: tuple[int, ...] = ()) -> Source:
    """Boxes of an array; none of them cuts a mode of `whole`."""
    if hasattr(array, "to_delayed"):
        if all(len(array.chunks[mode]) == 1 for mode in whole):
            return Chunks(array)
        cut = {mode: -1 if mode in whole else "auto" for mode in range(array.ndim)}
        return Chunks(array.rechunk(cut, block_size_limit=box_entries * array.dtype.itemsize))
    return Slices(array, box_entries, shape, whole)


class Slices:
    """Boxes of anything that can be sliced, read one after the other."""

    def __init__(self, array: Any, box_entries: int, shape: tuple[int, ...], whole: tuple[int, ...] = ()) -> None:
        self.array, self.box_entries, self.shape, self.whole = array, box_entries, shape, whole

    def _boxes(self) -> Iterator[Box]:
        shape = self.shape
        cut = [mode for mode in range(len(shape)) if mode not in self.whole]
        limit = max(1, self.box_entries // math.prod(shape[mode] for mode in self.whole))
        for box in boxes([shape[mode] for mode in cut], limit):
            sides = dict(zip(cut, box, strict=True))
            yield tuple(sides.get(mode, slice(0, size)) for mode, size in enumerate(shape))

    def _read(self, box: Box) -> Array:
        piece: Array = np.asanyarray(self.array[box])
        expected = tuple(side.stop - side.start for side in box)
        if piece.shape != expected:
            raise ValueError(
                f"the {type(self.array).__name__} says that it has shape {self.shape}, and gives an array of shape "
                f"{piece.shape} where one of shape {expected} was asked for"
            )
        return piece

    def total(self, job: Job, *arguments: Any) -> Part:
        return _together(job(self._read(box), box, *arguments) for box in self._boxes())


class Chunks:
    """Chunks of a dask array, computed wherever dask computes."""

    def __init__(self, array: Any) -> None:
        sides = [
            [slice(int(stop - size), int(stop)) for size, stop in zip(sizes, np.cumsum(sizes), strict=True)]
            for sizes in array.chunks
        ]
        counts = [len(side) for side in sides]
        cut = [tuple(s[i] for s, i in zip(sides, at, strict=True)) for at in np.ndindex(*counts)]
        # Filters leave chunks of length 0.
        pairs = [
            (piece, box)
            for piece, box in zip(array.to_delayed().ravel(), cut, strict=True)
            if all(side.stop > side.start for side in box)
        ]
        self.pieces, self.boxes = [piece for piece, _ in pairs], [box for _, box in pairs]

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


def _kept(piece: Any, shift: int = 0) -> Array:
    """A piece in the dtype in which data are held, times 2^-shift."""
    if isinstance(piece, np.ma.MaskedArray) and np.ma.getmaskarray(piece).any():
        raise ValueError("part of the array is masked; use tc.Masked(array), which holds it in memory, or tc.Observed")
    array = Device.bare(piece).to_dense() if lies_elsewhere(piece) else np.asarray(piece)
    with np.errstate(over="ignore"):
        return ldexp(np.ascontiguousarray(array, dtype=kept_dtype(array.dtype)), -shift)


def _times(value: float, exponent: int) -> float:
    """value * 2^exponent, infinite where that overflows."""
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(math.inf, value)
