"""Compressed ONNX files against the original kernels, in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

import tensorchain as tc
from tensorchain.compression import Geometry, compress_onnx, plan_of
from tensorchain.compression.conv import Convolution, convolve
from tensorchain.compression.onnx_clock import OnnxClock
from tensorchain.compression.onnx_layers import layers_of
from tensorchain.compression.onnx_nodes import layer_model


def constant(name, shape, seed=0):
    return numpy_helper.from_array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32), name)


def graph(nodes, weights, *, kind=TensorProto.FLOAT, size=("batch", 8, 13, 14)):
    """A model from its nodes; the input is x, the output y."""
    x = helper.make_tensor_value_info("x", kind, size)
    y = helper.make_tensor_value_info("y", kind, [f"n{k}" for k in range(len(size))])
    proto = helper.make_model(
        helper.make_graph(nodes, "net", [x], [y], weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.checker.check_model(proto)
    return proto


def single(window=(3, 3), **attributes):
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], name="only", **attributes)]
    return graph(nodes, [constant("w", (12, 8, *window)), constant("b", (12,), 1)])


def network():
    """A convolution, one of groups, one of one tap, one that is named by nobody, and other operators."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="grouped", group=4, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c", "w3", "b3"], ["d"], strides=[2, 2], pads=[1, 0, 0, 1]),
        helper.make_node("Conv", ["d", "w4"], ["e"], name="point"),
        helper.make_node("GlobalAveragePool", ["e"], ["y"], name="pool"),
    ]
    weights = [
        constant("w1", (12, 8, 3, 3), 1), constant("w2", (12, 3, 3, 3), 2), constant("w3", (16, 12, 3, 3), 3),
        constant("b3", (16,), 4), constant("w4", (12, 16, 1, 1), 5),
    ]  # fmt: skip
    return graph(nodes, weights)


def run(proto, images):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images})[0]


def images(size=(2, 8, 13, 14), seed=0):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


@pytest.mark.parametrize("method", ["cp3", "cp4", "tucker2", "tucker-cp", "btd", "tc"])
@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 1, 1, 1]},
        {"strides": [2, 2], "pads": [0, 1, 2, 0]},
        {"dilations": [2, 1], "pads": [2, 1, 2, 1], "strides": [1, 3]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "dilations": [1, 1]},
        {"auto_pad": "VALID"},
    ],
)
def test_the_new_nodes_are_the_convolution_with_their_kernel(method, attributes):
    proto, x = single(**attributes), images()
    small, report = compress_onnx(proto, method, keep_macs=0.7, stabilise=False, candidates=3)
    assert report.layers[0].method == method
    old, new = run(proto, x), run(small, x)
    assert old.shape == new.shape
    # The kernel that ONNX Runtime computes with, from unit impulses, and the same by NumPy.
    site = layers_of(proto)[0].site
    kernel = composed(small, report)
    expected = convolve(x.astype(float), Convolution(kernel, site.geometry, bias=site.bias))
    assert np.allclose(new, expected, atol=1e-5 * np.abs(expected).max())
    change = np.linalg.norm(kernel - site.kernel) / np.linalg.norm(site.kernel)
    assert change == pytest.approx(report.layers[0].error, rel=1e-3)


def composed(small, report):
    """The product of the kernels in a file."""
    from tensorchain.compression.conv import LayerPlan

    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in small.graph.initializer}
    convs = [node for node in small.graph.node if node.op_type == "Conv"]
    steps = []
    for node in convs:
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        steps.append(Convolution(weights[node.input[1]].astype(float), groups=groups))
    return LayerPlan("file", None, tuple(steps)).kernel


@pytest.mark.parametrize("attributes", [{"pads": [1, 1, 1, 1]}, {"strides": [2, 1], "pads": [0, 1, 2, 0]}])
def test_folded_chains_equal_grouped_ones_at_any_batch(attributes):
    proto = single(**attributes)
    grouped, _ = compress_onnx(proto, "tc", keep_macs=0.6, stabilise=False, candidates=3)
    folded, report = compress_onnx(proto, "tc", keep_macs=0.6, stabilise=False, candidates=3, form="fold")
    assert [node.op_type for node in folded.graph.node].count("Reshape") == 2
    assert report.parameters[1] < sum(np.prod(t.dims) for t in grouped.graph.initializer)
    for count in (1, 3):
        x = images((count, 8, 13, 14))
        expected = run(grouped, x)
        assert np.allclose(run(folded, x), expected, atol=1e-5 * np.abs(expected).max())


def test_everything_else_stays_byte_for_byte():
    proto = network()
    before = proto.SerializeToString()
    small, report = compress_onnx(proto, "tc", keep_macs=0.8, candidates=4, keep=["first"])
    assert proto.SerializeToString() == before
    layers = {layer.name: layer for layer in report.layers}
    assert layers["first"].rank == "kept on request"
    assert "groups" not in str(layers["grouped"].rank)
    assert layers["Conv output d"].method == "tc"
    changed = {name for name, layer in layers.items() if layer.method != "dense"}
    kept = [n.SerializeToString() for n in proto.graph.node if (n.name or f"Conv output {n.output[0]}") not in changed]
    new = [n.SerializeToString() for n in small.graph.node]
    assert [n for n in new if n in kept] == kept
    weights = {t.name: t.SerializeToString() for t in small.graph.initializer}
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            assert weights[tensor.name] == tensor.SerializeToString()
    assert {"w1", "w2"} <= set(weights)
    assert "w3" not in weights
    assert small.graph.input == proto.graph.input
    assert small.graph.output == proto.graph.output
    assert small.opset_import == proto.opset_import
    x = images()
    assert run(small, x).shape == run(proto, x).shape
    assert report.parameters[1] == sum(int(np.prod(t.dims)) for t in small.graph.initializer)


def test_the_whole_budget_changes_nothing():
    proto = network()
    small, _ = compress_onnx(proto, "tc", keep_macs=1.0, candidates=3)
    assert small.SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)


def test_calibration_gives_the_error_of_the_outputs():
    proto, x = single(strides=[2, 2], pads=[1, 0, 1, 2]), images((4, 8, 13, 14))
    small, report = compress_onnx(
        proto,
        "tucker2",
        keep_macs=0.6,
        calibration=[{"x": x[:2]}, {"x": x[2:]}],
        fit_output=True,
        refit=False,
        candidates=4,
    )
    old, new = run(proto, x), run(small, x)
    site = layers_of(proto)[0].site
    plain = old - site.bias[:, None, None]
    # The covariance that it is taken from is drawn a little towards the identity.
    assert report.layers[0].output_error == pytest.approx(np.linalg.norm(new - old) / np.linalg.norm(plain), rel=1e-2)


def test_files_are_read_and_damaged_ones_refused(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(single(), path)
    small, _ = compress_onnx(path, "cp3", keep_params=0.5, stabilise=False, candidates=3)
    onnx.checker.check_model(small)
    with pytest.raises(FileNotFoundError, match="no file"):
        compress_onnx(tmp_path / "absent.onnx", keep_macs=0.5)
    for name, content in (("empty", b""), ("noise", bytes(range(256)) * 9), ("cut", path.read_bytes()[:-200])):
        broken = tmp_path / name
        broken.write_bytes(content)
        with pytest.raises(ValueError, match=r"no ONNX model|not valid|no convolution"):
            compress_onnx(broken, keep_macs=0.5)


def test_constants_of_old_files_are_inputs_too():
    proto, x = single(pads=[1, 1, 1, 1]), images()
    expected = run(compress_onnx(proto, "cp3", keep_macs=0.6, stabilise=False, candidates=3)[0], x)
    listed = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in proto.graph.initializer]
    proto.graph.input.extend(listed)
    with pytest.raises(ValueError, match="no constant"):
        compress_onnx(proto, "cp3", keep_macs=0.6)
    proto.ir_version = 3
    small, _ = compress_onnx(proto, "cp3", keep_macs=0.6, stabilise=False, candidates=3)
    assert np.array_equal(run(small, x), expected)
    assert {t.name for t in small.graph.initializer} == {v.name for v in small.graph.input} - {"x"}


def test_weights_that_a_branch_reads_stay():
    kind, shape = TensorProto.FLOAT, [12, 8, 3, 3]
    inner = helper.make_tensor_value_info("inner", kind, shape)
    branch = helper.make_graph([helper.make_node("Identity", ["w"], ["inner"])], "branch", [], [inner])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], name="conv"),
        helper.make_node("If", ["yes"], ["copy"], then_branch=branch, else_branch=branch),
    ]
    yes = numpy_helper.from_array(np.array(True), "yes")
    with pytest.raises(ValueError, match="shares its weight"):
        compress_onnx(graph(nodes, [constant("w", shape), yes]), keep_macs=0.5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("computed", "no constant"),
        ("shared", "shares"),
        ("size", "input-shape x="),
        ("int8", "few bits.*before it is quantized"),
        ("volume", "4-D"),
        ("none", "no convolution"),
    ],
)
def test_what_is_left_alone_is_named(change, reason):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")]
    weights, size, kind = [constant("w", (8, 8, 3, 3))], ("n", 8, 13, 14), TensorProto.FLOAT
    if change == "computed":
        nodes = [helper.make_node("RandomNormalLike", ["v"], ["w"]), *nodes]
        weights = [constant("v", (8, 8, 3, 3))]
    elif change == "shared":
        nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("Conv", ["h", "w"], ["y"])]
    elif change == "none":
        nodes, weights = [helper.make_node("Relu", ["x"], ["y"])], []
    elif change == "int8":
        nodes = [helper.make_node("DequantizeLinear", ["v", "s"], ["w"]), *nodes]
        step = numpy_helper.from_array(np.float32(0.1), "s")
        weights = [numpy_helper.from_array(np.ones((8, 8, 3, 3), np.int8), "v"), step]
    elif change == "volume":
        weights, size = [constant("w", (8, 8, 3, 1, 1, 1))], ("n", 8, 13, 3, 3, 3)
    elif change == "size":
        size = ("n", 8, "h", "w")
    with pytest.raises(ValueError, match=reason):
        compress_onnx(graph(nodes, weights, kind=kind, size=size), keep_macs=0.5)


def test_options_are_checked():
    with pytest.raises(ValueError, match="give one of"):
        compress_onnx(single())
    with pytest.raises(ValueError, match="calibration"):
        compress_onnx(single(), keep_macs=0.5, fit_output=True)
    with pytest.raises(ValueError, match="no feed"):
        compress_onnx(single(), keep_macs=0.5, calibration=[])


@pytest.mark.parametrize("int8", [False, True])
def test_the_faster_form_is_taken_and_reported(monkeypatch, int8):
    proto, x = single(pads=[1, 1, 1, 1]), images()
    seen, measured = [], OnnxClock.layers

    def layers(clock, plans, site):
        seconds = measured(clock, plans, site)
        assert min(seconds) > 0.0
        seen.append((site.image, clock.batch, clock.int8))
        return [2.0, 1.0] if seen[1:] else [1.0, 2.0]

    monkeypatch.setattr(OnnxClock, "layers", layers)
    options = {"keep_macs": 0.6, "stabilise": False, "candidates": 3, "time_int8": int8}
    grouped, fold = (compress_onnx(proto, "tc", form="auto", **options) for _ in range(2))
    assert seen == [((13, 14), 1, int8)] * 2
    assert [report.layers[0].form for _, report in (grouped, fold)] == ["grouped", "fold"]
    assert fold[1].layers[0].form_seconds == (2.0, 1.0)
    for (model, _), form in ((grouped, "grouped"), (fold, "fold")):
        expected, report = compress_onnx(proto, "tc", form=form, **options)
        assert model.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
        assert (report.layers[0].form, report.layers[0].form_seconds) == (form, None)
    assert np.allclose(run(grouped[0], x), run(fold[0], x), atol=1e-4)


def test_the_model_of_one_layer_is_the_plan():
    chain = tc.TensorChain.random((8, 9, 6), (2, 3, 4), rng=0).astype(np.float32)
    geometry = Geometry((2, 1), ((1, 0), (2, 1)), (1, 2))
    plan = plan_of(chain, (3, 3), geometry, np.arange(6, dtype=np.float32))
    x = images()
    expected = plan.apply(x)
    for form in (plan, plan.grouped()):
        model = layer_model(form, (13, 14))
        onnx.checker.check_model(model, full_check=True)
        assert np.allclose(run(model, x), expected, atol=1e-5 * np.abs(expected).max())


def test_checkpoints_serve_files_too(tmp_path):
    proto, path = single(pads=[1, 1, 1, 1]), tmp_path / "run"
    first, _ = compress_onnx(proto, "tc", keep_macs=0.6, candidates=3, checkpoint=path)
    second, _ = compress_onnx(proto, "tc", keep_macs=0.6, candidates=3, checkpoint=path)
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    with pytest.raises(ValueError, match="another compression"):
        compress_onnx(proto, "cp3", keep_macs=0.6, candidates=3, checkpoint=path)


def hostile(change):
    """A model that a checker may let through and no convolution fits."""
    proto = single(pads=[1, 1, 1, 1], strides=[1, 1], dilations=[1, 1], kernel_shape=[3, 3])
    (node,), weight = proto.graph.node, proto.graph.initializer[0]
    attributes = {a.name: a for a in node.attribute}
    if isinstance(change, dict):
        for name, value in change.items():
            if name in attributes:
                node.attribute.remove(attributes[name])
            node.attribute.append(helper.make_attribute(name, value))
    elif change == "no weight":
        del node.input[1:]
    elif change == "no output":
        del node.output[:]
    elif change == "empty weight":
        weight.CopyFrom(numpy_helper.from_array(np.zeros((0, 8, 3, 3), np.float32), "w"))
    elif change == "huge weight":
        weight.dims[0] = 1 << 40
    elif change == "negative weight":
        weight.dims[0] = -12
    elif change == "short data":
        weight.raw_data = weight.raw_data[:-8]
    elif change == "other channels":
        weight.CopyFrom(constant("w", (12, 5, 3, 3)))
    elif change == "long bias":
        proto.graph.initializer[1].CopyFrom(constant("b", (13,)))
    elif change == "flat bias":
        proto.graph.initializer[1].CopyFrom(constant("b", (3, 4)))
    elif change == "negative image":
        proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = -13
    elif change == "tiny image":
        proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1
        node.attribute.remove(attributes["pads"])
    elif change == "outside":
        where = helper.make_tensor("k", TensorProto.FLOAT, [1], [1.0])
        where.ClearField("float_data")
        where.data_location = TensorProto.EXTERNAL
        where.external_data.add(key="location", value="../../secret")
        proto.graph.node.insert(0, helper.make_node("Constant", [], ["unused"], value=where))
    elif change == "no version":
        del proto.opset_import[:]
    elif change == "cycle":
        node.input[0] = "y"
    return proto


@pytest.mark.parametrize(
    "change",
    [
        {"strides": [0, 0]}, {"strides": [-1, 1]}, {"strides": [1]}, {"strides": [1 << 40, 1]}, {"strides": "wide"},
        {"strides": 2.5}, {"dilations": [0, 1]}, {"dilations": [1 << 40, 1]}, {"dilations": [1, 1, 1]},
        {"pads": [-1, 0, 0, 0]}, {"pads": [1, 1]}, {"pads": [1 << 40] * 4}, {"group": 0}, {"group": -2}, {"group": 3},
        {"auto_pad": "SOMEHOW"}, {"auto_pad": b"\xff"}, {"kernel_shape": [5, 5]}, "no weight", "no output",
        "empty weight", "huge weight", "negative weight", "short data", "other channels", "long bias", "flat bias",
        "negative image", "tiny image", "outside", "no version", "cycle",
    ],
    ids=str,
)  # fmt: skip
def test_hostile_models_are_refused_in_one_line(tmp_path, change):
    path = tmp_path / "hostile.onnx"
    path.write_bytes(hostile(change).SerializeToString())
    with pytest.raises(ValueError, match=r"not valid|no ONNX|outside the file|no convolution|does not fit") as caught:
        compress_onnx(path, "tucker2", keep_macs=0.7, stabilise=False, candidates=2)
    assert len(str(caught.value)) < 1000


def test_damaged_bytes_are_refused_or_read(capfd):
    """Bytes outside the weights changed at random: a valid model comes out, or a ValueError."""
    proto, rng = single(pads=[1, 1, 1, 1]), np.random.default_rng(0)
    content = proto.SerializeToString()
    inside = [(content.find(t.raw_data), len(t.raw_data)) for t in proto.graph.initializer]
    outside = [n for n in range(len(content)) if not any(a <= n < a + size for a, size in inside)]
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.choice(outside, 2):
            damaged[place] = rng.integers(256)
        try:
            broken = onnx.ModelProto()
            broken.ParseFromString(bytes(damaged))
            small, _ = compress_onnx(broken, "tucker2", keep_macs=0.7, stabilise=False, candidates=2)
        except (ValueError, DecodeError):
            refused += 1
            continue
        onnx.checker.check_model(small)
    assert refused > 100
    # Nobody but the error says anything.
    assert capfd.readouterr() == ("", "")
