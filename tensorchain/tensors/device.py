"""Arrays on a device: CuPy, PyTorch, JAX and whatever else speaks the array API.

The data stay where they are, and so do the blocks while sweeps update them (:mod:`tensorchain.evaluation.device`).
What a solver on the host asks is computed there too, and comes back with the size of a block or as one number:

    L_k^H vec(T)          a chain of matrix products, in the precision of the data,
    T - X                 formed a box at a time, in double precision where the device has one; its norm comes back as
                          one number, its products with the blocks when they are asked for.

Grams and J^H J follow from the model and stay on the host.  A data set of few entries is not worth a conversation:
the default solver brings it to the host whole (`computed_near`).

No copy of T is made, but where its entries do not lie in C order or have a dtype that is converted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tensorchain.evaluation import Evaluator
from tensorchain.evaluation.device import DeviceEvaluator
from tensorchain.evaluation.device_blocks import DeviceBlocks
from tensorchain.evaluation.device_partials import DevicePartials
from tensorchain.kernels import Array
from tensorchain.kernels.namespace import Namespace, name_of
from tensorchain.kernels.systems import mode_product
from tensorchain.models import Model, Network, Tucker
from tensorchain.tensors.base import Residual, Tensor
from tensorchain.tensors.boxes import Box, boxes
from tensorchain.tensors.dense import Dense
from tensorchain.tensors.dtypes import double_of
from tensorchain.tensors.intake import MODERATE, check_shape
from tensorchain.tensors.outside import opened, refuse_torch

_BOX = 1 << 24
"""Entries of T - X held on the device at once (128 MB in double precision)."""
_FEW = 1 << 18
"""Entries up to which the default solver works on the host: 2 MB to move, against thousands of questions."""

_SMALL = 1e-6
"""Relative error from which double precision says it to six digits, unless blocks cancel by far."""
_RANGE_SWEEPS, _SETTLED = 20, 1e-5
"""Most sweeps for a reduction, and the relative fall of what it leaves out at which it ends."""

_KEPT = {
    **dict.fromkeys(["float32", "float16", "bfloat16"], "float32"),
    **dict.fromkeys(["complex128", "complex64"], "complex128"),
    **dict.fromkeys(
        ["float64", "bool", *(f"{sign}int{size}" for sign in ("", "u") for size in (8, 16, 32, 64))], "float64"
    ),
}
"""The dtype in which each dtype is used, as by `Dense`."""


class Device(Tensor):
    """An array of another library, on any device.

    Parameters
    ----------
    array : cupy.ndarray, torch.Tensor or jax.Array
        Or any array of the array API, of order 2 to 50.  Dtypes are converted as by `Dense`; on a device without
        double precision, to single precision.

    Raises
    ------
    TypeError
        For other objects and dtypes, and sparse tensors of PyTorch.
    ValueError
        For empty arrays, NaN or infinity, an unsupported order, and tensors without data (the device "meta").

    Examples
    --------
    >>> import array_api_strict as xp, tensorchain as tc
    >>> from tensorchain.tensors.device import Device
    >>> T = Device(xp.ones((3, 4, 5)))
    >>> T, tc.decompose(T, "cp", rank=1, rng=0).error < 1e-8
    (Device(3 x 4 x 5, float64, array_api_strict on ...), True)
    """

    def __init__(self, array: Any) -> None:
        given = opened(array)
        data = given.data
        if isinstance(data, np.ndarray) or not all(hasattr(data, name) for name in ("shape", "dtype")):
            raise TypeError(f"a {type(array).__name__} is not an array on a device; pass NumPy arrays as they are")
        self.namespace = Namespace(data)
        if self.namespace.torch:
            refuse_torch(data)
            data = data.detach().contiguous()
        name = name_of(data.dtype)
        if name not in _KEPT:
            raise TypeError(f"the tensor has dtype {data.dtype}; real or complex numbers are needed")
        if any(not isinstance(size, (int, np.integer)) for size in data.shape):
            raise ValueError(f"the array has shape {tuple(data.shape)}; every size must be known: compute it first")
        self.shape = tuple(int(size) for size in data.shape)
        check_shape(self.shape)
        self.dtype = self.namespace.computed(np.dtype(_KEPT[name]))
        self.array, self.scale, self._norm = self._moderate(self.namespace.cast(data, self.dtype))
        if not np.isfinite(self._norm):
            raise ValueError("the tensor holds NaN or infinity; bring it to the host and use tc.Masked, or clean it")
        self._name(given)

    def _moderate(self, held: Any) -> tuple[Any, float, float]:
        """(T', s, ||T'||) with T = s T', s a power of two and 1 unless squares of the entries overflow or vanish."""
        largest = self.namespace.largest(held)
        if largest == 0.0 or not math.isfinite(largest):
            return held, 1.0, largest
        shift = math.frexp(largest)[1]
        single = self.dtype in (np.float32, np.complex64)
        scale = 1.0
        if abs(shift) > MODERATE["float32" if single else "float64"]:
            shift = max(-1074, min(shift, 1023))
            held, scale, shift = self.namespace.ldexp(held, -shift), math.ldexp(1.0, shift), 0
        # Of numbers near one: the sum of squares is safe however many there are.
        power = math.ldexp(1.0, -shift)
        squares = [self.namespace.squared(held[box] * power) for box in self._boxes]
        total = self.namespace.number(sum(squares[1:], start=squares[0]))
        return held, scale, math.sqrt(total) / power

    @classmethod
    def bare(cls, array: Any, *, shift: int = 0, double: bool = False) -> Device:
        """2^shift times an array without checks, for pieces of data that are checked as a whole.

        Parameters
        ----------
        array : array_like
            On the device.
        shift : int, default 0
            Power of two.
        double : bool, default False
            Whether sums are made in double precision.

        Returns
        -------
        Device
            Without a copy.
        """
        twin = object.__new__(cls)
        twin.namespace = Namespace(array)
        twin.shape, twin._norm = tuple(map(int, array.shape)), math.nan
        held = np.dtype(_KEPT[name_of(array.dtype)])
        twin.dtype = twin.namespace.computed(double_of(held) if double else held)
        twin.array = twin.namespace.cast(array.detach() if twin.namespace.torch else array, twin.dtype)
        if shift:
            twin.array = twin.namespace.ldexp(twin.array, shift)
        return twin

    def scaled_norm(self) -> tuple[float, int]:
        """(s, e) with ||array|| = s 2^e, as of :func:`tensorchain.kernels.scaled_norm`.

        Returns
        -------
        tuple of (float, int)
            Size and power of two.
        """
        _, scale, size = self._moderate(self.array)
        return size, math.frexp(scale)[1] - 1

    def _described(self) -> list[str]:
        words = [str(self.dtype), f"{self.namespace.name} on {self.namespace.device}"]
        return words if self.namespace.wide else [*words, "no double precision there"]

    def _content(self) -> Iterable[Any]:
        # Boxes follow one another in the order of memory: the same whatever their size.
        return (self.namespace.fetch(self.array[box]) for box in self._boxes)

    def scaled(self, factor: float) -> Device:
        twin = object.__new__(Device)
        twin.__dict__.update(self.__dict__)
        twin.scale = self.scale * factor
        return twin

    def near(self) -> Tensor:
        if math.prod(self.shape) > _FEW:
            return self
        array = Dense(self.namespace.fetch(self.array)).scaled(self.scale)
        array.dimension_names, array.labels = self.dimension_names, self.labels
        return array.computed()

    @property
    def away(self) -> bool:
        """Whether the device is another one than the processor."""
        return "cpu" not in str(self.namespace.device).lower()

    def norm(self) -> float:
        return self.scale * self._norm

    # -- products with models of the host --------------------------------------------------

    def evaluator(self, model: Model) -> Evaluator:
        return DeviceEvaluator(self, model)

    def array_for(self, dtype: np.dtype[Any]) -> Any:
        """The array, complex where blocks of this dtype are.

        Parameters
        ----------
        dtype : dtype
            Of the blocks.

        Returns
        -------
        object
            On the device.
        """
        if dtype.kind != "c" or self.dtype.kind == "c":
            return self.array
        return self.namespace.cast(self.array, self.namespace.computed(np.dtype(np.complex128)))

    def contract_all_but(self, model: Model, k: int) -> Array:
        blocks = self._sent(model)
        product = DevicePartials(self.array_for(blocks.dtype), self.namespace).all_but(blocks, k, blocks.dtype)
        return _double(self.namespace.fetch(product)) * self.scale

    def residual_norm(self, model: Model) -> float:
        blocks = self._sent(model)
        return math.sqrt(self.namespace.number(self.squared_residual(model.network, blocks.matrices, exact=True)))

    def exact_error(self, model: Model) -> float:
        error = self.residual_norm(model)
        if error > _SMALL * self.norm() or math.prod(self.shape) > _FEW:
            return error
        # The host may have extended precision, and few entries travel.
        return self.near().exact_error(model)

    def residual(self, model: Model) -> Residual:
        return self.residual_of(self._sent(model), model)

    def mode_gram(self, mode: int) -> Array:
        gram: Any = None
        double = self.namespace.computed(double_of(self.dtype))
        for slab in self._slabs(mode):
            part = self.namespace.matmul(slab, self.namespace.adjoint(slab))
            part = self.namespace.cast(part, double)
            gram = part if gram is None else gram + part
        return _double(self.namespace.fetch(gram)) * self.scale * self.scale

    def reduced(self, sizes: Sequence[int], rng: np.random.Generator) -> tuple[Array, list[Array]]:
        """Core and bases, by a randomised range finder: a Tucker model of these sizes, fitted by subspace iteration.

        The first product with random orthonormal factors is a sketch of each unfolding in turn, and each sweep after it
        is two power steps.  One number comes back for each sweep, and in the end the core and the bases.

        Parameters
        ----------
        sizes : sequence of int
            Of the core.
        rng : numpy.random.Generator
            For what is drawn.

        Returns
        -------
        tuple of (ndarray, list of ndarray)
            The core, and a basis for each mode.

        References
        ----------
        N. Halko, P. G. Martinsson, J. A. Tropp, "Finding structure with randomness", 2011.
        """
        network = Tucker.wiring(self.shape, tuple(sizes))
        blocks = [np.zeros((1, math.prod(sizes)))]
        for length, wanted in zip(self.shape, sizes, strict=True):
            # Where nothing is to go there is nothing to find.
            whole = wanted == length
            blocks.append(np.eye(length) if whole else np.linalg.qr(rng.standard_normal((length, wanted)))[0])
        double = double_of(self.dtype)
        at = DeviceEvaluator(self, Tucker.from_matrices(network, [block.astype(double) for block in blocks]))
        core, *bases = at.reduced(_RANGE_SWEEPS, _SETTLED)
        rotations = [np.linalg.qr(basis) for basis in bases]
        # Orthonormal to the last digit of double precision, whatever the device computes in.
        value = core.reshape(tuple(sizes))
        for n, (_, rest) in enumerate(rotations):
            value = mode_product(value, rest, n)
        return value, [basis for basis, _ in rotations]

    def to_dense(self) -> Array:
        array = self.namespace.fetch(self.array)
        # In double precision first: the scale may be no number of single precision.
        return np.multiply(array, self.scale, dtype=double_of(array)).astype(array.dtype, copy=False)

    # -- products with blocks on the device -------------------------------------------------

    def squared_residual(self, network: Network, matrices: Sequence[Any], *, exact: bool = False) -> Any:
        """||T - X||^2, a scalar on the device.

        Parameters
        ----------
        network : Network
            The wiring.
        matrices : sequence of arrays on the device
            Its blocks in matrix form.
        exact : bool
            Whether to form T - X in double precision.  In that of the data it has their rounding, which is no part of
            what is left of them: the sum is in double precision anyhow.

        Returns
        -------
        object
            A scalar on the device.
        """
        total: Any = None
        for _, error in self._errors(network, matrices, exact):
            part = self.namespace.squared(error)
            total = part if total is None else total + part
        return total * self.scale * self.scale

    def residual_of(self, blocks: DeviceBlocks, model: Model) -> Residual:
        """T - X in double precision, for blocks on the device that are those of the model: one number comes back.

        Parameters
        ----------
        blocks : DeviceBlocks
            On the device.
        model : Model
            The same blocks.

        Returns
        -------
        Residual
            What gives norm and gradient.
        """
        matrices = list(blocks.matrices)
        if len(self._boxes) == 1:
            # Held until the gradient is asked for, or the residual forgotten.
            pairs = list(self._errors(blocks.network, matrices, True))
            total = self.namespace.number(self.namespace.squared(pairs[0][1])) * self.scale * self.scale
        else:
            pairs = []
            total = self.namespace.number(self.squared_residual(blocks.network, matrices, exact=True))

        def gradient() -> list[Array]:
            errors = pairs or self._errors(blocks.network, matrices, True)
            return self._gradient(blocks, matrices, errors)

        return Residual(math.sqrt(total), gradient)

    def _gradient(
        self, blocks: DeviceBlocks, matrices: Sequence[Any], errors: Iterable[tuple[Box, Any]]
    ) -> list[Array]:
        """J_k^H (T - X): one array comes back for each block."""
        names, network = self.namespace, blocks.network
        found: list[dict[Any, Any]] = [{} for _ in matrices]
        for box, error in errors:
            inside = DeviceBlocks(names, network, blocks.row_counts, blocks.dtype)
            for k, matrix in enumerate(_within(network, matrices, box)):
                inside.put(k, matrix)
            products = DevicePartials(error, names)
            for k in network.update_order:
                rows = _rows(network, k, box)
                part, place = products.all_but(inside, k, blocks.dtype), (rows.start, rows.stop)
                found[k][place] = found[k][place] + part if place in found[k] else part
        return [self._assembled(pieces, int(matrices[k].shape[0])) for k, pieces in enumerate(found)]

    def _assembled(self, pieces: dict[Any, Any], rows: int) -> Array:
        """A block from its rows, in one transfer where each row is in one piece."""
        if len(pieces) == 1:
            (piece,) = pieces.values()
            return _double(self.namespace.fetch(piece)) * self.scale
        places = sorted(pieces)
        joined = [pieces[place] for place in places]
        if all(stop == start for (_, stop), (start, _) in itertools.pairwise(places)):
            return _double(self.namespace.fetch(self.namespace.xp.concat(joined, axis=0))) * self.scale
        parts = [_double(self.namespace.fetch(piece)) for piece in joined]
        total = np.zeros((rows, parts[0].shape[1]), parts[0].dtype)
        for (start, stop), part in zip(places, parts, strict=True):
            total[start:stop] += part
        return total * self.scale

    # -- inside -------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "namespace"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.namespace = Namespace(self.array)

    @property
    def _boxes(self) -> list[Box]:
        return list(boxes(self.shape, _BOX))

    def _sent(self, model: Model) -> DeviceBlocks:
        """The blocks of a model of the host, on the device."""
        dtype = np.result_type(np.float64, self.dtype, model.dtype)
        blocks = DeviceBlocks(self.namespace, model.network, model.row_counts, dtype)
        for k, matrix in enumerate(model.matrices):
            blocks.put(k, self.namespace.send(matrix, blocks.dtype))
        return blocks

    def _errors(self, network: Network, matrices: Sequence[Any], exact: bool) -> Iterator[tuple[Box, Any]]:
        """(T - X) / scale in each box, on the device."""
        names = self.namespace
        dtype = np.result_type(self.dtype, names.dtype(matrices[0]))
        if not exact and self.dtype == np.float32:
            dtype = np.dtype(np.complex64 if dtype.kind == "c" else np.float32)
        for box in self._boxes:
            error = names.cast(self.array[box], dtype)
            inside = _within(network, matrices, box)
            # The scale goes into a block: T is only read.
            inside[0] = inside[0] * (1.0 / self.scale)
            blocks = DeviceBlocks(names, network, [0] * len(matrices), dtype)
            for k, matrix in enumerate(inside):
                blocks.put(k, names.cast(matrix, dtype))
            for t, subscripts in enumerate(network.evaluations):
                operands = [blocks.operand(t, k) for k in range(len(matrices))]
                error = error - names.contract(subscripts, *operands)
            yield box, error

    def _slabs(self, mode: int) -> Iterator[Any]:
        """T unfolded along a mode, (I_n, columns), in pieces: a view where it lies so in memory."""
        xp, size = self.namespace.xp, self.shape[mode]
        before, behind = math.prod(self.shape[:mode]), math.prod(self.shape[mode + 1 :])
        slices = xp.reshape(self.array, (before, size, behind))
        if before == 1:
            yield slices[0, :, :]
            return
        step = max(1, _BOX // (size * behind))
        for start in range(0, before, step):
            slab = xp.permute_dims(slices[start : min(start + step, before), :, :], (1, 0, 2))
            yield xp.reshape(slab, (size, -1))


def _within(network: Network, matrices: Sequence[Any], box: Box) -> list[Any]:
    """The rows of each block that a box touches."""
    return [matrix[_rows(network, k, box), :] for k, matrix in enumerate(matrices)]


def _rows(network: Network, k: int, box: Box) -> slice:
    mode = network.modes[k]
    return slice(0, 1) if mode is None else box[mode]


def _double(array: Array) -> Array:
    return array.astype(np.result_type(array, np.float64), copy=False)
