"""How often a random start finds an exact chain, and the time that one solution takes.

Tensors that are looped chains, of several orders and bonds, are decomposed with these bonds, so that the least error
is zero.  A start is a success when its relative error is below 1e-6.  The left panel shows the share of successes
with its 95 % interval (Wilson), the right one the expected time to a solution: the time of all starts over the number
of successes, since one who fails starts again.  All methods take the same tensors; TensorLy's `tensor_ring_als` is
among them where TensorLy is installed, with as many sweeps as our ALS.

Reference: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
American Statistical Association 22, 1927.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import tensorchain as tc
from paper_figures.fits import decompose
from paper_figures.results import Job, Row, Settings, column, groups
from paper_figures.style import caption, new_figure, shape_text
from tensorchain.plotting import PALETTE

TIMED = True
"""Its seconds are shown: its jobs run one after the other."""
SOLVERS = {"ALS": tc.ALS(), "LM": tc.LM(), "path": tc.Continuation()}
PEER = "TensorLy TR-ALS"
PEER_OPTIONS = {"n_iter_max": 500, "tol": 1e-9}
CASES = (((7, 7, 7), (3, 3, 3)), ((9, 8, 7), (2, 3, 4)), ((6, 6, 6, 6), (3, 3, 3, 3)))
MORE_CASES = (((5,) * 5, (2,) * 5), ((10, 10, 10), (4, 4, 4)), ((8, 8, 8, 8), (4, 3, 4, 3)))
SUCCESS = 1e-6
HATCHES = ("", "//", "", "..")


def parameters(settings: Settings) -> dict[str, Any]:
    """What is run, in full."""
    solvers = {name: repr(solver) for name, solver in SOLVERS.items()}
    if importlib.util.find_spec("tensorly") is not None:
        import tensorly

        solvers[PEER] = f"tensor_ring_als({PEER_OPTIONS}) of TensorLy {tensorly.__version__}"
    cases = (*CASES, *MORE_CASES) if settings.full else CASES
    return {"cases": cases, "solvers": solvers, "starts": 200 if settings.full else 40, "tensors": 4}


def jobs(settings: Settings) -> Iterator[Job]:
    """One start of one method on one tensor."""
    told = parameters(settings)
    for shape, bonds in told["cases"]:
        # All methods take a start in turn, so that what else the machine does weighs on them alike.
        for start in range(told["starts"]):
            for method in told["solvers"]:
                key = {"shape": "x".join(map(str, shape)), "bonds": "-".join(map(str, bonds)), "method": method}
                seeds = (settings.seed, start % told["tensors"], start)
                yield Job({**key, "start": start}, partial(measure, shape, bonds, method, seeds))


def measure(shape: tuple[int, ...], bonds: tuple[int, ...], method: str, seeds: tuple[int, int, int]) -> list[Row]:
    """Error and time of one start; `seeds` are those of the figure, the tensor and the start."""
    seed, which, start = seeds
    tensor = tc.datasets.exact_chain(shape, bonds, np.random.default_rng((seed, which))).tensor
    prepare(shape, bonds, method)
    began = time.perf_counter()
    error = solve(tensor, bonds, method, start)
    return [{"tensor": which, "error": error, "seconds": time.perf_counter() - began}]


@cache
def prepare(shape: tuple[int, ...], bonds: tuple[int, ...], method: str) -> None:
    """Load code and plan contractions, once: that is not the time of a start."""
    solve(np.random.default_rng(0).standard_normal(shape), bonds, method, 0, sweeps=2)


def solve(tensor: np.ndarray, bonds: tuple[int, ...], method: str, start: int, sweeps: int | None = None) -> float:
    """The relative error that a method ends with; `sweeps` cuts it short."""
    if method != PEER:
        stop = None if sweeps is None else (lambda iterate: iterate.iteration >= sweeps)
        return decompose(tensor, "tc", bonds, solver=SOLVERS[method], rng=start, callback=stop).error
    import tensorly
    from tensorly.decomposition import tensor_ring_als

    options = PEER_OPTIONS if sweeps is None else {**PEER_OPTIONS, "n_iter_max": sweeps}
    ring = tensor_ring_als(tensor, [*bonds, bonds[0]], random_state=start, **options)
    return float(np.linalg.norm(tensorly.tr_to_tensor(ring) - tensor) / np.linalg.norm(tensor))


def draw(rows: list[Row]) -> Figure:
    """Share of successes, and time to a solution."""
    figure = new_figure(3.6)
    left, right = figure.subplots(1, 2)
    cases = groups(rows, "shape", "bonds")
    methods = list(groups(rows, "method"))
    width = 0.8 / len(methods)
    for position, method in enumerate(methods):
        places, rates, spans, times = [], [], [], []
        for place, mine in enumerate(cases.values()):
            runs = [row for row in mine if row["method"] == method]
            found = sum(error < SUCCESS for error in column(runs, "error"))
            places.append(place + (position - (len(methods) - 1) / 2) * width)
            rates.append(found / len(runs))
            low, high = wilson(found, len(runs))
            spans.append((max(rates[-1] - low, 0.0), max(high - rates[-1], 0.0)))
            times.append(sum(column(runs, "seconds")) / found if found else math.nan)
        look = {"width": 0.92 * width, "color": PALETTE[position], "hatch": HATCHES[position], "edgecolor": "white"}
        left.bar(places, np.multiply(100, rates), **look, label=method)
        left.errorbar(
            places, np.multiply(100, rates), 100 * np.array(spans).T, fmt="none", ecolor="black", elinewidth=0.8
        )
        right.bar(places, times, **look)
        for place, value in zip(places, times, strict=True):
            if math.isnan(value):
                right.annotate("never", (place, 0.02), xycoords=("data", "axes fraction"), rotation=90, ha="center")
    finish(figure, left, right, cases)
    described = f"{len(groups(rows, 'start'))} random starts a method on {len(groups(rows, 'tensor'))} tensors a case"
    caption(
        figure,
        f"Exact looped chains, {described}; success: relative error below {SUCCESS:g}; whiskers: 95 % intervals "
        "(Wilson). Right: time of all starts over successes, one BLAS thread. Default settings of ours; TensorLy's "
        "tensor_ring_als with " + ", ".join(f"{name} = {value:g}" for name, value in PEER_OPTIONS.items()) + ".",
    )
    return figure


def finish(figure: Figure, left: Any, right: Any, cases: dict[Any, list[Row]]) -> None:
    """Labels and the common legend."""
    names = [f"{shape_text(shape, '')}\n({bonds.replace('-', ',')})" for shape, bonds in cases]
    for panel in (left, right):
        panel.set_xticks(range(len(cases)), names)
        panel.tick_params(axis="x", length=0)
        panel.set_axisbelow(True)
        panel.grid(True, axis="y", color="#DDDDDD", linewidth=0.6)
        panel.set_xlabel("shape and (bonds)")
    left.set(ylim=(0, 105), ylabel="successful starts, %")
    right.set(yscale="log", ylabel="expected time to a solution, s")
    # Bars end below at half of the least, so that all have a height.
    right.set_ylim(bottom=0.5 * min(bar.get_height() for bar in right.patches if bar.get_height() > 0.0))
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)


def wilson(found: int, runs: int) -> tuple[float, float]:
    """95 % interval of a share."""
    z = 1.959964
    middle = (found + z * z / 2) / (runs + z * z)
    half = z * math.sqrt(found * (runs - found) / runs + z * z / 4) / (runs + z * z)
    return middle - half, middle + half
