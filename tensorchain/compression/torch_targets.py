"""What a layer of a compressed network sees, and what the original gave for it, row by row.

Rows are patches x of the inputs that the compressed network gives now, at positions that are drawn, and the outputs y
of the original at the same images and positions.  Where a function that cuts lies behind the layer
(:mod:`tensorchain.compression.torch_cuts`), they come with what is added to an output on its way there, in both
networks, so that targets can be made that ask only for what is seen.

Inputs of a layer are held where they fit into a bounded memory, and are computed again where they do not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorchain.compression.conv import LayerPlan
from tensorchain.compression.cuts import Cut
from tensorchain.compression.refit import Moments
from tensorchain.compression.request import Site
from tensorchain.compression.torch_cuts import Followed, watched
from tensorchain.compression.torch_inputs import call, first_of, sample_of
from tensorchain.compression.torch_patches import add_rows, outputs_of, rows_of

_HELD = 1 << 26
"""Most numbers of the inputs of one layer that are held."""


class _Seen(Exception):  # noqa: N818, it ends a pass early and is no error
    """Everything that was wanted of a pass has been seen."""


@dataclass(frozen=True)
class Goals:
    """What one call of a layer of the original gave.

    Attributes
    ----------
    outputs : tensor (groups, Z, T / groups)
    side : tensor or None
        Of the same shape: -1 where the output is cut below, 1 where it is cut above, else 0; None without a cut.
    """

    outputs: Any
    side: Any = None


class Targets:
    """What layers of the original gave at positions that are drawn, batch by batch.

    A loader that shuffles, or changes its images, gives other batches in each pass: what such a batch gives is taken
    again.

    Attributes
    ----------
    sites : list of Site
        The layers.
    found : object
        By name, for each batch the `Goals` of every call.
    batches : list
        Some numbers of each batch, by which it is recognised.
    """

    def __init__(
        self,
        teacher: Any,
        sites: list[Site],
        batches: Callable[[], Iterator[Any]],
        *,
        places: Mapping[str, int],
        seeds: Mapping[str, tuple[int, int]],
        cuts: Mapping[str, Cut],
    ) -> None:
        self.teacher, self.sites, self.places, self.seeds, self.cuts = teacher, sites, places, seeds, cuts
        self.found: dict[str, list[list[Goals]]] = {site.name: [] for site in sites}
        self.batches: list[Any] = []
        for n, batch in enumerate(batches()):
            self.batches.append(sample_of(batch))
            for name, goals in self._run(sites, batch, n).items():
                self.found[name].append(goals)

    def of(self, site: Site, batch: Any, n: int) -> list[Goals]:
        """What every call of a layer gave on the n-th batch of a pass."""
        if n < len(self.batches) and self.batches[n] == sample_of(batch):
            return self.found[site.name][n]
        return self._run([site], batch, n)[site.name]

    def _run(self, sites: list[Site], batch: Any, n: int) -> dict[str, list[Goals]]:
        import torch

        seen: dict[str, list[Any]] = {site.name: [] for site in sites}
        sides: dict[str, Any] = {}
        known = {site.name: site for site in sites}

        def see(site: Site, module: Any, result: Any, rng: np.random.Generator) -> None:
            outputs = outputs_of(module, site, result.detach(), positions=self.places[site.name], rng=rng)
            seen[site.name].append(outputs.clone())

        def cut_off(way: Followed, values: Any, cut: Cut) -> None:
            side = (values.detach() >= cut.high).to(torch.int8) - (values.detach() <= cut.low).to(torch.int8)
            sides[way.name] = self.drawn(known[way.name], side, n)

        hooks = []
        for site in sites:
            rng = self.rng(site, n)
            hooks.append(
                self.teacher.get_submodule(site.name).register_forward_hook(
                    lambda module, _, result, site=site, rng=rng: see(site, module, result, rng)
                )
            )
        try:
            with torch.no_grad(), watched(self.teacher, [name for name in known if name in self.cuts], cut_off):
                call(self.teacher, batch)
        finally:
            for hook in hooks:
                hook.remove()
        return {name: [Goals(outputs, sides.get(name)) for outputs in found] for name, found in seen.items()}

    def drawn(self, site: Site, values: Any, batch: int) -> Any:
        """Values of the shape of a layer's outputs at the positions that are drawn for a batch."""
        module = self.teacher.get_submodule(site.name)
        return outputs_of(module, site, values, positions=self.places[site.name], rng=self.rng(site, batch))

    def rng(self, site: Site, batch: int) -> np.random.Generator:
        """What draws the positions of a batch."""
        return np.random.default_rng([*self.seeds[site.name], batch])


@dataclass(frozen=True)
class _Call:
    """One call of a layer in the compressed network: its inputs, its goals, and s and c of u = s y + c, or None."""

    batch: int
    inputs: Any
    goals: list[Goals]
    slope: Any = None
    offset: Any = None


class Rows:
    """The rows of one layer; gone through as often as needed.

    Parameters
    ----------
    net : torch.nn.Module
        The compressed network, in evaluation mode; its weights up to the layer must not change in between.
    original : Targets
    site : Site
    batches : callable
        Returns the batches.
    """

    def __init__(self, net: Any, original: Targets, site: Site, batches: Callable[[], Iterator[Any]]) -> None:
        self.net, self.original, self.site, self.batches = net, original, site, batches
        self.cut = original.cuts.get(site.name)
        self.held: list[_Call] | None = None

    def moments(self) -> list[Moments]:
        """Moments of patches and outputs, one for each group."""
        moments = [Moments(part[0].size, len(part)) for part in self.site.parts]
        for rows, goals, _ in self._pieces():
            for own, row, goal in zip(moments, rows, goals.outputs, strict=True):
                add_rows(own, row, goal)
        return moments

    def asked_for(self, moments: Sequence[Moments], plans: Sequence[LayerPlan]) -> list[Moments]:
        """The moments with the targets that ask for what passes the cut, where plans of the groups give the outputs.

        Parameters
        ----------
        moments : sequence of Moments
            As `moments` gives them.
        plans : sequence of LayerPlan
            The present fit of each group.

        Returns
        -------
        list of Moments
        """
        import torch

        if self.cut is None:
            return list(moments)
        kernels = np.stack([plan.kernel.reshape(len(plan.kernel), -1) for plan in plans])
        last = [plan.convolutions[-1].bias for plan in plans]
        biases = np.stack([np.zeros(kernels.shape[1]) if bias is None else bias for bias in last])
        changes = [Moments(*own.cross.shape) for own in moments]
        for rows, goals, at in self._pieces():
            if goals.side is None or at is None:
                continue
            slope, offset = at
            weight, bias = (torch.from_numpy(values).to(rows) for values in (kernels, biases[:, None]))
            given = torch.baddbmm(bias, rows, weight.transpose(1, 2))
            passed = slope * given + offset
            low, high = (goals.side < 0) & (passed <= self.cut.low), (goals.side > 0) & (passed >= self.cut.high)
            change = torch.where(low | high, given - goals.outputs, torch.zeros_like(given))
            for own, row, step in zip(changes, rows, change, strict=True):
                add_rows(own, row, step)
        found = []
        for own, change in zip(moments, changes, strict=True):
            # The same inputs: means and cross moments of y and of what is added to it are summed.
            new = copy(own)
            if change.count == own.count:
                new.cross, new.target_mean = own.cross + change.cross, own.target_mean + change.target_mean
            found.append(new)
        return found

    def _pieces(self) -> Iterator[tuple[Any, Goals, tuple[Any, Any] | None]]:
        """Patches (groups, Z, p), the goals of these rows, and slope and offsets where there is a cut."""
        module = self.original.teacher.get_submodule(self.site.name)
        for batch, calls in self._calls():
            rng = self.original.rng(self.site, batch)
            for one in calls:
                start = 0
                places = self.original.places[self.site.name]
                for rows in rows_of(module, self.site, one.inputs, positions=places, rng=rng):
                    here = slice(start, start + rows.shape[1])
                    start += rows.shape[1]
                    goals = one.goals[0]
                    side = None if goals.side is None else goals.side[:, here]
                    at = None if one.offset is None else (one.slope, one.offset[:, here])
                    yield rows, Goals(goals.outputs[:, here], side), at

    def _calls(self) -> Iterator[tuple[int, list[_Call]]]:
        """The calls of each batch; from memory where all are held."""
        if self.held is not None:
            batches = sorted({one.batch for one in self.held})
            yield from ((n, [one for one in self.held if one.batch == n]) for n in batches)
            return
        held: list[_Call] | None = []
        size = 0
        for n, batch in enumerate(self.batches()):
            calls = self._run(batch, n)
            if held is not None and self.cut is not None:
                size += sum(one.inputs.numel() + (0 if one.offset is None else one.offset.numel()) for one in calls)
                held = [*held, *calls] if size <= _HELD else None
            yield n, calls
        self.held = held or None

    def _run(self, batch: Any, n: int) -> list[_Call]:
        import torch

        inputs: list[Any] = []
        ways: list[tuple[Any, Any]] = []

        def see(value: Any) -> None:
            # A copy, since what follows may work in place.
            inputs.append(value.detach() if self.cut is None else value.detach().clone())
            if len(inputs) == self.site.calls and self.cut is None:
                raise _Seen

        def cut_off(way: Followed, values: Any, _: Cut) -> None:
            offset = self.original.drawn(self.site, values.detach() - way.slope * way.output, n)
            slope = torch.as_tensor(way.slope).to(offset).reshape(-1).expand(offset.shape[0] * offset.shape[2])
            ways.append((slope.reshape(len(offset), 1, -1), offset))
            raise _Seen

        goals = self.original.of(self.site, batch, n)
        hook = self.net.get_submodule(self.site.name).register_forward_pre_hook(
            lambda _, given, named: see(first_of(given, named)), with_kwargs=True
        )
        names = [] if self.cut is None else [self.site.name]
        try:
            with torch.no_grad(), contextlib.suppress(_Seen), watched(self.net, names, cut_off, outputs=True):
                call(self.net, batch)
        finally:
            hook.remove()
        at = ways[0] if ways else (None, None)
        return [_Call(n, values, [own], *at) for values, own in zip(inputs, goals, strict=True)]
