"""What channels go through, and what holds them: by counts, and by narrow graphs beside the whole ones."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.compression.graphs import Net, feeds, run, walked, zeroed_and_narrow

SQUARE = (2, 6, 12, 12)
POOL = {"kernel_shape": [2, 2], "strides": [2, 2]}


def through(make, opset=17, size=None, outputs=12):
    """A convolution, what `make` does to its channels, and two more."""
    net = Net(opset) if size is None else Net(opset, size=size)
    axes = len(net.size) - 2
    value = make(net, net.op("Relu", net.conv("x", 12, 6, axes=axes)))
    if isinstance(value, tuple):
        value, outputs = value
    last = net.conv(net.op("Relu", net.conv(value, 8, outputs, axes=axes)), 3, 8, axes=axes)
    return net.model(last)


def tokens(make, size=(3, 9, 6), opset=17):
    """The same with products of matrices over the last axis."""
    net = Net(opset, size=size)
    value = make(net, net.op("Relu", net.op("MatMul", "x", net.weight(size[-1], 12))))
    return net.model(net.op("MatMul", net.op("Relu", net.op("MatMul", value, net.weight(12, 8))), net.weight(8, 3)))


def rows(net, value, width):
    """A product and another one."""
    value = net.op("Relu", net.op("Gemm", value, net.weight(width, 8), net.weight(8)))
    return net.op("Gemm", value, net.weight(8, 3), net.weight(3))


def flat(pooled):
    net = Net()
    value = net.op("Relu", net.conv("x", 12, 6))
    value = net.op("GlobalAveragePool", value) if pooled else net.op("MaxPool", value, kernel_shape=[5, 4])
    # (n, 12, 1, 1), or (n, 12, 6, 5).
    return net.model(rows(net, net.op("Flatten", value), 12 if pooled else 360))


def mean(net, value, axes, **attributes):
    return net.op("ReduceMean", value, axes=axes, **attributes)


def flat_last():
    """Columns of one channel are not side by side."""
    net = Net()
    value = net.op("Transpose", net.op("Relu", net.conv("x", 12, 6)), perm=[0, 2, 3, 1])
    return net.model(rows(net, net.op("Flatten", value), 960))


def pad(net, value, *pads):
    return net.op("Pad", value, net.numbers(*pads))


def resized(net, value, *scales):
    return net.op("Resize", value, "", net.put(np.array(scales, np.float32)), mode="nearest")


def sliced(net, value, axis):
    return net.op("Slice", value, net.numbers(0), net.numbers(6), net.numbers(axis))


def sliced_somewhere(net, value):
    """The axis is known in a run only; it is that of the channels."""
    axis = net.op("Div", net.op("Shape", "x", start=1, end=2), net.numbers(6))
    return net.op("Slice", value, net.numbers(0), net.numbers(6), axis), 6


def lifted(net, value):
    """Two more axes in front, a constant along the first, and back: the axis of the channels moves twice."""
    value = net.op("Add", value, net.vector(2, 1, 12, 1, 1))
    return net.op("Squeeze", mean(net, value, [0]), net.numbers(0))


def exchanged(net, value):
    """A constant that fits only where the axes have changed places."""
    value = net.op("Add", net.op("Transpose", value, perm=[1, 0, 3, 2]), net.vector(12, 1, 8, 10))
    return net.op("Transpose", value, perm=[1, 0, 3, 2])


def pooled_rows():
    net = Net()
    value = mean(net, net.op("Relu", net.conv("x", 12, 6)), [2, 3], keepdims=0)
    return net.model(rows(net, value, 12))


FREE = {
    "softmax over places": lambda: through(lambda net, v: net.op("Softmax", v, axis=3)),
    "padded images": lambda: through(lambda net, v: pad(net, v, 0, 0, 1, 2, 0, 0, 0, 1)),
    "sliced images": lambda: through(lambda net, v: sliced(net, v, 2)),
    "where": lambda: through(
        lambda net, v: net.op("Where", net.op("Greater", v, net.vector(12, 1, 1)), v, net.vector(1))
    ),
    "clipped": lambda: through(lambda net, v: net.op("Clip", v, net.put(np.float32(0)), net.put(np.float32(1)))),
    "lifted": lambda: through(lifted),
    "mean over images": lambda: through(lambda net, v: net.op("Sub", v, mean(net, v, [0]))),
    "larger images": lambda: through(lambda net, v: resized(net, v, 1, 1, 2, 2)),
    "an axis more": lambda: through(
        lambda net, v: net.op("Squeeze", net.op("Unsqueeze", v, net.numbers(1)), net.numbers(1))
    ),
    "transposed": lambda: through(exchanged),
    "mean of places, rows": pooled_rows,
    "flat after a pooling": lambda: flat(True),
    "flat images": lambda: flat(False),
    "tokens": lambda: tokens(lambda net, v: net.op("Add", v, net.vector(12))),
    "tokens, mean of all": lambda: tokens(lambda net, v: net.op("Mul", v, mean(net, v, [1]))),
    "a volume": lambda: through(lambda net, v: net.op("MaxPool", v, kernel_shape=[2, 2, 2]), size=(2, 6, 4, 3, 4)),
}  # fmt: skip
"""All 12 and 8 channels are free."""


@pytest.mark.parametrize("name", FREE)
def test_channels_that_go_through(name):
    model = FREE[name]()
    feed = feeds(model)[0]
    channels = walked(model, feed)[1]
    assert channels.count == 20
    assert channels.held == {"an output": 3}
    for seed in range(2):
        alive = np.random.default_rng(seed).random(20) < 0.6
        alive[[0, 13]] = True
        whole, small, layers = zeroed_and_narrow(model, feed, alive)
        expected, found = run(whole, feed)[0], run(small, feed)[0]
        assert np.allclose(found, expected, atol=1e-5 * np.abs(expected).max())
        onnx.checker.check_model(small, full_check=True)
        assert sum(len(layer.site.kernel) for layer in layers) == alive.sum() + 3


def branch(kind, value):
    node = helper.make_node(kind, [value], [f"inner{kind}"])
    return helper.make_graph([node], kind, [], [helper.make_tensor_value_info(f"inner{kind}", TensorProto.FLOAT, None)])


def branching(net, value):
    condition = net.op("Greater", net.op("ReduceSum", "x", keepdims=0), net.put(np.float32(0)))
    return net.op("If", condition, then_branch=branch("Abs", value), else_branch=branch("Neg", value))


def unpooled(net, value):
    values, places = net.op("MaxPool", value, outputs=2, **POOL)
    return net.op("MaxUnpool", values, places, **POOL)


def computed_scale(net, value):
    """The factors of a normalisation come out of the network."""
    scale = mean(net, net.conv("x", 12, 6), [0, 2, 3], keepdims=0)
    return net.op("InstanceNormalization", value, scale, net.vector(12))


def trained(net, value):
    """The running statistics are outputs too."""
    out = net.op("BatchNormalization", value, *[net.vector(12) for _ in range(4)], outputs=3, training_mode=1)
    net.op("Identity", out[1])
    return out[0]


def made_of_channels(net, value):
    """A weight that comes out of the network."""
    return net.op("Conv", value, net.op("Mul", net.weight(12, 12, 1, 1), mean(net, value, [0, 1, 2, 3])))


HELD = {
    "softmax over channels": (lambda: through(lambda net, v: net.op("Softmax", v, axis=1)), {"Softmax": 12}),
    "softmax of old": (lambda: through(lambda net, v: net.op("Softmax", v, axis=3), opset=11), {"Softmax": 12}),
    "padded channels": (lambda: through(lambda net, v: (pad(net, v, 0, 1, 0, 0, 0, 1, 0, 0), 14)), {"Pad": 12}),
    "sliced channels": (lambda: through(lambda net, v: (sliced(net, v, 1), 6)), {"Slice": 12}),
    "sliced somewhere": (lambda: through(sliced_somewhere), {"Slice": 12}),
    "gathered": (lambda: through(lambda net, v: (net.op("Gather", v, net.numbers(3, 1), axis=1), 2)), {"Gather": 12}),
    "more channels": (lambda: through(lambda net, v: (resized(net, v, 1, 2, 1, 1), 24)), {"Resize": 12}),
    "mean of channels": (
        lambda: through(lambda net, v: net.op("Sub", v, mean(net, v, [1]))), {"ReduceMean": 12},
    ),
    "sum of all": (
        lambda: through(lambda net, v: net.op("Mul", v, net.op("ReduceSum", v, keepdims=1))), {"ReduceSum": 12},
    ),
    "sum over other axes": (
        lambda: through(lambda net, v: net.op("Add", v, net.op("Transpose", v, perm=[0, 2, 1, 3])), size=SQUARE),
        {"Add": 12},
    ),
    "an input beside": (
        lambda: through(lambda net, v: net.op("Add", v, net.op("Concat", "x", "x", axis=1))), {"Add": 12},
    ),
    "side by side in space": (lambda: through(lambda net, v: net.op("Concat", v, v, axis=2)), {"Concat": 12}),
    "split in space": (
        lambda: through(lambda net, v: net.op("Split", v, outputs=2, axis=2)[0], size=(2, 6, 12, 8)), {"Split": 12},
    ),
    "a branch": (lambda: through(branching), {"If": 12}),
    "places of a pooling": (lambda: through(unpooled), {"MaxPool": 12}),
    "a computed scale": (lambda: through(computed_scale), {"InstanceNormalization": 24}),
    "statistics": (lambda: through(trained), {"BatchNormalization": 12}),
    "a mixing of neighbours": (lambda: through(lambda net, v: net.op("LRN", v, size=3)), {"LRN": 12}),
    "tokens as channels": (
        lambda: tokens(lambda net, v: net.op("Transpose", v, perm=[0, 2, 1]), size=(3, 12, 6)), {"MatMul": 12},
    ),
    "tokens, pooled": (
        lambda: tokens(lambda net, v: net.op("MaxPool", v, kernel_shape=[3], pads=[1, 1])), {"MaxPool": 12},
    ),
    "tokens, a normalisation": (
        lambda: tokens(lambda net, v: net.op("InstanceNormalization", v, net.vector(9), net.vector(9))),
        {"InstanceNormalization": 12},
    ),
    "groups": (lambda: through(lambda net, v: net.conv(v, 12, 12, 3, 4)), {"Conv": 12}),
    "transposed": (
        lambda: through(lambda net, v: net.op("ConvTranspose", v, net.weight(12, 12, 2, 2))), {"ConvTranspose": 12},
    ),
    "transposed, one by one": (
        lambda: through(lambda net, v: net.op("ConvTranspose", v, net.weight(12, 1, 2, 2), group=12)),
        {"ConvTranspose": 12},
    ),
    "a weight that is computed": (lambda: through(made_of_channels), {"ReduceMean": 12}),
    "told sizes": (
        lambda: through(lambda net, v: net.op("Resize", v, "", "", net.numbers(3, 12, 5, 4), mode="nearest")),
        {"Resize": 12},
    ),
    "flat, channels last": (flat_last, {"Flatten": 12}),
    "reshaped": (lambda: through(lambda net, v: net.op("Reshape", v, net.numbers(0, 12, 8, 10))), {"Reshape": 12}),
}  # fmt: skip
"""The first 12 channels are held, by these operators; the 8 behind them are free."""


@pytest.mark.parametrize("name", HELD)
def test_channels_that_are_held(name):
    make, holders = HELD[name]
    model = make()
    channels = walked(model, feeds(model)[0])[1]
    assert channels.held == {**holders, "an output": 3}
    assert channels.count == 8


def test_one_split_has_parts_of_the_channels_that_are_left():
    net = Net(18)
    parts = net.op("Split", net.op("Relu", net.conv("x", 16, 6)), outputs=3, axis=1, num_outputs=3)
    model = net.model(net.op("Conv", net.op("Concat", *parts[::-1], axis=1), net.weight(4, 16, 1, 1)))
    feed = feeds(model)[0]
    channels = walked(model, feed)[1]
    # Three parts of 16: 6, 6 and 4.
    assert [len(part) for part in next(iter(channels.parts.values()))] == [6, 6, 4]
    alive = np.arange(16) % 3 != 0
    whole, small, _ = zeroed_and_narrow(model, feed, alive)
    assert np.allclose(run(small, feed)[0], run(whole, feed)[0], atol=1e-5)
