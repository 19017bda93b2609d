"""One run: compress a trained network, measure it, restore it, measure it again, round it, export it.

Stages of a run, each a row:

    dense          the network as it was trained
    compressed     new layers in place, nothing else touched
    recalibrated   means and variances of the normalisations measured again on training images
    epoch n        after n epochs of restoration
    quantized      weights and activations of all layers on grids of few bits, by `quantize`
    trained        the same after one more epoch, with straight-through gradients
    int8           the ONNX file that ONNX Runtime's own quantizer makes, run by ONNX Runtime

With `bits`, the recalibrated and the restored network are also measured with the weights of the new layers rounded, one
step a layer (minmax), and the normalisations measured again.

Choices are made on validation accuracy; test accuracy stands beside it.  An epoch of restoration may be a part of the
training images, drawn anew each epoch: `images` says how many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.networks import data, graph, stored, train
from benchmarks.networks.rows import Row
from tensorchain.compression import (
    LayerPlan,
    compress,
    compress_in_steps,
    fit_kernel,
    module_of,
    multilinear_rank,
    quantize,
    quantize_onnx,
    recalibrate,
    restore,
)
from tensorchain.compression.torch_sensitivity import sensitivity_of
from tensorchain.compression.torch_sites import sites_of
from tensorchain.compression.training import decomposed

CALIBRATION = 2000
"""Training images, not augmented, with which normalisations, covariances and ranges are measured."""
FIT_SECONDS = 30.0
"""Limit of each run of a fit; a fit that reaches it counts as not stabilised."""
SENSITIVITY_WEIGHT = 1e-2
STEPS = 3
"""Of the selection of ranks in several steps; an epoch of restoration lies between two of them."""


@dataclass(frozen=True)
class Run:
    """What is done.

    Attributes
    ----------
    network : stem of the weight file.
    method : of the layers of several taps; 1 x 1 and linear layers get an SVD.
    selection : of the ranks: "global", "one-step", "multi-step" or "evbmf", which knows no budget.
    budget, times : multiplications ("macs") or parameters ("params"), and how many times fewer.
    stabilised, fit_output : as in `compress`.
    seed : of the fits and of the batches.
    epochs, images, rate, precision : of the restoration; "bfloat16" trains a third faster where processors have it.
    bits : of the rounded weights that are measured.
    quantized : pairs (weight bits, activation bits) for the stages "quantized" and "trained".
    int8 : whether the int8 file is made.
    """

    network: str
    method: str
    selection: str = "global"
    budget: str = "macs"
    times: float = 3.0
    stabilised: bool = True
    fit_output: bool = False
    seed: int = 0
    epochs: int = 3
    images: int = 10_000
    rate: float = 0.01
    precision: str = "float32"
    bits: tuple[int, ...] = ()
    quantized: tuple[tuple[int, int], ...] = ()
    int8: bool = False

    @property
    def name(self) -> str:
        """A name that tells it from others of its network."""
        how = f"{'' if self.stabilised else '-plain'}{'-output' if self.fit_output else ''}"
        how += "" if self.epochs else "-unrestored"
        kept = self.selection if self.selection == "evbmf" else f"{self.selection}-{self.budget}-{self.times:g}x"
        return f"{self.method}-{kept}{how}{'-bits' if self.quantized else ''}-seed{self.seed}"

    @property
    def columns(self) -> Row:
        """The run as columns of its rows."""
        told = asdict(self)
        for name in ("bits", "quantized", "int8"):
            del told[name]
        return {"run": self.name, **told}


@dataclass
class Bench:
    """A trained network with its data.

    Parameters
    ----------
    path : weight file.
    splits : its data.
    test_images : how many test images are used; all by default.
    """

    path: Path
    splits: data.Splits
    test_images: int | None = None

    def __post_init__(self) -> None:
        if self.test_images is not None:
            test = self.splits.test
            self.splits = replace(self.splits, test=data.Subset(test.source, test.indices[: self.test_images]))
        self.net, self.recipe = train.trained(self.path)
        self.net.to(memory_format=torch.channels_last)
        self.dense = stored.read(self.path)
        train_part = self.splits.train
        kept = data.Subset(train_part.source, train_part.indices[:: max(1, len(train_part) // CALIBRATION)])
        self.calibration = [
            (torch.from_numpy(images).contiguous(memory_format=torch.channels_last), torch.from_numpy(labels))
            for images, labels in self.splits.batches(kept, 250)
        ]

    @property
    def side(self) -> int:
        """Height of an image."""
        return self.splits.side

    def accuracies(self, net: nn.Module, validation: bool = True) -> Row:
        """Test and validation accuracy, in percent."""
        parts = ("test", "validation") if validation else ("test",)
        return {part: round(100.0 * train.accuracy(net, self.splits, part), 3) for part in parts}

    def dense_rows(self) -> list[Row]:
        """The row of the network as it was trained."""
        network = self.path.stem
        sizes = {"parameters": self.dense.parameters, "macs": self.dense.macs(self.side)}
        file = {"file_bytes": len(graph.onnx_model(self.dense, self.side).SerializeToString())}
        told = {"run": "dense", "network": network, "method": "dense", "stage": "dense"}
        return [{**told, **self.accuracies(self.net), **sizes, **file, "test_images": len(self.splits.test)}]


class Passes:
    """What `restore` goes through: calibration images at first, then parts of the training images, each drawn anew."""

    def __init__(self, bench: Bench, images: int, seed: int, batch: int = 128) -> None:
        self.bench, self.seed, self.batch, self.passed = bench, seed, batch, 0
        self.images = min(images, len(bench.splits.train))

    def __len__(self) -> int:
        return -(-self.images // self.batch)

    def __call__(self) -> Iterator[Any]:
        self.passed += 1
        if self.passed == 1:
            return iter(self.bench.calibration)
        rng = np.random.default_rng([self.seed, self.passed])
        part = self.bench.splits.train
        drawn = data.Subset(part.source, rng.permutation(part.indices)[: self.images])
        return train.loader(replace(self.bench.splits, train=drawn), "train", self.batch, rng)


def smooth_cross_entropy(outputs: Any, labels: Any) -> Any:
    """The loss that the networks were trained with."""
    return nn.functional.cross_entropy(outputs, labels, label_smoothing=0.1)


def run(bench: Bench, told: Run, say: Callable[[str], object] = lambda text: None) -> tuple[list[Row], Row, Any]:
    """The rows of a run, its ranks by layer, and the network at its end."""
    started = time.perf_counter()
    small, ranks, fits = compressed(bench, told)
    plans = {name: plan for name, (plan, _) in ranks.items()}
    network = bench.dense.with_plans(plans)
    note = _Notes(bench, told, network, fits, started, say)
    note("compressed", small, fit_seconds=round(time.perf_counter() - started, 1))
    recalibrate(small, bench.calibration)
    note("recalibrated", small)
    for bits in told.bits:
        note("recalibrated", rounded(bench, small, plans, bits), validation=False, bits=bits)
    weight = SENSITIVITY_WEIGHT if told.stabilised else 0.0
    parts = decomposed(small)
    start = [float(sensitivity_of(part).detach()) for part in parts]

    def after(epoch: int, figures: Any) -> None:
        growth = [float(sensitivity_of(part).detach()) / first for part, first in zip(parts, start, strict=True)]
        more = {"loss": round(figures.loss, 4), "sensitivity_growth": round(float(np.mean(growth or [1.0])), 4)}
        note(f"epoch {epoch + 1}", small, validation=epoch + 1 == told.epochs, **more)

    if told.epochs:
        passes = Passes(bench, told.images, told.seed)
        with reduced(small, told.precision):
            restore(small, passes, told.epochs, rate=told.rate, sensitivity=weight, loss=smoothed, callback=after)
    model = graph.onnx_model(filled(network, small), bench.side)
    note.rows[-1]["file_bytes"] = len(model.SerializeToString())
    if told.epochs:
        for bits in told.bits:
            note(f"epoch {told.epochs}", rounded(bench, small, plans, bits), validation=False, bits=bits)
    for pair in told.quantized:
        few = quantize(small, bench.calibration, *pair)
        bits = {"weight_bits": pair[0], "activation_bits": pair[1]}
        note("quantized", few, validation=False, **bits)
        restore(few, Passes(bench, told.images, told.seed), 1, rate=told.rate, loss=smoothed)
        note("trained", few, validation=False, **bits)
    if told.int8:
        note.add("int8", int8(bench, model))
    return note.rows, {name: rank for name, (_, rank) in ranks.items()}, filled(network, small)


class _Notes:
    """The rows of a run, one for each call."""

    def __init__(
        self, bench: Bench, told: Run, network: stored.Stored, fits: Row, started: float, say: Callable[[str], object]
    ) -> None:
        self.bench, self.started, self.say = bench, started, say
        self.rows: list[Row] = []
        sizes = {"parameters": network.parameters, "macs": network.macs(bench.side)}
        self.common = {**told.columns, **sizes, **fits, "test_images": len(bench.splits.test)}

    def __call__(self, stage: str, net: nn.Module, validation: bool = True, **more: Any) -> None:
        self.add(stage, {**more, **self.bench.accuracies(net, validation)})

    def add(self, stage: str, measured: Row) -> None:
        seconds = round(time.perf_counter() - self.started, 1)
        self.rows.append({**self.common, "stage": stage, **measured, "seconds": seconds})
        self.say(f"  {stage:<14}" + "  ".join(f"{name} {value}" for name, value in measured.items()))


@contextmanager
def reduced(net: nn.Module, precision: str) -> Iterator[None]:
    """Training passes in bfloat16, if asked for; all measuring stays in single precision."""
    if precision == "float32":
        yield
        return
    plain = net.forward

    def forward(inputs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=net.training):
            return plain(inputs).float()

    net.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del net.forward


def smoothed(outputs: Any, labels: Any) -> Any:
    """The loss that the networks were trained with."""
    return nn.functional.cross_entropy(outputs, labels, label_smoothing=0.1)


def compressed(bench: Bench, told: Run) -> tuple[nn.Module, dict[str, tuple[LayerPlan, Any]], Row]:
    """The network with new layers, their plans and ranks, and what the fits say."""
    example = bench.calibration[0][0][:1]
    if told.selection == "evbmf":
        return _by_evbmf(bench, told, example)
    kept = {"macs": "keep_macs", "params": "keep_params"}[told.budget]
    options: dict[str, Any] = {
        kept: 1.0 / told.times, "calibration": bench.calibration if told.fit_output else None, "refit": False,
        "rng": told.seed,
        "stabilise": told.stabilised, "fit_output": told.fit_output, "max_seconds": FIT_SECONDS,
    }  # fmt: skip
    if told.selection == "multi-step":
        between = _Between(bench, told)
        small = compress_in_steps(bench.net, example, told.method, steps=STEPS, restoring=between, **options)
    else:
        small = compress(bench.net, example, told.method, allocation=told.selection, **options)
    small.to(memory_format=torch.channels_last)
    layers = [layer for layer in small.report.layers if layer.method != "dense"]
    sites = {site.name: site for site in sites_of(bench.net, example)}
    plans = {}
    for layer in layers:
        plan = plan_in(small.get_submodule(layer.name), layer.method, layer.rank, sites[layer.name].geometry)
        plans[layer.name] = (plan, layer.rank)
    return small, plans, _figures(layers)


class _Between:
    """One epoch of restoration after every step but the last."""

    def __init__(self, bench: Bench, told: Run) -> None:
        self.bench, self.told, self.done = bench, told, 0

    def __call__(self, net: nn.Module) -> None:
        self.done += 1
        if self.done < STEPS:
            weight = SENSITIVITY_WEIGHT if self.told.stabilised else 0.0
            passes = Passes(self.bench, self.told.images, self.told.seed + 100 * self.done)
            with reduced(net, self.told.precision):
                restore(net, passes, 1, rate=self.told.rate, sensitivity=weight, loss=smoothed)


def plan_in(sequence: Any, method: str, rank: Any, geometry: Any) -> LayerPlan:
    """The plan that a sequence of modules came from."""
    from tensorchain.compression import Convolution, Fold, Geometry, Unfold
    from tensorchain.compression.torch_layers import geometry_of

    steps: list[Any] = []
    for module in sequence:
        if isinstance(module, nn.Conv2d):
            bias = None if module.bias is None else module.bias.detach().numpy()
            steps.append(Convolution(module.weight.detach().numpy(), geometry_of(module), module.groups, bias))
        elif isinstance(module, nn.Linear):
            bias = None if module.bias is None else module.bias.detach().numpy()
            steps.append(Convolution(module.weight.detach().numpy()[:, :, None, None], Geometry(), 1, bias))
        else:
            steps.append(Unfold(module.groups) if module.back else Fold(module.groups))
    return LayerPlan(method, rank, tuple(steps))


def filled(network: stored.Stored, net: nn.Module) -> stored.Stored:
    """A stored network with the weights that a module has now."""
    state = {name: value.detach().cpu().numpy() for name, value in net.state_dict().items()}
    return replace(network, state=state)


def rounded(bench: Bench, small: nn.Module, plans: Any, bits: int) -> nn.Module:
    """A copy with the weights of the new layers rounded, one step a layer."""
    new = {name for name, module in small.named_modules() if _owner(name) in plans and hasattr(module, "weight")}
    copy = quantize(small, bench.calibration, dict.fromkeys(new, bits), None, per_channel=False, weight_range="minmax")
    recalibrate(copy, bench.calibration)
    return copy


def int8(bench: Bench, model: Any) -> Row:
    """Size and accuracies of the int8 file."""
    import logging

    import onnxruntime

    # It advises a step that is done here already: the normalisations are part of the weights.
    logging.getLogger().setLevel(logging.ERROR)
    feeds = [{graph.INPUT: images.numpy()} for images, _ in bench.calibration]
    small = graph.short_names(quantize_onnx(model, feeds[:4], per_channel=False))
    raw = small.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    found: Row = {"file_bytes": len(raw)}
    for part in ("test", "validation"):
        subset, right = getattr(bench.splits, part), 0
        for images, labels in bench.splits.batches(subset, 250):
            right += int((session.run(None, {graph.INPUT: images})[0].argmax(1) == labels).sum())
        found[part] = round(100.0 * right / len(subset), 3)
    return found


def _by_evbmf(bench: Bench, told: Run, example: Any) -> tuple[nn.Module, dict[str, tuple[LayerPlan, Any]], Row]:
    """Tucker-2 with ranks from EVBMF where that is cheaper; there is no budget."""
    import copy

    small, plans, fits = copy.deepcopy(bench.net), {}, []
    for site in sites_of(bench.net, example):
        if site.pointwise or min(site.kernel.shape[:2]) < 2:
            continue
        rank = multilinear_rank(site.kernel)
        fit = fit_kernel(site.kernel, "tucker2", rank, geometry=site.geometry, bias=site.bias, rng=told.seed)
        if fit.plan.macs(site.image) >= site.macs:
            continue
        plans[site.name] = (fit.plan, rank)
        fits.append(fit)
        owner = small.get_submodule(_owner(site.name))
        last = site.name.rpartition(".")[2]
        setattr(owner, last, module_of(fit.plan, getattr(owner, last)))
    small.to(memory_format=torch.channels_last)
    return small.eval(), plans, _figures(fits)


def _figures(fits: list[Any]) -> Row:
    """Means over the new layers."""
    outputs = [fit.output_error for fit in fits if fit.output_error is not None]
    return {
        "layers": len(fits),
        "layers_stabilised": sum(bool(fit.stabilised) for fit in fits),
        "mean_error": round(float(np.mean([fit.error for fit in fits])), 5),
        "mean_output_error": round(float(np.mean(outputs)), 5) if outputs else "",
        "median_sensitivity": round(float(np.median([fit.sensitivity for fit in fits])), 2),
    }


def _owner(name: str) -> str:
    return name.rpartition(".")[0]
