"""What every data class promises, as contract tests over a list of them.

A data class joins by one line in DATA_CLASSES: its name, how it is made from an array, and the array that it stands
for (weights and missing entries belong in a contract of their own).  Answers are held against the Jacobian, column by
column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import tensorchain as tc
from tensorchain.tensors import as_tensor, dense
from tests.cases import SMALL, THREE, Case, crossed, four_models, gaussian, jacobian_blocks, relative

ORDERS = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32
"""Most dimensions of an array."""


@dataclass(frozen=True)
class Kind:
    """How a data source is made from an array, and how the array lies in memory."""

    make: Callable[[Any], Any]
    layout: Callable[[Any], Any] = np.array


def every_other(array: Any) -> Any:
    """The same values, as a view that is not contiguous in any order."""
    wide = np.zeros([2 * size for size in array.shape], dtype=array.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


DATA_CLASSES = {
    "dense": Kind(tc.Dense),
    "fortran": Kind(tc.Dense, np.asfortranarray),
    "strided": Kind(tc.Dense, every_other),
    "reversed": Kind(tc.Dense, lambda array: np.array(array[::-1])[::-1]),
    "transposed": Kind(tc.Dense, lambda array: np.array(array.T).T),
    "read-only": Kind(tc.Dense, lambda array: np.broadcast_to(array, array.shape)),
}

COMPLEX_THREE = [case.as_type("complex128") for case in THREE]
FIVE = four_models(5)


def gradient(model: Any, array: Any) -> list[Any]:
    """J_k^H vec(array) by the Jacobian."""
    return [columns.conj().T @ array.ravel() for columns in jacobian_blocks(model)]


@pytest.mark.parametrize("kind", DATA_CLASSES.values(), ids=DATA_CLASSES)
class TestProducts:
    @pytest.mark.parametrize("case", [*THREE, *COMPLEX_THREE], ids=str)
    def test_contract_all_but(self, case: Case, kind: Kind) -> None:
        T, model = case.tensor(), case.model()
        source = kind.make(kind.layout(T))
        for k, expected in enumerate(gradient(model, T)):
            answer = source.contract_all_but(model, k)
            assert answer.shape == model.matrices[k].shape
            assert relative(answer.ravel(), expected) < 1e-12

    @pytest.mark.parametrize("case", [*THREE, *COMPLEX_THREE, FIVE[3]], ids=str)
    def test_residual(self, case: Case, kind: Kind) -> None:
        T, model = case.tensor(), case.model()
        source = kind.make(kind.layout(T))
        error = T - case.twin(model.blocks)
        residual = source.residual(model)
        assert residual.norm == pytest.approx(np.linalg.norm(error), rel=1e-12)
        assert source.residual_norm(model) == pytest.approx(np.linalg.norm(error), rel=1e-12)
        for block, expected in zip(residual.gradient, gradient(model, error), strict=True):
            assert relative(block.ravel(), expected) < 1e-11

    @pytest.mark.parametrize("case", THREE, ids=str)
    def test_a_small_residual_is_exact(self, case: Case, kind: Kind) -> None:
        # ||T||^2 - 2 <T, X> + ||X||^2 would give 1e-8 at best.
        model = case.model()
        T = model.full()
        noise = 1e-13 * case.tensor()
        source = kind.make(kind.layout(T + noise))
        assert source.residual_norm(model) == pytest.approx(np.linalg.norm(noise), rel=0.1)
        assert source.residual(model).norm == pytest.approx(np.linalg.norm(noise), rel=0.1)

    @pytest.mark.parametrize("case", [*THREE, *COMPLEX_THREE], ids=str)
    def test_scaled(self, case: Case, kind: Kind) -> None:
        T, model = case.tensor(), case.model()
        source = kind.make(kind.layout(T))
        for factor in (0.25, 3.0, 1e-120, 1e120):
            scaled = source.scaled(factor)
            assert scaled.norm() == pytest.approx(factor * np.linalg.norm(T), rel=1e-12)
            near = model.scaled(factor)
            assert scaled.residual(near).norm == pytest.approx(factor * np.linalg.norm(T - model.full()), rel=1e-10)
            for k in range(len(model.matrices)):
                expected = factor * source.contract_all_but(model, k)
                assert relative(scaled.contract_all_but(model, k) / factor, expected / factor) < 1e-12
        assert source.scaled(2.0).scaled(0.5).norm() == pytest.approx(source.norm(), rel=1e-14)
        # The first data source has not changed.
        assert source.norm() == pytest.approx(np.linalg.norm(T), rel=1e-13)

    @pytest.mark.parametrize("exponent", [-150, -100, 100, 150])
    def test_norm_at_extreme_scales(self, kind: Kind, exponent: int) -> None:
        for case in (THREE[0], COMPLEX_THREE[0]):
            T = case.tensor()
            source = kind.make(kind.layout(10.0**exponent * T))
            assert source.norm() == pytest.approx(10.0**exponent * np.linalg.norm(T), rel=1e-12, abs=0)
            unit = source.scaled(1.0 / source.norm())
            assert unit.norm() == pytest.approx(1.0, rel=1e-12)
            expected = tc.Dense(T / np.linalg.norm(T)).contract_all_but(case.model(), 0)
            assert relative(unit.contract_all_but(case.model(), 0), expected) < 1e-11

    def test_starts_from_singular_vectors(self, kind: Kind) -> None:
        for case in (THREE[0], COMPLEX_THREE[0]):
            T = case.tensor()
            source = kind.make(kind.layout(T)).scaled(3.0)
            for mode in range(3):
                unfolded = 3.0 * np.moveaxis(T, mode, 0).reshape(T.shape[mode], -1)
                assert relative(source.mode_gram(mode), unfolded @ unfolded.conj().T) < 1e-13
            assert relative(source.to_dense(), 3.0 * T) < 1e-15

    @pytest.mark.parametrize("case", [*THREE, *COMPLEX_THREE], ids=str)
    def test_curvature(self, case: Case, kind: Kind) -> None:
        model = case.model()
        source = kind.make(kind.layout(case.tensor()))
        upper = np.triu(source.gauss_newton(model))
        assert relative(upper, np.triu(model.gauss_newton())) < 1e-13
        rng = np.random.default_rng(0)
        delta = [gaussian(m.shape, m.dtype, rng) for m in model.matrices]
        image = source.gauss_newton_matvec(model, delta)
        expected = model.gauss_newton() @ np.concatenate([block.ravel() for block in delta])
        assert relative(np.concatenate([block.ravel() for block in image]), expected) < 1e-12
        for k, block in enumerate(delta):
            assert relative(source.apply_gram(model, k, block), block @ model.gram(k).T) < 1e-13

    def test_the_data_are_not_changed(self, kind: Kind) -> None:
        T = kind.layout(THREE[3].tensor())
        before = T.copy()
        tc.decompose(kind.make(T), "tc", rank=2, solver=tc.LM(max_iter=3), rng=0)
        assert_array_equal(T, before)

    def test_a_fit_through_the_source_is_the_fit_of_the_array(self, kind: Kind) -> None:
        T = THREE[3].tensor()
        plain = tc.decompose(np.ascontiguousarray(T), "tc", rank=2, solver=tc.LM(max_iter=10), rng=0)
        fit = tc.decompose(kind.make(kind.layout(T)), "tc", rank=2, solver=tc.LM(max_iter=10), rng=0)
        assert fit.error == pytest.approx(plain.error, rel=1e-10)


def in_boxes(monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    """Dense residuals in boxes of so many entries."""
    monkeypatch.setattr(dense, "BOX_ENTRIES", entries)
    monkeypatch.setattr(dense, "_WHOLE", entries)


class TestBoxes:
    @crossed(case=[*SMALL, *FIVE], entries=[1, 7, 30, 10_000])
    def test_boxes_give_the_same_answers(self, case: Case, entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
        T, model = case.tensor(), case.model()
        whole = tc.Dense(T).residual(model)
        in_boxes(monkeypatch, entries)
        for source, scale in ((tc.Dense(T), 1.0), (tc.Dense(T / 4).scaled(4.0), 1.0)):
            assert source.residual_norm(model) == pytest.approx(scale * whole.norm, rel=1e-13)
            residual = source.residual(model)
            assert residual.norm == pytest.approx(whole.norm, rel=1e-13)
            for block, expected in zip(residual.gradient, whole.gradient, strict=True):
                assert relative(block, expected) < 1e-12

    def test_a_fit_in_boxes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        T = THREE[3].tensor()
        whole = tc.decompose(T, "tc", rank=2, solver=tc.LM(max_iter=8), rng=0)
        in_boxes(monkeypatch, 16)
        assert tc.decompose(T, "tc", rank=2, solver=tc.LM(max_iter=8), rng=0).error == pytest.approx(
            whole.error, rel=1e-9
        )

    def test_an_array_in_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        T = THREE[0].tensor()
        np.save(tmp_path / "T.npy", T)
        mapped = np.load(tmp_path / "T.npy", mmap_mode="r")
        in_boxes(monkeypatch, 16)
        source = tc.Dense(mapped)
        assert np.shares_memory(source.array, mapped)
        model = THREE[0].model()
        assert source.residual(model).norm == pytest.approx(np.linalg.norm(T - model.full()), rel=1e-13)
        fit = tc.decompose(mapped, "cp", rank=2, solver=tc.ALS(max_iter=5), rng=0)
        whole = tc.decompose(T, "cp", rank=2, solver=tc.ALS(max_iter=5), rng=0)
        assert fit.error == pytest.approx(whole.error, rel=1e-12)


class TestDtypes:
    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("int8", "float64"),
            ("uint16", "float64"),
            ("int64", "float64"),
            ("bool", "float64"),
            ("float16", "float32"),
            ("float32", "float32"),
            ("float64", "float64"),
            (">f8", "float64"),
            (">f4", "float32"),
            ("longdouble", "float64"),
            ("complex64", "complex128"),
            ("complex128", "complex128"),
            ("clongdouble", "complex128"),
        ],
    )
    def test_conversion(self, given: str, kept: str) -> None:
        T = np.array([[1, 0, 1], [0, 1, 1]]).astype(given)
        source = tc.Dense(T)
        assert source.dtype == kept
        assert source.array.dtype.isnative
        assert_array_equal(source.to_dense(), T.astype(kept))
        assert source.norm() == 2.0
        fit = tc.decompose(T, "cp", rank=1, solver=tc.ALS(max_iter=20), rng=0)
        assert fit.model.dtype == kept

    @pytest.mark.parametrize("case", [case for n in (2, 3, 4) for case in four_models(n)], ids=str)
    def test_answers_are_in_double_precision(self, case: Case) -> None:
        source = tc.Dense(case.tensor().astype(np.float32)).scaled(0.3)
        model = case.model()
        exact = tc.Dense(case.tensor()).scaled(0.3)
        for k in range(len(model.matrices)):
            answer = source.contract_all_but(model, k)
            assert answer.dtype == np.float64
            assert relative(answer, exact.contract_all_but(model, k)) < 1e-5
        assert all(block.dtype == np.float64 for block in source.residual(model).gradient)
        assert source.mode_gram(0).dtype == np.float64
        # T - X is formed in double precision: no error but that of the storage.
        own = model.astype(np.float32).astype(np.float64)
        single = own.full().astype(np.float32)
        assert tc.Dense(single).residual_norm(own) < 1e-6 * own.norm()

    def test_lists_and_sources(self) -> None:
        assert as_tensor([[1, 2], [3, 4]]).dtype == np.float64
        source = tc.Dense(np.eye(3))
        assert as_tensor(source) is source

    @given(seed=st.integers(0, 999), exponent=st.floats(-150, 150), dtype=st.sampled_from(["float64", "complex128"]))
    def test_norm(self, seed: int, exponent: float, dtype: str) -> None:
        rng = np.random.default_rng(seed)
        T = gaussian((3, 4), dtype, rng) * 10.0 ** rng.uniform(-20, 0, size=(3, 4))
        scale = 10.0**exponent
        assert tc.Dense(T * scale).norm() == pytest.approx(scale * np.linalg.norm(T), rel=1e-12, abs=0)


BAD = [
    pytest.param(np.full((2, 3), np.nan), ValueError, r"tc\.Masked", id="nan"),
    pytest.param(np.array([[1.0, np.inf]]), ValueError, "infinity", id="inf"),
    pytest.param(np.array([[1.0, np.nan]], dtype="float32"), ValueError, r"tc\.Masked", id="nan in single"),
    pytest.param(np.array([[1.0, complex(0, np.nan)]]), ValueError, r"tc\.Masked", id="complex nan"),
    pytest.param(np.array([[-np.inf, np.inf]]), ValueError, "infinity", id="inf minus inf"),
    pytest.param(np.empty((3, 0, 2)), ValueError, r"\(3, 0, 2\)", id="empty"),
    pytest.param(np.empty((0,)), ValueError, r"order 1|empty", id="nothing"),
    pytest.param(np.ones((2, 2)).astype(object), TypeError, "object", id="object"),
    pytest.param(np.array([["a", "b"]]), TypeError, "dtype", id="text"),
    pytest.param(np.array([[b"a"]]), TypeError, "dtype", id="bytes"),
    pytest.param(np.zeros((2, 2), dtype="datetime64[s]"), TypeError, "datetime64", id="dates"),
    pytest.param(np.zeros((2, 2), dtype=[("x", float)]), TypeError, "dtype", id="records"),
    pytest.param(np.ones(5), ValueError, "order 1", id="order 1"),
    pytest.param(3.0, ValueError, "order 0", id="a number"),
    pytest.param(None, TypeError, "None was given", id="None"),
    pytest.param("tensor.npy", TypeError, "np.load", id="a path"),
    *([pytest.param(np.ones((1,) * 51), ValueError, "order 51", id="order 51")] if ORDERS > 50 else []),
    pytest.param([[1, 2], [3]], ValueError, r"T\[0\] has 2 items and T\[1\] has 1", id="ragged"),
]


class TestErrors:
    @pytest.mark.parametrize(("array", "error", "fragment"), BAD)
    def test_bad_data(self, array: Any, error: Any, fragment: str) -> None:
        with pytest.raises(error, match=fragment):
            tc.Dense(array)
        with pytest.raises(error, match=fragment):
            tc.decompose(array, "cp", rank=1)
