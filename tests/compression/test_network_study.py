"""The study of compressed networks: stored networks are their modules, runs resume, tables tell the rows."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("sklearn")

from benchmarks.networks import data, experiment, graph, latency, report, resnet, rows, stored, study, train  # noqa: E402
from benchmarks.networks.experiment import Bench, Passes, Run, compressed, filled, plan_in, run  # noqa: E402
from tensorchain.compression import METHODS, Convolution, Geometry, compress  # noqa: E402
from tensorchain.compression.torch_sites import sites_of  # noqa: E402


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small network for the digits, after one short epoch, with normalisations that have seen them."""
    recipe = {
        "network": "resnet20", "width": 8, "stem": "cifar", "data": "digits", "classes": 10, "channels": 1, "epochs": 1,
        "batch": 64, "rate": 0.05, "decay": 5e-4, "seed": 0, "precision": "float32",
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("weights")
    net, _ = train.train(data.load("digits", validation=0.8), recipe, folder / "checkpoint")
    train.save(net, folder / "tiny.safetensors", recipe)
    return folder / "tiny.safetensors"


@pytest.fixture
def bench(weights):
    splits = data.load("digits")
    small = data.Subset(splits.validation.source, splits.validation.indices[:20])
    return Bench(weights, replace(splits, validation=small), test_images=40)


@pytest.mark.parametrize("form", ["grouped", "fold"])
def test_stored_networks_are_their_modules(bench, tmp_path, form):
    example = bench.calibration[0][0]
    small = compress(bench.net, example[:1], "tc", keep_macs=0.95, form=form, keep=all_but_few(bench))
    plans = {}
    for layer in small.report.layers:
        if layer.method != "dense":
            plans[layer.name] = plan_in(
                small.get_submodule(layer.name), layer.method, layer.rank, geometry_of(bench, layer)
            )
    assert plans
    network = bench.dense.with_plans(plans)
    assert network.macs(bench.side) == small.report.macs[1]
    assert network.parameters == sum(p.numel() for p in small.parameters())
    stored.write(network, tmp_path / "small.safetensors")
    again = stored.read(tmp_path / "small.safetensors")
    assert again.macs(bench.side) == small.report.macs[1]
    assert set(again.state) == set(small.state_dict())
    runtime = pytest.importorskip("onnxruntime")
    for one, module in ((again, small), (bench.dense, bench.net)):
        model = graph.onnx_model(one, bench.side)
        for proto in (model, graph.short_names(model)):
            session = runtime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
            [got] = session.run(None, {graph.INPUT: example[:5].numpy()})
            expected = module(example[:5]).detach().numpy()
            assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


def all_but_few(bench):
    taken = {"layer1.0.conv1", "layer2.0.conv1", "layer2.0.downsample.0", "fc"}
    return tuple(site.name for site in sites_of(bench.net, bench.calibration[0][0][:1]) if site.name not in taken)


def geometry_of(bench, layer):
    return next(site.geometry for site in sites_of(bench.net, bench.calibration[0][0][:1]) if site.name == layer.name)


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_full_networks_have_the_same_graph_and_counts(tmp_path, stem):
    recipe = {"network": "resnet18", "width": 4, "stem": stem, "classes": 7, "channels": 3}
    net = train.build(recipe)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 1.5)
    train.save(net, tmp_path / "net.safetensors", recipe)
    network, side = stored.read(tmp_path / "net.safetensors"), 40
    assert [name for name, _, _ in network.convolutions()] == [
        name for name, module in net.named_modules() if isinstance(module, torch.nn.Conv2d)
    ]
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    assert network.macs(side) == sum(site.macs for site in sites_of(net.eval(), images[:1]))
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(graph.onnx_model(network, side).SerializeToString())
    expected = net(images).detach().numpy()
    assert np.abs(session.run(None, {"x": images.numpy()})[0] - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_blocks_are_those_of_the_networks():
    assert set(stored.BLOCKS) == set(resnet.NETWORKS)
    for name, blocks in stored.BLOCKS.items():
        net = resnet.NETWORKS[name](width=4)
        assert tuple(len(getattr(net, f"layer{k + 1}")) for k in range(net.stages)) == blocks


@pytest.mark.slow
def test_a_run_says_what_it_did(bench):
    pytest.importorskip("onnxruntime")
    told = Run("tiny", "tucker2", times=1.5, epochs=1, images=128, bits=(4,), quantized=((4, 4),), int8=True)
    found, ranks, final = run(bench, told)
    stages = [(row["stage"], row.get("bits")) for row in found]
    assert stages == [
        ("compressed", None), ("recalibrated", None), ("recalibrated", 4), ("epoch 1", None), ("epoch 1", 4),
        ("quantized", None), ("trained", None), ("int8", None),
    ]  # fmt: skip
    assert all(0.0 <= row["test"] <= 100.0 and row["images"] == 128 for row in found)
    assert bench.dense.macs(bench.side) >= 1.5 * found[0]["macs"]
    assert found[-1]["file_bytes"] < found[3]["file_bytes"]
    assert final.parameters == found[0]["parameters"]
    assert set(ranks) == set(final.plans)


def test_equal_ranks_with_and_without_control(bench, monkeypatch):
    monkeypatch.setattr(experiment, "compress", functools.partial(compress, keep=all_but_few(bench)))
    stable, plain = (
        compressed(bench, Run("tiny", "tc", times=1 / 0.95, stabilised=stabilised)) for stabilised in (True, False)
    )
    assert {name: rank for name, (_, rank) in stable[1].items()} == {name: rank for name, (_, rank) in plain[1].items()}
    assert stable[2]["median_sensitivity"] <= plain[2]["median_sensitivity"]
    assert stable[2]["layers_stabilised"] == stable[2]["layers"]
    assert plain[2]["layers_stabilised"] == 0


def test_training_in_bfloat16_measures_in_single_precision(bench):
    images = bench.calibration[0][0][:8]
    plain = bench.net(images).detach()
    with experiment.reduced(bench.net, "bfloat16"):
        assert torch.equal(bench.net(images), plain)
        bench.net.train()
        trained = bench.net(images).detach()
        bench.net.eval()
    assert "forward" not in vars(bench.net)
    bench.net.train()
    exact = bench.net(images).detach()
    assert 0.0 < (trained - exact).abs().max() < 0.1 * exact.abs().max()


def test_filled_takes_the_weights_of_the_module(bench):
    with torch.no_grad():
        bench.net.fc.bias.fill_(3.0)
    assert np.all(filled(bench.dense, bench.net).state["fc.bias"] == 3.0)


def test_passes_begin_with_calibration_and_draw_anew(bench):
    passes = Passes(bench, 130, seed=0, batch=64)
    assert len(passes) == 3
    assert len(list(passes())) == len(bench.calibration)
    first, second = ([labels for _, labels in passes()] for _ in range(2))
    assert [len(labels) for labels in first] == [64, 64, 2]
    assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    again = Passes(bench, 130, seed=0, batch=64)
    again.passed = 1
    assert all(torch.equal(a, b) for a, b in zip(first, [labels for _, labels in again()], strict=True))


def test_runs_have_names_of_their_own():
    told = list(study.runs("net", list(study.GROUPS), [0, 1]))
    assert {one.network for one in told} == {"net"}
    by_name = {}
    for one in told:
        # One name may serve two groups, if both ask for the same.
        other = by_name.setdefault(one.name, one)
        assert replace(one, bits=(), int8=False) == replace(other, bits=(), int8=False)


@pytest.mark.slow
def test_the_study_resumes(weights, tmp_path, monkeypatch, capsys):
    arguments = ["selection", "--quick", "--weights", str(weights), "--results", str(tmp_path), "--seeds", "0"]
    wanted = [Run("", "tucker2", times=2), Run("", "tucker2", selection="evbmf")]
    monkeypatch.setattr(study, "_group", lambda name: wanted)
    one_run, calls = study.run, []

    def stops(bench, told, say):
        if calls:
            raise KeyboardInterrupt
        calls.append(told.name)
        return one_run(bench, told, say)

    monkeypatch.setattr(study, "run", stops)
    with pytest.raises(KeyboardInterrupt):
        study.main(arguments)
    before = rows.Results(tmp_path, "tiny-quick")
    assert before.has("dense")
    assert before.has(wanted[0].name)
    monkeypatch.setattr(study, "run", one_run)
    assert study.main(arguments) == 0
    after = rows.Results(tmp_path, "tiny-quick")
    assert after.rows[: len(before.rows)] == [{**row, **extra(row, after)} for row in before.rows]
    assert {row["run"] for row in after.rows} == {"dense", *(one.name for one in wanted)}
    assert set(after.ranks) == {one.name for one in wanted}
    assert after.ranks[wanted[0].name]["method"] == "tucker2"
    text = capsys.readouterr().out
    assert all(one.name in text for one in wanted)
    assert [row["run"] for row in report.ends(after.rows)] == [one.name for one in wanted]
    with pytest.raises(SystemExit):
        study.main(["absent"])


def extra(row, results):
    """Columns that later runs brought in are empty in earlier rows."""
    return {name: "" for name in results.rows[0] if name not in row}


def test_without_the_data_the_digits_serve(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(data.DATA, "fashion-mnist", lambda path=tmp_path: data.fashion_mnist(path))
    path, splits = study.network_with_data(None, None)
    assert (path.stem, splits.name) == (study.FALLBACK, "digits")
    assert "going on with the digits" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):
        study.network_with_data(None, tmp_path)


def test_shipped_networks_keep_what_their_headers_say():
    net, header = train.trained(rows.WEIGHTS / f"{study.FALLBACK}.safetensors")
    assert train.accuracy(net, data.load("digits")) == pytest.approx(header["test_accuracy"], abs=0.01)
    for path in rows.WEIGHTS.glob("*.safetensors"):
        assert stored.read(path).recipe["data"] in data.DATA


RANKS = {"cp3": 5, "cp4": 5, "tucker2": [[3, 4]], "tucker-cp": [3, 4, 6], "btd": [[2, 3], [2, 3]], "tc": [2, 3, 4]}


@pytest.mark.parametrize("method", [*METHODS, "svd-out", "svd-in"])
def test_random_plans_have_their_ranks(method):
    shape = (8, 6, 1, 1) if method == "svd" else (8, 6, 3, 3)
    padding = ((0, 0), (0, 0)) if method == "svd" else ((1, 1), (1, 1))
    layer = Convolution(np.zeros(shape, np.float32), Geometry(padding=padding), bias=np.ones(8, np.float32))
    plan = latency.random_plan(method, RANKS.get(method, 3), layer, np.random.default_rng(0))
    assert plan.kernel.shape == shape
    assert plan.method == method
    assert np.array_equal(plan.convolutions[-1].bias, layer.bias)
    counts = {
        "svd": 3 * 14, "svd-out": 3 * (6 * 9 + 8), "svd-in": 3 * (6 + 9 * 8),
        "cp3": 5 * (6 + 9 + 8), "cp4": 5 * (6 + 3 + 3 + 8), "tucker2": 18 + 9 * 12 + 32,
        "btd": 2 * (12 + 9 * 6 + 24), "tc": 2 * 3 * 6 + 9 * 12 + 2 * 4 * 8,
    }  # fmt: skip
    # Tucker-2 with a CPD of its core: two pointwise convolutions in a row are joined where that costs no more.
    assert plan.parameters == counts.get(method, 6 * 6 + 6 * 9 + 6 * 8) + 8


def test_latency_measures_every_model(weights, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(latency, "WEIGHTS", weights.parent)
    monkeypatch.setattr(latency, "RESULTS", tmp_path)
    results = rows.Results(tmp_path, "tiny")
    results.add([{"run": "a", "method": "tc"}], {"layer1.0.conv1": [2, 2, 2]})
    results.add([{"run": "b", "method": "tucker2"}], {"layer1.0.conv1": [[2, 2]]})
    models = latency.onnx_models("tiny", ["a", "b"], 8)
    assert set(models) == {"dense", "a", "a fold", "b", "dense int8", "a fold int8"}
    found = latency.measure(models, 1, 2, side=8, seconds=0.01)
    assert [row["model"] for row in found] == list(models)
    for row in found:
        assert row["rounds"] >= 5
        assert row["milliseconds"] > 0.0
    assert found[0]["speed_up"] == 1.0
    assert found[1]["mac_ratio"] > 1.0
    assert "a fold" in latency.table(found)
    with pytest.raises(ValueError, match="no run 'c'"):
        latency.onnx_models("tiny", ["c"], 8)


def test_tables_are_put_in_their_places(tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    places = "".join(f"<!-- table: {name} -->\nold\n<!-- end -->\ntext\n" for name in report.TABLES)
    readme.write_text(places)
    monkeypatch.setattr(report, "TABLES", {name: lambda: report.markdown(["a"], [["1"]]) for name in report.TABLES})
    report.main(readme)
    text = readme.read_text()
    assert "old" not in text
    assert text.count("| a |\n| --- |\n| 1 |\n<!-- end -->\ntext") == len(report.TABLES)
    readme.write_text("")
    with pytest.raises(ValueError, match="no place"):
        report.main(readme)


def test_means_over_seeds():
    told = [{"stage": "epoch 1", "bits": bits, "test": test} for bits, test in (("", "90"), ("", "92"), ("8", "80"))]
    assert report.mean_of(told, "epoch 1") == ["91.00", "80.00", "-", "-"]
    assert math.isclose(float(report.mean_of(told, "epoch 1")[0]), 91.0)
