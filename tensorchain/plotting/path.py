"""Error against sensitivity along the path of a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorchain.plotting.style import BLUE, LEAST_ERROR, ORANGE, VERMILLION, error_against_sensitivity, open_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tensorchain.fit import Fit


def plot_path(fit: Fit, ax: Axes | None = None, title: str | None = None) -> Any:
    """The curve of error against sensitivity that a fit passed along, with its corner and the model that is returned.

    Parameters
    ----------
    fit : Fit
        Of a solver that takes a sensitivity path.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.
    title : str, optional
        Of the axes.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        When the fit has no path.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> T = tc.datasets.border_cp((4, 4, 4), np.random.default_rng(0)).tensor
    >>> fit = tc.decompose(T, "cp", rank=2, solver="path", rng=0)
    >>> ax = tc.plotting.plot_path(fit)
    >>> ax.get_xscale(), ax.get_yscale()
    ('log', 'log')
    """
    path, knee = fit.path, fit.path.knee
    if knee is None:
        raise ValueError("the fit has no sensitivity path: its solver took none; use solver='path'")
    axes = open_axes(ax)
    error = np.maximum(path.error, LEAST_ERROR)
    axes.plot(path.sensitivity, error, color=BLUE, linewidth=1.6, marker="o", markersize=3.5, label="path")
    axes.plot([knee.sensitivity], [max(knee.error, LEAST_ERROR)], "s", color=ORANGE, markersize=8, label="corner")
    axes.plot([fit.sensitivity], [max(fit.error, LEAST_ERROR)], "*", color=VERMILLION, markersize=12, label="this fit")
    error_against_sensitivity(axes, title)
    return axes
