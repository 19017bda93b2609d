"""Settings for all tests."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator
from importlib.util import find_spec
from typing import Any

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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of tests that combine parameters, every second combination is slow: each value meets half of those of another.

    A list of pairs is one parameter, and stays whole, as do the lists of `combined` and what has marks of its own.
    """
    families: dict[str, list[pytest.Item]] = {}
    for item in items:
        families.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for family in families.values():
        # The place of a value in its list is that of its first appearance.
        lists: dict[str, dict[Any, int]] = {}
        places = []
        for item in family:
            known = [(lists.setdefault(name, {}), value) for name, value in parameters(item).items()]
            places.append(sum(numbers.setdefault(value, len(numbers)) for numbers, value in known))
        crossed = sum(len(numbers) > 1 for numbers in lists.values()) > 1
        if crossed and not any(item.get_closest_marker("slow") for item in family):
            for item, place in zip(family, places, strict=True):
                if place % 2:
                    item.add_marker(pytest.mark.slow)


def parameters(item: Any) -> dict[str, tuple[int, ...]]:
    """What tells each parameter of a test from the others of its list; names that are set together are one."""
    if not hasattr(item, "callspec"):
        return {}
    left = {name: (id(value),) for name, value in item.callspec.params.items()}
    for mark in item.iter_markers("parametrize"):
        first, *others = mark.args[0].replace(",", " ").split() if isinstance(mark.args[0], str) else mark.args[0]
        for name in others:
            left[first] += left.pop(name)
    return left


NEEDS = {
    "test_docs.py": ("sphinx", "torch", "tensorly", "pyttb"),
    "test_interop.py": ("torch", "tensorly", "pyttb", "quimb", "opt_einsum"),
    "test_network_figures.py": ("torch", "onnx", "onnxruntime", "safetensors"),
    "test_notebooks.py": ("nbclient", "torch", "sklearn", "tensorly", "dask"),
    "test_readme.py": ("torch",),
}
"""Tests of an extra belong to installations that have it."""

collect_ignore = [name for name, modules in NEEDS.items() if any(find_spec(module) is None for module in modules)]
