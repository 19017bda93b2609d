"""The same experiment twice: factors from two halves of the samples, at the least error and at 1 % more.

Shown: receptor factors of CP models of rank 3 of COVID serology, from two random halves of the samples, of norm 1 and
with signs and order matched; at the least error the components are large and cancel, at 1 % more error they are much
alike in both halves.  On the right: how far these models move when their factors are rounded to half precision.

Paper: none; what the package is for, in one picture.
What differs: the data are those that TensorLy ships, as they are.  The split is that of the seed; how splits differ is
in the figure `replicability`.  `--full` adds IL-2, where the factors are those of the cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

import tensorchain as tc
from paper_figures.agreement import halves, match
from paper_figures.fits import decompose
from paper_figures.replicability import load
from paper_figures.results import Job, Row, Settings, column, groups
from paper_figures.style import WIDTH
from tensorchain.plotting import PALETTE

METHODS = {"least error": 0.0, "1 % more error": 0.01}
RANK = 3
COLOURS = (PALETTE[0], PALETTE[1])
"""Of the halves."""
TINTS = ("#A33B00", "#00553D")
"""Of the methods."""
VERDICT = ("two halves, two answers", "two halves, one answer")
"""What the eye sees of each method."""


def parameters(settings: Settings) -> dict[str, Any]:
    """What is run, in full."""
    cases = ["COVID serology", *(["IL-2"] if settings.full else [])]
    return {"cases": cases if find_spec("tensorly") else [], "rank": RANK, "methods": METHODS}


def jobs(settings: Settings) -> Iterator[Job]:
    """One data set."""
    for case in parameters(settings)["cases"]:
        yield Job({"case": case, "start": settings.seed}, partial(measure, case, settings.seed))


def measure(case: str, seed: int) -> list[Row]:
    """Factors of both halves."""
    return compare(halves(load(case), seed), names_of(case), seed)


def names_of(case: str) -> list[str]:
    """What the indices of the last mode are called."""
    from tensorly.datasets import load_covid19_serology, load_IL2data

    loaded = {"COVID serology": load_covid19_serology, "IL-2": load_IL2data}[case]()
    return [str(name) for name in loaded.ticks[-1]]


def compare(pair: tuple[np.ndarray, np.ndarray], names: list[str], seed: int) -> list[Row]:
    """A row for each number that is drawn: entries of the last factor, for each method, half and component."""
    data = [tc.Masked(half) if np.isnan(half).any() else half for half in pair]
    free = [decompose(half, "cp", RANK, rng=seed, solver=tc.Auto(slack=0)) for half in data]
    rows = []
    for method, slack in METHODS.items():
        fits = [fit.at(error=fit.error * (1.0 + slack)) if slack else fit for fit in free]
        score = match(fits[0].model, fits[1].model)
        matched = aligned(fits[0].model, fits[1].model)
        for half, (fit, tensor) in enumerate(zip(fits, pair, strict=True)):
            told = {
                "method": method,
                "half": half,
                "match": score,
                "sensitivity": fit.sensitivity,
                "error": fit.error,
                "rounding": rounding_error(fit.model, tensor),
            }
            sizes, factor = matched[half]
            for component, size in enumerate(sizes):
                for name, value in zip(names, factor[:, component], strict=True):
                    size_told = {"component": component, "size": float(size / np.sqrt(np.nansum(tensor**2)))}
                    rows.append({**told, **size_told, "index": name, "value": float(value)})
    return rows


def aligned(one: tc.CP, other: tc.CP) -> list[tuple[np.ndarray, np.ndarray]]:
    """Norms of the components, and last factors of norm 1; the first sorted by size, the others matched."""
    order = list(tc.factor_match(one, other, range(1, one.order)).order)
    sizes, factors = [], []
    for model in (one, other):
        norms = [np.linalg.norm(block, axis=0) for block in model.blocks]
        sizes.append(np.prod(norms, axis=0))
        factors.append(model.blocks[-1] / norms[-1])
    largest = np.argsort(-sizes[0])
    first = factors[0][:, largest]
    first = first * np.sign(first[np.abs(first).argmax(axis=0), np.arange(len(largest))])
    partners = np.array(order)[largest]
    second = factors[1][:, partners]
    second = second * np.where((first * second).sum(axis=0) < 0.0, -1.0, 1.0)
    return [(sizes[0][largest], first), (sizes[1][partners], second)]


def rounding_error(model: tc.CP, tensor: np.ndarray) -> float:
    """How far the model moves, relative to the data, when every factor is rounded to float16."""
    rounded = tc.CP([block.astype(np.float16).astype(np.float64) for block in model.blocks])
    return float(np.linalg.norm(model.full() - rounded.full()) / np.sqrt(np.nansum(tensor**2)))


def size_text(size: float) -> str:
    """One or two digits, without an exponent."""
    return f"{size:.0f}" if size >= 10.0 else f"{size:.1f}"


# -- what is told ---------------------------------------------------------------------------


def describe(rows: list[Row]) -> str:
    """The caption."""
    parts = []
    for (case, method), mine in groups(rows, "case", "method").items():
        size = max(column(mine, "size"))
        parts.append(
            f"{case}, {method}: match of the halves {float(mine[0]['match']):.2f}, sensitivity "
            f"{max(column(mine, 'sensitivity')):.0e}, largest component {size_text(size)} times the data"
        )
    return (
        f"CP of rank {RANK} of two random halves of the samples (filled and open marks): last factor of each "
        "component, of norm 1, components matched. Right: how far the model moves when its factors are rounded to half "
        f"precision, relative to the data, mean of the halves. {'; '.join(parts)}."
    )


def draw(rows: list[Row]) -> Figure:
    """Two rows of components for each data set, and its errors."""
    cases = groups(rows, "case")
    figure = Figure(figsize=(WIDTH, 3.3 * len(cases)), layout="constrained")
    grid = figure.add_gridspec(2 * len(cases), RANK + 1, width_ratios=[*([1.0] * RANK), 0.8])
    for position, mine in enumerate(cases.values()):
        by_method = groups(mine, "method")
        for line, (method, shown) in enumerate(by_method.items()):
            panels: list[Any] = []
            for component in range(RANK):
                place = grid[2 * position + line, component]
                panels.append(figure.add_subplot(place, sharey=panels[0] if panels else None))
                here = [row for row in shown if int(row["component"]) == component]
                draw_component(panels[-1], here, last=line == 1)
                if component:
                    panels[-1].tick_params(labelleft=False)
            score = float(shown[0]["match"])
            # A title over three panels: text that the layout leaves out, and room for it.
            panels[0].set_title(" ", fontsize=9.5)
            title = panels[0].text(
                0.0,
                1.06,
                f"{method}: {VERDICT[line]} (match {score:.2f})",
                transform=panels[0].transAxes,
                fontsize=9.5,
                fontweight="bold",
                color=TINTS[line],
            )
            title.set_in_layout(False)
            if not line:
                for half, name in enumerate(("one half", "the other")):
                    panels[2].text(
                        0.98, 0.24 - 0.16 * half, name, transform=panels[2].transAxes, ha="right", color=COLOURS[half]
                    )
        draw_rounding(figure.add_subplot(grid[2 * position : 2 * position + 2, RANK]), by_method)
    return figure


def draw_component(panel: Any, rows: list[Row], *, last: bool) -> None:
    """One component, from both halves."""
    for half, mine in enumerate(groups(rows, "half").values()):
        panel.plot(
            range(len(mine)),
            column(mine, "value"),
            color=COLOURS[half],
            marker="os"[half],
            markersize=4,
            markerfacecolor=(COLOURS[half], "white")[half],
            linewidth=1.4,
            linestyle=("-", "--")[half],
        )
    names = [row["index"] for row in next(iter(groups(rows, "half").values()))]
    panel.set_xticks(range(len(names)), names if last else [""] * len(names), rotation=90, fontsize=7.5)
    panel.axhline(0.0, color="#999999", linewidth=0.6)
    panel.set_ylim(-1.05, 1.05)
    panel.set_yticks([-1, 0, 1])


def draw_rounding(panel: Any, by_method: dict[str, list[Row]]) -> None:
    """What half precision does to each."""
    values = [float(np.mean(column(mine, "rounding"))) for mine in by_method.values()]
    panel.bar(range(len(values)), values, 0.6, color=TINTS)
    for place, value in enumerate(values):
        panel.annotate(f"{100 * value:.2g} %", (place, value), (0, 2), textcoords="offset points", ha="center")
    panel.set_yscale("log")
    panel.set_ylim(min(values) / 5.0, 3.0 * max(values))
    panel.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    panel.yaxis.set_minor_locator(NullLocator())
    panel.set_title("moved by\nrounding to\n16 bits", fontsize=9)
    panel.set_xticks(
        range(len(values)),
        [method.replace(" error", "\nerror").replace("% more", "%\nmore") for method in by_method],
        fontsize=9,
    )
