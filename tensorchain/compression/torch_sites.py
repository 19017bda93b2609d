"""The layers of a PyTorch network that hold weights, how they are used, and why some have to stay.

One run of the example tells of every layer how often it is called, on inputs of which sizes, and whether its weight is
read by other code than its own.  Convolutions and linear layers that can be replaced are sites with their kernels; all
other modules with weights are listed with the reason why they stay, their parameters, and the multiplications that a
run makes with them (:mod:`tensorchain.compression.torch_products`).  What modules multiply without weights, such as the
products of attention that is written by hand, is listed under their names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tensorchain.compression.conv import Geometry
from tensorchain.compression.groups import groups_of, kernel_of
from tensorchain.compression.report import LayerReport
from tensorchain.compression.request import Site
from tensorchain.compression.torch_inputs import batch_of, call, first_of
from tensorchain.compression.torch_layers import (
    axes_of,
    computing_hooks,
    convolutions,
    decomposed,
    geometry_of,
    is_linear,
    plan_of_module,
    torch_package,
    weight_of,
)
from tensorchain.compression.torch_modules import fake_quantize_class
from tensorchain.compression.torch_products import products_of

_NOTHING = np.zeros((1, 1, 1, 1))


def sites_of(net: Any, example: Any, whole: bool = False) -> list[Site]:
    """Every layer that holds matrices, in the order of first use; then those that are not used, and other products.

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
    own = {name: module for name, module in modules.items() if not isinstance(module, torch.jit.ScriptModule)}
    with torch.no_grad(), _observed(own) as seen:
        call(net, example)
    products = products_of(net, example, modules, lambda name: _home(name, done))
    owners: dict[int, list[str]] = {}
    for name, module in net.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None and (name in modules or not done):
                owners.setdefault(id(parameter), []).append(name)
    order = {name: at for at, name in enumerate(seen.sizes)}
    names = sorted(modules, key=lambda name: order.get(name, len(order)))
    counted: set[int] = set()
    batch = max(batch_of(example), 1)
    sites = [_site(name, modules[name], seen, done.get(name), (owners, counted, products, batch)) for name in names]
    rest = {name: count for name, count in products.items() if name not in modules}
    return [*sites, *(_stays(name, "products without weights", (0, round(n / batch))) for name, n in rest.items())]


def _home(name: str, done: Mapping[str, Any]) -> str:
    """The layer under which counts what runs in a module: that which it is a part of, else itself."""
    whole, part = name.split(".parametrizations.")[0], name.rpartition(".")[0]
    return part if part in done and name else whole


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

    layers = (*convolutions(), torch_package().nn.Linear)
    return isinstance(module, layers) and (parametrize.is_parametrized(module, "weight") or "weight" in vars(module))


@dataclass
class _Seen:
    """What a run showed.

    Attributes
    ----------
    sizes : dict of str to list of tuple of int
        Shapes of the inputs of each call by name.
    read : set of str
        Layers whose weights other code has read.
    more : set of str
        Layers that were called with more than their input.
    """

    sizes: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    more: set[str] = field(default_factory=set)


@contextmanager
def _observed(modules: Mapping[str, Any]) -> Iterator[_Seen]:
    """Watch calls of modules and reads of their weights; without hooks, with which some modules run other code."""
    seen, before = _Seen(), {name: module.__class__ for name, module in modules.items()}

    def watched(kind: Any, name: str) -> Any:
        running = [0]
        own = modules[name]._parameters.items()
        # What a weight is computed from is read before each call.
        matrices = {key for key, p in own if p is not None and p.ndim > 1 and not _computed(modules[name])}

        class Watched(kind):  # type: ignore[misc]
            def forward(self, *inputs: Any, **named: Any) -> Any:
                shape = getattr(first_of(inputs, named), "shape", ())
                seen.sizes.setdefault(name, []).append(tuple(shape))
                if len(inputs) + len(named) > 1:
                    seen.more.add(name)
                running[0] += 1
                try:
                    return kind.forward(self, *inputs, **named)
                finally:
                    running[0] -= 1

            def __getattr__(self, key: str) -> Any:
                if not running[0] and (key == "weight" or key in matrices):
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
    network: tuple[Mapping[int, list[str]], set[int], Mapping[str, int], int],
) -> Site:
    """A layer; `network`: owners of all parameters, those counted already, multiplications, samples of the example."""
    owners, counted, products, batch = network
    nn = torch_package().nn
    calls = seen.sizes.get(name, [])
    if layer is not None:
        plan, different = plan_of_module(module, layer.method, layer.rank), _refusal_of_calls(calls)
        groups = groups_of(plan)
        return Site(
            name, kernel_of(plan, groups), plan.convolutions[-1].bias, plan.geometry, _image(module, calls, batch),
            _uses(module, calls, batch), different, plan, groups=groups, calls=max(len(calls), 1),
        )  # fmt: skip
    own = list(module.parameters() if _computed(module) else module.parameters(recurse=False))
    refusal = _refusal(name, module, seen, owners)
    if refusal:
        free = [p for p in own if id(p) not in counted]
        counted.update(map(id, free))
        counts = sum(p.numel() for p in free), round(products.get(name, 0) / batch)
        return replace(_stays(name, refusal, counts), uses=max(len(calls), 1))
    bias = None if module.bias is None else module.bias.detach().to("cpu").double().numpy()
    linear = isinstance(module, nn.Linear)
    stored = sum(p.numel() for p in own) if _computed(module) else None
    return Site(
        name, weight_of(module), bias, Geometry() if linear else geometry_of(module), _image(module, calls, batch),
        _uses(module, calls, batch), stored=stored, groups=1 if linear else int(module.groups), calls=len(calls),
    )  # fmt: skip


def _stays(name: str, reason: str, counts: tuple[int, int]) -> Site:
    """What cannot be replaced, with its parameters and multiplications."""
    return Site(name, _NOTHING, None, Geometry(), (1, 1), 1, reason, counts=counts)


def _refusal(name: str, module: Any, seen: _Seen, owners: Mapping[int, list[str]]) -> str:
    """Why a layer stays; empty where it can be replaced."""
    torch = torch_package()
    kinds = (*convolutions(), torch.nn.Linear)
    shared = [
        (key, other)
        for key, p in module.named_parameters(recurse=False)
        for other in owners.get(id(p), [])
        if other != name
    ]
    if shared:
        return f"shares its {shared[0][0] if shared[0][0] == 'bias' else 'weight'} with {shared[0][1]}"
    if isinstance(module, torch.jit.ScriptModule):
        return "scripted or traced"
    if name in seen.read:
        return "its weight is read by other code"
    calls = seen.sizes.get(name, [])
    if not calls:
        return "not called"
    if not (type(module) in kinds or (isinstance(module, kinds) and _computed(module))) or _rounded(module):
        kind = type(module).__name__
        return f"{'an' if (kind[0] in 'AEIOLM' and kind[:2].isupper()) or kind[0] in 'AEIO' else 'a'} {kind}"
    if not module.weight.is_floating_point():
        return f"weight of type {str(module.weight.dtype).removeprefix('torch.')}"
    if _hooked(module):
        return "has hooks, which a new layer would not have"
    uneven = not is_linear(module) and any(a != b for a, b in geometry_of(module).padding)
    if uneven and module.padding_mode != "zeros":
        return f"uneven {module.padding_mode} padding"
    if name in seen.more:
        return "called with more than its input"
    return _refusal_of_calls(calls)


def _hooked(module: Any) -> bool:
    """Whether code of others runs with a layer, but for that which computes its weight."""
    if len(module._forward_pre_hooks) > len(computing_hooks(module)):
        return True
    return any(getattr(module, name, None) for name in ("_forward_hooks", "_backward_hooks", "_backward_pre_hooks"))


def _image(module: Any, calls: list[tuple[int, ...]], batch: int) -> tuple[int, ...]:
    """Sizes of the input; a linear layer is applied to as many vectors as there are for each sample."""
    shape = calls[0]
    if is_linear(module):
        return max(1, round(math.prod(shape[:-1]) / batch)), 1
    axes = axes_of(module)
    return (1, shape[-1]) if axes == 1 else tuple(shape[-axes:])


def _uses(module: Any, calls: list[tuple[int, ...]], batch: int) -> int:
    """Images for each sample of the example, over all calls."""
    if is_linear(module):
        return len(calls)
    axes = axes_of(module)
    return max(1, round(sum(shape[0] if len(shape) > 1 + axes else 1 for shape in calls) / batch))


def _refusal_of_calls(calls: list[tuple[int, ...]]) -> str:
    return "used at several sizes" if len(set(calls)) > 1 else ""


def _rounded(module: Any) -> bool:
    """Whether the weight passes through the rounding of `quantize`."""
    parts = getattr(module, "parametrizations", None)
    return parts is not None and any(isinstance(part, fake_quantize_class()) for part in parts.modules())
