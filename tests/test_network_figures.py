"""Figures 6 to 10: what they measure is what they say, and shipped rows are found by what was run."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

pytest.importorskip("safetensors")

import tensorchain as tc
from benchmarks.networks import rows as rows_of_study
from benchmarks.networks import stored
from paper_figures import accuracy, bits, fine_tuning, kernels, latency, network_rows
from paper_figures.results import Settings, column, groups
from paper_figures.style import style
from tensorchain.compression import kernel_tensor

DIGITS = "resnet20-w8-digits-seed0"
MODULES = (kernels, fine_tuning, accuracy, bits, latency)


def text_of(figure: Figure) -> str:
    with style():
        figure.canvas.draw()
    return " ".join(child.get_text() for child in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def stored_rows(module: Any, keep: Any = lambda key: True) -> list[dict[str, str]]:
    """The rows of some jobs, as the runner stores them."""
    found = []
    for job in module.jobs(Settings()):
        if keep(job.key):
            found += [{name: str(value) for name, value in {**job.key, **row}.items()} for row in job.run()]
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_jobs_are_told_apart(module: Any) -> None:
    quick, full = (list(module.jobs(Settings(full=full))) for full in (False, True))
    assert 0 < len(quick) < len(full)
    for jobs in (quick, full):
        assert len({tuple(job.key.items()) for job in jobs}) == len(jobs)
        assert len({tuple(job.key) for job in jobs}) == 1
    json.dumps(module.parameters(Settings()), allow_nan=False)


@pytest.mark.parametrize("model", ["chain", "CPD"])
def test_correction_lowers_the_sensitivity_at_the_same_error(model: str) -> None:
    before, after = kernels.measure(DIGITS, model, 4, "layer1.0.conv1", 0)
    assert before["method"] == kernels.BEFORE
    assert after["error"] <= kernels.MARGIN * before["error"] * (1 + 1e-3)
    assert after["sensitivity"] < before["sensitivity"]
    tensor = kernel_tensor(stored.read(kernels.WEIGHTS / f"{DIGITS}.safetensors").state["layer1.0.conv1.weight"])
    assert before["shape"] == "x".join(map(str, tensor.shape))


@pytest.mark.slow
def test_kernels_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "NETWORK", DIGITS)
    found = stored_rows(kernels, lambda key: key["layer"] in ("layer1.0.conv1", "layer1.0.conv2"))
    text = text_of(kernels.draw(found))
    for word in (kernels.BEFORE, kernels.AFTER.replace(", ", ",\n"), "layer1.0.conv2", "chain", "CPD"):
        assert word in text
    drops = [float(a["sensitivity"]) / float(b["sensitivity"]) for a, b in zip(found[::2], found[1::2], strict=True)]
    assert f"chain: {np.median(drops[:2]):.1f} times less sensitive (median" in kernels.describe(found)


@pytest.mark.parametrize("model", ["chain", "Tucker-2"])
def test_rounding_errors_are_predicted(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bits, "SMALLER", DIGITS)
    found = bits.measure(model, "layer2.0.conv2", 0)
    assert [row["bits"] for row in found] == list(bits.BITS)
    for row in found[:3]:
        assert 0.5 < row["error"] / row["predicted"] < 2.0


@pytest.fixture
def shipped(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> rows_of_study.Results:
    """A results file with runs that differ in one thing at a time."""
    results = rows_of_study.Results(tmp_path, network_rows.NETWORK)
    common = {
        "network": "n", "method": "tc", "selection": "global", "budget": "macs", "times": 5.0, "stabilised": True,
        "fit_output": False, "seed": 0, "epochs": 3, "images": 100,
    }  # fmt: skip
    dense = {"run": "dense", "stage": "dense", "test": 90.0, "macs": 2_000_000, "parameters": 9000}
    results.add([dense])
    for name, other in {
        "a": {}, "b": {"times": 3}, "c": {"stabilised": False}, "d": {"fit_output": True}, "e": {"seed": 1},
        "f": {"selection": "one-step"}, "g": {"budget": "params"}, "h": {"method": "cp3"},
    }.items():  # fmt: skip
        results.add([{"run": name, **common, **other, "stage": "epoch 3", "test": 80.0}])
    results.add([{"run": "i", **common, "stage": "quantized", "weight_bits": 4, "activation_bits": 8, "test": 70.0}])
    monkeypatch.setattr(network_rows, "RESULTS", tmp_path)
    network_rows._rows.cache_clear()
    yield results
    network_rows._rows.cache_clear()


def test_shipped_rows_are_found_by_what_was_run(shipped: rows_of_study.Results) -> None:
    told = {"method": "tc", "times": 5, "stabilised": True, "seed": 0, "bits": (8, 6, 4)}
    for changes, name in (
        ({}, "a"), ({"times": 3}, "b"), ({"stabilised": False}, "c"), ({"fit_output": True}, "d"), ({"seed": 1}, "e"),
        ({"selection": "one-step"}, "f"), ({"budget": "params"}, "g"), ({"method": "cp3"}, "h"),
        ({"quantized": ((4, 8),)}, "i"),
    ):  # fmt: skip
        assert {row["run"] for row in network_rows.shipped({**told, **changes})} == {name}
    assert network_rows.shipped({**told, "method": "btd"}) == []
    assert network_rows.dense_accuracy() == 90.0


@pytest.mark.parametrize("module", [fine_tuning, accuracy], ids=["fine_tuning", "accuracy"])
def test_shipped_rows_are_drawn(module: Any) -> None:
    found = stored_rows(module)
    text = text_of(module.draw(found))
    for method in groups(found, "method"):
        assert network_rows.NAMES[method] in text
    caption = module.describe(found)
    assert f"{int(found[0]['images']):,} of the 55,000 training images" in caption
    assert f"{network_rows.dense_accuracy():.1f} %" in caption


def test_bits_are_drawn() -> None:
    found = stored_rows(bits, lambda key: key["layer"] in ("all", "layer1.0.conv1"))
    text = text_of(bits.draw(found))
    for word in ("rounded", "after one more epoch", "chain, 4 bits", "Tucker-2, 8 bits"):
        assert word in text
    assert min(column([row for row in found if row["stage"] == "kernel"], "predicted")) > 0.0


def test_latencies_are_drawn() -> None:
    found = [
        {
            "network": "n", "threads": threads, "batch": batch, "model": model, "rounds": rounds, "speed_up": speed,
            "mac_ratio": ratio,
        }
        for threads, batch, rounds in (("1", "1", "40"), ("1", "32", "7"))
        for model, speed, ratio in (
            ("dense", "1.0", "1.0"), ("dense int8", "1.1", "1.0"), ("tc-global-macs-5x-seed0", "1.5", "5.0"),
            ("tc-global-macs-5x-seed0 fold", "1.2", "5.0"), ("cp3-global-macs-5x-seed0", "2.0", "5.0"),
        )
    ]  # fmt: skip
    figure = latency.draw(found)
    text = text_of(figure)
    for word in ("TC, folded", "CPD, order 3", "1 thread, batch of 32"):
        assert word in text.replace("\n", " ")
    assert "over 7 or more rounds" in latency.describe(found)
    # The dense network and int8 files are no bars, and the fastest is on top.
    assert sorted(bar.get_width() for bar in figure.axes[0].patches) == [1.2, 1.5, 2.0]
    assert figure.axes[0].get_yticklabels()[0].get_text() == "CPD, order 3"
    bottom, top = figure.axes[0].get_ylim()
    assert bottom > top


@pytest.mark.slow
def test_figures_need_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import paper_figures.kernels, paper_figures.latency, " + (
        "paper_figures.fine_tuning, paper_figures.accuracy, paper_figures.bits, benchmarks.networks.latency, "
        "paper_figures.known_stages, paper_figures.known_methods, paper_figures.known_bits, paper_figures.known_files, "
        "benchmarks.networks.known_files"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_prediction_uses_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bits, "SMALLER", DIGITS)
    monkeypatch.setattr(tc, "quantization_error", lambda model, count: 7.0)
    assert {row["predicted"] for row in bits.measure("Tucker-2", "layer1.0.conv1", 0)} == {7.0}
