"""Accuracy of compressed networks against multiplications and parameters: methods, and ways to choose the ranks.

Shown: a ResNet-18 of width 16, trained on Fashion-MNIST, compressed to 3, 5 and 8 times fewer multiplications and
restored.  Above: the methods, with ranks from a global allocation over measured error curves of all layers.  Below:
Tucker-2 with ranks chosen in other ways: one-step (the same largest error in all layers), multi-step (three steps with
an epoch of restoration between them) and EVBMF, which knows no budget.  On the left against multiplications, on the
right against parameters.

Paper: "CNN acceleration by low-rank approximation with quantized factors", on rank selection, and the comparisons in
"Stable low-rank tensor decomposition for compression of convolutional neural network".  What differs: network and data
are small, and an epoch of restoration is a part of the training images.  `--quick` draws the rows that `python -m
benchmarks.networks.study` measured and that are shipped in benchmarks/networks/results; `--full` measures again on all
training images, with three seeds (needs PyTorch).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from paper_figures import network_rows
from paper_figures.network_rows import NAMES, NETWORK
from paper_figures.results import Job, Row, Settings, column, groups
from paper_figures.style import new_figure
from tensorchain.plotting import MARKERS, PALETTE

__all__ = ["NETWORK", "describe", "draw", "jobs", "parameters"]

BUDGETS = {"tc": (3, 5, 8), "tucker2": (3, 5, 8), "cp3": (3, 5, 8), "btd": (5,), "cp4": (5,), "tucker-cp": (5,)}
SELECTIONS = {"global": "global", "one-step": "one-step", "multi-step": "multi-step", "evbmf": "EVBMF"}


def parameters(settings: Settings) -> dict[str, Any]:
    """What is run, in full."""
    return {"budgets": BUDGETS, "selections": list(SELECTIONS), **network_rows.parameters(settings)}


def jobs(settings: Settings) -> Iterator[Job]:
    """One run of the study."""
    runs: list[dict[str, Any]] = []
    for seed in network_rows.seeds(settings):
        for method, budgets in BUDGETS.items():
            runs += [{"method": method, "times": times, "stabilised": True, "seed": seed} for times in budgets]
        common = {"method": "tucker2", "stabilised": True, "seed": seed}
        runs += [{**common, "selection": "one-step", "times": times} for times in (3, 5)]
        runs += [{**common, "selection": "multi-step", "times": times, "epochs": 1} for times in (3, 5)]
        runs.append({**common, "selection": "evbmf"})
    return network_rows.jobs(settings, runs)


def final(rows: list[Row]) -> list[Row]:
    """The rows after the last epoch, not rounded."""
    return [row for row in rows if row["stage"] == f"epoch {row['epochs']}" and not row.get("bits")]


def describe(rows: list[Row]) -> str:
    """The caption."""
    ends, dense = final(rows), network_rows.dense_row()
    whole = float(dense["macs"]) / 1e6, float(dense["parameters"]) / 1e3
    return (
        f"{network_rows.title()}, compressed with the sensitivity controlled, with 3 epochs of restoration. "
        f"{network_rows.epoch_text(ends)} Dotted: the dense network, {network_rows.dense_accuracy():.1f} %. Ranks are "
        f"allocated under a budget for multiplications; parameters follow. The dense network does "
        f"{whole[0]:.1f} million multiplications an image with {whole[1]:.0f} thousand parameters. "
        f"{network_rows.seed_text(ends)}"
    )


def draw(rows: list[Row]) -> Figure:
    """Methods above, rank selections below; against multiplications and against parameters."""
    ends = final(rows)
    figure = new_figure(5.0)
    panels = figure.subplots(2, 2, sharey=True, sharex="col")
    dense = network_rows.dense_row()
    for across, cost in enumerate(("macs", "parameters")):
        for position, method in enumerate(BUDGETS):
            mine = [row for row in ends if row["method"] == method and row["selection"] == "global"]
            points(panels[0, across], mine, cost, position, NAMES[method])
        for position, (selection, name) in enumerate(SELECTIONS.items()):
            mine = [row for row in ends if row["method"] == "tucker2" and row["selection"] == selection]
            # One colour for one thing: global Tucker-2 is in both rows.
            points(panels[1, across], mine, cost, (1, 6, 4, 3)[position], name)
        for panel in panels[:, across]:
            panel.axhline(float(dense["test"]), color="black", linewidth=0.8, linestyle=(0, (1, 2)))
            panel.set_xscale("log")
            panel.grid(True, color="#DDDDDD", linewidth=0.6)
    panels[1, 0].set_xlabel("million multiplications\nan image")
    panels[1, 1].set_xlabel("thousand parameters")
    for panel, title in zip(panels[:, 0], ("methods; ranks by global allocation", "Tucker-2; ranks by"), strict=True):
        panel.set_title(title, loc="left").set_in_layout(False)
        panel.set_ylabel("test accuracy (%)")
    for panel in panels[:, 1]:
        panel.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    for axis in (panels[1, 0].xaxis, panels[1, 1].xaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 4.0, 6.0)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:g}")
    return figure


def points(panel: Any, rows: list[Row], cost: str, position: int, name: str) -> None:
    """Budgets of one method, joined; means over seeds."""
    scale = 1e6 if cost == "macs" else 1e3
    budgets = groups(rows, "times").values()
    found = [(np.mean(column(mine, cost)) / scale, np.mean(column(mine, "test"))) for mine in budgets]
    if not found:
        return
    style = {"color": PALETTE[position % len(PALETTE)], "marker": MARKERS[position % len(MARKERS)], "label": name}
    panel.plot(*zip(*sorted(found), strict=True), **style, markersize=5, linewidth=1.2)
