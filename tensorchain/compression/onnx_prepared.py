"""An ONNX model whose layers are found and measured, to be compressed under one budget or several.

The layers that change are decomposed, or lose channels, or both ways are tried and the better one is taken; the graph
is written, and with calibration inputs fitted to the original's outputs (:mod:`tensorchain.compression.onnx_refit`).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tensorchain.compression.accounts import unmet_budget
from tensorchain.compression.channels import BudgetError
from tensorchain.compression.conv import LayerPlan
from tensorchain.compression.groups import kernel_of
from tensorchain.compression.latency import Clock, Times, within_latency
from tensorchain.compression.network import Measured, untouched
from tensorchain.compression.onnx_calibration import Feeds, checked_feeds, covariances_of, describe, patch_size
from tensorchain.compression.onnx_clock import OnnxClock, batched, images_of
from tensorchain.compression.onnx_gains import gains_of
from tensorchain.compression.onnx_layers import NO_SIZE, OnnxLayer, layers_of
from tensorchain.compression.onnx_narrow import Narrow, narrowed_layers
from tensorchain.compression.onnx_reading import InputInfo, check_numbers, inputs_of, load_model, stored_sizes
from tensorchain.compression.onnx_refit import Judge, behind, dense_plan, refit_onnx
from tensorchain.compression.onnx_rewriting import drop_unread, rewrite
from tensorchain.compression.onnx_session import OnnxSession, onnx_package
from tensorchain.compression.onnx_trial import random_feed
from tensorchain.compression.progress import Progress
from tensorchain.compression.refit import MOST_INPUTS
from tensorchain.compression.report import Report
from tensorchain.compression.request import BUDGETS, Request

_NOTHING = 1e-12
"""A share of the multiplications, or parameters, that no model keeps within."""
_ROUNDED = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
"""Layers of models that are quantized already."""


@dataclass(frozen=True)
class Prepared:
    """A model whose layers are found and measured, to be compressed under one budget or several.

    Attributes
    ----------
    original : onnx.ModelProto
        The model, read and checked.
    layers : list of OnnxLayer
        All of them.
    feeds : Feeds or None
        Calibration inputs.
    measured, progress : Measured and Progress
        What was measured, and what is done: curves and fits are made once.
    sizes : dict of str to tuple of int
        Shapes of inputs that the file leaves open.
    rng : int or numpy.random.Generator, optional
    narrow : Narrow or None
        Of a model some of whose channels are gone; the layers and what was measured are then those of the narrow one.
    """

    original: Any
    layers: list[OnnxLayer]
    feeds: Feeds | None
    measured: Measured
    progress: Progress
    sizes: dict[str, tuple[int, ...]]
    rng: Any
    narrow: Narrow | None = None

    @classmethod
    def of(
        cls,
        model: Any,
        request: Request,
        calibration: Feeds | None,
        input_shapes: Mapping[str, Sequence[int]],
        *,
        checkpoint: str | os.PathLike[str] | None,
        rng: Any,
    ) -> Prepared:
        """Read, check, find and measure; the errors are those of `compress_onnx`."""
        if request.fit_output and calibration is None:
            raise ValueError("fit_output needs calibration=, feeds for the model")
        original = load_model(model)
        check_numbers(original)
        inputs = inputs_of(original)
        sizes = _checked_sizes(input_shapes, inputs)
        feeds = None if calibration is None else checked_feeds(calibration, inputs)
        layers = layers_of(original, sizes, None if feeds is None else next(iter(feeds)))
        wanted = [layer for layer in layers if not request.refusal(layer.site)]
        if not wanted:
            raise ValueError(_nothing(layers, request, inputs[0].name if inputs and not sizes else ""))
        if request.method == "channels" and feeds is None:
            raise ValueError("channels are chosen by what layers see; give calibration inputs")
        if request.method == "channels" or _tries_channels(request, feeds):
            # All that a channel may go into, layers of one output among them.
            plain = [one for one in layers if one.site.groups == 1 and one.site.counts is None and one.node is not None]
            names = (
                {one.site.name for one in (*wanted, *plain)}
                if request.method == "auto"
                else {one.site.name for one in plain}
            )
            wanted = [one for one in layers if one.site.name in names]
        _check_runs(original)
        covariances = gains = None
        if feeds is not None:
            # What narrow layers lose is absorbed at once, by weights and bias, with a refit or without.
            absorbed = request.refit or request.method == "channels"
            covariances = covariances_of(original, wanted, feeds, centred=absorbed)
            # Where nothing is refitted, nothing behind a layer takes its errors back.
            gains = gains_of(original, wanted, feeds) if absorbed else None
        measured = Measured([layer.site for layer in layers], stored_sizes(original), covariances, gains)
        return cls(original, layers, feeds, measured, measured.progress(checkpoint, request, rng), sizes, rng)

    def clock(self, *, batch: int | None = None, threads: int = 1, int8: bool = False) -> Clock:
        """ONNX Runtime on this machine, with so many images of the calibration inputs, or of random numbers.

        By default one, or as many as the given shapes of the inputs say.
        """
        inputs = inputs_of(self.original)
        feed = random_feed(self.original, self.sizes) if self.feeds is None else next(iter(self.feeds))
        if feed is None:
            return OnnxClock(self.layers, None, batch=batch or 1, threads=threads, int8=int8)
        if batch is not None or self.feeds is not None:
            feed = batched(feed, inputs, batch or 1)
        return OnnxClock(self.layers, feed, batch=images_of(feed, inputs), threads=threads, int8=int8)

    def narrowed(self, request: Request) -> Prepared:
        """The same model with fewer channels, within the budget of a request for multiplications or parameters."""
        feed, seen = None if self.feeds is None else next(iter(self.feeds)), self.measured.covariances or {}
        narrow = narrowed_layers(
            self.original, self.layers, seen, request, parameters=self.measured.parameters, feed=feed,
            gains=self.measured.gains or {}, sizes=self.sizes,
        )  # fmt: skip
        sites = [layer.site for layer in narrow.layers]
        lost = sum(a.parameters - b.parameters for a, b in zip(self.measured.sites, sites, strict=True))
        measured = Measured(sites, self.measured.parameters - lost, narrow.covariances, self.measured.gains)
        return replace(self, layers=narrow.layers, measured=measured, narrow=narrow)

    def _channels(self, request: Request, times: Times) -> tuple[Any, Report]:
        """The model with fewer channels, and no layer decomposed."""
        asked, start = request, time.perf_counter()
        if request.keep_latency is not None:

            def attempt(share: float) -> tuple[float, float]:
                slim = self.narrowed(replace(request, keep_latency=None, keep_macs=share))
                return share, times.share(slim._written(request, {})[0], request.share)

            share = within_latency(request.share, attempt, least=self._fewest(request))
            asked = replace(request, keep_latency=None, keep_macs=share)
        slim = self.narrowed(asked)
        report = untouched(slim.measured.sites, slim.measured.parameters, "no channel could go")
        report = replace(report, seconds=time.perf_counter() - start)
        small, report = slim._fitted(request, {}, report)
        return small, times.told(_beside(self.measured, slim, report), request, small)

    def least_share(self, request: Request, times: Times | None = None) -> float:
        """The smallest budget that can be met."""
        if request.method == "channels":
            return self._fewest(request)
        return self.measured.least_share(request, self.rng, self.progress, times)

    def _fewest(self, request: Request) -> float:
        """What is left with the fewest channels, as a share of what the budget, or else the multiplications, count."""
        budget = "keep_macs" if request.keep_latency is not None else request.budget
        nothing: dict[str, Any] = {**dict.fromkeys(BUDGETS), budget: _NOTHING}
        try:
            self.narrowed(replace(request, **nothing))
        except BudgetError as reason:
            # Rounding must not make it too small.
            return min(reason.cost * (1.0 + 1e-9), 1.0)
        return _NOTHING

    def compressed(self, request: Request, times: Times | None = None) -> tuple[Any, Report]:
        """The model under the budget of a request, which else is the one of `of`."""
        times = times or Times(self.clock(), self.original)
        if request.method == "channels":
            return self._channels(request, times)
        if not _tries_channels(request, self.feeds):
            return self._decomposed(request, times)
        try:
            whole = self._decomposed(request, times)
        except ValueError as reason:
            try:
                return self._channels(request, times)
            except ValueError:
                raise reason from None
        try:
            narrow = self._channels(request, times)
        except ValueError:
            return whole
        judge = Judge.of(OnnxSession(self.original), self.feeds or [], sum(1 for _ in self.feeds or []))
        return min((whole, narrow), key=lambda pair: judge.measured(OnnxSession(pair[0]), {}))

    def _decomposed(self, request: Request, times: Times) -> tuple[Any, Report]:
        """The model with decomposed layers."""
        least = self.least_share(request, times)
        if request.keep_latency is None:
            self._check_budget(request, least)
            plans, report = self.measured.planned(request, self.rng, self.progress, times)
            return self._fitted(request, plans, report)

        def attempt(asked: float) -> tuple[float, float]:
            # Times hardly depend on the values of the weights.
            plans, _ = self.measured.planned(request.at(asked), self.rng, self.progress, times, blank=True)
            return asked, times.share(self._written(request, plans)[0], request.share)

        asked = within_latency(request.share, attempt, least=least)
        plans, report = self.measured.planned(request.at(asked), self.rng, self.progress, times)
        small, report = self._fitted(request, plans, report)
        return small, times.told(report, request, small)

    def _check_budget(self, request: Request, least: float) -> None:
        """ValueError where a budget of multiplications or parameters cannot be met."""
        if request.share >= least:
            return
        whole = self.measured.parameters
        if request.budget == "keep_macs":
            whole = sum(site.macs for site in self.measured.sites)
        raise ValueError(unmet_budget(self.measured.sites, request, least, max(whole, 1)))

    def _written(self, request: Request, plans: Mapping[str, LayerPlan]) -> tuple[Any, list[OnnxLayer], Any, Any]:
        """The model with the plans, the layers that are fitted, and the plans and the names of the weights of these."""
        small = onnx_package().ModelProto()
        small.CopyFrom(self.original)
        fitted, old = [layer for layer in self.layers if layer.site.name in plans], set[str]()
        if self.narrow is not None:
            old = self.narrow.cut(small)
            fitted = [one for one in self.layers if one.site.name in plans or one.site.name in self.narrow.changed]
        everything = {one.site.name: plans.get(one.site.name) or dense_plan(one) for one in fitted}
        if request.refit and self.feeds is not None and fitted:
            movable = ("", "depthwise", "one channel")
            stayed = [one for one in self.layers if one.site.name not in everything]
            stayed = [one for one in stayed if request.refusal(one.site) in movable]
            stayed = [one for one in stayed if patch_size(one.site) <= MOST_INPUTS]
            fitted += behind(self.original.graph, fitted, stayed)
            everything = {one.site.name: plans.get(one.site.name) or dense_plan(one) for one in fitted}
        weights = rewrite(small, fitted, everything)
        drop_unread(small.graph, old)
        return small, fitted, everything, weights

    @property
    def _answering(self) -> set[str]:
        """Names of narrow layers that have lost columns."""
        if self.narrow is None:
            return set()
        columns = self.narrow.channels.columns
        return {name for name in self.narrow.changed if name in columns and not self.narrow.stay(columns[name]).all()}

    def _fitted(self, request: Request, plans: Mapping[str, LayerPlan], report: Report) -> tuple[Any, Report]:
        """The model with the plans, fitted to the original's outputs where that is asked for."""
        small, fitted, everything, weights = self._written(request, plans)
        if fitted and request.refit and self.feeds is not None:
            small_enough = [layer for layer in fitted if patch_size(layer.site) <= MOST_INPUTS]
            better, errors = refit_onnx(
                self.original, small, small_enough, everything, weights, self.feeds, must={*plans, *self._answering}
            )
            report = _told(report, self.layers, better, errors)
        if fitted:
            _check_runs(small)
        # What layers do not account for: constants that were shared or cut, biases of layers that had none.
        return small, replace(report, parameters=(report.parameters[0], stored_sizes(small)))


def _tries_channels(request: Request, feeds: Feeds | None) -> bool:
    """Whether narrow layers are a method among those that are tried."""
    return request.method == "auto" and feeds is not None and request.refit and request.pointwise


def _beside(before: Measured, slim: Prepared, report: Report) -> Report:
    """The report of a narrow model, with the counts of the original."""
    layers = []
    for site, layer, entry in zip(before.sites, slim.layers, report.layers, strict=True):
        entry = replace(entry, parameters=(site.parameters, entry.parameters[1]), macs=(site.macs, entry.macs[1]))
        if layer.site.kernel.shape != site.kernel.shape and entry.method == "dense":
            channels = layer.site.kernel.shape[1] * layer.site.groups, len(layer.site.kernel)
            entry = replace(entry, method="channels", rank=channels)
        layers.append(entry)
    macs = sum(site.macs for site in before.sites), sum(layer.macs[1] for layer in layers)
    return replace(report, layers=tuple(layers), parameters=(before.parameters, report.parameters[1]), macs=macs)


def _checked_sizes(given: Mapping[str, Sequence[int]], inputs: Sequence[InputInfo]) -> dict[str, tuple[int, ...]]:
    """Shapes by name; a single input need not be named."""
    known = {one.name: one for one in inputs}
    sizes = {}
    for name, shape in given.items():
        if not name and len(known) == 1:
            name = next(iter(known))
        if name not in known:
            raise ValueError(f"input_shapes names {name!r}; the inputs are {', '.join(map(repr, known))}")
        if any(int(n) < 1 for n in shape):
            raise ValueError(f"input_shapes gives {tuple(shape)} for {name!r}; sizes of at least 1 are needed")
        own = known[name].shape
        if own is not None and (
            len(own) != len(shape) or any(n not in (0, m) for n, m in zip(own, shape, strict=True))
        ):
            raise ValueError(f"input_shapes gives {tuple(shape)} for {name!r}; {describe(known[name])} is needed")
        sizes[name] = tuple(int(n) for n in shape)
    return sizes


def _nothing(layers: Sequence[OnnxLayer], request: Request, name: str) -> str:
    """Why no layer can be replaced, each reason once, and what to do; `name` of an input whose sizes would help."""
    reasons = Counter(request.refusal(layer.site).split(";")[0] for layer in layers)
    if not reasons:
        return "no convolution and no product with a constant matrix is in the model; there is nothing to compress"
    why = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
    cure = "see `tensorchain compress --help` for what is replaced"
    if NO_SIZE in reasons:
        cure = "give calibration inputs"
        cure += (
            f", or the shape of the input (--input-shape {name}=1,3,224,224)" if name else ": sizes depend on values"
        )
    elif set(reasons) == {"shares its weight"}:
        cure = "export the network so that each layer is called once, on a batch of all its inputs"
    elif any(reason.startswith("inside") for reason in reasons):
        cure = "export the model without control flow, or take a version of it with one branch"
    elif any(reason == "its weight is stored in few bits" or reason.startswith(_ROUNDED) for reason in reasons):
        cure = "compress the model before it is quantized"
    return f"no convolution or matrix can be replaced ({why}); {cure}"


def _check_runs(proto: Any) -> None:
    """ValueError where ONNX Runtime does not open the model; nothing where it is not installed."""
    try:
        OnnxSession(proto)
    except ImportError:
        return


def _told(
    report: Report, layers: Sequence[OnnxLayer], plans: Mapping[str, LayerPlan], errors: Mapping[str, float]
) -> Report:
    """The report with the figures of the refitted plans."""
    told = []
    for layer, entry in zip(layers, report.layers, strict=True):
        if entry.method != "dense" and entry.name in errors:
            plan, kernel = plans[entry.name], layer.site.kernel
            change = kernel_of(plan, layer.site.groups) - kernel
            error = float(np.linalg.norm(change) / np.linalg.norm(kernel))
            figures = error, errors[entry.name], plan.sensitivity(relative=True)
            entry = replace(entry, error=figures[0], output_error=figures[1], sensitivity=figures[2])
        elif entry.name in plans:
            entry = replace(entry, parameters=(entry.parameters[0], plans[entry.name].parameters))
        told.append(entry)
    return replace(report, layers=tuple(told))
