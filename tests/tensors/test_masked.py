"""Missing and weighted entries: completion, what weights mean, slow twins of the curvature, what is refused."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorchain as tc
from tensorchain.tensors import curvature
from tensorchain.tensors.boxes import boxes
from tensorchain.tensors.masked import Masked
from tensorchain.tensors.observed import Observed
from tests.cases import THREE, Case, jacobian, mostly_slow, relative

EXACT = {
    "cp": (tc.CP, 3, 0.3),
    "tucker": (tc.Tucker, (2, 2, 2), 0.3),
    "btd": (tc.BlockTerm, [(2, 2, 1), (1, 2, 2)], 0.5),
    "tc": (tc.TensorChain, (2, 2, 2), 0.4),
}
"""Model, rank, share of the entries observed."""


def cut_out(kind: Any, rank: Any, share: float, seed: int) -> tuple[Any, Any]:
    """An exact tensor with unit variance, and a mask that sees every slice."""
    rng = np.random.default_rng(seed)
    truth = kind.random((12, 10, 11), rank, rng).full()
    mask = rng.random(truth.shape) < share
    return truth / truth.std(), mask


class TestCompletion:
    @pytest.mark.parametrize("name", mostly_slow(["cp", "tc", "tucker", "btd"], 2))
    def test_truth_is_recovered_where_it_was_not_seen(self, name: str) -> None:
        kind, rank, share = EXACT[name]
        truth, mask = cut_out(kind, rank, share, seed=5)
        fit = tc.decompose(Masked(np.where(mask, truth, np.nan), mask), kind, rank, starts=3, rng=0)
        assert fit.error < 1e-6
        assert relative(fit.model.full()[~mask], truth[~mask]) < 1e-5

    @pytest.mark.parametrize("solver", [tc.ALS(max_iter=500), tc.LM()], ids=["als", "lm"])
    def test_the_other_solvers_complete_too(self, solver: Any) -> None:
        truth, mask = cut_out(tc.CP, 2, 0.4, seed=1)
        fit = tc.decompose(Masked(truth, mask), "cp", 2, solver=solver, init="svd", rng=0)
        assert relative(fit.model.full()[~mask], truth[~mask]) < 1e-4

    def test_from_the_entries_alone(self) -> None:
        truth, mask = cut_out(tc.TensorChain, (2, 2, 2), 0.4, seed=5)
        source = Observed(np.argwhere(mask), truth[mask], truth.shape)
        fit = tc.decompose(source, "tc", (2, 2, 2), starts=3, rng=0)
        assert relative(fit.model.full()[~mask], truth[~mask]) < 1e-5

    def test_conjugate_gradients_beyond_the_dense_limit(self) -> None:
        truth, mask = cut_out(tc.CP, 2, 0.5, seed=2)
        fit = tc.decompose(Masked(truth, mask), "cp", 2, solver=tc.LM(dense_limit=0), init="svd", rng=0)
        assert relative(fit.model.full()[~mask], truth[~mask]) < 1e-4

    def test_unseen_entries_do_not_count(self) -> None:
        truth, mask = cut_out(tc.CP, 3, 0.5, seed=3)
        fits = [
            tc.decompose(Masked(np.where(mask, truth, junk), mask), "cp", 2, solver=tc.LM(max_iter=20), rng=0)
            for junk in (0.0, 1e6, np.nan, np.inf)
        ]
        for fit in fits[1:]:
            assert np.array_equal(fit.model.full(), fits[0].model.full())

    def test_start_from_singular_vectors(self) -> None:
        truth, mask = cut_out(tc.TensorChain, (2, 2, 2), 0.7, seed=4)
        for model, rank in (("cp", 3), ("tc", (2, 2, 2))):
            fit = tc.decompose(Masked(truth, mask), model, rank, init="svd", rng=0)
            assert fit.history.error[-1] < fit.history.error[0]


class TestWeights:
    def test_a_minimum_has_no_weighted_gradient(self) -> None:
        """J^H W (T - X) = 0, with the explicit Jacobian."""
        rng = np.random.default_rng(0)
        tensor, weights = rng.standard_normal((4, 3, 5)), rng.exponential(size=(4, 3, 5))
        fit = tc.decompose(Masked(tensor, weights=weights), "cp", 2, solver=tc.LM(tol=1e-15, max_iter=2000), rng=0)
        error = weights * (tensor - fit.model.full())
        gradient = jacobian(fit.model).T @ error.ravel()
        assert np.linalg.norm(gradient) < 1e-6 * np.linalg.norm(jacobian(fit.model)) * np.linalg.norm(error)

    def test_only_ratios_matter(self) -> None:
        rng = np.random.default_rng(1)
        tensor, weights = rng.standard_normal((4, 3, 5)), rng.exponential(size=(4, 3, 5))
        fits = [
            tc.decompose(
                Masked(tensor, weights=factor * weights), "tc", 2, solver=tc.LM(), constraint=tc.Penalty(0.01), rng=0
            )
            for factor in (1.0, 2.0**40)
        ]
        assert relative(fits[1].model.full(), fits[0].model.full()) < 1e-6

    def test_equal_weights_are_no_weights(self) -> None:
        truth, mask = cut_out(tc.CP, 2, 0.5, seed=2)
        model = tc.CP.random(truth.shape, 2, 0)
        plain, weighted = Masked(truth, mask), Masked(truth, weights=7.0 * mask)
        assert weighted.norm() == pytest.approx(plain.norm(), rel=1e-14)
        assert relative(weighted.gram(model, 1), plain.gram(model, 1)) < 1e-14

    def test_a_heavy_entry_is_met(self) -> None:
        rng = np.random.default_rng(2)
        tensor = rng.standard_normal((6, 6, 6))
        weights = np.ones(tensor.shape)
        weights[1, 2, 3] = 1e4
        light = tc.decompose(tensor, "cp", 2, rng=0).model.full()
        heavy = tc.decompose(Masked(tensor, weights=weights), "cp", 2, rng=0).model.full()
        assert abs(heavy[1, 2, 3] - tensor[1, 2, 3]) < 0.02 * abs(light[1, 2, 3] - tensor[1, 2, 3])

    def test_mask_and_weights_together(self) -> None:
        rng = np.random.default_rng(3)
        tensor, weights = rng.standard_normal((4, 3, 5)), rng.exponential(size=(4, 3, 5)) + 0.1
        mask = rng.random(tensor.shape) < 0.8
        both, one = Masked(tensor, mask, weights=weights), Masked(tensor, weights=weights * mask)
        assert both.norm() == pytest.approx(one.norm(), rel=1e-14)
        assert np.array_equal(both.observed, mask)


class TestCurvature:
    """Chunks of every size give the same sums."""

    @pytest.mark.parametrize("case", THREE, ids=str)
    def test_small_chunks(self, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        model = case.model()
        weights = np.random.default_rng(0).random(case.shape)
        whole = curvature.weighted_normal_matrix(model, weights)
        grams = [curvature.weighted_gram(model, k, weights) for k in range(len(model.matrices))]
        monkeypatch.setattr(curvature, "_NUMBERS", 40)
        monkeypatch.setattr(curvature, "_CACHED", 30)
        assert relative(curvature.weighted_normal_matrix(model, weights), whole) < 1e-13
        for k, gram in enumerate(grams):
            assert relative(curvature.weighted_gram(model, k, weights), gram) < 1e-13

    def test_memory_stays_below_the_tensor(self) -> None:
        """No Khatri-Rao product of the size of the data, no copy of T - X."""
        rng = np.random.default_rng(0)
        tensor = rng.standard_normal((200, 200, 200))
        source = Masked(tensor, rng.random(tensor.shape) < 0.5)
        model = tc.CP.random(tensor.shape, 4, rng)
        delta = list(model.matrices)
        tracemalloc.start()
        assert len(source.residual(model).gradient) == 3
        source.gram(model, 0)
        source.gauss_newton_matvec(model, delta)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1.5 * tensor.nbytes


@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=4), limit=st.integers(1, 50))
def test_boxes_cover_every_entry_once_in_order(shape: list[int], limit: int) -> None:
    positions = np.arange(int(np.prod(shape))).reshape(shape)
    pieces = [positions[box].ravel() for box in boxes(shape, limit)]
    assert max(len(piece) for piece in pieces) <= limit
    assert np.array_equal(np.concatenate(pieces), positions.ravel())


class TestInput:
    def test_nan_is_missing_by_default(self) -> None:
        tensor = np.arange(12.0).reshape(3, 4)
        tensor[1, 2] = np.nan
        source = Masked(tensor)
        assert np.array_equal(source.observed, ~np.isnan(tensor))
        assert source.norm() == pytest.approx(float(np.sqrt(np.nansum(tensor**2))))

    def test_integers(self) -> None:
        source = Masked(np.arange(12).reshape(3, 4), np.arange(12).reshape(3, 4) > 1)
        assert source.dtype == np.float64
        assert source.norm() == pytest.approx(float(np.sqrt(sum(n * n for n in range(2, 12)))))

    def test_nothing_is_changed(self) -> None:
        tensor, mask = np.ones((3, 4)), np.eye(3, 4, dtype=bool) | (np.arange(4) == 3)
        Masked(tensor, mask).scaled(2.0).to_dense()[:] = 5.0
        assert np.all(tensor == 1.0)

    @pytest.mark.parametrize(
        ("mask", "weights", "error", "says"),
        [
            (np.ones((3, 5), dtype=bool), None, ValueError, r"\(3, 5\).*\(3, 4\)"),
            (np.ones((3, 4)), None, TypeError, "boolean"),
            (np.zeros((3, 4), dtype=bool), None, ValueError, "no entry is observed among"),
            (np.arange(12).reshape(3, 4) > 3, None, ValueError, r"1 of the 3 slices of mode 1 \(index 0\).*np.delete"),
            (np.ones((3, 4), dtype=bool) & (np.arange(4) < 2), None, ValueError, r"mode 2 \(index 2, 3\)"),
            (None, np.ones(4), ValueError, r"weights have shape \(4,\)"),
            (None, -np.ones((3, 4)), ValueError, "negative"),
            (None, np.full((3, 4), np.nan), ValueError, "NaN"),
            (None, np.zeros((3, 4)), ValueError, "no entry is observed"),
            (None, np.ones((3, 4)) * 1j, TypeError, "complex128"),
        ],
    )
    def test_refused(self, mask: Any, weights: Any, error: type[Exception], says: str) -> None:
        with pytest.raises(error, match=says):
            Masked(np.ones((3, 4)), mask, weights=weights)

    def test_an_observed_nan_is_refused(self) -> None:
        tensor = np.ones((3, 4))
        tensor[0, 0] = np.nan
        with pytest.raises(ValueError, match="observed entry is NaN"):
            Masked(tensor, np.ones((3, 4), dtype=bool))

    def test_a_mask_of_what_is_missing_is_told_what_it_means(self) -> None:
        tensor = np.random.default_rng(0).standard_normal((5, 6))
        np.fill_diagonal(tensor, np.nan)
        tensor[0, 5], tensor[1, :5] = np.nan, np.nan
        missing = np.isnan(tensor)
        with pytest.raises(ValueError, match="mask is True where an entry is observed"):
            Masked(tensor, missing)
        assert Masked(tensor, ~missing).n_observed == np.count_nonzero(~missing)

    @pytest.mark.parametrize(("array", "error"), [("text", TypeError), (np.ones(3), ValueError)])
    def test_other_arrays_are_refused(self, array: Any, error: type[Exception]) -> None:
        with pytest.raises(error):
            Masked(array)

    def test_a_dense_array_with_nan_names_this_class(self) -> None:
        with pytest.raises(ValueError, match="Masked"):
            tc.decompose(np.full((3, 4), np.nan), "cp", 1)

    def test_a_zero_tensor_is_refused(self) -> None:
        with pytest.raises(ValueError, match="zero everywhere"):
            tc.decompose(Masked(np.zeros((3, 4)), np.ones((3, 4), dtype=bool)), "cp", 1)


def test_weights_do_not_round_single_precision_again() -> None:
    # W T is as exact as T: the error is that of the data as given, near their rounding too.
    rng = np.random.default_rng(0)
    model = tc.CP.random((5, 6, 7), 2, rng=rng)
    T = (model.full() * (1.0 + 3e-7 * rng.standard_normal(model.shape))).astype(np.float32)
    weights = 10.0 ** rng.uniform(-3.0, 3.0, T.shape)
    data = tc.Masked(T, weights=weights)
    assert data.dtype == data.to_dense().dtype == np.float32
    assert np.array_equal(data.to_dense(), T)
    difference = T.astype(float) - model.full()
    expected = np.sqrt(np.sum(weights * difference**2) / np.mean(weights))
    assert data.residual_norm(model) == pytest.approx(expected, rel=1e-6)
