"""Networks that others trained: accuracy as compressed, refitted and restored, stabilised and not.

Shown: a ResNet-20 and a ResNet-56 for CIFAR-10, compressed to 3 and 5 times fewer multiplications by chains (TC) and
CPDs of order 3, with the error-preserving correction of the sensitivity (solid) and without (dashed), at equal ranks.
Compressed: ranks chosen for a refit, nothing else touched; refitted: from 512 images without labels; restored: three
epochs of all training images, at the rate that `restore` finds from the curvature of the loss.

Paper: "Stable low-rank tensor decomposition for compression of convolutional neural network", on fine-tuning.
What differs: the weights are those of others, and the images are CIFAR-10 written as JPEG, to which three epochs adapt
the networks as well: restored ones end above the dense ones.  The rows are shipped in benchmarks/networks/results;
`python -m benchmarks.networks.study_gpu --rate 0` measures them, with weights and images that the user has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from paper_figures import known_rows
from paper_figures.known_rows import NAMES, NETWORKS
from paper_figures.results import Job, Row, Settings, groups
from paper_figures.style import curve_style, legend_above, new_figure

STAGES = ("compressed", "refitted", "restored")
METHODS = ("tc", "cp3")
SHIPPED = True


def parameters(settings: Settings) -> dict[str, Any]:
    """What is run, in full."""
    return {"methods": METHODS, "stages": STAGES, **known_rows.parameters((known_rows.FILES["own"],))}


def jobs(settings: Settings) -> Iterator[Job]:
    """One network, method, fit and budget."""
    return known_rows.jobs(STAGES, ("own",), methods=METHODS)


def describe(rows: list[Row]) -> str:
    """The caption."""
    return (
        f"{known_rows.data_text(rows)}. Solid lines, filled marks: sensitivity controlled; dashed lines, open marks: "
        "plain least squares at equal ranks. Compressed: ranks chosen for a refit, and nothing else touched; refitted: "
        f"from 512 images without labels; restored: 3 epochs at {known_rows.rate_text(rows)}. "
        f"{known_rows.seed_text(rows)} {known_rows.device_text(rows)} What is missing was not measured. Equal steps "
        "along the vertical axes are equal ratios of the error."
    )


def draw(rows: list[Row]) -> Figure:
    """A row of panels for each budget, a column for each network."""
    figure = new_figure(4.6)
    panels = panels_of(figure, rows)
    for (network, times), panel in panels.items():
        curves(panel, [row for row in rows if row["network"] == network and row["times"] == times], STAGES)
        dense = float(known_rows.dense(rows, network)["dense"])
        panel.axhline(dense, color="black", linewidth=0.9, linestyle=(0, (1, 2)), label="dense")
        panel.set_xticks(range(len(STAGES)), STAGES)
        panel.set_xlim(-0.25, len(STAGES) - 0.75)
        # Ratios of the error: from 80 to 90 % is as far as from 60 to 80 %.
        panel.set_yscale(
            "function", functions=(lambda a: -np.log(np.maximum(100.0 - a, 1e-3)), lambda b: 100.0 - np.exp(-b))
        )
        panel.set_ylim(0.0, 91.0)
        panel.yaxis.set_major_locator(FixedLocator([0, 40, 60, 70, 80, 85, 90]))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    legend_above(figure, next(iter(panels.values())))
    return figure


def panels_of(figure: Figure, rows: list[Row]) -> dict[tuple[str, str], Any]:
    """Axes by network and budget, with titles, the label of what is measured, and a legend above."""
    mine = known_rows.compressed(rows)
    networks = [network for network in NETWORKS if network in groups(mine, "network")]
    budgets = sorted(groups(mine, "times"), key=float)
    grid = figure.subplots(len(budgets), len(networks), sharex=True, sharey=True, squeeze=False)
    found = {}
    for down, times in enumerate(budgets):
        for across, network in enumerate(networks):
            found[network, times] = grid[down, across]
            grid[down, across].set_title(f"{NETWORKS[network]}, {float(times):g} times fewer")
        grid[down, 0].set_ylabel("test accuracy (%)")
    return found


def curves(panel: Any, rows: list[Row], stages: tuple[str, ...]) -> None:
    """One curve for each method and fit."""
    for row in known_rows.compressed(rows):
        position, stable = list(NAMES).index(row["method"]), row["fit"] == "stabilised"
        panel.plot(
            range(len(stages)),
            [float(row[name]) for name in stages],
            **curve_style(position, stable=stable),
            label=NAMES[row["method"]] + ("" if stable else ", plain"),
        )
    panel.grid(True, axis="y", color="#DDDDDD", linewidth=0.6)
