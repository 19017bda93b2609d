"""ONNX graphs in PyTorch beside ONNX Runtime, and compressed models trained to give what the original gives."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tensorchain.compression import compress_onnx, restore_onnx
from tensorchain.compression.onnx_session import OnnxSession
from tensorchain.compression.onnx_torch import TorchGraph

torch = pytest.importorskip("torch")


def floats(shape, seed=0):
    values = np.random.default_rng(seed).standard_normal(shape)
    return (values / np.sqrt(max(np.prod(shape[1:]), 1))).astype(np.float32)


def constants(**arrays):
    return [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]


def network(nodes, weights, shape=("n", 8, 12, 12), opset=17, outputs=("y",)):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "net", given, ends, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(kind, inputs, output="y", **attributes):
    outputs = [output] if isinstance(output, str) else output
    return helper.make_node(kind, inputs, outputs, **attributes)


def whole(*values):
    return np.array(values, np.int64)


IMAGE = [
    (17, node("Relu", ["a"]), {}),
    (17, node("HardSigmoid", ["a"], alpha=0.3), {}),
    (17, node("LeakyRelu", ["a"]), {}),
    (17, node("Clip", ["a", "low", ""]), {"low": np.float32(-0.2)}),
    (6, node("Clip", ["a"], min=-0.1, max=0.4), {}),
    (17, node("MaxPool", ["a"], kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 0, 1]), {}),
    (17, node("MaxPool", ["a"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), {}),
    (17, node("AveragePool", ["a"], kernel_shape=[3, 3], pads=[1, 1, 0, 0]), {}),
    (17, node("AveragePool", ["a"], kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER"), {}),
    (17, node("AveragePool", ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1), {}),
    (17, node("GlobalAveragePool", ["a"]), {}),
    (17, node("Conv", ["a", "k"], strides=[2, 1], pads=[0, 1, 2, 1], dilations=[1, 2]), {"k": floats((5, 6, 3, 3), 3)}),
    (17, node("Conv", ["a", "k", "b"], auto_pad="SAME_LOWER", strides=[2, 2], group=3),
     {"k": floats((6, 2, 4, 3), 3), "b": floats((6,), 4)}),
    (17, node("ConvTranspose", ["a", "k", "b"], strides=[2, 3], pads=[1, 0, 0, 2], output_padding=[1, 0], group=2),
     {"k": floats((6, 2, 3, 3), 3), "b": floats((4,), 4)}),
    (17, node("BatchNormalization", ["a", "s", "t", "m", "v"]),
     {"s": floats((6,), 5), "t": floats((6,), 6), "m": floats((6,), 7), "v": np.abs(floats((6,), 8))}),
    (17, node("Resize", ["a", "", "f"], mode="nearest", coordinate_transformation_mode="asymmetric",
              nearest_mode="floor"), {"f": np.array([1, 1, 2, 1.5], np.float32)}),
    (17, node("Resize", ["a", "", "f"], mode="linear"), {"f": np.array([1, 1, 2, 0.6], np.float32)}),
    (17, node("Resize", ["a", "", "", "to"], mode="linear", coordinate_transformation_mode="align_corners"),
     {"to": whole(2, 6, 7, 20)}),
    (17, node("Resize", ["a", "", "", "to"], mode="nearest"), {"to": whole(2, 6, 5, 18)}),
    (17, node("Slice", ["a", "from", "to", "axes", "by"]),
     {"from": whole(-1, 1), "to": whole(-100, 9), "axes": whole(3, 2), "by": whole(-2, 3)}),
    (9, node("Slice", ["a"], starts=[1], ends=[-1], axes=[2]), {}),
    (17, node("Pad", ["a", "p", "v"]), {"p": whole(0, 0, 1, 2, 0, 0, 0, 1), "v": np.float32(0.5)}),
    (17, node("Pad", ["a", "p"], mode="reflect"), {"p": whole(0, 0, 1, 2, 0, 0, 0, 1)}),
    (17, node("Transpose", ["a"], perm=[0, 2, 3, 1]), {}),
    (17, node("Reshape", ["a", "to"]), {"to": whole(0, -1, 20)}),
    (17, node("Flatten", ["a"], axis=2), {}),
    (17, node("Unsqueeze", ["a", "axes"]), {"axes": whole(-1, 1)}),
    (17, node("Gather", ["a", "at"], axis=1), {"at": np.array([[0, -1], [2, 2]], np.int64)}),
    (17, node("Softmax", ["a"], axis=1), {}),
    (11, node("Softmax", ["a"], axis=1), {}),
    (17, node("ReduceMean", ["a"], axes=[1, -1], keepdims=0), {}),
    (18, node("ReduceMax", ["a", "axes"]), {"axes": whole(2)}),
    (17, node("ReduceSum", ["a"]), {}),
    (17, node("Expand", ["a", "to"]), {"to": whole(3, 1, 1, 1, 1)}),
    (17, node("Pow", ["a", "two"]), {"two": np.float32(2.0)}),
    (17, node("Max", ["a", "two"]), {"two": np.float32(0.1)}),
    (17, node("PRelu", ["a", "s"]), {"s": floats((6, 1, 1), 5)}),
    (17, node("LayerNormalization", ["a", "s", "t"], axis=-1), {"s": floats((10,), 5), "t": floats((10,), 6)}),
    (17, node("InstanceNormalization", ["a", "s", "t"]), {"s": floats((6,), 5), "t": floats((6,), 6)}),
]  # fmt: skip


@pytest.mark.parametrize(("opset", "last", "others"), IMAGE, ids=[f"{n.op_type}{o}" for o, n, _ in IMAGE])
def test_an_operator_gives_what_onnx_runtime_gives(opset, last, others):
    nodes = [node("Conv", ["x", "w", "c"], "a"), last]
    proto = network(nodes, constants(w=floats((6, 8, 3, 3)), c=floats((6,), 1), **others), opset=opset)
    feed = {"x": floats((2, 8, 12, 12), 2) * 40}
    trained = {"w": floats((6, 8, 3, 3)), "c": floats((6,), 1)}
    graph = TorchGraph(proto, trained, ["y"])
    weights = {name: torch.tensor(values, requires_grad=True) for name, values in trained.items()}
    found = graph.run(weights, graph.outside(feed))["y"]
    expected = OnnxSession(proto).run(feed)["y"]
    np.testing.assert_allclose(found.detach().numpy().reshape(expected.shape), expected, atol=2e-5, rtol=1e-4)
    (found * (1 + torch.arange(found.numel(), dtype=torch.float32)).reshape(found.shape)).sum().backward()
    assert float(weights["w"].grad.abs().max()) > 0.0


def test_split_and_gemm():
    nodes = [
        node("Gemm", ["x", "w", "c"], "a", transB=1, alpha=0.5, beta=2.0),
        node("Split", ["a", "sizes"], ["l", "r"], axis=-1),
        node("Concat", ["r", "l"], axis=1),
    ]
    arrays = {"w": floats((6, 8)), "c": floats((6,), 1)}
    proto = network(nodes, constants(**arrays, sizes=whole(2, 4)), ("n", 8))
    feed = {"x": floats((3, 8), 2)}
    graph = TorchGraph(proto, arrays, ["y"])
    found = graph.run({name: torch.tensor(values) for name, values in arrays.items()}, graph.outside(feed))["y"]
    np.testing.assert_allclose(found.numpy(), OnnxSession(proto).run(feed)["y"], rtol=1e-5, atol=1e-6)


def two_layers(last=None, dtype=np.float32):
    nodes = [
        node("Conv", ["x", "w1", "b1"], "a", name="first", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], "r"),
        node("Conv", ["r", "w2"], "c", name="second", pads=[1, 1, 1, 1]),
        *(last or [node("GlobalAveragePool", ["c"])]),
    ]
    weights = constants(w1=floats((12, 8, 3, 3)), b1=floats((12,), 1), w2=floats((16, 12, 3, 3), 2))
    return network(nodes, weights)


def inputs(count=8, seed=3):
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((4, 8, 12, 12)).astype(np.float32).cumsum(2).cumsum(3)} for _ in range(count)]


def test_a_restored_model_is_nearer_to_the_original_on_new_inputs_and_else_the_same():
    original, feeds = two_layers(), inputs()
    small, _ = compress_onnx(original, "tucker2", keep_macs=0.3, candidates=4, stabilise=False)
    before = small.SerializeToString()
    better, report = restore_onnx(original, small, feeds, epochs=6, rate=0.05)
    assert small.SerializeToString() == before
    assert len(report.errors) == 7
    assert report.errors[report.best] == min(report.errors) < 0.85 * report.errors[0]
    fresh = inputs(3, seed=9)
    wanted, plain, found = (
        np.concatenate([OnnxSession(proto).run(feed)["y"] for feed in fresh]) for proto in (original, small, better)
    )
    assert np.linalg.norm(found - wanted) < 0.9 * np.linalg.norm(plain - wanted)
    assert [n.SerializeToString() for n in better.graph.node] == [n.SerializeToString() for n in small.graph.node]
    assert [t.name for t in better.graph.initializer] == [t.name for t in small.graph.initializer]
    again, _ = restore_onnx(original, small, feeds, epochs=6, rate=0.05)
    assert again.SerializeToString() == better.SerializeToString()


def test_what_becomes_worse_is_not_taken():
    original, feeds = two_layers(), inputs(4)
    small, _ = compress_onnx(original, "tucker2", keep_macs=0.5, candidates=4, calibration=feeds, stabilise=False)
    same, report = restore_onnx(original, small, feeds, epochs=2, rate=0.9)
    assert report.best == 0
    assert same.SerializeToString() == small.SerializeToString()


def test_inner_shapes_and_integers_come_from_onnx_runtime():
    last = [
        node("Shape", ["c"], "s"),
        node("Gather", ["s", "zero"], "n0"),
        node("Unsqueeze", ["n0", "axis"], "n1"),
        node("Concat", ["n1", "rest"], "to", axis=0),
        node("Reshape", ["c", "to"]),
    ]
    original = two_layers(last)
    original.graph.initializer.extend(constants(zero=np.array(0, np.int64), axis=whole(0), rest=whole(-1)))
    small, _ = compress_onnx(original, "tucker2", keep_macs=0.4, candidates=3, input_shapes={"x": (1, 8, 12, 12)})
    _, report = restore_onnx(original, small, inputs(3), epochs=2)
    assert report.errors[report.best] < report.errors[0]


def test_outputs_that_cannot_be_compared_are_named():
    original = two_layers([node("Round", ["c"])])
    small, _ = compress_onnx(original, "tucker2", keep_macs=0.4, candidates=3)
    with pytest.raises(ValueError, match="outputs come through Round"):
        restore_onnx(original, small, inputs(2))
    one = two_layers([node("GlobalAveragePool", ["c"]), node("Round", ["c"], "z")])
    one.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    small, _ = compress_onnx(one, "tucker2", keep_macs=0.4, candidates=3)
    assert restore_onnx(one, small, inputs(2), epochs=1)[1].missing == ("z: Round",)


def test_weights_in_half_precision_stay_so():
    original = two_layers()
    for tensor in original.graph.initializer:
        half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name + "16")
        tensor.CopyFrom(half)
    for name in ("w2", "b1", "w1"):
        original.graph.node.insert(0, node("Cast", [name + "16"], name, to=TensorProto.FLOAT))
    small, _ = compress_onnx(original, "tucker2", keep_macs=0.4, candidates=3, calibration=inputs(2))
    better, report = restore_onnx(original, small, inputs(), epochs=4)
    kinds = [tensor.data_type for tensor in small.graph.initializer]
    assert [tensor.data_type for tensor in better.graph.initializer] == kinds
    assert report.errors[report.best] <= report.errors[0]


def test_arguments():
    original = two_layers()
    with pytest.raises(ValueError, match="two or more are needed"):
        restore_onnx(original, original, inputs(1))
    with pytest.raises(ValueError, match="epochs is 0"):
        restore_onnx(original, original, inputs(2), epochs=0)
    with pytest.raises(ValueError, match="rate is 2"):
        restore_onnx(original, original, inputs(2), rate=2.0)


def test_runs_of_several_sizes():
    original = two_layers([node("Transpose", ["c"], perm=[0, 2, 3, 1])])
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((2, 8, size, 9)).astype(np.float32).cumsum(2)} for size in (7, 12, 9, 15)]
    original.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"
    original.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "w"
    small, _ = compress_onnx(original, "tucker2", keep_macs=0.4, candidates=3, calibration=feeds[:1], refit=False)
    _, report = restore_onnx(original, small, feeds, epochs=3, rate=0.02)
    assert report.errors[report.best] < report.errors[0]
