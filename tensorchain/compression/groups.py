"""Convolutions in groups: each group of channels has a kernel, and a decomposition, of its own.

A layer of g groups is g layers side by side.  All groups get the same method and rank, so that the small convolutions
of the groups, written next to each other, are again convolutions in groups:

    (S -> a), (a -> b), (b -> T)  for each group    =    g S -> g a,  g a -> g b,  g b -> g T,  in g groups.

Block terms have groups inside each group, which only multiply; chains are written out as grouped convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tensorchain.compression.candidates import Candidate
from tensorchain.compression.conv import Convolution, LayerPlan, Step
from tensorchain.compression.fitting import KernelFit
from tensorchain.compression.refit import Moments
from tensorchain.kernels import Array


def joined(plans: Sequence[LayerPlan]) -> LayerPlan:
    """The plan of a layer in groups from one plan for each group, all of the same shapes.

    Parameters
    ----------
    plans : sequence of LayerPlan
        A single one comes back as it is.

    Returns
    -------
    LayerPlan

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.compression import fit_kernel
    >>> kernels = np.random.default_rng(0).standard_normal((3, 6, 4, 3, 3))
    >>> plan = joined([fit_kernel(kernel, "tucker2", (2, 3)).plan for kernel in kernels])
    >>> [(step.weight.shape, step.groups) for step in plan.convolutions]
    [((6, 4, 1, 1), 3), ((9, 2, 3, 3), 3), ((18, 3, 1, 1), 3)]
    """
    if len(plans) == 1:
        return plans[0]
    steps: list[Step] = []
    for parts in zip(*(plan.grouped().convolutions for plan in plans), strict=True):
        biases = [part.bias for part in parts if part.bias is not None]
        steps.append(
            replace(
                parts[0],
                weight=np.concatenate([part.weight for part in parts]),
                groups=sum(part.groups for part in parts),
                bias=np.concatenate(biases) if biases else None,
            )
        )
    return replace(plans[0], steps=tuple(steps))


def split(plan: LayerPlan, groups: int) -> list[LayerPlan]:
    """The plans of the groups of a layer; the inverse of `joined`.

    Parameters
    ----------
    plan : LayerPlan
    groups : int

    Returns
    -------
    list of LayerPlan

    Raises
    ------
    ValueError
        When a convolution of the plan is not in that many groups.

    Examples
    --------
    >>> import numpy as np
    >>> whole = LayerPlan("dense", None, (Convolution(np.ones((4, 3, 1, 1)), groups=2),))
    >>> [part.kernel.shape for part in split(whole, 2)]
    [(2, 3, 1, 1), (2, 3, 1, 1)]
    """
    if groups == 1:
        return [plan]
    found: list[list[Step]] = [[] for _ in range(groups)]
    for step in plan.steps:
        if not isinstance(step, Convolution) or step.groups % groups:
            raise ValueError(f"{step} is not in {groups} groups")
        weights = np.split(step.weight, groups)
        biases: Sequence[Array | None] = [None] * groups if step.bias is None else np.split(step.bias, groups)
        for steps, weight, bias in zip(found, weights, biases, strict=True):
            steps.append(replace(step, weight=weight, groups=step.groups // groups, bias=bias))
    return [replace(plan, steps=tuple(steps)) for steps in found]


def groups_of(plan: LayerPlan) -> int:
    """How many layers side by side a plan is."""
    return math.gcd(*(step.groups for step in plan.convolutions)) if len(plan.steps) == len(plan.convolutions) else 1


def kernel_of(plan: LayerPlan, groups: int) -> Array:
    """The composed kernel (T, S / groups, D1, ..)."""
    return np.concatenate([part.kernel for part in split(plan, groups)])


def joined_fit(fits: Sequence[KernelFit], kernels: Array, outputs: Sequence[float] | None) -> KernelFit:
    """The fit of a layer in groups from those of its groups.

    Parameters
    ----------
    fits : sequence of KernelFit
    kernels : ndarray
        Ndarray (groups, T / groups, S / groups, D1, ..).
    outputs : sequence of float, optional
        Energy of each group's output, where the errors of the outputs were measured.
    """
    if len(fits) == 1:
        return fits[0]
    plan = joined([fit.plan for fit in fits])
    sizes = [float(np.sum(kernel.astype(np.float64) ** 2)) for kernel in kernels]
    return replace(
        fits[0],
        plan=plan,
        error=_mean([fit.error for fit in fits], sizes),
        output_error=None if outputs is None else _mean([fit.output_error or 0.0 for fit in fits], outputs),
        sensitivity=plan.sensitivity(relative=True),
        stabilised=all(fit.stabilised for fit in fits),
        seconds=sum(fit.seconds for fit in fits),
    )


def joined_curve(curves: Sequence[Sequence[Candidate]], sizes: Sequence[float]) -> list[Candidate]:
    """The candidates of a layer in groups from those of its groups, whose kernels, or outputs, have these energies."""
    if len(curves) == 1:
        return list(curves[0])
    found = [{(point.method, str(point.rank)): point for point in points} for points in curves]
    whole = sum(sizes) or 1.0
    points = []
    for key, point in found[0].items():
        error = sum(size * part[key].error for size, part in zip(sizes, found, strict=True)) / whole
        count = len(curves)
        points.append(replace(point, parameters=count * point.parameters, macs=count * point.macs, error=error))
    return sorted(points, key=lambda point: (point.macs, point.error))


def error_of_groups(plans: Sequence[LayerPlan], moments: Sequence[Moments]) -> float:
    """Relative error of the outputs of all groups, from the plan and the moments of each."""
    errors = []
    for plan, own in zip(plans, moments, strict=True):
        kernel, bias = plan.kernel, plan.convolutions[-1].bias
        rows = kernel.reshape(len(kernel), -1)
        errors.append(own.relative_error(rows, np.zeros(len(rows)) if bias is None else bias))
    return errors[0] if len(errors) == 1 else _mean(errors, [own.energy for own in moments])


def _mean(errors: Sequence[float], sizes: Sequence[float]) -> float:
    """Root of the weighted mean of squares."""
    total = sum(sizes)
    squares = sum(size * error**2 for size, error in zip(sizes, errors, strict=True))
    return math.sqrt(squares / total) if total > 0.0 else 0.0
