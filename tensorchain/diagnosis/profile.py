"""The trade-off between error and sensitivity, for one rank or for several side by side.

The minimisers of ||T - X||^2 + nu SS, over all nu, are the least sensitive models of each error: no model on the same
branch has both less error and less sensitivity.  Drawn as error against sensitivity the curve tells what a rank is
worth:

- it falls and ends in a point: the best approximation, with the sensitivity that it needs;
- it falls and turns flat: beyond the bend sensitivity buys nothing; take the model at the bend;
- it stays flat over many decades: no best approximation, or a rank that the tensor does not support.

Of several ranks the best is the lowest whose curve reaches the error wanted before it turns flat.

The path is followed in both directions from a fit: downward by :func:`tensorchain.diagnosis.trace_path`, and upward, nu
growing, from the first minimiser found there, so that components that a strong penalty removes were there before.
Cost: a fit and about twenty short Levenberg-Marquardt runs for each rank.

Reference: Phan et al., "How to train your unstable looped tensor network" (2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorchain.api import decompose
from tensorchain.diagnosis.path import FIRST_SHARE, PER_DECADE, Point, SensitivityPath, Stages, trace_path
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.models.names import model_named
from tensorchain.models.scale import Scale
from tensorchain.solvers.problem import Clock
from tensorchain.stability.scales import double_precision
from tensorchain.tensors import Tensor, as_tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOP_SHARE = 0.3
"""nu SS / ||T||^2 up to which the path is followed upward."""
_ALL_LOST = 0.98
"""Relative error beyond which nothing of the tensor is left."""


@dataclass(frozen=True)
class DegeneracyProfile:
    """Error against sensitivity for one rank; one entry a stage, the penalty falling.

    Attributes
    ----------
    name : str
        Of the model.
    rank : int, tuple or list
        As `decompose` takes it.
    penalty : ndarray
        nu, for T as given.
    error : ndarray
        ||T - X|| / ||T||.
    sensitivity : ndarray
        SS, for T as given.
    models : tuple of Model
        The minimisers; any of them is a model to work with.
    slope : float
        p of SS ~ nu^(-p) at the end of the path; above 0.1 the curve has no end.

    Examples
    --------
    >>> import tensorchain as tc
    >>> T = tc.datasets.inverse_radius(order=3, size=6)
    >>> profile = tc.degeneracy_profile(T, "cp", 1, decades=2.0)
    >>> len(profile.models) == len(profile.error)
    True
    """

    name: str
    rank: Any
    penalty: Array
    error: Array
    sensitivity: Array
    models: tuple[Model, ...] = field(repr=False)
    slope: float

    def __len__(self) -> int:
        return len(self.penalty)

    @property
    def n_parameters(self) -> int:
        """Stored numbers of the model at this rank."""
        return self.models[0].n_parameters

    def least_sensitive(self, error: float) -> Model:
        """The model of least sensitivity on the curve with at most this relative error.

        Parameters
        ----------
        error : float
            Relative.

        Returns
        -------
        Model
            From the curve.

        Raises
        ------
        ValueError
            When the curve does not reach it.

        Examples
        --------
        >>> import tensorchain as tc
        >>> T = tc.datasets.inverse_radius(order=3, size=6)
        >>> profile = tc.degeneracy_profile(T, "cp", 1, decades=2.0)
        >>> profile.least_sensitive(0.9).rank
        1
        """
        reached = np.flatnonzero(self.error <= error)
        if not reached.size:
            raise ValueError(
                f"error {error:g} was asked for, and the {self.name} of rank {self.rank} reaches "
                f"{self.error.min():.4g}: raise the rank"
            )
        return self.models[int(reached[np.argmin(self.sensitivity[reached])])]

    def plot(self, ax: Axes | None = None) -> Any:
        """Error against sensitivity.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib.axes.Axes
            Where it was drawn.

        Examples
        --------
        >>> from matplotlib.figure import Figure
        >>> import tensorchain as tc
        >>> T = tc.datasets.inverse_radius(order=3, size=6)
        >>> profile = tc.degeneracy_profile(T, "cp", 1, decades=2.0)
        >>> profile.plot(Figure().subplots()).get_xscale()
        'log'
        """
        from tensorchain.plotting import plot_profiles

        return plot_profiles([self], ax=ax)


def degeneracy_profile(
    tensor: Any,
    model: str | type[Model] | Model,
    rank: Any = None,
    *,
    starts: int = 1,
    rng: int | np.random.Generator | None = None,
    decades: float = 5.0,
    max_seconds: float | None = None,
) -> Any:
    """Trace error against sensitivity for one rank, or for several.

    Parameters
    ----------
    tensor : array_like or Tensor
        Array, or a data source of :mod:`tensorchain.tensors`.
    model : str, subclass of Model or Model
        As in `decompose`, or a model to start from, whose rank is taken.
    rank : int, tuple or list, optional
        One rank as in `decompose`, or a list of ranks.  For block terms, whose rank is itself a list of tuples, a list
        of such lists.
    starts : int, default 1
        Starts of the fit from which each path begins.
    rng : int or numpy.random.Generator, optional
        Seed or generator.
    decades : float, default 5.0
        Length of the path below its first stage, in decades of the penalty.
    max_seconds : float, optional
        Time limit for each rank.

    Returns
    -------
    object
        DegeneracyProfile, or a list of them for a list of ranks, to be drawn together by
        `tensorchain.plotting.plot_profiles`.

    Raises
    ------
    TypeError
        As `decompose`.
    ValueError
        As `decompose`.

    Examples
    --------
    >>> import tensorchain as tc
    >>> T = tc.datasets.inverse_radius(order=3, size=6)
    >>> one, two = tc.degeneracy_profile(T, "cp", [1, 2], rng=0)
    >>> bool(one.error[-1] > 10 * two.error[-1]), two.slope < 0.1
    (True, True)
    """
    source = as_tensor(tensor)
    generator = np.random.default_rng(rng)
    if isinstance(model, Model):
        return _profile(source, model, decades, max_seconds)
    kind = model_named(model)[0] if isinstance(model, str) else model
    ranks = _several(kind, source.shape, rank)
    profiles = []
    for one in [rank] if ranks is None else ranks:
        fit = decompose(source, model, one, starts=starts, rng=generator, max_seconds=max_seconds)
        profiles.append(_profile(source, fit.model, decades, max_seconds))
    return profiles[0] if ranks is None else profiles


def _several(kind: Any, shape: tuple[int, ...], rank: Any) -> Sequence[Any] | None:
    """The ranks, if `rank` is a list of several; None if it is a single one."""
    if not isinstance(rank, list):
        return None
    if not rank:
        raise ValueError("rank is an empty list; a rank, or a list of ranks, is needed")
    if all(isinstance(one, tuple) for one in rank) and hasattr(kind, "wiring"):
        try:
            kind.wiring(shape, rank)
        except (TypeError, ValueError):
            return rank
        # A list of tuples is one rank of a block-term model.
        return None
    return rank


def _profile(source: Tensor, start: Model, decades: float, max_seconds: float | None) -> DegeneracyProfile:
    """The path from a model, followed both ways."""
    down = trace_path(start, source, decades=decades, max_seconds=max_seconds)
    up = _upward(source, down, max_seconds)
    models = tuple(model.astype(start.dtype) for model, *_ in up) + down.models
    columns = np.array([figures for _, *figures in up]).reshape(-1, 3)
    return DegeneracyProfile(
        name=type(start).__name__,
        rank=start.rank,
        penalty=np.concatenate([columns[:, 0], down.penalty]),
        error=np.concatenate([columns[:, 1], down.error]),
        sensitivity=np.concatenate([columns[:, 2], down.sensitivity]),
        models=models,
        slope=down.slope,
    )


def _upward(
    source: Tensor, down: SensitivityPath, max_seconds: float | None
) -> list[tuple[Model, float, float, float]]:
    """(model, penalty, error, sensitivity) of the stages above the first of `down`, the penalty falling."""
    norm = source.norm()
    model = double_precision(down.models[0]).scaled(1.0 / norm)
    scale = Scale(norm, len(model.matrices))
    stages = Stages(source.scaled(1.0 / norm), 100, Clock(max_seconds))
    first = float(scale.unit_penalty(down.penalty[0]))
    point = Point(first, model, float(down.error[0]), model.sensitivity(), 0, False)
    rows: list[tuple[Model, float, float, float]] = []
    for _ in range(round(np.log10(TOP_SHARE / FIRST_SHARE) * PER_DECADE)):
        if stages.clock.expired:
            break
        point = stages.after(point, 10.0 ** (1.0 / PER_DECADE))
        if point.error > _ALL_LOST:
            break
        figures = scale.penalty(point.penalty), point.error, scale.sensitivity(point.sensitivity)
        rows.append((point.model.scaled(norm), *figures))
    return rows[::-1]
