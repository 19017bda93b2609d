"""Constraints: quantities, the augmented Lagrangian, one block of it, scales, combinations, one from outside."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize, nnls

import tensorchain as tc
from tensorchain.models.scale import Scale
from tensorchain.solvers.blocks import BlockProblem, best_change
from tensorchain.solvers.constraints import (
    Bounded,
    Constraint,
    Free,
    Lagrangian,
    Quantity,
    Sensitivity,
    SquaredError,
)
from tensorchain.solvers.constraints.lagrangian import Term, half_gradient
from tensorchain.solvers.optimality import attainable_decrease
from tests import judge
from tests.cases import (
    SOLVED,
    Case,
    block_term_case,
    chain_case,
    combined,
    cp_case,
    four_models,
    gaussian,
    mostly_slow,
    relative,
    tucker_case,
)
from tests.solver_contract import SOLVERS, fit_of, noisy

CASES = [
    *four_models(3),
    *(case.as_type("complex128") for case in four_models(3)),
    four_models(4)[1],
    four_models(2)[3],
]
ON_CASES = pytest.mark.parametrize("case", CASES, ids=str)
ON_SOLVERS = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


# -- a fifth constraint, outside of the package ---------------------------------------------


@dataclass(frozen=True)
class BlockNorm(Quantity):
    """||B_k||_F^2 of one block."""

    k: int

    def value(self, at: Any) -> float:
        return float(np.linalg.norm(at.model.matrices[self.k]) ** 2)

    def block_gradient(self, at: Any, k: int) -> Any:
        return np.array(at.model.matrices[k]) if k == self.k else None

    def curvature(self, at: Any, k: int) -> Any:
        return np.eye(at.model.matrices[k].shape[1]) if k == self.k else None

    def degree(self, blocks: int) -> float:
        return 2.0 / blocks


@dataclass(frozen=True)
class NormBound(Constraint):
    """||B_k||_F^2 <= limit."""

    k: int
    limit: float

    @property
    def bounds(self) -> tuple[Bounded, ...]:
        return (Bounded(BlockNorm(self.k), self.limit),)


# -- quantities -----------------------------------------------------------------------------


def evaluators(case: Case) -> list[Any]:
    """A model at a complete tensor and at one with missing entries."""
    model, T = case.model(), case.tensor()
    seen = np.random.default_rng(5).random(T.shape) < 0.7
    return [tc.Dense(T).evaluator(model), tc.Masked(T, seen).evaluator(model)]


@ON_CASES
class TestQuantities:
    @pytest.mark.parametrize("quantity", [SquaredError(), Sensitivity(), BlockNorm(1)], ids=str)
    def test_the_expansion_in_a_block_is_exact(self, case: Case, quantity: Quantity) -> None:
        for at in evaluators(case):
            model, value = at.model, quantity.value(at)
            for k, matrix in enumerate(model.matrices):
                D = gaussian(matrix.shape, matrix.dtype, np.random.default_rng(k))
                v, A, image = quantity.block_gradient(at, k), quantity.curvature(at, k), quantity.apply(at, k, D)
                at.replace(k, matrix + D)
                moved = quantity.value(at)
                at.hold(model)
                if v is None:
                    assert A is None
                    assert image is None
                    assert moved == pytest.approx(value, rel=1e-12)
                    continue
                if A.ndim == 3:
                    direct = np.einsum("ipq,iq->ip", A, D)
                else:
                    direct = D @ A.T
                    assert np.linalg.eigvalsh(A).min() >= -1e-10 * np.linalg.norm(A)
                assert relative(image, direct) < 1e-11
                expanded = value + 2.0 * np.vdot(D, v).real + np.vdot(D, direct).real
                assert moved == pytest.approx(expanded, rel=1e-10)
                # Half as far, the two parts weigh differently: neither can stand in for the other.
                at.replace(k, matrix - 0.5 * D)
                assert quantity.value(at) == pytest.approx(
                    value - np.vdot(D, v).real + 0.25 * np.vdot(D, direct).real, rel=1e-10
                )
                at.hold(model)

    def test_gradients_of_all_blocks_are_those_of_each(self, case: Case) -> None:
        for at in evaluators(case):
            for quantity in (SquaredError(), Sensitivity(), BlockNorm(0)):
                for k, part in enumerate(quantity.half_gradient(at)):
                    alone = quantity.block_gradient(at, k)
                    assert (part is None) == (alone is None)
                    if part is not None:
                        assert relative(part, alone) < 1e-10

    def test_values_by_einsum(self, case: Case) -> None:
        model, T = case.model(), case.tensor()
        at = tc.Dense(T).evaluator(model)
        assert SquaredError().value(at) == pytest.approx(np.linalg.norm(T - judge.full(model)) ** 2, rel=1e-12)
        assert Sensitivity().value(at) == pytest.approx(judge.sensitivity(model), rel=1e-12)

    def test_degrees(self, case: Case) -> None:
        model, T, c = case.model(), case.tensor(), 3.0
        blocks = len(model.matrices)
        for quantity in (SquaredError(), Sensitivity(), BlockNorm(0)):
            one = quantity.value(tc.Dense(T).evaluator(model))
            share = model.with_matrices([m * c ** (1.0 / blocks) for m in model.matrices])
            other = quantity.value(tc.Dense(c * T).evaluator(share))
            assert other == pytest.approx(one * c ** quantity.degree(blocks), rel=1e-11)


class TestFallsWithSensitivity:
    def test_the_gauge_is_chosen_only_where_nothing_else_is_asked(self) -> None:
        assert tc.Penalty(1.0).allows_gauge
        assert (tc.SensitivityBound(1.0) & tc.ErrorBound(0.1)).allows_gauge
        assert not NormBound(0, 1.0).allows_gauge
        assert not (tc.Penalty(1.0) & NormBound(0, 1.0)).allows_gauge


# -- the augmented Lagrangian ---------------------------------------------------------------

TERM = Term(Sensitivity(), 0.4, limit=2.0, rho=3.0, target=2.0)
PLAIN = Term(SquaredError(), 0.7)


class TestTerms:
    @pytest.mark.parametrize("value", [0.5, 1.5, 1.9, 2.0, 2.7, 30.0])
    @pytest.mark.parametrize("term", [TERM, PLAIN, replace(TERM, weight=0.0)], ids=["bound", "weight", "no multiplier"])
    def test_slope_and_bend_by_differences(self, term: Term, value: float) -> None:
        h = 1e-5
        slope = (term.psi(value + h) - term.psi(value - h)) / (2 * h)
        bend = (term.slope(value + h) - term.slope(value - h)) / (2 * h)
        assert term.slope(value) == pytest.approx(slope, abs=2e-5)
        if abs(value - 2.0) > 1e-3 or term.weight > 0:
            assert term.bend(value) == pytest.approx(bend, abs=1e-6)

    def test_by_its_formula(self) -> None:
        # limit / (2 rho) (max(0, w + rho h)^2 - w^2)
        for value in (0.1, 1.0, 1.9, 4.0):
            h = value / 2.0 - 1.0
            assert TERM.psi(value) == pytest.approx(2.0 / 6.0 * (max(0.0, 0.4 + 3.0 * h) ** 2 - 0.16), rel=1e-12)
        assert TERM.slope(2.0) == 0.4
        assert TERM.slope(0.1) == 0.0
        assert TERM.bend(0.1) == 0.0

    def test_miss(self) -> None:
        assert TERM.miss(2.0) == 0.0
        assert TERM.miss(3.0) == pytest.approx(0.5)
        assert TERM.miss(1.96) == pytest.approx(0.02)
        # Far inside, it is the multiplier that is wrong: w / rho.
        assert TERM.miss(0.1) == pytest.approx(0.4 / 3.0)
        assert replace(TERM, weight=0.0).miss(0.1) == 0.0

    @pytest.mark.parametrize("value", [0.3, 1.9, 2.3])
    def test_an_update_takes_the_slope(self, value: float) -> None:
        lagrangian = Lagrangian((PLAIN, TERM)).updated({SquaredError(): 1.0, Sensitivity(): value})
        assert lagrangian.terms[0] == PLAIN
        assert lagrangian.terms[1].weight == pytest.approx(max(0.0, 0.4 + 3.0 * (value / 2.0 - 1.0)))
        assert lagrangian.violation == pytest.approx(TERM.miss(value))

    def test_an_update_that_does_not_help_makes_it_stiffer(self) -> None:
        values = {SquaredError(): 1.0, Sensitivity(): 2.2}
        once = Lagrangian((PLAIN, TERM)).updated(values)
        assert once.terms[1].rho == 3.0
        twice = once.updated(values)
        assert twice.terms[1].rho == 12.0
        better = once.updated({**values, Sensitivity(): 2.02})
        assert better.terms[1].rho == 3.0

    def test_far_from_a_bound_it_comes_in_stages(self) -> None:
        constraint = tc.SensitivityBound(1.0)
        lagrangian = Lagrangian.of(constraint, {SquaredError(): 0.1, Sensitivity(): 1e4})
        assert lagrangian.terms[1].limit == pytest.approx(1e3)
        assert not lagrangian.settled({SquaredError(): 0.1, Sensitivity(): 1e3})
        lagrangian = lagrangian.updated({SquaredError(): 0.1, Sensitivity(): 500.0})
        assert lagrangian.terms[1].limit == pytest.approx(50.0)
        lagrangian = lagrangian.updated({SquaredError(): 0.1, Sensitivity(): 5.0})
        assert lagrangian.terms[1].limit == 1.0

    def test_where_the_error_is_bounded_the_objective_moves(self) -> None:
        constraint = tc.ErrorBound(0.1)
        lagrangian = Lagrangian.of(constraint, {SquaredError(): 0.04, Sensitivity(): 7.0})
        for square in (0.03, 0.02, 0.009, 0.0101):
            before = lagrangian
            values = {SquaredError(): square, Sensitivity(): 7.0}
            ratio = before.weights(values)[SquaredError()] / before.terms[0].weight
            lagrangian = lagrangian.updated(values)
            error = next(t for t in lagrangian.terms if t.quantity == SquaredError())
            assert error.weight == 1.0
            if 1e-3 < ratio * before.terms[0].weight < 10.0:
                assert 1.0 / lagrangian.terms[0].weight == pytest.approx(ratio, rel=1e-12)

    @pytest.mark.parametrize(
        "constraint",
        [
            tc.Penalty(0.2),
            tc.SensitivityBound(3.0),
            tc.ErrorBound(0.2),
            tc.SensitivityBound(3.0) & tc.ErrorBound(0.2),
            tc.Penalty(0.2) & NormBound(1, 2.0),
        ],
        ids=repr,
    )
    def test_figures_through_json(self, constraint: Constraint) -> None:
        at = evaluators(CASES[0])[0]
        values = constraint.measured(at)
        first = Lagrangian.of(constraint, values, extra=0.3)
        for lagrangian in (first, first.updated(first.values(at))):
            again = first.recalled(json.loads(json.dumps(lagrangian.figures())))
            assert again == lagrangian

    def test_weights_add_up(self) -> None:
        lagrangian = Lagrangian((PLAIN, Term(Sensitivity(), 0.1), TERM), extra=0.05)
        values = {SquaredError(): 2.0, Sensitivity(): 2.2}
        slope = 0.4 + 3.0 * 0.1
        assert lagrangian.weights(values) == pytest.approx({SquaredError(): 0.7, Sensitivity(): 0.15 + slope})
        assert lagrangian.bends(values) == pytest.approx({Sensitivity(): 1.5})
        assert lagrangian.penalty(values) == pytest.approx((0.15 + slope) / 0.7)
        assert lagrangian.value(values) == pytest.approx(1.4 + 0.22 + TERM.psi(2.2) + 0.11)

    @ON_CASES
    def test_the_gradient_of_phi_by_differences(self, case: Case) -> None:
        model = case.model()
        at = tc.Dense(case.tensor()).evaluator(model)
        ss = Sensitivity().value(at)
        constraint = tc.SensitivityBound(0.8 * ss) & tc.Penalty(0.3) & NormBound(0, BlockNorm(0).value(at))
        lagrangian = Lagrangian.of(constraint, constraint.measured(at))
        gradient = half_gradient(lagrangian, lagrangian.values(at), at)
        rng, h = np.random.default_rng(1), 1e-5
        for _ in range(3):
            delta = [gaussian(m.shape, m.dtype, rng) for m in model.matrices]
            found = []
            for sign in (1.0, -1.0):
                at.hold(model.with_matrices([m + sign * h * d for m, d in zip(model.matrices, delta, strict=True)]))
                found.append(lagrangian.value(lagrangian.values(at)))
            slope = sum(2.0 * np.vdot(d, g).real for d, g in zip(delta, gradient, strict=True))
            assert (found[0] - found[1]) / (2 * h) == pytest.approx(slope, rel=1e-5, abs=1e-6 * abs(found[0]))
        at.hold(model)


class TestFitted:
    @ON_CASES
    def test_multipliers_by_least_squares(self, case: Case) -> None:
        # At any model, not only at solutions: w >= 0 with the least gradient.
        at = tc.Dense(case.tensor()).evaluator(case.model())
        ss = Sensitivity().value(at)
        for constraint, w in ((tc.SensitivityBound(ss), None), (tc.SensitivityBound(1.1 * ss), 0.0)):
            lagrangian = Lagrangian.fitted(constraint, at, constraint.measured(at))
            found = lagrangian.weights({SquaredError(): 0.0, Sensitivity(): 0.0}).get(Sensitivity(), 0.0)
            error, stable = (np.concatenate([b.ravel() for b in q.half_gradient(at)]) for q in lagrangian_parts())
            best = max(0.0, -np.vdot(stable, error).real / np.vdot(stable, stable).real) if w is None else w
            assert found == pytest.approx(best, rel=1e-9, abs=1e-12)

    @ON_CASES
    def test_a_bound_has_a_multiplier_where_it_is_reached(self, case: Case) -> None:
        # Half of a tensor: error and SS pull in opposite directions.
        truth = case.model()
        at = tc.Dense(truth.full()).evaluator(truth.scaled(0.5))
        ss = Sensitivity().value(at)
        for share, active in ((0.9, True), (1.0, True), (1.01, False), (1.5, False)):
            constraint = tc.SensitivityBound(share * ss)
            lagrangian = Lagrangian.fitted(constraint, at, constraint.measured(at))
            weight = lagrangian.weights({SquaredError(): 0.0, Sensitivity(): 0.0}).get(Sensitivity(), 0.0)
            assert (weight > 0.0) is active


def lagrangian_parts() -> tuple[Quantity, Quantity]:
    return SquaredError(), Sensitivity()


# -- one block ------------------------------------------------------------------------------


def random_block(seed: int, bounds: int, dtype: str = "float64") -> tuple[BlockProblem, Lagrangian]:
    """Convex quadratics over a block (3, 4): one minimised, others bounded."""
    rng = np.random.default_rng(seed)
    quantities: list[Quantity] = [SquaredError(), Sensitivity(), BlockNorm(0)][: 1 + max(bounds - 1, 1)]
    B = gaussian((3, 4), dtype, rng)
    values, gradients, curvatures = {}, {}, {}
    for quantity in quantities:
        Z = gaussian((6, 4), dtype, rng)
        A = Z.conj().T @ Z * 10.0 ** rng.uniform(-1, 1)
        D = B - gaussian((3, 4), dtype, rng) * rng.choice([0.0, 1.0])
        values[quantity] = float(np.vdot(D, D @ A.T).real) + 10.0 ** rng.uniform(-2, 0)
        gradients[quantity], curvatures[quantity] = D @ A.T, A
    terms = [Term(quantities[0], 1.0)]
    for quantity in (quantities[1], quantities[0], *quantities[2:])[:bounds]:
        limit, weight = values[quantity] * 10.0 ** rng.uniform(-1.5, 0.5), 10.0 ** rng.uniform(-3, 1)
        terms.append(Term(quantity, weight, limit, 10.0 ** rng.uniform(1, 3) * weight, limit))
    return BlockProblem.from_matrices(values, gradients, curvatures), Lagrangian(tuple(terms))


class TestBestChange:
    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    @pytest.mark.parametrize("bounds", [1, 2, 3])
    def test_against_scipy(self, bounds: int, dtype: str) -> None:
        for seed in range(4 if dtype == "float64" else 1):
            problem, lagrangian = random_block(seed, bounds, dtype)

            def phi(flat: Any, problem: Any = problem, lagrangian: Any = lagrangian) -> float:
                D = flat if dtype == "float64" else flat[:12] + 1j * flat[12:]
                return lagrangian.value(problem.after(D.reshape(3, 4)))

            zero = np.zeros(12 if dtype == "float64" else 24)
            reference = min(minimize(phi, start, method="BFGS").fun for start in (zero, zero + 0.1))
            found = best_change(problem, lagrangian)
            value = phi(zero) if found is None else lagrangian.value(problem.after(found[0]))
            assert value - reference <= 1e-7 * (phi(zero) - reference)
            if found is not None:
                assert found[1] == pytest.approx(problem.after(found[0]))

    def test_no_change_where_there_is_none_to_make(self) -> None:
        problem, lagrangian = random_block(0, 1)
        change, values = best_change(problem, lagrangian)  # type: ignore[misc]
        moved = {q: g + problem.apply(q, change) for q, g in problem.gradients.items()}
        there = replace(problem, values=values, gradients=moved)
        again = best_change(there, lagrangian)
        assert again is None or np.linalg.norm(again[0]) < 1e-5 * np.linalg.norm(change)

    @pytest.mark.parametrize("kind", [tc.Tucker, tc.BlockTerm, tc.TensorChain, tc.CP])
    def test_columns_that_see_nothing_stay_small(self, kind: Any) -> None:
        # A singular system under a weight: entries that nothing depends on must not be filled with rounding / 1e-34.
        case = next(case for case in four_models(3) if case.kind is kind)
        rng = np.random.default_rng(0)
        model = case.model()
        matrices = [np.array(m) for m in model.matrices]
        for matrix in matrices[1:]:
            matrix[:, 0] = 1e-17 * rng.standard_normal(len(matrix))
        model = model.with_matrices(matrices)
        at = tc.Dense(case.tensor()).evaluator(model)
        for constraint in (tc.Penalty(0.1), tc.SensitivityBound(0.5 * model.sensitivity())):
            lagrangian = Lagrangian.of(constraint, constraint.measured(at))
            for k in range(len(matrices)):
                found = best_change(BlockProblem.of(at, k, lagrangian.values(at)), lagrangian)
                if found is not None and k == 0:
                    assert np.linalg.norm(found[0]) < 1e3 * max(np.linalg.norm(m) for m in matrices)


class TestOptimality:
    @ON_CASES
    def test_the_decrease_of_each_block(self, case: Case) -> None:
        # sum_k <v_k, S_k^-1 v_k> is what exact minimisation over each block alone takes off, at fixed weights.
        at = evaluators(case)[0]
        constraint = tc.Penalty(0.2)
        lagrangian = Lagrangian.of(constraint, constraint.measured(at))
        values = lagrangian.values(at)
        total = 0.0
        for k in range(len(at.model.matrices)):
            found = best_change(BlockProblem.of(at, k, values), lagrangian)
            assert found is not None
            total += lagrangian.value(values) - lagrangian.value(found[1])
        decrease = attainable_decrease(at, lagrangian, values)
        assert decrease == pytest.approx(total / lagrangian.value(values), rel=1e-8)
        assert decrease > 1e-3


# -- scales and combinations ----------------------------------------------------------------

ASKED = {
    "penalty": lambda c, K, ss: tc.Penalty(0.02 / ss * c ** (2 / K)),
    "sensitivity": lambda c, K, ss: tc.SensitivityBound(0.7 * ss * c ** (2 * (K - 1) / K)),
    "error": lambda c, K, ss: tc.ErrorBound(0.2),
    "both": lambda c, K, ss: ASKED["penalty"](c, K, ss) & tc.SensitivityBound(0.9 * ss * c ** (2 * (K - 1) / K)),
    "block": lambda c, K, ss: tc.Penalty(0.02 / ss * c ** (2 / K)) & NormBound(0, 0.5 * c ** (2 / K)),
}  # fmt: skip


class TestScale:
    @pytest.mark.parametrize("name", ASKED)
    @pytest.mark.parametrize("blocks", [2, 3, 5])
    def test_normalised(self, name: str, blocks: int) -> None:
        unit = ASKED[name](1.0, blocks, 30.0)
        for c in (1e6, 1e-6, 7.0):
            scaled = ASKED[name](c, blocks, 30.0).normalised(Scale(c, blocks))
            for one, two in zip(unit.objective, scaled.objective, strict=True):
                assert two.quantity == one.quantity
                assert two.weight == pytest.approx(one.weight, rel=1e-12)
            for bound, other in zip(unit.bounds, scaled.bounds, strict=True):
                assert other.quantity == bound.quantity
                assert other.limit == pytest.approx(bound.limit, rel=1e-12)

    @pytest.mark.parametrize(("name", "solver"), combined(list(ASKED), list(SOLVERS.values())))
    def test_fits_do_not_feel_it(self, solver: Any, name: str) -> None:
        case = {"sensitivity": SOLVED[3], "error": SOLVED[1]}.get(name, SOLVED[0])
        T, truth, start = noisy(case)
        size = np.linalg.norm(T)
        T, start, truth = T / size, start.scaled(1 / size), truth.scaled(1 / size)
        blocks, ss = len(truth.matrices), truth.sensitivity()
        fits = [
            fit_of(case, solver, c * T, init=start.scaled(c), constraint=ASKED[name](c, blocks, ss))
            for c in (1.0, 1e6, 1e-6)
        ]
        for fit, c in zip(fits[1:], (1e6, 1e-6), strict=True):
            assert fit.error == pytest.approx(fits[0].error, rel=1e-4)
            assert fit.sensitivity == pytest.approx(fits[0].sensitivity * c ** (2 * (blocks - 1) / blocks), rel=1e-3)
            assert fit.objective == pytest.approx(fits[0].objective, rel=1e-4)
            assert fit.reason is fits[0].reason


class TestCombinations:
    def test_bounds_of_both_hold_and_the_tighter_counts(self) -> None:
        both = tc.SensitivityBound(3.0) & tc.SensitivityBound(2.0) & tc.ErrorBound(0.1)
        assert {bound.quantity: bound.limit for bound in both.bounds} == {
            Sensitivity(): 2.0,
            SquaredError(): pytest.approx(0.01),
        }
        assert [part.quantity for part in both.objective] == [Sensitivity()]
        assert "SensitivityBound(limit=3.0) & SensitivityBound(limit=2.0)" in repr(both)

    def test_prices_add_up(self) -> None:
        both = tc.Penalty(0.1) & tc.Penalty(0.2)
        assert {part.quantity: part.weight for part in both.objective} == {
            SquaredError(): 1.0,
            Sensitivity(): pytest.approx(0.3),
        }

    def test_the_order_does_not_matter(self) -> None:
        parts = [tc.SensitivityBound(3.0), tc.Penalty(0.1), NormBound(0, 2.0)]
        found = []
        for one, two, three in itertools.permutations(parts):
            found += [(set(c.objective), set(c.bounds)) for c in (one & two & three, one & (two & three))]
        assert all(each == found[0] for each in found)

    def test_free_changes_nothing(self) -> None:
        joined = Free() & tc.SensitivityBound(3.0)
        assert joined.bounds == tc.SensitivityBound(3.0).bounds
        assert (Free() & Free()).free
        assert not joined.free
        assert not tc.Penalty(1.0).free
        assert tc.Penalty(0.0).error_alone

    @pytest.mark.parametrize("order", [1, -1])
    def test_a_price_beside_an_error_bound_is_refused(self, order: int) -> None:
        one, two = [tc.Penalty(0.1), tc.ErrorBound(0.1)][::order]
        with pytest.raises(ValueError, match="drop one of them"):
            one & two
        with pytest.raises(ValueError, match="drop one of them"):
            tc.SensitivityBound(2.0) & one & two

    def test_what_is_no_constraint_is_refused(self) -> None:
        with pytest.raises(TypeError):
            tc.Penalty(0.1) & 3  # type: ignore[operator]

    def test_gap_and_merit(self) -> None:
        both = tc.SensitivityBound(2.0) & tc.ErrorBound(0.1)
        assert both.gap({SquaredError(): 0.01, Sensitivity(): 2.0}) == 0.0
        # Relative, of the error and not of its square; the worst of both.
        assert both.gap({SquaredError(): 0.0144, Sensitivity(): 2.1}) == pytest.approx(0.2)
        assert both.gap({SquaredError(): 0.0144, Sensitivity(): 3.0}) == pytest.approx(0.5)
        assert both.gap({SquaredError(): 0.01 * (1 + 1e-7), Sensitivity(): 2.0 * (1 + 1e-7)}) == 0.0
        assert both.gap({SquaredError(): 0.01, Sensitivity(): 2.0 * (1 + 1e-5)}) > 0.0
        assert both.merit({SquaredError(): 0.005, Sensitivity(): 1.5}) == (0.0, 1.5)
        assert not both.error_alone
        assert tc.SensitivityBound(2.0).error_alone
        assert not tc.Penalty(1e-9).error_alone

    @ON_SOLVERS
    @pytest.mark.parametrize("case", [SOLVED[0], SOLVED[1]], ids=str)
    def test_two_bounds_at_once(self, case: Case, solver: Any) -> None:
        T, truth, start = noisy(case)
        for share, reached in ((2.0, True), (0.1, False)):
            constraint = tc.SensitivityBound(share * truth.sensitivity()) & tc.ErrorBound(0.15)
            fit = fit_of(case, solver, T, init=start, constraint=constraint)
            assert not judge.complaints(fit, T, constraint, start)
            assert (fit.gap == 0.0) is reached
            assert (fit.reason is tc.StopReason.INFEASIBLE) is not reached


# -- a bound from outside with every solver -------------------------------------------------

TOY = [
    cp_case((4, 3, 5), 2),
    tucker_case((4, 3, 4), (2, 2, 2)),
    chain_case((4, 3, 4), (2, 2, 2)),
    block_term_case((5, 4, 5), [(1, 1, 1), (1, 2, 2)]),
]


JOINT = [(case, solver) for case in TOY for solver in (tc.LM(), tc.Path())]
SWEEPS = [(case, tc.ALS(max_iter=2000)) for case in TOY[:1]]


class TestAConstraintFromOutside:
    @pytest.mark.parametrize(
        ("way", "beside"), mostly_slow(combined(JOINT + SWEEPS, ["penalty", "sensitivity"], every=2), 5)
    )
    def test_it_holds_is_active_and_optimal(self, way: tuple[Case, Any], beside: str) -> None:
        case, solver = way
        T, truth, start = noisy(case)
        size = np.linalg.norm(T)
        T, start, truth = T / size, start.scaled(1 / size), tc.optimal_gauge(truth.scaled(1 / size))
        ss, k = truth.sensitivity(), 1
        limit = 0.3 * float(np.linalg.norm(truth.matrices[k]) ** 2)
        # Without a price on the other blocks a bound on one is met by a change of gauge.
        other = tc.Penalty(0.02 / ss) if beside == "penalty" else tc.SensitivityBound(1.2 * ss)
        fit = fit_of(case, solver, T, init=start, constraint=NormBound(k, limit) & other)
        norm = float(np.linalg.norm(fit.model.matrices[k]) ** 2)
        assert fit.converged
        assert norm <= limit * (1 + 2e-6)
        assert norm == pytest.approx(limit, rel=1e-3)
        assert fit.gap == 0.0
        at = tc.Dense(T).evaluator(fit.model)
        parts = [SquaredError(), Sensitivity(), BlockNorm(k)]
        error, stable, own = (
            np.concatenate(
                [
                    np.zeros(m.size) if g is None else g.ravel()
                    for g, m in zip(q.half_gradient(at), fit.model.matrices, strict=True)
                ]
            )
            for q in parts
        )
        if beside == "penalty":
            weights, left = nnls(own[:, None], -(error + 0.02 / ss * stable))
            assert weights[0] > 0.0
        else:
            assert fit.sensitivity <= 1.2 * ss * (1 + 2e-6)
            weights, left = nnls(np.stack([stable, own], axis=1), -error)
        assert left < 2e-2 * np.linalg.norm(error)

    @pytest.mark.parametrize(("case", "solver"), JOINT)
    def test_alone_it_costs_nothing(self, case: Case, solver: Any) -> None:
        T, _, start = noisy(case)
        free = fit_of(case, solver, T, init=start)
        limit = 0.3 * float(np.linalg.norm(start.matrices[0]) ** 2)
        fit = fit_of(case, solver, T, init=start, constraint=NormBound(0, limit))
        assert np.linalg.norm(fit.model.matrices[0]) ** 2 <= limit * (1 + 2e-6)
        assert fit.error == pytest.approx(free.error, rel=1e-3)
