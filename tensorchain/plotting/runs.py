"""Plots over iterations: how did one run go, and how does a method behave over many starts.

    plot_history   error (left axis) and SS (right axis) of one run
    plot_runs      median of many runs and a band between two quantiles

Both figures range over many decades, so every axis of values is logarithmic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tensorchain.kernels import Array
from tensorchain.plotting.style import (
    BLACK,
    BLUE,
    DASHES,
    ERROR_LABEL,
    LEAST_ERROR,
    PALETTE,
    SENSITIVITY_LABEL,
    VERMILLION,
    check_count,
    finish,
    open_axes,
    positive,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tensorchain.fit import History

_RISE, _MOVE = 1.1, 4.0
"""Growth of the error, and change of the sensitivity in either direction, in one iteration: a run has begun again."""


def plot_history(history: History, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Error and sensitivity over the iterations of one run; dotted lines mark where it begins again from another start.

    Parameters
    ----------
    history : History
        `fit.history`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; its right side is used too.  By default a new figure.
    title : str, optional
        Of the axes.

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
    left = open_axes(ax)
    right = left.twinx()
    iterations = np.arange(len(history))
    # A single point draws no line.
    marker = "o" if len(history) == 1 else None
    for axes, values, colour, dashes, label in (
        (left, np.maximum(history.error, LEAST_ERROR), BLUE, "-", ERROR_LABEL),
        (right, positive(history.sensitivity), VERMILLION, "--", SENSITIVITY_LABEL),
    ):
        axes.plot(iterations, values, color=colour, linestyle=dashes, linewidth=1.6, marker=marker, markersize=4)
        axes.set_yscale("log")
        axes.set_ylabel(f"{label}  ({'solid' if dashes == '-' else 'dashed'})", color=colour)
        axes.tick_params(axis="y", which="both", colors=colour)
    for number, place in enumerate(_restarts(history)):
        left.axvline(place, color=BLACK, linewidth=0.8, linestyle=":", label=None if number else "begins again")
    left.set_xlabel("iteration")
    finish(left, title)
    if left.get_legend_handles_labels()[0]:
        left.legend(frameon=False)
    right.spines["top"].set_visible(False)
    return left


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
    methods : mapping of str to sequence of sequence of float or ndarray
        Name of a method to the curves of its runs, each (iterations,), not empty.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.
    title : str, optional
        Of the axes.
    quantiles : tuple of (float, float), optional
        Lower and upper edge of the band; by default all runs are in it.
    first : int, default 0
        Position in the palette of the first method, to keep colours apart across several axes.

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
    check_count(len(methods), first)
    axes = open_axes(ax)
    for position, (name, runs) in enumerate(methods.items(), start=first):
        table = _padded(runs)
        low, middle, high = np.quantile(table, (quantiles[0], 0.5, quantiles[1]), axis=0)
        iterations = np.arange(1, table.shape[1] + 1)
        colour = PALETTE[position]
        axes.plot(iterations, positive(middle), color=colour, linestyle=DASHES[position], linewidth=1.6, label=name)
        axes.fill_between(iterations, positive(low), positive(high), color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("iteration (1 is the start)")
    axes.legend(frameon=False)
    finish(axes, title)
    return axes


def _restarts(history: History) -> Array:
    """Where a run begins again from another start: steps lower the error, or let it rise with little else moving."""
    error, sensitivity = np.asarray(history.error), positive(history.sensitivity)
    rises = error[1:] > _RISE * error[:-1]
    with np.errstate(invalid="ignore"):
        moves = np.abs(np.diff(np.log(sensitivity))) > np.log(_MOVE)
    places = np.flatnonzero(rises & moves) + 1
    # The first step of a bounded run goes from its start towards the bound.
    return places[places > 1]


def _padded(runs: Sequence[Sequence[float] | Array]) -> Array:
    """Runs of unequal length as rows of one table, each continued with its last value."""
    curves = [np.asarray(run, dtype=np.float64) for run in runs]
    if not curves or min(curve.size for curve in curves) == 0:
        raise ValueError("a method has no run, or an empty one; each needs at least one value")
    longest = max(curve.size for curve in curves)
    return np.stack([np.concatenate([curve, np.full(longest - curve.size, curve[-1])]) for curve in curves])
