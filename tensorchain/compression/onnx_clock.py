"""Seconds of layers and of whole models in ONNX Runtime, for a budget of time.

A layer is timed as a model of its own, with as many images as the whole models get, in the form in which it stands in
the file: a convolution, or a product with a matrix.  What a call of the runtime costs by itself is measured too and
taken off.  Models are run in turn, so that a busy moment strikes all of them, and the median counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tensorchain.compression.conv import Convolution, LayerPlan
from tensorchain.compression.latency import runs_of
from tensorchain.compression.onnx_int8 import quantize_onnx
from tensorchain.compression.onnx_layers import OnnxLayer
from tensorchain.compression.onnx_nodes import layer_model, time_sessions
from tensorchain.compression.onnx_reading import InputInfo
from tensorchain.compression.onnx_session import OnnxSession
from tensorchain.compression.request import Site
from tensorchain.kernels import Array

_NETWORK_RUNS = 15
"""Runs of each of the whole models, at least."""


class OnnxClock:
    """Times in ONNX Runtime on this machine.

    Parameters
    ----------
    layers : sequence of OnnxLayer
        Of the model, by whose kinds the layers are timed.
    feed : mapping of str to ndarray or None
        An input for whole models; None where only layers are timed.
    batch : int, default 1
        Images at once, of a layer.
    threads : int, default 1
        Of the runtime within one operator.
    int8 : bool, default False
        Time layers after ONNX Runtime's static quantizer.
    """

    def __init__(
        self,
        layers: Sequence[OnnxLayer],
        feed: Mapping[str, Array] | None,
        *,
        batch: int = 1,
        threads: int = 1,
        int8: bool = False,
    ) -> None:
        self.kinds = {layer.site.name: layer.kind for layer in layers}
        self.feed, self.batch, self.threads, self.int8 = feed, batch, threads, int8

    def layers(self, plans: Sequence[LayerPlan], site: Site) -> list[float]:
        """Median seconds of each plan in place of a layer, for one pass of the model."""
        kind = self.kinds[site.name]
        dtype = plans[0].convolutions[0].weight.dtype
        values = np.random.default_rng(0).standard_normal(_shape(kind, site, self.batch)).astype(dtype)
        sessions = []
        for plan in plans:
            model = layer_model(plan, site.image, kind=kind)
            sessions.append(
                OnnxSession(quantize_onnx(model, [{"x": values}]) if self.int8 else model, threads=self.threads)
            )
        nothing = layer_model(LayerPlan("dense", None, (Convolution(np.ones((1, 1, 1, 1), np.float32)),)), (1, 1))
        empty = np.zeros((1, 1, 1, 1), np.float32)
        call = time_sessions([OnnxSession(nothing, threads=self.threads)], {"x": empty})[0]
        found = time_sessions(sessions, {"x": values})
        return [site.uses * max(seconds - call, 1e-9) for seconds in found]

    def networks(self, networks: Sequence[Any]) -> list[float]:
        """Median seconds of a run of each model, in turn."""
        if self.feed is None:
            raise ValueError(
                "the sizes of the inputs are not known; give calibration inputs, or input_shapes (--input-shape)"
            )
        sessions = [OnnxSession(model, threads=self.threads) for model in networks]
        once = time_sessions(sessions, self.feed, runs=1)
        return time_sessions(sessions, self.feed, runs=runs_of(max(once), _NETWORK_RUNS), warm=1)


def batched(feed: Mapping[str, Array], inputs: Sequence[InputInfo], batch: int = 1) -> dict[str, Array]:
    """A feed of so many images, where the model takes any number of them; too few are repeated.

    Examples
    --------
    >>> one = InputInfo("x", np.dtype("float32"), (0, 3))
    >>> [batched({"x": np.zeros((8, 3))}, [one], batch)["x"].shape for batch in (1, 20)]
    [(1, 3), (20, 3)]
    """
    free = [one.name for one in inputs if one.shape and one.shape[0] == 0]
    counts = {len(feed[name]) for name in free if np.ndim(feed[name])}
    if len(counts) != 1:
        return dict(feed)
    at = np.arange(batch) % counts.pop()
    return {name: value[at] if name in free else value for name, value in feed.items()}


def images_of(feed: Mapping[str, Array], inputs: Sequence[InputInfo]) -> int:
    """Images of a run, from the first axis of the first input."""
    first = np.shape(feed[inputs[0].name]) if inputs else ()
    return first[0] if first else 1


def _shape(kind: str, site: Site, batch: int) -> tuple[int, ...]:
    """Of the input of a layer's model."""
    channels = site.kernel.shape[1] * site.groups
    if kind == "rows":
        return batch * site.image[1], channels
    return (batch, channels, *(site.image[1:] if kind == "line" else site.image))
