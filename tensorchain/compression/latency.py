r"""A budget of time: what each candidate of a layer takes, and networks that are timed until one is fast enough.

Multiplications are poor guides to time: a small convolution waits for memory, and three in a row for each other.  So
the candidates of every layer are run, in both forms where there are two, and the ranks are chosen by

    minimise   sum_l e_l(j_l)   subject to   r + sum_l t_l(j_l) <= s T,      r = T - sum_l t_l(dense),

with T the time of the whole network, s the share of it that is asked for, and r what its layers do not take: all else
in it, less the time by which they are faster side by side than one by one.  Where they take more than T one by one,
their times are lowered in one ratio, and r is zero.  A sum of times of layers is not the time of
a network, so the network that was chosen is timed beside the original, and s is corrected in the sum by what was missed
until the time itself holds.

What measures is a `Clock`; tests and other devices bring their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import numpy as np

from tensorchain.compression.candidates import Candidate, blank_plan
from tensorchain.compression.conv import Convolution, Fold, LayerPlan
from tensorchain.compression.groups import joined
from tensorchain.compression.projections import PROJECTIONS, blank_projection
from tensorchain.compression.report import Report
from tensorchain.compression.request import Request, Site

ROUNDS = 6
"""Networks that are timed at most."""
_NEAR = 0.97
"""The search ends where the time is within the budget and uses this share of it."""
_USED = 0.9
"""A budget of which a smaller share is used is said to be unused."""
_MOST = 12
"""Candidates of a method and a layer that are timed; along a ladder they take longer and longer."""

_WINDOW, _MOST_RUNS = 0.5, 300
"""Seconds in which a network is run again and again, and how often at most."""
_TINY = 1e-12
"""Seconds, below which no network runs."""

Result = TypeVar("Result")


class Clock(Protocol):
    """What measures seconds, on the device for which the network is meant."""

    def layers(self, plans: Sequence[LayerPlan], site: Site) -> list[float]:
        """Seconds that plans take in place of a layer, each for one pass."""
        ...

    def networks(self, networks: Sequence[Any]) -> list[float]:
        """Seconds of a run of each network, timed in turn."""
        ...


class Times:
    """Seconds of plans and of the whole network, each measured once.

    Parameters
    ----------
    clock : Clock
        What measures.
    network : object
        The original, as the clock takes it.
    """

    def __init__(self, clock: Clock, network: Any) -> None:
        self.clock, self.network = clock, network
        self._whole: float | None = None
        self._found: dict[tuple[Any, ...], float] = {}

    @property
    def whole(self) -> float:
        """Seconds of the original network."""
        if self._whole is None:
            self._whole = _checked(self.clock.networks([self.network]), 1, least=_TINY)[0]
        return self._whole

    def of(self, plans: Sequence[LayerPlan], site: Site) -> list[float]:
        """Seconds of plans in place of a layer; equal layers are measured once."""
        keys = [(_shapes(plan), site.image, site.uses) for plan in plans]
        new = {key: plan for key, plan in zip(keys, plans, strict=True) if key not in self._found}
        if new:
            self._found.update(zip(new, _checked(self.clock.layers(list(new.values()), site), len(new)), strict=True))
        return [self._found[key] for key in keys]

    def timed(self, site: Site, points: Sequence[Candidate], *, refit: bool = False) -> list[Candidate]:
        """Candidates with their seconds, at most `_MOST` of each method; the last, the layer itself, among them.

        Where layers are refitted, those that are replaced have a bias.
        """
        if len(points) == 1:
            return [replace(points[0], seconds=0.0)]
        chosen = [*_thinned(points[:-1]), points[-1]]
        forms = [forms_of(blank_of(site, point, refit=refit)) for point in chosen]
        seconds = iter(self.of([form for one in forms for form in one], site))
        return [
            replace(point, seconds=min(next(seconds) for _ in one)) for point, one in zip(chosen, forms, strict=True)
        ]

    def ratio(self, small: Any) -> tuple[float, float]:
        """Seconds of the original and of another network, in turn."""
        before, after = _checked(self.clock.networks([self.network, small]), 2, least=_TINY)
        return before, after

    def share(self, small: Any, most: float) -> float:
        """Seconds of another network, as a share of the original's; within `most` only where they are so twice.

        Of several noisy times the least is chosen, and is too small; the second one was not chosen.
        """
        before, after = self.ratio(small)
        if after > most * before:
            return after / before
        again = self.ratio(small)
        return max(after / before, again[1] / again[0])

    def told(self, report: Report, request: Request, small: Any) -> Report:
        """The report with the times of the network that is returned, and why it uses less than the budget."""
        if request.keep_latency is None:
            return report
        before, after = self.ratio(small)
        unused = ""
        if after < _USED * request.keep_latency * before:
            unused = f"keep_latency {request.keep_latency:g} was asked for, {after / before:.3f} is used"
            unused += ": no network that was timed is nearer to it"
        images = getattr(self.clock, "batch", None)
        return replace(report, run_seconds=(before, after), run_images=images, unused=unused)


def _checked(seconds: Sequence[float], count: int, *, least: float = 0.0) -> list[float]:
    """What a clock gave; ValueError where these are no times."""
    found = [float(value) for value in seconds]
    if len(found) != count or not all(least <= value < math.inf for value in found):
        above = "above 0" if least else "not below 0"
        raise ValueError(f"the clock gave {found} for {count}; as many finite seconds, {above}, are needed")
    return found


def blank_of(site: Site, point: Candidate, *, refit: bool = False) -> LayerPlan:
    """A plan with the shapes of a candidate and no values; with a bias where the layer has one, or a refit gives it."""
    if point.rank is None:
        weight = site.kernel
        return site.plan or LayerPlan("dense", None, (Convolution(weight, site.geometry, site.groups, site.bias),))
    part = site.parts[0]
    if point.method in PROJECTIONS or (point.method == "svd" and site.pointwise):
        plan = blank_projection(part.shape, point.method, site.geometry, point.rank)
    else:
        plan = blank_plan(point.method, point.rank, part.shape, site.geometry)
    steps = [replace(s, weight=s.weight.astype(part.dtype)) if isinstance(s, Convolution) else s for s in plan.steps]
    plan = joined([replace(plan, method=point.method, rank=point.rank, steps=tuple(steps))] * site.groups)
    last = plan.steps[-1]
    if (refit or site.bias is not None) and isinstance(last, Convolution):
        plan = replace(plan, steps=(*plan.steps[:-1], replace(last, bias=np.zeros(len(site.kernel), part.dtype))))
    return plan


def forms_of(plan: LayerPlan) -> list[LayerPlan]:
    """A plan in all its forms, the grouped one first."""
    return [plan.grouped(), plan] if any(isinstance(step, Fold) for step in plan.steps) else [plan]


def runs_of(seconds: float, least: int) -> int:
    """Runs of a network that takes so long: enough for half a second, in which a busy moment is short.

    Examples
    --------
    >>> runs_of(0.1, 15), runs_of(0.01, 15), runs_of(1e-6, 15)
    (15, 50, 300)
    """
    return int(min(max(least, _WINDOW / max(seconds, 1e-9)), _MOST_RUNS))


def within_latency(
    share: float, attempt: Callable[[float], tuple[Result, float]], *, least: float, rounds: int = ROUNDS
) -> Result:
    """The result that uses most of a budget of time, among those that hold it.

    Parameters
    ----------
    share : float
        Of the original's time, which must not be exceeded.
    attempt : callable
        From a share of the summed times to a result and the share that it takes when it is run.
    least : float
        The smallest share of the summed times that can be asked for.
    rounds : int, optional
        Most attempts.

    Raises
    ------
    ValueError
        When no attempt holds the share; it says the least that was found.

    Examples
    --------
    >>> within_latency(0.5, lambda asked: (f"asked {asked:.2f}", asked + 0.1), least=0.2)
    'asked 0.39'
    """
    # Rounding must not make the least budget too small.
    least = min(least * (1.0 + 1e-9), 1.0)
    if share >= 1.0:
        # The original itself holds it, whatever the noise of a clock says.
        return attempt(1.0)[0]
    asked, low, high = max(share, least), least, 1.0
    best: tuple[float, Result] | None = None
    fastest = float("inf")
    for _ in range(rounds):
        result, reached = attempt(asked)
        fastest = min(fastest, reached)
        if reached <= share:
            if best is None or reached > best[0]:
                best = reached, result
            if reached >= _NEAR * share:
                break
            low = max(low, asked)
        else:
            high = min(high, asked)
        if high <= low or (reached > share and asked <= least):
            break
        # Aims between the budget and the end of the range that counts as used.
        following = asked + share * (1.0 + _NEAR) / 2.0 - reached
        asked = following if low < following < high else (low + high) / 2.0 if best is not None else max(low, following)
    if best is None:
        raise ValueError(
            f"keep_latency={share:g} cannot be reached: the fastest network that was found takes {fastest:.3f} of the "
            "original's time; give a larger share, or another method: channels makes no layer two, svd makes two of one"
        )
    return best[1]


def _thinned(points: Sequence[Candidate]) -> list[Candidate]:
    """Of each method those that no other beats in multiplications and error, at most `_MOST` in even steps."""
    found: list[Candidate] = []
    for method in dict.fromkeys(point.method for point in points):
        own, lowest = list[Candidate](), float("inf")
        for point in sorted((p for p in points if p.method == method), key=lambda p: (p.macs, p.error)):
            if point.error < lowest:
                own.append(point)
                lowest = point.error
        step = max(len(own) - 1, 1) / (_MOST - 1)
        found += own if len(own) <= _MOST else [own[round(k * step)] for k in range(_MOST)]
    return found


def _shapes(plan: LayerPlan) -> tuple[Any, ...]:
    """What the time of a plan depends on."""
    return tuple(
        (step.weight.shape, step.groups, step.geometry, str(step.weight.dtype), step.bias is None)
        if isinstance(step, Convolution) else repr(step)
        for step in plan.steps
    )  # fmt: skip
