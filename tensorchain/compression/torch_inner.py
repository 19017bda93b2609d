"""Scales of the channels between consecutive layers of a PyTorch network, chosen for rounding.

Found are neighbours in an `nn.Sequential` that are both convolutions or both linear, as in what `compress` puts in
place of a layer: no function stands between them, so that a channel can be multiplied in one and divided in the other
(:mod:`tensorchain.compression.inner_scales`).  Ranges and energies of the channels come from calibration batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, pairwise
from typing import Any

import numpy as np

from tensorchain.compression.inner_scales import InnerChannels, with_room
from tensorchain.compression.torch_inputs import call, first_of, one_pass
from tensorchain.compression.torch_layers import convolutions
from tensorchain.kernels import Array


def rescale_inner(
    net: Any,
    loader: Iterable[Any],
    weight_bits: Mapping[str, int],
    activation_bits: Mapping[str, int],
    *,
    per_channel: bool = True,
    batches: int = 8,
) -> dict[str, Array]:
    """Change the scales between neighbours in place; what the network gives stays.

    Parameters
    ----------
    net : torch.nn.Module
        In evaluation mode.
    loader : iterable of object
        Calibration batches, inputs or (inputs, labels).
    weight_bits, activation_bits : mapping of str to int
        By name; pairs whose second layer is not in both are left alone.
    per_channel, batches : bool or int
        As in `quantize`.

    Returns
    -------
    dict of str to ndarray
        The scales, by the name of the second layer.
    """
    import torch

    pairs = [
        (names, parts)
        for names, parts in _neighbours(net)
        if names[1] in weight_bits and names[1] in activation_bits and names[0] in weight_bits
    ]
    if not pairs:
        return {}
    seen = _moments(net, {names[1]: parts[1] for names, parts in pairs}, loader, batches)
    scales = {}
    with torch.no_grad():
        for names, (first, second, third) in pairs:
            if names[1] not in seen:
                continue
            low, high, energies = seen[names[1]]
            groups = getattr(second, "groups", 1)
            weight = second.weight.detach().cpu().double().numpy()
            weight = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
            rows = first.weight.detach().cpu().double().numpy().reshape(len(first.weight), -1)
            behind = None
            if third is not None:
                after = third.weight.detach().cpu().double().numpy()
                shape = (getattr(third, "groups", 1), -1, after.shape[1], after[0, 0].size)
                behind = np.sum(after.reshape(shape) ** 2, axis=(1, 3)).reshape(groups, -1)
            channels = InnerChannels(
                low, high, energies, rows, weight, behind,
                weight_levels=2 ** (weight_bits[names[1]] - 1) - 1,
                activation_levels=(2 ** activation_bits[names[1]] - 1) / 2,
                per_channel=per_channel,
                # As if the entries of a patch were independent and alike.
                patch_energy=float(np.sum(energies) / max(np.sum(rows**2), 1e-300)) * rows.shape[1],
            )  # fmt: skip
            found = channels.best_scales()
            factor = torch.as_tensor(found, dtype=first.weight.dtype, device=first.weight.device)
            first.weight.mul_(factor.reshape(-1, *[1] * (first.weight.ndim - 1)))
            if first.bias is not None:
                first.bias.mul_(factor)
            per_input = factor.reshape(groups, 1, -1).expand(-1, len(second.weight) // groups, -1)
            per_input = per_input.reshape(len(second.weight), -1)
            second.weight.div_(per_input.reshape(*per_input.shape, *[1] * (second.weight.ndim - 2)))
            scales[names[1]] = found
    return scales


def _neighbours(net: Any) -> Iterator[tuple[tuple[str, str], tuple[Any, Any, Any]]]:
    """Names of two layers in a row, and the two with the one behind them, if it follows at once."""
    import torch

    uses = Counter(id(module) for _, module in net.named_modules(remove_duplicate=False))
    weights = Counter(id(p) for _, p in net.named_parameters(remove_duplicate=False))
    forward = tuple(kind for kind in convolutions() if "Transpose" not in kind.__name__)
    pads = torch.nn.ConstantPad1d, torch.nn.ConstantPad2d, torch.nn.ConstantPad3d

    def plain(module: Any) -> bool:
        own = type(module) in forward or type(module) is torch.nn.Linear
        return (
            own
            and uses[id(module)] == 1
            and weights[id(module.weight)] == 1
            and not hasattr(module, "parametrizations")
        )

    for name, whole in net.named_modules():
        if type(whole) is not torch.nn.Sequential or uses[id(whole)] > 1:
            continue
        # Zeros at the margins are zeros at any scale.
        parts = [(k, part) for k, part in whole.named_children() if not (isinstance(part, pads) and part.value == 0.0)]
        for n, ((one, first), (two, second)) in enumerate(pairwise(parts)):
            if not (plain(first) and plain(second) and type(first) is type(second)):
                continue
            third = parts[n + 2][1] if n + 2 < len(parts) and plain(parts[n + 2][1]) else None
            prefix = f"{name}." if name else ""
            yield (prefix + one, prefix + two), (first, second, third if type(third) is type(second) else None)


def _moments(
    net: Any, modules: Mapping[str, Any], loader: Iterable[Any], batches: int
) -> dict[str, tuple[Array, Array, Array]]:
    """Smallest and largest value, and mean square, of each channel of the inputs of layers."""
    import torch

    sums: dict[str, list[Any]] = {}

    def gather(module: Any, value: Any, name: str) -> None:
        value = value.detach()
        linear = isinstance(module, torch.nn.Linear)
        axis = value.ndim - 1 if linear else value.ndim - module.weight.ndim + 1
        rows = value.movedim(axis, 0).flatten(1).double()
        own = sums.setdefault(name, [*(torch.zeros_like(rows[:, 0]) for _ in range(4)), 0])
        own[0], own[1] = torch.minimum(own[0], rows.amin(1)), torch.maximum(own[1], rows.amax(1))
        own[2], own[3], own[4] = own[2] + rows.sum(1), own[3] + rows.square().sum(1), own[4] + rows.shape[1]

    hooks = [
        module.register_forward_pre_hook(
            lambda module, inputs, named, name=name: gather(module, first_of(inputs, named), name), with_kwargs=True
        )
        for name, module in modules.items()
    ]
    try:
        with torch.no_grad():
            for batch in islice(one_pass(loader, net=net), batches):
                call(net, batch)
    finally:
        for hook in hooks:
            hook.remove()
    found = {}
    for name, (*sums_of, count) in sums.items():
        low, high, first, second = (part.cpu().numpy() for part in sums_of)
        found[name] = with_room(low, high, first, second, count)
    return found
