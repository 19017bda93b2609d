"""What lies behind a layer of an ONNX graph and cuts its outputs (:mod:`tensorchain.compression.cuts`).

The output of a layer is followed along the graph through additions and normalisations up to a node that cuts.  If it,
or anything on the way, is read by another node too, or is an output of the graph, then nothing is cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tensorchain.compression.conv import LayerPlan
from tensorchain.compression.cuts import Cut
from tensorchain.compression.onnx_calibration import in_groups
from tensorchain.compression.onnx_layers import OnnxLayer
from tensorchain.compression.onnx_reading import Constants, graph_reads, graphs_of, node_reads
from tensorchain.compression.refit import Moments
from tensorchain.kernels import Array

_HELD = 1 << 26
"""Most numbers of the rows of one layer that are held; a layer with more is fitted to all of its outputs."""


@dataclass(frozen=True)
class OnnxCut:
    """The way of a layer's output y to a node that cuts u = s y + c.

    Attributes
    ----------
    cut : Cut
        Where the node is constant.
    value : str
        Name of u.
    slope : ndarray or float
        s, with one entry for each channel.
    """

    cut: Cut
    value: str
    slope: Any = 1.0

    def of(self, rows: Any) -> OnnxCut:
        """The same for some of the channels, or all for None."""
        return self if rows is None or np.ndim(self.slope) == 0 else replace(self, slope=self.slope[rows])


def cuts_of(proto: Any, layers: Sequence[OnnxLayer]) -> dict[str, OnnxCut]:
    """The cuts behind layers, by name, where everything behind passes through them.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model.
    layers : sequence of OnnxLayer
        Of it.

    Examples
    --------
    >>> from onnx import helper
    >>> from tensorchain.compression import Geometry, Site
    >>> nodes = [helper.make_node("Add", ["y", "b"], ["u"]), helper.make_node("Relu", ["u"], ["z"])]
    >>> graph = helper.make_graph(nodes, "net", [], [helper.make_empty_tensor_value_info("z")])
    >>> layer = OnnxLayer(Site("first", np.ones((2, 2, 1, 1)), None, Geometry(), (1, 1)), node=0, output="y")
    >>> cuts_of(helper.make_model(graph), [layer])["first"]
    OnnxCut(cut=Cut(low=0.0, high=inf), value='u', slope=1.0)
    """
    ways = _ways(proto, [layer.output for layer in layers if layer.node is not None])
    return {layer.site.name: ways[layer.output] for layer in layers if layer.output in ways}


def _ways(proto: Any, outputs: Sequence[str]) -> dict[str, OnnxCut]:
    graph, constants = proto.graph, Constants(proto)
    seen = {value.name for value in graph.output}
    for part in graphs_of(graph):
        if part is not graph:
            seen.update(graph_reads(part))
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node_reads(node):
            readers.setdefault(name, []).append(node)
    found = {}
    for output in outputs:
        value, slope = output, np.float64(1.0)
        while value not in seen and len(readers.get(value, ())) == 1:
            node = readers[value][0]
            cut = _cut(node, constants)
            if cut is not None and node.input[0] == value:
                found[output] = OnnxCut(cut, value, float(slope) if np.ndim(slope) == 0 else slope)
                break
            factor = _slope(node, value, constants)
            if factor is None:
                break
            value, slope = node.output[0], slope * factor
    return found


def _cut(node: Any, constants: Constants) -> Cut | None:
    """Where a node is constant, if it is one of those that cut."""
    given = {attribute.name: attribute for attribute in node.attribute}
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Relu":
        return Cut(0.0, math.inf)
    if node.op_type == "Clip":
        ends = []
        for position, (name, none) in enumerate((("min", -math.inf), ("max", math.inf)), 1):
            end = given[name].f if name in given else none
            if len(node.input) > position and node.input[position]:
                value = constants.array(node.input[position])
                if value is None:
                    return None
                end = float(np.asarray(value).reshape(()))
            ends.append(float(end))
        return Cut(*ends)
    if node.op_type == "HardSwish":
        return Cut(-3.0, math.inf)
    if node.op_type == "HardSigmoid":
        alpha = given["alpha"].f if "alpha" in given else 0.2
        beta = given["beta"].f if "beta" in given else 0.5
        return Cut(-beta / alpha, (1.0 - beta) / alpha) if alpha > 0.0 else None
    return None


def _slope(node: Any, value: str, constants: Constants) -> Any:
    """What a node multiplies each channel of a value with, if it does only this and an addition; else None."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Identity" or (node.op_type == "Add" and list(node.input).count(value) == 1):
        return 1.0
    if node.op_type != "BatchNormalization" or node.input[0] != value or len([n for n in node.output if n]) > 1:
        return None
    scale, variance = constants.array(node.input[1]), constants.array(node.input[4])
    if scale is None or variance is None:
        return None
    epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
    return scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)


@dataclass(frozen=True)
class _Rows:
    """Of one feed: patches (groups, Z, p), goals, sides and offsets (groups, Z, T)."""

    patches: Array
    goals: Array
    side: Array
    offset: Array


class CutRows:
    """The rows of a layer whose outputs are cut.

    Parameters
    ----------
    way : OnnxCut
        Of the outputs that it writes.
    groups : int
        Of the layer.
    """

    def __init__(self, way: OnnxCut, groups: int) -> None:
        self.way, self.groups = way, groups
        self.rows: list[_Rows] = []
        self.held = 0

    def add(self, patches: Array, goals: Array, side: Array, moved: tuple[Array, Array]) -> None:
        """Take in the rows of a feed.

        Parameters
        ----------
        patches : ndarray
            (Z, groups p).
        goals, side : ndarray
            Outputs of the original (Z, T), and -1, 0 or 1 for those cut below, not at all, or above.
        moved : tuple of (ndarray, ndarray)
            y and u of the compressed network, (Z, T).
        """
        outputs, values = moved
        self.held += patches.size + 2 * goals.size
        if self.held > _HELD:
            self.rows.clear()
            return
        offset = values - np.asarray(self.way.slope, np.float32) * outputs
        parts = (np.asarray(patches, np.float32), goals, side, offset)
        self.rows.append(_Rows(*(in_groups(part, self.groups) for part in parts)))

    def asked_for(self, plans: Sequence[LayerPlan], moments: Sequence[Moments]) -> list[Moments] | None:
        """The moments with targets that ask for what passes the cut; None where the rows are not held.

        Parameters
        ----------
        plans : sequence of LayerPlan
            The present fit of each group.
        moments : sequence of Moments
            Of the goals.
        """
        if not self.rows or self.held > _HELD:
            return None
        slopes = np.broadcast_to(self.way.slope, self.groups * self.rows[0].goals.shape[2]).reshape(self.groups, -1)
        return [
            own.aimed(self._aims(group, plan, slopes[group]))
            for group, (plan, own) in enumerate(zip(plans, moments, strict=True))
        ]

    def _aims(self, group: int, plan: LayerPlan, slope: Array) -> Iterator[tuple[Array, Array]]:
        kernel, bias = plan.kernel, plan.convolutions[-1].bias
        weight = kernel.reshape(len(kernel), -1).T.astype(np.float32)
        for rows in self.rows:
            patches, goals, side = rows.patches[group], rows.goals[group], rows.side[group]
            given = patches @ weight
            if bias is not None:
                given += bias.astype(np.float32)
            passed = slope.astype(np.float32) * given + rows.offset[group]
            cut = ((side < 0) & (passed <= self.way.cut.low)) | ((side > 0) & (passed >= self.way.cut.high))
            yield patches, np.where(cut, given, goals)


def sides(cut: Cut, array: Array) -> Array:
    """-1 where values are cut below, 1 where above, else 0."""
    return (array >= cut.high).astype(np.int8) - (array <= cut.low).astype(np.int8)
