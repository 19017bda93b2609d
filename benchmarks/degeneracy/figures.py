"""Success rates and performance profiles of the runs, and their pictures.

**Success**: the error is at most the target of the problem; where it has none, at most 2 % above the least that any
method reached on the same tensor.

**Data profile**: for each method the fraction of its runs that had met the target after t seconds.  **Performance
profile** of the sensitivity: the fraction of its runs that succeeded with a sensitivity at most r times the least at
which any method succeeded on the same tensor; its height at the right is the success rate again.

Reference: Dolan and More, "Benchmarking optimization software with performance profiles" (2002); More and Wild,
"Benchmarking derivative-free optimization algorithms" (2009), for data profiles.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.degeneracy.problems import SLACK
from benchmarks.degeneracy.runner import Row
from tensorchain.kernels import Array
from tensorchain.plotting import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION

STYLES: dict[str, tuple[str, Any]] = {
    "path": (BLUE, "-"),
    "path bounded": (BLUE, "--"),
    "path penalised": (BLUE, ":"),
    "LM": (GREEN, "-"),
    "LM bounded": (GREEN, "--"),
    "ALS": (ORANGE, "-"),
    "ALS bounded": (ORANGE, "--"),
    "parafac": (VERMILLION, "-"),
    "ring ALS": (VERMILLION, "-"),
    "ring SVD": (VERMILLION, ":"),
    "HOOI": (VERMILLION, "-"),
    "cp_als": (PURPLE, "-"),
    "gcp_opt": (PURPLE, "--"),
    "least_squares": (BLACK, "-"),
    "L-BFGS": (SKY, "-"),
}
"""Colour and dashes of each method: solvers and packages by colour, variants by dashes."""

PANELS = {"cp": "CP", "tc": "tensor chain", "tucker": "Tucker", "btd": "block terms"}
FAMILIES = ("exact", "noisy", "collinear", "border", "matmul", "function", "kernel")


def successes(rows: Sequence[Row]) -> list[bool]:
    """Whether each run succeeded."""
    least: dict[tuple[str, int], float] = defaultdict(lambda: math.inf)
    for row in rows:
        if row.error < least[row.problem, row.seed]:
            least[row.problem, row.seed] = row.error
    return [
        row.error <= (SLACK * least[row.problem, row.seed] if math.isnan(row.target) else row.target) for row in rows
    ]


def rates(rows: Sequence[Row]) -> dict[str, dict[str, tuple[int, int]]]:
    """method -> family -> (successes, runs)."""
    table: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for row, success in zip(rows, successes(rows), strict=True):
        good, count = table[row.method].get(row.family, (0, 0))
        table[row.method][row.family] = good + success, count + 1
    return dict(table)


def data_profile(rows: Sequence[Row]) -> dict[str, tuple[Array, int]]:
    """method -> (seconds of the runs that succeeded, sorted; number of all runs)."""
    return _profile((row.method, _seconds(row) if success else math.inf) for row, success in _judged(rows))


def sensitivity_profile(rows: Sequence[Row]) -> dict[str, tuple[Array, int]]:
    """method -> (sensitivity of the runs that succeeded over the least, sorted; number of all runs)."""
    least: dict[tuple[str, int], float] = defaultdict(lambda: math.inf)
    for row, success in _judged(rows):
        if success and row.sensitivity < least[row.problem, row.seed]:
            least[row.problem, row.seed] = row.sensitivity
    return _profile(
        (row.method, row.sensitivity / least[row.problem, row.seed] if success else math.inf)
        for row, success in _judged(rows)
    )


def _seconds(row: Row) -> float:
    """Time to the target; the whole run where that is not known."""
    return row.seconds if math.isnan(row.reached) else row.reached


def _judged(rows: Sequence[Row]) -> Iterable[tuple[Row, bool]]:
    return zip(rows, successes(rows), strict=True)


def _profile(values: Iterable[tuple[str, float]]) -> dict[str, tuple[Array, int]]:
    by_method: dict[str, list[float]] = defaultdict(list)
    for method, value in values:
        by_method[method].append(value)
    return {
        method: (np.sort([value for value in found if math.isfinite(value)]), len(found))
        for method, found in by_method.items()
    }


def summary(rows: Sequence[Row]) -> str:
    """Success rates as a table in text: methods by families."""
    table = rates(rows)
    families = [family for family in FAMILIES if any(family in row for row in table.values())]
    lines = [" " * 16 + "".join(family.rjust(11) for family in families)]
    for method in _order(table):
        cells = [table[method].get(family) for family in families]
        lines.append(method.ljust(16) + "".join(("" if c is None else f"{c[0]}/{c[1]}").rjust(11) for c in cells))
    return "\n".join(lines)


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw all pictures as PNG and PDF; the files written."""
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 9.0, "savefig.dpi": 150, "pdf.fonttype": 42}):
        pictures = {
            "success": _draw_success(rows),
            "time": _draw_profiles(rows, data_profile, "seconds to the target", "runs"),
            "sensitivity": _draw_profiles(
                rows, sensitivity_profile, "sensitivity at success, over the least of any method", "runs"
            ),
        }
        return [path for name, figure in pictures.items() for path in _save(figure, folder, name)]


def _save(figure: Any, folder: Path, name: str) -> list[Path]:
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("png", "pdf")]
    for path in paths:
        figure.savefig(path)
    plt.close(figure)
    return paths


def _draw_success(rows: Sequence[Row]) -> Any:
    """Methods by families: the share of runs that succeeded, as numbers on a grey scale."""
    import matplotlib.pyplot as plt

    table = rates(rows)
    order = _order(table)
    families = [family for family in FAMILIES if any(family in row for row in table.values())]
    values = np.full((len(order), len(families)), np.nan)
    for i, method in enumerate(order):
        for j, family in enumerate(families):
            if family in table[method]:
                good, count = table[method][family]
                values[i, j] = good / count
    figure, axes = plt.subplots(figsize=(1.6 + 0.85 * len(families), 1.0 + 0.27 * len(order)), layout="constrained")
    axes.imshow(values, cmap="Blues", vmin=0.0, vmax=1.4, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if not math.isnan(value):
            good, count = table[order[i]][families[j]]
            axes.text(j, i, f"{good}/{count}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(families)), families)
    axes.set_yticks(range(len(order)), order)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    axes.set_frame_on(False)
    return figure


def _draw_profiles(rows: Sequence[Row], profile: Any, xlabel: str, ylabel: str) -> Any:
    """One panel a model: for each method a staircase that ends at its success rate."""
    import matplotlib.pyplot as plt

    models = [model for model in PANELS if any(row.model == model for row in rows)]
    columns = min(2, len(models))
    lines = -(-len(models) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(5.0 * columns, 3.4 * lines), layout="constrained", squeeze=False, sharey=True
    )
    for axes, model in zip(grid.flat, models, strict=False):
        curves = profile([row for row in rows if row.model == model])
        finite = [value for values, _ in curves.values() for value in values]
        low, high = (min(finite), max(finite)) if finite else (1.0, 1.0)
        for method in _order(curves):
            _staircase(axes, method, *curves[method], low / 1.1, high * 1.5)
        axes.set_xscale("log")
        axes.set_xlim(low / 1.1, high * 1.5)
        axes.set_ylim(-0.02, 1.02)
        axes.set_title(PANELS[model])
        axes.grid(True, color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel(xlabel)
        axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axes in grid[:, 0]:
        axes.set_ylabel(ylabel)
    for axes in list(grid.flat)[len(models) :]:
        axes.set_visible(False)
    return figure


def _staircase(axes: Any, method: str, values: Array, count: int, low: float, high: float) -> None:
    colour, dashes = STYLES[method]
    heights = np.arange(len(values) + 1) / count
    x = np.concatenate([[low], values, [high]])
    y = np.concatenate([heights, heights[-1:]])
    axes.step(x, y, where="post", color=colour, linestyle=dashes, linewidth=1.5, label=method)


def _order(names: Mapping[str, Any]) -> list[str]:
    """Methods in the order of their styles."""
    return [method for method in STYLES if method in names]
