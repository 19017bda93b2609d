"""What lies behind a layer of a PyTorch network and cuts its outputs (:mod:`tensorchain.compression.cuts`).

One pass over the network in which the functions of PyTorch are watched (`torch.overrides.TorchFunctionMode`): the
output of a layer is followed through normalisations with fixed statistics and additions up to a function that cuts.  If
it, or anything on the way, is used by anything else, or is itself an output of the network, then nothing is cut.
"""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tensorchain.compression.cuts import Cut
from tensorchain.compression.torch_inputs import batch_of, call


@dataclass(frozen=True)
class Followed:
    """The output of a layer on its way to a function that cuts.

    Attributes
    ----------
    name : str
        Of the layer.
    shape : tuple of int
        Of its output y, (B, T, ...) or (..., T).
    output : tensor or None
        y, before anything was added to it, where that was asked for.
    slope : tensor or float
        s, with one entry for each channel.
    """

    name: str
    shape: tuple[int, ...]
    output: Any
    slope: Any


def cuts_of(net: Any, names: Sequence[str], example: Any) -> dict[str, Cut]:
    """The cuts behind layers, where everything behind passes through them.

    Parameters
    ----------
    net : torch.nn.Module
        In evaluation mode.
    names : sequence of str
        Of layers; those that are called more than once are left out.
    example : object
        Inputs; the first of a batch is looked at.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)).eval()
    >>> cuts_of(net, ["0", "2"], torch.ones(1, 2))
    {'0': Cut(low=0.0, high=inf)}
    """
    import torch

    found: dict[str, list[Cut]] = {name: [] for name in names}
    others: set[str] = set()
    with torch.no_grad(), watched(net, names, lambda at, _, cut: found[at.name].append(cut), others=others) as mode:
        outputs = call(net, _first(example, batch_of(example)))
    calls = mode.calls
    for tensor in _tensors(outputs):
        others.update(mode.names_of(tensor))
    return {n: cuts[0] for n, cuts in found.items() if len(cuts) == 1 and calls[n] == 1 and n not in others}


def _first(inputs: Any, count: int) -> Any:
    """The first sample of a batch of inputs: of every tensor whose length is that of the batch."""
    if isinstance(inputs, Mapping):
        return {name: _first(value, count) for name, value in inputs.items()}
    if type(inputs) in (tuple, list):
        return type(inputs)(_first(value, count) for value in inputs)
    if getattr(inputs, "ndim", 0) > 1 and len(inputs) == count:
        return inputs[:1]
    return inputs


@contextmanager
def watched(
    net: Any,
    names: Sequence[str],
    see: Callable[[Followed, Any, Cut], object],
    *,
    outputs: bool = False,
    others: set[str] | None = None,
) -> Iterator[Any]:
    """Call `see` with the layer, u and the cut, whenever the output of a layer comes to a function that cuts.

    Parameters
    ----------
    net : torch.nn.Module
    names : sequence of str
    see : callable
        It may raise, to end the pass.
    outputs : bool, default False
        Whether the outputs of the layers are held for it.
    others : set of str, optional
        Takes the names of layers whose outputs are used by anything else too.
    """
    mode = _mode(see, outputs, others)
    hooks = [
        net.get_submodule(name).register_forward_hook(lambda _, __, result, name=name: mode.begin(name, result))
        for name in names
    ]
    try:
        with mode:
            yield mode
    finally:
        for hook in hooks:
            hook.remove()


def _mode(see: Callable[[Followed, Any, Cut], object], copies: bool, others: set[str] | None) -> Any:
    from torch.overrides import TorchFunctionMode

    class Watch(TorchFunctionMode):  # type: ignore[misc, unused-ignore]
        """Follows tensors by their identity, without holding them: one that ended is used by nothing any more."""

        def __init__(self) -> None:
            super().__init__()
            self.ways: dict[int, list[Followed]] = {}
            self.spent: dict[int, set[str]] = {}
            self.alive: dict[int, Any] = {}
            self.calls: dict[str, int] = {}

        def follow(self, tensor: Any, ways: list[Followed]) -> None:
            self.forget_another(tensor)
            self.ways[id(tensor)] = [*self.ways.get(id(tensor), []), *ways]
            self.alive[id(tensor)] = weakref.ref(tensor)

        def forget_another(self, tensor: Any) -> None:
            """A new tensor may have the identity of one that ended."""
            reference = self.alive.get(id(tensor))
            if reference is not None and reference() is not tensor:
                for known in (self.ways, self.spent, self.alive):
                    known.pop(id(tensor), None)

        def begin(self, name: str, result: Any) -> None:
            self.calls[name] = self.calls.get(name, 0) + 1
            if hasattr(result, "is_floating_point"):
                # A copy, since what follows may work in place; made before it is followed itself.
                copy = result.detach().clone() if copies else None
                self.follow(result, [Followed(name, tuple(result.shape), copy, 1.0)])

        def names_of(self, tensor: Any) -> set[str]:
            self.forget_another(tensor)
            return {way.name for way in self.ways.get(id(tensor), [])} | self.spent.get(id(tensor), set())

        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            given = dict(kwargs or {})
            for tensor in _tensors([args, given]):
                self.forget_another(tensor)
            used = [t for t in _tensors([args, given]) if id(t) in self.ways or id(t) in self.spent]
            if not used:
                return func(*args, **given)
            ways = [way for tensor in used for way in self.ways.get(id(tensor), [])]
            cut = _cut(func, args, given)
            if cut is not None:
                for way in ways:
                    see(way, used[0], cut)
            slope = None if cut is not None else _slope(func, args, given)
            result = func(*args, **given)
            if not _tensors(result):
                return result  # such as a shape
            for tensor in used:
                if others is not None:
                    others.update(self.spent.get(id(tensor), set()))
                if self.ways.pop(id(tensor), None) and tensor is not result:
                    self.spent.setdefault(id(tensor), set()).update(way.name for way in ways)
            follows = slope is not None and all(getattr(result, "shape", None) == way.shape for way in ways)
            if follows and ways:
                self.follow(result, [Followed(way.name, way.shape, way.output, way.slope * slope) for way in ways])
            elif cut is None and others is not None:
                others.update(way.name for way in ways)
            return result

    return Watch()


def _tensors(values: Any) -> list[Any]:
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, (tuple, list)):
        return [tensor for value in values for tensor in _tensors(value)]
    return [values] if hasattr(values, "is_floating_point") and hasattr(values, "grad_fn") else []


def _cut(func: Any, args: tuple[Any, ...], given: Mapping[str, Any]) -> Cut | None:
    """Where a function is constant, if it is one of those that cut."""
    import torch
    from torch.nn import functional

    inf = math.inf
    if func in (torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_, functional.relu):
        return Cut(0.0, inf)
    if func is functional.relu6:
        return Cut(0.0, 6.0)
    if func is functional.hardtanh:
        bound = inspect.signature(functional.hardtanh).bind(*args, **given)
        bound.apply_defaults()
        return Cut(float(bound.arguments["min_val"]), float(bound.arguments["max_val"]))
    if func is functional.hardswish:
        return Cut(-3.0, inf)
    return Cut(-3.0, 3.0) if func is functional.hardsigmoid else None


def _slope(func: Any, args: tuple[Any, ...], given: Mapping[str, Any]) -> Any:
    """What a function multiplies each channel with, if it does only this and an addition; else None."""
    import torch
    from torch.nn import functional

    kind = torch.Tensor
    if func in (torch.add, kind.add, kind.add_, kind.__add__, kind.__iadd__, kind.__radd__):
        return 1.0 if given.get("alpha", 1) == 1 else None
    if func is not functional.batch_norm:
        return None
    bound = inspect.signature(functional.batch_norm).bind(*args, **given)
    bound.apply_defaults()
    named = bound.arguments
    if named["training"] or named["running_var"] is None:
        return None
    slope = torch.rsqrt(named["running_var"].detach() + named["eps"])
    slope = slope if named["weight"] is None else slope * named["weight"].detach()
    return slope.reshape(-1, *[1] * (named["input"].ndim - 2))
