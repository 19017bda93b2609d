"""Compress an ONNX file: its Conv nodes are replaced in the graph, without PyTorch.

A Conv node whose weight is a constant of the graph becomes the nodes of its plan: Conv nodes, with Reshape nodes around
the middle one for a chain in the "fold" form.  The last node writes the output that the old one wrote, so all other
nodes, constants, names and metadata stay exactly as they were; weights that nothing reads any more are dropped.  Sizes
of images come from ONNX's shape inference.

What is left alone is named in the report: grouped and depthwise convolutions, weights that are computed or shared,
kernels that are not 2-D, sizes that inference does not find, and every other operator.

The result passes `onnx.checker`.  Needs `pip install tensorchain[onnx]`.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tensorchain.compression.conv import Geometry, LayerPlan, Pair
from tensorchain.compression.network import Measured
from tensorchain.compression.onnx_nodes import onnx_package, plan_nodes, runtime_package, time_plans
from tensorchain.compression.patches import PatchCovariance
from tensorchain.compression.report import Report
from tensorchain.compression.request import Request, Site
from tensorchain.kernels import Array

_FLOATS = {1: np.float32, 11: np.float64}
"""ONNX's numbers of the types that are decomposed."""

_LARGEST = 1 << 20
"""No image is so large that a stride, a dilation or a padding beyond this makes sense."""

_PADDINGS = (b"NOTSET", b"SAME_UPPER", b"SAME_LOWER", b"VALID")

_FREE_CONSTANTS = 4
"""From this IR version on constants need not be inputs of the graph, and those that are can be overridden."""


def compress_onnx(
    model: str | os.PathLike[str] | Any,
    method: str = "tc",
    *,
    keep_macs: float | None = None,
    keep_params: float | None = None,
    calibrate: Iterable[Mapping[str, Array]] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    time_int8: bool = False,
    rng: int | np.random.Generator | None = 0,
    **options: Any,
) -> tuple[Any, Report]:
    """A compressed copy of an ONNX model, and the report.

    Parameters
    ----------
    model : path of a file, or an `onnx.ModelProto`; neither is changed.
    method, keep_macs, keep_params, checkpoint, rng, options : as in `compress`; with `form="auto"` both forms of a
        chain are timed in ONNX Runtime on the layer's input.
    calibrate : feeds for ONNX Runtime, one dictionary of inputs by name for each batch; errors are then those of the
        layers' outputs.
    time_int8 : time the forms after ONNX Runtime's quantizer, for a model that goes through it.

    Returns
    -------
    (onnx.ModelProto, Report)

    Raises
    ------
    ImportError without onnx; ValueError when the file is no valid model, holds no convolution that can be replaced, or
    the budget cannot be met.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.compression import Convolution, Geometry, LayerPlan
    >>> from tensorchain.compression.onnx_nodes import layer_model
    >>> weight = np.random.default_rng(0).standard_normal((16, 8, 3, 3)).astype("float32")
    >>> model = layer_model(LayerPlan("dense", None, (Convolution(weight, Geometry()),)), (12, 12))
    >>> small, report = compress_onnx(model, "tc", keep_macs=0.4, rungs=3)
    >>> [node.op_type for node in model.graph.node], [node.op_type for node in small.graph.node]
    (['Conv'], ['Conv', 'Conv', 'Conv'])
    >>> report.macs[1] <= 0.4 * report.macs[0]
    True

    For files: `small, report = compress_onnx("model.onnx", keep_macs=0.3)`, then `onnx.save(small, "small.onnx")`.
    """
    onnx = onnx_package()
    request = Request(method, keep_macs, keep_params, **options)
    if request.fit_output and calibrate is None:
        raise ValueError("fit_output needs calibrate=, feeds for the model")
    proto = _loaded(model)
    small = onnx.ModelProto()
    small.CopyFrom(proto)
    sites = sites_of(proto)
    wanted = [site for site in sites.values() if not request.refusal(site[0])]
    if not wanted:
        why = (
            "; ".join(f"{site.name}: {request.refusal(site)}" for site, _ in sites.values()) or "there is no Conv node"
        )
        raise ValueError(f"no convolution can be replaced ({why})")
    covariances = None if calibrate is None else _covariances(proto, wanted, calibrate)
    count = sum(math.prod(tensor.dims) for tensor in proto.graph.initializer if tensor.data_type in _FLOATS)
    measured = Measured([site for site, _ in sites.values()], count, covariances)
    batch = _batch(proto)
    plans, report = measured.planned(
        request,
        rng,
        measured.progress(checkpoint, request, rng),
        lambda forms, image: time_plans(forms, image, batch=batch, int8=time_int8),
    )
    _rewrite(small, {index: plans[site.name] for index, (site, _) in sites.items() if site.name in plans})
    onnx.checker.check_model(small, full_check=True)
    return small, report


def sites_of(proto: Any) -> dict[int, tuple[Site, str]]:
    """By position in the graph, each Conv node as a site with the name of its input."""
    onnx = onnx_package()
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    fed = {value.name for value in proto.graph.input}
    if proto.ir_version < _FREE_CONSTANTS:
        fed -= set(constants)
    readers = Counter(_reads(proto.graph))
    shapes = _shapes(proto)
    sites: dict[int, tuple[Site, str]] = {}
    for index, node in enumerate(proto.graph.node):
        if node.op_type != "Conv" or node.domain not in ("", "ai.onnx"):
            continue
        name = node.name or f"Conv output {node.output[0]}"
        weight = constants.get(node.input[1])
        biased = len(node.input) > 2 and node.input[2] != ""
        image = shapes.get(node.input[0])
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        _check_node(name, attributes, weight, constants.get(node.input[2]) if biased else None, image)
        refusal = ""
        kernel, bias = np.zeros((1, 1, 1, 1)), None
        if weight is None or node.input[1] in fed or (biased and node.input[2] not in constants):
            refusal = "its weight is no constant"
        elif weight.data_type not in _FLOATS or len(weight.dims) != 4:
            refusal = f"weight of shape {tuple(weight.dims)} and type {weight.data_type}"
        elif image is None or len(image) != 4 or not all(image[2:]):
            refusal = "the size of its input is not known"
        elif readers[node.input[1]] > 1:
            refusal = "shares its weight"
        elif attributes.get("group", 1) > 1:
            refusal = f"{attributes['group']} groups"
        if weight is not None and weight.data_type in _FLOATS and len(weight.dims) == 4:
            kernel = onnx.numpy_helper.to_array(weight)
        if biased and node.input[2] in constants:
            bias = onnx.numpy_helper.to_array(constants[node.input[2]])
        known = image is not None and len(image) == 4 and all(image[2:])
        size = (int(image[2]), int(image[3])) if known and image else (1, 1)
        window = int(kernel.shape[2]), int(kernel.shape[3])
        geometry = _geometry(attributes, window, size) if known and kernel.size > 1 else Geometry()
        sites[index] = Site(name, kernel, bias, geometry, size, refusal=refusal), node.input[0]
    return sites


def _check_node(name: str, attributes: Mapping[str, Any], weight: Any, bias: Any, image: Any) -> None:
    """ValueError where a Conv node contradicts itself; the checker looks at none of this."""
    groups = attributes.get("group", 1)
    largest = max((n for key in ("strides", "dilations", "pads") for n in attributes.get(key, ())), default=0)
    wrong = ""
    if largest > _LARGEST:
        wrong = f"has a stride, a dilation or a padding of {largest}"
    elif groups < 1:
        wrong = f"has {groups} groups"
    elif attributes.get("auto_pad", b"NOTSET") not in _PADDINGS:
        wrong = f"has auto_pad {attributes['auto_pad']!r}"
    elif weight is not None:
        dims = tuple(weight.dims)
        given = tuple(attributes.get("kernel_shape", dims[2:]))
        if given != dims[2:]:
            wrong = f"says kernel_shape {given}, its weight has shape {dims}"
        elif len(dims) == 4 and image is not None and len(image) == 4 and image[1] not in (0, dims[1] * groups):
            wrong = (
                f"reads {image[1]} channels, its weight of shape {dims} with {groups} groups needs {dims[1] * groups}"
            )
        elif bias is not None and tuple(bias.dims) != dims[:1]:
            wrong = f"has a bias of shape {tuple(bias.dims)}, its weight has {dims[0]} outputs"
    if wrong:
        raise ValueError(f"the model is not valid: Conv node {name!r} {wrong}")


def _geometry(attributes: Mapping[str, Any], window: Pair, image: Pair) -> Geometry:
    """Stride, padding and dilation of a Conv node; automatic padding written out."""
    stride = tuple(attributes.get("strides", (1, 1)))
    dilation = tuple(attributes.get("dilations", (1, 1)))
    pads = tuple(attributes.get("pads", (0, 0, 0, 0)))
    automatic = attributes.get("auto_pad", b"NOTSET").decode()
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        sides = []
        for axis in range(2):
            steps = -(-image[axis] // stride[axis])
            whole = max(0, (steps - 1) * stride[axis] + dilation[axis] * (window[axis] - 1) + 1 - image[axis])
            small, large = whole // 2, whole - whole // 2
            sides.append((small, large) if automatic == "SAME_UPPER" else (large, small))
        return Geometry(stride, (sides[0], sides[1]), dilation)
    if automatic == "VALID":
        pads = (0, 0, 0, 0)
    return Geometry(stride, ((pads[0], pads[2]), (pads[1], pads[3])), dilation)


def _batch(proto: Any) -> int:
    """The batch of the first input, 1 where it is not fixed."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    sizes = inputs[0].type.tensor_type.shape.dim if inputs else []
    return int(sizes[0].dim_value) or 1 if len(sizes) else 1


def _rewrite(proto: Any, plans: Mapping[int, LayerPlan]) -> None:
    """Put the nodes of the plans in place of the old ones, in place; the rest is not touched."""
    graph = proto.graph
    taken = {name for node in graph.node for name in (*node.output, node.name)} | set(_reads(graph))
    taken |= {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    nodes, weights, old = [], [], set()
    for index, node in enumerate(graph.node):
        if index not in plans:
            nodes.append(node)
            continue
        old.update(node.input[1:])
        added, constants = plan_nodes(node, plans[index], taken)
        nodes.extend(added)
        weights.extend(constants)
    copies = [_copy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    read = set(_reads(graph)) | {value.name for value in graph.output}
    unused = [k for k, tensor in enumerate(graph.initializer) if tensor.name in old and tensor.name not in read]
    for k in reversed(unused):
        del graph.initializer[k]
    gone = {name for name in old if name not in read}
    # Old files list their constants among the inputs too.
    for k in reversed([k for k, value in enumerate(graph.input) if value.name in gone]):
        del graph.input[k]
    graph.initializer.extend(weights)
    if proto.ir_version < _FREE_CONSTANTS:
        helper = onnx_package().helper
        graph.input.extend(helper.make_tensor_value_info(w.name, w.data_type, list(w.dims)) for w in weights)


def _reads(graph: Any) -> Iterator[str]:
    """Names that the nodes of a graph read, those of the graphs inside If and Loop among them."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inside in (attribute.g, *attribute.graphs):
                yield from _reads(inside)
                yield from (value.name for value in inside.output)


def _covariances(
    proto: Any, wanted: list[tuple[Site, str]], feeds: Iterable[Mapping[str, Array]]
) -> dict[str, PatchCovariance]:
    """Patch covariances of layers, by running the model with their inputs as further outputs."""
    runtime, onnx = runtime_package(), onnx_package()
    probed = onnx.ModelProto()
    probed.CopyFrom(proto)
    existing = {value.name for value in probed.graph.output}
    fed = {value.name for value in probed.graph.input}
    for name in dict.fromkeys(name for _, name in wanted):
        if name not in existing and name not in fed:
            probed.graph.output.extend([onnx.ValueInfoProto(name=name)])
    session = runtime.InferenceSession(probed.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = [value.name for value in session.get_outputs()]
    sums: dict[str, Array] = {}
    counts: Counter[str] = Counter()
    for feed in feeds:
        values = {**feed, **dict(zip(outputs, session.run(outputs, dict(feed)), strict=True))}
        for site, name in wanted:
            patches = _patches(values[name], site)
            sums[site.name] = sums.get(site.name, 0.0) + patches.T @ patches
            counts[site.name] += len(patches)
    if not sums:
        raise ValueError("calibrate holds no feed; give an iterable of dictionaries, one array for each input")
    return {site.name: PatchCovariance(sums[site.name] / counts[site.name], site.kernel.shape[1]) for site, _ in wanted}


def _patches(images: Array, site: Site) -> Array:
    """Patches (Z, S D1 D2) that a layer sees."""
    geometry, (rows, columns) = site.geometry, site.kernel.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), *geometry.padding)).astype(np.float64)
    extent = tuple(d * (k - 1) + 1 for d, k in zip(geometry.dilation, (rows, columns), strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=(2, 3))
    windows = windows[
        :, :, :: geometry.stride[0], :: geometry.stride[1], :: geometry.dilation[0], :: geometry.dilation[1]
    ]
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1] * rows * columns)


def _shapes(proto: Any) -> dict[str, tuple[int, ...]]:
    """Shapes that inference finds; 0 for a size that is not fixed."""
    inferred = onnx_package().shape_inference.infer_shapes(proto, data_prop=True)
    graph = inferred.graph
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }


def _loaded(model: Any) -> Any:
    """A checked model."""
    onnx = onnx_package()
    if isinstance(model, onnx.ModelProto):
        proto = model
    else:
        path = Path(model)
        if not path.is_file():
            raise FileNotFoundError(f"{os.fspath(model)!r} is no file")
        try:
            # External data is refused: a hostile file could name any other.
            proto = onnx.load(path, load_external_data=False)
        except Exception as error:
            raise ValueError(f"{os.fspath(model)!r} is no ONNX model: {error}") from error
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError(f"weight {tensor.name!r} is kept outside the file; save the model as a single file")
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:
        raise ValueError(f"the model is not valid: {str(error).splitlines()[0]}") from error
    return proto


def _copy(node: Any) -> Any:
    twin = type(node)()
    twin.CopyFrom(node)
    return twin
