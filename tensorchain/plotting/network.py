"""Network diagram of a model: its blocks, the bonds between them with their sizes, and the modes of the tensor.

Squares are blocks without a mode (cores), circles carry one; a diamond is an index shared by three or more blocks.
The wider a bond, the thicker its line; bonds of size one are dotted.  The geometry is that of
:mod:`tensorchain.diagram`, for any wiring.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorchain.diagram import Diagram, layout
from tensorchain.labels import labels_of
from tensorchain.plotting.style import BLUE, open_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tensorchain.labels import Subject

_CORE = "#F6C98F"
_BLOCK = "#BBDDF2"
_HUB = "#FFFFFF"
_INK = "#222222"


def plot_network(subject: Subject, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw the network of a model, with the sizes of its bonds and modes.

    Parameters
    ----------
    subject : Fit or Model
        A fit, or any model.  A fit shows the names of the tensor's dimensions.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.
    title : str, optional
        Of the axes; by default the model and its number of parameters.

    Returns
    -------
    matplotlib.axes.Axes
        Without ticks, one unit being as long in both directions.

    Raises
    ------
    TypeError
        If `subject` is neither a fit nor a model.

    Examples
    --------
    >>> import tensorchain as tc
    >>> from tensorchain.plotting import plot_network
    >>> ax = plot_network(tc.TensorChain.random((4, 5, 6), (2, 3, 2), rng=0))
    >>> ax.get_title()
    'TensorChain, 78 parameters'
    """
    labels = labels_of(subject)
    model = labels.model
    drawn = layout(model.network, model.block_names, labels.modes)
    axes = open_axes(ax)
    left, right, bottom, top = drawn.box
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_aspect("equal")
    axes.set_axis_off()
    size = _font_size(axes, drawn)
    _draw_lines(axes, drawn, size)
    for leg in drawn.legs:
        axes.plot(*zip(leg.start, leg.end, strict=True), color=_INK, linewidth=1.2, zorder=1)
        axes.text(
            *leg.label, f"{labels.modes[leg.mode]}\n{model.shape[leg.mode]}", ha="center", va="center", fontsize=size
        )
    _draw_nodes(axes, drawn, size)
    for at in drawn.signs:
        axes.text(*at, "+", ha="center", va="center", fontsize=1.8 * size)
    note = f" ({drawn.omitted} more terms)" if drawn.omitted else ""
    axes.set_title(f"{type(model).__name__}, {model.n_parameters} parameters{note}" if title is None else title)
    return axes


def _draw_lines(axes: Axes, drawn: Diagram, size: float) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    for line in drawn.lines:
        path = Path([line.start, line.control, line.end], [Path.MOVETO, Path.CURVE3, Path.CURVE3])
        style: Any = (0, (1, 1.5)) if line.size == 1 else "-"
        width = min(1.2 + 0.5 * (line.size.bit_length() - 1), 4.0)
        axes.add_patch(PathPatch(path, fill=False, edgecolor=BLUE, linewidth=width, linestyle=style, zorder=1))
        if line.label is not None:
            axes.text(*line.label, str(line.size), ha="center", va="center", color=BLUE, fontsize=size)


def _draw_nodes(axes: Axes, drawn: Diagram, size: float) -> None:
    from matplotlib.patches import Circle, Patch, Rectangle, RegularPolygon

    for node in drawn.nodes:
        (x, y), r = node.at, drawn.radius
        patch: Patch
        if node.kind == "block":
            patch = Circle(node.at, r, facecolor=_BLOCK)
        elif node.kind == "core":
            patch = Rectangle((x - r, y - r), 2 * r, 2 * r, facecolor=_CORE)
        else:
            patch = RegularPolygon(node.at, 4, radius=min(r, 0.24), facecolor=_HUB)
        patch.set_edgecolor(BLUE if node.kind == "hub" else _INK)
        patch.set_zorder(2)
        axes.add_patch(patch)
        # A longer label than a number shrinks to fit.
        fitted = size * min(1.0, 3.7 / max(len(node.label), 1))
        colour = BLUE if node.kind == "hub" else _INK
        axes.text(x, y, node.label, ha="center", va="center", fontsize=fitted, color=colour, zorder=3)


def _font_size(axes: Axes, drawn: Diagram) -> float:
    """Points, such that a number fits into a block at the size of these axes."""
    # The whole figure, also where the axes are on a part of one.
    figure = axes.figure.canvas.figure
    place = axes.get_position()
    left, right, bottom, top = drawn.box
    inches = min(
        place.width * figure.get_figwidth() / (right - left), place.height * figure.get_figheight() / (top - bottom)
    )
    return min(max(0.9 * 72 * inches * drawn.radius, 5.5), 10.0)
