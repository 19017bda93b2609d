"""Restore the quality of a compressed PyTorch network, and train it with rounded weights and activations.

**Restoration.**  First the means and variances of the normalisations are measured again, since the small errors of the
layers have moved them; that alone brings back much.  Where the layers were fitted to the outputs of the original, it
raises the loss instead, and the training is short, the old ones come back and are held through the training: least
squares shrink what they cannot predict, and normalisation by new statistics would blow that up again.  Then a few
epochs of stochastic gradients on

    loss + weight * mean over replaced layers of SS(layer) / SS(layer at the start),

with SS the sensitivity (:mod:`tensorchain.compression.torch_sensitivity`): what can be rounded stays so.  A
teacher adds the mean squared difference of the outputs: more is known of what they should be than the labels say.

**Quantization-aware training.**  Weights and inputs of every convolution and linear layer pass through `FakeQuantize`:
they lie on an integer grid, and the gradient passes through the rounding (straight through) but not through clipping.
Weights get one symmetric step a channel or a layer; activations an affine grid from calibration batches.

Reference: Kozyrskiy, Phan, "CNN acceleration by low-rank approximation with quantized factors" (2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from tensorchain.compression.curvature import rate_for
from tensorchain.compression.layer_bits import allocate_layer_bits
from tensorchain.compression.normalisations import frozen, recalibrate, recalibrated_or_held
from tensorchain.compression.quantize import check_bits, quantizer
from tensorchain.compression.torch_inner import rescale_inner
from tensorchain.compression.torch_inputs import call, inputs_of
from tensorchain.compression.torch_layers import channel_axis, convolutions, copied
from tensorchain.compression.torch_layers import decomposed as replaced
from tensorchain.compression.torch_modules import fake_quantize_class
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
        Iterable of (inputs, labels), gone through once an epoch; or a function that returns one.
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
        difference is added to the loss.
    autocast : torch.dtype, optional
        A type such as `torch.bfloat16`, in which PyTorch computes outputs and loss where it can; weights, their
        gradients and the sensitivity stay as they are.
    callback : callable, optional
        Called with the number of the epoch and its figures; a true return value stops.

    Returns
    -------
    list of Epoch
        One `Epoch` for each epoch.

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

    if isinstance(every, bool) or every < 1:
        raise ValueError(f"every is {every!r}; a positive integer is needed")
    if autocast is not None and autocast not in (torch.bfloat16, torch.float16):
        raise ValueError(f"autocast is {autocast!r}; torch.bfloat16, torch.float16 or None is needed")
    if epochs < 0:
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

    criterion = torch.nn.functional.cross_entropy if loss is None else loss
    # A copy, since a teacher in training mode would learn from the images, and `net` itself would move.
    guide = None if teacher is None else copied(teacher).eval()

    def objective_of(module: Any, inputs: Any, labels: Any) -> Any:
        outputs = call(module, inputs)
        value = criterion(outputs, labels)
        if guide is not None:
            with torch.no_grad():
                wanted = call(guide, inputs)
            value = value + torch.nn.functional.mse_loss(outputs, wanted)
        return value

    # The loader is an iterator only where there is no epoch.
    judged = list(islice(pass_over(), _JUDGED)) if epochs else []
    if epochs and not judged:
        raise ValueError("the loader holds no batch")
    if judged and loss is None:
        _check_labels(judged[0][1])
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
        net.train()
        for module in still:
            module.eval()
        losses: list[Any] = []
        growth: list[Any] = []
        for count, (inputs, labels) in enumerate(pass_over()):
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


def _check_labels(labels: Any) -> None:
    """TypeError where cross entropy would take targets for shares of classes that are none."""
    if not hasattr(labels, "is_floating_point") or not labels.is_floating_point():
        return
    shares = labels.ndim > 1 and bool((labels >= 0.0).all()) and bool(((labels.sum(1) - 1.0).abs() < 1e-3).all())
    if not shares:
        raise TypeError(
            f"the labels are {labels.dtype} of shape {tuple(labels.shape)} and no shares of classes; give loss=, a "
            "function of (outputs, labels) such as torch.nn.functional.mse_loss"
        )


def decomposed(net: Any) -> list[Any]:
    """The sequences of convolutions, or linear layers, that `compress` put in place."""
    return [net.get_submodule(name) for name in replaced(net)]


def quantize(
    net: Any,
    loader: Iterable[Any],
    weight_bits: int | Mapping[str, int] | str = 8,
    activation_bits: int | Mapping[str, int] | None = 8,
    *,
    mean_bits: float = 4.0,
    per_channel: bool = True,
    weight_range: str = "mse",
    activation_range: str = "mse",
    percentile: float = 99.9,
    batches: int = 8,
    inner_scales: bool = True,
) -> Any:
    """A copy of a network whose weights and inputs of layers are rounded, with straight-through gradients.

    Parameters
    ----------
    net : torch.nn.Module
        Any network with convolutions and linear layers.
    loader : iterable of object
        Calibration batches, inputs or (inputs, labels).
    weight_bits, activation_bits : int, mapping of str to int or str, optional
        2 to 8, for all layers or by name ("" for the rest); None leaves activations alone. "allocate" shares out bits
        among the weights of all layers (:mod:`tensorchain.compression.layer_bits`).
    mean_bits : float, default 4.0
        Most bits for a weight on average, for "allocate".
    per_channel : bool, default True
        One step for each output channel of a weight, or one for the layer.
    weight_range, activation_range : str, default "mse"
        "minmax", "percentile" or "mse"; with "mse" weights that `compress` has put on a grid of so many bits stay on
        it.
    percentile : float, default 99.9
        Share of the values inside the range, in percent.
    batches : int, default 8
        Most calibration batches.
    inner_scales : bool, default True
        Where activations are rounded too, choose the scales of the channels between the small convolutions of a layer
        for least rounding of both (:mod:`tensorchain.compression.inner_scales`).  Weights on a grid keep theirs.

    Returns
    -------
    torch.nn.Module
        A new module in evaluation mode; the rounding is part of it, and of what is trained.  Its `.bits` names the bits
        of the weights of each layer; with "allocate" `.allocation` is the `LayerBits` behind them.

    Raises
    ------
    TypeError
        When bits are no integer.
    ValueError
        When bits are outside 2 to 8, or a name is unknown.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3))
    >>> loader = [torch.randn(16, 4, 8, 8)]
    >>> rounded = quantize(net, loader, weight_bits={"0": 8, "": 3}, activation_bits=8)
    >>> rounded.bits, len(torch.unique(rounded[2].weight[0])) <= 7
    ({'0': 8, '2': 3}, True)
    >>> shared = quantize(net, loader, weight_bits="allocate", mean_bits=4)
    >>> shared.allocation.mean <= 4
    True
    """
    import torch
    from torch.nn.utils import parametrize

    small = copied(net).eval()
    kinds = (*convolutions(), torch.nn.Linear)
    modules = {name: module for name, module in small.named_modules() if isinstance(module, kinds)}
    allocation = None
    if isinstance(weight_bits, str):
        if weight_bits != "allocate":
            raise ValueError(f"weight_bits is {weight_bits!r}; a number, bits by name, or 'allocate' is needed")
        allocation = allocate_layer_bits(net, mean_bits, loader, per_channel=per_channel, weight_range=weight_range)
        weight_bits = allocation.bits
    weights = _bits("weight_bits", weight_bits, modules)
    activations = {} if activation_bits is None else _bits("activation_bits", activation_bits, modules)
    if inner_scales and activations and not any(layer.bits for layer in replaced(small).values()):
        # A loader that can be passed over once only would leave nothing for the ranges.
        loader = list(islice(loader, batches)) if iter(loader) is loader else loader
        rescale_inner(small, loader, weights, activations, per_channel=per_channel, batches=batches)
    samples = _samples(small, {name: modules[name] for name in activations}, loader, batches) if activations else {}
    for name, module in modules.items():
        if name in weights:
            values = module.weight.detach().cpu().double().numpy()
            axis = channel_axis(module) if per_channel else None
            grid = quantizer(values, weights[name], axis=axis, range_by=weight_range, percentile=percentile)
            parametrize.register_parametrization(module, "weight", _module(grid, module.weight), unsafe=True)
        if name in samples:
            seen = samples[name]
            grid = quantizer(seen, activations[name], symmetric=False, range_by=activation_range, percentile=percentile)
            module.add_module("input_grid", _module(grid, next(module.parameters())))
            module.register_forward_pre_hook(_round_input)
    small.bits, small.allocation = weights, allocation
    return small


def _round_input(module: Any, inputs: Any) -> Any:
    return (module.input_grid(inputs[0]), *inputs[1:])


def _module(grid: Any, like: Any) -> Any:
    import torch

    options = {"dtype": like.dtype, "device": like.device}
    step, zero = torch.as_tensor(np.array(grid.step), **options), torch.as_tensor(np.array(grid.zero), **options)
    return fake_quantize_class()(step, zero, grid.low, grid.high, grid.axis)


def _bits(name: str, bits: int | Mapping[str, int], modules: Mapping[str, Any]) -> dict[str, int]:
    """Bits of each layer."""
    if not isinstance(bits, Mapping):
        check_bits(name, bits)
        return dict.fromkeys(modules, bits)
    unknown = [key for key in bits if key and key not in modules]
    if unknown:
        raise ValueError(f"{name} names {unknown[0]!r}, no convolution or linear layer; there are {', '.join(modules)}")
    for value in bits.values():
        check_bits(name, value)
    return {key: bits.get(key, bits.get("", 0)) for key in modules if key in bits or "" in bits}


def _samples(net: Any, modules: Mapping[str, Any], loader: Iterable[Any], batches: int) -> dict[str, Any]:
    """Some thousand inputs of each layer from every batch."""
    import torch

    found: dict[str, list[Any]] = {name: [] for name in modules}

    def gather(_: Any, inputs: Any, name: str) -> None:
        flat = inputs[0].detach().flatten()
        # Evenly spaced, and both ends of the range among them.
        kept = flat[:: max(1, flat.numel() // 4096)]
        found[name].append(torch.cat([kept, flat.min()[None], flat.max()[None]]).cpu().double().numpy())

    hooks = [
        module.register_forward_pre_hook(lambda module, inputs, name=name: gather(module, inputs, name))
        for name, module in modules.items()
    ]
    try:
        with torch.no_grad():
            for count, batch in enumerate(loader):
                if count >= batches:
                    break
                call(net, inputs_of(batch))
    finally:
        for hook in hooks:
            hook.remove()
    used = {name: np.concatenate(values) for name, values in found.items() if values}
    if not used:
        raise ValueError("the loader holds no batch; calibration needs one or more")
    return used


def _length(loader: Any) -> int:
    return len(loader) if hasattr(loader, "__len__") else 0
