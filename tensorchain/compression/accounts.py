"""Why a compression used less than its budget, and what stays of a network whatever the budget.

The budget is a share of the whole network.  What a run uses is less where the next larger rank of any layer no longer
fits, because the ladder of ranks ends below the dense layer or has wide steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tensorchain.compression.report import Report, StepReport
from tensorchain.compression.request import Request, Site

_NEAR = 0.03
"""A budget is used where this share of it is left at most."""
_NAMED = 3
"""Layers that stay are named up to so many, the largest first."""


def unused_budget(report: Report, share: float, budget: str = "keep_macs") -> str:
    """Why less than the budget was used, in words; empty where it was used.

    Parameters
    ----------
    report : Report
        Of the compression.
    share : float
        The budget.
    budget : str, default "keep_macs"
        "keep_macs", "keep_params" or "keep_latency".  Of a time nothing is said: it is searched for.
    """
    if budget == "keep_latency":
        return ""
    pair = report.macs if budget == "keep_macs" else report.parameters
    if not pair[0] or not report.allocation.choices:
        return ""
    used = pair[1] / pair[0]
    if share - used <= _NEAR * share:
        return ""
    steps: list[tuple[float, str, Any, Any]] = []
    for layer, points, choice in zip(report.layers, report.curves, report.allocation.choices, strict=True):
        now = points[choice]
        cost = now.cost(budget)
        for point in points:
            more = point.cost(budget) - cost
            if more > 0 and point.error < now.error:
                steps.append((more / pair[0], layer.name, now.rank, point.rank))
    told = f"{budget} {share:g} was asked for, {used:.3f} is used"
    if not steps:
        return f"{told}: no layer has a candidate that costs more and errs less"
    extra, name, rank, larger = min(steps, key=lambda step: step[0])
    to = "the dense layer" if larger is None else f"rank {larger}"
    if extra > share - used:
        return f"{told}: the next step, {name} from rank {rank} to {to}, costs {extra:.3f} more"
    return f"{told}: what is left buys too little of the error"


def unmet_budget(sites: Sequence[Site], request: Request, least: float, whole: float) -> str:
    """Why a budget of multiplications or parameters cannot be met, and what to do.

    Parameters
    ----------
    sites : sequence of Site
        All layers.
    request : Request
        With the budget.
    least : float
        What is left with the cheapest candidates, as a share.
    whole : float
        What the budget counts of the dense network.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.compression import Geometry
    >>> sites = [Site("gru", np.zeros((1, 1, 1, 1)), None, Geometry(), (1, 1), refusal="a GRU", counts=(60, 90))]
    >>> unmet_budget(sites, Request("tc", keep_macs=0.5), 1.0, 90.0).partition(", ")[2]
    '1.0000 in layers that stay (gru: a GRU, 1.000); give a larger share'
    """
    counts = [(s.macs if request.budget == "keep_macs" else s.parameters, s) for s in sites]
    stay = sorted(((n, s) for n, s in counts if n and request.refusal(s)), key=lambda pair: -pair[0])
    told = f"{request.budget}={request.share:g} cannot be met: with the cheapest candidates of all layers {least:.4f} "
    told += f"is left, {sum(n for n, _ in stay) / whole:.4f} in layers that stay"
    if stay:
        named = [f"{s.name or 'the network itself'}: {request.refusal(s)}, {n / whole:.3f}" for n, s in stay[:_NAMED]]
        more = [] if len(stay) <= _NAMED else [f"{len(stay) - _NAMED} more"]
        told += f" ({'; '.join([*named, *more])})"
    return f"{told}; give a larger share"


def unheld_bound(steps: Sequence[StepReport], max_output_error: float | None, min_agreement: float | None) -> str:
    """That no trial holds a bound, the nearest that was found, and what to do.

    Parameters
    ----------
    steps : sequence of StepReport
        The trials, with the agreement or minus the error as their score.
    max_output_error, min_agreement : float or None
        The bound, and None.
    """
    near = max(steps, key=lambda step: -math.inf if step.score is None else step.score)
    name, bound = ("max_output_error", max_output_error) if min_agreement is None else ("min_agreement", min_agreement)
    return (
        f"no trial holds {name}={bound:g}; at a share of {near.share:.3f} it is {abs(near.score or 0.0):.3g}: give a "
        "wider bound, more calibration inputs, more trials, or more candidates"
    )
