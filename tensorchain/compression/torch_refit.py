"""Refit a compressed PyTorch network to its original, layer by layer, from calibration inputs without labels.

In the order of execution each layer is fitted from the inputs that the compressed network gives it now to the outputs
that the original gave at the same images and positions (:mod:`tensorchain.compression.refit`): all small convolutions
of a replaced layer by alternating least squares, a layer that stayed by least squares.  So each layer also repairs what
the layers before it have changed.  Of outputs that a ReLU behind the layer cuts in both networks nothing is asked
(:mod:`tensorchain.compression.torch_cuts`).

Memory does not grow with the number of images: of a layer's p inputs and T outputs only moments of p^2 + p T numbers
are held, from positions that are drawn.  The outputs of the original at these positions are taken for many layers in
one pass, as many as a bounded memory holds.  Cost: each layer needs a pass over the inputs, up to this layer, of the
compressed network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tensorchain.compression.conv import LayerPlan
from tensorchain.compression.cuts import FITS
from tensorchain.compression.groups import error_of_groups, joined, kernel_of, split
from tensorchain.compression.refit import MOST_INPUTS
from tensorchain.compression.refit_factors import refit_factors
from tensorchain.compression.report import LayerReport
from tensorchain.compression.request import Site
from tensorchain.compression.torch_cuts import cuts_of
from tensorchain.compression.torch_inputs import batch_of, batches_of
from tensorchain.compression.torch_layers import copied, decomposed, in_evaluation, plan_of_module, stored_weight
from tensorchain.compression.torch_patches import positions_for
from tensorchain.compression.torch_sites import sites_of
from tensorchain.compression.torch_targets import Rows, Targets

_RIDGE = 0.03
"""Of some hundred images 0.001 learns the rows by heart: outputs of other images then come less near."""
_ROWS = 1 << 16
"""Rows from which a layer is fitted, where there are so many."""
_GOALS = 1 << 26
"""Most outputs of the original, of several layers, that are held at once."""


def refit_network(
    net: Any,
    original: Any,
    calibration: Any,
    *,
    rounds: int = 1,
    sweeps: int = 8,
    ridge: float = _RIDGE,
    positions: int | None = None,
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
    positions : int, optional
        Most positions of an image from which a layer is fitted, drawn by `rng`.  By default so many that each layer is
        fitted from 65,536 rows.
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
    if rounds < 1 or (positions is not None and positions < 1):
        raise ValueError(f"rounds is {rounds!r} and positions {positions!r}; positive integers are needed")
    batches = batches_of(calibration, net=original)
    seed = int(np.random.default_rng(rng).integers(1 << 62))
    teacher = copied(original).eval()
    done = decomposed(net)
    bits = {name for name, layer in done.items() if layer.bits is not None}
    with in_evaluation(net):
        # What an earlier compression replaced in the original is one layer there too.
        sites = sites_of(teacher, next(batches()), whole=True)
        wanted = [
            site
            for site in sites
            if (site.name in done or (dense and _can_move(site, net)))
            and site.counts is None
            and site.name not in bits
            and site.kernel[0].size <= MOST_INPUTS
        ]
        samples = sum(batch_of(batch) for batch in batches())
        places = {site.name: positions or positions_for(site, samples, _ROWS) for site in wanted}
        seeds = {site.name: (seed, k) for k, site in enumerate(wanted)}
        cuts = cuts_of(teacher, [site.name for site in wanted], next(batches()))
        targets: Targets | None = None
        for _ in range(rounds):
            for together in _in_memory(wanted, places, samples):
                if targets is None or targets.sites != together:
                    targets = Targets(teacher, together, batches, places=places, seeds=seeds, cuts=cuts)
                for site in together:
                    rows = Rows(net, targets, site, batches)
                    report = _refit_layer(net, site, rows, (sweeps, ridge), callback)
                    if report is not None:
                        done[site.name] = report
    if hasattr(net, "report"):
        layers = tuple(done.get(layer.name, layer) for layer in net.report.layers)
        net.report = replace(net.report, layers=layers, refitted=True)


def _can_move(site: Site, net: Any) -> bool:
    """Whether a layer that was not replaced may get other weights."""
    module = net.get_submodule(site.name)
    free = all(parameter.requires_grad for parameter in module.parameters())
    return free and not site.refusal and module._parameters.get("weight") is not None


def _in_memory(sites: list[Site], places: Mapping[str, int], samples: int) -> Iterator[list[Site]]:
    """Consecutive layers whose outputs are held together."""
    together: list[Site] = []
    held = 0
    for site in sites:
        size = len(site.kernel) * places[site.name] * samples * site.uses
        if together and held + size > _GOALS:
            yield together
            together, held = [], 0
        together, held = [*together, site], held + size
    if together:
        yield together


def _refit_layer(
    net: Any,
    site: Site,
    rows: Rows,
    options: tuple[int, float],
    callback: Callable[[str, float, float], object] | None,
) -> LayerReport | None:
    """New weights for one layer, in place; what the report says of it if it was replaced."""
    sweeps, ridge = options
    groups = site.groups
    module = net.get_submodule(site.name)
    layer = decomposed(net).get(site.name)
    method, rank = ("dense", None) if layer is None else (layer.method, layer.rank)
    plan = plan_of_module([module] if layer is None else module, method, rank)
    # A layer that was not replaced stays of the size it had.
    biased = layer is not None or plan.convolutions[-1].bias is not None
    moments = rows.moments()
    parts = split(plan, groups)
    for turn in range(1 if rows.cut is None else FITS):
        asked = moments if turn == 0 else rows.asked_for(moments, parts)
        parts = [
            refit_factors(part, kernel, own, sweeps=sweeps, ridge=ridge, with_bias=biased)
            for part, kernel, own in zip(parts, site.parts, asked, strict=True)
        ]
    better = joined(parts)
    _store([module] if layer is None else module, better)
    if callback is not None:
        callback(
            site.name, error_of_groups(split(plan, groups), moments), error_of_groups(split(better, groups), moments)
        )
    if layer is None:
        return None
    size = float(np.linalg.norm(site.kernel))
    return replace(
        layer,
        error=float(np.linalg.norm(kernel_of(better, groups) - site.kernel)) / size,
        output_error=error_of_groups(split(better, groups), moments),
        sensitivity=better.sensitivity(relative=True),
    )


def _store(module: Any, plan: LayerPlan) -> None:
    """Write the weights of a plan, and the bias of its last convolution, into the layers that it was read from."""
    import torch

    parts = [part for part in module if hasattr(part, "weight")]
    with torch.no_grad():
        for part, layer in zip(parts, plan.convolutions, strict=True):
            part.weight.copy_(torch.from_numpy(stored_weight(layer.weight, part)))
            if layer.bias is None:
                continue
            bias = torch.from_numpy(np.array(layer.bias)).to(part.weight)
            if part.bias is None:
                part.bias = torch.nn.Parameter(bias)
            else:
                part.bias.copy_(bias)
