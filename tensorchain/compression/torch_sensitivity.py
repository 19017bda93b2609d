"""The sensitivity of a sequence of small convolutions as a tensor with a gradient, from Grams of their channels.

With L the composition of the layers before layer k and Z that of those behind it, each with D_k taps,

    ||dX/dW_k||^2 = D_k sum_groups (sum_{i in group} ||L_i||^2) (sum_{o in group} ||Z_o||^2)

(:mod:`tensorchain.compression.conv`).  Only inner products of channels are needed, not the composed kernels.  Those of
L start from the identity and pass a layer by

    M'[o, p] = sum over taps and inputs of W[o, i, d] M[i, j] W[p, j, d],

and those of Z come back from the other end in the same way: a few small products for each layer, whatever the windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from tensorchain.compression.torch_modules import fold_class


def sensitivity_of(part: Any) -> Any:
    """SS of a sequence of convolutions or linear layers, the formula of `LayerPlan.sensitivity`.

    Parameters
    ----------
    part : torch.nn.Sequential
        As `compress` puts in place of a layer.

    Returns
    -------
    object
        Tensor ().

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> part = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1, bias=False), torch.nn.Conv2d(1, 2, 1, bias=False))
    >>> for layer in part:
    ...     torch.nn.init.constant_(layer.weight, 2.0)[0, 0, 0, 0].item()
    2.0
    2.0
    >>> float(sensitivity_of(part).detach())  # 3 ||second||^2 + 2 ||first||^2
    48.0
    """
    return sensitivities_of([part])[0]


def sensitivities_of(parts: Sequence[Any]) -> Any:
    """SS of several sequences, (n,); those with layers of the same shapes are computed together.

    Parameters
    ----------
    parts : sequence of torch.nn.Sequential

    Returns
    -------
    tensor (n,)
        With a gradient.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> parts = [torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Linear(2, 3)) for _ in range(3)]
    >>> torch.allclose(sensitivities_of(parts)[1], sensitivity_of(parts[1]))
    True
    """
    import torch

    together: dict[Any, list[int]] = {}
    described = [_layers(part) for part in parts]
    for n, layers in enumerate(described):
        key = tuple((weight.shape, weight.dtype, weight.device, own, copies) for weight, own, copies in layers)
        together.setdefault(key, []).append(n)
    order = [n for members in together.values() for n in members]
    found = torch.cat([_stacked([described[n] for n in members]) for members in together.values()])
    places = torch.empty(len(order), dtype=torch.long)
    places[torch.tensor(order)] = torch.arange(len(order))
    return found[places.to(found.device)]


def _layers(part: Any) -> list[tuple[Any, int, int]]:
    """Weight, groups and folded copies of each layer of a sequence."""
    layers, copies = [], 1
    for module in part:
        if isinstance(module, fold_class()):
            copies = copies // module.groups if module.back else copies * module.groups
        elif hasattr(module, "weight"):
            weight, groups = module.weight, getattr(module, "groups", 1)
            if getattr(module, "transposed", False):
                # (S, T / groups, ..)
                parts = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2)
                weight = parts.reshape(-1, *parts.shape[2:])
            layers.append((weight, groups, copies))
    return layers


def _stacked(described: list[list[tuple[Any, int, int]]]) -> Any:
    """SS of sequences of the same shapes, (n,)."""
    import torch

    layers = []
    for same in zip(*described, strict=True):
        _, own, copies = same[0]
        weights = torch.stack([weight for weight, _, _ in same])
        whole = weights.reshape(len(same), own, weights.shape[1] // own, weights.shape[2], -1)
        layers.append((whole.repeat(1, copies, 1, 1, 1) if copies > 1 else whole, copies > 1))
    before = _norms([weight for weight, _ in layers])
    behind = _norms([weight.transpose(2, 3) for weight, _ in reversed(layers)])[::-1]
    total = 0.0
    for (weight, shared), left, right in zip(layers, before, behind, strict=True):
        joined = left * right
        each = joined.sum((1, 2)) if shared else joined.diagonal(dim1=1, dim2=2).sum(1)
        total = total + weight.shape[4] * each
    return total


def _norms(layers: list[Any]) -> list[Any]:
    """For each layer (n, groups, o, i, D) the inner products of what is composed before it, (n, groups, groups).

    They are summed over the channels of each two groups.
    """
    import torch

    first = layers[0]
    count, groups, _, inputs, _ = first.shape
    found = [inputs * torch.eye(groups, dtype=first.dtype, device=first.device).expand(count, -1, -1)]
    gram = None
    for weight, following in pairwise(layers):
        groups, outputs, inputs = weight.shape[1:4]
        if gram is None and groups == 1:
            rows = weight[:, 0].flatten(2)
            gram = rows @ rows.transpose(1, 2)
        elif groups == 1:
            gram = torch.einsum("zoid,zij,zpjd->zop", weight[:, 0], gram, weight[:, 0])
        else:
            if gram is None:
                gram = torch.eye(groups * inputs, dtype=first.dtype, device=first.device).expand(count, -1, -1)
            parts = gram.reshape(count, groups, inputs, groups, inputs)
            gram = torch.einsum("zgoid,zgihj,zhpjd->zgohp", weight, parts, weight)
            gram = gram.reshape(count, groups * outputs, groups * outputs)
        inside = following.shape[1], following.shape[3]
        found.append(torch.einsum("zgihi->zgh", gram.reshape(count, *inside, *inside)))
    return found
