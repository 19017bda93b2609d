"""What the layers of an ONNX model see and give on calibration inputs, in a stream.

A feed is one dictionary of arrays by name, for one run of the model.  Of each feed every layer gives a sample of
positions, so many that `_POSITIONS` come together over all feeds; memory does not grow with their number.

`calibration` may be any iterable that can be passed over several times; a generator is stored first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tensorchain.compression.network import Covariances
from tensorchain.compression.onnx_layers import OnnxLayer, as_images
from tensorchain.compression.onnx_reading import InputInfo
from tensorchain.compression.onnx_session import OnnxSession
from tensorchain.compression.patches import PatchCovariance
from tensorchain.compression.request import Site
from tensorchain.kernels import Array

Feeds = Iterable[Mapping[str, Array]]

_POSITIONS = 1 << 16
"""Most positions from which the second moments of a layer are taken."""
_FOR_EACH = 32
"""Positions for each number of a patch; fewer than 1 leave directions open, and these are neighbours and alike."""
_LEAST = 1 << 14


def checked_feeds(calibration: Feeds, inputs: Sequence[InputInfo]) -> Feeds:
    """The feeds in the types of the model's inputs, to be passed over as often as needed.

    Raises
    ------
    TypeError
        Where they are no dictionaries of arrays.
    ValueError
        Where there is none, or the first does not fit the inputs.
    """
    feeds = list(calibration) if iter(calibration) is calibration else calibration
    first = next(iter(feeds), None)
    if first is None:
        raise ValueError("calibration holds no feed; give an iterable of dictionaries, one array for each input")
    if not isinstance(first, Mapping):
        raise TypeError(f"a feed is a {type(first).__name__}; a dictionary with one array for each input is needed")
    names = {one.name for one in inputs}
    if set(first) != names:
        needed = ", ".join(f"{one.name!r} {describe(one)}" for one in inputs)
        raise ValueError(f"the feed has arrays for {', '.join(map(repr, first)) or 'nothing'}; needed are {needed}")
    for one in inputs:
        shape = np.shape(first[one.name])
        free = one.shape is None or (
            len(shape) == len(one.shape) and all(a in (0, b) for a, b in zip(one.shape, shape, strict=True))
        )
        if not free:
            raise ValueError(f"the feed has shape {shape} for input {one.name!r}; {describe(one)} is needed")
    return _Cast(feeds, {one.name: one.dtype for one in inputs if one.dtype is not None})


def describe(one: InputInfo) -> str:
    """Shape and type of an input in words."""
    shape = "of any shape" if one.shape is None else f"({', '.join(str(n or 'any') for n in one.shape)})"
    return f"{shape} {one.dtype or ''}".rstrip()


class _Cast:
    """Feeds in the types that a model takes."""

    def __init__(self, feeds: Feeds, dtypes: Mapping[str, Any]) -> None:
        self.feeds, self.dtypes = feeds, dtypes

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for feed in self.feeds:
            yield {name: _cast(name, np.asarray(value), self.dtypes.get(name)) for name, value in feed.items()}


def _cast(name: str, value: Array, dtype: Any) -> Array:
    """An array in the type of its input; ValueError where integers are needed and fractions were given."""
    if dtype is None or value.dtype == dtype:
        return value
    cast = value.astype(dtype)
    if cast.dtype.kind in "iub" and not np.array_equal(cast, value):
        raise ValueError(f"input {name!r} takes {dtype}; the feed has {value.dtype} numbers that are none")
    return cast


def covariances_of(proto: Any, layers: Sequence[OnnxLayer], feeds: Feeds) -> dict[str, Covariances]:
    """Second moments of the patches that layers see, by name of the layer."""
    session = OnnxSession(proto, [layer.source for layer in layers])
    count = sum(1 for _ in feeds)
    sums = {layer.site.name: np.zeros(2 * (patch_size(layer.site),)) for layer in layers}
    totals = dict.fromkeys(sums, 0)
    rng = np.random.default_rng(0)
    for feed in feeds:
        values = session.run(feed, [layer.source for layer in layers])
        for layer in layers:
            patches = sampled(layer, rng, count, values[layer.source])[0]
            sums[layer.site.name] += patches.T @ patches
            totals[layer.site.name] += len(patches)
    return {
        layer.site.name: (
            PatchCovariance(sums[layer.site.name] / max(totals[layer.site.name], 1), layer.site.kernel.shape[1]),
        )
        for layer in layers
    }


def patch_size(site: Site) -> int:
    """Numbers that a layer sees at one position."""
    return int(np.prod(site.kernel.shape[1:]))


def sampled(
    layer: OnnxLayer, rng: np.random.Generator, feeds: int, source: Array, output: Array | None = None
) -> tuple[Array, Array]:
    """Patches (Z, S D1 D2) of a layer's input, and its outputs (Z, T) at the same positions, in double precision.

    Parameters
    ----------
    layer : OnnxLayer
        The layer.
    rng : numpy.random.Generator
        Chooses the positions where there are more than this feed should give.
    feeds : int
        How many there are.
    source, output : ndarray
        Values of the layer's input, and of its output where they are wanted.
    """
    geometry, window = layer.site.geometry, layer.site.kernel.shape[2:]
    images = as_images(layer.kind, source)
    padded = np.pad(images, ((0, 0), (0, 0), *geometry.padding))
    extent = tuple(d * (k - 1) + 1 for d, k in zip(geometry.dilation, window, strict=True))
    views = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=(2, 3))
    views = views[:, :, :: geometry.stride[0], :: geometry.stride[1], :: geometry.dilation[0], :: geometry.dilation[1]]
    grid = (len(views), *views.shape[2:4])
    places = np.arange(int(np.prod(grid)))
    most = -(-min(max(_FOR_EACH * patch_size(layer.site), _LEAST), _POSITIONS) // feeds)
    if len(places) > most:
        places = np.sort(rng.choice(len(places), most, replace=False))
    n, y, x = np.unravel_index(places, grid)
    patches = views[n, :, y, x].reshape(len(places), -1).astype(np.float64)
    if output is None:
        return patches, np.zeros((len(places), 0))
    return patches, as_images(layer.kind, output)[n, :, y, x].astype(np.float64)
