"""Figures of a model alone, against explicit Jacobians, Monte Carlo and the functions of `tensorchain.stability`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.diagnosis import cancellation, measure
from tensorchain.diagnosis.figures import NULL, tensor_norm
from tensorchain.stability import condition_number, quantization_error
from tests.cases import THREE, Case, double, jacobian, jacobian_blocks, random_gauge
from tests.stability.examples import HUB, MODELS

NAMES = [str(case) or case.kind.__name__ for case in MODELS]


def explicit_cancellation(model: Any) -> float:
    """From the columns of J: noise in proportion to the root mean square of each block."""
    total = 0.0
    for matrix, columns in zip(model.matrices, jacobian_blocks(model), strict=True):
        total += np.mean(np.abs(matrix) ** 2) * np.linalg.norm(columns) ** 2
    return float(total / (len(model.matrices) * np.linalg.norm(model.full()) ** 2))


@pytest.mark.parametrize("case", MODELS, ids=NAMES)
def test_cancellation_against_the_jacobian(case: Case) -> None:
    model = double(case.model())
    assert cancellation(model) == pytest.approx(explicit_cancellation(model), rel=1e-9)


def test_cancellation_against_monte_carlo() -> None:
    model, rng, size = THREE[3].model(), np.random.default_rng(1), 1e-3
    full = model.full()
    squares = []
    for _ in range(4000):
        noise = [size * np.sqrt(np.mean(b**2)) * rng.standard_normal(b.shape) for b in model.matrices]
        moved = model.with_matrices([b + n for b, n in zip(model.matrices, noise, strict=True)])
        squares.append(np.linalg.norm(moved.full() - full) ** 2)
    seen = np.mean(squares) / (size**2 * len(model.matrices) * np.linalg.norm(full) ** 2)
    assert cancellation(model) == pytest.approx(seen, rel=0.06)


@pytest.mark.parametrize("case", MODELS, ids=NAMES)
def test_spectrum_against_the_jacobian(case: Case) -> None:
    given = case.model()
    model = tc.optimal_gauge(double(given), tol=1e-12)
    values = np.linalg.svd(jacobian(model), compute_uv=False)
    values = np.concatenate([values, np.zeros(max(0, model.n_parameters - len(values)))])
    values = values[: model.n_parameters - model.gauge_dimension]
    nullity = int(np.count_nonzero(values <= NULL * values[0]))
    figures = measure(given)
    assert figures.nullity == nullity
    if nullity:
        assert figures.spread == figures.condition == np.inf
        return
    blocks = np.sqrt(sum(np.linalg.norm(matrix) ** 2 for matrix in model.matrices))
    # The gauge in `measure` is optimal to a thousandth of SS, and singular values of J follow its square root.
    assert figures.spread == pytest.approx(values[0] / values[-1], rel=0.1)
    assert figures.condition == pytest.approx(np.linalg.norm(model.full()) / (values[-1] * blocks), rel=0.1)


@pytest.mark.parametrize("case", MODELS, ids=NAMES)
def test_sensitivities_and_rounding_are_those_of_the_package(case: Case) -> None:
    model = case.model()
    figures = measure(model)
    tol = max(case.tol, 1e-9)
    assert figures.sensitivity == pytest.approx(double(model).sensitivity(), rel=tol)
    assert figures.block_sensitivities == pytest.approx(list(double(model).block_sensitivities()), rel=tol)
    assert sum(figures.shares) == pytest.approx(1.0, rel=1e-12)
    assert figures.relative_sensitivity == pytest.approx(double(model).sensitivity(relative=True), rel=tol)
    for bits, error in figures.rounding:
        assert error == pytest.approx(quantization_error(model, bits), rel=tol)
    assert figures.block_names == model.block_names


@pytest.mark.parametrize("case", [*THREE, HUB], ids=["cp", "tucker", "btd", "tc", "hub"])
def test_only_the_gauge_figures_see_the_gauge(case: Case) -> None:
    model = tc.optimal_gauge(case.model(), tol=1e-12)
    moved = random_gauge(model, np.random.default_rng(3), condition=300.0)
    here, there = measure(model), measure(moved)
    assert here.gauge_excess == pytest.approx(1.0, abs=1e-6)
    assert there.gauge_excess == pytest.approx(moved.sensitivity() / model.sensitivity(), rel=5e-3)
    assert there.gauge_excess > 2.0
    assert there.cancellation == pytest.approx(here.cancellation, rel=5e-3)
    assert there.nullity == here.nullity
    if here.nullity == 0:
        assert there.spread == pytest.approx(here.spread, rel=0.1)


def test_figures_do_not_see_scale() -> None:
    model = THREE[3].model()
    here = measure(model)
    for factor in (1e-100, 1e100):
        there = measure(model.with_matrices([factor * matrix for matrix in model.matrices]))
        for name in ("gauge_excess", "cancellation", "spread", "condition", "rounding", "relative_sensitivity"):
            assert np.allclose(getattr(there, name), getattr(here, name), rtol=1e-6), (factor, name)


def test_a_gauge_that_loses_the_norm_to_rounding_is_measured_all_the_same() -> None:
    rng = np.random.default_rng(0)
    model = tc.Tucker.random((5, 5, 5, 5), (2, 2, 2, 2), rng)
    bad = tc.datasets.bad_gauge(model, 1e4, rng)
    figures = measure(bad)
    assert figures.gauge_excess > 1e6
    assert figures.cancellation == pytest.approx(measure(model).cancellation, rel=0.05)


def test_cp_figures() -> None:
    close = np.array([[1.0, -1.0], [0.0, 0.01]])
    model = tc.CP([close, np.abs(close), np.abs(close)])
    figures = measure(model)
    assert figures.cp is not None
    assert figures.cp.opposed == figures.cp.aligned == pytest.approx(-1.0, abs=1e-3)
    assert figures.cp.norms[0] == pytest.approx(1.0 / np.linalg.norm(model.full()), rel=1e-2)
    assert figures.cp.condition == pytest.approx(condition_number(model), rel=1e-9)
    assert measure(tc.TensorChain.random((3, 3, 3), 2, 0)).cp is None


def test_the_norm_comes_from_the_tensor_where_terms_cancel() -> None:
    one = np.ones((3, 1))
    tiny = tc.CP([np.hstack([one, -(1.0 - 1e-10) * one]), *[np.hstack([one, one])] * 2])
    assert tensor_norm(tiny) == pytest.approx(1e-10 * 27**0.5, rel=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        tc.CP([np.ones((3, 1)), np.ones((2, 1)), np.ones((4, 1))]),
        tc.CP.random((4, 3), 2, 0),
        tc.TensorChain.random((5, 4), (1, 2), 0),
        tc.TensorChain.random((4, 3, 5), (1, 1, 1), 0),
        tc.TensorChain.random((4, 3, 5), (1, 2, 2), 0),
        tc.Tucker.random((4, 3), (2, 2), 0),
        tc.BlockTerm.random((4, 4), [(1, 1), (1, 1)], 0),
    ],
    ids=["single component", "cp order 2", "chain order 2", "bonds 1", "open chain", "tucker order 2", "btd order 2"],
)
def test_small_models_have_figures(model: Any) -> None:
    figures = measure(model)
    assert figures.nullity == 0 or type(model) is tc.BlockTerm
    assert figures.cancellation == pytest.approx(explicit_cancellation(tc.optimal_gauge(model, tol=1e-12)), rel=5e-3)
    if figures.cp is not None and model.rank == 1:
        assert np.isnan(figures.cp.opposed)


def test_a_large_model_is_measured_without_its_spectrum() -> None:
    figures = measure(tc.TensorChain.random((16,) * 4, 6, 0))
    assert figures.spread is figures.condition is figures.nullity is None
    assert figures.cancellation > 0.0


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="zero everywhere"):
        measure(tc.CP([np.ones((2, 1)), np.zeros((2, 1))]))
    with pytest.raises(TypeError, match="model such as CP"):
        measure(np.ones((2, 2)))  # type: ignore[arg-type]
    broken = tc.CP([np.ones((2, 1)), np.ones((2, 1))]).with_matrices([np.full((2, 1), np.nan), np.ones((2, 1))])
    with pytest.raises(ValueError, match="NaN or infinity"):
        measure(broken)
