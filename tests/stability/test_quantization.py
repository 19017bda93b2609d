"""The grid, and the prediction of the error that rounding makes, against real rounding and dithered noise."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import tensorchain as tc
from tensorchain.stability import quantization_error, round_blocks
from tensorchain.stability.perturbation import excess
from tensorchain.stability.quantization import rounding_variance
from tests.cases import Case, block_term_case, chain_case, cp_case, gaussian, random_gauge, relative, tucker_case
from tests.stability.examples import HUB, MODELS, name

KERNELS = [
    cp_case((16, 12, 14), 4),
    tucker_case((16, 12, 14), (4, 3, 4)),
    block_term_case((16, 12, 14), [(2, 2, 2), (3, 2, 3)]),
    chain_case((16, 9, 16), (3, 4, 4)),
    HUB,
]


def parts(matrix: Any) -> list[Any]:
    return [matrix.real, matrix.imag] if matrix.dtype.kind == "c" else [matrix]


def tops(matrix: Any, scale: str) -> Any:
    sizes = np.maximum.reduce([np.abs(part) for part in parts(matrix)])
    return sizes.max(axis=1, keepdims=True) if scale == "slice" else np.full((len(matrix), 1), sizes.max())


@pytest.mark.parametrize("scale", ["block", "slice"])
@pytest.mark.parametrize("bits", [2, 3, 5, 8, 16])
@pytest.mark.parametrize("case", MODELS, ids=name)
def test_the_grid(case: Case, bits: int, scale: Any) -> None:
    model = case.model()
    rounded = round_blocks(model, bits, scale)
    assert type(rounded) is case.kind
    assert rounded.dtype == case.dtype
    count = 2 ** (bits - 1) - 1
    single = 1e-6 if case.dtype == "float32" else 1e-12
    for before, after in zip(model.matrices, rounded.matrices, strict=True):
        step = tops(before, scale) / count
        for old, new in zip(parts(before), parts(after), strict=True):
            codes = new / step
            assert np.abs(codes - np.rint(codes)).max() < single * count
            assert np.abs(codes).max() < count + 0.5
            assert np.all(np.abs(new - old) <= step * (0.5 + single * count))
    again = round_blocks(rounded, bits, scale)
    for once, twice in zip(rounded.matrices, again.matrices, strict=True):
        np.testing.assert_allclose(once, twice, rtol=single, atol=0.0)


def test_what_is_on_the_grid_stays() -> None:
    model = tc.CP([np.array([[0.7, 0.0], [-0.7, 0.1]]), np.array([[3.0, -3.0], [0.0, 0.0]])])
    for bits in (2, 4, 8):
        rounded = round_blocks(model, bits)
        assert_array_equal(rounded.factors[0][[0, 0, 1], [0, 1, 0]], [0.7, 0.0, -0.7])
        assert_array_equal(rounded.factors[1], model.factors[1])
    by_row = round_blocks(model, 2, "slice")
    assert_array_equal(by_row.factors[1], model.factors[1])


def test_slices_have_their_own_step() -> None:
    # A row of 1e-3 beside a row of 1 vanishes with one step for both.
    model = tc.CP([np.array([[1.0, 0.3], [1e-3, 3e-4]]), np.eye(2)])
    assert_array_equal(round_blocks(model, 6, "block").factors[0][1], 0.0)
    assert relative(round_blocks(model, 6, "slice").factors[0][1], model.factors[0][1]) < 0.05
    assert quantization_error(model, 6, "slice") < quantization_error(model, 6, "block")


@functools.cache
def ratios(bits: int, scale: Any) -> Any:
    """Actual over predicted error of 100 random models."""
    result = []
    for seed in range(20):
        for case in KERNELS:
            model = case.as_type("complex128" if seed % 4 == 3 else "float64").model(seed)
            actual = relative(round_blocks(model, bits, scale).full(), model.full())
            result.append(actual / quantization_error(model, bits, scale))
    return np.array(result)


@pytest.mark.parametrize("scale", ["block", "slice"])
@pytest.mark.parametrize("bits", [4, 5, 6, 7, 8])
class TestPrediction:
    def test_in_the_mean(self, bits: int, scale: str) -> None:
        found = ratios(bits, scale)
        assert abs(np.median(found) - 1.0) < 0.05
        assert abs(np.sqrt(np.mean(found**2)) - 1.0) < 0.05

    def test_model_by_model(self, bits: int, scale: str) -> None:
        # One rounding is one draw from what is predicted: it scatters by itself.
        found = ratios(bits, scale)
        assert np.mean(np.abs(found - 1.0) < 0.15) >= 0.85
        assert np.all(np.abs(found - 1.0) < 0.5)


@pytest.mark.parametrize("scale", ["block", "slice"])
@pytest.mark.parametrize("case", KERNELS, ids=name)
def test_the_mean_over_dithered_noise(case: Case, scale: Any) -> None:
    """With uniform noise in place of rounding errors nothing but the formula is tested."""
    model, bits = case.as_type("complex128").model(), 4
    full, rng = model.full(), np.random.default_rng(2)
    squares = []
    for _ in range(300):
        noisy = []
        for matrix in model.matrices:
            top = tops(matrix, scale)
            step = top / 7.0
            change = np.zeros(matrix.shape, dtype=complex)
            for target, part in zip((change.real, change.imag), parts(matrix), strict=True):
                target[...] = (np.abs(part) < top) * step * rng.uniform(-0.5, 0.5, matrix.shape)
            noisy.append(matrix + change)
        squares.append(relative(model.with_matrices(noisy).full(), full) ** 2)
    doubt = np.std(squares) / np.sqrt(len(squares))
    assert abs(np.mean(squares) - quantization_error(model, bits, scale) ** 2) < 4 * doubt


def test_more_bits_on_one_block() -> None:
    model = chain_case((8, 9, 8), (3, 3, 3)).model()
    assert quantization_error(model, [4, 8, 8]) < quantization_error(model, [4, 4, 8]) < quantization_error(model, 4)
    assert quantization_error(model, [np.int64(4), 4, 4]) == quantization_error(model, 4)


@given(seed=st.integers(0, 1000), powers=st.lists(st.integers(-330, 330), min_size=3, max_size=3))
def test_scales_of_the_blocks_do_not_matter(seed: int, powers: list[int]) -> None:
    model = cp_case((4, 3, 5), 2).model(seed)
    scaled = model.with_matrices([m * 2.0**p for m, p in zip(model.matrices, powers, strict=True)])
    for scale in ("block", "slice"):
        assert quantization_error(scaled, 5, scale) == quantization_error(model, 5, scale)
    for once, twice, p in zip(round_blocks(model, 5).matrices, round_blocks(scaled, 5).matrices, powers, strict=True):
        assert_array_equal(once * 2.0**p, twice)


def test_signs_are_exact() -> None:
    model = tc.CP([np.sign(gaussian((4, 2), float, np.random.default_rng(n))) for n in range(3)])
    assert quantization_error(model, 2) == 0.0
    assert_array_equal(round_blocks(model, 2).full(), model.full())


def test_the_optimal_gauge_lowers_the_error() -> None:
    bad = tc.datasets.bad_gauge(chain_case((8, 9, 8), (3, 3, 3)).model(), 30.0, np.random.default_rng(0))
    good = tc.optimal_gauge(bad)
    assert quantization_error(good, 6) < 0.2 * quantization_error(bad, 6)
    actual = [relative(round_blocks(model, 6).full(), bad.full()) for model in (good, bad)]
    assert actual[0] < 0.2 * actual[1]


@pytest.mark.parametrize("case", KERNELS, ids=name)
def test_a_gauge_in_which_the_norm_cancels(case: Case) -> None:
    model = random_gauge(case.model(), np.random.default_rng(1), condition=1e5)
    expected = quantization_error(model, 8) * np.linalg.norm(model.full())
    variances = [rounding_variance(matrix, 8, "block").sum(axis=0) for matrix in model.matrices]
    assert expected == pytest.approx(np.sqrt(excess(model, variances)), rel=1e-3)


def test_zero_blocks() -> None:
    model = cp_case((4, 5, 6), 2).model().with_matrix(0, np.zeros((4, 2)))
    with pytest.raises(ValueError, match="zero everywhere"):
        quantization_error(model, 4)
    rounded = round_blocks(model, 4, "slice")
    assert_array_equal(rounded.factors[0], 0.0)


@pytest.mark.parametrize(
    ("bits", "error", "words"),
    [
        (1, ValueError, "2 to 16"),
        (17, ValueError, "2 to 16"),
        (0, ValueError, "2 to 16"),
        (-4, ValueError, "2 to 16"),
        (4.5, TypeError, "an integer"),
        (True, TypeError, "an integer"),
        ("8", TypeError, "an integer"),
        ([4, 4], ValueError, "one for each of the 3 blocks"),
        ([4, 4, 1], ValueError, "2 to 16"),
        (None, TypeError, "an integer"),
    ],
)
def test_bad_bits(bits: Any, error: type[Exception], words: str) -> None:
    model = cp_case((4, 5, 6), 2).model()
    for function in (quantization_error, round_blocks):
        with pytest.raises(error, match=words):
            function(model, bits)


def test_bad_scale_and_model() -> None:
    model = cp_case((4, 5, 6), 2).model()
    for function in (quantization_error, round_blocks):
        with pytest.raises(ValueError, match="'block' or 'slice'"):
            function(model, 4, "row")
        with pytest.raises(TypeError, match="a model"):
            function(model.full(), 4)
