"""Which channels of an ONNX graph belong together, and what has to be cut where one of them is taken out.

Every channel that a layer writes gets a number.  The numbers go with the values from node to node along the axis of
the channels: a normalisation, an activation or a depthwise convolution hands them on, a sum or a product of two values
makes the numbers of both one class, a concatenation writes them one after another, and the next layer reads them as its
columns.  A class can be taken out of the graph when all that it touches is of these kinds; where a value leaves them
(it is an output, is reshaped, goes into an operator that mixes it) its classes stay.

What comes out, for each layer, are the classes of its columns and rows, and for each other constant with an entry for
every channel the axis along which it is cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorchain.compression.onnx_axes import BROADCAST, ELEMENTWISE, MOVES, POOLS, axis_after
from tensorchain.compression.onnx_layers import OnnxLayer
from tensorchain.compression.onnx_reading import Constants, node_reads, opset_of
from tensorchain.compression.onnx_session import onnx_package
from tensorchain.kernels import Array


@dataclass(frozen=True)
class Cut:
    """A constant that loses entries with the channels.

    Attributes
    ----------
    node, position : int
        The node, and which of its inputs the constant is.
    axis : int
        Along which it is cut.
    ids : ndarray
        Number of the channel of each entry.
    """

    node: int
    position: int
    axis: int
    ids: Array


@dataclass
class Channels:
    """The channels of a graph.

    Attributes
    ----------
    columns, rows : dict of str to ndarray
        By name of the layer, the classes of its inputs and outputs; -1 for those that stay.
    cuts : list of Cut
        All other constants; the numbers are those of classes.
    parts : dict of int to list of ndarray
        By node, the classes of the parts of a split.
    depthwise : list of str
        Layers of one channel each; their classes are their `rows`.
    count : int
        Of classes.
    held : dict of str to int
        By operator, how many channels stay because of it.
    """

    columns: dict[str, Array] = field(default_factory=dict)
    rows: dict[str, Array] = field(default_factory=dict)
    cuts: list[Cut] = field(default_factory=list)
    parts: dict[int, list[Array]] = field(default_factory=dict)
    depthwise: list[str] = field(default_factory=list)
    count: int = 0
    held: dict[str, int] = field(default_factory=dict)


def channels_of(
    proto: Any, layers: Sequence[OnnxLayer], shapes: Mapping[str, Sequence[int]], stay: Sequence[str] = ()
) -> Channels:
    """The channels of a model.

    Parameters
    ----------
    proto : onnx.ModelProto
        Its nodes in order.
    layers : sequence of OnnxLayer
        Those of the model.
    shapes : mapping of str to sequence of int
        Of its values.
    stay : sequence of str
        Names of layers that are not touched.
    """
    return _Walk(proto, layers, shapes, stay).run()


class _Walk:
    """Numbers along the nodes of a graph; a value is an axis and the numbers of its channels."""

    def __init__(
        self, proto: Any, layers: Sequence[OnnxLayer], shapes: Mapping[str, Sequence[int]], stay: Sequence[str]
    ) -> None:
        self.proto, self.shapes, self.constants = proto, shapes, Constants(proto)
        self.layers = {layer.node: layer for layer in layers if layer.node is not None}
        self.stay, self.holder = set(stay), ""
        self.values: dict[str, tuple[int, Array]] = {}
        self.parent: list[int] = []
        self.fixed: set[int] = set()
        self.found = Channels()
        self.helper = onnx_package().helper

    def run(self) -> Channels:
        """Walk, then say which classes can go."""
        graph = self.proto.graph
        for index, node in enumerate(graph.node):
            self.holder = node.op_type
            self._node(index, node)
        self.holder = "an output"
        for value in graph.output:
            self._fix(value.name)
        roots = np.array([self._root(n) for n in range(len(self.parent))], int)
        free = np.array([n for n in np.unique(roots) if n not in {self._root(m) for m in self.fixed}], int)
        classes = np.full(len(self.parent) + 1, -1)
        classes[free] = np.arange(len(free))
        names = np.append(classes[roots], -1) if len(roots) else classes
        found = self.found
        for table in (found.columns, found.rows):
            table.update((name, names[ids]) for name, ids in table.items())
        found.cuts = [Cut(cut.node, cut.position, cut.axis, names[cut.ids]) for cut in found.cuts]
        found.parts = {node: [names[ids] for ids in parts] for node, parts in found.parts.items()}
        found.count = len(free)
        return found

    def _node(self, index: int, node: Any) -> None:
        for name in list(node_reads(node))[len(node.input) :]:
            # A graph inside the node reads it.
            self._fix(name)
        given = [self.values.get(name) for name in node.input]
        layer = self.layers.get(index)
        if layer is not None:
            self._layer(index, node, layer)
            return
        if not any(given):
            return
        rule = self._rule(node.op_type) if node.domain in ("", "ai.onnx") else None
        made = None if rule is None else rule(index, node, given)
        if made is None:
            for name in node.input:
                self._fix(name)
            return
        self.values.update((name, one) for name, one in zip(node.output, made, strict=False) if name)
        if any(node.output[len(made) :]):
            # Of further outputs (the mask of a Dropout, the places of a pooling) nothing is known.
            for name in node.output[: len(made)]:
                self._fix(name)

    def _rule(self, operator: str) -> Callable[..., list[tuple[int, Array]] | None] | None:
        if operator in ELEMENTWISE:
            return self._handed_on
        if operator in BROADCAST:
            return self._joined
        if operator in MOVES:
            return self._moved
        rules: dict[str, Callable[..., list[tuple[int, Array]] | None]] = {
            "BatchNormalization": self._normalised, "InstanceNormalization": self._normalised, "Concat": self._concat,
            "Split": self._split, "Flatten": self._flattened, "Resize": self._resized, "Upsample": self._resized,
        }  # fmt: skip
        return self._pooled if operator in POOLS else rules.get(operator)

    def _layer(self, index: int, node: Any, layer: OnnxLayer) -> None:
        """A layer reads columns and writes rows; one of a channel each hands its channels on."""
        site, source = layer.site, self.values.get(layer.source)
        channels, outputs = site.kernel.shape[1] * site.groups, len(site.kernel)
        axis = self._rank(layer.output) - 1 if layer.kind == "rows" else 1
        plain = site.groups == 1 and not site.geometry.transposed and not site.counts and site.name not in self.stay
        right = source is not None and source[0] == axis and len(source[1]) == channels
        single = site.groups > 1 and site.groups == channels == outputs and not site.geometry.transposed
        if single and right and site.name not in self.stay:
            assert source is not None
            for position in range(1, len(node.input)):
                if node.input[position]:
                    self.found.cuts.append(Cut(index, position, 0, source[1]))
            self.found.rows[site.name] = source[1]
            self.found.depthwise.append(site.name)
            self.values[layer.output] = source
            return
        if not plain or not right:
            self._fix(layer.source)
        if not plain:
            return
        self.found.columns[site.name] = source[1] if right and source is not None else np.full(channels, -1)
        fresh = np.arange(len(self.parent), len(self.parent) + outputs)
        self.parent += fresh.tolist()
        self.found.rows[site.name] = fresh
        self.values[layer.output] = axis, fresh

    def _handed_on(self, index: int, node: Any, given: Any) -> list[tuple[int, Array]] | None:
        # A second input (bounds of a Clip) is one number.
        return [given[0]] if given[0] is not None and not any(given[1:]) else None

    def _pooled(self, index: int, node: Any, given: Any) -> list[tuple[int, Array]] | None:
        return [given[0]] if given[0] is not None and given[0][0] == 1 else None

    def _joined(self, index: int, node: Any, given: Any) -> list[tuple[int, Array]] | None:
        """A sum, product and so on: axes are counted from the last one."""
        ranks = [self._rank(name) for name in node.input]
        given, widest = list(given), max(len(one[1]) for one in given if one is not None)
        for k, one in enumerate(given):
            if one is not None and len(one[1]) == 1 < widest:
                # One channel for all of the others.
                self._fix(node.input[k])
                given[k] = None
        if not all(ranks[k] for k, one in enumerate(given) if one is not None) or opset_of(self.proto) < 7:
            return None
        back = {ranks[k] - one[0] for k, one in enumerate(given) if one is not None}
        if len(back) != 1:
            return None
        place = back.pop()
        first = next(one[1] for one in given if one is not None)
        cuts = []
        for k, (name, one) in enumerate(zip(node.input, given, strict=True)):
            if one is not None:
                continue
            array = self.constants.array(name)
            shape = array.shape if array is not None else tuple(self.shapes.get(name, ()))
            if array is None and not shape:
                return None
            extent = shape[len(shape) - place] if len(shape) >= place else 1
            if extent == 1:
                continue
            if array is None or extent != widest:
                return None
            cuts.append(Cut(index, k, len(shape) - place, first))
        for one in given:
            if one is not None:
                self._join(first, one[1])
        self.found.cuts += cuts
        return [(max(max(ranks), place) - place, first)]

    def _normalised(self, index: int, node: Any, given: Any) -> list[tuple[int, Array]] | None:
        if given[0] is None or given[0][0] != 1:
            return None
        if any(self.constants.array(name) is None for name in node.input[1:]):
            return None
        self.found.cuts += [Cut(index, k, 0, given[0][1]) for k in range(1, len(node.input))]
        return [given[0]]

    def _concat(self, index: int, node: Any, given: Any) -> list[tuple[int, Array]] | None:
        rank = self._rank(node.output[0])
        axis = self._attributes(node)["axis"] % rank if rank else -1
        if any(one is not None and one[0] != axis for one in given):
            return None
        parts = []
        for name, one in zip(node.input, given, strict=True):
            if one is None:
                size = self.shapes.get(name, ())
                if len(size) != rank or not size[axis]:
                    return None
                fresh = np.arange(len(self.parent), len(self.parent) + size[axis])
                self.parent += fresh.tolist()
                self.fixed.update(fresh.tolist())
                one = axis, fresh
            parts.append(one[1])
        return [(axis, np.concatenate(parts))]

    def _split(self, index: int, node: Any, given: Any) -> list[tuple[int, Array]] | None:
        rank, attributes = self._rank(node.input[0]), self._attributes(node)
        if given[0] is None or not rank:
            return None
        if attributes.get("axis", 0) % rank != given[0][0]:
            return None
        ids = given[0][1]
        sizes = attributes.get("split")
        if len(node.input) > 1 and node.input[1]:
            sizes = self.constants.array(node.input[1])
        if sizes is None:
            count = len(node.output)
            sizes = [-(-len(ids) // count)] * count
        parts = np.split(ids, np.cumsum(sizes)[:-1])
        self.found.parts[index] = parts
        return [(given[0][0], part) for part in parts]

    def _moved(self, index: int, node: Any, given: Any) -> list[tuple[int, Array]] | None:
        """Another place of the axis, or changes of the other axes."""
        rank, more = self._rank(node.input[0]), list(node.input[1:])
        numbers = [self.constants.array(name) if name else None for name in more]
        computed = any(name and array is None for name, array in zip(more, numbers, strict=True))
        if given[0] is None or computed or not rank:
            return None
        axis = axis_after(node.op_type, given[0][0], rank, self._attributes(node), numbers, opset=opset_of(self.proto))
        return None if axis is None else [(axis, given[0][1])]

    def _flattened(self, index: int, node: Any, given: Any) -> list[tuple[int, Array]] | None:
        """Each channel gives as many columns as it has positions."""
        shape = self.shapes.get(node.input[0], ())
        known = len(shape) > 1 and all(shape[2:]) and self._attributes(node).get("axis", 1) == 1
        if given[0] is None or given[0][0] != 1 or not known:
            return None
        return [(1, np.repeat(given[0][1], math.prod(shape[2:])))]

    def _resized(self, index: int, node: Any, given: Any) -> list[tuple[int, Array]] | None:
        """The axis of the channels keeps its length, and scales, not sizes, say so."""
        scales = node.input[1 if opset_of(self.proto) < 11 or node.op_type == "Upsample" else 2 :]
        array = self.constants.array(scales[0]) if scales and scales[0] else None
        if given[0] is None or array is None or array.size <= given[0][0] or (len(scales) > 1 and scales[1]):
            return None
        return [given[0]] if float(array[given[0][0]]) == 1.0 else None

    def _attributes(self, node: Any) -> dict[str, Any]:
        return {a.name: self.helper.get_attribute_value(a) for a in node.attribute}

    def _rank(self, name: str) -> int:
        array = None if name in self.shapes else self.constants.array(name)
        return len(self.shapes.get(name, ())) if array is None else array.ndim

    def _root(self, n: int) -> int:
        while self.parent[n] != n:
            self.parent[n] = self.parent[self.parent[n]]
            n = self.parent[n]
        return n

    def _join(self, first: Array, second: Array) -> None:
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            self.parent[self._root(b)] = self._root(a)

    def _fix(self, name: str) -> None:
        """The channels of a value stay."""
        if name in self.values:
            new = set(self.values[name][1].tolist()) - self.fixed
            if new:
                self.found.held[self.holder] = self.found.held.get(self.holder, 0) + len(new)
                self.fixed |= new


def reads_of(proto: Any) -> list[str]:
    """Names of all values that nodes read or write, whose shapes the walk may ask for."""
    return list(dict.fromkeys(name for node in proto.graph.node for name in (*node_reads(node), *node.output) if name))
