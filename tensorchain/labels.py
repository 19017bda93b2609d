"""What blocks and modes are called in reports and plots: the names of the tensor's dimensions where it had some.

A model numbers its blocks ("factor 2"); a fit also holds the names of the dimensions of its tensor ("time").  Both
are put together here, once, for every plot and report: "factor 2 (time)".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from tensorchain.models import Model
from tensorchain.models.dimensions import Dimension, dimensions_of

if TYPE_CHECKING:
    from tensorchain.fit import Fit

Subject: TypeAlias = "Fit | Model"
"""What can be reported or drawn."""


@dataclass(frozen=True)
class Labels:
    """A model and what its parts are called.

    Attributes
    ----------
    model : Model
        The model itself.
    modes : tuple of str
        A name for each mode: its dimension, or "mode 1".
    blocks : tuple of str
        A name for each block, with the dimension that it carries.
    dimensions : tuple of Dimension
        Name and coordinates of each mode.
    """

    model: Model
    modes: tuple[str, ...]
    blocks: tuple[str, ...]
    dimensions: tuple[Dimension, ...]


def labels_of(subject: Subject, dims: Any = None) -> Labels:
    """Names of the modes and blocks of a model, or of a fit.

    Parameters
    ----------
    subject : Fit or Model
        A fit or any model.
    dims : mapping, sequence or xarray.DataArray, optional
        Names of the modes, or a mapping of names to coordinates, as in `Model.to_pandas`; by default those of
        the tensor that the fit was made from.

    Raises
    ------
    TypeError
        If `subject` is neither.
    ValueError
        If `dims` does not fit the modes.

    Examples
    --------
    >>> import tensorchain as tc
    >>> from tensorchain.labels import labels_of
    >>> labels_of(tc.CP.random((3, 4), 2, rng=0)).blocks
    ('factor 1', 'factor 2')
    """
    model = subject if isinstance(subject, Model) else getattr(subject, "model", None)
    if not isinstance(model, Model):
        raise TypeError(f"a fit or a model is needed, and a {type(subject).__name__} was given")
    names = None if isinstance(subject, Model) else subject.dimension_names
    if dims is None and names is not None:
        coordinates = getattr(subject, "labels", None) or (None,) * model.order
        dims = dict(zip(names, coordinates, strict=True)) if len(set(names)) == len(names) else None
    if dims is None:
        named = mode_names(model, names)
        dimensions = tuple(map(Dimension, named))
    else:
        dimensions = dimensions_of(model.shape, dims)
        named = names = tuple(dimension.name for dimension in dimensions)
    return Labels(model, named, block_names(model, names), dimensions)


def mode_names(model: Model, dimension_names: tuple[str, ...] | None) -> tuple[str, ...]:
    """A name for each mode."""
    return dimension_names or tuple(f"mode {n + 1}" for n in range(model.order))


def block_names(model: Model, dimension_names: tuple[str, ...] | None) -> tuple[str, ...]:
    """A name for each block; blocks that carry a mode are told by its dimension too."""
    if dimension_names is None:
        return model.block_names
    pairs = zip(model.block_names, model.network.modes, strict=True)
    return tuple(name if mode is None else f"{name} ({dimension_names[mode]})" for name, mode in pairs)
