"""`decompose`: one call from a tensor to a `Fit`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tensorchain.fit import Fit, History, StopReason, starts_table
from tensorchain.models import Model
from tensorchain.models.validation import checked_wiring
from tensorchain.progress import Progress
from tensorchain.solvers import Constraint, Continuation, Iterate, Problem, Solver
from tensorchain.solvers.als import balanced
from tensorchain.solvers.checkpoint import Checkpoint
from tensorchain.solvers.loop import draw_seeds, run
from tensorchain.solvers.multistart import run_starts
from tensorchain.stability import optimal_gauge
from tensorchain.tensors import Tensor, as_tensor

_SUSPECT = 1e-6
"""Share of the sensitivity that is left by a change of gauge, below which the model is checked against the data."""


def decompose(
    tensor: Any,
    model: str | type[Model] | None = None,
    rank: Any = None,
    *,
    solver: Solver | None = None,
    constraint: Constraint | None = None,
    init: str | Model = "random",
    starts: int = 1,
    rng: int | np.random.Generator | None = None,
    callback: Callable[[Iterate], object] | None = None,
    max_seconds: float | None = None,
    jobs: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Fit:
    """Fit a model to a tensor.

    Parameters
    ----------
    tensor : array of order 2 to 10, or a door of :mod:`tensorchain.tensors`.  float32, float64 and
        complex128 are kept; integers and booleans become float64, float16 float32, complex64 complex128.
    model : "cp", "tucker", "btd", "tc", or a subclass of `Model`; not needed when `init` is a model.
    rank : CP: R.  Tucker: (R_1, ..., R_N) or one number.  TC: bonds (R_1, ..., R_N), R_n in front of
        core n, or one number.  BTD: one multilinear rank per term, [(2, 2, 2), (3, 3, 3)].
    solver : `Continuation()` (the default), `LM()` or `ALS()`.
    constraint : `Penalty(nu)`, `SensitivityBound(s)` or `ErrorBound(e)`.
    init : "random", "svd" (HOSVD, or ring SVD for a chain), or a model to start from; it is not changed.
    starts : number of starts; the best is returned, the others are kept in `fit.starts`.
    rng : seed or generator; the same seed gives the same result.
    callback : called with each `Iterate`; a true return value stops the run.
    max_seconds : time limit over all starts.
    jobs : workers for several starts, through joblib: -1 for all cores, 1 for this process alone; by default
        processes are used when much work is left after the first start and there is no callback.  Inside
        ``with joblib.parallel_config("dask"):`` (or ray) the starts run on that cluster.
    checkpoint : file in which the run is saved as it goes; where it exists the run goes on from it, to the
        same result, with the randomness of the interrupted run.  Starts then run in this process.
    progress : show error, sensitivity and time while it runs, in a terminal (on stderr) or a notebook.  Starts then
        run in this process.

    Returns
    -------
    Fit

    Raises
    ------
    ValueError, TypeError when the input cannot be decomposed; the message says what to change.

    Examples
    --------
    >>> import tensorchain as tc
    >>> T = tc.datasets.inverse_radius(order=3, size=8)
    >>> fit = tc.decompose(T, "cp", rank=3, rng=0)
    >>> fit.error < 1e-3, fit.model.shape
    (True, (8, 8, 8))
    """
    door = as_tensor(tensor)
    norm = door.norm()
    if norm == 0.0:
        raise ValueError("the tensor is zero everywhere: the relative error is undefined and there is nothing to fit")
    if not 1e-300 < norm < 1e300:
        raise ValueError(f"the tensor has norm {norm:.3g}; rescale it: norms between 1e-300 and 1e300 are supported")
    kind, rank = _model_of(model, rank, init, door)
    solver = Continuation() if solver is None else solver
    constraint = Constraint() if constraint is None else constraint
    _check_arguments(solver, constraint, starts, callback, max_seconds, jobs)
    if progress:
        with Progress(norm=norm, starts=starts, callback=callback) as shown:
            return decompose(
                door, kind, rank, solver=solver, constraint=constraint, init=init, starts=starts, rng=rng,
                callback=shown, max_seconds=max_seconds, checkpoint=checkpoint,
            )  # fmt: skip
    job = _Job(door, norm, kind, rank, init, solver, constraint, callback)
    generator = np.random.default_rng(rng)
    seeds = draw_seeds(generator, starts)
    if checkpoint is not None:
        return _best(list(_with_checkpoint(job, seeds, checkpoint, max_seconds)), constraint, norm)
    workers = 1 if callback is not None or starts == 1 else jobs
    return _best(list(run_starts(job, seeds, workers, max_seconds)), constraint, norm)


@dataclass(frozen=True)
class _Job:
    """One start: what it needs beside its seed.  Picklable, to run in another process."""

    door: Tensor
    norm: float
    kind: type[Model]
    rank: Any
    init: str | Model
    solver: Solver
    constraint: Constraint
    callback: Callable[[Iterate], object] | None

    def __call__(self, seed: int, max_seconds: float | None, checkpoint: Checkpoint | None = None) -> Fit:
        """Run the start, from the scale ||T|| = 1 back to that of T."""
        rng = np.random.default_rng(seed)
        unit = self.door.scaled(1.0 / self.norm)
        start = _start(self.kind, self.rank, self.init, unit, self.norm, rng)
        blocks = len(start.matrices)
        problem = Problem(unit, self.constraint.normalised(self.norm, blocks), rng, warm=self.init != "random")
        keep, resume = (None, None) if checkpoint is None else (checkpoint.offer, checkpoint.current)
        outcome = run(
            self.solver, problem, start, callback=self.callback, max_seconds=max_seconds, keep=keep, resume=resume
        )
        # A complex start of a real tensor stays complex: its error is that of the complex model.
        dtype = np.complex128 if outcome.best.model.dtype.kind == "c" else self.door.dtype
        gauged = _safely_gauged(unit, outcome.best)
        model = gauged.scaled(self.norm).astype(dtype)
        history = outcome.history
        return Fit(
            model=model,
            error=outcome.best.error,
            sensitivity=model.sensitivity(),
            reason=outcome.reason,
            iterations=max(len(history) - 1, 0),
            seconds=outcome.seconds,
            history=History(
                history.error,
                history.sensitivity * self.norm ** (2.0 * (blocks - 1) / blocks),
                history.penalty * self.norm ** (2.0 / blocks),
                history.seconds,
            ),
            solver=repr(self.solver),
            dimension_names=self.door.dimension_names,
        )


def _safely_gauged(unit: Tensor, best: Iterate) -> Model:
    """The best iterate in its optimal gauge, as long as the error that is reported holds there.

    Blocks that nearly cancel may not survive a change of gauge.  One pass over the data tells; it is made only
    where the gauge has taken away most of the sensitivity.
    """
    gauged = optimal_gauge(best.model)
    if gauged.sensitivity() > _SUSPECT * best.sensitivity or not np.isfinite(best.error):
        return gauged
    return gauged if unit.residual_norm(gauged) <= best.error * (1.0 + 1e-6) + 1e-12 else best.model


def _with_checkpoint(
    job: _Job, seeds: list[int], path: str | os.PathLike[str], max_seconds: float | None
) -> Iterator[Fit]:
    """The starts one after the other, each saved as it goes."""
    template = _start(job.kind, job.rank, job.init, job.door.scaled(1.0 / job.norm), job.norm, np.random.default_rng(0))
    what = f"{job.kind.__name__} {template.shape} rank {template.rank} norm {job.norm!r} {job.door.dtype} "
    state = Checkpoint(path, what + f"{job.solver!r} {job.constraint!r} starts {len(seeds)}", template, seeds)
    state.read()
    yield from state.finished
    deadline = None if max_seconds is None else time.monotonic() + max_seconds
    for seed in state.seeds[len(state.finished) :]:
        if deadline is not None and time.monotonic() >= deadline and state.finished:
            return
        fit = job(seed, None if deadline is None else max(deadline - time.monotonic(), 1e-3), state)
        if fit.reason in (StopReason.INTERRUPTED, StopReason.TIME_LIMIT, StopReason.CALLBACK):
            if state.current is not None:
                state.write()
            yield fit
            return
        state.close(fit)
        yield fit


def _best(fits: list[Fit], constraint: Constraint, norm: float) -> Fit:
    """The best start, compared in the scale ||T|| = 1 in which `constraint.merit` takes relative errors."""
    blocks = len(fits[0].model.matrices)
    unit = constraint.normalised(norm, blocks)
    scale = norm ** (-2.0 * (blocks - 1) / blocks)
    best = min(fits, key=lambda fit: unit.merit(fit.error, fit.sensitivity * scale))
    return best if len(fits) == 1 else replace(best, starts=starts_table(fits))


def _model_of(model: Any, rank: Any, init: Any, door: Tensor) -> tuple[type[Model], Any]:
    """The class and rank that the arguments name."""
    if isinstance(init, Model):
        if init.shape != door.shape:
            raise ValueError(f"init has shape {init.shape}, the tensor {door.shape}; they must be equal")
        named = Model.registry.get(model) if isinstance(model, str) else model
        if model is not None and named is not type(init):
            raise ValueError(f"model {model!r} was asked for and init is a {type(init).__name__}; drop one of them")
        if rank is not None and checked_wiring(type(init), door.shape, rank) != init.network:
            raise ValueError(f"rank {rank!r} was asked for and init has rank {init.rank!r}; drop one of them")
        return type(init), init.rank
    if not isinstance(init, str) or init not in ("random", "svd"):
        raise ValueError(f"init is {init!r}; 'random', 'svd' or a model is needed")
    if model is None:
        raise ValueError("no model was given; name one of 'cp', 'tucker', 'btd', 'tc', or pass init=model")
    if isinstance(model, str):
        if model not in Model.registry:
            raise ValueError(f"model {model!r} is unknown; known are {', '.join(sorted(Model.registry))}")
        kind = Model.registry[model]
    elif isinstance(model, type) and issubclass(model, Model):
        kind = model
    else:
        raise TypeError(f"model is {model!r}; a name or a subclass of Model is needed")
    checked_wiring(kind, door.shape, rank)
    return kind, rank


def _check_arguments(solver: Any, constraint: Any, starts: Any, callback: Any, max_seconds: Any, jobs: Any) -> None:
    if isinstance(solver, type) or not hasattr(solver, "steps"):
        raise TypeError(f"solver is {solver!r}; an instance such as ALS(), LM() or Continuation() is needed")
    if not isinstance(constraint, Constraint):
        raise TypeError(f"constraint is {constraint!r}; Penalty(nu), SensitivityBound(s) or ErrorBound(e) is needed")
    if isinstance(starts, bool) or not isinstance(starts, (int, np.integer)) or starts < 1:
        raise ValueError(f"starts is {starts!r}; a positive integer is needed")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback is {callback!r}; a function of one Iterate is needed")
    if jobs is not None and (isinstance(jobs, bool) or not isinstance(jobs, int) or jobs == 0):
        raise ValueError(f"jobs is {jobs!r}; a number of workers, -1 for all cores, or None is needed")
    if max_seconds is not None and not isinstance(max_seconds, (int, float, np.integer, np.floating)):
        raise TypeError(f"max_seconds is {max_seconds!r}; a positive number, or None, is needed")
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"max_seconds is {max_seconds!r}; a positive number, or None, is needed")


def _start(
    kind: type[Model], rank: Any, init: str | Model, unit: Tensor, norm: float, rng: np.random.Generator
) -> Model:
    """A start in the scale ||T|| = 1, in double precision and balanced."""
    double = np.dtype(np.complex128 if unit.dtype.kind == "c" else np.float64)
    if isinstance(init, Model):
        double = np.result_type(double, init.dtype)
        if not np.isfinite(init.norm()):
            raise ValueError("init overflows: the norm of its tensor is not finite; scale its blocks down")
        return optimal_gauge(balanced(init.astype(double).scaled(1.0 / norm)))
    if init == "random":
        start = kind.random(unit.shape, rank, rng, dtype=double)
    else:
        network = checked_wiring(kind, unit.shape, rank)
        start = kind.from_matrices(network, kind.svd_matrices(network, unit, rng))
    size = start.norm()
    return optimal_gauge(start.scaled(1.0 / size), tol=1e-2) if size > 0.0 else start
