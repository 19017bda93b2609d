"""Put the nodes of plans in place of layers in an ONNX graph, and drop the constants that nothing reads any more."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tensorchain.compression.conv import LayerPlan
from tensorchain.compression.onnx_layers import OnnxLayer
from tensorchain.compression.onnx_nodes import plan_nodes
from tensorchain.compression.onnx_reading import FREE_CONSTANTS, Constants, graph_reads, graphs_of, opset_of
from tensorchain.compression.onnx_session import onnx_package


def rewritten(model: Any, layers: Sequence[OnnxLayer], plans: Mapping[str, LayerPlan]) -> Any:
    """A copy of a model with the plans, by name, in place of the layers."""
    small = onnx_package().ModelProto()
    small.CopyFrom(model)
    rewrite(small, layers, plans)
    return small


def rewrite(
    proto: Any, layers: Sequence[OnnxLayer], plans: Mapping[str, LayerPlan]
) -> dict[str, tuple[tuple[str, str], ...]]:
    """Put the nodes of the plans in place of the old ones, in place; the names of their weights by layer."""
    graph, onnx = proto.graph, onnx_package()
    by_node = {layer.node: layer for layer in layers}
    taken = {name for node in graph.node for name in (*node.output, node.name)} | set(graph_reads(graph))
    taken |= {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    taken |= {name for part in graphs_of(graph) for node in part.node for name in node.output}
    constants = Constants(proto)
    nodes: list[Any] = []
    tensors: list[Any] = []
    old: set[str] = set()
    weights: dict[str, tuple[tuple[str, str], ...]] = {}
    for index, node in enumerate(graph.node):
        layer = by_node.get(index)
        if layer is None:
            nodes.append(node)
            continue
        old.update(name for one in node.input[1:] if one for name in constants.ancestors(one))
        new = plan_nodes(node, plans[layer.site.name], taken, kind=layer.kind, dtype=layer.dtype, opset=opset_of(proto))
        nodes.extend(new.nodes)
        tensors.extend(new.constants)
        weights[layer.site.name] = new.weights
    copies = [_copy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    drop_unread(graph, old)
    graph.initializer.extend(tensors)
    if proto.ir_version < FREE_CONSTANTS:
        info = onnx.helper.make_tensor_value_info
        graph.input.extend(info(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in tensors)
    return weights


def drop_unread(graph: Any, old: Collection[str]) -> None:
    """Take out constants of replaced layers, and the nodes that made them, where nothing else reads them."""
    gone: set[str] = set()
    while True:
        read = set(graph_reads(graph)) | {value.name for value in graph.output}
        dead = [
            k for k, node in enumerate(graph.node)
            if node.output and all(name in old and name not in read for name in node.output)
        ]  # fmt: skip
        if not dead:
            break
        for k in reversed(dead):
            gone.update(graph.node[k].output)
            del graph.node[k]
    gone |= {name for name in old if name not in read}
    # Old files list their constants among the inputs too.
    for field in (graph.initializer, graph.input, graph.value_info):
        for k in reversed([k for k, entry in enumerate(field) if entry.name in gone]):
            del field[k]


def _copy(node: Any) -> Any:
    twin = type(node)()
    twin.CopyFrom(node)
    return twin
