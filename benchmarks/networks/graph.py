"""A stored ResNet as an ONNX model, without PyTorch: convolutions with the normalisations multiplied into them.

Behind each convolution, or the last small one in its place, y = gamma (x - mean) / sqrt(var + eps) + beta becomes part
of its weights and bias, as every runtime would do; int8 quantization then sees the weights that are used.  Names are
kept short, since in an int8 file of some hundred kB they count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.networks.stored import Stored
from tensorchain.compression.conv import Convolution, Fold, Step

INPUT, OUTPUT = "x", "y"
OPSET = 17
_EPSILON = 1e-5


def onnx_model(network: Stored, side: int) -> Any:
    """An `onnx.ModelProto` from x (B, C, side, side) to y (B, classes), for any batch B.

    Raises
    ------
    ImportError without onnx.
    """
    import onnx

    graph = _Graph(onnx)
    recipe = network.recipe
    large = recipe["stem"] == "imagenet"
    value = graph.relu(graph.layer(INPUT, _normalised(network, "conv1", "bn1", 2 if large else 1, 3 if large else 1)))
    if large:
        value = graph.node("MaxPool", [value], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inputs = len(network.state["bn1.bias"])
    for name, stride, shortcut in network.blocks():
        outputs = len(network.state[f"{name}.bn2.bias"])
        inside = graph.relu(graph.layer(value, _normalised(network, f"{name}.conv1", f"{name}.bn1", stride, 1)))
        inside = graph.layer(inside, _normalised(network, f"{name}.conv2", f"{name}.bn2", 1, 1))
        if shortcut:
            steps = _normalised(network, f"{name}.downsample.0", f"{name}.downsample.1", stride, 0)
            value = graph.layer(value, steps)
        elif inputs != outputs:
            value = graph.widened(value, stride, (outputs - inputs) // 2)
        value = graph.relu(graph.node("Add", [inside, value]))
        inputs = outputs
    value = graph.node("Flatten", [graph.node("GlobalAveragePool", [value])])
    steps = network.layer("fc")
    for k, step in enumerate(steps):
        assert isinstance(step, Convolution)
        bias = np.zeros(step.outputs, np.float32) if step.bias is None else step.bias
        inputs = [value, graph.constant(step.weight[:, :, 0, 0]), graph.constant(bias)]
        value = graph.node("Gemm", inputs, output=OUTPUT if k == len(steps) - 1 else None, transB=1)
    return graph.model(("B", recipe["channels"], side, side), ("B", recipe["classes"]))


def _normalised(network: Stored, layer: str, norm: str, stride: int, padding: int) -> tuple[Step, ...]:
    """The steps of a layer with the normalisation behind it in the last of them."""
    *before, last = network.layer(layer, stride, padding)
    assert isinstance(last, Convolution)
    gamma, beta, mean, variance = (
        network.state[f"{norm}.{name}"].astype(np.float64) for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + _EPSILON)
    bias = (0.0 if last.bias is None else last.bias) - mean
    weight = last.weight * scale[:, None, None, None]
    return (*before, replace(last, weight=weight, bias=bias * scale + beta))


class _Graph:
    """Nodes and constants with short names."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """The name of the node's output."""
        name = f"v{len(self.nodes)}" if output is None else output
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [name], f"n{len(self.nodes)}", **attributes))
        return name

    def constant(self, array: np.ndarray) -> str:
        """The name of a constant; numbers are in single precision."""
        name = f"w{len(self.constants)}"
        kept = array.astype(np.float32) if array.dtype.kind == "f" else array
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(kept), name))
        return name

    def relu(self, value: str) -> str:
        return self.node("Relu", [value])

    def layer(self, value: str, steps: Sequence[Step]) -> str:
        """Convolutions and folds, one after the other."""
        channels = 0
        for step in steps:
            if isinstance(step, Convolution):
                value, channels = self.convolution(value, step), step.outputs
                continue
            channels = channels // step.groups if isinstance(step, Fold) else channels * step.groups
            # The batch is not fixed; height and width are kept.
            size = self.node("Slice", [self.node("Shape", [value]), *map(self.index, (2, 4))])
            head = self.constant(np.array([-1, channels], np.int64))
            value = self.node("Reshape", [value, self.node("Concat", [head, size], axis=0)])
        return value

    def index(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def widened(self, value: str, stride: int, more: int) -> str:
        """A shortcut without weights: every `stride`-th pixel, and channels of zeros on either side."""
        ends = self.index(2**31 - 1, 2**31 - 1)
        value = self.node("Slice", [value, self.index(0, 0), ends, self.index(2, 3), self.index(stride, stride)])
        return self.node("Pad", [value, self.index(0, more, 0, 0, 0, more, 0, 0)])

    def convolution(self, value: str, step: Convolution) -> str:
        (top, bottom), (left, right) = step.geometry.padding
        inputs = [value, self.constant(step.weight)]
        if step.bias is not None:
            inputs.append(self.constant(step.bias))
        return self.node(
            "Conv", inputs, kernel_shape=step.window, group=step.groups, strides=step.geometry.stride,
            dilations=step.geometry.dilation, pads=(top, left, bottom, right),
        )  # fmt: skip

    def model(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """The checked model."""
        helper, kind = self.onnx.helper, self.onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes, "resnet", [helper.make_tensor_value_info(INPUT, kind, inputs)],
            [helper.make_tensor_value_info(OUTPUT, kind, outputs)], self.constants,
        )  # fmt: skip
        # A version of the format that older runtimes read too.
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        self.onnx.checker.check_model(model, full_check=True)
        return model


def short_names(model: Any) -> Any:
    """A copy of a model, without graphs inside its nodes, whose values are named by numbers.

    Quantizers name each value after all that happened to it; in a small file these names are a fifth of the bytes.
    """
    copy = type(model)()
    copy.CopyFrom(model)
    graph = copy.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    names: dict[str, str] = {"": ""}

    def short(name: str) -> str:
        if name not in names:
            names[name] = name if name in kept else f"_{len(names):x}"
        return names[name]

    for node in graph.node:
        node.name = ""
        node.doc_string = ""
        for side in (node.input, node.output):
            side[:] = [short(name) for name in side]
    for tensor in graph.initializer:
        tensor.name = short(tensor.name)
    del graph.value_info[:]
    return copy
