"""`rank_study`: which rank do the data bear out?

Every rank is fitted to all data from several starts, to the data without each of some folds, and to halves of the data
(:mod:`tensorchain.selection.fits`); a rule says which rank the figures recommend, and whether they decide
(:mod:`tensorchain.selection.rule`).  Cost: (starts + folds + 2 splits) quick fits for each rank.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tensorchain.api import solver_of
from tensorchain.fit import Fit, StopReason
from tensorchain.folds import Entries, checked_folds
from tensorchain.keywords import ELSEWHERE, helpful
from tensorchain.models import CP, Model, Tucker
from tensorchain.models.names import bonds_of_train, model_named
from tensorchain.models.partial import partial_rank
from tensorchain.models.validation import checked_wiring
from tensorchain.selection.fits import Plan, RankRow, Task, models_of, row_of, tasks_of
from tensorchain.selection.progress import StudyProgress, StudyStep
from tensorchain.selection.store import Store
from tensorchain.selection.study import RankStudy
from tensorchain.solvers import Constraint, Solver
from tensorchain.solvers.problem import Clock
from tensorchain.tensors import Tensor, as_tensor
from tensorchain.tensors.outside import shown

_ADVICE = {
    **ELSEWHERE,
    "rank": "use ranks=range(1, 9)",
    "n_components": "use ranks=range(1, 9)",
    "R": "use ranks=range(1, 9)",
    "error": "ranks from an error: decompose(T, 'cp', error=0.05)",
}


@helpful(_ADVICE)
def rank_study(
    tensor: Any,
    model: str | type[Model],
    ranks: Iterable[Any],
    *,
    starts: int = 5,
    folds: int = 5,
    splits: int = 2,
    split_mode: int | None = None,
    constraint: Constraint | None = None,
    solver: str | Solver | None = None,
    rng: int | np.random.Generator | None = None,
    jobs: int = 1,
    checkpoint: str | os.PathLike[str] | None = None,
    max_seconds: float | None = None,
    callback: Callable[[StudyStep], object] | None = None,
    progress: bool = False,
) -> RankStudy:
    """Fit a model at several ranks and say which one the data bear out.

    Parameters
    ----------
    tensor : array_like or Tensor
        Arrays, `Dense`, `Masked` and `Observed` data; `Sparse` data that fit in memory as arrays.
    model : str or type of Model
        As in `decompose`.
    ranks : iterable
        Ranks as `decompose` takes them: ``range(1, 9)`` for CP, tuples for Tucker, lists of tuples for block terms.
        They are studied in the order of their parameters.
    starts : int
        Starts of the fit to all data.
    folds : int
        Parts into which the observed entries are divided for the held-out error; at least 2.
    splits : int
        Divisions of the data into halves, 0 for none.
    split_mode : int, optional
        The mode whose slices are divided, that of the samples, say; by default the longest.
    constraint : Constraint, optional
        As in `decompose`, for all fits.
    solver : str or Solver, optional
        As in `decompose`, for all fits; by default sweeps from cheap starts and joint steps from the best of them,
        without the long search of the default of `decompose`.
    rng : int or numpy.random.Generator, optional
        Seed or generator; the same seed gives the same study.
    jobs : int
        Processes that share the fits of a rank, through joblib; -1 for all cores.
    checkpoint : str or path-like, optional
        File in which finished ranks are saved; where it exists the study goes on from it, to the same result.  More
        ranks may be asked for than the first time.
    max_seconds : float, optional
        No further rank is begun after this time, and one that is not finished is left out; the first is always there.
    callback : callable, optional
        Called with a `StudyStep` after each fit, or each rank where `jobs` share the fits; a true return value ends the
        study.
    progress : bool
        Show which rank is being fitted, in a terminal (on stderr) or a notebook.

    Returns
    -------
    RankStudy
        With the figures of each rank, `recommended`, `clear`, `evidence`, and `plot`.

    Raises
    ------
    ValueError
        For ranks that the tensor cannot determine, too few folds or entries, and a checkpoint of another study.
    TypeError
        For data that cannot be divided into folds.

    References
    ----------
    R. Bro, H. Kiers, "A new efficient method for determining the number of components in PARAFAC models", 2003.
    R. Bro, K. Kjeldahl, A. Smilde, H. Kiers, "Cross-validation of component models: a critical look at current
    methods", 2008.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> T = tc.datasets.exact_cp((9, 8, 7), 2, np.random.default_rng(0), noise=0.1).tensor
    >>> study = tc.rank_study(T, "cp", range(1, 4), starts=2, folds=4, splits=1, rng=0)
    >>> study.recommended, study.clear
    (2, True)
    """
    clock = Clock(_checked_limit(max_seconds))
    data = as_tensor(tensor)
    kind, listed = _checked_ranks(model, ranks, data.shape)
    mode = _checked_mode(split_mode, data.shape)
    counts = _Counts.checked(starts, folds, splits, jobs)
    solver = None if solver is None else solver_of(solver)
    entries = Entries.of(data)
    store = None
    if checkpoint is not None:
        problem = _problem(data, kind, solver, constraint, counts, mode)
        store = Store(checkpoint, problem, kind, ranks=listed, shape=data.shape)
    seed = _seed(rng) if store is None or store.seed is None else store.seed
    plan = _planned(data, kind, entries, counts, mode, solver, constraint, seed)
    display = StudyProgress(callback) if progress else None
    with display or nullcontext():
        rows = _Run(plan, listed, clock, counts.jobs, store, display or callback).rows()
    if not rows:
        raise KeyboardInterrupt
    return RankStudy(
        rows=tuple(rows),
        name=kind.__name__,
        shape=data.shape,
        starts=counts.starts,
        folds=counts.folds,
        splits=len(plan.halves),
        split_mode=mode,
        seed=seed,
        unique=kind is CP,
        complete=len(rows) == len(listed),
        seconds=clock.elapsed,
    )


@dataclass
class _Run:
    """One study under way."""

    plan: Plan
    ranks: Sequence[tuple[Any, Any]]
    clock: Clock
    jobs: int
    store: Store | None
    callback: Callable[[StudyStep], object] | None
    stopped: bool = False

    def rows(self) -> list[RankRow]:
        """The ranks that are finished: those of the checkpoint, then others."""
        rows = [] if self.store is None else list(self.store.rows)
        try:
            self._go_on(rows)
        except KeyboardInterrupt:
            if not rows:
                raise
        return rows

    def _go_on(self, rows: list[RankRow]) -> None:
        models = [] if self.store is None else self.store.models
        for number in range(len(rows), len(self.ranks)):
            if rows and (self.clock.expired or self.stopped):
                break
            label, rank = self.ranks[number]
            tasks = tasks_of(self.plan, number, rank, models)
            fits = self._fitted(tasks, number, first=not rows)
            if fits is None:
                break
            rows.append(replace(row_of(self.plan, rank, fits, rows), rank=label))
            models = models_of(self.plan, fits)
            if self.store is not None:
                self.store.write(self.plan.seed, rows, models)

    def _fitted(self, tasks: Sequence[Task], number: int, *, first: bool) -> list[Fit] | None:
        """The fits of a rank; None where the study ends before they are there."""
        if self.jobs != 1:
            return self._in_parallel(tasks, number, first=first)
        fits: list[Fit] = []
        for task in tasks:
            if self.clock.expired and not first:
                return None
            left = self.clock.left
            fit = task(None if left is None else max(left, 1e-3))
            if fit.reason is StopReason.INTERRUPTED:
                self.stopped = True
                return None
            fits.append(fit)
            if self.callback is not None:
                step = StudyStep(
                    [label for label, _ in self.ranks], number, len(fits), len(tasks), fit, self.clock.elapsed
                )
                self.stopped = bool(self.callback(step)) or self.stopped
                if self.stopped and not first and len(fits) < len(tasks):
                    return None
        return fits if first or not self.clock.expired else None

    def _in_parallel(self, tasks: Sequence[Task], number: int, *, first: bool) -> list[Fit] | None:
        try:
            from joblib import Parallel, delayed
        except ImportError as error:
            raise ImportError("jobs needs joblib: pip install tensorchain[parallel], or jobs=1") from error
        left = self.clock.left
        fits = Parallel(n_jobs=self.jobs)(delayed(task)(None if left is None else max(left, 1e-3)) for task in tasks)
        if self.callback is not None:
            labels = [label for label, _ in self.ranks]
            step = StudyStep(labels, number, len(tasks), len(tasks), fits[-1], self.clock.elapsed)
            self.stopped = bool(self.callback(step))
        return list(fits) if first or not self.clock.expired else None


@dataclass(frozen=True)
class _Counts:
    """How many fits of each sort, and in how many processes."""

    starts: int
    folds: int
    splits: int
    jobs: int

    @classmethod
    def checked(cls, starts: Any, folds: Any, splits: Any, jobs: Any) -> _Counts:
        count = checked_folds(folds, shown(folds))
        for name, value, least in (("starts", starts, 1), ("splits", splits, 0)):
            if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"{name} is {shown(value)}; an integer of at least {least} is needed")
        if isinstance(jobs, bool) or not isinstance(jobs, (int, np.integer)) or jobs == 0:
            raise ValueError(f"jobs is {shown(jobs)}; a number of processes, or -1 for all cores, is needed")
        return cls(int(starts), count, int(splits), int(jobs))


def _planned(
    data: Tensor,
    kind: type[Model],
    entries: Entries,
    counts: _Counts,
    mode: int,
    solver: Solver | None,
    constraint: Constraint | None,
    seed: int,
) -> Plan:
    """Folds and halves, drawn from the seed."""
    # The first draws are those of `cross_validate` with this seed.
    parts = tuple(entries.folds(counts.folds, np.random.default_rng(seed)))
    rng = np.random.default_rng([seed, 1])
    halves = []
    for _ in range(counts.splits):
        pair = entries.halves(mode, rng)
        if pair is not None and all(half.norm() > 0.0 for half in pair):
            halves.append(pair)
    return Plan(data, kind, parts, tuple(halves), mode, counts.starts, solver, constraint, seed)


def _checked_ranks(model: Any, ranks: Any, shape: tuple[int, ...]) -> tuple[type[Model], list[tuple[Any, Any]]]:
    """The class, and the ranks in the order of their parameters, each once: as given, and as the class takes them."""
    if isinstance(model, str):
        kind, train = model_named(model)
    elif isinstance(model, type) and issubclass(model, Model):
        kind, train = model, False
    else:
        raise TypeError(f"model is {shown(model)}; a name or a subclass of Model is needed")
    if isinstance(ranks, (str, bytes)) or not isinstance(ranks, Iterable):
        raise TypeError(
            f"ranks is {shown(ranks)}; several ranks are needed, such as range(1, 9) or [(2, 2, 2), (3, 3, 3)]"
        )
    sized: list[tuple[int, Any, Any]] = []
    for given in ranks:
        label = _plain(given)
        rank = bonds_of_train(label, len(shape)) if train else label
        rank = partial_rank(rank, shape)[0] if kind is Tucker else rank
        network = checked_wiring(kind, shape, rank)
        rows = [1 if mode is None else shape[mode] for mode in network.modes]
        size = sum(n * width for n, width in zip(rows, network.widths, strict=True))
        if all(network != checked_wiring(kind, shape, other) for *_, other in sized):
            sized.append((size, label, rank))
    if not sized:
        raise ValueError("ranks is empty; give some ranks, such as range(1, 9)")
    return kind, [(label, rank) for _, label, rank in sorted(sized, key=lambda entry: entry[0])]


def _plain(rank: Any) -> Any:
    """A rank in the numbers of Python."""
    if isinstance(rank, np.ndarray):
        return _plain(rank.tolist())
    if isinstance(rank, (list, tuple)):
        parts = tuple(_plain(part) for part in rank)
        return list(parts) if isinstance(rank, list) and any(isinstance(part, tuple) for part in parts) else parts
    return int(rank) if isinstance(rank, np.integer) else rank


def _seed(rng: Any) -> int:
    if isinstance(rng, (int, np.integer)) and not isinstance(rng, bool) and rng >= 0:
        return int(rng)
    return int(np.random.default_rng(rng).integers(2**63))


def _checked_mode(mode: Any, shape: tuple[int, ...]) -> int:
    if mode is None:
        return int(np.argmax(shape))
    if isinstance(mode, bool) or not isinstance(mode, (int, np.integer)) or not 0 <= mode < len(shape):
        raise ValueError(f"split_mode is {shown(mode)}; a mode from 0 to {len(shape) - 1} is needed")
    return int(mode)


def _checked_limit(max_seconds: Any) -> float | None:
    number = isinstance(max_seconds, (int, float, np.integer, np.floating)) and not isinstance(max_seconds, bool)
    if max_seconds is not None and not (number and max_seconds > 0):
        raise ValueError(f"max_seconds is {shown(max_seconds)}; a positive number, or None, is needed")
    return None if max_seconds is None else float(max_seconds)


def _problem(
    data: Tensor, kind: type[Model], solver: Any, constraint: Any, counts: _Counts, mode: int
) -> dict[str, str]:
    """What is studied, part by part."""
    return {
        "data": f"{type(data).__name__} of norm {data.norm():.6g}, digest {data.digest()}",
        "model": kind.__name__,
        "solver": repr(solver),
        "constraint": repr(constraint),
        "starts": str(counts.starts),
        "folds": str(counts.folds),
        "splits": f"{counts.splits} of mode {mode}",
    }
