"""Alternating least squares that reads a few fibers of the tensor for each update.

With the other blocks fixed, B_k solves a least-squares problem with one equation for each position z along the
other modes, T(:, z) = B_k D[z], where D[z] is a row of L_k.  There are far more equations than the P_k unknowns
of a row, so S of them are drawn and solved,

    min over B of  sum_s w_s ||T(:, z_s) - B D[z_s]||^2,         w_s = 1 / (S p(z_s)).

The rows of L_k that matter most have the largest leverage.  They lie in the product of the column spaces of the other
blocks in matrix form, whatever the wiring, so the product of the leverages of their rows,

    p(z) = prod over m != k of p_m(i_m),       p_m(i) = ||Q_m[i]||^2 / P_m,    Q_m an orthonormal basis of B_m,

bounds the leverage of every row of L_k, and is drawn from mode by mode.  For CP this is the sampling of CP-ARLS-LEV,
for a chain that of TR-ALS-Sampled; a tenth of the draws is uniform, which bounds the weights.

The error is *estimated* from H entries that are drawn once and held out: with e = T - X,

    ||e||^2 = N mean |e|^2 (N entries),    standard error  N std |e|^2 / sqrt(H).

Cost of a sweep: sum over blocks of S (I_k + P_k) P_k, whatever the size of the tensor; at the end, one pass over
the data for the true error.  Steps are noisy: where a tensor has no exact decomposition, the error ends above that of
`ALS` by a part P_k / S or so.

References: Larsen and Kolda, "Practical leverage-based sampling for low-rank tensor decomposition" (2022); Malik and
Becker, "A sampling-based method for tensor ring decomposition" (2021); Battaglino, Ballard and Kolda, "A practical
randomized CP tensor decomposition" (2018) for stopping by a held-out sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from tensorchain.evaluation import Evaluator
from tensorchain.fit import StopReason
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.solvers.als import balanced
from tensorchain.solvers.blocks import BlockProblem, best_change
from tensorchain.solvers.constraints import Domain, Lagrangian, Quantity, SquaredError
from tensorchain.solvers.lm import check_options
from tensorchain.solvers.problem import Ended, Iterate, Memory, Problem, Steps
from tensorchain.stability.scales import takes_fits
from tensorchain.tensors import Tensor
from tensorchain.tensors.dispatch import as_tensor
from tensorchain.tensors.sampling import fibers

_UNIFORM = 0.1
"""Part of the draws that is uniform."""


@dataclass(frozen=True)
class SampledALS:
    """Alternating least squares on sampled fibers, for very large arrays.

    `history.error` holds the estimate from the held-out entries plus two standard errors.  The error of the fit is
    that of one pass over all data, or with ``final_pass=False`` the last estimate, whose standard error is then
    `fit.standard_error`.

    Parameters
    ----------
    samples : int, optional
        Fibers for each update; by default 10 P log P for a block of P columns, at least 200.
    held_out : int, default 20000
        Entries for the estimate of the error.
    max_iter : int, default 200
        Most sweeps over the blocks.
    tol, patience : float or int, optional
        Stop after `patience` sweeps without a relative decrease of the estimate by `tol`.
    exact : float, default 1e-12
        Estimated relative error below which the fit is exact.
    final_pass : bool, default True
        Whether to compute the true error at the end.

    Examples
    --------
    >>> import tensorchain as tc
    >>> T = tc.datasets.inverse_radius(order=3, size=12)
    >>> tc.decompose(T, "cp", rank=2, solver=tc.SampledALS(max_iter=20), rng=0).error < 0.05
    True
    """

    samples: int | None = None
    held_out: int = 20_000
    max_iter: int = 200
    tol: float = 1e-3
    patience: int = 5
    exact: float = 1e-12
    final_pass: bool = True

    def __post_init__(self) -> None:
        check_options("SampledALS", max_iter=self.max_iter, max_patience=self.patience, tol=self.tol, exact=self.exact)
        for name, value in (("samples", self.samples), ("held_out", self.held_out)):
            if value is not None and value < 2:
                raise ValueError(f"SampledALS: {name} is {value!r}; an integer of at least 2 is needed")

    def steps(self, problem: Problem, start: Model, memory: Memory | None = None) -> Steps:
        """Iterate from `start`, or go on from the memory of an iterate.

        Parameters
        ----------
        problem : Problem
            The data, the constraint and the clock.
        start : Model
            The first model.
        memory : Memory, optional
            Of an iterate from which to go on.

        Returns
        -------
        Steps
            Iterates, and at the end why it stopped.
        """
        rng = np.random.default_rng()
        if memory is None:
            run: dict[str, Any] = {
                "seed": int(problem.rng.integers(2**62)),
                "used": 0,
                "waited": 0,
                "lowest": [math.inf] * 2,
            }
            model = best = start
            rng = np.random.default_rng(problem.rng.integers(2**62))
        else:
            run, model, best = dict(memory.figures), memory.models["point"], memory.models["best"]
            rng.bit_generator.state = run["rng"]
        judge = HeldOut(problem.tensor, self.held_out, np.random.default_rng(run["seed"]))
        constraint, at = problem.constraint, problem.evaluator(model)
        lagrangian: Lagrangian | None = None
        while True:
            estimate = judge.estimate(model)
            at.hold(model)
            values = self._values(problem, at, estimate.value)
            if lagrangian is None:
                lagrangian = Lagrangian.of(constraint, values)
                if memory is not None:
                    lagrangian = lagrangian.recalled(memory.figures["lagrangian"])
            else:
                lagrangian = lagrangian.updated(values)
            if memory is None or run["used"] > memory.figures["used"]:
                merit, (gap, objective) = list(constraint.merit(values)), run["lowest"]
                # An objective is a square, or nearly one.
                progress = merit[0] < (1.0 - self.tol) * gap or merit[1] < (1.0 - self.tol) ** 2 * objective
                run["waited"] = 0 if progress else run["waited"] + 1
                if merit < run["lowest"]:
                    run["lowest"], best = merit, model
            run["rng"], run["lagrangian"] = rng.bit_generator.state, lagrangian.figures()
            yield Iterate(
                model,
                estimate.upper(),
                at.sensitivity(),
                constraint.merit(self._values(problem, at, estimate.upper())),
                lagrangian.penalty(values),
                memory=Memory(dict(run), {"point": model, "best": best}),
                standard_error=estimate.standard_error,
            )
            reason = self._reason(
                run, estimate.value if constraint.error_alone and not constraint.gap(values) else math.inf
            )
            if reason is not None:
                break
            fixed = constraint.domain.fixed(model.network)
            for k in model.network.update_order:
                if k in fixed:
                    continue
                at.hold(model)
                model = self._updated(problem, at, k, None if constraint.free else lagrangian, rng)
            gauged = constraint.allows_gauge and not constraint.free
            model = constraint.domain.gauge_cycle(model) if gauged else balanced(model, fixed)
            run["used"] += 1
        return Ended(reason, self.tol if reason is StopReason.CONVERGED else None)

    @staticmethod
    def _values(problem: Problem, at: Evaluator, error: float) -> dict[Quantity, float]:
        """The quantities of the constraint, with an estimate of the error."""
        return dict(problem.constraint.measured(at, error))

    def _reason(self, run: dict[str, Any], error: float) -> StopReason | None:
        if error <= self.exact:
            return StopReason.EXACT
        if run["waited"] >= self.patience:
            return StopReason.CONVERGED
        return StopReason.ITERATION_LIMIT if run["used"] >= self.max_iter else None

    def _updated(
        self, problem: Problem, at: Evaluator, k: int, lagrangian: Lagrangian | None, rng: np.random.Generator
    ) -> Model:
        """The model with block k fitted to a sample of fibers."""
        model = at.model
        matrix, mode = model.matrices[k], model.network.modes[k]
        width = matrix.shape[1]
        count = max(200, math.ceil(10 * width * math.log(width + 1))) if self.samples is None else self.samples
        positions, weights = draw(model, k, count, rng)
        root = np.sqrt(weights)[:, None]
        design = model.design_rows(k, positions) * root
        missing = fibers(problem.tensor, mode, positions) * root - design @ matrix.T
        if lagrangian is None:
            # The correction to B_k keeps its digits when the residual is small.
            change = scipy.linalg.lstsq(design, missing, lapack_driver="gelsy", check_finite=False)[0]
            return model.with_matrix(k, matrix + change.T)
        domain = problem.constraint.domain
        found = best_change(_sampled_problem(at, k, lagrangian, design, missing, domain), lagrangian)
        return model if found is None else model.with_matrix(k, matrix + found[0])


def _sampled_problem(
    at: Evaluator, k: int, lagrangian: Lagrangian, design: Array, missing: Array, domain: Domain
) -> BlockProblem:
    """The quantities of a Lagrangian as functions of block k, the squared error from a sample of fibers."""
    values: dict[Quantity, float] = {}
    gradients: dict[Quantity, Array] = {}
    curvatures: dict[Quantity, Array] = {}
    for quantity in dict.fromkeys(term.quantity for term in lagrangian.terms):
        if quantity == SquaredError():
            values[quantity] = float(np.vdot(missing, missing).real)
            gradients[quantity] = -(missing.T @ design.conj())
            curvatures[quantity] = design.conj().T @ design
            continue
        values[quantity] = quantity.value(at)
        gradient, curvature = quantity.block_gradient(at, k), quantity.curvature(at, k)
        if gradient is not None and curvature is not None:
            gradients[quantity], curvatures[quantity] = gradient, curvature
    matrix = at.model.matrices[k] if k in domain.restricted(at.network) else None
    return BlockProblem.from_matrices(values, gradients, curvatures, domain=domain, matrix=matrix)


def draw(model: Model, k: int, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Positions of rows of L_k drawn by leverage, (S, N) with zeros along the mode of block k, and weights (S,)."""
    network = model.network
    positions = np.zeros((count, model.order), dtype=np.intp)
    chance = np.ones(count)
    for mode, block in enumerate(network.block_of_mode):
        if block != k:
            share = leverages(model.matrices[block])
            positions[:, mode] = rng.choice(len(share), size=count, p=share)
            chance *= share[positions[:, mode]]
    return positions, 1.0 / (count * chance)


def leverages(matrix: Array) -> Array:
    """Chances (I,) of the rows of a block (I, P): squared norms of the rows of a basis, a tenth uniform."""
    rows, width = matrix.shape
    if width >= rows:
        return np.full(rows, 1.0 / rows)
    basis = np.linalg.qr(matrix)[0]
    share = np.sum(np.abs(basis) ** 2, axis=1) / width
    mixed = (1.0 - _UNIFORM) * share + _UNIFORM / rows
    return np.asarray(mixed / mixed.sum())


@dataclass(frozen=True)
class Estimate:
    """A relative error ||T - X|| / ||T|| with its standard error, from a sample of entries."""

    value: float
    standard_error: float

    def upper(self, sigmas: float = 2.0) -> float:
        """Upper end of an interval of `sigmas` standard errors."""
        return self.value + sigmas * self.standard_error


class HeldOut:
    """Entries of a tensor, drawn once, against which models are measured."""

    def __init__(self, tensor: Tensor, count: int, rng: np.random.Generator) -> None:
        self.positions = rng.integers(0, tensor.shape, (count, tensor.order))
        self.values = fibers(tensor, None, self.positions)[:, 0]
        self.entries, self.norm = math.prod(float(size) for size in tensor.shape), tensor.norm()

    def estimate(self, model: Model) -> Estimate:
        """Relative error of a model, and its standard error."""
        squares = np.abs(self.values - model.entries(self.positions)) ** 2
        mean = float(squares.mean())
        value = math.sqrt(self.entries * mean) / self.norm
        spread = float(squares.std(ddof=1)) / math.sqrt(len(squares))
        # By the delta method: the error is the square root of the mean.
        return Estimate(value, 0.0 if mean == 0.0 else 0.5 * value * spread / mean)


@takes_fits
def estimate_error(
    model: Model, tensor: Any, *, samples: int = 100_000, rng: int | np.random.Generator | None = None
) -> Estimate:
    """Relative error of a model from a sample of entries, where a pass over the tensor takes too long.

    Parameters
    ----------
    model : Model
        A model or a fit.
    tensor : array_like or Tensor
        Of the same shape: an array in memory, memory-mapped file or dask array, or a data class; its norm is read in
        one pass, unless that has been done before.
    samples : int, default 100000
        Entries drawn, uniformly and with replacement.
    rng : int or numpy.random.Generator, optional
        Seed or generator.

    Returns
    -------
    Estimate
        With `value` and `standard_error` (both relative to ||T||).

    Raises
    ------
    ValueError
        When the shapes differ or fewer than 2 samples are asked for.
    TypeError
        For tensors that cannot be sampled.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.solvers.sampled import estimate_error
    >>> T = np.random.default_rng(0).standard_normal((30, 30, 30))
    >>> model = tc.CP([np.zeros((30, 1))] * 3)
    >>> estimate = estimate_error(model, T, samples=1000, rng=0)
    >>> abs(estimate.value - 1.0) < 3 * estimate.standard_error < 0.1
    True
    """
    source = as_tensor(tensor)
    if model.shape != source.shape:
        raise ValueError(f"the model has shape {model.shape} and the tensor {source.shape}; they must be equal")
    if samples < 2:
        raise ValueError(f"samples is {samples}; two or more are needed for an error bar")
    return HeldOut(source, samples, np.random.default_rng(rng)).estimate(model)
