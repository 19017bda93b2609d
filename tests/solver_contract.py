"""What every solver promises on every model, as one class of tests.

    @pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
    @pytest.mark.parametrize("case", CASES, ids=str)
    class TestMine(SolverContract): ...

Nothing here looks inside a solver: it is judged by the Fit that `decompose` returns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import tensorchain as tc
from tests.cases import Case, gaussian, relative

SOLVERS = {"als": tc.ALS(max_iter=60), "lm": tc.LM(max_iter=60), "path": tc.Continuation()}

CONSTRAINTS = {
    "free": None,
    "penalty": tc.Penalty(1e-3),
    "sensitivity": tc.SensitivityBound(300.0),
    "error": tc.ErrorBound(0.9),
}


def fit_of(case: Case, solver: Any, tensor: Any = None, **keywords: Any) -> tc.Fit:
    keywords = {"rng": 0, **keywords}
    tensor = case.tensor() if tensor is None else tensor
    if not isinstance(keywords.get("init"), tc.Model):
        keywords.update(model=case.kind, rank=case.rank)
    return tc.decompose(tensor, solver=solver, **keywords)


def near(case: Case, size: float = 1e-2) -> tuple[Any, Any]:
    """An exact tensor and a start close to its model."""
    truth = case.model(3)
    rng = np.random.default_rng(4)
    moved = [matrix + size * gaussian(matrix.shape, case.dtype, rng) for matrix in truth.matrices]
    return truth, truth.with_matrices(moved)


def same_model(one: Any, two: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.matrices, two.matrices, strict=True))


class SolverContract:
    """The Fit tells the truth, starts are respected, seeds repeat, bounds hold."""

    def test_the_figures_are_those_of_the_model(self, case: Case, solver: Any) -> None:
        T = case.tensor()
        fit = fit_of(case, solver, T)
        assert type(fit.model) is case.kind
        assert fit.model.shape == case.shape
        assert fit.model.dtype == case.dtype
        assert fit.error == pytest.approx(relative(fit.model.full(), T), rel=1e-6, abs=1e-12)
        assert fit.sensitivity == fit.model.sensitivity()
        assert tc.optimal_gauge(fit.model).sensitivity() >= fit.sensitivity * (1 - 1e-6)

    def test_the_history(self, case: Case, solver: Any) -> None:
        fit = fit_of(case, solver)
        history = fit.history
        assert len(history) == len(history.error) == len(history.sensitivity) == len(history.penalty)
        assert fit.iterations == len(history) - 1 > 0
        assert np.all(np.diff(history.seconds) >= 0)
        assert history.seconds[-1] <= fit.seconds
        assert np.all(np.isfinite(history.error))
        assert np.all(np.isfinite(history.sensitivity))
        assert history.error.min() == pytest.approx(fit.error, rel=1e-12)
        assert isinstance(fit.reason, tc.StopReason)
        assert fit.reason.name in repr(fit)

    def test_the_same_seed_gives_the_same_bits(self, case: Case, solver: Any) -> None:
        one, two = (fit_of(case, solver, rng=7) for _ in range(2))
        assert same_model(one.model, two.model)
        assert_array_equal(one.history.error, two.history.error)
        assert one.reason is two.reason
        generator = np.random.default_rng(7)
        assert same_model(fit_of(case, solver, rng=generator).model, one.model)
        assert not same_model(fit_of(case, solver, rng=8).model, one.model)

    def test_an_exact_tensor_from_a_close_start(self, case: Case, solver: Any) -> None:
        truth, start = near(case)
        T = truth.full()
        before = relative(start.full(), T)
        fit = fit_of(case, solver, T, init=start)
        assert fit.error < 0.03 * before
        assert relative(fit.model.full(), T) == pytest.approx(fit.error, rel=1e-3, abs=1e-9)

    def test_a_warm_start_is_never_worse_and_never_changed(self, case: Case, solver: Any) -> None:
        T = case.tensor()
        first = fit_of(case, solver, T)
        blocks = [block.copy() for block in first.model.blocks]
        second = fit_of(case, solver, T, init=first.model)
        assert second.error <= first.error * (1 + 1e-9)
        for block, old in zip(first.model.blocks, blocks, strict=True):
            assert_array_equal(block, old)

    def test_a_start_that_is_the_solution_is_kept(self, case: Case, solver: Any) -> None:
        truth = case.model(3)
        fit = fit_of(case, solver, truth.full(), init=truth)
        assert fit.error < 1e-12
        assert fit.sensitivity <= truth.sensitivity() * (1 + 1e-9)

    def test_a_start_of_singular_vectors(self, case: Case, solver: Any) -> None:
        fit = fit_of(case, solver, init="svd")
        assert fit.error < 1.0
        assert same_model(fit.model, fit_of(case, solver, init="svd").model)

    def test_the_error_is_that_of_a_projection(self, case: Case, solver: Any) -> None:
        # Where X is scaled best, <X, T - X> = 0, so ||T||^2 = ||X||^2 + ||T - X||^2.
        T = case.tensor()
        fit = fit_of(case, solver, T)
        share = (fit.model.norm() / np.linalg.norm(T)) ** 2
        assert share + fit.error**2 == pytest.approx(1.0, abs=1e-3)

    def test_penalty(self, case: Case, solver: Any) -> None:
        T = case.tensor()
        free = fit_of(case, solver, T)
        weight = 0.02 * np.linalg.norm(T) ** 2 / free.sensitivity
        fit = fit_of(case, solver, T, constraint=tc.Penalty(weight))

        def objective(model: Any) -> float:
            return float(np.linalg.norm(T - model.full()) ** 2 + weight * model.sensitivity())

        assert objective(fit.model) <= objective(free.model) * (1 + 1e-9)
        assert fit.error >= fit_of(case, solver, T, init=fit.model).error * (1 - 1e-9)

    @pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
    def test_sensitivity_bound(self, case: Case, solver: Any, scale: float) -> None:
        T = scale * case.tensor()
        blocks = len(case.model().matrices)
        limit = 40.0 * scale ** (2 * (blocks - 1) / blocks)
        fit = fit_of(case, solver, T, constraint=tc.SensitivityBound(limit))
        assert fit.sensitivity <= limit * (1 + 2e-6)
        assert fit.error < 1.0
        assert fit.error == pytest.approx(relative(fit.model.full(), T), rel=1e-6)

    @pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
    def test_error_bound(self, case: Case, solver: Any, scale: float) -> None:
        T = scale * case.tensor()
        free = fit_of(case, solver, T)
        limit = 0.5 * (1.0 + free.error)
        fit = fit_of(case, solver, T, constraint=tc.ErrorBound(limit))
        assert relative(fit.model.full(), T) <= limit * (1 + 2e-6)
        assert fit.sensitivity <= free.sensitivity * (1 + 1e-6)
