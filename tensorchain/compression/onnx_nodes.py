"""The nodes of a plan in an ONNX graph, and how long they take.

A chain has two forms (:mod:`tensorchain.compression.torch_layers`).  Which is faster depends on channels, ranks, image,
batch, processor and precision, so it is measured (:mod:`tensorchain.compression.onnx_clock`).

Needs `pip install tensorchain[onnx]`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorchain.compression.conv import Convolution, Fold, LayerPlan, Pair, Sizes, Unfold
from tensorchain.compression.onnx_session import OnnxSession, onnx_package
from tensorchain.kernels import Array

_WARM, _RUNS = 3, 25
"""Runs before the clock counts, and runs that it counts."""


@dataclass(frozen=True)
class PlanNodes:
    """The nodes of a plan.

    Attributes
    ----------
    nodes : list of object
        In order; the first reads, the last writes, what the old node did.
    constants : list of object
        Tensors that the nodes read.
    weights : tuple of tuple of (str, str)
        For each convolution of the plan the names of its weight and bias, "" where there is none.
    """

    nodes: list[Any]
    constants: list[Any]
    weights: tuple[tuple[str, str], ...]


def stored_arrays(layer: Convolution, kind: str = "image", dtype: Any = None) -> tuple[Array, Array | None]:
    """Weight and bias of a convolution as its node reads them.

    Parameters
    ----------
    kind : str, default "image"
        "image", "volume", "line" (weights without the first window axis) or "rows" (a matrix, multiplied from the
        right).
    dtype : dtype, optional
        Of the file; that of the plan when not given.
    """
    dtype = layer.weight.dtype if dtype is None else dtype
    weight = layer.weight
    if layer.geometry.transposed:
        parts = weight.reshape(layer.groups, -1, *weight.shape[1:]).swapaxes(1, 2)
        weight = parts.reshape(-1, *parts.shape[2:])
    if kind == "line":
        weight = weight[:, :, 0]
    elif kind == "rows":
        weight = weight[:, :, 0, 0].T
    bias = None if layer.bias is None else layer.bias.astype(dtype)
    return np.ascontiguousarray(weight.astype(dtype)), bias


def plan_nodes(
    old: Any, plan: LayerPlan, taken: set[str], *, kind: str = "image", dtype: Any = None, opset: int = 17
) -> PlanNodes:
    """The nodes that stand for an old one.

    Parameters
    ----------
    old : object
        The node that is replaced.
    plan : LayerPlan
        Its small convolutions.
    taken : set of str
        Names that are in use; those of the new nodes are added.
    kind, dtype : str or dtype, optional
        As in `stored_arrays`.
    opset : int, default 17
        Of the model.
    """
    onnx = onnx_package()
    base = old.name or old.output[0]
    nodes: list[Any] = []
    constants: list[Any] = []
    weights: list[tuple[str, str]] = []
    value, channels = old.input[0], 0

    def fresh(what: str) -> str:
        name, count = f"{base}/{what}", 0
        while name in taken:
            count += 1
            name = f"{base}/{what}_{count}"
        taken.add(name)
        return name

    def constant(array: Array, what: str) -> str:
        name = fresh(what)
        constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    for k, step in enumerate(plan.steps):
        output = old.output[0] if k == len(plan.steps) - 1 else fresh(f"value{k}")
        if isinstance(step, Convolution):
            weight, bias = stored_arrays(step, kind, dtype)
            weights.append((constant(weight, f"weight{k}"), "" if bias is None else constant(bias, f"bias{k}")))
            if kind == "rows":
                product = output if bias is None else fresh(f"product{k}")
                nodes.append(
                    onnx.helper.make_node("MatMul", [value, weights[-1][0]], [product], name=fresh(f"matmul{k}"))
                )
                if bias is not None:
                    nodes.append(
                        onnx.helper.make_node("Add", [product, weights[-1][1]], [output], name=fresh(f"add{k}"))
                    )
            else:
                inputs = [value, *(name for name in weights[-1] if name)]
                operator = "ConvTranspose" if step.geometry.transposed else "Conv"
                nodes.append(
                    onnx.helper.make_node(operator, inputs, [output], name=fresh(f"conv{k}"), **_moved(step, kind))
                )
            channels = step.outputs
            value = output
            continue
        nodes.extend(
            _reshape(step, value, output, channels, fresh, constant, ({"image": 4, "volume": 5}.get(kind, 3), opset))
        )
        channels = channels // step.groups if isinstance(step, Fold) else channels * step.groups
        value = output
    return PlanNodes(nodes, constants, tuple(weights))


def _moved(step: Convolution, kind: str) -> dict[str, Any]:
    """The attributes of a Conv or ConvTranspose node."""
    geometry, first = step.geometry, 1 if kind == "line" else 0
    sides = geometry.padding[first:]
    moved = {
        "kernel_shape": step.window[first:], "group": step.groups, "strides": geometry.stride[first:],
        "dilations": geometry.dilation[first:], "pads": (*(a for a, _ in sides), *(b for _, b in sides)),
    }  # fmt: skip
    return {**moved, "output_padding": geometry.extra[first:]} if any(geometry.extra) else moved


def _reshape(
    step: Fold | Unfold, value: str, output: str, channels: int, fresh: Any, constant: Any, form: Pair
) -> list[Any]:
    """Groups of channels into the batch, or back, for any batch and image: (B, gC, H, W) <-> (B g, C, H, W).

    The batch is given by -1; height and width are those of the value, taken by its Shape.  `form`: axes and opset.
    """
    make = onnx_package().helper.make_node
    axes, opset = form
    after = channels // step.groups if isinstance(step, Fold) else channels * step.groups
    shape, tail, whole = fresh("shape"), fresh("tail"), fresh("target")
    head = constant(np.array([-1, after], np.int64), "head")
    if opset < 10:
        cut = make("Slice", [shape], [tail], name=fresh("Slice"), axes=[0], starts=[2], ends=[axes])
    else:
        ends = [constant(np.array([n], np.int64), what) for n, what in ((2, "from"), (axes, "to"))]
        cut = make("Slice", [shape, *ends], [tail], name=fresh("Slice"))
    return [
        make("Shape", [value], [shape], name=fresh("Shape")),
        cut,
        make("Concat", [head, tail], [whole], name=fresh("Concat"), axis=0),
        make("Reshape", [value, whole], [output], name=fresh("Reshape")),
    ]


def layer_model(plan: LayerPlan, image: Sizes, batch: int | str = "batch", kind: str = "") -> Any:
    """An ONNX model of one layer, from `x` to `y`, in the dtype of its weights.

    Parameters
    ----------
    image : Sizes
        Height and width of the input.
    batch : int or str, default "batch"
        A size, or a name for one that is free.
    kind : str, optional
        As in `stored_arrays`; "image" or "volume" by default.  The input of "rows" is a matrix.
    """
    onnx = onnx_package()
    dtype = onnx.helper.np_dtype_to_tensor_dtype(plan.convolutions[0].weight.dtype)
    channels = plan.convolutions[0].inputs, plan.convolutions[-1].outputs
    kind = kind or ("volume" if len(image) > 2 else "image")
    ends = []
    for name, count, size in zip("xy", channels, (image, plan.output_size(image)), strict=True):
        shape = [batch, count] if kind == "rows" else [batch, count, *size[kind == "line" :]]
        ends.append(onnx.helper.make_tensor_value_info(name, dtype, shape))
    old = onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="layer")
    new = plan_nodes(old, plan, {"x", "y"}, kind=kind)
    graph = onnx.helper.make_graph(new.nodes, "layer", ends[:1], ends[1:], new.constants)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def time_sessions(
    sessions: Sequence[OnnxSession], feed: Mapping[str, Any], *, runs: int = _RUNS, warm: int = _WARM
) -> list[float]:
    """Median seconds of a run of each session on one input, taken in turn.

    Parameters
    ----------
    sessions : sequence of OnnxSession
        With the same inputs.
    feed : mapping of str to object
        The inputs.
    runs, warm : int, optional
        Runs of each session that the clock counts, and those before.
    """
    seconds = np.empty((runs, len(sessions)))
    for run in range(-warm, runs):
        for n, session in enumerate(sessions):
            start = time.perf_counter()
            session.run(feed)
            if run >= 0:
                seconds[run, n] = time.perf_counter() - start
    return [float(value) for value in np.median(seconds, axis=0)]
