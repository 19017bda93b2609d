"""An ONNX graph as a function of some of its constants, differentiable in PyTorch.

Only what depends on the constants that are trained is computed in PyTorch, node by node
(:mod:`tensorchain.compression.onnx_operators`).  All other values that these nodes read come from ONNX Runtime: the
inputs, layers before the first trained one, and the arithmetic of shapes, of whatever operators it is made.  Shapes do
not depend on what weights hold, so `Shape` ends the dependence.

Importers of ONNX files into PyTorch exist, but the one that is maintained reads few of the files that people ship, and
needs torchvision; so this one is small, and its values are compared with those of ONNX Runtime before they are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tensorchain.compression.onnx_operators import Node, NotExpressedError, operators
from tensorchain.compression.onnx_reading import Constants, node_reads, opset_of
from tensorchain.compression.onnx_session import OnnxSession, onnx_package
from tensorchain.kernels import Array

_SHAPES = ("Shape", "Size")


class TorchGraph:
    """The outputs of a model as functions of trained constants.

    Parameters
    ----------
    proto : onnx.ModelProto
        Its nodes in order.
    trained : iterable of str
        Names of initializers.
    wanted : sequence of str
        Names of values, outputs or inner ones.

    Attributes
    ----------
    wanted : list of str
        Those of the values that depend on the trained constants and can be computed.
    missing : dict of str to str
        The others that depend on them, and why they cannot.
    """

    def __init__(self, proto: Any, trained: Iterable[str], wanted: Sequence[str]) -> None:
        self.onnx, self.proto, self.opset = onnx_package(), proto, opset_of(proto)
        self.calls = operators()
        tracked, why = set(trained), dict[str, str]()
        self.nodes: list[Any] = []
        for node in proto.graph.node:
            reads = [name for name in node_reads(node) if name in tracked]
            if not reads or node.op_type in _SHAPES:
                continue
            tracked.update(name for name in node.output if name)
            reason = next((why[name] for name in reads if name in why), "")
            if not reason and (node.domain not in ("", "ai.onnx") or node.op_type not in self.calls):
                reason = node.op_type
            why.update((name, reason) for name in node.output if reason)
            self.nodes.append(node)
        self.missing = {name: why[name] for name in wanted if name in why}
        self.wanted = [name for name in wanted if name in tracked and name not in why]
        needed = set(self.wanted)
        kept = []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                kept.append(node)
                needed.update(node_reads(node))
        self.nodes = kept[::-1]
        constants = Constants(proto)
        made = {name for node in self.nodes for name in node.output} | set(trained)
        reads = list(dict.fromkeys(name for node in self.nodes for name in node.input if name and name not in made))
        held = {name: constants.array(name) for name in reads}
        self.constants = {name: self._value(array) for name, array in held.items() if array is not None}
        self.from_runtime = [name for name in reads if name not in self.constants]
        self.session = OnnxSession(proto, self.from_runtime)

    def outside(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """The values that ONNX Runtime computes, for one feed."""
        return self.session.run(feed, self.from_runtime) if self.from_runtime else {}

    def run(self, weights: Mapping[str, Any], outside: Mapping[str, Array]) -> dict[str, Any]:
        """The wanted values.

        Raises
        ------
        NotExpressedError
            Where a node has a form that is not expressed in PyTorch.
        """
        values = {**self.constants, **{name: self._value(array) for name, array in outside.items()}, **weights}
        helper = self.onnx.helper
        for node in self.nodes:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            given = [values[name] if name else None for name in node.input]
            try:
                found = self.calls[node.op_type](Node(attributes, self.opset, len(node.output)), *given)
            except NotExpressedError:
                raise
            except Exception as error:
                text = str(error).strip().split("\n")[0][:200]
                raise NotExpressedError(f"{node.op_type} {node.name or node.output[0]}: {text}") from error
            values.update(zip(node.output, found if isinstance(found, tuple) else (found,), strict=False))
        return {name: values[name] for name in self.wanted}

    def _value(self, array: Array) -> Any:
        """Floats as tensors of single precision or more, all else as arrays."""
        import torch

        if array.dtype.kind != "f":
            return array
        return torch.as_tensor(np.array(array, np.float64 if array.dtype == np.float64 else np.float32))
