"""Where a model misses the data: the residual slice by slice, and pictures of data, model and residual.

Entries that are NaN, masked in a NumPy masked array or missing in `tensorchain.Masked` count in no figure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorchain.kernels import Array
from tensorchain.labels import labels_of
from tensorchain.models import Model
from tensorchain.plotting.style import BLACK, BLUE, finish, open_axes
from tensorchain.tensors import Dense, Masked, Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tensorchain.labels import Subject

_FEW = 40
"""Slices up to which each is a bar."""
_GAP = 0.06
"""Between pictures, in widths of one."""


def plot_residual(
    subject: Subject, tensor: Any, mode: int = 0, ax: Axes | None = None, *, title: str | None = None, dims: Any = None
) -> Axes:
    """The relative error of each slice along one mode, ||T_i - X_i|| / ||T_i||.

    Parameters
    ----------
    subject : Fit or Model
    tensor : array_like, Dense or Masked
        The data, in memory.
    mode : int
        Along which slices are taken, from 0; negative ones count from the end.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.
    title : str, optional
        By default the error of the whole, which is a dashed line too.
    dims : optional
        What the modes are called, and their coordinates, as in `plot_factor`.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        If `subject` is neither a fit nor a model, or the data are of another class.
    ValueError
        If there is no such mode, or the shapes differ.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.plotting import plot_residual
    >>> planted = tc.datasets.exact_cp((4, 5, 6), 2, np.random.default_rng(0))
    >>> T = planted.tensor.copy()
    >>> T[2] = 0.5 * T[2]
    >>> ax = plot_residual(planted.model, T)
    >>> [round(float(bar.get_height()), 6) for bar in ax.patches]
    [0.0, 0.0, 1.0, 0.0]
    """
    labels = labels_of(subject, dims)
    model = labels.model
    if not -model.order <= mode < model.order:
        raise ValueError(f"mode {mode} was asked for, and the model has modes 0 to {model.order - 1}")
    mode %= model.order
    data = _data(tensor, model)
    misses, sizes = np.zeros((2, model.shape[mode]))
    for i in range(model.shape[mode]):
        part = [None if n != mode else slice(i, i + 1) for n in range(model.order)]
        slab = data[tuple(slice(None) if side is None else side for side in part)]
        seen = ~np.isnan(slab)
        misses[i] = np.linalg.norm((slab - model.restrict(part).full())[seen])
        sizes[i] = np.linalg.norm(slab[seen])
    relative = np.divide(misses, sizes, out=np.full(len(sizes), np.nan), where=sizes > 0.0)
    whole = float(np.linalg.norm(misses) / (np.linalg.norm(sizes) or 1.0))
    axes, dimension = open_axes(ax), labels.dimensions[mode]
    coordinates = dimension.coordinates
    if coordinates is not None and coordinates.dtype.kind in "iufmM" and len(relative) > 1:
        axes.plot(coordinates, relative, color=BLUE, marker="o", markersize=3.0)
    else:
        axes.bar(np.arange(len(relative)), relative, color=BLUE)
        if coordinates is not None and len(relative) <= _FEW:
            axes.set_xticks(np.arange(len(relative)), [str(name) for name in coordinates], rotation=45, ha="right")
    axes.axhline(whole, color=BLACK, linestyle="--", linewidth=1.0)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel(dimension.name)
    axes.set_ylabel(r"$\Vert T_i - X_i\Vert \,/\, \Vert T_i\Vert$")
    finish(axes, f"error {whole:.3g} over all slices (dashed)" if title is None else title, grid="y")
    return axes


def plot_reconstruction(
    subject: Subject, tensor: Any, index: Any = None, ax: Axes | None = None, *, title: str | None = None
) -> Axes:
    """Data, model and residual as pictures, side by side on one pair of axes.

    Parameters
    ----------
    subject : Fit or Model
    tensor : array_like, Dense or Masked
        The data, in memory.
    index : optional
        What is shown, as in ``model[index]``: a matrix, or a picture in colour with three channels last.  By default
        the first two modes, at the middle of the others; of an order 3 with three entries last, a picture in colour.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.
    title : str, optional

    Returns
    -------
    matplotlib.axes.Axes
        Data and model share their scale of grey; the residual is red where the data are above the model and blue where
        below, to the largest magnitude in it, which its label tells.  Missing entries are white.

    Raises
    ------
    TypeError
        If `subject` is neither a fit nor a model, the data are of another class, or they are complex.
    ValueError
        If shapes differ, or `index` leaves no picture.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.plotting import plot_reconstruction
    >>> planted = tc.datasets.exact_cp((8, 6, 3), 2, np.random.default_rng(0))
    >>> ax = plot_reconstruction(planted.model, planted.tensor, (..., 0))
    >>> [text.get_text() for text in ax.get_xticklabels()][:2]
    ['data', 'model']
    """
    model = labels_of(subject).model
    data = _data(tensor, model)
    if np.iscomplexobj(data) or model.dtype.kind == "c":
        raise TypeError("complex data have no picture; draw their magnitudes")
    chosen = _default_index(model) if index is None else index
    shown, made = data[chosen], np.asarray(model[chosen])
    colour = shown.ndim == 3 and shown.shape[-1] == 3
    if not colour and shown.ndim != 2:
        raise ValueError(
            f"index {index!r} leaves shape {shown.shape}; a matrix, or a picture (rows, columns, 3), is needed"
        )
    axes = open_axes(ax)
    rest = shown - made
    if colour:
        rest = np.linalg.norm(rest, axis=-1) * np.sign(rest.sum(axis=-1))
    low, high = (float(bound(shown)) for bound in (np.nanmin, np.nanmax))
    span = high - low or 1.0
    largest = float(np.nanmax(np.abs(rest))) or 1.0
    rows, width = shown.shape[:2]
    step = width * (1.0 + _GAP)
    for position, picture in enumerate((shown, made, rest)):
        side = position * step
        box = (side - 0.5, side + width - 0.5, rows - 0.5, -0.5)
        if position == 2:
            axes.imshow(picture, cmap="RdBu_r", vmin=-largest, vmax=largest, extent=box, interpolation="nearest")
        elif colour:
            axes.imshow(np.clip(np.nan_to_num((picture - low) / span, nan=1.0), 0.0, 1.0), extent=box)
        else:
            axes.imshow(picture, cmap="gray", vmin=low, vmax=high, extent=box, interpolation="nearest")
    axes.set_xlim(-0.5, 2.0 * step + width - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xticks([position * step + (width - 1) / 2.0 for position in range(3)])
    axes.set_xticklabels(["data", "model", f"residual, at most {largest:.3g}"])
    axes.tick_params(length=0)
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    seen = ~np.isnan(shown)
    size = float(np.linalg.norm(shown[seen]))
    error = float(np.linalg.norm((shown - made)[seen])) / (size or 1.0)
    axes.set_title(f"error {error:.3g} here" if title is None else title)
    return axes


def _default_index(model: Model) -> tuple[Any, ...]:
    if model.order == 3 and model.shape[2] == 3:
        return (...,)
    return (..., *(size // 2 for size in model.shape[2:])) if model.order > 2 else (...,)


def _data(tensor: Any, model: Model) -> Array:
    """The entries, NaN where they are missing."""
    if isinstance(tensor, Masked):
        data = np.where(tensor.observed, tensor.to_dense(), math.nan)
    elif isinstance(tensor, Dense):
        data = tensor.to_dense()
    elif isinstance(tensor, Tensor):
        raise TypeError(f"a {type(tensor).__name__} was given; an array in memory, Dense or Masked, is needed")
    elif isinstance(tensor, np.ma.MaskedArray):
        data = np.where(np.ma.getmaskarray(tensor), math.nan, tensor.data)
    else:
        data = np.asarray(tensor)
    if data.shape != model.shape:
        raise ValueError(f"the data have shape {data.shape}, the model {model.shape}; they must be equal")
    return data.astype(np.result_type(data.dtype, np.float64), copy=False)
