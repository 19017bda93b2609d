"""The attributes of a Conv or ConvTranspose node: whether they fit its weight, and the geometry that they say.

ONNX's checker looks at neither, and files are written by others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorchain.compression.conv import Geometry, Sizes

_LARGEST = 1 << 20
"""No image is so large that a stride, a dilation or a padding beyond this makes sense."""
_PADDINGS = (b"NOTSET", b"SAME_UPPER", b"SAME_LOWER", b"VALID")


def check_node(
    name: str, attributes: Mapping[str, Any], weight: Any, bias: Any, source: tuple[int, ...], transposed: bool = False
) -> None:
    """ValueError where a convolution contradicts itself; the checker looks at none of this."""
    groups = attributes.get("group", 1)
    largest = max(
        (n for key in ("strides", "dilations", "pads", "output_padding") for n in attributes.get(key, ())), default=0
    )
    wrong = ""
    if largest > _LARGEST:
        wrong = f"has a stride, a dilation or a padding of {largest}"
    elif groups < 1:
        wrong = f"has {groups} groups"
    elif attributes.get("auto_pad", b"NOTSET") not in _PADDINGS:
        wrong = f"has auto_pad {attributes['auto_pad']!r}"
    elif weight is not None:
        dims = tuple(weight.shape)
        given = tuple(attributes.get("kernel_shape", dims[2:]))
        inputs, outputs = (dims[0], dims[1] * groups) if transposed else (dims[1] * groups, dims[0])
        if given != dims[2:]:
            wrong = f"says kernel_shape {given}, its weight has shape {dims}"
        elif not weight.size:
            wrong = f"has an empty weight of shape {dims}"
        elif len(dims) > 2 and len(source) == len(dims) and source[1] not in (0, inputs):
            wrong = f"reads {source[1]} channels, its weight of shape {dims} with {groups} groups needs {inputs}"
        elif inputs % groups or outputs % groups:
            wrong = f"has {inputs} inputs and {outputs} outputs, which are not {groups} groups"
        elif bias is not None and tuple(bias.shape) != (outputs,):
            wrong = f"has a bias of shape {tuple(bias.shape)}, its weight has {outputs} outputs"
    if wrong:
        raise ValueError(f"the model is not valid: {'ConvTranspose' if transposed else 'Conv'} node {name!r} {wrong}")


def geometry_of(
    attributes: Mapping[str, Any], window: tuple[int, ...], image: Sizes, transposed: bool = False
) -> Geometry:
    """Stride, padding and dilation of a convolution over lines, images or volumes; automatic padding written out."""
    axes = len(window)
    sizes = image[len(image) - axes :]
    stride = tuple(attributes.get("strides", (1,) * axes))
    dilation = tuple(attributes.get("dilations", (1,) * axes))
    pads = tuple(attributes.get("pads", (0, 0) * axes))
    automatic = attributes.get("auto_pad", b"NOTSET").decode()
    sides = [(pads[axis], pads[axis + axes]) for axis in range(axes)]
    if automatic == "VALID":
        sides = [(0, 0)] * axes
    elif automatic != "NOTSET":
        sides = []
        for axis in range(axes):
            steps = -(-sizes[axis] // stride[axis])
            whole = max(0, (steps - 1) * stride[axis] + dilation[axis] * (window[axis] - 1) + 1 - sizes[axis])
            small, large = whole // 2, whole - whole // 2
            sides.append((small, large) if automatic == "SAME_UPPER" else (large, small))
    extra = tuple(attributes.get("output_padding", (0,) * axes))
    if axes == 1:
        stride, sides, dilation, extra = (1, *stride), [(0, 0), *sides], (1, *dilation), (0, *extra)
    return Geometry(stride, tuple(sides), dilation, transposed, extra)
