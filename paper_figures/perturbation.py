"""How far noise on the blocks moves the tensor: measured, exact and to first order, before and after the cures.

Shown: E ||X(theta + noise) - X||^2 / ||T||^2 against the deviation sigma of independent noise on every entry of every
block, for T of norm 1.  Three models of the same tensor and the same error: the iterate that plain ALS ends with
(balanced norms, gauge left to chance), the same X in its optimal gauge (`optimal_gauge`), and the model that the
sensitivity correction finds from it (`ErrorBound` at the error of ALS).  Marks are means over Monte Carlo draws with
95 % intervals, lines the exact expectation (`expected_error`, all orders of sigma) and its first-order part
(`first_order_error`, sigma^2 SS), drawn with their formulas alone and not fitted to the marks.  Where a curve crosses
the dotted line, noise costs as much as the approximation itself.

Paper: "How to train your unstable looped tensor network", on the sensitivity as expected error under perturbation, and
on its correction.  What differs: the exact curve beside the first-order one; the gauge as a step of its own; CP besides
looped chains; small tensors, two of them measured data.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import tensorchain as tc
from paper_figures.data import available, load
from paper_figures.fits import decompose
from paper_figures.results import Job, Row, Settings, column, groups
from paper_figures.style import new_figure, rank_text, shape_text
from tensorchain.models import Model
from tensorchain.plotting import MARKERS, PALETTE

CASES: dict[str, tuple[str, Any]] = {
    "border tensor": ("tc", 3),
    "photograph": ("tc", 3),
    "fluorescence": ("cp", 5),
}
STATES = ("plain ALS", "optimal gauge", "corrected")
SIGMAS = tuple(float(sigma) for sigma in np.logspace(-3.0, 0.0, 13))


def parameters(settings: Settings) -> dict[str, Any]:
    """What is run, in full."""
    return {
        "cases": {case: CASES[case] for case in available(tuple(CASES))},
        "solver": repr(solver(settings.full)),
        "sigmas": SIGMAS,
        "draws": 5000 if settings.full else 200,
        "fits": 20 if settings.full else 1,
    }


def solver(full: bool) -> tc.ALS:
    """Plain ALS, for as long as a user may leave it running."""
    return tc.ALS(max_iter=10000 if full else 2000)


def jobs(settings: Settings) -> Iterator[Job]:
    """All states of one fit."""
    told = parameters(settings)
    for case in told["cases"]:
        for start in range(told["fits"]):
            yield Job({"case": case, "start": start}, partial(measure, case, settings, start))


def measure(case: str, settings: Settings, start: int) -> list[Row]:
    """Expected and measured errors of one fit, before and after."""
    told = parameters(settings)
    tensor = load(case, settings)
    tensor = tensor / np.linalg.norm(tensor)
    name, rank = CASES[case]
    rows = []
    for state, model in zip(STATES, states(tensor, name, rank, settings, start), strict=True):
        common = {
            "state": state,
            "model": name,
            "rank": rank_text(rank),
            "shape": "x".join(map(str, tensor.shape)),
            "error": float(np.linalg.norm(tensor - model.full())),
            "sensitivity": model.sensitivity(),
        }
        rng = np.random.default_rng((settings.seed, start))
        for sigma in SIGMAS:
            mean, deviation = monte_carlo(model, sigma, told["draws"], rng)
            rows.append(
                {
                    **common,
                    "sigma": sigma,
                    "draws": told["draws"],
                    "measured": mean,
                    "standard_error": deviation,
                    "exact": tc.expected_error(model, sigma),
                    "first_order": tc.first_order_error(model, sigma),
                }
            )
    return rows


def states(tensor: np.ndarray, name: str, rank: Any, settings: Settings, start: int) -> tuple[Model, Model, Model]:
    """The last iterate of ALS as it is, in its optimal gauge, and corrected at the same error."""
    last: list[tc.Iterate] = []

    def keep(iterate: tc.Iterate) -> None:
        last[:] = [iterate]

    seed = settings.seed + start
    found = decompose(tensor, name, rank, solver=solver(settings.full), rng=seed, callback=keep)
    corrected = decompose(tensor, init=found.model, constraint=tc.ErrorBound(min(found.error, 0.99)), rng=seed)
    return last[0].model, found.model, corrected.model


def monte_carlo(model: Model, sigma: float, draws: int, rng: np.random.Generator) -> tuple[float, float]:
    """Mean of ||X(theta + noise) - X||^2 over draws, and the standard error of that mean."""
    exact = model.full()
    moved = np.empty(draws)
    for draw_ in range(draws):
        noisy = [block + sigma * rng.standard_normal(block.shape) for block in model.blocks]
        moved[draw_] = np.sum((model.with_blocks(noisy).full() - exact) ** 2)
    return float(moved.mean()), float(moved.std(ddof=1) / np.sqrt(draws))


def describe(rows: list[Row]) -> str:
    """The caption."""
    described = []
    for case, mine in groups(rows, "case").items():
        first = next(iter(groups(mine, "start").values()))
        states = groups(first, "state").values()
        reached = ", ".join(f"{float(points[0]['sensitivity']):.1e}" for points in states)
        model, shape = first[0]["model"].upper(), shape_text(first[0]["shape"], "")
        described.append(f"{case} {shape} as {model} of rank {first[0]['rank']}, SS {reached}")
    return (
        f"Marks: means of {rows[0]['draws']} Monte Carlo draws with 95 % intervals. Plain ALS, the same X in the "
        "optimal gauge, and the least sensitive model found with the same error. "
        f"Of each tensor the first random start: {'; '.join(described)} (in that order)."
    )


def draw(rows: list[Row]) -> Figure:
    """A panel for each tensor; the first fit of each."""
    cases = groups(rows, "case")
    figure = new_figure(3.9)
    panels = figure.subplots(1, len(cases), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (case, mine) in zip(panels, cases.items(), strict=True):
        first = next(iter(groups(mine, "start").values()))
        for position, (state, points) in enumerate(groups(first, "state").items()):
            draw_state(panel, state, position, points)
        own = float(first[0]["error"]) ** 2
        panel.axhline(own, color="black", linewidth=0.8, linestyle=(0, (1, 2)))
        if panel is panels[-1]:
            panel.annotate(
                "error² of the fit", (SIGMAS[-1], own), (0, -3), textcoords="offset points", ha="right", va="top"
            )
        panel.set(xscale="log", yscale="log", title=case, xlabel=r"noise $\sigma$")
        panel.grid(True, color="#DDDDDD", linewidth=0.6)
    panels[0].set_ylabel(r"$\mathrm{E}\,\Vert X(\theta + noise) - X\Vert^2$ for $\Vert T\Vert = 1$")
    black = {"color": "black", "linewidth": 1.2}
    handles = [
        *panels[0].get_legend_handles_labels()[0],
        Line2D([], [], **black, label="exact"),
        Line2D([], [], **black, linestyle="--", label=r"first order, $\sigma^2$ SS"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    return figure


def draw_state(panel: Any, state: str, position: int, points: list[Row]) -> None:
    """Marks of the measurement, and the two curves."""
    colour, sigmas = PALETTE[position], column(points, "sigma")
    panel.plot(sigmas, column(points, "exact"), color=colour, linewidth=1.2)
    panel.plot(sigmas, column(points, "first_order"), color=colour, linewidth=1.2, linestyle="--")
    panel.errorbar(
        sigmas,
        column(points, "measured"),
        yerr=1.96 * np.array(column(points, "standard_error")),
        linestyle="none",
        marker=MARKERS[position],
        markersize=5,
        color=colour,
        markeredgecolor="white",
        markeredgewidth=0.5,
        label=state,
    )
