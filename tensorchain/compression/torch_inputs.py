"""What a PyTorch network is run on: examples and calibration inputs in the forms that people have them.

An input is a tensor, or a tuple or list (the positional arguments) or a mapping (the keyword arguments) of anything.
A batch of a loader is such an input, or a pair whose first part is one and whose second part, the labels, is not read:
the first part alone is the input wherever the network can be called with it.  Of a mapping the entries are read that
the network takes, and one entry more is its labels.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

BATCH = 64
"""Images of a batch where one tensor holds all calibration images."""


def call(net: Any, inputs: Any) -> Any:
    """The outputs of a network for inputs.

    A pair is the inputs and their labels, as loaders give them, where the network takes one argument only.

    Examples
    --------
    >>> call(pow, (2, 5)), call(dict, {"a": 1}), call(abs, -2), call(abs, (-2, "label"))
    (32, {'a': 1}, 2, 2)
    """
    if isinstance(inputs, Mapping):
        if not _takes(net, inputs):
            raise TypeError(f"the inputs are named {', '.join(map(repr, inputs))}; {_needs(net)}")
        return net(**inputs)
    if isinstance(inputs, (tuple, list)):
        if not inputs:
            raise TypeError(f"the inputs are an empty {type(inputs).__name__}; {_needs(net)}")
        return net(*inputs) if _takes(net, inputs) else call(net, inputs[0])
    return net(inputs)


def _signature(net: Any) -> inspect.Signature | None:
    """What a network, or the one inside a wrapper that hands all on, takes; None where that is not known."""
    import torch

    while True:
        inside = getattr(net, "_orig_mod", None)
        inside = net.module if isinstance(net, torch.nn.DataParallel) else inside
        if inside is None:
            break
        net = inside
    try:
        return inspect.signature(getattr(net, "forward", net))
    except (TypeError, ValueError):
        return None


def _takes(net: Any, inputs: Any) -> bool:
    """Whether a network can be called with inputs."""
    signature = _signature(net)
    try:
        if signature is not None:
            named = isinstance(inputs, Mapping)
            signature.bind(**inputs) if named else signature.bind(*_arguments(inputs))
    except TypeError:
        return False
    return True


def _arguments(inputs: Any) -> tuple[Any, ...]:
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


def _needs(net: Any) -> str:
    signature = _signature(net)
    return "the network cannot take these" if signature is None else f"the network takes {signature}"


def first_of(given: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    """The first argument of a call, positional or named.

    Examples
    --------
    >>> first_of((3, 4), {}), first_of((), {"input": 5})
    (3, 5)
    """
    return given[0] if given else next(iter(named.values()), None)


def batch_of(inputs: Any) -> int:
    """The length of the first tensor in inputs, 1 where there is none.

    Examples
    --------
    >>> import torch
    >>> batch_of({"x": [torch.zeros(3, 2)]})
    3
    """
    if isinstance(inputs, Mapping):
        inputs = list(inputs.values())
    if isinstance(inputs, (tuple, list)):
        return batch_of(inputs[0]) if inputs else 1
    return len(inputs) if getattr(inputs, "ndim", 0) else 1


def first_tensor(values: Any) -> Any:
    """The first tensor in inputs or outputs, or None.

    Examples
    --------
    >>> import torch
    >>> first_tensor({"y": [None, torch.ones(2)]}), first_tensor("text")
    (tensor([1., 1.]), None)
    """
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, (tuple, list)):
        return next((found for one in values if (found := first_tensor(one)) is not None), None)
    return values if hasattr(values, "flatten") and hasattr(values, "numel") else None


def sample_of(inputs: Any) -> list[Any]:
    """Shapes and some numbers of all tensors in inputs: equal for equal inputs, and hardly for others.

    Examples
    --------
    >>> import torch
    >>> one, other = torch.ones(2, 3), torch.zeros(2, 3)
    >>> sample_of(one) == sample_of(one.clone()), sample_of(one) == sample_of(other)
    (True, False)
    """
    if isinstance(inputs, Mapping):
        inputs = list(inputs.values())
    if isinstance(inputs, (tuple, list)):
        return [part for one in inputs for part in sample_of(one)]
    if not hasattr(inputs, "flatten") or not hasattr(inputs, "numel"):
        return [repr(inputs)]
    flat = inputs.detach().flatten()
    return [tuple(inputs.shape), flat[:: max(1, flat.numel() // 1024)].cpu().tolist()]


def tensors_of(values: Any) -> list[Any]:
    """All tensors of real numbers in outputs.

    Examples
    --------
    >>> import torch
    >>> tensors_of({"y": [torch.ones(1), torch.ones(1, dtype=torch.int64)], "z": torch.zeros(1)})
    [tensor([1.]), tensor([0.])]
    """
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, (tuple, list)):
        return [tensor for part in values for tensor in tensors_of(part)]
    return [values] if hasattr(values, "is_floating_point") and values.is_floating_point() else []


def inputs_of(batch: Any, net: Any = None) -> Any:
    """The inputs of a batch that may hold labels too: the first part of a pair where the network can take it alone.

    Examples
    --------
    >>> inputs_of(("images", "labels")), inputs_of("images"), inputs_of(("base", "exponent"), pow)
    ('images', 'images', ('base', 'exponent'))
    >>> inputs_of({"value": 3.5, "label": 1}, lambda value: value)
    {'value': 3.5}
    """
    if isinstance(batch, (tuple, list)) and batch:
        alone = net is None or len(batch) == 1 or _takes(net, batch[0]) or not _takes(net, batch)
        return batch[0] if alone else tuple(batch)
    if isinstance(batch, Mapping) and net is not None:
        signature = _signature(net)
        parameters = {} if signature is None else signature.parameters
        if parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return {key: value for key, value in batch.items() if key in parameters} or dict(batch)
    return batch


def pair_of(batch: Any, net: Any) -> tuple[Any, Any]:
    """Inputs and labels of a batch.

    Raises
    ------
    TypeError
        When it is no pair, and no mapping with one entry more than the network takes.

    Examples
    --------
    >>> pair_of(("images", "labels"), None), pair_of({"value": 3.5, "label": 1}, lambda value: value)
    (('images', 'labels'), ({'value': 3.5}, 1))
    """
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, Mapping):
        inputs = inputs_of(batch, net)
        rest = [value for key, value in batch.items() if key not in inputs]
        if len(rest) == 1:
            return inputs, rest[0]
        told = f"a mapping of {', '.join(map(repr, batch))}"
    else:
        parts = f" of {len(batch)} parts" if isinstance(batch, (tuple, list)) else ""
        told = f"a {type(batch).__name__}{parts}"
    raise TypeError(f"a batch is {told}; a pair (inputs, labels) is needed, or the inputs by name and one entry more")


def batches_of(calibration: Any, name: str = "calibration", *, net: Any = None) -> Callable[[], Iterator[Any]]:
    """A function that starts a pass over the inputs of all batches.

    Parameters
    ----------
    calibration : tensor, iterable of batches, or a function that returns one
        A tensor is cut into batches of 64.  An iterator, which ends after one pass, is read into a list.
    name : str
        Of the argument, for the error.
    net : torch.nn.Module, optional
        The network that takes them, where pairs may be two inputs (`inputs_of`).

    Returns
    -------
    callable

    Raises
    ------
    TypeError
        When it is none of these.
    ValueError
        When there is no batch.

    Examples
    --------
    >>> passes = batches_of([("images 1", "labels 1"), ("images 2", "labels 2")])
    >>> list(passes()), list(passes())
    (['images 1', 'images 2'], ['images 1', 'images 2'])
    """
    if callable(calibration) and not isinstance(calibration, Iterable):
        return lambda: one_pass(calibration(), name, net=net)
    source = list(calibration) if isinstance(calibration, Iterator) else calibration
    _checked(source, name)
    return lambda: one_pass(source, name, net=net)


def one_pass(loader: Any, name: str = "loader", *, net: Any = None) -> Iterator[Any]:
    """The inputs of all batches; arguments and errors as in `batches_of`, but that an iterator is used up."""
    import torch

    if callable(loader) and not isinstance(loader, Iterable):
        loader = loader()
    _checked(loader, name)
    return _inputs(list(loader.split(BATCH)) if isinstance(loader, torch.Tensor) else loader, name, net)


def _checked(loader: Any, name: str) -> None:
    """TypeError for what is no source of batches."""
    if isinstance(loader, (Mapping, str)) or not isinstance(loader, Iterable):
        raise TypeError(
            f"{name} is {type(loader).__name__}; a tensor of images, a loader, a list of batches, or a function "
            "that returns one of these is needed"
        )
    if type(loader).__module__ == "numpy":
        raise TypeError(f"{name} is a NumPy array; give torch.from_numpy of it")


def _inputs(batches: Iterable[Any], name: str, net: Any) -> Iterator[Any]:
    found = False
    for batch in batches:
        found = True
        yield inputs_of(batch, net)
    if not found:
        raise ValueError(f"{name} holds no batch; give an iterable of inputs, or of (inputs, labels)")
