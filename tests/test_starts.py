"""Starts: exact where the theory says so, and better than chance elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.solvers.reduction import reduce, reduced_shape
from tensorchain.solvers.starts import STARTS, algebraic_factors, fitted_multiple, is_tree
from tests.cases import gaussian


def error(model: Any, array: Any) -> float:
    return float(np.linalg.norm(array - model.full()) / np.linalg.norm(array))


def collinear(shape: Any, rank: int, congruence: float, dtype: str, rng: Any) -> Any:
    """A CP whose components have this congruence in every mode."""
    mixing = np.linalg.cholesky((1.0 - congruence) * np.eye(rank) + congruence).T
    return tc.CP([np.linalg.qr(gaussian((size, rank), dtype, rng))[0] @ mixing for size in shape])


class TestAlgebraic:
    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    @pytest.mark.parametrize(
        ("shape", "rank"),
        [
            ((6, 7, 8), 1),
            ((6, 7, 8), 7),
            ((8, 8, 2), 8),
            ((3, 9, 12), 9),
            ((20, 15, 18), 12),
            ((4, 3, 5, 4), 5),
            ((3, 3, 3, 3), 3),
            ((3, 4, 3, 4, 2), 9),
            ((2, 2, 2, 2, 2), 4),
            ((2, 2, 2, 2, 2, 2, 2), 6),
        ],
    )
    def test_exact_without_noise(self, shape: Any, rank: int, dtype: str) -> None:
        for seed in range(3):
            array = tc.CP.random(shape, rank, seed, np.dtype(dtype)).full()
            factors = algebraic_factors(array, rank, np.random.default_rng(seed))
            assert factors is not None
            assert error(tc.CP(factors), array) < 1e-7

    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    @pytest.mark.parametrize("congruence", [0.9, 0.99])
    def test_collinear_components_are_found(self, congruence: float, dtype: str) -> None:
        rng = np.random.default_rng(0)
        for shape, rank in (((10, 9, 8), 4), ((6, 6, 6, 6), 5)):
            array = collinear(shape, rank, congruence, dtype, rng).full()
            factors = algebraic_factors(array, rank, rng)
            assert factors is not None
            assert error(tc.CP(factors), array) < 1e-7

    @pytest.mark.parametrize(("shape", "rank"), [((6, 7), 2), ((6, 5, 4), 6), ((5, 5, 1), 3), ((2, 2, 2, 2), 5)])
    def test_none_where_there_is_no_room(self, shape: Any, rank: int) -> None:
        assert algebraic_factors(np.ones(shape), rank, np.random.default_rng(0)) is None

    def test_a_tensor_of_lower_rank_gives_finite_factors_or_none(self) -> None:
        for array in (np.ones((5, 5, 5)), np.zeros((5, 5, 5))):
            factors = algebraic_factors(array, 3, np.random.default_rng(0))
            assert factors is None or all(np.isfinite(factor).all() for factor in factors)

    def test_near_the_truth_under_noise(self) -> None:
        for seed, (shape, rank) in enumerate([((30, 30, 30), 6), ((20, 25, 30), 4), ((8, 9, 8, 7), 4)]):
            signal = tc.CP.random(shape, rank, seed).full()
            noise = np.random.default_rng(seed).standard_normal(shape)
            array = signal + 0.01 * noise * np.linalg.norm(signal) / np.linalg.norm(noise)
            like = tc.CP.random(shape, rank, 0)
            start = STARTS["algebraic"](like, tc.Dense(array), np.random.default_rng(1))
            assert start is not None
            # A random start has an error of about 1.
            assert error(start, array) < 0.2

    def test_other_models_have_none(self) -> None:
        like = tc.TensorChain.random((4, 4, 4), 2, 0)
        assert STARTS["algebraic"](like, tc.Dense(np.ones((4, 4, 4))), np.random.default_rng(0)) is None


TREES = [
    (tc.Tucker, (12, 10, 9), (3, 4, 2)),
    (tc.Tucker, (6, 5, 7, 4), (2, 3, 3, 2)),
    (tc.TensorChain, (8, 9, 10), (1, 3, 4)),
    (tc.TensorChain, (5, 4, 6, 5), (1, 3, 4, 3)),
    (tc.TensorChain, (5, 4, 6, 5), (3, 4, 1, 3)),
]


class TestSingularVectors:
    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    @pytest.mark.parametrize(("kind", "shape", "rank"), TREES)
    def test_trees_are_exact_without_noise(self, kind: Any, shape: Any, rank: Any, dtype: str) -> None:
        like = kind.random(shape, rank, 0, np.dtype(dtype))
        array = kind.random(shape, rank, 1, np.dtype(dtype)).full()
        start = STARTS["svd"](like, tc.Dense(array), np.random.default_rng(0))
        assert start is not None
        assert error(start, array) < 1e-10

    @pytest.mark.parametrize(("kind", "shape", "rank"), TREES)
    def test_trees_are_quasi_optimal(self, kind: Any, shape: Any, rank: Any) -> None:
        # The error of either is at most the root of the number of truncations times the best one.
        array = np.random.default_rng(0).standard_normal(shape)
        start = STARTS["svd"](kind.random(shape, rank, 0), tc.Dense(array), np.random.default_rng(0))
        assert start is not None
        best = tc.decompose(array, kind, rank, rng=0, solver=tc.ALS(), starts=3).error
        assert best <= error(start, array) <= np.sqrt(len(shape)) * best

    @pytest.mark.parametrize(
        ("kind", "rank", "tree"),
        [(tc.CP, 2, False), (tc.TensorChain, (2, 2, 2), False), (tc.TensorChain, (2, 1, 2), True)],
    )
    def test_what_a_tree_is(self, kind: Any, rank: Any, tree: bool) -> None:
        assert is_tree(kind.random((5, 5, 5), rank, 0)) is tree

    def test_terms_are_no_tree(self) -> None:
        assert not is_tree(tc.BlockTerm.random((5, 5, 5), [(2, 2, 2)], 0))
        assert is_tree(tc.Tucker.random((5, 5, 5), 2, 0))


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("name", list(STARTS))
@pytest.mark.parametrize(
    ("kind", "shape", "rank"),
    [
        (tc.CP, (9, 8, 10), 3),
        (tc.Tucker, (9, 8, 10), (2, 3, 2)),
        (tc.BlockTerm, (9, 8, 10), [(2, 2, 2), (1, 1, 2)]),
        (tc.TensorChain, (9, 8, 10), (2, 2, 2)),
        (tc.TensorChain, (12, 11, 9), (1, 3, 2)),
    ],
)
def test_starts_on_a_core_are_starts_for_the_tensor(kind: Any, shape: Any, rank: Any, name: str, dtype: str) -> None:
    array = gaussian(shape, dtype, np.random.default_rng(0)) + kind.random(shape, rank, 1, np.dtype(dtype)).full()
    network = kind.wiring(shape, rank)
    reduction = reduce(tc.Dense(array), reduced_shape(network, shape))
    like = reduction.lower(kind.random(shape, rank, 2, np.dtype(dtype)))
    start = STARTS[name](like, reduction.tensor, np.random.default_rng(3))
    if start is None:
        assert (name, kind is tc.CP) == ("algebraic", False)
        return
    assert start.row_counts == like.row_counts
    assert start.dtype == np.dtype(dtype)
    assert error(reduction.lift(start), array) < 1.0
    multiple = np.vdot(start.full(), reduction.core) / np.vdot(start.full(), start.full())
    assert abs(multiple - 1.0) < (0.5 if name == "algebraic" else 1e-10)


def test_a_multiple_of_the_tensor_is_found_at_any_phase() -> None:
    model = tc.CP.random((5, 6, 7), 2, 0, np.complex128)
    array = model.full() * (3.0 - 4.0j)
    assert error(fitted_multiple(model, tc.Dense(array)), array) < 1e-12
