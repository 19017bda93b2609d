"""Arrays of other libraries, through the array API standard: CuPy, PyTorch, JAX and whatever else follows it.

`array-api-compat` gives the namespace of an array and smooths over where libraries differ from the standard
(https://data-apis.org/array-api).  A `Namespace` adds what the standard leaves out and a solver on a device needs:

    send, fetch         from and to NumPy: the only two places where numbers travel
    contract            a contraction plan (:mod:`tensorchain.kernels.contraction`), replayed where the arrays are
    solved              a small positive definite system, without asking the device whether it was definite

Asking costs: a program on a device runs ahead of the host until the host wants a number.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import array_api_compat
import numpy as np

from tensorchain.kernels.contraction import View, lowered
from tensorchain.kernels.linalg import Array

_RIDGE = 100.0
"""Of a small system, in units of the rounding of its trace: what makes a singular one definite."""


class Namespace:
    """The library and the device of an array.

    Parameters
    ----------
    array : array_like
        An array of any library that `array-api-compat` has heard of, or that has `__array_namespace__`.

    Raises
    ------
    TypeError
        When the array belongs to no namespace of the standard.
    """

    def __init__(self, array: Any) -> None:
        try:
            self.xp: Any = array_api_compat.array_namespace(array)
        except TypeError as error:
            kind = type(array)
            raise TypeError(
                f"a {kind.__module__}.{kind.__name__} offers no array API (__array_namespace__), and array-api-compat "
                "does not support it: update its library, or pass a NumPy array"
            ) from error
        self.device = array_api_compat.device(array)
        self.torch = bool(array_api_compat.is_torch_array(array))
        self._jax = bool(array_api_compat.is_jax_array(array))

    @property
    def name(self) -> str:
        """The library's name."""
        return str(self.xp.__name__).removeprefix("array_api_compat.").removesuffix(".numpy")

    @cached_property
    def wide(self) -> bool:
        """Whether the device computes in double precision."""
        try:
            with warnings.catch_warnings():
                # JAX has no double precision unless it is told to, and says so in a warning.
                warnings.simplefilter("ignore")
                return name_of(self.xp.zeros((1,), dtype=self.xp.float64, device=self.device).dtype) == "float64"
        except (TypeError, ValueError, RuntimeError, AttributeError):
            return False

    # -- travel -------------------------------------------------------------------------

    def send(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """A NumPy array on the device."""
        return self.xp.asarray(np.array(array, dtype=dtype), device=self.device)

    def fetch(self, array: Any) -> Array:
        """A NumPy array from the device."""
        if self.torch:
            return np.asarray(array.detach().cpu().resolve_conj().resolve_neg().numpy())
        if hasattr(array, "get"):
            return np.asarray(array.get())
        try:
            return np.asarray(array)
        except (TypeError, RuntimeError):
            return np.asarray(_on_host(array))

    def number(self, scalar: Any) -> float:
        """One number from the device."""
        return float(self.fetch(scalar))

    # -- what the standard has under other names, or not for all libraries ----------------

    def single(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """The counterpart of a dtype in single precision."""
        return np.dtype(np.complex64 if dtype.kind == "c" else np.float32)

    def computed(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """The dtype, or its counterpart in single precision where the device has no other."""
        return dtype if self.wide else self.single(dtype)

    @staticmethod
    def eps(dtype: np.dtype[Any]) -> float:
        """The rounding unit of a dtype."""
        return float(np.finfo(dtype).eps)

    def dtype(self, array: Any) -> np.dtype[Any]:
        """The dtype of an array in NumPy's terms."""
        given = array.dtype
        found = self._dtypes.get(given)
        if found is None:
            try:
                found = self._dtypes[given] = np.dtype(name_of(given))
            except TypeError:
                raise TypeError(
                    f"the dtype {name_of(given)} has no counterpart in NumPy; convert the array to float32 first, as "
                    "with T.float()"
                ) from None
        return found

    @cached_property
    def _dtypes(self) -> dict[Any, np.dtype[Any]]:
        return {}

    def cast(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """The array in another dtype, itself where it has that already."""
        # By name: NumPy has no bfloat16, unless another package brings it.
        if name_of(array.dtype) == dtype.name:
            return array
        return self.xp.astype(array, getattr(self.xp, dtype.name))

    # PyTorch's own methods take half of the time of the functions around them, and a sweep makes a hundred views.

    def reshape(self, array: Any, shape: tuple[int, ...]) -> Any:
        """The array in another shape."""
        if array.shape == shape:
            return array
        return array.reshape(shape) if self.torch else self.xp.reshape(array, shape)

    def permute(self, array: Any, axes: tuple[int, ...]) -> Any:
        """The array with its axes in another order."""
        return array.permute(axes) if self.torch else self.xp.permute_dims(array, axes)

    def transpose(self, matrix: Any) -> Any:
        """The last two axes exchanged."""
        return matrix.mT if self.torch else self.xp.matrix_transpose(matrix)

    def conj(self, array: Any) -> Any:
        """The conjugate; the array itself where it is real."""
        return self.xp.conj(array) if self.dtype(array).kind == "c" else array

    def real(self, array: Any) -> Any:
        """The real part; the array itself where it is real."""
        return self.xp.real(array) if self.dtype(array).kind == "c" else array

    def adjoint(self, matrix: Any) -> Any:
        """The conjugate transpose of the last two axes."""
        return self.conj(self.transpose(matrix))

    def eye(self, size: int, dtype: np.dtype[Any]) -> Any:
        """The identity."""
        return self.xp.eye(size, dtype=getattr(self.xp, dtype.name), device=self.device)

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Zeros."""
        return self.xp.zeros(shape, dtype=getattr(self.xp, dtype.name), device=self.device)

    def matmul(self, left: Any, right: Any) -> Any:
        """A matrix product, in the precision of its operands."""
        if self._jax:
            # Otherwise 19 bits on some devices.
            return self.xp.matmul(left, right, precision="highest")
        return left @ right

    def less(self, array: Any, left: Any, right: Any) -> Any:
        """array - left @ right."""
        if self.torch:
            return self.xp.addmm(array, left, right, alpha=-1)
        return array - self.matmul(left, right)

    def total(self, array: Any) -> Any:
        """The real part of the sum of all entries, a scalar on the device."""
        return self.real(self.xp.sum(array))

    def dot(self, left: Any, right: Any) -> Any:
        """Re <left, right>, a scalar on the device."""
        return self.total(self.conj(left) * right)

    def squared(self, array: Any) -> Any:
        """||array||^2, a scalar on the device, summed in double precision where there is one."""
        wide = getattr(self.xp, "float64" if self.wide else "float32")
        if self.dtype(array).kind == "c":
            one, two = self.xp.real(array), self.xp.imag(array)
            return self.xp.sum(one * one, dtype=wide) + self.xp.sum(two * two, dtype=wide)
        return self.xp.sum(array * array, dtype=wide)

    def trace(self, matrix: Any) -> Any:
        """The real part of the trace, a scalar on the device."""
        if self.torch:
            return self.real(matrix.diagonal().sum())
        return self.real(self.xp.linalg.trace(matrix))

    # -- products -----------------------------------------------------------------------

    def contract(self, subscripts: str, *operands: Any) -> Any:
        """Einsum with explicit subscripts, as :func:`tensorchain.kernels.contract`, on the device."""
        sums, order, steps, axes = lowered(subscripts, tuple([tuple(operand.shape) for operand in operands]))
        xp, stack = self.xp, list(operands)
        for position, lonely in sums:
            stack[position] = xp.sum(stack[position], axis=lonely)
        if order is not None:
            stack = [stack[position] for position in order]
        for step in steps:
            b, a = stack.pop(step.right), stack.pop(step.left)
            if step.multiply and a.shape == b.shape == step.shape and not (step.left_view.axes or step.right_view.axes):
                # Entry by entry: no view is needed.
                stack.append(a * b)
                continue
            b, a = self._seen(step.right_view, b), self._seen(step.left_view, a)
            if step.right_first:
                a, b = b, a
            product = a * b if step.multiply else self.matmul(a, b)
            if step.summed:
                product = xp.sum(product, axis=step.summed)
            stack.append(self.reshape(product, step.shape))
        return stack[0] if axes is None else self.permute(stack[0], axes)

    def _seen(self, view: View, array: Any) -> Any:
        if view.axes is not None:
            array = self.permute(array, view.axes)
        array = self.reshape(array, view.shape)
        return self.transpose(array) if view.swap else array

    # -- small systems ------------------------------------------------------------------

    def solved(self, matrix: Any, rhs: Any) -> Any:
        """Rows x with matrix @ x = r for each row r of `rhs`.

        Parameters
        ----------
        matrix : scipy.sparse array or matrix
            Hermitian, positive semidefinite, (P, P).  A multiple of the identity is added, of the size of the rounding
            of its trace: what the matrix does not see stays out of the solution.
        rhs : object
            (I, P).
        """
        dtype = self.dtype(matrix)
        ridge, trace = self.unit(int(matrix.shape[0]), dtype, _RIDGE * self.eps(dtype)), self.trace(matrix)
        columns = self.transpose(rhs)
        if self.torch:
            # The plain functions wait for the device to say whether they failed.
            definite = self.xp.addcmul(matrix, ridge, trace)
            return self._small("solve", definite, columns, own=_solved_by_torch).mT
        return self.transpose(self._small("solve", matrix + trace * ridge, columns))

    def cholesky(self, matrix: Any) -> Any:
        """The lower factor; not finite, or that of a part, where the matrix is not definite."""
        try:
            return self._small("cholesky", matrix, own=_factored_by_torch if self.torch else None)
        except np.linalg.LinAlgError:
            return matrix * math.nan

    def qr(self, matrix: Any) -> tuple[Any, Any]:
        """Q, (I, P), and R of a matrix (I, P)."""
        q, r = self._small("qr", matrix)
        return q, r

    def eigh(self, matrix: Any) -> tuple[Any, Any]:
        """Eigenvalues of a Hermitian matrix, in rising order, and eigenvectors."""
        values, vectors = self._small("eigh", matrix)
        return values, vectors

    def svd(self, matrix: Any) -> tuple[Any, Any, Any]:
        """U, s and V^H of a square matrix."""
        u, s, vh = self._small("svd", matrix)
        return u, s, vh

    def orthonormal(self, matrix: Any) -> Any:
        """Q of the QR decomposition of a matrix (I, P)."""
        return self.qr(matrix)[0]

    def _small(self, name: str, *arrays: Any, own: Callable[..., Any] | None = None) -> Any:
        """A function of small matrices where they are, or on the host where the library does not have it there."""
        own = own or getattr(getattr(self.xp, "linalg", None), name, None)
        if own is not None and name not in self._lacking:
            try:
                return own(*arrays)
            except NotImplementedError:
                self._lacking.add(name)
        found = getattr(np.linalg, name)(*[self.fetch(array) for array in arrays])
        sent = [self.send(part, part.dtype) for part in (found if isinstance(found, tuple) else (found,))]
        return tuple(sent) if isinstance(found, tuple) else sent[0]

    @cached_property
    def _lacking(self) -> set[str]:
        return set()

    def unit(self, size: int, dtype: np.dtype[Any], factor: float = 1.0) -> Any:
        """A multiple of the identity, made once."""
        found = self._units.get((size, dtype, factor))
        if found is None:
            found = self._units[size, dtype, factor] = self.eye(size, dtype) * factor
        return found

    @cached_property
    def _units(self) -> dict[tuple[int, np.dtype[Any], float], Any]:
        return {}

    # -- sizes --------------------------------------------------------------------------

    def largest(self, array: Any) -> float:
        """The largest absolute value; not finite where an entry is not."""
        if self.dtype(array).kind == "c":
            return self.number(self.xp.max(self.xp.abs(array)))
        # Two scalars, and no array of absolute values.
        both = self.xp.stack([self.xp.max(array), -self.xp.min(array)])
        return float(np.max(self.fetch(both)))

    def ldexp(self, array: Any, exponent: int) -> Any:
        """2^exponent times an array; in two steps, since the power may be no number of single precision."""
        half = exponent // 2
        return array * math.ldexp(1.0, half) * math.ldexp(1.0, exponent - half)


def _solved_by_torch(matrix: Any, columns: Any) -> Any:
    import torch

    return torch.cholesky_solve(columns, torch.linalg.cholesky_ex(matrix)[0])


def _factored_by_torch(matrix: Any) -> Any:
    import torch

    return torch.linalg.cholesky_ex(matrix)[0]


def name_of(dtype: Any) -> str:
    """The name of a dtype, without that of its library."""
    return str(getattr(dtype, "name", dtype)).rpartition(".")[2]


def _on_host(array: Any) -> Any:
    """An array on the CPU of its own library: through the standard, whatever that calls its CPU."""
    failures: list[Exception] = []
    for place in ("cpu", _cpu_of(array)):
        try:
            return np.asarray(array_api_compat.to_device(array, place))
        except (TypeError, ValueError, RuntimeError) as error:  # noqa: PERF203
            failures.append(error)
    return np.from_dlpack(array)


def _cpu_of(array: Any) -> Any:
    """The default device of the library, which the standard asks it to have."""
    namespace = array_api_compat.array_namespace(array)
    info: Sequence[Any] = namespace.__array_namespace_info__().devices()
    return info[0]
