"""The smallest network whose outputs stay near those of the original, without labels.

`compress_within` bisects the share of the multiplications (or parameters) that is kept.  The curves of all layers are
measured once; each trial is planned from them, fitted, and refitted to the original (:mod:`torch_refit`).  What is
asked for is either the relative error of the outputs,

    sqrt( sum |y - y~|^2 / sum |y - mean y|^2 ),

or the share of inputs whose largest output is the same as the original's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from tensorchain.compression.accounts import unheld_bound
from tensorchain.compression.steps import NoBudgetError, compress_to_score
from tensorchain.compression.torch_inputs import batches_of, call, tensors_of
from tensorchain.compression.torch_layers import copied
from tensorchain.compression.torch_refit import refit_network


def compress_within(
    net: Any,
    example: Any,
    method: str = "auto",
    *,
    calibration: Any,
    max_output_error: float | None = None,
    min_agreement: float | None = None,
    measured_on: Any = None,
    trials: int = 6,
    **options: Any,
) -> Any:
    """The smallest network whose outputs differ from the original's by no more than is allowed.

    Parameters
    ----------
    net, example, method, options : object or str
        As in `compress_to_score`; `by="params"` makes the parameters small instead of the multiplications.
    calibration : tensor, iterable of batches, or a function that returns one
        Inputs without labels from which the layers are refitted.
    max_output_error : float, optional
        Largest relative error of the outputs; give this or `min_agreement`.
    min_agreement : float, optional
        Least share of the inputs for which the largest of the outputs (B, classes, ...) is the same.
    measured_on : as `calibration`, optional
        Inputs on which the bound has to hold; those of `calibration` by default, which flatters a little.
    trials : int
        Networks that are tried; each halves the range of shares that is left, on a logarithmic scale.

    Returns
    -------
    torch.nn.Module
        `.report.steps` holds every trial, with minus the error, or the agreement, as its score.

    Raises
    ------
    ValueError
        When not exactly one bound is given, it is out of range, or no trial holds it.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3))
    >>> images = torch.randn(24, 8, 9, 9).cumsum(3)
    >>> small = compress_within(
    ...     net, images[:1], "tucker2", calibration=images, max_output_error=0.7, trials=3, candidates=3)
    >>> output_error(net, small, images) <= 0.7, small.report.macs[1] < small.report.macs[0]
    (True, True)
    """
    if (max_output_error is None) == (min_agreement is None):
        raise ValueError("give one of max_output_error and min_agreement")
    if max_output_error is not None and not 0.0 < max_output_error < 1.0:
        raise ValueError(f"max_output_error is {max_output_error!r}; a number between 0 and 1 is needed")
    if min_agreement is not None and not 0.0 < min_agreement <= 1.0:
        raise ValueError(f"min_agreement is {min_agreement!r}; a number above 0, up to 1, is needed")
    teacher = copied(net).eval()
    inputs = batches_of(calibration, net=net)

    def passes() -> Iterator[Any]:
        return ((batch, None) for batch in inputs())

    given = passes if measured_on is None else measured_on
    if max_output_error is not None:
        most, evaluate = max_output_error, lambda small: -output_error(teacher, small, given)
    else:
        most, evaluate = 1.0 - (min_agreement or 0.0), lambda small: agreement(teacher, small, given)
    try:
        return compress_to_score(
            net, example, method, evaluate=evaluate, max_drop=most, trials=trials, calibration=passes, refit=True,
            restoring=lambda small: refit_network(small, teacher, passes), **options,
        )  # fmt: skip
    except NoBudgetError as error:
        raise ValueError(unheld_bound(error.steps, max_output_error, min_agreement)) from error


def output_error(original: Any, net: Any, inputs: Any) -> float:
    """Relative error of the outputs of a network against those of another, all tensors among them together.

    Parameters
    ----------
    original, net : torch.nn.Module
        In evaluation mode.
    inputs : object
        Tensor, iterable of batches, or a function that returns one.

    Returns
    -------
    float

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> output_error(torch.nn.ReLU(), torch.nn.Identity(), torch.tensor([[3.0], [-4.0]])) > 0
    True
    """
    gap, square, count = 0.0, 0.0, 0
    sums: list[Any] = []
    for wanted, found in _both(original, net, batches_of(inputs, "inputs", net=original)):
        if not sums:
            sums = [0.0] * len(wanted)
        for n, (y, z) in enumerate(zip(wanted, found, strict=True)):
            gap += float(((y - z).double() ** 2).sum())
            square += float((y.double() ** 2).sum())
            sums[n] = sums[n] + y.double().sum(0)
        count += len(wanted[0])
    spread = square - sum(float((total**2).sum()) for total in sums) / max(count, 1)
    if gap == 0.0:
        return 0.0
    return math.sqrt(gap / spread) if spread > 0.0 else math.inf


def agreement(original: Any, net: Any, inputs: Any) -> float:
    """Share of the inputs for which the largest of the first output's entries along axis 1 is the same.

    Parameters
    ----------
    original, net : torch.nn.Module
        In evaluation mode.
    inputs : object
        Tensor, iterable of batches, or a function that returns one.

    Returns
    -------
    float

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> agreement(torch.nn.Identity(), torch.nn.ReLU(), torch.tensor([[3.0, -1.0], [-4.0, -1.0]]))
    0.5
    """
    same, count = 0.0, 0
    for wanted, found in _both(original, net, batches_of(inputs, "inputs", net=original)):
        if wanted[0].ndim < 2:
            raise ValueError(
                f"the first output has shape {tuple(wanted[0].shape)}; an agreement needs (B, classes, ...)"
            )
        equal = wanted[0].argmax(1) == found[0].argmax(1)
        same, count = same + float(equal.sum()), count + equal.numel()
    return same / max(count, 1)


def _both(original: Any, net: Any, passes: Callable[[], Iterator[Any]]) -> Iterator[tuple[list[Any], list[Any]]]:
    """The tensors among the outputs of both networks, batch by batch."""
    import torch

    with torch.no_grad():
        for batch in passes():
            outputs = call(original, batch)
            wanted, found = tensors_of(outputs), tensors_of(call(net, batch))
            if not wanted:
                raise ValueError(
                    f"the outputs are {type(outputs).__name__} and hold no tensor of real numbers to compare; wrap the "
                    "network in a module that returns its tensors, in tuples, lists or mappings if need be"
                )
            yield [torch.atleast_1d(y) for y in wanted], [torch.atleast_1d(z) for z in found]
