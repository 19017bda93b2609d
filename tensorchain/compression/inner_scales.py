"""Scales of the channels between two convolutions, for least rounding of weights and of activations together.

Between two linear layers a channel may be multiplied by s_j in the first and divided by s_j in the second: the network
gives the same.  What rounding does depends on s.  Channel j goes from -l_j to h_j and has the mean square E_j; w_tj are
the weights (over taps) of the second layer from channel j to output t, and v_t is the weight of output t behind it.
With 2 L_a levels of an activation, and L levels of a weight on either side of zero, the expected squared error is

    activations      a^2 / (12 L_a^2) * sum_j q_j / s_j^2,        a = (max_j s_j h_j + max_j s_j l_j) / 2,
                                                                  q_j = sum_t v_t |w_tj|^2,
    second weights   sum_t v_t max_j (|w_tj|_max / s_j)^2 / (12 L^2) * taps * sum_j s_j^2 E_j,

and, where the first layer has one step for all its rows, with M_j the largest weight of row j and e the energy of a
patch,

    first weights    max_j (s_j M_j)^2 / (12 L^2) * e * sum_j q_j / s_j^2.

With a step for each row the first weights do not depend on s.  The gauge of least sensitivity leaves channels of very
different range, and one large channel then sets the step of all: that is what 8-bit activations cost.  Signs are free
too: channels are turned so that h_j >= l_j.

The maxima are smoothed to p-norms, the sum is minimised over log s by L-BFGS from the present scales and from
1 / (h_j + l_j), and the best of all by the exact formula is taken, the present ones among them.

Reference: Nagel et al., "Data-free quantization through weight equalization and bias correction" (2019), equalises the
ranges of weights; here those of activations count too, and the error is what is least.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize

from tensorchain.kernels import Array

_NORMS = (8.0, 32.0)
"""p of the norms in place of maxima, one after the other."""
_ROOM = 4.0
"""Standard deviations that the range of a channel has at least on either side."""
_WIDEST = 1e3
"""Most by which a scale may differ from the mean of all."""


@dataclass(frozen=True)
class InnerChannels:
    """What is known of the channels between two convolutions.

    Attributes
    ----------
    low, high, energies : ndarray (J,)
        Smallest and largest value, and mean square, of each channel.
    first : ndarray (J, n)
        Weights of the first layer, one row for each channel.
    second : ndarray (G, T, J / G, taps)
        Weights of the second layer in its G groups.
    behind : ndarray (G, T), optional
        Weight of each output; 1 by default.
    patch_energy : float
        Mean square of an input of the first layer, times n.
    weight_levels, activation_levels : float or None
        Levels on one side of zero; None where activations are not rounded.
    per_channel : bool
        Whether every row of the first layer has a step of its own.
    """

    low: Array
    high: Array
    energies: Array
    first: Array
    second: Array
    behind: Array | None = None
    patch_energy: float = 1.0
    weight_levels: float = 127.0
    activation_levels: float | None = 127.5
    per_channel: bool = True

    def error(self, scales: Array, norm: float = np.inf) -> float:
        """The expected squared error for scales (J,), with maxima, or with p-norms."""
        return self._error(np.log(np.abs(scales)), norm, np.sign(scales))[0]

    @property
    def signs(self) -> Array:
        """-1 for channels whose larger values are negative."""
        return np.where(-self.low > self.high, -1.0, 1.0)

    def best_scales(self) -> Array:
        """Scales (J,), negative ones among them, whose magnitudes have a geometric mean of 1; 1 where none are better.

        Examples
        --------
        >>> import numpy as np
        >>> weights = np.ones((2, 3)), np.ones((1, 4, 2, 1))
        >>> channels = InnerChannels(np.array([-1.0, -0.1]), np.array([10.0, 0.1]), np.array([9.0, 1e-3]), *weights)
        >>> scales = channels.best_scales()
        >>> bool(scales[1] > scales[0]), channels.error(scales) < 0.9 * channels.error(np.ones(2))
        (True, True)
        """
        spans = np.maximum(self.high, 0.0) - np.minimum(self.low, 0.0)
        used = (spans > 0.0) & (np.abs(self.second).max((1, 3)).ravel() > 0.0)
        if used.sum() < 2:
            return np.ones(len(spans))
        equal = np.zeros(len(spans))
        equal[used] = -np.log(spans[used])
        equal[used] -= equal[used].mean()
        limit = np.log(_WIDEST)
        starts = [np.zeros(len(equal)), equal.clip(-limit, limit)]
        found = list(starts)
        for start in starts:
            logs = start
            for norm in _NORMS:
                result = scipy.optimize.minimize(
                    self._logarithm, logs, args=(norm, used), jac=True,
                    method="L-BFGS-B", bounds=[(-limit, limit)] * len(logs), options={"maxiter": 200},
                )  # fmt: skip
                logs = np.where(used, result.x - result.x[used].mean(), 0.0)
                found.append(logs)
        best = min(found, key=lambda u: self._error(u, np.inf)[0])
        scales = self.signs * np.exp(best)
        return np.asarray(scales if self.error(scales) < self.error(np.ones(len(spans))) else np.ones(len(spans)))

    def _logarithm(self, logs: Array, norm: float, used: Array) -> tuple[float, Array]:
        """log f and its gradient, so that steps do not depend on the size of the error."""
        value, slope = self._error(np.where(used, logs, 0.0), norm)
        value = max(value, 1e-300)
        return float(np.log(value)), np.where(used, slope / value, 0.0)

    def _error(self, logs: Array, norm: float, signs: Array | None = None) -> tuple[float, Array]:
        """The error and its gradient by log s."""
        squares = np.exp(2.0 * logs)
        groups, outputs, inside, taps = self.second.shape
        behind = np.ones((groups, outputs)) if self.behind is None else self.behind
        through = np.einsum("gt,gtjk->gj", behind, self.second**2).ravel() / squares
        passed = float(through.sum())
        total, slope = 0.0, np.zeros(len(logs))

        def add(largest: tuple[Any, Array], sum_: float, change: Array, factor: float) -> None:
            nonlocal total, slope
            total += factor * largest[0] * sum_
            slope = slope + factor * (largest[1] * sum_ + largest[0] * change)

        if self.activation_levels is not None:
            turned = self.signs if signs is None else signs
            ends = np.stack([turned * self.high, turned * self.low, -turned * self.high, -turned * self.low])
            sides = np.stack([np.maximum(ends[:2].max(0), 0.0), np.maximum(ends[2:].max(0), 0.0)]) * np.exp(logs)
            tops, parts = _largest(sides, norm)
            half = float(tops.sum()) / 2.0
            add((half**2, half * parts.sum(0)), passed, -2.0 * through, 1.0 / (12.0 * self.activation_levels**2))
        if not self.per_channel:
            rows = np.abs(self.first).max(1) ** 2
            largest = _largest(rows * squares, norm)
            add(
                (largest[0], 2.0 * largest[1]),
                passed,
                -2.0 * through,
                self.patch_energy / (12.0 * self.weight_levels**2),
            )
        columns = np.abs(self.second).max(3) ** 2 / squares.reshape(groups, 1, inside)
        energies = (self.energies * squares).reshape(groups, inside)
        value, part = _largest(columns, norm)
        weighted = np.einsum("gt,gt->g", behind, value)
        inner = energies.sum(1)
        factor = taps / (12.0 * self.weight_levels**2)
        total += factor * float(weighted @ inner)
        change = -2.0 * np.einsum("gt,gtj->gj", behind, part) * inner[:, None] + 2.0 * energies * weighted[:, None]
        return total, slope + factor * change.ravel()


def with_room(low: Array, high: Array, first: Array, second: Array, count: int) -> tuple[Array, Array, Array]:
    """Ends and energies of channels from `count` values, their least and largest, their sum and sum of squares.

    Ends that few values show are exceeded by others; they are moved to `_ROOM` standard deviations at least.
    """
    mean, energy = first / count, second / count
    spread = _ROOM * np.sqrt(np.maximum(energy - mean**2, 0.0))
    return np.minimum(low, mean - spread), np.maximum(high, mean + spread), energy


def _largest(values: Array, norm: float) -> tuple[Array, Array]:
    """The largest along the last axis, or its p-norm, and the share of each: derivatives by the logarithm of each."""
    top = values.max(-1, keepdims=True)
    if np.isinf(norm):
        return top[..., 0], np.where(values == top, values, 0.0)
    part = (values / np.where(top > 0.0, top, 1.0)) ** norm
    sums = part.sum(-1, keepdims=True)
    whole = top * np.maximum(sums, 1e-300) ** (1.0 / norm)
    return whole[..., 0], whole * part / np.maximum(sums, 1e-300)
