"""How looped chains become unstable: sensitivity and block norms over the iterations, on three kinds of tensor.

Shown: relative error, sensitivity and norm of the largest block for ALS, LM and the sensitivity path, each from the
same random starts, on a border tensor (no best approximation exists), on an exact chain (the least error is zero) and
on an exact chain with noise.  On the first, whoever follows the error lets the blocks grow without end; on the other
two, where a good solution exists, ALS and LM fall into swamps on the way to it, in which the blocks grow as well.  All
figures are those of the best iterate so far, in the optimal gauge, so that growth is no matter of how blocks share
their weight.  Lines are medians over the starts, bands reach from the lower to the upper quartile.

Paper: "How to train your unstable looped tensor network", on the instability of looped chains.  What differs: tensors
of our own (`tensorchain.datasets`), small ones in --quick and more starts in --full; our ALS, LM and path.
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
from paper_figures.style import legend_above, new_figure, shape_text
from paper_figures.trace import Trace, spread
from tensorchain.plotting import ERROR_LABEL, SENSITIVITY_LABEL, plot_runs

KINDS = {"border": "border tensor", "exact": "exact chain", "noisy": "chain with noise"}
NOISE = 0.05
FLOOR = 1e-6
ROWS = {
    "error": ERROR_LABEL,
    "sensitivity": SENSITIVITY_LABEL,
    "largest_block": r"largest block $\max_k \Vert B_k\Vert_F$",
}


def solvers(full: bool) -> dict[str, tc.ALS | tc.LM | tc.Path]:
    """The methods; iteration limits that let the blocks grow for a while."""
    return {
        "ALS": tc.ALS(max_iter=10000 if full else 1000),
        "LM": tc.LM(max_iter=2000 if full else 300),
        "path": tc.Path(),
    }


def parameters(settings: Settings) -> dict[str, Any]:
    """What is run, in full."""
    return {
        "shape": (9, 9, 9) if settings.full else (7, 7, 7),
        "bonds": (3, 3, 3),
        "noise": NOISE,
        "solvers": {name: repr(solver) for name, solver in solvers(settings.full).items()},
        "starts": 100 if settings.full else 7,
    }


def jobs(settings: Settings) -> Iterator[Job]:
    """One run of one method on one tensor."""
    told = parameters(settings)
    for kind in KINDS:
        for method in told["solvers"]:
            for start in range(told["starts"]):
                key = {"tensor": kind, "method": method, "start": start}
                yield Job(key, partial(measure, kind, method, settings, start))


def measure(kind: str, method: str, settings: Settings, start: int) -> list[Row]:
    """The iterates of one run."""
    told = parameters(settings)
    shape, bonds = told["shape"], told["bonds"]
    trace = Trace()
    tensor = load(kind, shape, bonds, settings.seed)
    decompose(tensor, "tc", bonds, solver=solvers(settings.full)[method], rng=settings.seed + start, callback=trace)
    common = {"shape": "x".join(map(str, shape)), "bonds": "-".join(map(str, bonds))}
    return [{**common, **row} for row in trace.finish()]


def load(kind: str, shape: tuple[int, ...], bonds: tuple[int, ...], seed: int) -> np.ndarray:
    """A tensor of that kind; the exact chain and the noisy one share their cores."""
    rng = np.random.default_rng(seed)
    if kind == "border":
        return tc.datasets.border_chain(shape, bonds, rng).tensor
    return tc.datasets.exact_chain(shape, bonds, rng, noise=NOISE if kind == "noisy" else 0.0).tensor


def describe(rows: list[Row]) -> str:
    """The caption."""
    bonds = rows[0]["bonds"].replace("-", ",")
    return (
        f"Tensors {shape_text(rows[0]['shape'])} of norm 1 as looped chains of bonds ({bonds}) from "
        f"{len(groups(rows, 'start'))} random starts; the third is the second with noise of {NOISE:g} of its "
        "norm. The best iterate so far in its optimal gauge: medians, and bands from the lower to the upper quartile. "
        f"A run that stopped counts with its last value. Errors below {FLOOR:g} leave the picture."
    )


def draw(rows: list[Row]) -> Figure:
    """A column for each kind of tensor; error, sensitivity and block norm below each other."""
    kinds = groups(rows, "tensor")
    figure = new_figure(6.2)
    panels = figure.subplots(len(ROWS), len(kinds), sharex=True, sharey="row", squeeze=False)
    for place, (kind, mine) in enumerate(kinds.items()):
        runs = {method: list(groups(some, "start").values()) for method, some in groups(mine, "method").items()}
        for line, (name, label) in enumerate(ROWS.items()):
            panel = panels[line, place]
            plot_runs({method: [spread(run, name) for run in some] for method, some in runs.items()}, panel,
                      quantiles=(0.25, 0.75))  # fmt: skip
            panel.get_legend().remove()
            panel.label_outer()
            if place == 0:
                panel.set_ylabel(label)
        panels[0, place].set_title(KINDS[kind])
    # Errors at rounding level would flatten all others.
    panels[0, 0].set_ylim(bottom=max(FLOOR, panels[0, 0].get_ylim()[0]))
    legend_above(figure, panels[0, 0])
    return figure
