"""ONNX files as exporters write them: weights in files beside them, layers inside functions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tensorchain.cli.errors import CommandError
from tensorchain.cli.feeds import read_feeds, split
from tensorchain.compression import compress_onnx, compress_onnx_within
from tensorchain.compression.onnx_calibration import checked_feeds
from tensorchain.compression.onnx_reading import InputInfo, stored_bytes, stored_sizes


def graph(nodes, weights, opsets=(("", 17),)):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8, 13, 14])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", "h", "w"])
    versions = [helper.make_opsetid(*one) for one in opsets]
    return helper.make_model(helper.make_graph(nodes, "net", [x], [y], weights), opset_imports=versions, ir_version=8)


def kernel():
    values = np.random.default_rng(0).standard_normal((12, 8, 3, 3)).astype(np.float32)
    return numpy_helper.from_array(values, "w")


def single():
    return graph([helper.make_node("Conv", ["x", "w"], ["y"], name="only", pads=[1, 1, 1, 1])], [kernel()])


def kept_outside(path, location, **entries):
    """A file that says that its kernel is in another file."""
    proto = single()
    tensor = proto.graph.initializer[0]
    raw = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(proto.SerializeToString())
    return raw


def test_weights_in_files_beside_the_model_are_read(tmp_path):
    folder = tmp_path / "export"
    (folder / "data").mkdir(parents=True)
    raw = kept_outside(folder / "net.onnx", "data/weights", offset=16, length=12 * 8 * 9 * 4)
    (folder / "data" / "weights").write_bytes(bytes(16) + raw + b"more")
    small, _ = compress_onnx(folder / "net.onnx", "tucker2", keep_macs=0.5, candidates=3)
    wanted, _ = compress_onnx(single(), "tucker2", keep_macs=0.5, candidates=3)
    assert small.SerializeToString() == wanted.SerializeToString()
    assert stored_bytes(folder / "net.onnx") == (folder / "net.onnx").stat().st_size + 16 + len(raw) + 4
    (folder / "data" / "weights").write_bytes(raw[:-8])
    with pytest.raises(ValueError, match="ends before weight 'w'"):
        compress_onnx(folder / "net.onnx", keep_macs=0.5)
    (folder / "data" / "weights").unlink()
    with pytest.raises(ValueError, match="'weights' beside the file"):
        compress_onnx(folder / "net.onnx", keep_macs=0.5)
    with pytest.raises(ValueError, match="name of its file"):
        compress_onnx(onnx.load(folder / "net.onnx", load_external_data=False), keep_macs=0.5)


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/hosts", "link", "linked/secret", "c:\\secret", "..\\secret", ""]
)
def test_weights_elsewhere_are_refused(tmp_path, location):
    folder = tmp_path / "export"
    folder.mkdir()
    raw = kept_outside(folder / "net.onnx", location)
    (tmp_path / "secret").write_bytes(raw)
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "linked").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="not below the model's folder"):
        compress_onnx(folder / "net.onnx", keep_macs=0.5)


def test_layers_inside_functions_are_found():
    body = [helper.make_node("Conv", ["a", "k"], ["b"], name="inner", pads=[1, 1, 1, 1])]
    opset = helper.make_opsetid("", 17)
    function = helper.make_function("mine", "block", ["a", "k"], ["b"], body, [opset])
    nodes = [helper.make_node("block", ["x", "w"], ["y"], domain="mine", name="outer")]
    proto = graph(nodes, [kernel()], [("", 17), ("mine", 1)])
    proto.functions.append(function)
    small, report = compress_onnx(proto, "tucker2", keep_macs=0.5, candidates=3)
    assert [layer.method for layer in report.layers] == ["tucker2"]
    assert not small.functions


@pytest.mark.parametrize("method", ["svd", "channels"])
def test_the_report_counts_what_the_file_stores(method):
    """Biases in nodes of their own, and a normalisation between; refitted layers may get a bias."""
    rng = np.random.default_rng(0)

    def stored(name, *shape):
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) / shape[0], name)

    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], name="first"),
        helper.make_node("Add", ["a", "b1"], ["b"]),
        helper.make_node("LayerNormalization", ["b", "s", "t"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w2"], ["e"], name="second"),
        helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["y"], name="third"),
    ]
    weights = [stored("w1", 12, 16), stored("b1", 16), stored("s", 16), stored("t", 16), stored("w2", 16, 16)]
    weights.append(stored("w3", 16, 6))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", 5, k]) for n, k in (("x", 12), ("y", 6))]
    proto = helper.make_model(
        helper.make_graph(nodes, "net", ends[:1], ends[1:], weights),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    feeds = [{"x": rng.standard_normal((20, 5, 12)).astype(np.float32)} for _ in range(4)]
    for refit in (False, True):
        small, report = compress_onnx(proto, method, keep_macs=0.7, calibration=feeds, refit=refit, candidates=4)
        assert report.parameters == (stored_sizes(proto), stored_sizes(small))


def test_inputs_that_do_not_fit_are_explained(tmp_path):
    feeds = [{"x": np.ones((4, 8, 13, 14))}] * 2
    with pytest.raises(ValueError, match=r"input_shapes gives \(1, 8\) for 'x'; \(any, 8, 13, 14\) float32 is needed"):
        compress_onnx(single(), keep_macs=0.5, input_shapes={"x": (1, 8)})
    with pytest.raises(ValueError, match="values of type complex128"):
        list(checked_feeds([{"x": 1j * feeds[0]["x"]}], [InputInfo("x", np.dtype("f4"), (0, 8, 13, 14))]))
    with pytest.raises(ValueError, match=r"min_agreement is 1\.1"):
        compress_onnx_within(single(), calibration=feeds, min_agreement=1.1)
    (tmp_path / "a.npz").write_text("no archive")
    with pytest.raises(CommandError, match=r"not a readable \.npz file: it is none"):
        read_feeds(tmp_path / "a.npz", None, [InputInfo("x", np.dtype("f4"), (0, 8))])


def test_few_images_make_as_many_runs_as_are_needed():
    inputs = [InputInfo("x", np.dtype("f4"), (0, 8))]
    assert [len(feed["x"]) for feed in split({"x": np.ones((10, 8))}, inputs, runs=4)] == [2] * 5
    assert [len(feed["x"]) for feed in split({"x": np.ones((10, 8))}, inputs)] == [10]
    assert [len(feed["x"]) for feed in split({"x": np.ones((2, 8))}, inputs, runs=4)] == [1, 1]
    assert {len(feed["x"]) for feed in split({"x": np.ones((640, 8))}, inputs, runs=4)} == {32}
