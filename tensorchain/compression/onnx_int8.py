"""Int8 ONNX models through ONNX Runtime's own static quantizer.

Weights and activations get 8-bit integers with scales from calibration feeds (QDQ format: pairs of QuantizeLinear and
DequantizeLinear around each operator, which the runtime fuses).  One scale for each channel needs opset 13: older ones
are converted by ONNX's version converter first.  Needs `pip install tensorchain[onnx]`.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorchain.compression.onnx_inner import rescaled_inner
from tensorchain.compression.onnx_reading import FREE_CONSTANTS, first_line, opset_of
from tensorchain.compression.onnx_session import OnnxSession, onnx_package
from tensorchain.kernels import Array

_OPSET = 13
"""The first in which QuantizeLinear and DequantizeLinear have an axis."""


def quantize_onnx(
    model: Any, feeds: Iterable[Mapping[str, Array]], *, per_channel: bool = True, inner_scales: bool = True
) -> Any:
    """An int8 copy of an ONNX model, which ONNX Runtime opens.

    Parameters
    ----------
    model : Model
        `onnx.ModelProto`.
    feeds : iterable of mapping of str to ndarray
        Calibration inputs, one dictionary by name for each batch.
    per_channel : bool, default True
        One scale for each output channel of a weight.
    inner_scales : bool, default True
        Choose the scales of the channels between convolutions in a row for least rounding first
        (:mod:`tensorchain.compression.inner_scales`); `feeds` that can be passed over once only are stored.

    Returns
    -------
    object
        onnx.ModelProto.

    Raises
    ------
    ImportError
        Without ONNX Runtime.
    ValueError
        Without feeds, or where the model cannot be converted or rounded.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.compression import Convolution, LayerPlan
    >>> from tensorchain.compression.onnx_nodes import layer_model
    >>> rng = np.random.default_rng(0)
    >>> weight = rng.standard_normal((16, 8, 3, 3)).astype("float32")
    >>> model = layer_model(LayerPlan("dense", None, (Convolution(weight),)), (12, 12))
    >>> small = quantize_onnx(model, [{"x": rng.standard_normal((4, 8, 12, 12)).astype("float32")}])
    >>> {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in small.graph.node}
    True
    """
    try:
        import onnx
        from onnxruntime import quantization
    except ImportError as error:
        raise ImportError("int8 needs ONNX Runtime: pip install tensorchain[onnx]") from error

    feeds = list(feeds) if iter(feeds) is feeds else feeds

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        """Hands out the feeds one after the other."""

        def __init__(self) -> None:
            self.left = iter(feeds)
            self.count = 0

        def get_next(self) -> Any:
            feed = next(self.left, None)
            self.count += feed is not None
            return None if feed is None else dict(feed)

    reader = Reader()
    model = _with_initializers(in_int8_opset(model) if per_channel else model)
    if inner_scales and per_channel:
        model = rescaled_inner(model, feeds)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "model.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        # The quantizer logs what it advises on the root logger.
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            # With 7 bits no sum of two products overflows 16 bits, in which processors without VNNI add them up.
            quantization.quantize_static(
                os.fspath(source), os.fspath(target), reader, per_channel=per_channel, reduce_range=True
            )
        except Exception as error:
            if not reader.count:
                raise ValueError(
                    "feeds holds nothing; int8 needs calibration inputs, one array for each input"
                ) from error
            raise ValueError(
                f"ONNX Runtime's quantizer does not take the model ({first_line(error)}); write it without int8"
            ) from error
        finally:
            logging.disable(before)
        small = onnx.load(target)
    OnnxSession(small)
    return small


def in_int8_opset(model: Any) -> Any:
    """The model in an opset that has a scale for each channel; ValueError where it cannot be converted."""
    onnx = onnx_package()
    opset = opset_of(model)
    if opset >= _OPSET:
        return model
    if model.ir_version < FREE_CONSTANTS:
        # The converter writes constants that are no inputs.
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        names = {tensor.name for tensor in copy.graph.initializer}
        for k in reversed([k for k, value in enumerate(copy.graph.input) if value.name in names]):
            del copy.graph.input[k]
        copy.ir_version = FREE_CONSTANTS
        model = copy
    try:
        converted = onnx.version_converter.convert_version(model, _OPSET)
        OnnxSession(converted)
    except Exception as error:
        raise ValueError(
            f"int8 needs opset {_OPSET}, the model has {opset} and cannot be converted ({first_line(error)}); export "
            f"it with opset {_OPSET} or newer, or write it without int8"
        ) from error
    return converted


def _with_initializers(model: Any) -> Any:
    """A copy whose Constant nodes are initializers, the only ones that the quantizer rounds.

    Each layer gets a bias of its own: the quantizer names copies of shared ones after names that may be taken.
    """
    onnx = onnx_package()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    outputs = {value.name for value in graph.output}
    for k in range(len(graph.node) - 1, -1, -1):
        node = graph.node[k]
        tensor = next((a.t for a in node.attribute if a.name == "value" and a.HasField("t")), None)
        if node.op_type == "Constant" and tensor is not None and node.output[0] not in outputs:
            added = graph.initializer.add()
            added.CopyFrom(tensor)
            added.name = node.output[0]
            del graph.node[k]
    stored = {tensor.name: tensor for tensor in graph.initializer}
    taken = set(stored) | {name for node in graph.node for name in (*node.input, *node.output)}
    seen: set[str] = set()
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or len(node.input) < 3 or node.input[2] not in stored:
            continue
        name = node.input[2]
        if name in seen:
            own = f"{name}/own{len(taken)}"
            added = graph.initializer.add()
            added.CopyFrom(stored[name])
            added.name = node.input[2] = own
            taken.add(own)
        seen.add(name)
    return copy
