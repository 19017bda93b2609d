"""How far a model is from a solution, measured on the model itself.

With v_k half the gradient of the Lagrangian in block k and S_k half its curvature there, the best change of that block
alone lowers it by <v_k, S_k^-1 v_k>.  The sum over the blocks, relative to the Lagrangian, is zero exactly where the
gradient vanishes, and it changes neither with the units of the data nor with the balance between blocks: it is what a
sweep would gain.  Damping has no part in it, so that a short step is not taken for the end.

Reference: Nocedal and Wright, "Numerical Optimization" (2006), chapter 12, for the conditions of Karush, Kuhn, Tucker.
"""

from __future__ import annotations

import numpy as np

from tensorchain.evaluation import Evaluator
from tensorchain.solvers.blocks import BlockProblem
from tensorchain.solvers.constraints import Lagrangian
from tensorchain.solvers.constraints.base import Values

STATIONARY = 1e-6
"""Relative decrease over a sweep below which a model counts as stationary."""


def attainable_decrease(at: Evaluator, lagrangian: Lagrangian, values: Values) -> float:
    """What the best changes of single blocks would take off the Lagrangian, relative to it."""
    weights, size = lagrangian.weights(values), lagrangian.size(values)
    if not size > 0.0:
        return 0.0
    total = 0.0
    gradients = {quantity: quantity.half_gradient(at) for quantity in values}
    for k in range(len(at.model.matrices)):
        problem = BlockProblem.of(at, k, values, {quantity: parts[k] for quantity, parts in gradients.items()})
        change = problem.change(weights)
        slopes = [weights.get(q, 0.0) * float(np.vdot(change, v).real) for q, v in problem.gradients.items()]
        total -= sum(slopes)
    return total / size
