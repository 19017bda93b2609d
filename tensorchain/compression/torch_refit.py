"""Refit a compressed PyTorch network to its original, layer by layer, from calibration inputs without labels.

In the order of execution each layer is fitted from the inputs that the compressed network gives it now to the outputs
that the original gave at the same images and positions (:mod:`tensorchain.compression.refit`): all small convolutions
of a replaced layer by alternating least squares, a layer that stayed by least squares.  So each layer also repairs what
the layers before it have changed.

Memory does not grow with the number of images: of a layer's p inputs and T outputs only moments of p^2 + p T numbers
are held, from positions that are drawn.  The outputs of the original at these positions are taken for many layers in
one pass, as many as a bounded memory holds.  Cost: each layer needs a pass over the inputs, up to this layer, of the
compressed network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tensorchain.compression.conv import LayerPlan
from tensorchain.compression.groups import error_of_groups, joined, kernel_of, split
from tensorchain.compression.refit import RIDGE, Moments
from tensorchain.compression.refit_factors import refit_factors
from tensorchain.compression.report import LayerReport
from tensorchain.compression.request import Site
from tensorchain.compression.torch_inputs import batch_of, batches_of, call, first_of, sample_of
from tensorchain.compression.torch_layers import copied, decomposed, plan_of_module, stored_weight
from tensorchain.compression.torch_patches import add_rows, outputs_of, positions_for, rows_of
from tensorchain.compression.torch_sites import sites_of

MOST_INPUTS = 6000
"""Longest patch p whose layer is refitted: its moments take 8 p^2 bytes, 290 MB."""
_GOALS = 1 << 26
"""Most outputs of the original, of several layers, that are held at once."""


def refit_network(
    net: Any,
    original: Any,
    calibration: Any,
    *,
    rounds: int = 1,
    sweeps: int = 8,
    ridge: float = RIDGE,
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
        fitted from 32 rows for each number of a patch, but 16,384 to 65,536.
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
    batches = batches_of(calibration)
    seed = int(np.random.default_rng(rng).integers(1 << 62))
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
        samples = sum(batch_of(batch) for batch in batches())
        places = {site.name: positions or positions_for(site, samples) for site in wanted}
        seeds = {site.name: (seed, k) for k, site in enumerate(wanted)}
        original_outputs: _Outputs | None = None
        for _ in range(rounds):
            for together in _in_memory(wanted, places, samples):
                if original_outputs is None or original_outputs.sites != together:
                    original_outputs = _Outputs(teacher, together, batches, places, seeds)
                for site in together:
                    moments = _moments(net, original_outputs, site, batches)
                    report = _refit_layer(net, site, moments, (sweeps, ridge), callback)
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
    moments: list[Moments],
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
    better = joined(
        [
            refit_factors(part, kernel, own, sweeps=sweeps, ridge=ridge, with_bias=biased)
            for part, kernel, own in zip(split(plan, groups), site.parts, moments, strict=True)
        ]
    )
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


class _Seen(Exception):  # noqa: N818, it ends a pass early and is no error
    """Everything that was wanted of a pass has been seen."""


class _Outputs:
    """What layers of the original gave at positions that are drawn, batch by batch.

    A loader that shuffles, or changes its images, gives other batches in each pass: what such a batch gives is taken
    again.

    Attributes
    ----------
    sites : list of Site
        The layers.
    found : object
        By name, for each batch the outputs (groups, Z, T / groups) of every call.
    batches : list
        Some numbers of each batch, by which it is recognised.
    """

    def __init__(
        self,
        teacher: Any,
        sites: list[Site],
        batches: Callable[[], Iterator[Any]],
        places: Mapping[str, int],
        seeds: Mapping[str, tuple[int, int]],
    ) -> None:
        self.teacher, self.sites, self.places, self.seeds = teacher, sites, places, seeds
        self.found: dict[str, list[list[Any]]] = {site.name: [] for site in sites}
        self.batches: list[Any] = []
        for n, batch in enumerate(batches()):
            self.batches.append(sample_of(batch))
            for name, outputs in self._run(sites, batch, n).items():
                self.found[name].append(outputs)

    def of(self, site: Site, batch: Any, n: int) -> list[Any]:
        """Outputs of every call of a layer on the n-th batch of a pass."""
        if n < len(self.batches) and self.batches[n] == sample_of(batch):
            return self.found[site.name][n]
        return self._run([site], batch, n)[site.name]

    def _run(self, sites: list[Site], batch: Any, n: int) -> dict[str, list[Any]]:
        import torch

        seen: dict[str, list[Any]] = {site.name: [] for site in sites}

        def see(site: Site, module: Any, result: Any, rng: np.random.Generator) -> None:
            outputs = outputs_of(module, site, result.detach(), positions=self.places[site.name], rng=rng)
            seen[site.name].append(outputs.clone())

        hooks = []
        for site in sites:
            rng = self.rng(site, n)
            hooks.append(
                self.teacher.get_submodule(site.name).register_forward_hook(
                    lambda module, _, result, site=site, rng=rng: see(site, module, result, rng)
                )
            )
        try:
            with torch.no_grad():
                call(self.teacher, batch)
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    def rng(self, site: Site, batch: int) -> np.random.Generator:
        """What draws the positions of a batch."""
        return np.random.default_rng([*self.seeds[site.name], batch])


def _moments(net: Any, original: _Outputs, site: Site, batches: Callable[[], Iterator[Any]]) -> list[Moments]:
    """Moments of the patches that a layer sees in the network, and of the outputs that it gave in the original."""
    import torch

    inputs: list[Any] = []

    def see(value: Any) -> None:
        inputs.append(value.detach())
        if len(inputs) == site.calls:
            raise _Seen

    moments = [Moments(part[0].size, len(part)) for part in site.parts]
    module = original.teacher.get_submodule(site.name)
    hook = net.get_submodule(site.name).register_forward_pre_hook(
        lambda _, given, named: see(first_of(given, named)), with_kwargs=True
    )
    try:
        with torch.no_grad():
            for n, batch in enumerate(batches()):
                outputs = original.of(site, batch, n)
                inputs.clear()
                with contextlib.suppress(_Seen):
                    call(net, batch)
                rng = original.rng(site, n)
                for values, results in zip(inputs, outputs, strict=True):
                    start = 0
                    pieces = rows_of(module, site, values, positions=original.places[site.name], rng=rng)
                    for rows in pieces:
                        goals = results[:, start : start + rows.shape[1]]
                        start += rows.shape[1]
                        for own, row, goal in zip(moments, rows, goals, strict=True):
                            add_rows(own, row, goal)
    finally:
        hook.remove()
    return moments


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
