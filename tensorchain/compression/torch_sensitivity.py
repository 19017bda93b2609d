"""The sensitivity of a sequence of small convolutions as a tensor with a gradient, from Grams of their channels.

With L the composition of the layers before layer k and Z that of those behind it, each with D_k taps,

    ||dX/dW_k||^2 = D_k sum_groups (sum_{i in group} ||L_i||^2) (sum_{o in group} ||Z_o||^2)

(:mod:`tensorchain.compression.conv`).  Only inner products of channels are needed, not the composed kernels.  Those of
L start from the identity and pass a layer by

    M'[o, p] = sum over taps and inputs of W[o, i, d] M[i, j] W[p, j, d],

and those of Z come back from the other end in the same way: a few small products for each layer, whatever the windows.
"""

from __future__ import annotations

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
    tensor ()

    Examples
    --------
    >>> import torch
    >>> part = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1, bias=False), torch.nn.Conv2d(1, 2, 1, bias=False))
    >>> for layer in part:
    ...     torch.nn.init.constant_(layer.weight, 2.0)[0, 0, 0, 0].item()
    2.0
    2.0
    >>> float(sensitivity_of(part).detach())  # 3 ||second||^2 + 2 ||first||^2
    48.0
    """
    layers, copies = [], 1
    for module in part:
        if isinstance(module, fold_class()):
            copies = copies // module.groups if module.back else copies * module.groups
        elif hasattr(module, "weight"):
            weight = module.weight.flatten(2) if module.weight.ndim > 2 else module.weight[:, :, None]
            own = getattr(module, "groups", 1)
            whole = weight.reshape(own, -1, *weight.shape[1:]).repeat(copies, 1, 1, 1)
            layers.append((whole, copies > 1))
    before, behind = _norms([w for w, _ in layers]), _norms([w.transpose(1, 2) for w, _ in reversed(layers)])[::-1]
    total = 0.0
    for (weight, shared), left, right in zip(layers, before, behind, strict=True):
        joined = left * right
        total = total + weight.shape[3] * (joined.sum() if shared else joined.diagonal().sum())
    return total


def _norms(layers: list[Any]) -> list[Any]:
    """For each layer the inner products of what is composed before it, summed over the channels of each two groups."""
    import torch

    first = layers[0]
    groups, _, inputs, _ = first.shape
    found = [inputs * torch.eye(groups, dtype=first.dtype, device=first.device)]
    gram = None
    for weight, following in pairwise(layers):
        groups, outputs, inputs, _ = weight.shape
        if gram is None:
            if groups == 1:
                rows = weight[0].flatten(1)
                gram = rows @ rows.T
            else:
                rows = weight.flatten(2)
                gram = torch.block_diag(*(rows @ rows.transpose(1, 2)))
        elif groups == 1:
            gram = torch.einsum("oid,ij,pjd->op", weight[0], gram, weight[0])
        else:
            parts = gram.reshape(groups, inputs, groups, inputs)
            gram = torch.einsum("goid,gihj,hpjd->gohp", weight, parts, weight)
            gram = gram.reshape(groups * outputs, groups * outputs)
        inside = following.shape[0], following.shape[2]
        found.append(torch.einsum("gihi->gh", gram.reshape(*inside, *inside)))
    return found
