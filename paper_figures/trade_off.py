"""Error against sensitivity on measured data: plain ALS, plain LM, the path, and the path with an error bound.

Two measured tensors are written as looped tensor chains from several random starts: a colour photograph folded into
one mode a scale (order 5), and a kinetic fluorescence experiment (order 4).  Each mark is the model that a run
returned; the curve behind it is the way that led there, the best iterate so far.  The path comes from the left, from
strong penalties and stable models, so its curve also says how much sensitivity each accuracy costs.  The least error
often costs a high sensitivity; the fourth method starts from the path's model and looks for the least sensitive
one whose error is at most 1 % larger.

Both axes say what a user pays: the error of the model, and how strongly it reacts to noise or rounding of its blocks.
Sensitivities are those for data of norm 1, SS / ||T||^(2(K-1)/K) with K blocks, in the optimal gauge.
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
from paper_figures.style import caption, new_figure, shape_text
from paper_figures.trace import Trace
from tensorchain.plotting import ERROR_LABEL, MARKERS, PALETTE

METHODS = {"ALS": tc.ALS(max_iter=500), "LM": tc.LM(max_iter=300), "path": tc.Continuation()}
MARGIN = 1.01
RELAXED = "path, error + 1 %"


def parameters(settings: Settings) -> dict[str, Any]:
    """What is run, in full."""
    cases = (
        {
            "photograph": {"digits": (4, 4, 4, 4), "bonds": (4, 4, 4, 4, 4)},
            "fluorescence": {"steps": (1, 1, 1, 1), "bonds": (3, 3, 3, 3)},
        }
        if settings.full
        else {
            "photograph": {"digits": (3, 3, 3, 3), "bonds": (3, 3, 3, 3, 3)},
            "fluorescence": {"steps": (2, 1, 1, 3), "bonds": (2, 2, 2, 2)},
        }
    )
    solvers = {name: repr(solver) for name, solver in METHODS.items()}
    return {"cases": cases, "solvers": solvers, "margin": MARGIN, "starts": 10 if settings.full else 3}


def jobs(settings: Settings) -> Iterator[Job]:
    """One run of one method on one tensor."""
    told = parameters(settings)
    for case, options in told["cases"].items():
        for method in (*METHODS, RELAXED):
            for start in range(told["starts"]):
                key = {"case": case, "method": method, "start": start}
                yield Job(key, partial(measure, case, options, method, settings.seed + start))


def measure(case: str, options: dict[str, Any], method: str, seed: int) -> list[Row]:
    """Iterates of a run, and the model that it returned, with `final` set."""
    tensor = load(case, options)
    trace = Trace()
    if method == RELAXED:
        found = decompose(tensor, "tc", options["bonds"], rng=seed)
        fit = decompose(tensor, init=found.model, constraint=tc.ErrorBound(MARGIN * found.error), rng=seed)
    else:
        fit = decompose(tensor, "tc", options["bonds"], solver=METHODS[method], rng=seed, callback=trace)
    final = {
        "iteration": fit.iterations,
        "error": fit.error,
        # As in the trace: for a tensor of norm 1.
        "sensitivity": fit.sensitivity / float(np.linalg.norm(tensor)) ** (2.0 * (tensor.ndim - 1) / tensor.ndim),
        "seconds": fit.seconds,
        "reason": fit.reason.name,
    }
    common = {"shape": "x".join(map(str, tensor.shape)), "bonds": "-".join(map(str, options["bonds"]))}
    return [*({**common, "final": 0, **row} for row in trace.finish()), {**common, "final": 1, **final}]


def load(case: str, options: dict[str, Any]) -> np.ndarray:
    """A measured tensor."""
    if case == "photograph":
        return tc.datasets.photograph("china", options["digits"])
    thinned = tuple(slice(None, None, step) for step in options["steps"])
    return tc.datasets.fluorescence("fill")[thinned].copy()


def draw(rows: list[Row]) -> Figure:
    """A panel for each tensor."""
    cases = groups(rows, "case")
    figure = new_figure(3.7)
    panels = figure.subplots(1, len(cases), squeeze=False)[0]
    described = []
    for panel, (case, mine) in zip(panels, cases.items(), strict=True):
        for position, (method, runs) in enumerate(groups(mine, "method").items()):
            draw_method(panel, method, position, runs)
        shape, bonds = shape_text(mine[0]["shape"]), mine[0]["bonds"].replace("-", ", ")
        panel.set(
            xscale="log", title=f"{case}, {shape}", xlabel=r"sensitivity $\Vert J\Vert_F^2$ for $\Vert T\Vert = 1$"
        )
        panel.grid(True, color="#DDDDDD", linewidth=0.6)
        described.append(f"{case} {shape} with bonds ({bonds})")
        frame(panel, mine)
    panels[0].set_ylabel(ERROR_LABEL)
    panels[-1].legend(loc="upper right", facecolor="white", edgecolor="none", framealpha=1.0)
    starts = len(groups(rows, "start"))
    caption(
        figure,
        f"Measured tensors as looped chains: {'; '.join(described)}; {starts} random starts a method. Marks: the "
        "models returned. Curves: the way there, the best iterate so far. All in the optimal gauge; lower left is "
        "better. Default settings of the path; at most 500 sweeps of ALS and 300 iterations of LM. "
        "Diamonds: the least sensitive model found from that of the path with an error at most 1 % larger.",
    )
    return figure


def draw_method(panel: Any, method: str, position: int, runs: list[Row]) -> None:
    """The ways of a method, thin, and where they end."""
    colour = PALETTE[position]
    for run in groups(runs, "start").values():
        way = [row for row in run if int(row["final"]) == 0]
        panel.plot(column(way, "sensitivity"), column(way, "error"), color=colour, linewidth=0.8, alpha=0.5)
    ends = [row for row in runs if int(row["final"])]
    panel.plot(
        column(ends, "sensitivity"),
        column(ends, "error"),
        linestyle="none",
        marker=MARKERS[position],
        markersize=6,
        markerfacecolor=colour,
        markeredgecolor="white",
        markeredgewidth=0.6,
        label=method,
        zorder=3,
    )


def frame(panel: Any, rows: list[Row]) -> None:
    """Errors up to a third above the worst returned; iterates far up, of the first few iterations, are left out."""
    ends = column([row for row in rows if int(row["final"])], "error")
    low, high = min(ends), max(ends)
    top = high + max(0.25 * low, 2.0 * (high - low))
    seen = [
        value for value, error in zip(column(rows, "sensitivity"), column(rows, "error"), strict=True) if error <= top
    ]
    panel.set_ylim(low - 0.06 * (top - low), top)
    panel.set_xlim(0.5 * min(seen), 2.0 * max(seen))
