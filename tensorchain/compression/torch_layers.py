"""Compress a PyTorch network: decomposed convolutions in place of dense ones.

`compress` looks at every `Conv2d` and `Linear`, chooses and fits decompositions under a budget for the whole network
(:mod:`tensorchain.compression.network`) and returns a copy of the network in which each layer that changes is an
`nn.Sequential` of plain layers, so that it can be trained, exported and run anywhere.

The chain's layer has two forms.  "grouped" writes the shared kernel out for every group: plain convolutions, mostly the
fastest.  "fold" moves the groups into the batch: the kernel is stored, and trained, once.  "auto" times both.

The torch-free mathematics is elsewhere; here is only what touches modules.  Needs `pip install tensorchain[torch]`.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tensorchain.compression.conv import Convolution, Fold, Geometry, LayerPlan, Pair, Step, Unfold
from tensorchain.compression.network import Measured, Timer
from tensorchain.compression.patches import PatchCovariance
from tensorchain.compression.report import LayerReport, Report
from tensorchain.compression.request import Request, Site
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
    checkpoint: str | os.PathLike[str] | None = None,
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
    checkpoint : file in which measured curves and finished fits are kept; with an integer `rng` an interrupted run that
        is given it again goes on to the same result, and another budget starts from the same curves.
    rng : seed or generator.
    options : fields of `Request`: stabilise, slack, fit_output, pointwise, keep, form, allocation, rungs, max_seconds,
        weight_bits, share_bits.

    Returns
    -------
    A new module in evaluation mode; `.report` says what was done.

    Raises
    ------
    ImportError without PyTorch; ValueError, TypeError when an option is wrong or the budget cannot be met.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3))
    >>> images = torch.randn(2, 8, 12, 12)
    >>> small = compress(net, images[:1], "tc", keep_macs=0.4, rungs=3)
    >>> small(images).shape, small.report.macs[1] <= 0.4 * small.report.macs[0]
    (torch.Size([2, 16, 10, 10]), True)
    >>> [layer.method for layer in small.report.layers]
    ['tc', 'tc']
    """
    torch = _torch()
    if not isinstance(net, torch.nn.Module):
        raise TypeError(f"net is {type(net).__name__}; a torch.nn.Module is needed")
    request = Request(method, keep_macs, keep_params, **options)
    measured = measured_of(net, example, request, calibrate)
    progress = measured.progress(checkpoint, request, rng)
    plans, report = measured.planned(request, rng, progress, timer_of(net, example))
    return with_plans(net, plans, report)


def measured_of(net: Any, example: Any, request: Request, calibrate: Iterable[Any] | None) -> Measured:
    """The layers of a network, and their covariances where there are calibration batches."""
    if request.fit_output and calibrate is None:
        raise ValueError("fit_output needs calibrate=, batches of inputs")
    probe = copy.deepcopy(net).eval()
    sites = sites_of(probe, example, whole=True)
    wanted = [site for site in sites if not request.refusal(site)]
    covariances = None if calibrate is None else patch_covariances(probe, wanted, calibrate)
    now = sum(parameter.numel() for parameter in net.parameters())
    return Measured(sites, now + sum(site.parameters - site.costs[0] for site in sites), covariances)


def timer_of(net: Any, example: Any, runs: int = 15) -> Timer:
    """Median seconds of plans as modules, run in turn, with the batch of the example and the dtype of the network."""
    torch = _torch()
    reference = next(net.parameters())

    def timer(plans: Sequence[LayerPlan], image: Pair) -> list[float]:
        shape = len(_inputs(example)), plans[0].convolutions[0].inputs, *image
        values = torch.zeros(shape, dtype=reference.dtype, device=reference.device)
        modules = [module_of(plan).to(values) for plan in plans]
        seconds = np.empty((runs, len(plans)))
        with torch.inference_mode():
            for run in range(-3, runs):
                for n, module in enumerate(modules):
                    start = time.perf_counter()
                    # The copy of one number waits for the device.
                    module(values).flatten()[0].item()
                    if run >= 0:
                        seconds[run, n] = time.perf_counter() - start
        return [float(value) for value in np.median(seconds, axis=0)]

    return timer


def with_plans(net: Any, plans: Mapping[str, LayerPlan], report: Report) -> Any:
    """A copy of a network in evaluation mode with plans in place of some layers, and the report."""
    small = copy.deepcopy(net).eval()
    # New layers draw random weights before they get theirs; the caller's random numbers stay as they were.
    with _torch().random.fork_rng(devices=[]):
        for name, plan in plans.items():
            parent, _, last = name.rpartition(".")
            owner = small.get_submodule(parent)
            setattr(owner, last, module_of(plan, getattr(owner, last)))
    small.report = report
    return small


def decomposed(net: Any) -> dict[str, LayerReport]:
    """The layers that `compress` replaced, by name: sequences of convolutions, or of linear layers."""
    report = getattr(net, "report", None)
    return {} if report is None else {layer.name: layer for layer in report.layers if layer.method != "dense"}


def module_of(plan: LayerPlan, like: Any = None) -> Any:
    """The layers of a plan as an `nn.Sequential`, with the dtype, device and padding mode of `like`.

    A plan for a `Linear` layer becomes two of them.
    """
    nn = _torch().nn
    linear = is_linear(like)
    layers: list[Any] = []
    for step in plan.steps:
        if isinstance(step, (Fold, Unfold)):
            layers.append(fold_class()(step.groups, isinstance(step, Unfold)))
        elif linear:
            layers.append(_linear(step))
        else:
            layers.extend(_conv(step, "zeros" if like is None else padding_mode_of(like)))
    module = nn.Sequential(*layers)
    if like is not None:
        reference = next(like.parameters())
        module.to(device=reference.device, dtype=reference.dtype)
        module.train(like.training)
    return module


def is_linear(module: Any) -> bool:
    """Whether it is a linear layer, or a sequence of them."""
    linear = _torch().nn.Linear
    return any(isinstance(part, linear) for part in (module.modules() if module is not None else ()))


def padding_mode_of(module: Any) -> str:
    """How a convolution, or the sequence that replaced one, fills its margins."""
    modes = [str(part.padding_mode) for part in module.modules() if hasattr(part, "padding_mode")]
    return next((mode for mode in modes if mode != "zeros"), "zeros")


def plan_of_module(module: Any, method: str, rank: Any) -> LayerPlan:
    """The plan of a sequence that `module_of` made, with the weights that it has now."""
    nn = _torch().nn
    steps: list[Step] = []
    margin: tuple[Pair, Pair] = (0, 0), (0, 0)
    for part in module:
        if isinstance(part, fold_class()):
            steps.append((Unfold if part.back else Fold)(part.groups))
        elif isinstance(part, nn.ZeroPad2d):
            left, right, top, bottom = part.padding
            margin = (top, bottom), (left, right)
        else:
            weight = part.weight.detach().cpu().double().numpy()
            bias = None if part.bias is None else part.bias.detach().cpu().double().numpy()
            if isinstance(part, nn.Linear):
                steps.append(Convolution(weight[:, :, None, None], bias=bias))
                continue
            geometry = geometry_of(part)
            if any(map(any, margin)):
                geometry, margin = replace(geometry, padding=margin), ((0, 0), (0, 0))
            steps.append(Convolution(weight, geometry, part.groups, bias))
    return LayerPlan(method, rank, tuple(steps))


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


def sites_of(net: Any, example: Any, whole: bool = False) -> list[Site]:
    """Every layer that holds weights and is used, with the size of its input, found by running the example.

    With `whole`, what `compress` put in place of a layer counts as this one layer, with its plan.
    """
    torch = _torch()
    kinds = torch.nn.Conv2d, torch.nn.Linear
    done = decomposed(net) if whole else {}
    modules = {
        name: module
        for name, module in net.named_modules()
        if name in done or (isinstance(module, kinds) and name.rpartition(".")[0] not in done)
    }
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
    return [_site(name, module, seen[name], done.get(name)) for name, module in modules.items() if seen[name]]


def _site(name: str, module: Any, seen: list[tuple[int, ...]], layer: LayerReport | None) -> Site:
    nn = _torch().nn
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


def patch_covariances(net: Any, sites: list[Site], batches: Iterable[Any]) -> dict[str, PatchCovariance]:
    """Covariances of the patches that some layers see, by name, over batches of inputs or of (inputs, labels)."""
    torch = _torch()
    functional = torch.nn.functional
    sums: dict[str, Array] = {}
    counts: dict[str, int] = {}

    def gather(module: Any, inputs: Any, name: str) -> None:
        values = inputs[0].detach()
        if is_linear(module):
            patches = values.reshape(-1, values.shape[-1])
        else:
            geometry, mode = wanted[name].geometry, padding_mode_of(module)
            (top, bottom), (left, right) = geometry.padding
            padded = functional.pad(values, (left, right, top, bottom), "constant" if mode == "zeros" else mode)
            window = wanted[name].kernel.shape[2:]
            columns = functional.unfold(padded, window, geometry.dilation, 0, geometry.stride)
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
