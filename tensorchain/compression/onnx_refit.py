"""Fit the replaced layers of an ONNX model again, to what the original network gives, in the order of execution.

Each layer is fitted from the values that reach it in the *compressed* network to the outputs that the original layer
gave on the same calibration inputs (:mod:`tensorchain.compression.refit`), so that it repairs what the layers before it
have changed; layers that were not replaced too, where one before them was.  Layers that do not depend on each other are
fitted in one pass over the inputs.

Two sessions of ONNX Runtime serve all passes: the original's, and the compressed one's, whose weights are fed anew.
The original runs once for as many levels as the samples of its outputs fit into `_SAMPLES` numbers, the compressed one
once for each level, but only the part up to it.  Memory: these samples, and the moments of the layers of a level.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from tensorchain.compression.conv import Convolution, LayerPlan
from tensorchain.compression.groups import error_of_groups, joined, split
from tensorchain.compression.held_out import Halves, refit_held_out
from tensorchain.compression.onnx_calibration import (
    Feeds,
    in_groups,
    most_samples,
    patch_size,
    sampled,
    sampled_outputs,
)
from tensorchain.compression.onnx_layers import OnnxLayer
from tensorchain.compression.onnx_nodes import stored_arrays
from tensorchain.compression.onnx_reading import node_reads
from tensorchain.compression.onnx_session import OnnxSession, onnx_package
from tensorchain.compression.onnx_trial import error_of_outputs
from tensorchain.kernels import Array

MOST_INPUTS = 6000
"""Longest patch whose layer is refitted: its moments take 8 p^2 bytes, 290 MB."""


_JUDGES = 3
"""Feeds by whose outputs layers are judged that need not be fitted."""
_SAMPLES = 1 << 26
"""Most numbers of the original's outputs, sampled or of one feed, that are held at once: 256 MB."""


def behind(graph: Any, changed: Sequence[OnnxLayer], others: Sequence[OnnxLayer]) -> list[OnnxLayer]:
    """Those of the other layers whose input depends on a layer that was changed."""
    nodes = {layer.node for layer in changed}
    touched: set[str] = set()
    for index, node in enumerate(graph.node):
        if index in nodes or any(name in touched for name in node_reads(node)):
            touched.update(node.output)
    return [layer for layer in others if layer.source in touched]


def dense_plan(layer: OnnxLayer) -> LayerPlan:
    """A layer that was not replaced as a plan of one convolution."""
    site = layer.site
    return LayerPlan("dense", None, (Convolution(site.kernel, site.geometry, site.groups, site.bias),))


def levels_of(graph: Any, layers: Sequence[OnnxLayer]) -> list[list[OnnxLayer]]:
    """Layers in the order of execution, together where none depends on another."""
    by_node = {layer.node: layer for layer in layers}
    depth: dict[str, int] = {}
    found: dict[int, list[OnnxLayer]] = {}
    for index, node in enumerate(graph.node):
        level = max((depth.get(name, 0) for name in node_reads(node)), default=0)
        if index in by_node:
            level += 1
            found.setdefault(level, []).append(by_node[index])
        depth.update((name, level) for name in node.output)
    return [found[level] for level in sorted(found)]


def refit_onnx(
    original: Any,
    small: Any,
    layers: Sequence[OnnxLayer],
    plans: Mapping[str, LayerPlan],
    weights: Mapping[str, Sequence[tuple[str, str]]],
    feeds: Feeds,
    *,
    must: Collection[str] | None = None,
) -> tuple[dict[str, LayerPlan], dict[str, float]]:
    """Plans with weights that bring the layers' outputs back, and the relative errors of these outputs.

    Parameters
    ----------
    original, small : torch.nn.Module or object
        The models before and after; `small` gets the new weights.
    layers : sequence of OnnxLayer
        Those that are fitted; narrow ones to the rows of the original's output that they still write.
    plans : mapping of str to LayerPlan
        By name of the layer; a bias stays where there is one, and only there.
    weights : mapping of str to sequence of tuple of (str, str)
        By name, for each convolution of the plan the names of its weight and bias in `small`.
    feeds : Feeds
        Calibration inputs.
    must : collection of str, optional
        Names of the layers that are changed; all by default.  Others are fitted only where that brings the outputs of
        the model nearer to the original's, on inputs that the fit has not seen.
    """
    opened = [name for rows in weights.values() for pair in rows for name in pair if name]
    before = OnnxSession(original, [layer.output for layer in layers])
    after = OnnxSession(small, [layer.source for layer in layers], open_constants=opened)
    count = sum(1 for _ in feeds)
    new, errors = dict(plans), {}
    fed: dict[str, Array] = {}
    number = {layer.site.name: k for k, layer in enumerate(layers)}
    levels = levels_of(original.graph, layers)
    goals: dict[tuple[str, int], Array] = {}
    judge = Judge.of(before, feeds, count)
    for at, level in enumerate(levels):
        if (level[0].site.name, 0) not in goals:
            goals = _goals(before, levels[at:], number, feeds, count)
        moments = {
            layer.site.name: [Halves(patch_size(layer.site), len(part)) for part in layer.site.parts] for layer in level
        }
        for turn, feed in enumerate(feeds):
            given = after.run({**feed, **fed}, [layer.source for layer in level])
            for layer in level:
                name = layer.site.name
                patches = sampled(layer, np.random.default_rng((number[name], turn)), count, given[layer.source])[0]
                groups = [in_groups(part, layer.site.groups) for part in (patches, goals.pop((name, turn)))]
                for own, inputs, targets in zip(moments[name], *groups, strict=True):
                    own.add(inputs, targets, turn=turn, turns=count)
        for layer in level:
            name, sums = layer.site.name, moments[layer.site.name]
            old = plans[name].convolutions[-1].bias
            parts = list(zip(split(plans[name], layer.site.groups), layer.site.parts, sums, strict=True))
            both = [refit_held_out(*part, with_bias=old is not None) for part in parts]
            fitted = [whole for whole, _ in both]
            if must is None or name in must:
                judge.passed()
            elif not judge.better(after, fed, _arrays(layer, joined([half for _, half in both]), weights[name])):
                fitted = [plan for plan, *_ in parts]
            new[name], errors[name] = joined(fitted), error_of_groups(fitted, [one.whole for one in sums])
            fed.update(_arrays(layer, new[name], weights[name]))
    _store(small, fed)
    return new, errors


class Judge:
    """The error of the outputs of a model that is being fitted, on inputs that the fits do not see.

    Parameters
    ----------
    feeds : list of dict
        Of the second half of the inputs.
    wanted : list of dict
        The outputs of the original.
    """

    def __init__(self, feeds: list[dict[str, Array]], wanted: list[dict[str, Any]]) -> None:
        self.feeds, self.wanted = feeds, wanted
        self.error: float | None = None

    @classmethod
    def of(cls, original: OnnxSession, feeds: Feeds, count: int) -> Judge:
        """With the first feeds of the second half, or the only one."""
        few = [dict(feed) for turn, feed in enumerate(feeds) if turn % 2 or count == 1][:_JUDGES]
        return cls(few, [original.run(feed, original.outputs) for feed in few])

    def passed(self) -> None:
        """A layer was fitted whatever the outputs say: the error is to be measured again."""
        self.error = None

    def better(self, session: OnnxSession, fed: Mapping[str, Array], new: Mapping[str, Array]) -> bool:
        """Whether the outputs come nearer with new weights beside those that are fed."""
        if self.error is None:
            self.error = self.measured(session, fed)
        error = self.measured(session, {**fed, **new})
        if not error < self.error:
            return False
        self.error = error
        return True

    def measured(self, session: OnnxSession, fed: Mapping[str, Array]) -> float:
        """The error of the outputs with weights that are fed."""
        found = [session.run({**feed, **fed}, session.outputs) for feed in self.feeds]
        return error_of_outputs(self.wanted, found)


def _goals(
    session: OnnxSession, levels: Sequence[Sequence[OnnxLayer]], number: Mapping[str, int], feeds: Feeds, count: int
) -> dict[tuple[str, int], Array]:
    """Samples of the original's outputs, by name of the layer and number of the feed; of the next levels that fit."""
    batch = max((len(value) for value in next(iter(feeds)).values() if np.ndim(value)), default=1)
    chosen, held, whole = list[OnnxLayer](), 0, 0
    for level in levels:
        for layer in level:
            site = layer.site
            entries = len(site.kernel) * int(np.prod(site.geometry.output_size(site.kernel.shape[2:], site.image)))
            whole += batch * site.uses * entries
            held += min(most_samples(site) * len(site.kernel), count * batch * site.uses * entries)
        if chosen and max(held, whole) > _SAMPLES:
            break
        chosen += level
    outputs = [layer.output for layer in chosen]
    found: dict[tuple[str, int], Array] = {}
    for turn, feed in enumerate(feeds):
        values = session.run(feed, outputs)
        for layer in chosen:
            rng = np.random.default_rng((number[layer.site.name], turn))
            rows = sampled_outputs(layer, rng, count, values[layer.output])
            found[layer.site.name, turn] = rows if layer.rows is None else rows[:, layer.rows]
    return found


def _arrays(layer: OnnxLayer, plan: LayerPlan, names: Sequence[tuple[str, str]]) -> dict[str, Array]:
    """The weights of a plan by their names in the model."""
    found: dict[str, Array] = {}
    for convolution, (weight, bias) in zip(plan.convolutions, names, strict=True):
        arrays = stored_arrays(convolution, layer.kind, layer.dtype)
        found.update(
            (name, array) for name, array in zip((weight, bias), arrays, strict=True) if name and array is not None
        )
    return found


def _store(small: Any, arrays: Mapping[str, Array]) -> None:
    onnx = onnx_package()
    for tensor in small.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(onnx.numpy_helper.from_array(arrays[tensor.name], tensor.name))
