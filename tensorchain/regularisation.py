"""The models that a fit passed on its way, from little sensitivity to little error.

A sensitivity path minimises ||T - X||^2 + nu SS for a falling nu.  Its minimisers are answers of their own: each has
the least error for its sensitivity that was found.  A fit carries them, as fits of linear models carry their
regularisation paths, so that another trade-off can be taken without another fit.

The corner of the curve of log error against log SS is where it is farthest from the line between its ends.  Beyond
it a little error costs much sensitivity.

References: Friedman, Hastie, Tibshirani, "Regularization paths for generalized linear models via coordinate descent"
(2010), for paths that are kept; Hansen, "Analysis of discrete ill-posed problems by means of the L-curve" (1992).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tensorchain.kernels import Array
from tensorchain.models import Model

_SHOWN = 20
"""Points that a path prints; of a longer one those at both ends."""
_FLAT = 0.05
"""Distance of the corner from the line, in units of the ends, below which the curve has none."""


@dataclass(frozen=True, eq=False)
class PathPoint:
    """A minimiser of ||T - X||^2 + nu SS.

    Attributes
    ----------
    penalty : float
        nu, for T as given.
    error : float
        ||T - X|| / ||T||.
    sensitivity : float
        SS, for T as given.
    model : Model
        X.
    """

    penalty: float
    error: float
    sensitivity: float
    model: Model = field(repr=False)


@dataclass(frozen=True, eq=False)
class RegularisationPath:
    """Models of less and less error and more and more sensitivity: none of them is worse in both than another.

    Parameters
    ----------
    points : sequence of PathPoint
        In the order of falling error.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> border = tc.datasets.border_cp((5, 5, 5), np.random.default_rng(0))
    >>> fit = tc.decompose(border.tensor, "cp", rank=2, solver="path", rng=0)
    >>> len(fit.path) > 5, bool(fit.path.error[0] > fit.path.error[-1])
    (True, True)
    >>> fit.path.knee.sensitivity < fit.sensitivity
    True
    """

    points: tuple[PathPoint, ...] = ()

    @classmethod
    def of(cls, points: Sequence[PathPoint]) -> RegularisationPath:
        """Those points that no other one beats in both figures."""
        chosen: list[PathPoint] = []
        for point in sorted(points, key=lambda p: (p.sensitivity, p.error)):
            if np.isfinite(point.sensitivity) and (not chosen or point.error < chosen[-1].error):
                chosen.append(point)
        return cls(tuple(chosen))

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, position: int) -> PathPoint:
        return self.points[position]

    def __iter__(self) -> Iterator[PathPoint]:
        return iter(self.points)

    @property
    def penalty(self) -> Array:
        """nu of each point."""
        return np.array([point.penalty for point in self.points])

    @property
    def error(self) -> Array:
        """||T - X|| / ||T|| of each point, falling."""
        return np.array([point.error for point in self.points])

    @property
    def sensitivity(self) -> Array:
        """SS of each point, rising."""
        return np.array([point.sensitivity for point in self.points])

    @property
    def models(self) -> tuple[Model, ...]:
        """The models."""
        return tuple(point.model for point in self.points)

    @property
    def knee(self) -> PathPoint | None:
        """The corner of the curve; its end where it is straight, None where there are no points."""
        if len(self.points) < 3:
            return self.points[-1] if self.points else None
        x, y = (np.log(np.maximum(values, np.finfo(float).tiny)) for values in (self.sensitivity, self.error))
        across = (x - x[0]) / max(x[-1] - x[0], np.finfo(float).tiny)
        down = (y[0] - y) / max(y[0] - y[-1], np.finfo(float).tiny)
        # From (0, 0) to (1, 1): above the line is where most of the error is gone for little sensitivity.
        gain = down - across
        best = int(np.argmax(gain))
        return self.points[best] if gain[best] > _FLAT else self.points[-1]

    def within(self, *, error: float | None = None, sensitivity: float | None = None) -> PathPoint | None:
        """The point of least sensitivity with at most this error, or of least error with at most this sensitivity.

        Parameters
        ----------
        error : float, optional
            Largest relative error.
        sensitivity : float, optional
            Largest SS.

        Returns
        -------
        PathPoint or None
            None where no point meets the bounds.
        """
        met = [
            point
            for point in self.points
            if (error is None or point.error <= error) and (sensitivity is None or point.sensitivity <= sensitivity)
        ]
        if not met:
            return None
        return met[0] if error is not None else met[-1]

    def __repr__(self) -> str:
        if not self.points:
            return "RegularisationPath(no points: the solver took no sensitivity path)"
        rows = [f"{'penalty':>10} {'error':>10} {'sensitivity':>12}"]
        rows += [f"{p.penalty:10.3g} {p.error:10.4g} {p.sensitivity:12.4g}" for p in self.points]
        if len(rows) > _SHOWN + 1:
            half = _SHOWN // 2
            rows = [*rows[: half + 1], f"{'...':>10} {len(rows) - 2 * half - 1} more", *rows[-half:]]
        return "\n".join(rows)
