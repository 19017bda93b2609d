"""Small ONNX graphs for tests, and models with channels taken out beside models with zeros for them."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tensorchain.compression.channels import Reader
from tensorchain.compression.onnx_channels import channels_of, reads_of
from tensorchain.compression.onnx_layers import layers_of
from tensorchain.compression.onnx_narrow import _made
from tensorchain.compression.onnx_reading import value_shapes
from tensorchain.compression.onnx_refit import dense_plan
from tensorchain.compression.onnx_rewriting import drop_unread, rewrite

SIZE = (3, 6, 10, 8)


class Net:
    """Nodes one after another, each with a name for its output."""

    def __init__(self, opset=17, ir_version=8, size=SIZE):
        self.opset, self.ir_version, self.size = opset, ir_version, size
        self.rng, self.nodes, self.weights = np.random.default_rng(opset), [], []

    def op(self, kind, *inputs, outputs=1, **attributes):
        names = [f"v{len(self.nodes)}{letter}" for letter in "abc"[:outputs]]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=names[0], **attributes))
        return names[0] if outputs == 1 else names

    def put(self, array):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def weight(self, *shape):
        values = self.rng.standard_normal(shape) / math.sqrt(max(np.prod(shape[1:]), 1))
        return self.put(values.astype(np.float32))

    def vector(self, *shape):
        return self.put((self.rng.random(shape) + 0.5).astype(np.float32))

    def numbers(self, *values):
        return self.put(np.array(values, np.int64))

    def conv(self, source, outputs, inputs, window=1, groups=1, axes=2):
        weight, bias = self.weight(outputs, inputs // groups, *[window] * axes), self.weight(outputs)
        return self.op("Conv", source, weight, bias, group=groups, pads=[window // 2] * 2 * axes)

    def model(self, *outputs):
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *self.size[1:]])
        ends = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", [x], ends, self.weights)
        opset = [helper.make_opsetid("", self.opset)]
        made = helper.make_model(graph, opset_imports=opset, ir_version=self.ir_version)
        for end, value in zip(graph.output, run(made, {"x": np.zeros(self.size, np.float32)}), strict=True):
            kind, shape = helper.np_dtype_to_tensor_dtype(value.dtype), ["n", *value.shape[1:]]
            end.CopyFrom(helper.make_tensor_value_info(end.name, kind, shape))
        return helper.make_model(graph, opset_imports=opset, ir_version=self.ir_version)


def run(model, feed, names=None):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(names, feed)


def feeds(model, count=3):
    """With fewer directions than channels."""
    size = [dim.dim_value or SIZE[0] for dim in model.graph.input[0].type.tensor_type.shape.dim]
    mixing = np.random.default_rng(1).standard_normal((size[1], size[1] - 2))
    found = []
    for seed in range(count):
        values = np.random.default_rng(seed).standard_normal((size[0], size[1] - 2, *size[2:]))
        found.append({"x": np.einsum("cd,nd...->nc...", mixing, values).astype(np.float32)})
    return found


def walked(model, feed):
    """Layers and channels of a model."""
    layers = layers_of(model, {}, feed)
    return layers, channels_of(model, layers, value_shapes(model, reads_of(model), {}, feed))


def zeroed_and_narrow(model, feed, alive):
    """The model with columns of zeros for the classes of channels that are not alive, the narrow one, and its layers.

    Of a graph that is right both give the same.
    """
    layers, channels = walked(model, feed)
    whole, small = onnx.ModelProto(), onnx.ModelProto()
    whole.CopyFrom(model)
    small.CopyFrom(model)
    readers, plans = {}, {}
    for layer in layers:
        name = layer.site.name
        if name not in channels.columns:
            continue
        columns = channels.columns[name]
        gone = (columns >= 0) & ~alive[columns]
        kernel = layer.site.kernel.copy()
        kernel[:, gone] = 0.0
        plans[name] = dense_plan(type(layer)(type(layer.site)(**{**vars(layer.site), "kernel": kernel})))
        readers[name] = Reader(kernel, None, columns, channels.rows[name], 1.0)
        readers[name].open[gone] = False
    rewrite(whole, [layer for layer in layers if layer.site.name in plans], plans)
    narrow = _made(layers, channels, alive, readers, {})
    old = narrow.cut(small)
    changed = [layer for layer in narrow.layers if layer.site.name in narrow.changed]
    rewrite(small, changed, {layer.site.name: dense_plan(layer) for layer in changed})
    drop_unread(small.graph, old)
    return whole, small, narrow.layers
