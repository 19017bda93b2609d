"""Plain sweeps of alternating least squares: each block at its best, with the others as they are.

The update of block k is written as a correction, D = (W - B M) M^{-1} with W = L_k^H vec(T), which keeps its accuracy
where M is nearly singular, and one that does not lower the error is not taken: the error never rises.

    ||T - L (B + D)||^2 = ||T||^2 - <B + D, 2 W - (B + D) M>.

The terms on the right have rounding errors of eps ||T||^2 and eps ||T|| ||L|| ||B + D||, where eps is that of the data.
Where the difference is not far above them the error is computed from T - X instead: near rounding, and for blocks that
are much larger than their product.

A factor is followed by the cores, where the model has some; in a Tucker model both take their joint best, from
the leading singular vectors of the product of T with the other factors: that is HOOI.

Where a domain restricts a block, D is the best change that does not leave it; fixed blocks are left out.

References: Kolda and Bader, "Tensor decompositions and applications" (2009), section 3.4, and section 4.2 for HOOI.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from tensorchain.evaluation import Evaluator
from tensorchain.kernels import Array, System
from tensorchain.kernels.interruption import OutOfTime, check_time
from tensorchain.models import Model
from tensorchain.solvers.blocks import change_within
from tensorchain.solvers.constraints import Domain
from tensorchain.solvers.constraints.domain import EVERYWHERE

_DIGITS = 1e5
"""How far ||T - X||^2 must be above its rounding errors to be taken from the short formula."""


class Square(NamedTuple):
    """||T - X||^2 by the short formula, and the size of the terms that cancelled in it."""

    value: float
    size: float


class Update(NamedTuple):
    """An update of one block: B + D, W, R = W - B M, D M, and the equations."""

    matrix: Array
    rhs: Array
    residual: Array
    image: Array
    system: System

    def square(self, norm: float) -> Square:
        """||T - X||^2 = ||T||^2 - <B + D, W + R - D M> afterwards, since (B + D) M = W - R + D M."""
        doubled = self.rhs + self.residual - self.image
        length = float(np.vdot(self.matrix, self.matrix).real) * self.system.trace()
        size = norm**2 + norm * math.sqrt(length) + length
        return Square(norm**2 - float(np.vdot(self.matrix, doubled).real), size)


def sweep(evaluator: Evaluator, error: float, domain: Domain = EVERYWHERE) -> float:
    """Update every block once.

    Parameters
    ----------
    evaluator : Evaluator
        Holds the model to begin with, and the updated one afterwards.
    error : float
        ||T - X|| of the model to begin with.
    domain : Domain
        Where the blocks may lie.

    Returns
    -------
    float
        ||T - X|| of the updated model.
    """
    last: Square | Update | None = None
    fixed = domain.fixed(evaluator.network)
    # Blocks that are updated when time is up count.
    with suppress(OutOfTime):
        for step in sweep_steps(evaluator.model):
            check_time()
            joint = _joint_update(evaluator, step[0]) if len(step) > 1 and domain.whole else None
            if joint is not None:
                last = joint
                continue
            for k in step:
                if k not in fixed:
                    last = _update(evaluator, k, domain) or last
    if last is None:
        return error
    return _error(evaluator, last if isinstance(last, Square) else last.square(evaluator.norm))


def starting_error(evaluator: Evaluator) -> float:
    """||T - X||, from the product with T that the first update of a sweep needs anyway."""
    k = evaluator.network.block_of_mode[0]
    matrix, rhs, system = evaluator.matrix(k), evaluator.rhs(k), evaluator.system(k)
    image = system.apply(matrix)
    return _error(evaluator, Update(matrix, rhs, rhs, image, system).square(evaluator.norm))


def sweep_steps(model: Model) -> list[list[int]]:
    """The factors in the order of their modes, each followed by the cores: partial products of the data are reused."""
    network = model.network
    return [[factor, *network.update_order[network.order :]] for factor in network.block_of_mode]


def _update(evaluator: Evaluator, k: int, domain: Domain) -> Update | None:
    """Block k at its best; None where that is no better, and nothing is changed."""
    matrix, system, rhs = evaluator.matrix(k), evaluator.system(k), evaluator.rhs(k)
    residual = rhs - system.apply(matrix)
    within = k in domain.restricted(evaluator.network)
    change = change_within(evaluator, k, residual, domain) if within else system.solve(residual)
    image = system.apply(change)
    # ||T - L(B + D)||^2 - ||T - L B||^2
    if not float(np.vdot(change, image).real) < 2.0 * float(np.vdot(change, residual).real):
        return None
    updated = matrix + change
    evaluator.replace(k, updated)
    return Update(updated, rhs, residual, image, system)


def _joint_update(evaluator: Evaluator, k: int) -> Square | None:
    """Factor k and the core at their joint best, and ||T - X||^2, for models that know it."""
    rhs = evaluator.joint_rhs(k)
    joint = None if rhs is None else evaluator.model.rejoined(k, rhs)
    if joint is None:
        return None
    model, explained = joint
    evaluator.hold(model)
    # X is the projection of T: nothing cancels in ||X||.
    return Square(evaluator.norm**2 - explained, evaluator.norm**2)


def _error(evaluator: Evaluator, square: Square) -> float:
    trusted = square.value > _DIGITS * evaluator.rounding * square.size
    return math.sqrt(square.value) if trusted else evaluator.error()
