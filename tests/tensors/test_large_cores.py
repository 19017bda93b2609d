"""Large cores of data with gaps: their Gram is never formed, and everything is as if it were."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.kernels import GramSystem
from tensorchain.solvers.blocks import BlockProblem
from tensorchain.solvers.constraints import Sensitivity, SquaredError
from tensorchain.solvers.krylov import preconditioner
from tensorchain.tensors import curvature
from tests.cases import ALL, Case, relative
from tests.tensors.sources import PARTIAL, Way

CASES = [case for case in ALL if case.kind in (tc.Tucker, tc.BlockTerm) and case.dtype != "float32"]
CASES = [case for case in CASES if len(case.shape) in (3, 4)]


@pytest.fixture(autouse=True)
def unformed(monkeypatch: pytest.MonkeyPatch) -> None:
    """All cores as if they were large."""
    monkeypatch.setattr(curvature, "_UNFORMED", 0)


@pytest.mark.parametrize("way", PARTIAL, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
class TestAgainstTheGram:
    def test_it_is_applied_and_solved(self, case: Case, way: Way) -> None:
        model, data = case.model(), way.open(case.tensor(), way.weights(case.shape))
        k = model.network.modes.index(None)
        block = case.model(seed=1).matrices[k]
        system, formed = data.system(model, k), GramSystem(data.gram(model, k))
        assert not isinstance(system, GramSystem)
        assert relative(system.apply(block), formed.apply(block)) < 1e-12
        assert relative(data.apply_gram(model, k, block), formed.apply(block)) < 1e-12
        # Any solution will do where the data do not determine the core.
        right = formed.apply(block)
        assert relative(formed.apply(system.solve(right)), right) < 1e-7
        assert 0.3 < system.trace() / formed.trace() < 3.0

    def test_a_block_beside_a_penalty(self, case: Case, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
        model, data = case.model(), way.open(case.tensor(), way.weights(case.shape))
        k = model.network.modes.index(None)
        at = data.evaluator(model)
        values = {SquaredError(): at.error() ** 2, Sensitivity(): at.sensitivity()}
        weights = {SquaredError(): 0.7, Sensitivity(): 0.02}
        iterated = BlockProblem.of(at, k, values)
        changes = [iterated.change(weights)]
        images = [iterated.apply(SquaredError(), changes[0])]
        monkeypatch.setattr(curvature, "_UNFORMED", 10_000)
        direct = BlockProblem.of(at, k, values)
        changes.append(direct.change(weights))
        images.append(direct.apply(SquaredError(), changes[0]))
        assert relative(changes[0], changes[1]) < 1e-4
        assert relative(images[0], images[1]) < 1e-12

    def test_joint_steps_have_a_preconditioner(self, case: Case, way: Way) -> None:
        model, data = case.model(), way.open(case.tensor(), way.weights(case.shape))
        inverse = preconditioner(data.evaluator(model), 0.02, 0.1)
        assert inverse is not None
        blocks = list(case.model(seed=1).matrices)
        # Positive definite, and near the inverse of the block that it stands for.
        moved = inverse(blocks)
        assert sum(np.vdot(b, m).real for b, m in zip(blocks, moved, strict=True)) > 0.0
        k = model.network.modes.index(None)
        system = data.gram(model, k).reshape(2 * (blocks[k].shape[1],)) + 0.02 * model.sensitivity_metric(k)
        exact = np.linalg.solve(system + 0.1 * np.eye(len(system)), blocks[k].T).T
        assert np.vdot(moved[k], exact).real > 0.5 * np.linalg.norm(moved[k]) * np.linalg.norm(exact)


def test_preconditioning_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries missing at random: a dozen steps."""
    rng = np.random.default_rng(0)
    model = tc.Tucker.random((30, 28, 26), (6, 7, 5), rng)
    data = tc.Masked(rng.standard_normal(model.shape), rng.random(model.shape) < 0.3)
    steps: list[int] = []
    plain = tc.Masked.apply_gram

    def counted(*given: Any) -> Any:
        steps.append(1)
        return plain(*given)

    monkeypatch.setattr(tc.Masked, "apply_gram", counted)
    data.system(model, 0).solve(data.contract_all_but(model, 0))
    assert 2 <= len(steps) <= 25


@pytest.mark.parametrize("constraint", [None, tc.Penalty(1e-3), tc.ErrorBound(0.5)], ids=str)
@pytest.mark.parametrize("solver", [tc.ALS(max_iter=4), tc.LM(max_iter=3)], ids=["als", "lm"])
def test_memory(solver: Any, constraint: Any) -> None:
    """A core of 3000 numbers, whose Gram would take 72 MB."""
    rng = np.random.default_rng(0)
    shape = (24, 22, 20)
    data = tc.Masked(rng.standard_normal(shape), rng.random(shape) < 0.6)
    start = tc.Tucker.random(shape, (15, 20, 10), rng)
    tracemalloc.start()
    fit = tc.decompose(data, init=start, solver=solver, constraint=constraint)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert fit.error < fit.history.error[0]
    assert peak < 30e6
