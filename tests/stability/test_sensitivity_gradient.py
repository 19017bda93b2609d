"""The gradient of SS: SS is quadratic along one block, so that its central difference is exact at any step."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tensorchain as tc
from tensorchain.stability import sensitivity_gradient
from tests.cases import Case, cp_case, double, gaussian
from tests.stability.examples import MODELS, name


@pytest.mark.parametrize("case", MODELS, ids=name)
class TestGradient:
    def test_central_differences(self, case: Case) -> None:
        model = double(case.model())
        rng = np.random.default_rng(1)
        for k, (block, slope) in enumerate(zip(model.blocks, sensitivity_gradient(model), strict=True)):
            assert slope.shape == block.shape
            direction = gaussian(block.shape, model.dtype, rng)
            # In complex models also along i times the direction: it is another real direction.
            for change in (direction, 1j * direction) if model.dtype.kind == "c" else (direction,):
                sides = []
                for sign in (1, -1):
                    blocks = list(model.blocks)
                    blocks[k] = block + sign * change
                    sides.append(model.with_blocks(blocks).sensitivity())
                assert np.vdot(slope, change).real == pytest.approx((sides[0] - sides[1]) / 2, rel=1e-9)

    def test_euler(self, case: Case) -> None:
        # SS is homogeneous of degree 2 (K - 1) in the blocks.
        model = double(case.model(2))
        gradient = sensitivity_gradient(model)
        along = sum(np.vdot(slope, block).real for slope, block in zip(gradient, model.blocks, strict=True))
        assert along == pytest.approx(2 * (len(gradient) - 1) * model.sensitivity(), rel=1e-10)

    def test_it_is_in_double_precision(self, case: Case) -> None:
        model = case.model()
        for slope, same in zip(sensitivity_gradient(model), sensitivity_gradient(double(model)), strict=True):
            assert slope.dtype == (np.complex128 if case.dtype == "complex128" else np.float64)
            assert_allclose(slope, same, rtol=1e-12)

    @pytest.mark.parametrize("exponent", [-120, 120])
    def test_scales(self, case: Case, exponent: int) -> None:
        model = double(case.model())
        scaled = model.with_matrices([matrix * 2.0**exponent for matrix in model.matrices])
        power = 2.0 ** ((2 * len(model.matrices) - 3) * exponent)
        for slope, plain in zip(sensitivity_gradient(scaled), sensitivity_gradient(model), strict=True):
            assert_allclose(slope, plain * power, rtol=1e-12)


def test_descent_lowers_the_sensitivity() -> None:
    model = cp_case((4, 5, 6), 3).model()
    gradient = sensitivity_gradient(model)
    moved = model.with_blocks([block - 1e-4 * slope for block, slope in zip(model.blocks, gradient, strict=True)])
    assert moved.sensitivity() < model.sensitivity()


def test_a_zero_block() -> None:
    model = cp_case((4, 5, 6), 3).model()
    zero = model.with_matrix(1, np.zeros((5, 3)))
    gradient = sensitivity_gradient(zero)
    assert_array_equal(gradient[1], 0.0)
    # ||b||^2 ||c||^2 + ... with b = 0 leaves 5 |a_r|^2 |c_r|^2.
    expected = 2 * 5 * model.factors[0] * np.sum(model.factors[2] ** 2, axis=0)
    assert_allclose(gradient[0], expected, rtol=1e-12)


def test_what_is_no_model() -> None:
    with pytest.raises(TypeError, match="a model such as CP"):
        sensitivity_gradient(np.ones((3, 3)))
    fit = tc.decompose(np.ones((2, 2)), "cp", 1, rng=0)
    assert_array_equal(sensitivity_gradient(fit)[0], sensitivity_gradient(fit.model)[0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_blocks(value: float) -> None:
    model = cp_case((2, 3), 1).model()
    broken = model.with_matrix(1, np.full((3, 1), value))
    with pytest.raises(ValueError, match="factor 2 of the CP holds NaN or infinity"):
        sensitivity_gradient(broken)
