"""A tensor without a best approximation: blocks blow up under every solver, and a bound on the sensitivity holds them.

The border tensor is the limit of looped chains of bonds 3 and is generically no such chain, so the error has infimum
zero and no minimum: whoever follows the error alone is led to chains whose blocks grow without bound and cancel.

Shown: ALS, LM and the path, on the left with nothing asked for but the error, on the right under `SensitivityBound`.
Above, the error over the iterations, and as an open mark at its end the error of the same model with its cores rounded
to half precision; below, the sensitivity in the optimal gauge, so that its growth is no matter of how the blocks share
their weight; both of the best iterate so far.  Lines are medians over random starts, bands reach from the lower to the
upper quartile.

Paper: "How to train your unstable looped tensor network", on the control of the sensitivity.
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
from paper_figures.results import Job, Row, Settings, column, groups
from paper_figures.style import new_figure, shape_text
from paper_figures.trace import Trace, spread
from tensorchain.models import Model
from tensorchain.plotting import ERROR_LABEL, MARKERS, PALETTE, SENSITIVITY_LABEL, plot_runs

SHAPE, BONDS = (9, 9, 9), (3, 3, 3)
BOUND = 1e3
SOLVERS: dict[str, Any] = {"ALS": tc.ALS(max_iter=2000), "LM": tc.LM(), "path": tc.Path()}
CONSTRAINTS: dict[str, tc.SensitivityBound | None] = {"free": None, "bounded": tc.SensitivityBound(BOUND)}


def parameters(settings: Settings) -> dict[str, Any]:
    """What is run, in full."""
    return {
        "shape": SHAPE,
        "bonds": BONDS,
        "solvers": {name: repr(solver) for name, solver in SOLVERS.items()},
        "constraints": {name: repr(constraint) for name, constraint in CONSTRAINTS.items()},
        "starts": 40 if settings.full else 3,
    }


def jobs(settings: Settings) -> Iterator[Job]:
    """One run of one method."""
    for constraint in CONSTRAINTS:
        for method in SOLVERS:
            for start in range(parameters(settings)["starts"]):
                key = {"constraint": constraint, "method": method, "start": start}
                yield Job(key, partial(measure, constraint, method, settings.seed, start))


def measure(constraint: str, method: str, seed: int, start: int) -> list[Row]:
    """The iterates of one run, each with the error of the returned model in half precision."""
    tensor = tc.datasets.border_chain(SHAPE, BONDS, np.random.default_rng(seed)).tensor
    trace = Trace()
    asked = CONSTRAINTS[constraint]
    fit = decompose(tensor, "tc", BONDS, rng=seed + start, callback=trace, solver=SOLVERS[method], constraint=asked)
    half = float(np.linalg.norm(tensor - in_half_precision(fit.model).full()))
    return [{**row, "half": half} for row in trace.finish()]


def in_half_precision(model: Model) -> Model:
    """The model with every entry of its blocks rounded to float16."""
    return model.with_blocks([block.astype(np.float16).astype(np.float64) for block in model.blocks])


def describe(rows: list[Row]) -> str:
    """The caption."""
    told = []
    for (constraint, method), mine in groups(rows, "constraint", "method").items():
        runs = list(groups(mine, "start").values())
        error = np.median([float(run[-1]["error"]) for run in runs])
        half = np.median([float(run[-1]["half"]) for run in runs])
        told.append(f"{method} {constraint} {error:.1e}, then {half:.1e}")
    return (
        f"Border tensor {shape_text('x'.join(map(str, SHAPE)))} of norm 1, which has no best approximation, as a "
        f"looped chain of bonds {BONDS}, from {len(groups(rows, 'start'))} random starts: the best iterate so far, "
        "medians and bands from the lower to the upper quartile. Open marks: the returned model with its cores rounded "
        f"to half precision. Sensitivities in the optimal gauge; dotted: the bound, {BOUND:g}. A run that stopped "
        f"counts with its last value. Median errors, and in half precision: {'; '.join(told)}."
    )


def draw(rows: list[Row]) -> Figure:
    """Error above, sensitivity below; free on the left, bounded on the right."""
    figure = new_figure(4.6)
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    cases = groups(rows, "constraint")
    for row, (name, label) in zip(panels, (("error", ERROR_LABEL), ("sensitivity", SENSITIVITY_LABEL)), strict=True):
        for panel, constraint in zip(row, CONSTRAINTS, strict=True):
            methods = groups(cases[constraint], "method")
            runs = {method: list(groups(mine, "start").values()) for method, mine in methods.items()}
            curves = {method: [spread(run, name) for run in some] for method, some in runs.items()}
            plot_runs(curves, ax=panel, quantiles=(0.25, 0.75))
            panel.get_legend().remove()
            panel.label_outer()
            if name == "error":
                mark_half_precision(panel, list(runs.values()))
        row[0].set_ylabel(label)
    for panel in panels[1]:
        panel.axhline(BOUND, color="black", linewidth=0.8, linestyle=(0, (1, 3)))
        panel.set_xlabel("iteration")
    panels[0, 0].legend(loc="lower left", frameon=False)
    panels[0, 0].set_title("nothing asked for but the error")
    panels[0, 1].set_title(f"sensitivity at most {BOUND:g}")
    return figure


def mark_half_precision(panel: Any, methods: list[list[list[Row]]]) -> None:
    """An open mark right of each curve, joined to its end: the error after rounding."""
    right = max(float(run[-1]["iteration"]) for runs in methods for run in runs) + 1.0
    for position, runs in enumerate(methods):
        end, half = (float(np.median([float(run[-1][name]) for run in runs])) for name in ("error", "half"))
        place = right * 1.6 ** (1 + position)
        look = {"color": PALETTE[position], "linewidth": 1.0}
        panel.plot([place, place], [end, half], linestyle=":", **look)
        panel.plot(place, half, marker=MARKERS[position], markerfacecolor="white", markersize=5.5, **look)
    panel.annotate(
        "in half\nprecision", (right * 2.6, max(np.median(column(run, "half")) for runs in methods for run in runs)),
        (0, 6), textcoords="offset points", ha="center", va="bottom", fontsize=8,
    )  # fmt: skip
    panel.set_xlim(right=right * 8.0)
