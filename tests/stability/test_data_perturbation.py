"""The response of a fit to a change of its tensor, against refits, and against the derivative of the truncated SVD."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tensorchain as tc
from tensorchain.solvers import Constraint
from tensorchain.solvers.loop import Problem, run
from tensorchain.stability import block_response
from tensorchain.stability.gauge_tangent import gauge_tangent
from tests.cases import Case, block_term_case, chain_case, cp_case, gaussian, jacobian, relative, tucker_case
from tests.stability.examples import HUB, LOOSE_HUB, flat, in_matrix_form, name

CASES = [
    case.as_type(dtype)
    for case in [
        cp_case((4, 5, 6), 2),
        cp_case((3, 4, 2, 3), 2),
        tucker_case((4, 5, 6), (2, 3, 2)),
        block_term_case((6, 7, 6), [(2, 2, 2), (1, 2, 2)]),
        chain_case((4, 5, 6), (2, 3, 2)),
        chain_case((4, 3, 4, 3), (2, 2, 1, 2)),
        HUB,
    ]
    for dtype in ("float64", "complex128")
]


def refit(tensor: Any, start: Any) -> Any:
    """LM to the end, in the gauge that its steps of least norm lead to."""
    problem = Problem(tc.Dense(tensor), Constraint(), np.random.default_rng(0))
    return run(tc.LM(tol=1e-14, max_iter=300), problem, start).best.model


def response(model: Any, change: Any, tensor: Any = None) -> Any:
    return flat(in_matrix_form(model, block_response(model, change, tensor)))


@pytest.mark.parametrize("case", CASES, ids=name)
class TestAgainstRefits:
    def test_an_exact_fit(self, case: Case) -> None:
        model = case.model(1)
        change = gaussian(case.shape, case.dtype, np.random.default_rng(5))
        truth = np.linalg.pinv(jacobian(model), rcond=1e-9) @ change.ravel()
        assert relative(response(model, change), truth) < 1e-7
        assert relative(response(model, change, model.full()), truth) < 1e-7

    def test_a_fit_that_is_not_exact(self, case: Case) -> None:
        rng = np.random.default_rng(6)
        exact = case.model(1)
        size = np.linalg.norm(exact.full()) / np.sqrt(exact.full().size)
        tensor = exact.full() + 0.03 * size * gaussian(case.shape, case.dtype, rng)
        model = refit(tensor, refit(tensor, exact))
        change = size * gaussian(case.shape, case.dtype, rng)
        expected = response(model, change, tensor)
        tangent = gauge_tangent(model)
        assert np.linalg.norm(tangent.conj().T @ expected) < 1e-9 * np.linalg.norm(expected)
        errors = []
        for step in (1e-2, 1e-3):
            moved = flat(refit(tensor + step * change, model).matrices) - flat(model.matrices)
            moved = moved - tangent @ (tangent.conj().T @ moved)
            errors.append(relative(moved / step, expected))
        # The first-order prediction of step * dtheta is off by step^2.
        assert errors[1] < 0.02
        assert 6.0 < errors[0] / errors[1] < 15.0
        # Without the residual term it is off at any step.
        assert relative(response(model, change), expected) > 3 * errors[1]


def test_at_the_level_of_the_tensor() -> None:
    """Through `decompose`, whose result has another gauge: compare X."""
    rng = np.random.default_rng(7)
    truth = cp_case((5, 4, 6), 2).model(2)
    tensor = truth.full() + 0.05 * rng.standard_normal(truth.shape)
    solver = tc.LM(tol=1e-14)
    model = tc.decompose(tensor, init=truth, solver=solver).model
    change = rng.standard_normal(truth.shape)
    delta = in_matrix_form(model, block_response(model, change, tensor))
    errors = []
    for step in (1e-2, 1e-3):
        again = tc.decompose(tensor + step * change, init=model, solver=solver).model
        errors.append(np.linalg.norm(again.full() - model.full() - step * model.derivative(delta)))
    assert 60.0 < errors[0] / errors[1] < 150.0


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_a_matrix_moves_as_its_truncated_svd(dtype: str) -> None:
    rng = np.random.default_rng(8)
    matrix = gaussian((6, 5), dtype, rng)

    def truncated(array: Any) -> Any:
        u, s, vh = np.linalg.svd(array, full_matrices=False)
        return (u[:, :2] * s[:2]) @ vh[:2]

    u, s, vh = np.linalg.svd(matrix)
    root = np.sqrt(s[:2])
    model = tc.CP([u[:, :2] * root, (vh[:2].T * root)])
    change = gaussian((6, 5), dtype, rng)
    step = 1e-5
    truth = (truncated(matrix + step * change) - truncated(matrix - step * change)) / (2 * step)
    moved = model.derivative(in_matrix_form(model, block_response(model, change, matrix)))
    assert relative(moved, truth) < 1e-7


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_scales(scale: float) -> None:
    model = cp_case((4, 5, 6), 2).model()
    change = gaussian((4, 5, 6), float, np.random.default_rng(0))
    usual = response(model, change, model.full())
    scaled = model.with_matrices([matrix * scale for matrix in model.matrices])
    assert_allclose(response(scaled, change * scale**3, scaled.full()), usual * scale, rtol=1e-9)
    assert_allclose(response(model, change * scale**3, model.full()), usual * scale**3, rtol=1e-9)
    assert_allclose(response(model, change * scale**3), usual * scale**3, rtol=1e-6)


def test_kinds_of_input() -> None:
    model = tucker_case((4, 5, 6), (2, 3, 2)).model()
    change = gaussian((4, 5, 6), float, np.random.default_rng(0))
    usual = response(model, change)
    assert_allclose(response(model, tc.Dense(change)), usual)
    assert_allclose(response(model, tc.Dense(change).scaled(2.0)), 2.0 * usual)
    assert [b.shape for b in block_response(model, change)] == [b.shape for b in model.blocks]
    zero = block_response(model, np.zeros((4, 5, 6)))
    assert not any(block.any() for block in zero)
    assert [b.shape for b in zero] == [b.shape for b in model.blocks]
    # A complex change moves a real model into the complex numbers, linearly.
    both = response(model, change + 2j * change)
    assert_allclose(both, usual + 2j * usual, rtol=1e-6, atol=1e-9)
    single = tucker_case((4, 5, 6), (2, 3, 2)).as_type("float32").model()
    assert block_response(single, change)[0].dtype == np.float64


def test_what_is_refused() -> None:
    model = cp_case((4, 5, 6), 2).model()
    change = np.ones((4, 5, 6))
    with pytest.raises(ValueError, match=r"change has shape \(4, 5\)"):
        block_response(model, np.ones((4, 5)))
    with pytest.raises(ValueError, match=r"tensor has shape \(6, 5, 4\)"):
        block_response(model, change, change.T)
    with pytest.raises(ValueError, match="NaN"):
        block_response(model, np.full((4, 5, 6), np.nan))
    with pytest.raises(TypeError, match="a model"):
        block_response(change, change)
    with pytest.raises(ValueError, match="not a stationary point"):
        block_response(model, change, 2.0 * model.full())


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(cp_case((2, 2, 2), 3).model(), id="more unknowns than entries"),
        pytest.param(LOOSE_HUB.model(), id="a core with symmetries"),
        pytest.param(cp_case((4, 5, 6), 2).model().with_matrix(0, np.zeros((4, 2))), id="a zero block"),
        pytest.param(tc.CP([np.zeros((2, 1)), np.zeros((3, 1))]), id="nothing but zeros"),
    ],
)
def test_what_is_not_identifiable(model: Any) -> None:
    with pytest.raises(ValueError, match="does not determine the blocks"):
        block_response(model, np.ones(model.shape))
