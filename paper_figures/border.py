"""A tensor without a best approximation: blocks blow up under ALS and LM, and bounds tame them.

The border tensor is the limit of looped chains of bonds 3 and is generically no such chain, so the error has infimum
zero and no minimum: whoever follows the error alone is led to chains whose blocks grow without bound and cancel.

Shown: on the left, plain ALS, plain LM and the path with its default settings; on the right, the path under
`SensitivityBound` and under `Penalty`.  Above, the error over the iterations; below, the sensitivity in the optimal
gauge, so that its growth is no matter of how the blocks share their weight; both of the best iterate so far.  Lines are
medians over random starts, bands reach from the lower to the upper quartile.

Paper: "How to train your unstable looped tensor network", on the control of the sensitivity; the picture of the README.
What differs: a border tensor with known truth (`tensorchain.datasets.border_chain`); our solvers and constraints.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import tensorchain as tc
from paper_figures.fits import decompose
from paper_figures.results import Job, Row, Settings, groups
from paper_figures.style import caption, new_figure, shape_text
from paper_figures.trace import Trace, spread
from tensorchain.plotting import ERROR_LABEL, SENSITIVITY_LABEL, plot_runs

SHAPE, BONDS = (9, 9, 9), (3, 3, 3)
BOUND, WEIGHT = 1e3, 1e-6
FREE: dict[str, dict[str, Any]] = {
    "ALS": {"solver": tc.ALS(max_iter=2000)},
    "LM": {"solver": tc.LM()},
    "path": {"solver": tc.Path()},
}
TAMED: dict[str, dict[str, Any]] = {
    f"path, SensitivityBound({BOUND:g})": {"solver": tc.Path(), "constraint": tc.SensitivityBound(BOUND)},
    f"path, Penalty({WEIGHT:g})": {"solver": tc.Path(), "constraint": tc.Penalty(WEIGHT)},
}
METHODS = {**FREE, **TAMED}


def parameters(settings: Settings) -> dict[str, Any]:
    """What is run, in full."""
    methods = {name: {word: repr(value) for word, value in options.items()} for name, options in METHODS.items()}
    return {
        "shape": SHAPE,
        "bonds": BONDS,
        "methods": methods,
        "starts": 40 if settings.full else 5,
    }


def jobs(settings: Settings) -> Iterator[Job]:
    """One run of one method."""
    for method in METHODS:
        for start in range(parameters(settings)["starts"]):
            yield Job({"method": method, "start": start}, partial(measure, method, settings.seed, start))


def measure(method: str, seed: int, start: int) -> list[Row]:
    """The iterates of one run."""
    tensor = tc.datasets.border_chain(SHAPE, BONDS, np.random.default_rng(seed)).tensor
    trace = Trace()
    decompose(tensor, "tc", BONDS, rng=seed + start, callback=trace, **METHODS[method])
    return trace.finish()


def draw(rows: list[Row]) -> Figure:
    """Error above, sensitivity below; free on the left, tamed on the right."""
    figure = new_figure(4.9)
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    methods = groups(rows, "method")
    for row, (name, label) in zip(panels, (("error", ERROR_LABEL), ("sensitivity", SENSITIVITY_LABEL)), strict=True):
        for panel, shown in zip(row, (FREE, TAMED), strict=True):
            curves = {method: [spread(run, name) for run in runs_of(methods[method])] for method in shown}
            plot_runs(curves, ax=panel, quantiles=(0.25, 0.75), first=0 if shown is FREE else len(FREE))
            panel.label_outer()
            if name == "error":
                panel.get_legend().remove()
        row[0].set_ylabel(label)
    for panel in panels[1]:
        panel.axhline(BOUND, color="black", linewidth=0.7, linestyle=(0, (1, 3)))
        panel.get_legend().set_loc("upper left")
    panels[0, 0].set_title("nothing but the error is asked for")
    panels[0, 1].set_title("the sensitivity is held down")
    sizes, starts = shape_text("x".join(map(str, SHAPE))), len(groups(rows, "start"))
    caption(
        figure,
        f"Border tensor {sizes} of norm 1, which has no best approximation, as a looped chain of bonds {BONDS}, from "
        f"{starts} random starts: the best iterate so far, medians and bands from the lower to the upper quartile. "
        "Sensitivities in the optimal gauge. A run that stopped counts with its last value. "
        f"Dotted: sensitivity {BOUND:g}.",
    )
    return figure


def runs_of(rows: list[Row]) -> list[list[Row]]:
    """The rows of one method, by start."""
    return list(groups(rows, "start").values())
