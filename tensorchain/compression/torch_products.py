"""Multiplications of a run of a PyTorch network, by the layer whose weights they read.

Every matrix product and convolution that the run makes is counted as it passes PyTorch's dispatcher, in the shapes that
it really has: in attention with keys of another length, in a head that stands at several sizes, in products of two
computed values, which belong to no weights at all.

| operation                         | multiplications                                       |
|-----------------------------------|-------------------------------------------------------|
| (..., n, k) times (..., k, m)     | n k m for each pair of matrices                       |
| convolution                       | the kernel of an output channel for each output       |
| transposed convolution            | the kernel of an input channel for each input         |
| attention, L queries and S keys   | L S (E + E_v) for each head                           |
| recurrent layer in one operation  | all its matrices for each step                        |

They are put down to the layer that holds a factor in its parameters, else to the innermost module that runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tensorchain.compression.torch_inputs import call
from tensorchain.compression.torch_layers import torch_package


def products_of(net: Any, example: Any, layers: Mapping[str, Any], home: Callable[[str], str]) -> dict[str, int]:
    """Multiplications of one run, by name of a layer or of the innermost module.

    Parameters
    ----------
    net : torch.nn.Module
    example : tensor, tuple, list or mapping
        Inputs, as in `torch_inputs.call`.
    layers : mapping of str to torch.nn.Module
        Those that own their parameters.
    home : callable
        From the name of a module that runs to the name under which it counts.

    Returns
    -------
    dict of str to int

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2))
    >>> products_of(net, torch.zeros(7, 3), {"0": net[0]}, str)
    {'0': 105, '1': 70}
    """
    torch = torch_package()
    from torch.utils._python_dispatch import TorchDispatchMode

    owners: dict[int, list[str]] = {}
    for name, module in layers.items():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(_memory(parameter), []).append(name)
    owners.pop(0, None)
    names = {id(module): home(name) for name, module in reversed(list(net.named_modules()))}
    running: list[str] = [home("")]
    counts: dict[str, int] = {}

    class Counting(TorchDispatchMode):  # type: ignore[misc, unused-ignore]
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            count = _multiplications(str(function).split(".")[1], args, result)
            if count:
                held = [owner for part in _tensors(args) for owner in owners.get(_memory(part), [])]
                name = held[0] if held and running[-1] not in held else running[-1]
                counts[name] = counts.get(name, 0) + count
            return result

    with torch.no_grad(), _stack(names, running), _slow_attention(), Counting():
        call(net, example)
    return counts


@contextmanager
def _stack(names: Mapping[int, str], running: list[str]) -> Iterator[None]:
    """Have the name of the innermost module that runs last in a list."""
    from torch.nn.modules import module as hooks

    def enter(module: Any, _: Any) -> None:
        running.append(names.get(id(module), running[-1]))

    def leave(*_: Any) -> None:
        running.pop()

    # Also where a module fails, and the one around it goes on.
    leaving = hooks.register_module_forward_hook(leave, always_call=True)
    handles = hooks.register_module_forward_pre_hook(enter), leaving
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _slow_attention() -> Iterator[None]:
    """Have attention made of the operations that are counted; versions that cannot switch count less."""
    switch = getattr(torch_package().backends, "mha", None)
    if switch is None:
        yield
        return
    fast = switch.get_fastpath_enabled()
    switch.set_fastpath_enabled(False)
    try:
        yield
    finally:
        switch.set_fastpath_enabled(fast)


def _memory(tensor: Any) -> int:
    """Where the numbers of a tensor, and of all views of it, lie; 0 where that is not known."""
    try:
        return int(tensor.untyped_storage().data_ptr())
    except (NotImplementedError, RuntimeError):
        return 0


def _tensors(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _tensors(value)
        elif hasattr(value, "untyped_storage"):
            yield value


def _multiplications(name: str, args: Any, result: Any) -> int:
    """Of one operation; 0 for those that are no product."""
    if name in ("mm", "bmm", "mv", "dot", "vdot"):
        return _product(args[0], args[1])
    if name in ("addmm", "baddbmm", "addbmm", "addmv"):
        return _product(args[1], args[2])
    if name in ("convolution", "_convolution", "convolution_overrideable"):
        values, weight, transposed = args[0], args[1], args[6]
        # A kernel is stored by output channels, of a transposed convolution by input channels.
        return int((values if transposed else result).numel() * math.prod(weight.shape[1:]))
    if name.startswith("_scaled_dot_product") and not name.endswith("backward"):
        query, key, value = args[:3]
        pairs = math.prod(query.shape[:-1]) * key.shape[-2]
        return int(pairs * (query.shape[-1] + value.shape[-1]))
    if name == "mkldnn_rnn_layer":
        return int(math.prod(args[0].shape[:-1]) * (args[1].numel() + args[2].numel()))
    if name == "_cudnn_rnn":
        return int(math.prod(args[0].shape[:-1]) * sum(weight.numel() for weight in args[1] if weight.ndim == 2))
    if name == "_trilinear":
        # Of `Bilinear`: both vectors, and a matrix for each output.
        return int(math.prod(args[0].shape[:1]) * args[1].numel())
    return 0


def _product(left: Any, right: Any) -> int:
    return int(left.numel() * (right.shape[-1] if right.ndim > 1 else 1))
