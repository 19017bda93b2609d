"""Files of networks that others trained: layouts without weights, ranks that come back, sizes and times."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
image_module = pytest.importorskip("PIL.Image")
runtime = pytest.importorskip("onnxruntime")

from benchmarks.networks import graph, known, known_files, latency, layouts, report  # noqa: E402
from tensorchain.compression.torch_sites import sites_of  # noqa: E402

TINY = {**layouts.LAYOUTS["resnet20-cifar10"], "blocks": (1, 1, 1)}


def randomised(net):
    """Normalisations that do something."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_()
    return net.eval()


def arrays(net):
    """The state with the names of torchvision."""
    state = {name.replace("linear.", "fc."): values.numpy() for name, values in net.state_dict().items()}
    return {name: values for name, values in state.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    ("layout", "make"),
    [
        (TINY, lambda: known.CifarResNet(1)),
        ({**TINY, "blocks": (2, 2, 2)}, lambda: known.CifarResNet(2)),
        ({**layouts.LAYOUTS["resnet18-w64-cifar10-jpeg"], "width": 8}, lambda: known.resnet18(width=8)),
    ],
    ids=["zeros", "zeros, deeper", "convolution"],
)
def test_a_layout_has_the_arrays_of_its_network_and_its_outputs(layout, make):
    torch.manual_seed(0)
    net, network = randomised(make()), layouts.blank(layout)
    state = arrays(net)
    assert {name: array.shape for name, array in network.state.items()} == {n: a.shape for n, a in state.items()}
    assert network.parameters == sum(p.numel() for p in net.parameters())
    # A side that two strides do not divide.
    for side in (16, 18):
        images = torch.randn(3, 3, side, side)
        assert network.macs(side) == sum(site.macs for site in sites_of(net, images[:1]))
        model = graph.onnx_model(replace(network, state=state), side)
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        expected = net(images).detach().numpy()
        assert (
            np.abs(session.run(None, {graph.INPUT: images.numpy()})[0] - expected).max()
            <= 1e-4 * np.abs(expected).max()
        )


def test_layouts_are_those_of_the_known_networks():
    assert list(layouts.LAYOUTS) == list(report.KNOWN)
    for name, count in (("resnet20-cifar10", 3), ("resnet56-cifar10", 9)):
        assert set(layouts.blank(layouts.LAYOUTS[name]).state) == set(arrays(known.CifarResNet(count)))
    # Millions of multiplications and parameters, of the papers' tables.
    sizes = {
        name: (round(one.macs(32) / 1e6), round(one.parameters / 1e4))
        for name, one in ((name, layouts.blank(layout)) for name, layout in layouts.LAYOUTS.items())
    }
    assert sizes == {
        "resnet20-cifar10": (41, 27), "resnet56-cifar10": (125, 85), "resnet18-w64-cifar10-jpeg": (555, 1117),
    }  # fmt: skip


def test_shipped_ranks_are_those_of_the_study_and_cost_what_they_say():
    with (report.RESULTS / "known.csv").open(encoding="utf-8", newline="") as stream:
        studied = {
            (row["network"], row["method"]): float(row["macs"])
            for row in csv.DictReader(stream)
            if row["times"] == "3.0" and row["method"] != "auto"
        }
    for network, layout in layouts.LAYOUTS.items():
        ranks = json.loads(known_files.ranks_file(report.RESULTS, network).read_text(encoding="utf-8"))
        assert set(ranks) == {f"{method}-{times}x" for method in known_files.METHODS for times in known_files.TIMES}
        shares = {method: ranks[f"{method}-3x"]["macs"] for method in known_files.METHODS}
        for method in [method for method in shares if (network, method) in studied]:
            assert shares[method] == pytest.approx(studied[network, method], abs=1e-4)
        if network != "resnet20-cifar10":
            continue
        dense = layouts.blank(layout)
        for run in ranks.values():
            small = dense.with_plans(latency.random_plans(dense, run))
            assert small.macs(layouts.SIDE) / dense.macs(layouts.SIDE) == pytest.approx(run["macs"], rel=1e-12)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Weights of a tiny network that is known by name, a tar of small images, and nothing else."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    monkeypatch.setattr(layouts, "LAYOUTS", {"tiny": TINY, "absent": TINY})
    save_file(known.CifarResNet(1).state_dict(), tmp_path / "tiny.safetensors")
    rng = np.random.default_rng(0)
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        for name, n in ((c, k) for c in "ab" for k in range(8)):
            stream = io.BytesIO()
            image_module.fromarray(rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)).save(stream, "PNG")
            entry = tarfile.TarInfo(f"data/train/{name}/{n}.png")
            entry.size = len(stream.getvalue())
            archive.addfile(entry, io.BytesIO(stream.getvalue()))
    return tmp_path


def test_ranks_are_chosen_and_come_back_as_files(folder, monkeypatch, capsys):
    monkeypatch.setattr(layouts, "SIDE", 16)
    methods = ["tc", "tucker2"]
    given = [str(folder / "tiny.safetensors"), "--path", str(folder / "images.tar"), "--results", str(folder),
             "--candidates", "3", "--calibration", "8", "--seconds", "0"]  # fmt: skip
    assert known_files.main([*given, "--methods", *methods]) == 0
    ranks = json.loads((folder / "tiny-ranks.json").read_text())
    assert list(ranks) == [f"{method}-{times}x" for times in (3, 5) for method in methods]
    rows = [dict(zip(known_files.COLUMNS, line.split(","), strict=True))
            for line in (folder / "known-files.csv").read_text().splitlines()[1:]]  # fmt: skip
    assert {row["network"] for row in rows} == {"tiny"}
    assert {row["batch"] for row in rows} == {"1", "32"}
    dense = next(row for row in rows if row["model"] == "dense")
    assert dense["file_bytes"] == dense["dense_bytes"]
    for row in rows:
        run = ranks.get(row["model"].removesuffix(" fold"))
        if run is None:
            continue
        # What was counted by the choice is what the file does.
        assert float(row["macs"]) == pytest.approx(run["macs"], abs=2e-3)
        assert run["macs"] <= 1.0 / run["times"]
        assert int(row["file_bytes"]) < int(dense["file_bytes"])
        assert (row["method"], row["times"]) == (run["method"], str(run["times"]))
        assert float(row["speed_up"]) > 0.0
    assert any(row["model"] == "tc-3x fold" for row in rows)
    assert len(capsys.readouterr().out.splitlines()) == 2 * len(methods) + 2 + len(rows)
    # A second method is added to those that are there, and times need no weights.
    assert known_files.main([*given, "--methods", "cp3"]) == 0
    assert set(json.loads((folder / "tiny-ranks.json").read_text())) == {*ranks, "cp3-3x", "cp3-5x"}
    assert known_files.main(["--results", str(folder), "--seconds", "0"]) == 0


def test_what_is_missing_is_said(folder, capsys):
    for arguments, said in (
        ([str(folder / "tiny.safetensors")], "give --path"),
        (["--results", str(folder)], "no ranks in"),
    ):
        with pytest.raises(SystemExit):
            known_files.main(arguments)
        assert said in capsys.readouterr().err
    other = folder / "other.safetensors"
    other.write_bytes((folder / "tiny.safetensors").read_bytes())
    with pytest.raises(ValueError, match="name the file so"):
        known_files.main([str(other), "--path", str(folder / "images.tar"), "--results", str(folder)])
