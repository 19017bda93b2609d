"""Heat maps of the blocks of a model: factors and cores as they are stored.

A block that carries a mode is drawn in matrix form (I_k, P_k), one row for each entry of the mode and one column for
each combination of its bonds, the first bond slowest.  A core is drawn with its first bond down and the others across.
Lines part the columns that belong to different values of the first bond across, gaps part the terms of a sum.

Side by side, factors of few columns over many entries, as spectra and time courses are, are lines: a heat map of three
columns shows little.  Real blocks are drawn in a diverging scale around zero, complex ones by magnitude.  Columns of
large and opposite entries beside each other are what cancellation looks like.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tensorchain.kernels import Array
from tensorchain.labels import Labels, labels_of
from tensorchain.models import Model
from tensorchain.plotting.style import BLACK, DASHES, PALETTE, finish, open_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tensorchain.labels import Subject

_REAL, _COMPLEX = "RdBu_r", "cividis"
_GAP = "#C8C8C8"
_SPECTRUM = 20
"""Entries of a mode from which a factor of few columns is drawn as lines."""
_MOST_LINES = 40
"""Lines between columns are left out where there would be more of them."""


def plot_block(subject: Subject, block: int = 0, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Heat map of one block.

    Parameters
    ----------
    subject : Fit or Model
        A fit or any model.
    block : int, default 0
        Position in `model.blocks`, from 0; negative ones count from the end.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.  A colour bar takes some of its room.
    title : str, optional
        Of the axes; by default the name of the block.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        If `subject` is neither a fit nor a model.
    ValueError
        If there is no such block.

    Examples
    --------
    >>> import tensorchain as tc
    >>> from tensorchain.plotting import plot_block
    >>> ax = plot_block(tc.CP.random((6, 5, 4), 3, rng=0), 1)
    >>> ax.get_title(), ax.get_xlabel(), ax.get_ylabel()
    ('factor 2', 'component', 'mode 2')
    """
    from matplotlib.ticker import MaxNLocator

    labels = labels_of(subject)
    model, count = labels.model, len(labels.blocks)
    if not -count <= block < count:
        raise ValueError(f"block {block} was asked for, and the model has blocks 0 to {count - 1}")
    k = block % count
    parts = [_flat(model, t, k) for t in range(len(model.network.terms))]
    table, starts = _beside(parts)
    axes = open_axes(ax)
    axes.set_facecolor(_GAP)
    magnitude = np.abs(table)
    largest = float(np.nanmax(magnitude)) or 1.0
    real = table.dtype.kind != "c"
    image = axes.imshow(
        table if real else magnitude, cmap=_REAL if real else _COMPLEX, vmin=-largest if real else 0.0, vmax=largest,
        aspect="auto", interpolation="nearest",
    )  # fmt: skip
    for start, part, group in zip(starts, parts, _groups(model, k), strict=True):
        edges = range(group, part.shape[1], group)
        if group > 1 and len(edges) <= _MOST_LINES:
            axes.vlines([start + edge - 0.5 for edge in edges], -0.5, len(part) - 0.5, color=BLACK, linewidth=0.5)
    bar = axes.figure.colorbar(image, ax=axes)
    bar.set_label("entry" if real else "magnitude of the entry")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
    across, down = _axis_labels(labels, k)
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    axes.set_title(labels.blocks[k] if title is None else title)
    return axes


def plot_blocks(subject: Subject, axes: Sequence[Axes] | None = None) -> list[Axes]:
    """All blocks side by side: factors of few columns over many entries as lines, other blocks as heat maps.

    Parameters
    ----------
    subject : Fit or Model
        A fit or any model.
    axes : sequence of matplotlib.axes.Axes, optional
        One for each block; by default those of a new figure.

    Returns
    -------
    list of matplotlib.axes.Axes
        One for each block.

    Raises
    ------
    ValueError
        If there is another number of axes than of blocks.

    Examples
    --------
    >>> import tensorchain as tc
    >>> from tensorchain.plotting import plot_blocks
    >>> [ax.get_title() for ax in plot_blocks(tc.Tucker.random((6, 5), (3, 2), rng=0))]
    ['core', 'factor 1', 'factor 2']
    """
    count = len(labels_of(subject).blocks)
    if axes is None:
        import matplotlib.pyplot as plt

        columns = min(count, 4)
        rows = math.ceil(count / columns)
        grid = plt.subplots(rows, columns, figsize=(3.2 * columns, 2.8 * rows), layout="constrained", squeeze=False)[1]
        axes = list(grid.flat)
        for spare in axes[count:]:
            spare.remove()
        axes = axes[:count]
    if len(axes) != count:
        raise ValueError(f"{len(axes)} axes were given for {count} blocks; give one for each")
    labels = labels_of(subject)
    return [_lines(labels, k, ax) if _spectra(labels, k) else plot_block(subject, k, ax) for k, ax in enumerate(axes)]


def _spectra(labels: Labels, k: int) -> bool:
    """Whether block k is a real factor of few columns over many entries of its mode, as spectra are."""
    network = labels.model.network
    if network.modes[k] is None or len(network.terms) > 1 or len(network.terms[0].bonds[k]) > 1:
        return False
    rows, columns = labels.model.matrices[k].shape
    return rows >= _SPECTRUM and columns <= len(PALETTE) and labels.model.dtype.kind != "c"


def _lines(labels: Labels, k: int, axes: Axes) -> Axes:
    """The columns of a factor over the entries of its mode."""
    across, mode = _axis_labels(labels, k)
    for column, values in enumerate(np.asarray(labels.model.matrices[k]).T):
        axes.plot(values, color=PALETTE[column], linestyle=DASHES[column], linewidth=1.4, label=str(column + 1))
    axes.axhline(0.0, color=_GAP, linewidth=0.8, zorder=0)
    axes.set_xlabel(mode)
    axes.set_ylabel("entry")
    axes.legend(title=across, frameon=False, fontsize="small", title_fontsize="small")
    finish(axes, labels.blocks[k])
    return axes


def _flat(model: Model, t: int, k: int) -> Array:
    """Block k of term t as a matrix: by mode, or by its first bond where it has no mode."""
    operand = model.operands(t)[k]
    return operand.reshape(len(operand) if model.network.modes[k] is not None else operand.shape[1], -1)


def _groups(model: Model, k: int) -> list[int]:
    """Per term the columns that share one value of the first bond across."""
    skip = 1 if model.network.modes[k] is not None else 2
    return [math.prod(term.shapes[k][skip:]) for term in model.network.terms]


def _beside(parts: list[Array]) -> tuple[Array, list[int]]:
    """Matrices side by side with one empty column between them, and where each begins."""
    if len(parts) == 1:
        return parts[0], [0]
    rows = max(len(part) for part in parts)
    width = sum(part.shape[1] for part in parts) + len(parts) - 1
    table = np.full((rows, width), np.nan, dtype=np.result_type(*parts))
    starts, position = [], 0
    for part in parts:
        table[: len(part), position : position + part.shape[1]] = part
        starts.append(position)
        position += part.shape[1] + 1
    return table, starts


def _axis_labels(labels: Labels, k: int) -> tuple[str, str]:
    network = labels.model.network
    mode = network.modes[k]
    apart = ", term by term" if len(network.terms) > 1 else ""
    letters = network.terms[0].bonds[k]
    if mode is None:
        rest = {1: "no bond", 2: "bond 2"}.get(len(letters), f"bonds 2 to {len(letters)}")
        return f"{rest}{apart}", "bond 1"
    hubs = {letter for letter, _ in network.terms[0].hyperedges}
    if set(letters) <= hubs:
        return f"component{apart}", labels.modes[mode]
    if len(letters) == 1:
        return f"bond{apart}", labels.modes[mode]
    sizes = " \N{MULTIPLICATION SIGN} ".join(map(str, network.terms[0].shapes[k]))
    return f"bonds{apart}" if apart else f"{sizes} bonds", labels.modes[mode]
