"""The default solver: the contract of every solver, which way it takes, and what the slack buys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tests.cases import SOLVED, Case, crossed, gaussian, mostly_slow, relative
from tests.solver_contract import SolverContract, few, fit_of, same_model
from tests.tensors.test_lazy import Disk


@pytest.mark.parametrize("solver", [tc.Auto()], ids=["auto"])
@pytest.mark.parametrize("case", SOLVED, ids=str)
class TestContract(SolverContract):
    def test_the_same_seed_gives_the_same_bits(self, case: Case, solver: Any) -> None:
        # Other seeds may give the same model: singular vectors and eigenvectors come before anything random.
        one, two = (fit_of(case, solver, rng=7, callback=few) for _ in range(2))
        assert same_model(one.model, two.model)
        assert np.array_equal(one.history.error, two.history.error)


def noisy(kind: Any, shape: Any, rank: Any, share: float = 0.1, dtype: str = "float64") -> Any:
    """A random model with noise."""
    signal = kind.random(shape, rank, 5, np.result_type(dtype, np.float64)).full()
    noise = gaussian(shape, str(signal.dtype), np.random.default_rng(6))
    return (signal + share * noise * np.linalg.norm(signal) / np.linalg.norm(noise)).astype(dtype)


def border(share: float = 0.05) -> Any:
    """a o a o b + a o b o a + b o a o a, which has rank 3 and is the limit of tensors of rank 2, with noise."""
    rng = np.random.default_rng(0)
    a, b = ([rng.standard_normal(size) for size in (8, 7, 6)] for _ in range(2))
    terms = [[a[0], a[1], b[2]], [a[0], b[1], a[2]], [b[0], a[1], a[2]]]
    T = sum(np.einsum("i,j,k->ijk", *term) for term in terms)
    noise = rng.standard_normal(T.shape)
    return T + share * noise * np.linalg.norm(T) / np.linalg.norm(noise)


ORDINARY = [
    (tc.CP, (30, 28, 26), 4),
    (tc.CP, (12, 11, 10, 9), 3),
    (tc.Tucker, (24, 22, 20), (3, 4, 2)),
    (tc.BlockTerm, (24, 22, 20), [(2, 2, 2), (2, 2, 2)]),
    (tc.TensorChain, (30, 28, 26), (2, 3, 2)),
    (tc.TensorChain, (9, 8, 7, 6), (1, 3, 4, 3)),
]


class TestOrdinaryData:
    @crossed(problem=ORDINARY, dtype=["float64", "complex128", "float32"])
    def test_as_good_as_the_best_of_many_sweeps(self, problem: Any, dtype: str) -> None:
        kind, shape, rank = problem
        T = noisy(kind, shape, rank, dtype=dtype)
        sweeps = tc.decompose(T, kind, rank, solver=tc.ALS(max_iter=200), starts=5, rng=0, jobs=1)
        fit = tc.decompose(T, kind, rank, rng=0)
        assert fit.error <= sweeps.error * (1 + 1e-4)
        assert fit.converged
        assert fit.model.dtype == np.dtype(dtype)
        assert fit.error == pytest.approx(relative(fit.model.full(), T), rel=1e-5)

    @pytest.mark.parametrize(("kind", "shape", "rank"), ORDINARY)
    def test_a_healthy_fit_is_left_alone(self, kind: Any, shape: Any, rank: Any) -> None:
        T = noisy(kind, shape, rank)
        one, two = (tc.decompose(T, kind, rank, rng=0, solver=tc.Auto(slack=slack)) for slack in (0.01, 0.0))
        assert one.error == two.error
        assert one.least_error is None
        assert same_model(one.model, two.model)

    def test_the_fit_says_which_way_was_taken(self) -> None:
        fit = tc.decompose(noisy(tc.CP, (30, 28, 26), 4), "cp", 4, rng=0)
        assert "core 4x4x4, sweeps from algebraic and svd" in fit.solver
        assert "path" in tc.decompose(border(), "cp", 2, rng=0).solver
        assert "svd" in tc.decompose(noisy(tc.Tucker, (9, 8, 7), 2), "tucker", 2, rng=0).solver

    def test_few_passes_over_data_on_disk(self) -> None:
        for kind, shape, rank in ORDINARY[:5]:
            T = noisy(kind, shape, rank)
            disk = Disk(T)
            fit = tc.decompose(tc.Lazy(disk, box_entries=T.size // 4), kind, rank, rng=0, solver=tc.Auto(slack=0.0))
            assert fit.error <= tc.decompose(T, kind, rank, rng=0).error * (1 + 1e-3)
            assert disk.passes() <= 6.0


class TestConstraints:
    @pytest.mark.parametrize(("kind", "shape", "rank"), mostly_slow([ORDINARY[0], ORDINARY[4], *ORDINARY[2:4]], 2))
    def test_bounds_hold_through_a_reduction(self, kind: Any, shape: Any, rank: Any) -> None:
        T = noisy(kind, shape, rank)
        free = tc.decompose(T, kind, rank, rng=0)
        bounded = tc.decompose(T, kind, rank, rng=0, constraint=tc.SensitivityBound(0.8 * free.sensitivity))
        assert bounded.sensitivity <= 0.8 * free.sensitivity * (1 + 2e-6)
        assert "core" in bounded.solver
        direct = tc.decompose(T, init=free.model, constraint=tc.SensitivityBound(0.8 * free.sensitivity))
        assert bounded.error <= direct.error * (1 + 1e-3)
        tight = tc.decompose(T, kind, rank, rng=0, constraint=tc.ErrorBound(1.1 * free.error))
        assert relative(tight.model.full(), T) <= 1.1 * free.error * (1 + 2e-6)
        assert tight.sensitivity < free.sensitivity


class TestSlack:
    def test_little_error_buys_much_sensitivity(self) -> None:
        T = border()
        least = tc.decompose(T, "cp", 2, rng=0, solver=tc.Auto(slack=0.0))
        fit = tc.decompose(T, "cp", 2, rng=0)
        assert fit.reason is tc.StopReason.STABILISED
        assert fit.converged
        assert fit.least_error == pytest.approx(least.error, rel=1e-3)
        assert fit.error <= 1.01 * fit.least_error * (1 + 1e-3)
        assert fit.error == pytest.approx(relative(fit.model.full(), T), rel=1e-6)
        assert fit.sensitivity < 0.1 * least.sensitivity
        assert "least error" in repr(fit)
        assert "slack=0" in repr(fit)

    def test_nothing_is_given_up_where_a_constraint_was_asked_for(self) -> None:
        fit = tc.decompose(border(), "cp", 2, rng=0, constraint=tc.SensitivityBound(1e5))
        assert fit.least_error is None
        assert fit.reason is not tc.StopReason.STABILISED

    def test_a_slack_must_be_a_share(self) -> None:
        with pytest.raises(ValueError, match="slack"):
            tc.Auto(slack=-0.1)


class TestGaps:
    @pytest.mark.parametrize("observed", mostly_slow([False, True]))
    def test_an_estimate_of_the_core_leads_to_the_model(self, observed: bool) -> None:
        truth = tc.CP.random((40, 30, 35), 4, 1)
        T = truth.full()
        rng = np.random.default_rng(0)
        seen = rng.random(T.shape) < 0.15
        noise = 0.01 * T.std() * rng.standard_normal(T.shape)
        data = tc.Masked(T + noise, seen)
        if observed:
            where = np.argwhere(seen)
            data = tc.Observed(where, (T + noise)[seen], T.shape)
        fit = tc.decompose(data, "cp", 4, rng=0)
        assert relative(fit.model.full(), T) < 0.01


@pytest.mark.parametrize(("model", "rank"), [("cp", 3), ("tc", 2), ("tucker", 2), ("tc", (1, 2, 2, 2))])
def test_sparse_tensors_that_cannot_be_held_in_memory(model: str, rank: Any) -> None:
    # 128 GB as an array.
    T = tc.Sparse([[0, 0, 0, 0], [1, 1, 1, 1]], [3.0, 2.0], shape=(500, 400, 400, 200))
    fit = tc.decompose(T, model, rank, rng=0)
    assert fit.error < 1e-7
    assert fit.converged


@pytest.mark.parametrize(("shape", "seed"), mostly_slow([((6, 7, 8), 0), ((6, 7, 8), 3), ((10, 10, 10), 0)]))
def test_border_tensors_without_noise_have_no_best_approximation(shape: tuple[int, ...], seed: int) -> None:
    """Whether the algebraic start has blown up at once, or the path has run off and sweeps then creep."""
    T = tc.datasets.border_cp(shape, np.random.default_rng(seed)).tensor
    fit = tc.decompose(T, "cp", 2, rng=seed)
    assert fit.reason is tc.StopReason.DIVERGING
    assert fit.error < 1e-5


@pytest.mark.parametrize(("shape", "bound"), [((8, 7, 6), 300.0), ((6, 5, 4, 4), 300.0), ((7, 6, 5), None)])
def test_the_finish_on_the_tensor_comes_to_an_end(shape: Any, bound: float | None) -> None:
    # Nothing but noise: the core that the search works on is far from the best one.
    rng = np.random.default_rng(0)
    T = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    constraint = None if bound is None else tc.SensitivityBound(bound)
    fit = tc.decompose(T, "cp", rank=3, constraint=constraint, rng=0)
    assert fit.reason is not tc.StopReason.ITERATION_LIMIT
    further = tc.decompose(T, init=fit.model, constraint=constraint, solver=tc.LM(), rng=0)
    assert fit.error <= 1.002 * further.error


@pytest.mark.parametrize(("seed", "noise"), mostly_slow([(0, 0.0), (0, 0.05), (1, 0.0), (2, 0.05)], 2))
def test_starts_that_meet_in_a_local_minimum_do_not_end_the_search(seed: int, noise: float) -> None:
    """What the core holds beside noise tells that there is a better one."""
    shape, rank = (12, 11, 10), [(3, 2, 2), (2, 3, 3)]
    X = tc.BlockTerm.random(shape, rank, rng=100 + seed).full()
    drawn = np.random.default_rng(seed).standard_normal(shape)
    T = X / np.linalg.norm(X) + noise * drawn / np.linalg.norm(drawn)
    fit = tc.decompose(T, "btd", rank, rng=seed, solver=tc.Auto(slack=0))
    assert fit.error <= max(1.01 * noise, 1e-12)
