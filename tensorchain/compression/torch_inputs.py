"""What a PyTorch network is run on: examples and calibration inputs in the forms that people have them.

An input is a tensor, or a tuple or list (the positional arguments) or a mapping (the keyword arguments) of anything.
A batch of a loader is such an input, or a pair whose first part is one and whose second part, the labels, is not read.
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
        return net(**inputs)
    if isinstance(inputs, (tuple, list)):
        try:
            inspect.signature(getattr(net, "forward", net)).bind(*inputs)
        except TypeError:
            return call(net, inputs[0])
        return net(*inputs)
    return net(inputs)


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


def inputs_of(batch: Any) -> Any:
    """The inputs of a batch that may hold labels too: the first part of a pair.

    Examples
    --------
    >>> inputs_of(("images", "labels")), inputs_of("images"), inputs_of({"images": 1})
    ('images', 'images', {'images': 1})
    """
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def batches_of(calibration: Any, name: str = "calibration") -> Callable[[], Iterator[Any]]:
    """A function that starts a pass over the inputs of all batches.

    Parameters
    ----------
    calibration : tensor, iterable of batches, or a function that returns one
        A tensor is cut into batches of 64.  An iterator, which ends after one pass, is read into a list.
    name : str
        Of the argument, for the error.

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
    import torch

    if isinstance(calibration, torch.Tensor):
        calibration = list(calibration.split(BATCH))
    elif callable(calibration) and not isinstance(calibration, Iterable):
        return lambda: _inputs(calibration(), name)
    elif isinstance(calibration, Mapping) or not isinstance(calibration, Iterable):
        raise TypeError(
            f"{name} is {type(calibration).__name__}; a tensor of images, a loader, a list of batches, or a function "
            "that returns one of these is needed"
        )
    source = list(calibration) if iter(calibration) is calibration else calibration
    return lambda: _inputs(source, name)


def _inputs(batches: Any, name: str) -> Iterator[Any]:
    import torch

    found = False
    for batch in batches.split(BATCH) if isinstance(batches, torch.Tensor) else batches:
        found = True
        yield inputs_of(batch)
    if not found:
        raise ValueError(f"{name} holds no batch; give an iterable of inputs, or of (inputs, labels)")
