"""The default on a device: reduced there, decided on the host, finished there; and dask arrays of such chunks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.solvers.reduction import reduce, reduced_shape
from tensorchain.tensors import device
from tests.cases import gaussian
from tests.tensors.counting import counted, there

SHAPE = (20, 18, 16)
KINDS = [
    (tc.CP, 3),
    (tc.Tucker, (3, 2, 2)),
    (tc.BlockTerm, [(2, 2, 2), (1, 2, 2)]),
    (tc.TensorChain, (2, 2, 2)),
]


def noisy(kind: Any, rank: Any, dtype: str, noise: float = 0.1) -> Any:
    rng = np.random.default_rng(5)
    double = np.result_type(dtype, np.float64)
    value = kind.random(SHAPE, rank, rng, dtype=double).full()
    value = value + noise * np.linalg.norm(value) / math.sqrt(value.size) * gaussian(SHAPE, str(double), rng)
    return value.astype(dtype)


@pytest.fixture(autouse=True)
def all_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor is so small that it comes to the host."""
    monkeypatch.setattr(device, "_FEW", 0)


@pytest.mark.parametrize(("kind", "rank"), KINDS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_bases_are_as_good_as_those_of_the_host(kind: Any, rank: Any, dtype: str) -> None:
    tensor, sizes = noisy(kind, rank, dtype), reduced_shape(kind.wiring(SHAPE, rank), SHAPE)
    with counted() as counts:
        data = tc.Device(there(tensor))
        counts.reset()
        found = reduce(data, sizes, np.random.default_rng(0))
        # One number for each sweep; the core and the bases; the rest of T, where it is measured.
        assert counts.arrays <= device._RANGE_SWEEPS + 4 + 1
        assert counts.sent <= 2 * 4
    host = reduce(tc.Dense(tensor), sizes)
    assert found.core.shape == host.core.shape
    assert found.floor <= host.floor * (1 + 1e-4)
    for basis in found.bases:
        assert np.allclose(basis.conj().T @ basis, np.eye(basis.shape[1]), atol=1e-14)
    projected = tensor.astype(np.result_type(dtype, np.float64))
    for n, basis in enumerate(found.bases):
        projected = np.moveaxis(np.tensordot(basis.conj(), projected, axes=(0, n)), 0, n)
    assert np.allclose(projected, found.core, atol=1e-5 if dtype == "float32" else 1e-11, rtol=1e-5)


@pytest.mark.parametrize(("kind", "rank"), KINDS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_default_reduces_there_and_finishes_there(kind: Any, rank: Any, dtype: str) -> None:
    tensor = noisy(kind, rank, dtype)
    with counted() as counts:
        data = tc.Device(there(tensor))
        counts.reset()
        fit = tc.decompose(data, kind, rank, rng=0)
        assert counts.arrays < 200
        assert counts.numbers < tensor.size
    host = tc.decompose(tensor, kind, rank, rng=0)
    assert fit.solver.split("core ")[1].split(",")[0] == host.solver.split("core ")[1].split(",")[0]
    assert fit.error == pytest.approx(host.error, rel=1e-4)
    assert fit.error == pytest.approx(tc.Dense(tensor).residual_norm(fit.model) / np.linalg.norm(tensor), rel=1e-5)


def test_few_entries_come_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_FEW", 1 << 18)
    tensor = noisy(tc.TensorChain, 2, "float64")
    with counted() as counts:
        data = tc.Device(there(tensor))
        counts.reset()
        fit = tc.decompose(data, "tc", 2, rng=0)
        # The data; the error and the gradient of what is returned, measured where they are.
        assert counts.arrays <= 6
    assert fit.error == pytest.approx(tc.decompose(tensor, "tc", 2, rng=0).error, rel=1e-10)


@pytest.mark.parametrize("constraint", [tc.Penalty(1e-3), tc.SensitivityBound(60.0), tc.ErrorBound(0.2)])
def test_constraints_through_a_reduction(constraint: Any) -> None:
    tensor = noisy(tc.CP, 3, "float64")
    tensor = tensor / np.linalg.norm(tensor)
    fit, host = (tc.decompose(T, "cp", 3, constraint=constraint, rng=0) for T in (tc.Device(there(tensor)), tensor))
    assert fit.gap == 0.0
    assert fit.objective == pytest.approx(host.objective, rel=1e-3)


def test_starts_on_a_device_stay_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process would hold a copy of the data on the same device."""
    seen: list[Any] = []
    monkeypatch.setattr("tensorchain.api.run_starts", lambda job, seeds, jobs, clock: seen.append(jobs) or iter([]))
    for tensor in (tc.Device(there(noisy(tc.CP, 2, "float64"))), noisy(tc.CP, 2, "float64")):
        for jobs in (None, 2):
            with pytest.raises(ValueError, match="empty"):
                tc.decompose(tensor, "cp", 2, starts=3, jobs=jobs, rng=0)
    assert seen == [1, 2, None, 2]
