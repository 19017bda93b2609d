"""Bonds of a train for an error: within the budget, and as few parameters as all that were tried one by one."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.solvers.train_ranks import fewest_ranks, train_svd


def size(shape: tuple[int, ...], ranks: Any) -> int:
    bonds = [1, *ranks, 1]
    return sum(left * n * right for left, n, right in zip(bonds, shape, bonds[1:], strict=False))


def smooth(shape: tuple[int, ...], seed: int) -> Any:
    """A tensor whose unfoldings fall at different speeds."""
    rng = np.random.default_rng(seed)
    T = rng.standard_normal(shape)
    for n, length in enumerate(shape):
        u = np.linalg.qr(rng.standard_normal((length, length)))[0]
        decay = np.exp(-rng.uniform(0.2, 1.5) * np.arange(length))
        T = np.moveaxis(np.tensordot(u * decay, T, axes=(1, n)), 0, n)
    return T


@pytest.mark.parametrize("shape", [(6, 5, 4), (4, 3, 5, 3), (7, 8)])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("error", [0.2, 0.05])
def test_against_all_bonds_one_by_one(shape: tuple[int, ...], seed: int, error: float) -> None:
    T = smooth(shape, seed)
    ranks = fewest_ranks(T, error)
    assert ranks is not None
    cuts = [int(np.prod(shape[:n])) for n in range(1, len(shape))]
    spectra = [np.linalg.svd(T.reshape(cut, -1), compute_uv=False) ** 2 for cut in cuts]
    budget = error**2 * np.sum(T**2)
    within = [
        size(shape, bonds)
        for bonds in itertools.product(*(range(1, len(s) + 1) for s in spectra))
        if sum(s[bond:].sum() for s, bond in zip(spectra, bonds, strict=True)) <= budget
    ]
    # The best along the convex hull: equal to the least of all, or not far above it.
    assert min(within) <= size(shape, ranks) <= 1.15 * min(within)
    cores = train_svd(T, error, ranks)
    assert [core.shape[2] for core in cores[:-1]] == ranks
    whole = tc.TensorChain(cores).full()
    assert np.linalg.norm(T - whole) <= error * np.linalg.norm(T) * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_a_search_is_never_above_tt_svd(seed: int) -> None:
    T = smooth((6, 7, 5, 4), seed)
    for error in (0.1, 0.02):
        textbook = sum(core.size for core in train_svd(T, error))
        fit = tc.decompose(T, "tt", error=error, rng=0)
        assert fit.error <= error
        assert fit.model.n_parameters <= min(textbook, size(T.shape, fewest_ranks(T, error)))


def test_any_scale_and_dtype() -> None:
    T = smooth((6, 5, 4), 0)
    assert fewest_ranks(1e-120 * T, 0.1) == fewest_ranks(T, 0.1) == fewest_ranks(T * 1j, 0.1)


@pytest.mark.slow
def test_a_large_cp_is_not_given_up_by_sweeps_that_creep() -> None:
    picture = tc.datasets.unfold_image(tc.datasets.photograph("china", (4, 4, 3)), (4, 4, 3))
    fit = tc.decompose(picture, "cp", error=0.05, rng=0)
    assert fit.model.n_parameters > 1000
    assert np.linalg.norm(picture - fit.model.full()) <= 0.05 * np.linalg.norm(picture)
    sweeps = tc.ALS(max_iter=300, tol=1e-9)
    less = tc.decompose(picture, "cp", fit.model.rank - 1, init="svd", solver=sweeps, rng=0)
    assert less.error > 0.05


@pytest.mark.parametrize("model", ["tt", "tc", "tucker", "btd"])
def test_truncations_heed_the_time(model: str) -> None:
    T = np.random.default_rng(0).standard_normal((20, 20, 20))
    fit = tc.decompose(T, model, error=0.5, max_seconds=1e-9, rng=0)
    assert fit.reason is tc.StopReason.TIME_LIMIT
    assert fit.model.n_parameters <= 61
    assert fit.error == pytest.approx(np.linalg.norm(T - fit.model.full()) / np.linalg.norm(T), rel=1e-9)
