"""Cramer-Rao bounds against the pseudo-inverse of J, against closed forms, and met by least-squares fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tensorchain as tc
from tensorchain.solvers import Constraint
from tensorchain.solvers.loop import Problem, run
from tensorchain.stability import crib
from tensorchain.stability import jacobian as module
from tensorchain.stability.gauge_tangent import gauge_tangent
from tests.cases import Case, block_term_case, chain_case, cp_case, double, gaussian, jacobian, mostly_slow, tucker_case
from tests.stability.examples import HUB, LOOSE_HUB, flat, in_matrix_form, name

IDENTIFIABLE = [
    case.as_type(dtype)
    for case in [
        cp_case((4, 5, 6), 3),
        cp_case((9, 8, 2), 2),
        cp_case((3, 4, 2, 3), 2),
        tucker_case((4, 5, 6), (2, 3, 2)),
        tucker_case((9, 5), (2, 2)),
        block_term_case((6, 7, 6), [(2, 2, 2), (1, 2, 2)]),
        chain_case((4, 5, 6), (2, 3, 2)),
        chain_case((12, 5, 7), (2, 2, 2)),
        HUB,
    ]
    for dtype in ("float64", "complex128")
]


def covariance(model: Any, noise: float, gauge: int) -> Any:
    """noise^2 (J^H J)^+, from all of J."""
    _, values, rotation = np.linalg.svd(jacobian(model), full_matrices=False)
    kept = model.n_parameters - gauge
    root = rotation[:kept].conj().T / values[:kept]
    return noise**2 * root @ root.conj().T


@pytest.mark.parametrize("case", IDENTIFIABLE, ids=name)
class TestFormula:
    def test_variances(self, case: Case) -> None:
        model = case.model()
        bounds = crib(model, 0.3)
        truth = np.diag(covariance(model, 0.3, case.gauge)).real
        assert [v.shape for v in bounds.variances] == [block.shape for block in model.blocks]
        assert_allclose(flat(in_matrix_form(model, bounds.variances)), truth, rtol=1e-6)
        assert bounds.total == pytest.approx(truth.sum(), rel=1e-6)
        assert bounds.noise == 0.3

    def test_angles(self, case: Case) -> None:
        model = case.model()
        bounds = crib(model, 0.3)
        if not isinstance(model, tc.CP):
            assert bounds.angular_errors is None
            return
        full = covariance(model, 0.3, case.gauge)
        assert bounds.angular_errors is not None
        start = 0
        for factor, angles in zip(model.factors, bounds.angular_errors, strict=True):
            rows, rank = factor.shape
            for r in range(rank):
                places = start + np.arange(rows) * rank + r
                unit = factor[:, r] / np.linalg.norm(factor[:, r])
                across = np.eye(rows) - np.outer(unit, unit.conj())
                truth = np.trace(across @ full[np.ix_(places, places)] @ across).real
                assert angles[r] == pytest.approx(truth / np.linalg.norm(factor[:, r]) ** 2, rel=1e-6)
            start += factor.size

    def test_noise_enters_as_its_square(self, case: Case) -> None:
        model = case.model()
        one, ten = crib(model, 1.0), crib(model, 10.0)
        assert ten.total == pytest.approx(100.0 * one.total, rel=1e-12)
        assert crib(model, 0.0).total == 0.0

    def test_without_the_shortcut(self, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        usual = crib(case.model(), 1.0)
        monkeypatch.setattr(module, "_TRUSTED", 2.0)
        slow = crib(case.model(), 1.0)
        assert_allclose(flat(slow.variances), flat(usual.variances), rtol=1e-6)

    def test_float32(self, case: Case) -> None:
        if case.dtype == "float64":
            single = case.as_type("float32").model()
            assert crib(single, 0.1).total == pytest.approx(crib(double(single), 0.1).total, rel=1e-9)


class TestClosedForms:
    def test_one_rank_one_term(self) -> None:
        # Orthogonal to the column, the factor is alone: variance s^2 / prod of the other squared norms.
        factors = [np.random.default_rng(n).standard_normal((3 + n, 1)) for n in range(3)]
        squares = [float(np.sum(factor**2)) for factor in factors]
        bounds = crib(tc.CP(factors), 0.2)
        assert bounds.angular_errors is not None
        for n, angles in enumerate(bounds.angular_errors):
            assert angles[0] == pytest.approx((len(factors[n]) - 1) * 0.04 / np.prod(squares), rel=1e-10)

    def test_the_error_of_x_is_noise_times_degrees_of_freedom(self) -> None:
        # E ||J dtheta||^2 = s^2 rank J.
        case = chain_case((4, 5, 6), (2, 3, 2))
        model = case.model()
        matrix = jacobian(model)
        full = covariance(model, 0.1, case.gauge)
        assert np.trace(matrix @ full @ matrix.T) == pytest.approx(0.01 * (model.n_parameters - case.gauge))
        assert_allclose(np.diag(full), flat(in_matrix_form(model, crib(model, 0.1).variances)), rtol=1e-6)


def angle_errors(fit: Any, truth: Any) -> Any:
    """Squared angles between the columns, (N, R)."""
    found = []
    for estimate, factor in zip(fit.factors, truth.factors, strict=True):
        cosines = np.abs(np.sum(estimate.conj() * factor, axis=0))
        cosines /= np.linalg.norm(estimate, axis=0) * np.linalg.norm(factor, axis=0)
        found.append(np.arccos(np.minimum(cosines, 1.0)) ** 2)
    return np.array(found)


class TestFits:
    """A least-squares fit meets the bound while the noise is small; 200 fits know its mean to a few per cent."""

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    def test_angles_of_cp_fits(self, dtype: str) -> None:
        truth = cp_case((5, 4, 6), 2).as_type(dtype).model(1)
        full, rng = truth.full(), np.random.default_rng(2)
        noise = 1e-4 * float(np.linalg.norm(full)) / np.sqrt(full.size)
        samples = []
        for _ in range(200):
            noisy = full + noise * gaussian(full.shape, full.dtype, rng)
            fit = tc.decompose(noisy, init=truth, solver=tc.LM(tol=1e-8))
            samples.append(angle_errors(fit.model, truth))
        bounds = crib(truth, noise)
        assert bounds.angular_errors is not None
        ratio = np.mean(samples, axis=0) / np.array(bounds.angular_errors)
        assert abs(np.mean(ratio) - 1.0) < 0.1
        assert np.all(np.abs(ratio - 1.0) < 0.35)

    @pytest.mark.parametrize(
        "case",
        mostly_slow(
            [
                chain_case((5, 4, 6), (2, 2, 2)),
                tucker_case((5, 4, 6), (2, 2, 3)).as_type("complex128"),
                block_term_case((6, 7, 6), [(2, 2, 2), (1, 2, 2)]),
            ]
        ),
        ids=name,
    )
    def test_blocks_of_fits(self, case: Case) -> None:
        truth = case.model(1)
        full, rng = truth.full(), np.random.default_rng(3)
        tangent = gauge_tangent(truth)
        noise = 1e-5 * float(np.linalg.norm(full)) / np.sqrt(full.size)
        samples = []
        for _ in range(120):
            noisy = full + noise * gaussian(full.shape, full.dtype, rng)
            # The solver itself: `decompose` would return another gauge.
            problem = Problem(tc.Dense(noisy), Constraint(), rng)
            fit = run(tc.LM(tol=1e-8), problem, truth).best.model
            error = flat(fit.matrices) - flat(truth.matrices)
            error = error - tangent @ (tangent.conj().T @ error)
            samples.append(np.abs(error) ** 2)
        bounds = crib(truth, noise)
        assert np.mean(np.sum(samples, axis=1)) == pytest.approx(bounds.total, rel=0.12)
        ratio = np.mean(samples, axis=0) / flat(in_matrix_form(truth, bounds.variances))
        assert abs(np.mean(ratio) - 1.0) < 0.12


@pytest.mark.parametrize("scale", [1e-80, 1e80])
def test_scales(scale: float) -> None:
    model = cp_case((4, 5, 6), 2).model()
    usual = crib(model, 0.1)
    scaled = crib(model.with_matrices([matrix * scale for matrix in model.matrices]), 0.1 * scale**3)
    assert usual.angular_errors is not None
    assert scaled.angular_errors is not None
    assert scaled.total == pytest.approx(usual.total * scale**2, rel=1e-9)
    assert_allclose(np.array(scaled.angular_errors), np.array(usual.angular_errors), rtol=1e-9)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(cp_case((2, 2, 2), 3).model(), id="more unknowns than entries"),
        pytest.param(LOOSE_HUB.model(), id="a core with symmetries"),
        pytest.param(chain_case((6, 5), (2, 2)).model(), id="a loop of two cores"),
        pytest.param(cp_case((4, 5, 6), 2).model().with_matrix(0, np.zeros((4, 2))), id="a zero block"),
        pytest.param(tc.CP([np.array([[1.0, 0.0], [2.0, 0.0]])] * 3), id="a zero component"),
    ],
)
def test_what_is_not_identifiable(model: Any) -> None:
    with pytest.raises(ValueError, match="does not determine the blocks"):
        crib(model, 0.1)


@pytest.mark.parametrize(
    ("noise", "error"),
    [(-0.1, ValueError), (np.nan, ValueError), (np.inf, ValueError), ("a", TypeError), (None, TypeError)],
)
def test_bad_noise(noise: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="standard deviation"):
        crib(cp_case((4, 5, 6), 2).model(), noise)


def test_order_two() -> None:
    # A matrix of rank R: the gauge is GL(R), and R (I + J - R) degrees of freedom remain.
    case = cp_case((5, 4), 2)
    model = case.model()
    assert crib(model, 0.1).total == pytest.approx(np.trace(covariance(model, 0.1, case.gauge)), rel=1e-9)
