"""Equations in the cores without their matrices, held against the matrices, and the memory they take."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.models import Model, core_terms
from tests.cases import ALL, Case, relative

CORES = [case for case in ALL if case.kind in (tc.Tucker, tc.BlockTerm) and len(case.shape) in (2, 3, 4)]
EVERY = [case for case in ALL if len(case.shape) in (3, 4)]


@pytest.fixture(params=["formed", "not formed"])
def limit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cores of several terms as if they were large, or small."""
    monkeypatch.setattr(core_terms, "_FORMED", 10_000 if request.param == "formed" else 0)


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_metrics_are_applied(case: Case) -> None:
    model = case.model()
    counts = [1 if mode is None else 17 + k for k, mode in enumerate(model.network.modes)]
    for held in (model, model.with_row_counts(counts)):
        for k, block in enumerate(case.model(seed=1).matrices):
            generic = Model._gram_of(held, held.moments, k)
            assert relative(held.gram(k), generic) < max(case.tol, 1e-12)
            expected = block @ Model.gram_derivatives(held, held.moments, held.identity_moments)[1][k].T
            assert relative(held.apply_metric(k, block), expected) < max(case.tol, 1e-12)
            assert relative(block @ held.sensitivity_metric(k).T, expected) < max(case.tol, 1e-12)


@pytest.mark.usefixtures("limit")
@pytest.mark.parametrize("penalty", [0.0, 0.03])
@pytest.mark.parametrize("case", [case for case in EVERY if case.dtype != "float32"], ids=str)
def test_penalised_solvers(case: Case, penalty: float) -> None:
    model = case.model()
    for k, block in enumerate(case.model(seed=1).matrices):
        for damping in (0.0, 0.1):
            system = model.gram(k) + penalty * model.sensitivity_metric(k) + damping * np.eye(block.shape[1])
            condition = np.linalg.cond(system)
            if condition > 1e8:
                continue
            solve = model.damped_solver(k, penalty, damping)
            assert solve is not None
            assert relative(solve(block), np.linalg.solve(system, block.T).T) < 1e-12 * condition + 1e-9
            if damping == 0.0:
                found = model.penalised_solver(k, penalty)
                assert found is not None
                assert np.array_equal(found(block), solve(block))


@pytest.mark.usefixtures("limit")
@pytest.mark.parametrize("case", CORES, ids=str)
def test_systems_of_cores(case: Case) -> None:
    """L B with B = solve(L^H L B) is L B, also where L^H L is singular."""
    model = case.model()
    block = case.model(seed=1).matrices[0]
    system = model.system(0)
    image = system.apply(block)
    assert relative(image, block @ model.gram(0).T) < max(case.tol, 1e-12)
    assert relative(system.apply(system.solve(image)), image) < 1e-6
    assert system.trace() == pytest.approx(float(np.trace(model.gram(0)).real), rel=1e-6)


def test_matrices_that_are_not_positive_definite() -> None:
    """A factor with two equal columns."""
    tucker = tc.Tucker.random((5, 4, 6), 2, 0)
    factor = np.repeat(tucker.matrices[1][:, :1], 2, axis=1)
    model = tucker.with_matrix(1, factor)
    assert model.damped_solver(0, 0.0, -1.0) is None
    solve = model.penalised_solver(0, 0.1)
    assert solve is not None
    block = tucker.matrices[0]
    expected = np.linalg.solve(model.gram(0) + 0.1 * model.sensitivity_metric(0), block.T).T
    assert relative(solve(block), expected) < 1e-8


@pytest.mark.parametrize(
    "model",
    [tc.Tucker.random((24, 23, 22), (16, 15, 14), 0), tc.BlockTerm.random((24, 23, 22), [(12, 11, 10)] * 2, 0)],
    ids=["tucker", "btd"],
)
def test_large_cores_are_never_squared(model: Model) -> None:
    """The Gram of these cores would have 50 to 90 MB."""
    rng = np.random.default_rng(0)
    tensor = tc.Dense(rng.standard_normal(model.shape))
    delta = [rng.standard_normal(matrix.shape) for matrix in model.matrices]
    tracemalloc.start()
    evaluator = tensor.evaluator(model)
    evaluator.sensitivity()
    evaluator.error()
    evaluator.gradient()
    evaluator.gauss_newton_matvec(delta)
    tc.sensitivity_gradient(model)
    for k, block in enumerate(delta):
        evaluator.rhs(k)
        evaluator.system(k).solve(block)
        evaluator.apply_metric(k, block)
        if k:
            evaluator.gram(k)
            evaluator.metric(k)
        solve = model.penalised_solver(k, 0.1)
        assert solve is not None
        found = solve(block)
        assert relative(model.system(k).apply(found) + 0.1 * model.apply_metric(k, found), block) < 1e-8
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
