"""The gauge of least sensitivity: the same tensor, never a larger SS, one answer from every start.

What is known of the optimum without computing it: it does not depend on the gauge one starts from (SS is
geodesically convex on the gauge group), no small change of gauge lowers it, at it the two traced Grams of each bond
are equal, and for CP it has a closed form.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorchain as tc
from tensorchain.models import CP, TensorChain, Tucker
from tensorchain.stability.gauge import _best_relaxation, _Search
from tests.cases import (
    SMALL,
    THREE,
    Case,
    chain_case,
    crossed,
    double,
    four_models,
    multiply_bond,
    random_gauge,
    relative,
)

CONDITIONS = [1.0, 1e3, 1e6]


def products(model: Any) -> float:
    """Size of the numbers that are added up in X: X is known up to eps times this."""
    return float(np.prod([np.linalg.norm(matrix) for matrix in model.matrices]))


class GaugeContract:
    """What `optimal_gauge` promises for a model; subclass and parametrise with cases."""

    def test_the_tensor_is_unchanged(self, case: Case) -> None:
        model = case.model()
        assert relative(tc.optimal_gauge(model).full(), model.full()) < 1e-12

    @pytest.mark.parametrize("condition", CONDITIONS[1:])
    def test_the_tensor_is_unchanged_from_a_bad_gauge(self, case: Case, condition: float) -> None:
        bad = random_gauge(case.model(), np.random.default_rng(1), condition=condition)
        difference = np.linalg.norm(tc.optimal_gauge(bad).full() - bad.full())
        # What rounding of the blocks in the bad gauge does to X, whoever computes it.
        assert difference < 1e-12 * np.linalg.norm(bad.full()) + 1e-14 * products(bad)

    @pytest.mark.parametrize("condition", CONDITIONS)
    def test_sensitivity_never_rises(self, case: Case, condition: float) -> None:
        bad = random_gauge(case.model(2), np.random.default_rng(2), condition=condition)
        best = tc.optimal_gauge(bad)
        assert best.sensitivity() <= bad.sensitivity()
        assert tc.optimal_gauge(best).sensitivity() <= best.sensitivity()

    @pytest.mark.parametrize("condition", CONDITIONS)
    def test_it_does_not_depend_on_the_start(self, case: Case, condition: float) -> None:
        model = case.model(3)
        best = tc.optimal_gauge(model).sensitivity()
        for seed in range(2):
            bad = random_gauge(model, np.random.default_rng(seed), condition=condition)
            assert tc.optimal_gauge(bad).sensitivity() == pytest.approx(best, rel=1e-6)

    def test_no_small_gauge_lowers_it(self, case: Case) -> None:
        best = tc.optimal_gauge(case.model(4), tol=1e-14, max_cycles=2000)
        lowest = best.sensitivity()
        for seed in range(6):
            for size in (1e-1, 1e-3):
                moved = random_gauge(best, np.random.default_rng(seed), size)
                assert moved.sensitivity() >= lowest * (1 - 1e-10)

    def test_it_is_stationary_along_every_gauge(self, case: Case) -> None:
        # d SS along a tangent of the gauge group, by a central difference; of the order of SS away from the optimum.
        best = tc.optimal_gauge(case.model(5), tol=1e-14, max_cycles=2000)
        step = 1e-5
        for t, term in enumerate(best.network.terms):
            for letter, k, m in term.gauge_bonds:
                size = dict(term.sizes)[letter]
                direction = np.random.default_rng(0).standard_normal((size, size))
                values = []
                for sign in (1, -1):
                    gauge = np.eye(size) + sign * step * direction
                    moved = multiply_bond(best, t, letter, k, gauge.T)
                    values.append(multiply_bond(moved, t, letter, m, np.linalg.inv(gauge)).sensitivity())
                assert abs(values[0] - values[1]) / (2 * step) < 1e-4 * best.sensitivity()

    def test_dtype_and_shape_are_kept(self, case: Case) -> None:
        model = case.model()
        best = tc.optimal_gauge(model)
        assert type(best) is case.kind
        assert best.dtype == case.dtype
        assert best.network == model.network
        assert [b.shape for b in best.blocks] == [b.shape for b in model.blocks]


@pytest.mark.parametrize("case", SMALL, ids=str)
class TestOptimalGauge(GaugeContract):
    """Orders 2 to 4, real and complex."""


class TestSingle:
    @pytest.mark.parametrize("case", [case.as_type("float32") for n in (2, 3, 4) for case in four_models(n)], ids=str)
    def test_float32(self, case: Case) -> None:
        model = case.model()
        best = tc.optimal_gauge(model)
        assert best.dtype == np.float32
        assert relative(best.full(), model.full()) < 1e-5
        assert best.sensitivity() <= model.sensitivity()
        assert best.sensitivity() == pytest.approx(tc.optimal_gauge(double(model)).sensitivity(), rel=1e-5)


class TestRelaxation:
    """Bonds that lean on each other: each goes beyond its best."""

    def test_it_needs_a_fraction_of_the_cycles_on_a_chain_near_degeneracy(self) -> None:
        tensor = np.random.default_rng(0).standard_normal((5, 5, 5))
        fit = tc.decompose(tensor, "tc", rank=3, rng=2, solver=tc.LM(max_iter=100, tol=0.0, exact=0.0))
        bad = random_gauge(fit.model, np.random.default_rng(0), condition=10.0)
        plain = _Search(bad)
        values = [plain.cycle() for _ in range(600)]
        near = values[-1] * (1.0 + 1e-7)
        # How near the fit comes to degeneracy depends on the processor.
        needed = next(n for n, value in enumerate(values) if value < near)
        assert needed > 80
        assert tc.optimal_gauge(bad, max_cycles=needed // 2).sensitivity() < near

    @crossed(case=SMALL, relaxation=[1.2, 1.5, 1.9])
    def test_sensitivity_falls_however_far_a_bond_goes(self, case: Case, relaxation: float) -> None:
        search = _Search(random_gauge(double(case.model()), np.random.default_rng(0), condition=10.0))
        last = search.cycle()
        search.relaxation = relaxation
        for _ in range(4):
            last, before = search.cycle(), last
            assert last <= before * (1.0 + 1e-12)

    @pytest.mark.parametrize("relaxation", [1.0, 1.5, 1.9])
    def test_the_relaxation_stays_below_two_where_cycles_stand_still(self, relaxation: float) -> None:
        for ratio in (1.0, np.nextafter(1.0, 0.0), 1.0 - 1e-12, 1.0 + 1e-12, np.inf, np.nan):
            assert relaxation <= _best_relaxation(float(ratio), relaxation) <= 1.9

    @pytest.mark.parametrize("radius", [0.85, 0.9, 0.99])
    def test_the_best_relaxation_is_that_of_a_linear_system(self, radius: float) -> None:
        # Two unknowns that lean on each other by the root of `radius`: the matrix of a relaxed step and its radius.
        def speed(w: float) -> float:
            lean = np.sqrt(radius)
            lower, upper = np.array([[1.0, 0.0], [-w * lean, 1.0]]), np.array([[1.0 - w, w * lean], [0.0, 1.0 - w]])
            return float(np.abs(np.linalg.eigvals(np.linalg.solve(lower, upper))).max())

        best = _best_relaxation(radius**2, 1.0)
        assert speed(best) < speed(1.0)
        if best < 1.85:
            assert all(speed(best) <= speed(best + change) for change in (-0.02, 0.02))
            # From the speed under a smaller one follows the same.
            less = 1.0 + 0.5 * (best - 1.0)
            assert _best_relaxation(speed(less) ** 2, less) == pytest.approx(best, rel=1e-6)


class TestClosedForms:
    @pytest.mark.parametrize("shape", [(3, 3, 3), (2, 5, 9), (4, 3, 2, 5)])
    def test_cp_is_balanced_with_weights_of_the_sizes(self, shape: tuple[int, ...]) -> None:
        # SS = sum_n I_n sum_r prod_{m != n} ||a_r^(m)||^2 at fixed products c_r = prod ||a_r^(n)||^2: with
        # ||a_r^(n)||^2 proportional to I_n every term is c_r I_n / ||a_r^(n)||^2, all equal.
        model = CP.random(shape, 4, 0)
        best = tc.optimal_gauge(model)
        order = len(shape)
        squares = np.array([np.sum(np.abs(factor) ** 2, axis=0) for factor in model.factors])
        least = order * np.sum(np.prod(squares, axis=0) * (np.prod(shape) / np.prod(squares, axis=0)) ** (1 / order))
        assert best.sensitivity() == pytest.approx(least, rel=1e-10)
        ratios = np.array([np.sum(np.abs(f) ** 2, axis=0) / size for f, size in zip(best.factors, shape, strict=True)])
        np.testing.assert_allclose(ratios, np.broadcast_to(ratios[0], ratios.shape), rtol=1e-8)

    @pytest.mark.parametrize("shape", [(5, 5), (3, 7), (8, 2)])
    def test_a_matrix_product(self, shape: tuple[int, int]) -> None:
        # X = A B': SS = I_2 ||A||^2 + I_1 ||B||^2 >= 2 sqrt(I_1 I_2) ||A|| ||B|| >= 2 sqrt(I_1 I_2) ||X||_*.
        for model in (CP.random(shape, 2, 0), TensorChain.random(shape, (1, 2), 0)):
            nuclear = np.linalg.svd(model.full(), compute_uv=False).sum()
            best = tc.optimal_gauge(model).sensitivity()
            assert best == pytest.approx(2 * np.sqrt(np.prod(shape)) * nuclear, rel=1e-8)

    def test_tucker_of_rank_one(self) -> None:
        # With c = |g| prod ||u_n|| fixed: SS = prod ||u||^2 + g^2 sum_n I_n prod_{m != n} ||u_m||^2, least where the
        # terms are equal.
        model = Tucker.random((3, 4, 5), (1, 1, 1), 0)
        size = model.norm()
        least = 4 * (size**6 * 3 * 4 * 5) ** (1 / 4)
        assert tc.optimal_gauge(model).sensitivity() == pytest.approx(least, rel=1e-8)


def deficient(case: Case, seed: int) -> Any:
    """A model whose bonds are too wide: along each, one direction is dead on one side."""
    model = case.model(seed)
    matrices = [np.array(matrix) for matrix in model.matrices]
    matrices[0][:, 0] = 0.0
    matrices[-1][:, -1] = matrices[-1][:, 0]
    return model.with_matrices(matrices)


class TestDegenerate:
    @pytest.mark.parametrize("case", SMALL, ids=str)
    @pytest.mark.parametrize("position", [0, -1])
    def test_a_zero_block(self, case: Case, position: int) -> None:
        model = case.model()
        k = range(len(model.matrices))[position]
        best = tc.optimal_gauge(model.with_matrix(k, 0 * model.matrices[k]))
        assert all(np.all(np.isfinite(matrix)) for matrix in best.matrices)
        assert best.norm() == 0.0

    @pytest.mark.parametrize("case", SMALL, ids=str)
    def test_nothing_but_zeros(self, case: Case) -> None:
        model = case.model()
        best = tc.optimal_gauge(model.with_matrices([0 * matrix for matrix in model.matrices]))
        assert all(not matrix.any() for matrix in best.matrices)

    @pytest.mark.parametrize("case", SMALL, ids=str)
    def test_dead_columns(self, case: Case) -> None:
        model = deficient(case, 6)
        best = tc.optimal_gauge(model)
        assert relative(best.full(), model.full()) < 1e-12
        assert best.sensitivity() <= model.sensitivity()

    @pytest.mark.parametrize("case", SMALL, ids=str)
    def test_dead_columns_from_any_gauge(self, case: Case) -> None:
        model = deficient(case, 7)
        best = tc.optimal_gauge(model).sensitivity()
        for seed in range(3):
            other = random_gauge(model, np.random.default_rng(seed), 0.3)
            assert tc.optimal_gauge(other).sensitivity() == pytest.approx(best, rel=1e-5)

    def test_bonds_wider_than_the_data(self) -> None:
        # A chain of rank one, written with bonds of 3: blocks stay finite and X stays.
        thin = TensorChain.random((4, 5, 6), 1, 0)
        cores = [np.zeros((3, n, 3)) for n in thin.shape]
        for wide, core in zip(cores, thin.cores, strict=True):
            wide[:1, :, :1] = core
        model = TensorChain(cores)
        best = tc.optimal_gauge(model)
        assert relative(best.full(), thin.full()) < 1e-12
        assert best.sensitivity() <= model.sensitivity()

    @pytest.mark.parametrize("case", THREE, ids=str)
    def test_one_by_one(self, case: Case) -> None:
        model = case.kind.from_matrices(
            case.model().network, [np.ones((1, width)) for width in case.model().network.widths]
        )
        best = tc.optimal_gauge(model)
        assert relative(best.full(), model.full()) < 1e-12
        assert best.sensitivity() <= model.sensitivity()


class TestProperties:
    @given(seed=st.integers(0, 2**16), exponents=st.lists(st.floats(-60, 60), min_size=3, max_size=3))
    def test_scales_that_cancel(self, seed: int, exponents: list[float]) -> None:
        model = TensorChain.random((3, 4, 3), (2, 1, 2), seed)
        scales = 10.0 ** (np.array(exponents) - np.mean(exponents))
        lopsided = model.with_matrices([m * s for m, s in zip(model.matrices, scales, strict=True)])
        best = tc.optimal_gauge(lopsided)
        assert relative(best.full(), model.full()) < 1e-10
        assert best.sensitivity() == pytest.approx(tc.optimal_gauge(model).sensitivity(), rel=1e-6)

    def test_a_limit_on_cycles_is_kept(self) -> None:
        bad = random_gauge(chain_case((5, 5, 5), (3, 3, 3)).model(), np.random.default_rng(0), condition=1e4)
        values = [tc.optimal_gauge(bad, max_cycles=cycles).sensitivity() for cycles in (0, 1, 2, 5, 50)]
        assert values[0] == bad.sensitivity()
        assert all(after <= before for before, after in itertools.pairwise(values))
        began = time.perf_counter()
        tc.optimal_gauge(bad, max_cycles=1)
        assert time.perf_counter() - began < 1.0
