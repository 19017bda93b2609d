"""How the cost of a sweep and of an iteration grows with the size of the problem, beside the slope of the theory.

Alternating least squares: one sweep over a tensor of n^3 entries is two passes over the data, so the slope against n
is 3 for every model (ranks fixed).  Levenberg-Marquardt with dense equations: they have c n rows, so that a Cholesky
factor has the slope 3; CP avoids it by its structured inverse, and by default conjugate gradients do from 800 rows on.
Sparse CP: a sweep visits each entry once for each factor, slope 1 against the entries.

The time of one sweep is the difference between two runs of different length, so that the cost of the call itself is
not in it; medians of several.

    python -m benchmarks.growth [--quick] [--redraw] [--image docs/images/growth.png]
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import tensorchain as tc
from benchmarks.sweeps import planted
from benchmarks.timing import parser, save

MODELS: dict[str, tuple[type[tc.Model], Any]] = {
    "CP, rank 16": (tc.CP, 16),
    "TC, bonds 4": (tc.TensorChain, 4),
    "Tucker, ranks 8": (tc.Tucker, 8),
    "BTD, 2 terms (4, 4, 4)": (tc.BlockTerm, [(4, 4, 4)] * 2),
}
PANELS = {
    "sweep": ("ALS sweep, n\N{SUPERSCRIPT THREE} entries", "size n", 3),
    "iteration": ("LM iteration", "size n", 3),
    "sparse": ("sparse CP sweep", "entries", 1),
}


def per_step(tensor: Any, start: tc.Model, solver: Callable[[int], Any], steps: int, repeats: int) -> float:
    """Seconds of processor time of one sweep or iteration."""

    def spent(count: int) -> tuple[float, int]:
        began = time.process_time()
        fit = tc.decompose(tensor, init=start, solver=solver(count))
        return time.process_time() - began, fit.iterations

    spent(2)
    slopes = []
    for _ in range(repeats):
        (short, few), (long, many) = spent(steps), spent(3 * steps)
        slopes.append((long - short) / max(many - few, 1))
    return statistics.median(slopes)


def als(count: int) -> tc.ALS:
    return tc.ALS(max_iter=count, tol=0.0)


def lm(count: int) -> tc.LM:
    return tc.LM(max_iter=count, tol=0.0, exact=0.0, dense_limit=10**9)


def measure(quick: bool) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """(size, seconds) by panel and model."""
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {name: {} for name in PANELS}
    repeats = 1 if quick else 3
    sizes = (20, 40) if quick else (40, 64, 100, 160, 250)
    for name, (kind, rank) in MODELS.items():
        for size in sizes:
            tensor = planted(tc.CP, (size,) * 3, 32)
            start = kind.random((size,) * 3, rank, 1)
            steps = max(2, int(4e7 / size**3 / 4))
            panels["sweep"].setdefault(name, []).append((size, per_step(tensor, start, als, min(steps, 40), repeats)))
    for name, (kind, rank) in MODELS.items():
        for size in (8, 16) if quick else (12, 18, 27, 40, 60):
            tensor = planted(tc.CP, (size,) * 3, 32)
            start = kind.random((size,) * 3, rank, 1)
            panels["iteration"].setdefault(name, []).append((size, per_step(tensor, start, lm, 5, repeats)))
    rng = np.random.default_rng(0)
    for entries in (1000, 10_000) if quick else (30_000, 100_000, 300_000, 1_000_000, 3_000_000):
        where = rng.integers(0, 10_000, (entries, 3))
        tensor = tc.Sparse(where, rng.standard_normal(entries), (10_000,) * 3)
        start = tc.CP.random(tensor.shape, 16, 1)
        panels["sparse"].setdefault("CP, rank 16", []).append((entries, per_step(tensor, start, als, 2, repeats)))
    for panel, curves in panels.items():
        for name, points in curves.items():
            size, spent = np.log(np.array(points)).T
            print(f"{PANELS[panel][0]:28} {name:24} slope {np.polyfit(size, spent, 1)[0]:.2f}  ", end="")
            print("  ".join(f"{x:g}: {1e3 * y:.3g} ms" for x, y in points), flush=True)
    return panels


def describe() -> str:
    """The caption."""
    return (
        "Processor time of one sweep or iteration on one thread, medians of three; dashed: the slope of the theory. "
        "Left: two passes over n\N{SUPERSCRIPT THREE} entries. Middle: a Cholesky factor of as many rows as there are "
        "parameters. CP of rank 16 has 48 n parameters; from n = 32 on its iteration solves 768 equations by the "
        "structure of the matrix instead, whatever n is, and its time falls. Right: each stored entry is "
        "visited once for each factor."
    )


def draw(panels: dict[str, dict[str, list[tuple[int, float]]]], path: Path) -> None:
    """The figure: a panel for each kind of work, the slope of the theory dashed; the caption beside it."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullLocator

    from paper_figures.results import replace_text
    from paper_figures.style import WIDTH, style
    from tensorchain.plotting.style import MARKERS, PALETTE

    with style():
        figure, axes = plt.subplots(1, len(panels), figsize=(WIDTH, 3.2), layout="constrained")
        for ax, (name, curves) in zip(axes, panels.items(), strict=True):
            title, label, slope = PANELS[name]
            for marker, colour, (model, points) in zip(MARKERS, PALETTE, curves.items(), strict=False):
                size, spent = np.array(points).T
                ax.loglog(size, 1e3 * spent, marker=marker, color=colour, markersize=4, label=model)
            # Below the curves, where no mark is.
            last = min(points[-1][1] for points in curves.values())
            ax.loglog(size, 4e2 * last * (size / size[-1]) ** slope, "k--", linewidth=1)
            ax.text(0.97, 0.03, f"dashed:\nslope {slope}", transform=ax.transAxes, ha="right", fontsize=8)
            ax.set(title=title, xlabel=label)
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xticks(size, [f"{x:g}" if x < 1e4 else f"{x:.0e}".replace("e+0", "e") for x in size])
        axes[0].set_ylabel("milliseconds")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=1440 / WIDTH)
        plt.close(figure)
    replace_text(path.with_suffix(".txt"), describe() + "\n")


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--image", type=Path, default=Path("docs/images/growth.png"))
    options.add_argument("--redraw", action="store_true", help="draw the numbers that are there")
    given = options.parse_args()
    if given.redraw:
        draw(json.loads((given.results / "growth.json").read_text(encoding="utf-8"))["panels"], given.image)
        return
    with threadpool_limits(given.threads):
        panels = measure(given.quick)
    save(given.results, "growth", {"threads": given.threads, "panels": panels}, quick=given.quick)
    draw(panels, given.results / "growth.png" if given.quick else given.image)


if __name__ == "__main__":
    main()
