"""Settings for all tests."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec

from hypothesis import settings

# A first call may compile, so no example is timed.  In CI the examples are the same on every run; elsewhere they are
# drawn anew each time, so that few of them come to many.
settings.register_profile("tensorchain", deadline=None, max_examples=25, derandomize="CI" in os.environ)
settings.register_profile("thorough", deadline=None, max_examples=3000)
settings.load_profile("tensorchain")

# A shell starts background jobs with interrupts ignored, and Python then installs no handler; tests press Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

NEEDS = {
    "test_docs.py": ("sphinx", "torch", "tensorly", "pyttb"),
    "test_interop.py": ("torch", "tensorly", "pyttb", "quimb", "opt_einsum"),
    "test_network_figures.py": ("torch", "onnx", "onnxruntime", "safetensors"),
    "test_notebooks.py": ("nbclient", "torch", "sklearn", "tensorly", "dask"),
    "test_readme.py": ("torch",),
}
"""Tests of an extra belong to installations that have it."""

collect_ignore = [name for name, modules in NEEDS.items() if any(find_spec(module) is None for module in modules)]
