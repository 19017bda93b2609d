"""Second moments in a stream, and least squares from them."""

import numpy as np
import pytest

from tensorchain.compression import Convolution, LayerPlan, fit_kernel
from tensorchain.compression.refit import Moments, refit_last, solve_positive


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def rows(rng, count, inputs, targets, shift=0.0):
    mixing = rng.standard_normal((inputs, inputs))
    x = rng.standard_normal((count, inputs)) @ mixing + shift
    y = x @ rng.standard_normal((inputs, targets)) + 0.3 * rng.standard_normal((count, targets)) - shift
    return x, y


def collected(x, y, pieces):
    moments = Moments(x.shape[1], y.shape[1])
    for part in np.array_split(np.arange(len(x)), pieces):
        moments.add(x[part], y[part])
    return moments


@pytest.mark.parametrize("shift", [0.0, 1e7])
@pytest.mark.parametrize("pieces", [1, 7])
def test_sums_are_those_of_all_rows_at_once(rng, pieces, shift):
    x, y = rows(rng, 211, 5, 3, shift)
    moments = collected(x, y, pieces)
    joint = np.cov(np.hstack([x, y]).T, bias=True)
    scale = np.abs(joint).max()
    np.testing.assert_allclose(moments.covariance, joint[:5, :5], atol=1e-7 * scale)
    np.testing.assert_allclose(moments.cross_covariance, joint[:5, 5:], atol=1e-7 * scale)
    np.testing.assert_allclose(moments.energy / 211, np.trace(joint[5:, 5:]), rtol=1e-6)
    np.testing.assert_allclose(moments.input_mean, x.mean(0))
    np.testing.assert_allclose(moments.target_mean, y.mean(0))


def test_blocks_of_a_large_batch_add_up(rng, monkeypatch):
    x, y = rows(rng, 100, 4, 2)
    whole = collected(x, y, 1)
    monkeypatch.setattr("tensorchain.compression.refit._BLOCK", 37)
    np.testing.assert_allclose(collected(x, y, 1).square, whole.square)


def test_least_squares_is_that_of_the_rows(rng):
    x, y = rows(rng, 150, 6, 4)
    weight, bias = collected(x, y, 4).least_squares(np.zeros((4, 6)), ridge=0.0)
    slow = np.linalg.lstsq(np.hstack([x, np.ones((150, 1))]), y, rcond=None)[0]
    np.testing.assert_allclose(weight, slow[:-1].T, atol=1e-6)
    np.testing.assert_allclose(bias, slow[-1], atol=1e-6)


def test_ridge_is_that_of_rows_that_ask_for_the_old_weights(rng):
    x, y = rows(rng, 80, 5, 3)
    start, ridge = rng.standard_normal((3, 5)), 0.2
    weight, _ = collected(x, y, 2).least_squares(start, ridge=ridge)
    centred, wanted = x - x.mean(0), y - y.mean(0)
    size = np.sqrt(ridge * np.sum(centred**2) / 5)
    slow = np.linalg.lstsq(np.vstack([centred, size * np.eye(5)]), np.vstack([wanted, size * start.T]), rcond=None)[0]
    np.testing.assert_allclose(weight, slow.T, atol=1e-6)


def test_relative_error_is_that_of_the_rows(rng):
    x, y = rows(rng, 90, 4, 3, 2.0)
    moments, weight, bias = collected(x, y, 3), rng.standard_normal((3, 4)), rng.standard_normal(3)
    spread = np.linalg.norm(y - y.mean(0))
    slow = np.linalg.norm(y - x @ weight.T - bias) / spread
    assert moments.relative_error(weight, bias) == pytest.approx(slow)
    left = y - x @ weight.T
    assert moments.relative_error(weight) == pytest.approx(np.linalg.norm(left - left.mean(0)) / spread)


def test_inputs_that_never_vary_leave_their_weights(rng):
    x, y = rows(rng, 60, 4, 2)
    x[:, 1] = 3.0
    start = rng.standard_normal((2, 4))
    weight, _ = collected(x, y, 2).least_squares(start)
    np.testing.assert_allclose(weight[:, 1], start[:, 1])
    constant = Moments(2, 2)
    constant.add(np.ones((5, 2)), np.full((5, 2), 7.0))
    weight, bias = constant.least_squares(start[:, :2])
    np.testing.assert_array_equal(weight, start[:, :2])
    np.testing.assert_allclose(weight.sum(1) + bias, 7.0)
    assert constant.relative_error(weight, bias) == 0.0
    assert constant.relative_error(weight, bias + 1.0) == np.inf


def test_solution_of_a_singular_system_is_small(rng):
    factor = rng.standard_normal((6, 2))
    square, right = factor @ factor.T, factor @ rng.standard_normal((2, 3))
    np.testing.assert_allclose(solve_positive(square, right), np.linalg.pinv(square) @ right, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "rank"), [("tc", (2, 3, 3)), ("cp3", 5), ("tucker2", (3, 4)), ("btd", [(2, 2)] * 2)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_last_layer_answers_to_the_outputs(rng, method, rank, dtype):
    kernel = rng.standard_normal((7, 5, 3, 3)).astype(dtype)
    plan = fit_kernel(kernel, method, rank, rng=0).plan.grouped()
    images = rng.standard_normal((3, 5, 8, 8)) * np.array([3.0, 1.0, 1.0, 0.2, 0.2])[:, None, None]
    dense = LayerPlan("dense", None, (Convolution(kernel),))
    before = LayerPlan(plan.method, plan.rank, plan.steps[:-1])
    flat = lambda values: values.transpose(0, 2, 3, 1).reshape(-1, values.shape[1])  # noqa: E731
    wanted = flat(dense.apply(images)) + 2.0
    moments = Moments(plan.convolutions[-1].inputs, 7)
    moments.add(flat(before.apply(images)), wanted)
    better = refit_last(plan, moments)
    assert better.convolutions[-1].weight.dtype == better.convolutions[-1].bias.dtype == dtype
    gap = [np.linalg.norm(wanted - 2.0 * k - flat(p.apply(images))) for k, p in ((1, plan), (0, better))]
    assert gap[1] < gap[0]


def test_what_does_not_fit_is_refused(rng):
    moments = Moments(3, 2)
    with pytest.raises(ValueError, match="no calibration row"):
        moments.least_squares(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="rows in pairs"):
        moments.add(np.zeros((4, 3)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match="not \\(3, 2\\)"):
        moments.add(np.zeros((4, 2)), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="NaN"):
        moments.add(np.full((4, 3), np.nan), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="ridge"):
        moments.least_squares(np.zeros((2, 3)), ridge=-1.0)
    plan = fit_kernel(rng.standard_normal((2, 2, 3, 3)), "tucker2", (1, 1)).plan
    with pytest.raises(ValueError, match="1 x 1"):
        refit_last(LayerPlan("dense", None, plan.steps[:2]), moments)
