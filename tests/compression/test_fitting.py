"""Fits of kernels: all methods, with and without control, on the kernel or on the output."""

from __future__ import annotations

import numpy as np
import pytest

from tensorchain.compression.conv import Geometry, convolve
from tensorchain.compression.fitting import METHODS, fit_kernel
from tensorchain.compression.patches import PatchCovariance
from tensorchain.compression.plans import kernel_tensor, tensor_kernel
from tensorchain.compression.sandwich import Sandwich
from tensorchain.models import CP, TensorChain
from tensorchain.solvers import Penalty, SensitivityBound

GEOMETRY = Geometry(stride=(2, 2), padding=((1, 1), (1, 1)))
RANKS = {
    "cp3": 6,
    "cp4": 6,
    "tucker2": (3, 4),
    "tucker-cp": (3, 4, 5),
    "btd": [(2, 2), (2, 2)],
    "tc": (2, 3, 3),
    "svd": 3,
}


def smooth_kernel(window=(3, 3), seed=0):
    """A kernel whose singular values fall, as those of trained ones do."""
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((10, 8, *window))
    for axis, size in ((0, 10), (1, 8)):
        scales = np.exp(-0.3 * np.arange(size))
        basis = np.linalg.qr(rng.standard_normal((size, size)))[0] * scales
        kernel = np.moveaxis(np.tensordot(basis, kernel, axes=(1, axis)), 0, axis)
    return kernel


@pytest.mark.parametrize(("method", "stabilise"), [*((method, False) for method in METHODS), ("tc", True)])
def test_every_method_equals_the_convolution_with_its_kernel(method, stabilise):
    kernel = smooth_kernel((1, 1) if method == "svd" else (3, 3)).astype(np.float32)
    bias = np.arange(10, dtype=np.float32)
    fit = fit_kernel(kernel, method, RANKS[method], stabilise=stabilise, geometry=GEOMETRY, bias=bias, rng=0)
    images = np.random.default_rng(1).standard_normal((2, 8, 9, 9)).astype(np.float32)
    whole = fit_kernel(kernel, method, RANKS[method], stabilise=stabilise, rng=0).plan.kernel
    from tensorchain.compression.conv import Convolution

    expected = convolve(images, Convolution(whole, GEOMETRY, bias=bias))
    assert fit.plan.steps[0].weight.dtype == np.float32
    assert np.allclose(fit.plan.apply(images), expected, atol=1e-5 * np.abs(expected).max())
    assert 0.0 < fit.error < 0.7
    assert fit.error == pytest.approx(np.linalg.norm(fit.plan.kernel - kernel) / np.linalg.norm(kernel), rel=1e-4)


@pytest.mark.parametrize("method", ["cp3", "cp4", "tucker-cp", "btd", "tc"])
def test_control_lowers_the_sensitivity_at_the_same_error(method):
    kernel = smooth_kernel()
    plain = fit_kernel(kernel, method, RANKS[method], stabilise=False, rng=0)
    stable = fit_kernel(kernel, method, RANKS[method], stabilise=True, rng=0)
    assert stable.stabilised
    assert not plain.stabilised
    assert stable.error <= 1.025 * plain.error
    assert stable.sensitivity < plain.sensitivity


@pytest.mark.parametrize("method", METHODS)
def test_a_kernel_of_the_rank_is_found_exactly(method):
    rng, shape = np.random.default_rng(2), (8, 9, 10)
    model = {
        "cp3": CP.random(shape, 3, rng),
        "cp4": CP.random((8, 3, 3, 10), 3, rng),
        "tucker2": Sandwich.random(shape, [(3, 4)], rng),
        "tucker-cp": CP.random(shape, 3, rng),
        "btd": Sandwich.random(shape, [(2, 2), (2, 2)], rng),
        "tc": TensorChain.random(shape, (2, 2, 2), rng),
        "svd": CP.random((8, 10), 3, rng),
    }[method]
    window = (1, 1) if method == "svd" else (3, 3)
    kernel = tensor_kernel(model.full(), window)
    rank = (3, 3, 3) if method == "tucker-cp" else model.rank[0] if method == "tucker2" else model.rank
    assert fit_kernel(kernel, method, rank, rng=0).error < 1e-3


def test_svd_and_tucker2_are_the_best_or_nearly_so():
    kernel = smooth_kernel((1, 1))
    singular = np.linalg.svd(kernel[:, :, 0, 0], compute_uv=False)
    best = np.sqrt(np.sum(singular[3:] ** 2) / np.sum(singular**2))
    assert fit_kernel(kernel, "svd", 3).error == pytest.approx(best, rel=1e-10)
    tensor = kernel_tensor(smooth_kernel())
    tails = [np.linalg.svd(np.moveaxis(tensor, m, 0).reshape(n, -1), compute_uv=False) for m, n in ((0, 8), (2, 10))]
    share = [np.sum(s[r:] ** 2) / np.sum(s**2) for s, r in zip(tails, (3, 4), strict=True)]
    error = fit_kernel(smooth_kernel(), "tucker2", (3, 4)).error
    assert np.sqrt(max(share)) <= error <= np.sqrt(sum(share))


def test_control_that_runs_out_of_time_is_not_claimed():
    fit = fit_kernel(smooth_kernel(), "tc", (2, 3, 3), rng=0, max_seconds=1e-9)
    assert not fit.stabilised


def test_a_given_constraint_is_kept():
    kernel = smooth_kernel()
    plain = fit_kernel(kernel, "tc", (2, 3, 3), stabilise=False, rng=0)
    bound = 0.5 * plain.plan.sensitivity()
    fit = fit_kernel(kernel, "tc", (2, 3, 3), stabilise=SensitivityBound(bound), rng=0)
    assert fit.plan.sensitivity() <= 1.001 * bound
    penalised = fit_kernel(kernel, "tc", (2, 3, 3), stabilise=Penalty(1e-2), rng=0)
    assert penalised.sensitivity < plain.sensitivity


@pytest.mark.parametrize("method", METHODS)
def test_fitting_the_output_lowers_its_error(method):
    rng = np.random.default_rng(3)
    window = (1, 1) if method == "svd" else (3, 3)
    kernel = smooth_kernel(window)
    taps = window[0] * window[1]
    mixing = np.kron(rng.standard_normal((8, 8)) * np.exp(-0.7 * np.arange(8)), np.eye(taps))
    patches = rng.standard_normal((2000, 8 * taps)) @ mixing.T
    covariance = PatchCovariance.from_patches(patches, 8)
    options = {"stabilise": False, "covariance": covariance, "rng": 0}
    plain = fit_kernel(kernel, method, RANKS[method], fit_output=False, **options)
    aware = fit_kernel(kernel, method, RANKS[method], **options)
    assert aware.output_error < plain.output_error
    assert aware.error > plain.error
    change = (aware.plan.kernel - kernel).reshape(10, -1)
    measured = np.linalg.norm(patches @ change.T) / np.linalg.norm(patches @ kernel.reshape(10, -1).T)
    assert aware.output_error == pytest.approx(measured, rel=1e-8)


def test_roots_of_a_product_covariance_are_its_factors():
    rng = np.random.default_rng(4)
    channel, taps = (m @ m.T for m in (rng.standard_normal((4, 4)), rng.standard_normal((9, 9))))
    roots = PatchCovariance(np.kron(channel, taps), 4).roots(floor=0.0)
    for root, factor in zip(roots, (channel, taps), strict=True):
        assert np.allclose(root @ root, factor * len(factor) / np.trace(factor))
    assert np.array_equal(PatchCovariance(np.zeros((8, 8)), 4).roots()[0], np.eye(4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "dct"}, "unknown"),
        ({"kernel": np.zeros((4, 4, 3, 3))}, "nothing to fit"),
        ({"kernel": np.full((4, 4, 3, 3), np.nan)}, "nothing to fit"),
        ({"kernel": np.ones((4, 4, 3))}, "is needed"),
        ({"slack": -1.0}, "slack"),
        ({"method": "svd", "rank": 2}, "no matrix"),
        ({"method": "svd", "rank": 9, "kernel": np.ones((4, 4, 1, 1))}, "needs 1 .. 4"),
        ({"method": "tucker2", "rank": (9, 2)}, "outside"),
        ({"covariance": PatchCovariance(np.eye(27), 3)}, "has 4"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, message):
    given = {
        "kernel": np.random.default_rng(0).standard_normal((4, 4, 3, 3)),
        "method": "tc",
        "rank": (2, 2, 2),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        fit_kernel(given.pop("kernel"), given.pop("method"), given.pop("rank"), rng=0, **given)


def test_stabilise_must_be_a_constraint_or_a_truth_value():
    with pytest.raises(TypeError, match="stabilise"):
        fit_kernel(np.ones((4, 4, 3, 3)), "tc", (2, 2, 2), stabilise="yes")


def test_covariances_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="does not fit 3 channels"):
        PatchCovariance(np.eye(8), 3)
    with pytest.raises(ValueError, match="does not fit patches"):
        PatchCovariance(np.eye(8), 4).energy(np.ones((2, 3, 1, 1)))
