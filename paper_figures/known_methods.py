"""Networks that others trained: accuracy of each method at 3 and 5 times fewer multiplications.

Shown: a ResNet-20, a ResNet-56 and a ResNet-18 of full width, compressed by every method with control of the
sensitivity.  Open marks: refitted from 512 images without labels or training; filled marks: restored in three epochs of
all training images.

Paper: the comparisons in "Stable low-rank tensor decomposition for compression of convolutional neural network" and
"CNN acceleration by low-rank approximation with quantized factors".
What differs: the weights are those of others, and the images are CIFAR-10 written as JPEG, to which three epochs adapt
ResNet-20 and ResNet-56 as well.  The rows are shipped in benchmarks/networks/results; `python -m
benchmarks.networks.study_gpu` measures them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_figures import known_rows
from paper_figures.known_rows import NAMES, NETWORKS
from paper_figures.results import Job, Row, Settings, groups
from paper_figures.style import new_figure
from tensorchain.plotting import PALETTE

SHIPPED = True
COLOURS = {3.0: PALETTE[0], 5.0: PALETTE[1]}
"""By the number of times fewer multiplications."""
MARKERS = {"own": "o", "0.02": "s"}
"""By the rate of restoration."""


def parameters(settings: Settings) -> dict[str, Any]:
    """What is run, in full."""
    return {"times": list(COLOURS), **known_rows.parameters()}


def jobs(settings: Settings) -> Iterator[Job]:
    """One network, method and budget: stabilised where it was measured, and restored where it was."""
    found: dict[tuple[Any, ...], Job] = {}
    every = [job for stages in (("refitted", "restored"), ("refitted",)) for job in known_rows.jobs(stages)]
    drawn = [job for job in every if job.key["fit"] == "dense" or float(job.key["times"]) in COLOURS]
    for job in sorted(drawn, key=lambda job: job.key["fit"] == "plain"):
        found.setdefault((job.key["network"], job.key["method"], job.key["times"]), job)
    yield from found.values()


def describe(rows: list[Row]) -> str:
    """The caption."""
    plain = [f"{NAMES[row['method']]} of {NETWORKS[row['network']]}" for row in rows if row["fit"] == "plain"]
    others = f" ({', '.join(plain)}: plain least squares)" if plain else ""
    return (
        f"{known_rows.data_text(rows)}. Fits with the sensitivity controlled{others}; auto takes the best method for "
        "each layer. Open marks: refitted from 512 images without labels; filled marks: then restored in 3 epochs, "
        "where that was measured. Circles: at the rate that each fit allows; squares: at a rate of 0.02. Dotted: the "
        "dense network. "
        f"{known_rows.seed_text(rows)} {known_rows.device_text(rows)}"
    )


def draw(rows: list[Row]) -> Figure:
    """A panel for each network, a line for each method, from refitted to restored."""
    figure = new_figure(3.4)
    panels = figure.subplots(1, len(NETWORKS), sharey=True)
    mine = known_rows.compressed(rows)
    methods = [method for method in NAMES if method in groups(mine, "method")]
    for panel, (network, title) in zip(panels, NETWORKS.items(), strict=True):
        for row in (row for row in mine if row["network"] == network):
            points(panel, row, methods.index(row["method"]) + (0.16 if float(row["times"]) > 3 else -0.16))
        dense = float(known_rows.dense(rows, network)["dense"])
        panel.axvline(dense, color="black", linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
        panel.set(title=title, yticks=range(len(methods)), yticklabels=[NAMES[method] for method in methods])
        panel.grid(True, axis="x", color="#DDDDDD", linewidth=0.6)
        panel.tick_params(axis="y", length=0)
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    figure.supxlabel("test accuracy (%)", fontsize=9)
    figure.legend(handles=list(told()), loc="outside upper center", ncols=5, columnspacing=1.2, frameon=False)
    return figure


def points(panel: Any, row: Row, height: float) -> None:
    """Refitted and restored, joined."""
    colour, marker = COLOURS[float(row["times"])], MARKERS[row["rate"]]
    both = [float(row[name]) for name in ("refitted", "restored") if row.get(name)]
    panel.plot(both, [height] * len(both), color=colour, linewidth=1.2)
    for value, face in zip(both, ("white", colour), strict=False):
        panel.plot([value], [height], color=colour, marker=marker, markersize=4.5, markerfacecolor=face)


def told() -> Iterator[Line2D]:
    """The entries of the legend."""
    for times, colour in COLOURS.items():
        yield Line2D([], [], color=colour, linewidth=3, label=f"{times:g} times fewer")
    for face, label in (("white", "refitted"), ("0.4", "restored")):
        yield Line2D(
            [], [], color="0.4", marker="o", markersize=4.5, markerfacecolor=face, linestyle="none", label=label
        )
    yield Line2D([], [], color="black", linewidth=0.9, linestyle=(0, (1, 2)), label="dense")
