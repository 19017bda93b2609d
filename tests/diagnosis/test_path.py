"""The sensitivity path: stationary stages, known exponents, invariances, and limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.diagnosis import SensitivityPath, trace_path
from tensorchain.stability import sensitivity_gradient
from tests.cases import THREE, Case, jacobian
from tests.stability.examples import HUB


def synthetic(slope: float, error: Any, decades: int = 7) -> SensitivityPath:
    """A path with SS ~ nu^(-slope)."""
    penalty = np.logspace(0, -decades, 2 * decades + 1)
    model = tc.CP([np.ones((2, 1))] * 3)
    counts = np.ones(len(penalty), dtype=int)
    return SensitivityPath(penalty, error * np.ones_like(penalty), penalty**-slope, counts, (model,) * len(penalty))


def planted(case: Case, noise: float = 0.05) -> tuple[Any, Any]:
    """A tensor of the case and a little noise, and the truth."""
    model = case.model()
    return tc.datasets.add_noise(model.full(), noise, np.random.default_rng(1)), model


IDENTIFIABLE = [
    Case(tc.CP, (6, 5, 4), 3, None, 0),  # type: ignore[arg-type]
    Case(tc.Tucker, (6, 5, 4), (3, 2, 2), None, 0),  # type: ignore[arg-type]
    Case(tc.BlockTerm, (6, 6, 6), [(2, 2, 2), (1, 1, 1)], None, 0),  # type: ignore[arg-type]
    Case(tc.TensorChain, (6, 6, 6), (2, 2, 2), None, 0),  # type: ignore[arg-type]
    HUB,
]


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("case", IDENTIFIABLE, ids=lambda case: case.kind.__name__)
def test_every_stage_is_stationary(case: Case, dtype: str) -> None:
    tensor, truth = planted(case.as_type(dtype))
    path = trace_path(truth, tensor, decades=3)
    for penalty, model in zip(path.penalty, path.models, strict=True):
        misfit = jacobian(model).conj().T @ (model.full() - tensor).ravel()
        # Gradients of SS come in natural shapes; its matrix form is flattened row by row.
        flat = [model._to_matrix(k, block).ravel() for k, block in enumerate(sensitivity_gradient(model))]
        pull = 0.5 * penalty * np.concatenate(flat)
        # They balance: what is left is small beside either.
        assert np.linalg.norm(misfit + pull) < 0.05 * np.linalg.norm(pull)


@pytest.mark.parametrize("case", IDENTIFIABLE, ids=lambda case: case.kind.__name__)
def test_error_falls_and_sensitivity_rises_to_that_of_the_fit(case: Case) -> None:
    tensor, truth = planted(case)
    path = trace_path(truth, tensor)
    assert np.all(np.diff(path.penalty) < 0.0)
    assert np.all(np.diff(path.error) <= 1e-9)
    assert np.all(np.diff(path.sensitivity) >= -1e-4 * path.sensitivity[1:])
    fit = tc.decompose(tensor, init=truth, solver=tc.LM())
    assert path.error[-1] == pytest.approx(fit.error, rel=1e-4)
    assert path.sensitivity[-1] == pytest.approx(fit.sensitivity, rel=1e-2)
    assert path.model is path.models[-1]
    assert path.complete
    for error, sensitivity, model in zip(path.error, path.sensitivity, path.models, strict=True):
        assert np.linalg.norm(tensor - model.full()) / np.linalg.norm(tensor) == pytest.approx(error, rel=1e-9)
        # Each model is in its best gauge, which a stage only nears.
        assert model.sensitivity() == pytest.approx(sensitivity, rel=1e-2)


def test_the_border_has_the_exponent_of_the_theory() -> None:
    border = tc.datasets.border_cp((5, 5, 5), np.random.default_rng(3))
    path = trace_path(border.approximant(1e-2), border.tensor)
    assert path.slope == pytest.approx(1.0 / 4.0, abs=0.01)
    # error ~ t^2 and SS ~ t^(-4/3): the error falls with 3/2 of the exponent of SS.
    assert path.error_slope == pytest.approx(3.0 / 8.0, abs=0.015)
    assert not path.stalls


def test_an_error_left_over_stalls_while_the_sensitivity_grows() -> None:
    border = tc.datasets.border_chain((7, 7, 7), (3, 3, 3), np.random.default_rng(1))
    start = tc.decompose(border.tensor, "tc", 3, solver=tc.LM(max_iter=100), rng=0).model
    path = trace_path(start, border.tensor)
    assert path.slope > 0.2


def test_a_diverged_start_is_tamed() -> None:
    """Huge blocks that cancel, and a tensor that has nothing to do with them."""
    exact = tc.datasets.exact_chain((7, 7, 7), (3, 3, 3), np.random.default_rng(0)).tensor
    far = tc.datasets.border_chain((7, 7, 7), (3, 3, 3), np.random.default_rng(1)).approximant(1e-4)
    start = far.scaled(float(np.linalg.norm(exact)))
    path = trace_path(start, exact)
    assert path.sensitivity[0] < 1e-2 * tc.optimal_gauge(start).sensitivity()
    assert path.error[-1] < 1e-6


@pytest.mark.parametrize("factor", [1e-60, 1e60])
def test_scale_of_the_tensor(factor: float) -> None:
    tensor, truth = planted(THREE[0])
    here, there = trace_path(truth, tensor, decades=2), trace_path(truth.scaled(factor), factor * tensor, decades=2)
    assert there.error == pytest.approx(here.error, rel=1e-6)
    assert there.sensitivity / factor ** (4 / 3) == pytest.approx(here.sensitivity, rel=1e-6)
    assert there.penalty / factor ** (2 / 3) == pytest.approx(here.penalty, rel=1e-6)


def test_single_precision_and_sources_stay_what_they_are() -> None:
    tensor, truth = planted(THREE[0])
    path = trace_path(truth.astype(np.float32), tc.Dense(tensor.astype(np.float32)), decades=2)
    assert all(model.dtype == np.float32 for model in path.models)
    assert path.error == pytest.approx(trace_path(truth, tensor, decades=2).error, rel=1e-4)


@pytest.mark.parametrize("slope", [0.0, 0.25, 0.5])
def test_exponents_of_a_power_law(slope: float) -> None:
    path = synthetic(slope, 0.1)
    assert path.slope == pytest.approx(slope, abs=1e-12)
    assert path.error_slope == pytest.approx(0.0, abs=1e-12)
    assert path.stalls


def test_a_late_jump_is_no_power_law() -> None:
    path = synthetic(0.0, 0.1)
    jumped = replace(path, sensitivity=np.where(path.penalty < 1e-5, 3.0, 1.0))
    assert jumped.slope == pytest.approx(0.0, abs=1e-12)


def test_stalling_looks_at_the_last_decade() -> None:
    path = synthetic(0.0, 1.0)
    assert replace(path, error=np.maximum(path.penalty, 1e-4)).stalls
    falling = replace(path, error=np.sqrt(path.penalty))
    assert not falling.stalls
    assert falling.error_slope == pytest.approx(0.5, abs=1e-12)


def test_a_short_path_has_no_exponent() -> None:
    path = synthetic(0.3, 0.1)
    short = replace(path, penalty=path.penalty[:2], error=path.error[:2], sensitivity=path.sensitivity[:2])
    assert np.isnan(short.slope)


def test_the_time_limit_cuts_the_path_short() -> None:
    tensor, truth = planted(IDENTIFIABLE[3])
    path = trace_path(truth, tensor, max_seconds=1e-3)
    assert 1 <= len(path) < 15
    assert not path.complete
    assert np.all(np.isfinite(path.error))


def test_bad_input() -> None:
    tensor, truth = planted(THREE[0])
    with pytest.raises(ValueError, match="must be equal"):
        trace_path(truth, tensor[1:])
    with pytest.raises(ValueError, match="tensor is zero"):
        trace_path(truth, 0.0 * tensor)
    with pytest.raises(ValueError, match="model is zero"):
        trace_path(truth.with_matrices([0.0 * matrix for matrix in truth.matrices]), tensor)
    with pytest.raises(TypeError, match="a model such as"):
        trace_path(tensor, tensor)
    for name, value in (("share", 0.0), ("decades", -1.0), ("per_decade", 0), ("max_iter", 0)):
        with pytest.raises(ValueError, match=name):
            trace_path(truth, tensor, **{name: value})  # type: ignore[arg-type]
