"""Dtypes: what numbers given to a data source become, and in what precision its answers come."""

from __future__ import annotations

from typing import Any

import numpy as np


def kept_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype in which data are held: float32, float64 or complex128, in the byte order of the machine.

    Integers, booleans and long doubles become float64, float16 float32, complex64 complex128.

    Raises
    ------
    TypeError
        For dtypes that are not numbers.

    Examples
    --------
    >>> kept_dtype("int16"), kept_dtype(">f4"), kept_dtype("complex64")
    (dtype('float64'), dtype('float32'), dtype('complex128'))
    """
    given = np.dtype(dtype)
    if given.kind not in "iubfc":
        raise TypeError(f"the tensor has dtype {given}; numbers are needed: convert it with np.asarray(T, dtype=float)")
    if given.kind == "c":
        return np.dtype(np.complex128)
    return np.dtype(np.float32 if given.kind == "f" and given.itemsize <= 4 else np.float64)


def double_of(*arrays: Any) -> np.dtype[Any]:
    """float64, or complex128 where one of the arrays or dtypes is complex."""
    return np.result_type(np.float64, *arrays)
