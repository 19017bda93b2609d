"""One start of a fit: from its seed to a Fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tensorchain.evaluation import Evaluator
from tensorchain.fit import Fit, History, StopReason
from tensorchain.kernels.interruption import OutOfTime, interruptible
from tensorchain.models import Model, Network
from tensorchain.models.scale import Scale
from tensorchain.models.validation import checked_wiring
from tensorchain.regularisation import PathPoint, RegularisationPath
from tensorchain.solvers.als import balanced
from tensorchain.solvers.checkpoint import Checkpoint
from tensorchain.solvers.constraints import Constraint, Domain
from tensorchain.solvers.constraints.fixed import begun, fitted_blocks
from tensorchain.solvers.loop import run
from tensorchain.solvers.problem import Clock, Iterate, Problem, Solver
from tensorchain.solvers.result import Given, finished, reason_of
from tensorchain.solvers.revive import revived, spare_parts
from tensorchain.solvers.starts import fitted_multiple
from tensorchain.tensors import Tensor

_ROOM = 4.0
"""Of bounds, for data in single precision, in units of their rounding."""
_NOISE = 0.3
"""Size of the noise on the second and later starts from one model, relative to each block."""


@dataclass(frozen=True)
class Start:
    """What one start needs beside its seed.  Picklable, to run in another process.

    Attributes
    ----------
    tensor : Tensor
        T as given.
    norm : float
        ||T||.
    kind, rank : subclass of Model or int, tuple or list
        Of the model.
    init : str or Model
        "random", "svd", or a model.
    solver, constraint, callback : Solver or Constraint or callable or None
        As in `decompose`.

    Examples
    --------
    >>> import tensorchain as tc
    >>> T = tc.datasets.inverse_radius(order=3, size=6)
    >>> len(tc.decompose(T, "cp", rank=2, starts=2, rng=0).starts)
    2
    """

    tensor: Tensor
    norm: float
    kind: type[Model]
    rank: Any
    init: str | Model
    solver: Solver
    constraint: Constraint
    callback: Callable[[Iterate], object] | None

    def __call__(
        self, seed: int, max_seconds: float | None, number: int = 0, checkpoint: Checkpoint | None = None
    ) -> Fit:
        """Run start number `number`, from the scale ||T|| = 1 back to that of T."""
        # Figures that are not finite are judged where they are met; the numbers of the user may be of any size.
        with np.errstate(all="ignore"):
            return self._run(seed, max_seconds, number, checkpoint)

    def _run(self, seed: int, max_seconds: float | None, number: int, checkpoint: Checkpoint | None) -> Fit:
        clock = Clock(max_seconds)
        rng = np.random.default_rng(seed)
        unit = self.tensor.computed().scaled(1.0 / self.norm)
        given = self.first_model(unit, rng, number, clock)
        scale = Scale.of(self.norm, given.network, given.shape)
        problem = Problem(
            unit, self.constraint.normalised(scale), rng, self.init != "random", clock, resumable=checkpoint is not None
        )
        keep, resume = (None, None) if checkpoint is None else (checkpoint.offer, checkpoint.current)
        begun, merit = self._alive(problem, given, rng)
        asked = problem
        if self.tensor.dtype == np.float32 and problem.constraint.bounds:
            # Blocks are rounded at the end, and the bounds hold for the model that is returned.
            asked = replace(problem, constraint=problem.constraint.with_room(_ROOM * float(np.finfo(np.float32).eps)))
        outcome = run(self.solver, asked, begun, callback=self.callback, keep=keep, resume=resume)
        # A complex start of a real tensor stays complex: its error is that of the complex model.
        dtype = np.dtype(np.complex128) if outcome.best.model.dtype.kind == "c" else self.tensor.dtype
        measure = getattr(self.solver, "final_pass", True)
        result = finished(problem, outcome.best, Given(given, merit), norm=self.norm, dtype=dtype, measure=measure)
        history, ended = outcome.history, reason_of(outcome, problem, result, self.solver)
        return Fit(
            model=result.model,
            error=result.error,
            sensitivity=result.model.sensitivity(),
            reason=ended.reason,
            # At rounding level the gradient is that of rounding.
            optimality=None if ended.reason is StopReason.EXACT else ended.optimality,
            iterations=max(len(history) - 1, 0),
            seconds=outcome.seconds if resume is not None else clock.elapsed,
            history=History(
                history.error, scale.sensitivity(history.sensitivity), scale.penalty(history.penalty), history.seconds
            ),
            solver=f"{self.solver!r}: {outcome.way}" if outcome.way else repr(self.solver),
            dimension_names=self.tensor.dimension_names,
            labels=self.tensor.labels,
            fixed=self._named(given, self.constraint.domain.fixed(given.network)),
            nonnegative=self._named(given, self.constraint.domain.restricted(given.network)),
            gap=result.merit[0],
            # Starts are compared by what they found.
            objective=result.merit[1] if outcome.best.least_error is None else outcome.best.least_error**2,
            standard_error=outcome.best.standard_error if result.at is None else None,
            least_error=outcome.best.least_error,
            path=_path(outcome.stages, scale, dtype, problem.constraint.domain),
        )

    def first_model(self, unit: Tensor, rng: np.random.Generator, number: int = 0, clock: Clock | None = None) -> Model:
        """The model to begin with, in the scale ||T|| = 1, in double precision and balanced."""
        double = np.dtype(np.complex128 if unit.dtype.kind == "c" else np.float64)
        domain = self.constraint.domain
        if isinstance(self.init, Model):
            double = np.result_type(double, self.init.dtype)
            if not np.isfinite(self.init.norm()):
                raise ValueError("init overflows: the norm of its tensor is not finite; scale its blocks down")
            fixed = domain.fixed(self.init.network)
            model = balanced(domain.as_given(self.init.astype(double)).scaled(1.0 / self.norm), fixed)
            model = begun(model, unit, domain, rng) if fixed else model
            return self._gauged(_moved(model, rng, domain) if number else model)
        if self.init == "random":
            network = checked_wiring(self.kind, unit.shape, self.rank)
            start = domain.drawn(_blank(self.kind, network, unit.shape, double), rng)
        else:
            network = checked_wiring(self.kind, unit.shape, self.rank)
            start = self.kind.from_matrices(network, self.kind.svd_matrices(network, unit, rng))
            start = _with_best_cores(unit.evaluator(domain.unfolded(start)), domain, clock or Clock())
            return self._gauged(_moved(start, rng, domain) if number else start)
        size = start.norm()
        return domain.optimal_gauge(start.scaled(1.0 / size), tol=1e-2) if size > 0.0 else start

    @staticmethod
    def _named(model: Model, blocks: Iterable[int]) -> tuple[str, ...]:
        return tuple(model.block_names[k] for k in sorted(blocks))

    def _gauged(self, model: Model) -> Model:
        return self.constraint.domain.optimal_gauge(model) if self.constraint.allows_gauge else model

    def _alive(
        self, problem: Problem, model: Model, rng: np.random.Generator
    ) -> tuple[Model, tuple[float, float] | None]:
        """A start whose spare parts see what is missing, and the merit of the start as it was where it is another."""
        if problem.constraint.domain.fixed(model.network) or not problem.warm or not spare_parts(model, 1.0)[1]:
            # Nothing is small beside T: what is missing need not be known, which takes a pass over the data.
            return model, None
        at = problem.evaluator(model)
        values = problem.constraint.measured(at)
        merged, parts = spare_parts(model, at.error())
        if not parts:
            return model, None
        fresh = problem.constraint.domain.folded(revived(merged, parts, rng))
        return fresh, problem.constraint.merit(values)


def _blank(kind: type[Model], network: Network, shape: tuple[int, ...], dtype: Any) -> Model:
    """A model of zeros."""
    pairs = zip(network.modes, network.widths, strict=True)
    return kind.from_matrices(network, [np.zeros((1 if n is None else shape[n], width), dtype) for n, width in pairs])


def _path(stages: Sequence[Iterate], scale: Scale, dtype: np.dtype[Any], domain: Domain) -> RegularisationPath:
    """The minimisers along the way, for T as given."""
    points = [
        PathPoint(
            penalty=float(scale.penalty(stage.stage_of or 0.0)),
            error=stage.error,
            sensitivity=float(scale.sensitivity(stage.sensitivity)),
            model=domain.as_given(stage.model.scaled(scale.norm).astype(dtype)),
        )
        for stage in stages
    ]
    return RegularisationPath.of(points)


def _with_best_cores(at: Evaluator, domain: Domain, clock: Clock) -> Model:
    """The model with its cores fitted: singular vectors say nothing of them."""
    cores = [k for k, mode in enumerate(at.network.modes) if mode is None]
    try:
        with interruptible(lambda: clock.expired):
            return fitted_blocks(at, cores, domain)
    except OutOfTime:
        # As if nothing were missing, and the factors were orthonormal.
        for k in cores:
            at.replace(k, at.rhs(k))
        return fitted_multiple(domain.folded(at.model), at.tensor)


def _moved(model: Model, rng: np.random.Generator, domain: Domain) -> Model:
    """The model with noise on its free blocks, for starts beyond the first."""
    noise, fixed = model.random_like(rng), domain.fixed(model.network)
    moved = []
    for k, (matrix, other) in enumerate(zip(model.matrices, noise.matrices, strict=True)):
        size = 0.0 if k in fixed else _NOISE * np.linalg.norm(matrix) / np.linalg.norm(other)
        moved.append(matrix + size * other)
    return domain.folded(model.with_matrices(moved))
