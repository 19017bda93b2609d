"""Sweeps on fixed memory take the steps of sweeps through any door."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.models import Model
from tensorchain.solvers.fixed_sweeps import FixedSweeps
from tensorchain.solvers.sweeps import Sweeps
from tensorchain.tensors import Dense, as_tensor
from tests.cases import gaussian, relative

CASES = [
    ("cp", (9, 8), 3),
    ("tc", (7, 6), (2, 3)),
    ("cp", (9, 8, 7), 4),
    ("cp", (20, 19, 18), 15),
    ("tc", (9, 8, 7), (2, 3, 2)),
    ("tc", (30, 31, 32), (3, 2, 4)),
    ("tc", (40, 3, 40), 4),
    ("cp", (6, 5, 4, 5), 6),
    ("tc", (6, 5, 4, 5), (2, 1, 3, 2)),
    ("tc", (4, 5, 3, 4, 3), 2),
    ("cp", (4, 1, 3, 4, 1), 2),
]


def made(kind: str, shape: tuple[int, ...], rank: Any, dtype: str = "float64") -> tuple[Any, Model]:
    """A door with a scale, and a start."""
    rng = np.random.default_rng(0)
    start = Model.registry[kind].random(shape, rank, rng, dtype)
    return Dense(gaussian(shape, dtype, rng)).scaled(0.03), start


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(("kind", "shape", "rank"), CASES)
def test_the_same_steps(kind: str, shape: tuple[int, ...], rank: Any, dtype: str) -> None:
    door, start = made(kind, shape, rank, dtype)
    fixed, plain = FixedSweeps.of(door, start), Sweeps(door)
    assert fixed is not None
    left = right = start
    error = plain.error(start)
    assert fixed.error(start) == pytest.approx(error, rel=1e-10)
    ours = error
    for _ in range(4):
        left, error = plain.sweep(left, error)
        right, ours = fixed.sweep(right, ours)
        assert ours == pytest.approx(error, rel=1e-7)
        assert ours == pytest.approx(door.residual_norm(right), rel=1e-7)
        assert relative(right.full(), left.full()) < 1e-6
        for k in range(len(right.matrices)):
            again = right.with_matrices(list(right.matrices))
            assert relative(right.moment(k), again.moment(k)) < 1e-12


def test_models_that_were_handed_out_do_not_change() -> None:
    door, start = made("tc", (9, 8, 7), 2)
    fixed = FixedSweeps.of(door, start)
    assert fixed is not None
    first, error = fixed.sweep(start, fixed.error(start))
    before = [matrix.copy() for matrix in first.matrices]
    fixed.sweep(first, error)
    assert all(np.array_equal(a, b) for a, b in zip(before, first.matrices, strict=True))


def test_blocks_that_were_changed_outside_are_seen() -> None:
    door, start = made("cp", (9, 8, 7), 3)
    fixed = FixedSweeps.of(door, start)
    assert fixed is not None
    swept, _ = fixed.sweep(start, fixed.error(start))
    moved = swept.rescaled([2.0, 1.0, 0.5])
    error = door.residual_norm(moved)
    other, plain = fixed.sweep(moved, error), Sweeps(door).sweep(moved, error)
    assert other[1] == pytest.approx(plain[1], rel=1e-10)
    assert relative(other[0].full(), plain[0].full()) < 1e-8


def test_blocks_without_a_best_value_are_left_or_solved_with_least_norm() -> None:
    """Two equal columns: M is singular."""
    rng = np.random.default_rng(0)
    factors = [np.repeat(rng.standard_normal((n, 1)), 2, axis=1) for n in (6, 5, 4)]
    door, start = Dense(rng.standard_normal((6, 5, 4))), tc.CP(factors)
    fixed = FixedSweeps.of(door, start)
    assert fixed is not None
    error = fixed.error(start)
    for _ in range(3):
        start, lower = fixed.sweep(start, error)
        assert lower <= error * (1.0 + 1e-12)
        assert lower == pytest.approx(door.residual_norm(start), rel=1e-8)
        error = lower


def test_a_run_that_goes_on_has_the_same_products() -> None:
    door, start = made("tc", (30, 31, 32), 2)
    fixed, other = FixedSweeps.of(door, start), FixedSweeps.of(door, start)
    assert fixed is not None
    assert other is not None
    model, error = start, fixed.error(start)
    for _ in range(5):
        model, error = fixed.sweep(model, error)
        # As if the run began here, with what a checkpoint says.
        other = FixedSweeps.of(door, model)
        assert other is not None
        other.keep(model, fixed.kept(model))
        assert other.kept(model) == fixed.kept(model) != []
        ahead, _ = other.sweep(model, error)
        behind, _ = fixed.sweep(model, error)
        assert all(np.array_equal(a, b) for a, b in zip(ahead.matrices, behind.matrices, strict=True))
        model, error = behind, door.residual_norm(behind)
    assert fixed.kept(start) == []


@pytest.mark.parametrize(
    ("tensor", "model"),
    [
        (np.ones((4, 5, 6)), tc.Tucker.random((4, 5, 6), 2, 0)),
        (np.ones((4, 5, 6)), tc.BlockTerm.random((4, 5, 6), [(1, 1, 1), (2, 2, 2)], 0)),
        (np.ones((4, 5, 6), np.float32), tc.CP.random((4, 5, 6), 2, 0, np.float32)),
        (np.ones((4, 5, 6)), tc.CP.random((4, 5, 6), 2, 0, np.complex128)),
        (np.ones((129, 128, 128)), tc.CP.random((129, 128, 128), 1, 0)),
        (tc.Sparse(np.array([[0, 1, 2]]), np.ones(1), (4, 5, 6)), tc.CP.random((4, 5, 6), 2, 0)),
    ],
    ids=["cores", "terms", "single precision", "complex model", "large", "sparse"],
)
def test_others_go_through_the_door(tensor: Any, model: Model) -> None:
    assert FixedSweeps.of(as_tensor(tensor), model) is None
