"""The tensors that several figures share, by name.

Measured data come from packages of the extra `figures`, trained kernels from the weights that the benchmarks ship;
what is missing is left out of a figure, and its caption lists what is there.
"""

from __future__ import annotations

import hashlib
import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import tensorchain as tc
from paper_figures.results import Settings

WEIGHTS = Path(__file__).parents[1] / "benchmarks/networks/weights/resnet18-w16-fashion-mnist-seed0.safetensors"
KERNELS = {"quick": "layer1.0.conv2.weight", "full": "layer2.0.conv2.weight"}


def load(name: str, settings: Settings) -> np.ndarray:
    """A tensor by name, in the size of the settings.

    Parameters
    ----------
    name : "border tensor", "photograph", "flower" (another photograph), "sampled function", "fluorescence", or
        "trained kernel".
    """
    if name == "border tensor":
        sizes = (9, 9, 9) if settings.full else (7, 7, 7)
        return tc.datasets.border_chain(sizes, (3, 3, 3), np.random.default_rng(settings.seed)).tensor
    if name in ("photograph", "flower"):
        picture = "flower" if name == "flower" else "china"
        return tc.datasets.photograph(picture, (4, 4, 4, 4) if settings.full else (3, 3, 3))
    if name == "sampled function":
        return tc.datasets.inverse_radius(*((5, 10) if settings.full else (4, 8)))
    if name == "fluorescence":
        steps = (1, 1, 1, 1) if settings.full else (4, 1, 1, 5)
        return tc.datasets.fluorescence("fill")[tuple(slice(None, None, step) for step in steps)].copy()
    if name == "trained kernel":
        return kernel(WEIGHTS, KERNELS["full" if settings.full else "quick"])
    raise ValueError(f"{name!r} was asked for; it is not among the tensors of this module")


def available(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `names` whose data are there."""
    pictures = ("sklearn", "PIL")
    needed = {"photograph": pictures, "flower": pictures, "fluorescence": ("tensorly",)}
    needed["trained kernel"] = ("safetensors",)
    packages = [name for name in names if all(find_spec(package) is not None for package in needed.get(name, ()))]
    return tuple(name for name in packages if name != "trained kernel" or WEIGHTS.exists())


def fingerprint() -> str:
    """Of the trained weights: numbers measured with others are not kept.  Empty where there are none."""
    return hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()[:16] if WEIGHTS.exists() else ""


@cache
def kernel(path: Path, name: str) -> np.ndarray:
    """A convolution kernel (T, S, D, D) from a safetensors file, as (S, D^2, T) in double precision."""
    from safetensors.numpy import load_file

    weights = load_file(path)
    if name not in weights or weights[name].ndim != 4:
        known = ", ".join(key for key, value in weights.items() if value.ndim == 4)
        raise KeyError(f"{path.name} has no convolution {name!r}; it has {known}")
    out, into, height, width = weights[name].shape
    folded = weights[name].reshape(out, into, math.prod((height, width))).transpose(1, 2, 0)
    return np.ascontiguousarray(folded, dtype=np.float64)
