"""Int8 ONNX models through ONNX Runtime's own static quantizer.

Weights and activations get 8-bit integers with scales from calibration feeds (QDQ format: pairs of QuantizeLinear and
DequantizeLinear around each operator, which the runtime fuses).  Needs `pip install tensorchain[onnx]`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorchain.kernels import Array


def quantize_onnx(model: Any, feeds: Iterable[Mapping[str, Array]], *, per_channel: bool = True) -> Any:
    """An int8 copy of an ONNX model.

    Parameters
    ----------
    model : `onnx.ModelProto`.
    feeds : calibration inputs, one dictionary by name for each batch.
    per_channel : one scale for each output channel of a weight.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    ImportError without ONNX Runtime; ValueError without feeds.

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

    batches = [dict(feed) for feed in feeds]
    if not batches:
        raise ValueError("feeds holds nothing; int8 needs calibration inputs, one array for each input")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        """Hands out the feeds one after the other."""

        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> Any:
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "model.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        # With 7 bits no sum of two products overflows 16 bits, in which processors without VNNI add them up.
        quantization.quantize_static(
            os.fspath(source), os.fspath(target), Reader(), per_channel=per_channel, reduce_range=True
        )
        return onnx.load(target)
