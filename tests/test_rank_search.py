"""Ranks from an error: met, true, and as few parameters as the data were made of."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.cli import main
from tensorchain.models.growth import smaller
from tensorchain.models.partial import with_identities
from tensorchain.solvers.ranks import train_svd
from tests.cases import combined, halved, mostly_slow

PLANTED = [
    ("cp", (10, 11, 12), 3),
    ("cp", (6, 5, 4, 7), 2),
    ("tucker", (9, 10, 11), (2, 3, 4)),
    ("tucker", (6, 5, 4, 5), (2, 2, 3, 2)),
    ("tt", (6, 7, 8, 5), (2, 3, 4)),
    ("tc", (7, 7, 7), (2, 3, 2)),
    ("btd", (6, 6, 6), [(2, 2, 2), (1, 1, 1)]),
]
KINDS = {"cp": tc.CP, "tucker": tc.Tucker, "tc": tc.TensorChain, "tt": tc.TensorChain, "btd": tc.BlockTerm}


def planted(model: str, shape: tuple[int, ...], rank: Any, seed: int = 0) -> Any:
    return KINDS[model].random(shape, (1, *rank) if model == "tt" else rank, rng=seed)


def true_error(T: Any, fit: tc.Fit) -> float:
    return float(np.linalg.norm(T - fit.model.full()) / np.linalg.norm(T))


@pytest.mark.parametrize(("model", "shape", "rank"), PLANTED)
def test_planted_ranks_are_found_under_noise(model: str, shape: tuple[int, ...], rank: Any) -> None:
    truth = planted(model, shape, rank)
    noise = np.random.default_rng(1).standard_normal(shape)
    clean = truth.full()
    T = clean + 1e-3 * np.linalg.norm(clean) / np.linalg.norm(noise) * noise
    fit = tc.decompose(T, model, error=5e-3, rng=0)
    assert fit.converged or fit.reason is tc.StopReason.ITERATION_LIMIT
    assert fit.error <= 5e-3
    assert fit.error == pytest.approx(true_error(T, fit), rel=1e-6)
    assert fit.model.n_parameters <= truth.n_parameters
    # As close to the truth as the noise lets it.
    assert fit.error < 1.01e-3 or fit.model.n_parameters < truth.n_parameters


@pytest.mark.parametrize("model", ["cp", "tucker", "tc", "tt", "btd"])
@pytest.mark.parametrize("error", [0.2, 0.02])
def test_sampled_functions(model: str, error: float) -> None:
    T = tc.datasets.inverse_radius(order=3, size=12)
    fit = tc.decompose(T, model, error=error, rng=0)
    assert true_error(T, fit) <= error * (1 + 1e-9)
    assert fit.error == pytest.approx(true_error(T, fit), rel=1e-5)
    if model == "tt":
        assert fit.model.bonds[0] == 1


def test_no_smaller_tucker_model_of_the_hosvd_is_missed() -> None:
    T = np.random.default_rng(3).standard_normal((4, 5, 3)) + 2.0
    fit = tc.decompose(T, "tucker", error=0.3, rng=0)
    bases = [np.linalg.svd(np.moveaxis(T, n, 0).reshape(T.shape[n], -1), full_matrices=False)[0] for n in range(3)]
    core = np.einsum("ijk,ia,jb,kc->abc", T, *bases)
    sizes = []
    for ranks in itertools.product(*(range(1, size + 1) for size in T.shape)):
        inside = np.linalg.norm(core[tuple(map(slice, ranks))])
        if np.linalg.norm(T) ** 2 - inside**2 <= (0.3 * np.linalg.norm(T)) ** 2:
            sizes.append(np.prod(ranks) + sum(s * r for s, r in zip(T.shape, ranks, strict=True)))
    assert fit.model.n_parameters <= min(sizes)


@pytest.mark.parametrize("error", [0.0, 0.1, 0.5])
def test_train_svd_keeps_to_its_budget(error: float) -> None:
    T = np.random.default_rng(0).standard_normal((4, 5, 3, 4))
    chain = tc.TensorChain(train_svd(T, error))
    assert np.linalg.norm(T - chain.full()) <= (error + 1e-12) * np.linalg.norm(T)
    assert chain.bonds[0] == 1


def test_data_with_gaps_grow() -> None:
    rng = np.random.default_rng(0)
    for model, rank in (("cp", 2), ("tucker", (2, 2, 2)), ("tt", (2, 2))):
        T = planted(model, (8, 9, 7), rank).full()
        fit = tc.decompose(tc.Masked(T, rng.random(T.shape) < 0.8), model, error=1e-2, rng=0)
        assert fit.error <= 1e-2
        assert fit.model.n_parameters <= 1.3 * planted(model, (8, 9, 7), rank).n_parameters


def test_photograph() -> None:
    load_sample_image = pytest.importorskip("sklearn.datasets").load_sample_image
    T = load_sample_image("china.jpg")[100:122, 200:224].astype(float)
    sizes = {}
    for model in ("tucker", "tt", "tc"):
        fit = tc.decompose(T, model, error=0.15, rng=0)
        assert true_error(T, fit) <= 0.15
        sizes[model] = fit.model.n_parameters
    truncated = sum(core.size for core in train_svd(T, 0.15))
    assert sizes["tc"] <= sizes["tt"] <= truncated < T.size


def test_an_error_out_of_reach_is_infeasible() -> None:
    T = np.random.default_rng(0).standard_normal((3, 4, 3)).astype(np.float32)
    fit = tc.decompose(T, "tucker", error=1e-9, rng=0)
    assert fit.reason is tc.StopReason.INFEASIBLE
    assert fit.gap > 0
    assert tc.decompose(T, "cp", error=1e-9, rng=0).reason is tc.StopReason.INFEASIBLE


@pytest.mark.parametrize(
    ("model", "scale"), mostly_slow(combined(["cp", "tucker", "tc", "tt", "btd"], [1e-200, 1e200], every=2), 3)
)
def test_any_scale(model: str, scale: float) -> None:
    T = tc.datasets.inverse_radius(order=4, size=4)
    one, two = (tc.decompose(c * T, model, error=0.01, rng=0) for c in (1.0, scale))
    assert two.error <= 0.01
    assert one.model.rank == two.model.rank


def test_as_a_matrix_has_its_rank() -> None:
    T = np.random.default_rng(0).standard_normal((6, 8))
    values = np.linalg.svd(T, compute_uv=False)
    tails = np.sqrt(np.cumsum(values[::-1] ** 2)[::-1]) / np.linalg.norm(T)
    for error in (0.5, 0.3):
        rank = int(np.argmax(np.append(tails, 0.0) <= error))
        assert tc.decompose(T, "cp", error=error, rng=0).model.rank == rank
        assert tc.decompose(T, "tt", error=error, rng=0).model.rank == (1, rank)
        assert tc.decompose(T, "tucker", error=error, rng=0).model.rank == (rank, rank)


def test_same_seed_same_result_and_limits() -> None:
    T = planted("cp", (6, 6, 6), 2).full()
    one, two = (tc.decompose(T, "cp", error=0.01, rng=5) for _ in range(2))
    assert np.array_equal(one.model.full(), two.model.full())
    assert tc.decompose(T, "cp", error=1e-9, rng=0, callback=lambda _: True).reason is tc.StopReason.CALLBACK
    out = tc.decompose(T, "cp", error=1e-9, rng=0, max_seconds=1e-6)
    assert out.reason in (tc.StopReason.TIME_LIMIT, tc.StopReason.INFEASIBLE)


@pytest.mark.parametrize(
    ("keywords", "error", "fragment"),
    [
        ({"error": 0.0}, ValueError, "between 0 and 1"),
        ({"error": 5}, ValueError, "5 percent"),
        ({"error": "5%"}, TypeError, "between 0 and 1"),
        ({"error": 0.1, "rank": 2}, ValueError, "error and rank 2"),
        ({"error": 0.1, "init": "svd"}, ValueError, "init"),
        ({"error": 0.1, "constraint": tc.ErrorBound(0.1)}, ValueError, "bound the same"),
        ({"error": 0.1, "constraint": tc.NonNegative() & tc.ErrorBound(0.1)}, ValueError, "drop the constraint"),
        ({"error": 0.1, "constraint": tc.NonNegative(modes=[5])}, ValueError, "mode 5"),
        ({"error": 0.1, "checkpoint": "run"}, ValueError, "checkpoint"),
    ],
)
def test_what_cannot_be_asked_together(keywords: Any, error: Any, fragment: str) -> None:
    with pytest.raises(error, match=fragment):
        tc.decompose(np.ones((3, 3, 3)), "cp", **keywords)


def positive(model: str, shape: tuple[int, ...], rank: Any, seed: int = 1) -> Any:
    truth = planted(model, shape, rank, seed)
    return truth.with_matrices([np.abs(matrix) for matrix in truth.matrices])


CONSTRAINTS = [
    tc.NonNegative(),
    tc.Penalty(1e-5, relative=True),
    tc.SensitivityBound(150.0, relative=True),
    tc.NonNegative() & tc.Penalty(1e-5, relative=True),
]


RANKED = [
    ("cp", (7, 8, 6), 3), ("tucker", (6, 7, 6), (2, 2, 2)), ("tt", (6, 5, 6), (2, 2)), ("tc", (6, 6, 6), (2, 2, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("ranked", "constraint"), halved(combined(RANKED, CONSTRAINTS, every=2)))
def test_constraints_hold_at_the_ranks_that_are_found(ranked: tuple[str, Any, Any], constraint: Any) -> None:
    model, shape, rank = ranked
    truth = positive(model, shape, rank)
    clean, noise = truth.full(), np.random.default_rng(1).standard_normal(shape)
    T = clean + 1e-3 * np.linalg.norm(clean) / np.linalg.norm(noise) * noise
    fit = tc.decompose(T, model, error=5e-3, constraint=constraint, rng=0)
    assert fit.gap == 0.0
    assert fit.error <= 5e-3
    assert fit.error == pytest.approx(true_error(T, fit), rel=1e-6)
    assert fit.model.n_parameters <= truth.n_parameters
    if "NonNegative" in repr(constraint):
        assert min(matrix.min() for matrix in fit.model.matrices) >= 0.0
    if model == "tt":
        assert fit.model.bonds[0] == 1


def test_signs_cost_components() -> None:
    # Of rank two; without signs the factors need a component for each of the two blocks, and one for the rest.
    rng = np.random.default_rng(0)
    T = tc.CP([rng.standard_normal((n, 2)) for n in (6, 7, 5)]).full() ** 2
    free = tc.decompose(T, "cp", error=0.05, rng=0)
    signed = tc.decompose(T, "cp", error=0.05, constraint=tc.NonNegative(), rng=0)
    assert signed.error <= 0.05
    assert signed.model.rank >= free.model.rank
    assert min(matrix.min() for matrix in signed.model.matrices) >= 0.0
    some = tc.decompose(T, "cp", error=0.05, constraint=tc.NonNegative(modes=[1]), rng=0)
    assert some.model.matrices[1].min() >= 0.0
    assert some.error <= 0.05


def test_a_price_on_the_sensitivity_costs_components() -> None:
    T = positive("cp", (7, 8, 6), 3).full()
    mild, dear = (
        tc.decompose(T, "cp", error=0.09, constraint=tc.Penalty(nu, relative=True), rng=0) for nu in (1e-6, 0.1)
    )
    assert max(mild.error, dear.error) <= 0.09
    assert dear.model.n_parameters > mild.model.n_parameters
    # The error is that of the minimiser, and not of a model on the way to it.
    again = tc.decompose(T, init=dear.model, constraint=tc.Penalty(0.1, relative=True), solver=tc.LM(), rng=0)
    assert again.error <= 0.0901


@pytest.mark.slow
def test_sweeps_that_creep_under_two_constraints_are_no_proof() -> None:
    rng = np.random.default_rng(1)
    T = np.abs(tc.CP.random((7, 6, 5), 3, rng=1).full())
    T += 0.05 * np.linalg.norm(T) / np.sqrt(T.size) * rng.standard_normal(T.shape)
    constraint = tc.NonNegative(modes=(0,)) & tc.SensitivityBound(1000.0)
    there = tc.decompose(T, "tucker", rank=(3, 3, 3), constraint=constraint, solver="lm", rng=0)
    assert there.error <= 0.15
    found = tc.decompose(T, "tucker", error=0.2, constraint=constraint, rng=0)
    assert found.reason is not tc.StopReason.INFEASIBLE
    assert found.error == pytest.approx(true_error(T, found), rel=1e-6)
    assert found.error <= 0.2
    assert found.model.matrices[1].min() >= 0.0


def test_constrained_searches_of_data_with_gaps_and_out_of_reach() -> None:
    T = positive("tucker", (6, 7, 6), (2, 2, 2)).full()
    seen = np.random.default_rng(0).random(T.shape) < 0.8
    fit = tc.decompose(tc.Masked(T, seen), "tucker", error=0.01, constraint=tc.NonNegative(), rng=0)
    assert fit.error <= 0.01
    assert min(matrix.min() for matrix in fit.model.matrices) >= 0.0
    tight = tc.decompose(T[:3, :3, :3], "cp", error=0.01, constraint=tc.SensitivityBound(1.0, relative=True), rng=0)
    assert tight.reason is tc.StopReason.INFEASIBLE
    assert tight.gap > 0.0
    for model in ("tucker", "cp"):
        with pytest.raises(ValueError, match="real numbers"):
            tc.decompose(T * 1j, model, error=0.1, constraint=tc.NonNegative())
    negative = tc.decompose(-T[:3, :3, :3], "tt", error=0.1, constraint=tc.NonNegative(), rng=0)
    assert negative.reason is tc.StopReason.INFEASIBLE


@pytest.mark.parametrize("turned", [True, False])
def test_an_index_less_keeps_signs(turned: bool) -> None:
    for model, rank in (("tt", (2, 3)), ("tucker", (2, 3, 2))):
        found = list(smaller(positive(model, (4, 5, 6), rank), turned=turned))
        assert len(found) == len(rank)
        if not turned:
            assert all(matrix.min() >= 0.0 for each in found for matrix in each.matrices)


class TestPartialTucker:
    @pytest.mark.parametrize("rank", [(2, None, None), (None, 2, None), (2, 2, None), (None, None, None)])
    def test_is_the_best_of_its_kind(self, rank: Any) -> None:
        T = np.random.default_rng(0).standard_normal((5, 4, 30))
        fit = tc.decompose(T, "tucker", rank, rng=0)
        for n, r in enumerate(rank):
            if r is None:
                assert np.array_equal(fit.model.factors[n], np.eye(T.shape[n]))
            else:
                assert fit.model.rank[n] == r
        assert fit.error == pytest.approx(true_error(T, fit), abs=1e-12)
        if sum(r is not None for r in rank) == 1:
            # One mode alone: the SVD of its unfolding.
            mode = next(n for n, r in enumerate(rank) if r is not None)
            values = np.linalg.svd(np.moveaxis(T, mode, 0).reshape(T.shape[mode], -1), compute_uv=False)
            assert fit.error == pytest.approx(np.linalg.norm(values[rank[mode] :]) / np.linalg.norm(T), rel=1e-6)
        assert fit.sensitivity == pytest.approx(fit.model.sensitivity())

    def test_constraints_are_refused(self) -> None:
        with pytest.raises(ValueError, match="partial Tucker"):
            tc.decompose(np.ones((3, 4, 5)), "tucker", (2, None, 2), constraint=tc.Penalty(1.0))

    def test_identities_change_nothing(self) -> None:
        tucker = tc.Tucker.random((4, 5, 6), (2, 2, 3), rng=0, dtype=complex)
        assert np.allclose(with_identities(tucker, (0, 2)), tucker)


class TestNames:
    @pytest.mark.parametrize(
        ("name", "rank", "needed"),
        [
            ("PARAFAC", 2, ("cp", 2)),
            ("cpd", 2, ("cp", 2)),
            ("HOSVD", 2, ("tucker", (2, 2, 2))),
            ("tr", 2, ("tc", (2, 2, 2))),
            ("Tensor-Ring", (1, 2, 2), ("tc", (1, 2, 2))),
            ("TT", 2, ("tc", (1, 2, 2))),
            ("tensor train", (3, 2), ("tc", (1, 3, 2))),
            ("BTD", [(1, 1, 1)], ("btd", [(1, 1, 1)])),
        ],
    )
    def test_other_names(self, name: str, rank: Any, needed: Any) -> None:
        fit = tc.decompose(np.random.default_rng(0).standard_normal((4, 3, 5)), name, rank, solver=tc.ALS(max_iter=2))
        assert (fit.model.name, fit.model.rank) == needed

    def test_bonds_of_a_train(self) -> None:
        with pytest.raises(ValueError, match="inner bonds"):
            tc.decompose(np.ones((3, 3, 3)), "tt", (1, 2, 2))

    @pytest.mark.parametrize(
        ("keyword", "advice"),
        [("seed", "rng=0"), ("random_state", "rng=0"), ("max_iter", "ALS"), ("n_iter_max", "ALS"), ("tol", "ALS"),
         ("verbose", "progress=True"), ("mask", "Masked"), ("non_negative", "NonNegative"), ("n_components", "rank=3"),
         ("nonsense", "it has")],
    )  # fmt: skip
    def test_keywords_of_others(self, keyword: str, advice: str) -> None:
        with pytest.raises(TypeError, match=f"decompose has no '{keyword}'.*{advice}"):
            tc.decompose(np.ones((3, 3)), "cp", 1, **{keyword: 3})


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:

    np.save(tmp_path / "T.npy", planted("tt", (5, 6, 4), (2, 3)).full())
    out = tmp_path / "fit.npz"
    arguments = ["decompose", str(tmp_path / "T.npy"), "--model", "TT", "--error", "0.01", "--json", "--out", str(out)]
    assert main(arguments) == 0
    assert tc.load(out).model.rank == (1, 2, 3)
    assert "error of 0.01" in capsys.readouterr().out


def test_command_takes_an_error_and_signs(tmp_path: Path, capsys: Any) -> None:
    data, out = tmp_path / "data.npy", tmp_path / "fit.npz"
    np.save(data, positive("cp", (6, 5, 4), 2).full())
    words = ["decompose", str(data), "--model", "cp", "--error", "0.05", "--out", str(out)]
    assert main([*words, "--non-negative", "--quiet"]) == 0
    model = tc.load(out).model
    assert model.rank <= 2
    assert min(matrix.min() for matrix in model.matrices) >= 0.0
    capsys.readouterr()
    assert main([*words, "--max-error", "0.05"]) == 2
    assert "drop the constraint" in capsys.readouterr().err
