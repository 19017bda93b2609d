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

SOLVERS = {"als": tc.ALS(max_iter=60), "lm": tc.LM(max_iter=60), "path": tc.Path()}

CONSTRAINTS = {
    "free": None,
    "penalty": tc.Penalty(1e-3),
    "sensitivity": tc.SensitivityBound(300.0),
    "error": tc.ErrorBound(0.9),
}


def few(iterate: tc.Iterate) -> bool:
    """A callback for tests that need a run, not its end."""
    return iterate.iteration >= 8


def fit_of(case: Case, solver: Any, tensor: Any = None, **keywords: Any) -> tc.Fit:
    keywords = {"rng": 0, **keywords}
    tensor = case.tensor() if tensor is None else tensor
    if not isinstance(keywords.get("init"), tc.Model):
        keywords.update(model=case.kind, rank=case.rank)
    return tc.decompose(tensor, solver=solver, **keywords)


def near(case: Case, size: float = 1e-2) -> tuple[Any, Any]:
    """A model and a start close to it."""
    truth = tc.optimal_gauge(case.model(3))
    rng = np.random.default_rng(4)
    moved = [matrix + size * gaussian(matrix.shape, case.dtype, rng) for matrix in truth.matrices]
    return truth, truth.with_matrices(moved)


def noisy(case: Case, level: float = 0.05) -> tuple[Any, Any, Any]:
    """A tensor close to a model, that model, and a start close to it."""
    truth, start = near(case)
    noise = case.tensor()
    exact = truth.full()
    return exact + level * np.linalg.norm(exact) / np.linalg.norm(noise) * noise, truth, start


def same_model(one: Any, two: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.matrices, two.matrices, strict=True))


class SolverContract:
    """The Fit tells the truth, starts are respected, seeds repeat, bounds hold."""

    def test_the_figures_are_those_of_the_model(self, case: Case, solver: Any) -> None:
        T = case.tensor()
        fit = fit_of(case, solver, T, callback=few)
        assert type(fit.model) is case.kind
        assert fit.model.shape == case.shape
        assert fit.model.dtype == case.dtype
        assert fit.error == pytest.approx(relative(fit.model.full(), T), rel=1e-6, abs=1e-12)
        assert fit.sensitivity == fit.model.sensitivity()
        assert tc.optimal_gauge(fit.model).sensitivity() >= fit.sensitivity * (1 - 1e-6)

    def test_the_history(self, case: Case, solver: Any) -> None:
        fit = fit_of(case, solver, callback=few)
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
        one, two = (fit_of(case, solver, rng=7, callback=few) for _ in range(2))
        assert same_model(one.model, two.model)
        assert_array_equal(one.history.error, two.history.error)
        assert one.reason is two.reason
        generator = np.random.default_rng(7)
        assert same_model(fit_of(case, solver, rng=generator, callback=few).model, one.model)
        assert not same_model(fit_of(case, solver, rng=8, callback=few).model, one.model)

    def test_an_exact_tensor_from_a_close_start(self, case: Case, solver: Any) -> None:
        truth, start = near(case)
        T = truth.full()
        before = relative(start.full(), T)
        fit = fit_of(case, solver, T, init=start)
        assert fit.error < 0.03 * before
        assert relative(fit.model.full(), T) == pytest.approx(fit.error, rel=1e-3, abs=1e-9)

    def test_a_warm_start_is_never_worse_and_never_changed(self, case: Case, solver: Any) -> None:
        T = case.tensor()
        first = fit_of(case, solver, T, callback=few)
        blocks = [block.copy() for block in first.model.blocks]
        second = fit_of(case, solver, T, init=first.model, callback=few)
        assert second.error <= first.error * (1 + 1e-9)
        for block, old in zip(first.model.blocks, blocks, strict=True):
            assert_array_equal(block, old)

    def test_a_start_that_is_the_solution_is_kept(self, case: Case, solver: Any) -> None:
        truth = case.model(3)
        fit = fit_of(case, solver, truth.full(), init=truth)
        assert fit.error < 1e-12
        assert fit.sensitivity <= truth.sensitivity() * (1 + 1e-9)

    def test_a_start_of_singular_vectors(self, case: Case, solver: Any) -> None:
        fit = fit_of(case, solver, init="svd", callback=few)
        assert fit.error < 1.0
        assert same_model(fit.model, fit_of(case, solver, init="svd", callback=few).model)

    def test_the_error_is_that_of_a_projection(self, case: Case, solver: Any) -> None:
        # Where X is scaled best, <X, T - X> = 0, so ||T||^2 = ||X||^2 + ||T - X||^2.
        T, _, start = noisy(case)
        fit = fit_of(case, solver, T, init=start)
        share = (fit.model.norm() / np.linalg.norm(T)) ** 2
        assert share + fit.error**2 == pytest.approx(1.0, abs=1e-5)

    def test_penalty(self, case: Case, solver: Any) -> None:
        T, truth, start = noisy(case)
        weight = 0.02 * np.linalg.norm(T) ** 2 / truth.sensitivity()
        fit = fit_of(case, solver, T, init=start, constraint=tc.Penalty(weight))

        def objective(model: Any) -> float:
            return float(np.linalg.norm(T - model.full()) ** 2 + weight * model.sensitivity())

        assert objective(fit.model) <= objective(truth)
        assert fit.sensitivity < truth.sensitivity()
        assert fit.history.penalty[-1] == pytest.approx(weight, rel=1e-9)

    def test_sensitivity_bound(self, case: Case, solver: Any) -> None:
        scale = 1e4
        T, truth, start = noisy(case)
        blocks = len(truth.matrices)
        limit = 0.8 * truth.sensitivity() * scale ** (2 * (blocks - 1) / blocks)
        bound = tc.SensitivityBound(limit)
        fit = fit_of(case, solver, scale * T, init=start.scaled(scale), constraint=bound)
        assert fit.sensitivity <= limit * (1 + 2e-6)
        assert fit.error == pytest.approx(relative(fit.model.full(), scale * T), rel=1e-6)
        # What is left is the cost of the bound: scaling the truth down into it costs more.
        shrunk = truth.scaled(0.8 ** (blocks / (2 * (blocks - 1))))
        assert fit.error < relative(shrunk.full(), T)

    def test_error_bound(self, case: Case, solver: Any) -> None:
        scale = 1e-3
        T, truth, start = noisy(case)
        fit = fit_of(case, solver, scale * T, init=start.scaled(scale), constraint=tc.ErrorBound(0.2))
        assert relative(fit.model.full(), scale * T) <= 0.2 * (1 + 2e-6)
        blocks = len(truth.matrices)
        shrunk = truth.scaled(0.85)
        assert relative(shrunk.full(), T) < 0.2
        assert fit.sensitivity < shrunk.sensitivity() * scale ** (2 * (blocks - 1) / blocks)
