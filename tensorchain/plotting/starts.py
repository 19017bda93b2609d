"""What several starts found: errors, sensitivities, and whether they found the same model.

Starts that share their error and their factors have found the same solution; many errors, or one error with many
different factors, say that the model is not determined by the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorchain.models import Model
from tensorchain.plotting.style import BLUE, ERROR_LABEL, LEAST_ERROR, SENSITIVITY_LABEL, VERMILLION, finish, open_axes
from tensorchain.stability import factor_match

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tensorchain.fit import Fit

_WIDE, _CLOSE = 5.0, 0.05
"""Largest over smallest figure from which an axis is logarithmic, and share of the largest that it shows at least."""


def plot_starts(fit: Fit, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Error and sensitivity of every start, coloured by how close its model is to the best.

    Parameters
    ----------
    fit : Fit
        With several starts.  Where they hold their models (`fit.starts[i].model`), the colour is the factor match of
        each with the best one, `tensorchain.factor_match`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.  A colour bar takes some of its room.
    title : str, optional

    Returns
    -------
    matplotlib.axes.Axes
        The best start has a ring.

    Raises
    ------
    ValueError
        If the fit has one start only.

    Examples
    --------
    >>> import tensorchain as tc
    >>> from tensorchain.plotting import plot_starts
    >>> T = tc.datasets.inverse_radius(order=3, size=8)
    >>> ax = plot_starts(tc.decompose(T, "cp", rank=2, starts=4, rng=0))
    >>> len(ax.collections[0].get_offsets())
    4
    """
    starts = fit.starts
    if len(starts) < 2:
        raise ValueError("the fit has one start; give decompose starts=10 to compare several")
    errors = np.maximum([start.error for start in starts], LEAST_ERROR)
    sensitivities = np.array([start.sensitivity for start in starts], dtype=float)
    best = int(np.argmin(errors))
    axes = open_axes(ax)
    colours = _matches([getattr(start, "model", None) for start in starts], best)
    style: dict[str, Any] = {"s": 42, "linewidths": 0.6, "edgecolors": "black", "zorder": 3}
    if colours is None:
        axes.scatter(errors, sensitivities, color=BLUE, **style)
    else:
        points = axes.scatter(errors, sensitivities, c=colours, cmap="cividis", vmin=0.0, vmax=1.0, **style)
        axes.figure.colorbar(points, ax=axes).set_label("factor match with the best start")
    axes.scatter(
        errors[best], sensitivities[best], s=160, facecolors="none", edgecolors=VERMILLION, linewidths=1.6, zorder=2,
        label="best",
    )  # fmt: skip
    axes.margins(0.15)
    for which, values in (("x", errors), ("y", sensitivities)):
        low, high = float(values.min()), float(values.max())
        if low > 0.0 and high > _WIDE * low:
            axes.set(**{f"{which}scale": "log"})
        elif high - low < _CLOSE * high:
            # Differences that mean nothing are not drawn large.
            axes.set(**{f"{which}lim": ((1.0 - _CLOSE) * low, (1.0 + _CLOSE) * high)})
    axes.set_xlabel(ERROR_LABEL)
    axes.set_ylabel(SENSITIVITY_LABEL)
    axes.legend(frameon=False)
    finish(axes, f"{len(starts)} starts" if title is None else title)
    return axes


def _matches(models: list[Any], best: int) -> list[float] | None:
    """Factor match of each model with the best; None where one is missing, or the figure is not defined."""
    if not all(isinstance(model, Model) for model in models):
        return None
    try:
        return [factor_match(model, models[best]).score for model in models]
    except ValueError:
        return None
