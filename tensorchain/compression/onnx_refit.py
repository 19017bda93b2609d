"""Fit the replaced layers of an ONNX model again, to what the original network gives, in the order of execution.

Each layer is fitted from the values that reach it in the *compressed* network to the outputs that the original layer
gave on the same calibration inputs (:mod:`tensorchain.compression.refit`), so that it repairs what the layers before it
have changed; layers that were not replaced too, where one before them was.  Layers that do not depend on each other are
fitted in one pass over the inputs.  Of outputs that a node behind the layer cuts in both networks nothing is asked
(:mod:`tensorchain.compression.cuts`).

Two sessions of ONNX Runtime serve all passes: the original's, and the compressed one's, whose weights are fed anew.
The original runs once for as many levels as the samples of its outputs fit into `_SAMPLES` numbers, the compressed one
once for each level, but only the part up to it.  Memory: these samples, and the moments of the layers of a level.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorchain.compression.conv import Convolution, LayerPlan
from tensorchain.compression.cuts import FITS
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
from tensorchain.compression.onnx_cuts import CutRows, OnnxCut, cuts_of, sides
from tensorchain.compression.onnx_layers import OnnxLayer
from tensorchain.compression.onnx_nodes import stored_arrays
from tensorchain.compression.onnx_reading import node_reads
from tensorchain.compression.onnx_session import OnnxSession, onnx_package
from tensorchain.compression.onnx_trial import error_of_outputs
from tensorchain.compression.refit_factors import refit_factors
from tensorchain.kernels import Array

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
    original, small : onnx.ModelProto
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
    run = _Run.of(original, small, layers, weights, feeds)
    new, errors = dict(plans), {}
    fed: dict[str, Array] = {}
    levels = levels_of(original.graph, layers)
    goals: dict[tuple[str, int], _Goals] = {}
    judge = Judge.of(run.before, feeds, run.count)
    for at, level in enumerate(levels):
        if (level[0].site.name, 0) not in goals:
            goals = run.goals(levels[at:])
        moments, cut = run.seen(level, goals, fed)
        for layer in level:
            name, sums, rows = layer.site.name, moments[layer.site.name], cut.get(layer.site.name)
            with_bias = plans[name].convolutions[-1].bias is not None
            parts = list(zip(split(plans[name], layer.site.groups), layer.site.parts, sums, strict=True))
            tried = [refit_held_out(*part, with_bias=with_bias) for part in parts]
            fitted, wholes = [whole for whole, *_ in tried], [one.whole for one in sums]
            if must is None or name in must:
                judge.passed()
            elif not judge.better(
                run.after, fed, _arrays(layer, joined([half for _, half, _ in tried]), weights[name])
            ):
                fitted, rows = [plan for plan, *_ in parts], None
            for _ in range(FITS - 1):
                asked = None if rows is None else rows.asked_for(fitted, wholes)
                if asked is None:
                    break
                fitted = [
                    refit_factors(plan, kernel, own, ridge=ridge, with_bias=with_bias)
                    for plan, kernel, own, (*_, ridge) in zip(fitted, layer.site.parts, asked, tried, strict=True)
                ]
            new[name], errors[name] = joined(fitted), error_of_groups(fitted, wholes)
            fed.update(_arrays(layer, new[name], weights[name]))
    _store(small, fed)
    return new, errors


@dataclass(frozen=True)
class _Goals:
    """Of one feed: outputs of the original (Z, T), and on which side they are cut, where a cut is behind the layer."""

    outputs: Array
    side: Array | None


@dataclass(frozen=True)
class _Run:
    """Both models in the runtime, and what they give on the inputs.

    Attributes
    ----------
    before, after : OnnxSession
        The original, and the compressed model, whose weights are open.
    feeds : Feeds
    count : int
        Of them.
    number : dict of str to int
        Of each layer, which draws its positions.
    cuts : dict of str to OnnxCut
        Behind layers.
    """

    before: OnnxSession
    after: OnnxSession
    feeds: Feeds
    count: int
    number: dict[str, int]
    cuts: dict[str, OnnxCut]

    @classmethod
    def of(
        cls,
        original: Any,
        small: Any,
        layers: Sequence[OnnxLayer],
        weights: Mapping[str, Sequence[tuple[str, str]]],
        feeds: Feeds,
    ) -> _Run:
        """Open both models."""
        cuts = cuts_of(original, layers)
        opened = [name for rows in weights.values() for pair in rows for name in pair if name]
        outputs, sources = [layer.output for layer in layers], [layer.source for layer in layers]
        beyond = [cut.value for cut in cuts.values()]
        return cls(
            OnnxSession(original, [*outputs, *beyond]),
            OnnxSession(small, [*sources, *outputs, *beyond], open_constants=opened),
            feeds, sum(1 for _ in feeds), {layer.site.name: k for k, layer in enumerate(layers)}, cuts,
        )  # fmt: skip

    def rng(self, layer: OnnxLayer, turn: int) -> np.random.Generator:
        """What draws the positions of a layer."""
        return np.random.default_rng((self.number[layer.site.name], turn))

    def goals(self, levels: Sequence[Sequence[OnnxLayer]]) -> dict[tuple[str, int], _Goals]:
        """Samples of the original's outputs, by name of the layer and number of the feed; of the levels that fit."""
        batch = max((len(value) for value in next(iter(self.feeds)).values() if np.ndim(value)), default=1)
        chosen, held, whole = list[OnnxLayer](), 0, 0
        for level in levels:
            for layer in level:
                site = layer.site
                entries = len(site.kernel) * int(np.prod(site.geometry.output_size(site.kernel.shape[2:], site.image)))
                whole += batch * site.uses * entries
                held += min(most_samples(site) * len(site.kernel), self.count * batch * site.uses * entries)
            if chosen and max(held, whole) > _SAMPLES:
                break
            chosen += level
        ways = {layer.site.name: self.cuts.get(layer.site.name) for layer in chosen}
        wanted = [layer.output for layer in chosen] + [way.value for way in ways.values() if way is not None]
        found: dict[tuple[str, int], _Goals] = {}
        for turn, feed in enumerate(self.feeds):
            values = self.before.run(feed, wanted)
            for layer in chosen:
                name, way = layer.site.name, ways[layer.site.name]
                side = None
                # What is added may be larger than the output: then one output becomes many.
                if way is not None and values[way.value].shape == values[layer.output].shape:
                    side = sides(way.cut, self._drawn(layer, values[way.value], turn))
                found[name, turn] = _Goals(self._drawn(layer, values[layer.output], turn), side)
        return found

    def _drawn(self, layer: OnnxLayer, values: Array, turn: int) -> Array:
        """Values of the original at the positions that are drawn: those that the layer still writes."""
        rows = sampled_outputs(layer, self.rng(layer, turn), self.count, values)
        return rows if layer.rows is None else rows[:, layer.rows]

    def seen(
        self, level: Sequence[OnnxLayer], goals: dict[tuple[str, int], _Goals], fed: Mapping[str, Array]
    ) -> tuple[dict[str, list[Halves]], dict[str, CutRows]]:
        """Moments of the patches that layers see now and of their goals, used up here; rows where a cut is behind."""
        moments = {
            layer.site.name: [Halves(patch_size(layer.site), len(part)) for part in layer.site.parts] for layer in level
        }
        rows = {
            name: CutRows(self.cuts[name].of(layer.rows), layer.site.groups)
            for layer in level if goals[name := layer.site.name, 0].side is not None
        }  # fmt: skip
        cut = [layer for layer in level if layer.site.name in rows]
        wanted = [layer.source for layer in level] + [layer.output for layer in cut]
        wanted += [self.cuts[layer.site.name].value for layer in cut]
        for turn, feed in enumerate(self.feeds):
            given = self.after.run({**feed, **fed}, wanted)
            for layer in level:
                name, goal = layer.site.name, goals.pop((layer.site.name, turn))
                patches = sampled(layer, self.rng(layer, turn), self.count, given[layer.source])[0]
                groups = [in_groups(part, layer.site.groups) for part in (patches, goal.outputs)]
                for own, inputs, targets in zip(moments[name], *groups, strict=True):
                    own.add(inputs, targets, turn=turn, turns=self.count)
                if name in rows and goal.side is not None:
                    outputs, values = (
                        sampled_outputs(layer, self.rng(layer, turn), self.count, given[value])
                        for value in (layer.output, self.cuts[name].value)
                    )
                    rows[name].add(patches, goal.outputs, goal.side, (outputs, values))
        return moments, rows


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
