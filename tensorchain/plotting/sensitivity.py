"""Where the sensitivity of a model sits: ||dX/dblock_k||_F^2 of each block, of one model or of several side by side.

The sum over the blocks is SS.  The block with the largest part is the one to store most precisely, or to scale down by
a change of gauge: in the optimal gauge all parts are equal (of a model of one term, whose blocks share one scale).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tensorchain.kernels import Array
from tensorchain.labels import Labels, labels_of
from tensorchain.plotting.style import PALETTE, check_count, finish, open_axes, positive
from tensorchain.stability.sensitivity import sensitivity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tensorchain.labels import Subject

_WIDE = 30.0
"""Largest over smallest part from which the axis is logarithmic."""
_THICKNESS = 0.8
"""Part of a row that its bars take."""


def plot_sensitivity(
    subjects: Subject | Mapping[str, Subject], ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Sensitivity of each block; the axis is logarithmic where the blocks differ much, else it begins at zero.

    Parameters
    ----------
    subjects : Fit or Model or mapping of str to Fit or Model
        A fit or a model, or several as {name: fit or model}, all with the same blocks, as before and after a change of
        gauge.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.
    title : str, optional
        Of the axes; by default the total of a single model.

    Returns
    -------
    matplotlib.axes.Axes
        One row a block, the first on top, each bar with the share of its block in percent; several models have their
        totals in the legend.

    Raises
    ------
    TypeError
        If a subject is neither a fit nor a model.
    ValueError
        If there are more models than colours, or their blocks differ in number.

    Examples
    --------
    >>> import tensorchain as tc
    >>> from tensorchain.plotting import plot_sensitivity
    >>> model = tc.TensorChain.random((4, 5, 6), (2, 3, 2), rng=0)
    >>> ax = plot_sensitivity({"random": model, "optimal gauge": tc.optimal_gauge(model)})
    >>> [tick.get_text() for tick in ax.get_yticklabels()]
    ['core 1', 'core 2', 'core 3']
    """
    several = isinstance(subjects, Mapping)
    named: Mapping[str, Subject] = subjects if isinstance(subjects, Mapping) else {"": subjects}
    check_count(len(named))
    labelled = {name: labels_of(subject) for name, subject in named.items()}
    first = next(iter(labelled.values()))
    rows = np.arange(len(first.blocks))
    parts = {name: _parts(labels, len(rows), name) for name, labels in labelled.items()}
    axes = open_axes(ax)
    thickness = _THICKNESS / len(named)
    for position, (name, values) in enumerate(parts.items()):
        places = rows + thickness * (position - 0.5 * (len(named) - 1))
        legend = f"{name}: total {values.sum():.3g}" if several else None
        axes.barh(places, positive(values), 0.92 * thickness, color=PALETTE[position], label=legend)
        _write_shares(axes, values, places)
    if not several:
        title = f"sensitivity {parts[''].sum():.3g}" if title is None else title
    drawn = np.concatenate([values[values > 0.0] for values in parts.values()])
    if drawn.size and drawn.max() > _WIDE * drawn.min():
        axes.set_xscale("log")
        # Bars have no zero to begin at: below the least by half a decade, and room for the shares.
        axes.set_xlim(drawn.min() / 3.0, drawn.max() * (drawn.max() / drawn.min()) ** 0.2)
    else:
        axes.set_xlim(0.0, 1.2 * drawn.max() if drawn.size else 1.0)
    axes.set_xlabel(r"sensitivity $\Vert \partial X / \partial B_k\Vert_F^2$")
    axes.set_yticks(rows, first.blocks)
    axes.set_ylim(len(rows) - 0.5, -0.6)
    finish(axes, title, grid=("x",))
    if several:
        # Above the axes, where no bar can be; the title moves up by as many lines.
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1, fontsize="small")
        axes.set_title(title or "", pad=8 + 14 * len(named))
    return axes


def _parts(labels: Labels, count: int, name: str) -> Array:
    if len(labels.blocks) != count:
        raise ValueError(f"{name!r} has {len(labels.blocks)} blocks, the first model {count}; draw them apart")
    return np.asarray(sensitivity(labels.model, per_block=True))


def _write_shares(axes: Axes, values: Array, places: Array) -> None:
    """The share of each block, at the end of its bar."""
    total = float(values.sum())
    for place, value in zip(places, values, strict=True):
        if value > 0.0:
            axes.annotate(
                f"{100.0 * value / total:.0f} %", (value, place), xytext=(3, 0), textcoords="offset points",
                va="center", fontsize="small",
            )  # fmt: skip
