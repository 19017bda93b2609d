"""Arrays of other libraries as the kernels see them.

A contraction plan (:mod:`tensorchain.kernels.contraction`) is made of five operations: sum, transpose, reshape, and
the element-wise and the matrix product.  `Remote` offers them for an array that lives elsewhere, through the array
API standard (https://data-apis.org/array-api), so the same plans run wherever the array is.  What the standard leaves
out, moving numbers between host and device, and PyTorch, which does not offer the standard itself, are met by
`Library`.
"""

from __future__ import annotations

import math
import sys
from functools import cached_property
from typing import Any

import numpy as np

from tensorchain.kernels import Array


class Remote:
    """An array of another library, with the operations of a contraction plan."""

    __slots__ = ("array", "library")

    def __init__(self, array: Any, library: Library) -> None:
        self.array, self.library = array, library

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    def reshape(self, shape: tuple[int, ...]) -> Remote:
        return Remote(self.library.names.reshape(self.array, shape), self.library)

    def transpose(self, axes: tuple[int, ...]) -> Remote:
        return Remote(self.library.permute(self.array, axes), self.library)

    def sum(self, axis: tuple[int, ...]) -> Remote:
        return Remote(self.library.names.sum(self.array, axis=axis), self.library)

    def __mul__(self, other: Remote) -> Remote:
        return Remote(self.array * other.array, self.library)

    def __matmul__(self, other: Remote) -> Remote:
        return Remote(self.array @ other.array, self.library)


class Library:
    """The namespace and the device of an array.

    Raises
    ------
    TypeError
        When the array belongs to no namespace of the standard.
    """

    def __init__(self, array: Any) -> None:
        self.device = array.device
        self.torch = type(array).__module__.partition(".")[0] == "torch"
        if self.torch:
            self.names: Any = sys.modules["torch"]
        elif hasattr(array, "__array_namespace__"):
            self.names = array.__array_namespace__()
        else:
            raise TypeError(
                f"a {type(array).__module__}.{type(array).__name__} offers no array API (__array_namespace__): "
                "update its library, or pass a NumPy array"
            )

    @cached_property
    def wide(self) -> bool:
        """Whether the device computes in double precision."""
        if self.torch:
            return bool(self.device.type != "mps")
        info = getattr(self.names, "__array_namespace_info__", None)
        return info is None or "float64" in info().dtypes(kind="real floating")

    def permute(self, array: Any, axes: tuple[int, ...]) -> Any:
        return self.names.permute(array, axes) if self.torch else self.names.permute_dims(array, axes)

    def cast(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """The array in another dtype, itself where it has that already."""
        if name_of(array.dtype) == dtype.name:
            return array
        target = getattr(self.names, dtype.name)
        return array.to(target) if self.torch else self.names.astype(array, target)

    def send(self, array: Array, dtype: np.dtype[Any]) -> Remote:
        """A NumPy array on the device."""
        host = np.array(array, dtype=dtype)
        return Remote(self.names.asarray(host, device=self.device), self)

    def fetch(self, array: Any) -> Array:
        """A NumPy array from the device."""
        if self.torch:
            return np.asarray(array.detach().resolve_conj().cpu().numpy())
        return np.asarray(array.get() if hasattr(array, "get") else array)

    def largest(self, array: Any) -> float:
        """The largest absolute value; not finite where an entry is not."""
        return float(self.names.max(self.names.abs(array)))

    def ldexp(self, array: Any, exponent: int) -> Any:
        """2^exponent times an array; in two steps, since the power may be no number of single precision."""
        half = exponent // 2
        return array * math.ldexp(1.0, half) * math.ldexp(1.0, exponent - half)

    def norm(self, array: Any) -> float:
        """Euclidean norm of all entries, summed in double precision where there is one, safe from overflow.

        Returns
        -------
        float
            The Frobenius norm.
        """
        size = self.names.abs(array)
        largest = self.largest(array)
        if largest == 0.0 or not np.isfinite(largest):
            return largest
        ratio = self.cast(size, np.dtype(np.float64 if self.wide else np.float32)) / largest
        return largest * math.sqrt(float(self.names.sum(ratio * ratio)))


def name_of(dtype: Any) -> str:
    """The name of a dtype, without that of its library."""
    return str(getattr(dtype, "name", dtype)).rpartition(".")[2]
