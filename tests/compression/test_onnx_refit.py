"""Layers of ONNX files, fitted to the outputs of the original on calibration inputs."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tensorchain.compression import compress_onnx, onnx_calibration
from tensorchain.compression.onnx_calibration import checked_feeds, covariances_of, sampled
from tensorchain.compression.onnx_layers import layers_of
from tensorchain.compression.onnx_reading import inputs_of, load_model
from tensorchain.compression.onnx_refit import behind, levels_of
from tests.cases import mostly_slow


def weight(name, shape, seed):
    values = np.random.default_rng(seed).standard_normal(shape)
    return numpy_helper.from_array((values / np.sqrt(np.prod(shape[1:]) / 2)).astype(np.float32), name)


def network():
    """Two branches that meet, a normalisation without bias before it, a convolution and a matrix behind."""
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="stem", **pads),
        helper.make_node("Relu", ["a"], ["s"]),
        helper.make_node("Conv", ["s", "w2"], ["b"], name="left", **pads),
        helper.make_node("Conv", ["s", "w3", "b3"], ["c"], name="right", **pads),
        helper.make_node("Add", ["b", "c"], ["d"]),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("Conv", ["e", "w4"], ["f"], name="last", **pads),
        helper.make_node("GlobalAveragePool", ["f"], ["g"]),
        helper.make_node("Flatten", ["g"], ["h"]),
        helper.make_node("Gemm", ["h", "w5", "b5"], ["y"], name="head", transB=1),
    ]
    weights = [
        weight("w1", (12, 3, 3, 3), 1), weight("w2", (12, 12, 3, 3), 2), weight("w3", (12, 12, 3, 3), 3),
        weight("b3", (12, 1), 4), weight("w4", (16, 12, 3, 3), 5), weight("w5", (10, 16), 6), weight("b5", (10, 1), 7),
    ]  # fmt: skip
    for tensor in weights:
        if len(tensor.dims) == 2 and tensor.dims[1] == 1:
            del tensor.dims[1]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, 12, 12))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 10))
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def smooth(count, seed):
    """Images whose neighbouring pixels are alike, as they are in photographs."""
    images = np.random.default_rng(seed).standard_normal((count, 3, 16, 16)).cumsum(2).cumsum(3)[..., 4:, 4:]
    return (images / images.std()).astype(np.float32)


def run(proto, x):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def change(proto, small, x):
    before, after = run(proto, x), run(small, x)
    return np.linalg.norm(after - before) / np.linalg.norm(before - before.mean(axis=0))


def compressed(proto, method="tucker2", **options):
    share = 0.5 if "keep" not in options else 0.8
    return compress_onnx(proto, method, keep_macs=share, candidates=3, stabilise=False, **options)


CALIBRATION = smooth(48, 0)
FEEDS = [{"x": CALIBRATION[k : k + 16]} for k in range(0, 48, 16)]


@pytest.mark.parametrize(("method", "form"), mostly_slow([("tc", "fold"), ("tucker2", "grouped"), ("cp3", "grouped")]))
def test_a_refit_brings_outputs_back_on_images_that_it_has_not_seen(method, form):
    proto, other = network(), smooth(64, 1)
    plain, _ = compressed(proto, method, form=form, calibration=FEEDS, refit=False)
    refitted, after = compressed(proto, method, form=form, calibration=FEEDS)
    assert after.macs[1] <= 0.5 * after.macs[0]
    assert change(proto, refitted, other) < 0.6 * change(proto, plain, other)
    # Layers that were replaced have a bias now, and it is counted.
    assert after.parameters[1] == sum(int(np.prod(t.dims)) for t in refitted.graph.initializer if t.data_type == 1)
    assert all(0.0 <= layer.output_error < 1.0 for layer in after.layers if layer.method != "dense")


def test_batches_of_any_size_give_nearly_the_same_fit():
    """But for the ridges, which are chosen by halves of the batches."""
    proto = network()
    x, keep = smooth(8, 2), ("last", "head")
    whole, _ = compressed(proto, calibration=[{"x": CALIBRATION}], keep=keep)
    parts, _ = compressed(proto, calibration=({"x": CALIBRATION[k : k + 7]} for k in range(0, 48, 7)), keep=keep)
    first, second = run(whole, x), run(parts, x)
    assert np.linalg.norm(first - second) < 0.02 * np.linalg.norm(first)


def test_layers_without_a_dependence_are_fitted_together():
    proto = load_model(network())
    layers = layers_of(proto)
    levels = [[layer.site.name for layer in level] for level in levels_of(proto.graph, layers)]
    assert levels == [["stem"], ["left", "right"], ["last"], ["head"]]
    by_name = {layer.site.name: layer for layer in layers}
    others = [by_name[name] for name in ("stem", "right", "last", "head")]
    touched = behind(proto.graph, [by_name["left"]], others)
    assert [layer.site.name for layer in touched] == ["last", "head"]


def test_weights_on_a_grid_stay_on_it():
    keep = ("left", "last", "head")
    small, report = compressed(network(), calibration=FEEDS, weight_bits=4, keep=keep)
    layer = next(layer for layer in report.layers if layer.bits)
    named = [t for t in small.graph.initializer if t.name.startswith(f"{layer.name}/weight")]
    assert named
    for tensor in named:
        assert len(np.unique(np.abs(numpy_helper.to_array(tensor)))) <= 9


def test_patches_are_what_the_layer_multiplies():
    """Kernel times patch is the output at every position, for strides, dilations, paddings, lines and rows."""
    rng = np.random.default_rng(0)
    cases = [
        ("Conv", (4, 5, 9, 10), (6, 5, 3, 2), {"strides": [2, 1], "dilations": [1, 3], "pads": [1, 0, 2, 4]}),
        ("Conv", (4, 5, 20), (6, 5, 4), {"strides": [3], "pads": [2, 1]}),
        ("MatMul", (4, 7, 5), (5, 6), {}),
    ]
    for op, shape, kernel, attributes in cases:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        node = helper.make_node(op, ["x", "w"], ["y"], name="one", **attributes)
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(shape))
        graph = helper.make_graph([node], "net", [x], [y], [weight("w", kernel, 1)])
        proto = load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
        (layer,) = layers_of(proto)
        values = rng.standard_normal(shape).astype(np.float32)
        output = run(proto, values)
        patches, rows = sampled(layer, rng, 1, values, output)
        expected = patches @ layer.site.kernel.reshape(len(layer.site.kernel), -1).T
        assert np.allclose(rows, expected, atol=1e-5)
        assert rows.size == output.size


def test_memory_is_that_of_a_sample(monkeypatch):
    """Of many images every one gives a few positions, drawn once for input and output."""
    monkeypatch.setattr(onnx_calibration, "_LEAST", 100)
    monkeypatch.setattr(onnx_calibration, "_FOR_EACH", 1)
    proto = load_model(network())
    layer = layers_of(proto)[1]
    values = np.random.default_rng(0).standard_normal((10, 12, 12, 12))
    patches, _ = sampled(layer, np.random.default_rng(0), 4, values, np.zeros((10, 12, 12, 12)))
    assert len(patches) == 27
    feeds = checked_feeds(iter(FEEDS), inputs_of(proto))
    rough = covariances_of(proto, [layer], feeds)["left"][0].matrix
    monkeypatch.undo()
    exact = covariances_of(proto, [layer], feeds)["left"][0].matrix
    assert 0.0 < np.linalg.norm(rough - exact) < 0.6 * np.linalg.norm(exact)
    onnx.checker.check_model(proto)
