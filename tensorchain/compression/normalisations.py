"""Statistics of the normalisations of a PyTorch network: measured again, or held where that would be worse."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tensorchain.compression.torch_inputs import call, inputs_of


def recalibrate(net: Any, loader: Iterable[Any], batches: int | None = None) -> None:
    """Measure the means and variances of all normalisations again, in place; weights are not touched.

    Normalisations whose weights are frozen stay as they are.

    Parameters
    ----------
    net : torch.nn.Module
        In place.
    loader : iterable of object
        Batches of inputs, or of (inputs, labels); or a function that returns them.
    batches : int, optional
        Most batches used.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    >>> recalibrate(net, [7.0 + torch.zeros(4, 3, 2, 2)])
    >>> net[0].running_mean.tolist()
    [7.0, 7.0, 7.0]
    """
    import torch

    norms = normalisations(net)
    if not norms:
        return
    momenta, training = [norm.momentum for norm in norms], [module.training for module in net.modules()]
    net.eval()
    for norm in norms:
        norm.reset_running_stats()
        # None: the plain mean over batches.
        norm.momentum = None
        norm.train()
    seen = 0
    with torch.no_grad():
        for batch in loader() if callable(loader) else loader:
            if batches is not None and seen >= batches:
                break
            call(net, inputs_of(batch))
            seen += 1
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, was in zip(net.modules(), training, strict=True):
        module.training = was
    if seen == 0:
        raise ValueError("the loader holds no batch, and the statistics are lost; give a list, or a fresh iterator")


def normalisations(net: Any) -> list[Any]:
    """Those whose statistics are measured, and not frozen."""
    import torch

    kinds = torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d
    return [m for m in net.modules() if isinstance(m, kinds) and m.track_running_stats and not frozen(m)]


def frozen(module: Any) -> bool:
    """Whether a module has parameters, and none of them is trained."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def recalibrated_or_held(net: Any, passes: Callable[[], Iterator[Any]], judge: Callable[[], float]) -> list[Any]:
    """Measure the normalisations again where that lowers what `judge` gives; else those that stay as they were."""
    norms = normalisations(net)
    if not norms:
        return []
    statistics = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    before = judge()
    recalibrate(net, passes())
    if judge() < before or not math.isfinite(before):
        return []
    for norm, buffers in zip(norms, statistics, strict=True):
        for name, buffer in norm.named_buffers():
            buffer.copy_(buffers[name])
    return norms
