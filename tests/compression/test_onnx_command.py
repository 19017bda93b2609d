"""`tensorchain compress` from file to file."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.networks import shipped
from tensorchain.cli import compress as command
from tensorchain.cli.arguments import Parser
from tensorchain.cli.errors import CommandError, Status
from tensorchain.cli.feeds import split
from tensorchain.compression.onnx_clock import OnnxClock
from tensorchain.compression.onnx_reading import InputInfo


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
    words = [files / "net.onnx", "--method", "tc", "--keep-macs", 0.7, "--candidates", 4, "--out", out, "--plain"]
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
    words = [files / "net.onnx", "--method", "tucker2", "--keep-macs", 0.8, "--candidates", 4]
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
        (["--out", "small.onnx", "--restore", "images.npz", "--weight-bits", "4"], "give one of them"),
        (["--out", "small.txt"], "end in"),
        (["--out", "small.onnx", "--keep", "nothing"], "no layer"),
        (["--out", "small.onnx", "--calibration", "net.onnx"], "net.onnx"),
    ],
)
def test_what_cannot_be_done_ends_in_one_line(files, words, message):
    named = {"same": "net.onnx"}
    words = [files / named.get(w, w) if w.endswith((".onnx", ".txt", "same")) else w for w in words]
    with pytest.raises(CommandError, match=message):
        execute(files / "net.onnx", "--keep-macs", 0.5, "--candidates", 3, *words)
    assert not (files / "small.onnx").exists()


def test_damaged_files_are_bad_input(files):
    broken = files / "broken.onnx"
    broken.write_bytes((files / "net.onnx").read_bytes()[:-300])
    for extra in ([], ["--calibration", files / "images.npz"]):
        with pytest.raises(CommandError, match=r"broken\.onnx"):
            execute(broken, "--keep-macs", 0.5, "--out", files / "small.onnx", *extra)


def test_the_report_says_what_became_of_outputs_size_and_time(files, capsys):
    images = np.load(files / "images.npz")["images"]
    words = [files / "net.onnx", "--keep-macs", 0.7, "--method", "tucker2", "--candidates", 3]
    execute(*words, "--calibration", files / "images.npz", "--out", files / "small.onnx", "--json")
    record = json.loads(capsys.readouterr().out)
    before, after = (outputs(files / name, images) for name in ("net.onnx", "small.onnx"))
    expected = np.linalg.norm(after - before) / np.linalg.norm(before)
    assert record["outputs"] == [{"name": "y", "error": pytest.approx(expected, rel=1e-4), "note": ""}]
    assert record["bytes"] == [(files / name).stat().st_size for name in ("net.onnx", "small.onnx")]
    assert min(record["run_seconds"]) > 0.0
    execute(*words, "--calibration", files / "images.npz", "--no-refit", "--out", files / "plain.onnx", "--json")
    assert json.loads(capsys.readouterr().out)["outputs"][0]["error"] > expected


def test_tables_are_whole_in_a_pipe(files, capsys):
    proto = onnx.load(files / "net.onnx")
    name = "a/name/of/more/than/forty/characters/in/a/long/graph"
    proto.graph.node[0].name = name
    onnx.save(proto, files / "net.onnx")
    execute(
        files / "net.onnx", "--keep-macs", 0.99, "--method", "tucker2", "--candidates", 3, "--out", files / "small.onnx"
    )
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if name in line)
    assert "tucker2" in row
    assert "relative error" not in printed
    told = next(line for line in printed.splitlines() if line.strip().startswith("budget"))
    assert "keep_macs 0.99 was asked for" in told
    assert "to the dense layer" in told


def test_sizes_are_given_by_name_or_alone(files):
    proto = onnx.load(files / "net.onnx")
    for dim in proto.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "free"
    onnx.save(proto, files / "free.onnx")
    words = [files / "free.onnx", "--keep-macs", 0.7, "--candidates", 3, "--plain"]
    with pytest.raises(CommandError, match="--input-shape x=1,3,224,224"):
        execute(*words, "--out", files / "small.onnx")
    for given in ("1,8,10,10", "x=1,8,10,10"):
        execute(*words, "--input-shape", given, "--out", files / "small.onnx")
        assert outputs(files / "small.onnx", np.zeros((2, 8, 14, 9), np.float32)).shape == (2, 12, 14, 9)
    with pytest.raises(SystemExit):
        execute(*words, "--input-shape", "x=1,8,wide", "--out", files / "small.onnx")


@pytest.mark.parametrize("flaw", ["nan", "operator"])
def test_what_cannot_run_is_not_written(files, flaw):
    proto = onnx.load(files / "net.onnx")
    if flaw == "nan":
        proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((12, 8, 3, 3), np.nan, np.float32), "w"))
    else:
        proto.opset_import.append(helper.make_opsetid("somewhere", 1))
        proto.graph.node.append(helper.make_node("Odd", ["y"], ["z"], domain="somewhere"))
    onnx.save(proto, files / "flawed.onnx")
    with pytest.raises(CommandError, match="hold NaN or infinity: 'w'" if flaw == "nan" else "does not open") as caught:
        execute(files / "flawed.onnx", "--keep-macs", 0.7, "--out", files / "small.onnx")
    assert caught.value.status == Status.BAD_INPUT
    assert not (files / "small.onnx").exists()


def test_several_inputs_come_from_one_archive(files):
    given = {"x": (TensorProto.FLOAT, ["b", 8, 10, 10]), "label": (TensorProto.INT64, ["b"])}
    given["gain"] = (TensorProto.FLOAT, [])
    rows = [helper.make_tensor_value_info(name, *value) for name, value in given.items()]
    proto = onnx.load(files / "net.onnx")
    proto.graph.node[1].output[0] = "r"
    proto.graph.node.extend([
        helper.make_node("Mul", ["r", "gain"], ["s"]),
        helper.make_node("Cast", ["label"], ["l"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["l", "to"], ["c"]),
        helper.make_node("Add", ["s", "c"], ["y"]),
    ])  # fmt: skip
    proto.graph.initializer.append(numpy_helper.from_array(np.array([-1, 1, 1, 1]), "to"))
    del proto.graph.input[:]
    proto.graph.input.extend(rows)
    onnx.save(proto, files / "three.onnx")
    words = [files / "three.onnx", "--keep-macs", 0.7, "--candidates", 3, "--plain", "--out", files / "small.onnx"]
    images = np.load(files / "images.npz")["images"]
    np.savez(files / "given.npz", x=images, label=np.arange(40), gain=2.0)
    execute(*words, "--calibration", files / "given.npz")
    assert onnx.load(files / "small.onnx").graph.input == proto.graph.input
    np.savez(files / "short.npz", x=images, label=np.arange(39), gain=2.0)
    with pytest.raises(CommandError, match="different numbers of runs"):
        execute(*words, "--calibration", files / "short.npz")
    with pytest.raises(CommandError, match=r"no array 'x'.*'gain' \(\) float32"):
        execute(*words, "--calibration", files / "images.npz")


def test_files_of_others_are_measured_by_a_script(files, capsys):
    proto = onnx.load(files / "net.onnx")
    proto.graph.node[0].input[1] = "v"
    onnx.save(proto, files / "flawed.onnx")
    words = ["--files", files / "net.onnx", files / "flawed.onnx", "--inputs", files / "images.npz", "-"]
    assert shipped.main([str(word) for word in (*words, "--shares", 0.7, "--methods", "tucker2")]) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [row[1].split()[0] for row in rows[2:]] == ["original;", "int8", "tucker2,", "refused:"]
    compressed = dict(zip(rows[0], rows[4], strict=True))
    assert float(compressed["MACs"]) <= 0.7
    # Half of the images are enough to fit to white noise, or nearly.
    assert 0.0 < float(compressed["refitted"]) <= 1.05 * float(compressed["error"])


def test_arrays_are_split_as_the_inputs_ask():
    free, fixed, state = (
        InputInfo(name, np.dtype(np.float32), shape)
        for name, shape in (("x", (0, 4)), ("x", (2, 4)), ("state", (2, 3)))
    )
    entries = {"x": np.arange(20.0).reshape(5, 4), "state": np.zeros((2, 3))}
    parts = list(split(entries, [free, state]))
    assert [part["x"].shape for part in parts] == [(5, 4)]
    parts = list(split(entries, [fixed, state]))
    assert [part["x"][0, 0] for part in parts] == [0.0, 8.0]
    assert all(part["state"].shape == (2, 3) for part in parts)
    # One axis more than the input: one run for each entry.
    parts = list(split({"x": np.zeros((6, 2, 4)), "state": np.zeros((6, 2, 3))}, [fixed, state]))
    assert [part["x"].shape + part["state"].shape for part in parts] == [(2, 4, 2, 3)] * 6
    for wrong in ({"x": np.zeros(4), "state": entries["state"]}, {"x": np.zeros((1, 4)), "state": entries["state"]}):
        with pytest.raises(CommandError, match="needed"):
            split(wrong, [fixed, state])


def test_a_bound_on_the_outputs_in_place_of_a_share(files, capsys):
    words = [files / "net.onnx", "--method", "svd", "--candidates", 4, "--out", files / "small.onnx", "--plain"]
    with pytest.raises(CommandError, match="need --calibration"):
        execute(*words, "--max-output-error", 0.5)
    assert execute(*words, "--max-output-error", 0.6, "--calibration", files / "images.npz", "--json") == Status.OK
    record = json.loads(capsys.readouterr().out)
    assert record["outputs"][0]["error"] <= 0.6
    assert record["macs"][1] < record["macs"][0]
    held = [trial for trial in record["trials"] if trial["holds"]]
    assert held
    assert all(-trial["score"] <= 0.6 for trial in held)
    assert execute(*words, "--min-agreement", 0.5, "--calibration", files / "images.npz") == Status.OK
    assert "holds" in capsys.readouterr().out


def test_a_share_of_the_time_in_place_of_multiplications(files, capsys, monkeypatch):
    words = [files / "net.onnx", "--method", "svd", "--candidates", 6, "--out", files / "small.onnx", "--plain"]

    def networks(clock, models):
        assert clock.threads == 2
        assert clock.feed["x"].shape == (clock.batch, 8, 10, 10)
        batches.append(clock.batch)
        return [sum(np.prod(tensor.dims) for tensor in model.graph.initializer) for model in models]

    batches = []
    monkeypatch.setattr(OnnxClock, "layers", lambda clock, plans, site: [plan.parameters for plan in plans])
    monkeypatch.setattr(OnnxClock, "networks", networks)
    timed = ["--keep-latency", 0.6, "--threads", 2]
    for extra in ([], ["--calibration", files / "images.npz"], ["--input-shape", "4,8,10,10"], ["--batch", 5]):
        assert execute(*words, *timed, *extra, "--json") == Status.OK
        record = json.loads(capsys.readouterr().out)
        before, after = record["budget_seconds"]
        assert 0.4 < after / before <= 0.6
        assert record["budget_images"] == batches[-1]
    assert set(batches) == {1, 4, 5}
    assert execute(*words, *timed, "--calibration", files / "images.npz", "--batch", 3) == Status.OK
    told = capsys.readouterr().out
    # The whole batch of the calibration inputs is timed as well, and the report says which is which.
    assert "time of 3 images" in told
    assert "time of 32 images" in told
    with pytest.raises(CommandError, match=r"keep_latency=0\.001 cannot be reached: the fastest"):
        execute(*words, "--keep-latency", 0.001, "--threads", 2)
    with pytest.raises(CommandError, match="with --int8 give --keep-macs"):
        execute(*words, *timed, "--int8", "--calibration", files / "images.npz")


def test_restoring_lowers_the_errors_that_are_reported(files, capsys):
    pytest.importorskip("torch")
    np.savez(files / "many.npz", images=np.random.default_rng(1).standard_normal((128, 8, 10, 10)).astype(np.float32))
    words = [files / "net.onnx", "--method", "cp3", "--keep-macs", 0.4, "--candidates", 4, "--plain", "--no-refit"]
    words += ["--out", files / "small.onnx", "--json", "--calibration", files / "images.npz"]
    errors = []
    for extra in ([], ["--restore", files / "many.npz", "--epochs", 3]):
        assert execute(*words, *extra) == Status.OK
        record = json.loads(capsys.readouterr().out)
        errors.append(record["outputs"][0]["error"])
    assert errors[1] < errors[0]
    assert record["restored"]["errors"][record["restored"]["best"]] < record["restored"]["errors"][0]
