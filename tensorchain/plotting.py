"""Plots of what a decomposition did: error and sensitivity, over iterations and against each other.

A decomposition is judged by two figures at once, the error ||T - X|| / ||T|| and the sensitivity SS = ||J||_F^2,
and both range over many decades, so every axis here is logarithmic.  Three plots cover the questions asked of them:

    plot_history      how did one run go?                      error (left axis) and SS (right axis) over iterations
    plot_trade_off    which method gives the better models?    error against SS, one point a run; lower left is better
    plot_runs         how does a method behave over starts?    median of many runs and their range, over iterations

Each function takes the axes `ax` to draw on and returns them, so that plots combine; without `ax` it opens a figure.
Colours are those of Okabe and Ito, distinct under all common forms of colour blindness, and no plot tells two
curves apart by colour alone.  Matplotlib is imported when the first plot is drawn.

Reference: M. Okabe and K. Ito, "Color universal design (CUD)", 2008.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorchain.kernels import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tensorchain.fit import History

BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILLION = "#D55E00"
PURPLE = "#CC79A7"

PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
"""The order in which curves take their colours; yellow is left out, being faint on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))

ERROR_LABEL = r"relative error $\Vert T - X\Vert \,/\, \Vert T\Vert$"
SENSITIVITY_LABEL = r"sensitivity $\Vert J\Vert_F^2$"

_LEAST_ERROR = 1e-17
"""An error of zero is drawn here: relative errors are not resolved below 1e-16."""
_GRID = "#DDDDDD"


def plot_history(history: History, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Error and sensitivity over the iterations of one run.

    Parameters
    ----------
    history : `fit.history`.
    ax : where to draw; its right side is used too.  By default a new figure.
    title : of the axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes of the error.  Those of the sensitivity share its abscissa.

    Raises
    ------
    ValueError
        If the history is empty, as that of a run that was stopped before its first iterate.

    Examples
    --------
    >>> import tensorchain as tc
    >>> from tensorchain.plotting import plot_history
    >>> fit = tc.decompose(tc.datasets.inverse_radius(order=3, size=8), "cp", rank=2, rng=0)
    >>> ax = plot_history(fit.history, title="1 / radius, CP of rank 2")
    >>> ax.get_xlabel(), ax.get_yscale()
    ('iteration', 'log')
    """
    if len(history) == 0:
        raise ValueError("the history is empty: the run stopped before its first iterate, and there is nothing to plot")
    left = _axes(ax)
    right = left.twinx()
    iterations = np.arange(len(history))
    # A single point draws no line.
    marker = "o" if len(history) == 1 else None
    for axes, values, colour, dashes, label in (
        (left, np.maximum(history.error, _LEAST_ERROR), BLUE, "-", ERROR_LABEL),
        (right, _positive(history.sensitivity), VERMILLION, "--", SENSITIVITY_LABEL),
    ):
        axes.plot(iterations, values, color=colour, linestyle=dashes, linewidth=1.6, marker=marker, markersize=4)
        axes.set_yscale("log")
        axes.set_ylabel(f"{label}  ({'solid' if dashes == '-' else 'dashed'})", color=colour)
        axes.tick_params(axis="y", which="both", colors=colour)
    left.set_xlabel("iteration")
    _finish(left, title, grid=("x", "y"))
    right.spines["top"].set_visible(False)
    return left


def plot_trade_off(
    methods: Mapping[str, tuple[Sequence[float] | Array, Sequence[float] | Array]],
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Error against sensitivity, one point a run; lower left is better.

    Parameters
    ----------
    methods : name of a method to (sensitivities, errors) of its runs, each (n,).  A method keeps its colour and marker
        by its position.
    ax : where to draw; by default a new figure.
    title : of the axes.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If a method has more sensitivities than errors, or fewer, or there are more methods than colours.

    Examples
    --------
    >>> from tensorchain.plotting import plot_trade_off
    >>> ax = plot_trade_off({"ALS": ([1e5, 2e6], [0.10, 0.11]), "path": ([3e2, 4e2], [0.10, 0.10])})
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['ALS', 'path']
    """
    _check_count(len(methods))
    axes = _axes(ax)
    for position, (name, (sensitivities, errors)) in enumerate(methods.items()):
        if np.shape(sensitivities) != np.shape(errors):
            raise ValueError(
                f"{name!r} has {np.size(sensitivities)} sensitivities and {np.size(errors)} errors; "
                "one of each is needed for every run"
            )
        axes.plot(
            _positive(sensitivities),
            np.maximum(errors, _LEAST_ERROR),
            linestyle="none",
            marker=MARKERS[position],
            markersize=6,
            markerfacecolor=PALETTE[position] + "99",
            markeredgecolor=PALETTE[position],
            label=name,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(SENSITIVITY_LABEL)
    axes.set_ylabel(ERROR_LABEL)
    axes.legend(frameon=False)
    _finish(axes, title, grid=("x", "y"))
    return axes


def plot_runs(
    methods: Mapping[str, Sequence[Sequence[float] | Array]],
    ax: Axes | None = None,
    title: str | None = None,
    *,
    quantiles: tuple[float, float] = (0.0, 1.0),
    first: int = 0,
) -> Axes:
    """Median over runs, and a band between two quantiles, over iterations.

    A run that stopped early counts with its last value from there on, as the model it returned does.

    Parameters
    ----------
    methods : name of a method to the curves of its runs, each (iterations,), not empty.
    ax : where to draw; by default a new figure.
    title : of the axes.
    quantiles : lower and upper edge of the band; by default all runs are in it.
    first : position in the palette of the first method, to keep colours apart across several axes.

    Returns
    -------
    matplotlib.axes.Axes
        Logarithmic on both sides: the start is drawn at abscissa 1.

    Raises
    ------
    ValueError
        If a method has no run or an empty one, or there are more methods than colours.

    Examples
    --------
    >>> from tensorchain.plotting import plot_runs
    >>> ax = plot_runs({"ALS": [[1.0, 0.5, 0.4], [1.0, 0.3]]})
    >>> ax.get_lines()[0].get_ydata()
    array([1.  , 0.4 , 0.35])
    """
    _check_count(len(methods), first)
    axes = _axes(ax)
    for position, (name, runs) in enumerate(methods.items(), start=first):
        table = _padded(runs)
        low, middle, high = np.quantile(table, (quantiles[0], 0.5, quantiles[1]), axis=0)
        iterations = np.arange(1, table.shape[1] + 1)
        colour = PALETTE[position]
        axes.plot(iterations, _positive(middle), color=colour, linestyle=DASHES[position], linewidth=1.6, label=name)
        axes.fill_between(iterations, _positive(low), _positive(high), color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("iteration (1 is the start)")
    axes.legend(frameon=False)
    _finish(axes, title, grid=("x", "y"))
    return axes


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def _finish(axes: Axes, title: str | None, grid: Sequence[Any]) -> None:
    """What all plots share: a faint grid behind the curves, no frame at the top, the title."""
    for which in grid:
        axes.grid(True, axis=which, color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["top"].set_visible(False)
    if title is not None:
        axes.set_title(title)


def _positive(values: Sequence[float] | Array) -> Array:
    """Values for a logarithmic axis: what is not positive leaves a gap."""
    array = np.asarray(values, dtype=np.float64)
    return np.where(array > 0.0, array, np.nan)


def _padded(runs: Sequence[Sequence[float] | Array]) -> Array:
    """Runs of unequal length as rows of one table, each continued with its last value."""
    curves = [np.asarray(run, dtype=np.float64) for run in runs]
    if not curves or min(curve.size for curve in curves) == 0:
        raise ValueError("a method has no run, or an empty one; each needs at least one value")
    longest = max(curve.size for curve in curves)
    return np.stack([np.concatenate([curve, np.full(longest - curve.size, curve[-1])]) for curve in curves])


def _check_count(count: int, first: int = 0) -> None:
    room = len(PALETTE) - first
    if not 1 <= count <= room:
        raise ValueError(f"{count} methods were given; 1 to {room} can be told apart: draw several plots side by side")
