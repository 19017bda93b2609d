"""The fits that a study makes of one rank, and the figures that they give.

For each rank the data are fitted from several starts, the data without each fold, and both halves of each split, in the
order in which parameters grow.  Fits go on from those of the rank before, with a small random part added, where no
better start is at hand; each has random numbers of its own, so that it does not matter in which process or order they
run, or whether a study was interrupted.

| figure | of which fits | formula |
|---|---|---|
| error | all data, the best start | e = ||T - X|| / ||T|| |
| gain | all data | F = (e'^2 - e^2) / (p - p') over e^2 / (N - p), with e', p' of the best smaller rank |
| held-out error | the data without a fold | mean over folds of the error on the fold |
| core consistency | all data, CP | see `tensorchain.core_consistency` |
| match of starts | starts within 1 % of the least error | least factor match with the best |
| match of halves | halves of a mode | mean over splits of the factor match over the other modes |

p are the free parameters, those of the gauge left out, and N the entries that are observed.  F of a part that fits
noise is 2 to 3, whatever the model (:mod:`tensorchain.diagnosis.support`).  For CP and block terms the match is that of
the component that matches worst: one that is made of noise shows there, and not in a mean over many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorchain.api import decompose
from tensorchain.diagnosis import core_consistency
from tensorchain.fit import Fit
from tensorchain.folds import Fold
from tensorchain.models import CP, BlockTerm, Model
from tensorchain.models.growth import grown_to
from tensorchain.models.validation import checked_wiring
from tensorchain.selection.quick import Quick
from tensorchain.solvers import Constraint, Solver
from tensorchain.solvers.starts import is_tree
from tensorchain.stability import factor_match
from tensorchain.tensors import Tensor

NEAR = 0.01
"""Starts whose error is within this share of the least are compared."""
EXACT = 1e-7
"""Relative error below which nothing is left to explain."""


@dataclass(frozen=True)
class RankRow:
    """What a study says of one rank.

    Attributes
    ----------
    rank : int, tuple or list
        As `decompose` takes it.
    parameters : int
        Numbers in the model.
    error : float
        ||T - X|| / ||T|| of the best start.
    gain : float
        What the rank explains beyond the best smaller one, for each further parameter, over what is left for each
        degree of freedom: 2 to 3 for a part that is fitted to noise.
    held_out : float
        Mean relative error on entries that the fit has not seen.
    held_out_errors : tuple of float
        The same fold by fold.
    core_consistency : float
        In percent; NaN for models that are no CP.
    starts_near : int
        Starts that came within 1 % of the least error.
    starts_match : float
        How well the worst of these agrees with the best, 0 to 1; NaN where there is one.
    halves_match : float
        How well the fits to two halves of the data agree over the modes that they share; NaN where that says nothing.
    sensitivity : float
        SS / ||X||^(2(K-1)/K) of the best start, which no change of scale moves.
    reason : str
        Why the best start ended.
    seconds : float
        That all fits of the rank took, over all processes.
    fit : Fit
        The best start.
    """

    rank: Any
    parameters: int
    error: float
    gain: float
    held_out: float
    held_out_errors: tuple[float, ...]
    core_consistency: float
    starts_near: int
    starts_match: float
    halves_match: float
    sensitivity: float
    reason: str
    seconds: float
    fit: Fit = field(repr=False, compare=False)

    @property
    def held_out_standard_error(self) -> float:
        """Standard error of the mean over folds; NaN where there are none."""
        errors = np.array(self.held_out_errors)
        return float(errors.std(ddof=1) / math.sqrt(len(errors))) if len(errors) > 1 else math.nan


@dataclass(frozen=True)
class Plan:
    """What is fitted for each rank.

    Attributes
    ----------
    tensor : Tensor
        All data.
    kind : subclass of Model
        Type of Model.
    folds : tuple of Fold
    halves : tuple of (Tensor, Tensor)
        The halves of each split.
    mode : int
        Whose slices the halves have.
    starts : int
        Of the fits to all data.
    solver : Solver or None
        None for the quick one.
    constraint : Constraint or None
    seed : int
    """

    tensor: Tensor
    kind: type[Model]
    folds: tuple[Fold, ...]
    halves: tuple[tuple[Tensor, Tensor], ...]
    mode: int
    starts: int
    solver: Solver | None
    constraint: Constraint | None
    seed: int

    def parts(self, rank: Any) -> list[Tensor]:
        """The data of each fit: whole ones, those without a fold, halves where they can determine the rank."""
        parts = [self.tensor] * self.starts + [fold.rest for fold in self.folds]
        return parts + [half for pair in self.compared(rank) for half in pair]

    def compared(self, rank: Any) -> tuple[tuple[Tensor, Tensor], ...]:
        """The splits whose halves can determine a model of this rank."""
        return tuple(pair for pair in self.halves if all(determined(self.kind, half.shape, rank) for half in pair))


@dataclass(frozen=True)
class Task:
    """One fit; it can run in another process."""

    tensor: Tensor
    kind: type[Model]
    rank: Any
    solver: Solver
    constraint: Constraint | None
    warm: Model | None
    seed: tuple[int, ...]

    def __call__(self, max_seconds: float | None = None) -> Fit:
        """Fit it."""
        rng = np.random.default_rng(self.seed)
        if self.warm is None:
            return decompose(
                self.tensor, self.kind, self.rank, solver=self.solver, constraint=self.constraint, rng=rng,
                max_seconds=max_seconds,
            )  # fmt: skip
        start = grown_to(self.warm, checked_wiring(self.kind, self.tensor.shape, self.rank), rng)
        if self.constraint is not None:
            start = self.constraint.domain.folded(start)
        return decompose(
            self.tensor, init=start, solver=self.solver, constraint=self.constraint, rng=rng, max_seconds=max_seconds
        )


def tasks_of(plan: Plan, number: int, rank: Any, before: Sequence[Model]) -> list[Task]:
    """The fits of a rank, the n-th of the study; `before` are those of `models_of` for the rank before it."""
    tasks = []
    for k, part in enumerate(plan.parts(rank)):
        first = k == 0 or k >= plan.starts
        place = max(k - plan.starts + 1, 0)
        warm = before[place] if first and place < len(before) and plan.solver is None else None
        if warm is not None and (is_tree(warm) or not _within(warm, plan.kind, rank)):
            warm = None
        solver = Quick(random=not first) if plan.solver is None else plan.solver
        tasks.append(Task(part, plan.kind, rank, solver, plan.constraint, warm, (plan.seed, number, k)))
    return tasks


def row_of(plan: Plan, rank: Any, fits: Sequence[Fit], before: Sequence[RankRow]) -> RankRow:
    """The figures of a rank, from its fits in the order of `tasks_of`, and those of smaller ranks."""
    starts, rest = fits[: plan.starts], fits[plan.starts :]
    best = min(starts, key=lambda fit: (fit.gap, fit.objective))
    near = [fit for fit in starts if fit is best or fit.error <= best.error * (1.0 + NEAR)]
    held = [fold.error(fit.model) for fold, fit in zip(plan.folds, rest[: len(plan.folds)], strict=True)]
    halves = rest[len(plan.folds) :]
    unique = determined(plan.kind, plan.tensor.shape, rank)
    modes = [n for n in range(plan.tensor.order) if n != plan.mode]
    pairs = [agreement(one.model, two.model, modes) for one, two in zip(halves[::2], halves[1::2], strict=True)]
    return RankRow(
        rank=rank,
        parameters=best.model.n_parameters,
        error=best.error,
        gain=_gain(plan.tensor, best, before),
        held_out=float(np.mean(held)) if held else math.nan,
        held_out_errors=tuple(held),
        core_consistency=_consistency(best.model, plan.tensor),
        starts_near=len(near),
        starts_match=min((agreement(best.model, fit.model) for fit in near if fit is not best), default=math.nan)
        if unique
        else math.nan,
        halves_match=float(np.mean(pairs)) if pairs else math.nan,
        sensitivity=float(best.model.sensitivity(relative=True)),
        reason=best.reason.name,
        seconds=sum(fit.seconds for fit in fits),
        fit=best,
    )


def agreement(one: Model, two: Model, modes: Sequence[int] | None = None) -> float:
    """Factor match of the component that matches worst; of the spaces, where components are not compared."""
    try:
        match = factor_match(one, two, modes)
    except ValueError:
        return math.nan
    return min(match.components) if match.components else match.score


def determined(kind: type[Model], shape: Sequence[int], rank: Any) -> bool:
    """Whether data of this shape determine a generic model: its blocks and, by Kruskal's condition, those of a CP."""
    try:
        checked_wiring(kind, tuple(shape), rank)
    except ValueError:
        return False
    if kind is not CP or rank == 1:
        return True
    return sum(min(size, int(rank)) for size in shape) >= 2 * int(rank) + len(shape) - 1


def _within(model: Model, kind: type[Model], rank: Any) -> bool:
    """Whether the rank is one to which the model can grow."""
    old, new = model.network, checked_wiring(kind, model.shape, rank)
    if len(old.terms) > len(new.terms) or (len(old.terms) < len(new.terms) and kind is not BlockTerm):
        return False
    return all(
        size <= other.size_of.get(letter, 0)
        for term, other in zip(old.terms, new.terms, strict=False)
        for letter, size in term.sizes
    )


def _gain(tensor: Tensor, fit: Fit, before: Sequence[RankRow]) -> float:
    parameters = _free(fit)
    fewer = [row for row in before if _free(row.fit) < parameters]
    least = min(fewer, key=lambda row: row.error, default=None)
    error, spent = (1.0, 0) if least is None else (least.error, _free(least.fit))
    left = tensor.n_observed - parameters
    if left <= 0 or error <= EXACT:
        return math.nan
    explained = max(error**2 - fit.error**2, 0.0) / (parameters - spent)
    return explained / (fit.error**2 / left) if fit.error > EXACT else math.inf


def _free(fit: Fit) -> int:
    """Parameters, those of the gauge left out."""
    return fit.model.n_parameters - fit.model.gauge_dimension


def _consistency(model: Model, tensor: Tensor) -> float:
    if not isinstance(model, CP):
        return math.nan
    try:
        return core_consistency(model, tensor)
    except (ValueError, TypeError):
        # Too many numbers in the core of data with gaps, or data that cannot give it.
        return math.nan


def models_of(plan: Plan, fits: Sequence[Fit]) -> list[Model]:
    """The models from which the fits of the next rank go on: of the best start in the first place."""
    best = min(fits[: plan.starts], key=lambda fit: (fit.gap, fit.objective))
    return [best.model, *(fit.model for fit in fits[plan.starts :])]
