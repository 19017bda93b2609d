"""The nodes of a plan in an ONNX graph, and how long they take.

A chain has two forms (:mod:`tensorchain.compression.torch_layers`).  Which is faster depends on channels, ranks, image,
batch, processor and precision, so `time_plans` measures: models of a single layer, run in turn, and the median of each.

Needs `pip install tensorchain[onnx]`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorchain.compression.conv import Convolution, Fold, LayerPlan, Pair, Unfold
from tensorchain.compression.onnx_int8 import quantize_onnx
from tensorchain.kernels import Array

_WARM, _RUNS = 3, 25
"""Runs before the clock counts, and runs that it counts."""


def plan_nodes(old: Any, plan: LayerPlan, taken: set[str]) -> tuple[list[Any], list[Any]]:
    """The nodes of a plan and their constants; the first reads, the last writes, what the old node did."""
    onnx = onnx_package()
    base = old.name or old.output[0]
    nodes, constants, value, channels = [], [], old.input[0], 0

    def fresh(kind: str) -> str:
        name, count = f"{base}/{kind}", 0
        while name in taken:
            count += 1
            name = f"{base}/{kind}_{count}"
        taken.add(name)
        return name

    def constant(array: Array, kind: str) -> str:
        name = fresh(kind)
        constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    for k, step in enumerate(plan.steps):
        output = old.output[0] if k == len(plan.steps) - 1 else fresh(f"value{k}")
        if isinstance(step, Convolution):
            inputs = [value, constant(step.weight, f"weight{k}")]
            if step.bias is not None:
                inputs.append(constant(step.bias, f"bias{k}"))
            (top, bottom), (left, right) = step.geometry.padding
            nodes.append(
                onnx.helper.make_node(
                    "Conv", inputs, [output], name=fresh(f"conv{k}"), kernel_shape=step.window, group=step.groups,
                    strides=step.geometry.stride, dilations=step.geometry.dilation, pads=(top, left, bottom, right),
                )
            )  # fmt: skip
            channels = step.outputs
            value = output
            continue
        nodes.extend(_reshape(onnx, step, value, output, channels, fresh, constant))
        channels = channels // step.groups if isinstance(step, Fold) else channels * step.groups
        value = output
    return nodes, constants


def _reshape(
    onnx: Any, step: Fold | Unfold, value: str, output: str, channels: int, fresh: Any, constant: Any
) -> list[Any]:
    """Groups of channels into the batch, or back, for any batch and image: (B, gC, H, W) <-> (B g, C, H, W).

    The batch is given by -1; height and width are those of the value, taken by its Shape.
    """
    after = channels // step.groups if isinstance(step, Fold) else channels * step.groups
    shape, tail, whole = fresh("shape"), fresh("tail"), fresh("target")
    ends = [constant(np.array([n], np.int64), kind) for n, kind in ((2, "from"), (4, "to"))]
    head = constant(np.array([-1, after], np.int64), "head")
    return [
        onnx.helper.make_node("Shape", [value], [shape], name=fresh("Shape")),
        onnx.helper.make_node("Slice", [shape, *ends], [tail], name=fresh("Slice")),
        onnx.helper.make_node("Concat", [head, tail], [whole], name=fresh("Concat"), axis=0),
        onnx.helper.make_node("Reshape", [value, whole], [output], name=fresh("Reshape")),
    ]


def layer_model(plan: LayerPlan, image: Pair, batch: int | str = "batch") -> Any:
    """An ONNX model of one layer, from `x` to `y`, in the dtype of its weights.

    Parameters
    ----------
    image : height and width of the input.
    batch : a size, or a name for one that is free.
    """
    onnx = onnx_package()
    kind = onnx.helper.np_dtype_to_tensor_dtype(plan.convolutions[0].weight.dtype)
    channels = plan.convolutions[0].inputs, plan.convolutions[-1].outputs
    ends = [
        onnx.helper.make_tensor_value_info(name, kind, [batch, count, *size])
        for name, count, size in zip("xy", channels, (image, plan.output_size(image)), strict=True)
    ]
    nodes, constants = plan_nodes(onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="layer"), plan, {"x", "y"})
    graph = onnx.helper.make_graph(nodes, "layer", ends[:1], ends[1:], constants)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def time_plans(
    plans: Sequence[LayerPlan], image: Pair, *, batch: int = 1, int8: bool = False, threads: int = 1, runs: int = _RUNS
) -> list[float]:
    """Median seconds that each plan takes in ONNX Runtime, run in turn.

    Parameters
    ----------
    image : height and width of the input.
    batch : images at once.
    int8 : after ONNX Runtime's static quantizer.
    threads : of ONNX Runtime within one operator.
    runs : of each plan.

    Examples
    --------
    >>> import tensorchain as tc
    >>> from tensorchain.compression import plan_of
    >>> plan = plan_of(tc.TensorChain.random((8, 9, 8), (2, 3, 3), rng=0).astype("float32"), (3, 3))
    >>> folded, grouped = time_plans([plan, plan.grouped()], (8, 8), runs=3)
    >>> 0.0 < folded < 1.0 and 0.0 < grouped < 1.0
    True
    """
    runtime = runtime_package()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    dtype = plans[0].convolutions[0].weight.dtype
    values = np.random.default_rng(0).standard_normal((batch, plans[0].convolutions[0].inputs, *image)).astype(dtype)
    sessions = []
    for plan in plans:
        model = layer_model(plan, image)
        if int8:
            model = quantize_onnx(model, [{"x": values}])
        sessions.append(
            runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        )
    seconds = np.empty((runs, len(plans)))
    for run in range(-_WARM, runs):
        for n, session in enumerate(sessions):
            start = time.perf_counter()
            session.run(None, {"x": values})
            if run >= 0:
                seconds[run, n] = time.perf_counter() - start
    return [float(value) for value in np.median(seconds, axis=0)]


def onnx_package() -> Any:
    """The package onnx with the parts that are used, or an error that names the extra."""
    try:
        import onnx
        import onnx.checker
        import onnx.numpy_helper
        import onnx.shape_inference
    except ImportError as error:
        raise ImportError("compressing an ONNX file needs onnx: pip install tensorchain[onnx]") from error
    return onnx


def runtime_package() -> Any:
    """ONNX Runtime, or an error that names the extra."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("calibration and timing need ONNX Runtime: pip install tensorchain[onnx]") from error
    return onnxruntime
