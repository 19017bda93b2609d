"""How far a model is from a solution, measured on the model itself.

With v_k half the gradient of the Lagrangian in block k and S_k half its curvature there, the best change D of that
block alone lowers it by -(2 <v_k, D> + <D, D S_k>), which is <v_k, S_k^-1 v_k> where the block may lie everywhere.
Where it may not, D is the best change within the domain: zero exactly where the gradient vanishes in the entries that
can move both ways and does not lead into the domain in the others, the conditions of Karush, Kuhn and Tucker.  The sum
over the blocks, relative to the Lagrangian, changes neither with the units of the data nor with the balance between
blocks: it is what a sweep would gain.  Damping has no part in it, so that a short step is not taken for the end.

Reference: Nocedal and Wright, "Numerical Optimization" (2006), chapter 12, for the conditions of Karush, Kuhn, Tucker.
"""

from __future__ import annotations

import numpy as np

from tensorchain.evaluation import Evaluator
from tensorchain.solvers.blocks import BlockProblem
from tensorchain.solvers.constraints import Domain, Lagrangian
from tensorchain.solvers.constraints.base import Values
from tensorchain.solvers.constraints.domain import EVERYWHERE

STATIONARY = 1e-6
"""Relative decrease over a sweep below which a model counts as stationary."""


def attainable_decrease(at: Evaluator, lagrangian: Lagrangian, values: Values, domain: Domain = EVERYWHERE) -> float:
    """What the best changes of single blocks would take off the Lagrangian, relative to it."""
    weights, size = lagrangian.weights(values), lagrangian.size(values)
    if not size > 0.0:
        return 0.0
    total = 0.0
    gradients = {quantity: quantity.half_gradient(at) for quantity in values}
    fixed = domain.fixed(at.network)
    for k in range(len(at.model.matrices)):
        if k in fixed:
            continue
        parts = {quantity: blocks[k] for quantity, blocks in gradients.items()}
        problem = BlockProblem.of(at, k, values, parts, domain=domain)
        change = problem.change(weights)
        for q, v in problem.gradients.items():
            slope = 2.0 * v + problem.apply(q, change)
            total -= weights.get(q, 0.0) * float(np.vdot(change, slope).real)
    return max(total, 0.0) / size
