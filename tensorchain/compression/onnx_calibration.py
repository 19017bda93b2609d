"""What the layers of an ONNX model see and give on calibration inputs, in a stream.

A feed is one dictionary of arrays by name, for one run of the model.  Of each feed every layer gives a sample of
positions, so many that `_POSITIONS` come together over all feeds; memory does not grow with their number.

`calibration` may be any iterable that can be passed over several times; a generator is stored first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tensorchain.compression.conv import Geometry, Sizes
from tensorchain.compression.held_out import Halves
from tensorchain.compression.network import Covariances
from tensorchain.compression.onnx_layers import OnnxLayer, as_images
from tensorchain.compression.onnx_reading import InputInfo
from tensorchain.compression.onnx_session import OnnxSession
from tensorchain.compression.patches import PatchCovariance, shrunk
from tensorchain.compression.request import Site
from tensorchain.kernels import Array

Feeds = Iterable[Mapping[str, Array]]

_POSITIONS = 1 << 15
"""Most positions from which the second moments of a layer are taken."""
_FOR_EACH = 32
"""Positions for each number of a patch; fewer than 1 leave directions open, and these are neighbours and alike."""
_LEAST = 1 << 13


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
    if value.dtype.kind not in "biuf":
        raise ValueError(f"input {name!r} takes {dtype}; the feed has values of type {value.dtype}")
    cast = value.astype(dtype)
    if cast.dtype.kind in "iub" and not np.array_equal(cast, value):
        raise ValueError(f"input {name!r} takes {dtype}; the feed has {value.dtype} numbers that are none")
    return cast


def covariances_of(
    proto: Any, layers: Sequence[OnnxLayer], feeds: Feeds, *, centred: bool = False
) -> dict[str, Covariances]:
    """Second moments of the patches that layers see, by name of the layer; less their means where `centred`.

    A layer whose bias is fitted afterwards answers for changes of its input only, and means are left to the bias.
    """
    session = OnnxSession(proto, [layer.source for layer in layers])
    count = sum(1 for _ in feeds)
    sums = {layer.site.name: [Halves(patch_size(layer.site), 0) for _ in layer.site.parts] for layer in layers}
    rng = np.random.default_rng(0)
    for turn, feed in enumerate(feeds):
        values = session.run(feed, [layer.source for layer in layers])
        for layer in layers:
            patches = sampled(layer, rng, count, values[layer.source])[0]
            for own, rows in zip(sums[layer.site.name], in_groups(patches, layer.site.groups), strict=True):
                own.add(rows, rows[:, :0], turn=turn, turns=count)
    return {
        layer.site.name: tuple(
            _covariance(own, layer.site.kernel.shape[1], centred) for own in sums.pop(layer.site.name)
        )
        for layer in layers
    }


def _covariance(halves: Halves, channels: int, centred: bool) -> PatchCovariance:
    """Of the patches, with as much of the identity as the other half of the inputs asks for."""
    whole = halves.whole
    found = whole.covariance
    if halves.second.count:
        found = shrunk(found, halves.first.covariance, halves.second.covariance)
    if centred:
        return PatchCovariance(found, channels, whole.input_mean)
    return PatchCovariance(found + np.outer(whole.input_mean, whole.input_mean), channels)


def patch_size(site: Site) -> int:
    """Numbers that a layer, or each of its groups, sees at one position."""
    return int(np.prod(site.kernel.shape[1:]))


def most_samples(site: Site) -> int:
    """Positions of a layer that are sampled over all feeds, where there are so many."""
    return min(max(_FOR_EACH * patch_size(site), _LEAST), _POSITIONS)


def in_groups(rows: Array, groups: int) -> Array:
    """Rows (Z, n) as (groups, Z, n / groups).

    Examples
    --------
    >>> in_groups(np.zeros((7, 6)), 2).shape
    (2, 7, 3)
    """
    return rows.reshape(len(rows), groups, -1).swapaxes(0, 1)


def sampled(
    layer: OnnxLayer, rng: np.random.Generator, feeds: int, source: Array, output: Array | None = None
) -> tuple[Array, Array]:
    """Patches (Z, S D) of a layer's input, and its outputs (Z, T) at the same positions, in double precision.

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
    views = _patches(as_images(layer.kind, source), layer.site.geometry, layer.site.kernel.shape[2:])
    axes = layer.site.kernel.ndim - 2
    image, *at = _places(layer, rng, feeds, (len(views), *views.shape[2 : 2 + axes]))
    here: Any = (image, slice(None), *at)
    patches = views[here]
    if layer.site.geometry.transposed:
        patches = np.flip(patches, tuple(range(2, 2 + axes)))
    patches = patches.reshape(len(image), -1).astype(np.float64)
    if output is None:
        return patches, np.zeros((len(image), 0))
    return patches, as_images(layer.kind, output)[here].astype(np.float64)


def sampled_outputs(layer: OnnxLayer, rng: np.random.Generator, feeds: int, output: Array) -> Array:
    """The outputs (Z, T) that `sampled` gives with the same state of `rng`, in their own precision."""
    images = as_images(layer.kind, output)
    image, *at = _places(layer, rng, feeds, (len(images), *images.shape[2:]))
    here: Any = (image, slice(None), *at)
    return np.ascontiguousarray(images[here])


def _places(layer: OnnxLayer, rng: np.random.Generator, feeds: int, grid: tuple[int, ...]) -> tuple[Array, ...]:
    """Images and positions of a sample, in order."""
    places = np.arange(int(np.prod(grid)))
    most = -(-most_samples(layer.site) // feeds)
    if len(places) > most:
        places = np.sort(rng.choice(len(places), most, replace=False))
    return tuple(np.unravel_index(places, grid))


def _patches(images: Array, geometry: Geometry, window: Sizes) -> Array:
    """A view (B, S, *positions, *taps); of a transposed convolution with its taps in reverse.

    That is one with stride 1 over the input with zeros between its positions.
    """
    stride, sides = geometry.stride, geometry.padding
    if geometry.transposed:
        spread = np.zeros(
            (*images.shape[:2], *((n - 1) * step + 1 for n, step in zip(images.shape[2:], stride, strict=True))),
            images.dtype,
        )
        every: Any = (..., *(slice(None, None, step) for step in stride))
        spread[every] = images
        reach = [d * (n - 1) for d, n in zip(geometry.dilation, window, strict=True)]
        ends = zip(reach, sides, geometry.extra, strict=True)
        sides = tuple((far - first, far - second + extra) for far, (first, second), extra in ends)
        images, stride = spread, (1,) * len(stride)
        # Margins that are wider than the reach of the taps are cut off.
        cut: Any = (
            ...,
            *(slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(sides, spread.shape[2:], strict=True)),
        )
        images, sides = images[cut], tuple((max(a, 0), max(b, 0)) for a, b in sides)
    padded = np.pad(images, ((0, 0), (0, 0), *sides))
    extent = tuple(d * (n - 1) + 1 for d, n in zip(geometry.dilation, window, strict=True))
    views = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=tuple(range(2, 2 + len(window))))
    moved: Any = (..., *(slice(None, None, step) for step in (*stride, *geometry.dilation)))
    return np.asarray(views[moved])
