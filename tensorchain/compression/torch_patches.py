"""The patches that layers of a PyTorch network see, in pieces of bounded size.

A convolution of S channels and D taps sees, at each position of its output, a patch of p = S D numbers; in groups, each
group sees those of its own channels.  A transposed convolution is one with stride 1 and its taps in reverse over the
input with zeros between its positions, and sees the patches of this.

All patches of a batch together take D times the memory of the input, so they are made for a few images at a time, and
where there are more positions than a second moment needs, some are drawn, the same in all images of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tensorchain.compression.conv import Geometry, Sizes
from tensorchain.compression.network import Covariances
from tensorchain.compression.patches import PatchCovariance
from tensorchain.compression.refit import Moments
from tensorchain.compression.request import Site
from tensorchain.compression.torch_inputs import batch_of, call, first_of
from tensorchain.compression.torch_layers import axes_of, is_linear, padding_mode_of

_FOR_EACH, _LEAST, _MOST = 32, 1 << 14, 1 << 16
"""Rows for each number of a patch, and the least and the most of a layer; positions that are neighbours are alike."""
_NUMBERS = 1 << 22
"""Most numbers of patches in memory at once, unless those of one image are more."""


def positions_for(site: Site, samples: int, least: int = _LEAST) -> int:
    """Positions of each sample from which the second moments of a layer are taken, where there are so many samples.

    Parameters
    ----------
    site : Site
    samples : int
    least : int, optional
        Rows for layers of small patches.

    Returns
    -------
    int

    Examples
    --------
    >>> site = Site("conv", np.zeros((8, 64, 3, 3)), None, Geometry(), (32, 32))
    >>> positions_for(site, 512), positions_for(site, 1)
    (36, 18432)
    """
    rows = min(max(_FOR_EACH * int(site.kernel[0].size), least), _MOST)
    return max(1, -(-rows // max(samples * site.uses, 1)))


def rows_of(
    module: Any, site: Site, values: Any, *, positions: int | None = None, rng: np.random.Generator | None = None
) -> Iterator[Any]:
    """Patches (groups, Z, p) of inputs in pieces, the positions of each image one after the other.

    Parameters
    ----------
    module : torch.nn.Module
        A convolution or linear layer, or a sequence that replaced one; only its kind and its padding mode are read.
    site : Site
        Its geometry, its window and its groups.
    values : tensor
        Inputs of the layer.
    positions : int, optional
        Most positions of an image, drawn by `rng`, the same for all images.
    rng : numpy.random.Generator, optional

    Yields
    ------
    iterator of object
        Tensor (groups, Z, p).
    """
    import torch

    if is_linear(module):
        yield _drawn(_vectors(values), positions, rng).reshape(1, -1, values.shape[-1])
        return
    values = _images(values, axes_of(module))
    window = site.kernel.shape[2:]
    sizes = site.geometry.output_size(window, tuple(values.shape[2:]))
    chosen = _chosen(math.prod(sizes), positions, rng)
    count = math.prod(sizes) if chosen is None else len(chosen)
    each = max(1, _NUMBERS // (int(values.shape[1]) * math.prod(window) * count))
    for start in range(0, len(values), each):
        views = _patches(values[start : start + each], site.geometry, window, padding_mode_of(module))
        if chosen is None:
            views = views.flatten(2, 1 + len(window))
        else:
            at = [torch.from_numpy(index).to(views.device) for index in np.unravel_index(chosen, sizes)]
            views = views[(slice(None), slice(None), *at)]
        if site.geometry.transposed:
            views = views.flip(tuple(range(3, views.ndim)))
        yield views.transpose(1, 2).reshape(len(views) * count, site.groups, -1).transpose(0, 1)


def outputs_of(
    module: Any, site: Site, values: Any, *, positions: int | None = None, rng: np.random.Generator | None = None
) -> Any:
    """Outputs (groups, Z, T / groups) of a layer at the positions whose patches `rows_of` gives for an equal `rng`.

    Parameters
    ----------
    module, site, positions, rng : object
        As in `rows_of`.
    values : tensor
        Outputs of the layer.

    Returns
    -------
    object
        Tensor (groups, Z, T / groups).
    """
    if is_linear(module):
        return _drawn(_vectors(values), positions, rng).reshape(1, -1, values.shape[-1])
    flat = _images(values, axes_of(module)).flatten(2).transpose(1, 2)
    rows = _drawn(flat, positions, rng)
    return rows.reshape(-1, site.groups, values.shape[-axes_of(module) - 1] // site.groups).transpose(0, 1)


def _vectors(values: Any) -> Any:
    """What a linear layer takes, or gives, as (B, places, n)."""
    return values.reshape(len(values) if values.ndim > 2 else -1, -1 if values.ndim > 2 else 1, values.shape[-1])


def _images(values: Any, axes: int) -> Any:
    """Values with a batch, and of two axes at least."""
    values = values[None] if values.ndim == axes + 1 else values
    return values.unsqueeze(2) if axes == 1 else values


def _chosen(places: int, positions: int | None, rng: np.random.Generator | None) -> Any:
    """Positions that are drawn, or None where all are taken."""
    if positions is None or places <= positions or rng is None:
        return None
    return np.sort(rng.choice(places, positions, replace=False))


def _drawn(rows: Any, positions: int | None, rng: np.random.Generator | None) -> Any:
    """Some of the rows (B, places, n) of each sample."""
    import torch

    chosen = _chosen(int(rows.shape[1]), positions, rng)
    return rows if chosen is None else rows[:, torch.from_numpy(chosen).to(rows.device)]


def _patches(values: Any, geometry: Geometry, window: Sizes, mode: str) -> Any:
    """A view (B, S, *positions, *taps); of a transposed convolution with its taps in reverse."""
    import torch

    stride, sides = geometry.stride, list(geometry.padding)
    if geometry.transposed:
        lengths = [(n - 1) * step + 1 for n, step in zip(values.shape[2:], stride, strict=True)]
        spread = values.new_zeros(*values.shape[:2], *lengths)
        spread[(..., *(slice(None, None, step) for step in stride))] = values
        reach = [d * (n - 1) for d, n in zip(geometry.dilation, window, strict=True)]
        ends = zip(reach, sides, geometry.extra, strict=True)
        sides = [(far - first, far - second + extra) for far, (first, second), extra in ends]
        values, stride = spread, (1,) * len(stride)
    margins = [n for side in reversed(sides) for n in side]
    views = torch.nn.functional.pad(values, margins, "constant" if mode == "zeros" else mode)
    for axis, (taps, step, apart) in enumerate(zip(window, stride, geometry.dilation, strict=True)):
        views = views.unfold(2 + axis, apart * (taps - 1) + 1, step)
    return views[(..., *(slice(None, None, apart) for apart in geometry.dilation))]


def add_rows(moments: Moments, rows: Any, targets: Any) -> None:
    """Take rows (Z, p) and (Z, T) on any device into moments; their products are made there."""
    import torch

    # Centred numbers in single precision have digits enough for sums of products; sums are kept in double.
    dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
    x_mean, y_mean = rows.mean(0, dtype=torch.float64), targets.mean(0, dtype=torch.float64)
    x, y = rows.to(dtype) - x_mean.to(dtype), targets.to(dtype) - y_mean.to(dtype)
    square, cross, energy = x.T @ x, x.T @ y, (y * y).sum()
    moments.merge(
        len(x), x_mean.cpu().numpy(), y_mean.cpu().numpy(),
        square=square.cpu().double().numpy(), cross=cross.cpu().double().numpy(), energy=float(energy),
    )  # fmt: skip


def patch_covariances(net: Any, sites: Sequence[Site], batches: Callable[[], Iterator[Any]]) -> dict[str, Covariances]:
    """Covariances of the patches that some layers see, by name, in one pass over batches, and one to count them."""
    import torch

    samples, rng = sum(batch_of(inputs) for inputs in batches()), np.random.default_rng(0)
    sums: dict[str, Any] = {}
    counts: dict[str, int] = {}

    def gather(module: Any, inputs: Any, name: str) -> None:
        site = wanted[name]
        for patches in rows_of(module, site, inputs.detach(), positions=positions_for(site, samples), rng=rng):
            double = patches.double()
            sums[name] = sums.get(name, 0.0) + double.transpose(1, 2) @ double
            counts[name] = counts.get(name, 0) + double.shape[1]

    wanted = {site.name: site for site in sites}
    modules = {name: module for name, module in net.named_modules() if name in wanted}
    hooks = [
        module.register_forward_pre_hook(
            lambda module, given, named, name=name: gather(module, first_of(given, named), name), with_kwargs=True
        )
        for name, module in modules.items()
    ]
    try:
        with torch.no_grad():
            for inputs in batches():
                call(net, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    for name, total in sums.items():
        if not torch.isfinite(total).all():
            raise ValueError(
                f"{name or 'the network'} sees NaN or infinity; give calibration inputs that the network can take"
            )
    return {
        name: tuple(
            PatchCovariance(matrix / counts[name], wanted[name].kernel.shape[1]) for matrix in total.cpu().numpy()
        )
        for name, total in sums.items()
    }
