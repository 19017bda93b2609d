"""Error against sensitivity: which method, or which rank, gives the better models.  Lower left is better.

    plot_trade_off   one point a run
    plot_profiles    one curve a rank: the least sensitive models of each error, the penalty falling from left to right

A curve that ends in a closed marker has a best approximation there; one that ends in an arrow has none: its
sensitivity still grows at the smallest penalty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tensorchain.kernels import Array
from tensorchain.plotting.style import (
    DASHES,
    LEAST_ERROR,
    MARKERS,
    PALETTE,
    check_count,
    error_against_sensitivity,
    open_axes,
    positive,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ENDLESS = 0.1
"""Exponent of SS against 1 / nu from which a curve has no end."""


class Profile(Protocol):
    """What is drawn of a `tensorchain.DegeneracyProfile`."""

    @property
    def name(self) -> str:
        """Of the model."""

    @property
    def rank(self) -> Any:
        """Of the model."""

    @property
    def error(self) -> Array:
        """||T - X|| / ||T|| of each stage."""

    @property
    def sensitivity(self) -> Array:
        """SS of each stage."""

    @property
    def slope(self) -> float:
        """p of SS ~ nu^(-p) at the end of the path."""

    def __len__(self) -> int: ...


def plot_trade_off(
    methods: Mapping[str, tuple[Sequence[float] | Array, Sequence[float] | Array]],
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Error against sensitivity, one point a run; lower left is better.

    Parameters
    ----------
    methods : mapping of str to tuple of (sequence of float or ndarray, sequence of float or ndarray)
        Name of a method to (sensitivities, errors) of its runs, each (n,).  A method keeps its colour and marker by its
        position.
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
        If a method has more sensitivities than errors, or fewer, or there are more methods than colours.

    Examples
    --------
    >>> from tensorchain.plotting import plot_trade_off
    >>> ax = plot_trade_off({"ALS": ([1e5, 2e6], [0.10, 0.11]), "path": ([3e2, 4e2], [0.10, 0.10])})
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['ALS', 'path']
    """
    check_count(len(methods))
    axes = open_axes(ax)
    for position, (name, (sensitivities, errors)) in enumerate(methods.items()):
        if np.shape(sensitivities) != np.shape(errors):
            raise ValueError(
                f"{name!r} has {np.size(sensitivities)} sensitivities and {np.size(errors)} errors; "
                "one of each is needed for every run"
            )
        axes.plot(
            positive(sensitivities),
            np.maximum(errors, LEAST_ERROR),
            linestyle="none",
            marker=MARKERS[position],
            markersize=6,
            markerfacecolor=PALETTE[position] + "99",
            markeredgecolor=PALETTE[position],
            label=name,
        )
    error_against_sensitivity(axes, title)
    return axes


def plot_profiles(profiles: Sequence[Profile], ax: Axes | None = None, title: str | None = None) -> Axes:
    """Error against sensitivity for several ranks side by side.

    Parameters
    ----------
    profiles : sequence of Profile
        What `degeneracy_profile` returned, a list; at most seven.
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
        If there is no profile, or more than colours.

    Examples
    --------
    >>> import tensorchain as tc
    >>> from tensorchain.plotting import plot_profiles
    >>> T = tc.datasets.inverse_radius(order=3, size=5)
    >>> ax = plot_profiles(tc.degeneracy_profile(T, "cp", [1, 2], rng=0))
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['CP, rank 1', 'CP, rank 2']
    """
    check_count(len(profiles))
    axes = open_axes(ax)
    for position, profile in enumerate(profiles):
        colour = PALETTE[position]
        error = np.maximum(profile.error, LEAST_ERROR)
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
    error_against_sensitivity(axes, title)
    return axes
