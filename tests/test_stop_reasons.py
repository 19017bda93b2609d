"""Every reason to stop, reached by a real case, and what the Fit then holds."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.evaluation import Evaluator
from tensorchain.fit import StopReason
from tests.cases import SOLVED, Case, chain_case, relative
from tests.solver_contract import SOLVERS, fit_of, near, noisy

ALL_SOLVERS = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


def check(fit: tc.Fit, T: Any, reason: StopReason) -> None:
    assert fit.reason is reason
    assert fit.converged is (reason in (StopReason.EXACT, StopReason.CONVERGED))
    assert reason.name in repr(fit)
    assert fit.error == pytest.approx(relative(fit.model.full(), T), rel=1e-6, abs=1e-12)


class TestSuccess:
    @pytest.mark.parametrize("solver", [tc.ALS(max_iter=5000), *list(SOLVERS.values())[1:]], ids=SOLVERS)
    def test_exact(self, solver: Any) -> None:
        truth, start = near(SOLVED[0], 1e-3)
        T = truth.full()
        check(fit_of(SOLVED[0], solver, T, init=start), T, StopReason.EXACT)

    @pytest.mark.parametrize("solver", [tc.ALS(max_iter=5000), *list(SOLVERS.values())[1:]], ids=SOLVERS)
    @pytest.mark.parametrize("case", SOLVED, ids=str)
    def test_converged(self, case: Case, solver: Any) -> None:
        T, _, start = noisy(case)
        check(fit_of(case, solver, T, init=start), T, StopReason.CONVERGED)

    @pytest.mark.parametrize("tol", [1e-3, 1e-4, 1e-5])
    @pytest.mark.parametrize(("model", "rank"), [("tucker", (2, 3, 2)), ("tt", 3), ("cp", 2)])
    def test_a_loose_tolerance_is_one(self, model: str, rank: Any, tol: float) -> None:
        """A share tol of the error is twice that of its square, which the last sweep may take off."""
        fits = []
        for seed in range(4):
            T = np.random.default_rng(seed).standard_normal((8, 9, 10))
            fits.append(tc.decompose(T, model, rank, solver=tc.ALS(tol=tol), rng=seed))
        assert {fit.reason for fit in fits} <= {StopReason.CONVERGED, StopReason.DIVERGING}
        assert any(fit.optimality > tol for fit in fits if fit.optimality is not None)


class TestLimits:
    @pytest.mark.parametrize("solver", [tc.ALS(max_iter=2), tc.LM(max_iter=2)], ids=["als", "lm"])
    def test_iterations(self, solver: Any) -> None:
        T = SOLVED[3].tensor()
        fit = fit_of(SOLVED[3], solver, T)
        check(fit, T, StopReason.ITERATION_LIMIT)
        assert fit.iterations == 2
        assert "max_iter" in repr(fit)

    @ALL_SOLVERS
    def test_time(self, solver: Any) -> None:
        T = SOLVED[3].tensor()
        check(fit_of(SOLVED[3], solver, T, max_seconds=1e-9), T, StopReason.TIME_LIMIT)

    @ALL_SOLVERS
    def test_time_over_many_starts(self, solver: Any) -> None:
        case = chain_case((8, 8, 8), (4, 4, 4))
        began = time.perf_counter()
        fit = fit_of(case, solver, max_seconds=0.1, starts=10_000)
        # Thousands of starts take minutes; one iteration may run over, on a machine that is not ours alone.
        assert time.perf_counter() - began < 20.0
        assert len(fit.starts) < 10_000

    @ALL_SOLVERS
    def test_callback(self, solver: Any) -> None:
        seen = []

        def third(iterate: tc.Iterate) -> bool:
            seen.append(iterate)
            return len(seen) == 3

        T = SOLVED[3].tensor()
        fit = fit_of(SOLVED[3], solver, T, callback=third, starts=4)
        check(fit, T, StopReason.CALLBACK)
        assert [iterate.iteration for iterate in seen] == [0, 1, 2]
        assert seen[0].seconds <= seen[1].seconds <= seen[2].seconds
        assert fit.error == pytest.approx(min(iterate.error for iterate in seen), rel=1e-12)
        assert fit.iterations == 2

    @ALL_SOLVERS
    def test_a_callback_sees_the_figures_of_its_model(self, solver: Any) -> None:
        T = SOLVED[3].tensor()
        unit = T / np.linalg.norm(T)

        def verify(iterate: tc.Iterate) -> bool:
            assert iterate.error == pytest.approx(np.linalg.norm(unit - iterate.model.full()), rel=1e-6)
            assert iterate.sensitivity == pytest.approx(iterate.model.sensitivity(), rel=1e-9)
            return iterate.iteration >= 10

        fit_of(SOLVED[3], solver, T, callback=verify)

    @ALL_SOLVERS
    def test_control_c(self, solver: Any) -> None:
        def interrupt(iterate: tc.Iterate) -> None:
            if iterate.iteration == 3:
                raise KeyboardInterrupt

        T = SOLVED[3].tensor()
        fit = fit_of(SOLVED[3], solver, T, callback=interrupt, starts=5)
        check(fit, T, StopReason.INTERRUPTED)
        assert len(fit.history) == 4

    @ALL_SOLVERS
    def test_an_error_in_a_callback_is_the_users(self, solver: Any) -> None:
        def broken(iterate: tc.Iterate) -> None:
            raise RuntimeError("mine")

        with pytest.raises(RuntimeError, match="mine"):
            fit_of(SOLVED[3], solver, callback=broken)


class TestTrouble:
    @ALL_SOLVERS
    def test_infeasible(self, solver: Any) -> None:
        T = SOLVED[0].tensor()
        solver = {tc.ALS: tc.ALS(max_iter=3000), tc.LM: tc.LM(max_iter=1000)}.get(type(solver), solver)
        free = fit_of(SOLVED[0], solver, T)
        fit = fit_of(SOLVED[0], solver, T, constraint=tc.ErrorBound(0.3 * free.error))
        check(fit, T, StopReason.INFEASIBLE)
        # The nearest model is returned: not far from the best there is.
        assert fit.error < 1.05 * free.error

    def test_diverging(self) -> None:
        # A limit of chains that is not a chain: SS grows as a power of 1/nu along the path.
        border = tc.datasets.border_chain((4, 4, 4), (2, 2, 2), np.random.default_rng(0))
        T = border.tensor / np.linalg.norm(border.tensor)
        fits = (tc.decompose(T, "tc", rank=2, rng=seed, max_seconds=20) for seed in range(3))
        fit = next(fit for fit in fits if fit.reason is StopReason.DIVERGING)
        assert not fit.converged
        assert "SensitivityBound" in repr(fit)

    @ALL_SOLVERS
    def test_a_start_that_overflows(self, solver: Any) -> None:
        case = SOLVED[3]
        start = case.model()
        wild = start.with_matrices([matrix * 1e120 for matrix in start.matrices])
        with pytest.raises(ValueError, match="init"):
            fit_of(case, solver, init=wild)
        assert wild.norm() == np.inf
        assert wild.sensitivity() == np.inf

    def test_a_bad_step_is_caught_by_the_loop(self) -> None:
        # The loop is the same for solvers from outside: one that runs away is stopped, the best is kept.
        class Runaway:
            def steps(self, problem: Any, start: Any) -> Any:
                error = problem.tensor.residual_norm(start)
                yield tc.Iterate(start, error, start.sensitivity())
                wild = start.with_matrices([matrix * 1e200 for matrix in start.matrices])
                yield tc.Iterate(wild, problem.tensor.residual_norm(wild), wild.sensitivity())
                return StopReason.CONVERGED

        T = SOLVED[0].tensor()
        fit = fit_of(SOLVED[0], Runaway(), T)
        check(fit, T, StopReason.NON_FINITE)
        assert len(fit.history) == 1

    def test_stalled(self) -> None:
        # A gradient that points uphill: no damping makes a step that lowers the objective.
        class Wrong(tc.Dense):
            def scaled(self, factor: float) -> Any:
                return Wrong(self.array * factor)

            def evaluator(self, model: Any) -> Evaluator:
                return Evaluator(self, model)

            def residual(self, model: Any) -> Any:
                honest = super().residual(model)
                return type(honest)(honest.norm, lambda: [-block for block in honest.gradient])

        T = SOLVED[0].tensor()
        fit = fit_of(SOLVED[0], tc.LM(), Wrong(T))
        check(fit, T, StopReason.STALLED)


class TestEveryReason:
    def test_each_has_its_words(self) -> None:
        assert len({reason.value for reason in StopReason}) == len(StopReason)
        for reason in StopReason:
            assert len(reason.value) > 20
