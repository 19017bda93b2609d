"""Tensors given entry by entry: zeros that are not listed (`Sparse`) and entries that are not known (`Observed`)."""

from __future__ import annotations

import math
import string
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import sparse
from hypothesis import given
from hypothesis import strategies as st

import tensorchain as tc
from tensorchain.tensors import coordinates
from tensorchain.tensors import sparse as sparse_source
from tensorchain.tensors.coordinates import sorted_entries
from tensorchain.tensors.dense import Dense
from tensorchain.tensors.observed import Observed
from tensorchain.tensors.sparse import Sparse
from tests.cases import THREE, Case, mostly_slow, relative


def random_entries(shape: tuple[int, ...], count: int, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, shape, (count, len(shape))), rng.standard_normal(count)


class TestEntries:
    def test_entries_at_one_position_are_summed(self) -> None:
        indices, values = random_entries((3, 2, 4), 200)
        expected = np.zeros((3, 2, 4))
        np.add.at(expected, tuple(indices.T), values)
        source = Sparse(indices, values, (3, 2, 4))
        assert relative(source.to_dense(), expected) < 1e-14
        assert len(source.values) == len(np.unique(indices, axis=0))
        assert source.norm() == pytest.approx(float(np.linalg.norm(expected)), rel=1e-14)

    @given(
        shape=st.lists(st.sampled_from([1, 3, 4096, 4097, 70_000]), min_size=2, max_size=5),
        seed=st.integers(0, 1000),
    )
    def test_order_has_each_position_once(self, shape: list[int], seed: int) -> None:
        indices, _ = random_entries(tuple(shape), 60, seed)
        order, starts = sorted_entries(indices, shape)
        assert sorted(order) == list(range(60))
        distinct = indices[order[starts]]
        assert np.array_equal(np.unique(distinct, axis=0), np.unique(indices, axis=0))
        assert len(distinct) == len(np.unique(indices, axis=0))
        groups = np.split(indices[order], starts[1:])
        assert all(np.all(group == group[0]) for group in groups)

    def test_positions_that_fill_no_64_bit_number(self) -> None:
        """Order 10 of a million each: 1e60 positions."""
        shape = (10**6,) * 10
        indices, values = random_entries(shape, 50)
        source = Sparse(np.concatenate([indices, indices]), np.concatenate([values, values]), shape)
        assert len(source.values) == 50
        model = tc.CP.random(shape[:3], 2, 0)
        with pytest.raises(TypeError, match="not held in memory whole"):
            source.to_dense()
        del model

    def test_large_modes_against_a_loop(self) -> None:
        shape = (10**5, 90_000, 70_000)
        indices, values = random_entries(shape, 40)
        model = tc.CP.random(shape, 3, 1)
        source = Sparse(indices, values, shape)
        a, b, c = model.factors
        for k, letters in enumerate(("b c", "a c", "a b")):
            others = {"a": a[indices[:, 0]], "b": b[indices[:, 1]], "c": c[indices[:, 2]]}
            rows = np.prod([others[letter] for letter in letters.split()], axis=0)
            expected = np.zeros(model.factors[k].shape)
            for z, row in enumerate(rows):
                expected[indices[z, k]] += values[z] * row
            assert relative(source.contract_all_but(model, k), expected) < 1e-13

    @pytest.mark.parametrize("order", [2, 3, 5])
    def test_cp_products_of_every_order(self, order: int) -> None:
        shape = (4, 3, 5, 2, 3)[:order]
        indices, values = random_entries(shape, 30)
        source = Sparse(indices, values, shape)
        model = tc.CP.random(shape, 3, 1)
        for k in range(order):
            letters = string.ascii_lowercase[:order]
            others = ",".join(f"{letters[n]}r" for n in range(order) if n != k)
            factors = [model.factors[n] for n in range(order) if n != k]
            expected = np.einsum(f"{letters},{others}->{letters[k]}r", source.to_dense(), *factors)
            assert relative(source.contract_all_but(model, k), expected) < 1e-13

    @pytest.mark.parametrize("case", THREE, ids=str)
    def test_threads_and_chunks_change_nothing(self, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        shape = (20, 30, 25)
        indices, values = random_entries(shape, 5000)
        model = case.kind.random(shape, case.rank, 1)
        source = Sparse(indices, values, shape)
        seen = np.unique(indices, axis=0)
        known = Observed(seen, np.arange(1.0, len(seen) + 1), shape)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        alone = [source.contract_all_but(model, k) for k in range(len(model.matrices))]
        gram = known.gram(model, 1)
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        monkeypatch.setattr(coordinates, "_SHARE", 100)
        monkeypatch.setattr(coordinates, "_CHUNK", 1000)
        monkeypatch.setattr("tensorchain.tensors.observed._CHUNK", 1000)
        for k, expected in enumerate(alone):
            assert relative(source.contract_all_but(model, k), expected) < 1e-12
        assert relative(known.gram(model, 1), gram) < 1e-12

    def test_number_of_threads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
        assert coordinates.threads() == 3
        monkeypatch.setenv("OMP_NUM_THREADS", "nonsense")
        assert coordinates.threads() >= 1


class TestSparse:
    def test_a_fit_is_that_of_the_dense_array(self) -> None:
        indices, values = random_entries((8, 7, 6), 60)
        source = Sparse(indices, values, (8, 7, 6))
        options = {"solver": tc.ALS(max_iter=20), "rng": 0}
        fit, dense = (tc.decompose(T, "cp", 3, **options) for T in (source, source.to_dense()))
        assert fit.error == pytest.approx(dense.error, rel=1e-10)
        assert relative(fit.model.full(), dense.model.full()) < 1e-6

    def test_exact_sparse_cp_of_a_large_tensor(self) -> None:
        """Two blocks of ones in 1e15 entries: recovered, although nobody could write the tensor down."""
        shape = (10**5,) * 3
        one, two = np.arange(3), np.arange(50_000, 50_004)
        boxes = [np.stack(np.meshgrid(part, part, part), axis=-1).reshape(-1, 3) for part in (one, two)]
        indices = np.concatenate(boxes)
        truth = [np.zeros((10**5, 2)) for _ in range(3)]
        for factor in truth:
            factor[one, 0] = factor[two, 1] = 1.0
        start = tc.CP([factor + 1e-4 * np.random.default_rng(0).standard_normal(factor.shape) for factor in truth])
        fit = tc.decompose(Sparse(indices, np.ones(len(indices)), shape), solver=tc.ALS(max_iter=20), init=start)
        assert fit.error < 1e-7

    @pytest.mark.parametrize("enumerated", [True, False])
    def test_small_errors(self, enumerated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """Enumerated they are exact; the short formula sees errors down to 1e-8."""
        model = tc.CP.random((8, 7, 6), 2, 0)
        error = 1e-11 if enumerated else 1e-6
        tensor = model.full() * (1.0 + error)
        monkeypatch.setattr(sparse_source, "_ENUMERATED", 8 * 7 * 6 if enumerated else 1)
        source = Sparse(np.argwhere(np.ones((8, 7, 6))), tensor.ravel(), (8, 7, 6))
        assert source.residual_norm(model) == pytest.approx(error * model.norm(), rel=1e-3)

    def test_grams_that_would_not_fit_are_refused(self) -> None:
        source = Sparse([[0, 0], [99_999, 3]], [1.0, 2.0], (100_000, 5))
        with pytest.raises(TypeError, match="mode 1"):
            source.mode_gram(0)
        assert np.allclose(source.mode_gram(1), np.diag([1.0, 0.0, 0.0, 4.0, 0.0]))

    def test_start_from_singular_vectors(self) -> None:
        indices, values = random_entries((30, 20, 10), 300)
        fit = tc.decompose(Sparse(indices, values, (30, 20, 10)), "cp", 2, init="svd", rng=0)
        assert fit.history.error[-1] < fit.history.error[0]


class TestInterop:
    def test_scipy(self) -> None:
        matrix = scipy.sparse.random(9, 7, density=0.3, random_state=0)
        for form in ("csr", "csc", "coo", "lil", "dok", "bsr"):
            source = Sparse.from_scipy(matrix.asformat(form))
            assert np.array_equal(source.to_dense(), matrix.toarray())
        assert np.array_equal(Sparse.from_scipy(scipy.sparse.csr_matrix(matrix)).to_dense(), matrix.toarray())

    @pytest.mark.slow
    def test_pydata(self) -> None:
        array = sparse.random((5, 4, 6), density=0.2, random_state=0)
        for form in (array, sparse.GCXS(array), sparse.DOK(array)):
            assert np.array_equal(Sparse.from_pydata(form).to_dense(), array.todense())
        with pytest.raises(ValueError, match="fill value is 1"):
            Sparse.from_pydata(array + 1.0)

    def test_dtypes(self) -> None:
        kept = {
            "float32": "float32",
            "float16": "float32",
            "int8": "float64",
            "complex64": "complex128",
            "bool": "float64",
        }
        for given_dtype, expected in kept.items():
            assert Sparse([[0, 0], [1, 1]], np.ones(2, dtype=given_dtype), (2, 2)).dtype == expected


class TestObserved:
    @pytest.mark.parametrize(
        "solver", mostly_slow([tc.ALS(max_iter=100), tc.LM(), tc.LM(dense_limit=1)]), ids=["als", "lm", "cg"]
    )
    def test_completion_from_one_entry_in_two_hundred(self, solver: Any) -> None:
        """From singular vectors; random starts end at an error of 0.77."""
        rng = np.random.default_rng(0)
        truth = tc.CP.random((300, 200, 100), 2, rng)
        indices = np.concatenate([rng.integers(0, truth.shape, (30_000, 3)), np.arange(300)[:, None] % truth.shape])
        indices = np.unique(indices, axis=0)
        source = Observed(indices, truth.entries(indices), truth.shape)
        fit = tc.decompose(source, "cp", 2, solver=solver, init="svd", rng=1)
        unseen = rng.integers(0, truth.shape, (1000, 3))
        assert fit.error < 1e-6
        assert relative(fit.model.entries(unseen), truth.entries(unseen)) < 1e-6

    def test_grams_of_modes_are_unbiased(self) -> None:
        """Averaged over masks they are those of the whole tensor."""
        rng = np.random.default_rng(0)
        tensor = rng.standard_normal((3, 4, 5)) + 1.0
        total = np.zeros((4, 4))
        for _ in range(800):
            mask = rng.random(tensor.shape) < 0.6
            total += Observed(np.argwhere(mask), tensor[mask], tensor.shape).mode_gram(1) / 800
        unfolded = tensor.transpose(1, 0, 2).reshape(4, -1)
        assert relative(total, unfolded @ unfolded.T) < 0.03

    def test_weights_are_relative(self) -> None:
        indices = np.argwhere(np.ones((3, 4)))
        values, weights = np.arange(12.0), np.arange(1.0, 13.0)
        left, right = (Observed(indices, values, (3, 4), weights=factor * weights) for factor in (1.0, 8.0))
        assert left.norm() == right.norm() == pytest.approx(math.sqrt(np.sum(weights * values**2) / weights.mean()))

    @pytest.mark.parametrize(
        ("weights", "error", "says"),
        [
            (np.ones(3), ValueError, r"shape \(3,\)"),
            (np.array([1.0, 0.0]), ValueError, "<= 0"),
            (np.array([1.0, np.inf]), ValueError, "infinity"),
            (np.ones(2) * 1j, TypeError, "complex128"),
        ],
    )
    def test_weights_refused(self, weights: Any, error: type[Exception], says: str) -> None:
        with pytest.raises(error, match=says):
            Observed([[0, 0], [1, 1]], [1.0, 2.0], (2, 2), weights=weights)

    def test_a_position_given_twice_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"1 positions.*\[1, 0\]"):
            Observed([[0, 0], [1, 0], [0, 1], [1, 1], [1, 0]], np.ones(5), (2, 2))

    def test_a_slice_without_entries_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"2 of the 4 slices of mode 2 \(index 1, 3\)"):
            Observed([[0, 0], [1, 2]], [1.0, 2.0], (2, 4))


@pytest.mark.parametrize("kind", [Sparse, Observed])
class TestRefused:
    @pytest.mark.parametrize(
        ("indices", "values", "shape", "error", "says"),
        [
            ([[0, 0], [2, 1]], [1.0, 2.0], (2, 2), ValueError, r"indices\[1\] = \[2, 1\]"),
            ([[0, -1]], [1.0], (2, 2), ValueError, "start at 0"),
            ([[0.0, 1.0]], [1.0], (2, 2), TypeError, "integers are needed"),
            ([[0, 1, 1], [1, 0, 1]], [1.0, 2.0, 3.0], (2, 2), ValueError, "indices.T"),
            ([[0, 1]], [1.0, 2.0], (2, 2), ValueError, "1 positions and 2 values"),
            (np.zeros((0, 2), dtype=int), [], (2, 2), ValueError, "no entry was given"),
            ([[0, 1]], [np.nan], (2, 2), ValueError, "NaN"),
            ([[0, 1]], ["x"], (2, 2), TypeError, "numbers are needed"),
            ([[0, 1]], [[1.0]], (2, 2), ValueError, r"shape \(1, 1\)"),
            ([[0]], [1.0], (2,), ValueError, "order 1"),
            ([[0, 1]], [1.0], (2, 0), ValueError, "every mode needs"),
            ([[0, 1]], [1.0], 4, TypeError, "sequence of integers"),
        ],
    )
    def test_refused(self, kind: Any, indices: Any, values: Any, shape: Any, error: type[Exception], says: str) -> None:
        with pytest.raises(error, match=says):
            kind(indices, values, shape)

    def test_repr_says_what_it_is(self, kind: Any) -> None:
        assert repr(kind([[0, 0], [1, 1]], [1.0, 2.0], (2, 2))) == f"{kind.__name__}(2 x 2, 2 entries (50 %), float64)"


def test_dense_and_sparse_agree_after_scaling() -> None:
    indices, values = random_entries((4, 3, 5), 20)
    source = Sparse(indices, values, (4, 3, 5)).scaled(0.25).scaled(2.0)
    assert relative(Dense(source.to_dense()).mode_gram(1), source.mode_gram(1)) < 1e-13


def test_a_masked_value_of_a_sparse_tensor_is_not_zero() -> None:
    where, values = [[0, 1], [1, 0], [2, 2]], np.ma.array([1.0, 2.0, 3.0], mask=[False, True, False])
    with pytest.raises(ValueError, match=r"1 values are masked.*tc\.Observed"):
        tc.Sparse(where, values, (3, 3))
    assert tc.Sparse(where, np.ma.array([1.0, 2.0, 3.0]), (3, 3)).to_dense()[1, 0] == 2.0
