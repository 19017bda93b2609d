"""Train a compressed ONNX model to give what the original gives, without labels.

The weights and biases of its layers are trained in PyTorch (:mod:`tensorchain.compression.onnx_torch`) on

    mean over outputs of E(output)  +  mean over layers of E(output of the layer),
    E(y~) = mean over channels c of  sum |y~_c - y_c|^2 / (sum |y_c - mean y_c|^2 + floor),

with y the values of the original on the same inputs.  Every channel (axis 1) weighs alike, so that scores between 0 and
1 count beside coordinates of some hundreds; the floor, a tenth of the median, leaves channels aside that never vary.
Outputs of layers have the names that they had in the original, and are compared too: with few inputs they say more than
the outputs of the network alone.

Adam; the step of each tensor is a share of its root mean square, which rises over the first tenth of the steps and
falls to zero with a cosine.  Every fourth run is held out.  After each epoch the error of the outputs is measured on
these, and the best weights, those before the first epoch among them, are what is returned; the error of the result is
measured in ONNX Runtime.  Nothing else of the model changes.

References: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network" (2015); Romero et al., "FitNets"
(2015), for the outputs of inner layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorchain.compression.onnx_calibration import Feeds, checked_feeds
from tensorchain.compression.onnx_operators import NotExpressedError
from tensorchain.compression.onnx_reading import inputs_of, load_model
from tensorchain.compression.onnx_session import OnnxSession, onnx_package
from tensorchain.compression.onnx_torch import TorchGraph
from tensorchain.kernels import Array

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_EACH = 4
"""One run of so many is held out."""
_FLOOR = 0.1
_AGREE = 1e-2
"""Most relative difference of the values of PyTorch from those of ONNX Runtime."""


@dataclass(frozen=True)
class Restored:
    """What a restoration did.

    Attributes
    ----------
    errors : tuple of float
        Root of the mean of E over the outputs on the runs that were held out: before the first epoch, and after each.
    best : int
        Epoch whose weights were taken; 0 for those before.
    trained : int
        Numbers that were trained.
    missing : tuple of str
        Outputs that could not be compared, with the reason.

    Examples
    --------
    >>> from tensorchain.compression import Restored
    >>> Restored((0.5, 0.2), 1, 100, ()).errors[1]
    0.2
    """

    errors: tuple[float, ...]
    best: int
    trained: int
    missing: tuple[str, ...]


def restore_onnx(
    original: Any,
    small: Any,
    calibration: Feeds,
    *,
    epochs: int = 3,
    rate: float = 3e-4,
    rng: int | np.random.Generator | None = 0,
) -> tuple[Any, Restored]:
    """A copy of a compressed model whose weights are trained to give the original's outputs.

    Parameters
    ----------
    original, small : str, os.PathLike[str] or onnx.ModelProto
        The models before and after compression.
    calibration : Feeds
        Feeds for ONNX Runtime, one dictionary of inputs by name for each batch; two or more.  Every fourth is held out.
    epochs : int, default 3
        Passes over the others.
    rate : float, default 0.0003
        Largest step of a weight, as a share of the root mean square of its tensor.
    rng : int or numpy.random.Generator, optional
        Order of the feeds.

    Returns
    -------
    tuple of (onnx.ModelProto, Restored)
        On the feeds that were held out its outputs are never further from the original's than those of `small`.

    Raises
    ------
    ImportError
        Without PyTorch, onnx or ONNX Runtime.
    ValueError
        With fewer than two feeds, or where no output can be computed in PyTorch; the operators are named.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.compression import Convolution, LayerPlan, compress_onnx
    >>> from tensorchain.compression.onnx_nodes import layer_model
    >>> rng = np.random.default_rng(0)
    >>> weight = rng.standard_normal((16, 8, 3, 3)).astype("float32")
    >>> model = layer_model(LayerPlan("dense", None, (Convolution(weight),)), (12, 12))
    >>> feeds = [{"x": rng.standard_normal((4, 8, 12, 12)).astype("float32").cumsum(3)} for _ in range(8)]
    >>> small, _ = compress_onnx(model, "tucker2", keep_macs=0.4, candidates=3)
    >>> better, report = restore_onnx(model, small, feeds, epochs=4)
    >>> 0 < report.errors[report.best] < report.errors[0]
    True
    """
    torch = _torch()
    if epochs < 1:
        raise ValueError(f"epochs is {epochs!r}; at least 1 is needed")
    if not 0.0 < rate < 1.0:
        raise ValueError(f"rate is {rate!r}; a number between 0 and 1 is needed")
    original, small = load_model(original), load_model(small)
    feeds = list(checked_feeds(calibration, inputs_of(original)))
    if len(feeds) < 2:
        raise ValueError("one run of calibration inputs was given; two or more are needed, since some are held out")
    held = feeds[_EACH - 1 :: _EACH] or feeds[-1:]
    seen = [feed for k, feed in enumerate(feeds) if k % _EACH != _EACH - 1][: len(feeds) - len(held)]
    outputs = [value.name for value in original.graph.output]
    layers = _layer_outputs(original, small)
    stored = _trained(small)
    if not stored:
        raise ValueError("no weight of a convolution or matrix is an initializer of the compressed model")
    graph = TorchGraph(small, stored, [*outputs, *(name for name in layers if name not in outputs)])
    wanted = [name for name in outputs if name in graph.wanted]
    _check_expressed(graph, outputs, wanted)
    lesson = _Lesson(graph, OnnxSession(original, graph.wanted), set(wanted), {})
    weights = {name: _parameter(array) for name, array in stored.items()}
    lesson.measure(seen)
    _check_agrees(graph, weights, seen[0], OnnxSession(small, graph.wanted))
    errors, best, taken = [lesson.error(weights, held)], 0, {k: w.detach().clone() for k, w in weights.items()}
    groups = [{"params": [w], "scale": max(float(w.detach().square().mean()) ** 0.5, 1e-4)} for w in weights.values()]
    optimizer = torch.optim.Adam(groups, lr=rate, betas=(0.9, 0.99))
    order, steps, step = np.random.default_rng(rng), epochs * len(seen), 0
    for epoch in range(1, epochs + 1):
        for k in order.permutation(len(seen)):
            step += 1
            warm = min(1.0, step / max(1.0, 0.1 * steps))
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"] * warm * 0.5 * (1.0 + math.cos(math.pi * (step - 1) / steps))
            optimizer.zero_grad()
            loss = lesson.loss(weights, seen[k])
            if not bool(torch.isfinite(loss)):
                break
            loss.backward()
            optimizer.step()
        errors.append(lesson.error(weights, held))
        if errors[-1] < errors[best]:
            best, taken = epoch, {name: w.detach().clone() for name, w in weights.items()}
    result = _with(small, {name: w.numpy() for name, w in taken.items()}) if best else small
    before, after = (_runtime_error(lesson, model, held, wanted) for model in (small, result))
    if best and not after < before:
        best, result = 0, small
    missing = tuple(f"{name}: {why}" for name, why in graph.missing.items() if name in outputs)
    return result, Restored(tuple(errors), best, sum(w.numel() for w in weights.values()), missing)


@dataclass(frozen=True)
class _Lesson:
    """What is compared, and how its parts weigh."""

    graph: TorchGraph
    teacher: OnnxSession
    outputs: set[str]
    scales: dict[str, Array]

    def measure(self, feeds: Sequence[Mapping[str, Array]]) -> None:
        """The variation of every channel of the original's values, a mean over entries."""
        sums: dict[str, list[Any]] = {}
        for feed in feeds:
            for name, values in self.teacher.run(feed, self.graph.wanted).items():
                rows = _by_channel(values).astype(np.float64)
                found = [rows.shape[1], rows.sum(1), (rows**2).sum(1)]
                own = sums.get(name)
                if own is not None and len(own[1]) != len(found[1]):
                    # Axis 1 has another size in each run: its entries are no channels, and all weigh alike.
                    own, found = (
                        [count * len(first), first.sum(keepdims=True), second.sum(keepdims=True)]
                        for count, first, second in (own, found)
                    )
                sums[name] = found if own is None else [mine + more for mine, more in zip(own, found, strict=True)]
        for name, (count, first, second) in sums.items():
            spread = np.maximum(second / count - (first / count) ** 2, 0.0)
            positive = spread[spread > 0.0]
            floor = _FLOOR * float(np.median(positive)) if len(positive) else 1.0
            self.scales[name] = (spread + floor).astype(np.float32)

    def parts(self, weights: Mapping[str, Any], feed: Mapping[str, Array]) -> dict[str, Any]:
        """E of every value."""
        import torch

        goals = self.teacher.run(feed, self.graph.wanted)
        found = self.graph.run(weights, self.graph.outside(feed))
        parts = {}
        for name, value in found.items():
            gap = _by_channel(value - torch.as_tensor(np.asarray(goals[name], np.float32)))
            parts[name] = (gap.square().mean(1) / torch.as_tensor(self.scales[name])).mean()
        return parts

    def loss(self, weights: Mapping[str, Any], feed: Mapping[str, Array]) -> Any:
        """The sum that is trained on."""
        parts = self.parts(weights, feed)
        groups = [[e for name, e in parts.items() if (name in self.outputs) == outer] for outer in (True, False)]
        return sum(sum(group) / len(group) for group in groups if group)

    def error(self, weights: Mapping[str, Any], feeds: Iterable[Mapping[str, Array]]) -> float:
        """Root of the mean of E over the outputs."""
        import torch

        with torch.no_grad():
            found = [
                float(e) for feed in feeds for name, e in self.parts(weights, feed).items() if name in self.outputs
            ]
        mean = sum(found) / len(found)
        return math.sqrt(mean) if math.isfinite(mean) else math.inf


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError("restoring an ONNX model needs PyTorch: pip install tensorchain[torch]") from error
    return torch


def _parameter(array: Array) -> Any:
    """In single precision, or double where it was."""
    import torch

    dtype = np.float64 if array.dtype == np.float64 else np.float32
    return torch.tensor(np.array(array, dtype), requires_grad=True)


def _by_channel(values: Any) -> Any:
    """(channels, entries): axis 1 first where there is one."""
    if values.ndim < 2:
        return values.reshape(1, -1)
    return values.swapaxes(0, 1).reshape(values.shape[1], -1)


def _layer_outputs(original: Any, small: Any) -> list[str]:
    """Outputs of layers that both models have."""
    there = {name for node in small.graph.node for name in node.output}
    return [n.output[0] for n in original.graph.node if n.op_type in _LAYERS and n.output[0] in there]


def _trained(small: Any) -> dict[str, Array]:
    """The weights and biases of layers that are initializers of floating point, by name."""
    onnx = onnx_package()
    fed = {value.name for value in small.graph.input}
    read = {name for node in small.graph.node if node.op_type in _LAYERS for name in node.input}
    casts = {node.output[0]: node.input[0] for node in small.graph.node if node.op_type == "Cast"}
    read |= {casts[name] for name in read if name in casts}
    found = {}
    for tensor in small.graph.initializer:
        if tensor.name in read and (tensor.name not in fed or small.ir_version < 4):
            array = np.asarray(onnx.numpy_helper.to_array(tensor))
            if array.dtype.kind == "f" and array.size:
                found[tensor.name] = array
    return found


def _check_expressed(graph: TorchGraph, outputs: Sequence[str], wanted: Sequence[str]) -> None:
    if wanted:
        return
    why = sorted({graph.missing[name] for name in outputs if name in graph.missing})
    if not why:
        raise ValueError("no output depends on the weights of a layer; there is nothing to restore")
    raise ValueError(
        f"the model cannot be restored: its outputs come through {', '.join(why)}, which has no differentiable form "
        "here; leave the restoration out, or restore the network in the framework that it was trained in"
    )


def _check_agrees(
    graph: TorchGraph, weights: Mapping[str, Any], feed: Mapping[str, Array], runtime: OnnxSession
) -> None:
    """ValueError where PyTorch gives other values than ONNX Runtime."""
    import torch

    expected = runtime.run(feed, graph.wanted)
    with torch.no_grad():
        try:
            found = graph.run(weights, graph.outside(feed))
        except NotExpressedError as error:
            raise ValueError(f"the model cannot be restored: {error} has no differentiable form here") from error
    for name, value in found.items():
        goal = np.asarray(expected[name], np.float64)
        gap = (
            float(np.linalg.norm(value.double().numpy().reshape(goal.shape) - goal))
            if value.numel() == goal.size
            else math.inf
        )
        if not gap <= _AGREE * max(float(np.linalg.norm(goal)), 1e-12):
            raise ValueError(
                f"the model cannot be restored: {name!r} has other values in PyTorch than in ONNX Runtime; leave the "
                "restoration out"
            )


def _runtime_error(lesson: _Lesson, model: Any, feeds: Iterable[Mapping[str, Array]], wanted: Sequence[str]) -> float:
    """The error of the outputs in ONNX Runtime."""
    session, found = OnnxSession(model), []
    for feed in feeds:
        goals, values = lesson.teacher.run(feed, wanted), session.run(feed, wanted)
        for name in wanted:
            gap = _by_channel(np.asarray(values[name], np.float64) - np.asarray(goals[name], np.float64))
            found.append(float(np.mean(np.mean(gap**2, 1) / lesson.scales[name])))
    return math.sqrt(sum(found) / len(found))


def _with(small: Any, weights: Mapping[str, Array]) -> Any:
    """A copy with new values in its initializers."""
    onnx = onnx_package()
    model = onnx.ModelProto()
    model.CopyFrom(small)
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name].astype(dtype), tensor.name))
    return model
