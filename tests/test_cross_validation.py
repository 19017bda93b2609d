"""Held-out errors: measured on what was not seen, for every class of data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorchain as tc

SHAPE = (6, 7, 5)
FAST = tc.ALS(max_iter=20)


def noisy(seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return tc.CP.random(SHAPE, 2, rng).full() + 0.1 * rng.standard_normal(SHAPE)


def masked(weighted: bool = False) -> tc.Masked:
    rng = np.random.default_rng(1)
    weights = rng.uniform(0.5, 2.0, SHAPE) if weighted else None
    return tc.Masked(noisy(), rng.random(SHAPE) < 0.8, weights=weights)


@pytest.mark.parametrize("weighted", [False, True])
def test_errors_are_those_of_the_entries_that_were_left_out(weighted: bool) -> None:
    data = masked(weighted)
    T = noisy()
    weights = np.ones(SHAPE) if data.weights is None else data.weights
    found = tc.cross_validate(data, "cp", 2, folds=4, solver=FAST, rng=3)
    # The same draws once more: each entry is held out once.
    rng = np.random.default_rng(3)
    where = np.argwhere(data.observed)
    member = rng.permutation(np.arange(len(where)) % 4)
    for f, (error, fit) in enumerate(zip(found.errors, found.fits, strict=True)):
        out = tuple(where[member == f].T)
        held = np.sqrt(np.sum(weights[out] * (T - fit.model.full())[out] ** 2) / np.sum(weights[out] * T[out] ** 2))
        seen = tuple(where[member != f].T)
        inside = np.sqrt(
            np.sum(weights[seen] * (T - fit.model.full())[seen] ** 2) / np.sum(weights[seen] * T[seen] ** 2)
        )
        assert error == pytest.approx(held, rel=1e-9)
        assert fit.error == pytest.approx(inside, rel=1e-9)
    assert found.mean == pytest.approx(np.mean(found.errors))
    assert found.standard_error == pytest.approx(np.std(found.errors, ddof=1) / 2.0)


def test_classes_of_data_agree() -> None:
    data = masked()
    where = np.argwhere(data.observed)
    listed = tc.Observed(where, noisy()[tuple(where.T)], SHAPE)
    one, two = (tc.cross_validate(d, "cp", 1, folds=2, solver=FAST, rng=0) for d in (data, listed))
    assert one.errors == pytest.approx(two.errors, rel=1e-6)
    dense, all_of_it = noisy(), np.argwhere(np.ones(SHAPE))
    sparse = tc.Sparse(all_of_it, dense[tuple(all_of_it.T)], SHAPE)
    one, two = (tc.cross_validate(d, "cp", 1, folds=2, solver=FAST, rng=0) for d in (dense, sparse))
    assert one.errors == pytest.approx(two.errors, rel=1e-6)


def test_scale_and_complex_data() -> None:
    T = noisy()
    one, two = (tc.cross_validate(d, "cp", 2, folds=2, solver=FAST, rng=0) for d in (T, 1e60 * T))
    assert one.errors == pytest.approx(two.errors, rel=1e-6)
    rotated = tc.cross_validate(1j * T, "cp", 2, folds=2, solver=tc.ALS(max_iter=60), rng=0)
    assert np.all(rotated.errors < 0.5)


@pytest.mark.parametrize(("model", "right", "wrong"), [("cp", 2, (1, 5)), ("tt", 2, (1, 5))])
def test_planted_ranks_have_the_least_held_out_error(model: str, right: Any, wrong: Any) -> None:
    T = noisy(2)
    best = tc.cross_validate(T, model, right, folds=4, solver=tc.ALS(max_iter=60), rng=0).mean
    for rank in wrong:
        assert best < tc.cross_validate(T, model, rank, folds=4, solver=tc.ALS(max_iter=60), rng=0).mean


@pytest.mark.slow
def test_a_penalty_helps_models_that_are_too_large() -> None:
    T = noisy(2)
    held = tc.cross_validate(
        T, "tc", 3, folds=2, rng=0, solver=tc.ALS(max_iter=60), constraint=tc.Penalty(0.02, relative=True)
    )
    free = tc.cross_validate(T, "tc", 3, folds=2, rng=0, solver=tc.ALS(max_iter=60))
    assert held.mean < free.mean


def test_the_table() -> None:
    found = tc.cross_validate(noisy(), "cp", 2, folds=3, solver=FAST, rng=0)
    text = repr(found)
    assert f"{found.mean:.4g} with standard error" in text
    for error, fit in zip(found.errors, found.fits, strict=True):
        assert f"{error:.4g}, {fit.error:.4g}, {fit.reason.name}" in text


@pytest.mark.parametrize(
    ("keywords", "error", "fragment"),
    [
        ({"folds": 1}, ValueError, "at least 2"),
        ({"folds": 2.5}, ValueError, r"2\.5"),
        ({"folds": 10**6}, ValueError, "210 entries"),
        ({"seed": 1}, TypeError, "cross_validate has no 'seed'; use rng=0"),
    ],
)
def test_wrong_arguments(keywords: Any, error: Any, fragment: str) -> None:
    with pytest.raises(error, match=fragment):
        tc.cross_validate(noisy(), "cp", 2, **keywords)


def test_slices_with_one_entry_cannot_be_divided() -> None:
    mask = np.ones(SHAPE, dtype=bool)
    mask[0] = False
    mask[0, 0, 0] = True
    with pytest.raises(ValueError, match="drop slices"):
        tc.cross_validate(tc.Masked(noisy(), mask), "cp", 1)
