"""From figures to a verdict, in a fixed order of questions.

With the tensor:

1.  Does SS grow along the sensitivity path, p >= `slope`?  Then no best approximation of this rank exists on the
    branch of the model: DIVERGING; unless a path from another start is tame and has less error: STUCK.
2.  Is the end of the path clearly better than the model, at no more sensitivity?  STUCK.
3.  Has J null directions beyond the gauge?  OVER_RANKED.
4.  Is the spread of its singular values `spread` or more?  ILL_CONDITIONED.
5.  Would another gauge lower SS by `gauge_excess` or more?  BADLY_GAUGED.
6.  HEALTHY.

Without it the first two questions become one: is the cancellation chi `cancellation` or more?  A tame model with such
cancellation is possible (near the border of the set of models), so this DIVERGING is a suspicion, and says so.

The thresholds were chosen between the figures of healthy and of ill models on the tuning seeds of
benchmarks/degeneracy/labelled.py, which prints both sides, and judged on other seeds.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from tensorchain.diagnosis.figures import Figures
from tensorchain.diagnosis.path import SensitivityPath


class Verdict(enum.Enum):
    """What is wrong with a decomposition; the value says it in words."""

    HEALTHY = "nothing is wrong: the model is tame, well-conditioned and in a good gauge"
    BADLY_GAUGED = "the tensor is fine, its blocks are badly scaled: another gauge lowers the sensitivity for free"
    ILL_CONDITIONED = "a best approximation exists, but the tensor hardly determines some directions of its blocks"
    OVER_RANKED = "the blocks are not determined beyond the gauge: the rank is higher than the tensor supports"
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
    slope : exponent p of SS ~ nu^(-p) at the end of the path.
    cancellation : chi, when there is no tensor.
    spread : sigma_max / sigma_min of J modulo gauge.
    gauge_excess : SS over SS in the optimal gauge.
    better : error at the end of the path over that of the model, below which the model is stuck.
    dearer : sensitivity there over that of the model, up to which it counts as no more.
    resolved : relative error below which a model is never called stuck: a bad gauge alone can round X by as much.
    """

    slope: float = 0.1
    cancellation: float = 10.0
    spread: float = 100.0
    gauge_excess: float = 2.0
    better: float = 0.7
    dearer: float = 2.0
    resolved: float = 1e-5


def judge(
    figures: Figures,
    error: float | None = None,
    path: SensitivityPath | None = None,
    other: SensitivityPath | None = None,
    limits: Thresholds | None = None,
) -> Verdict:
    """The verdict on a model.

    Parameters
    ----------
    figures : of the model.
    error, path : its relative error and its sensitivity path, when there is a tensor.
    other : the path from another start, when one was tried.
    limits : by default `Thresholds()`.
    """
    limits = Thresholds() if limits is None else limits
    if path is None or error is None:
        if figures.cancellation >= limits.cancellation:
            return Verdict.DIVERGING
    elif grows(path, limits):
        tamer = (
            other is not None
            and not grows(other, limits)
            and is_better(float(other.error[-1]), float(path.error[-1]), limits)
        )
        return Verdict.STUCK if tamer else Verdict.DIVERGING
    elif is_stuck(figures, error, path, limits):
        return Verdict.STUCK
    if figures.nullity:
        return Verdict.OVER_RANKED
    if figures.spread is not None and figures.spread >= limits.spread:
        return Verdict.ILL_CONDITIONED
    if figures.gauge_excess >= limits.gauge_excess:
        return Verdict.BADLY_GAUGED
    return Verdict.HEALTHY


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
