"""Random graphs: with channels taken out each gives what the whole graph gives with zeros in their place."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.compression.graphs import SIZE, Net, run, walked, zeroed_and_narrow


def one(net, values):
    """A value and its channels."""
    return values[int(net.rng.integers(len(values)))]


def like(net, values, channels):
    """A value with as many channels."""
    return one(net, [value for value in values if value[1] == channels])[0]


def gated(net, value, channels):
    inner = net.op("Relu", net.conv(net.op("GlobalAveragePool", value), 4, channels))
    return net.op("Mul", net.op("Sigmoid", net.conv(inner, channels, 4)), value)


def rows(net, value, channels):
    moved = net.op("Transpose", value, perm=[0, 2, 3, 1])
    moved = net.op("Add", net.op("MatMul", moved, net.weight(channels, channels)), net.vector(channels))
    return net.op("Transpose", moved, perm=[0, 3, 1, 2])


def shifted(net, value, channels):
    padded = net.op("Pad", value, net.numbers(0, 0, 1, 0, 0, 0, 0, 0))
    return net.op("Slice", padded, net.numbers(0), net.numbers(SIZE[2]), net.numbers(2))


def scaled(net, value, channels):
    shapes = ((channels, 1, 1), (1, channels, 1, 1), (1, 1), (channels, *SIZE[2:]))
    return net.op("Mul", net.vector(*shapes[int(net.rng.integers(4))]), value)


STEPS = (
    lambda net, v, c: net.op(str(net.rng.choice(["Relu", "Sigmoid", "HardSwish", "Tanh"])), v),
    lambda net, v, c: net.conv(v, c, c),
    lambda net, v, c: net.conv(v, c, c, 3, c),
    lambda net, v, c: net.conv(v, c, c, 3, 2 if c % 2 == 0 else 1),
    lambda net, v, c: net.op("BatchNormalization", v, *[net.vector(c) for _ in range(4)]),
    lambda net, v, c: net.op("AveragePool", v, kernel_shape=[3, 3], pads=[1] * 4),
    lambda net, v, c: net.op("Softmax", v, axis=int(net.rng.integers(1, 4))),
    lambda net, v, c: net.op("Sub", v, net.op("GlobalMaxPool", v)),
    lambda net, v, c: net.op("Mul", v, net.op("Sigmoid", net.conv(v, 1, c))),
    lambda net, v, c: net.op("Where", net.op("Greater", v, net.vector(c, 1, 1)), v, net.vector(1)),
    lambda net, v, c: net.op("Reshape", v, net.op("Shape", v)),
    gated, rows, shifted, scaled,
)  # fmt: skip
"""Steps that leave the number of channels as it is."""


def graph(seed):
    """Up to 14 steps, each from some value so far."""
    net = Net(int(np.random.default_rng(seed).choice([14, 17, 18])))
    net.rng = np.random.default_rng(seed)
    values = [(net.conv("x", 8, 6), 8)]
    for _ in range(int(net.rng.integers(4, 15))):
        value, channels = one(net, values)
        kind = int(net.rng.integers(8))
        if kind == 0:
            values.append((net.conv(value, 12, channels, 3), 12))
        elif kind == 1:
            operator = str(net.rng.choice(["Add", "Mul", "Max"]))
            values.append((net.op(operator, value, like(net, values, channels)), channels))
        elif kind == 2 and channels < 24:
            other, more = one(net, values)
            values.append((net.op("Concat", value, other, axis=1), channels + more))
        elif kind == 3 and channels > 3:
            sizes = channels // 3, channels - channels // 3
            values += zip(net.op("Split", value, net.numbers(*sizes), outputs=2, axis=1), sizes, strict=True)
        else:
            step = STEPS[int(net.rng.integers(len(STEPS)))]
            values.append((step(net, value, channels), channels))
    last, channels = values[-1]
    flat = net.op("Flatten", net.op("MaxPool", last, kernel_shape=[5, 4], strides=[5, 4]))
    return net.model(net.conv(last, 3, channels), net.op("Gemm", flat, net.weight(4 * channels, 2), net.weight(2)))


@pytest.mark.parametrize("start", range(0, 40, 10))
def test_random_graphs(start):
    free = 0
    for seed in range(start, start + 10):
        model, rng = graph(seed), np.random.default_rng(seed)
        feed = {"x": rng.standard_normal(SIZE).astype(np.float32)}
        channels = walked(model, feed)[1]
        free += channels.count
        if not channels.count:
            continue
        alive = rng.random(channels.count) < 0.7
        parts = [part for node in channels.parts.values() for part in node]
        for ids in (*channels.columns.values(), *channels.rows.values(), *parts):
            # One is left of each layer and part.
            if len(ids) and not ((ids < 0) | alive[ids]).any():
                alive[ids[0]] = True
        whole, small, _ = zeroed_and_narrow(model, feed, alive)
        onnx.checker.check_model(small, full_check=True)
        for expected, found in zip(run(whole, feed), run(small, feed), strict=True):
            assert np.allclose(found, expected, atol=2e-5 * np.abs(expected).max()), seed
    assert free > 60
