"""ONNX files as exporters write them: weights in files beside them, layers inside functions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tensorchain.compression import compress_onnx
from tensorchain.compression.onnx_reading import stored_bytes


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
