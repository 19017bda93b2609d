"""Models as PyTorch modules: against the models themselves, and their gradients against closed forms."""

from __future__ import annotations

import importlib.util
import io
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tests.cases import SMALL, THREE, Case, relative

if importlib.util.find_spec("torch") is None:
    pytest.skip("needs PyTorch", allow_module_level=True)

import torch

CASES = [*SMALL, *(case.as_type("float32") for case in THREE)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small products take longer on several threads, much longer where these have to wait for a core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def positions(shape: tuple[int, ...], count: int = 7) -> Any:
    rng = np.random.default_rng(1)
    return np.stack([rng.integers(size, size=count) for size in shape], axis=1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_sensitivity_are_those_of_the_model(case: Case) -> None:
    model = case.model()
    module = tc.torch.as_module(model)
    where = positions(model.shape)
    assert [tuple(block.shape) for block in module.blocks] == [block.shape for block in model.blocks]
    with torch.no_grad():
        assert relative(module().numpy(), model.full()) < case.tol
        assert relative(module(where).numpy(), model.full()[tuple(where.T)]) < case.tol
        assert module(where.reshape(7, 1, -1)).shape == (7, 1)
        assert module.sensitivity().item() == pytest.approx(model.sensitivity(), rel=case.tol)
        relative_value = module.sensitivity(relative=True).item()
    assert relative_value == pytest.approx(model.sensitivity(relative=True), rel=10 * case.tol)
    back = module.model()
    assert type(back) is type(model)
    assert back.network == model.network
    assert relative(back.full(), model.full()) < case.tol


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_gradient_of_the_sensitivity_is_the_closed_form(case: Case) -> None:
    model = case.model()
    module = tc.torch.as_module(model)
    module.sensitivity().backward()
    for block, gradient in zip(module.blocks, tc.sensitivity_gradient(model), strict=True):
        assert relative(block.grad.numpy(), gradient) < 10 * case.tol


@pytest.mark.parametrize("case", THREE, ids=str)
def test_gradients_of_values_by_differences(case: Case) -> None:
    model, step = case.model(), 1e-6
    module = tc.torch.as_module(model)
    rng = np.random.default_rng(0)
    weights, where = rng.standard_normal(model.shape), positions(model.shape)
    loss = (module() * torch.from_numpy(weights)).sum() + module(where).sum() + 0.3 * module.sensitivity(relative=True)
    loss.backward()

    def value(moved: Any) -> float:
        whole = moved.full()
        total = float(np.sum(whole * weights) + np.sum(whole[tuple(where.T)]))
        return total + 0.3 * moved.sensitivity(relative=True)

    for k, block in enumerate(module.blocks):
        direction = rng.standard_normal(model.matrices[k].shape)
        slope = [value(model.with_matrix(k, model.matrices[k] + s * step * direction)) for s in (1.0, -1.0)]
        along = np.vdot(model._to_matrix(k, block.grad.numpy()), direction)
        assert along == pytest.approx((slope[0] - slope[1]) / (2 * step), rel=1e-6, abs=1e-6)


def test_it_trains_with_the_sensitivity_held_down() -> None:
    tensor = torch.from_numpy(tc.datasets.inverse_radius(order=3, size=6))
    start = tc.TensorChain.random((6, 6, 6), 2, rng=0)
    found = []
    for weight in (0.0, 0.1):
        module, first = tc.torch.as_module(start), None
        for _ in range(60):
            loss = (module() - tensor).square().sum()
            first = first or loss.item()
            gradients = torch.autograd.grad(loss + weight * module.sensitivity(), list(module.parameters()))
            with torch.no_grad():
                for block, gradient in zip(module.parameters(), gradients, strict=True):
                    block -= 1e-3 * gradient
        assert loss.item() < 0.1 * first
        found.append(module.model().sensitivity())
    assert found[1] < 0.5 * found[0]


def test_it_is_a_module_like_others() -> None:
    fit = tc.decompose(tc.datasets.inverse_radius(order=3, size=6), "cp", 2, rng=0)
    module = tc.torch.as_module(fit, dtype=torch.float32)
    assert repr(fit.model.rank) in repr(module)
    twin = tc.torch.as_module(tc.CP.random((6, 6, 6), 2, rng=1), dtype=torch.float32)
    twin.load_state_dict(module.state_dict())
    assert torch.equal(twin(), module())
    assert torch.equal(pickle.loads(pickle.dumps(module))(), module())
    half = tc.torch.as_module(fit.model, dtype=torch.bfloat16)
    assert half.sensitivity().item() == pytest.approx(fit.model.sensitivity(), rel=0.05)
    assert half.model().shape == (6, 6, 6)


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs ONNX Runtime")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", [case.as_type("float32") for case in THREE], ids=str)
def test_entries_are_exported_to_onnx(case: Case) -> None:
    import onnxruntime

    model, file = case.model(), io.BytesIO()
    torch.onnx.export(
        tc.torch.as_module(model), (torch.from_numpy(positions(model.shape, 2)),), file, dynamo=False,
        input_names=["indices"], output_names=["entries"], dynamic_axes={"indices": {0: "n"}, "entries": {0: "n"}},
    )  # fmt: skip
    where = positions(model.shape, 9)
    (entries,) = onnxruntime.InferenceSession(file.getvalue()).run(None, {"indices": where})
    assert relative(entries, model.full()[tuple(where.T)]) < case.tol


@pytest.mark.parametrize("where", [[[0.5, 0, 0]], [[0, 0]], [0, 0, 0, 0]])
def test_indices_that_are_none(where: Any) -> None:
    module = tc.torch.as_module(tc.CP.random((4, 5, 6), 2, rng=0))
    with pytest.raises(ValueError, match="integers of shape"):
        module(torch.tensor(where))


def test_what_is_no_model() -> None:
    with pytest.raises(TypeError, match="as_module"):
        tc.torch.as_module(np.ones((3, 3)))  # type: ignore[arg-type]


def test_without_pytorch() -> None:
    """The package is imported without it, and the error names the extra."""
    code = (
        "import sys; sys.modules['torch'] = None; import tensorchain as tc\n"
        "model = tc.CP.random((3, 3, 3), 2, rng=0)\n"
        "try:\n    tc.torch.as_module(model)\nexcept ImportError as error:\n    print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install tensorchain[torch]" in said
