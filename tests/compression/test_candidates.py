"""Ladders, short fits on reduced kernels, and starts from singular vectors."""

import numpy as np
import pytest

from tensorchain.compression import METHODS, Geometry, fit_kernel
from tensorchain.compression.candidates import _Reduced, cost_of, curve, ladder
from tensorchain.compression.fitting import WIDEST
from tensorchain.compression.patches import PatchCovariance
from tensorchain.compression.plans import kernel_tensor, plan_of
from tensorchain.compression.sandwich import Sandwich
from tensorchain.compression.starts import leading_pairs, orthonormal_groups
from tensorchain.models import Model, TensorChain
from tensorchain.models.form import Form
from tensorchain.stability import optimal_gauge

SPATIAL = tuple(method for method in METHODS if method != "svd")


def decaying(shape, seed=0):
    """A kernel whose singular values decay in both channels, as those of trained layers do."""
    rng = np.random.default_rng(seed)
    outputs, inputs, *window = shape
    kernel = rng.standard_normal(shape)
    mixing = [np.linalg.qr(rng.standard_normal((n, n)))[0] * 0.8 ** np.arange(n) for n in (outputs, inputs)]
    return (
        np.einsum("ts,ua,sa...->tu...", mixing[0], mixing[1], kernel)
        if not window
        else np.einsum("xt,ys,tsij->xyij", mixing[0], mixing[1], kernel)
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(64, 64, 3, 3), (48, 16, 3, 3), (512, 512, 3, 3), (8, 3, 5, 2)])
def test_ladders_rise_from_one_to_ninety_percent(method, shape):
    if method == "svd":
        shape = (*shape[:2], 1, 1)
    ranks = ladder(method, shape, 8)
    assert ranks
    costs = [cost_of(method, rank, shape, Geometry(), shape[2:]).parameters / np.prod(shape) for rank in ranks]
    folds = [len(rank) if method == "btd" else rank[0] if method == "tc" else 1 for rank in ranks]
    for count in set(folds):
        own = [cost for cost, n in zip(costs, folds, strict=True) if n == count]
        assert own == sorted(own)
        if min(shape[:2]) >= 48 and method != "svd":
            assert own[0] < 0.03
            assert own[-1] > 0.3
            # Equal ratios, but for rounding of small ranks.
            ratios = np.diff(np.log(own[len(own) // 2 :]))
            assert ratios.max() < 2.0 * np.log(90.0) / 7.0


@pytest.mark.parametrize("method", METHODS)
def test_reported_errors_are_those_of_the_approximations(method):
    window = (1, 1) if method == "svd" else (3, 2)
    kernel = decaying((20, 16, *window))
    tensor = kernel_tensor(kernel)
    reduced, rng = _Reduced(tensor), np.random.default_rng(0)
    for rank in ladder(method, kernel.shape, 4):
        error, approximation = reduced.fitted(method, rank, window, rng)
        slow = np.linalg.norm(approximation() - tensor) / np.linalg.norm(tensor)
        assert np.sqrt(error) == pytest.approx(slow, abs=1e-6)


@pytest.mark.parametrize("shape", [(300, 6, 1, 1), (6, 300, 1, 1), (200, 5, 3, 3)])
def test_no_more_directions_are_looked_at_than_a_layer_has(shape):
    """A last layer may have 20,000 outputs of 100 inputs."""
    tensor = kernel_tensor(np.random.default_rng(0).standard_normal(shape))
    reduced = _Reduced(tensor)
    inputs, taps, outputs = tensor.shape
    assert reduced.first.shape == (inputs, min(inputs, taps * outputs))
    assert reduced.last.shape == (outputs, min(outputs, taps * inputs))
    for rank in (2, 5):
        pair = (min(rank, inputs), min(rank, outputs))
        error, approximation = reduced.fitted("tucker2", pair, shape[2:], np.random.default_rng(0))
        slow = np.linalg.norm(approximation() - tensor) / np.linalg.norm(tensor)
        assert np.sqrt(error) == pytest.approx(slow, rel=1e-6)
        if taps == 1:
            values = np.linalg.svd(tensor[:, 0], compute_uv=False)
            assert slow == pytest.approx(np.linalg.norm(values[rank:]) / np.linalg.norm(values), rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_short_fits_come_near_careful_ones(method):
    kernel = decaying((16, 12, *((1, 1) if method == "svd" else (3, 3))))
    points = curve(kernel, method, geometry=Geometry(), image=(8, 8), candidates=4, rng=0)
    assert all(point.method == method for point in points)
    for point in points:
        careful = fit_kernel(kernel, method, point.rank, stabilise=False, rng=0).error
        assert careful <= np.sqrt(point.error) * 1.01 + 1e-9
        assert np.sqrt(point.error) <= 1.3 * careful + 0.03


def test_several_methods_share_one_curve_and_outputs_are_measured():
    kernel = decaying((12, 10, 3, 3))
    patches = np.random.default_rng(1).standard_normal((300, 90)) * np.linspace(0.1, 2.0, 90)
    covariance = PatchCovariance.from_patches(patches, 10)
    plain = curve(kernel, ("cp3", "tucker2"), geometry=Geometry(), image=(8, 8), candidates=4, rng=0)
    measured = curve(
        kernel, ("cp3", "tucker2"), geometry=Geometry(), image=(8, 8), candidates=4, rng=0, covariance=covariance
    )
    assert {point.method for point in plain} == {"cp3", "tucker2"}
    assert [(p.method, p.rank) for p in plain if p.method == "tucker2"] == [
        (p.method, p.rank) for p in measured if p.method == "tucker2"
    ]
    tensor = kernel_tensor(kernel)
    point = next(p for p in measured if p.method == "tucker2")
    _, approximation = _Reduced(tensor).fitted("tucker2", point.rank, (3, 3), np.random.default_rng(0))
    gap = (approximation() - tensor).transpose(2, 0, 1).reshape(12, 90)
    dense = tensor.transpose(2, 0, 1).reshape(12, 90)
    slow = np.linalg.norm(patches @ gap.T) / np.linalg.norm(patches @ dense.T)
    assert point.error == pytest.approx(slow**2, rel=1e-6)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("groups", "ranks"), [(1, (4, 3)), (2, (3, 4)), (3, (2, 2)), (2, (6, 5))])
def test_orthonormal_groups_have_the_error_they_say_and_improve(shared, groups, ranks):
    tensor = kernel_tensor(decaying((10, 12, 3, 3)))
    errors = []
    for sweeps in (0, 1, 4, 30):
        model, error = orthonormal_groups(tensor, groups, ranks, shared=shared, sweeps=sweeps, tol=0.0)
        assert error == pytest.approx(np.linalg.norm(model.full() - tensor) / np.linalg.norm(tensor), abs=1e-9)
        errors.append(error)
    assert errors == sorted(errors, reverse=True)
    if shared:
        assert model.bonds == (groups, *ranks)
        outer = model.cores[0].transpose(1, 0, 2).reshape(12, -1)
    else:
        assert model.rank == [ranks] * groups
        outer = np.concatenate([first for first, _, _ in model.terms], axis=1)
    outer = outer / np.linalg.norm(outer, axis=0)
    np.testing.assert_allclose(outer.T @ outer, np.eye(outer.shape[1]), atol=1e-12)


def test_orthonormal_groups_are_exact_where_the_kernel_is_made_of_them():
    rng = np.random.default_rng(0)
    first, last = (np.linalg.qr(rng.standard_normal((n, 6)))[0] for n in (12, 10))
    core = rng.standard_normal((9, 6, 6))
    core[:, :3, 3:] = core[:, 3:, :3] = 0.0
    tensor = np.einsum("dab,sa,tb->sdt", core, first, last)
    _, error = orthonormal_groups(tensor, 2, (3, 3), shared=False, sweeps=500, tol=0.0)
    assert error < 0.35
    with pytest.raises(ValueError, match="wider"):
        orthonormal_groups(tensor, 2, (7, 3), shared=True)


def test_leading_pairs_of_all_ranks_are_the_tensor():
    tensor = np.random.default_rng(0).standard_normal((3, 5, 4))
    for rank, exact in ((12, True), (15, False), (4, False)):
        blocks = leading_pairs(tensor, rank, np.random.default_rng(0))
        gap = np.linalg.norm(np.einsum("dr,sr,tr->dst", *blocks) - tensor)
        assert [block.shape for block in blocks] == [(3, rank), (5, rank), (4, rank)]
        assert (gap < 1e-9) == exact


@pytest.mark.parametrize("method", ["tc", "btd"])
def test_wide_groups_are_fitted_without_their_gram(method):
    kernel = decaying((64, 60, 3, 3))
    rank = (2, 28, 28) if method == "tc" else [(28, 28)] * 2
    assert WIDEST < 28 * 28
    fit = fit_kernel(kernel, method, rank, rng=0)
    terms = fit.plan.layer_sensitivities()
    # No worse than one group alone.
    assert fit.error <= 1.001 * fit_kernel(kernel, "tucker2", (28, 28)).error
    np.testing.assert_allclose(terms, np.mean(terms), rtol=1e-6)


def test_large_kernels_are_fitted_through_their_core():
    kernel = decaying((50, 48, 3, 3))
    for method, rank in (("tc", (2, 4, 4)), ("cp3", 8)):
        plain = fit_kernel(kernel, method, rank, stabilise=False, rng=0)
        stable = fit_kernel(kernel, method, rank, rng=0)
        assert stable.error <= 1.03 * plain.error
        assert stable.sensitivity <= plain.sensitivity * 1.01 or stable.error < plain.error


def test_grams_of_a_sandwich_without_forming_them():
    model = Sandwich.random((6, 9, 7), [(2, 3), (3, 2)], 0)
    np.testing.assert_allclose(model.gram_traces(), Form.gram_traces(model))
    for t, part in enumerate(model.network.columns):
        for k in range(3):
            factors = model.gram_factors(t, k)
            whole = factors[0] if len(factors) == 1 else np.kron(*factors)
            np.testing.assert_allclose(whole, model.gram(k)[part[k], part[k]])

    class Plain(Sandwich):
        gram_factors, gram_traces = Model.gram_factors, Form.gram_traces

    plain = Plain.from_matrices(model.network, model.matrices)
    assert optimal_gauge(model).sensitivity() == pytest.approx(optimal_gauge(plain).sensitivity(), rel=1e-9)


def test_balancing_a_plan_leaves_its_kernel_and_lowers_its_sensitivity():
    plan = plan_of(TensorChain.random((5, 9, 6), (2, 3, 4), 0), (3, 3))
    skewed = plan_of(
        TensorChain(
            [
                core * scale
                for core, scale in zip(
                    TensorChain.random((5, 9, 6), (2, 3, 4), 0).cores, (100.0, 0.1, 0.1), strict=True
                )
            ]
        ),
        (3, 3),
    )
    np.testing.assert_allclose(skewed.balanced().kernel, plan.kernel)
    assert skewed.balanced().sensitivity() == pytest.approx(plan.balanced().sensitivity())
    assert plan.balanced().sensitivity() <= plan.sensitivity()


def test_the_error_after_a_fit_of_the_last_layer_is_that_of_a_regression():
    rng = np.random.default_rng(0)
    patches = rng.standard_normal((400, 36)) @ rng.standard_normal((36, 36)) + 0.3
    kernel = rng.standard_normal((10, 4, 3, 3))
    covariance = PatchCovariance.from_patches(patches, 4)
    for rank in ((2, 3), (4, 10)):
        near = fit_kernel(kernel, "tucker2", rank, rng=0).plan.kernel
        seen, wanted = patches @ near.reshape(10, 36).T, patches @ kernel.reshape(10, 36).T
        left = wanted - seen @ np.linalg.lstsq(seen, wanted, rcond=1e-6)[0]
        expected = np.linalg.norm(left) / np.linalg.norm(wanted)
        assert covariance.refitted_error(near, kernel) == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert covariance.refitted_error(near, kernel) <= covariance.relative_error(near, kernel) + 1e-9
    assert covariance.refitted_error(kernel, 0.0 * kernel) == 0.0


def test_with_a_refit_candidates_are_judged_after_it():
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((10, 8, 3, 3))
    covariance = PatchCovariance.from_patches(rng.standard_normal((900, 72)) * np.geomspace(1.0, 0.01, 72), 8)
    options = {"geometry": Geometry(), "image": (8, 8), "candidates": 4, "rng": 0, "covariance": covariance}
    before, after = (curve(kernel, "cp3", refit=refit, **options) for refit in (False, True))
    assert [point.rank for point in before] == [point.rank for point in after]
    assert all(a.error <= b.error + 1e-9 for a, b in zip(after, before, strict=True))
    assert min(a.error / b.error for a, b in zip(after, before, strict=True)) < 0.9
