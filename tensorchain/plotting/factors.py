"""The factors of a model over the coordinates of its modes: spectra, time courses, loadings of samples.

What is drawn is a normal form, so that two fits of one tensor look alike: of a CP its unit columns, by falling weight
(`CP.normalized`); of a Tucker model the singular vectors (`Tucker.orthogonalized`); of other models the columns of the
block as they are.  Numbers as coordinates make lines, names make bars, and so do few entries without coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tensorchain.kernels import Array
from tensorchain.labels import Labels, labels_of
from tensorchain.models import CP, Model, Tucker
from tensorchain.models.dimensions import Dimension
from tensorchain.models.tables import column_names
from tensorchain.plotting.style import BLACK, DASHES, PALETTE, finish, open_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tensorchain.labels import Subject

_FEW = 12
"""Entries of a mode without coordinates up to which they are bars."""
_NAMES = 40
"""Names along an axis are left out where there are more."""

Kind = Literal["line", "bar"]


def plot_factor(
    subject: Subject,
    mode: int = 0,
    ax: Axes | None = None,
    title: str | None = None,
    *,
    dims: Any = None,
    columns: Sequence[int] | None = None,
    kind: Kind | None = None,
) -> Axes:
    """The factor of one mode over its coordinates, one line or colour of bars for each component.

    Parameters
    ----------
    subject : Fit or Model
    mode : int
        From 0; negative ones count from the end.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.
    title : str, optional
        By default the name of the block.
    dims : optional
        What the modes are called: names, a mapping of names to coordinates (or None), or an `xarray.DataArray`; by
        default those of the tensor that the fit was made from.
    columns : sequence of int, optional
        Which components, from 0; by default all, or the first seven where there are more.
    kind : {"line", "bar"}, optional
        By default lines over numbers and over more than 12 entries without coordinates, else bars.

    Returns
    -------
    matplotlib.axes.Axes
        Complex factors are drawn by magnitude.

    Raises
    ------
    TypeError
        If `subject` is neither a fit nor a model.
    ValueError
        If there is no such mode or component, `dims` does not fit, or `kind` is neither.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.plotting import plot_factor
    >>> model = tc.CP.random((4, 30), 2, rng=0)
    >>> ax = plot_factor(model, 1, dims={"sample": None, "wavelength": np.linspace(400, 700, 30)})
    >>> ax.get_xlabel(), [text.get_text() for text in ax.get_legend().get_texts()]
    ('wavelength', ['component 1', 'component 2'])
    """
    labels = labels_of(subject, dims)
    if not -labels.model.order <= mode < labels.model.order:
        raise ValueError(f"mode {mode} was asked for, and the model has modes 0 to {labels.model.order - 1}")
    if kind not in (None, "line", "bar"):
        raise ValueError(f"kind is {kind!r}; 'line' or 'bar' is needed")
    form = _normal_form(labels.model)
    return _draw(labels, form, mode % labels.model.order, open_axes(ax), title, columns, kind)


def plot_factors(
    subject: Subject,
    axes: Sequence[Axes] | None = None,
    *,
    dims: Any = None,
    columns: Sequence[int] | None = None,
    kind: Kind | None = None,
) -> list[Axes]:
    """The factors of all modes, side by side, each as `plot_factor` draws it.

    Parameters
    ----------
    subject : Fit or Model
    axes : sequence of matplotlib.axes.Axes, optional
        One for each mode; by default those of a new figure.
    dims : optional
        As in `plot_factor`.
    columns : sequence of int, optional
        As in `plot_factor`.
    kind : {"line", "bar"}, optional
        As in `plot_factor`.

    Returns
    -------
    list of matplotlib.axes.Axes
        One for each mode.

    Raises
    ------
    ValueError
        If there is another number of axes than of modes, or as `plot_factor`.

    Examples
    --------
    >>> import tensorchain as tc
    >>> from tensorchain.plotting import plot_factors
    >>> [ax.get_xlabel() for ax in plot_factors(tc.CP.random((4, 30), 2, rng=0), dims=["sample", "time"])]
    ['sample', 'time']
    """
    order = labels_of(subject, dims).model.order
    if axes is None:
        import matplotlib.pyplot as plt

        across = min(order, 3)
        down = math.ceil(order / across)
        grid = plt.subplots(down, across, figsize=(4.2 * across, 2.8 * down), layout="constrained", squeeze=False)[1]
        for spare in list(grid.flat)[order:]:
            spare.remove()
        axes = list(grid.flat)[:order]
    if len(axes) != order:
        raise ValueError(f"{len(axes)} axes were given for {order} modes; give one for each")
    drawn = [plot_factor(subject, n, ax, dims=dims, columns=columns, kind=kind) for n, ax in enumerate(axes)]
    # Components are called the same in each mode: once is enough.
    legends = [ax.get_legend() for ax in drawn]
    texts = [None if legend is None else [text.get_text() for text in legend.get_texts()] for legend in legends]
    if all(text == texts[-1] for text in texts):
        for legend in legends[:-1]:
            if legend is not None:
                legend.remove()
    return drawn


def _normal_form(model: Model) -> Model:
    """The blocks that are drawn."""
    if isinstance(model, CP):
        weights, factors = model.normalized()
        return CP(factors) if np.all(weights > 0.0) else CP([factor[:, _living(weights)] for factor in factors])
    return model.orthogonalized() if isinstance(model, Tucker) else model


def _living(weights: Array) -> Array:
    """Components that are not zero; one in any case."""
    return np.flatnonzero(weights > 0.0) if np.any(weights > 0.0) else np.array([0])


def _draw(
    labels: Labels, form: Model, mode: int, axes: Axes, title: str | None, columns: Sequence[int] | None,
    kind: Kind | None,
) -> Axes:  # fmt: skip
    k, dimension = form.network.block_of_mode[mode], labels.dimensions[mode]
    table = form.matrices[k]
    count = table.shape[1]
    chosen = list(range(min(count, len(PALETTE)))) if columns is None else list(columns)
    if not chosen or len(chosen) > len(PALETTE) or not all(0 <= column < count for column in chosen):
        raise ValueError(f"columns is {columns!r}; 1 to {len(PALETTE)} numbers from 0 to {count - 1} are needed")
    values = np.abs(table) if table.dtype.kind == "c" else table
    lines = kind == "line" if kind is not None else _is_line(dimension, len(table))
    places = _places(dimension, len(table))
    names = column_names(form.network, k)
    for position, column in enumerate(chosen):
        colour = PALETTE[position]
        if lines:
            axes.plot(places, values[:, column], color=colour, linestyle=DASHES[position], label=names[column])
        else:
            width = 0.8 / len(chosen)
            offset = (position + 0.5) * width - 0.4
            axes.bar(np.arange(len(table)) + offset, values[:, column], width, color=colour, label=names[column])
    if not lines or (dimension.coordinates is not None and not _is_numeric(dimension)):
        _name_places(axes, dimension, len(table))
    axes.axhline(0.0, color=BLACK, linewidth=0.6)
    axes.set_xlabel(dimension.name)
    axes.set_ylabel("magnitude of the entry" if table.dtype.kind == "c" else "entry")
    if len(chosen) > 1:
        # Beside the axes, where no line can be.
        axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    some = f", {len(chosen)} of {count} columns" if len(chosen) < count else ""
    finish(axes, labels.blocks[labels.model.network.block_of_mode[mode]] + some if title is None else title, grid="y")
    return axes


def _is_numeric(dimension: Dimension) -> bool:
    return dimension.coordinates is not None and dimension.coordinates.dtype.kind in "iufmM"


def _is_line(dimension: Dimension, size: int) -> bool:
    return _is_numeric(dimension) or (dimension.coordinates is None and size > _FEW)


def _places(dimension: Dimension, size: int) -> Array:
    """Abscissae."""
    numeric = _is_numeric(dimension) and dimension.coordinates is not None
    return np.asarray(dimension.coordinates) if numeric else np.arange(size)


def _name_places(axes: Axes, dimension: Dimension, size: int) -> None:
    """The coordinates as labels below the bars."""
    if dimension.coordinates is None or size > _NAMES:
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(nbins=size if size <= _FEW else "auto", integer=True))
        return
    texts = [str(coordinate) for coordinate in dimension.coordinates]
    slanted = sum(map(len, texts)) > _NAMES
    axes.set_xticks(np.arange(size), texts, rotation=45 if slanted else 0, ha="right" if slanted else "center")
