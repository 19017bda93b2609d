"""Tests of an adapter belong to installations that have its library; see the extras of the package."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

NEEDS = {
    "test_budgets.py": ("torch",),
    "test_digits.py": ("torch", "onnx", "onnxruntime", "sklearn"),
    "test_onnx_channels.py": ("onnx", "onnxruntime"),
    "test_held_out.py": ("onnx", "onnxruntime"),
    "test_latency.py": ("onnx", "onnxruntime"),
    "test_layer_bits.py": ("torch",),
    "test_network_study.py": ("torch", "safetensors", "sklearn", "onnxruntime"),
    "test_networks.py": ("torch", "safetensors", "PIL", "sklearn"),
    "test_onnx.py": ("onnx", "onnxruntime"),
    "test_onnx_command.py": ("onnx", "onnxruntime"),
    "test_onnx_refit.py": ("onnx", "onnxruntime"),
    "test_onnx_shipped.py": ("onnx", "onnxruntime"),
    "test_steps.py": ("torch", "safetensors"),
    "test_torch.py": ("torch",),
    "test_torch_layers.py": ("torch",),
    "test_torch_kinds.py": ("torch",),
    "test_torch_refit.py": ("torch",),
}

collect_ignore = [name for name, modules in NEEDS.items() if any(find_spec(module) is None for module in modules)]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one thread, from the same random numbers."""
    import torch

    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
