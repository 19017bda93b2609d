"""Arrays on a device: CuPy, PyTorch, JAX and whatever else speaks the array API.

The data stay where they are.  Blocks are small: they are sent to the device, the products with T are made there,
by the same contraction plans as on the host, and sums of the size of a block come back:

    L_k^H vec(T)          one chain of matrix products on the device, in the precision of the data,
    T - X                 formed on the device, a box at a time, in double precision where it has one; its norm
                          and its products with the blocks come back.

Grams and J^H J follow from the model and stay on the host.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from tensorchain import kernels
from tensorchain.kernels import Array, contract
from tensorchain.models import Model
from tensorchain.tensors.array_api import Library, Remote, name_of
from tensorchain.tensors.base import Residual, Tensor
from tensorchain.tensors.boxes import Box, boxes, empty_blocks, part, rows_of
from tensorchain.tensors.dtypes import double_of
from tensorchain.tensors.intake import MODERATE, check_shape
from tensorchain.tensors.outside import opened, refuse_torch

_BOX = 1 << 24
"""Entries of T - X held on the device at once (128 MB in double precision)."""

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
        if isinstance(data, np.ndarray) or not all(hasattr(data, name) for name in ("shape", "dtype", "device")):
            raise TypeError(f"a {type(array).__name__} is not an array on a device; pass NumPy arrays as they are")
        self._library = Library(data)
        if self._library.torch:
            refuse_torch(data)
        name = name_of(data.dtype)
        if name not in _KEPT:
            raise TypeError(f"the tensor has dtype {data.dtype}; real or complex numbers are needed")
        if any(not isinstance(size, (int, np.integer)) for size in data.shape):
            raise ValueError(f"the array has shape {tuple(data.shape)}; every size must be known: compute it first")
        self.shape = tuple(int(size) for size in data.shape)
        check_shape(self.shape)
        self.dtype = self._on_device(np.dtype(_KEPT[name]))
        held = self._library.cast(data.detach() if self._library.torch else data, self.dtype)
        self._array, self.scale = self._moderate(held)
        self._norm = self._library.norm(self._array)
        if not np.isfinite(self._norm):
            raise ValueError("the tensor holds NaN or infinity; bring it to the host and use tc.Masked, or clean it")
        self._name(given)

    def _moderate(self, held: Any) -> tuple[Any, float]:
        """(T', s) with T = s T', s a power of two and 1 unless squares of the entries would overflow or vanish."""
        largest = self._library.largest(held)
        if largest == 0.0 or not math.isfinite(largest):
            return held, 1.0
        shift = math.frexp(largest)[1]
        single = self.dtype in (np.float32, np.complex64)
        if abs(shift) <= MODERATE["float32" if single else "float64"]:
            return held, 1.0
        shift = max(-1074, min(shift, 1023))
        return self._library.ldexp(held, -shift), math.ldexp(1.0, shift)

    def _described(self) -> list[str]:
        return [str(self.dtype), f"{self._library.names.__name__} on {self._library.device}"]

    def _content(self) -> Iterable[Any]:
        # Boxes follow one another in the order of memory: the same whatever their size.
        return (self._library.fetch(self._array[box]) for box in self._boxes)

    def scaled(self, factor: float) -> Device:
        twin = object.__new__(Device)
        twin.__dict__.update(self.__dict__)
        twin.scale = self.scale * factor
        return twin

    def norm(self) -> float:
        return self.scale * self._norm

    def contract_all_but(self, model: Model, k: int) -> Array:
        return self._contracted(self._array, model, k) * self.scale

    def residual_norm(self, model: Model) -> float:
        return kernels.norm(np.array([self._library.norm(self._error(model, box)) for box in self._boxes]))

    def exact_error(self, model: Model) -> float:
        return self.residual_norm(model)

    def residual(self, model: Model) -> Residual:
        if len(self._boxes) > 1:
            pieces = ((box, self._error(model, box)) for box in self._boxes)
            return Residual(self.residual_norm(model), lambda: self._gradient(model, pieces))
        whole = self._error(model, self._boxes[0])
        return Residual(self._library.norm(whole), lambda: self._gradient(model, [(self._boxes[0], whole)]))

    def mode_gram(self, mode: int) -> Array:
        names = self._library.names
        order = (mode, *(n for n in range(self.order) if n != mode))
        unfolded = names.reshape(self._library.permute(self._array, order), (self.shape[mode], -1))
        other = names.conj(unfolded) if self.dtype.kind == "c" else unfolded
        gram = self._library.fetch(unfolded @ self._library.permute(other, (1, 0)))
        return gram.astype(np.result_type(gram, np.float64)) * self.scale * self.scale

    def to_dense(self) -> Array:
        array = self._library.fetch(self._array)
        # In double precision first: the scale may be no number of single precision.
        return np.multiply(array, self.scale, dtype=double_of(array)).astype(array.dtype, copy=False)

    # -- inside -------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_library"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._library = Library(self._array)

    @property
    def _boxes(self) -> list[Box]:
        return list(boxes(self.shape, _BOX))

    def _on_device(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """The dtype, or its counterpart in single precision where the device has no other."""
        if self._library.wide:
            return dtype
        return np.dtype(np.complex64 if dtype.kind == "c" else np.float32)

    def _error(self, model: Model, box: Box) -> Any:
        """T - X in a box, on the device."""
        inside = part(model, box)
        double = self._on_device(np.result_type(np.float64, self.dtype, model.dtype))
        network, library = model.network, self._library
        error = library.cast(self._array[box], double) * self.scale
        for t, subscripts in enumerate(network.evaluations):
            operands: list[Any] = [library.send(operand, double) for operand in inside.operands(t)]
            error = error - contract(subscripts, *operands).array  # type: ignore[attr-defined]
        return error

    def _gradient(self, model: Model, pieces: Any) -> list[Array]:
        blocks = empty_blocks(model, self.dtype)
        for box, piece in pieces:
            inside = part(model, box)
            for k, block in enumerate(blocks):
                block[rows_of(model, k, box)] += self._contracted(piece, inside, k)
        return blocks

    def _contracted(self, array: Any, model: Model, k: int) -> Array:
        """L_k^H vec(T) for an array on the device, back on the host in double precision: (I_k, P_k)."""
        network, library = model.network, self._library
        own = np.dtype(name_of(array.dtype))
        dtype = np.result_type(own, np.complex64) if "c" in (own.kind, model.dtype.kind) else own
        source = Remote(library.cast(array, dtype), library)
        parts = []
        for t, term in enumerate(network.terms):
            labels = list(network.labels[t])
            operands: list[Any] = [library.send(np.conj(operand), dtype) for operand in model.operands(t)]
            del operands[k]
            mode = network.modes[k]
            target = ("" if mode is None else network.output[mode]) + term.bonds[k]
            subscripts = ",".join([network.output, *labels[:k], *labels[k + 1 :]]) + "->" + target
            value: Any = contract(subscripts, source, *operands)  # type: ignore[arg-type]
            parts.append(library.fetch(value.array).reshape(len(model.matrices[k]), -1))
        result = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return result.astype(np.result_type(result, np.float64), copy=False)
