"""Plans as PyTorch modules, and back: sequences of plain layers in place of one.

Lines are images of height 1, with kernels (T, S, 1, D); volumes have kernels (T, S, D1, D2, D3).

A layer that changes becomes an `nn.Sequential` of plain layers, so that it can be trained, exported and run anywhere.
The chain's layer has two forms.  "grouped" writes the shared kernel out for every group: plain convolutions, mostly the
fastest.  "fold" moves the groups into the batch: the kernel is stored, and trained, once.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from tensorchain.compression.conv import Convolution, Fold, Geometry, LayerPlan, Pair, Step, Unfold
from tensorchain.compression.report import LayerReport, Report
from tensorchain.compression.torch_modules import fold_class
from tensorchain.kernels import Array


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
    """A copy of a network; of tensors that it has computed, such as a weight or a cache, without their history.

    Raises
    ------
    TypeError
        When something in it cannot be copied.
    """
    # What the copy finds here is taken in place of the original.
    memo: dict[int, Any] = {}
    for module in net.modules():
        for value in vars(module).values():
            for tensor in _computed_in(value, set()):
                memo[id(tensor)] = tensor.detach().clone()
    try:
        return copy.deepcopy(net, memo)
    except (TypeError, RuntimeError) as error:
        where = [
            ".".join(part for part in (name, key) if part)
            for name, module in net.named_modules()
            for key, value in vars(module).items()
            if key != "_modules" and not _copies(value, memo)
        ]
        raise TypeError(
            f"the network cannot be copied ({error}), for its {where[0] if where else 'own copying'}: take this out, "
            "or give its class a __deepcopy__"
        ) from error


def _copies(value: Any, memo: dict[int, Any]) -> bool:
    try:
        copy.deepcopy(value, dict(memo))
    except (TypeError, RuntimeError):
        return False
    return True


def _computed_in(value: Any, seen: set[int]) -> Iterator[Any]:
    """Tensors with a history, in lists and mappings too."""
    if isinstance(value, torch_package().Tensor):
        if value.grad_fn is not None:
            yield value
    elif isinstance(value, (Mapping, tuple, list)) and id(value) not in seen:
        seen.add(id(value))
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _computed_in(part, seen)


@contextmanager
def in_evaluation(net: Any) -> Iterator[None]:
    """Have a network in evaluation mode; its modes, and its buffers, such as counters and caches, come back."""
    modes = [(module, module.training) for module in net.modules()]
    buffers = [(m, key, b.clone()) for m in net.modules() for key, b in m._buffers.items() if b is not None]
    net.eval()
    try:
        yield
    finally:
        for module, was in modes:
            module.training = was
        for module, key, buffer in buffers:
            now = module._buffers.get(key)
            if now is not None and now.shape == buffer.shape:
                now.copy_(buffer)
            else:
                module._buffers[key] = buffer


def computing_hooks(module: Any) -> list[Any]:
    """The hooks of a module that compute its weight before each call: of pruning, weight_norm and spectral_norm."""
    from torch.nn.utils.prune import BasePruningMethod
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm

    kinds = BasePruningMethod, SpectralNorm, WeightNorm
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, kinds)]


def plain_weight(module: Any) -> None:
    """Store what hooks compute as parameters, in place."""
    from torch.nn.utils import prune, remove_spectral_norm, remove_weight_norm

    for hook in computing_hooks(module):
        if isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)
        else:
            kind = type(hook).__name__
            (remove_weight_norm if kind == "WeightNorm" else remove_spectral_norm)(module, hook.name)


def decomposed(net: Any) -> dict[str, LayerReport]:
    """The layers that `compress` replaced, by name: sequences of convolutions, or of linear layers."""
    report = getattr(net, "report", None)
    return {} if report is None else {layer.name: layer for layer in report.layers if layer.method != "dense"}


def module_of(plan: LayerPlan, like: Any = None) -> Any:
    """The layers of a plan as an `nn.Sequential`, with the kind, dtype, device and padding mode of `like`.

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
    axes = len(plan.geometry.stride) if like is None or linear else axes_of(like)
    layers: list[Any] = []
    for step in plan.steps:
        if isinstance(step, (Fold, Unfold)):
            layers.append(fold_class()(step.groups, isinstance(step, Unfold)))
        elif linear:
            layers.append(_linear(step))
        else:
            layers.extend(_conv(step, "zeros" if like is None else padding_mode_of(like), axes))
    module = nn.Sequential(*layers)
    if like is None:
        module.to(torch_package().get_default_dtype())
    else:
        reference = next(like.parameters())
        module.to(device=reference.device, dtype=reference.dtype, memory_format=_memory_format(like))
        module.train(like.training)
        # What was frozen stays frozen.
        module.requires_grad_(any(parameter.requires_grad for parameter in like.parameters()))
    return module


def _memory_format(like: Any) -> Any:
    """Channels last, where the weights of a layer are stored so."""
    torch = torch_package()
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in like.parameters():
        wanted = formats.get(parameter.ndim)
        if wanted is not None and not parameter.is_contiguous() and parameter.is_contiguous(memory_format=wanted):
            return wanted
    return None


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
    pads = nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d
    steps: list[Step] = []
    margin: tuple[Pair, ...] = ()
    for part in module:
        if isinstance(part, fold_class()):
            steps.append((Unfold if part.back else Fold)(part.groups))
        elif isinstance(part, pads):
            ends = iter(part.padding)
            margin = tuple(zip(ends, ends, strict=True))[::-1]
        else:
            bias = None if part.bias is None else part.bias.detach().cpu().double().numpy()
            weight = weight_of(part)
            if isinstance(part, nn.Linear):
                steps.append(Convolution(weight, bias=bias))
                continue
            geometry = geometry_of(part)
            if margin:
                own = ((0, 0), *margin) if len(margin) == 1 else margin
                geometry, margin = replace(geometry, padding=own), ()
            steps.append(Convolution(weight, geometry, part.groups, bias))
    return LayerPlan(method, rank, tuple(steps))


def axes_of(module: Any) -> int:
    """Axes over which a convolution, or the sequence that replaced one, moves: 1 to 3; 0 for linear layers."""
    for part in module.modules():
        if isinstance(part, convolutions()):
            return len(part.kernel_size)
    return 0


def convolutions() -> tuple[Any, ...]:
    """The classes of convolutions that can be replaced."""
    nn = torch_package().nn
    return (
        nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    )  # fmt: skip


def channel_axis(module: Any) -> int:
    """The axis of a weight along which its output channels lie; with groups, those of each group."""
    return 1 if getattr(module, "transposed", False) else 0


def weight_of(module: Any) -> Array:
    """The weight of a convolution or linear layer as a kernel (T, S / groups, D1, ..), in double precision."""
    weight = np.asarray(module.weight.detach().cpu().double().numpy())
    if is_linear(module):
        return weight[:, :, None, None]
    if module.transposed:
        # (S, T / groups, ..)
        parts = weight.reshape(module.groups, -1, *weight.shape[1:]).swapaxes(1, 2)
        weight = parts.reshape(-1, *parts.shape[2:])
    return np.ascontiguousarray(weight[:, :, None] if weight.ndim == 3 else weight)


def stored_weight(kernel: Array, module: Any) -> Array:
    """A kernel in the shape in which a module stores it; the inverse of `weight_of`."""
    if getattr(module, "transposed", False):
        parts = kernel.reshape(module.groups, -1, *kernel.shape[1:]).swapaxes(1, 2)
        kernel = parts.reshape(-1, *parts.shape[2:])
    return np.array(kernel.reshape(tuple(module.weight.shape)))


def geometry_of(conv: Any) -> Geometry:
    """Stride, padding and dilation of a convolution; "same" padding written out."""
    stride, dilation = (tuple(int(n) for n in value) for value in (conv.stride, conv.dilation))
    if conv.padding == "valid":
        sides: tuple[Pair, ...] = ((0, 0),) * len(stride)
    elif conv.padding == "same":
        whole = [d * (k - 1) for d, k in zip(dilation, conv.kernel_size, strict=True)]
        sides = tuple((n // 2, n - n // 2) for n in whole)
    else:
        sides = tuple((int(n), int(n)) for n in conv.padding)
    extra = tuple(int(n) for n in conv.output_padding)
    if len(stride) == 1:
        stride, sides, dilation, extra = (1, *stride), ((0, 0), *sides), (1, *dilation), (0, *extra)
    return Geometry(stride, sides, dilation, bool(conv.transposed), extra)


def _conv(step: Convolution, padding_mode: str, axes: int) -> list[Any]:
    torch = torch_package()
    nn = torch.nn
    geometry, before = step.geometry, []
    window, sides = step.window[-axes:], geometry.padding[-axes:]
    stride, dilation, extra = (sizes[-axes:] for sizes in (geometry.stride, geometry.dilation, geometry.extra))
    padding = tuple(first for first, _ in sides)
    options = {"groups": step.groups, "bias": step.bias is not None, "dilation": dilation, "dtype": torch.float64}
    if geometry.transposed:
        kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[axes - 1]
        conv = kind(step.inputs, step.outputs, window, stride, padding, output_padding=extra, **options)
    else:
        if any(first != second for first, second in sides):
            pad = (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)[axes - 1]
            before, padding = [pad([n for side in reversed(sides) for n in side], 0.0)], (0,) * axes
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
        mode = padding_mode if any(padding) else "zeros"
        conv = kind(step.inputs, step.outputs, window, stride, padding, padding_mode=mode, **options)
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(stored_weight(step.weight, conv)))
        if step.bias is not None:
            conv.bias.copy_(torch.from_numpy(np.array(step.bias)))
    return [*before, conv]


def _linear(step: Convolution) -> Any:
    torch = torch_package()
    linear = torch.nn.Linear(step.inputs, step.outputs, bias=step.bias is not None, dtype=torch.float64)
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
