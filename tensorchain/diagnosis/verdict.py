"""From figures to a verdict, in a fixed order of questions.

With the tensor:

1.  Are there fewer observed entries than free parameters, or null directions of J at the observed entries that J has
    not at all of them?  UNDETERMINED.
2.  Does SS grow along the sensitivity path, p >= `slope`?  Then no best approximation of this rank exists on the
    branch of the model: DIVERGING; unless a path from another start is stable and has less error: STUCK.  A model that
    was chosen for little sensitivity (StopReason.STABILISED) is not asked this: it is where the growth was stopped;
    nor is one whose blocks are all non-negative, or all fixed but one: then a best approximation exists.
3.  Is the end of the path clearly better than the model, at no more sensitivity?  STUCK.
4.  Is it better by more than the tolerance of a solver, and was the model not held back by a bound?  UNFINISHED.
5.  Does the model explain no more of the data than a fit of noise would, or less than `explained`?  EXPLAINS_LITTLE.
6.  Has J null directions beyond the gauge, or is there a part of the model that explains noise?  OVER_RANKED.
7.  Is the spread of its singular values, at the observed entries, `spread` or more?  ILL_CONDITIONED.
8.  Would another gauge lower SS by `gauge_excess` or more?  BADLY_GAUGED.
9.  Does a path from another start lead to less error (STUCK), or to another tensor with the same error (OVER_RANKED;
    UNDETERMINED where entries are missing)?
10. HEALTHY.

Without it: is the cancellation chi `cancellation` or more (DIVERGING)? A stable model with such cancellation is
possible (near the border of the set of models), so this is a suspicion, and says so. Did a fit stop at a limit
(UNFINISHED), or with an error that leaves nearly all (EXPLAINS_LITTLE)? Then questions 6 to 8.

The thresholds were chosen between the figures of healthy and of ill models on the tuning seeds of
benchmarks/degeneracy/labelled.py, which prints both sides, and judged on other seeds.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from tensorchain.diagnosis.figures import Figures
from tensorchain.diagnosis.path import SensitivityPath
from tensorchain.diagnosis.support import Support


class Verdict(enum.Enum):
    """What is wrong with a decomposition; the value says it in words.

    Examples
    --------
    >>> import tensorchain as tc
    >>> tc.Verdict.HEALTHY in tc.Verdict
    True
    """

    HEALTHY = "nothing is wrong: the model is stable, well-conditioned and in a good gauge"
    BADLY_GAUGED = "the tensor is fine, its blocks are badly scaled: another gauge lowers the sensitivity for free"
    ILL_CONDITIONED = "a best approximation exists, but the tensor hardly determines some directions of its blocks"
    OVER_RANKED = "the rank is higher than the tensor supports: a part of the model is arbitrary, or explains noise"
    EXPLAINS_LITTLE = "the model explains no more of the tensor than it would of noise, or next to nothing of it"
    UNFINISHED = "the fit was stopped before it had converged: further steps lower the error"
    UNDETERMINED = "the observed entries do not determine the model: it can move and none of them does"
    STUCK = "the solver ended in a swamp or too early: a model with less error and no more sensitivity is within reach"
    DIVERGING = "no best approximation: the error creeps down while the blocks grow without bound and cancel"

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return self is Verdict.HEALTHY


@dataclass(frozen=True)
class Thresholds:
    """Limits of the figures.

    Parameters
    ----------
    slope : float, default 0.1
        Exponent p of SS ~ nu^(-p) at the end of the path.
    cancellation : float, default 10.0
        Chi, when there is no tensor.
    spread : float, default 100.0
        sigma_max / sigma_min of J modulo gauge.
    gauge_excess : float, default 2.0
        SS over SS in the optimal gauge.
    better : float, default 0.7
        Error at the end of the path over that of the model, below which the model is stuck.
    dearer : float, default 2.0
        Sensitivity there over that of the model, up to which it counts as no more.
    resolved : float, default 1e-05
        Relative error below which a model is never called stuck: a bad gauge alone can round X by as much.
    unfinished : float, default 0.98
        Error at the end of the path over that of the model, below which the fit is not finished.
    explained : float, default 0.05
        Share of the squared norm below which a model explains little, whatever noise would.
    noise : float, default 4.0
        F of a model, see :mod:`tensorchain.diagnosis.support`, below which it may have been fitted to noise.
    needed : float, default 4.3
        F of a part of a model below which it explains noise.
    same : float, default 0.2
        Distance of two models relative to ||T||, in units of the error, below which they are one.
    """

    slope: float = 0.1
    cancellation: float = 10.0
    spread: float = 100.0
    gauge_excess: float = 2.0
    better: float = 0.7
    dearer: float = 2.0
    resolved: float = 1e-5
    unfinished: float = 0.98
    explained: float = 0.05
    noise: float = 4.0
    needed: float = 4.3
    same: float = 0.2


@dataclass(frozen=True)
class Other:
    """Where a path from another start leads.

    Attributes
    ----------
    path : SensitivityPath
        The path.
    distance : float
        Of its last model from the model in question, relative to ||T||.
    """

    path: SensitivityPath
    distance: float


def judge(
    figures: Figures,
    error: float | None = None,
    path: SensitivityPath | None = None,
    other: SensitivityPath | None = None,
    limits: Thresholds | None = None,
    *,
    support: Support | None = None,
    stopped: bool = False,
    fitted: bool = False,
    bounded: bool = False,
    stabilised: bool = False,
    closed: bool = False,
) -> Verdict:
    """The verdict on a model.

    Parameters
    ----------
    figures : Figures
        Of the model.
    error, path : float or SensitivityPath, optional
        Its relative error and its sensitivity path, when there is a tensor.
    other : SensitivityPath, optional
        The path from another start, when SS grew and one was tried.
    limits : Thresholds, optional
        By default `Thresholds()`.
    support : Support, optional
        What the data say, when there is a tensor.
    stopped : bool, default False
        Whether the fit ended at a limit.
    fitted : bool, default False
        Whether the model comes from a fit to these data; the truth behind noisy data does not.
    bounded : bool, default False
        Whether the fit was held back by a constraint.
    stabilised : bool, default False
        Whether the model was chosen for little sensitivity at nearly the least error: that SS grows beyond it is why it
        was, and no fault of it.
    closed : bool, default False
        Whether a best approximation is known to exist.
    """
    limits = Thresholds() if limits is None else limits
    if support is not None and is_undetermined(figures, support):
        return Verdict.UNDETERMINED
    if path is None or error is None:
        if figures.cancellation >= limits.cancellation:
            return Verdict.DIVERGING
        if stopped:
            return Verdict.UNFINISHED
        if error is not None and 1.0 - error**2 < limits.explained:
            return Verdict.EXPLAINS_LITTLE
    elif stabilised and figures.cancellation < limits.cancellation:
        pass
    elif grows(path, limits) and not closed:
        better = (
            other is not None
            and not grows(other, limits)
            and is_better(float(other.error[-1]), float(path.error[-1]), limits)
        )
        return Verdict.STUCK if better else Verdict.DIVERGING
    elif is_stuck(figures, error, path, limits):
        return Verdict.STUCK
    elif not bounded and is_unfinished(figures, error, path, support, limits, stopped=stopped, fitted=fitted):
        return Verdict.UNFINISHED
    if support is not None and (support.explained < limits.explained or support.evidence < limits.noise):
        return Verdict.EXPLAINS_LITTLE
    if figures.nullity or (support is not None and support.least_evidence < limits.needed):
        return Verdict.OVER_RANKED
    spreads = [figures.spread, None if support is None else support.spread]
    if any(spread is not None and spread >= limits.spread for spread in spreads):
        return Verdict.ILL_CONDITIONED
    if figures.gauge_excess >= limits.gauge_excess:
        return Verdict.BADLY_GAUGED
    return Verdict.HEALTHY


def questioned(error: float, other: Other, complete: bool, limits: Thresholds) -> Verdict:
    """The verdict on a model that looked healthy, after a path from another start.

    `error` is that of the path from the model, or of the model where that is less.
    """
    there = float(other.path.error[-1])
    if grows(other.path, limits):
        return Verdict.HEALTHY
    if there < limits.unfinished * error and error > limits.resolved:
        return Verdict.STUCK
    if there <= max(error / limits.unfinished, limits.resolved) and other.distance > limits.same * error + 1e-3:
        return Verdict.OVER_RANKED if complete else Verdict.UNDETERMINED
    return Verdict.HEALTHY


def is_undetermined(figures: Figures, support: Support) -> bool:
    """Whether the observed entries leave directions open that all entries would not."""
    if support.entries < support.parameters:
        return True
    return support.nullity is not None and support.nullity > (figures.nullity or 0)


def is_unfinished(
    figures: Figures,
    error: float,
    path: SensitivityPath,
    support: Support | None,
    limits: Thresholds,
    *,
    stopped: bool,
    fitted: bool,
) -> bool:
    """Whether further steps lower the error of a model that nothing held back."""
    below = limits.unfinished
    if not fitted and support is not None and support.entries > support.parameters:
        # A fit of p parameters to N entries takes p / N of the squared error of the truth behind them, give or take
        # the spread of a sum of p squares.
        taken = (support.parameters + 3.0 * math.sqrt(2.0 * support.parameters)) / support.entries
        below *= math.sqrt(max(1.0 - taken, 0.25))
    if error <= limits.resolved or not float(path.error[-1]) < below * error:
        return False
    # Of a model without a history a bound is possible: then less error may not cost more sensitivity.
    allowed = limits.dearer * figures.relative_sensitivity / figures.gauge_excess
    return stopped or path.model.sensitivity(relative=True) <= allowed


def grows(path: SensitivityPath, limits: Thresholds) -> bool:
    """Whether SS still grows as a power of 1 / nu at the end of the path."""
    return math.isfinite(path.slope) and path.slope >= limits.slope


def is_better(error: float, than: float, limits: Thresholds) -> bool:
    """Whether one relative error is clearly below another that is not yet at rounding level."""
    return than > limits.resolved and error < limits.better * than


def is_stuck(figures: Figures, error: float, path: SensitivityPath, limits: Thresholds) -> bool:
    """Whether the path ends at clearly less error and no more sensitivity than the model has in its best gauge.

    Sensitivities relative to ||X|| are compared: a model of the wrong size is stuck as well.
    """
    if not is_better(float(path.error[-1]), error, limits):
        return False
    allowed = limits.dearer * figures.relative_sensitivity / figures.gauge_excess
    return path.model.sensitivity(relative=True) <= allowed
