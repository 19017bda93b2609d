"""T - X, gradient, J^H J and Q on fixed memory against the explicit Jacobian and the formulas of the model."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.models import Model
from tensorchain.tensors import Dense
from tensorchain.tensors.newton import Newton
from tests.cases import gaussian, jacobian, relative

CASES = [
    ("cp", (4, 3, 5), 3),
    ("tc", (4, 3, 5), (2, 3, 2)),
    ("tc", (3, 1, 4), (1, 2, 2)),
    ("cp", (3, 2, 3, 2), 4),
    ("tc", (3, 2, 3, 2), (2, 1, 3, 2)),
    ("tc", (2, 3, 2, 2, 3), 2),
]


def made(kind: str, shape: tuple[int, ...], rank: Any, dtype: str) -> tuple[Dense, Model, Model]:
    rng = np.random.default_rng(0)
    first, second = (Model.registry[kind].random(shape, rank, rng, dtype) for _ in range(2))
    return Dense(gaussian(shape, dtype, rng)).scaled(0.4), first, second


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(("kind", "shape", "rank"), CASES)
def test_against_the_jacobian(kind: str, shape: tuple[int, ...], rank: Any, dtype: str) -> None:
    door, *models = made(kind, shape, rank, dtype)
    assert Newton.fits(door.array, models[0])
    for model in (*models, models[0]):
        J = jacobian(model)
        error = (door.to_dense() - model.full()).ravel()
        residual = door.residual(model)
        assert residual.norm == pytest.approx(np.linalg.norm(error), rel=1e-12)
        assert relative(np.concatenate([g.ravel() for g in residual.gradient]), J.conj().T @ error) < 1e-11
        upper = np.triu_indices(J.shape[1])
        normal = door.gauss_newton(model)
        assert relative(normal[upper], (J.conj().T @ J)[upper]) < 1e-11
        normal[...] = np.diag(np.diag(normal))
        # Told by the door, the figures are those that the model finds by itself.
        alone = model.with_matrices([np.array(matrix) for matrix in model.matrices])
        assert relative(model.block_sensitivities(), alone.block_sensitivities()) < 1e-12
        for k in range(len(model.matrices)):
            assert relative(model.gram(k), alone.gram(k)) < 1e-12
            assert relative(model.sensitivity_metric(k), alone.sensitivity_metric(k)) < 1e-12


def test_answers_stay_with_their_model() -> None:
    """Gradient and metrics of a model are right also after the door has been asked about another."""
    door, first, second = made("tc", (4, 3, 5), 2, "float64")
    residual = door.residual(first)
    door.residual(second)
    expected = jacobian(first).T @ (door.to_dense() - first.full()).ravel()
    assert relative(np.concatenate([g.ravel() for g in residual.gradient]), expected) < 1e-11
    door.residual(second)
    alone = first.with_matrices([np.array(matrix) for matrix in first.matrices])
    assert relative(first.sensitivity_metric(1), alone.sensitivity_metric(1)) < 1e-12
    twin = door.scaled(2.0)
    assert twin.residual(first).norm == pytest.approx(float(np.linalg.norm(twin.to_dense() - first.full())), rel=1e-12)


@pytest.mark.parametrize("solver", [tc.LM(max_iter=40), tc.Path(max_iter=40)], ids=["lm", "path"])
@pytest.mark.parametrize("constraint", [None, tc.Penalty(1e-3), tc.ErrorBound(0.9)], ids=["free", "penalty", "bound"])
def test_solvers_take_the_same_way(solver: Any, constraint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    T = tc.datasets.border_chain((6, 6, 6), (2, 2, 2), np.random.default_rng(0)).tensor
    start = tc.TensorChain.random(T.shape, 2, 1)
    ways = []
    for fits in (Newton.fits, lambda *_: False):
        monkeypatch.setattr(Newton, "fits", staticmethod(fits))
        ways.append(tc.decompose(T, init=start, solver=solver, constraint=constraint, rng=0))
    count = min(len(ways[0].history), len(ways[1].history), 10)
    assert ways[0].history.error[:count] == pytest.approx(ways[1].history.error[:count], rel=1e-6)
    assert ways[0].error == pytest.approx(ways[1].error, rel=0.1)


def test_nothing_overflows_or_vanishes() -> None:
    """Errors whose squares are no numbers are measured with care."""
    rng = np.random.default_rng(0)
    T = rng.standard_normal((4, 3, 5))
    model = tc.CP.random(T.shape, 2, rng)
    tiny = model.with_matrices([matrix * 1e-60 for matrix in model.matrices])
    door = Dense(tiny.full() * (1.0 + 1e-3))
    assert door.residual(tiny).norm == pytest.approx(
        1e-3 * float(np.linalg.norm(door.array / 1e-180)) * 1e-180, rel=1e-6
    )


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda door: pickle.loads(pickle.dumps(door))])
def test_copies_of_a_door_make_their_own_programs(way: Any) -> None:
    door, first, second = made("tc", (4, 3, 5), 2, "float64")
    door.residual(first)
    twin = way(door)
    for model in (second, first):
        residual, expected = twin.residual(model), door.to_dense() - model.full()
        assert residual.norm == pytest.approx(float(np.linalg.norm(expected)), rel=1e-12)
        gradient = np.concatenate([g.ravel() for g in residual.gradient])
        assert relative(gradient, jacobian(model).T @ expected.ravel()) < 1e-11


def test_a_model_outlives_the_door_that_told_it() -> None:
    door, first, _ = made("cp", (4, 3, 5), 3, "float64")
    door.residual(first)
    assert first._known is not None
    source = first._known[1]
    del door
    gc.collect()
    assert source() is None
    alone = first.with_matrices([np.array(matrix) for matrix in first.matrices])
    for k in range(3):
        assert relative(first.sensitivity_metric(k), alone.sensitivity_metric(k)) < 1e-12


def test_an_interrupted_load_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    door, first, second = made("tc", (4, 3, 5), 2, "float64")
    before = door.residual(first).norm

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    assert door._newton is not None
    with monkeypatch.context() as patch:
        patch.setattr(door._newton._values, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            door.residual(second)
    assert door.residual(first).norm == before
