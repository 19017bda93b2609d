"""Networks that others trained: how much smaller their files are, and how much faster they run in ONNX Runtime.

Shown: for a ResNet-20, a ResNet-56 and a ResNet-18 of full width, compressed by every method to 3 and 5 times fewer
multiplications: the size of the ONNX file, and the time with one thread for batches of 1 and 32, both as ratios of the
dense network's.  Files shrink by as much as the multiplications, or nearly so.  Times do not: small layers
are less efficient, and those of the narrow networks most.

Paper: "CNN acceleration by low-rank approximation with quantized factors", on timings.
What differs: the networks, and the processor.  Weights are random, since neither depends on their values, with the
ranks that were chosen for the trained ones (benchmarks/networks/results).  `--quick` draws the rows that `python -m
benchmarks.networks.known_files` measured; `--full` measures again (needs onnx and onnxruntime).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.networks.rows import RESULTS
from paper_figures import known_rows
from paper_figures.known_methods import COLOURS
from paper_figures.known_rows import NAMES, NETWORKS
from paper_figures.results import Job, Row, Settings, groups
from paper_figures.style import new_figure

TIMED = True
SHIPPED = True
FILE = "known-files.csv"
BATCHES = (1, 32)
SECONDS = 60.0


def parameters(settings: Settings) -> dict[str, Any]:
    """What is run, in full."""
    told = {"seconds": SECONDS, "measured": "here"} if settings.full else known_rows.parameters((FILE,))
    return {"networks": list(NETWORKS), "batches": BATCHES, **told}


def jobs(settings: Settings) -> Iterator[Job]:
    """One network and batch."""
    for network in NETWORKS:
        for batch in BATCHES:
            run = measured if settings.full else shipped
            yield Job({"network": network, "batch": batch}, partial(run, network, batch))


def shipped(network: str, batch: int) -> list[Row]:
    """The rows of the file."""
    rows = groups(known_rows.read(RESULTS / FILE), "network", "batch")[network, str(batch)]
    return [_without_key(row) for row in rows]


def measured(network: str, batch: int) -> list[Row]:
    """Times of this machine."""
    from benchmarks.networks import known_files

    return [_without_key(row) for row in known_files.measured(network, RESULTS, SECONDS, (batch,))]


def describe(rows: list[Row]) -> str:
    """The caption."""
    rounds = min(int(row["rounds"]) for row in rows)
    sizes = ", ".join(
        f"{NETWORKS[network]} {float(mine[0]['dense_bytes']) / 1e3:,.0f}"
        for network, mine in groups(rows, "network").items()
    )
    return (
        "ONNX files in single precision with the normalisations multiplied into the weights; weights are random, with "
        f"the ranks that were chosen for the trained ones. Dense files in kB: {sizes}. Time: of the processor, with "
        f"one thread in ONNX Runtime ({rows[0]['processor']}, other work beside it), dense and compressed in turn; "
        f"medians over {rounds} or more rounds. Folded: the groups of a chain are moved into the batch; auto: the best "
        "method for each layer."
    )


def draw(rows: list[Row]) -> Figure:
    """A row of panels for each network: size, and speed in each case."""
    cases, networks = [str(batch) for batch in BATCHES], groups(rows, "network")
    named = {name_of(row): row["method"] for row in rows if row["method"] != "dense"}
    names = sorted(named, key=lambda name: list(NAMES).index(named[name]))
    figure = new_figure(0.9 + len(networks) * (0.25 + 0.19 * len(names)))
    panels = figure.subplots(len(networks), 1 + len(cases), sharey=True, sharex="col", squeeze=False)
    for line, (network, mine) in zip(panels, networks.items(), strict=True):
        by_batch = groups([row for row in mine if row["method"] != "dense"], "batch")
        for row in by_batch[cases[0]]:
            point(line[0], row, names, float(row["dense_bytes"]) / float(row["file_bytes"]))
        for panel, case in zip(line[1:], cases, strict=True):
            for row in by_batch[case]:
                point(panel, row, names, float(row["speed_up"]))
        for panel in line:
            panel.axvline(1.0, color="black", linewidth=0.8, zorder=0)
            panel.grid(True, axis="x", color="#DDDDDD", linewidth=0.6)
            panel.tick_params(axis="y", length=0)
            panel.set_axisbelow(True)
        line[0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
        line[0].set_title(NETWORKS[network], loc="left")
    most = max(panel.get_xlim()[1] for panel in panels[-1, 1:])
    for panel, label in zip(panels[-1], ("file", *(f"time, batch of {case}" for case in cases)), strict=True):
        panel.set_xlabel(f"{label}:\ndense / compressed")
        panel.set_xlim(0.0, panel.get_xlim()[1] if label == "file" else most)
    handles = [
        Line2D([], [], color=colour, marker="o", markersize=4.5, linestyle="none", label=f"{times:g} times fewer MACs")
        for times, colour in COLOURS.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def point(panel: Any, row: Row, names: list[str], value: float) -> None:
    """A mark, in the colour of its budget, in the line of its method."""
    times = float(row["times"])
    height = names.index(name_of(row)) + (0.16 if times > 3 else -0.16)
    panel.plot([value], [height], color=COLOURS[times], marker="o", markersize=4.5)


def name_of(row: Row) -> str:
    """The method, and the form of a chain."""
    return NAMES.get(row["method"], row["method"]) + (", folded" if row["model"].endswith(" fold") else "")


def _without_key(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in ("network", "batch")}
