"""Solvers on the four models: the contract, and what each of them promises beyond it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.solvers.constraints import Lagrangian
from tensorchain.solvers.normal_equations import NormalEquations
from tests.cases import (
    SOLVED,
    Case,
    block_term_case,
    chain_case,
    cp_case,
    crossed,
    four_models,
    gaussian,
    halved,
    mostly_slow,
    relative,
)
from tests.solver_contract import SOLVERS, SolverContract, few, fit_of, noisy

COMPLEX = [case.as_type("complex128") for case in SOLVED]
ORDERS = [four_models(2)[0], four_models(2)[3], *four_models(4)[1:], cp_case((3, 2, 2, 3, 2), 2)]


@crossed(every=2, case=[*SOLVED, COMPLEX[3]], solver=list(SOLVERS.values()))
class TestSolvers(SolverContract):
    """Order 3."""


class TestOtherOrdersAndDtypes:
    @crossed(every=2, case=ORDERS, solver=list(SOLVERS.values()))
    def test_orders(self, case: Case, solver: Any) -> None:
        T, _, start = noisy(case)
        fit = fit_of(case, solver, T, init=start)
        assert fit.error < 0.06
        assert fit_of(case, solver, T, callback=few).error < 1.0

    @crossed(every=2, case=SOLVED, solver=list(SOLVERS.values()))
    def test_float32(self, case: Case, solver: Any) -> None:
        T, _, start = noisy(case)
        single = T.astype(np.float32)
        fit = fit_of(case, solver, single, init=start.astype(np.float32))
        assert fit.model.dtype == np.float32
        assert fit.error == pytest.approx(relative(fit.model.full(), T), rel=1e-4)
        assert fit.error == pytest.approx(fit_of(case, solver, T, init=start).error, rel=1e-3)
        fit = fit_of(case, solver, single, constraint=tc.ErrorBound(0.9), callback=few)
        assert fit.model.dtype == np.float32

    @crossed(every=2, case=COMPLEX, solver=list(SOLVERS.values()))
    def test_complex(self, case: Case, solver: Any) -> None:
        T, _, start = noisy(case)
        fit = fit_of(case, solver, T, init=start)
        assert fit.model.dtype == np.complex128
        assert fit.error < 0.06
        # A factor of modulus one turns the tensor and nothing else.
        turned = fit_of(case, solver, 1j * T, init=start.with_matrix(0, 1j * start.matrices[0]))
        assert turned.error == pytest.approx(fit.error, rel=1e-5)

    @crossed(every=2, case=SOLVED, solver=list(SOLVERS.values()), exponent=[-6, 12])
    def test_the_solution_scales_with_the_tensor(self, case: Case, solver: Any, exponent: int) -> None:
        # Powers of two commute with rounding, so the runs are the same but for the normalisation.
        blocks = len(case.model().matrices)
        c = 2.0 ** (exponent * blocks)
        T, _, start = noisy(case)
        one = fit_of(case, solver, T, init=start, callback=few)
        two = fit_of(case, solver, c * T, init=start.scaled(c), callback=few)
        assert two.error == pytest.approx(one.error, rel=1e-9)
        assert two.sensitivity == pytest.approx(one.sensitivity * c ** (2 * (blocks - 1) / blocks), rel=1e-6)
        assert relative(two.model.full() / c, one.model.full()) < 1e-7


class TestWarmStart:
    def test_a_complex_start_of_a_real_tensor_stays_complex(self) -> None:
        T = SOLVED[0].tensor()
        start = COMPLEX[0].model()
        fit = tc.decompose(T, init=start, solver=tc.ALS(max_iter=5))
        assert fit.model.dtype == np.complex128
        assert fit.error == pytest.approx(relative(fit.model.full(), T), rel=1e-9)

    def test_a_complex_tensor_from_a_real_start(self) -> None:
        T = COMPLEX[0].tensor()
        for solver in SOLVERS.values():
            fit = tc.decompose(T, init=SOLVED[0].model(), solver=solver, callback=few)
            assert fit.error == pytest.approx(relative(fit.model.full(), T), rel=1e-9)

    @pytest.mark.parametrize("case", SOLVED, ids=str)
    @pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
    def test_a_start_that_is_zero(self, case: Case, solver: Any) -> None:
        T = case.tensor()
        for position in (0, -1):
            matrices = list(case.model().matrices)
            matrices[position] = 0 * matrices[position]
            fit = fit_of(case, solver, T, init=case.model().with_matrices(matrices), callback=few)
            assert np.isfinite(fit.error)
            assert fit.error <= 1.0 + 1e-12

    def test_a_lopsided_start(self) -> None:
        case = SOLVED[3]
        T, _, start = noisy(case)
        first, *rest, last = start.matrices
        for size in (1e100, 1e-140):
            lopsided = start.with_matrices([first * size, *rest, last / size])
            for solver in SOLVERS.values():
                assert fit_of(case, solver, T, init=lopsided).error < 0.06


class TestMonotone:
    @pytest.mark.parametrize("case", halved([c for n in (2, 3, 4) for c in four_models(n)] + COMPLEX), ids=str)
    def test_the_error_of_als_never_rises(self, case: Case) -> None:
        for seed in range(2):
            fit = fit_of(case, tc.ALS(max_iter=60, tol=0.0), case.tensor(seed), rng=seed)
            assert np.all(np.diff(fit.history.error) <= 0.0)

    @pytest.mark.parametrize("case", SOLVED, ids=str)
    def test_it_never_rises_at_rounding_level(self, case: Case) -> None:
        truth = case.model(1)
        rng = np.random.default_rng(0)
        start = truth.with_matrices([m + 1e-7 * rng.standard_normal(m.shape) for m in truth.matrices])
        fit = fit_of(case, tc.ALS(max_iter=300, tol=0.0), truth.full(), init=start)
        assert np.all(np.diff(fit.history.error) <= 0.0)
        assert fit.error < 1e-8

    @pytest.mark.parametrize("case", SOLVED, ids=str)
    def test_lm_never_raises_its_objective_at_one_penalty(self, case: Case) -> None:
        T = case.tensor() / np.linalg.norm(case.tensor())
        for constraint in (None, tc.Penalty(1e-3)):
            history = fit_of(case, tc.LM(max_iter=40), T, constraint=constraint).history
            objective = history.error**2 + history.penalty * history.sensitivity
            steps = np.diff(objective)
            assert len(steps) > 5
            assert np.all(steps <= 1e-15)


def slope(T: Any, model: Any, weight: float, seed: int) -> float:
    """d/dt of ||T - X||^2 + weight SS along a random direction of blocks, by a central difference, relative."""
    rng = np.random.default_rng(seed)
    delta = [gaussian(m.shape, m.dtype, rng) * np.linalg.norm(m) / np.sqrt(m.size) for m in model.matrices]

    def objective(t: float) -> float:
        moved = model.with_matrices([m + t * d for m, d in zip(model.matrices, delta, strict=True)])
        return float(np.linalg.norm(T - moved.full()) ** 2 + weight * moved.sensitivity())

    return (objective(1e-5) - objective(-1e-5)) / 2e-5 / objective(0.0)


class TestStationarity:
    """Penalised and bounded solutions meet their first-order conditions."""

    SHARP: tuple[Any, ...] = (tc.ALS(max_iter=3000, tol=1e-13), tc.LM(max_iter=500, tol=1e-13), tc.Path())

    @crossed(every=2, case=[*SOLVED, *COMPLEX], solver=SHARP)
    def test_penalised(self, case: Case, solver: Any) -> None:
        T, truth, start = noisy(case)
        weight = 0.05 * np.linalg.norm(T) ** 2 / truth.sensitivity()
        fit = fit_of(case, solver, T, init=start, constraint=tc.Penalty(weight))
        assert fit.converged
        assert max(abs(slope(T, fit.model, weight, seed)) for seed in range(5)) < 1e-4
        # The same measure away from the solution.
        assert abs(slope(T, start, weight, 0)) > 1e-2

    @pytest.mark.parametrize("solver", mostly_slow([SHARP[1], SHARP[0], SHARP[2]]), ids=["lm", "als", "path"])
    def test_converged_is_not_said_too_early(self, solver: Any) -> None:
        # A flat valley: the penalty holds two terms apart that the data alone do not tell apart well.
        case = block_term_case((4, 3, 5), [(2, 2, 2), (1, 1, 1)])
        T, truth, start = noisy(case)
        weight = 0.05 * np.linalg.norm(T) ** 2 / truth.sensitivity()
        fit = fit_of(case, solver, T, init=start, constraint=tc.Penalty(weight))
        steepest = max(abs(slope(T, fit.model, weight, seed)) for seed in range(5))
        assert steepest < 1e-4 if fit.converged else fit.reason is tc.StopReason.ITERATION_LIMIT

    @crossed(every=2, case=SOLVED, solver=SHARP[1:], kind=["sensitivity", "error"])
    def test_bounded(self, case: Case, solver: Any, kind: str) -> None:
        T, truth, start = noisy(case)
        bound = tc.SensitivityBound(0.7 * truth.sensitivity()) if kind == "sensitivity" else tc.ErrorBound(0.2)
        fit = fit_of(case, solver, T, init=start, constraint=bound)
        assert fit.converged
        # The bound is active, and the gradients of error and SS are opposite: one weight cancels both.
        figure, limit = (fit.sensitivity, bound.limit) if kind == "sensitivity" else (fit.error, 0.2)
        assert figure == pytest.approx(limit, rel=1e-3)
        error, both = gradients(T, fit.model)
        weight = -float(np.vdot(both, error).real / np.vdot(both, both).real)
        assert weight > 0
        assert np.linalg.norm(error + weight * both) < 1e-2 * np.linalg.norm(error)


def gradients(T: Any, model: Any) -> tuple[Any, Any]:
    """Of ||T - X||^2 and of SS, flattened."""
    residual = tc.Dense(model.full() - T)
    error = [2 * residual.contract_all_but(model, k).ravel() for k in range(len(model.matrices))]
    stable = [2 * (m @ model.sensitivity_metric(k).T).ravel() for k, m in enumerate(model.matrices)]
    return np.concatenate(error), np.concatenate(stable)


class TestBounds:
    @pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
    def test_a_bound_that_does_not_bind_changes_nothing_much(self, solver: Any) -> None:
        case = SOLVED[3]
        T, truth, start = noisy(case)
        free = fit_of(case, solver, T, init=start)
        loose = fit_of(case, solver, T, init=start, constraint=tc.SensitivityBound(100 * truth.sensitivity()))
        assert loose.error == pytest.approx(free.error, rel=1e-3)

    @pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
    @pytest.mark.parametrize("case", [SOLVED[0], SOLVED[3]], ids=str)
    def test_bounds_from_random_starts(self, case: Case, solver: Any) -> None:
        T = case.tensor()
        fit = fit_of(case, solver, T, constraint=tc.SensitivityBound(20.0), rng=1)
        assert fit.sensitivity <= 20.0 * (1 + 2e-6)
        assert fit.error < 1.0
        fit = fit_of(case, solver, T, constraint=tc.ErrorBound(0.95), rng=1)
        assert relative(fit.model.full(), T) <= 0.95 * (1 + 2e-6)

    @pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
    def test_tighter_bounds_cost_more(self, solver: Any) -> None:
        case = SOLVED[0]
        T, truth, start = noisy(case)
        limits = [share * truth.sensitivity() for share in (0.9, 0.5, 0.2)]
        errors = [fit_of(case, solver, T, init=start, constraint=tc.SensitivityBound(s)).error for s in limits]
        assert all(one < two for one, two in itertools.pairwise(errors))

    def test_joint_solvers_beat_alternating_ones_at_a_bound(self) -> None:
        case = chain_case((5, 5, 5), (2, 2, 2))
        T, _, start = noisy(case)
        best = {
            name: fit_of(case, s, T, init=start, constraint=tc.ErrorBound(0.2)).sensitivity
            for name, s in (("als", tc.ALS()), ("lm", tc.LM()), ("path", tc.Path()))
        }
        # Both stop where the bound is met to 1e-4.
        assert best["lm"] <= best["als"] * (1 + 1e-4)
        assert best["path"] == pytest.approx(best["lm"], rel=1e-3)


class TestKrylov:
    @pytest.mark.parametrize("case", halved([*SOLVED, *COMPLEX]), ids=str)
    def test_it_reaches_the_solution_of_the_dense_solver(self, case: Case) -> None:
        T, truth, start = noisy(case)
        weight = 0.05 * np.linalg.norm(T) ** 2 / truth.sensitivity()
        for constraint in (None, tc.Penalty(weight)):
            dense = fit_of(case, tc.LM(max_iter=200), T, init=start, constraint=constraint)
            krylov = fit_of(case, tc.LM(max_iter=400, dense_limit=0), T, init=start, constraint=constraint)
            assert krylov.error == pytest.approx(dense.error, rel=1e-4)

    @pytest.mark.parametrize("constraint", [tc.Penalty(0.1), tc.SensitivityBound(20.0) & tc.Penalty(0.1)], ids=str)
    @pytest.mark.parametrize("case", [*SOLVED, *COMPLEX], ids=str)
    def test_steps_against_a_direct_solve(self, case: Case, constraint: Any) -> None:
        # The matrix by finite pieces: Gauss-Newton, metrics, and one rank for a bound that is active.
        model, damping = case.model(), 0.3
        at = tc.Dense(case.tensor()).evaluator(model)
        lagrangian = Lagrangian.of(constraint, constraint.measured(at))
        values = lagrangian.values(at)
        penalty = lagrangian.penalty(values)
        matrix = model.gauss_newton() + damping * np.eye(model.n_parameters)
        gradient, metric, start = [], [], 0
        for k, (m, part) in enumerate(zip(model.matrices, at.gradient(), strict=True)):
            here = slice(start, start + m.size)
            Q = model.sensitivity_metric(k)
            matrix[here, here] += penalty * np.kron(np.eye(len(m)), Q)
            gradient.append((part - penalty * m @ Q.T).ravel())
            metric.append((m @ Q.T).ravel())
            start += m.size
        bends = list(lagrangian.bends(values).values())
        assert len(bends) == (0 if isinstance(constraint, tc.Penalty) else 1)
        v = np.concatenate(metric)
        for bend in bends:
            matrix = matrix + 2.0 * bend * np.outer(v, v.conj())
        truth = np.linalg.solve(matrix, np.concatenate(gradient))
        for limit, tol in ((10_000, 1e-8), (0, 1e-1)):
            step = NormalEquations(at, lagrangian, values, limit).solve(damping)
            assert step is not None
            assert relative(np.concatenate([block.ravel() for block in step[0]]), truth) < tol
            predicted = np.vdot(truth, np.concatenate(gradient)).real + damping * np.vdot(truth, truth).real
            assert step[1] == pytest.approx(predicted, rel=100 * tol)


class TestStarts:
    def test_the_table(self) -> None:
        case = SOLVED[3]
        fit = fit_of(case, tc.LM(max_iter=15), starts=5)
        assert len(fit.starts) == 5
        assert fit.error == min(start.error for start in fit.starts)
        assert any(start.iterations == fit.iterations and start.error == fit.error for start in fit.starts)
        assert "5:" in repr(fit)
        assert fit_of(case, tc.LM(max_iter=15)).starts == ()

    def test_each_start_is_its_own(self) -> None:
        fit = fit_of(SOLVED[0], tc.ALS(max_iter=5), starts=6)
        assert len({start.error for start in fit.starts}) == 6
        first = fit_of(SOLVED[0], tc.ALS(max_iter=5), starts=1)
        assert fit.starts[0].error == first.error

    @pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
    @pytest.mark.parametrize(
        "constraint",
        [None, tc.Penalty(1.0), tc.SensitivityBound(5e3), tc.ErrorBound(0.6)],
        ids=["free", "penalty", "sensitivity", "error"],
    )
    def test_the_best_start_has_the_least_merit(self, constraint: Any, scale: float) -> None:
        T = scale * SOLVED[0].tensor()
        fit = fit_of(SOLVED[0], tc.LM(max_iter=6), T, constraint=constraint, starts=6, rng=1)
        size = np.linalg.norm(T)

        def merit(start: Any) -> tuple[float, float]:
            if isinstance(constraint, tc.Penalty):
                return 0.0, (start.error * size) ** 2 + constraint.weight * start.sensitivity
            if isinstance(constraint, tc.SensitivityBound):
                return max(0.0, start.sensitivity / constraint.limit - 1 - 1e-6), start.error
            if isinstance(constraint, tc.ErrorBound):
                return max(0.0, start.error / constraint.limit - 1 - 1e-6), start.sensitivity
            return 0.0, start.error

        best = min(merit(start) for start in fit.starts)
        assert merit(fit) == pytest.approx(best, rel=1e-9)
