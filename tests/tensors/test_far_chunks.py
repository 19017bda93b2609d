"""dask arrays whose chunks lie on devices: products are made where the chunks are."""

from __future__ import annotations

import importlib.util
from typing import Any

import array_api_strict
import dask
import dask.array
import numpy as np
import pytest

import tensorchain as tc
from tests.cases import gaussian, mostly_slow, relative
from tests.tensors.counting import there

SHAPE = (20, 21, 22)


def to_torch(array: Any) -> Any:
    import torch

    return torch.from_numpy(np.array(array))


SENDERS = {"strict": array_api_strict.asarray, "elsewhere": there}
if importlib.util.find_spec("torch") is not None:
    SENDERS["torch"] = to_torch


@pytest.fixture(params=SENDERS)
def send(request: pytest.FixtureRequest) -> Any:
    return SENDERS[request.param]


def noisy(dtype: str = "float64") -> Any:
    value = tc.CP.random(SHAPE, 3, 3).full()
    value = value + 0.1 * np.linalg.norm(value) / value.size**0.5 * gaussian(SHAPE, "float64", np.random.default_rng(0))
    return value.astype(dtype)


def chunked(array: Any, send: Any, chunks: Any = (8, 21, 10)) -> Any:
    near = dask.array.from_array(array, chunks=chunks)
    return near.map_blocks(lambda chunk: send(np.ascontiguousarray(chunk)), dtype=array.dtype, meta=np.empty((0, 0, 0)))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_what_a_solver_asks(send: Any, dtype: str) -> None:
    array = noisy(dtype)
    far, near = tc.Lazy(chunked(array, send)), tc.Dense(array)
    model = tc.TensorChain.random(SHAPE, 2, 1)
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    assert far.norm() == pytest.approx(near.norm(), rel=1e-6 if dtype == "float32" else 1e-13)
    assert far.digest() == tc.Lazy(dask.array.from_array(array)).digest()
    assert far.residual_norm(model) == pytest.approx(near.residual_norm(model), rel=1e-6)
    assert relative(far.mode_gram(1), near.mode_gram(1)) < tolerance
    for k in range(3):
        assert relative(far.contract_all_but(model, k), near.contract_all_but(model, k)) < tolerance
        assert relative(far.residual(model).gradient[k], near.residual(model).gradient[k]) < tolerance


@pytest.mark.parametrize("size", mostly_slow([1e-200, 1e200]))
def test_extreme_sizes(send: Any, size: float) -> None:
    array = size * noisy()
    far, near = tc.Lazy(chunked(array, send)), tc.Dense(array)
    assert far.norm() == pytest.approx(near.norm(), rel=1e-12)
    fits = [tc.decompose(T, "cp", 3, rng=0, solver=tc.ALS(max_iter=5)).error for T in (far, near)]
    assert fits[0] == pytest.approx(fits[1], rel=1e-8)


@pytest.mark.parametrize("cut", mostly_slow(["two modes", "all modes"]))
def test_the_same_reduction(send: Any, cut: str) -> None:
    chunks = (7, 8, 9) if cut == "all modes" else (8, 21, 10)
    fit = tc.decompose(chunked(noisy(), send, chunks), "cp", 3, rng=0)
    host = tc.decompose(noisy(), "cp", 3, rng=0)
    assert "core 3x3x3" in fit.solver
    assert fit.error == pytest.approx(host.error, rel=1e-3)


def test_singular_vectors_and_the_whole(send: Any) -> None:
    """What needs chunks to be joined brings them to the host: modes that chunks cut among them."""
    far, near = tc.Lazy(chunked(noisy(), send)), tc.Dense(noisy())
    assert np.array_equal(far.to_dense(), near.to_dense())
    for mode in range(3):
        assert relative(far.mode_gram(mode), near.mode_gram(mode)) < 1e-12
    for kind in ("tc", "tucker"):
        fits = [tc.decompose(T, kind, 2, init="svd", solver=tc.ALS(max_iter=3), rng=0).error for T in (far, near)]
        assert fits[0] == pytest.approx(fits[1], rel=1e-8)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch")
def test_on_a_cluster() -> None:
    distributed = pytest.importorskip("distributed")
    options = {"processes": False, "n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
    with (
        dask.config.set({"distributed.worker.daemon": False}),
        distributed.LocalCluster(**options) as cluster,
        distributed.Client(cluster),
    ):
        fit = tc.decompose(chunked(noisy(), to_torch), "cp", 3, rng=0)
    assert fit.error == pytest.approx(tc.decompose(noisy(), "cp", 3, rng=0).error, rel=1e-3)
