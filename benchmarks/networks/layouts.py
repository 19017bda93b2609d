"""Networks that others trained, without their weights: the shapes of all arrays, read off a few numbers.

What depends on shapes alone, such as the size of a file and the time of a run, needs no weights and no PyTorch.

Reference: He, Zhang, Ren, Sun, "Deep residual learning for image recognition" (2015).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.networks.stored import Stored

SIDE = 32
"""Height and width of the images."""
_COMMON = {"stem": "cifar", "channels": 3, "classes": 10}
LAYOUTS: dict[str, dict[str, Any]] = {
    "resnet20-cifar10": {"network": "resnet20", "blocks": (3, 3, 3), "width": 16, "shortcut": "zeros", **_COMMON},
    "resnet56-cifar10": {"network": "resnet56", "blocks": (9, 9, 9), "width": 16, "shortcut": "zeros", **_COMMON},
    "resnet18-w64-cifar10-jpeg": {
        "network": "resnet18", "blocks": (2, 2, 2, 2), "width": 64, "shortcut": "convolution", **_COMMON,
    },
}  # fmt: skip
"""Blocks of each stage, channels of the first, and what a shortcut does where their number changes."""


def blank(layout: Mapping[str, Any]) -> Stored:
    """A network of this layout in which every number is zero.

    Shortcuts of "zeros" take every second pixel and add channels of zeros on either side, without weights.
    """
    width = layout["width"]
    state = {**_convolution("conv1", width, layout["channels"], 3), **_normalisation("bn1", width)}
    inputs = width
    for stage, count in enumerate(layout["blocks"]):
        outputs = width << stage
        for block in range(count):
            name = f"layer{stage + 1}.{block}"
            for k, seen in ((1, inputs), (2, outputs)):
                state |= _convolution(f"{name}.conv{k}", outputs, seen, 3)
                state |= _normalisation(f"{name}.bn{k}", outputs)
            if inputs != outputs and layout["shortcut"] == "convolution":
                state |= _convolution(f"{name}.downsample.0", outputs, inputs, 1)
                state |= _normalisation(f"{name}.downsample.1", outputs)
            inputs = outputs
    state |= {"fc.weight": np.zeros((layout["classes"], inputs), np.float32)}
    state |= {"fc.bias": np.zeros(layout["classes"], np.float32)}
    return Stored(dict(layout), state)


def _convolution(name: str, outputs: int, inputs: int, taps: int) -> dict[str, np.ndarray]:
    return {f"{name}.weight": np.zeros((outputs, inputs, taps, taps), np.float32)}


def _normalisation(name: str, channels: int) -> dict[str, np.ndarray]:
    return {
        f"{name}.{part}": np.zeros(channels, np.float32) for part in ("weight", "bias", "running_mean", "running_var")
    }
