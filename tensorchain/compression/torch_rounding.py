"""Round the weights and activations of a PyTorch network, in a way in which it can be trained.

Weights and inputs of every convolution and linear layer pass through `FakeQuantize`:
they lie on an integer grid, and the gradient passes through the rounding (straight through) but not through clipping.
Weights get one symmetric step a channel or a layer; activations an affine grid from calibration batches.

Reference: Kozyrskiy, Phan, "CNN acceleration by low-rank approximation with quantized factors" (2020).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from tensorchain.compression.layer_bits import allocate_layer_bits
from tensorchain.compression.quantize import check_bits, quantizer
from tensorchain.compression.torch_inner import rescale_inner
from tensorchain.compression.torch_inputs import batches_of, call, first_of
from tensorchain.compression.torch_layers import (
    channel_axis,
    convolutions,
    copied,
    decomposed,
    plain_weight,
)
from tensorchain.compression.torch_modules import fake_quantize_class


def quantize(
    net: Any,
    loader: Any,
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
        Any network with convolutions and linear layers.  Weights that hooks compute (pruning, `weight_norm` as a hook)
        are what they are now; parametrisations stay.
    loader : tensor, iterable of batches, or a function that returns one
        Calibration inputs, or pairs with the inputs first.
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
    for module in small.modules():
        plain_weight(module)
    # What can be passed over once only would leave nothing for the ranges.
    held = list(islice(loader, batches)) if isinstance(loader, Iterator) else loader
    passes = batches_of(held, "loader", net=small)

    def pairs() -> Iterator[Any]:
        return ((inputs, None) for inputs in passes())

    kinds = (*convolutions(), torch.nn.Linear)
    modules = {name: module for name, module in small.named_modules() if isinstance(module, kinds)}
    allocation = None
    if isinstance(weight_bits, str):
        if weight_bits != "allocate":
            raise ValueError(f"weight_bits is {weight_bits!r}; a number, bits by name, or 'allocate' is needed")
        allocation = allocate_layer_bits(small, mean_bits, pairs(), per_channel=per_channel, weight_range=weight_range)
        weight_bits = allocation.bits
    weights = _bits("weight_bits", weight_bits, modules)
    activations = {} if activation_bits is None else _bits("activation_bits", activation_bits, modules)
    if inner_scales and activations and not any(layer.bits for layer in decomposed(small).values()):
        rescale_inner(small, pairs(), weights, activations, per_channel=per_channel, batches=batches)
    samples = (
        _samples(small, {name: modules[name] for name in activations}, islice(passes(), batches)) if activations else {}
    )
    for name, module in modules.items():
        if name in weights:
            values = module.weight.detach().cpu().double().numpy()
            axis = channel_axis(module) if per_channel else None
            grid = quantizer(values, weights[name], axis=axis, range_by=weight_range, percentile=percentile)
            parametrize.register_parametrization(module, "weight", _module(grid, module.weight), unsafe=True)
        if name in samples:
            grid = quantizer(
                samples[name], activations[name], symmetric=False, range_by=activation_range, percentile=percentile
            )
            module.add_module("input_grid", _module(grid, next(module.parameters())))
            module.register_forward_pre_hook(_round_input, with_kwargs=True)
    small.bits, small.allocation = weights, allocation
    return small


def _round_input(module: Any, inputs: Any, named: Any) -> Any:
    if inputs:
        return (module.input_grid(inputs[0]), *inputs[1:]), named
    first = next(iter(named))
    return inputs, {**named, first: module.input_grid(named[first])}


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


def _samples(net: Any, modules: Mapping[str, Any], batches: Iterator[Any]) -> dict[str, Any]:
    """Some thousand inputs of each layer from every batch."""
    import torch

    found: dict[str, list[Any]] = {name: [] for name in modules}

    def gather(value: Any, name: str) -> None:
        flat = value.detach().flatten()
        # Evenly spaced, and both ends of the range among them.
        kept = flat[:: max(1, flat.numel() // 4096)]
        found[name].append(torch.cat([kept, flat.min()[None], flat.max()[None]]).cpu().double().numpy())

    hooks = [
        module.register_forward_pre_hook(
            lambda _, inputs, named, name=name: gather(first_of(inputs, named), name), with_kwargs=True
        )
        for name, module in modules.items()
    ]
    try:
        with torch.no_grad():
            for batch in batches:
                call(net, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: np.concatenate(values) for name, values in found.items() if values}
