"""Error against sensitivity of looped chains, block terms, CP and Tucker with equally many parameters.

Shown: for each kind of tensor (a photograph, a sampled function, a measured fluorescence experiment, a trained
convolution kernel) the trade-off curve of each model: the minimisers of ||T - X||^2 + nu SS along the sensitivity path,
of all starts, without those that another one beats in both figures.  A curve ends at a closed mark; at an arrow its
sensitivity still grows where the path ends.  Open marks are what plain ALS returns from the same random starts, in its
optimal gauge: mostly beside the end of the curve or far to the right of it.  Lower left is better.

The looped chain sets the budget of parameters, and the others get the ranks that `paper_figures.equal` finds within
it.  Both axes say what a user pays: the error, and how strongly the model reacts to noise or rounding of its blocks.
Sensitivities are for data of norm 1 and in the optimal gauge.

Paper: "How to train your unstable looped tensor network", on the fit of images and of weights of networks with the
sensitivity under control.  What differs: the data (photographs of scikit-learn, a sampled function, fluorescence, a
kernel trained on Fashion-MNIST), all of one budget of parameters, and small sizes in --quick.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import tensorchain as tc
from paper_figures.data import available, fingerprint, load
from paper_figures.equal import budget, rank_within
from paper_figures.fits import decompose
from paper_figures.results import Job, Row, Settings, column, groups
from paper_figures.style import few_ticks, legend_above, new_figure, rank_text, shape_text
from tensorchain.plotting import ERROR_LABEL, MARKERS, PALETTE

QUICK = {
    "photograph": (3, 3, 3, 3),
    "sampled function": (2, 2, 2, 2),
    "fluorescence": (2, 2, 2, 2),
    "trained kernel": (2, 4, 4),
}
FULL = {
    "photograph": (5, 5, 5, 5, 5),
    "flower": (5, 5, 5, 5, 5),
    "sampled function": (3, 3, 3, 3, 3),
    "fluorescence": (4, 4, 4, 4),
    "trained kernel": (4, 8, 8),
}
MODELS = {"tc": "TC", "btd": "BTD", "cp": "CP", "tucker": "Tucker"}
ENDLESS = 0.1
"""Exponent of SS against 1 / nu at the end of the path from which a curve has no end."""


def parameters(settings: Settings) -> dict[str, Any]:
    """What is run, in full."""
    bonds = FULL if settings.full else QUICK
    return {
        "cases": {case: bonds[case] for case in available(tuple(bonds))},
        "weights": fingerprint(),
        "models": tuple(MODELS),
        "path": repr(path(settings.full)),
        "solver": repr(solver(settings.full)),
        "starts": 10 if settings.full else 2,
    }


def path(full: bool) -> tc.Path:
    """The fit from which a trade-off curve is traced."""
    return tc.Path() if full else tc.Path(cycles=2)


def solver(full: bool) -> tc.ALS:
    """Plain ALS, to compare."""
    return tc.ALS(max_iter=5000 if full else 500)


def jobs(settings: Settings) -> Iterator[Job]:
    """The path, and plain ALS, of one model from one start."""
    told = parameters(settings)
    for case in told["cases"]:
        for model in MODELS:
            for start in range(told["starts"]):
                key = {"case": case, "model": model, "start": start}
                yield Job(key, partial(measure, case, model, settings, start))


def measure(case: str, model: str, settings: Settings, start: int) -> list[Row]:
    """Stages of the path, the penalty falling, and the model that ALS returns."""
    tensor = load(case, settings)
    tensor = tensor / np.linalg.norm(tensor)
    bonds = (FULL if settings.full else QUICK)[case]
    rank = bonds if model == "tc" else rank_within(model, tensor, budget(bonds, tensor.shape))
    seed = settings.seed + start
    found = decompose(tensor, model, rank, rng=seed, solver=path(settings.full))
    profile = tc.degeneracy_profile(tensor, found.model, decades=6.0 if settings.full else 4.0)
    plain = decompose(tensor, model, rank, rng=seed, solver=solver(settings.full))
    common = {
        "shape": "x".join(map(str, tensor.shape)),
        "rank": rank_text(rank),
        "parameters": found.model.n_parameters,
        "slope": profile.slope,
    }
    stages = zip(profile.penalty, profile.error, profile.sensitivity, strict=True)
    return [
        *({**common, "method": "path", "penalty": nu, "error": e, "sensitivity": s} for nu, e, s in stages),
        {**common, "method": "ALS", "penalty": 0.0, "error": plain.error, "sensitivity": plain.sensitivity},
    ]


def describe(rows: list[Row]) -> str:
    """The caption."""
    described = []
    for case, mine in groups(rows, "case").items():
        models = groups(mine, "model")
        ranks = ", ".join(f"{MODELS[m]} {some[0]['rank']} ({some[0]['parameters']})" for m, some in models.items())
        described.append(f"{case}: {ranks}")
    return (
        f"Curves: minimisers along the sensitivity path from {len(groups(rows, 'start'))} random starts; they end "
        "(filled mark), or the sensitivity still grows there (arrow). Open marks: plain ALS from the same starts. "
        f"Ranks, and in brackets numbers of parameters: {'; '.join(described)}."
    )


def draw(rows: list[Row]) -> Figure:
    """A panel for each tensor, a curve for each model."""
    cases = groups(rows, "case")
    lines = (len(cases) + 1) // 2
    figure = new_figure(1.2 + 2.5 * lines)
    panels = figure.subplots(lines, 2, squeeze=False).ravel()
    for panel, (case, mine) in zip(panels, cases.items(), strict=False):
        models = groups(mine, "model")
        for position, (model, some) in enumerate(models.items()):
            draw_model(panel, MODELS[model], position, some)
        panel.set_title(f"{case}, {shape_text(mine[0]['shape'], '')}")
        few_ticks(panel)
    for panel in panels[len(cases) :]:
        panel.set_axis_off()
    for panel in panels[max(len(cases) - 2, 0) : len(cases)]:
        panel.set_xlabel(r"sensitivity $\Vert J\Vert_F^2$ for $\Vert T\Vert = 1$")
    for panel in panels[: len(cases) : 2]:
        panel.set_ylabel(ERROR_LABEL)
    legend_above(figure, panels[0])
    return figure


def draw_model(panel: Any, name: str, position: int, rows: list[Row]) -> None:
    """The curve, its end, and where ALS ends from all starts."""
    colour, marker = PALETTE[position], MARKERS[position]
    methods = groups(rows, "method")
    best = unbeaten(methods["path"])
    x, y = column(best, "sensitivity"), column(best, "error")
    panel.plot(x, y, color=colour, linewidth=1.4)
    if float(best[-1]["slope"]) >= ENDLESS and len(best) > 1:
        arrow = {"arrowstyle": "-|>", "color": colour, "mutation_scale": 14, "shrinkA": 0, "shrinkB": 0}
        panel.annotate("", xy=(x[-1], y[-1]), xytext=(x[-2], y[-2]), arrowprops=arrow)
    else:
        panel.plot(x[-1], y[-1], color=colour, marker=marker, markersize=6)
    # Drawn off the picture, for the legend.
    panel.plot([], [], color=colour, marker=marker, markersize=6, linewidth=1.4, label=name)
    panel.plot(
        column(methods["ALS"], "sensitivity"),
        column(methods["ALS"], "error"),
        linestyle="none",
        marker=marker,
        markersize=6,
        markerfacecolor="none",
        markeredgecolor=colour,
    )


def unbeaten(rows: list[Row]) -> list[Row]:
    """Rows that no other beats in both error and sensitivity, by growing sensitivity."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (float(row["sensitivity"]), float(row["error"]))):
        if not front or float(row["error"]) < float(front[-1]["error"]):
            front.append(row)
    return front
