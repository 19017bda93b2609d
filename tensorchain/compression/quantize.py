"""Uniform quantizers for weights and activations, 2 to 8 bits.

An integer grid of `bits` bits represents x by

    q = clip(round(x / step) + zero, low, high),      x^ = step (q - zero).

*Symmetric* grids have zero = 0 and levels -L .. L with L = 2^(bits-1) - 1, so that products of weights and activations
need no correction terms.  *Affine* grids use all 2^bits levels between the smallest and largest value; zero is always
on the grid, since padding is exact only then.  There is one step for the whole array, or one for each channel.

**Range.**  Few bits want outliers clipped:

    minmax       the largest values
    percentile   quantiles of the values
    mse          the range, among shrunken ones, of least mean squared rounding error; values that lie on a symmetric
                 grid of so many bits already, as those of :mod:`tensorchain.compression.grid` do, keep it

Reference: Nagel et al., "A white paper on neural network quantization" (2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tensorchain.kernels import Array

RANGES = ("minmax", "percentile", "mse")
FEWEST_BITS, MOST_BITS = 2, 8

_SHRINKAGES = np.linspace(1.0, 0.2, 41)
"""Ranges that are tried, as shares of the whole one."""

_ON_GRID, _PEEK = 1e-4, 64
"""Steps by which an entry may be off its grid, and how many entries are looked at first."""


@dataclass(frozen=True)
class Quantizer:
    """A grid.

    Attributes
    ----------
    step : ndarray
        Distance of two levels, positive: (), or (C,) for one in each channel.
    zero : ndarray
        Integer that represents 0, of the same shape.
    low, high : int
        Smallest and largest integer.
    axis : int or None
        Axis of the channels, or None.

    Examples
    --------
    >>> import numpy as np
    >>> grid = quantizer(np.array([-1.0, 0.2, 0.5]), bits=3)
    >>> grid.integers(np.array([-1.0, 0.2, 0.5]))
    array([-3,  1,  2])
    >>> grid.rounded(np.array([-1.0, 0.2, 5.0]))
    array([-1.        ,  0.3333,  1.        ])
    """

    step: Array
    zero: Array
    low: int
    high: int
    axis: int | None = None

    def integers(self, values: Array) -> Array:
        """The integers that represent `values`.

        Parameters
        ----------
        values : ndarray
            To represent.

        Returns
        -------
        ndarray
            Of the same shape.

        Examples
        --------
        >>> import numpy as np
        >>> from tensorchain.compression import quantizer
        >>> grid = quantizer(np.array([-3.0, 1.2]), bits=3)
        >>> grid.integers(np.array([-3.0, 1.2]))
        array([-3,  1])
        """
        step, zero = self._along(self.step, values.ndim), self._along(self.zero, values.ndim)
        return np.asarray(np.clip(np.rint(values / step) + zero, self.low, self.high), dtype=np.int64)

    def values(self, integers: Array) -> Array:
        """What `integers` represent.

        Parameters
        ----------
        integers : ndarray
            From `integers`.

        Returns
        -------
        ndarray
            Of the same shape.

        Examples
        --------
        >>> import numpy as np
        >>> from tensorchain.compression import quantizer
        >>> grid = quantizer(np.array([-3.0, 1.2]), bits=3)
        >>> grid.values(np.array([-3, 1]))
        array([-3.,  1.])
        """
        step, zero = self._along(self.step, integers.ndim), self._along(self.zero, integers.ndim)
        return np.asarray((integers - zero) * step)

    def rounded(self, values: Array) -> Array:
        """The nearest levels, in the dtype of `values`.

        Parameters
        ----------
        values : ndarray
            To round.

        Returns
        -------
        ndarray
            Of the same shape.

        Examples
        --------
        >>> import numpy as np
        >>> from tensorchain.compression import quantizer
        >>> grid = quantizer(np.array([-3.0, 1.2]), bits=3)
        >>> grid.rounded(np.array([-3.0, 1.2]))
        array([-3.,  1.])
        """
        return self.values(self.integers(values)).astype(values.dtype)

    def _along(self, parameter: Array, order: int) -> Array:
        if self.axis is None:
            return parameter
        shape = [1] * order
        shape[self.axis] = -1
        return parameter.reshape(shape)


def quantizer(
    values: Array,
    bits: int,
    *,
    symmetric: bool = True,
    axis: int | None = None,
    range_by: str = "minmax",
    percentile: float = 99.9,
) -> Quantizer:
    """The grid for given values.

    Parameters
    ----------
    values : ndarray
        Real array of the values to represent.
    bits : int
        2 to 8.
    symmetric : bool, default True
        Levels on both sides of zero, or affine.
    axis : int, optional
        Axis of the channels that get a step each; None for one step.
    range_by : str, default "minmax"
        One of `RANGES`.
    percentile : float, default 99.9
        Share of the values inside the range, in percent, for "percentile".

    Returns
    -------
    Quantizer
        Values that are all zero get a step of 1.

    Raises
    ------
    TypeError
        When an option is of another kind.
    ValueError
        When an option is out of its range, or values are missing or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> float(quantizer(np.array([-3.0, 1.2]), bits=3).step)
    1.0
    """
    _check(values, bits, axis, range_by, percentile)
    double = values.astype(np.float64)
    rows = double.reshape(1, -1) if axis is None else np.moveaxis(double, axis, 0).reshape(values.shape[axis], -1)
    if range_by == "percentile":
        low, high = np.percentile(rows, [100.0 - percentile, percentile], axis=1)
        if symmetric:
            high = np.percentile(np.abs(rows), percentile, axis=1)
    else:
        low, high = rows.min(axis=1), rows.max(axis=1)
        if symmetric:
            high = np.abs(rows).max(axis=1)
    grid = _grid(low, high, bits, symmetric)
    if range_by == "mse":
        grid = _least_error(rows, low, high, bits, symmetric)
    step, zero, bottom, top = grid
    if axis is None:
        return Quantizer(step[0], zero[0], bottom, top)
    return Quantizer(step, zero, bottom, top, axis)


def from_range(low: float, high: float, bits: int, symmetric: bool = False) -> Quantizer:
    """The grid of one step that covers low .. high and zero.

    Parameters
    ----------
    low : float
        Smallest value.
    high : float
        Largest value.
    bits : int
        2 to 8.
    symmetric : bool, default False
        Levels on both sides of zero.

    Returns
    -------
    Quantizer
        The grid.

    Examples
    --------
    >>> grid = from_range(0.0, 6.0, bits=2)
    >>> float(grid.step), int(grid.zero), grid.low, grid.high
    (2.0, 0, 0, 3)
    """
    _check(np.array([low, high]), bits, None, "minmax", 99.9)
    top = max(abs(low), abs(high)) if symmetric else high
    step, zero, bottom, most = _grid(np.array([float(low)]), np.array([float(top)]), bits, symmetric)
    return Quantizer(step[0], zero[0], bottom, most)


def _grid(low: Array, high: Array, bits: int, symmetric: bool) -> tuple[Array, Array, int, int]:
    """Step and zero of each row."""
    if symmetric:
        levels = (1 << (bits - 1)) - 1
        step = high / levels
        return _positive(step), np.zeros(len(step), np.int64), -levels, levels
    levels = (1 << bits) - 1
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    # Halved, since the difference of the ends may be beyond the largest number.
    step = _positive((high / 2.0 - low / 2.0) / levels * 2.0)
    return step, np.rint(-low / step).astype(np.int64), 0, levels


def _positive(step: Array) -> Array:
    """A step below the smallest normal number has no useful reciprocal; such values are zero at any other scale."""
    return np.where(step > np.finfo(np.float64).tiny, step, 1.0)


def _least_error(rows: Array, low: Array, high: Array, bits: int, symmetric: bool) -> tuple[Array, Array, int, int]:
    """The shrunken range of least squared error in each row."""
    step, zero, bottom, top = _grid(low, high, bits, symmetric)
    best = np.full(len(rows), np.inf)
    for share in _SHRINKAGES:
        trial_step, trial_zero, _, _ = _grid(share * low, share * high, bits, symmetric)
        grid = Quantizer(trial_step, trial_zero, bottom, top, 0)
        errors = np.mean((grid.rounded(rows) - rows) ** 2, axis=1)
        better = errors < best
        step, zero = np.where(better, trial_step, step), np.where(better, trial_zero, zero)
        best = np.minimum(best, errors)
    if symmetric:
        step = _own_steps(rows, step, top)
    return step, zero, bottom, top


def _own_steps(rows: Array, step: Array, most: int) -> Array:
    """For rows that are integers up to `most` times a step, the largest such step; for others the one given."""
    top = np.abs(rows).max(axis=1)
    left, result = np.flatnonzero(top > np.finfo(np.float64).tiny), np.array(step)
    # The first entries rule out most counts at little cost.
    for count in range(1, most + 1):
        trial = top[left, None] / count
        near = _on_grid(rows[left, :_PEEK], trial)
        near[near] = _on_grid(rows[left[near]], trial[near])
        result[left[near]] = trial[near, 0]
        left = left[~near]
    return result


def _on_grid(rows: Array, steps: Array) -> Array:
    """Whether every entry of a row is a multiple of its step, up to rounding in single precision."""
    scaled = rows / steps
    return np.asarray((np.abs(scaled - np.rint(scaled)) < _ON_GRID).all(axis=1))


def _check(values: Array, bits: int, axis: int | None, range_by: str, percentile: float) -> None:
    check_bits("bits", bits)
    if values.size == 0 or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise ValueError(f"values have shape {values.shape} and dtype {values.dtype}; finite real numbers are needed")
    if axis is not None and not -values.ndim <= axis < values.ndim:
        raise ValueError(f"axis is {axis}; the values have {values.ndim} axes")
    if range_by not in RANGES:
        raise ValueError(f"range_by is {range_by!r}; one of {', '.join(RANGES)} is needed")
    if not 50.0 < percentile <= 100.0:
        raise ValueError(f"percentile is {percentile!r}; a number above 50, up to 100, is needed")


def check_bits(name: str, bits: int) -> None:
    """2 to 8 bits."""
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)):
        raise TypeError(f"{name} is {bits!r}; an integer is needed")
    if not FEWEST_BITS <= bits <= MOST_BITS:
        raise ValueError(f"{name} is {bits}; {FEWEST_BITS} to {MOST_BITS} bits are supported")
