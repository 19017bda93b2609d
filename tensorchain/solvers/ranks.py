r"""Ranks from an error: a model of few parameters with ||T - X|| <= e ||T||.

**Trains**       TT-SVD: every cut is an orthogonal projection, so that squared errors add; each cut gets an equal share
                 of e^2 ||T||^2, or the one with which the bonds need the fewest parameters (train_ranks.py).
**Tucker**       the smallest truncation of the HOSVD within e, all partial sums of the core's energies at hand.
**CP**           the rank doubles until a fit meets e, and is found by bisection.
**Loops**        bonds of one grow, one bond at a time, the one that lowers the squared error most for each parameter,
                 as long as the loop is smaller than the smallest train around it, which is the answer otherwise.
**Block terms**  as loops: a term grows in all modes, or another of rank one comes; the Tucker model is the other
                 answer.

Then all shrink: one index of a bond (or a term) goes, and sweeps try to come back within e, for large CP joint steps as
well; small loops and block terms are also fitted afresh at the smaller ranks.  Quasi-optimal truncations lose up to a
factor of sqrt(N), and this is where it is regained.  Data with gaps have no singular vectors: all models grow there.

**Constraints.**  A fit meets e where it meets the bounds of its constraint as well; with a price on the sensitivity it
is the minimiser of error and price together that has to.  Singular vectors are starts then, moved into the domain of
the blocks; where sweeps from there do not meet e, the ranks grow from there.

The ranks are the smallest that were found, a local minimum: least ranks are hard to find for all but matrices.

References: Oseledets, "Tensor-train decomposition" (2011); Vannieuwenhoven, Vandebril, Meerbergen, "A new truncation
strategy for the higher-order singular value decomposition" (2012).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from tensorchain.fit import Fit, StopReason
from tensorchain.kernels import Array
from tensorchain.kernels.interruption import OutOfTime, check_time, interruptible
from tensorchain.models import CP, BlockTerm, Model, TensorChain, Tucker
from tensorchain.models.growth import larger, smaller
from tensorchain.models.rounding import rounded_tucker
from tensorchain.models.validation import checked_wiring
from tensorchain.solvers.als import ALS
from tensorchain.solvers.constraints import Constraint, Free
from tensorchain.solvers.lm import LM
from tensorchain.solvers.problem import Clock, Iterate, Solver
from tensorchain.solvers.train_ranks import fewest_ranks, train_svd
from tensorchain.tensors import Tensor

_ROOM = 1e-9
"""Share of the error that is left to the rounding of a truncation."""
_LOOK, _GROW, _SHRINK = ALS(max_iter=4), ALS(max_iter=40, tol=1e-4), ALS(max_iter=100, tol=1e-5)
_POLISH, _POLISH_LARGE = LM(max_iter=60, tol=1e-6), ALS(max_iter=30, tol=1e-5)
_SLOW = 0.01
"""Share of the distance to the limit, below which a sweep is not worth another."""
_SMALL = 1000
"""Parameters up to which smaller ranks are also fitted afresh, and joint steps polish."""
_MEDIUM, _STEPS = 10_000, LM(max_iter=60, tol=1e-6)
"""Parameters of a CP up to which joint steps are tried where sweeps shrink it no more."""
_LARGE = ALS(max_iter=200, tol=1e-4)
"""From a random start of more parameters, where the user names no solver: the default would look too long at ranks that
cannot meet the error."""
_TRIED = 4
"""Candidates that are tried in each round of shrinking."""
_LARGEST = 2
"""Parameters for each entry up to which ranks are tried."""
_FORMED = 1 << 26
"""Entries up to which data are decomposed by SVD."""


class Fitter(Protocol):
    """Fits the data at a rank or from a model."""

    def __call__(
        self, start: Any, *, solver: Solver | None = None, until: Callable[[Iterate], object] | None = None
    ) -> Fit:
        """Fit from a model, or afresh at a rank, until an iterate is good enough."""


@dataclass
class RankSearch:
    """One search.

    Parameters
    ----------
    tensor : Tensor
    kind : subclass of Model
        Type of Model.
    error : float
        e.
    fit : Fitter
    train : bool
        Whether the chain has a first bond of 1.
    rng : numpy.random.Generator
    clock : Clock
    chosen : bool
        Whether the user chose the solver.
    constraint : Constraint
        Which all fits have.
    """

    tensor: Tensor
    kind: type[Model]
    error: float
    fit: Fitter
    train: bool
    rng: np.random.Generator
    clock: Clock
    chosen: bool = False
    constraint: Constraint = field(default_factory=Free)
    best: Fit | None = None
    """The smallest that meets the error."""
    nearest: Fit | None = None
    ended: StopReason | None = None
    """Why the search ended before its time."""
    count: int = 0

    def run(self) -> Fit:
        """The smallest fit within the error that is found, or the nearest one, which is INFEASIBLE."""
        network = checked_wiring(self.kind, self.tensor.shape, self._ones)
        self.constraint.domain.check(network, self.tensor.dtype)
        if self.kind is CP or self.kind not in (TensorChain, Tucker, BlockTerm):
            self._bisect()
        else:
            array = self._dense()
            if array is not None:
                for model in self._in_time(self._truncations(array)):
                    self._from(self.constraint.domain.unfolded(model))
            if array is None or (self.kind in (TensorChain, BlockTerm) and not self.train):
                self._grow()
            elif self.best is None:
                self._grow(self.nearest)
            self._once_more()
        self._shrink()
        return self._answer()

    def _in_time(self, models: Iterator[Model]) -> Iterator[Model]:
        """Those that are made before the time is up; where none is, the smallest ranks are all that is tried."""
        while True:
            try:
                with interruptible(lambda: self.clock.expired):
                    model = next(models, None)
                    check_time()
            except OutOfTime:
                self._try(self._ones)
                self.ended = self.ended or StopReason.TIME_LIMIT
                return
            if model is None:
                return
            yield model

    def _from(self, start: Model) -> None:
        """A start, and for a train also how far it shrinks: which of several shrinks furthest is not seen before."""
        before, self.best = self.best, None
        self._try(start, _SHRINK)
        if self.train:
            self._shrink()
        if before is not None and (self.best is None or _size(before) <= _size(self.best)):
            self.best = before

    def _once_more(self) -> None:
        """Joint steps, then other starts, at the nearest ranks: under constraints sweeps may creep far from an end."""
        if self.best is not None or self.nearest is None or self.constraint.free:
            return
        near = self.nearest.model
        if not self._met(self._try(near, self._polish(near))):
            self._try(near.rank)

    # -- what all ways share ------------------------------------------------------------

    def _try(self, start: Any, solver: Solver | None = None) -> Fit | None:
        """A fit until it meets the error or will not; None where the time is over."""
        if self.ended is not None:
            return None
        if self.clock.expired and self.nearest is not None:
            self.ended = StopReason.TIME_LIMIT
            return None
        before = [math.inf]

        def until(iterate: Iterate) -> bool:
            slow = solver is _SHRINK and before[0] - iterate.error < _SLOW * (iterate.error - self.error)
            before[0] = iterate.error
            feasible = iterate.merit is None or iterate.merit[0] <= 0.0
            return feasible and (slow or iterate.error <= self.error * (1.0 - _ROOM))

        if not isinstance(start, Model) and self._parameters(start) > _SMALL and not self.chosen:
            solver = _LARGE
        # Where more than the error is minimised, its value at the minimiser counts.
        alone = self.constraint.error_alone
        fit = self.fit(start, solver=solver, until=until if alone else None)
        if not alone and solver in (_SHRINK, _GROW):
            fit = self.fit(fit.model, solver=self._polish(fit.model))
        self.count += 1
        if fit.reason in (StopReason.INTERRUPTED, StopReason.CALLBACK):
            self.ended = fit.reason
        self._offer(fit)
        return fit

    def _offer(self, fit: Fit) -> None:
        if self.nearest is None or (fit.gap, fit.error) < (self.nearest.gap, self.nearest.error):
            self.nearest = fit
        if self._met(fit) and (self.best is None or _size(fit) < _size(self.best)):
            self.best = fit

    def _met(self, fit: Fit | None) -> bool:
        return fit is not None and fit.error <= self.error and fit.gap <= 0.0

    @property
    def _ones(self) -> Any:
        """The smallest rank."""
        order = self.tensor.order
        if self.kind is BlockTerm:
            return [(1,) * order]
        return (1,) * order if self.kind in (TensorChain, Tucker) else 1

    @property
    def _ceiling(self) -> int:
        """Parameters that a better answer has to stay below."""
        return self.tensor.n_observed if self.best is None else self.best.model.n_parameters

    def _answer(self) -> Fit:
        fit = self.best
        if fit is None:
            assert self.nearest is not None
            gap = max(self.nearest.error / self.error - 1.0, self.nearest.gap)
            fit = replace(self.nearest, reason=self.ended or StopReason.INFEASIBLE, gap=gap)
        elif self.ended is None and not self.clock.expired:
            final = self.fit(fit.model, solver=self._polish(fit.model))
            fit = final if self._met(final) else fit
        if self.ended is not None:
            fit = replace(fit, reason=self.ended)
        what = f"ranks for an error of {self.error:g} after {self.count} fits"
        return replace(fit, solver=f"{fit.solver}; {what}", seconds=self.clock.elapsed)

    def _polish(self, model: Model) -> Solver:
        """Steps to the minimiser from nearby."""
        small = model.n_parameters <= _SMALL and self.tensor.complete
        return _POLISH if small else _POLISH_LARGE

    # -- from singular vectors ----------------------------------------------------------

    def _dense(self) -> Array | None:
        """T / ||T|| in double precision, where it can be held."""
        if not self.tensor.complete or math.prod(self.tensor.shape) > _FORMED:
            return None
        try:
            array = self.tensor.scaled(1.0 / self.tensor.norm()).to_dense()
        except TypeError:
            return None
        return np.asarray(array.astype(np.result_type(array, np.float64), copy=False))

    def _truncations(self, array: Array) -> Iterator[Model]:
        """Models within the error from singular vectors; of a loop the smallest train around it."""
        error, size, dtype = self.error * (1.0 - _ROOM), self.tensor.norm(), self.tensor.dtype
        if self.kind is TensorChain:
            trains = []
            for first in range(1 if self.train else array.ndim):
                around = [(first + n) % array.ndim for n in range(array.ndim)]
                turned = np.ascontiguousarray(array.transpose(around))
                for ranks in (None, fewest_ranks(turned, error)):
                    cores = train_svd(turned, error, ranks)
                    trains.append(TensorChain([cores[(n - first) % array.ndim] for n in range(array.ndim)]))
            fewest = min(trains, key=lambda train: train.n_parameters)
            chosen = trains if self.train and trains[0].rank != trains[-1].rank else [fewest]
            yield from (train.scaled(size).astype(dtype) for train in chosen)
            return
        core, factors, _ = rounded_tucker(array, [np.eye(size, dtype=array.dtype) for size in array.shape], error)
        tucker = Tucker(core, factors).scaled(size).astype(dtype)
        yield BlockTerm([tucker]) if self.kind is BlockTerm else tucker

    # -- growth -------------------------------------------------------------------------

    def _bisect(self) -> None:
        """One number as the rank: doubled until it is enough, then halved intervals."""
        low, high = 0, 1
        while not self._met(self._try(high)):
            low, high = high, 2 * high
            while high > low and not self._possible(high):
                high -= 1
            if self.ended is not None or high == low:
                return
        while high - low > 1 and self.ended is None:
            middle = (low + high) // 2
            low, high = (low, middle) if self._met(self._try(middle)) else (middle, high)

    def _possible(self, rank: Any) -> bool:
        """Whether the tensor can determine each block of a model of this rank, which is not too large to be of use."""
        try:
            return self._parameters(rank) <= _LARGEST * self.tensor.n_observed
        except ValueError:
            return False

    def _parameters(self, rank: Any) -> int:
        network, shape = checked_wiring(self.kind, self.tensor.shape, rank), self.tensor.shape
        rows = [1 if mode is None else shape[mode] for mode in network.modes]
        return sum(r * w for r, w in zip(rows, network.widths, strict=True))

    def _grow(self, current: Fit | None = None) -> None:
        """From a fit, or from ranks of one, bond by bond, while smaller than what is at hand."""
        current = self._try(self._ones) if current is None else current
        # The first letter of a chain is the bond that closes the loop.
        fixed = (current.model.network.terms[0].bonds[0][0],) if current is not None and self.train else ()
        while current is not None and not self._met(current):
            looks: list[tuple[float, Fit]] = []
            for grown in larger(current.model, self.rng, fixed=fixed):
                model = self.constraint.domain.folded(grown)
                if model.n_parameters >= self._ceiling or not self._possible(model.rank):
                    continue
                look = self._try(model, _LOOK)
                if look is None:
                    return
                gain = max(current.error**2 - look.error**2, 0.0)
                looks.append((gain / (model.n_parameters - current.model.n_parameters), look))
            if not looks:
                return
            met = [look for _, look in looks if self._met(look)]
            if met:
                return
            current = self._try(max(looks, key=lambda pair: pair[0])[1].model, _GROW)

    # -- shrinking ----------------------------------------------------------------------

    def _shrink(self) -> None:
        """One index of a bond less, as long as the error can be met."""
        while self.best is not None and self.ended is None:
            before = self.best
            for start in self._smaller(before.model):
                if self._met(self._try(start, _SHRINK)) or self.ended is not None:
                    break
            else:
                if not self._afresh(before.model) and not self._by_steps(before.model):
                    return
            if self.best is before:
                return

    def _by_steps(self, model: Model) -> bool:
        """Whether joint steps meet the error with one component less of a large CP, where sweeps creep."""
        if self.kind is not CP or not _SMALL < model.n_parameters <= _MEDIUM or not self.tensor.complete or self.chosen:
            return False
        return any(self._met(self._try(start, _STEPS)) for start in self._smaller(model)[:1])

    def _smaller(self, model: Model) -> list[Model]:
        """Models with one index less, those that lose least for each parameter first."""
        found: list[tuple[float, int, Model]] = []
        domain = self.constraint.domain
        for cut in smaller(model, turned=not domain.restricted(model.network)):
            fewer = domain.folded(cut)
            lost = (self.tensor.residual_norm(fewer) / self.tensor.norm()) ** 2
            found.append((lost / (model.n_parameters - fewer.n_parameters), len(found), fewer))
        return [fewer for *_, fewer in sorted(found, key=lambda entry: entry[:2])[:_TRIED]]

    def _afresh(self, model: Model) -> bool:
        """Whether smaller ranks meet the error in a fit from other starts."""
        if model.n_parameters > _SMALL or self.kind in (CP, Tucker) or self.train:
            return False
        tried: list[Any] = []
        for fewer in smaller(model):
            if fewer.rank not in tried and self._possible(fewer.rank):
                tried.append(fewer.rank)
                if self._met(self._try(fewer.rank)):
                    return True
        return False


def _size(fit: Fit) -> tuple[int, float]:
    """By which fits that meet the error are compared."""
    return fit.model.n_parameters, fit.error
