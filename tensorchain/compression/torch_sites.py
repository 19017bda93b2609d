"""The layers of a PyTorch network that hold weights, how they are used, and why some have to stay.

One run of the example tells of every layer how often it is called, on inputs of which sizes, and whether its weight is
read by other code than its own.  Convolutions and linear layers that can be replaced are sites with their kernels; all
other modules with weights are listed with the reason why they stay, their parameters, and their multiplications: each
matrix once for each position of the input.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorchain.compression.conv import Geometry
from tensorchain.compression.report import LayerReport
from tensorchain.compression.request import Site
from tensorchain.compression.torch_inputs import call, first_of
from tensorchain.compression.torch_layers import decomposed, geometry_of, is_linear, plan_of_module, torch_package
from tensorchain.compression.torch_modules import fake_quantize_class

_NOTHING = np.zeros((1, 1, 1, 1))


def sites_of(net: Any, example: Any, whole: bool = False) -> list[Site]:
    """Every layer that holds matrices, in the order of first use; those that are not used come last.

    Parameters
    ----------
    net : torch.nn.Module
    example : tensor, tuple, list or mapping
        Inputs, as in `torch_inputs.call`.
    whole : bool
        Whether what `compress` put in place of a layer counts as this one layer, with its plan.

    Returns
    -------
    list of Site
    """
    torch = torch_package()
    done = decomposed(net) if whole else {}
    modules = {
        name: module
        for name, module in net.named_modules()
        if name in done or (_matrices(module) and not _inside(name, done))
    }
    with torch.no_grad(), _observed(modules) as seen:
        call(net, example)
    owners: dict[int, list[str]] = {}
    for name, module in net.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None and (name in modules or not done):
                owners.setdefault(id(parameter), []).append(name)
    order = {name: at for at, name in enumerate(seen.sizes)}
    names = sorted(modules, key=lambda name: order.get(name, len(order)))
    counted: set[int] = set()
    return [_site(name, modules[name], seen, done.get(name), owners, counted) for name in names]


def _inside(name: str, done: Mapping[str, Any]) -> bool:
    """Whether a module is part of a layer: of one that was replaced, or of the parametrisation of a weight."""
    return (name != "" and name.rpartition(".")[0] in done) or "parametrizations" in name.split(".")


def _matrices(module: Any) -> bool:
    """Whether a module holds matrices or kernels of its own; a computed weight counts."""
    own = [parameter for parameter in module._parameters.values() if parameter is not None]
    return any(p.ndim > 1 for p in own) or _computed(module)


def _computed(module: Any) -> bool:
    """Whether the weight is computed from others, as by weight_norm, pruning or a parametrisation."""
    from torch.nn.utils import parametrize

    layers = torch_package().nn.Conv2d, torch_package().nn.Linear
    return isinstance(module, layers) and (parametrize.is_parametrized(module, "weight") or "weight" in vars(module))


@dataclass
class _Seen:
    """What a run showed: the shapes of the inputs of each call by name, and whose weights other code has read."""

    sizes: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)


@contextmanager
def _observed(modules: Mapping[str, Any]) -> Iterator[_Seen]:
    """Watch calls of modules and reads of their weights; without hooks, with which some modules run other code."""
    seen, before = _Seen(), {name: module.__class__ for name, module in modules.items()}

    def watched(kind: Any, name: str) -> Any:
        running = [0]

        class Watched(kind):  # type: ignore[misc]
            def forward(self, *inputs: Any, **named: Any) -> Any:
                shape = getattr(first_of(inputs, named), "shape", ())
                seen.sizes.setdefault(name, []).append(tuple(shape))
                running[0] += 1
                try:
                    return kind.forward(self, *inputs, **named)
                finally:
                    running[0] -= 1

            def __getattr__(self, key: str) -> Any:
                if key == "weight" and not running[0]:
                    seen.read.add(name)
                return super().__getattr__(key)

        return Watched

    try:
        for name, module in modules.items():
            module.__class__ = watched(before[name], name)
        yield seen
    finally:
        for name, module in modules.items():
            module.__class__ = before[name]


def _site(
    name: str,
    module: Any,
    seen: _Seen,
    layer: LayerReport | None,
    owners: Mapping[int, list[str]],
    counted: set[int],
) -> Site:
    nn = torch_package().nn
    calls = seen.sizes.get(name, [])
    if layer is not None:
        plan = plan_of_module(module, layer.method, layer.rank)
        image, different = _image(module, calls), _refusal_of_calls(calls)
        return Site(name, plan.kernel, plan.convolutions[-1].bias, plan.geometry, image, len(calls), different, plan)
    own = [parameter for parameter in module._parameters.values() if parameter is not None]
    shared = [other for p in own if p.ndim > 1 for other in owners.get(id(p), []) if other != name]
    convolution, linear = isinstance(module, nn.Conv2d), isinstance(module, nn.Linear)
    plain = type(module) in (nn.Conv2d, nn.Linear) or _computed(module)
    refusal = ""
    if shared:
        refusal = f"shares its weight with {shared[0]}"
    elif name in seen.read:
        refusal = "its weight is read by other code"
    elif not calls:
        refusal = "not called"
    elif not (convolution or linear) or not plain or _rounded(module):
        kind = type(module).__name__
        refusal = f"{'an' if (kind[0] in 'AEIOLM' and kind[:2].isupper()) or kind[0] in 'AEIO' else 'a'} {kind}"
    if refusal or not (convolution or linear):
        free = [p for p in own if id(p) not in counted]
        counted.update(map(id, free))
        counts = sum(p.numel() for p in free), sum(_macs(module, own, shape) for shape in calls)
        return Site(name, _NOTHING, None, Geometry(), (1, 1), max(len(calls), 1), refusal, counts=counts)
    weight = module.weight.detach().to("cpu").double().numpy()
    bias = None if module.bias is None else module.bias.detach().to("cpu").double().numpy()
    geometry = Geometry() if linear else geometry_of(module)
    if convolution and module.groups > 1:
        refusal = "depthwise" if module.groups == module.in_channels else f"{module.groups} groups"
    elif convolution and module.padding_mode != "zeros" and any(a != b for a, b in geometry.padding):
        refusal = f"uneven {module.padding_mode} padding"
    refusal = refusal or _refusal_of_calls(calls)
    kernel = weight[:, :, None, None] if linear else weight
    stored = sum(p.numel() for p in module.parameters()) if _computed(module) else None
    return Site(name, kernel, bias, geometry, _image(module, calls), len(calls), refusal, stored=stored)


def _image(module: Any, calls: list[tuple[int, ...]]) -> tuple[int, int]:
    """Height and width of the input; a linear layer is applied to as many vectors as there are behind the batch."""
    if is_linear(module):
        return math.prod(calls[0][1:-1]), 1
    return calls[0][-2], calls[0][-1]


def _refusal_of_calls(calls: list[tuple[int, ...]]) -> str:
    return "used at several sizes" if len(set(calls)) > 1 else ""


def _rounded(module: Any) -> bool:
    """Whether the weight passes through the rounding of `quantize`."""
    parts = getattr(module, "parametrizations", None)
    return parts is not None and any(isinstance(part, fake_quantize_class()) for part in parts.modules())


def _macs(module: Any, own: list[Any], shape: tuple[int, ...]) -> int:
    """Multiplications of one call for one sample: each matrix at each position of the input, or of a smaller output."""
    nn = torch_package().nn
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) or len(shape) < 2:
        return 0
    size = sum(int(p.numel()) for p in own if p.ndim > 1)
    convolutions = nn.Conv1d, nn.Conv2d, nn.Conv3d
    transposed = nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
    if isinstance(module, transposed):
        return size * math.prod(shape[2:])
    if isinstance(module, convolutions):
        kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
        positions = 1
        for axis, length in enumerate(shape[2:]):
            if isinstance(module.padding, str):
                whole = dilation[axis] * (kernel[axis] - 1) if module.padding == "same" else 0
            else:
                whole = 2 * module.padding[axis]
            positions *= (length + whole - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        return size * positions
    return size * math.prod(shape[1:-1])
