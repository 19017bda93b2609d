"""What one would do by hand: every layer gets the same share, by its SVD or its Tucker-2 decomposition.

- SVD: the kernel as a matrix (T, S D) becomes a convolution from S to r channels and a 1 x 1 convolution to T; a
  matrix becomes two.
- Tucker-2: leading singular vectors of both modes of channels, a = y S and b = y T; matrices by SVD.

The common share is found by bisection, so that the whole network has the multiplications that were asked for.  No
calibration inputs, no choice between layers, nothing is refitted: the baseline that a method has to beat.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorchain.compression import Convolution, Geometry, LayerPlan, fit_kernel
from tensorchain.compression.onnx_layers import OnnxLayer, layers_of
from tensorchain.compression.onnx_rewriting import rewritten
from tensorchain.compression.request import Request

Array = NDArray[Any]


def by_hand(model: Any, method: str, share: float, feed: dict[str, Array]) -> tuple[Any, tuple[int, int]]:
    """The model with equal shares of all its layers, and its multiplications before and after."""
    layers = layers_of(model, {}, feed)
    request = Request("tucker2", keep_macs=share)
    movable = [layer for layer in layers if layer.site.groups == 1 and not request.refusal(layer.site)]
    whole = sum(layer.site.macs for layer in layers)
    stay = whole - sum(layer.site.macs for layer in movable)
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2.0
        cost = stay + sum(_cost(layer, _ranks(layer, method, middle)) for layer in movable)
        low, high = (middle, high) if cost <= share * whole else (low, middle)
    ranks = {layer.site.name: _ranks(layer, method, low) for layer in movable}
    changed = [layer for layer in movable if _cost(layer, ranks[layer.site.name]) < layer.site.macs]
    plans = {layer.site.name: _plan(layer, ranks[layer.site.name]) for layer in changed}
    count = stay + sum(_cost(layer, ranks[layer.site.name]) for layer in movable)
    return rewritten(model, changed, plans), (whole, count)


def _ranks(layer: OnnxLayer, method: str, share: float) -> tuple[int, ...]:
    """Ranks at which a layer has about `share` of its multiplications."""
    outputs, inputs, *window = layer.site.kernel.shape
    taps = math.prod(window)
    if method == "svd" or taps == 1:
        return (max(1, math.floor(share * outputs * inputs * taps / (inputs * taps + outputs))),)
    linear, square = inputs**2 + outputs**2, inputs * outputs * taps
    y = 2.0 * share * square / (linear + math.sqrt(linear**2 + 4.0 * share * square**2))
    return max(1, math.floor(y * inputs)), max(1, math.floor(y * outputs))


def _blank(layer: OnnxLayer, ranks: tuple[int, ...]) -> LayerPlan:
    """The plan without values."""
    outputs, inputs, *window = layer.site.kernel.shape
    shapes = [(ranks[0], inputs, *window), (outputs, ranks[-1], *[1] * len(window))]
    if len(ranks) == 2:
        shapes = [(ranks[0], inputs, *[1] * len(window)), (ranks[1], ranks[0], *window), shapes[1]]
    trivial = Geometry.trivial(len(window))
    at = [trivial] * len(shapes)
    at[-2] = layer.site.geometry
    steps = tuple(Convolution(np.zeros(shape), here) for shape, here in zip(shapes, at, strict=True))
    return LayerPlan("tucker2" if len(ranks) == 2 else "svd", ranks, steps)


def _cost(layer: OnnxLayer, ranks: tuple[int, ...]) -> int:
    """Multiplications at given ranks; those of the dense layer where they are fewer."""
    return min(_blank(layer, ranks).macs(layer.site.image) * layer.site.uses, layer.site.macs)


def _plan(layer: OnnxLayer, ranks: tuple[int, ...]) -> LayerPlan:
    site = layer.site
    if len(ranks) == 2:
        return fit_kernel(
            site.kernel, "tucker2", ranks, stabilise=False, geometry=site.geometry, bias=site.bias, rng=0
        ).plan
    u, s, v = np.linalg.svd(site.kernel.reshape(len(site.kernel), -1).astype(np.float64), full_matrices=False)
    root = np.sqrt(s[: ranks[0]])
    values = (root[:, None] * v[: ranks[0]], u[:, : ranks[0]] * root)
    blank = _blank(layer, ranks)
    steps = tuple(
        Convolution(value.reshape(step.weight.shape).astype(site.kernel.dtype), step.geometry, bias=bias)
        for step, value, bias in zip(blank.convolutions, values, (None, site.bias), strict=True)
    )
    return LayerPlan("svd", ranks[0], steps)
