"""A stand-in for CuPy, for machines without a GPU: arrays of a class of its own that NumPy must not read.

It is made of NumPy's functions.  As with CuPy, arrays have no `__array_namespace__` in use here, refuse to become NumPy
arrays (`__array__` raises), and come to the host by `get`; the namespace is that of array-api-compat for CuPy.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


class Place:
    """A device, which is entered to make arrays on it."""

    def __init__(self, number: Any = 0) -> None:
        self.number = getattr(number, "number", number)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *details: Any) -> None:
        pass

    def __str__(self) -> str:
        return f"<CUDA Device {self.number}>"


class ndarray:  # noqa: N801
    """An array that only its own functions can read."""

    __array_priority__ = 100

    def __init__(self, inside: Any) -> None:
        self._inside = np.asarray(inside)

    def __array__(self, *arguments: Any, **options: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if any(isinstance(value, np.ndarray) and value.ndim for value in inputs):
            return NotImplemented
        return _wrapped(getattr(function, method))(*inputs, **options)

    def get(self) -> Any:
        return self._inside.copy()

    def __getitem__(self, key: Any) -> Any:
        return _outside(self._inside[_inside(key)])

    def __float__(self) -> float:
        return float(self._inside)

    def __bool__(self) -> bool:
        return bool(self._inside)

    def __len__(self) -> int:
        return len(self._inside)

    @property
    def device(self) -> Place:
        return Place(0)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (0, False), "version": 3}

    @property
    def shape(self) -> tuple[int, ...]:
        return self._inside.shape

    @property
    def dtype(self) -> Any:
        return self._inside.dtype

    @property
    def ndim(self) -> int:
        return self._inside.ndim

    @property
    def size(self) -> int:
        return self._inside.size

    @property
    def T(self) -> Any:
        return _outside(self._inside.T)

    def astype(self, *arguments: Any, **options: Any) -> Any:
        return _outside(self._inside.astype(*arguments, **options))


def _operator(name: str) -> Any:
    return lambda one, *others: _outside(getattr(one._inside, name)(*map(_inside, others)))


for _name in ("add", "sub", "mul", "truediv", "matmul", "pow"):
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))
    setattr(ndarray, f"__r{_name}__", _operator(f"__r{_name}__"))
for _name in ("neg", "gt", "lt", "ge", "le", "eq"):
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))


def _inside(value: Any) -> Any:
    if isinstance(value, ndarray):
        return value._inside
    if isinstance(value, (list, tuple)):
        return type(value)(map(_inside, value))
    return value


def _outside(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return ndarray(value)
    if isinstance(value, tuple):
        inside = [_outside(item) for item in value]
        return type(value)(*inside) if hasattr(value, "_fields") else tuple(inside)
    return value


def _wrapped(function: Any) -> Any:
    def call(*arguments: Any, **options: Any) -> Any:
        return _outside(function(*_inside(arguments), **{name: _inside(value) for name, value in options.items()}))

    return call


def _module(name: str, like: Any) -> Any:
    made = types.ModuleType(name)
    for key in dir(like):
        value = getattr(like, key)
        if key.startswith("__"):
            continue
        plain = isinstance(value, type) or not callable(value)
        setattr(made, key, value if plain else _wrapped(value))
    return made


@contextmanager
def installed() -> Iterator[Any]:
    """The module, as `import cupy` finds it, for a while."""
    fake = _module("cupy", np)
    fake.ndarray, fake.linalg, fake.fft = ndarray, _module("cupy.linalg", np.linalg), _module("cupy.fft", np.fft)
    fake.cuda, place = types.ModuleType("cupy.cuda"), types.ModuleType("cupy.cuda.device")
    fake.cuda.Device = place.Device = Place
    fake.cuda.Stream, fake.cuda.device = object, place
    modules = {"cupy": fake, "cupy.linalg": fake.linalg, "cupy.fft": fake.fft}
    modules |= {"cupy.cuda": fake.cuda, "cupy.cuda.device": place}
    before = {name for name in sys.modules if name.startswith("array_api_compat.cupy")}
    sys.modules.update(modules)
    try:
        yield fake
    finally:
        for name in [*modules, *(n for n in sys.modules if n.startswith("array_api_compat.cupy") and n not in before)]:
            sys.modules.pop(name, None)
