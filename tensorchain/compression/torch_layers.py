"""Plans as PyTorch modules, and back: sequences of plain layers in place of one.

A layer that changes becomes an `nn.Sequential` of plain layers, so that it can be trained, exported and run anywhere.
The chain's layer has two forms.  "grouped" writes the shared kernel out for every group: plain convolutions, mostly the
fastest.  "fold" moves the groups into the batch: the kernel is stored, and trained, once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tensorchain.compression.conv import Convolution, Fold, Geometry, LayerPlan, Pair, Step, Unfold
from tensorchain.compression.report import LayerReport, Report
from tensorchain.compression.torch_modules import fold_class


def with_plans(net: Any, plans: Mapping[str, LayerPlan], report: Report) -> Any:
    """A copy of a network in evaluation mode with plans in place of some layers, and the report."""
    small = copied(net).eval()
    # New layers draw random weights before they get theirs; the caller's random numbers stay as they were.
    with torch_package().random.fork_rng(devices=[]):
        for name, plan in plans.items():
            old = small.get_submodule(name)
            new = module_of(plan, old)
            if old is small:
                small = new
            # A layer may stand under several names.
            for owner in list(small.modules()):
                for key, child in list(owner._modules.items()):
                    if child is old:
                        owner._modules[key] = new
    small.report = report
    return small


def copied(net: Any) -> Any:
    """A copy of a network, those with weights that are computed by hooks (weight_norm, pruning) among them."""
    tensor = torch_package().Tensor
    for module in net.modules():
        for key, value in vars(module).items():
            # Computed anew by the next call; with its history it cannot be copied.
            if isinstance(value, tensor) and value.grad_fn is not None:
                vars(module)[key] = value.detach()
    return copy.deepcopy(net)


def decomposed(net: Any) -> dict[str, LayerReport]:
    """The layers that `compress` replaced, by name: sequences of convolutions, or of linear layers."""
    report = getattr(net, "report", None)
    return {} if report is None else {layer.name: layer for layer in report.layers if layer.method != "dense"}


def module_of(plan: LayerPlan, like: Any = None) -> Any:
    """The layers of a plan as an `nn.Sequential`, with the dtype, device and padding mode of `like`.

    A plan for a `Linear` layer becomes two of them.

    Parameters
    ----------
    plan : LayerPlan
        The small convolutions.
    like : torch.nn.Module, optional
        The layer that is replaced.

    Returns
    -------
    torch.nn.Sequential
        The layers.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.compression import Convolution, LayerPlan, module_of
    >>> module_of(LayerPlan("dense", None, (Convolution(np.ones((2, 3, 1, 1))),)))[0].out_channels
    2
    """
    nn = torch_package().nn
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
        # What was frozen stays frozen.
        module.requires_grad_(any(parameter.requires_grad for parameter in like.parameters()))
    return module


def is_linear(module: Any) -> bool:
    """Whether it is a linear layer, or a sequence of them."""
    linear = torch_package().nn.Linear
    return any(isinstance(part, linear) for part in (module.modules() if module is not None else ()))


def padding_mode_of(module: Any) -> str:
    """How a convolution, or the sequence that replaced one, fills its margins."""
    modes = [str(part.padding_mode) for part in module.modules() if hasattr(part, "padding_mode")]
    return next((mode for mode in modes if mode != "zeros"), "zeros")


def plan_of_module(module: Any, method: str, rank: Any) -> LayerPlan:
    """The plan of a sequence that `module_of` made, with the weights that it has now."""
    nn = torch_package().nn
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
    torch = torch_package()
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
    torch = torch_package()
    linear = torch.nn.Linear(step.inputs, step.outputs, bias=step.bias is not None)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(np.array(step.weight[:, :, 0, 0])))
        if step.bias is not None:
            linear.bias.copy_(torch.from_numpy(np.array(step.bias)))
    return linear


def torch_package() -> Any:
    """The module `torch`; ImportError with what to install."""
    try:
        import torch
    except ImportError as error:
        raise ImportError("compressing a PyTorch network needs PyTorch: pip install tensorchain[torch]") from error
    return torch
