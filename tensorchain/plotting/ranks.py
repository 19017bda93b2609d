"""Errors and replicability over the ranks of a study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tensorchain.plotting.style import BLUE, GREEN, LEAST_ERROR, ORANGE, PURPLE, VERMILLION, finish, open_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Study(Protocol):
    """What is drawn of a `tensorchain.RankStudy`."""

    @property
    def rows(self) -> Sequence[Any]:
        """The figures of each rank."""

    @property
    def name(self) -> str:
        """Of the model."""

    @property
    def recommended(self) -> Any:
        """The rank to take."""

    def conclusion(self) -> str:
        """The recommendation in one line."""


def plot_ranks(study: Study, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Error and held-out error over ranks, with what speaks for components: halves, starts, core consistency.

    Parameters
    ----------
    study : RankStudy
        What `rank_study` returned.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.  Matches, 0 to 1, are drawn on a second scale on its right.
    title : str, optional
        Of the axes; by default the recommendation.

    Returns
    -------
    matplotlib.axes.Axes
        Those of the errors.

    Examples
    --------
    >>> import tensorchain as tc
    >>> from tensorchain.plotting import plot_ranks
    >>> T = tc.datasets.inverse_radius(order=3, size=6)
    >>> ax = plot_ranks(tc.rank_study(T, "cp", [1, 2], starts=2, folds=2, splits=0, rng=0))
    >>> [text.get_text() for text in ax.get_xticklabels()]
    ['1', '2']
    """
    axes, rows = open_axes(ax), study.rows
    places = np.arange(len(rows))
    error = np.maximum([row.error for row in rows], LEAST_ERROR)
    held = np.maximum([row.held_out for row in rows], LEAST_ERROR)
    spread = [row.held_out_standard_error for row in rows]
    axes.plot(places, error, color=BLUE, marker="o", linewidth=1.6, label="error")
    axes.errorbar(
        places, held, yerr=np.nan_to_num(spread), color=VERMILLION, marker="s", linestyle="--", linewidth=1.6,
        capsize=3, label="held-out error",
    )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xticks(places, [str(row.rank) for row in rows])
    axes.set_xlabel("rank")
    axes.set_ylabel("relative error")
    chosen = next(k for k, row in enumerate(rows) if row.rank == study.recommended)
    axes.axvline(chosen, color="#888888", linewidth=1.0, linestyle=":")
    finish(axes, f"{study.name}, {study.conclusion()}" if title is None else title, grid=("y",))
    drawn = _matches(axes, places, rows)
    handles, labels = axes.get_legend_handles_labels()
    if drawn is not None:
        more, names = drawn.get_legend_handles_labels()
        handles, labels = handles + more, labels + names
    # Below: the curves lie anywhere.
    axes.legend(
        handles, labels, frameon=False, fontsize="small", ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16)
    )  # fmt: skip
    return axes


def _matches(axes: Axes, places: Any, rows: Sequence[Any]) -> Axes | None:
    """What lies between 0 and 1, on a scale of its own; None where there is nothing of it."""
    curves = (
        ("halves agree", [row.halves_match for row in rows], GREEN, "^"),
        ("starts agree", [row.starts_match for row in rows], PURPLE, "D"),
        ("core consistency / 100", [max(row.core_consistency / 100.0, 0.0) for row in rows], ORANGE, "v"),
    )
    shown = [curve for curve in curves if not all(math.isnan(value) for value in curve[1])]
    if not shown:
        return None
    other = axes.twinx()
    for name, values, colour, marker in shown:
        other.plot(places, values, color=colour, marker=marker, linewidth=1.0, linestyle="-.", label=name)
    other.set_ylim(-0.03, 1.05)
    other.set_ylabel("agreement")
    other.spines["top"].set_visible(False)
    return other
