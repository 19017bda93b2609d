"""Expected errors against the mean over all signs, Monte Carlo and closed forms; worst directions against the SVD."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorchain as tc
from tensorchain.stability import expected_error, first_order_error, worst_direction
from tests.cases import Case, block_term_case, chain_case, cp_case, crossed, double, gaussian, jacobian, tucker_case
from tests.stability.examples import FIFTH, HUB, MODELS, ORDER_THREE, Hub, flat, in_matrix_form, name

TINY = [
    cp_case((2, 2, 2), 1),
    cp_case((2, 2), 2),
    tucker_case((2, 2), (1, 1)),
    block_term_case((2, 2), [(1, 1), (1, 1)]),
    chain_case((2, 2), (1, 2)),
    Case(Hub, (2, 2, 2), (1, 1, 1, 1), HUB.twin, 0),
]


def moved(model: Any, noise: Any) -> Any:
    return model.with_matrices([matrix + part for matrix, part in zip(model.matrices, noise, strict=True)])


class TestExpectedError:
    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    @pytest.mark.parametrize("case", TINY, ids=name)
    @pytest.mark.parametrize("seed", [0, 1])
    def test_mean_over_all_signs(self, case: Case, dtype: str, seed: int) -> None:
        # Only the variance of the noise matters: signs +-s have variance s^2, and their mean can be listed.
        model = case.as_type(dtype).model(seed)
        rng = np.random.default_rng(seed)
        sigma = rng.uniform(0.2, 2.0, len(model.matrices))
        sizes = [matrix.size for matrix in model.matrices]
        full, total = model.full(), 0.0
        for signs in itertools.product((-1.0, 1.0), repeat=sum(sizes)):
            pieces = np.split(np.array(signs), np.cumsum(sizes)[:-1])
            noise = [s * p.reshape(m.shape) for s, p, m in zip(sigma, pieces, model.matrices, strict=True)]
            total += float(np.sum(np.abs(moved(model, noise).full() - full) ** 2))
        assert expected_error(model, sigma) == pytest.approx(total / 2 ** sum(sizes), rel=1e-10)

    @crossed(case=ORDER_THREE, sigma=[0.05, 0.3, 1.0])
    def test_monte_carlo(self, case: Case, sigma: float) -> None:
        model = case.model(3)
        full, rng = model.full(), np.random.default_rng(4)
        samples = []
        for _ in range(1500):
            noise = [sigma * gaussian(matrix.shape, model.dtype, rng) for matrix in model.matrices]
            samples.append(float(np.sum(np.abs(moved(model, noise).full() - full) ** 2)))
        doubt = np.std(samples) / np.sqrt(len(samples))
        assert doubt < 0.1 * np.mean(samples)
        assert abs(np.mean(samples) - expected_error(model, sigma)) < 4 * doubt

    @pytest.mark.parametrize("case", MODELS, ids=name)
    def test_small_noise_is_first_order_without_cancellation(self, case: Case) -> None:
        model = double(case.model())
        for sigma in (1e-4, 1e-8, 1e-12, 1e-150):
            first = first_order_error(model, sigma)
            assert first == pytest.approx(sigma**2 * model.sensitivity(), rel=1e-12)
            excess = expected_error(model, sigma) / first - 1.0
            # All orders are positive; the next one is about sigma^2.
            assert -1e-14 < excess < 100 * sigma**2 + 1e-14

    def test_second_order_by_hand(self) -> None:
        # E (x + s)^2 (y + t)^2 - x^2 y^2 with unit noise, in a case where all digits are known.
        model = tc.CP([np.full((1, 1), 3.0), np.full((1, 1), 4.0)])
        assert expected_error(model, 0.5) == 0.25 * 25.0 + 0.0625
        assert first_order_error(model, 0.5) == 0.25 * 25.0

    @pytest.mark.parametrize("case", MODELS, ids=name)
    def test_noise_on_one_block_is_first_order_exactly(self, case: Case) -> None:
        model = double(case.model())
        shares = tc.sensitivity(model, per_block=True)
        for k, share in enumerate(shares):
            sigma = np.zeros(len(shares))
            sigma[k] = 3.0
            assert expected_error(model, sigma) == pytest.approx(9.0 * share, rel=1e-12)
            assert first_order_error(model, sigma) == pytest.approx(9.0 * share, rel=1e-12)

    @pytest.mark.parametrize("case", MODELS, ids=name)
    def test_float32_is_computed_in_double(self, case: Case) -> None:
        model = case.model()
        assert expected_error(model, 0.1) == pytest.approx(expected_error(double(model), 0.1), rel=1e-14)

    @given(seed=st.integers(0, 1000), powers=st.lists(st.integers(-300, 300), min_size=3, max_size=3))
    def test_blocks_and_noise_of_any_scale(self, seed: int, powers: list[int]) -> None:
        # Powers of two leave every digit as it is; the last block brings X back into range.
        powers = [*powers[:2], -powers[0] - powers[1]]
        model = chain_case((3, 2, 4), (2, 1, 2)).model(seed)
        scaled = model.with_matrices([m * 2.0**p for m, p in zip(model.matrices, powers, strict=True)])
        assert expected_error(scaled, [0.1 * 2.0**p for p in powers]) == expected_error(model, 0.1)

    def test_beyond_the_range_of_doubles(self) -> None:
        model = cp_case((2, 3, 4), 2).model()
        huge = model.with_matrices([matrix * 1e150 for matrix in model.matrices])
        tiny = model.with_matrices([matrix * 1e-150 for matrix in model.matrices])
        assert expected_error(huge, 1.0) == np.inf
        assert first_order_error(huge, 1.0) == np.inf
        assert expected_error(tiny, 1e-150) == 0.0
        assert expected_error(model, 1e-200) == 0.0
        # s^2 alone is beyond the range, s^2 ||b||^2 ||c||^2 is not.
        large = model.with_matrices([matrix * 1e60 for matrix in model.matrices])
        assert expected_error(large, 1e-180) == pytest.approx(1e-120 * model.sensitivity(), rel=1e-12)

    def test_no_noise(self) -> None:
        model = cp_case((2, 3, 4), 2).model()
        assert expected_error(model, 0.0) == 0.0
        assert first_order_error(model, [0.0, 0.0, 0.0]) == 0.0

    @pytest.mark.parametrize("case", MODELS, ids=name)
    def test_nothing_but_zeros_has_only_the_last_order(self, case: Case) -> None:
        model = double(case.model())
        zero = model.with_matrices([0 * matrix for matrix in model.matrices])
        assert first_order_error(zero, 0.5) == 0.0
        # E ||X(noise)||^2 is homogeneous of degree 2 K in sigma.
        ratio = expected_error(zero, 1.0) / expected_error(zero, 0.5)
        assert ratio == pytest.approx(4.0 ** len(model.matrices), rel=1e-12)

    @pytest.mark.parametrize("order", [7, 10])
    def test_high_orders(self, order: int) -> None:
        # A rank-one CP in closed form: prod (||a_n||^2 + s^2 I_n) - prod ||a_n||^2.
        factors = [np.random.default_rng(n).standard_normal((2, 1)) for n in range(order)]
        squares = np.array([np.sum(factor**2) for factor in factors])
        truth = np.prod(squares + 0.25 * 2) - np.prod(squares)
        chain = tc.TensorChain([factor.reshape(1, 2, 1) for factor in factors])
        for model in (tc.CP(factors), chain):
            assert expected_error(model, 0.5) == pytest.approx(truth, rel=1e-12)

    @pytest.mark.parametrize(
        ("sigma", "error", "words"),
        [
            (-0.1, ValueError, "not negative"),
            (np.nan, ValueError, "finite"),
            (np.inf, ValueError, "finite"),
            ([0.1, -1.0, 0.1], ValueError, "not negative"),
            ([0.1, 0.1], ValueError, "one for each of the 3 blocks"),
            (np.ones((3, 1)), ValueError, "one for each of the 3 blocks"),
            ("large", TypeError, "a number"),
            (None, ValueError, "finite"),
            (1j, TypeError, "a number"),
        ],
    )
    def test_bad_sigma(self, sigma: Any, error: type[Exception], words: str) -> None:
        model = cp_case((2, 3, 4), 2).model()
        for function in (expected_error, first_order_error):
            with pytest.raises(error, match=words):
                function(model, sigma)

    def test_bad_model(self) -> None:
        model = cp_case((2, 3), 2).model().with_matrix(0, np.full((2, 2), np.nan))
        with pytest.raises(ValueError, match="NaN"):
            expected_error(model, 0.1)
        with pytest.raises(TypeError, match="a model"):
            expected_error([np.ones((2, 2))], 0.1)


LARGE = [cp_case((9, 8, 7), 6), chain_case((6, 5, 7), (3, 4, 3)), tucker_case((9, 8, 7), (4, 4, 4)), *FIFTH]


class TestWorstDirection:
    @pytest.mark.parametrize("case", [*MODELS, *LARGE, *(case.as_type("complex128") for case in LARGE)], ids=name)
    def test_singular_value_decomposition(self, case: Case) -> None:
        model = double(case.model())
        matrix = jacobian(model)
        _, values, vectors = np.linalg.svd(matrix)
        gain, blocks = worst_direction(model)
        direction = flat(in_matrix_form(model, blocks))
        assert [block.shape for block in blocks] == [block.shape for block in model.blocks]
        assert gain == pytest.approx(values[0], rel=1e-9)
        assert np.linalg.norm(direction) == pytest.approx(1.0, rel=1e-12)
        assert np.linalg.norm(matrix @ direction) == pytest.approx(gain, rel=1e-9)
        if values[1] < 0.99 * values[0]:
            assert abs(vectors[0] @ direction) == pytest.approx(1.0, rel=1e-7)

    def test_sign_and_repeatability(self) -> None:
        model = LARGE[1].as_type("complex128").model()
        first, second = (flat(worst_direction(model).blocks) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        pivot = first[np.argmax(np.abs(first))]
        assert pivot.real > 0.0
        assert abs(pivot.imag) < 1e-12

    @pytest.mark.parametrize("scale", [1e-70, 1e70])
    def test_scales(self, scale: float) -> None:
        model = LARGE[0].model()
        scaled = model.with_matrices([matrix * scale for matrix in model.matrices])
        assert worst_direction(scaled).gain == pytest.approx(scale**2 * worst_direction(model).gain, rel=1e-9)

    def test_zero_blocks(self) -> None:
        model = cp_case((4, 5, 6), 2).model()
        one = model.with_matrix(0, np.zeros((4, 2)))
        assert worst_direction(one).gain == pytest.approx(np.linalg.norm(jacobian(one), 2), rel=1e-9)
        # With one block zero X moves with that block alone.
        assert np.linalg.norm(worst_direction(one).blocks[0]) == pytest.approx(1.0)
        two = one.with_matrix(1, np.zeros((5, 2)))
        gain, blocks = worst_direction(two)
        assert gain == 0.0
        assert np.linalg.norm(flat(blocks)) == 1.0
