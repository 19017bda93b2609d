"""Compress a PyTorch network: decomposed convolutions in place of dense ones.

`compress` looks at every `Conv2d` and `Linear`, chooses and fits decompositions under a budget for the whole network
(:mod:`tensorchain.compression.network`) and returns a copy of the network in which each layer that changes is an
`nn.Sequential` of plain layers, so that it can be trained, exported and run anywhere.

The chain's layer has two forms.  "grouped" writes the shared kernel out for every group: plain convolutions, fastest in
floating point.  "fold" moves the groups into the batch: the kernel is stored, and trained, once.

The torch-free mathematics is elsewhere; here is only what touches modules.  Needs `pip install tensorchain[torch]`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np

from tensorchain.compression.conv import Convolution, Fold, Geometry, LayerPlan, Pair, Unfold
from tensorchain.compression.network import Request, Site, plan_network
from tensorchain.compression.patches import PatchCovariance
from tensorchain.compression.torch_modules import fold_class
from tensorchain.kernels import Array


def compress(
    net: Any,
    example: Any,
    method: str = "tc",
    *,
    keep_macs: float | None = None,
    keep_params: float | None = None,
    calibrate: Iterable[Any] | None = None,
    rng: int | np.random.Generator | None = 0,
    **options: Any,
) -> Any:
    """A compressed copy of a network.

    Parameters
    ----------
    net : network with `Conv2d` and `Linear` layers; it is not changed.
    example : an input, with which the sizes of all images are found.
    method : for kernels of several taps: "cp3", "cp4", "tucker2", "tucker-cp", "btd" or "tc"; 1 x 1 and linear layers
        get an SVD.
    keep_macs, keep_params : the budget as a share of the dense network's multiplications, or parameters; give one.
    calibrate : batches (inputs, or pairs with the inputs first); errors are then those of the layers' outputs.
    rng : seed or generator.
    options : fields of `Request`: stabilise, slack, fit_output, pointwise, keep, form, allocation, rungs, max_seconds.

    Returns
    -------
    A new module in evaluation mode; `.report` says what was done.

    Raises
    ------
    ImportError without PyTorch; ValueError, TypeError when an option is wrong or the budget cannot be met.

    Examples
    --------
    `compress(net, images[:1], "tc", keep_macs=0.3)` keeps 30 % of the multiplications.
    """
    torch = _torch()
    if not isinstance(net, torch.nn.Module):
        raise TypeError(f"net is {type(net).__name__}; a torch.nn.Module is needed")
    request = Request(method, keep_macs, keep_params, **options)
    if request.fit_output and calibrate is None:
        raise ValueError("fit_output needs calibrate=, batches of inputs")
    small = copy.deepcopy(net).eval()
    sites = sites_of(small, example)
    wanted = [site for site in sites if not request.refusal(site)]
    covariances = None if calibrate is None else patch_covariances(small, wanted, calibrate)
    count = sum(parameter.numel() for parameter in net.parameters())
    plans, report = plan_network(sites, request, parameters=count, covariances=covariances, rng=rng)
    for name, plan in plans.items():
        parent, _, last = name.rpartition(".")
        owner = small.get_submodule(parent)
        setattr(owner, last, module_of(plan, getattr(owner, last)))
    small.report = report
    return small


def module_of(plan: LayerPlan, like: Any = None) -> Any:
    """The layers of a plan as an `nn.Sequential`, with the dtype, device and padding mode of `like`.

    A plan for a `Linear` layer becomes two of them.
    """
    nn = _torch().nn
    linear = isinstance(like, nn.Linear)
    layers: list[Any] = []
    for step in plan.steps:
        if isinstance(step, (Fold, Unfold)):
            layers.append(fold_class()(step.groups, isinstance(step, Unfold)))
        elif linear:
            layers.append(_linear(step))
        else:
            layers.extend(_conv(step, "zeros" if like is None else str(like.padding_mode)))
    module = nn.Sequential(*layers)
    if like is not None:
        reference = next(like.parameters())
        module.to(device=reference.device, dtype=reference.dtype)
        module.train(like.training)
    return module


def geometry_of(conv: Any) -> Geometry:
    """Stride, padding and dilation of a `Conv2d`; "same" padding written out."""
    stride, dilation = (tuple(int(n) for n in value) for value in (conv.stride, conv.dilation))
    if conv.padding == "valid":
        sides: list[Pair] = [(0, 0), (0, 0)]
    elif conv.padding == "same":
        whole = [d * (k - 1) for d, k in zip(dilation, conv.kernel_size, strict=True)]
        sides = [(n // 2, n - n // 2) for n in whole]
    else:
        sides = [(int(n), int(n)) for n in conv.padding]
    return Geometry((stride[0], stride[1]), (sides[0], sides[1]), (dilation[0], dilation[1]))


def _conv(step: Convolution, padding_mode: str) -> list[Any]:
    torch = _torch()
    nn = torch.nn
    geometry, before = step.geometry, []
    padding = (geometry.padding[0][0], geometry.padding[1][0])
    if any(first != second for first, second in geometry.padding):
        (top, bottom), (left, right) = geometry.padding
        before, padding = [nn.ZeroPad2d((left, right, top, bottom))], (0, 0)
    conv = nn.Conv2d(
        step.inputs, step.outputs, step.window, geometry.stride, padding, geometry.dilation, step.groups,
        bias=step.bias is not None, padding_mode=padding_mode if any(padding) else "zeros",
    )  # fmt: skip
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(np.array(step.weight)))
        if step.bias is not None:
            conv.bias.copy_(torch.from_numpy(np.array(step.bias)))
    return [*before, conv]


def _linear(step: Convolution) -> Any:
    torch = _torch()
    linear = torch.nn.Linear(step.inputs, step.outputs, bias=step.bias is not None)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(np.array(step.weight[:, :, 0, 0])))
        if step.bias is not None:
            linear.bias.copy_(torch.from_numpy(np.array(step.bias)))
    return linear


def sites_of(net: Any, example: Any) -> list[Site]:
    """Every layer that holds weights and is used, with the size of its input, found by running the example."""
    torch = _torch()
    kinds = torch.nn.Conv2d, torch.nn.Linear
    modules = {name: module for name, module in net.named_modules() if isinstance(module, kinds)}
    seen: dict[str, list[tuple[int, ...]]] = {name: [] for name in modules}
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(tuple(inputs[0].shape)))
        for name, module in modules.items()
    ]
    try:
        with torch.no_grad():
            net(_inputs(example))
    finally:
        for hook in hooks:
            hook.remove()
    return [_site(name, module, seen[name]) for name, module in modules.items() if seen[name]]


def _site(name: str, module: Any, seen: list[tuple[int, ...]]) -> Site:
    nn = _torch().nn
    linear = isinstance(module, nn.Linear)
    weight = module.weight.detach().to("cpu").double().numpy()
    geometry = Geometry() if linear else geometry_of(module)
    refusal = ""
    if type(module) not in (nn.Conv2d, nn.Linear):
        refusal = f"a {type(module).__name__}"
    elif not linear and module.groups > 1:
        refusal = "depthwise" if module.groups == module.in_channels else f"{module.groups} groups"
    elif not linear and module.padding_mode != "zeros" and any(a != b for a, b in geometry.padding):
        refusal = f"uneven {module.padding_mode} padding"
    elif len(set(seen)) > 1:
        refusal = "used at several sizes"
    # A linear layer is applied to as many vectors as there are positions behind the batch.
    image = (int(np.prod(seen[0][1:-1])), 1) if linear else (int(seen[0][-2]), int(seen[0][-1]))
    bias = None if module.bias is None else module.bias.detach().to("cpu").double().numpy()
    return Site(name, weight[:, :, None, None] if linear else weight, bias, geometry, image, len(seen), refusal)


def patch_covariances(net: Any, sites: list[Site], batches: Iterable[Any]) -> dict[str, PatchCovariance]:
    """Covariances of the patches that some layers see, by name, over batches of inputs or of (inputs, labels)."""
    torch = _torch()
    functional = torch.nn.functional
    sums: dict[str, Array] = {}
    counts: dict[str, int] = {}

    def gather(module: Any, inputs: Any, name: str) -> None:
        values = inputs[0].detach()
        if isinstance(module, torch.nn.Linear):
            patches = values.reshape(-1, values.shape[-1])
        else:
            geometry = geometry_of(module)
            (top, bottom), (left, right) = geometry.padding
            mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
            padded = functional.pad(values, (left, right, top, bottom), mode)
            columns = functional.unfold(padded, module.kernel_size, geometry.dilation, 0, geometry.stride)
            patches = columns.transpose(1, 2).reshape(-1, columns.shape[1])
        square = (patches.T @ patches).double().cpu().numpy()
        sums[name] = sums.get(name, 0.0) + square
        counts[name] = counts.get(name, 0) + len(patches)

    wanted = {site.name: site for site in sites}
    modules = {name: module for name, module in net.named_modules() if name in wanted}
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs, name=name: gather(module, inputs, name))
        for name, module in modules.items()
    ]
    try:
        with torch.no_grad():
            for batch in batches:
                net(_inputs(batch))
    finally:
        for hook in hooks:
            hook.remove()
    if not sums and wanted:
        raise ValueError("calibrate holds no batch; give an iterable of inputs, or of (inputs, labels)")
    return {name: PatchCovariance(total / counts[name], wanted[name].kernel.shape[1]) for name, total in sums.items()}


def _inputs(batch: Any) -> Any:
    """The inputs of a batch that may hold labels too."""
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError("compressing a PyTorch network needs PyTorch: pip install tensorchain[torch]") from error
    return torch
