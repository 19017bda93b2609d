"""The rate of stochastic gradients that a network and its loss can take, from the largest curvature of the loss.

Steps of gradients with momentum m diverge where rate * lambda > 2 (1 + m), lambda the largest eigenvalue of the
Hessian, and losses differ by orders of magnitude in it: a mean squared difference of logits of size 10 is a hundred
times as curved as one of size 1.  So the rate is a share of 1 / lambda, and lambda is found by power iteration,

    v <- H v / |H v|,      H v ~ (g(w + e v) - g(w - e v)) / (2 e),

with g the gradient on one batch and e a thousandth of |w|.  A few steps give lambda to some ten percent, which is
enough.

Cost: two gradients for each step, on a copy of the network.

Reference: LeCun, Simard, Pearlmutter, "Automatic learning rate maximization by on-line estimation of the Hessian's
eigenvectors" (1992).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

_STEPS = 4
_SHARE = 0.5
"""Rate times lambda: a quarter of what diverges without momentum, since lambda grows along the way of a batch."""
_HIGHEST, _UNKNOWN = 0.1, 0.01
"""Highest rate, and the one where the loss is flat."""


def rate_for(net: Any, objective: Callable[[Any], Any]) -> float:
    """A rate for the trained parameters of a network, which is left as it is but for the statistics of its buffers.

    Parameters
    ----------
    net : torch.nn.Module
        In the mode in which it is trained; single or double precision.
    objective : callable
        From the network to the loss on a batch.

    Returns
    -------
    float

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Linear(1, 1, bias=False)
    >>> round(rate_for(net, lambda net: 10.0 * net(torch.ones(1, 1)).sum() ** 2), 4)  # the curvature is 20
    0.025
    """
    curvature = largest_curvature(net, objective)
    return min(_SHARE / curvature, _HIGHEST) if curvature > 0.0 else _UNKNOWN


def largest_curvature(net: Any, objective: Callable[[Any], Any], steps: int = _STEPS) -> float:
    """The largest magnitude of an eigenvalue of the Hessian, nearly; 0 where the loss is flat or not finite.

    Parameters
    ----------
    net, objective : object
        As in `rate_for`.
    steps : int, optional
        Of the power iteration.

    Returns
    -------
    float
    """
    import torch

    weights = [weight for weight in net.parameters() if weight.requires_grad]
    if not weights:
        return 0.0
    reach = 1e-3 * max(float(torch.stack([weight.detach().norm() for weight in weights]).norm()), 1e-3)

    def gradient() -> list[Any]:
        found = torch.autograd.grad(objective(net), weights, allow_unused=True)
        return [torch.zeros_like(w) if g is None else g for g, w in zip(found, weights, strict=True)]

    def moved(direction: list[Any], by: float) -> None:
        with torch.no_grad():
            torch._foreach_add_(weights, direction, alpha=by)

    origin = [weight.detach().clone() for weight in weights]
    direction, largest = gradient(), 0.0
    for _ in range(steps):
        size = float(torch.stack([part.norm() for part in direction]).norm())
        if not (math.isfinite(size) and size > 0.0):
            break
        direction = [part / size for part in direction]
        moved(direction, reach)
        ahead = gradient()
        moved(direction, -2.0 * reach)
        behind = gradient()
        moved(direction, reach)
        direction = [(a - b) / (2.0 * reach) for a, b in zip(ahead, behind, strict=True)]
        largest = float(torch.stack([part.norm() for part in direction]).norm())
    with torch.no_grad():
        # Not by the rounding of steps forth and back.
        for weight, before in zip(weights, origin, strict=True):
            weight.copy_(before)
    return largest if math.isfinite(largest) else 0.0
