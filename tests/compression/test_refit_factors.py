"""All small convolutions of a layer fitted to its outputs, from moments of its patches."""

from functools import cache

import numpy as np
import pytest

from tensorchain.compression import Convolution, LayerPlan, fit_kernel
from tensorchain.compression.refit import Moments
from tensorchain.compression.refit_factors import _at_the_end, _Block, _Inverse, refit_factors

CASES = {
    "tc": (2, 3, 2),
    "cp3": 5,
    "cp4": 4,
    "tucker2": (3, 4),
    "btd": [(2, 2), (2, 3)],
    "tucker-cp": (3, 4, 5),
    "svd": 2,
}


@cache
def made(method, dtype=np.float64, seed=0):
    """A kernel, a plan and moments of patches whose covariance is no product; tests only read them."""
    rng = np.random.default_rng(seed)
    window = (1, 1) if method == "svd" else (3, 2)
    kernel = rng.standard_normal((6, 5, *window)).astype(dtype)
    plan = fit_kernel(kernel, method, CASES[method], rng=0).plan
    size = kernel[0].size
    patches = (
        rng.standard_normal((400, size)) @ (rng.standard_normal((size, size)) * np.geomspace(3.0, 0.1, size)) + 1.0
    )
    targets = patches @ kernel.reshape(6, size).T + np.tanh(patches[:, :1]) + 0.5
    moments = Moments(size, 6)
    moments.add(patches, targets)
    return kernel, plan, moments, patches, targets


def objective(plan, kernel, patches, targets, ridge):
    rows = plan.kernel.reshape(6, -1)
    left = targets - patches @ rows.T
    spread = np.mean(np.var(patches, axis=0))
    return np.mean(np.sum((left - left.mean(0)) ** 2, axis=1)) + ridge * spread * np.sum(
        (rows - kernel.reshape(rows.shape)) ** 2
    )


@pytest.mark.parametrize("method", CASES)
def test_kernel_is_linear_in_each_convolution(method):
    _, plan, *_ = made(method)
    rng = np.random.default_rng(1)
    weights = [layer.weight for layer in plan.convolutions]
    for k, weight in enumerate(weights):
        block = _Block.of(plan, weights, k)
        rows = block.forward(weight)
        np.testing.assert_allclose(rows, plan.kernel.reshape(rows.shape), atol=1e-12)
        change, other = rng.standard_normal(weight.shape), rng.standard_normal(rows.shape)
        assert np.vdot(block.forward(change), other) == pytest.approx(np.vdot(change, block.adjoint(other)))


@pytest.mark.parametrize("method", CASES)
def test_a_step_is_least_squares_in_its_convolution(method):
    _, plan, moments, *_ = made(method)
    weights = [layer.weight for layer in plan.convolutions]
    metric, goal = moments.covariance, moments.cross_covariance.T
    for k, weight in enumerate(weights):
        block = _Block.of(plan, weights, k)
        jacobian = np.stack([block.forward(e.reshape(weight.shape)) for e in np.eye(weight.size)])
        normal = np.einsum("atp,pq,btq->ab", jacobian, metric, jacobian, optimize=True)
        best = np.linalg.lstsq(normal, np.einsum("atp,tp->a", jacobian, goal), rcond=None)[0]

        def value(w, normal=normal, jacobian=jacobian):
            return w @ normal @ w - 2.0 * np.einsum("a,atp,tp->", w, jacobian, goal)

        start, found = value(weight.ravel()), value(block.best(weight, metric, goal).ravel())
        least = value(best)
        assert start - found >= 0.98 * (start - least)
        assert found >= least - 1e-9 * abs(least)


@pytest.mark.parametrize("method", CASES)
def test_more_sweeps_are_better_and_never_worse_than_the_last_layer_alone(method):
    kernel, plan, moments, patches, targets = made(method)
    values = [objective(plan, kernel, patches, targets, 1e-3)]
    for sweeps in (1, 2, 6):
        better = refit_factors(plan, kernel, moments, sweeps=sweeps, tol=0.0)
        assert [step.weight.shape for step in better.convolutions] == [s.weight.shape for s in plan.convolutions]
        values.append(objective(better, kernel, patches, targets, 1e-3))
    assert values[0] > values[1] > values[2] >= values[3]
    rows = better.kernel.reshape(6, -1)
    np.testing.assert_allclose(better.convolutions[-1].bias, (targets - patches @ rows.T).mean(0), atol=1e-9)


def test_a_matrix_reaches_the_reduced_rank_regression():
    kernel, plan, moments, patches, targets = made("svd")
    better = refit_factors(plan, kernel, moments, sweeps=60, ridge=0.0, tol=0.0)
    x, y = patches - patches.mean(0), targets - targets.mean(0)
    free = np.linalg.lstsq(x, y, rcond=None)[0]
    _, _, axes = np.linalg.svd(x @ free)
    best = np.linalg.norm(y - x @ free @ axes[:2].T @ axes[:2])
    assert moments.relative_error(better.kernel.reshape(6, 5)) == pytest.approx(best / np.linalg.norm(y), rel=1e-3)


def test_a_folded_chain_stays_one():
    kernel, plan, moments, patches, targets = made("tc", np.float32)
    better = refit_factors(plan, kernel, moments)
    assert better.grouped().convolutions[1].weight.shape[0] == 2 * better.convolutions[1].weight.shape[0]
    np.testing.assert_allclose(better.grouped().kernel, better.kernel, rtol=1e-6)
    assert {layer.weight.dtype for layer in better.convolutions} == {np.dtype(np.float32)}
    assert objective(better, kernel, patches, targets, 1e-3) < objective(plan, kernel, patches, targets, 1e-3)


def test_groups_that_are_written_out_are_fitted_one_by_one():
    kernel, plan, moments, patches, targets = made("tc")
    tied = refit_factors(plan, kernel, moments, sweeps=10)
    free = refit_factors(plan.grouped(), kernel, moments, sweeps=10)
    assert objective(free, kernel, patches, targets, 1e-3) < objective(tied, kernel, patches, targets, 1e-3)


def test_inputs_that_never_vary_leave_the_fit_to_the_kernel():
    kernel, plan, *_ = made("tucker2")
    silent = Moments(kernel[0].size, 6)
    silent.add(np.ones((5, kernel[0].size)), np.full((5, 6), 2.0))
    better = refit_factors(plan, kernel, silent, sweeps=3)
    # The plan was the best approximation of the kernel already.
    error = np.linalg.norm(better.kernel - kernel), np.linalg.norm(plan.kernel - kernel)
    assert error[0] == pytest.approx(error[1], rel=1e-3)
    np.testing.assert_allclose(better.kernel.reshape(6, -1).sum(1) + better.convolutions[-1].bias, 2.0)


def test_without_a_bias_the_means_are_fitted_too():
    kernel, _, moments, patches, targets = made("svd")
    free = LayerPlan("dense", None, (Convolution(kernel),))
    better = refit_factors(free, kernel, moments, ridge=0.0, with_bias=False)
    assert better.convolutions[0].bias is None
    best = np.linalg.lstsq(patches, targets, rcond=None)[0]
    np.testing.assert_allclose(better.kernel[:, :, 0, 0], best.T, atol=1e-6)


def test_moments_of_another_layer_are_refused():
    kernel, plan, moments, *_ = made("tucker2")
    with pytest.raises(ValueError, match="do not fit"):
        refit_factors(plan, kernel[:, :4], moments)
    with pytest.raises(ValueError, match="of 0 rows"):
        refit_factors(plan, kernel, Moments(kernel[0].size, 6))


@pytest.mark.parametrize("window", [(1, 1), (3, 2)])
def test_a_layer_of_many_outputs_is_fitted_as_by_its_block(window):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((30, 4, *window))
    size = kernel[0].size
    root = rng.standard_normal((size, size))
    metric, goal = root @ root.T + np.eye(size), rng.standard_normal((30, size))
    first, last = rng.standard_normal((3, 4, *window)), rng.standard_normal((30, 3, 1, 1))
    two = LayerPlan("svd", 3, (Convolution(first), Convolution(last)))
    for plan in (two, LayerPlan("dense", None, (Convolution(kernel),))):
        weights = [step.weight for step in plan.convolutions]
        k = len(weights) - 1
        found = _at_the_end(plan, weights, k, metric, goal, _Inverse())
        np.testing.assert_allclose(found, _Block.of(plan, weights, k).best(weights[k], metric, goal), atol=1e-6)
    assert _at_the_end(two, [first, last], 0, metric, goal, _Inverse()) is None
