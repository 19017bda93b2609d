"""Speed of compressed networks in ONNX Runtime against their multiplications.

Shown: each mark is a network with the ranks that the study chose for a ResNet-18 of width 16: its speed-up over the
dense network, both timed in turn in one run, against how many times fewer multiplications it does.  On the line, time
falls as multiplications do; below it, the smaller layers are less efficient.  One and two threads, batches of 1 and 32.

Paper: "CNN acceleration by low-rank approximation with quantized factors", on timings.  What differs: the network, and
the machine is the one that draws the figure.  Always measured, with random weights, without PyTorch (needs onnx and
onnxruntime); `--quick` takes one thread and one budget, `--full` longer and more networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from typing import Any

from matplotlib.figure import Figure

from benchmarks.networks.rows import RESULTS, Results
from paper_figures.network_rows import NAMES, NETWORK, title
from paper_figures.results import Job, Row, Settings, column, groups
from paper_figures.style import caption, new_figure
from tensorchain.plotting import MARKERS, PALETTE

__all__ = ["NETWORK", "TIMED", "draw", "jobs", "parameters"]

TIMED = True
SIDE = 28
QUICK = ("tc", "cp3", "tucker2", "tucker-cp", "btd")
CASES = ((1, 1), (1, 32), (2, 1), (2, 32))


def parameters(settings: Settings) -> dict[str, Any]:
    """What is run, in full."""
    times = (3, 5, 8) if settings.full else (5,)
    return {
        "network": NETWORK,
        "methods": list(NAMES) if settings.full else QUICK,
        "times": times,
        "seconds": 20.0 if settings.full else 5.0,
        "cases": CASES if settings.full else CASES[:2],
    }


def jobs(settings: Settings) -> Iterator[Job]:
    """One number of threads and batch."""
    told = parameters(settings)
    for threads, batch in told["cases"]:
        key = {"network": NETWORK, "threads": threads, "batch": batch}
        runs = [f"{method}-global-macs-{times}x-seed0" for times in told["times"] for method in told["methods"]]
        there = Results(RESULTS, NETWORK).ranks
        yield Job(key, partial(measure, tuple(run for run in runs if run in there), threads, batch, told["seconds"]))


def measure(runs: tuple[str, ...], threads: int, batch: int, seconds: float) -> list[Row]:
    """Times of one case."""
    from benchmarks.networks import latency

    rows = latency.measure(_models(runs), threads, batch, side=SIDE, seconds=seconds)
    return [{name: value for name, value in row.items() if name not in ("threads", "batch")} for row in rows]


def draw(rows: list[Row]) -> Figure:
    """A panel for each number of threads and batch."""
    cases = groups(rows, "threads", "batch")
    figure = new_figure(2.9 if len(cases) <= 2 else 5.4)
    panels = figure.subplots(len(cases) // 2, 2, sharex=True, sharey=True, squeeze=False).ravel()
    ratios = column(rows, "mac_ratio")
    for panel, ((threads, batch), mine) in zip(panels, cases.items(), strict=True):
        for method, name in NAMES.items():
            for fold in (False, True):
                chosen = [r for r in mine if r["model"].startswith(f"{method}-global") and of_form(r["model"], fold)]
                if chosen:
                    mark(panel, chosen, list(NAMES).index(method), name + (", folded" if fold else ""), fold)
        panel.plot([1.0, max(ratios)], [1.0, max(ratios)], color="black", linewidth=0.8, zorder=1)
        panel.axhline(1.0, color="black", linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        word = "thread" if int(threads) == 1 else "threads"
        panel.set(title=f"{threads} {word}, batch of {batch}", xlabel="times fewer multiplications")
        panel.set_ylabel("speed-up in ONNX Runtime")
        panel.label_outer()
        panel.grid(True, color="#DDDDDD", linewidth=0.6)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    rounds = min(column(rows, "rounds"))
    caption(
        figure,
        f"{title()}: ranks as chosen by the study for fewer multiplications. Medians over {rounds:.0f} or more rounds "
        "of the ratio of the dense network's time to that of the compressed one, in single precision. Folded: "
        "the groups of a chain are moved into the batch. The line: as much faster as there are fewer multiplications; "
        "dotted: no faster.",
    )
    return figure


def of_form(model: str, fold: bool) -> bool:
    """Whether a model in single precision is of this form."""
    return not model.endswith("int8") and model.endswith(" fold") == fold


def mark(panel: Any, rows: list[Row], position: int, name: str, hollow: bool) -> None:
    """The budgets of one method."""
    colour = PALETTE[position]
    face = "white" if hollow else colour
    style = {"linestyle": "none", "marker": MARKERS[position], "markersize": 6, "color": colour, "label": name}
    panel.plot(column(rows, "mac_ratio"), column(rows, "speed_up"), markerfacecolor=face, **style)


@cache
def _models(runs: tuple[str, ...]) -> dict[str, tuple[Any, int]]:
    from benchmarks.networks import latency

    return latency.onnx_models(NETWORK, runs, SIDE)
