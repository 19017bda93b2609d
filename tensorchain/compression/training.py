"""Restore the quality of a compressed PyTorch network, that of one with rounded weights and activations among them.

First the means and variances of the normalisations are measured again, since the small errors of the
layers have moved them; that alone brings back much.  Where the layers were fitted to the outputs of the original, it
raises the loss instead, and the training is short, the old ones come back and are held through the training: least
squares shrink what they cannot predict, and normalisation by new statistics would blow that up again.  Then a few
epochs of stochastic gradients on

    loss + weight * mean over replaced layers of SS(layer) / SS(layer at the start),

with SS the sensitivity (:mod:`tensorchain.compression.torch_sensitivity`): what can be rounded stays so.  A
teacher adds the mean squared difference of the outputs: more is known of what they should be than the labels say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from tensorchain.compression.curvature import rate_for
from tensorchain.compression.normalisations import frozen, recalibrate, recalibrated_or_held
from tensorchain.compression.torch_inputs import call, pair_of, tensors_of
from tensorchain.compression.torch_layers import copied
from tensorchain.compression.torch_layers import decomposed as replaced
from tensorchain.compression.torch_sensitivity import Sensitivities

_JUDGED = 4
"""Batches on which the loss says whether normalisations that were measured again are better."""
_SHORT = 50
"""Most steps for which normalisations are held; a longer training finds its way back, with a higher rate
(`python -m benchmarks.networks.held`)."""


@dataclass(frozen=True)
class Epoch:
    """One epoch of restoration.

    Attributes
    ----------
    loss : float
        Mean over the batches.
    sensitivity : float
        Mean SS of the replaced layers, relative to the start.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain import compression
    >>> compression.Epoch(loss=1.0, sensitivity=0.9).loss
    1.0
    """

    loss: float
    sensitivity: float


def restore(
    net: Any,
    loader: Any,
    epochs: int = 2,
    *,
    rate: float | None = None,
    momentum: float = 0.9,
    decay: float = 1e-4,
    sensitivity: float = 1e-2,
    every: int = 4,
    loss: Callable[[Any, Any], Any] | None = None,
    teacher: Any = None,
    autocast: Any = None,
    callback: Callable[[int, Epoch], object] | None = None,
) -> list[Epoch]:
    """Bring back the quality of a compressed network, in place.

    Parameters
    ----------
    net : torch.nn.Module
        Network, as `compress` or `quantize` returns it.
    loader : iterable
        Iterable of (inputs, labels), gone through once an epoch; or a function that returns one.  A batch may also be a
        mapping: the entries that the network takes are inputs, the one other entry the labels.
    epochs : int, default 2
        Passes over the data; 0 only measures the normalisations again.
    rate : float, optional
        Of stochastic gradients; it falls to zero along a cosine.  By default from the largest curvature of the loss on
        the first batch (:mod:`tensorchain.compression.curvature`).  Normalisations of a refitted network that measuring
        again would make worse are held in up to 50 steps, unless the rate is above that one.
    momentum, decay : float, optional
        Of stochastic gradients.
    sensitivity : float, default 0.01
        Weight of the relative sensitivity in the loss; 0 lets it grow.
    every : int, default 4
        The sensitivity is part of the loss in one of so many steps, with as many times its weight.
    loss : callable, optional
        Of (outputs, labels); cross entropy by default, for which labels are integers, or shares that sum to one.
    teacher : torch.nn.Module, optional
        Network, such as the one that was compressed, whose outputs are to be matched as well: their mean squared
        difference is added to the loss.  Labels may then be None, and the loss is this difference alone.
    autocast : torch.dtype, optional
        A type such as `torch.bfloat16`, in which PyTorch computes outputs and loss where it can; weights, their
        gradients and the sensitivity stay as they are.
    callback : callable, optional
        Called with the number of the epoch and its figures; a true return value stops.

    Returns
    -------
    list of Epoch
        One `Epoch` for each epoch.

    Raises
    ------
    TypeError
        When the loader ends after one pass, its batches are no pairs, or the labels are none that the loss takes.
    ValueError
        When an option is out of range, there is no batch, or the loss is no number; the weights are then those of the
        last epoch before.

    Examples
    --------
    >>> import torch
    >>> generator = torch.Generator().manual_seed(0)
    >>> images = torch.randn(64, 2, 8, 8, generator=generator)
    >>> loader = [(images, (images[:, 0].mean((1, 2)) > 0).long())] * 4
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    >>> epochs = restore(net, loader, epochs=3, rate=0.5)
    >>> len(epochs), epochs[-1].loss < epochs[0].loss
    (3, True)
    """
    import torch

    if not _whole(every, 1):
        raise ValueError(f"every is {every!r}; a positive integer is needed")
    if autocast is not None and autocast not in (torch.bfloat16, torch.float16):
        raise ValueError(f"autocast is {autocast!r}; torch.bfloat16, torch.float16 or None is needed")
    if not _whole(epochs, 0):
        raise ValueError(f"epochs is {epochs!r}; an integer >= 0 is needed")
    if not ((rate is None or rate > 0.0) and sensitivity >= 0.0):
        raise ValueError(f"rate is {rate!r} and sensitivity {sensitivity!r}; rate > 0, sensitivity >= 0 are needed")
    pass_over = loader if callable(loader) else lambda: loader
    if epochs and not callable(loader) and iter(loader) is loader:
        raise TypeError("loader is an iterator that ends after one pass; give a DataLoader, a list or a function")
    seen = [0]

    def counted() -> Iterator[Any]:
        for batch in pass_over():
            seen[0] += 1
            yield batch

    # A copy, since a teacher in training mode would learn from the images, and `net` itself would move.
    guide = None if teacher is None else copied(teacher).eval()

    def objective_of(module: Any, inputs: Any, labels: Any) -> Any:
        outputs = call(module, inputs)
        terms = []
        if loss is not None:
            terms.append(loss(outputs, labels))
        elif labels is not None:
            terms.append(_cross_entropy(outputs, labels))
        if guide is not None:
            with torch.no_grad():
                wanted = call(guide, inputs)
            terms += [
                torch.nn.functional.mse_loss(y, z) for y, z in zip(tensors_of(outputs), tensors_of(wanted), strict=True)
            ]
        return sum(terms[1:], terms[0])

    # The loader is an iterator only where there is no epoch.
    judged = [pair_of(batch, net) for batch in islice(pass_over(), _JUDGED)] if epochs else []
    if epochs and not judged:
        raise ValueError("the loader holds no batch")
    if judged and loss is None:
        _check_labels(net, judged[0], taught=guide is not None)
    if judged and not math.isfinite(_mean_objective(net, judged[:1], objective_of)):
        raise ValueError("the loss of the first batch is no number; look for NaN or infinity in inputs and labels")
    still = [m for m in net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and frozen(m)]
    refitted = getattr(getattr(net, "report", None), "refitted", False)
    held: list[Any] = []
    if epochs and refitted and epochs * (_length(loader) or sum(1 for _ in pass_over())) <= _SHORT:
        held = recalibrated_or_held(net, counted, lambda: _mean_objective(net, judged, objective_of))
    else:
        recalibrate(net, counted())
    if epochs and (held or rate is None):
        highest = rate_for(_trained_copy(net, [*still, *held]), lambda module: objective_of(module, *judged[0]))
        # A higher rate needs the statistics of each batch, which keep activations in bounds.
        still += held if rate is None or rate <= highest else []
        rate = highest if rate is None else rate
    # Of a function that returns batches the length is not known before; without it the rate would fall in steps.
    steps = _length(loader) or seen[0]
    parts = decomposed(net)
    measured = Sensitivities(parts) if parts and epochs else None
    start = None if measured is None else measured().detach()
    weights = [p for p in net.parameters() if p.requires_grad]
    device = next((p.device.type for p in weights), "cpu")
    optimizer = torch.optim.SGD(weights, lr=rate or 1.0, momentum=momentum, weight_decay=decay, nesterov=momentum > 0.0)
    history: list[Epoch] = []
    for epoch in range(epochs):
        before = {name: value.detach().clone() for name, value in net.state_dict().items()}
        net.train()
        for module in still:
            module.eval()
        losses: list[Any] = []
        growth: list[Any] = []
        for count, batch in enumerate(pass_over()):
            inputs, labels = pair_of(batch, net)
            within = count / steps if steps else 0.0
            for group in optimizer.param_groups:
                group["lr"] = 0.5 * (rate or 0.0) * (1.0 + math.cos(math.pi * min(epoch + within, epochs) / epochs))
            with torch.autocast(device, dtype=autocast, enabled=autocast is not None):
                objective = objective_of(net, inputs, labels)
            losses.append(objective.detach())
            if measured is not None and count % every == 0:
                relative = (measured() / start).mean()
                growth.append(relative.detach())
                # Once in `every` steps with as many times its weight: the same pull on average.
                objective = objective + every * sensitivity * relative
            optimizer.zero_grad(set_to_none=True)
            objective.backward()
            optimizer.step()
        if not losses:
            raise ValueError("the loader holds no batch")
        steps = len(losses)
        # Numbers are taken from the device once an epoch.
        history.append(Epoch(_mean(losses), _mean(growth) if growth else 1.0))
        if not math.isfinite(history[-1].loss):
            net.load_state_dict(before)
            net.eval()
            raise ValueError(
                f"the loss became {history[-1].loss} in epoch {epoch}, at a rate of {rate:.3g}; the weights are those "
                "before it. Give a smaller rate="
            )
        if callback is not None and callback(epoch, history[-1]):
            break
    net.eval()
    return history


def _mean_objective(net: Any, batches: list[Any], objective: Callable[[Any, Any, Any], Any]) -> float:
    """Mean loss of some batches, with the statistics of the normalisations as they stand."""
    import torch

    net.eval()
    with torch.no_grad():
        return _mean([objective(net, inputs, labels).detach() for inputs, labels in batches])


def _trained_copy(net: Any, still: Sequence[Any]) -> Any:
    """A copy in training mode, but for some modules; so statistics and gradients of the network stay as they are."""
    held = {id(module) for module in still}
    names = [name for name, module in net.named_modules() if id(module) in held]
    probe = copied(net).train()
    for name in names:
        probe.get_submodule(name).eval()
    return probe


def _mean(values: list[Any]) -> float:
    import torch

    return float(torch.stack(values).double().mean())


def _cross_entropy(outputs: Any, labels: Any) -> Any:
    import torch

    whole = not labels.is_floating_point() and labels.dtype not in (torch.int64, torch.uint8)
    return torch.nn.functional.cross_entropy(outputs, labels.long() if whole else labels)


def _check_labels(net: Any, batch: tuple[Any, Any], *, taught: bool) -> None:
    """TypeError where cross entropy cannot take the labels, or would take them for what they are not."""
    import torch

    inputs, labels = batch
    if labels is None and taught:
        return
    cure = "give loss=, a function of (outputs, labels) such as torch.nn.functional.mse_loss"
    if not isinstance(labels, torch.Tensor):
        needed = "give teacher=, or " if labels is None else "a tensor is needed, or "
        raise TypeError(f"the labels are {type(labels).__name__}; {needed}{cure}")
    told = f"the labels are {labels.dtype} of shape {tuple(labels.shape)}"
    if labels.is_floating_point():
        shares = labels.ndim > 1 and bool((labels >= 0.0).all()) and bool(((labels.sum(1) - 1.0).abs() < 1e-2).all())
        if not shares:
            raise TypeError(f"{told} and no shares of classes; {cure}")
        return
    net.eval()
    with torch.no_grad():
        outputs = call(net, inputs)
    if not isinstance(outputs, torch.Tensor):
        raise TypeError(f"the outputs are {type(outputs).__name__}, which cross entropy does not take; {cure}")
    places = (*outputs.shape[:1], *outputs.shape[2:])
    if labels.dtype == torch.bool or labels.shape != places:
        raise TypeError(
            f"{told}; for outputs of shape {tuple(outputs.shape)} class numbers {places} are needed, or {cure}"
        )
    if int(labels.max()) >= outputs.shape[1]:
        raise ValueError(f"the labels go up to {int(labels.max())}; the network has {outputs.shape[1]} classes, from 0")


def decomposed(net: Any) -> list[Any]:
    """The sequences of convolutions, or linear layers, that `compress` put in place."""
    return [net.get_submodule(name) for name in replaced(net)]


def _length(loader: Any) -> int:
    return len(loader) if hasattr(loader, "__len__") else 0


def _whole(value: Any, least: int) -> bool:
    """Whether it is an integer, and large enough."""
    return not isinstance(value, bool) and isinstance(value, (int, np.integer)) and bool(value >= least)
