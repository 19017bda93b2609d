"""Sweeps that stay on a device do what sweeps on the host do."""

from __future__ import annotations

import itertools
import math
from typing import Any

import array_api_strict
import numpy as np
import pytest

import tensorchain as tc
from tensorchain.evaluation import device_sweeps
from tensorchain.kernels.namespace import Namespace
from tensorchain.models.scale import Scale
from tensorchain.solvers.als import constrained_sweep
from tensorchain.solvers.constraints import Lagrangian, Sensitivity, SquaredError
from tensorchain.solvers.problem import Problem
from tensorchain.solvers.resident import penalty_of
from tensorchain.solvers.sweeps import sweep
from tests.cases import SMALL, THREE, Case, gaussian, relative
from tests.tensors.counting import there

CASES = [case for case in SMALL if len(case.shape) > 2]


def unit(case: Case) -> tuple[Any, Any]:
    """A tensor of norm one, and a model of norm one in double precision."""
    tensor = case.tensor().astype(np.result_type(case.dtype, np.float64))
    model = case.model()
    return tensor / np.linalg.norm(tensor), model.scaled(1.0 / model.norm())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_plain_sweeps(case: Case) -> None:
    tensor, model = unit(case)
    host = tc.Dense(tensor).evaluator(model)
    error = host.error()
    # A term of ranks (1, 2, 3) has singular systems: what they leave open is not the same.
    accuracy = 1e-4 if case.kind is tc.BlockTerm else 1e-9
    rows = tc.Device(there(tensor)).evaluator(model).sweeps(3)
    for row in rows:
        error = sweep(host, error)
        assert row.error == pytest.approx(error, rel=accuracy)
    assert relative(rows[-1].model.full(), host.model.full()) < 100 * accuracy


@pytest.mark.parametrize("case", CASES, ids=str)
def test_penalised_sweeps(case: Case) -> None:
    tensor, model = unit(case)
    constraint = tc.Penalty(1e-2).normalised(Scale.of(1.0, model.network, model.shape))
    problem = Problem(tc.Dense(tensor), constraint, np.random.default_rng(0))
    host = problem.evaluator(model)
    lagrangian = Lagrangian.of(constraint, constraint.measured(host))
    values = lagrangian.values(host)
    penalty = penalty_of(constraint)
    assert penalty
    rows = tc.Device(there(tensor)).evaluator(model).sweeps(3, penalty)
    for row in rows:
        values = constrained_sweep(problem, host, lagrangian, values)
        assert row.error == pytest.approx(math.sqrt(values[SquaredError()]), rel=1e-9)
        assert row.sensitivity == pytest.approx(values[Sensitivity()], rel=1e-8)
    assert relative(rows[-1].model.full(), host.model.full()) < 1e-8


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_subspace_iteration_has_the_limits_of_hooi(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = THREE[1].as_type(dtype)
    tensor, model = unit(case)
    exact = tc.Device(there(tensor)).evaluator(model).sweeps(60)[-1].error
    monkeypatch.setattr(device_sweeps, "_SMALL", 0)
    rows = tc.Device(there(tensor)).evaluator(model).sweeps(60)
    assert all(later.error <= earlier.error * (1 + 1e-12) for earlier, later in itertools.pairwise(rows))
    assert rows[-1].error == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("case", THREE, ids=str)
def test_small_errors_are_measured(case: Case) -> None:
    """Where the short formula has no digits left the error is still that of T - X."""
    model = case.model()
    model = model.scaled(1.0 / model.norm())
    tensor = model.full() + 1e-9 * gaussian(case.shape, case.dtype, np.random.default_rng(3))
    at = tc.Device(there(tensor)).evaluator(model)
    for row in [at.begin(), *at.sweeps(3)]:
        assert row.error == pytest.approx(tc.Dense(tensor).residual_norm(row.model), rel=1e-5)


def test_deficient_blocks() -> None:
    """Systems that are singular: collinear columns, and columns of zeros."""
    rng = np.random.default_rng(0)
    tensor = gaussian((5, 4, 3), "float64", rng)
    blocks = [rng.standard_normal((size, 3)) for size in (5, 4, 3)]
    for block in blocks:
        block[:, 1] = block[:, 0]
        block[:, 2] = 0.0
    at = tc.Device(there(tensor)).evaluator(tc.CP(blocks))
    rows = [at.begin(), *at.sweeps(4), *at.sweeps(2, 1e-3)]
    assert all(math.isfinite(row.error) and math.isfinite(row.sensitivity) for row in rows)
    assert all(later.error <= earlier.error * (1 + 1e-9) for earlier, later in itertools.pairwise(rows[:5]))


@pytest.mark.parametrize("case", THREE, ids=str)
@pytest.mark.parametrize("penalty", [0.0, 1e-2])
def test_without_double_precision(case: Case, penalty: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Namespace, "wide", False)
    constraint = tc.Penalty(penalty) if penalty else None
    options = {"solver": tc.ALS(max_iter=6), "constraint": constraint, "rng": 0}
    tensor = tc.Device(there(case.tensor()))
    assert "no double precision" in repr(tensor)
    fit = tc.decompose(tensor, case.kind, case.rank, **options)
    host = tc.decompose(case.tensor().astype("float32"), case.kind, case.rank, **options)
    # Singular systems of a term of ranks (1, 2, 3) leave more open in single precision.
    assert fit.error == pytest.approx(host.error, rel=0.05 if case.kind is tc.BlockTerm else 1e-3)


@pytest.mark.parametrize("case", THREE, ids=str)
@pytest.mark.parametrize("penalty", [0.0, 1e-2])
def test_a_library_without_linear_algebra(case: Case, penalty: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small matrices go to the host where a device has no decompositions; on some devices only some are missing."""
    tensor, model = unit(case)
    expected = tc.Device(there(tensor)).evaluator(model).sweeps(3, penalty)

    def missing(*_: Any) -> Any:
        raise NotImplementedError("not on this device")

    for name in ("solve", "cholesky", "qr", "eigh", "svd"):
        monkeypatch.setattr(array_api_strict.linalg, name, missing)
    found = tc.Device(there(tensor)).evaluator(model).sweeps(3, penalty)
    for one, other in zip(found, expected, strict=True):
        assert one.error == pytest.approx(other.error, rel=1e-4 if case.kind is tc.BlockTerm else 1e-9)


@pytest.mark.parametrize("case", THREE, ids=str)
def test_the_host_and_the_device_take_turns(case: Case) -> None:
    """A block that the host replaces is what the device goes on from, and the other way round."""
    tensor, model = unit(case)
    at, host = tc.Device(there(tensor)).evaluator(model), tc.Dense(tensor).evaluator(model)
    at.sweeps(2)
    host.hold(at.model)
    last = len(model.matrices) - 1
    for one in (at, host):
        one.replace(last, 1.5 * one.model.matrices[last])
    assert at.error() == pytest.approx(host.error(), rel=1e-12)
    for k in range(len(model.matrices)):
        assert relative(at.rhs(k), host.rhs(k)) < 1e-12
        assert relative(at.gradient()[k], host.gradient()[k]) < 1e-11
    after = at.sweeps(1)[0]
    assert after.error == pytest.approx(sweep(host, host.error()), rel=1e-4 if case.kind is tc.BlockTerm else 1e-9)


def test_an_interrupted_fit_goes_on(tmp_path: Any) -> None:
    tensor = tc.Device(there(THREE[0].tensor()))
    options = {"solver": tc.ALS(max_iter=20, tol=0), "rng": 0, "checkpoint": tmp_path / "state.npz"}
    whole = tc.decompose(tensor, "cp", 3, **{**options, "checkpoint": None})
    tc.decompose(tensor, "cp", 3, **options, callback=lambda iterate: iterate.iteration >= 10)
    rest = tc.decompose(tensor, "cp", 3, **options)
    assert rest.iterations == whole.iterations
    assert rest.error == pytest.approx(whole.error, rel=1e-10)


def test_optimality_is_what_the_last_sweep_took_off() -> None:
    rng = np.random.default_rng(0)
    T = tc.CP.random((6, 7, 8), 2, rng).full() + 0.1 * rng.standard_normal((6, 7, 8))
    device = tc.Device(array_api_strict.asarray(T))
    fit = tc.decompose(device, "cp", 2, solver=tc.ALS(max_iter=500), init="svd", rng=0)
    assert fit.reason is tc.StopReason.CONVERGED
    squares = np.asarray(fit.history.error)[-2:] ** 2
    assert fit.optimality == pytest.approx((squares[0] - squares[1]) / squares[0], rel=1e-4)
