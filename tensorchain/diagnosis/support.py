"""What the data say of a fit: how much of them it explains, whether they determine it, whether all of it is needed.

**More than noise.**  A model with p free parameters (those of the gauge left out) that is fitted to N entries of noise
explains a share near 2 p / N of their squared norm: each parameter takes away the square of the best of its directions.
In terms of

    F = (explained / p) / (unexplained / (N - p)),

the ratio of the explained to the unexplained square by degree of freedom, fits of noise lie between 2 and 3 for all
models, shapes and ranks that were tried (tests/diagnosis/test_support.py measures it); fits of structure lie far above.

**A part that is not needed** is found in the same way: one index is left out of a bond (one component of a CP, one
column of a Tucker factor), the rest is fitted again, and F compares what the larger model explains in addition with
what it leaves.  Near 2 to 3 it explains noise.

**Determined by the observed entries.**  Null directions of W^(1/2) J, W being the weights (zero where missing), beyond
those of the gauge: the blocks can move and no observed entry of X does.

Cost: the spectrum of W^(1/2) J once, and a few Levenberg-Marquardt steps for each bond.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from tensorchain.diagnosis.figures import NULL
from tensorchain.diagnosis.restricted import free_parameters, values_within
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.models.network import Network, Term
from tensorchain.solvers.constraints import Domain, Within
from tensorchain.solvers.constraints.domain import EVERYWHERE
from tensorchain.solvers.lm import LM
from tensorchain.solvers.loop import run
from tensorchain.solvers.problem import Clock, Problem
from tensorchain.stability.conditioning import jacobian_singular_values
from tensorchain.stability.scales import double_precision, unit_blocks
from tensorchain.tensors import Tensor

_STEPS = 30
_TRIED = 4
"""Components that are left out in turn, the smallest first."""
_EXACT = 1e-6
"""Relative error below which what is left is not noise."""


@dataclass(frozen=True)
class Support:
    """How far the data bear a model out.

    Attributes
    ----------
    entries : int
        Entries that are observed.
    parameters : int
        Numbers in the model, less the dimension of its gauge.
    explained : float
        1 - error^2, the share of the squared norm of the data.
    evidence : float
        F of the whole model against nothing; infinite without an error.
    nullity : int or None
        Null directions at the observed entries beyond the gauge; None where every entry is observed, and for a large
        model.
    spread : float or None
        sigma_max / sigma_min of W^(1/2) J modulo gauge; None as `nullity`.
    least_evidence : float
        F of the part of the model that is needed least; NaN where none can be left out, or was tried.
    least_part : str
        That part, in words.
    """

    entries: int
    parameters: int
    explained: float
    evidence: float
    nullity: int | None = None
    spread: float | None = None
    least_evidence: float = math.nan
    least_part: str = ""


def support_of(
    tensor: Tensor,
    model: Model,
    error: float,
    *,
    limit: int,
    clock: Clock | None = None,
    domain: Domain = EVERYWHERE,
) -> Support:
    """Measure it.

    Parameters
    ----------
    tensor : Tensor
        The data.
    model : Model
        Fitted to them.
    error : float
        ||T - X|| / ||T||.
    limit : int
        Most parameters for which spectra are computed and parts left out.
    clock : Clock, optional
        No further part is left out after its time.
    domain : Domain
        Where the blocks may lie.
    """
    small = model.n_parameters <= limit
    entries = tensor.n_observed
    parameters = free_parameters(model, domain) if small else model.n_parameters - model.gauge_dimension
    nullity = spread = None
    if not tensor.complete and small:
        nullity, spread = observed_spectrum(tensor, model, domain)
    least, part = math.nan, ""
    if small and error > _EXACT and entries > parameters:
        least, part = least_needed(tensor, model, error, clock or Clock(), domain)
    return Support(
        entries=entries,
        parameters=parameters,
        explained=1.0 - error**2,
        evidence=_evidence(1.0, error**2, parameters, entries - parameters),
        nullity=nullity,
        spread=spread,
        least_evidence=least,
        least_part=part,
    )


def observed_spectrum(tensor: Tensor, model: Model, domain: Domain = EVERYWHERE) -> tuple[int, float]:
    """Null directions of J at the observed entries beyond the gauge, and the spread of its singular values."""
    unit = domain.optimal_gauge(unit_blocks(double_precision(model))[0], tol=1e-3)
    values = values_within(unit, domain, tensor)
    if values is None:
        values = jacobian_singular_values(unit, tensor)
    beyond = int(np.count_nonzero(values <= NULL * values[0])) if values.size else 0
    return beyond, math.inf if beyond or not values.size else float(values[0] / values[-1])


def least_needed(
    tensor: Tensor, model: Model, error: float, clock: Clock, domain: Domain = EVERYWHERE
) -> tuple[float, str]:
    """F of the part that adds least, and which it is: (NaN, "") where none can be left out."""
    norm = tensor.norm()
    unit = tensor.scaled(1.0 / norm)
    double = np.complex128 if "c" in (model.dtype.kind, tensor.dtype.kind) else np.float64
    whole = domain.optimal_gauge(double_precision(model).astype(double).scaled(1.0 / norm))
    parameters = free_parameters(whole, domain)
    found = math.nan, ""
    bound = domain.restricted(whole.network) | domain.fixed(whole.network)
    for smaller, part in without_parts(whole, bound):
        if clock.expired:
            break
        fewer = free_parameters(smaller, domain)
        if fewer >= parameters:
            continue
        problem = Problem(unit, Within(domain), np.random.default_rng(0), True, Clock(clock.left))
        rest = run(LM(max_iter=_STEPS), problem, smaller).best.error
        value = _evidence(rest**2, error**2, parameters - fewer, tensor.n_observed - parameters)
        if math.isnan(found[0]) or value < found[0]:
            found = value, part
    return found


def without_parts(model: Model, bound: Collection[int] = ()) -> Iterator[tuple[Model, str]]:
    """The model without the weakest index of each bond, in turn, in principal axes where no block is `bound`."""
    several = len(model.network.terms) > 1
    for t, term in enumerate(model.network.terms):
        owners = {
            letter: [k for k, bonds in enumerate(term.bonds) if letter in bonds]
            for letter, size in term.sizes
            if size > 1
        }
        for letter, blocks in owners.items():
            operands = list(model.operands(t))
            if len(blocks) == 2 and not set(blocks) & set(bound):
                _to_principal_axes(operands, term, letter, blocks)
            weights = math.prod(_weights(operands[k], term.bonds[k], letter) for k in blocks)
            sizes = tuple((x, size - (x == letter)) for x, size in term.sizes)
            where = " and ".join(model.block_names[k] for k in blocks)
            part = f"an index between {where}" if len(blocks) == 2 else "one component"
            # Components have no axes to turn: the least needed one need not be the smallest.
            for gone in np.argsort(weights)[: 1 if len(blocks) == 2 else _TRIED]:
                rest = list(operands)
                for k in blocks:
                    rest[k] = np.delete(operands[k], gone, axis=1 + term.bonds[k].index(letter))
                yield _with_term(model, t, Term(term.bonds, sizes), rest), part
        if several:
            terms = tuple(other for s, other in enumerate(model.network.terms) if s != t)
            columns = [np.concatenate([np.arange(s.start, s.stop) for n, s in enumerate(row) if n != t]) for row in
                       zip(*model.network.columns, strict=True)]  # fmt: skip
            matrices = [matrix[:, chosen] for matrix, chosen in zip(model.matrices, columns, strict=True)]
            yield type(model).from_matrices(Network(terms, model.network.modes), matrices), f"term {t + 1}"


def _with_term(model: Model, t: int, term: Term, operands: list[Array]) -> Model:
    """The model with another term t, made of these operands."""
    network = model.network
    terms = tuple(term if s == t else other for s, other in enumerate(network.terms))
    matrices = []
    for k, matrix in enumerate(model.matrices):
        columns = [matrix[:, network.columns[s][k]] for s in range(len(terms))]
        columns[t] = operands[k].reshape(len(matrix), -1)
        matrices.append(np.concatenate(columns, axis=1))
    return type(model).from_matrices(Network(terms, network.modes), matrices)


def _to_principal_axes(operands: list[Array], term: Term, letter: str, blocks: list[int]) -> None:
    """Turn a bond by the unitary matrix that makes one side's slices orthogonal."""
    axis = 1 + term.bonds[blocks[0]].index(letter)
    unfolded = np.moveaxis(operands[blocks[0]], axis, 0).reshape(operands[blocks[0]].shape[axis], -1)
    _, vectors = np.linalg.eigh(unfolded @ unfolded.conj().T)
    for k, turn in zip(blocks, (vectors.conj().T, vectors.T), strict=True):
        axis = 1 + term.bonds[k].index(letter)
        operands[k] = np.moveaxis(np.tensordot(turn, operands[k], axes=(1, axis)), 0, axis)


def _weights(operand: Array, bonds: str, letter: str) -> Array:
    """Norm of each slice of a block along a bond."""
    slices = np.moveaxis(operand, 1 + bonds.index(letter), 0)
    return np.asarray(np.linalg.norm(slices.reshape(len(slices), -1), axis=1))


def _evidence(before: float, after: float, parameters: int, left: int) -> float:
    """F: what `parameters` explain beyond, over what is left for each of `left` degrees of freedom."""
    if after <= 0.0 or left <= 0 or parameters <= 0:
        return math.inf
    return max(before - after, 0.0) / parameters / (after / left)
