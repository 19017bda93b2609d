"""A model of far less sensitivity at nearly the least error.

Where the least error e goes with blocks that have blown up, a little more error buys a sensitivity that is smaller by
orders of magnitude, and components that replicate.  What is asked for is

    min SS   subject to   ||T - X|| <= (1 + slack) e,

and its answer is returned if its SS is less than a tenth of that of the least error; all others are left untouched.

**The question costs little.**  With a penalty nu on SS the error rises and SS falls.  If SS can fall tenfold within the
slack, then at

    nu = 2.5 slack e^2 / SS

the objective e^2 + nu SS is less at that model than where the run ended, so that a few sweeps from there lower SS;
where they do not, the fit is healthy.  No question is asked where SS is less than ten times what any model of these
sizes must have (:mod:`tensorchain.models.least_sensitivity`).  Sweeps lead nowhere in a deep swamp: where blocks have
grown beyond what random ones are, and starts did not agree, joint steps ask.

**The start** of the constrained run is the best minimiser of a sensitivity path that was passed on the way, or else
where these steps led.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tensorchain.models import Model
from tensorchain.solvers.als import ALS
from tensorchain.solvers.constraints import Penalty, Sensitivity, SquaredError
from tensorchain.solvers.constraints.base import Bounded, Normalised, Weighted
from tensorchain.solvers.lm import LM
from tensorchain.solvers.problem import Iterate
from tensorchain.solvers.reduced import Reduced
from tensorchain.stability.gauge import optimal_gauge

_FALL = 10.0
"""How many times smaller SS has to be."""
_PROBE, _LONG_PROBE = ALS(max_iter=3, tol=1e-6, exact=0.0), LM(max_iter=12, tol=1e-6, exact=0.0)
"""From where several starts have come to, and from where a run was left while the error still fell."""
_LARGE = 4000
"""Unknowns up to which steps are made on the tensor itself."""
_HEALTHY = 1.5
"""Fall of SS over these steps up to which a fit is healthy."""
_GROWN = 2.0
"""SS over that of random blocks, beyond which blocks have grown; among healthy fits it varies by less."""
_MET = 1e-3
"""Relative violation of the slack that is let pass."""
_SMALL = 1 << 18
"""Entries up to which steps are made on the tensor itself."""
_LAST = LM(max_iter=60, tol=1e-6, exact=0.0)
_BOUNDED = LM(max_iter=100, tol=1e-6, exact=0.0)


def stabilised(
    reduced: Reduced, best: Iterate, stages: Sequence[Iterate], slack: float, *, settled: bool = True
) -> Iterate | None:
    """The model of least sensitivity within the slack, or None where the fit is healthy.

    Parameters
    ----------
    reduced : Reduced
        The problem.
    best : Iterate
        Of the least error, for the tensor.
    stages : sequence of Iterate
        Minimisers of a sensitivity path, on the core.
    slack : float
        Relative rise of the error that is allowed.
    settled : bool, default True
        Whether several starts came to that minimiser.
    """
    allowed = ((1.0 + slack) * best.error) ** 2
    least = 0.0 if reduced.whole.tensor.weights is not None else _least(best.model, math.sqrt(allowed))
    if best.sensitivity < _FALL * least:
        return None
    model = optimal_gauge(best.model)
    sensitivity = model.sensitivity()
    if sensitivity < _FALL * least:
        return None
    passed = min(stages, key=lambda it: _order(reduced.error(it.error) ** 2, it.sensitivity, allowed), default=None)
    first = None if passed is None else reduced.lift(passed.model)
    wide = reduced.widened(model)
    lower = wide.lower(model)
    if passed is None or passed.sensitivity * _HEALTHY > sensitivity:
        price = Penalty(2.5 * slack * best.error**2 / sensitivity)
        probe = wide.aside(_LONG_PROBE if not settled and _grown(model) else _PROBE, lower, price)
        if probe.sensitivity * _HEALTHY > sensitivity:
            return None
        first = wide.lift(probe.model)
    assert first is not None
    if not allowed > wide.remainder:
        # Of the error all that is left lies outside of the core, to rounding.
        wide = Reduced(reduced.whole, None)
    bound = Bounded(SquaredError(), allowed - wide.remainder, tightens=False)
    asked = Normalised((Weighted(Sensitivity(), 1.0),), (bound,), wide.problem.constraint)
    steps = _BOUNDED if lower.n_parameters <= _LARGE else replace(_BOUNDED, max_iter=40)
    found = wide.aside(steps, wide.lower(first), asked)
    if found.merit is None or found.merit[0] > _MET or found.sensitivity * _FALL > sensitivity:
        return None
    answer = wide.lifted(found)
    if wide.reduction is not None and math.prod(best.model.shape) <= _SMALL and model.n_parameters <= _LARGE:
        # The best directions may lie outside of the core: some steps on the tensor find them.
        whole = Reduced(wide.whole, None)
        asked = replace(asked, limits=(replace(bound, limit=allowed),))
        moved = whole.aside(_LAST, answer.model, asked)
        if moved.merit is not None and moved.merit[0] <= _MET and moved.sensitivity < answer.sensitivity:
            answer = moved
    return replace(answer, merit=(0.0, answer.error**2), answer=True, least_error=best.error)


def _least(model: Model, error: float) -> float:
    """A lower bound of SS for models of these sizes within an error of data of norm 1."""
    count = len(model.matrices)
    norm = max(1.0 - error, 0.0)
    return model.least_sensitivity * float(norm ** (2.0 * (count - 1) / count))


def growth(model: Model, drawn: Model) -> float:
    """The relative SS over that of random blocks of the same sizes in their best gauge."""
    return model.sensitivity(relative=True) / optimal_gauge(drawn, tol=1e-2).sensitivity(relative=True)


def _grown(model: Model) -> bool:
    return growth(model, model.random_like(np.random.default_rng(0))) > _GROWN


def _order(square: float, sensitivity: float, allowed: float) -> tuple[bool, float]:
    """Of models within the bound the one of least sensitivity, of others the one of least error."""
    return square > allowed, square if square > allowed else sensitivity
