"""A looped chain is a block-term model with one shared core: what sharing saves, and what it costs in accuracy.

A chain of order 3 with bonds (R_1, R_2, R_3) is a sum of R_1 Tucker terms [[A_2; A_1(r), A_3(r)]] that all have the
core A_2.  Shown: for several bonds, parameters against error of

- the chain (TC);
- the same tensor as a plain BTD, exactly, in which each term stores its core: an open mark to the right;
- that BTD after its cores were let free: the closed mark at the end of the dotted line, the gain of not sharing;
- BTDs with no more parameters than the chain and as many terms, fitted from the same starts (BTD).

On a tensor that is a chain with noise, free cores gain nothing but noise.  On others the comparison at equal size
decides, and it is read between the two curves.

Paper: "How to train your unstable looped tensor network", on the tensor chain as a block-term decomposition with shared
core.  What differs: both models are fitted by the same solver and held against each other on three kinds of tensor,
small ones in --quick.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import tensorchain as tc
from paper_figures.data import available, fingerprint, load
from paper_figures.equal import budget, rank_within
from paper_figures.fits import decompose
from paper_figures.results import Job, Row, Settings, column, groups
from paper_figures.style import few_ticks, new_figure, shape_text
from tensorchain.plotting import BLUE, ERROR_LABEL, GREEN, VERMILLION

NOISE = 0.1
CASES = ("chain with noise", "photograph", "trained kernel")
BONDS = ((2, 2, 2), (2, 3, 3), (3, 3, 3))
MORE_BONDS = ((3, 4, 4), (4, 4, 4), (4, 5, 5), (5, 5, 5))
CHAIN, SAME, FREE, EQUAL = "TC", "the same as BTD", "cores let free", "BTD, equal size"


def parameters(settings: Settings) -> dict[str, Any]:
    """What is run, in full."""
    return {
        "cases": available(CASES),
        "weights": fingerprint(),
        "noise": NOISE,
        "bonds": (*BONDS, *MORE_BONDS) if settings.full else BONDS,
        "solver": repr(solver(settings.full)),
        "starts": 10 if settings.full else 2,
    }


def solver(full: bool) -> tc.Path:
    """The path, for all."""
    return tc.Path() if full else tc.Path(cycles=2)


def jobs(settings: Settings) -> Iterator[Job]:
    """All models of one size, from one start."""
    told = parameters(settings)
    for case in told["cases"]:
        for bonds in told["bonds"]:
            for start in range(told["starts"]):
                key = {"case": case, "bonds": "-".join(map(str, bonds)), "start": start}
                yield Job(key, partial(measure, case, bonds, settings, start))


def measure(case: str, bonds: tuple[int, int, int], settings: Settings, start: int) -> list[Row]:
    """The chain, the same as BTD, that BTD improved, and a BTD of the chain's size."""
    tensor = tensor_of(case, settings)
    seed = settings.seed + start
    chain = decompose(tensor, "tc", bonds, rng=seed, solver=solver(settings.full))
    same = without_sharing(chain.model)
    free = decompose(tensor, init=same, rng=seed, solver=tc.LM(max_iter=300))
    rank = rank_within("btd", tensor, budget(bonds, tensor.shape), terms=bonds[0])
    equal = decompose(tensor, "btd", rank, rng=seed, solver=solver(settings.full))
    found = {CHAIN: chain.model, SAME: tc.optimal_gauge(same), FREE: free.model, EQUAL: equal.model}
    return [
        {
            "method": method,
            "shape": "x".join(map(str, tensor.shape)),
            "parameters": model.n_parameters,
            "error": float(np.linalg.norm(tensor - model.full())),
            "sensitivity": model.sensitivity(),
        }
        for method, model in found.items()
    ]


def tensor_of(case: str, settings: Settings) -> np.ndarray:
    """A tensor of order 3 and norm 1."""
    if case == "chain with noise":
        size = 16 if settings.full else 9
        rng = np.random.default_rng(settings.seed)
        tensor = tc.datasets.exact_chain((size,) * 3, (3, 3, 3), rng, noise=NOISE).tensor
    else:
        tensor = load(case, settings)
        # The folded photograph in grey, its three coarsest scales.
        tensor = tensor if tensor.ndim == 3 else tensor.mean(axis=tuple(range(3, tensor.ndim)))
    return tensor / np.linalg.norm(tensor)


def without_sharing(chain: tc.TensorChain) -> tc.BlockTerm:
    """The chain as a BTD, with middle factors no wider than the core needs.

    The unfolding of the core along its second mode has rank at most R_2 R_3, so the middle factor need not have
    I_2 columns.
    """
    first, core, last = chain.cores
    left, size, right = core.shape
    basis, rest = np.linalg.qr(core.transpose(1, 0, 2).reshape(size, left * right))
    small = rest.reshape(-1, left, right).transpose(1, 0, 2)
    return tc.BlockTerm([(small, [first[r], basis, last[:, :, r].T]) for r in range(chain.bonds[0])])


def describe(rows: list[Row]) -> str:
    """The caption."""
    bonds = ", ".join(f"({text.replace('-', ',')})" for text in groups(rows, "bonds"))
    return (
        f"The same tensor of order 3 as looped chain of bonds {bonds}, and as sum of as many Tucker terms as the first "
        f"bond says; the photograph in grey, the noise {NOISE:g} of the norm. The best of "
        f"{len(groups(rows, 'start'))} random starts for each size."
    )


def draw(rows: list[Row]) -> Figure:
    """A panel for each tensor; of all starts the best of each size."""
    cases = groups(rows, "case")
    figure = new_figure(3.6)
    panels = figure.subplots(1, len(cases), squeeze=False)[0]
    for panel, (case, mine) in zip(panels, cases.items(), strict=True):
        draw_case(panel, list(groups(mine, "bonds").values()))
        panel.set(title=f"{case}\n{shape_text(mine[0]['shape'], '')}", xlabel="parameters")
        few_ticks(panel)
    panels[0].set_ylabel(ERROR_LABEL)
    handles = [
        Line2D([], [], color=BLUE, marker="o", label="TC"),
        Line2D([], [], color=VERMILLION, marker="s", linestyle="--", label="BTD of equal size"),
        Line2D([], [], color=GREEN, marker="D", markerfacecolor="white", linestyle=":", label="the TC as BTD"),
        Line2D([], [], color=GREEN, marker="D", linestyle=":", label="with its cores let free"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    return figure


def draw_case(panel: Any, sizes: list[list[Row]]) -> None:
    """Two curves over all sizes, and the way from each chain to a BTD."""
    best = [best_start(size) for size in sizes]
    for method, colour, marker, dashes in ((CHAIN, BLUE, "o", "-"), (EQUAL, VERMILLION, "s", "--")):
        points = sorted((row for size in best for row in size if row["method"] == method), key=parameters_of)
        panel.plot(column(points, "parameters"), column(points, "error"), color=colour, marker=marker, linestyle=dashes)
    for size in best:
        way = [next(row for row in size if row["method"] == method) for method in (CHAIN, SAME, FREE)]
        x, y = column(way, "parameters"), column(way, "error")
        panel.plot(x, y, color=GREEN, linestyle=":", linewidth=1.0)
        panel.plot(x[1], y[1], color=GREEN, marker="D", markerfacecolor="white", zorder=3)
        panel.plot(x[2], y[2], color=GREEN, marker="D", zorder=3)


def best_start(size: list[Row]) -> list[Row]:
    """Of one size, the rows of least error: chain and what follows from it, and the BTD of equal size."""
    starts = list(groups(size, "start").values())

    def error(rows: list[Row], method: str) -> float:
        return next(float(row["error"]) for row in rows if row["method"] == method)

    chains = min(starts, key=lambda rows: error(rows, CHAIN))
    equals = min(starts, key=lambda rows: error(rows, EQUAL))
    return [*(r for r in chains if r["method"] != EQUAL), *(r for r in equals if r["method"] == EQUAL)]


def parameters_of(row: Row) -> float:
    """The size, to sort by."""
    return float(row["parameters"])
