"""Scales of the channels between two convolutions of an ONNX model, chosen for rounding to int8.

Found are Conv nodes whose output only one other Conv reads, as in what `compress_onnx` puts in place of a layer; ranges
and energies of the channels come from calibration feeds (:mod:`tensorchain.compression.inner_scales`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tensorchain.compression.inner_scales import InnerChannels, with_room
from tensorchain.compression.onnx_reading import graph_reads
from tensorchain.compression.onnx_session import OnnxSession, onnx_package
from tensorchain.kernels import Array

_WEIGHT_LEVELS = 63.0
"""Of 7 bits, which is what `quantize_onnx` asks for."""


def rescaled_inner(model: Any, feeds: Iterable[Mapping[str, Array]]) -> Any:
    """A copy that gives the same, with the scales between convolutions that are least for int8.

    Parameters
    ----------
    model : onnx.ModelProto
        Its weights are initializers.
    feeds : iterable of mapping of str to ndarray
        Calibration inputs.
    """
    onnx = onnx_package()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    pairs = _neighbours(copy)
    if not pairs:
        return copy
    names = [first.output[0] for first, _ in pairs]
    session, sums = OnnxSession(copy, names), dict[str, list[Any]]()
    for feed in feeds:
        for name, values in session.run(feed, names).items():
            rows = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1).astype(np.float64)
            own = sums.setdefault(name, [*np.zeros((4, len(rows))), 0])
            own[0], own[1] = np.minimum(own[0], rows.min(1)), np.maximum(own[1], rows.max(1))
            own[2], own[3], own[4] = own[2] + rows.sum(1), own[3] + (rows**2).sum(1), own[4] + rows.shape[1]
    stored = {tensor.name: tensor for tensor in copy.graph.initializer}
    by_source = {first.output[0]: (first, second) for first, second in pairs}
    for name, own in sums.items():
        first, second = by_source[name]
        arrays = {n: onnx.numpy_helper.to_array(stored[n]) for n in (*first.input[1:], second.input[1]) if n}
        weights = [arrays[node.input[1]].astype(np.float64) for node in (first, second)]
        groups = next((a.i for a in second.attribute if a.name == "group"), 1)
        split = weights[1].reshape(groups, len(weights[1]) // groups, weights[1].shape[1], -1)
        behind = None
        if second.output[0] in by_source:
            after = by_source[second.output[0]][1]
            last = onnx.numpy_helper.to_array(stored[after.input[1]]).astype(np.float64)
            parts = next((a.i for a in after.attribute if a.name == "group"), 1)
            squares = (last**2).reshape(parts, -1, last.shape[1], last[0, 0].size)
            behind = np.sum(squares, axis=(1, 3)).reshape(groups, -1)
        scales = InnerChannels(
            *with_room(*own), weights[0].reshape(len(weights[0]), -1), split, behind, weight_levels=_WEIGHT_LEVELS
        ).best_scales()
        arrays[first.input[1]] = weights[0] * scales.reshape(-1, *[1] * (weights[0].ndim - 1))
        if len(first.input) > 2 and first.input[2]:
            arrays[first.input[2]] = arrays[first.input[2]] * scales
        arrays[second.input[1]] = (split / scales.reshape(groups, 1, -1, 1)).reshape(weights[1].shape)
        for key, array in arrays.items():
            dtype = onnx.helper.tensor_dtype_to_np_dtype(stored[key].data_type)
            stored[key].CopyFrom(onnx.numpy_helper.from_array(array.astype(dtype), key))
    return copy


def _neighbours(model: Any) -> list[tuple[Any, Any]]:
    """Two Conv nodes in a row whose weights nothing else reads."""
    graph = model.graph
    readers = Counter(graph_reads(graph))
    readers.update(value.name for value in graph.output)
    free = {t.name for t in graph.initializer} - {value.name for value in graph.input}

    def own(node: Any) -> bool:
        return node.op_type == "Conv" and node.domain in ("", "ai.onnx") and all(
            name in free and readers[name] == 1 for name in node.input[1:] if name
        )  # fmt: skip

    sources = {node.output[0]: node for node in graph.node if own(node)}
    return [
        (sources[node.input[0]], node)
        for node in graph.node
        if own(node) and node.input[0] in sources and readers[node.input[0]] == 1
    ]
