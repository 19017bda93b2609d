"""The patches that layers of a PyTorch network see, in pieces of bounded size.

A convolution of S channels and D taps sees, at each position of its output, a patch of p = S D numbers; in groups, each
group sees those of its own channels.  A transposed convolution is one with stride 1 and its taps in reverse over the
input with zeros between its positions, and sees the patches of this.

All patches of a batch together take D times the memory of the input, so they are made for a few images at a time.
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
from tensorchain.compression.torch_inputs import call, first_of
from tensorchain.compression.torch_layers import axes_of, is_linear, padding_mode_of

_NUMBERS = 1 << 22
"""Most numbers of patches in memory at once, unless those of one image are more."""


def rows_of(
    module: Any, site: Site, values: Any, outputs: Any = None, *, positions: int | None = None, rng: Any = None
) -> Iterator[tuple[Any, Any]]:
    """Patches of inputs, with the outputs at their positions if these are given, in pieces.

    Parameters
    ----------
    module : torch.nn.Module
        A convolution or linear layer, or a sequence that replaced one; only its kind and its padding mode are read.
    site : Site
        Its geometry, its window and its groups.
    values, outputs : tensor
        Of the original layer.
    positions : int, optional
        Most positions of an image, drawn by `rng`, the same for all images of a piece.
    rng : numpy.random.Generator, optional

    Yields
    ------
    patches, outputs : tensor (groups, Z, p), tensor (groups, Z, T / groups) or None
    """
    import torch

    if is_linear(module):
        yield (
            values.reshape(1, -1, values.shape[-1]),
            None if outputs is None else outputs.reshape(1, -1, outputs.shape[-1]),
        )
        return
    axes, window = axes_of(module), site.kernel.shape[2:]
    if values.ndim == axes + 1:
        values, outputs = values[None], None if outputs is None else outputs[None]
    if axes == 1:
        values, outputs = values.unsqueeze(2), None if outputs is None else outputs.unsqueeze(2)
    sizes = site.geometry.output_size(window, tuple(values.shape[2:]))
    places = math.prod(sizes)
    each = max(1, _NUMBERS // (math.prod(values.shape[1:2]) * math.prod(window) * min(places, positions or places)))
    for start in range(0, len(values), each):
        views = _patches(values[start : start + each], site.geometry, window, padding_mode_of(module))
        wanted = None if outputs is None else outputs[start : start + each].flatten(2)
        if positions is not None and places > positions:
            chosen = np.sort(rng.choice(places, positions, replace=False))
            at = [torch.from_numpy(index).to(views.device) for index in np.unravel_index(chosen, sizes)]
            views = views[(slice(None), slice(None), *at)]
            wanted = None if wanted is None else wanted[:, :, torch.from_numpy(chosen).to(views.device)]
        else:
            views = views.flatten(2, 1 + len(window))
        if site.geometry.transposed:
            views = views.flip(tuple(range(3, views.ndim)))
        rows = views.transpose(1, 2).reshape(views.shape[0] * views.shape[2], site.groups, -1).transpose(0, 1)
        if wanted is not None:
            wanted = wanted.transpose(1, 2).reshape(rows.shape[1], site.groups, -1).transpose(0, 1)
        yield rows, wanted


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
    x, y = rows.double(), targets.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    square, cross, energy = x.T @ x, x.T @ y, (y * y).sum()
    moments.merge(
        len(x), x_mean.cpu().numpy(), y_mean.cpu().numpy(),
        square=square.cpu().numpy(), cross=cross.cpu().numpy(), energy=float(energy),
    )  # fmt: skip


def patch_covariances(net: Any, sites: Sequence[Site], batches: Callable[[], Iterator[Any]]) -> dict[str, Covariances]:
    """Covariances of the patches that some layers see, by name, in one pass over batches."""
    import torch

    sums: dict[str, Any] = {}
    counts: dict[str, int] = {}

    def gather(module: Any, inputs: Any, name: str) -> None:
        for patches, _ in rows_of(module, wanted[name], inputs.detach()):
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
    return {
        name: tuple(
            PatchCovariance(matrix / counts[name], wanted[name].kernel.shape[1]) for matrix in total.cpu().numpy()
        )
        for name, total in sums.items()
    }
