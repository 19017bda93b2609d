"""Fits on the quantization grid against rounding, brute force over all grids, and explicit least squares."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.compression import PatchCovariance, fit_kernel, fit_on_grid, quantizer
from tensorchain.compression.grid import _Problem, _Regularised
from tensorchain.compression.plans import tucker_cp_model, with_tucker_cp_model
from tensorchain.compression.sandwich import Sandwich
from tests.cases import crossed, mostly_slow

SHAPE = (8, 9, 10)
MODELS = {
    "tc": (tc.TensorChain, (2, 3, 3)),
    "cp": (tc.CP, 5),
    "tucker": (tc.Tucker, (3, 3, 4)),
    "btd": (tc.BlockTerm, [(2, 2, 2), (3, 2, 2)]),
    "sandwich": (Sandwich, [(2, 3), (2, 1)]),
}


def noisy(kind, rank, seed, shape=SHAPE):
    rng = np.random.default_rng(seed)
    clean = kind.random(shape, rank, rng).full()
    noise = rng.standard_normal(shape)
    return clean / np.linalg.norm(clean) + 0.2 * noise / np.linalg.norm(noise)


def free_fit(tensor, kind, rank, seed=0):
    fit = tc.decompose(tensor, kind, rank, solver=tc.ALS(max_iter=60), init="svd", rng=seed)
    return tc.optimal_gauge(fit.model)


def smooth(shape, seed):
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal(shape)
    for axis in (0, 1):
        basis = np.linalg.qr(rng.standard_normal((shape[axis],) * 2))[0] * np.exp(-0.3 * np.arange(shape[axis]))
        kernel = np.moveaxis(np.tensordot(basis, kernel, axes=(1, axis)), 0, axis)
    return kernel


@crossed(every=2, fast=3, name=list(MODELS), bits=[2, 6])
def test_never_worse_than_rounding_and_better_over_seeds(name, bits):
    kind, rank = MODELS[name]
    gains = []
    for seed in range(2):
        tensor = noisy(kind, rank, seed)
        start = free_fit(tensor, kind, rank)
        fit = fit_on_grid(tensor, start, bits)
        size = np.linalg.norm(tensor)
        assert fit.error == pytest.approx(np.linalg.norm(tensor - fit.model.full()) / size, rel=1e-9)
        rounded = tc.round_blocks(start, bits)
        assert fit.rounded_error <= np.linalg.norm(tensor - rounded.full()) / size * (1 + 1e-12)
        assert fit.error <= fit.rounded_error
        assert fit.free_error == pytest.approx(np.linalg.norm(tensor - start.full()) / size, rel=1e-9)
        for matrix, step, integers in zip(fit.model.matrices, fit.steps, fit.integers, strict=True):
            assert np.array_equal(matrix, integers * step)
            assert np.abs(integers).max() <= 2 ** (bits - 1) - 1
        gains.append(fit.error / fit.rounded_error)
    # At 6 bits rounding costs next to nothing; there is little to win back.
    assert np.mean(gains) < (0.999 if bits == 6 else 0.97)


def test_a_step_for_each_row_and_bits_for_each_block():
    kind, rank = MODELS["tc"]
    tensor = noisy(kind, rank, 0)
    start = free_fit(tensor, kind, rank)
    whole, rows = (fit_on_grid(tensor, start, 3, scale=scale) for scale in ("block", "slice"))
    assert [step.shape for step in rows.steps] == [(8, 1), (9, 1), (10, 1)]
    for matrix, step, integers in zip(rows.model.matrices, rows.steps, rows.integers, strict=True):
        assert np.array_equal(matrix, integers * step)
        assert np.abs(integers).max() <= 3
    assert rows.error < rows.rounded_error
    assert rows.error < whole.error
    bits = tc.allocate_bits(start, 4 * start.n_parameters).bits
    mixed = fit_on_grid(tensor, start, bits)
    assert mixed.bits == bits
    assert [int(np.abs(q).max()) <= 2 ** (b - 1) - 1 for q, b in zip(mixed.integers, bits, strict=True)] == [True] * 3
    assert mixed.error < mixed.rounded_error


def test_small_problems_reach_the_best_of_all_grids():
    """Rank-1 matrices of 2-bit integers: the best of all 3^6 pairs of integer vectors, with its best scale."""
    found = []
    for seed in range(6):
        matrix = np.random.default_rng(seed).standard_normal((3, 3))
        best = min(
            np.sum(matrix**2) - max(left @ matrix @ right, 0.0) ** 2 / (left @ left * (right @ right))
            for left in map(np.array, itertools.product((-1, 0, 1), repeat=3))
            for right in map(np.array, itertools.product((-1, 0, 1), repeat=3))
            if left.any() and right.any()
        )
        u, s, vh = np.linalg.svd(matrix)
        start = tc.CP([u[:, :1] * s[0], vh[:1].T])
        error = fit_on_grid(matrix, start, 2).error * np.linalg.norm(matrix)
        assert error >= np.sqrt(best) * (1 - 1e-9)
        found.append(error <= np.sqrt(best) * (1 + 1e-9))
    assert sum(found) >= 4


def test_roots_measure_the_error_and_lower_it():
    kind, rank = MODELS["tc"]
    tensor, rng = noisy(kind, rank, 1), np.random.default_rng(5)
    start = free_fit(tensor, kind, rank)
    roots = [rng.standard_normal((8, 8)), rng.standard_normal((9, 9)), None]
    plain, aware = fit_on_grid(tensor, start, 3), fit_on_grid(tensor, start, 3, roots=roots)

    def seen(model):
        change = np.einsum("ai,bj,ijk->abk", roots[0], roots[1], tensor - model.full())
        return np.linalg.norm(change) / np.linalg.norm(np.einsum("ai,bj,ijk->abk", roots[0], roots[1], tensor))

    assert aware.error == pytest.approx(seen(aware.model), rel=1e-9)
    assert aware.error <= aware.rounded_error
    assert aware.error < seen(plain.model)


@pytest.mark.parametrize("rooted", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_the_quadratic_of_a_block_is_that_of_explicit_least_squares(name, rooted):
    kind, rank = MODELS[name]
    rng, shape = np.random.default_rng(2), (4, 5, 6)
    tensor, model = noisy(kind, rank, 2, shape), kind.random(shape, rank, rng)
    roots = [rng.standard_normal((n, n)) if rooted and n != 6 else np.eye(n) for n in shape]
    problem = _Problem(tensor, model, roots if rooted else None)

    def residual(candidate):
        return np.einsum("ai,bj,ck,ijk->abc", *roots, tensor - candidate.full()).ravel()

    for k, matrix in enumerate(model.matrices):
        gram, rhs, metric = problem.quadratic(model, k)
        zero = residual(model.with_matrix(k, np.zeros_like(matrix)))
        units = np.eye(matrix.size).reshape(-1, *matrix.shape)
        design = np.array([zero - residual(model.with_matrix(k, unit)) for unit in units]).T
        solve = _Regularised(gram, metric, 0.3)
        target = rng.standard_normal(matrix.shape)
        system = design.T @ design + solve.rho * np.eye(matrix.size)
        expected = np.linalg.solve(system, design.T @ zero + solve.rho * target.ravel())
        assert np.allclose(solve(rhs + solve.rho * target).ravel(), expected, rtol=1e-7, atol=1e-9)


RANKS = {
    "tc": (2, 3, 3),
    "cp3": 6,
    "tucker-cp": (3, 4, 5),
    "svd": 3,
    "cp4": 6,
    "tucker2": (3, 4),
    "btd": [(2, 2), (2, 1)],
}


@pytest.mark.parametrize("method", mostly_slow(RANKS, 4))
def test_kernels_are_fitted_on_the_grid_by_every_method(method):
    kernel = smooth((10, 8, 1, 1) if method == "svd" else (10, 8, 3, 3), 0).astype(np.float32)
    # The correction that lowers the sensitivity first is the same for all: once with it is enough.
    fit = fit_kernel(kernel, method, RANKS[method], weight_bits=4, rng=0, stabilise=method == "tc")
    free = fit_kernel(kernel, method, RANKS[method], rng=0, stabilise=False)
    assert fit.error == pytest.approx(np.linalg.norm(fit.plan.kernel - kernel) / np.linalg.norm(kernel), rel=1e-4)
    assert fit.error < fit.rounded_error
    assert fit.bits == (4,) * len(fit.plan.convolutions)
    assert free.bits is None
    for layer in fit.plan.convolutions:
        grid = quantizer(layer.weight, 4, range_by="mse")
        assert np.allclose(grid.rounded(layer.weight), layer.weight, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("method", mostly_slow(["tc", "cp4", "tucker-cp"]))
def test_the_error_of_the_output_is_minimised_on_the_grid(method):
    kernel, rng = smooth((10, 8, 3, 3), 3), np.random.default_rng(4)
    mixing = np.kron(rng.standard_normal((8, 8)) * np.exp(-0.7 * np.arange(8)), np.eye(9))
    covariance = PatchCovariance.from_patches(rng.standard_normal((500, 72)) @ mixing.T, 8)
    options = {"covariance": covariance, "rng": 0, "stabilise": False}
    free, aware, blind = (
        fit_kernel(kernel, method, RANKS[method], fit_output=fit_output, weight_bits=bits, **options).output_error
        for fit_output, bits in ((True, None), (True, 3), (False, 3))
    )
    assert free < aware < blind


def test_shared_bits_stay_within_their_mean():
    kernel = smooth((10, 8, 3, 3), 1)
    fit = fit_kernel(kernel, "tc", (2, 3, 3), weight_bits=4, share_bits=True, rng=0)
    sizes = [layer.weight.size for layer in fit.plan.convolutions]
    assert sum(n * b for n, b in zip(sizes, fit.bits, strict=True)) <= 4 * sum(sizes)


@pytest.mark.parametrize(
    ("shape", "rank"), [((10, 8, 3, 3), (3, 4, 5)), ((6, 5, 3, 3), (4, 5, 2)), ((20, 5, 3, 1), (4, 3, 9))]
)
def test_layers_of_tucker_cp_are_one_model(shape, rank):
    plan = fit_kernel(smooth(shape, 2), "tucker-cp", rank, stabilise=False, rng=0).plan
    model = tucker_cp_model(plan)
    kernel = model.full().reshape(shape[1], *shape[2:], shape[0]).transpose(3, 0, 1, 2)
    assert np.allclose(kernel, plan.kernel)
    assert model.sensitivity() == pytest.approx(plan.sensitivity(), rel=1e-9)
    back = with_tucker_cp_model(plan, model)
    assert all(np.array_equal(a.weight, b.weight) for a, b in zip(plan.convolutions, back.convolutions, strict=True))


def test_values_on_a_grid_keep_it():
    rng = np.random.default_rng(0)
    integers = rng.integers(-6, 7, (5, 40))
    values = (integers * np.geomspace(1e-3, 10, 5)[:, None]).astype(np.float32)
    grid = quantizer(values, 4, axis=0, range_by="mse")
    assert np.allclose(grid.rounded(values), values, rtol=1e-6)
    free = rng.standard_normal((5, 40))
    assert np.abs(quantizer(free, 4, axis=0, range_by="mse").rounded(free) - free).max() > 1e-3


@pytest.mark.parametrize(
    ("change", "message", "error"),
    [
        ({"bits": 1}, "2 to 16", ValueError),
        ({"bits": [4, 4]}, "3 blocks", ValueError),
        ({"scale": "row"}, "scale", ValueError),
        ({"max_iter": -1}, "max_iter", ValueError),
        ({"tensor": np.ones((8, 9, 11))}, "must be equal", ValueError),
        ({"tensor": np.zeros(SHAPE)}, "nothing to fit", ValueError),
        ({"tensor": np.ones(SHAPE, complex)}, "complex", TypeError),
        ({"tensor": tc.Masked(np.ones(SHAPE), np.arange(720).reshape(SHAPE) % 3 > 0)}, "only some", TypeError),
        ({"model": "tc"}, "model is", TypeError),
        ({"roots": [None]}, "one, or None", ValueError),
        ({"roots": [np.eye(3), None, None]}, "root of mode 0", ValueError),
    ],
)
def test_what_has_no_grid_is_refused(change, message, error):
    given = {"tensor": np.ones(SHAPE), "model": tc.TensorChain.random(SHAPE, 2, rng=0), **change}
    with pytest.raises(error, match=message):
        fit_on_grid(given.pop("tensor"), given.pop("model"), **given)
