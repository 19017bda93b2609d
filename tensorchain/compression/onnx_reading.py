"""An ONNX file as it is shipped: its nodes in order, its constants wherever they are kept, the sizes of its values.

**Constants.** Exporters keep weights as initializers, in Constant nodes, or behind a few nodes without inputs (a
float16 weight behind a Cast, a matrix behind a Transpose, a weight that is normalised).  `Constants` gives the value of
all of them; what is computed is computed by ONNX's reference evaluator.

**Sizes.** `value_shapes` asks ONNX's shape inference, with the sizes of the inputs where they are given.  Values whose
size depends on other values are then measured in one run in ONNX Runtime, on a calibration feed, or on zeros where all
sizes of the inputs are given.

What a file holds is written by others: weights in other files are read from its own folder only
(:mod:`tensorchain.compression.onnx_external`).
"""

from __future__ import annotations

import graphlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tensorchain.compression.onnx_external import is_external, place_of, take_in
from tensorchain.compression.onnx_session import OnnxSession, onnx_package
from tensorchain.kernels import Array

FREE_CONSTANTS = 4
"""From this IR version on constants need not be inputs of the graph, and those that are can be overridden."""

_FOLDED = (
    "Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Concat", "Slice", "Add", "Sub",
    "Mul", "Div", "Neg", "Sqrt", "Reciprocal", "Pow", "ReduceSum", "ReduceL2", "ReduceSumSquare",
)  # fmt: skip
"""Operators that may stand between a constant and the layer that it serves."""

_MOST_ZEROS = 1 << 26
"""Entries of an input up to which a run on zeros is worth its memory."""


@dataclass(frozen=True)
class InputInfo:
    """An input of a model.

    Attributes
    ----------
    name : str
        Of the input.
    dtype : dtype or None
        Of its entries, None where NumPy has no such type.
    shape : tuple of int or None
        0 for an axis that is free; None where not even the number of axes is given.
    """

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[int, ...] | None


def load_model(model: str | os.PathLike[str] | Any) -> Any:
    """A checked copy of a model, with its nodes in order.

    Raises
    ------
    ImportError
        Without onnx.
    FileNotFoundError
    ValueError
        Where it is no valid model, or weights in other files cannot be read.
    """
    onnx = onnx_package()
    proto = onnx.ModelProto()
    if isinstance(model, onnx.ModelProto):
        proto.CopyFrom(model)
    else:
        path = Path(model)
        if not path.is_file():
            raise FileNotFoundError(f"{os.fspath(model)!r} is no file")
        try:
            proto = onnx.load(path, load_external_data=False)
        except Exception as error:
            raise ValueError(f"{os.fspath(model)!r} is no ONNX model: {error}") from error
        take_in(tensors_of(proto), path.parent)
    outside = next((tensor.name for tensor in tensors_of(proto) if is_external(tensor)), None)
    if outside is not None:
        raise ValueError(f"weight {outside!r} is kept outside the model; give the name of its file")
    if proto.functions:
        # Functions of an exporter's own hide the layers inside them.
        proto = onnx.inliner.inline_local_functions(proto)
    try:
        _sort(proto.graph)
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:
        # The check stumbles over sizes that are missing or contradict the inference, which ONNX Runtime may well run.
        try:
            OnnxSession(proto)
        except (ImportError, ValueError):
            raise ValueError(f"the model is not valid: {first_line(error)}") from error
    return proto


def first_line(error: BaseException) -> str:
    """The first line of a message with words, without what ONNX Runtime puts before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def opset_of(proto: Any) -> int:
    """The version of ONNX's own operators in a model."""
    return int(next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 1))


def graphs_of(graph: Any) -> Iterator[Any]:
    """A graph and the graphs inside its If, Loop and Scan nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            inside = [attribute.g] if attribute.HasField("g") else []
            for one in (*inside, *attribute.graphs):
                yield from graphs_of(one)


def node_reads(node: Any) -> Iterator[str]:
    """Names that a node reads, those that the graphs inside it take from outside among them."""
    yield from node.input
    for attribute in node.attribute:
        for inside in (attribute.g, *attribute.graphs):
            yield from graph_reads(inside)
            yield from (value.name for value in inside.output)


def graph_reads(graph: Any) -> Iterator[str]:
    """Names that the nodes of a graph read."""
    for node in graph.node:
        yield from node_reads(node)


def inputs_of(proto: Any) -> list[InputInfo]:
    """The inputs that must be fed: those that no constant stands for."""
    onnx = onnx_package()
    constants = {tensor.name for tensor in proto.graph.initializer}
    found = []
    for value in proto.graph.input:
        if value.name in constants:
            continue
        kind = value.type.tensor_type
        try:
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)) if kind.elem_type else None
        except KeyError:
            dtype = None
        # Some converters write -1 for an axis that is free.
        shape = tuple(max(int(dim.dim_value), 0) for dim in kind.shape.dim) if kind.HasField("shape") else None
        found.append(InputInfo(value.name, dtype, shape))
    return found


class Constants:
    """Values of a graph that do not depend on its inputs.

    Parameters
    ----------
    proto : onnx.ModelProto
        `onnx.ModelProto`, its nodes in order.
    """

    def __init__(self, proto: Any) -> None:
        self.onnx = onnx_package()
        self.proto = proto
        fed = {value.name for value in proto.graph.input} if proto.ir_version >= FREE_CONSTANTS else set()
        self.stored = {tensor.name: tensor for tensor in proto.graph.initializer if tensor.name not in fed}
        self.makers = {name: node for node in proto.graph.node for name in node.output}
        self.found: dict[str, Array | None] = {}

    def array(self, name: str) -> Array | None:
        """The value of that name, or None where it depends on an input or is not computed here."""
        if name not in self.found:
            try:
                self.found[name] = self._array(name)
            except Exception:
                # Whatever a damaged constant makes the reader or the evaluator stumble over.
                self.found[name] = None
        return self.found[name]

    def ancestors(self, name: str) -> list[str]:
        """The constant itself and all that it is computed from."""
        if name in self.stored or name not in self.makers:
            return [name]
        return [name, *(deep for inner in self.makers[name].input if inner for deep in self.ancestors(inner))]

    def maker(self, name: str) -> str:
        """The operator that gives a value, or nothing."""
        return str(self.makers[name].op_type) if name in self.makers else ""

    def _array(self, name: str) -> Array | None:
        if name in self.stored:
            return np.asarray(self.onnx.numpy_helper.to_array(self.stored[name]))
        node = self.makers.get(name)
        if node is None or node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type == "Constant":
            values = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}
            if "value" in values:
                return np.asarray(self.onnx.numpy_helper.to_array(values["value"]))
            floats = values.get("value_floats", values.get("value_float"))
            return None if floats is None else np.asarray(floats, np.float32)
        if node.op_type not in _FOLDED:
            return None
        feeds = {inner: self.array(inner) for inner in node.input if inner}
        if any(value is None for value in feeds.values()):
            return None
        helper = self.onnx.helper
        ends = [
            helper.make_tensor_value_info(inner, helper.np_dtype_to_tensor_dtype(value.dtype), list(value.shape))
            for inner, value in feeds.items()
            if value is not None
        ]
        graph = helper.make_graph([node], "constant", ends, [self.onnx.ValueInfoProto(name=name)])
        model = helper.make_model(graph, opset_imports=self.proto.opset_import)
        return np.asarray(self.onnx.reference.ReferenceEvaluator(model).run([name], feeds)[0])


def stored_sizes(proto: Any) -> int:
    """Numbers that a model stores: floats, and integers of up to 8 bits that stand for them."""
    kinds = onnx_package().TensorProto
    counted = {
        getattr(kinds, kind)
        for kind in ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "INT8", "UINT8", "INT4", "UINT4")
        if hasattr(kinds, kind)
    }
    tensors = list(tensors_of(proto))
    return sum(math.prod(tensor.dims) for tensor in tensors if tensor.data_type in counted)


def stored_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes of an ONNX file and of those beside it that hold its weights."""
    whole = Path(path)
    proto = onnx_package().load(whole, load_external_data=False)
    beside = {place_of(tensor, whole.parent)[0] for tensor in tensors_of(proto) if is_external(tensor)}
    return whole.stat().st_size + sum(one.stat().st_size for one in beside)


def check_numbers(proto: Any) -> None:
    """ValueError that names the weights with NaN or infinity in them, if there are any."""
    onnx = onnx_package()
    wrong = []
    for graph in graphs_of(proto.graph):
        named = [(tensor.name, tensor) for tensor in graph.initializer]
        named += [(node.output[0], a.t) for node in graph.node if node.op_type == "Constant" for a in node.attribute]
        for name, tensor in named:
            # Infinity is a number to mask with; NaN, and infinity in a kernel, are weights that were never right.
            if tensor.data_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE):
                continue
            array = onnx.numpy_helper.to_array(tensor)
            if np.isnan(array).any() or (array.ndim >= 3 and not np.isfinite(array).all()):
                wrong.append(name)
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(
            f"weights hold NaN or infinity: {', '.join(map(repr, wrong[:5]))}{more}; the network gives no numbers, "
            "export it again from a checkpoint that does"
        )


def value_shapes(
    proto: Any, wanted: Sequence[str], sizes: Mapping[str, Sequence[int]], feed: Mapping[str, Array] | None = None
) -> dict[str, tuple[int, ...]]:
    """Shapes of values by name, 0 for a size that is not found.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model, which is not changed.
    wanted : sequence of str
        Values whose shape is measured where inference does not find it.
    sizes : mapping of str to sequence of int
        Shapes of inputs that the file leaves open.
    feed : mapping of str to ndarray, optional
        An input for the model; otherwise zeros are tried, where the sizes of all inputs are given.
    """
    onnx = onnx_package()
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    given = {**sizes, **({} if feed is None else {name: value.shape for name, value in feed.items()})}
    for value in model.graph.input:
        if value.name in given:
            del value.type.tensor_type.shape.dim[:]
            for size in given[value.name]:
                value.type.tensor_type.shape.dim.add(dim_value=int(size))
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:
        graph = model.graph
    shapes = {
        value.name: tuple(max(int(dim.dim_value), 0) for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    missing = [name for name in dict.fromkeys(wanted) if not all(shapes.get(name, (0,)))]
    feed = feed if feed is not None else _zeros(inputs_of(model))
    if missing and feed is not None:
        try:
            found = OnnxSession(proto, missing).run(feed, missing)
        except (ImportError, ValueError):
            return shapes
        shapes.update({name: value.shape for name, value in (*feed.items(), *found.items())})
    return shapes


def _zeros(inputs: Sequence[InputInfo]) -> dict[str, Array] | None:
    """Zeros for all inputs, a batch of 1 where it is open.

    None where another size is open, and where an input is no real number: whole numbers may themselves be sizes.
    """
    feed = {}
    for one in inputs:
        if one.shape is None or one.dtype is None or one.dtype.kind != "f":
            return None
        shape = tuple(n or (1 if axis == 0 else 0) for axis, n in enumerate(one.shape))
        if min(shape, default=1) < 1 or math.prod(shape) > _MOST_ZEROS:
            return None
        feed[one.name] = np.zeros(shape, one.dtype)
    return feed


def _sort(graph: Any) -> None:
    """Put the nodes of a graph, and of those inside it, in an order in which they can be run."""
    for node in graph.node:
        for attribute in node.attribute:
            for inside in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                _sort(inside)
    makers = {name: k for k, node in enumerate(graph.node) for name in node.output if name}
    needs = [[makers[name] for name in node_reads(node) if name in makers] for node in graph.node]
    if all(maker < k for k, needed in enumerate(needs) for maker in needed):
        return
    try:
        order = list(graphlib.TopologicalSorter(dict(enumerate(needs))).static_order())
    except graphlib.CycleError as error:
        raise ValueError(f"nodes read each other in a circle: {graph.node[error.args[1][0]].name!r}") from error
    nodes = [type(node)() for node in graph.node]
    for copy, node in zip(nodes, graph.node, strict=True):
        copy.CopyFrom(node)
    del graph.node[:]
    graph.node.extend(nodes[k] for k in order)


def tensors_of(proto: Any) -> Iterator[Any]:
    """All tensors that a model holds, those inside branches and loops among them."""
    for graph in graphs_of(proto.graph):
        yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
