"""Plot of degeneracy profiles: error against sensitivity along the path, one curve a rank.

The penalty falls from left to right.  A curve that ends in a closed marker has a best approximation there; one that
ends in an arrow has none: its sensitivity still grows at the smallest penalty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tensorchain.plotting import DASHES, ERROR_LABEL, MARKERS, PALETTE, SENSITIVITY_LABEL, _axes, _check_count, _finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tensorchain.diagnosis.profile import DegeneracyProfile

_ENDLESS = 0.1
"""Exponent of SS against 1 / nu from which a curve has no end."""
_LEAST_ERROR = 1e-17


def plot_profiles(profiles: Sequence[DegeneracyProfile], ax: Axes | None = None, title: str | None = None) -> Axes:
    """Error against sensitivity for several ranks side by side.

    Parameters
    ----------
    profiles : what `degeneracy_profile` returned, a list; at most seven.
    ax : where to draw; by default a new figure.
    title : of the axes.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If there is no profile, or more than colours.

    Examples
    --------
    >>> import tensorchain as tc
    >>> from tensorchain.plotting_profiles import plot_profiles
    >>> T = tc.datasets.inverse_radius(order=3, size=5)
    >>> ax = plot_profiles(tc.degeneracy_profile(T, "cp", [1, 2], rng=0))
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['CP, rank 1', 'CP, rank 2']
    """
    _check_count(len(profiles))
    axes = _axes(ax)
    for position, profile in enumerate(profiles):
        colour = PALETTE[position]
        error = np.maximum(profile.error, _LEAST_ERROR)
        axes.plot(
            profile.sensitivity, error, color=colour, linestyle=DASHES[position], linewidth=1.6,
            label=f"{profile.name}, rank {profile.rank}", marker=MARKERS[position], markersize=3.5,
            markerfacecolor="white",
        )  # fmt: skip
        if profile.slope >= _ENDLESS and len(profile) > 1:
            axes.annotate(
                "", xy=(profile.sensitivity[-1], error[-1]), xytext=(profile.sensitivity[-2], error[-2]),
                arrowprops={"arrowstyle": "-|>", "color": colour, "mutation_scale": 22, "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip
        else:
            axes.plot(profile.sensitivity[-1], error[-1], color=colour, marker=MARKERS[position], markersize=7)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(SENSITIVITY_LABEL)
    axes.set_ylabel(ERROR_LABEL)
    axes.legend(frameon=False)
    _finish(axes, title, grid=("x", "y"))
    return axes
