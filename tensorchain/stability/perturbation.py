"""How far X moves when its blocks are perturbed: in the mean, at any noise level, and in the worst direction.

**Mean.**  Let independent noise of mean zero and deviation s_k fall on every entry of block k.  The moment
C_k = B_k^H B_k becomes, in expectation, C_k + s_k^2 I_k * identity, and since ||X||^2 = F(C_1, ..., C_K) is
linear in each moment,

    E ||X(theta + noise) - X||^2 = F(C + N) - F(C),        N_k = s_k^2 I_k * identity,

exactly, to all orders in s (the cross terms vanish: noise has mean zero).  The difference is not taken: it
would lose all digits for small s.  Replacing one moment after the other telescopes into

    sum_k < N_k, M_k at (C_1 + N_1, ..., C_{k-1} + N_{k-1}, C_{k+1}, ..., C_K) >,        M_k = dF/dC_k,

K terms, none of them negative, each with its full relative precision.  Cost: K Grams.  To first order in
s^2 it is sum_k s_k^2 I_k tr M_k, which for equal s is s^2 SS.

**Worst.**  The largest singular value of J and its right singular vector, by Lanczos on delta -> J^H J delta,
which is never formed.

Reference: Tichavsky, Phan, Cichocki, "Sensitivity in tensor decomposition", IEEE SPL (2019), for the first
order; Saad, "Numerical methods for large eigenvalue problems" (2011), chapter 6, for Lanczos.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy

from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.stability.scales import common_scale, double_precision, scalar_ldexp, takes_fits, unit_blocks

_DENSE = 100
"""Up to this many parameters J^H J is formed: faster than Lanczos, and ARPACK needs some room."""
_DENSE_WIDE = 4000
"""The same for a model in which one Gram is nearly as large as J^H J, so that a product costs as much."""


@takes_fits
def expected_error(model: Model, sigma: float | Sequence[float]) -> float:
    """Expected squared error under independent noise on the blocks, exact at any noise level.

    Parameters
    ----------
    model : Model
        Any model with K blocks.
    sigma : float or sequence of float
        Standard deviation of the noise on every block entry, or one for each block (K,).  For complex blocks E|noise|^2
        = sigma^2.

    Returns
    -------
    float
        E ||X(theta + noise) - X(theta)||_F^2, exact to all orders in sigma; the distribution of the noise does not
        matter as long as its mean is zero.  Infinite when it is beyond the range of doubles.

    Raises
    ------
    TypeError
        When `model` is no model, or `sigma` no number.
    ValueError
        When `sigma` is negative, not finite, or has a length other than 1 or K.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> product = tc.CP([np.ones((1, 1)), np.ones((1, 1))])  # x y at x = y = 1
    >>> error = tc.expected_error(product, 0.5)  # E[(x + s)(y + t) - x y]^2 = 2 s^2 + s^4
    >>> float(error)
    0.5625
    """
    unit, noise, amplitude, exponent = _normalised(model, sigma)
    value, extra = _split(amplitude)
    return scalar_ldexp(excess(unit, noise, amplitude) * value * value, 2 * (extra + exponent))


@takes_fits
def first_order_error(model: Model, sigma: float | Sequence[float]) -> float:
    """The part of `expected_error` of second order in sigma: sum_k sigma_k^2 I_k tr M_k.

    Parameters
    ----------
    model : Model
        The decomposition.
    sigma : float or sequence of float
        As in `expected_error`.

    Returns
    -------
    float
        Never more than `expected_error`; for one sigma it is sigma^2 times the sensitivity.

    Raises
    ------
    TypeError
        As `expected_error`.
    ValueError
        As `expected_error`.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> product = tc.CP([np.ones((1, 1)), np.ones((1, 1))])
    >>> tc.first_order_error(product, 0.5), float(0.5**2 * tc.sensitivity(product))
    (0.5, 0.5)
    """
    unit, noise, amplitude, exponent = _normalised(model, sigma)
    value, extra = _split(amplitude)
    shares = [float(np.sum(part * np.diag(unit.gram(k)).real)) for k, part in enumerate(noise)]
    return scalar_ldexp(sum(shares) * value * value, 2 * (extra + exponent))


def excess(model: Model, noise: Sequence[Array], amplitude: float = 1.0) -> float:
    """[F(C + amplitude^2 N) - F(C)] / amplitude^2 without cancellation.

    Parameters
    ----------
    model : Model
        In double precision.
    noise : sequence of ndarray
        Per block the diagonal of its noise moment N_k, (P_k,): sum over rows of the variances.
    The division keeps the result in range where amplitude^2 would vanish.
    """
    moments = list(model.moments)
    total = 0.0
    for k, diagonal in enumerate(noise):
        if np.any(diagonal):
            gram = model.gram_at(moments, k)
            total += float(np.sum(diagonal * np.diag(gram).real))
            moments[k] = moments[k] + np.diag(amplitude * amplitude * diagonal)
    return max(total, 0.0)


class Direction(NamedTuple):
    """A direction in the space of the blocks, and how much X moves along it.

    Attributes
    ----------
    gain : float
        ||J delta|| / ||delta||.
    blocks : tuple of ndarray
        Delta, of norm 1 over all blocks, in their natural shapes.

    Examples
    --------
    >>> import tensorchain as tc
    >>> model = tc.CP.random((3, 4, 5), 2, rng=0)
    >>> tc.worst_direction(model).gain > 0
    True
    """

    gain: float
    blocks: tuple[Array, ...]


@takes_fits
def worst_direction(model: Model, *, tol: float = 1e-10) -> Direction:
    """The change of the blocks that moves X most: largest singular value of J and its right singular vector.

    Parameters
    ----------
    model : Model
        Any model.
    tol : float, default 1e-10
        Relative accuracy of the squared gain at which Lanczos stops.

    Returns
    -------
    Direction
        With the entry of largest absolute value real and positive.  When X does not depend on the blocks to first order
        (two or more of them are zero) the gain is 0 and the direction arbitrary.

    Raises
    ------
    TypeError
        When `model` is no model.
    ValueError
        When it holds NaN or infinity.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> model = tc.CP([3.0 * np.ones((1, 1)), 4.0 * np.ones((1, 1))])  # x y: gradient (y, x) = (4, 3)
    >>> gain, (x, y) = tc.worst_direction(model)
    >>> round(gain, 9), x.round(9), y.round(9)
    (5.0, array([[0.8]]), array([[0.6]]))
    """
    unit, exponent = common_scale(double_precision(model))
    vector, gain = _leading_vector(unit, tol)
    pivot = vector[np.argmax(np.abs(vector))]
    vector = vector * (np.conj(pivot) / abs(pivot))
    blocks = [unit._to_block(k, block) for k, block in enumerate(split_flat(unit, vector))]
    return Direction(scalar_ldexp(gain, (len(blocks) - 1) * exponent), tuple(blocks))


def split_flat(model: Model, flat: Array) -> list[Array]:
    """Blocks in matrix form from one flat vector."""
    sizes = [matrix.size for matrix in model.matrices]
    pieces = np.split(flat, np.cumsum(sizes)[:-1])
    return [piece.reshape(matrix.shape) for piece, matrix in zip(pieces, model.matrices, strict=True)]


def _leading_vector(unit: Model, tol: float) -> tuple[Array, float]:
    """Leading right singular vector of J (flat) and its singular value."""
    count = unit.n_parameters
    if not unit.block_sensitivities().any():
        first: Array = np.zeros(count, dtype=unit.dtype)
        first[0] = 1.0
        return first, 0.0
    if count <= _DENSE or (count <= _DENSE_WIDE and 2 * max(unit.network.widths) > count):
        values, vectors = scipy.linalg.eigh(
            unit.gauss_newton(), subset_by_index=(count - 1, count - 1), check_finite=False
        )
        return vectors[:, 0], math.sqrt(max(float(values[0]), 0.0))

    def matvec(flat: Array) -> Array:
        return np.concatenate([block.ravel() for block in unit.gauss_newton_matvec(split_flat(unit, flat.ravel()))])

    from scipy.sparse.linalg import LinearOperator, eigsh

    operator: Any = LinearOperator((count, count), matvec=matvec, dtype=unit.dtype)
    # A fixed start makes the result the same on every call.
    start = np.random.default_rng(0).standard_normal(count).astype(unit.dtype)
    values, vectors = eigsh(operator, k=1, which="LA", v0=start, tol=tol)
    return vectors[:, 0], math.sqrt(max(float(values[0]), 0.0))


def _normalised(model: Model, sigma: float | Sequence[float]) -> tuple[Model, list[Array], float, int]:
    """Unit blocks, diagonals of their noise moments over amplitude^2, the amplitude, and the exponent of X."""
    checked = double_precision(model)
    deviations = checked_sigma(sigma, len(checked.matrices))
    unit, exponents = unit_blocks(checked, deviations)
    scaled = [math.ldexp(s, -exponent) for s, exponent in zip(deviations, exponents, strict=True)]
    amplitude = max(scaled) or 1.0
    noise = [
        np.full(matrix.shape[1], (s / amplitude) ** 2 * matrix.shape[0])
        for s, matrix in zip(scaled, unit.matrices, strict=True)
    ]
    return unit, noise, amplitude, sum(exponents)


def checked_sigma(sigma: float | Sequence[float], count: int) -> list[float]:
    """One deviation for each of `count` blocks, finite and not negative."""
    try:
        values = np.asarray(sigma, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"sigma is {sigma!r}; a number, or one number for each block, is needed") from None
    if values.ndim > 1 or (values.ndim == 1 and values.size != count):
        raise ValueError(f"sigma has shape {values.shape}; a number, or one for each of the {count} blocks, is needed")
    if not np.all(np.isfinite(values)) or np.any(values < 0.0):
        raise ValueError(f"sigma is {sigma!r}; standard deviations must be finite and not negative")
    return [float(value) for value in np.broadcast_to(values, (count,))]


def _split(amplitude: float) -> tuple[float, int]:
    """Mantissa and exponent, for a square that would leave the range of doubles."""
    return math.frexp(amplitude)
