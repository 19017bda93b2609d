"""Bits for the weights of every layer of a network, under a budget for all of them.

Rounding layer l to b bits changes its weights by a noise of measured variance v_l(b).  Where the layer is one of the
small convolutions that replaced a dense one with kernel X, the squared error of X is v_l(b) S_l, with S_l =
||dX/dW_l||_F^2 the share of the layer in the sensitivity of its plan; for a dense layer S_l is its number of weights.
So

    e_l(b) = g_l v_l(b) S_l / ||X||^2

is the expected squared relative error of the kernel, times a gain g_l: what this error does to the outputs of the
network, measured with layer l alone rounded to 4 bits on a calibration batch, or 1 without one.  Then

    minimise   sum_l e_l(b_l)   subject to   sum_l n_l b_l <= mean * sum_l n_l,

the knapsack of :mod:`tensorchain.compression.allocation`.  It is what `tc.allocate_bits` does for the blocks of one
model, for all layers at once and with measured noise in place of step^2 / 12.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorchain.compression.allocation import allocate
from tensorchain.compression.quantize import FEWEST_BITS, MOST_BITS, check_bits, quantizer
from tensorchain.compression.torch_inputs import call, one_pass, tensors_of
from tensorchain.compression.torch_layers import channel_axis, convolutions, copied, decomposed, plan_of_module
from tensorchain.kernels import Array

_PROBE = 4
"""Bits at which the gains are measured."""


@dataclass(frozen=True)
class LayerBits:
    """Bits for each layer, beside equal bits.

    Attributes
    ----------
    bits : dict of str to int
        Of each layer, by name.
    sizes : dict of str to int
        Weights of each layer.
    gains : dict of str to float
        What a squared relative error of the layer's kernel does to the squared relative error of the outputs.
    error : float
        Predicted squared relative error, summed over layers.
    uniform_bits, uniform_error : int or float
        The same for the largest equal number of bits within the budget.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain import compression
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4))
    >>> sorted(compression.allocate_layer_bits(net, 4).bits)
    ['0', '1']
    """

    bits: dict[str, int]
    sizes: dict[str, int]
    gains: dict[str, float]
    error: float
    uniform_bits: int
    uniform_error: float

    @property
    def mean(self) -> float:
        """Bits for a weight, on average."""
        return sum(self.sizes[name] * bits for name, bits in self.bits.items()) / sum(self.sizes.values())

    def __str__(self) -> str:
        rows = [f"{'layer':<34}{'weights':>9}{'gain':>10}{'bits':>6}"]
        rows += [
            f"{name:<34}{self.sizes[name]:>9}{self.gains[name]:>10.3g}{bits:>6}" for name, bits in self.bits.items()
        ]
        rows.append(f"mean {self.mean:.2f}, predicted error {self.error:.3g}; {self.uniform_bits} bits each: ")
        rows[-1] += f"{self.uniform_error:.3g}"
        return "\n".join(rows)


def allocate_layer_bits(
    net: Any,
    mean_bits: float,
    loader: Any = None,
    *,
    min_bits: int = FEWEST_BITS,
    max_bits: int = MOST_BITS,
    per_channel: bool = True,
    weight_range: str = "mse",
) -> LayerBits:
    """Bits for the weights of every convolution and linear layer of a network.

    Parameters
    ----------
    net : torch.nn.Module
        A network, dense or as `compress` returns it.
    mean_bits : float
        Most bits for a weight on average, 2 to 8; scales are not counted.
    loader : tensor, iterable of batches, or a function that returns one, optional
        Its first batch (inputs, or a pair with the inputs first) measures the gains; all are 1 without one.
    min_bits, max_bits : int, optional
        Limits for each layer, within 2 to 8.
    per_channel : bool, optional
        As in `quantize`.
    weight_range : str, optional
        As in `quantize`.

    Returns
    -------
    LayerBits

    Raises
    ------
    ImportError
        Without PyTorch.
    TypeError
        When a limit is no number.
    ValueError
        When a limit is out of range or the network has no such layer.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3))
    >>> best = allocate_layer_bits(net, 4.5, [torch.randn(16, 4, 8, 8)])
    >>> sorted(best.bits), best.mean <= 4.5, best.error <= best.uniform_error
    (['0', '2'], True, True)
    """
    import torch

    check_bits("min_bits", min_bits)
    check_bits("max_bits", max_bits)
    if not min_bits <= mean_bits <= max_bits:
        raise ValueError(
            f"mean_bits is {mean_bits!r}; a number from min_bits {min_bits} to max_bits {max_bits} is needed"
        )
    kinds = (*convolutions(), torch.nn.Linear)
    modules = {name: module for name, module in net.named_modules() if isinstance(module, kinds)}
    if not modules:
        raise ValueError("the network has no convolution and no linear layer")
    choices = list(range(min_bits, max_bits + 1))
    responses = _responses(net, modules)
    weights = {name: module.weight.detach().cpu().double().numpy() for name, module in modules.items()}

    def rounded(name: str, bits: int) -> tuple[Array, float]:
        """The weights of a layer on their grid, and e_l without its gain."""
        values = weights[name]
        grid = quantizer(values, bits, axis=channel_axis(modules[name]) if per_channel else None, range_by=weight_range)
        near = grid.rounded(values)
        return near, float(np.mean((near - values) ** 2)) * responses[name]

    errors = {name: np.array([rounded(name, bits)[1] for bits in choices]) for name in modules}
    gains = dict.fromkeys(modules, 1.0)
    if loader is not None:
        gains = _gains(net, modules, lambda name: rounded(name, _PROBE), next(one_pass(loader, net=net)))
    tables = [gains[name] * errors[name] for name in modules]
    sizes = {name: weight.size for name, weight in weights.items()}
    costs = [np.array([size * bits for bits in choices], dtype=float) for size in sizes.values()]
    best = allocate(costs, tables, mean_bits * sum(sizes.values()))
    uniform = int(mean_bits)
    return LayerBits(
        bits={name: choices[choice] for name, choice in zip(modules, best.choices, strict=True)},
        sizes=sizes,
        gains=gains,
        error=best.error,
        uniform_bits=uniform,
        uniform_error=float(sum(table[choices.index(uniform)] for table in tables)),
    )


def _responses(net: Any, modules: dict[str, Any]) -> dict[str, float]:
    """S_l / ||X||^2 of each layer."""
    found = {}
    for name, layer in decomposed(net).items():
        part = net.get_submodule(name)
        plan = plan_of_module(part, layer.method, layer.rank)
        energy = float(np.sum(plan.kernel**2))
        inside = [key for key in modules if key.rpartition(".")[0] == name]
        for key, value in zip(inside, plan.layer_sensitivities(), strict=True):
            found[key] = value / energy if energy > 0.0 else 0.0
    for name, module in modules.items():
        if name not in found:
            energy = float((module.weight.detach().double() ** 2).sum())
            found[name] = module.weight.numel() / energy if energy > 0.0 else 0.0
    return found


def _gains(
    net: Any, modules: dict[str, Any], change: Callable[[str], tuple[Array, float]], inputs: Any
) -> dict[str, float]:
    """Squared relative error of the outputs over that of a kernel, by rounding one layer alone."""
    import torch

    def outputs() -> Any:
        return torch.cat([part.double().flatten() for part in tensors_of(call(probe, inputs))])

    probe = copied(net).eval()
    gains = {}
    with torch.no_grad():
        expected = outputs()
        energy = float((expected**2).sum())
        for name in modules:
            rounded, error = change(name)
            weight = probe.get_submodule(name).weight
            kept = weight.clone()
            weight.copy_(torch.from_numpy(rounded))
            moved = float(((outputs() - expected) ** 2).sum())
            weight.copy_(kept)
            gains[name] = moved / energy / error if error > 0.0 and energy > 0.0 else 0.0
    return gains
