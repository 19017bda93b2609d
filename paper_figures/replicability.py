"""Models of low sensitivity replicate: factors from two halves of the samples, over the error that is given up.

Shown: the factor match score between CP models of two random halves of the samples, over all modes but that of the
samples, for the least error and for the models of least sensitivity at 0.3, 1 and 3 % more; on the right their
sensitivities.  Medians over splits, with 95 % intervals (bootstrap).  Measured with them and told in the tables of
docs/replicability.md: sweeps alone, ridge on the factors at 1 % more error, other ranks, a permutation null, the slack
of least held-out error, and planted models, where the match is to the truth.

Paper: none; a question that every user of CP on measured data has.
What differs: the data are those that TensorLy ships, as they are, fluorescence with every fifth time.  `--quick`: eight
splits and one start; `--full`: fifty splits, more ranks and two starts.

References: E. Acar, D. Dunlavy, T. Kolda, M. Morup, "Scalable tensor factorizations for incomplete data", 2011, for the
score; B. Efron, "Bootstrap methods: another look at the jackknife", 1979.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

import tensorchain as tc
from paper_figures.agreement import SLACKS, fits_of, halves, held_out, match, permuted_match, planted
from paper_figures.results import Job, Row, Settings, column, groups
from paper_figures.style import COLUMN
from tensorchain.plotting import MARKERS, PALETTE

RANKS = {"COVID serology": (2, 3, 4), "IL-2": (3,), "fluorescence": (2, 3, 4)}
MORE_RANKS = {"COVID serology": (2, 3, 4, 5, 6), "IL-2": (2, 3, 4, 5), "fluorescence": (2, 3, 4)}
PLANTED = ((0.9, 0.1), (0.9, 0.5), (0.8, 0.1), (0.5, 0.3), (0.0, 1.0))
"""(congruence of the components in every mode, noise relative to the signal)."""
SHOWN = {"COVID serology": 3, "IL-2": 3, "fluorescence": 4}
"""The ranks in the picture."""
CURVE = ("least error", *SLACKS)
METHODS = (*CURVE, "chosen", "ridge", "ALS", "permuted")
FROM_TRUTH = ("least error", "1 %", "3 %")
RESAMPLES = 2000


def parameters(settings: Settings) -> dict[str, Any]:
    """What is run, in full."""
    ranks = MORE_RANKS if settings.full else RANKS
    return {
        "ranks": ranks if find_spec("tensorly") else {},
        "planted": PLANTED,
        "slacks": SLACKS,
        "splits": 50 if settings.full else 8,
        "starts": 2 if settings.full else 1,
    }


def jobs(settings: Settings) -> Iterator[Job]:
    """One split of the samples, or one planted tensor."""
    told = parameters(settings)
    for split in range(told["splits"]):
        seed = 1000 * settings.seed + split
        for case, ranks in told["ranks"].items():
            for rank in ranks:
                key = {"case": case, "rank": rank, "start": split}
                yield Job(key, partial(measure_halves, case, rank, told["starts"], seed))
        for congruence, noise in told["planted"]:
            key = {"case": f"planted, congruence {congruence:g}, noise {noise:g}", "rank": 3, "start": split}
            yield Job(key, partial(measure_planted, congruence, noise, told["starts"], seed))


def load(case: str) -> np.ndarray:
    """Measured data by name, samples first; NaN where nothing was measured."""
    if case == "fluorescence":
        return tc.datasets.fluorescence("fill")[..., ::5].copy()
    from tensorly.datasets import load_covid19_serology, load_IL2data

    loaded = {"COVID serology": load_covid19_serology, "IL-2": load_IL2data}[case]()
    return np.array(loaded.tensor, dtype=np.float64)


def measure_halves(case: str, rank: int, starts: int, seed: int) -> list[Row]:
    """Match of the models of two halves."""
    return compare_halves(*halves(load(case), seed), rank, starts, seed)


def compare_halves(one: np.ndarray, two: np.ndarray, rank: int, starts: int, seed: int) -> list[Row]:
    """A row for each method; each half is the held-out data of the other."""
    left, right = (fits_of(half, rank, starts, seed) for half in (one, two))
    rows = []
    for method in left:
        models = left[method].model, right[method].model
        unseen = (held_out(models[0], two) + held_out(models[1], one)) / 2.0
        rows.append(row_of(method, match(*models), unseen, (left[method], right[method])))
    pair = left["1 %"], right["1 %"]
    null = permuted_match(pair[0].model, pair[1].model, seed)
    return [*rows, chosen(rows), row_of("permuted", null, float("nan"), pair)]


def measure_planted(congruence: float, noise: float, starts: int, seed: int) -> list[Row]:
    """Match to the truth; held out is the same tensor with other noise."""
    truth, tensor, other = planted(congruence, noise, seed)
    rows, exact = [], truth.full()
    for method, fit in fits_of(tensor, 3, starts, seed).items():
        unseen = float(np.linalg.norm(other - fit.model.full()) / np.linalg.norm(other))
        apart = float(np.linalg.norm(fit.model.full() - exact) / np.linalg.norm(exact))
        score = tc.factor_match(fit.model, truth).score
        rows.append({**row_of(method, score, unseen, (fit,)), "from_truth": apart})
    return [*rows, chosen(rows)]


def row_of(method: str, score: float, unseen: float, fits: Sequence[tc.Fit]) -> Row:
    """The larger sensitivity, the mean error."""
    return {
        "method": method,
        "match": score,
        "sensitivity": max(fit.sensitivity for fit in fits),
        "error": float(np.mean([fit.error for fit in fits])),
        "held_out": unseen,
    }


def chosen(rows: Sequence[Row]) -> Row:
    """The slack of least held-out error."""
    best = min((row for row in rows if row["method"] in CURVE), key=lambda row: float(row["held_out"]))
    return {**best, "method": "chosen", "slack": best["method"]}


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, and its 95 % interval by the bootstrap."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), (RESAMPLES, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return float(np.median(values)), float(low), float(high)


# -- what is told ---------------------------------------------------------------------------


def table(rows: list[Row], kind: str) -> str:
    """Markdown: medians of the match, of "planted" data or of "measured" ones."""
    shown = METHODS[:-1] if kind == "planted" else METHODS
    names = {"permuted": "null", "chosen": "held out", "ridge": "ridge, 1 %"}
    heads = ["data, CP rank", *(names.get(method, method) for method in shown), "1 % better / worse", "SS", "at 1 %"]
    if kind == "planted":
        heads += ["distance", "at 1 %", "at 3 %"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for (case, rank), mine in groups(rows, "case", "rank").items():
        if case.startswith("planted") is not (kind == "planted"):
            continue
        by_method = groups(mine, "method")
        cells = []
        for method in shown:
            middle, low, high = interval(column(by_method[method], "match"))
            spread = f" ({low:.2f}-{high:.2f})" if method in ("least error", "1 %") else ""
            cells.append(f"{middle:.2f}{spread}")
        better, worse = wins(mine)
        sizes = [f"{np.median(column(by_method[method], 'sensitivity')):.0e}" for method in ("least error", "1 %")]
        if kind == "planted":
            sizes += [f"{np.median(column(by_method[method], 'from_truth')):.3f}" for method in FROM_TRUTH]
        name = case.removeprefix("planted, ")
        lines.append("| " + " | ".join([f"{name}, {rank}", *cells, f"{better} / {worse}", *sizes]) + " |")
    return "\n".join(lines)


def wins(rows: list[Row], margin: float = 0.02) -> tuple[int, int]:
    """Splits in which 1 % more error gives a match that is better, and worse, by more than the margin."""
    by_method = groups(rows, "method")
    gained = np.subtract(column(by_method["1 %"], "match"), column(by_method["least error"], "match"))
    return int((gained > margin).sum()), int((gained < -margin).sum())


def describe(rows: list[Row]) -> str:
    """The caption."""
    splits = len(groups(rows, "start"))
    shown = ", ".join(f"{case} (rank {rank})" for case, rank in series(rows))
    return (
        f"CP of measured data: {shown}. Left: factor match score of all modes but the samples between two random "
        "halves of the samples, against the error given up for a lower sensitivity, relative to the least error. "
        f"Right: the sensitivity SS, the larger of the two halves. Medians over {splits} splits with their 95 % "
        "intervals (bootstrap); dotted: the match of the models at 1 % when the rows of one half's factors are "
        "shuffled."
    )


def series(rows: list[Row]) -> list[tuple[str, int]]:
    """The data that are drawn."""
    found = groups(rows, "case", "rank")
    return [
        (case, rank)
        for case, rank in SHOWN.items()
        if any(str(key[1]) == str(rank) and key[0] == case for key in found)
    ]


def methods_of(rows: list[Row], case: str, rank: int) -> dict[str, list[Row]]:
    """The rows of one data set, by method."""
    return groups([row for row in rows if row["case"] == case and str(row["rank"]) == str(rank)], "method")


def draw(rows: list[Row]) -> Figure:
    """Match on the left, sensitivity on the right."""
    figure = Figure(figsize=(COLUMN, 2.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = np.arange(len(CURVE))
    for position, (case, rank) in enumerate(series(rows)):
        by_method = methods_of(rows, case, rank)
        look = {"color": PALETTE[position], "marker": MARKERS[position], "markersize": 3.5, "linewidth": 1.3}
        for panel, name in ((left, "match"), (right, "sensitivity")):
            found = np.array([interval(column(by_method[method], name)) for method in CURVE])
            spans = np.maximum(np.abs(found[:, 1:] - found[:, :1]).T, 0.0)
            # Side by side, so that the whiskers of one data set do not hide those of another.
            shift = 0.09 * (position - 1)
            panel.errorbar(places + shift, found[:, 0], spans, elinewidth=0.8, capsize=1.5, **look)
        null, _, _ = interval(column(by_method["permuted"], "match"))
        left.plot(places[[0, -1]], [null, null], color=PALETTE[position], linewidth=0.9, linestyle=":")
    finish(left, right, places)
    label_lines(left, right, rows)
    return figure


def finish(left: Any, right: Any, places: np.ndarray) -> None:
    """Axes."""
    for panel, title in ((left, "match of halves"), (right, "sensitivity SS")):
        panel.set_title(title, fontsize=8, loc="left")
        panel.set_xticks(places, ["0", "0.3", "1", "3"])
        panel.tick_params(labelsize=7)
        panel.set_xlabel("% more error", fontsize=7.5)
        panel.grid(True, axis="y", color="#DDDDDD", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.set_xlim(-0.35, len(places) - 0.65)
    left.set_ylim(0.0, 1.03)
    right.set_yscale("log")
    right.yaxis.set_major_locator(LogLocator(numticks=8))
    right.yaxis.set_minor_locator(NullLocator())


def label_lines(left: Any, right: Any, rows: list[Row]) -> None:
    """Names in the colours of the lines: at the lines on the right, where they are apart, below them on the left."""
    named = series(rows)
    for position, (case, rank) in enumerate(named):
        name, look = case.removesuffix(" serology"), {"color": PALETTE[position], "fontsize": 7, "ha": "right"}
        value = np.median(column(methods_of(rows, case, rank)["1 %"], "sensitivity"))
        right.annotate(name, (3.3, value), xytext=(0, 3.5), textcoords="offset points", **look)
        height = 0.12 + 0.075 * (len(named) - position)
        left.text(0.97, height, f"{name}, rank {rank}", transform=left.transAxes, **look)
    left.text(0.97, 0.05, "dotted: rows shuffled", transform=left.transAxes, fontsize=7, ha="right", color="#444444")
