"""The layers of an ONNX model: those that can be replaced, and all others with their costs and the reason.

Listed is every node that multiplies its input with weights, and every product of two computed values, wherever it is.
Multiplications are counted for one image: a value whose first axis is not the batch of the model counts that much more.
A layer whose size is not known is counted without multiplications, and says so.

Convolutions over lines, images and volumes, in groups or transposed, and products with a constant matrix, can be
replaced.  A line is an image of height 1; a product of rows is a 1 x 1 convolution over them:

| node                      | value as (N, S, H, W)  | kernel (T, S / groups, D1, D2)     |
|---------------------------|------------------------|------------------------------------|
| Conv, (N, S, H, W)        | itself                 | the weight                         |
| Conv, (N, S, D, H, W)     | itself                 | the weight, with three windows     |
| Conv, (N, S, L)           | (N, S, 1, L)           | the weight (T, S / groups, 1, D)   |
| ConvTranspose             | as of Conv             | the weight, S and T exchanged      |
| MatMul, Gemm, (..., K)    | (rows, K, 1, 1)        | the transposed matrix              |
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tensorchain.compression.conv import Geometry
from tensorchain.compression.onnx_attributes import check_node, geometry_of
from tensorchain.compression.onnx_reading import Constants, graph_reads, graphs_of, inputs_of, value_shapes
from tensorchain.compression.onnx_session import onnx_package
from tensorchain.compression.request import Site
from tensorchain.kernels import Array

NO_SIZE = "the size of its input is not known"
_FLOATS = (np.float16, np.float32, np.float64)
_WEIGHT_AT = {
    "Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "LSTM": 1, "GRU": 1, "RNN": 1, "DeformConv": 1,
    "ConvInteger": 1, "MatMulInteger": 1, "QLinearConv": 3, "QLinearMatMul": 3,
}  # fmt: skip
"""Operators that multiply, and which of their inputs holds the weights."""
_RECURRENT = ("LSTM", "GRU", "RNN")
_DIMENSIONS = {3: "line", 4: "image", 5: "volume"}
_NOTHING = np.zeros((1, 1, 1, 1))


@dataclass(frozen=True)
class OnnxLayer:
    """A layer and where it is.

    Attributes
    ----------
    site : Site
        Its kernel, its costs, and why it must stay.
    node : int or None
        Position in the graph; None inside a branch or a loop.
    kind : str
        "image", "volume", "line" or "rows": how its values are images.
    source, output : str
        Names of its input and output.
    constants : tuple of str
        Names of its weight and bias.
    dtype : dtype
        Of its weight.
    rows : ndarray or None
        Which of the outputs of the model's layer it still writes; None for all.
    """

    site: Site
    node: int | None = None
    kind: str = "image"
    source: str = ""
    output: str = ""
    constants: tuple[str, ...] = ()
    dtype: Any = np.float32
    rows: Any = None


def as_images(kind: str, values: Array) -> Array:
    """Values (N, S, H, W), (N, S, L) or (..., K) as images (N, S, H, W); volumes stay as they are.

    Examples
    --------
    >>> import numpy as np
    >>> [as_images(k, np.zeros(s)).shape for k, s in (("line", (2, 5, 9)), ("rows", (2, 7, 5)))]
    [(2, 5, 1, 9), (14, 5, 1, 1)]
    """
    if kind == "line":
        return values[:, :, None]
    return values.reshape(-1, values.shape[-1])[:, :, None, None] if kind == "rows" else values


def layers_of(
    proto: Any, sizes: Mapping[str, Sequence[int]] | None = None, feed: Mapping[str, Array] | None = None
) -> list[OnnxLayer]:
    """All layers of a model, in its order, those inside branches and loops last.

    Parameters
    ----------
    proto : onnx.ModelProto
        `onnx.ModelProto` from `load_model`.
    sizes : mapping of str to sequence of int, optional
        Shapes of inputs that the file leaves open.
    feed : mapping of str to ndarray, optional
        An input for the model, from which sizes are taken that the file does not tell.

    Raises
    ------
    ValueError
        Where a node contradicts itself.
    """
    counted = {*_WEIGHT_AT, "Einsum"}
    nodes = [node for node in proto.graph.node if node.op_type in counted and node.domain in ("", "ai.onnx")]
    inputs = inputs_of(proto)
    wanted = [name for node in nodes for name in (*node.input[:2], node.output[0])]
    finder = _Finder(proto, value_shapes(proto, wanted, sizes or {}, feed), inputs[0].name if inputs else "")
    found = [layer for k, node in enumerate(proto.graph.node) if (layer := finder.layer(node, k)) is not None]
    found += finder.inside()
    return _named_apart(_counted_once(found))


class _Finder:
    """Turns nodes into layers."""

    def __init__(self, proto: Any, shapes: dict[str, tuple[int, ...]], first: str) -> None:
        self.helper = onnx_package().helper
        self.proto = proto
        self.shapes = shapes
        self.batch = (shapes.get(first) or (1,))[0]
        self.constants = Constants(proto)
        self.readers = Counter(graph_reads(proto.graph))
        self.readers.update(value.name for value in proto.graph.output)

    def layer(self, node: Any, index: int) -> OnnxLayer | None:
        """The layer of a node, or None for a node that is none."""
        name = node.name or f"{node.op_type} output {node.output[0] if node.output else index}"
        if node.domain not in ("", "ai.onnx") or node.op_type == "Einsum":
            return self._foreign(node, name)
        if node.op_type not in _WEIGHT_AT or len(node.input) <= _WEIGHT_AT[node.op_type]:
            return None
        weight = self.constants.array(node.input[_WEIGHT_AT[node.op_type]])
        if node.op_type in ("Conv", "ConvTranspose"):
            return self._convolution(node, index, name, weight)
        if node.op_type in ("MatMul", "Gemm"):
            return self._product(node, index, name, weight)
        source, output = (self.shapes.get(n, ()) for n in (node.input[0], node.output[0]))
        if node.op_type in _RECURRENT:
            parts = [self.constants.array(n) for n in node.input[1:4] if n]
            if any(part is None for part in parts):
                return self._left(name, "its weight is no constant", 0, None)
            arrays = [part for part in parts if part is not None]
            steps = source[self._attributes(node).get("layout", 0)] if source else 0
            each = sum(array.size for array in arrays[:2])
            parameters = sum(array.size for array in arrays)
            return self._left(name, f"{node.op_type} layer", parameters, each * steps or None)
        reason = f"{node.op_type} layer"
        if weight is None:
            return self._left(name, "its weight is no constant", 0, None)
        parameters = weight.size
        places = output[2:]
        if node.op_type.endswith(("MatMul", "MatMulInteger")):
            places = output[1:-1]
        known = bool(source and output) and all(places)
        macs = weight.size * math.prod(places) * self._uses(source) if known else None
        return self._left(name, reason, parameters, macs)

    def _convolution(self, node: Any, index: int, name: str, weight: Array | None) -> OnnxLayer | None:
        attributes = self._attributes(node)
        biased = len(node.input) > 2 and node.input[2] != ""
        bias = self.constants.array(node.input[2]) if biased else None
        source, output = self.shapes.get(node.input[0], ()), self.shapes.get(node.output[0], ())
        transposed, groups = node.op_type == "ConvTranspose", attributes.get("group", 1)
        check_node(name, attributes, weight, bias, source, transposed)
        if weight is None:
            return self._left(name, self._why_no_constant(node.input[1]), *self._unread(node.input[1], output[2:]))
        sized = len(source) == weight.ndim and all(source[2:])
        refusal = ""
        if biased and bias is None:
            refusal = "its weight is no constant"
        elif weight.ndim not in _DIMENSIONS:
            refusal = f"{weight.ndim - 2}-D convolution"
        elif weight.dtype.type not in _FLOATS:
            refusal = f"weight of type {weight.dtype}"
        elif not sized:
            refusal = NO_SIZE
        elif self._shared(node.input[1], weight.size):
            refusal = "shares its weight"
        elif transposed and (attributes.get("output_shape") or attributes.get("auto_pad", b"").startswith(b"SAME")):
            refusal = "a transposed convolution that is told its output size"
        if refusal:
            parameters = weight.size + (0 if bias is None else bias.size)
            # A transposed convolution uses its weight once for each position of the input.
            shape = source if transposed else output
            places = shape[2:] if shape and all(shape[2:]) else ()
            macs = weight.size * math.prod(places) * self._uses(source) if places else None
            return self._left(name, refusal, parameters, macs, tuple(node.input[1:]))
        kind, image = _DIMENSIONS[weight.ndim], source[2:] if weight.ndim > 3 else (1, source[2])
        geometry = geometry_of(attributes, tuple(weight.shape[2:]), image, transposed)
        if transposed:
            parts = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
            weight = np.ascontiguousarray(parts.reshape(-1, *parts.shape[2:]))
        flat = weight if weight.ndim > 3 else weight[:, :, None]
        geometry.output_size(flat.shape[2:], image)
        site = Site(name, *_plain(flat, bias), geometry, image, uses=self._uses(source), groups=groups)
        return OnnxLayer(site, index, kind, node.input[0], node.output[0], tuple(node.input[1:]), weight.dtype)

    def _product(self, node: Any, index: int, name: str, weight: Array | None) -> OnnxLayer | None:
        attributes = self._attributes(node)
        left = self.constants.array(node.input[0])
        if left is not None and weight is not None:
            return None
        source, other = (self.shapes.get(n, ()) for n in node.input[:2])
        output = self.shapes.get(node.output[0], ())
        gemm = node.op_type == "Gemm"
        sized = len(source) >= 2 and all(source[1:])
        if weight is None:
            depth = other[-1 if attributes.get("transB") else -2] if len(other) > 1 else 0
            rows = self._rows(output) if len(output) > 1 and all(output[1:]) else 0
            count = rows * output[-1] * depth or None if rows else None
            if left is not None:
                return self._left(name, "its constant is on the left", left.size, count)
            stored = self._unread(node.input[1], source[1:-1])
            if self.constants.maker(node.input[1]) == "DequantizeLinear" and stored[0]:
                return self._left(name, self._why_no_constant(node.input[1]), *stored)
            return self._left(name, "both factors are computed", 0, count)
        bias = self.constants.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        rows = self._rows(source)
        matrix = weight.T if not attributes.get("transB") and weight.ndim == 2 else weight
        scaled = any(attributes.get(key, 1.0) != 1.0 for key in ("alpha", "beta")) or attributes.get("transA", 0)
        refusal = ""
        if weight.ndim != 2:
            refusal = "a stack of matrices"
        elif weight.dtype.type not in _FLOATS:
            refusal = f"weight of type {weight.dtype}"
        elif gemm and (scaled or (bias is None) != (len(node.input) < 3 or not node.input[2])):
            refusal = "scaled or transposed product"
        elif bias is not None and bias.size != len(matrix):
            refusal = "its bias is no vector"
        elif not sized:
            refusal = NO_SIZE
        elif self._shared(node.input[1], weight.size):
            refusal = "shares its weight"
        if refusal:
            parameters = weight.size + (0 if bias is None else bias.size)
            return self._left(name, refusal, parameters, weight.size * rows if sized else None, tuple(node.input[1:]))
        kernel = np.ascontiguousarray(matrix)[:, :, None, None]
        site = Site(name, *_plain(kernel, None if bias is None else bias.reshape(-1)), Geometry(), (1, rows))
        return OnnxLayer(site, index, "rows", node.input[0], node.output[0], tuple(node.input[1:]), weight.dtype)

    def _foreign(self, node: Any, name: str) -> OnnxLayer | None:
        """An operator that may do anything with the weights that it holds: Einsum, and those of other domains."""
        arrays = [array for n in node.input if n and (array := self.constants.array(n)) is not None]
        weights = [array for array in arrays if array.ndim >= 2]
        summed = node.op_type == "Einsum" and not node.domain and len(node.input) == 2
        if not weights and not summed:
            return None
        kind = ".".join(part for part in (node.domain, node.op_type) if part)
        reason = f"operator {kind}" if weights else "both factors are computed"
        return self._left(name, reason, sum(array.size for array in arrays), self._summed(node) if summed else None)

    def _summed(self, node: Any) -> int | None:
        """Multiplications of a sum of products of two factors: one for each value of all of its indices."""
        terms = self._attributes(node)["equation"].decode().replace(" ", "").split("->")[0].split(",")
        sizes: dict[str, int] = {}
        for name, term in zip(node.input, terms, strict=False):
            array = self.constants.array(name)
            shape = self.shapes.get(name, ()) if array is None else array.shape
            if len(shape) != len(term) or not all(shape) or not term.isalpha():
                return None
            for index, size in zip(term, shape, strict=True):
                # An axis of length 1 is repeated.
                sizes[index] = max(size, sizes.get(index, 1))
        return round(math.prod(sizes.values()) / max(self.batch, 1))

    def inside(self) -> Iterator[OnnxLayer]:
        """The layers inside branches and loops."""
        for owner in self.proto.graph.node:
            for attribute in owner.attribute:
                for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                    yield from self._inside(graph, owner.op_type)

    def _inside(self, graph: Any, owner: str) -> Iterator[OnnxLayer]:
        sizes: dict[str, int] = {}
        for part in graphs_of(graph):
            sizes.update((tensor.name, math.prod(tensor.dims)) for tensor in part.initializer)
            for node in part.node:
                if node.op_type == "Constant":
                    sizes.update((node.output[0], math.prod(a.t.dims)) for a in node.attribute if a.HasField("t"))
        for part in graphs_of(graph):
            for node in part.node:
                if node.op_type not in _WEIGHT_AT or len(node.input) <= _WEIGHT_AT[node.op_type]:
                    continue
                used = [n for n in node.input[_WEIGHT_AT[node.op_type] :] if n]
                outer = {
                    n: array.size for n in used if n not in sizes and (array := self.constants.array(n)) is not None
                }
                parameters = sum(sizes.get(n, outer.get(n, 0)) for n in used)
                if parameters or node.op_type not in ("MatMul", "Gemm"):
                    name = node.name or f"{node.op_type} output {node.output[0]}"
                    yield self._left(name, f"inside {owner}", parameters, None)

    def _attributes(self, node: Any) -> dict[str, Any]:
        return {a.name: self.helper.get_attribute_value(a) for a in node.attribute}

    def _uses(self, source: tuple[int, ...]) -> int:
        """How often a layer runs for one image, from the first axis of its input."""
        return max(1, round(source[0] / self.batch)) if source and source[0] and self.batch else 1

    def _rows(self, source: tuple[int, ...]) -> int:
        """Rows of a product for one image."""
        if not source:
            return 1
        if not (source[0] and self.batch):
            return math.prod(source[1:-1])
        return max(1, round(math.prod(source[:-1]) / self.batch))

    def _shared(self, name: str, size: int) -> bool:
        """Whether another node reads the weight, or what it is computed from."""
        for one in self.constants.ancestors(name):
            array = self.constants.array(one)
            if array is not None and 2 * array.size >= size and self.readers[one] > 1:
                return True
        return False

    def _why_no_constant(self, name: str) -> str:
        few = self.constants.maker(name) == "DequantizeLinear"
        return "its weight is stored in few bits" if few else "its weight is no constant"

    def _unread(self, name: str, places: tuple[int, ...]) -> tuple[int, int | None]:
        """Parameters and multiplications of a weight that is stored in few bits."""
        if self.constants.maker(name) != "DequantizeLinear":
            return 0, None
        stored = self.constants.array(self.constants.makers[name].input[0])
        size = 0 if stored is None else stored.size
        return size, size * math.prod(places) if places and all(places) else None

    @staticmethod
    def _left(name: str, reason: str, parameters: int, macs: int | None, constants: tuple[str, ...] = ()) -> OnnxLayer:
        """A layer that stays."""
        if macs is None:
            reason += "; multiplications not counted"
        counts = int(parameters), int(macs or 0)
        return OnnxLayer(
            Site(name, _NOTHING, None, Geometry(), (1, 1), refusal=reason, counts=counts), None, constants=constants
        )


def _plain(kernel: Array, bias: Array | None) -> tuple[Array, Array | None]:
    """In single precision at least: half precision has no room for what is computed on the way."""
    dtype = np.result_type(kernel.dtype, np.float32)
    return kernel.astype(dtype), None if bias is None else bias.astype(dtype)


def _counted_once(layers: list[OnnxLayer]) -> list[OnnxLayer]:
    """A weight that several layers share counts for the first of them."""
    seen: set[str] = set()
    once = []
    for layer in layers:
        if layer.site.counts is not None and layer.constants and layer.constants[0] in seen:
            layer = replace(layer, site=replace(layer.site, counts=(0, layer.site.counts[1])))
        seen.update(layer.constants[:1])
        once.append(layer)
    return once


def _named_apart(layers: list[OnnxLayer]) -> list[OnnxLayer]:
    """Names of nodes need not differ; those of layers must."""
    taken: set[str] = set()
    apart = []
    for layer in layers:
        name, count = layer.site.name, 1
        while name in taken:
            count += 1
            name = f"{layer.site.name} ({count})"
        taken.add(name)
        apart.append(layer if name == layer.site.name else replace(layer, site=replace(layer.site, name=name)))
    return apart
