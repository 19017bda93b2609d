"""Accuracy of compressed networks after compression, along fine-tuning, and with rounded weights; stabilised and not.

Shown: a ResNet-18 of width 16, trained on Fashion-MNIST, compressed to 5 times fewer multiplications by chains (TC),
block terms, CPDs of order 3 and 4, and Tucker-2 with a CPD of its core, each with the error-preserving correction of
its sensitivity (solid) and without (dashed), at equal ranks; Tucker-2 needs none.  Above: test accuracy from
compression alone (epoch 0, normalisations measured again) over the epochs of restoration.  Below: the weights of the
new layers rounded to 8, 6 and 4 bits, one step a layer, before and after restoration.

Paper: "Stable low-rank tensor decomposition for compression of convolutional neural network", on fine-tuning; "How to
train your unstable looped tensor network", on networks; "CNN acceleration by low-rank approximation with quantized
factors".  What differs: network and data are small, and an epoch is a part of the training images.  `--quick` draws the
rows that `python -m benchmarks.networks.study chains methods` measured and that are shipped in
benchmarks/networks/results; `--full` measures again on all training images, with three seeds (needs PyTorch).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from paper_figures import network_rows
from paper_figures.network_rows import NAMES, NETWORK
from paper_figures.results import Job, Row, Settings, column, groups
from paper_figures.style import curve_style, new_figure

__all__ = ["NETWORK", "describe", "draw", "jobs", "parameters"]

METHODS = ("tc", "btd", "cp3", "cp4", "tucker-cp", "tucker2")
TIMES = 5


def parameters(settings: Settings) -> dict[str, Any]:
    """What is run, in full."""
    return {"methods": METHODS, "times": TIMES, **network_rows.parameters(settings)}


def jobs(settings: Settings) -> Iterator[Job]:
    """One run of the study."""
    runs = []
    for seed in network_rows.seeds(settings):
        for method in METHODS:
            for stabilised in (True,) if method == "tucker2" else (True, False):
                told = {"method": method, "times": TIMES, "stabilised": stabilised, "seed": seed, "bits": (8, 6, 4)}
                runs.append(told)
    return network_rows.jobs(settings, runs)


def describe(rows: list[Row]) -> str:
    """The caption."""
    return (
        f"{network_rows.title()}, compressed to {TIMES} times fewer multiplications. Solid lines, filled marks: "
        f"sensitivity controlled; dashed lines, open marks: plain least squares at equal ranks. "
        f"{network_rows.epoch_text(rows)} Dotted: the dense network, {network_rows.dense_accuracy():.1f} %. "
        f"{network_rows.seed_text(rows)} Below: the weights of the new layers rounded with one step a layer."
    )


def draw(rows: list[Row]) -> Figure:
    """Along the epochs above; over the bits below, before and after restoration."""
    figure = new_figure(5.4)
    grid = figure.subplot_mosaic([["epochs", "epochs"], ["before", "after"]], height_ratios=(1.25, 1))
    last = max(int(row["stage"].split()[1]) for row in rows if row["stage"].startswith("epoch"))
    stages = ["recalibrated", *(f"epoch {n}" for n in range(1, last + 1))]
    whole = [row for row in rows if row["stage"] in stages and not row.get("bits")]
    curves(grid["epochs"], whole, "stage", [(stage, k) for k, stage in enumerate(stages)])
    grid["epochs"].set(xlabel="epochs of restoration", ylabel="test accuracy (%)", xticks=range(len(stages)))
    dense = network_rows.dense_accuracy()
    grid["epochs"].axhline(dense, color="black", linewidth=0.8, linestyle=(0, (1, 2)))
    grid["epochs"].annotate("dense", (len(stages) - 1, dense), (0, 2), textcoords="offset points", ha="right")
    rounded = {row["run"] for row in rows if row.get("bits")}
    for name, stage in (("before", "recalibrated"), ("after", f"epoch {last}")):
        few = [
            {**row, "bits": row.get("bits") or "32"} for row in rows if row["stage"] == stage and row["run"] in rounded
        ]
        curves(grid[name], few, "bits", [("32", 0), ("8", 1), ("6", 2), ("4", 3)])
        grid[name].set_xticks(range(4), ["float32", "8", "6", "4"])
        grid[name].set(xlabel="bits of the new layers' weights", title=f"rounded {name} restoration", ylim=(0, 100))
    grid["before"].set_ylabel("test accuracy (%)")
    handles, labels = grid["epochs"].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, columnspacing=1.2, frameon=False)
    grid["epochs"].set_title("along restoration")
    return figure


def curves(panel: Any, rows: list[Row], name: str, places: list[tuple[str, int]]) -> None:
    """One curve a method, stabilised and not: means over seeds."""
    for (method, stabilised), mine in groups(rows, "method", "stabilised").items():
        position, stable = METHODS.index(method), stabilised == "True"
        points = groups(mine, name)
        found = [(place, np.mean(column(points[value], "test"))) for value, place in places if value in points]
        panel.plot(
            *zip(*found, strict=True),
            **curve_style(position, stable=stable),
            label=NAMES[method] + ("" if stable else ", plain"),
        )
    panel.grid(True, axis="y", color="#DDDDDD", linewidth=0.6)
