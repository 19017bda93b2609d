"""How often a random start succeeds, and the time that one solution takes: ours beside other packages.

Shown: looped chains of several orders and bonds, decomposed with the bonds that they were made with, and matrix
multiplication tensors, decomposed as CP of the smallest rank known to be possible; so the least error is zero.  A start
is a success when its relative error is below 1e-6.  Above, the share of successes with its 95 % interval (Wilson);
below, the expected processor time to a solution: the time of all starts over the number of successes, since one who
fails starts again.  All methods take the same tensors and as many sweeps as our ALS.  TensorLy (`tensor_ring_als`,
`parafac`) and pyttb (`cp_als`) are among them where they are installed.

Paper: "How to train your unstable looped tensor network", on algorithms for looped chains and how well they converge.
What differs: sizes, starts and tolerances are ours; the peers are Python packages; matrix multiplication as CP.

Reference: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
American Statistical Association 22, 1927.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import tensorchain as tc
from paper_figures.fits import decompose
from paper_figures.results import Job, Row, Settings, column, groups
from paper_figures.style import legend_above, new_figure
from tensorchain.plotting import PALETTE

TIMED = True
"""Its seconds are shown: its jobs run one after the other."""
SOLVERS = {"ALS": tc.ALS(), "LM": tc.LM(), "path": tc.Path()}
SWEEPS, TOLERANCE = 500, 1e-9
"""Of the peers."""
CHAINS = (((7, 7, 7), (3, 3, 3)), ((6, 6, 6, 6), (3, 3, 3, 3)), ((5,) * 5, (2,) * 5))
PRODUCTS = (((2, 2, 2), 7), ((2, 3, 3), 15))
MORE_CHAINS = (((9, 8, 7), (2, 3, 4)), ((10, 10, 10), (4, 4, 4)), ((8, 8, 8, 8), (4, 3, 4, 3)))
MORE_PRODUCTS = (((3, 3, 3), 23),)
SUCCESS = 1e-6
HATCHES = ("", "//", "", "..", "xx")


def parameters(settings: Settings) -> dict[str, Any]:
    """What is run, in full."""
    options = f"{SWEEPS} sweeps, tolerance {TOLERANCE:g}"
    found = {name: f"{importlib.metadata.version(package)}, {options}" for name, package in peers().items()}
    return {
        "chains": (*CHAINS, *MORE_CHAINS) if settings.full else CHAINS,
        "products": (*PRODUCTS, *MORE_PRODUCTS) if settings.full else PRODUCTS,
        "methods": {**{name: repr(solver) for name, solver in SOLVERS.items()}, **found},
        "starts": 200 if settings.full else 14,
        "tensors": 4 if settings.full else 2,
    }


def peers() -> dict[str, str]:
    """Other packages that are installed, by the name they get here."""
    known = {"TensorLy ALS": "tensorly", "pyttb CP-ALS": "pyttb"}
    return {name: package for name, package in known.items() if importlib.util.find_spec(package) is not None}


def jobs(settings: Settings) -> Iterator[Job]:
    """One start of one method on one tensor."""
    told = parameters(settings)
    cases = [*(("tc", *case) for case in told["chains"]), *(("cp", *case) for case in told["products"])]
    for model, sizes, rank in cases:
        # All methods take a start in turn, so that what else the machine does weighs on them alike.
        for start in range(told["starts"]):
            for method in told["methods"]:
                if method == "pyttb CP-ALS" and model == "tc":
                    continue
                key = {"case": name_of(model, sizes, rank), "method": method, "start": start}
                which = start % told["tensors"] if model == "tc" else 0
                yield Job(key, partial(measure, model, sizes, rank, method, (settings.seed, which, start)))


def name_of(model: str, sizes: tuple[int, ...], rank: Any) -> str:
    """What stands below the bars, in one line."""
    if model == "cp":
        return f"<{','.join(map(str, sizes))}> rank {rank}"
    return f"{'x'.join(map(str, sizes))} bonds {','.join(map(str, rank))}"


def measure(model: str, sizes: tuple[int, ...], rank: Any, method: str, seeds: tuple[int, int, int]) -> list[Row]:
    """Error and time of one start; `seeds` are those of the figure, the tensor and the start."""
    seed, which, start = seeds
    if model == "cp":
        tensor = tc.datasets.matmul(*sizes)
    else:
        tensor = tc.datasets.exact_chain(sizes, rank, np.random.default_rng((seed, which))).tensor
    solve = METHODS[method]
    prepare(tensor.shape, model, rank, method)
    began = time.process_time()
    error = solve(tensor, model, rank, seed + start)
    return [{"model": model, "tensor": which, "error": error, "seconds": time.process_time() - began}]


@cache
def prepare(shape: tuple[int, ...], model: str, rank: Any, method: str) -> None:
    """Load code and plan contractions, once: that is not the time of a start."""
    METHODS[method](np.random.default_rng(0).standard_normal(shape), model, rank, 0, sweeps=2)


def ours(solver: Any, tensor: np.ndarray, model: str, rank: Any, seed: int, sweeps: int | None = None) -> float:
    """The relative error that a solver of this package ends with; `sweeps` cuts it short."""
    stop = None if sweeps is None else (lambda iterate: iterate.iteration >= sweeps)
    return decompose(tensor, model, rank, solver=solver, rng=seed, callback=stop).error


def tensorly(tensor: np.ndarray, model: str, rank: Any, seed: int, sweeps: int = SWEEPS) -> float:
    """The relative error of TensorLy's ALS."""
    from tensorly import cp_to_tensor, tr_to_tensor
    from tensorly.decomposition import parafac, tensor_ring_als

    options = {"n_iter_max": sweeps, "tol": TOLERANCE, "random_state": seed}
    if model == "cp":
        found = cp_to_tensor(parafac(tensor, rank, init="random", **options))
    else:
        found = tr_to_tensor(tensor_ring_als(tensor, [*rank, rank[0]], **options))
    return float(np.linalg.norm(found - tensor) / np.linalg.norm(tensor))


def pyttb(tensor: np.ndarray, model: str, rank: Any, seed: int, sweeps: int = SWEEPS) -> float:
    """The relative error of pyttb's CP-ALS."""
    import pyttb as toolbox

    rng = np.random.default_rng(seed)
    start = toolbox.ktensor([rng.standard_normal((size, rank)) for size in tensor.shape])
    found, _, _ = toolbox.cp_als(
        toolbox.tensor(tensor), rank, init=start, maxiters=sweeps, stoptol=TOLERANCE, printitn=0
    )
    return float(np.linalg.norm(found.full().data - tensor) / np.linalg.norm(tensor))


METHODS: dict[str, Callable[..., float]] = {
    **{name: partial(ours, solver) for name, solver in SOLVERS.items()},
    "TensorLy ALS": tensorly,
    "pyttb CP-ALS": pyttb,
}


def describe(rows: list[Row]) -> str:
    """The caption."""
    return (
        f"Exact looped chains as chains of their bonds, and matrix multiplication <n,m,p> as CP: "
        f"{len(groups(rows, 'start'))} random starts a method. Success: relative error below {SUCCESS:g}; whiskers: "
        "95 % intervals (Wilson). Time: processor time of all starts over successes, one BLAS thread. Default "
        f"settings of ours; TensorLy's and pyttb's ALS with at most {SWEEPS} sweeps and tolerance {TOLERANCE:g}."
    )


def draw(rows: list[Row]) -> Figure:
    """Share of successes above, time to a solution below."""
    figure = new_figure(5.0)
    upper, lower = figure.subplots(2, 1, sharex=True)
    cases = groups(rows, "case")
    methods = list(groups(rows, "method"))
    width = 0.8 / len(methods)
    for position, method in enumerate(methods):
        places, rates, spans, times = [], [], [], []
        for place, mine in enumerate(cases.values()):
            runs = [row for row in mine if row["method"] == method]
            if not runs:
                continue
            found = sum(error < SUCCESS for error in column(runs, "error"))
            places.append(place + (position - (len(methods) - 1) / 2) * width)
            rates.append(found / len(runs))
            low, high = wilson(found, len(runs))
            spans.append((max(rates[-1] - low, 0.0), max(high - rates[-1], 0.0)))
            times.append(sum(column(runs, "seconds")) / found if found else math.nan)
        look = {"width": 0.92 * width, "color": PALETTE[position], "hatch": HATCHES[position], "edgecolor": "white"}
        upper.bar(places, np.multiply(100, rates), **look, label=method)
        upper.errorbar(
            places, np.multiply(100, rates), 100 * np.array(spans).T, fmt="none", ecolor="black", elinewidth=0.8
        )
        lower.bar(places, times, **look)
        for place, value in zip(places, times, strict=True):
            if math.isnan(value):
                lower.annotate(
                    "never", (place, 0.02), xycoords=("data", "axes fraction"), rotation=90, ha="center", fontsize=7.5
                )
    finish(figure, upper, lower, list(cases))
    return figure


def finish(figure: Figure, upper: Any, lower: Any, cases: list[str]) -> None:
    """Labels and the common legend."""
    names = [label(case) for case in cases]
    for panel in (upper, lower):
        panel.set_xticks(range(len(cases)), names)
        panel.tick_params(axis="x", length=0)
        panel.set_axisbelow(True)
        panel.grid(True, axis="y", color="#DDDDDD", linewidth=0.6)
        panel.label_outer()
    upper.set(ylim=(0, 105), ylabel="successful starts, %")
    lower.set(yscale="log", ylabel="expected time to a solution, s")
    # Bars end below at half of the least, so that all have a height.
    heights = [bar.get_height() for bar in lower.patches if bar.get_height() > 0.0]
    if heights:
        lower.set_ylim(bottom=0.5 * min(heights))
    legend_above(figure, upper)


def label(case: str) -> str:
    """A case in two short lines: equal sizes as a power, equal bonds as one number."""
    what, kind, rank = case.split()
    sizes, bonds = what.split("x"), rank.split(",")
    if len(set(sizes)) == 1 < len(sizes):
        what = f"${sizes[0]}^{len(sizes)}$"
    return f"{what.replace('x', chr(215))}\n{kind} {rank if len(set(bonds)) > 1 else bonds[0]}"


def wilson(found: int, runs: int) -> tuple[float, float]:
    """95 % interval of a share."""
    z = 1.959964
    middle = (found + z * z / 2) / (runs + z * z)
    half = z * math.sqrt(found * (runs - found) / runs + z * z / 4) / (runs + z * z)
    return middle - half, middle + half
