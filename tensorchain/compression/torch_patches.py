"""The patches that layers of a PyTorch network see, in pieces of bounded size.

A convolution of S channels and D1 x D2 taps sees, at each position of its output, a patch of p = S D1 D2 numbers.  All
patches of a batch together take D1 D2 times the memory of the input, so they are made for a few images at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tensorchain.compression.patches import PatchCovariance
from tensorchain.compression.refit import Moments
from tensorchain.compression.request import Site
from tensorchain.compression.torch_inputs import call, first_of
from tensorchain.compression.torch_layers import is_linear, padding_mode_of

_NUMBERS = 1 << 22
"""Most numbers of patches in memory at once, unless those of one image are more."""


def rows_of(
    module: Any, site: Site, values: Any, outputs: Any = None, *, positions: int | None = None, rng: Any = None
) -> Iterator[tuple[Any, Any]]:
    """Patches (Z, p) of inputs, with the outputs (Z, T) at their positions if these are given, in pieces.

    Parameters
    ----------
    module : torch.nn.Module
        A convolution or linear layer, or a sequence that replaced one; only its kind and its padding mode are read.
    site : Site
        Its geometry and its window.
    values, outputs : tensor
        Of the original layer.
    positions : int, optional
        Most positions of an image, drawn by `rng`, the same for all images of a piece.
    rng : numpy.random.Generator, optional

    Yields
    ------
    iterator of tuple of (object, object)
        Patches, outputs : tensor (Z, p), tensor (Z, T) or None.
    """
    import torch

    if is_linear(module):
        yield values.reshape(-1, values.shape[-1]), None if outputs is None else outputs.reshape(-1, outputs.shape[-1])
        return
    if values.ndim == 3:
        values, outputs = values[None], None if outputs is None else outputs[None]
    (top, bottom), (left, right) = site.geometry.padding
    window = (int(site.kernel.shape[2]), int(site.kernel.shape[3]))
    height, width = site.geometry.output_size(window, (int(values.shape[2]), int(values.shape[3])))
    each = max(1, _NUMBERS // (int(site.kernel[0].size) * height * width))
    mode = padding_mode_of(module)
    for start in range(0, len(values), each):
        part = torch.nn.functional.pad(
            values[start : start + each], (left, right, top, bottom), "constant" if mode == "zeros" else mode
        )
        columns = torch.nn.functional.unfold(part, window, site.geometry.dilation, 0, site.geometry.stride)
        wanted = None if outputs is None else outputs[start : start + each].flatten(2)
        if positions is not None and columns.shape[2] > positions:
            chosen = torch.from_numpy(np.sort(rng.choice(columns.shape[2], positions, replace=False)))
            chosen = chosen.to(columns.device)
            columns, wanted = columns[:, :, chosen], None if wanted is None else wanted[:, :, chosen]
        flat = columns.transpose(1, 2).reshape(-1, columns.shape[1])
        yield flat, None if wanted is None else wanted.transpose(1, 2).reshape(-1, wanted.shape[1])


def add_rows(moments: Moments, rows: Any, targets: Any) -> None:
    """Take rows on any device into moments; their products are made there."""
    x, y = rows.double(), targets.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    square, cross, energy = x.T @ x, x.T @ y, (y * y).sum()
    moments.merge(
        len(x), x_mean.cpu().numpy(), y_mean.cpu().numpy(),
        square=square.cpu().numpy(), cross=cross.cpu().numpy(), energy=float(energy),
    )  # fmt: skip


def patch_covariances(
    net: Any, sites: Sequence[Site], batches: Callable[[], Iterator[Any]]
) -> dict[str, PatchCovariance]:
    """Covariances of the patches that some layers see, by name, in one pass over batches."""
    import torch

    sums: dict[str, Any] = {}
    counts: dict[str, int] = {}

    def gather(module: Any, inputs: Any, name: str) -> None:
        for patches, _ in rows_of(module, wanted[name], inputs.detach()):
            double = patches.double()
            sums[name] = sums.get(name, 0.0) + double.T @ double
            counts[name] = counts.get(name, 0) + len(patches)

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
        name: PatchCovariance(total.cpu().numpy() / counts[name], wanted[name].kernel.shape[1])
        for name, total in sums.items()
    }
