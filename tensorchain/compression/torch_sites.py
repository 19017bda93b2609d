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

from tensorchain.compression.conv import Geometry, macs_of
from tensorchain.compression.groups import groups_of, kernel_of
from tensorchain.compression.report import LayerReport
from tensorchain.compression.request import Site
from tensorchain.compression.torch_inputs import batch_of, call, first_of
from tensorchain.compression.torch_layers import (
    axes_of,
    convolutions,
    decomposed,
    geometry_of,
    is_linear,
    plan_of_module,
    torch_package,
    weight_of,
)
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
    hidden = seen.read - set(seen.sizes)
    if hidden:
        _look_again(net, example, modules, seen, hidden)
    owners: dict[int, list[str]] = {}
    for name, module in net.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None and (name in modules or not done):
                owners.setdefault(id(parameter), []).append(name)
    order = {name: at for at, name in enumerate(seen.sizes)}
    names = sorted(modules, key=lambda name: order.get(name, len(order)))
    counted: set[int] = set()
    batch = max(batch_of(example), 1)
    return [_site(name, modules[name], seen, done.get(name), (owners, counted, batch)) for name in names]


def _look_again(net: Any, example: Any, modules: Mapping[str, Any], seen: _Seen, hidden: set[str]) -> None:
    """Sizes of layers whose weights were read in place of a call: attention has a fast path that calls nothing."""
    torch = torch_package()
    switch = getattr(torch.backends, "mha", None)
    if switch is None:
        # Versions that cannot switch it off count these layers without multiplications.
        return
    fast = switch.get_fastpath_enabled()
    switch.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), _observed(modules) as slow:
            call(net, example)
    finally:
        switch.set_fastpath_enabled(fast)
    for name in modules:
        if name in hidden:
            # The output matrix of an attention is read wherever the attention is called.
            calls = slow.sizes.get(name) or slow.sizes.get(name.rpartition(".")[0])
            if calls:
                seen.sizes[name] = calls


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
    network: tuple[Mapping[int, list[str]], set[int], int],
) -> Site:
    """A layer; `network`: the owners of all parameters, those counted already, and the samples of the example."""
    owners, counted, batch = network
    nn = torch_package().nn
    calls = seen.sizes.get(name, [])
    if layer is not None:
        plan, different = plan_of_module(module, layer.method, layer.rank), _refusal_of_calls(calls)
        groups = groups_of(plan)
        return Site(
            name, kernel_of(plan, groups), plan.convolutions[-1].bias, plan.geometry, _image(module, calls, batch),
            _uses(module, calls, batch), different, plan, groups=groups, calls=max(len(calls), 1),
        )  # fmt: skip
    own = [parameter for parameter in module._parameters.values() if parameter is not None]
    shared = [other for p in own if p.ndim > 1 for other in owners.get(id(p), []) if other != name]
    kinds = (*convolutions(), nn.Linear)
    replaceable = isinstance(module, kinds)
    plain = type(module) in kinds or _computed(module)
    refusal = ""
    if shared:
        refusal = f"shares its weight with {shared[0]}"
    elif name in seen.read:
        refusal = "its weight is read by other code"
    elif not calls:
        refusal = "not called"
    elif not replaceable or not plain or _rounded(module):
        kind = type(module).__name__
        refusal = f"{'an' if (kind[0] in 'AEIOLM' and kind[:2].isupper()) or kind[0] in 'AEIO' else 'a'} {kind}"
    if refusal or not replaceable:
        free = [p for p in own if id(p) not in counted]
        counted.update(map(id, free))
        macs = sum(_macs(module, own, shape, batch) for shape in calls)
        counts = sum(p.numel() for p in free), macs
        return Site(name, _NOTHING, None, Geometry(), (1, 1), max(len(calls), 1), refusal, counts=counts)
    bias = None if module.bias is None else module.bias.detach().to("cpu").double().numpy()
    linear = isinstance(module, nn.Linear)
    geometry = Geometry() if linear else geometry_of(module)
    if not linear and module.padding_mode != "zeros" and any(a != b for a, b in geometry.padding):
        refusal = f"uneven {module.padding_mode} padding"
    elif name in seen.more:
        refusal = "called with more than its input"
    refusal = refusal or _refusal_of_calls(calls)
    stored = sum(p.numel() for p in module.parameters()) if _computed(module) else None
    return Site(
        name, weight_of(module), bias, geometry, _image(module, calls, batch), _uses(module, calls, batch), refusal,
        stored=stored, groups=1 if linear else int(module.groups), calls=len(calls),
    )  # fmt: skip


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


def _macs(module: Any, own: list[Any], shape: tuple[int, ...], batch: int) -> int:
    """Multiplications of one call for one sample: each matrix at each position of the input, or of the output."""
    nn = torch_package().nn
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) or len(shape) < 2:
        return 0
    if isinstance(module, convolutions()) and module.weight is not None:
        axes = axes_of(module)
        image = (1, *shape[-1:]) if axes == 1 else tuple(shape[-axes:])
        images = max(1, round(math.prod(shape[: -axes - 1]) / batch))
        return macs_of(weight_of(module).shape, geometry_of(module), image) * images
    return sum(int(p.numel()) for p in own if p.ndim > 1) * max(1, round(math.prod(shape[:-1]) / batch))
