"""Narrower layers in an ONNX model: channels are taken out of all layers that write, hand on or read them.

The classes of channels come from :mod:`tensorchain.compression.onnx_channels`, the choice from
:mod:`tensorchain.compression.channels`.  A layer that lost columns has absorbed what the others could predict of them;
the refit that follows (:mod:`tensorchain.compression.onnx_refit`) fits it to the rows of the original's output that it
still writes.  Decompositions can be made of the narrow layers as of any others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tensorchain.compression.channels import BudgetError, Reader, narrowed
from tensorchain.compression.network import Covariances, check_names
from tensorchain.compression.onnx_channels import Channels, Cut, channels_of, reads_of
from tensorchain.compression.onnx_layers import OnnxLayer
from tensorchain.compression.onnx_reading import FREE_CONSTANTS, Constants, graph_reads, value_shapes
from tensorchain.compression.onnx_session import onnx_package
from tensorchain.compression.patches import PatchCovariance
from tensorchain.compression.request import Request, Site
from tensorchain.kernels import Array

_MOST_INPUTS = 2400
"""Longest patch of a layer that may lose inputs: each that goes changes a matrix of this size."""


@dataclass(frozen=True)
class Narrow:
    """What a choice of channels makes of a model.

    Attributes
    ----------
    channels : Channels
        Of the model.
    alive : ndarray
        Which classes stay, of bool.
    layers : list of OnnxLayer
        All layers, narrow where channels are gone.
    changed : set of str
        Names of those that are narrow.
    covariances : dict of str to tuple of PatchCovariance
        Of their patches.
    """

    channels: Channels
    alive: Array
    layers: list[OnnxLayer]
    changed: set[str]
    covariances: dict[str, Covariances]

    def cut(self, proto: Any) -> set[str]:
        """Cut all constants that belong to no layer, in place; the names of those that were read instead."""
        onnx, constants, graph = onnx_package(), Constants(proto), proto.graph
        inner = {layer.node for layer in self.layers if layer.site.name in self.channels.depthwise}
        taken = {tensor.name for tensor in graph.initializer} | {
            name for n in graph.node for name in (*n.input, *n.output)
        }
        tensors, old = [], set[str]()

        def constant(node: Any, position: int, array: Array) -> None:
            if node.input[position]:
                old.update(constants.ancestors(node.input[position]))
            name, count = f"{node.name or node.output[0]}/narrow{position}", 0
            while name in taken:
                count += 1
                name = f"{node.name or node.output[0]}/narrow{position}_{count}"
            taken.add(name)
            tensors.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
            node.input[position] = name

        for cut in self.channels.cuts:
            array, stay = constants.array(graph.node[cut.node].input[cut.position]), self.stay(cut.ids)
            if cut.node not in inner and array is not None and not stay.all():
                constant(graph.node[cut.node], cut.position, np.compress(stay, array, cut.axis))
        for index, parts in self.channels.parts.items():
            node, sizes = graph.node[index], [int(self.stay(part).sum()) for part in parts]
            if len(node.input) > 1 and node.input[1]:
                constant(node, 1, np.array(sizes, np.int64))
                continue
            for attribute in [a for a in node.attribute if a.name in ("split", "num_outputs")]:
                node.attribute.remove(attribute)
            if self.opset_of(proto) < 13:
                node.attribute.append(onnx.helper.make_attribute("split", sizes))
            else:
                del node.input[1:]
                node.input.append("")
                constant(node, 1, np.array(sizes, np.int64))
        graph.initializer.extend(tensors)
        if proto.ir_version < FREE_CONSTANTS:
            info = onnx.helper.make_tensor_value_info
            graph.input.extend(info(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in tensors)
        # Sizes of inner values have changed; the runtime finds them again.
        del graph.value_info[:]
        return old

    def stay(self, ids: Array) -> Array:
        """Which channels stay, of bool."""
        return np.asarray((ids < 0) | self.alive[ids])

    @staticmethod
    def opset_of(proto: Any) -> int:
        """Of the operators of ONNX itself."""
        return next((int(one.version) for one in proto.opset_import if one.domain in ("", "ai.onnx")), 1)


def readers_of(
    layers: Sequence[OnnxLayer],
    channels: Channels,
    covariances: Mapping[str, Covariances],
    gains: Mapping[str, float],
    by: str = "keep_macs",
) -> dict[str, Reader]:
    """The layers as the choice takes them: those without a covariance have no column that can go."""
    found = {}
    for layer in layers:
        name, site = layer.site.name, layer.site
        if name not in channels.columns:
            continue
        columns = channels.columns[name]
        known = covariances.get(name)
        matrix = known[0].matrix if known is not None and (columns >= 0).any() else None
        cost = _cost(site, by) - (_bias(site) if by == "keep_params" else 0.0)
        found[name] = Reader(site.kernel, matrix, columns, channels.rows[name], cost, gains.get(name, 1.0))
    return found


def narrowed_layers(
    proto: Any,
    layers: Sequence[OnnxLayer],
    covariances: Mapping[str, Covariances],
    request: Request,
    *,
    parameters: int,
    feed: Mapping[str, Array] | None,
    gains: Mapping[str, float],
    sizes: Mapping[str, Sequence[int]],
) -> Narrow:
    """The model's layers with so many channels that they are within a budget.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model.
    layers : sequence of OnnxLayer
        All of its layers.
    covariances : mapping of str to tuple of PatchCovariance
        Of the patches of the layers that may change.
    request : Request
        A share of the multiplications, or of the parameters, and the layers that lose no channel.
    parameters : int
        Of the model.
    feed, sizes : mapping
        An input, and sizes of inputs that the file leaves open.
    gains : mapping of str to float
        What an error of each layer does to the outputs.

    Raises
    ------
    BudgetError
        When the budget is not met; its cost is the share that is left with the fewest channels.
    """
    check_names([one.site for one in layers], request)
    # A layer whose inputs were not seen, or are too many, cannot answer for them.
    unseen = [
        one.site.name for one in layers
        if one.site.groups == 1 and (one.site.name not in covariances or one.site.kernel[0].size > _MOST_INPUTS)
    ]  # fmt: skip
    stay = [*request.keep, *unseen, *(one.site.name for one in layers if one.site.pointwise and not request.pointwise)]
    channels = channels_of(proto, layers, value_shapes(proto, reads_of(proto), sizes, feed), stay)
    others, fixed = np.zeros(channels.count), 0.0
    for layer in layers:
        if layer.site.name in channels.depthwise:
            fixed -= _shared_out(others, channels.rows[layer.site.name], _cost(layer.site, request.budget))
    readers = readers_of(layers, channels, covariances, gains, request.budget)
    whole = float(parameters if request.budget == "keep_params" else sum(layer.site.macs for layer in layers))
    fixed += whole - sum(one.cost for one in readers.values())
    if request.budget == "keep_params":
        for cut, size in _constants(proto, layers, channels):
            fixed -= _shared_out(others, cut.ids, size)
        fixed += _copies(proto, layers, channels)
        for layer in (one for one in layers if one.site.name in readers):
            rows, own = channels.rows[layer.site.name], _bias(layer.site)
            fixed -= _shared_out(others, rows, own)
            if not own and (channels.columns[layer.site.name] >= 0).any():
                # A layer that loses inputs gets a bias.
                fixed += len(rows) - _shared_out(others, rows, float(len(rows)))
    try:
        alive = narrowed(
            {**readers, **_parts(channels)}, channels.count, request.share * whole, others=others, fixed=fixed
        )
    except BudgetError as reason:
        least = reason.cost / max(whole, 1.0)
        raise BudgetError(_told(request, least, channels), least) from reason
    return _made(layers, channels, alive, readers, covariances)


def _shared_out(others: Array, ids: Array, cost: float) -> float:
    """Add a cost to the classes of channels that share it, in place; the cost."""
    np.add.at(others, ids[ids >= 0], cost / len(ids))
    return cost * float(np.mean(ids >= 0))


def _constants(proto: Any, layers: Sequence[OnnxLayer], channels: Channels) -> list[tuple[Cut, float]]:
    """Parameters that are no layer's and have an entry for each channel, and their sizes."""
    constants, own = Constants(proto), {layer.node for layer in layers if layer.site.name in channels.depthwise}
    arrays = [(cut, constants.array(proto.graph.node[cut.node].input[cut.position])) for cut in channels.cuts]
    numbers = [(cut, array) for cut, array in arrays if array is not None and array.dtype.kind == "f"]
    return [(cut, float(array.size)) for cut, array in numbers if cut.node not in own]


def _copies(proto: Any, layers: Sequence[OnnxLayer], channels: Channels) -> float:
    """Numbers that are stored once for several nodes, each of which gets its own where channels go."""
    constants, moved = Constants(proto), {*channels.columns, *channels.depthwise}
    names = [name for one in layers if one.site.name in moved for name in one.constants[1:] if name]
    names += [proto.graph.node[cut.node].input[cut.position] for cut, _ in _constants(proto, layers, channels)]
    reads, own = Counter(graph_reads(proto.graph)), Counter(names)
    arrays = ((count - (reads[name] == count), constants.array(name)) for name, count in own.items())
    return float(sum(more * array.size for more, array in arrays if array is not None))


def _parts(channels: Channels) -> dict[str, Reader]:
    """The parts of splits, which need a channel each, as layers that cost nothing."""
    parts = [part for node in channels.parts.values() for part in node if part.size and (part >= 0).all()]
    nowhere = np.full(1, -1)
    # No name of a layer has a zero in it.
    return {f"\0{k}": Reader(np.zeros((1, len(part), 1)), None, part, nowhere, 0.0) for k, part in enumerate(parts)}


def _told(request: Request, least: float, channels: Channels) -> str:
    """Why a budget is not met, and what to do."""
    held = sorted(channels.held.items(), key=lambda pair: -pair[1])
    why = ", ".join(f"{count} by {operator}" for operator, count in held[:4])
    why = f" (channels that must stay: {why})" if why else ""
    if not channels.count:
        return f"no channel can be taken out{why}; give another method, such as svd"
    return (
        f"{request.budget}={request.share:g} cannot be met: with the fewest channels {least:.4f} is left{why}; give a "
        "larger share, or another method"
    )


def _cost(site: Site, by: str) -> float:
    """What the budget counts of a layer."""
    return float(site.parameters if by == "keep_params" else site.macs)


def _bias(site: Site) -> float:
    """Numbers of a layer that do not become fewer with its inputs."""
    return 0.0 if site.bias is None else float(site.bias.size)


def _made(
    layers: Sequence[OnnxLayer],
    channels: Channels,
    alive: Array,
    readers: Mapping[str, Reader],
    covariances: Mapping[str, Covariances],
) -> Narrow:
    """Narrow layers, with the weights that answer for the channels that are gone."""
    found, changed, matrices = [], set[str](), dict(covariances)
    for layer in layers:
        name, site = layer.site.name, layer.site
        ids = channels.rows.get(name)
        if ids is None:
            found.append(layer)
            continue
        rows = np.flatnonzero((ids < 0) | alive[ids])
        if name in channels.depthwise:
            kernel, groups = site.kernel[rows], len(rows)
        else:
            columns = np.flatnonzero(readers[name].open)
            weight = readers[name].weight[np.ix_(rows, columns)]
            kernel, groups = (
                weight.reshape(len(rows), len(columns), *site.kernel.shape[2:]).astype(site.kernel.dtype),
                1,
            )
        if kernel.shape == site.kernel.shape:
            found.append(layer)
            continue
        changed.add(name)
        bias = None if site.bias is None else site.bias[rows]
        if name in matrices and name not in channels.depthwise:
            at = (columns[:, None] * readers[name].taps + np.arange(readers[name].taps)).ravel()
            old = matrices[name][0]
            mean = None if old.mean is None else old.mean[at]
            matrices[name] = (PatchCovariance(old.matrix[np.ix_(at, at)], len(columns), mean),)
            if old.mean is not None and mean is not None and len(columns) < readers[name].inputs:
                # Channels that are gone had a mean; a layer without a bias gets one.
                lost = site.kernel[rows].reshape(len(rows), -1) @ old.mean - kernel.reshape(len(rows), -1) @ mean
                bias = np.asarray(lost if bias is None else bias + lost, site.kernel.dtype)
        narrow = replace(site, kernel=kernel, bias=bias, groups=groups, stored=None)
        found.append(replace(layer, site=narrow, rows=rows))
    return Narrow(channels, alive, found, changed, matrices)
