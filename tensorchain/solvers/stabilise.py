"""A model of far less sensitivity at nearly the least error.

Where the least error e goes with blocks that have blown up, a little more error buys a sensitivity that is smaller by
orders of magnitude, and components that replicate.  What is asked for is

    min SS   subject to   ||T - X|| <= (1 + slack) e,

and its answer is returned if its SS is less than a tenth of that of the least error; all others are left untouched.

**The question costs little.**  With a penalty nu on SS the error rises and SS falls.  If SS can fall tenfold within the
slack, then at

    nu = 2.5 slack e^2 / SS

the objective e^2 + nu SS is less at that model than where the run ended, so that a few steps from there lower SS; where
they do not, the fit is healthy.

**The start** of the constrained run is the best minimiser of a sensitivity path that was passed on the way, or else
where these steps led.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tensorchain.solvers.als import ALS
from tensorchain.solvers.constraints import Penalty, Sensitivity, SquaredError
from tensorchain.solvers.constraints.base import Bounded, Normalised, Weighted
from tensorchain.solvers.lm import LM
from tensorchain.solvers.problem import Iterate
from tensorchain.solvers.reduced import Reduced
from tensorchain.stability.gauge import optimal_gauge

_FALL = 10.0
"""How many times smaller SS has to be."""
_PROBE = LM(max_iter=12, tol=1e-6, exact=0.0)
_SWEEPS = ALS(max_iter=6, tol=1e-6, exact=0.0)
_LARGE = 2000
"""Unknowns beyond which sweeps ask the question."""
_HEALTHY = 1.5
"""Fall of SS over these steps up to which a fit is healthy."""
_BOUNDED = LM(max_iter=100, tol=1e-6, exact=0.0)


def stabilised(reduced: Reduced, best: Iterate, stages: Sequence[Iterate], slack: float) -> Iterate | None:
    """The model of least sensitivity within the slack, or None where the fit is healthy.

    Parameters
    ----------
    reduced : the problem.
    best : of the least error, for the tensor.
    stages : minimisers of a sensitivity path, on the core.
    slack : relative rise of the error that is allowed.
    """
    model = reduced.lower(optimal_gauge(best.model))
    sensitivity = model.sensitivity()
    limit = ((1.0 + slack) * best.error) ** 2 - reduced.remainder
    passed = [stage for stage in stages if stage.error**2 <= limit]
    first = min(passed, key=lambda stage: stage.sensitivity, default=None)
    if first is None or first.sensitivity * _HEALTHY > sensitivity:
        price = Penalty(2.5 * slack * best.error**2 / sensitivity)
        first = reduced.aside(_PROBE if model.n_parameters <= _LARGE else _SWEEPS, model, price)
        if first.sensitivity * _HEALTHY > sensitivity:
            return None
    bound = Bounded(SquaredError(), limit, tightens=False)
    asked = Normalised((Weighted(Sensitivity(), 1.0),), (bound,), reduced.problem.constraint)
    found = reduced.aside(_BOUNDED, first.model, asked)
    if found.merit is None or found.merit[0] > 0.0 or found.sensitivity * _FALL > sensitivity:
        return None
    answer = reduced.lifted(found)
    return replace(answer, merit=(0.0, answer.error**2), answer=True, least_error=best.error)
