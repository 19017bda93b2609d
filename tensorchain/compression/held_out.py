"""How near to its kernel a refitted layer stays, chosen by inputs that the fit has not seen.

A layer behind many others may have more weights than the calibration inputs have positions there: a product of 120 x
6625 that sees 40 positions of each of 24 lines fits their noise.  So the moments are collected in two halves, of
different inputs.  The layer is fitted to the first half with some ridge (the weight of ||X - W||^2), then with larger
or smaller ones, as long as the error on the second half falls, and at last to both halves with the best of them.
Each of these fits starts at the one before it.  Where inputs abound the smallest ridge is the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np

from tensorchain.compression.conv import LayerPlan
from tensorchain.compression.refit import RIDGE, Moments
from tensorchain.compression.refit_factors import refit_factors
from tensorchain.compression.walk import lowest_from
from tensorchain.kernels import Array

Fitted = TypeVar("Fitted")

RIDGES = tuple(10.0**k for k in range(-6, 3))
"""Relative to the mean variance of an input; with the last one a layer stays what it was, but for its bias."""
_SWEEPS = 2
"""Passes over the convolutions while the ridge is chosen."""
_BEGIN = RIDGES.index(1e-3)
"""The ridge that is tried first."""


class Halves:
    """Moments of a layer in two halves.

    Parameters
    ----------
    inputs, targets : int
        Length of an input and of a target.
    """

    def __init__(self, inputs: int, targets: int) -> None:
        self.first, self.second = Moments(inputs, targets), Moments(inputs, targets)

    def add(self, inputs: Array, targets: Array, *, turn: int, turns: int) -> None:
        """Take in one of some batches; a single one is divided in the middle."""
        if turns > 1:
            (self.second if turn % 2 else self.first).add(inputs, targets)
            return
        middle = max(len(inputs) // 2, 1)
        self.first.add(inputs[:middle], targets[:middle])
        if middle < len(inputs):
            self.second.add(inputs[middle:], targets[middle:])

    @property
    def whole(self) -> Moments:
        """The moments of both."""
        found = Moments(*self.first.cross.shape)
        for half in (self.first, self.second):
            if half.count:
                means = half.input_mean, half.target_mean
                found.merge(half.count, *means, square=half.square, cross=half.cross, energy=half.energy)
        return found


def refit_held_out(
    plan: LayerPlan, kernel: Array, halves: Halves, *, with_bias: bool = True
) -> tuple[LayerPlan, LayerPlan, float]:
    """The plan fitted as by `refit_factors`, with the ridge that serves inputs best that were not fitted.

    Parameters
    ----------
    plan : LayerPlan
        The start.
    kernel : ndarray (T, S, D1, ..)
        Of the layer before.
    halves : Halves
        Of the patches that the layer sees, and of its targets.
    with_bias : bool
        Whether the last convolution gets the best bias, or none.

    Returns
    -------
    tuple of (LayerPlan, LayerPlan, float)
        From both halves, and from the first alone, to be judged by the inputs of the second; and the ridge.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.compression import Convolution
    >>> rng = np.random.default_rng(0)
    >>> kernel = rng.standard_normal((3, 40, 1, 1))
    >>> plan, halves = LayerPlan("dense", None, (Convolution(kernel),)), Halves(40, 3)
    >>> rows = lambda x: x @ kernel.reshape(3, 40).T + rng.standard_normal((len(x), 3))
    >>> for turn in range(2):
    ...     x = rng.standard_normal((30, 40))
    ...     halves.add(x, rows(x), turn=turn, turns=2)
    >>> fitted, eager = refit_held_out(plan, kernel, halves)[0], refit_factors(plan, kernel, halves.whole)
    >>> bool(np.linalg.norm(fitted.kernel - kernel) < 0.5 * np.linalg.norm(eager.kernel - kernel))
    True
    """
    whole = halves.whole
    if not halves.second.count:
        fitted = refit_factors(plan, kernel, whole, with_bias=with_bias)
        return fitted, fitted, RIDGE
    if with_bias and len(plan.steps) == 1:
        return _one(plan, kernel, halves)
    best, half = _chosen(
        lambda ridge, near: refit_factors(near, kernel, halves.first, sweeps=_SWEEPS, ridge=ridge, with_bias=with_bias),
        lambda trial: _error(trial, halves.second),
        plan,
    )
    return refit_factors(plan, kernel, whole, ridge=best, with_bias=with_bias), half, best


def _chosen(
    fit: Callable[[float, Fitted], Fitted], error_of: Callable[[Fitted], float], start: Fitted
) -> tuple[float, Fitted]:
    """The ridge from which the error rises on both sides, and its fit; `start` where no error is a number."""
    fits: dict[int, Fitted] = {}
    errors: dict[int, float] = {}

    def error(place: int) -> float:
        near = min(fits, key=lambda other: abs(other - place), default=None)
        fits[place] = fit(RIDGES[place], start if near is None else fits[near])
        errors[place] = error_of(fits[place])
        return errors[place]

    best = lowest_from(_BEGIN, len(RIDGES), error)
    return (RIDGES[best], fits[best]) if math.isfinite(errors[best]) else (RIDGES[-1], start)


def _one(plan: LayerPlan, kernel: Array, halves: Halves) -> tuple[LayerPlan, LayerPlan, float]:
    """The same for one convolution, whose weights are a linear problem; there may be one for each channel."""
    rows, step = kernel.reshape(len(kernel), -1), plan.convolutions[0]
    best, half = _chosen(
        lambda ridge, _: halves.first.least_squares(rows, ridge=ridge),
        lambda trial: halves.second.relative_error(*trial),
        (rows, np.zeros(len(rows))),
    )
    plans = []
    for weight, bias in (halves.whole.least_squares(rows, ridge=best), half):
        dtype = step.weight.dtype
        new = replace(step, weight=weight.reshape(step.weight.shape).astype(dtype), bias=bias.astype(dtype))
        plans.append(replace(plan, steps=(new,)))
    return plans[0], plans[1], best


def _error(plan: LayerPlan, moments: Moments) -> float:
    kernel, bias = plan.kernel, plan.convolutions[-1].bias
    rows = kernel.reshape(len(kernel), -1)
    return moments.relative_error(rows, np.zeros(len(rows)) if bias is None else bias)
