"""Settings for all tests."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator
from importlib.util import find_spec

import pytest
from hypothesis import settings

# A first call may compile, so no example is timed.  In CI the examples are the same on every run; elsewhere they are
# drawn anew each time, so that few of them come to many.
settings.register_profile("tensorchain", deadline=None, max_examples=25, derandomize="CI" in os.environ)
settings.register_profile("thorough", deadline=None, max_examples=3000)
settings.load_profile("tensorchain")

# A shell starts background jobs with interrupts ignored, and Python then installs no handler; tests press Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Eleven thousand tests are made of a million objects that stay: the garbage collector need not look at them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


NEEDS = {
    "test_docs.py": ("sphinx", "torch", "tensorly", "pyttb"),
    "test_interop.py": ("torch", "tensorly", "pyttb", "quimb", "opt_einsum"),
    "test_network_figures.py": ("torch", "onnx", "onnxruntime", "safetensors"),
    "test_notebooks.py": ("nbclient", "torch", "sklearn", "tensorly", "dask"),
    "test_readme.py": ("torch",),
}
"""Tests of an extra belong to installations that have it."""

collect_ignore = [name for name, modules in NEEDS.items() if any(find_spec(module) is None for module in modules)]
