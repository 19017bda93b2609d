"""What a fit to some of the samples says of the others: halves, ridge at an equal error, held-out error, a null.

Mode 0 is that of the samples.  Two models agree when their factors of all other modes match, as
`tensorchain.factor_match` says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import tensorchain as tc
from paper_figures.fits import decompose
from tensorchain.solvers.constraints import Bounded, Constraint, Quantity, SquaredError, Weighted

SLACKS = {"0.3 %": 0.003, "1 %": 0.01, "3 %": 0.03}
"""Error that is given up, relative to the least error."""
CONTROL = 0.01
"""Slack of the ridge, the control for the sensitivity."""
NULLS = 20
"""Permutations of one null."""


@dataclass(frozen=True)
class SquaredNorms(Quantity):
    """sum_k ||B_k||_F^2, what ridge regression of every factor minimises."""

    def value(self, at: tc.evaluation.Evaluator) -> float:
        return float(sum(np.linalg.norm(block) ** 2 for block in at.model.matrices))

    def block_gradient(self, at: tc.evaluation.Evaluator, k: int) -> np.ndarray:
        return np.array(at.model.matrices[k])

    def curvature(self, at: tc.evaluation.Evaluator, k: int) -> np.ndarray:
        return np.eye(at.model.matrices[k].shape[1])

    def degree(self, blocks: int) -> float:
        return 2.0 / blocks


@dataclass(frozen=True)
class Ridge(Constraint):
    """Least sum of squared blocks subject to ||T - X|| <= limit * ||T||: ridge, its weight set by the error."""

    limit: float

    @property
    def objective(self) -> tuple[Weighted, ...]:
        return (Weighted(SquaredNorms(), 1.0),)

    @property
    def bounds(self) -> tuple[Bounded, ...]:
        return (Bounded(SquaredError(), self.limit**2, tightens=False),)


def halves(tensor: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two random halves of the samples, each in the order of the data."""
    order = np.random.default_rng(seed).permutation(len(tensor))
    first, second = np.sort(order[::2]), np.sort(order[1::2])
    return tensor[first], tensor[second]


def fits_of(tensor: np.ndarray, rank: int, starts: int, seed: int) -> dict[str, tc.Fit]:
    """Fits to one tensor: least error, at each slack, ridge at an equal error, sweeps alone; the best of the starts."""
    data = tc.Masked(tensor) if np.isnan(tensor).any() else tensor
    seeds = range(seed, seed + starts)

    def best(solver: tc.Auto | tc.ALS) -> tc.Fit:
        found = [decompose(data, "cp", rank, rng=start, solver=solver) for start in seeds]
        return min(found, key=lambda fit: fit.error)

    free = best(tc.Auto(slack=0))
    found = {"least error": free}
    for name, slack in SLACKS.items():
        found[name] = free.at(error=min(free.error * (1.0 + slack), 0.999))
    bound = Ridge(min(free.error * (1.0 + CONTROL), 0.999))
    found["ridge"] = decompose(data, init=free.model, solver=tc.LM(), constraint=bound)
    found["ALS"] = best(tc.ALS(max_iter=500))
    return found


def held_out(model: tc.CP, tensor: np.ndarray) -> float:
    """Relative error on samples that the fit has not seen; their factor is solved for by least squares."""
    rank = model.blocks[0].shape[1]
    design = tc.CP([np.eye(rank), *model.blocks[1:]]).full().reshape(rank, -1).T
    # Columns of equal norm, so that the cutoff of small singular values does not depend on their scale.
    norms = np.linalg.norm(design, axis=0)
    design = design / np.where(norms > 0.0, norms, 1.0)
    lost = size = 0.0
    for row in tensor.reshape(len(tensor), -1):
        seen = ~np.isnan(row)
        solution = np.linalg.lstsq(design[seen], row[seen], rcond=None)[0]
        lost += float(np.linalg.norm(row[seen] - design[seen] @ solution) ** 2)
        size += float(np.linalg.norm(row[seen]) ** 2)
    return float(np.sqrt(lost / size))


def match(one: tc.Model, other: tc.Model) -> float:
    """Match over all modes but the samples."""
    return tc.factor_match(one, other, range(1, one.order)).score


def permuted_match(one: tc.Model, other: tc.Model, seed: int) -> float:
    """The same with the rows of the other's modes shuffled, mean: what signs, sizes and dimensions alone give."""
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(NULLS):
        rows = [None, *(rng.permutation(size) for size in other.shape[1:])]
        scores.append(match(one, other.restrict(rows)))
    return float(np.mean(scores))


def planted(congruence: float, noise: float, seed: int) -> tuple[tc.CP, np.ndarray, np.ndarray]:
    """A CP of rank 3 whose components have this cosine in every mode, and two tensors that differ by their noise."""
    rng = np.random.default_rng(seed)
    gram = np.full((3, 3), congruence) + (1.0 - congruence) * np.eye(3)
    root = np.linalg.cholesky(gram).T
    truth = tc.CP([np.linalg.qr(rng.standard_normal((size, 3)))[0] @ root for size in (20, 15, 12)])
    exact = truth.full()
    noises = [rng.standard_normal(exact.shape) for _ in range(2)]
    one, two = (exact + noise * np.linalg.norm(exact) / np.linalg.norm(each) * each for each in noises)
    return truth, one, two
