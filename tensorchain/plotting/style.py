"""One look for all plots: colours that all can tell apart, labels of the two figures that matter, quiet axes.

Colours are those of Okabe and Ito, distinct under all common forms of colour blindness, and no plot tells two
curves apart by colour alone.  Matplotlib is imported when the first figure is opened.

Reference: M. Okabe and K. Ito, "Color universal design (CUD)", 2008.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorchain.kernels import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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

ERROR_LABEL = r"error $\Vert T - X\Vert \,/\, \Vert T\Vert$"
SENSITIVITY_LABEL = r"sensitivity $\Vert J\Vert_F^2$"

LEAST_ERROR = 1e-17
"""An error of zero is drawn here: relative errors are not resolved below 1e-16."""
_GRID = "#DDDDDD"


def open_axes(ax: Axes | None) -> Axes:
    """The axes given, or those of a new figure."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def finish(axes: Axes, title: str | None, grid: Sequence[Any] = ("x", "y")) -> None:
    """What all curves share: a faint grid behind them, no frame at the top, the title."""
    for which in grid:
        axes.grid(True, axis=which, color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["top"].set_visible(False)
    if title is not None:
        axes.set_title(title)


def error_against_sensitivity(axes: Axes, title: str | None) -> None:
    """Axes of a trade-off: both logarithmic, with a legend."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(SENSITIVITY_LABEL)
    axes.set_ylabel(ERROR_LABEL)
    axes.legend(frameon=False)
    finish(axes, title)


def positive(values: Sequence[float] | Array) -> Array:
    """Values for a logarithmic axis: what is not positive leaves a gap."""
    array = np.asarray(values, dtype=np.float64)
    return np.where(array > 0.0, array, np.nan)


def check_count(count: int, first: int = 0) -> None:
    """ValueError when there is nothing to draw, or more than there are colours."""
    room = len(PALETTE) - first
    if not 1 <= count <= room:
        raise ValueError(f"{count} methods were given; 1 to {room} can be told apart: draw several plots side by side")
