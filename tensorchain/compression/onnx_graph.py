"""Compress an ONNX file: its layers are replaced in the graph, without PyTorch.

A layer whose weight is a constant becomes the nodes of its plan: Conv nodes, with Reshape nodes around the middle one
for a chain in the "fold" form, or products for a matrix.  The last node writes the output that the old one wrote, so
all other nodes, constants, names and metadata stay exactly as they were; weights that nothing reads any more are
dropped.

In this order: read and check (:mod:`tensorchain.compression.onnx_reading`), find the layers
(:mod:`tensorchain.compression.onnx_layers`), choose and fit the decompositions, rewrite the graph, and with calibration
inputs fit the new weights to the original's outputs (:mod:`tensorchain.compression.onnx_refit`).

What is left alone is listed and counted in the report, with the reason.  Needs `pip install tensorchain[onnx]`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tensorchain.compression.latency import Clock, Times
from tensorchain.compression.onnx_calibration import Feeds
from tensorchain.compression.onnx_prepared import Prepared
from tensorchain.compression.report import Report
from tensorchain.compression.request import Request


def compress_onnx(
    model: str | os.PathLike[str] | Any,
    method: str = "auto",
    *,
    keep_macs: float | None = None,
    keep_params: float | None = None,
    keep_latency: float | None = None,
    calibration: Feeds | None = None,
    refit: bool | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    time_int8: bool = False,
    batch: int | None = None,
    threads: int = 1,
    clock: Clock | None = None,
    rng: int | np.random.Generator | None = 0,
    **options: Any,
) -> tuple[Any, Report]:
    """A compressed copy of an ONNX model, and the report.

    Parameters
    ----------
    model : str, os.PathLike[str] or object
        Path of a file, or an `onnx.ModelProto`; neither is changed.
    method : str, default "auto"
        As in `compress`, or "channels": whole channels are taken out of the graph, chosen by what the layers behind
        them lose.  With calibration inputs "auto" tries this too, and takes what brings the outputs nearer.
    keep_macs, keep_params, checkpoint, rng, options : object
        As in `compress`; with `form="auto"` both forms of a chain are timed in ONNX Runtime on the layer's input.
    keep_latency : float, optional
        The budget as a share of the time of a run, in place of `keep_macs` or `keep_params`: candidates of the layers
        are timed, and so is the model that comes out, beside the original, until it is within the share.
    calibration : Feeds, optional
        Feeds for ONNX Runtime, one dictionary of inputs by name for each batch.  Errors are then those of the layers'
        outputs.
    refit : bool, optional
        Whether layers are then fitted, in the order of execution, to what the original gives on the calibration inputs:
        those that were replaced, which have a bias afterwards, and those behind them.  By default where there are such
        inputs; never with `weight_bits`, which puts the weights on a grid.
    input_shapes : mapping of str to sequence of int, optional
        Shapes of inputs by name, where the file leaves sizes open and there are no calibration inputs.  They serve to
        count and to choose; the file that comes out takes the sizes that the original took.
    time_int8 : bool, default False
        Time the forms after ONNX Runtime's quantizer, for a model that goes through it.
    batch : int, optional
        Images of a run, where times are measured and the model takes any number of them: one by default, or as many as
        `input_shapes` says.  What is faster for one may not be for many.
    threads : int, default 1
        Of ONNX Runtime, where times are measured.
    clock : Clock, optional
        What measures times, in place of ONNX Runtime on this machine: another device, or a table.

    Returns
    -------
    tuple of (object, Report)
        (onnx.ModelProto, Report).

    Raises
    ------
    ImportError
        Without onnx.
    ValueError
        When the file is no valid model, holds weights that are not finite, or no layer that can be replaced, when ONNX
        Runtime does not open it, or the budget cannot be met.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.compression import Convolution, Geometry, LayerPlan
    >>> from tensorchain.compression.onnx_nodes import layer_model
    >>> weight = np.random.default_rng(0).standard_normal((16, 8, 3, 3)).astype("float32")
    >>> model = layer_model(LayerPlan("dense", None, (Convolution(weight, Geometry()),)), (12, 12))
    >>> small, report = compress_onnx(model, "tc", keep_macs=0.4, candidates=3)
    >>> [node.op_type for node in model.graph.node], [node.op_type for node in small.graph.node]
    (['Conv'], ['Conv', 'Conv', 'Conv'])
    >>> report.macs[1] <= 0.4 * report.macs[0]
    True

    For files: `small, report = compress_onnx("model.onnx", keep_macs=0.3)`, then `onnx.save(small, "small.onnx")`.
    """
    if threads < 1 or (batch is not None and batch < 1):
        raise ValueError(f"batch is {batch} and threads is {threads}; at least 1 is needed")
    if time_int8 and keep_latency is not None:
        raise ValueError("keep_latency times models of the file's own numbers; for int8 give keep_macs or keep_params")
    # Weights on a grid stay on it.
    refit = refit is not False and calibration is not None and options.get("weight_bits") is None
    request = Request(method, keep_macs, keep_params, refit=refit, keep_latency=keep_latency, **options)
    prepared = Prepared.of(model, request, calibration, input_shapes or {}, checkpoint=checkpoint, rng=rng)
    times = Times(clock or prepared.clock(batch=batch, threads=threads, int8=time_int8), prepared.original)
    return prepared.compressed(request, times)
