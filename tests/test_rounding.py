"""Rounding: the error that is told is the true one, within what was asked, and parameters fall to what is known."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.models.refit import _projected
from tests.cases import Case, crossed, four_models, gaussian, random_gauge, relative
from tests.test_arrays import Ladder

CASES = [
    case.as_type(dtype) for order in (2, 3, 4) for case in four_models(order) for dtype in ("float64", "complex128")
]


def distance(model: Any, other: Any) -> float:
    return relative(other.full(), model.full())


@crossed(case=CASES, error=[0.0, 0.05, 0.5])
def test_the_error_is_the_true_one_and_within(case: Case, error: float) -> None:
    model = case.model()
    small, reached = model.rounded(error)
    assert type(small) is type(model)
    assert small.dtype == case.dtype
    assert reached <= max(error, 1e-11)
    assert distance(model, small) == pytest.approx(reached, rel=1e-6, abs=1e-11)
    assert small.n_parameters <= model.n_parameters


@pytest.mark.parametrize("case", four_models(3), ids=str)
def test_doubled_ranks_fall_back(case: Case) -> None:
    model = case.model()
    other = random_gauge(model, np.random.default_rng(1), 0.3)
    doubled = model + 2 * other
    small, reached = doubled.rounded(1e-8)
    assert small.n_parameters <= model.n_parameters
    assert reached < 1e-8
    assert distance(3 * model, small) < 2e-8


def test_single_precision() -> None:
    for case in four_models(3):
        model = case.as_type("float32").model()
        small, reached = (model + model).rounded(1e-4)
        assert small.dtype == np.float32
        assert small.n_parameters <= model.n_parameters
        assert distance(2 * model, small) < 1e-4 + 1e-5
        assert reached < 1e-4


def test_nothing_falls_where_nothing_can() -> None:
    for case in four_models(4):
        model = case.model()
        if case.kind in (tc.CP, tc.Tucker):
            small, reached = model.rounded(1e-6)
            assert small == model
            assert reached == 0.0


def truncations(model: tc.Tucker) -> dict[tuple[int, ...], float]:
    """Error of every truncation of the HOSVD, from the tensor."""
    T = model.full()
    bases = [np.linalg.svd(np.moveaxis(T, n, 0).reshape(len(np.moveaxis(T, n, 0)), -1))[0] for n in range(T.ndim)]
    errors = {}
    for ranks in itertools.product(*(range(1, rank + 1) for rank in model.rank)):
        X = T
        for n, rank in enumerate(ranks):
            basis = bases[n][:, :rank]
            X = np.moveaxis(np.tensordot(basis @ basis.conj().T, X, axes=(1, n)), 0, n)
        errors[ranks] = relative(X, T)
    return errors


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_tucker_takes_the_smallest_truncation(dtype: str) -> None:
    rng = np.random.default_rng(0)
    decay = np.exp(-0.8 * np.add.outer(np.add.outer(np.arange(4.0), np.arange(3.0)), np.arange(4.0)))
    factors = [gaussian((size, rank), dtype, rng) for size, rank in zip((8, 5, 7), decay.shape, strict=True)]
    model = tc.Tucker(gaussian(decay.shape, dtype, rng) * decay, factors)
    errors = truncations(model)
    for error in (0.3, 0.1, 0.03, 0.01):
        small, reached = model.rounded(error)
        assert reached == pytest.approx(errors[small.rank], rel=1e-8)
        sizes = {
            ranks: np.prod(ranks) + sum(size * rank for size, rank in zip(model.shape, ranks, strict=True))
            for ranks, value in errors.items()
            if value <= error
        }
        assert small.n_parameters == min(sizes.values())


@pytest.mark.parametrize("error", [1e-2, 1e-4, 1e-9])
def test_trains_of_a_smooth_function(error: float) -> None:
    # sin of a sum has bonds of two, exactly: what is beside it is noise below the error.
    grid = [np.linspace(0.0, 1.0, size) for size in (6, 7, 8, 5)]
    total = sum(np.meshgrid(*grid, indexing="ij"))
    T = np.sin(total) + 0.01 * error * np.random.default_rng(0).standard_normal(total.shape)
    cores, rest = [], T
    for size in T.shape[:-1]:
        left = cores[-1].shape[2] if cores else 1
        u, s, vh = np.linalg.svd(rest.reshape(left * size, -1), full_matrices=False)
        cores.append(u.reshape(left, size, -1))
        rest = s[:, None] * vh
    train = tc.TensorChain([*cores, rest.reshape(-1, T.shape[-1], 1)])
    small, reached = train.rounded(error)
    assert small.bonds == (1, 2, 2, 2)
    assert reached == pytest.approx(distance(train, small), rel=1e-5)
    assert reached <= error


def test_a_train_that_begins_elsewhere() -> None:
    train = tc.TensorChain.random((4, 5, 6), (3, 2, 1), rng=0)
    double = train + train
    small, reached = double.rounded()
    assert small.bonds == (3, 2, 1)
    assert distance(double, small) == pytest.approx(reached, abs=1e-12)


def test_a_weak_component_goes() -> None:
    rng = np.random.default_rng(0)
    strong, weak = tc.CP.random((6, 7, 8), 2, rng), tc.CP.random((6, 7, 8), 1, rng)
    weak = weak * (0.01 * strong.norm() / weak.norm())
    assert (strong + weak).rounded(0.02).model.rank == 2
    assert (strong + weak).rounded(0.001).model.rank == 3


@pytest.mark.parametrize("seed", range(3))
def test_fits_of_a_cp_with_too_large_a_rank_fall_to_the_true_one(seed: int) -> None:
    canonical = tc.datasets.exact_cp((9, 10, 11), 3, np.random.default_rng(seed)).tensor
    small, reached = tc.decompose(canonical, "cp", 5, rng=seed).model.rounded(1e-3)
    assert small.rank == 3
    assert relative(small.full(), canonical) == pytest.approx(reached, abs=1e-6)


def test_the_error_does_not_hang_on_the_scale() -> None:
    for kind, rank in (("cp", 2), ("tc", 2), ("tucker", 2), ("btd", [(1, 1, 1), (2, 2, 2)])):
        model = tc.Model.registry[kind].random((5, 6, 7), rank, rng=0)
        model = model + model
        plain = model.rounded(1e-3)
        for factor in (1e-60, 1e60):
            scaled = (factor * model).rounded(1e-3)
            assert scaled.model.n_parameters == plain.model.n_parameters
            assert scaled.model.norm() == pytest.approx(factor * model.norm(), rel=2e-3)


def test_zero_models() -> None:
    for case in four_models(3):
        small, reached = (0 * case.model()).rounded(0.1)
        assert reached == 0.0
        assert np.all(small.full() == 0.0)


def test_a_wiring_from_elsewhere() -> None:
    model = Ladder.random((6, 7, 8), 2, rng=0)
    small, reached = (model + model).rounded(1e-6)
    assert type(small) is Ladder
    assert small.n_parameters <= model.n_parameters
    assert distance(2 * model, small) == pytest.approx(reached, abs=1e-10)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_projections_of_models_on_models(case: Case) -> None:
    target, model = tc.Tucker.random(case.shape, 2, 5), case.model()
    T = tc.Dense(target.full().astype(case.dtype))
    for k in range(len(model.matrices)):
        assert relative(_projected(target, model, k), T.contract_all_but(model, k)) < 1e-11


@pytest.mark.parametrize("wrong", [-0.1, 1.0, np.nan, 2, None, "a"])
def test_errors_out_of_range_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="from 0 to below 1"):
        tc.CP.random((3, 4), 1, 0).rounded(wrong)
