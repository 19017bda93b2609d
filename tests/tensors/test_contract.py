"""What every data source promises: all of them give the answers of the explicit Jacobian on the same data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tensorchain.models import CP
from tests.cases import SMALL, THREE, Case, combined, gaussian, halved, relative
from tests.tensors.sources import FULL, PARTIAL, Way, model_and_jacobian

CASES = [case for case in SMALL if len(case.shape) > 2 or case.kind is CP]
CASES += [case.as_type("float32") for case in THREE]
WAYS = [*FULL, *PARTIAL]

FEW = [*THREE, *(case.as_type("complex128") for case in THREE)]
"""For ways that take milliseconds for each question."""

PAIRS = [
    pytest.param(way, case, id=f"{way}-{case}")
    for slow, cases in ((False, CASES), (True, FEW))
    for way, case in combined([way for way in WAYS if ("dask" in way.name) is slow], cases, every=1 if slow else 3)
]

SCALE = 0.37


class Truth:
    """Answers from T, the weights W and the explicit J."""

    def __init__(self, way: Way, case: Case, factor: float = SCALE) -> None:
        self.array, self.weights = case.tensor(), way.weights(case.shape)
        self.source = way.open(self.array, self.weights).scaled(factor)
        self.model, self.jacobian = model_and_jacobian(case)
        self.data = factor * self.array.astype(np.result_type(self.array, float))
        self.error = self.data - self.model.full()
        self.ends = np.cumsum([matrix.size for matrix in self.model.matrices])

    def size(self, array: Any) -> float:
        return float(np.sqrt(np.sum(self.weights * np.abs(array) ** 2)))

    def adjoint(self, array: Any) -> list[Any]:
        """J_k^H W array for each block."""
        flat = self.jacobian.conj().T @ (self.weights * array).ravel()
        return self.split(flat)

    def split(self, flat: Any) -> list[Any]:
        pieces = np.split(flat, self.ends[:-1])
        return [piece.reshape(matrix.shape) for piece, matrix in zip(pieces, self.model.matrices, strict=True)]

    @property
    def normal(self) -> Any:
        return self.jacobian.conj().T @ (self.weights.reshape(-1, 1) * self.jacobian)

    def gram(self, k: int) -> Any:
        """Diagonal blocks of J_k^H W J_k, one for each row: (I_k, P_k, P_k)."""
        count, width = self.model.matrices[k].shape
        here = slice(self.ends[k] - count * width, self.ends[k])
        square = self.normal[here, here].reshape(count, width, count, width)
        return np.stack([square[i, :, i] for i in range(count)])


@pytest.mark.parametrize(("way", "case"), halved(PAIRS))
class TestDataClasses:
    """On models of orders 2 to 4, real and complex, double and single."""

    def test_what_it_says_of_itself(self, way: Way, case: Case) -> None:
        source = Truth(way, case).source
        assert source.shape == case.shape
        assert source.order == len(case.shape)
        assert source.dtype == case.dtype
        assert source.scale * Truth(way, case, 1.0).source.norm() == pytest.approx(source.norm(), rel=1e-12)

    def test_norm(self, way: Way, case: Case) -> None:
        truth = Truth(way, case)
        assert truth.source.norm() == pytest.approx(truth.size(truth.data), rel=case.tol)

    def test_contract_all_but(self, way: Way, case: Case) -> None:
        truth = Truth(way, case)
        for k, expected in enumerate(truth.adjoint(truth.data)):
            value = truth.source.contract_all_but(truth.model, k)
            assert value.dtype in (np.float64, np.complex128)
            assert relative(value, expected) < case.tol

    def test_residual(self, way: Way, case: Case) -> None:
        truth = Truth(way, case)
        expected = truth.size(truth.error)
        assert truth.source.residual_norm(truth.model) == pytest.approx(expected, rel=case.tol)
        assert truth.source.residual(truth.model).norm == pytest.approx(expected, rel=case.tol)

    def test_gradient(self, way: Way, case: Case) -> None:
        truth = Truth(way, case)
        gradient = truth.source.residual(truth.model).gradient
        for value, expected in zip(gradient, truth.adjoint(truth.error), strict=True):
            assert value.shape == expected.shape
            assert relative(value, expected) < 10 * case.tol

    def test_gram(self, way: Way, case: Case) -> None:
        truth = Truth(way, case)
        for k, matrix in enumerate(truth.model.matrices):
            expected = truth.gram(k)
            gram = truth.source.gram(truth.model, k)
            assert relative(np.broadcast_to(gram, expected.shape), expected) < case.tol
            applied = np.einsum("ipq,iq->ip", expected, matrix)
            assert relative(truth.source.apply_gram(truth.model, k, matrix), applied) < case.tol

    def test_gauss_newton(self, way: Way, case: Case) -> None:
        """At least the upper block triangle."""
        truth = Truth(way, case)
        matrix = truth.source.gauss_newton(truth.model)
        assert relative(np.triu(matrix), np.triu(truth.normal)) < case.tol

    def test_gauss_newton_matvec(self, way: Way, case: Case) -> None:
        truth = Truth(way, case)
        rng = np.random.default_rng(3)
        delta = [gaussian(matrix.shape, matrix.dtype, rng) for matrix in truth.model.matrices]
        flat = truth.normal @ np.concatenate([block.ravel() for block in delta])
        product = truth.source.gauss_newton_matvec(truth.model, delta)
        for value, expected in zip(product, truth.split(flat), strict=True):
            assert relative(value, expected) < 10 * case.tol

    def test_dense_and_mode_grams(self, way: Way, case: Case) -> None:
        """Missing entries as zero; Grams are corrected for the share that is missing."""
        truth = Truth(way, case)
        filled = np.where(truth.weights > 0, truth.data, 0.0)
        share = np.mean(truth.weights > 0)
        assert relative(truth.source.to_dense(), filled) < case.tol
        for mode in range(truth.source.order):
            unfolded = np.moveaxis(filled, mode, 0).reshape(case.shape[mode], -1)
            expected = unfolded @ unfolded.conj().T / share**2
            np.fill_diagonal(expected, share * expected.diagonal())
            assert relative(truth.source.mode_gram(mode), expected) < case.tol


@pytest.mark.parametrize("exponent", [-150, 150])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_extreme_scales(way: Way, exponent: int) -> None:
    """A tensor of size 1e-150 or 1e150, scaled to size 1, is like one that had it from the start."""
    case = THREE[0]
    weights = way.weights(case.shape)
    plain = way.open(case.tensor(), weights)
    extreme = way.open(case.tensor() * 10.0**exponent, weights)
    assert extreme.norm() == pytest.approx(plain.norm() * 10.0**exponent, rel=1e-12)
    left, right = plain.scaled(1.0 / plain.norm()), extreme.scaled(1.0 / extreme.norm())
    model, _ = model_and_jacobian(case)
    assert right.norm() == pytest.approx(1.0, rel=1e-12)
    assert right.residual(model).norm == pytest.approx(left.residual(model).norm, rel=1e-12)
    for k in range(len(model.matrices)):
        assert relative(right.contract_all_but(model, k), left.contract_all_but(model, k)) < 1e-12
        assert relative(right.residual(model).gradient[k], left.residual(model).gradient[k]) < 1e-12


@pytest.mark.parametrize("way", FULL, ids=str)
def test_small_errors_are_exact(way: Way) -> None:
    """||T - X|| far below 1e-8 ||T||, where ||T||^2 - 2 <T, X> + ||X||^2 has no digits left."""
    model, _ = model_and_jacobian(THREE[0])
    rng = np.random.default_rng(0)
    noise = 1e-11 * rng.standard_normal(model.shape)
    source = way.open(model.full() + noise, np.ones(model.shape))
    assert source.residual(model).norm == pytest.approx(float(np.linalg.norm(noise)), rel=1e-3)
    assert source.residual_norm(model) == pytest.approx(float(np.linalg.norm(noise)), rel=1e-3)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_complex_models_of_real_data(way: Way) -> None:
    truth = Truth(way, THREE[2])
    model, jacobian = model_and_jacobian(THREE[2].as_type("complex128"))
    truth.model, truth.jacobian, truth.error = model, jacobian, truth.data - model.full()
    residual = truth.source.residual(model)
    assert residual.norm == pytest.approx(truth.size(truth.error), rel=1e-10)
    for value, expected in zip(residual.gradient, truth.adjoint(truth.error), strict=True):
        assert relative(value, expected) < 1e-10
    for k, expected in enumerate(truth.adjoint(truth.data)):
        assert relative(truth.source.contract_all_but(model, k), expected) < 1e-10
