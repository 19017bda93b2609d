"""Files as people ship them: what they hold is found, counted, replaced where it can be, and left with the reason."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tensorchain.compression import compress_onnx, quantize_onnx, try_models
from tensorchain.compression.conv import Convolution, convolve
from tensorchain.compression.onnx_layers import layers_of
from tensorchain.compression.onnx_reading import Constants, load_model, stored_sizes
from tensorchain.compression.projections import PROJECTIONS
from tensorchain.compression.request import SPATIAL
from tests.cases import crossed

FLOAT = TensorProto.FLOAT


def array(shape, seed=0, dtype=np.float32):
    values = np.random.default_rng(seed).standard_normal(shape)
    return (values / np.sqrt(max(np.prod(shape[1:]), 1))).astype(dtype)


def tensor(name, shape, seed=0, dtype=np.float32):
    return numpy_helper.from_array(array(shape, seed, dtype), name)


def whole(values, name):
    return numpy_helper.from_array(np.array(values, np.int64), name)


def model(nodes, weights=(), inputs=None, outputs=("y",), *, opset=17, kind=FLOAT, ir=8):
    inputs = inputs or {"x": ("n", 8, 12, 12)}
    given = [
        value if isinstance(value, onnx.ValueInfoProto) else helper.make_tensor_value_info(name, kind, value)
        for name, value in inputs.items()
    ]
    ends = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
    proto = helper.make_model(
        helper.make_graph(nodes, "net", given, ends, list(weights)),
        opset_imports=[helper.make_opsetid("", opset)], ir_version=ir,
    )  # fmt: skip
    proto = onnx.shape_inference.infer_shapes(proto)
    del proto.graph.value_info[:]
    return proto


def two_convolutions(**options):
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w2", "b2"], ["y"], name="second", pads=[1, 1, 1, 1], strides=[2, 2]),
    ]
    weights = [tensor("w1", (12, 8, 3, 3)), tensor("b1", (12,), 1)]
    weights += [tensor("w2", (16, 12, 3, 3), 2), tensor("b2", (16,), 3)]
    return model(nodes, weights, **options)


def as_nodes(proto):
    """The same with its weights in Constant nodes."""
    made = [helper.make_node("Constant", [], [t.name], value=t) for t in proto.graph.initializer]
    nodes = [*made, *proto.graph.node]
    copies = [onnx.NodeProto() for _ in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.node.extend(copies)
    return proto


def run(proto, **feed):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def images(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def compressed(proto, share=0.6, method="tucker2", **options):
    return compress_onnx(proto, method, keep_macs=share, candidates=3, stabilise=False, **options)


X = images(3, 8, 12, 12)


def test_weights_in_constant_nodes_are_weights():
    expected, report = compressed(two_convolutions())
    small, same = compressed(as_nodes(two_convolutions()))
    assert [layer.rank for layer in same.layers] == [layer.rank for layer in report.layers]
    assert same.parameters == report.parameters
    assert np.array_equal(run(small, x=X)[0], run(expected, x=X)[0])
    # No node and no weight of a layer that was replaced is left behind.
    assert stored_sizes(small) == report.parameters[1]


def test_weights_behind_nodes_without_inputs_are_weights():
    half = array((12, 8, 3, 3)).astype(np.float16)
    turned = array((16, 12), 2)
    nodes = [
        helper.make_node("Cast", ["half"], ["w"], to=FLOAT),
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["a"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Transpose", ["m"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["f", "t"], ["y"], name="matrix"),
    ]
    proto = model(nodes, [numpy_helper.from_array(half, "half"), numpy_helper.from_array(turned, "m")])
    loaded = load_model(proto)
    conv, matrix = layers_of(loaded)
    assert np.array_equal(conv.site.kernel, half.astype(np.float32))
    assert np.array_equal(matrix.site.kernel[:, :, 0, 0], turned)
    assert np.array_equal(Constants(loaded).array("t"), turned.T)
    assert Constants(loaded).array("a") is None
    small, report = compressed(proto)
    assert report.layers[0].method == "tucker2"
    assert not any(node.op_type == "Cast" for node in small.graph.node)
    assert run(small, x=X)[0].shape == (3, 16)


@pytest.mark.parametrize("free", [("n", 8, "h", "w"), (-1, 8, -1, -1), (None, 8, None, None)])
def test_open_sizes_come_from_calibration_or_are_given(free):
    proto = two_convolutions()
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", FLOAT, free))
    with pytest.raises(ValueError, match=r"2 x the size of its input is not known.*--input-shape x="):
        compressed(proto)
    given, report = compressed(proto, input_shapes={"x": (1, 8, 12, 12)})
    _, measured = compressed(proto, calibration=[{"x": X}])
    fixed = compressed(two_convolutions())[1]
    assert report.macs == measured.macs == fixed.macs
    # The file takes any size still.
    assert run(given, x=images(2, 8, 20, 30))[0].shape == (2, 16, 10, 15)
    with pytest.raises(ValueError, match="the inputs are 'x'"):
        compressed(proto, input_shapes={"z": (1, 8, 12, 12)})


def test_a_layer_of_unknown_size_stays_and_the_others_do_not():
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="sized", pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["a", "to"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["y"], name="unsized"),
    ]
    shape = helper.make_tensor_value_info("to", TensorProto.INT64, [4])
    inputs = {"x": ("n", 8, 12, 12), "to": shape}
    proto = model(nodes, [tensor("w1", (12, 8, 3, 3)), tensor("w2", (12, 12, 3, 3), 1)], inputs)
    small, report = compressed(proto)
    layers = {layer.name: layer for layer in report.layers}
    assert layers["sized"].method == "tucker2"
    assert layers["unsized"].rank == "the size of its input is not known; multiplications not counted"
    assert layers["unsized"].parameters == (12 * 12 * 9, 12 * 12 * 9)
    assert "unsized" in str(report)
    feed = {"x": X, "to": np.array([-1, 12, 6, 24])}
    assert run(small, **feed)[0].shape == (3, 12, 4, 22)
    with pytest.raises(ValueError, match="give calibration inputs: sizes depend on values"):
        compressed(proto, keep=["sized"], input_shapes={"x": (1, 8, 12, 12)})
    # A calibration input tells the size.
    _, report = compressed(proto, calibration=[feed])
    assert report.macs[0] == 12 * 8 * 9 * 144 + 12 * 12 * 9 * 4 * 22


def test_half_precision_stays_half():
    weights = [tensor("w", (12, 8, 3, 3), dtype=np.float16), tensor("b", (12,), 1, np.float16)]
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv", pads=[1, 1, 1, 1])]
    proto = model(nodes, weights, kind=TensorProto.FLOAT16)
    small, report = compressed(proto, 0.7, calibration=[{"x": X.astype(np.float16)}])
    assert {t.data_type for t in small.graph.initializer} == {TensorProto.FLOAT16}
    before, after = (run(p, x=X.astype(np.float16))[0].astype(float) for p in (proto, small))
    assert np.linalg.norm(after - before) < 0.9 * np.linalg.norm(before - before.mean(axis=(0, 2, 3), keepdims=True))
    assert report.layers[0].output_error < 0.9


def test_nodes_in_any_order():
    proto = two_convolutions()
    expected = run(compressed(proto)[0], x=X)[0]
    nodes = [onnx.NodeProto() for _ in proto.graph.node]
    for copy, node in zip(nodes, reversed(proto.graph.node), strict=True):
        copy.CopyFrom(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    small, _ = compressed(proto)
    assert np.array_equal(run(small, x=X)[0], expected)
    proto.graph.node[2].input[0] = "y"
    with pytest.raises(ValueError, match="circle"):
        compressed(proto)


@pytest.mark.parametrize("opset", [9, 11, 12, 13])
@pytest.mark.parametrize("constants", ["initializers", "nodes"])
def test_int8_files_of_old_opsets_open(opset, constants):
    proto = two_convolutions(opset=opset)
    proto = proto if constants == "initializers" else as_nodes(proto)
    expected = run(proto, x=X)[0]
    small = quantize_onnx(proto, [{"x": X}])
    assert np.linalg.norm(run(small, x=X)[0] - expected) < 0.1 * np.linalg.norm(expected)
    rounded = [np.prod(t.dims) for t in small.graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 4]
    assert sum(rounded) == 12 * 8 * 9 + 16 * 12 * 9


def test_int8_of_layers_that_share_a_bias():
    """The name that the quantizer gives to a copy of the bias is that of a value here."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b"], ["b0"], name="first"),
        helper.make_node("Transpose", ["b0"], ["t"], perm=[0, 1, 3, 2]),
        helper.make_node("Conv", ["t", "w2", "b"], ["y"], name="second"),
    ]
    weights = [tensor("w1", (12, 8, 3, 3)), tensor("w2", (12, 12, 3, 3), 2), tensor("b", (12,), 3)]
    proto = model(nodes, weights)
    expected = run(proto, x=X)[0]
    for case in (proto, as_nodes(proto)):
        small = quantize_onnx(case, [{"x": X}])
        assert np.linalg.norm(run(small, x=X)[0] - expected) < 0.1 * np.linalg.norm(expected)


def test_int8_that_cannot_be_converted_is_refused_once():
    proto = two_convolutions(opset=12)
    proto.opset_import.append(helper.make_opsetid("somewhere", 1))
    proto.graph.node.append(helper.make_node("Odd", ["y"], ["z"], domain="somewhere"))
    with pytest.raises(ValueError, match=r"int8 needs opset 13, the model has 12"):
        quantize_onnx(proto, [{"x": X}])


@pytest.mark.parametrize("opset", [7, 9, 12, 21])
def test_folded_chains_at_any_opset(opset):
    small, _ = compressed(two_convolutions(opset=opset, ir=7), 0.7, "tc", form="fold")
    grouped, _ = compressed(two_convolutions(opset=opset, ir=7), 0.7, "tc")
    assert any(node.op_type == "Reshape" for node in small.graph.node)
    assert np.allclose(run(small, x=X)[0], run(grouped, x=X)[0], atol=1e-4)


@pytest.mark.parametrize("method", ["tucker2", "cp3", "tc"])
@pytest.mark.parametrize("form", ["grouped", "fold"])
def test_lines_are_images_of_height_one(method, form):
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], name="line", strides=[2], pads=[1, 3], dilations=[2])]
    proto = model(nodes, [tensor("w", (14, 10, 5)), tensor("b", (14,), 1)], {"x": ("n", 10, 40)})
    small, report = compressed(proto, 0.7, method, form=form)
    assert report.macs[0] == 14 * 10 * 5 * 18
    layer = report.layers[0]
    x = images(3, 10, 40)
    before, after = run(proto, x=x)[0], run(small, x=x)[0]
    assert before.shape == after.shape
    # White noise in: the error of the output is that of the kernel.
    bias = array((14,), 1)[:, None]
    inner = slice(2, -2)
    change = np.linalg.norm((after - before)[..., inner]) / np.linalg.norm((before - bias)[..., inner])
    assert change == pytest.approx(layer.error, rel=0.3)
    assert change > 0.0


@pytest.mark.parametrize("product", ["MatMul", "Gemm", "turned Gemm"])
def test_matrices_become_two(product):
    left, right = array((4, 20, 3)), array((4, 3, 30), 1)
    weight = (left @ right)[0] + 0.003 * array((20, 30), 2)
    names = ["x", "w"] if product == "MatMul" else ["x", "w", "b"]
    options = {"transB": 1} if product == "turned Gemm" else {}
    stored = weight.T if options else weight
    weights = [numpy_helper.from_array(np.ascontiguousarray(stored), "w"), tensor("b", (30,), 3)][: len(names) - 1]
    shape = ("n", 6, 20) if product == "MatMul" else ("n", 20)
    proto = model(
        [helper.make_node(product.split()[-1], names, ["y"], name="matrix", **options)], weights, {"x": shape}
    )
    small, report = compress_onnx(proto, "tc", keep_macs=0.3, candidates=12)
    x = images(5, *shape[1:])
    before, after = run(proto, x=x)[0], run(small, x=x)[0]
    assert report.layers[0].method == "svd"
    assert report.macs[0] == 600 * (6 if product == "MatMul" else 1)
    assert np.linalg.norm(after - before) < 0.1 * np.linalg.norm(before)


KINDS = {
    "groups": ("Conv", (12, 6, 3, 3), (2, 12, 9, 8), {"group": 2, "pads": [1, 0, 1, 0], "strides": [1, 2]}),
    "line, groups": ("Conv", (12, 6, 5), (2, 12, 20), {"group": 2, "pads": [2, 1], "dilations": [2]}),
    "volume": ("Conv", (10, 8, 3, 2, 2), (2, 8, 6, 5, 7), {"pads": [1, 0, 0, 1, 1, 0], "strides": [1, 2, 1]}),
    "up": ("ConvTranspose", (8, 10, 2, 2), (2, 8, 5, 4), {"strides": [2, 2]}),
    "up, uneven": (
        "ConvTranspose", (8, 10, 3, 4), (2, 8, 5, 4),
        {"strides": [2, 3], "pads": [1, 0, 0, 2], "output_padding": [1, 2], "dilations": [2, 1]},
    ),
    "up, groups": ("ConvTranspose", (12, 5, 3, 3), (2, 12, 5, 4), {"strides": [2, 2], "group": 2, "pads": [1] * 4}),
    "up, line": ("ConvTranspose", (8, 10, 4), (2, 8, 9), {"strides": [2], "pads": [1, 1]}),
}  # fmt: skip


@crossed(name=list(KINDS), method=["tucker2", "cp3", "tc"])
def test_other_convolutions_are_replaced_by_nodes_that_compute_their_kernel(name, method):
    op, shape, size, attributes = KINDS[name]
    outputs = shape[1] * attributes.get("group", 1) if op == "ConvTranspose" else shape[0]
    nodes = [helper.make_node(op, ["x", "w", "b"], ["y"], name="layer", **attributes)]
    proto = model(nodes, [tensor("w", shape), tensor("b", (outputs,), 1)], {"x": ("n", *size[1:])})
    feeds = [{"x": images(*size[:1], *size[1:]).cumsum(-1)} for _ in range(2)]
    form = "fold" if name == "volume" else "grouped"
    small, report = compressed(proto, 0.8, method, calibration=feeds, refit=False, form=form)
    assert report.layers[0].method == method
    x = images(*size)
    before, after = run(proto, x=x)[0], run(small, x=x)[0]
    # The same by the slow definition, with the kernel that PyTorch-free code composes from the file.
    (site,) = (layer.site for layer in layers_of(load_model(proto), feed=feeds[0]))
    dense = Convolution(site.kernel, site.geometry, site.groups, site.bias)
    values = x[:, :, None] if x.ndim == 3 else x
    assert np.allclose(convolve(values, dense).reshape(before.shape), before, atol=1e-4)
    assert report.macs[0] == site.macs
    assert after.shape == before.shape
    # White noise in, except at margins: the error of the output is that of the kernel.
    wide = np.random.default_rng(5).standard_normal((64, *size[1:])).astype(np.float32)
    shift = array((outputs,), 1).reshape(-1, *[1] * (x.ndim - 2))
    change = np.linalg.norm(run(small, x=wide)[0] - run(proto, x=wide)[0])
    assert change == pytest.approx(report.layers[0].error * np.linalg.norm(run(proto, x=wide)[0] - shift), rel=0.25)
    refitted, after_refit = compressed(proto, 0.8, method, calibration=feeds, form=form)
    errors = [
        sum(float(np.sum((run(one, **feed)[0] - run(proto, **feed)[0]) ** 2)) for feed in feeds)
        for one in (small, refitted)
    ]
    assert errors[1] < errors[0]
    assert after_refit.layers[0].output_error is not None


def counted(op, inputs, weights, shape, **attributes):
    nodes = [helper.make_node(op, inputs, ["y"], name="layer", **attributes)]
    layers = layers_of(load_model(model(nodes, weights, {"x": shape})))
    return [(layer.site.parameters, layer.site.macs, layer.site.refusal) for layer in layers]


def test_all_layers_are_counted_as_they_multiply():
    x = ["x", "w"]
    volume = counted("Conv", x, [tensor("w", (6, 4, 3, 2, 1))], (2, 4, 9, 8, 7))
    assert volume == [(144, 144 * 7 * 7 * 7, "")]
    grouped = counted("Conv", x, [tensor("w", (8, 2, 3, 3))], (2, 4, 9, 8), group=2, strides=[2, 1])
    assert grouped == [(144, 144 * 4 * 6, "")]
    line = counted("Conv", [*x, "b"], [tensor("w", (8, 4, 5)), tensor("b", (8,))], (2, 4, 20))
    assert line == [(168, 160 * 16, "")]
    transposed = counted("ConvTranspose", x, [tensor("w", (4, 6, 3, 3))], (2, 4, 9, 8), strides=[2, 2])
    assert transposed == [(216, 216 * 72, "")]
    gemm = counted("Gemm", [*x, "b"], [tensor("w", (20, 30)), tensor("b", (30,))], (7, 20), alpha=0.5)
    assert gemm == [(630, 600, "scaled or transposed product")]
    rows = counted("MatMul", x, [tensor("w", (20, 30))], (7, 5, 20))
    assert rows == [(600, 3000, "")]
    weights = [tensor("w", (1, 24, 10)), tensor("r", (1, 24, 6)), tensor("b", (1, 48))]
    steps = counted("LSTM", ["x", "w", "r", "b"], weights, (11, 2, 10), hidden_size=6)
    assert steps == [(240 + 144 + 48, 11 * (240 + 144), "LSTM layer")]
    squared = counted("MatMul", ["x", "x"], [], (3, 2, 5, 5))
    assert squared == [(0, 2 * 125, "both factors are computed")]
    summed = counted("Einsum", x, [tensor("w", (20, 30))], (7, 20), equation="ij,jk->ik")
    # Both axes are summed over for each row, of which the first is the batch.
    assert summed == [(600, 600, "operator Einsum")]
    products = counted("Einsum", ["x", "x"], [], (3, 2, 5, 4), equation="bhid, bhjd -> bhij")
    assert products == [(0, 2 * 5 * 5 * 4, "both factors are computed")]
    open_ = counted("Einsum", x, [tensor("w", (20, 30))], (7, 20), equation="...j,jk->...k")
    assert open_ == [(600, 0, "operator Einsum; multiplications not counted")]


def test_layers_that_see_an_image_in_pieces_count_every_piece():
    """Six pieces of an image go through the layer one by one, as a batch."""
    nodes = [
        helper.make_node("Reshape", ["x", "pieces"], ["p"]),
        helper.make_node("Conv", ["p", "w"], ["y"], name="conv", pads=[1, 1, 1, 1]),
    ]
    for batch in (2, "n"):
        proto = model(nodes, [tensor("w", (12, 8, 3, 3)), whole([-1, 8, 4, 4], "pieces")], {"x": (batch, 8, 8, 12)})
        (layer,) = layers_of(load_model(proto))
        assert layer.site.macs == 12 * 8 * 9 * 16 * 6


def branching():
    weight = numpy_helper.from_array(array((12, 8, 3, 3), 5), "inner")
    info = helper.make_tensor_value_info("out", FLOAT, None)
    branches = [
        helper.make_graph(
            [
                helper.make_node("Constant", [], ["inner"], value=weight),
                helper.make_node("Conv", ["x", "inner"], ["out"], name=name, pads=[1, 1, 1, 1]),
            ],
            name, [], [info],
        )
        for name in ("one", "one")
    ]  # fmt: skip
    nodes = [
        helper.make_node("If", ["switch"], ["a"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Conv", ["a", "w"], ["y"], name="behind", pads=[1, 1, 1, 1]),
    ]
    switch = helper.make_tensor_value_info("switch", TensorProto.BOOL, [])
    return model(nodes, [tensor("w", (12, 12, 3, 3))], {"x": (1, 8, 12, 12), "switch": switch})


def test_layers_inside_branches_are_left_and_listed():
    proto = branching()
    small, report = compressed(proto)
    reasons = {layer.name: layer.rank for layer in report.layers}
    assert reasons["one"] == reasons["one (2)"] == "inside If; multiplications not counted"
    assert report.parameters[0] == 12 * 12 * 9 + 2 * 12 * 8 * 9
    assert next(layer for layer in report.layers if layer.name == "behind").method == "tucker2"
    assert run(small, x=X[:1], switch=np.array(True))[0].shape == (1, 12, 12, 12)
    del proto.graph.node[1]
    proto.graph.node[0].output[0] = "y"
    with pytest.raises(ValueError, match=r"2 x inside If\); export the model without control flow"):
        compressed(proto)


def test_layers_inside_loops_are_left_and_listed():
    """A loop around a convolution with weights of the graph outside, and an If inside it with weights of its own."""
    ends = [helper.make_tensor_value_info(name, kind, []) for name, kind in (("k", 7), ("go", 9))]
    state = [helper.make_tensor_value_info(name, FLOAT, (1, 8, 12, 12)) for name in ("before", "after")]
    inner = [
        helper.make_graph(
            [helper.make_node("Conv", ["c", f"v{n}"], [f"o{n}"], name=f"inner{n}", pads=[1, 1, 1, 1])],
            f"branch{n}", [], [helper.make_tensor_value_info(f"o{n}", FLOAT, (1, 8, 12, 12))],
            [tensor(f"v{n}", (8, 8, 3, 3))],
        )
        for n in (1, 2)
    ]  # fmt: skip
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Conv", ["before", "w"], ["c"], name="looped", pads=[1, 1, 1, 1]),
            helper.make_node("If", ["go"], ["after"], then_branch=inner[0], else_branch=inner[1]),
        ],
        "body", [*ends, state[0]], [helper.make_tensor_value_info("on", 9, []), state[1]],
    )  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Loop", ["count", "", "a"], ["y"], body=body),
    ]
    weights = [tensor("w0", (8, 8, 3, 3)), tensor("w", (8, 8, 3, 3), 1), whole(3, "count")]
    proto = model(nodes, weights, {"x": (1, 8, 12, 12)})
    small, report = compressed(proto, 0.7)
    assert {layer.name: layer.rank for layer in report.layers if layer.method == "dense"} == dict.fromkeys(
        ("looped", "inner1", "inner2"), "inside Loop; multiplications not counted"
    )
    assert report.parameters[0] == 4 * 576
    assert run(small, x=X[:1])[0].shape == (1, 8, 12, 12)


def test_shared_weights_count_once():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w"], ["b"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["b", "v"], ["y"], name="third", pads=[1, 1, 1, 1]),
    ]
    proto = model(nodes, [tensor("w", (8, 8, 3, 3)), tensor("v", (12, 8, 3, 3))])
    _, report = compressed(proto, 0.9)
    assert [layer.name for layer in report.layers] == ["first", "second", "third"]
    assert [layer.parameters[0] for layer in report.layers] == [576, 0, 864]
    assert report.parameters[0] == 576 + 864
    assert report.macs[0] == (2 * 576 + 864) * 144


@pytest.mark.parametrize("where", ["weight", "constant", "bias"])
def test_weights_that_are_no_numbers_are_named(where):
    proto = two_convolutions()
    index = {"weight": 2, "constant": 2, "bias": 1}[where]
    name, shape = proto.graph.initializer[index].name, tuple(proto.graph.initializer[index].dims)
    wrong = array(shape)
    wrong.flat[3] = np.nan
    proto.graph.initializer[index].CopyFrom(numpy_helper.from_array(wrong, name))
    proto = as_nodes(proto) if where == "constant" else proto
    with pytest.raises(ValueError, match=f"hold NaN or infinity: '{name}'"):
        compressed(proto)


def test_what_the_runtime_does_not_open_is_refused():
    proto = two_convolutions()
    proto.opset_import.append(helper.make_opsetid("somewhere", 1))
    proto.graph.node.append(helper.make_node("Odd", ["y"], ["z"], domain="somewhere"))
    with pytest.raises(ValueError, match="ONNX Runtime does not open the model"):
        compressed(proto)


def several_inputs():
    """Whole numbers look up rows, which a second input scales."""
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["e"]),
        helper.make_node("Mul", ["e", "scale"], ["s"]),
        helper.make_node("Transpose", ["s"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["t", "w"], ["y"], name="line", pads=[1, 1]),
    ]
    tokens = helper.make_tensor_value_info("tokens", TensorProto.INT32, ["n", "steps"])
    weights = [tensor("table", (30, 10)), tensor("w", (14, 10, 3), 1)]
    return model(nodes, weights, {"tokens": tokens, "scale": ("n", 1, 1)})


def test_whole_numbers_and_several_inputs_calibrate():
    rng = np.random.default_rng(0)
    feed = {"tokens": rng.integers(30, size=(4, 20)), "scale": np.ones((4, 1, 1))}
    small, report = compressed(several_inputs(), 0.7, calibration=[feed])
    assert report.macs[0] == 14 * 10 * 3 * 20
    trial = try_models(several_inputs(), small, [feed], runs=1)
    given = {"tokens": feed["tokens"].astype(np.int32), "scale": feed["scale"].astype(np.float32)}
    before, after = (run(proto, **given)[0] for proto in (several_inputs(), small))
    assert trial.outputs[0].error == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before), rel=1e-4)
    for wrong, message in (
        ({"tokens": feed["tokens"]}, "needed are 'tokens'"),
        ({**feed, "tokens": feed["tokens"] + 0.5}, "takes int32"),
        ({**feed, "scale": np.ones((4, 2, 1))}, "input 'scale'"),
    ):
        with pytest.raises(ValueError, match=message):
            compressed(several_inputs(), calibration=[wrong])


def test_a_trial_compares_numbers_and_labels():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        helper.make_node("ReduceMean", ["a"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("ArgMax", ["m"], ["label"], axis=1),
    ]
    proto = model(nodes, [tensor("w", (6, 8, 3, 3))], outputs=("m",))
    proto.graph.output.append(helper.make_tensor_value_info("label", TensorProto.INT64, None))
    small, _ = compressed(proto, 0.4)
    x = images(40, 8, 12, 12)
    trial = try_models(proto, small, [{"x": x[:25]}, {"x": x[25:]}], runs=1)
    (before, labels), (after, new) = run(proto, x=x), run(small, x=x)
    assert trial.outputs[0].error == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before), rel=1e-5)
    assert trial.outputs[1].error == pytest.approx(np.mean(labels != new))
    assert trial.bytes == (len(proto.SerializeToString()), len(small.SerializeToString()))
    assert min(trial.seconds) > 0.0
    # Without inputs the model runs, and no error is claimed.
    plain = try_models(proto, small, runs=1)
    assert [output.error for output in plain.outputs] == [None, None]
    assert plain.seconds is not None
    weight = small.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(np.full(tuple(weight.dims), np.inf, np.float32), weight.name))
    with pytest.raises(ValueError, match="'m' of the compressed model is not finite"):
        try_models(proto, small, [{"x": x}])


def test_every_layer_gets_the_method_that_serves_it():
    proto = two_convolutions()
    _, one = compressed(proto, 0.5, "tucker2")
    small, best = compressed(proto, 0.5, "auto")
    assert {layer.method for layer in best.layers} <= {"dense", *SPATIAL, *PROJECTIONS}
    assert best.macs[1] <= 0.5 * best.macs[0]
    assert best.allocation.error <= one.allocation.error
    assert run(small, x=X)[0].shape == (3, 16, 6, 6)


def test_a_budget_that_is_not_used_is_said_with_the_reason():
    proto = two_convolutions()
    _, report = compress_onnx(proto, "tucker2", keep_macs=0.99, candidates=2, stabilise=False, keep=["second"])
    told = report.unused
    used = report.macs[1] / report.macs[0]
    assert f"0.99 was asked for, {used:.3f} is used: the next step, first from rank" in told
    assert "to the dense layer" in told
    _, report = compress_onnx(proto, "tucker2", keep_macs=1.0, candidates=2)
    assert report.unused == ""
    with pytest.raises(ValueError, match=r"cannot be met.*0.6667 in layers that stay"):
        compress_onnx(proto, "tucker2", keep_macs=0.4, candidates=2, keep=["first"])
