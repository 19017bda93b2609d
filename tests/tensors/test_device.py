"""Arrays of other libraries: through the strict reference of the array API, and PyTorch where it is installed."""

from __future__ import annotations

import importlib.util
from typing import Any

import array_api_strict
import numpy as np
import pytest

import tensorchain as tc
from tensorchain.kernels.namespace import Namespace
from tensorchain.tensors import device
from tensorchain.tensors.dense import Dense
from tensorchain.tensors.device import Device
from tests.cases import SOLVED, THREE, Case, relative
from tests.tensors.fake_cupy import installed

SHAPE = (6, 5, 4)


def torch_devices() -> list[str]:
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def places() -> dict[str, Any]:
    """How a NumPy array reaches each library and device."""

    def to_torch(where: str) -> Any:
        import torch

        return lambda array: torch.asarray(np.array(array), device=where)

    return {"strict": array_api_strict.asarray, **{f"torch-{where}": to_torch(where) for where in torch_devices()}}


PLACES = places()


@pytest.fixture(params=PLACES)
def send(request: pytest.FixtureRequest) -> Any:
    return PLACES[request.param]


@pytest.fixture
def tensor() -> Any:
    return np.random.default_rng(0).standard_normal(SHAPE)


class TestFits:
    @pytest.mark.parametrize("case", [*THREE, *(case.as_type("float32") for case in THREE)], ids=str)
    def test_a_fit_is_that_of_the_host(self, send: Any, case: Case) -> None:
        tensor = case.tensor()
        options = {"solver": tc.LM(max_iter=4), "constraint": tc.Penalty(0.1), "rng": 0}
        fits = [tc.decompose(T, case.kind, case.rank, **options) for T in (Device(send(tensor)), tensor)]
        assert fits[0].model.dtype == case.dtype
        assert relative(fits[0].model.full(), fits[1].model.full()) < 100 * case.tol

    def test_boxes_on_the_device(self, send: Any, tensor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(device, "_BOX", 7)
        model = tc.TensorChain.random(SHAPE, 2, 0)
        residual, expected = Device(send(tensor)).residual(model), Dense(tensor).residual(model)
        assert residual.norm == pytest.approx(expected.norm, rel=1e-13)
        for value, truth in zip(residual.gradient, expected.gradient, strict=True):
            assert relative(value, truth) < 1e-12

    def test_start_from_singular_vectors(self, send: Any, tensor: Any) -> None:
        fit = tc.decompose(Device(send(tensor)), "tucker", (2, 2, 2), init="svd", solver=tc.ALS(max_iter=3), rng=0)
        host = tc.decompose(tensor, "tucker", (2, 2, 2), init="svd", solver=tc.ALS(max_iter=3), rng=0)
        assert fit.error == pytest.approx(host.error, rel=1e-10)

    def test_without_double_precision(self, send: Any, tensor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """As on devices that have single precision only."""
        monkeypatch.setattr(Namespace, "wide", False)
        source = Device(send(tensor))
        model = tc.CP.random(SHAPE, 2, 0)
        assert source.dtype == np.float32
        assert source.residual(model).norm == pytest.approx(Dense(tensor).residual(model).norm, rel=1e-5)
        assert source.residual(model).gradient[0].dtype == np.float64


class TestInput:
    @pytest.mark.parametrize(
        ("given_dtype", "kept"),
        [("float32", "float32"), ("float64", "float64"), ("complex128", "complex128"), ("complex64", "complex128"),
         ("int8", "float64"), ("uint8", "float64"), ("int64", "float64"), ("bool", "float64")],
    )  # fmt: skip
    def test_dtypes(self, send: Any, given_dtype: str, kept: str) -> None:
        source = Device(send(np.ones(SHAPE, dtype=given_dtype)))
        assert source.dtype == kept
        assert source.norm() == pytest.approx(np.sqrt(120.0), rel=1e-6)
        assert np.array_equal(source.to_dense(), np.ones(SHAPE))

    def test_the_array_is_not_changed(self, send: Any, tensor: Any) -> None:
        array = send(tensor)
        tc.decompose(Device(array), "cp", 2, solver=tc.ALS(max_iter=2), rng=0)
        assert np.array_equal(Namespace(array).fetch(array), tensor)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_nan_is_refused(self, send: Any, tensor: Any, value: float) -> None:
        tensor[1, 2, 3] = value
        with pytest.raises(ValueError, match="NaN or infinity"):
            Device(send(tensor))

    @pytest.mark.parametrize(("shape", "says"), [((3,), "order 1"), ((3, 0), "empty")])
    def test_shapes_refused(self, send: Any, shape: tuple[int, ...], says: str) -> None:
        with pytest.raises(ValueError, match=says):
            Device(send(np.ones(shape)))

    def test_other_objects_are_refused(self) -> None:
        class Foreign:
            shape, dtype, device = (2, 2), np.dtype(float), "cpu"

        with pytest.raises(TypeError, match="not an array on a device"):
            Device([[1.0, 2.0]])
        with pytest.raises(TypeError, match="__array_namespace__"):
            Device(Foreign())

    def test_repr_names_library_and_device(self) -> None:
        assert "array_api_strict" in repr(Device(array_api_strict.ones((2, 3))))


class TestCuPy:
    """CuPy itself needs a GPU: a stand-in whose arrays cannot be read but by its own functions."""

    @pytest.mark.parametrize("case", SOLVED, ids=str)
    @pytest.mark.parametrize("constraint", [None, tc.Penalty(0.1)])
    def test_sweeps(self, case: Case, constraint: Any) -> None:
        options = {"solver": tc.ALS(max_iter=5), "constraint": constraint, "rng": 0}
        host = tc.decompose(case.tensor(), case.kind, case.rank, **options)
        with installed() as cupy:
            array = cupy.asarray(case.tensor())
            with pytest.raises(TypeError, match=r"\.get\(\)"):
                np.asarray(array)
            fit = tc.decompose(array, case.kind, case.rank, **options)
            assert "cupy on <CUDA Device 0>" in repr(tc.Device(array))
        assert fit.error == pytest.approx(host.error, rel=1e-8)

    def test_the_default(self) -> None:
        tensor = tc.datasets.inverse_radius(order=3, size=8)
        with installed() as cupy:
            fit = tc.decompose(cupy.asarray(tensor), "tc", 2, rng=0)
        assert fit.error == pytest.approx(tc.decompose(tensor, "tc", 2, rng=0).error, rel=1e-8)


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs JAX")
class TestJAX:
    @pytest.mark.parametrize("wide", [True, False])
    def test_sweeps(self, tensor: Any, wide: bool) -> None:
        import jax

        before = jax.config.jax_enable_x64
        jax.config.update("jax_enable_x64", wide)
        try:
            source = Device(jax.numpy.asarray(tensor))
            assert source.dtype == (np.float64 if wide else np.float32)
            assert ("no double precision" in repr(source)) is not wide
            fit = tc.decompose(source, "cp", 2, solver=tc.ALS(max_iter=4), rng=0)
        finally:
            jax.config.update("jax_enable_x64", before)
        host = tc.decompose(tensor, "cp", 2, solver=tc.ALS(max_iter=4), rng=0)
        assert fit.error == pytest.approx(host.error, rel=1e-9 if wide else 1e-4)
