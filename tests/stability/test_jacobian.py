"""The Jacobian, its singular values modulo gauge and the gauge directions, against J column by column."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tensorchain as tc
from tensorchain.stability import jacobian as module
from tensorchain.stability import jacobian_singular_values
from tensorchain.stability.gauge_tangent import gauge_complement, gauge_tangent
from tensorchain.stability.jacobian import compress, spectrum
from tests.cases import Case, block_term_case, chain_case, cp_case, double, jacobian, relative, tucker_case
from tests.stability.examples import FIFTH, HUB, MODELS, name

TALL = [
    cp_case((9, 8, 11), 2),
    cp_case((9, 2, 11), 3),
    tucker_case((9, 8, 7), (2, 3, 2)),
    block_term_case((9, 8, 7), [(2, 2, 1), (1, 2, 2)]),
    chain_case((9, 3, 8), (1, 2, 3)),
]
ALL = [*MODELS, *TALL, *(case.as_type("complex128") for case in TALL)]


def padded(values: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([values, np.zeros(max(0, count - len(values)))])[:count]


def test_the_fifth_model_is_what_it_says() -> None:
    for case in FIFTH:
        model = case.model()
        assert relative(model.full(), case.twin(model.blocks)) < 1e-12
        assert model.gauge_dimension == case.gauge


@pytest.mark.parametrize("case", ALL, ids=name)
class TestJacobian:
    def test_columns(self, case: Case) -> None:
        model = double(case.model())
        assert relative(module.jacobian(model), jacobian(model)) < 1e-13

    def test_singular_values(self, case: Case) -> None:
        model = double(case.model())
        count = model.n_parameters
        truth = padded(np.linalg.svd(jacobian(model), compute_uv=False), count)
        values = jacobian_singular_values(model)
        assert len(values) == count - case.gauge
        assert_allclose(values, truth[: len(values)], rtol=1e-6, atol=1e-12 * truth[0])
        assert np.all(truth[len(values) :] < 1e-12 * truth[0])
        assert np.sum(values**2) == pytest.approx(model.sensitivity(), rel=1e-12)

    def test_vectors(self, case: Case) -> None:
        small = compress(double(case.model())).small
        found = spectrum(small, case.gauge, vectors=True)
        assert found.vectors is not None
        matrix = jacobian(small)
        size = len(found.values)
        assert relative(found.vectors.conj().T @ found.vectors, np.eye(size)) < 1e-12
        images = matrix @ found.vectors
        atol = 1e-7 * found.values[0]
        assert_allclose(images.conj().T @ images, np.diag(found.values**2), atol=atol * found.values[0])

    def test_gauge_directions(self, case: Case) -> None:
        model = double(case.model())
        tangent, complement = gauge_tangent(model), gauge_complement(model)
        assert tangent.shape == (model.n_parameters, case.gauge)
        matrix = jacobian(model)
        assert np.linalg.norm(matrix @ tangent) < 1e-12 * np.linalg.norm(matrix)
        both = np.concatenate([tangent, complement], axis=1)
        assert relative(both.conj().T @ both, np.eye(model.n_parameters)) < 1e-12


@pytest.mark.parametrize("route", ["explicit", "gram"])
@pytest.mark.parametrize("case", TALL, ids=name)
def test_each_route_by_itself(case: Case, route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = case.model()
    usual = jacobian_singular_values(model)
    monkeypatch.setattr(module, "_TRUSTED", 2.0)
    monkeypatch.setattr(module, "_EXPLICIT", 1 << 22 if route == "explicit" else 0)
    assert_allclose(jacobian_singular_values(model), usual, rtol=1e-9 if route == "explicit" else 1e-6)
    found = spectrum(compress(model).small, case.gauge, vectors=True)
    assert found.vectors is not None
    images = jacobian(compress(model).small) @ found.vectors
    assert_allclose(np.linalg.norm(images, axis=0), found.values, rtol=1e-6)


@pytest.mark.parametrize("angle", [1e-1, 1e-2, 1e-3, 1e-4])
def test_small_singular_values_keep_their_digits(angle: float) -> None:
    # Two components at a small angle: sigma_min is about angle^3 smaller than sigma_max.
    column = np.random.default_rng(0).standard_normal((3, 5))
    other = np.random.default_rng(1).standard_normal((3, 5))
    model = tc.CP([np.stack([a, a + angle * b], axis=1) for a, b in zip(column, other, strict=True)])
    truth = np.linalg.svd(jacobian(model), compute_uv=False)
    values = jacobian_singular_values(model)
    # J itself is known to eps of its largest entry.
    assert_allclose(values, truth[: len(values)], rtol=1e-4, atol=1e-15 * truth[0])
    assert 1e-2 < values[-1] / (angle**3 * values[0]) < 1.0


@pytest.mark.parametrize("scale", [1e-80, 1e80])
@pytest.mark.parametrize("case", [*TALL, HUB], ids=name)
def test_scales(case: Case, scale: float) -> None:
    model = case.model()
    if len(model.matrices) > 3:
        scale = scale ** (2 / 3)
    scaled = model.with_matrices([matrix * scale for matrix in model.matrices])
    expected = scale ** (len(model.matrices) - 1) * jacobian_singular_values(model)
    assert_allclose(jacobian_singular_values(scaled), expected, rtol=1e-7)


def test_zero_blocks() -> None:
    model = cp_case((4, 5, 6), 2).model().with_matrix(0, np.zeros((4, 2)))
    values = jacobian_singular_values(model)
    # X moves with the first factor alone, 8 numbers.
    assert np.sum(values > 0.0) == 8
    zero = model.with_matrices([0 * matrix for matrix in model.matrices])
    assert not jacobian_singular_values(zero).any()
    assert gauge_tangent(zero).shape == (30, 0)
    assert gauge_complement(zero).shape == (30, 30)


def test_too_many_parameters() -> None:
    model = tc.TensorChain.random((16, 16, 16, 16), 8, 0)
    with pytest.raises(ValueError, match="4096 parameters after compression"):
        jacobian_singular_values(model)
