"""Graphs of many kinds with fewer channels: the file is valid, runs at any batch, and its accounts are true."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tensorchain.compression import compress_onnx
from tensorchain.compression.onnx_channels import channels_of, reads_of
from tensorchain.compression.onnx_layers import layers_of
from tensorchain.compression.onnx_reading import value_shapes
from tests.compression.graphs import Net, feeds, run


def normalised():
    net, value, width = Net(), "x", 6
    for outputs in (12, 16, 10):
        value = net.op("Conv", value, net.weight(outputs, width, 3, 3), pads=[1] * 4)
        value = net.op("BatchNormalization", value, *[net.vector(outputs) for _ in range(4)])
        value, width = net.op("Relu", value), outputs
    return net.model(net.conv(value, 5, width))


def broadcast():
    """Constants of one, three and four axes on either side."""
    net = Net()
    value = net.op("Add", net.vector(12, 1, 1), net.conv("x", 12, 6))
    value = net.op("Div", net.op("Mul", value, net.vector(1, 12, 1, 1)), net.vector(12, 10, 8))
    value = net.op("PRelu", net.op("Sub", net.vector(1, 1), value), net.vector(12, 1, 1))
    value = net.op("Max", net.op("Transpose", value, perm=[0, 2, 3, 1]), net.vector(12), net.vector(1))
    return net.model(net.op("MatMul", value, net.weight(12, 5)))


def shared():
    """A bias and a factor that two layers read are two where they lose different channels."""
    net = Net()
    bias, factor = net.vector(12), net.vector(12, 1, 1)
    value = net.op("Relu", net.op("Conv", "x", net.weight(12, 6, 1, 1), bias))
    value = net.op("Mul", net.op("Relu", net.op("Conv", value, net.weight(12, 12, 1, 1), bias)), factor)
    return net.model(net.conv(net.op("Mul", net.conv(value, 12, 12), factor), 5, 12))


def old():
    """A file of the first format lists its constants among its inputs."""
    net = Net(11, 3)
    value = net.op("PRelu", net.conv("x", 12, 6), net.vector(12, 1, 1))
    model = net.model(net.conv(net.op("Relu", net.conv(value, 16, 12)), 5, 16))
    infos = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer]
    model.graph.input.extend(infos)
    return model


def halves():
    """Parts of a split, one through a depthwise convolution and a pooling: no part may be empty."""
    net = Net()
    first, second = net.op("Split", net.op("Relu", net.conv("x", 16, 6)), outputs=2, axis=1)
    second = net.op("Relu", net.conv(second, 8, 8, 3, groups=8))
    second = net.op("MaxPool", second, kernel_shape=[3, 3], pads=[1] * 4)
    return net.model(net.conv(net.op("Concat", first, second, axis=1), 7, 16))


def thirds():
    net = Net(18)
    parts = net.op("Split", net.op("Relu", net.conv("x", 16, 6)), outputs=3, axis=1, num_outputs=3)
    return net.model(net.conv(net.op("Concat", net.conv(parts[0], 8, 6), *parts[1:], axis=1), 7, 18))


def masked():
    """The mask of a dropout has the channels too, and is an output."""
    net = Net()
    value, mask = net.op("Dropout", net.op("Relu", net.conv("x", 12, 6)), outputs=2)
    return net.model(net.conv(net.op("Relu", net.conv(value, 16, 12)), 5, 16), mask)


def attended():
    """A gate of one channel for all."""
    net = Net()
    value = net.op("Relu", net.conv("x", 12, 6))
    gated = net.op("Mul", net.op("Sigmoid", net.conv(value, 1, 12)), value)
    return net.model(net.conv(net.op("Relu", net.conv(gated, 16, 12)), 5, 16))


def pyramid():
    """One value and what two poolings make of it, side by side."""
    net, pool = Net(), {"kernel_shape": [3, 3], "pads": [1] * 4}
    values = [net.op("Relu", net.conv("x", 16, 6))]
    for _ in range(2):
        values.append(net.op("MaxPool", values[-1], **pool))
    return net.model(net.conv(net.op("Concat", *values, axis=1), 7, 48))


def lines():
    net = Net(size=(3, 6, 20))
    value = net.op("Relu", net.conv("x", 12, 6, 3, axes=1))
    value = net.op("InstanceNormalization", net.conv(value, 12, 12, 3, 12, 1), net.vector(12), net.vector(12))
    return net.model(net.conv(net.op("Relu", net.conv(value, 16, 12, 3, axes=1)), 5, 16, axes=1))


def computed():
    """A weight that the file computes is one constant afterwards."""
    net = Net()
    weight = net.op("Mul", net.weight(16, 12, 3, 3), net.vector(16, 1, 1, 1))
    value = net.op("Conv", net.op("Relu", net.conv("x", 12, 6)), weight, pads=[1] * 4)
    return net.model(net.conv(net.op("Relu", value), 5, 16))


def selected():
    """A mask of truth values is cut, but is no parameter."""
    net = Net()
    mask = net.put(net.rng.random((12, 10, 8)) < 0.8)
    value = net.op("Where", mask, net.op("Relu", net.conv("x", 12, 6)), net.vector(1))
    return net.model(net.conv(net.op("Relu", net.conv(value, 16, 12)), 5, 16))


NETWORKS = (
    selected, normalised, broadcast, shared, old, halves, thirds, masked, attended, pyramid, lines, computed,
)  # fmt: skip
LEAST = {halves: 0.13, thirds: 0.2, masked: 0.4, attended: 0.2, pyramid: 0.13, broadcast: 0.2, lines: 0.13}


def stored(model):
    """Numbers in initializers."""
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    return sum(math.prod(t.dims) for t in model.graph.initializer if t.data_type in floats)


def multiplications(model, feed):
    """Of one image, from the sizes of the outputs in a run."""
    names = [node.output[0] for node in model.graph.node if node.op_type in ("Conv", "MatMul")]
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    ends = [name for name in names if name not in {end.name for end in probed.graph.output}]
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ends)
    sizes = [value.size for value in run(probed, feed, names)] if names else []
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    # A weight that is computed has the size of its first factor.
    shapes.update((node.output[0], shapes[node.input[0]]) for node in model.graph.node if node.input[0] in shapes)
    total = 0
    for size, name in zip(sizes, names, strict=True):
        node = next(node for node in model.graph.node if node.output[0] == name)
        shape = shapes[node.input[1]]
        total += size * (math.prod(shape[1:]) if node.op_type == "Conv" else shape[0])
    return total / len(feed["x"])


@pytest.mark.parametrize("make", NETWORKS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("budget", ["keep_macs", "keep_params"])
def test_the_file_is_valid_and_its_accounts_are_true(make, budget):
    model = make()
    given, fresh = feeds(model), feeds(model, 9)[-1]
    for share in (0.7, LEAST.get(make, 0.15)):
        if budget == "keep_params" and share < 0.7:
            share = 0.5
        small, report = compress_onnx(model, "channels", calibration=given, **{budget: share})
        onnx.checker.check_model(small, full_check=True)
        assert [value.shape for value in run(small, fresh)] == [value.shape for value in run(model, fresh)]
        assert len(run(small, {"x": fresh["x"][:1]})[0]) == 1
        assert report.parameters[1] == stored(small)
        assert report.macs == (multiplications(model, fresh), multiplications(small, fresh))
        pair = report.macs if budget == "keep_macs" else report.parameters
        assert 0.6 * share * pair[0] < pair[1] <= share * pair[0]


def test_a_depthwise_layer_that_is_spared_keeps_its_channels():
    net = Net()
    value = net.op("Relu", net.conv("x", 12, 6))
    depthwise = net.conv(value, 12, 12, 3, groups=12)
    model = net.model(net.conv(net.op("Relu", net.conv(net.op("Relu", depthwise), 16, 12)), 5, 16))
    _, report = compress_onnx(model, "channels", keep_macs=0.8, calibration=feeds(model), keep=(depthwise,))
    assert {layer.name: layer.macs for layer in report.layers}[depthwise] == (8640, 8640)
    assert report.macs[1] <= 0.8 * report.macs[0]


def test_constant_channels_go_into_the_bias_without_a_refit():
    net = Net()
    weight, bias = net.rng.standard_normal((12, 6, 1, 1)), net.rng.random(12)
    weight[5:] = 0.0
    value = net.op("Conv", "x", *[net.put(array.astype(np.float32)) for array in (weight, bias)])
    model = net.model(net.op("Conv", net.op("Relu", value), net.weight(4, 12, 1, 1)))
    fresh = feeds(model, 5)[-1]
    for refit in (False, True):
        small, report = compress_onnx(model, "channels", keep_macs=0.42, calibration=feeds(model), refit=refit)
        assert report.layers[1].rank == (5, 4)
        assert np.allclose(run(small, fresh)[0], run(model, fresh)[0], atol=1e-4)


def test_what_holds_channels_is_counted():
    net = Net()
    value = net.op("Softmax", net.conv("x", 12, 6), axis=1)
    value = net.op("LRN", net.op("Relu", net.conv(value, 16, 12)), size=3)
    model = net.model(net.conv(value, 5, 16))
    given = feeds(model)
    layers = layers_of(model, {}, given[0])
    found = channels_of(model, layers, value_shapes(model, reads_of(model), {}, given[0]))
    assert found.held == {"Softmax": 12, "LRN": 16, "an output": 5}
    with pytest.raises(ValueError, match=r"no channel can be taken out .*16 by LRN, 12 by Softmax, 5 by an output"):
        compress_onnx(model, "channels", keep_macs=0.9, calibration=given)
