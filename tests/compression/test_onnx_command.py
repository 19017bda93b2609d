"""`tensorchain compress` from file to file."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tensorchain.cli import compress as command
from tensorchain.cli.arguments import Parser
from tensorchain.cli.errors import CommandError, Status


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["y"], name="relu"),
    ]
    weight = numpy_helper.from_array(rng.standard_normal((12, 8, 3, 3)).astype(np.float32), "w")
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", c, 10, 10]) for n, c in (("x", 8), ("y", 12))]
    proto = helper.make_model(
        helper.make_graph(nodes, "net", values[:1], values[1:], [weight]),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    onnx.save(proto, tmp_path / "net.onnx")
    np.savez(tmp_path / "images.npz", images=rng.standard_normal((40, 8, 10, 10)).astype(np.float32))
    return tmp_path


def execute(*words):
    parser = Parser(prog="tensorchain")
    command.add_parser(parser.add_subparsers(dest="command", required=True))
    arguments = parser.parse_args(["compress", *map(str, words)])
    return arguments.run(arguments)


def outputs(path, images):
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images})[0]


def test_a_file_is_compressed_and_described(files, capsys):
    out = files / "small.onnx"
    words = [files / "net.onnx", "--keep-macs", 0.7, "--rungs", 4, "--out", out, "--plain"]
    assert execute(*words, "--json") == Status.OK
    record = json.loads(capsys.readouterr().out)
    assert record["layers"][0]["method"] == "tc"
    assert record["macs"][1] <= 0.7 * record["macs"][0]
    onnx.checker.check_model(onnx.load(out))
    extra = ["--form", "auto", "--weight-bits", 4, "--checkpoint", files / "run"]
    assert execute(*words, *extra, "--json") == Status.OK
    timed = json.loads(capsys.readouterr().out)["layers"][0]
    assert timed["form"] == ("fold" if timed["form_seconds"][1] < timed["form_seconds"][0] else "grouped")
    assert timed["bits"] == [4, 4, 4]
    assert timed["error"] <= timed["rounded_error"]
    assert (files / "run").exists()
    assert execute(*words) == Status.OK
    assert "MACs" in capsys.readouterr().out


def test_int8_is_near_and_smaller(files, capsys):
    images = np.load(files / "images.npz")["images"]
    words = [files / "net.onnx", "--method", "tucker2", "--keep-macs", 0.8, "--rungs", 4]
    words += ["--calibration", files / "images.npz"]
    execute(*words, "--fit-output", "--out", files / "float.onnx")
    execute(*words, "--fit-output", "--int8", "--out", files / "int8.onnx")
    expected, rounded = (outputs(files / name, images) for name in ("float.onnx", "int8.onnx"))
    assert 0.0 < np.linalg.norm(rounded - expected) / np.linalg.norm(expected) < 0.05
    assert any(t.data_type == TensorProto.INT8 for t in onnx.load(files / "int8.onnx").graph.initializer)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "same"], "choose another name"),
        (["--out", "small.onnx", "--int8"], "need --calibration"),
        (["--out", "small.txt"], "end in"),
        (["--out", "small.onnx", "--keep", "nothing"], "no layer"),
        (["--out", "small.onnx", "--calibration", "net.onnx"], "net.onnx"),
    ],
)
def test_what_cannot_be_done_ends_in_one_line(files, words, message):
    named = {"same": "net.onnx"}
    words = [files / named.get(w, w) if w.endswith((".onnx", ".txt", "same")) else w for w in words]
    with pytest.raises(CommandError, match=message):
        execute(files / "net.onnx", "--keep-macs", 0.5, "--rungs", 3, *words)
    assert not (files / "small.onnx").exists()


def test_damaged_files_are_bad_input(files):
    broken = files / "broken.onnx"
    broken.write_bytes((files / "net.onnx").read_bytes()[:-300])
    for extra in ([], ["--calibration", files / "images.npz"]):
        with pytest.raises(CommandError, match=r"broken\.onnx"):
            execute(broken, "--keep-macs", 0.5, "--out", files / "small.onnx", *extra)
