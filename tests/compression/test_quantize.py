"""Quantizers against nearest levels by search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorchain.compression.quantize import RANGES, Quantizer, from_range, quantizer

BITS = st.integers(2, 8)


def values_of(seed, shape=(6, 7), scale=1.0, shift=0.0):
    return scale * (np.random.default_rng(seed).standard_normal(shape) + shift)


def nearest(values, levels):
    """The nearest level by comparing with all of them."""
    return levels[np.abs(values[..., None] - levels).argmin(axis=-1)]


@given(BITS, st.booleans(), st.sampled_from(RANGES), st.integers(0, 5), st.floats(-3.0, 3.0))
def test_rounding_takes_the_nearest_level(bits, symmetric, range_by, seed, shift):
    values = values_of(seed, shift=shift)
    grid = quantizer(values, bits, symmetric=symmetric, range_by=range_by, percentile=95.0)
    levels = grid.values(np.arange(grid.low, grid.high + 1))
    assert len(levels) == (2**bits - 1 if symmetric else 2**bits)
    rounded = grid.rounded(values)
    assert np.allclose(np.abs(rounded - values), np.abs(nearest(values, levels) - values), atol=1e-12)
    assert np.array_equal(grid.rounded(rounded), rounded)
    assert np.any(levels == 0.0)


@given(BITS, st.booleans(), st.integers(0, 5))
def test_ranges_cover_the_values_and_clipping_lowers_the_error(bits, symmetric, seed):
    values = values_of(seed, (400,)) ** 3
    whole = quantizer(values, bits, symmetric=symmetric)
    inside = np.abs(whole.rounded(values) - values).max()
    assert inside <= 0.5 * float(whole.step) * (1 + 1e-9) + (0 if symmetric else 0.5 * float(whole.step))
    best = quantizer(values, bits, symmetric=symmetric, range_by="mse")
    errors = [np.mean((grid.rounded(values) - values) ** 2) for grid in (whole, best)]
    assert errors[1] <= errors[0]
    narrow = quantizer(values, bits, symmetric=symmetric, range_by="percentile", percentile=90.0)
    assert narrow.step < whole.step


@given(BITS, st.booleans(), st.sampled_from(RANGES), st.sampled_from([0, 1, -1]))
def test_channels_are_rounded_each_by_itself(bits, symmetric, range_by, axis):
    values = values_of(1, (4, 5, 4)) * np.geomspace(1e-3, 1e3, 4)[:, None, None]
    options = {"symmetric": symmetric, "range_by": range_by}
    grid = quantizer(values, bits, axis=axis, **options)
    for channel in range(values.shape[axis]):
        part = np.take(values, channel, axis)
        alone = quantizer(part, bits, **options).rounded(part)
        assert np.array_equal(np.take(grid.rounded(values), channel, axis), alone)


@given(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300), BITS, st.booleans())
def test_any_range_gives_a_finite_grid(low, high, bits, symmetric):
    low, high = min(low, high), max(low, high)
    grid = from_range(low, high, bits, symmetric)
    ends = np.array([low, high, 0.0])
    rounded = grid.rounded(ends)
    assert np.isfinite(rounded).all()
    assert rounded[2] == 0.0
    assert grid.low <= grid.zero <= grid.high


def test_zeros_stay_zeros_and_dtypes_are_kept():
    grid = quantizer(np.zeros((3, 4), np.float32), 4, axis=0)
    assert np.array_equal(grid.rounded(np.zeros((3, 4), np.float32)), np.zeros((3, 4)))
    assert quantizer(values_of(0), 4).rounded(values_of(0).astype(np.float32)).dtype == np.float32


def test_known_grids():
    relu = from_range(0.0, 2.55, 8)
    assert np.array_equal(relu.integers(np.array([-1.0, 0.0, 0.014, 2.55, 9.0])), [0, 0, 1, 255, 255])
    signed = quantizer(np.array([-7.0, 2.4]), 4)
    assert isinstance(signed, Quantizer)
    assert (float(signed.step), signed.low, signed.high) == (1.0, -7, 7)


@pytest.mark.parametrize(
    ("change", "message", "error"),
    [
        ({"bits": 1}, "2 to 8", ValueError),
        ({"bits": 9}, "2 to 8", ValueError),
        ({"bits": 4.0}, "an integer", TypeError),
        ({"values": np.array([])}, "finite real", ValueError),
        ({"values": np.array([np.inf])}, "finite real", ValueError),
        ({"values": np.array([1j])}, "finite real", ValueError),
        ({"axis": 2}, "axes", ValueError),
        ({"range_by": "guess"}, "one of", ValueError),
        ({"percentile": 40.0}, "percentile", ValueError),
    ],
)
def test_what_makes_no_grid_is_refused(change, message, error):
    options = {"values": values_of(0), "bits": 4, **change}
    with pytest.raises(error, match=message):
        quantizer(options.pop("values"), options.pop("bits"), **options)
