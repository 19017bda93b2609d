"""The packages onnx and ONNX Runtime, imported where they are needed, and models opened in the runtime.

A session here gives inner values as further outputs, computes no more of the graph than they need, and lets constants
be replaced for a run; so layers can be measured and fitted in a network that is otherwise untouched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_SILENT = 4


class OnnxSession:
    """A model in ONNX Runtime on the CPU.

    Parameters
    ----------
    proto : onnx.ModelProto
        `onnx.ModelProto`; it is not changed.
    probes : sequence of str, optional
        Inner values that are outputs too.
    open_constants : sequence of str, optional
        Names of initializers that a feed may replace.
    threads : int, default 0
        Of the runtime within one operator; 0 leaves it to the runtime.

    Raises
    ------
    ImportError
        Without ONNX Runtime.
    ValueError, with the runtime's reason, where it does not open the model
    """

    def __init__(
        self, proto: Any, probes: Sequence[str] = (), *, open_constants: Sequence[str] = (), threads: int = 0
    ) -> None:
        runtime, onnx = runtime_package(), onnx_package()
        self.outputs = [value.name for value in proto.graph.output]
        self.fed = {value.name for value in proto.graph.input}
        new = [name for name in dict.fromkeys(probes) if name not in self.outputs and name not in self.fed]
        if new or open_constants:
            probed = onnx.ModelProto()
            probed.CopyFrom(proto)
            probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in new)
            if open_constants:
                # Before version 4 of the format a constant among the inputs cannot be fed.
                probed.ir_version = max(probed.ir_version, 4)
            for tensor in probed.graph.initializer:
                if tensor.name in open_constants and tensor.name not in self.fed:
                    probed.graph.input.append(
                        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
                    )
            proto = probed
        options = runtime.SessionOptions()
        options.log_severity_level = _SILENT
        options.intra_op_num_threads = threads
        if new or open_constants:
            # Threads that wait in a loop cost those who compute beside them; what is timed has no probes.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.whole, self.partial = runtime.RunOptions(), runtime.RunOptions()
        self.partial.only_execute_path_to_fetches = True
        for one in (self.whole, self.partial):
            one.log_severity_level = _SILENT
        try:
            # Where it cannot open a model the package prints, and tries the same once more.
            self.session = runtime.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:
            raise ValueError(f"ONNX Runtime does not open the model: {_reason(error)}") from error

    def run(self, feed: Mapping[str, Any], names: Sequence[str] | None = None) -> dict[str, Any]:
        """Values by name, those of the outputs unless others are named; ValueError where the run fails."""
        how = self.whole if names is None else self.partial
        names = self.outputs if names is None else list(dict.fromkeys(names))
        computed = [name for name in names if name not in self.fed]
        values = {name: np.asarray(feed[name]) for name in names if name in self.fed}
        try:
            found = self.session.run(computed, dict(feed), how) if computed else []
        except Exception as error:
            raise ValueError(f"ONNX Runtime does not run the model: {_reason(error)}") from error
        return {**values, **dict(zip(computed, found, strict=True))}


def _reason(error: Exception) -> str:
    """What the runtime says, on one line and without its codes."""
    text = " ".join(str(error).split())
    for mark in (" : FAIL : ", " : INVALID_ARGUMENT : ", " : INVALID_GRAPH : ", " : RUNTIME_EXCEPTION : "):
        text = text.split(mark)[-1]
    # Where in the runtime's own source it was noticed, and in which function, is nobody's help.
    return re.sub(r"^/\S+:\d+ .+?\) (?=[A-Z])", "", text)[:400]


def onnx_package() -> Any:
    """The package onnx with the parts that are used, or an error that names the extra."""
    try:
        import onnx
        import onnx.checker
        import onnx.inliner
        import onnx.numpy_helper
        import onnx.reference
        import onnx.shape_inference
        import onnx.version_converter
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
