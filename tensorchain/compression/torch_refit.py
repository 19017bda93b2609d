"""Refit a compressed PyTorch network to its original, layer by layer, from calibration inputs without labels.

In the order of execution each layer is fitted from the inputs that the compressed network gives it now to the outputs
that the original gave at the same images and positions (:mod:`tensorchain.compression.refit`): all small convolutions
of a replaced layer by alternating least squares, a layer that stayed by least squares.  So each layer also repairs what
the layers before it have changed.

Memory does not grow with the number of images: of a layer's p = S D1 D2 inputs and T outputs only moments of p^2 + p T
numbers are held.  Cost: each layer needs a pass over the inputs, up to this layer, of both networks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tensorchain.compression.conv import LayerPlan
from tensorchain.compression.refit import RIDGE, Moments
from tensorchain.compression.refit_factors import refit_factors
from tensorchain.compression.report import LayerReport
from tensorchain.compression.request import Site
from tensorchain.compression.torch_inputs import batches_of, call, first_of
from tensorchain.compression.torch_layers import copied, decomposed, plan_of_module
from tensorchain.compression.torch_patches import add_rows, rows_of
from tensorchain.compression.torch_sites import sites_of

MOST_INPUTS = 6000
"""Longest patch p whose layer is refitted: its moments take 8 p^2 bytes, 290 MB."""


def refit_network(
    net: Any,
    original: Any,
    calibration: Any,
    *,
    rounds: int = 1,
    sweeps: int = 8,
    ridge: float = RIDGE,
    positions: int = 256,
    dense: bool = True,
    rng: int | np.random.Generator | None = 0,
    callback: Callable[[str, float, float], object] | None = None,
) -> None:
    """Fit the layers of a compressed network, one after the other, to the outputs of the original's; in place.

    Parameters
    ----------
    net : torch.nn.Module
        As `compress` returned it.
    original : torch.nn.Module
        The network that was compressed; it is not changed.
    calibration : tensor, iterable of batches, or a function that returns one
        Inputs, or pairs with the inputs first; some hundred images.  Labels are not read.
    rounds : int
        Passes over all layers.
    sweeps : int
        Most passes over the small convolutions of a layer.
    ridge : float
        Weight of the distance from the original kernel, relative to the mean variance of an input.
    positions : int
        Most positions of an image from which a layer is fitted, drawn by `rng`.
    dense : bool
        Whether layers that were not replaced are refitted too, where they can be; the number of their weights stays.
    rng : int or numpy.random.Generator, optional
    callback : callable, optional
        Called for each layer with its name and the relative errors of its outputs before and after.

    Raises
    ------
    ValueError
        When there is no batch, or `rounds` or `positions` is not positive.
    TypeError
        When `calibration` is none of what it can be.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> from tensorchain.compression import compress
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3))
    >>> images = torch.randn(32, 8, 9, 9).cumsum(2)
    >>> small = compress(net, images[:1], "tc", keep_macs=0.4, candidates=3)
    >>> gap = lambda: float((small(images) - net(images)).detach().norm())
    >>> before = gap()
    >>> refit_network(small, net, images)
    >>> gap() < 0.9 * before
    True
    """
    if rounds < 1 or positions < 1:
        raise ValueError(f"rounds is {rounds!r} and positions {positions!r}; positive integers are needed")
    batches = batches_of(calibration)
    generator = np.random.default_rng(rng)
    training = [module.training for module in net.modules()]
    teacher = copied(original).eval()
    net.eval()
    done = decomposed(net)
    bits = {name for name, layer in done.items() if layer.bits is not None}
    try:
        sites = sites_of(teacher, next(batches()))
        wanted = [
            site
            for site in sites
            if (site.name in done or (dense and _can_move(site, net)))
            and site.counts is None
            and site.name not in bits
            and site.kernel[0].size <= MOST_INPUTS
        ]
        for _ in range(rounds):
            for site in wanted:
                report = _refit_layer(net, teacher, site, batches, (sweeps, ridge, positions), generator, callback)
                if report is not None:
                    done[site.name] = report
    finally:
        for module, was in zip(net.modules(), training, strict=False):
            module.training = was
    if hasattr(net, "report"):
        net.report = replace(net.report, layers=tuple(done.get(layer.name, layer) for layer in net.report.layers))


def _can_move(site: Site, net: Any) -> bool:
    """Whether a layer that was not replaced may get other weights."""
    module = net.get_submodule(site.name)
    free = all(parameter.requires_grad for parameter in module.parameters())
    return free and not site.refusal and module._parameters.get("weight") is not None


def _refit_layer(
    net: Any,
    teacher: Any,
    site: Site,
    batches: Callable[[], Iterator[Any]],
    options: tuple[int, float, int],
    rng: np.random.Generator,
    callback: Callable[[str, float, float], object] | None,
) -> LayerReport | None:
    """New weights for one layer, in place; what the report says of it if it was replaced."""
    sweeps, ridge, positions = options
    module = net.get_submodule(site.name)
    layer = decomposed(net).get(site.name)
    moments = _moments(net, teacher, site, batches, positions, rng)
    method, rank = ("dense", None) if layer is None else (layer.method, layer.rank)
    plan = plan_of_module([module] if layer is None else module, method, rank)
    # A layer that was not replaced stays of the size it had.
    biased = layer is not None or plan.convolutions[-1].bias is not None
    better = refit_factors(plan, site.kernel, moments, sweeps=sweeps, ridge=ridge, with_bias=biased)
    _store([module] if layer is None else module, better)
    if callback is not None:
        callback(site.name, _error(moments, plan), _error(moments, better))
    if layer is None:
        return None
    size = float(np.linalg.norm(site.kernel))
    return replace(
        layer,
        error=float(np.linalg.norm(better.kernel - site.kernel)) / size,
        output_error=_error(moments, better),
        sensitivity=better.sensitivity(relative=True),
    )


class _Seen(Exception):  # noqa: N818, it ends a pass early and is no error
    """Everything that was wanted of a pass has been seen."""


def _moments(
    net: Any, teacher: Any, site: Site, batches: Callable[[], Iterator[Any]], positions: int, rng: np.random.Generator
) -> Moments:
    """Moments of the patches that a layer sees in the network, and of the outputs that it gave in the teacher."""
    import torch

    inputs: list[Any] = []
    outputs: list[Any] = []

    def see(found: list[Any], value: Any) -> None:
        found.append(value.detach())
        if len(found) == site.uses:
            raise _Seen

    moments = Moments(site.kernel[0].size, len(site.kernel))
    module = teacher.get_submodule(site.name)
    hooks = [
        module.register_forward_hook(lambda _, __, result: see(outputs, result)),
        net.get_submodule(site.name).register_forward_pre_hook(
            lambda _, given, named: see(inputs, first_of(given, named)), with_kwargs=True
        ),
    ]
    try:
        with torch.no_grad():
            for batch in batches():
                inputs.clear()
                outputs.clear()
                for either in (teacher, net):
                    with contextlib.suppress(_Seen):
                        call(either, batch)
                for values, results in zip(inputs, outputs, strict=True):
                    for rows in rows_of(module, site, values, results, positions=positions, rng=rng):
                        add_rows(moments, *rows)
    finally:
        for hook in hooks:
            hook.remove()
    return moments


def _store(module: Any, plan: LayerPlan) -> None:
    """Write the weights of a plan, and the bias of its last convolution, into the layers that it was read from."""
    import torch

    parts = [part for part in module if hasattr(part, "weight")]
    with torch.no_grad():
        for part, layer in zip(parts, plan.convolutions, strict=True):
            weight = torch.from_numpy(np.array(layer.weight)).reshape(part.weight.shape)
            part.weight.copy_(weight)
            if layer.bias is None:
                continue
            bias = torch.from_numpy(np.array(layer.bias)).to(part.weight)
            if part.bias is None:
                part.bias = torch.nn.Parameter(bias)
            else:
                part.bias.copy_(bias)


def _error(moments: Moments, plan: LayerPlan) -> float:
    kernel, bias = plan.kernel, plan.convolutions[-1].bias
    return moments.relative_error(kernel.reshape(len(kernel), -1), np.zeros(len(kernel)) if bias is None else bias)
