"""A start for data with gaps: a fit to an estimate of their core, made as if nothing were missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tensorchain.models import Model
from tensorchain.solvers.als import ALS
from tensorchain.solvers.constraints import Free
from tensorchain.solvers.problem import Iterate, Problem
from tensorchain.solvers.reduced import Reduced, order_of
from tensorchain.solvers.reduction import estimated, reduced_shape
from tensorchain.solvers.starts import fitted_multiple, start_by

_MOST = 2
"""Starts from which the core is fitted."""


def from_estimate(problem: Problem, like: Model, names: Sequence[str], sweeps: ALS) -> Model | None:
    """The best of some fits to an estimate of the core, at the best multiple for the data with their gaps.

    Parameters
    ----------
    problem : Problem
        The data with gaps; its constraint does not count yet.
    like : Model
        Of the wiring and shape that are fitted.
    names : sequence of str
        Of the starts, as in `start_by`, in the order in which they are tried.
    sweeps : ALS
        From each start.

    Returns
    -------
    Model or None
        None where there is no estimate, or no start.
    """
    try:
        reduction = estimated(problem.tensor, reduced_shape(like.network, problem.tensor.shape), problem.rng)
    except TypeError:
        return None
    size = reduction.core_norm
    if not 0.0 < size < np.inf:
        return None
    small = reduction.lower(like)
    core = reduction.tensor.scaled(1.0 / size)
    within = Reduced(replace(problem, tensor=core, constraint=Free()), None)
    found: list[Iterate] = []
    for name in names:
        first = start_by(name, small, core, problem.rng)
        if first is not None and len(found) < _MOST:
            found.append(within.aside(sweeps, first, Free()))
    if not found:
        return None
    return fitted_multiple(reduction.lift(min(found, key=order_of).model), problem.tensor)
