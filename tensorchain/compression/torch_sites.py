"""The layers of a PyTorch network that hold weights, and how they are used."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorchain.compression.conv import Geometry
from tensorchain.compression.report import LayerReport
from tensorchain.compression.request import Site
from tensorchain.compression.torch_inputs import call
from tensorchain.compression.torch_layers import decomposed, geometry_of, is_linear, plan_of_module, torch_package


def sites_of(net: Any, example: Any, whole: bool = False) -> list[Site]:
    """Every layer that holds weights and is used, in the order of first use, with the size of its input.
    They are found by running the example.

    With `whole`, what `compress` put in place of a layer counts as this one layer, with its plan.
    """
    torch = torch_package()
    kinds = torch.nn.Conv2d, torch.nn.Linear
    done = decomposed(net) if whole else {}
    modules = {
        name: module
        for name, module in net.named_modules()
        if name in done or (isinstance(module, kinds) and name.rpartition(".")[0] not in done)
    }
    seen: dict[str, list[tuple[int, ...]]] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.setdefault(name, []).append(tuple(inputs[0].shape))
        )
        for name, module in modules.items()
    ]
    try:
        with torch.no_grad():
            call(net, example)
    finally:
        for hook in hooks:
            hook.remove()
    return [_site(name, modules[name], shapes, done.get(name)) for name, shapes in seen.items()]


def _site(name: str, module: Any, seen: list[tuple[int, ...]], layer: LayerReport | None) -> Site:
    nn = torch_package().nn
    linear = is_linear(module)
    # A linear layer is applied to as many vectors as there are positions behind the batch.
    image = (int(np.prod(seen[0][1:-1])), 1) if linear else (int(seen[0][-2]), int(seen[0][-1]))
    different = "used at several sizes" if len(set(seen)) > 1 else ""
    if layer is not None:
        plan = plan_of_module(module, layer.method, layer.rank)
        bias = plan.convolutions[-1].bias
        return Site(name, plan.kernel, bias, plan.geometry, image, len(seen), different, plan)
    weight = module.weight.detach().to("cpu").double().numpy()
    geometry = Geometry() if linear else geometry_of(module)
    refusal = ""
    if type(module) not in (nn.Conv2d, nn.Linear):
        refusal = f"a {type(module).__name__}"
    elif not linear and module.groups > 1:
        refusal = "depthwise" if module.groups == module.in_channels else f"{module.groups} groups"
    elif not linear and module.padding_mode != "zeros" and any(a != b for a, b in geometry.padding):
        refusal = f"uneven {module.padding_mode} padding"
    refusal = refusal or different
    bias = None if module.bias is None else module.bias.detach().to("cpu").double().numpy()
    return Site(name, weight[:, :, None, None] if linear else weight, bias, geometry, image, len(seen), refusal)
