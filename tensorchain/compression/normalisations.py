"""Statistics of the normalisations of a PyTorch network: measured again, or held where that would be worse."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from tensorchain.compression.torch_inputs import call, one_pass


def recalibrate(net: Any, loader: Any, batches: int | None = None) -> None:
    """Measure the means and variances of all normalisations again, in place; weights are not touched.

    Normalisations whose weights are frozen stay as they are, and after an error so do all.

    Parameters
    ----------
    net : torch.nn.Module
        In place.
    loader : tensor, iterable of batches, or a function that returns one
        Inputs, or pairs with the inputs first.
    batches : int, optional
        Most batches used.

    Raises
    ------
    TypeError
        When `loader` is none of what it can be.
    ValueError
        When there is no batch, or `batches` is not positive.

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

    if batches is not None and batches < 1:
        raise ValueError(f"batches is {batches!r}; a positive integer is needed")
    passes = one_pass(loader, net=net)
    norms = normalisations(net)
    if not norms:
        return
    with _measuring(net, norms), torch.no_grad():
        for seen, batch in enumerate(islice(passes, batches)):
            for norm in norms:
                if not isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
                    # Normalisations of single images know no plain mean.
                    norm.momentum = 1.0 / (seen + 1)
            call(net, batch)


@contextmanager
def _measuring(net: Any, norms: list[Any]) -> Iterator[None]:
    """Let normalisations take the plain mean over batches; what they were comes back after an error."""
    momenta, training = [norm.momentum for norm in norms], [module.training for module in net.modules()]
    statistics = [_statistics(norm) for norm in norms]
    net.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        yield
    except BaseException:
        for norm, buffers in zip(norms, statistics, strict=True):
            _put_back(norm, buffers)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, was in zip(net.modules(), training, strict=True):
            module.training = was


def _statistics(norm: Any) -> dict[str, Any]:
    return {name: buffer.clone() for name, buffer in norm.named_buffers()}


def _put_back(norm: Any, buffers: dict[str, Any]) -> None:
    for name, buffer in norm.named_buffers():
        buffer.copy_(buffers[name])


def normalisations(net: Any) -> list[Any]:
    """Those whose statistics are measured, and not frozen."""
    import torch

    kind = torch.nn.modules.batchnorm._NormBase
    return [m for m in net.modules() if isinstance(m, kind) and m.running_mean is not None and not frozen(m)]


def frozen(module: Any) -> bool:
    """Whether a module has parameters, and none of them is trained."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def recalibrated_or_held(net: Any, passes: Callable[[], Iterator[Any]], judge: Callable[[], float]) -> list[Any]:
    """Measure the normalisations again where that lowers what `judge` gives; else those that stay as they were."""
    norms = normalisations(net)
    if not norms:
        return []
    statistics = [_statistics(norm) for norm in norms]
    before = judge()
    recalibrate(net, passes())
    if judge() < before or not math.isfinite(before):
        return []
    for norm, buffers in zip(norms, statistics, strict=True):
        _put_back(norm, buffers)
    return norms
