"""Powers of two taken out of the blocks, so that squares and products neither overflow nor vanish.

X is linear in each block: with B_k = 2^{e_k} B'_k, e_k such that the entries of B'_k are near 1,

    X = 2^{e_1 + ... + e_K} X'.

A figure is computed for X' and multiplied by the power of two that belongs to it: no rounding is added, and
the figure is right for blocks of size 1e-150 or 1e150 and for blocks of very different sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np

from tensorchain.kernels import Array
from tensorchain.models import Model

AnyModel = TypeVar("AnyModel", bound=Model)
Function = TypeVar("Function", bound=Callable[..., Any])


def model_of(subject: Any) -> Any:
    """The model itself, or that of a fit.

    Raises
    ------
    TypeError
        When it is neither.
    """
    found = subject if isinstance(subject, Model) else getattr(subject, "model", None)
    if not isinstance(found, Model):
        raise TypeError(f"a model such as CP or TensorChain, or a fit, is needed, got {type(subject).__name__}")
    return found


def takes_fits(function: Function) -> Function:
    """Let a function whose first argument is a model take a fit as well."""

    @wraps(function)
    def unwrapped(model: Any, *arguments: Any, **options: Any) -> Any:
        return function(model_of(model), *arguments, **options)

    return cast(Function, unwrapped)


def double_precision(model: AnyModel) -> AnyModel:
    """The model, or that of a fit, in float64 or complex128.

    Raises
    ------
    TypeError
        When `model` is no model.
    ValueError
        When a block holds NaN or infinity.
    """
    model = cast(AnyModel, model_of(model))
    for name, matrix in zip(model.block_names, model.matrices, strict=True):
        if not np.all(np.isfinite(matrix)):
            raise ValueError(f"{name} of the {type(model).__name__} holds NaN or infinity; its stability is undefined")
    return model.astype(np.complex128 if model.dtype.kind == "c" else np.float64)


def unit_blocks(model: AnyModel, at_least: Sequence[float] | None = None) -> tuple[AnyModel, list[int]]:
    """(model', [e_1 ... e_K]) with B_k = 2^{e_k} B'_k and the largest entry of B'_k at most 1.

    Parameters
    ----------
    at_least : sequence of float, optional
        Per block a size that counts as an entry, such as the deviation of its noise.
    """
    exponents = []
    for k, matrix in enumerate(model.matrices):
        size = max(largest(matrix), at_least[k] if at_least is not None else 0.0)
        exponents.append(math.frexp(size)[1])
    if not any(exponents):
        return model, exponents
    matrices = [ldexp(matrix, -exponent) for matrix, exponent in zip(model.matrices, exponents, strict=True)]
    return model.with_matrices(matrices), exponents


def common_scale(model: AnyModel) -> tuple[AnyModel, int]:
    """(model', e) with B_k = 2^e B'_k, one exponent for all blocks: the balance between them is kept.

    Jacobians depend on that balance; J = 2^{(K-1) e} J'.
    """
    sizes = [size for size in map(largest, model.matrices) if size > 0.0]
    if not sizes or 1e-6 < min(sizes) <= max(sizes) < 1e6:
        return model, 0
    exponent = round(sum(math.log2(size) for size in sizes) / len(sizes))
    return model.with_matrices([ldexp(matrix, -exponent) for matrix in model.matrices]), exponent


def largest(array: Array) -> float:
    """The largest real or imaginary part, in absolute value; 0 for an empty array."""
    if array.dtype.kind == "c":
        return max(largest(array.real), largest(array.imag))
    return float(np.abs(array).max(initial=0.0))


def ldexp(array: Array, exponent: int) -> Array:
    """array * 2^exponent; beyond the range of doubles the result is infinite, or zero."""
    with np.errstate(over="ignore", under="ignore"):
        if array.dtype.kind != "c":
            return np.asarray(np.ldexp(array, exponent))
        result = np.empty_like(array)
        result.real, result.imag = np.ldexp(array.real, exponent), np.ldexp(array.imag, exponent)
        return result


def scalar_ldexp(value: float, exponent: int) -> float:
    """value * 2^exponent; infinite, or zero, beyond the range of doubles."""
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(math.inf, value)
