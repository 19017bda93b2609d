"""Every answer is true: what fits once said wrongly, each as one kind over models, solvers, dtypes and seeds.

Fits are judged by `tests.judge`, which has its own formulas for the error, SS and the conditions of a solution.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.fit import StopReason
from tests import judge
from tests.cases import (
    Case,
    block_term_case,
    chain_case,
    combined,
    cp_case,
    crossed,
    gaussian,
    halved,
    mostly_slow,
    relative,
    tucker_case,
)

SOLVERS = {"als": tc.ALS(max_iter=300), "lm": tc.LM(max_iter=300), "path": tc.Path()}
ON_SOLVERS = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
CASES = [
    cp_case((4, 3, 5), 2).as_type("complex128"),
    cp_case((3, 2, 3, 2), 2),
    tucker_case((4, 3, 4), (2, 2, 2)),
    block_term_case((5, 4, 5), [(1, 1, 1), (1, 2, 2)]),
    chain_case((3, 4, 3), (2, 2, 2)),
    chain_case((4, 5, 4), (1, 2, 2)).as_type("float32"),
]
ON_CASES = pytest.mark.parametrize("case", CASES, ids=str)


def fitted(T: Any, case: Case, solver: Any, **keywords: Any) -> tc.Fit:
    if not isinstance(keywords.get("init"), tc.Model):
        keywords = {"model": case.kind, "rank": case.rank, **keywords}
    return tc.decompose(T, solver=solver, **{"rng": 0, **keywords})


def true(fit: tc.Fit, T: Any, constraint: Any = None, start: Any = None, mask: Any = None) -> tc.Fit:
    """The fit, if nothing is wrong with it."""
    assert judge.complaints(fit, T, constraint, start, mask) == []
    return fit


def solution(case: Case, seed: int = 3, scale: float = 10.0) -> tuple[Any, Any]:
    """A tensor and a model of it without error, in its best gauge."""
    wide = "complex128" if case.dtype == "complex128" else "float64"
    model = tc.optimal_gauge(case.as_type(wide).model(seed)).scaled(scale)
    return model.full().astype(case.dtype), model.astype(case.dtype)


class TestExactStarts:
    """A start without error is no solution of a constrained problem."""

    @crossed(every=2, case=CASES, solver=list(SOLVERS.values()))
    def test_penalty(self, solver: Any, case: Case) -> None:
        T, start = solution(case)
        # A price of a thousandth: some of SS goes, for a small error.
        weight = 1e-3 * float(np.linalg.norm(T)) ** 2 / start.sensitivity()
        fit = true(fitted(T, case, solver, init=start, constraint=tc.Penalty(weight)), T, tc.Penalty(weight), start)
        assert fit.reason is not StopReason.EXACT
        assert 1e-5 < fit.error < 0.03
        assert fit.sensitivity < 0.9999 * start.sensitivity()

    @pytest.mark.parametrize(("case", "solver", "limit"), halved(combined(CASES, list(SOLVERS.values()), [0.05, 1e-3])))
    def test_error_bound(self, solver: Any, case: Case, limit: float) -> None:
        T, start = solution(case)
        fit = true(fitted(T, case, solver, init=start, constraint=tc.ErrorBound(limit)), T, tc.ErrorBound(limit), start)
        assert fit.reason is not StopReason.EXACT
        assert fit.gap == 0.0
        # Shrinking alone takes SS to (1 - limit)^(2 (K - 1) / K) of it.
        blocks = len(start.matrices)
        assert fit.sensitivity <= start.sensitivity() * (1 - 0.99 * limit) ** (2 * (blocks - 1) / blocks)
        assert fit.error == pytest.approx(limit, rel=1e-2)

    @pytest.mark.parametrize(("case", "solver"), halved(combined(CASES, list(SOLVERS.values()), every=2)))
    def test_sensitivity_bound(self, solver: Any, case: Case) -> None:
        T, start = solution(case)
        for share in (0.8,) if solver is SOLVERS["als"] else (0.8, 0.1):
            bound = tc.SensitivityBound(share * start.sensitivity())
            fit = true(fitted(T, case, solver, init=start, constraint=bound), T, bound)
            assert fit.gap == 0.0
            assert fit.reason in (StopReason.CONVERGED, StopReason.ITERATION_LIMIT, StopReason.STALLED)
            # Shrinking is one way to meet it.
            blocks = len(start.matrices)
            assert fit.error <= (1 - share ** (blocks / (2 * (blocks - 1)))) * (1 + 1e-4)

    @ON_SOLVERS
    def test_no_error_is_not_exact_where_something_else_is_minimised(self, solver: Any) -> None:
        T, start = solution(CASES[1])
        fit = fitted(T, CASES[1], solver, init=start, constraint=tc.Penalty(1e-40))
        assert fit.error < 1e-13
        assert fit.reason is not StopReason.EXACT

    @ON_CASES
    def test_a_bound_that_does_not_bind(self, case: Case) -> None:
        T, model = solution(case)
        bound = tc.SensitivityBound(3.0 * model.sensitivity())
        free = fitted(T, case, None, rng=1)
        fit = true(fitted(T, case, None, constraint=bound, rng=1), T, bound)
        assert fit.gap == 0.0
        if free.reason is StopReason.EXACT and free.sensitivity < bound.limit:
            assert fit.reason is StopReason.EXACT
            assert fit.iterations <= 3 * free.iterations


class TestBounds:
    @pytest.mark.parametrize("case", CASES[:5], ids=str)
    @pytest.mark.parametrize("solver", [tc.LM(max_iter=1), tc.ALS(max_iter=1), tc.LM(max_iter=4)], ids=repr)
    def test_a_run_that_is_cut_short_has_not_converged(self, solver: Any, case: Case) -> None:
        T, start = solution(case)
        for bound in (tc.ErrorBound(0.2), tc.SensitivityBound(0.3 * start.sensitivity()), tc.Penalty(1e-2)):
            fit = true(fitted(T, case, solver, init=start, constraint=bound), T, bound)
            if fit.iterations >= solver.max_iter:
                assert fit.reason is StopReason.ITERATION_LIMIT

    @crossed(every=2, limit=[1e-6, 1e-8], case=CASES[1:5])
    def test_sweeps_meet_small_bounds(self, case: Case, limit: float) -> None:
        T, start = solution(case)
        fit = true(
            fitted(T, case, SOLVERS["als"], init=start, constraint=tc.ErrorBound(limit)), T, tc.ErrorBound(limit)
        )
        assert fit.gap == 0.0
        assert fit.reason is not StopReason.INFEASIBLE

    @pytest.mark.parametrize("limit", [1, 1.0, 5, 100.0])
    def test_percents_are_refused(self, limit: float) -> None:
        with pytest.raises(ValueError, match=f"percent: ErrorBound\\({limit / 100:g}\\)"):
            tc.ErrorBound(limit)

    @pytest.mark.parametrize(
        ("case", "solver", "bound"),
        mostly_slow(
            combined(
                [
                    block_term_case((4, 3, 3), [(1, 1, 1), (1, 2, 2)]),
                    cp_case((5, 4, 3), 3),
                    chain_case((4, 3, 4), (2, 2, 2)).as_type("float32"),
                ],
                list(SOLVERS.values()),
                [tc.ErrorBound(1 - 1e-7), tc.SensitivityBound(1e-8), tc.Penalty(1e3)],
            )[::-1],
            7,
        ),
    )
    def test_models_that_are_nearly_zero(self, case: Case, solver: Any, bound: Any) -> None:
        T = case.tensor(4)
        fit = true(fitted(T, case, solver, constraint=bound), T, bound)
        assert fit.sensitivity >= 0.0
        assert fit.gap == 0.0
        repr(fit)


class TestFiguresOfTheModel:
    """The error is that of the model that is returned."""

    @pytest.mark.parametrize("kind", ["cp", "tucker", "tc", "btd"])
    @pytest.mark.parametrize("seed", [239, 5])
    def test_single_precision_and_too_many_components(self, kind: str, seed: int) -> None:
        g = np.random.default_rng(seed)
        T = (g.standard_normal((3, 2)) @ g.standard_normal((2, 5))).astype("f4")
        rank: Any = {"cp": 3, "tucker": (3, 3), "tc": (3, 1), "btd": [(2, 2), (1, 1)]}[kind]
        for solver in (tc.ALS(), tc.LM(), None):
            fit = tc.decompose(T, kind, rank, solver=solver, rng=seed)
            assert fit.model.dtype == np.float32
            true(fit, T)
            assert fit.error < 1e-6

    @pytest.mark.parametrize("seed", range(2))
    def test_single_precision_swamps(self, seed: int) -> None:
        # Blocks that grow and cancel do not survive the cast to single precision.
        border = tc.datasets.border_cp((3, 4, 3), np.random.default_rng(seed))
        T = np.asarray(border.tensor, dtype="f4")
        for solver in (SOLVERS["als"], tc.LM(max_iter=100)):
            true(tc.decompose(T, "cp", 2, solver=solver, rng=seed), T)

    @crossed(every=2, case=[CASES[1], CASES[2], CASES[3], CASES[5]], solver=list(SOLVERS.values()))
    def test_missing_entries(self, case: Case, solver: Any) -> None:
        T, start = solution(case)
        rng = np.random.default_rng(3)
        mask = rng.random(T.shape) < 0.75
        noise = 1e-7 if case.dtype == "float64" else 1e-3
        moved = start.with_matrices(
            [m * (1 + noise * rng.standard_normal(m.shape)).astype(m.dtype) for m in start.matrices]
        )
        for constraint in (None, tc.Penalty(1e-6)):
            fit = fitted(tc.Masked(T, mask), case, solver, init=moved, constraint=constraint)
            true(fit, T, constraint, moved, mask)

    @pytest.mark.parametrize("case", CASES, ids=str)
    @pytest.mark.parametrize("level", [0.0, 1e-9, 1e-5])
    def test_sweeps_near_a_solution(self, case: Case, level: float) -> None:
        T, start = solution(case, 5)
        rng = np.random.default_rng(0)
        T = T + (level * np.linalg.norm(T) / np.sqrt(T.size) * gaussian(T.shape, T.dtype, rng)).astype(T.dtype)
        true(fitted(T, case, tc.ALS(max_iter=40), init=start), T, None, start)

    def test_samples(self) -> None:
        # A few entries hold most of the tensor: a sample of entries says nothing of them.
        rng = np.random.default_rng(1)
        T = rng.standard_normal((20, 20, 20))
        T.flat[rng.integers(T.size, size=4)] = 60.0
        for final in (True, False):
            solver = tc.SampledALS(held_out=200, max_iter=5, final_pass=final)
            fit = tc.decompose(T, "cp", rank=2, solver=solver, rng=0)
            if final:
                assert fit.error == pytest.approx(relative(judge.full(fit.model), T), rel=1e-9)
                assert fit.standard_error is None
            else:
                assert fit.standard_error is not None
                assert fit.standard_error > 0.0
                assert "estimate" in repr(fit)

    def test_more_entries_than_single_precision_counts(self) -> None:
        # 2^24 entries and more, a few of them not zero.
        rng = np.random.default_rng(0)
        shape = (300, 300, 300)
        indices = np.unique(rng.integers(0, 300, (50, 3)), axis=0)
        vectors = [rng.standard_normal((300, 1)) for _ in range(3)]
        values = np.prod([v[indices[:, n], 0] for n, v in enumerate(vectors)], axis=0) + 1.0
        T = tc.Sparse(indices, values, shape)
        for solver in (tc.ALS(max_iter=3), tc.LM(max_iter=3)):
            fit = tc.decompose(T, "cp", rank=2, solver=solver, rng=0)
            A, B, C = fit.model.factors
            here = np.einsum("nr,nr,nr->n", *(f[indices[:, n]] for n, f in enumerate((A, B, C))))
            square = float(np.sum((A.T @ A) * (B.T @ B) * (C.T @ C))) - float(here @ here)
            square += float(np.sum((values - here) ** 2))
            assert fit.error == pytest.approx(np.sqrt(square) / np.linalg.norm(values), rel=1e-6)


class TestStarts:
    """Never worse than the start, and no start is a trap."""

    @pytest.mark.parametrize(
        ("solver", "asked", "weights"),
        halved(
            combined(
                list(SOLVERS.values()),
                [("tucker", (3, 3, 3)), ("cp", 3), ("btd", [(2, 2, 2), (1, 1, 1)]), ("tc", (1, 3, 3))],
                [(100.0, 10.0, 1.0), (1.0, 1e-3, 1e-6)],
                every=2,
            )
        ),
    )
    def test_singular_vectors_of_a_diagonal(self, solver: Any, asked: tuple[str, Any], weights: Any) -> None:
        kind, rank = asked
        T = np.zeros((4, 5, 6))
        for n, weight in enumerate(weights):
            T[n, n, n] = weight
        fit = true(tc.decompose(T, kind, rank, init="svd", solver=solver, rng=0), T)
        if kind != "cp":
            assert fit.error < 1e-8
            bound = tc.ErrorBound(1e-3 * weights[1] / weights[0])
            held = true(tc.decompose(T, kind, rank, init="svd", solver=solver, constraint=bound, rng=0), T, bound)
            assert held.gap == 0.0

    @pytest.mark.parametrize("name", mostly_slow(["lm", "als", "path"]))
    def test_counts(self, name: str) -> None:
        rng = np.random.default_rng(0)
        T = rng.poisson(0.15, (7, 6, 8)) * rng.integers(1, 50, (7, 6, 8)) * 1.0
        indices = np.argwhere(T)
        sparse = tc.Sparse(indices, T[tuple(indices.T)], T.shape)
        core, factors = T, []
        for n in range(3):
            U = np.linalg.svd(np.moveaxis(T, n, 0).reshape(T.shape[n], -1))[0][:, :3]
            factors.append(U)
            core = np.moveaxis(np.tensordot(U.T, core, (1, n)), 0, n)
        hosvd = tc.Tucker(core, factors)
        for init in ("svd", hosvd):
            true(fitted(sparse, tucker_case(T.shape, (3, 3, 3)), SOLVERS[name], init=init), T, None, hosvd)

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("weights", [(1.0, 0.03, 0.001), (1.0, 1e-3, 1e-5)], ids=str)
    def test_weak_components_are_found(self, weights: Any, seed: int) -> None:
        rng = np.random.default_rng(seed)
        A, B, C = (rng.standard_normal((size, 3)) for size in (6, 5, 7))
        T = np.einsum("ir,jr,kr->ijk", A * weights, B, C)
        fit = true(tc.decompose(T, "cp", rank=3, rng=seed), T)
        assert fit.error < 1e-9

    @crossed(
        solver=list(SOLVERS.values()),
        case=[CASES[1], CASES[2], CASES[4], cp_case((4, 5, 4), 3)],
        size=[0.0, 1e-8, 1e-30],
    )
    def test_a_column_of_zeros_is_no_trap(self, solver: Any, case: Case, size: float) -> None:
        T, start = solution(case)
        rng = np.random.default_rng(1)
        matrices = [
            m + 0.01 * np.linalg.norm(m) / np.sqrt(m.size) * rng.standard_normal(m.shape) for m in start.matrices
        ]
        for k, matrix in enumerate(matrices):
            if start.network.modes[k] is not None:
                matrix[:, 0] *= size
        dead = start.with_matrices(matrices)
        fit = true(fitted(T, case, solver, init=dead), T, None, dead)
        assert fit.error < 0.1 * relative(dead.full(), T)

    @pytest.mark.parametrize("damping", [1e5, 1e9, 1e11])
    @pytest.mark.parametrize("case", CASES[:5], ids=str)
    def test_a_short_step_is_no_end(self, case: Case, damping: float) -> None:
        T, _ = solution(case)
        true(fitted(T, case, tc.LM(damping=damping), rng=2), T)

    @pytest.mark.parametrize("solver", mostly_slow(SOLVERS.values(), 2), ids=SOLVERS)
    def test_every_start_is_its_own(self, solver: Any) -> None:
        case = CASES[4]
        T = case.tensor()
        few = {"als": tc.ALS(max_iter=4), "lm": tc.LM(max_iter=4)}.get(type(solver).__name__.lower(), solver)
        start = case.model()
        alone = fitted(T, case, few, init=start)
        for init in (start, "svd", "random"):
            fit = fitted(T, case, few, init=init, starts=4)
            assert len(fit.starts) == 4
            assert len({tuple(s.model.matrices[0].ravel()) for s in fit.starts}) == 4
            for s in fit.starts:
                assert s.error == pytest.approx(relative(judge.full(s.model), T), rel=1e-9)
            assert fit.error == min(s.error for s in fit.starts)
            if init is start:
                assert fit.starts[0].error == alone.error

    def test_workers_keep_the_order(self) -> None:
        case = CASES[1]
        T = case.tensor()
        one, two = (fitted(T, case, tc.ALS(max_iter=20), starts=4, jobs=jobs) for jobs in (1, 2))
        assert [s.error for s in one.starts] == pytest.approx([s.error for s in two.starts], rel=1e-9)
        for s in two.starts:
            assert s.error == pytest.approx(relative(judge.full(s.model), T), rel=1e-9)


class TestDivergence:
    """Where there is no best approximation, that is the reason; where there is one, it is not."""

    @ON_SOLVERS
    @pytest.mark.parametrize("seed", mostly_slow(range(2)))
    def test_sums_of_indices(self, solver: Any, seed: int) -> None:
        # i + j + k has border rank 2 and rank 3 or more.
        shape = [(4, 5, 6), (3, 3, 3), (7, 4, 5), (5, 3, 4)][seed]
        T = sum(np.ix_(*(np.arange(1.0, size + 1) for size in shape)))
        fit = true(tc.decompose(T, "cp", rank=2, solver=solver, rng=seed), T)
        # Sweeps may be too slow for their growth to be told from that before a solution.
        assert fit.reason in (StopReason.DIVERGING, *([StopReason.ITERATION_LIMIT] if solver is SOLVERS["als"] else []))
        bounded = tc.SensitivityBound(0.01 * fit.sensitivity)
        true(tc.decompose(T, "cp", rank=2, solver=solver, constraint=bounded, rng=seed), T, bounded)

    @pytest.mark.parametrize(
        ("case", "solver", "seed"),
        combined([cp_case((6, 5, 6), 2), *CASES[2:5]], list(SOLVERS.values()), range(2), every=2),
    )
    def test_noisy_tensors_converge(self, case: Case, solver: Any, seed: int) -> None:
        T, start = solution(case, seed)
        noise = gaussian(T.shape, T.dtype, np.random.default_rng(seed))
        T = T + 0.01 * np.linalg.norm(T) / np.linalg.norm(noise) * noise
        fit = true(fitted(T, case, solver, init=start), T, None, start)
        assert fit.reason is not StopReason.DIVERGING


class TestThePath:
    @pytest.mark.parametrize("case", [CASES[1], CASES[2], CASES[4]], ids=str)
    def test_it_moves_from_an_exact_model(self, case: Case) -> None:
        from tensorchain.diagnosis import degeneracy_profile, trace_path

        T, model = solution(case)
        path = trace_path(model, T, decades=3.0)
        assert np.all(path.iterations[:3] > 0)
        assert path.error[0] > 10 * path.error[-1] > 0
        assert path.sensitivity[0] < path.sensitivity[-1]
        for nu, error, ss in zip(path.penalty, path.error, path.sensitivity, strict=True):
            # At a minimum over the size of X: 2 <X - T, X> + nu 2 (K - 1) / K SS = 0 bounds nu SS by the error.
            assert nu * ss < 3 * error * np.linalg.norm(T) ** 2
        profile = degeneracy_profile(T, model)
        assert len(set(np.round(np.asarray(profile.sensitivity) / profile.sensitivity[0], 6))) > 1


class TestObjects:
    def test_fits_are_hashable(self) -> None:
        fit = tc.decompose(np.ones((2, 3)), "cp", 1, rng=0)
        other = tc.decompose(np.ones((2, 3)), "cp", 1, rng=0)
        assert len({fit, other, fit}) == 2
        assert fit == fit
        assert fit != other

    def test_one_tensor_in_several_threads(self) -> None:
        case = cp_case((12, 11, 13), 3)
        data = tc.Dense(case.tensor())
        alone = [fitted(data, case, tc.LM(max_iter=15), rng=seed) for seed in range(4)]
        found: dict[int, Any] = {}
        threads = [
            threading.Thread(
                target=lambda s: found.update({s: fitted(data, case, tc.LM(max_iter=15), rng=s)}), args=(s,)
            )
            for s in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [found[s].error for s in range(4)] == pytest.approx([fit.error for fit in alone], rel=1e-9)

    def test_a_subclass_does_not_take_the_name(self) -> None:
        class Mine(tc.CP):
            pass

        assert type(tc.decompose(np.ones((2, 3)), "cp", 1, rng=0).model) is tc.CP
        assert Mine.random((2, 3), 1, rng=0).rank == 1

    @ON_CASES
    def test_blocks_of_another_wiring_are_refused(self, case: Case) -> None:
        model = case.model()
        for n, block in enumerate(model.blocks):
            blocks = list(model.blocks)
            blocks[n] = np.concatenate([block, block], axis=-1)
            with pytest.raises(ValueError, match=r"block|shape"):
                model.with_blocks(blocks)


class TestSinglePrecision:
    """Single precision with more components than there are in the data: the fit is as good as it allows."""

    @pytest.mark.parametrize("seed", range(40))
    def test_too_many_components(self, seed: int) -> None:
        g = np.random.default_rng(seed)
        T = (g.standard_normal((3, 2)) @ g.standard_normal((2, 5))).astype("f4")
        fit = tc.decompose(T, "cp", 3, solver=tc.ALS(), rng=seed)
        X = fit.model.astype(np.float64).full()
        true = np.linalg.norm(T.astype(np.float64) - X) / np.linalg.norm(T.astype(np.float64))
        assert fit.model.dtype == np.float32
        assert fit.error == pytest.approx(true, rel=1e-6, abs=1e-12)
        assert true < 1e-5
