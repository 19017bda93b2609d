"""Channels that are taken out of ONNX models: what belongs together, what is chosen, and what is written."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tensorchain.compression import compress_onnx, compress_onnx_within
from tensorchain.compression.channels import Reader, narrowed
from tensorchain.compression.onnx_layers import layers_of
from tests.compression.graphs import walked, zeroed_and_narrow

SIZE = (2, 6, 10, 8)
PADS = {"pads": [1, 1, 1, 1]}


def array(name, *shape, seed=None):
    values = np.random.default_rng(sum(map(ord, name)) if seed is None else seed).standard_normal(shape)
    return numpy_helper.from_array((values / np.sqrt(max(np.prod(shape[1:]), 1))).astype(np.float32), name)


def model(nodes, weights, opset=17, ir_version=8, size=SIZE):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", *size[1:]))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def conv(source, target, outputs, inputs, window=1, groups=1, bias=True):
    """A convolution and its constants."""
    names = [f"{target}.w", *([f"{target}.b"] if bias else [])]
    pads = {"pads": [window // 2] * 4}
    node = helper.make_node("Conv", [source, *names], [target], name=target, group=groups, **pads)
    return node, [array(names[0], outputs, inputs // groups, window, window), *[array(n, outputs) for n in names[1:]]]


def built(*parts, **options):
    nodes, weights = [], []
    for part in parts:
        node, own = part if isinstance(part, tuple) else (part, [])
        nodes.append(node)
        weights += own
    return model(nodes, weights, **options)


def op(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs.split(), output.split(), **attributes)


def residual():
    return built(
        conv("x", "a", 8, 6, 3), op("Relu", "a", "b"), conv("b", "c", 8, 8, 3), op("Add", "b c", "d"),
        op("Relu", "d", "e"), conv("e", "f", 8, 8, bias=False), op("Add", "f d", "g"), conv("g", "y", 5, 8),
    )  # fmt: skip


def split(opset=17):
    parts = (
        conv("x", "a", 12, 6), op("Split", "a", "b c", axis=1), conv("c", "d", 6, 6, 3), op("Relu", "d", "e"),
        op("Concat", "b c e", "f", axis=1), op("MaxPool", "f", "g", kernel_shape=[2, 2]), conv("g", "y", 7, 18),
    )  # fmt: skip
    return built(*parts, opset=opset)


def uneven():
    sizes = numpy_helper.from_array(np.array([4, 8]), "sizes")
    return built(
        conv("x", "a", 12, 6), (op("Split", "a sizes", "b c", axis=1), [sizes]), conv("b", "d", 8, 4, 3),
        op("Mul", "c d", "e"), conv("e", "y", 5, 8),
    )  # fmt: skip


def gated():
    """A depthwise convolution, a normalisation, constants for each channel and for all, and a gate."""
    numbers = [
        array("s", 16),
        array("t", 16),
        array("m", 16),
        numpy_helper.from_array(np.full(16, 2.0, np.float32), "v"),
    ]
    scale = [array("scale", 1, 16, 1, 1), numpy_helper.from_array(np.array(0.5, np.float32), "half")]
    return built(
        conv("x", "a", 16, 6), (op("BatchNormalization", "a s t m v", "b"), numbers), op("HardSwish", "b", "c"),
        conv("c", "d", 16, 16, 3, groups=16), (op("Mul", "scale d", "e"), scale), op("Add", "e half", "f"),
        op("GlobalAveragePool", "f", "p"), conv("p", "q", 4, 16), op("Relu", "q", "r"), conv("r", "u", 16, 4),
        op("Sigmoid", "u", "v2"), op("Mul", "f v2", "h"), conv("h", "y", 5, 16, 3),
    )  # fmt: skip


def rows():
    """Products of matrices behind a transposition, and one behind a pooling."""
    weights = [array("w1", 10, 9), array("b1", 9), array("w2", 4, 9), array("b2", 4)]
    return built(
        conv("x", "a", 10, 6), op("GlobalAveragePool", "a", "p"), op("Flatten", "p", "f"),
        (op("MatMul", "f w1", "m"), weights), op("Add", "m b1", "k"), op("Relu", "k", "r"),
        op("Gemm", "r w2 b2", "y", transB=1),
    )  # fmt: skip


def leaves():
    """Channels that are an output, are reshaped or normalised together stay."""
    shape = numpy_helper.from_array(np.array([0, -1]), "shape")
    return built(
        conv("x", "a", 8, 6), conv("a", "b", 8, 8), op("Softmax", "b", "c", axis=1), conv("c", "d", 9, 8),
        (op("Reshape", "d shape", "r"), [shape]), op("Relu", "r", "z"),
        op("ReduceMean", "z", "y", keepdims=0, axes=[1]),
    )  # fmt: skip


NETWORKS = {
    "residual": (residual, 8), "split": (split, 18), "split by an attribute": (lambda: split(11), 18),
    "uneven": (uneven, 12), "gated": (gated, 20), "rows": (rows, 19), "leaves": (leaves, 8),
}  # fmt: skip


def outputs(proto, feed):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_narrow_model_is_the_whole_one_with_zeros_for_the_channels_that_are_gone(name, seed):
    make, count = NETWORKS[name]
    proto = make()
    feed = {"x": np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)}
    channels = walked(proto, feed)[1]
    assert channels.count == count
    alive = np.random.default_rng(seed).random(channels.count) < 0.6
    alive[:2] = True
    whole, small, narrow = zeroed_and_narrow(proto, feed, alive)
    expected, found = outputs(whole, feed), outputs(small, feed)
    assert np.allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert small.ByteSize() < proto.ByteSize() + 400
    after = sum(layer.site.macs for layer in layers_of(small, {}, feed))
    assert after == sum(layer.site.macs for layer in narrow)


def reader(outputs=5, inputs=6, window=(1, 1), seed=0):
    rng = np.random.default_rng(seed)
    size = inputs * window[0] * window[1]
    patches = rng.standard_normal((300, size)) @ rng.standard_normal((size, size))
    kernel = rng.standard_normal((outputs, inputs, *window))
    columns = np.arange(inputs)
    return Reader(kernel, patches.T @ patches / 300, columns, np.full(outputs, -1), 100.0), patches


@pytest.mark.parametrize("window", [(1, 1), (3, 2)])
def test_losses_and_weights_are_those_of_least_squares_on_what_is_left(window):
    own, patches = reader(window=window)
    taps = window[0] * window[1]
    wanted = patches @ own.weight.reshape(5, -1).T
    gone: list[int] = []
    for column in (4, 1, 2):
        losses, gap = own.losses(), 0.0
        for c in range(6):
            left = [k * taps + t for k in range(6) if k not in [*gone, c] for t in range(taps)]
            weight = np.linalg.lstsq(patches[:, left], wanted, rcond=None)[0]
            now = np.sum((patches[:, left] @ weight - wanted) ** 2)
            before = [k * taps + t for k in range(6) if k not in gone for t in range(taps)]
            base = np.linalg.lstsq(patches[:, before], wanted, rcond=None)
            gap = now - np.sum((patches[:, before] @ base[0] - wanted) ** 2)
            expected = 0.0 if c in gone else gap / np.sum(wanted**2)
            assert losses[c] == pytest.approx(expected, rel=1e-3, abs=1e-6)
        own.close(np.array([column]))
        gone.append(column)
        left = [k * taps + t for k in range(6) if k not in gone for t in range(taps)]
        weight = np.linalg.lstsq(patches[:, left], wanted, rcond=None)[0]
        found = patches @ own.weight.reshape(5, -1).T
        assert np.linalg.norm(found - patches[:, left] @ weight) < 1e-2 * np.linalg.norm(wanted)
        assert not own.weight[:, gone].any()


def test_what_saves_nothing_goes_last_and_a_budget_out_of_reach_is_said():
    def pair():
        # Two channels for each class of the second half: they cost twice.
        own, _ = reader(inputs=8, outputs=4)
        writer = Reader(np.ones((8, 3, 1, 1)), None, np.full(3, -1), np.arange(8), 30.0)
        return {"writer": writer, "own": own}

    alive = narrowed(pair(), 8, 90.0)
    assert 4 <= alive.sum() < 8
    assert 30.0 * alive.mean() + 100.0 * alive.mean() <= 90.0
    with pytest.raises(ValueError, match="with the fewest channels"):
        narrowed(pair(), 8, 1.0)


def twins():
    """Every channel twice: half of them say nothing new."""
    proto = built(conv("x", "a", 12, 6, 3), op("Relu", "a", "b"), conv("b", "y", 5, 12, 3))
    for tensor in proto.graph.initializer:
        if tensor.name.startswith("a."):
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.concatenate([values[:6], 2.0 * values[:6]]), tensor.name))
    return proto


@pytest.mark.parametrize("share", [0.5, 0.6])
def test_channels_that_repeat_others_go_without_a_loss(share):
    proto = twins()
    feeds = [{"x": np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)} for seed in range(4)]
    small, report = compress_onnx(proto, "channels", keep_macs=share, calibration=feeds)
    assert report.macs[1] <= share * report.macs[0]
    assert [layer.method for layer in report.layers] == ["channels", "channels"]
    assert report.layers[1].rank == (6 if share == 0.5 else 7, 5)
    fresh = {"x": np.random.default_rng(9).standard_normal(SIZE).astype(np.float32)}
    expected, found = outputs(proto, fresh), outputs(small, fresh)
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)
    assert len(small.graph.node) == len(proto.graph.node)


def smooth(seed):
    images = np.random.default_rng(seed).standard_normal((2, 6, 14, 12)).cumsum(2).cumsum(3)[..., 4:, 4:]
    return {"x": (images / images.std()).astype(np.float32)}


def test_narrow_layers_answer_for_what_is_gone_and_layers_may_be_spared():
    proto, fresh = residual(), smooth(99)
    feeds = [smooth(seed) for seed in range(8)]
    expected = outputs(proto, fresh)
    for refit in (False, True):
        small, report = compress_onnx(proto, "channels", keep_macs=0.6, calibration=feeds, refit=refit)
        assert report.macs[1] <= 0.6 * report.macs[0]
        assert np.linalg.norm(outputs(small, fresh) - expected) < 0.25 * np.linalg.norm(expected)
    _, report = compress_onnx(split(), "channels", keep_macs=0.9, calibration=feeds, keep=("d",))
    methods = {layer.name: layer.method for layer in report.layers}
    assert methods == {"a": "channels", "d": "dense", "y": "channels"}
    assert report.seconds > 0.0
    # All channels of these two are read by the 1 x 1 layer f, which is left alone on request.
    with pytest.raises(ValueError, match=r"no channel can be taken out .*8 by Conv"):
        compress_onnx(residual(), "channels", keep_macs=0.9, calibration=feeds, pointwise=False)


def test_the_default_takes_channels_where_they_bring_the_outputs_nearer():
    feeds = [{"x": np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)} for seed in range(4)]
    # Twins lose nothing by channels; where a product of rank 4 is one layer, a decomposition loses nothing.
    _, report = compress_onnx(twins(), keep_macs=0.5, calibration=feeds, candidates=3, stabilise=False)
    assert {layer.method for layer in report.layers} == {"channels"}
    proto = built(conv("x", "a", 24, 6), op("Relu", "a", "b"), conv("b", "y", 24, 24))
    low = np.random.default_rng(0).standard_normal((2, 24, 3)).astype(np.float32)
    proto.graph.initializer[2].CopyFrom(numpy_helper.from_array((low[0] @ low[1].T)[:, :, None, None], "y.w"))
    _, report = compress_onnx(proto, keep_macs=0.5, calibration=feeds, candidates=12)
    assert report.layers[1].method == "svd"
    assert report.macs[1] <= 0.5 * report.macs[0]


def test_the_smallest_model_within_a_bound_by_channels():
    feeds = [smooth(seed) for seed in range(4)]
    small, report = compress_onnx_within(twins(), "channels", calibration=feeds, max_output_error=0.05, trials=4)
    assert report.macs[1] < 0.7 * report.macs[0]
    expected, found = outputs(twins(), feeds[0]), outputs(small, feeds[0])
    assert np.linalg.norm(found - expected) < 0.06 * np.linalg.norm(expected)


@pytest.mark.parametrize("method", ["channels", "svd"])
def test_files_of_the_first_format_and_constants_in_nodes_or_of_half_precision(method):
    feeds = [smooth(seed) for seed in range(2)]
    listed, inside, halves = gated(), gated(), gated()
    listed.ir_version, listed.opset_import[0].version = 3, 14
    for tensor in listed.graph.initializer:
        listed.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    first = [helper.make_node("Constant", [], [t.name], value=t) for t in inside.graph.initializer]
    casts = [helper.make_node("Cast", [f"{t.name}.h"], [t.name], to=1) for t in halves.graph.initializer]
    for tensor in halves.graph.initializer:
        half = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, f"{tensor.name}.h"))
    for proto, nodes in ((inside, first), (halves, casts)):
        nodes = [*nodes, *proto.graph.node]
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
    del inside.graph.initializer[:]
    for proto in (listed, inside, halves):
        small, report = compress_onnx(proto, method, keep_macs=0.7, calibration=feeds)
        assert report.macs[1] <= 0.7 * report.macs[0]
        expected, found = outputs(proto, feeds[0]), outputs(small, feeds[0])
        assert np.linalg.norm(found - expected) < 0.3 * np.linalg.norm(expected)


def test_what_channels_need_is_said():
    with pytest.raises(ValueError, match="calibration"):
        compress_onnx(residual(), "channels", keep_macs=0.5)
    feeds = [{"x": np.zeros(SIZE, np.float32)}]
    with pytest.raises(ValueError, match="channels has no weights on a grid"):
        compress_onnx(residual(), "channels", keep_macs=0.5, calibration=feeds, weight_bits=4)
    with pytest.raises(ValueError, match="keep names 'nowhere', which is no layer"):
        compress_onnx(residual(), "channels", keep_macs=0.5, calibration=feeds, keep=("nowhere",))
    with pytest.raises(ValueError, match="channels"):
        compress_onnx(residual(), "channels", keep_macs=0.01, calibration=feeds)
    with pytest.raises(ValueError, match="channels"):
        compress_onnx(leaves(), "channels", keep_macs=0.1, calibration=feeds)


class PerMultiplication:
    def networks(self, models):
        return [1e4 + sum(layer.site.macs for layer in layers_of(model, {}, smooth(0))) for model in models]


def test_channels_go_by_parameters_and_by_time_too():
    proto, feeds = split(), [smooth(seed) for seed in range(2)]
    small, report = compress_onnx(proto, "channels", keep_params=0.5, calibration=feeds)
    stored = sum(np.prod(tensor.dims) for tensor in small.graph.initializer)
    # The sizes of the split are numbers that the file stores too.
    assert report.parameters[1] == stored - 2
    assert 0.3 * report.parameters[0] < stored <= 0.5 * report.parameters[0]
    clock = PerMultiplication()
    small, report = compress_onnx(proto, "channels", keep_latency=0.6, calibration=feeds, clock=clock)
    before, after = clock.networks([proto, small])
    assert report.run_seconds == (before, after)
    assert 0.4 < after / before <= 0.6
