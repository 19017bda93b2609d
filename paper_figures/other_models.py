"""Do other models replicate?  Tucker, block terms and non-negative CP of two halves of the samples.

Shown: the match between models of two random halves of the samples, over all modes but that of the samples: for Tucker
how near the subspaces of the factors are, for block terms those of each term, for non-negative CP the factor match
score; for the least error, for the model of least sensitivity at 1 % more, and with the rows of one half shuffled.
Medians over splits, with 95 % intervals (bootstrap).

Paper: none; what `replicability` leaves open.
What differs: the data are those that TensorLy ships, as they are, fluorescence with every fifth time.  The blocks of a
tensor chain have no meaning without their bonds, so that no match of them is defined.  `--quick`: eight splits;
`--full`: fifty.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import tensorchain as tc
from paper_figures.agreement import halves, match, permuted_match
from paper_figures.fits import decompose
from paper_figures.replicability import interval, load, wins
from paper_figures.results import Job, Row, Settings, column, groups
from paper_figures.style import COLUMN
from tensorchain.plotting import MARKERS, PALETTE

MODELS: dict[str, tuple[str, Any, tc.Constraint | None]] = {
    "Tucker, ranks 2": ("tucker", 2, None),
    "Tucker, ranks 3": ("tucker", 3, None),
    "BTD, two terms (2, 2, ...)": ("btd", 2, None),
    "non-negative CP, rank 3": ("cp", 3, tc.NonNegative()),
    "non-negative CP, rank 4": ("cp", 4, tc.NonNegative()),
}
"""Kind, ranks and constraint; ranks of block terms are those of each mode."""
CASES = {
    "COVID serology": ("Tucker, ranks 2", "Tucker, ranks 3", "BTD, two terms (2, 2, ...)"),
    "IL-2": ("Tucker, ranks 2", "BTD, two terms (2, 2, ...)", "non-negative CP, rank 3"),
    "fluorescence": ("Tucker, ranks 3", "BTD, two terms (2, 2, ...)", "non-negative CP, rank 4"),
}
"""Non-negative factors where the data are."""
METHODS = ("least error", "1 %", "permuted")


def parameters(settings: Settings) -> dict[str, Any]:
    """What is run, in full."""
    return {"cases": CASES if find_spec("tensorly") else {}, "splits": 50 if settings.full else 8}


def jobs(settings: Settings) -> Iterator[Job]:
    """One split of the samples."""
    told = parameters(settings)
    for split in range(told["splits"]):
        for case, names in told["cases"].items():
            for name in names:
                key = {"case": case, "model": name, "start": split}
                yield Job(key, partial(measure, case, name, 1000 * settings.seed + split))


def measure(case: str, name: str, seed: int) -> list[Row]:
    """Match of the models of two halves."""
    return compare(halves(load(case), seed), name, seed)


def compare(pair: tuple[np.ndarray, np.ndarray], name: str, seed: int) -> list[Row]:
    """A row for each method."""
    kind, size, constraint = MODELS[name]
    rank = [(size,) * pair[0].ndim] * 2 if kind == "btd" else size
    data = [tc.Masked(half) if np.isnan(half).any() else half for half in pair]
    free = [decompose(half, kind, rank, rng=seed, solver=tc.Auto(slack=0), constraint=constraint) for half in data]
    mild = [fit.at(error=min(1.01 * fit.error, 0.999)) for fit in free]
    rows = []
    for method, (one, two) in (("least error", free), ("1 %", mild)):
        rows.append(row_of(method, match(one.model, two.model), (one, two)))
    return [*rows, row_of("permuted", permuted_match(mild[0].model, mild[1].model, seed), tuple(mild))]


def row_of(method: str, score: float, fits: tuple[tc.Fit, ...]) -> Row:
    """The larger sensitivity, the mean error."""
    return {
        "method": method,
        "match": score,
        "sensitivity": max(fit.sensitivity for fit in fits),
        "error": float(np.mean([fit.error for fit in fits])),
    }


# -- what is told ---------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    """Markdown: medians of the match, and of the sensitivity."""
    heads = ["data", "model", "least error", "1 %", "null", "1 % better / worse", "SS", "at 1 %"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for (case, name), mine in groups(rows, "case", "model").items():
        by_method = groups(mine, "method")
        cells = []
        for method in METHODS:
            middle, low, high = interval(column(by_method[method], "match"))
            cells.append(f"{middle:.2f}" if method == "permuted" else f"{middle:.2f} ({low:.2f}-{high:.2f})")
        better, worse = wins(mine)
        sizes = [f"{np.median(column(by_method[method], 'sensitivity')):.0e}" for method in METHODS[:2]]
        lines.append("| " + " | ".join([case, name, *cells, f"{better} / {worse}", *sizes]) + " |")
    return "\n".join(lines)


def describe(rows: list[Row]) -> str:
    """The caption."""
    splits = len(groups(rows, "start"))
    return (
        "Models of measured data: match between two random halves of the samples, over all modes but the samples, at "
        "the least error and for the model of least sensitivity at 1 % more. Tucker: subspaces of the factors; BTD: of "
        f"each term; non-negative CP: factor match score. Medians over {splits} splits with their 95 % intervals "
        "(bootstrap); grey: the match when the rows of one half are shuffled."
    )


def draw(rows: list[Row]) -> Figure:
    """One line for each data set and model."""
    found = list(groups(rows, "case", "model").items())
    figure = Figure(figsize=(COLUMN, 0.5 + 0.36 * len(found)), layout="constrained")
    axes = figure.subplots()
    for place, ((_, _), mine) in enumerate(found):
        by_method = groups(mine, "method")
        for position, method in enumerate(METHODS[:2]):
            middle, low, high = interval(column(by_method[method], "match"))
            spans = np.maximum([[middle - low], [high - middle]], 0.0)
            look = {"color": PALETTE[position], "marker": MARKERS[position], "markersize": 4, "elinewidth": 0.9}
            height = place + 0.14 * (2 * position - 1)
            axes.errorbar([middle], [height], xerr=spans, linestyle="none", label=method if not place else None, **look)
        null, _, _ = interval(column(by_method["permuted"], "match"))
        axes.plot([null, null], [place - 0.3, place + 0.3], color="#888888", linewidth=1.2)
    names = [f"{case.removesuffix(' serology')}: {name.partition(',')[0]}{sizes(name)}" for (case, name), _ in found]
    axes.set_yticks(range(len(found)), names)
    axes.tick_params(labelsize=7)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlim(0.0, 1.03)
    axes.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0], ["0", "0.25", "0.5", "0.75", "1"])
    axes.set_xlabel("match of halves", fontsize=7.5)
    axes.grid(True, axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(fontsize=7, loc="lower left", frameon=False, handletextpad=0.3)
    return figure


def sizes(name: str) -> str:
    """The rank in the name of a model, short."""
    digits = [letter for letter in name if letter.isdigit()]
    return f" {digits[0]}"
