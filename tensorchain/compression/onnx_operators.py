"""The operators of an ONNX graph in PyTorch, differentiable: one function for each.

A function takes the attributes of a node, the opset, and the values of its inputs: tensors where they are numbers of
floating point, NumPy arrays where they say a size, an axis or a pad; None where an input is left out.  An operator that
is missing here is refused by name (:mod:`tensorchain.compression.onnx_torch`), and the result of all together is
compared with that of ONNX Runtime before it is used.

Reference: the ONNX operator specification, https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Node:
    """A node: its attributes, its opset, and how many outputs are asked for."""

    attributes: Mapping[str, Any]
    opset: int
    outputs: int

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value


class NotExpressedError(ValueError):
    """An operator, or a form of it, that has no differentiable version here."""


Operator = Callable[..., Any]
_ELEMENTWISE = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow", "Neg": "neg", "Abs": "abs", "Exp": "exp",
    "Log": "log", "Sqrt": "sqrt", "Reciprocal": "reciprocal", "Erf": "erf", "Sin": "sin", "Cos": "cos", "Tanh": "tanh",
    "Sigmoid": "sigmoid", "Relu": "relu", "MatMul": "matmul", "Floor": "floor", "Ceil": "ceil", "Sign": "sign",
}  # fmt: skip


def operators() -> dict[str, Operator]:
    """The functions by name of the operator."""
    import torch
    import torch.nn.functional as f

    found = {name: _elementwise(getattr(torch, call)) for name, call in _ELEMENTWISE.items()}
    found |= {
        "Identity": lambda node, x: x,
        "Dropout": lambda node, x, *rest: x,
        "Cast": lambda node, x, *rest: x,
        "LeakyRelu": lambda node, x: f.leaky_relu(x, node.get("alpha", 0.01)),
        "Elu": lambda node, x: f.elu(x, node.get("alpha", 1.0)),
        "PRelu": lambda node, x, slope: torch.where(x < 0, slope * x, x),
        "HardSwish": lambda node, x: f.hardswish(x),
        "HardSigmoid": lambda node, x: torch.clamp(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0, 1),
        "Softplus": lambda node, x: f.softplus(x),
        "Gelu": lambda node, x: f.gelu(x, approximate=node.get("approximate", "none")),
        "Max": lambda node, *values: _folded(torch.maximum, values),
        "Min": lambda node, *values: _folded(torch.minimum, values),
        "Sum": lambda node, *values: _folded(torch.add, values),
        "Equal": lambda node, x, y: torch.eq(*_tensors(x, y)),
        "Greater": lambda node, x, y: torch.gt(*_tensors(x, y)),
        "GreaterOrEqual": lambda node, x, y: torch.ge(*_tensors(x, y)),
        "Less": lambda node, x, y: torch.lt(*_tensors(x, y)),
        "LessOrEqual": lambda node, x, y: torch.le(*_tensors(x, y)),
        "Not": lambda node, x: torch.logical_not(x),
        "And": lambda node, x, y: torch.logical_and(*_tensors(x, y)),
        "Or": lambda node, x, y: torch.logical_or(*_tensors(x, y)),
        "Where": lambda node, condition, x, y: torch.where(torch.as_tensor(condition) != 0, x, y),
        "Concat": lambda node, *values: torch.cat(values, node.get("axis")),
        "Flatten": _flatten,
        "Reshape": _reshape,
        "Transpose": lambda node, x: x.permute(node.get("perm") or tuple(range(x.ndim))[::-1]),
        "Expand": lambda node, x, shape: x + x.new_zeros(_ints(shape)),
        "Squeeze": _squeeze,
        "Unsqueeze": _unsqueeze,
        "Slice": _slice,
        "Split": _split,
        "Gather": _gather,
        "Pad": _pad,
        "Clip": _clip,
        "Softmax": lambda node, x: _softmax(node, x, f.softmax),
        "LogSoftmax": lambda node, x: _softmax(node, x, f.log_softmax),
        "ReduceMean": lambda node, x, *axes: _reduced(node, x, axes, lambda y, a, k: y.mean(a, k)),
        "ReduceSum": lambda node, x, *axes: _reduced(node, x, axes, lambda y, a, k: y.sum(a, k)),
        "ReduceMax": lambda node, x, *axes: _reduced(node, x, axes, lambda y, a, k: y.amax(a, k)),
        "ReduceMin": lambda node, x, *axes: _reduced(node, x, axes, lambda y, a, k: y.amin(a, k)),
        "GlobalAveragePool": lambda node, x: x.mean(tuple(range(2, x.ndim)), True),
        "GlobalMaxPool": lambda node, x: x.amax(tuple(range(2, x.ndim)), True),
        "BatchNormalization": _batch_norm,
        "InstanceNormalization": lambda node, x, a, b: f.instance_norm(
            x, None, None, a, b, eps=node.get("epsilon", 1e-5)
        ),
        "LayerNormalization": _layer_norm,
        "Gemm": _gemm,
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "MaxPool": _max_pool,
        "AveragePool": _average_pool,
        "Resize": _resize,
        "Upsample": lambda node, x, scales: _resize(node, x, None, scales),
    }
    return found


def _elementwise(call: Any) -> Operator:
    return lambda node, *values: call(*values)


def _tensors(*values: Any) -> list[Any]:
    import torch

    return [torch.as_tensor(value) for value in values]


def _ints(values: Any) -> list[int]:
    return [int(v) for v in np.asarray(values).reshape(-1)]


def _folded(join: Callable[[Any, Any], Any], values: Sequence[Any]) -> Any:
    result = values[0]
    for value in values[1:]:
        result = join(result, value)
    return result


def _flatten(node: Node, x: Any) -> Any:
    axis = node.get("axis", 1) % (x.ndim + 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _reshape(node: Node, x: Any, shape: Any = None) -> Any:
    sizes = _ints(node.get("shape") if shape is None else shape)
    if not node.get("allowzero", 0):
        sizes = [x.shape[k] if size == 0 else size for k, size in enumerate(sizes)]
    return x.reshape(sizes)


def _axes(node: Node, axes: Sequence[Any], order: int) -> list[int] | None:
    """From an input, or from the attribute of older opsets."""
    given = axes[0] if axes and axes[0] is not None else node.get("axes")
    return None if given is None or not len(np.asarray(given).reshape(-1)) else [a % order for a in _ints(given)]


def _squeeze(node: Node, x: Any, *axes: Any) -> Any:
    where = _axes(node, axes, x.ndim) or [k for k, n in enumerate(x.shape) if n == 1]
    return x.reshape([n for k, n in enumerate(x.shape) if k not in where])


def _unsqueeze(node: Node, x: Any, *axes: Any) -> Any:
    given = _ints(axes[0] if axes else node.get("axes"))
    for axis in sorted(a % (x.ndim + len(given)) for a in given):
        x = x.unsqueeze(axis)
    return x


def _slice(node: Node, x: Any, *bounds: Any) -> Any:
    import torch

    if not bounds:
        bounds = (node.get("starts"), node.get("ends"), node.get("axes"))
    starts, ends = _ints(bounds[0]), _ints(bounds[1])
    axes = _ints(bounds[2]) if len(bounds) > 2 and bounds[2] is not None else list(range(len(starts)))
    steps = _ints(bounds[3]) if len(bounds) > 3 and bounds[3] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places = range(x.shape[axis])[slice(start, end if step > 0 or end >= -x.shape[axis] else None, step)]
        if step == 1:
            x = x.narrow(axis, places.start, len(places))
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.long))
    return x


def _split(node: Node, x: Any, sizes: Any = None) -> Any:
    axis = node.get("axis", 0)
    given = sizes if sizes is not None else node.get("split")
    if given is None:
        each = -(-x.shape[axis] // node.outputs)
        given = [min(each, x.shape[axis] - k * each) for k in range(node.outputs)]
    return tuple(x.split(_ints(given), axis))


def _gather(node: Node, x: Any, places: Any) -> Any:
    import torch

    axis, where = node.get("axis", 0) % x.ndim, np.asarray(places).astype(np.int64)
    where = where % x.shape[axis]
    rows = x.index_select(axis, torch.as_tensor(where.reshape(-1)))
    return rows.reshape(*x.shape[:axis], *where.shape, *x.shape[axis + 1 :])


def _pad(node: Node, x: Any, pads: Any = None, value: Any = None, axes: Any = None) -> Any:
    import torch.nn.functional as f

    sides = _ints(node.get("pads") if pads is None else pads)
    where = list(range(x.ndim)) if axes is None else [a % x.ndim for a in _ints(axes)]
    mode = node.get("mode", "constant")
    both = {axis: (sides[k], sides[k + len(where)]) for k, axis in enumerate(where)}
    last = x.ndim if mode == "constant" else max((x.ndim - a for a, pair in both.items() if any(pair)), default=1)
    flat = [n for axis in range(x.ndim - 1, x.ndim - 1 - last, -1) for n in both.get(axis, (0, 0))]
    if mode == "constant":
        filled = float(np.asarray(0.0 if value is None else _array(value)).reshape(-1)[0])
        return f.pad(x, flat, value=filled if pads is not None else float(node.get("value", 0.0)))
    modes = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    if mode not in modes or last > x.ndim - 2 or last > 3:
        raise NotExpressedError(f"Pad with mode {mode!r}")
    return f.pad(x, flat, mode=modes[mode])


def _array(value: Any) -> Any:
    return value.detach().numpy() if hasattr(value, "detach") else np.asarray(value)


def _clip(node: Node, x: Any, low: Any = None, high: Any = None) -> Any:
    low, high = node.get("min") if low is None else low, node.get("max") if high is None else high
    ends = [None if end is None else float(_array(end).reshape(-1)[0]) for end in (low, high)]
    return x if ends == [None, None] else x.clamp(*ends)


def _softmax(node: Node, x: Any, call: Any) -> Any:
    if node.opset >= 13:
        return call(x, node.get("axis", -1))
    axis = node.get("axis", 1) % x.ndim
    return call(x.reshape(*x.shape[:axis], -1), -1).reshape(x.shape)


def _reduced(node: Node, x: Any, axes: Sequence[Any], call: Callable[[Any, Any, bool], Any]) -> Any:
    where = _axes(node, axes, x.ndim)
    if where is None and node.get("noop_with_empty_axes", 0):
        return x
    return call(x, tuple(range(x.ndim)) if where is None else tuple(where), bool(node.get("keepdims", 1)))


def _batch_norm(node: Node, x: Any, scale: Any, shift: Any, mean: Any, variance: Any) -> Any:
    import torch.nn.functional as f

    return f.batch_norm(x, mean, variance, scale, shift, eps=node.get("epsilon", 1e-5))


def _layer_norm(node: Node, x: Any, scale: Any, shift: Any = None) -> Any:
    import torch.nn.functional as f

    axis = node.get("axis", -1) % x.ndim
    shape = x.shape[axis:]
    bias = None if shift is None else shift.expand(shape)
    return f.layer_norm(x, shape, scale.expand(shape), bias, node.get("epsilon", 1e-5))


def _gemm(node: Node, a: Any, b: Any, c: Any = None) -> Any:
    a, b = a.t() if node.get("transA", 0) else a, b.t() if node.get("transB", 0) else b
    product = node.get("alpha", 1.0) * (a @ b)
    return product if c is None else product + node.get("beta", 1.0) * c


def _sides(node: Node, x: Any, window: Sequence[int]) -> list[tuple[int, int]]:
    """Margins before and behind each axis."""
    axes = len(window)
    strides, dilations = node.get("strides") or [1] * axes, node.get("dilations") or [1] * axes
    how = node.get("auto_pad", "NOTSET")
    if how in ("SAME_UPPER", "SAME_LOWER"):
        sides = []
        for size, taps, step, apart in zip(x.shape[2:], window, strides, dilations, strict=True):
            whole = max((-(-size // step) - 1) * step + apart * (taps - 1) + 1 - size, 0)
            less, more = whole // 2, whole - whole // 2
            sides.append((less, more) if how == "SAME_UPPER" else (more, less))
        return sides
    pads = (node.get("pads") if how == "NOTSET" else None) or [0] * (2 * axes)
    return [(pads[k], pads[k + axes]) for k in range(axes)]


def _with_margin(x: Any, sides: Sequence[tuple[int, int]], value: float = 0.0) -> Any:
    import torch.nn.functional as f

    flat = [n for pair in reversed(sides) for n in pair]
    return f.pad(x, flat, value=value) if any(flat) else x


def _conv(node: Node, x: Any, weight: Any, bias: Any = None) -> Any:
    import torch.nn.functional as f

    axes = weight.ndim - 2
    call = (f.conv1d, f.conv2d, f.conv3d)[axes - 1]
    sides = _sides(node, x, weight.shape[2:])
    steps, apart = node.get("strides") or [1] * axes, node.get("dilations") or [1] * axes
    even = all(a == b for a, b in sides)
    inner = [a for a, _ in sides] if even else [0] * axes
    x = x if even else _with_margin(x, sides)
    return call(x, weight, bias, stride=steps, padding=inner, dilation=apart, groups=node.get("group", 1))


def _conv_transpose(node: Node, x: Any, weight: Any, bias: Any = None) -> Any:
    import torch.nn.functional as f

    axes = weight.ndim - 2
    if node.get("output_shape") or node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise NotExpressedError("ConvTranspose that is told its output size")
    call = (f.conv_transpose1d, f.conv_transpose2d, f.conv_transpose3d)[axes - 1]
    steps, apart = node.get("strides") or [1] * axes, node.get("dilations") or [1] * axes
    whole = call(x, weight, None, stride=steps, dilation=apart, groups=node.get("group", 1))
    extra = node.get("output_padding") or [0] * axes
    # Margins are cut off the full result; an extra row behind it holds zeros.
    sides = [(-a, more - b) for (a, b), more in zip(_sides(node, x, weight.shape[2:]), extra, strict=True)]
    whole = _with_margin(whole, sides)
    return whole if bias is None else whole + bias.reshape(-1, *[1] * axes)


def _max_pool(node: Node, x: Any) -> Any:
    import torch.nn.functional as f

    if node.outputs > 1:
        raise NotExpressedError("MaxPool with indices")
    window = node.get("kernel_shape")
    call = (f.max_pool1d, f.max_pool2d, f.max_pool3d)[len(window) - 1]
    x = _with_margin(x, _sides(node, x, window), -math.inf)
    return call(
        x,
        window,
        node.get("strides") or [1] * len(window),
        0,
        node.get("dilations") or 1,
        bool(node.get("ceil_mode", 0)),
    )


def _average_pool(node: Node, x: Any) -> Any:
    import torch
    import torch.nn.functional as f

    window = node.get("kernel_shape")
    if any(n != 1 for n in node.get("dilations") or [1]):
        raise NotExpressedError("AveragePool with dilations")
    call = (f.avg_pool1d, f.avg_pool2d, f.avg_pool3d)[len(window) - 1]
    steps, ceil = node.get("strides") or [1] * len(window), bool(node.get("ceil_mode", 0))
    sides = _sides(node, x, window)
    mean = call(_with_margin(x, sides), window, steps, 0, ceil)
    if node.get("count_include_pad", 0) or not any(n for pair in sides for n in pair):
        return mean
    return mean / call(_with_margin(torch.ones_like(x[:1, :1]), sides), window, steps, 0, ceil)


def _resize(node: Node, x: Any, _roi: Any = None, scales: Any = None, sizes: Any = None) -> Any:
    import torch

    if sizes is not None and len(np.asarray(sizes).reshape(-1)):
        target = _ints(sizes)
        factors = [b / a for a, b in zip(x.shape, target, strict=True)]
    else:
        factors = [float(v) for v in _array(scales).reshape(-1)]
        target = [math.floor(a * b) for a, b in zip(x.shape, factors, strict=True)]
    mode = node.get("mode", "nearest")
    if mode not in ("nearest", "linear", "bilinear") or node.get("antialias", 0) or node.get("axes") is not None:
        raise NotExpressedError(f"Resize with mode {mode!r}")
    for axis, (old, new, factor) in enumerate(zip(x.shape, target, factors, strict=True)):
        if old == new and factor == 1.0:
            continue
        at = _places(node, old, new, factor)
        if mode == "nearest":
            x = x.index_select(axis, torch.as_tensor(_rounded(node, at).clip(0, old - 1).astype(np.int64)))
            continue
        at = at.clip(0, old - 1)
        low = np.floor(at).astype(np.int64).clip(0, max(old - 2, 0))
        part = torch.as_tensor(at - low, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1 - axis))
        high = torch.as_tensor((low + 1).clip(0, old - 1))
        x = x.index_select(axis, torch.as_tensor(low)) * (1 - part) + x.index_select(axis, high) * part
    return x


def _places(node: Node, old: int, new: int, factor: float) -> Any:
    """Where the entries of the result lie along an axis of the input."""
    places = np.arange(new, dtype=np.float64)
    how = node.get("coordinate_transformation_mode", "half_pixel" if node.opset >= 11 else "asymmetric")
    if how == "align_corners":
        return places * (old - 1) / max(new - 1, 1)
    if how == "asymmetric":
        return places / factor
    if how == "half_pixel" or (how == "pytorch_half_pixel" and new > 1):
        return (places + 0.5) / factor - 0.5
    if how == "pytorch_half_pixel":
        return np.zeros(new)
    raise NotExpressedError(f"Resize with {how}")


def _rounded(node: Node, places: Any) -> Any:
    how = node.get("nearest_mode", "round_prefer_floor" if node.opset >= 11 else "floor")
    if how == "round_prefer_floor":
        return np.ceil(places - 0.5)
    if how == "round_prefer_ceil":
        return np.floor(places + 0.5)
    return np.floor(places) if how == "floor" else np.ceil(places)
