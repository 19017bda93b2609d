"""What an error of one layer alone does to the outputs of an ONNX model: measured, layer by layer.

Every channel t of a layer's output is moved by +-e of its deviation from its mean, the signs drawn at random,

    y_t + e s_t (y_t - mean y_t),        which is W_t (1 + e s_t) and b_t (1 + e s_t) - e s_t mean y_t,

an error of relative size e; the gain is the relative error of the model's outputs over e, channel by channel
(`onnx_trial.error_of_outputs`).  Most layers of a network have gains of about 1; that of a gate which hardly moves can
be a hundredth, that of a last layer whose outputs share a shift, which a softmax does not see, above 2.

Squared errors are weighted by the gains themselves where ranks, or channels, are chosen, and not by their squares: the
layers behind are fitted again and take back a part (:mod:`tensorchain.compression.torch_gains`).

Cost: a run of the model on a few inputs for each layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tensorchain.compression.conv import LayerPlan
from tensorchain.compression.onnx_calibration import Feeds
from tensorchain.compression.onnx_layers import OnnxLayer, as_images
from tensorchain.compression.onnx_nodes import stored_arrays
from tensorchain.compression.onnx_refit import dense_plan
from tensorchain.compression.onnx_rewriting import rewrite
from tensorchain.compression.onnx_session import OnnxSession, onnx_package
from tensorchain.compression.onnx_trial import error_of_outputs
from tensorchain.kernels import Array

_STEP, _FEEDS = 0.2, 2
"""Relative size of the error, and feeds of which the outputs are compared."""
_LEAST = 1e-3
"""Least gain, relative to the median of those above 0."""


def gains_of(proto: Any, layers: Sequence[OnnxLayer], feeds: Feeds) -> dict[str, float]:
    """The gain of each layer, by name; none where no output is a number that answers.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model.
    layers : sequence of OnnxLayer
        Those that are moved.
    feeds : Feeds
        Calibration inputs, of which the first are used.
    """
    model = onnx_package().ModelProto()
    model.CopyFrom(proto)
    plans = {layer.site.name: _with_bias(layer) for layer in layers}
    names = {name: pairs[0] for name, pairs in rewrite(model, layers, plans).items()}
    few = list(itertools.islice(iter(feeds), _FEEDS))
    before = OnnxSession(proto, [layer.output for layer in layers])
    after = OnnxSession(model, open_constants=[name for pair in names.values() for name in pair])
    wanted = [before.run(feed) for feed in few]
    means = _means(before, layers, few)
    rng = np.random.default_rng(0)
    found = {}
    for layer in layers:
        name = layer.site.name
        signs = _STEP * rng.choice([-1.0, 1.0], len(means[name]))
        step = plans[name].convolutions[0]
        scale = (1.0 + signs).reshape(-1, *[1] * (step.weight.ndim - 1))
        bias = 0.0 if step.bias is None else step.bias * (1.0 + signs)
        moved = replace(step, weight=step.weight * scale, bias=np.asarray(bias - signs * means[name]))
        fed = dict(zip(names[name], stored_arrays(moved, layer.kind, layer.dtype), strict=True))
        found[name] = error_of_outputs(wanted, [after.run({**feed, **fed}) for feed in few]) / _STEP
    answering = [gain for gain in found.values() if gain > 0.0]
    # A layer that does nothing on a few inputs may do something on others.
    least = _LEAST * float(np.median(answering)) if answering else 0.0
    return {name: max(gain, least) for name, gain in found.items()} if answering else {}


def _with_bias(layer: OnnxLayer) -> LayerPlan:
    plan = dense_plan(layer)
    step = plan.convolutions[0]
    bias = np.zeros(len(step.weight), step.weight.dtype) if step.bias is None else step.bias
    return replace(plan, steps=(replace(step, bias=bias),))


def _means(session: OnnxSession, layers: Sequence[OnnxLayer], feeds: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Of the outputs of layers, by channel."""
    sums: dict[str, list[Array]] = {layer.site.name: [] for layer in layers}
    for feed in feeds:
        values = session.run(feed, [layer.output for layer in layers])
        for layer in layers:
            images = as_images(layer.kind, values[layer.output])
            sums[layer.site.name].append(images.swapaxes(0, 1).reshape(images.shape[1], -1).mean(1, dtype=np.float64))
    return {name: np.mean(rows, axis=0) for name, rows in sums.items()}
