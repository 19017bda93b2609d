"""Speed of compressed networks in ONNX Runtime against their multiplications.

Shown: each bar is a network with the ranks that the study chose for a ResNet-18 of width 16: its speed-up over the
dense network, both timed in turn in one run.  Small layers are less efficient, so time falls less than the number of
multiplications does.  One and two threads, batches of 1 and 32.

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
from paper_figures.style import new_figure
from tensorchain.plotting import PALETTE

__all__ = ["NETWORK", "TIMED", "describe", "draw", "jobs", "parameters"]

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


def describe(rows: list[Row]) -> str:
    """The caption."""
    rounds = min(column(rows, "rounds"))
    ratios = sorted({round(float(row["mac_ratio"])) for row in rows if float(row["mac_ratio"]) > 1.5})
    times = " or ".join(map(str, ratios))
    return (
        f"{title()}, in single precision: time of the dense network over that of the compressed one, both timed in "
        f"turn in ONNX Runtime; medians over {rounds:.0f} or more rounds. Ranks are those that the study chose for "
        f"{times} times fewer multiplications. Small layers are less efficient, so time falls less than the number of "
        "multiplications does. Folded: the groups of a chain are moved into the batch."
    )


def draw(rows: list[Row]) -> Figure:
    """A panel for each number of threads and batch, a bar for each network."""
    cases = groups(rows, "threads", "batch")
    named = {case: bars_of(mine) for case, mine in cases.items()}
    names = sorted({name for bars in named.values() for name in bars}, key=lambda name: order_of(name, named))
    lines = (len(cases) + 1) // 2
    figure = new_figure(0.9 + lines * (0.3 + 0.24 * len(names)))
    panels = figure.subplots(lines, 2, sharex=True, sharey=True, squeeze=False).ravel()
    places = range(len(names))
    longest = max(speed for bars in named.values() for speed, _ in bars.values())
    for panel, ((threads, batch), bars) in zip(panels, named.items(), strict=False):
        for place, name in enumerate(names):
            if name not in bars:
                continue
            speed, colour = bars[name]
            panel.barh(place, speed, 0.7, color=colour)
            panel.annotate(
                f"{speed:.2g}\N{MULTIPLICATION SIGN}", (speed, place), (3, 0), textcoords="offset points", va="center",
                fontsize=8,
            )  # fmt: skip
        panel.axvline(1.0, color="black", linewidth=0.8)
        word = "thread" if int(threads) == 1 else "threads"
        panel.set_title(f"{threads} {word}, batch of {batch}")
        panel.set(yticks=places, yticklabels=names, xlim=(0.0, 1.2 * longest))
    for panel in panels[-2:]:
        panel.set_xlabel("speed-up in ONNX Runtime")
    panels[0].invert_yaxis()
    return figure


def bars_of(rows: list[Row]) -> dict[str, tuple[float, str]]:
    """Speed-up and colour of each network in single precision, by name; with the budget where there are several."""
    found: dict[str, tuple[float, str]] = {}
    budgets = {round(float(row["mac_ratio"])) for row in rows if float(row["mac_ratio"]) > 1.5}
    for position, (method, name) in enumerate(NAMES.items()):
        for row in rows:
            if row["model"].startswith(f"{method}-global") and not row["model"].endswith("int8"):
                folded = ", folded" if row["model"].endswith(" fold") else ""
                budget = f", {round(float(row['mac_ratio']))}\N{MULTIPLICATION SIGN}" if len(budgets) > 1 else ""
                found[name + folded + budget] = float(row["speed_up"]), PALETTE[position]
    return found


def order_of(name: str, named: dict[tuple[str, ...], dict[str, tuple[float, str]]]) -> float:
    """The fastest first."""
    return -max(bars[name][0] for bars in named.values() if name in bars)


@cache
def _models(runs: tuple[str, ...]) -> dict[str, tuple[Any, int]]:
    from benchmarks.networks import latency

    return latency.onnx_models(NETWORK, runs, SIDE)
