"""The error of rounding the blocks to a few bits, before it is done, and the rounding itself.

**Grid.**  b bits give the 2^b - 1 levels q D, q = -(2^{b-1} - 1), ..., 2^{b-1} - 1, with the step

    D = max |.| / (2^{b-1} - 1),

symmetric and with a level at zero: the signed integers that int8 inference uses, -127 to 127.  The maximum is taken
over a whole block, or over a *slice*: one row of the matrix form of the block, that is all entries of one
physical index (a row of a CP or Tucker factor, a lateral slice A_n(:, i, :) of a chain core).  The scale of a row
factors out of every contraction over the bonds, so sums over bonds stay sums of integers; a scale per bond index
would not.  A core without a mode is one slice.  Complex numbers are rounded in their real and imaginary parts.

**Prediction.**  Rounding adds nearly independent noise of variance D^2 / 12 to each entry, except where an entry is
on the grid at any number of bits: the largest of its scale, and zeros.  Summed over rows it is the noise moment of
:mod:`tensorchain.stability.perturbation`, and the expected error follows to all orders.  The uniform noise model is
good from about 4 bits on; at 2 or 3 bits rounding errors depend on the entries, and the figure is a guide.

Reference: Widrow, Kollar, "Quantization Noise" (2008); Kozyrskiy, Phan, "CNN acceleration by low-rank approximation
with quantized factors" (2020), for the use on factors.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np

from tensorchain import kernels
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.stability.gauge import optimal_gauge
from tensorchain.stability.perturbation import excess
from tensorchain.stability.scales import double_precision, takes_fits, unit_blocks

AnyModel = TypeVar("AnyModel", bound=Model)
Scale = Literal["block", "slice"]

FEWEST_BITS, MOST_BITS = 2, 16
_CANCELLED = 1e-12
"""Ratio of ||X||^2 to the product of the norms of the moments below which it keeps fewer than four digits."""


@takes_fits
def quantization_error(model: Model, bits: int | Sequence[int], scale: Scale = "block") -> float:
    """Predicted relative error of X when its blocks are rounded to `bits` bits.

    Parameters
    ----------
    model : Model
        Any model with K blocks.
    bits : int or sequence of int
        2 to 16, one number or one for each block.
    scale : {"block", "slice"}, default "block"
        "block" for one step in each block, "slice" for one in each row of its matrix form.

    Returns
    -------
    float
        sqrt(E ||X(rounded) - X||_F^2) / ||X||_F, the expectation over rounding errors taken as independent and uniform.

    Raises
    ------
    TypeError
        When `model` is no model, or `bits` no integer.
    ValueError
        When `bits` or `scale` is something else, or X is zero.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> model = tc.TensorChain.random((8, 9, 8), 3, rng=0)
    >>> predicted = tc.quantization_error(model, 6)
    >>> rounded = tc.round_blocks(model, 6)
    >>> actual = float(np.linalg.norm(rounded.full() - model.full())) / model.norm()
    >>> 0.8 < predicted / actual < 1.25
    True
    """
    checked = double_precision(model)
    counts = checked_bits(bits, len(checked.matrices))
    check_scale(scale)
    unit, _ = unit_blocks(checked)
    size = _norm(unit)
    if size == 0.0:
        raise ValueError("the model is zero everywhere: its relative error is undefined")
    noise = [rounding_variance(matrix, b, scale).sum(axis=0) for matrix, b in zip(unit.matrices, counts, strict=True)]
    return math.sqrt(excess(unit, noise)) / size


@takes_fits
def round_blocks(model: AnyModel, bits: int | Sequence[int], scale: Scale = "block") -> AnyModel:
    """The model with its blocks rounded to the nearest levels.

    Parameters
    ----------
    model : Model
        The decomposition.
    bits : int or sequence of int
        Of all blocks, or of each, as in `quantization_error`.
    scale : {"block", "slice"}, default "block"
        As in `quantization_error`.

    Returns
    -------
    Model
        A model of the same wiring and dtype; a block of zeros stays zero.

    Raises
    ------
    TypeError
        As `quantization_error`.
    ValueError
        As `quantization_error`.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> model = tc.CP([np.array([[1.0], [0.4]]), np.array([[0.5], [0.0]])])
    >>> tc.round_blocks(model, 2).factors[0].ravel()  # levels -1, 0, 1
    array([1., 0.])
    """
    checked = double_precision(model)
    counts = checked_bits(bits, len(checked.matrices))
    check_scale(scale)
    return model.with_matrices(
        [
            _rounded(matrix, b, scale).astype(given.dtype)
            for matrix, b, given in zip(checked.matrices, counts, model.matrices, strict=True)
        ]
    )


def _norm(model: Model) -> float:
    """||X||; where the blocks cancel so much that it drowns in rounding, from the gauge of least sensitivity."""
    size = model.norm()
    scale = math.prod(kernels.norm(moment) for moment in model.moments)
    return size if size * size > _CANCELLED * scale else optimal_gauge(model).norm()


def rounding_variance(matrix: Array, bits: int, scale: Scale) -> Array:
    """Expected squared rounding error of each entry, (I_k, P_k): D^2 / 12 for each real part off the grid."""
    top = _tops(matrix, scale)
    step = top / levels(bits)
    if matrix.dtype.kind == "c":
        moving = _off_grid(matrix.real, top).astype(float) + _off_grid(matrix.imag, top)
    else:
        moving = _off_grid(matrix, top).astype(float)
    return np.asarray(moving * (step * step / 12.0))


def levels(bits: int) -> int:
    """Positive levels of the grid, 2^(bits-1) - 1."""
    return (1 << (bits - 1)) - 1


def _tops(matrix: Array, scale: Scale) -> Array:
    """The largest real part of each scale: (1, 1) or (I_k, 1)."""
    sizes = np.maximum(np.abs(matrix.real), np.abs(matrix.imag))
    return np.asarray(sizes.max(axis=1, keepdims=True) if scale == "slice" else sizes.max(keepdims=True))


def _off_grid(part: Array, top: Array) -> Array:
    """Entries that no number of bits represents exactly."""
    return np.asarray((part != 0.0) & (np.abs(part) != top))


def _rounded(matrix: Array, bits: int, scale: Scale) -> Array:
    top = _tops(matrix, scale)
    safe, count = np.where(top > 0.0, top, 1.0), levels(bits)

    def nearest(part: Array) -> Array:
        # By the largest entry first: a step may be below the smallest normal number.
        return np.asarray(np.rint(part / safe * count) / count * safe)

    if matrix.dtype.kind != "c":
        return nearest(matrix)
    result = np.empty_like(matrix)
    result.real, result.imag = nearest(matrix.real), nearest(matrix.imag)
    return result


def checked_bits(bits: int | Sequence[int], count: int) -> list[int]:
    """One number of bits for each of `count` blocks."""
    given = [bits] * count if np.ndim(bits) == 0 else list(bits)  # type: ignore[arg-type]
    try:
        if any(isinstance(value, (bool, np.bool_)) for value in given):
            raise TypeError
        values = [operator.index(value) for value in given]  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"bits is {bits!r}; an integer, or one for each block, is needed") from None
    if len(values) != count:
        raise ValueError(f"bits has {len(values)} entries; one, or one for each of the {count} blocks, is needed")
    if min(values) < FEWEST_BITS or max(values) > MOST_BITS:
        raise ValueError(f"bits is {bits!r}; {FEWEST_BITS} to {MOST_BITS} bits are supported")
    return values


def check_scale(scale: str) -> None:
    """One of the two scales."""
    if scale not in ("block", "slice"):
        raise ValueError(f"scale is {scale!r}; 'block' or 'slice' is needed")
