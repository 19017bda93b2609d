"""How much the outputs of a PyTorch network answer to the errors of each layer.

With g the gradient of a random combination of the outputs, each channel in units of its deviation and with signs +-1,
with respect to the output y of a layer, an error of y that is independent in all entries, with a mean square of e^2
times the variance v of its channel, changes the outputs by

    mean |change|^2 = e^2 gain,      gain = mean over images of sum over entries of g^2 v,

to first order.  One pass forth and back over a few images gives the gains of all layers.

**Softened.**  The layers behind are fitted again and take back a part of the error, the more the earlier it happens,
so that ranks chosen by the gains themselves starve the layers of small gain.  Ranks are chosen by their square roots.

Cost: one gradient of the network for each batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from tensorchain.compression.request import Site
from tensorchain.compression.torch_inputs import batch_of, call
from tensorchain.compression.torch_layers import axes_of, copied, is_linear

SOFTENED = 0.5
"""Power of the gains by which errors are weighted."""
_IMAGES = 256
"""About so many are looked at."""
_LEAST_DEVIATION = 1e-6
"""Of a channel of the outputs, relative to the largest."""


def gains_of(net: Any, sites: Sequence[Site], batches: Callable[[], Iterator[Any]]) -> dict[str, float] | None:
    """The gains of layers, to the power `SOFTENED` and of geometric mean 1; None where the network has no gradient.

    Parameters
    ----------
    net : torch.nn.Module
        It is not changed.
    sites : sequence of Site
        The layers.
    batches : callable
        Returns inputs, batch by batch.

    Examples
    --------
    >>> import torch
    >>> from tensorchain.compression import Geometry
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    >>> with torch.no_grad():
    ...     _ = net[0].weight.copy_(torch.eye(3)), net[1].weight.copy_(2.0 * torch.eye(3))
    >>> sites = [Site(name, np.eye(3)[:, :, None, None], None, Geometry(), (1, 1)) for name in "01"]
    >>> gains = gains_of(net, sites, lambda: iter([torch.randn(50, 3)]))
    >>> round(gains["0"] / gains["1"], 6)  # both have the same effect: 2^2 times the variance, and 1 times 2^2 times it
    1.0
    """
    import torch

    probe = copied(net).eval()
    for parameter in probe.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    sums: dict[str, float] = {}
    generator = np.random.default_rng(0)
    images = 0
    for inputs in _first(batches):
        hooks = [_hook(probe.get_submodule(site.name), site.name, sums) for site in sites]
        images += batch_of(inputs)
        try:
            with torch.enable_grad():
                total = _combination(call(probe, inputs), generator)
                if total is None:
                    return None
                total.backward()
        except RuntimeError:
            # Something in the network cannot be differentiated; all errors then count alike.
            return None
        finally:
            for hook in hooks:
                hook.remove()
        probe.zero_grad(set_to_none=True)
    known = {name: total for name, total in sums.items() if np.isfinite(total) and total > 0.0}
    if not known:
        return None
    middle = float(np.exp(np.mean(np.log(list(known.values())))))
    return {name: (total / middle) ** SOFTENED for name, total in known.items()}


def _first(batches: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    seen = 0
    for inputs in islice(batches(), _IMAGES):
        yield inputs
        seen += batch_of(inputs)
        if seen >= _IMAGES:
            return


def _hook(module: Any, name: str, sums: dict[str, float]) -> Any:
    """When the gradient of an output comes, add sum of g^2 v for its layer."""
    axis = -1 if is_linear(module) else -axes_of(module) - 1

    def see(_: Any, __: Any, result: Any) -> None:
        if not (hasattr(result, "requires_grad") and result.requires_grad):
            return
        outputs = result.detach().movedim(axis, 0).flatten(1)
        variances = outputs.double().var(1, correction=0)

        def add(gradient: Any) -> None:
            squares = gradient.detach().movedim(axis, 0).flatten(1).double().square().sum(1)
            sums[name] = sums.get(name, 0.0) + float(squares @ variances)

        result.register_hook(add)

    return module.register_forward_hook(see)


def _combination(outputs: Any, rng: np.random.Generator) -> Any:
    """Sum of all outputs with random signs, each channel in units of its deviation; None where there is no gradient.

    Channels lie along the second axis: a detector has coordinates in pixels in some and scores from 0 to 1 in others.
    """
    import torch

    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if isinstance(outputs, (tuple, list)):
        parts = [part for part in (_combination(one, rng) for one in outputs) if part is not None]
        return sum(parts[1:], parts[0]) if parts else None
    if not getattr(outputs, "requires_grad", False) or not outputs.is_floating_point():
        return None
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], size=tuple(outputs.shape))).to(outputs)
    values = outputs.detach()
    axes = [axis for axis in range(values.ndim) if axis != 1]
    alone = values.ndim < 2 or values.numel() == values.shape[1]
    deviation = values.std(correction=0) if alone else values.std(axes, correction=0, keepdim=True)
    # A channel that does not vary says nothing.
    varies = deviation > _LEAST_DEVIATION * deviation.max()
    return (outputs * signs * varies / deviation.clamp_min(torch.finfo(outputs.dtype).tiny)).sum()
