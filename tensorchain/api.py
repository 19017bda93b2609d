"""`decompose`: one call from a tensor to a `Fit`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from tensorchain.fit import Fit, StopReason, starts_table
from tensorchain.keywords import helpful
from tensorchain.models import Model, Tucker
from tensorchain.models.names import bonds_of_train, model_named
from tensorchain.models.partial import partial_rank, with_identities
from tensorchain.models.validation import checked_wiring
from tensorchain.progress import Progress
from tensorchain.solvers import ALS, LM, Auto, Constraint, ErrorBound, Free, Iterate, Path, SensitivityBound, Solver
from tensorchain.solvers.automatic_rank import AUTOMATIC, tucker_rank
from tensorchain.solvers.checkpoint import Checkpoint, problem_of
from tensorchain.solvers.constraints import Domain, SquaredError, Within
from tensorchain.solvers.constraints.fixed import Fixed
from tensorchain.solvers.loop import draw_seeds
from tensorchain.solvers.multistart import run_starts
from tensorchain.solvers.problem import Clock
from tensorchain.solvers.ranks import RankSearch
from tensorchain.solvers.start import Start
from tensorchain.tensors import Device, Tensor, as_tensor
from tensorchain.tensors.outside import shown


@helpful()
def decompose(
    tensor: Any,
    model: str | type[Model] | None = None,
    rank: Any = None,
    *,
    error: float | None = None,
    solver: str | Solver | None = None,
    constraint: Constraint | None = None,
    init: str | Model | Fit = "random",
    fixed: int | str | Sequence[int | str] | None = None,
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
    tensor : array_like or Tensor
        Array of order 2 to 50, or a data source of :mod:`tensorchain.tensors`.  float32, float64 and complex128 are
        kept; integers and booleans become float64, float16 float32, complex64 complex128.
    model : str or subclass of Model, optional
        "cp", "tucker", "btd", "tc", "tt" (a chain whose first bond is 1), or a subclass of `Model`; not needed when
        `init` is a model.  Other names in use ("parafac", "hosvd", "tr") and any case are understood.
    rank : int, tuple or list, optional
        CP: R.  Tucker: (R_1, ..., R_N) or one number; None in place of R_n leaves mode n as it is; "evbmf" for as
        many directions of each mode as stand out of the noise (variational Bayes).  TC: bonds (R_1, ..., R_N), R_n in
        front of core n, or one number.  TT: the inner bonds (R_1, ..., R_{N-1}) or one number. BTD: one multilinear
        rank per term, [(2, 2, 2), (3, 3, 3)].
    error : float, optional
        In place of `rank`: the relative error that is allowed, 0 < e < 1.  The ranks are those of the fewest parameters
        that a search finds, its bounds and signs kept where there is a constraint; where none meets the error, the
        reason is INFEASIBLE.
    solver : str or Solver, optional
        `Auto()` (the default), `Path()`, `LM()` or `ALS()`, or their names in small letters.
    constraint : Constraint, optional
        `Penalty(nu)`, `SensitivityBound(s)`, `ErrorBound(e)`, `NonNegative()`, or several joined by `&`.
    init : str, Model or Fit, default "random"
        "random", "svd" (HOSVD, or ring SVD for a chain), or a model or fit to start from; it is not changed.
    fixed : int, str or sequence of int or str, optional
        Modes whose blocks stay those of `init`, to the last bit, as (0, 2); also names of modes, and "core".  Free
        modes may have another size than in `init`: these are the factors of new samples.
    starts : int, default 1
        Number of starts; the best is returned, all are listed in `fit.starts`.  Where `init` is a model or "svd", the
        first start is just that, and the others have noise on it.
    rng : int or numpy.random.Generator, optional
        Seed or generator; the same seed gives the same result.
    callback : callable, optional
        Called with each `Iterate`; a true return value stops the run.
    max_seconds : float, optional
        Time limit over everything, starts and the last change of gauge included.
    jobs : int, optional
        Workers for several starts, through joblib: -1 for all cores, 1 for this process alone; by default processes are
        used when much work is left after the first start and there is no callback.  Inside
        ``with joblib.parallel_config("dask"):`` (or ray) the starts run on that cluster.
    checkpoint : str or os.PathLike[str], optional
        File in which the run is saved as it goes; where it exists the run goes on from it, to the same result, with the
        randomness of the interrupted run.  Starts then run in this process.
    progress : bool, default False
        Show error, sensitivity and time while it runs, in a terminal (on stderr) or a notebook.  Starts then run in
        this process.

    Returns
    -------
    Fit
        With the `model`, its relative `error`, its `sensitivity`, and the `reason` why it stopped.

    Raises
    ------
    TypeError
        When an argument is of a kind that cannot be decomposed or used; the message says what to change.
    ValueError
        When data, rank or an option are out of range or do not fit each other; the message says what to change.

    Examples
    --------
    >>> import tensorchain as tc
    >>> T = tc.datasets.inverse_radius(order=3, size=8)
    >>> fit = tc.decompose(T, "cp", rank=3, rng=0)
    >>> fit.error < 1e-3, fit.model.shape
    (True, (8, 8, 8))
    >>> tc.decompose(T, "tt", error=0.01).model.rank
    (1, 2, 2)
    """
    clock = Clock(_checked_limit(max_seconds))
    source = as_tensor(tensor)
    norm = source.norm()
    if norm == 0.0:
        raise ValueError("the tensor is zero everywhere: the relative error is undefined and there is nothing to fit")
    if not 1e-300 < norm < 1e300:
        raise ValueError(f"the tensor has norm {norm:.3g}; rescale it: norms between 1e-300 and 1e300 are supported")
    init = init.model if isinstance(init, Fit) else init
    solver = None if solver is None else solver_of(solver)
    constraint = Free() if constraint is None else constraint
    _check_arguments(constraint, starts, callback, jobs)
    if fixed is not None:
        constraint = constraint & Fixed.of(fixed, init, source)
    if progress:
        with Progress(norm=norm, starts=starts, callback=callback) as shown:
            return decompose(
                source, model, rank, error=error, solver=solver, constraint=constraint, init=init, starts=starts,
                rng=rng, callback=shown, max_seconds=max_seconds, checkpoint=checkpoint,
            )  # fmt: skip
    if error is not None:
        _check_search(error, rank, init, constraint, checkpoint)
        kind, train = _kind_of(model)
        generator = np.random.default_rng(rng)
        fitter = _Fitter(source, kind, train, solver, starts, generator, callback, jobs, clock, constraint)
        search = RankSearch(
            source, kind, float(error), fitter, train, generator, clock, solver is not None, constraint
        )  # fmt: skip
        return search.run()
    held = isinstance(init, Model) and bool(constraint.domain.fixed(init.network))
    kind, rank, untouched = _model_of(model, rank, init, source, held)
    if untouched and not constraint.free:
        raise ValueError(
            f"rank has None for mode {untouched[0] + 1}, and a constraint was given; a partial Tucker model is fitted "
            f"without constraints: give {source.shape[untouched[0]]} in place of None, or drop the constraint"
        )
    network = init.network if isinstance(init, Model) else checked_wiring(kind, source.shape, rank)
    constraint.domain.check(network, source.dtype, init if isinstance(init, Model) else None)
    solver = Auto() if solver is None else solver
    job = Start(source, norm, kind, rank, init, solver, constraint, callback)
    seeds = draw_seeds(np.random.default_rng(rng), starts)
    if checkpoint is not None:
        best = _best(_with_checkpoint(job, seeds, checkpoint, clock))
    else:
        # One device serves one process: others would each hold a copy of the data there.
        here = jobs is None and isinstance(source, Device) and source.away
        workers = 1 if callback is not None or starts == 1 or here else jobs
        best = _best(run_starts(job, seeds, workers, clock))
    if untouched and isinstance(best.model, Tucker):
        whole = with_identities(best.model, untouched)
        best = replace(best, model=whole, sensitivity=whole.sensitivity())
    return replace(best, again=partial(_traded, source, constraint.domain))


@dataclass
class _Fitter:
    """Fits of a search over ranks: the same data, time and randomness."""

    source: Tensor
    kind: type[Model]
    train: bool
    solver: Solver | None
    starts: int
    rng: np.random.Generator
    callback: Callable[[Iterate], object] | None
    jobs: int | None
    clock: Clock
    constraint: Constraint

    def __call__(
        self, start: Any, *, solver: Solver | None = None, until: Callable[[Iterate], object] | None = None
    ) -> Fit:
        """Fit from a model, or afresh at a rank."""
        stopped = False

        def callback(iterate: Iterate) -> bool:
            nonlocal stopped
            stopped = stopped or (self.callback is not None and bool(self.callback(iterate)))
            return stopped or (until is not None and bool(until(iterate)))

        warm = isinstance(start, Model)
        left = self.clock.left
        fit = decompose(
            self.source, None if warm else self.kind, None if warm else start, init=start if warm else "random",
            solver=solver or self.solver, starts=1 if warm else self.starts, rng=self.rng, callback=callback,
            jobs=self.jobs, max_seconds=None if left is None else max(left, 1e-3), constraint=self.constraint,
        )  # fmt: skip
        # A callback of the user ends the whole search; the search's own is a limit like others.
        ours = fit.reason is StopReason.CALLBACK and not stopped
        return replace(fit, reason=StopReason.ITERATION_LIMIT) if ours else fit


def _traded(source: Tensor, domain: Domain, start: Model, error: float | None, sensitivity: float | None) -> Fit:
    """The same data from a model, at an error or a sensitivity."""
    bound = (
        ErrorBound(error) if error is not None else SensitivityBound(math.nan if sensitivity is None else sensitivity)
    )
    return decompose(source, init=start, solver=LM(), constraint=bound & Within(domain))


def solver_of(solver: str | Solver | None) -> Solver:
    """The solver that is meant.

    Raises
    ------
    TypeError
        When it is neither a name nor a solver.
    ValueError
        When the name is unknown.
    """
    if solver is None:
        return Auto()
    if isinstance(solver, str):
        known: dict[str, type[Solver]] = {"auto": Auto, "als": ALS, "lm": LM, "path": Path}
        if solver.lower() not in known:
            raise ValueError(f"solver {solver!r} is unknown; known are {', '.join(map(repr, known))}")
        return known[solver.lower()]()
    if isinstance(solver, type) or not hasattr(solver, "steps"):
        raise TypeError(
            f"solver is {shown(solver)}; a name ('auto', 'als', 'lm', 'path') or an instance such as ALS() is needed"
        )
    return solver


def _with_checkpoint(
    job: Start, seeds: list[int], path: str | os.PathLike[str], clock: Clock
) -> Iterator[tuple[int, Fit]]:
    """The starts one after the other, each saved as it goes."""
    template = job.first_model(job.tensor.scaled(1.0 / job.norm), np.random.default_rng(0))
    what = problem_of(job.tensor, template, job.init, job.solver, job.constraint, len(seeds))
    state = Checkpoint(path, what, template, seeds)
    state.read()
    yield from enumerate(state.finished)
    for number in range(len(state.finished), len(state.seeds)):
        if clock.expired and state.finished:
            return
        left, resumed = clock.left, state.current
        try:
            fit = job(state.seeds[number], None if left is None else max(left, 1e-3), number, state)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            # A state whose figures fit their digest and not the solver.
            if resumed is None or state.current is not resumed:
                raise
            raise ValueError(
                f"{os.fspath(path)!r} holds a run that cannot go on ({error!r}); delete it to start anew"
            ) from error
        if fit.reason in (StopReason.INTERRUPTED, StopReason.TIME_LIMIT, StopReason.CALLBACK):
            if state.current is not None:
                state.write()
            yield number, fit
            return
        state.close(fit)
        yield number, fit


def _best(numbered: Iterable[tuple[int, Fit]]) -> Fit:
    """The best start; all of them are in its table, in the order of their seeds.

    An interrupt ends all starts: the best of those that are finished says so.
    """
    found: list[tuple[int, Fit]] = []
    interrupted = False
    try:
        for pair in numbered:
            found.append(pair)
            interrupted = pair[1].reason is StopReason.INTERRUPTED
    except KeyboardInterrupt:
        if not found:
            raise
        interrupted = True
    fits = [fit for _, fit in sorted(found, key=lambda pair: pair[0])]
    best = min(fits, key=lambda fit: (fit.gap, fit.objective))
    if interrupted:
        best = replace(best, reason=StopReason.INTERRUPTED)
    return best if len(fits) == 1 else replace(best, starts=starts_table(fits))


def _kind_of(model: Any) -> tuple[type[Model], bool]:
    """The class that is meant, and whether its first bond is to be 1."""
    if model is None:
        raise ValueError("no model was given; name one of 'cp', 'tucker', 'btd', 'tc', 'tt', or pass init=model")
    if isinstance(model, str):
        return model_named(model)
    if isinstance(model, type) and issubclass(model, Model):
        return model, False
    raise TypeError(f"model is {shown(model)}; a name or a subclass of Model is needed")


def _model_of(
    model: Any, rank: Any, init: Any, source: Tensor, held: bool = False
) -> tuple[type[Model], Any, tuple[int, ...]]:
    """The class and rank that the arguments name, and the modes that a partial Tucker model leaves as they are."""
    if isinstance(init, Model):
        if init.shape != source.shape and not held:
            raise ValueError(
                f"init has shape {init.shape}, the tensor {source.shape}; they must be equal, but for "
                "free modes where fixed=... names the others"
            )
        if model is not None:
            named, train = _kind_of(model)
            if named is not type(init):
                raise ValueError(f"model {model!r} was asked for and init is a {type(init).__name__}; drop one of them")
            rank = bonds_of_train(rank, source.order) if train else rank
        if rank is not None and checked_wiring(type(init), source.shape, rank) != init.network:
            raise ValueError(f"rank {rank!r} was asked for and init has rank {init.rank!r}; drop one of them")
        return type(init), init.rank, ()
    if not isinstance(init, str) or init not in ("random", "svd"):
        raise ValueError(f"init is {shown(init)}; 'random', 'svd', a model or a fit is needed")
    kind, train = _kind_of(model)
    if train:
        rank = bonds_of_train(rank, source.order)
    if kind is Tucker and isinstance(rank, str) and rank.lower() == AUTOMATIC:
        rank = tucker_rank(source)
    rank, untouched = partial_rank(rank, source.shape) if kind is Tucker else (rank, ())
    checked_wiring(kind, source.shape, rank)
    return kind, rank, untouched


def _check_search(error: Any, rank: Any, init: Any, constraint: Constraint, checkpoint: Any) -> None:
    """Whether ranks can be searched for."""
    if isinstance(error, bool) or not isinstance(error, (int, float, np.integer, np.floating)):
        raise TypeError(f"error is {shown(error)}; a relative error between 0 and 1 is needed")
    if not 0.0 < error < 1.0:
        raise ValueError(f"error is {shown(error)}; a relative error between 0 and 1 is needed (0.05 for 5 percent)")
    if rank is not None:
        raise ValueError(
            f"error and rank {shown(rank)} were given; give error= to have the ranks found, or rank= with "
            "constraint=tc.ErrorBound(error)"
        )
    if not isinstance(init, str) or init != "random":
        raise ValueError("error was given together with init; a search over ranks makes its own starts: drop one")
    if any(bound.quantity == SquaredError() for bound in constraint.bounds):
        raise ValueError(
            f"error and {constraint!r} were given, which bound the same: drop the constraint to have the ranks found, "
            "or give rank= in place of error="
        )
    if checkpoint is not None:
        raise ValueError("error and checkpoint were given; a search over ranks has no checkpoint: drop one of them")


def _checked_limit(max_seconds: Any) -> float | None:
    if max_seconds is None:
        return None
    if isinstance(max_seconds, bool) or not isinstance(max_seconds, (int, float, np.integer, np.floating)):
        raise TypeError(f"max_seconds is {shown(max_seconds)}; a positive number, or None, is needed")
    if not max_seconds > 0:
        raise ValueError(f"max_seconds is {shown(max_seconds)}; a positive number, or None, is needed")
    return float(max_seconds)


def _check_arguments(constraint: Any, starts: Any, callback: Any, jobs: Any) -> None:
    if not isinstance(constraint, Constraint):
        known = "Penalty(nu), SensitivityBound(s), ErrorBound(e) or NonNegative()"
        raise TypeError(f"constraint is {shown(constraint)}; {known} is needed")
    if isinstance(starts, bool) or not isinstance(starts, (int, np.integer)) or starts < 1:
        raise ValueError(f"starts is {shown(starts)}; a positive integer is needed")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback is {shown(callback)}; a function of one Iterate is needed")
    if jobs is not None and (isinstance(jobs, bool) or not isinstance(jobs, int) or jobs == 0):
        raise ValueError(f"jobs is {shown(jobs)}; a number of workers, -1 for all cores, or None is needed")
