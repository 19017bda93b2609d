"""The sensitivity path from a model downward, and the power law on it.

Along the path the penalised problem

    theta(nu) = argmin ||T - X(theta)||^2 + nu SS(theta)

is solved for a falling sequence of nu, each stage from the minimiser of the one before.  If T has a best
approximation of this rank, SS(nu) tends to its sensitivity: the path is flat at the end.  If it has none, any sequence
of models that approaches the infimum of the error diverges, and with e(nu)^2 - e(0)^2 ~ SS^(-b) the balance
of both terms gives

    SS ~ nu^(-p),      p = 1 / (1 + b) > 0.

At order 3 a tensor of border rank 2 within reach (T = (a + t b)^3 / 2t - (a - t b)^3 / 2t + O(t^2)) has e^2 ~ t^4 and
SS ~ t^(-4/3): b = 3, p = 1/4.  Chains on the border, and approximations with an error left over, were seen at
p = 0.4 to 0.6.  So the exponent over the last decades tells the two apart, whatever the model.

**Where it begins.**  A model that has diverged says little about the scale of nu, so the first nu is a fixed share of
||T||^2 for the sensitivity that the model would have without cancellation (SS divided by its amplification).  The first
stage then brings the sensitivity down, and the path often leaves a swamp in which the model was stuck.  Where a
stage loses the tensor altogether it is repeated with a smaller nu.

**How each stage is solved.**  Levenberg-Marquardt, whose first damping is nu: after a warm start the usual
first damping would hide the flat directions along which blocks diverge.  Its tolerance follows the share of nu SS in
the objective, since a change of SS by a percent must still count where the error dominates.

Reference: Phan et al., "How to train your unstable looped tensor network" (2022), for degeneracy and sensitivity;
de Silva and Lim, "Tensor rank and the ill-posedness of the best low-rank approximation problem" (2008).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorchain.diagnosis.figures import cancellation, tensor_norm
from tensorchain.fit import StopReason
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.models.scale import Scale
from tensorchain.solvers import LM, Penalty, Problem
from tensorchain.solvers.constraints import Domain
from tensorchain.solvers.constraints.base import Normalised
from tensorchain.solvers.constraints.domain import EVERYWHERE
from tensorchain.solvers.loop import run
from tensorchain.solvers.problem import Clock
from tensorchain.stability.scales import double_precision, takes_fits
from tensorchain.tensors import Tensor, as_tensor

FIRST_SHARE = 1e-3
"""nu SS / ||T||^2 at the first stage, for the sensitivity without cancellation."""
DECADES = 7.0
"""Length of the path, in decades of nu."""
PER_DECADE = 2
"""Stages a decade."""
TAIL = 2.5
"""Decades at the end of the path over which power laws are fitted."""

_LOST = 0.7
"""Relative error of a first stage that has lost the tensor ..."""
_RETRIES = 6
_ACCURACY = 1e-3
"""Tolerance of a stage, relative to nu SS."""
_LOOSEST, _TIGHTEST = 1e-4, 1e-11
_MOST_DAMPING, _LEAST_DAMPING = 1e-2, 1e-14


@dataclass(frozen=True)
class SensitivityPath:
    """Error and sensitivity along the path; one entry a stage, the penalty falling.

    Attributes
    ----------
    penalty : ndarray
        nu, for T as given.
    error : ndarray
        ||T - X|| / ||T||.
    sensitivity : ndarray
        SS of the minimiser, for T as given.
    iterations : ndarray
        Of each stage.
    models : tuple of Model
        The minimisers.
    complete : bool
        False when the time limit cut the path short.
    """

    penalty: Array
    error: Array
    sensitivity: Array
    iterations: Array
    models: tuple[Model, ...] = field(repr=False)
    complete: bool = True

    def __len__(self) -> int:
        return len(self.penalty)

    @property
    def model(self) -> Model:
        """The last minimiser."""
        return self.models[-1]

    @property
    def slope(self) -> float:
        """p of SS ~ nu^(-p) at the end of the path; NaN with fewer than three stages.

        The smaller of the exponents fitted over the last decades and over the last one alone: where a weak component
        enters late, SS jumps and is flat again, and that is no power law.
        """
        logs = np.log(np.maximum(self.sensitivity, np.finfo(float).tiny))
        return min(self._exponent(logs, TAIL), self._exponent(logs, 1.0))

    @property
    def error_slope(self) -> float:
        """q of error ~ nu^q over the last decades: near 0 where the error stalls, 1 where it vanishes with nu."""
        return -self._exponent(np.log(np.maximum(self.error, np.finfo(float).tiny)), TAIL)

    @property
    def stalls(self) -> bool:
        """Whether the error has stopped falling: by less than 5 % over the last decade."""
        last = self.error[self.penalty <= 10.0 * self.penalty[-1] * (1.0 + 1e-9)]
        return bool(last[0] <= 1.05 * last[-1])

    def _exponent(self, logs: Array, decades: float) -> float:
        """Least-squares slope of `logs` against log(1 / nu) over the last decades."""
        depth = -np.log(self.penalty)
        tail = depth >= depth[-1] - decades * math.log(10.0) - 1e-9
        if np.count_nonzero(tail) < 3:
            return math.nan
        return float(np.polyfit(depth[tail], logs[tail], 1)[0])


@takes_fits
def trace_path(
    model: Model,
    tensor: Any,
    *,
    share: float = FIRST_SHARE,
    decades: float = DECADES,
    per_decade: int = PER_DECADE,
    max_iter: int = 100,
    max_seconds: float | None = None,
    domain: Domain = EVERYWHERE,
) -> SensitivityPath:
    """Follow the sensitivity path downward from a model.

    Parameters
    ----------
    model : Model
        Where to start, a model or a fit; it is not changed.
    tensor : array_like or Tensor
        Array, or a data class of :mod:`tensorchain.tensors`.
    share : float, optional
        nu SS / ||T||^2 of the first stage, in the scale of a model without cancellation.
    decades, per_decade : float or int, optional
        Length of the path and number of stages in each decade of nu.
    max_iter : int, default 100
        Most Levenberg-Marquardt iterations a stage.
    max_seconds : float, optional
        Time limit; the stages done by then are returned.
    domain : Domain, optional
        Where the blocks may lie.

    Returns
    -------
    SensitivityPath

    Raises
    ------
    ValueError
        When the tensor or the model is zero, their shapes differ, or an option is out of range.

    Examples
    --------
    A tensor of border rank 2 and rank 3 has no best approximation of rank 2:

    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.diagnosis import trace_path
    >>> border = tc.datasets.border_cp((4, 4, 4), np.random.default_rng(0))
    >>> path = trace_path(border.approximant(1e-2), border.tensor)
    >>> round(path.slope, 2), path.stalls
    (0.25, False)
    """
    source = as_tensor(tensor)
    start = double_precision(model)
    dtype = model.dtype
    if source.dtype.kind == "c" and dtype.kind != "c":
        # Blocks of a complex tensor are complex, wherever they start.
        start, dtype = start.astype(np.complex128), np.dtype(np.complex128)
    _check(source, start, share, decades, per_decade, max_iter)
    norm = source.norm()
    # Stages run in the scale ||T|| = 1; nu SS / ||T||^2 is the same in both.
    stages = Stages(source.scaled(1.0 / norm), max_iter, Clock(max_seconds), domain)
    points = [_first_point(stages, domain.optimal_gauge(start.scaled(1.0 / norm)), share)]
    count = 1 + round(decades * per_decade)
    factor = 10.0 ** (-1.0 / per_decade)
    while len(points) < count and not stages.clock.expired:
        points.append(stages.after(points[-1], factor))
    return assemble(points, norm, dtype, complete=len(points) == count and not points[-1].cut, domain=domain)


def assemble(
    points: Sequence[Point], norm: float, dtype: Any, complete: bool, domain: Domain = EVERYWHERE
) -> SensitivityPath:
    """The path through points of a tensor of norm 1, for the tensor of this norm."""
    scale = Scale(norm, len(points[0].model.matrices))
    return SensitivityPath(
        penalty=scale.penalty(np.array([point.penalty for point in points])),
        error=np.array([point.error for point in points]),
        sensitivity=scale.sensitivity(np.array([point.sensitivity for point in points])),
        iterations=np.array([point.iterations for point in points]),
        models=tuple(domain.as_given(domain.optimal_gauge(point.model).scaled(norm).astype(dtype)) for point in points),
        complete=complete,
    )


@dataclass(frozen=True)
class Point:
    """A minimiser on the path of a tensor of norm 1; `cut` says that the time limit ended its search."""

    penalty: float
    model: Model
    error: float
    sensitivity: float
    iterations: int
    cut: bool


class Stages:
    """Solves the penalised problems on one tensor of norm 1."""

    def __init__(self, unit: Tensor, max_iter: int, clock: Clock, domain: Domain = EVERYWHERE) -> None:
        self.unit, self.max_iter, self.clock, self.domain = unit, max_iter, clock, domain

    def after(self, point: Point, factor: float) -> Point:
        """The minimiser at `factor` times the penalty."""
        return self.minimise(point.model, point.penalty * factor, point.error, point.sensitivity)

    def minimise(self, model: Model, penalty: float, error: float, sensitivity: float) -> Point:
        """The minimiser next to `model`, whose error and sensitivity are given."""
        part = penalty * sensitivity
        weight = part / (part + error**2)
        solver = LM(
            max_iter=self.max_iter,
            tol=min(max(_ACCURACY * weight, _TIGHTEST), _LOOSEST),
            damping=min(max(penalty, _LEAST_DAMPING), _MOST_DAMPING),
        )
        priced = Penalty(penalty)
        constraint = Normalised(priced.objective, (), priced, self.domain)
        problem = Problem(self.unit, constraint, np.random.default_rng(0), clock=self.clock)
        done = run(solver, problem, model)
        best, cut = done.best, done.reason is StopReason.TIME_LIMIT
        return Point(penalty, best.model, best.error, best.sensitivity, len(done.history) - 1, cut)


def _first_point(stages: Stages, start: Model, share: float) -> Point:
    """The minimiser at the strongest penalty that does not lose the tensor."""
    size = tensor_norm(start)
    stable = start.sensitivity() / (max(cancellation(start, size), 1.0) if size > 0.0 else 1.0)
    penalty = share / stable
    error = stages.unit.residual_norm(start)
    point = stages.minimise(start, penalty, error, stable)
    for _ in range(_RETRIES):
        if point.error < max(_LOST, min(error, 1.0)) or stages.clock.expired:
            break
        penalty *= 0.1
        point = stages.minimise(start, penalty, error, stable)
    return point


def _check(source: Tensor, model: Model, share: float, decades: float, per_decade: int, max_iter: int) -> None:
    if model.shape != source.shape:
        raise ValueError(f"the model has shape {model.shape}, the tensor {source.shape}; they must be equal")
    if source.norm() == 0.0:
        raise ValueError("the tensor is zero everywhere: it has no sensitivity path")
    if any(not matrix.any() for matrix in model.matrices):
        raise ValueError("the model is zero everywhere; start from a fit, or from Model.random(shape, rank)")
    for name, value in {"share": share, "decades": decades}.items():
        if not 0.0 < value < math.inf:
            raise ValueError(f"{name} is {value!r}; a positive number is needed")
    for name, count in {"per_decade": per_decade, "max_iter": max_iter}.items():
        if count < 1:
            raise ValueError(f"{name} is {count!r}; at least 1 is needed")
