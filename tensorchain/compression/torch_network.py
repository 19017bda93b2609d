"""Compress a PyTorch network: decomposed convolutions in place of dense ones.

`compress` looks at every convolution and linear layer, chooses and fits decompositions under a budget for the whole
network (:mod:`tensorchain.compression.network`), and returns a copy in which each layer that changes is a sequence of
plain layers.  With calibration inputs all its layers are then refitted to what the original network gives
(:mod:`tensorchain.compression.torch_refit`).

The torch-free mathematics is elsewhere.  Needs `pip install tensorchain[torch]`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tensorchain.compression.latency import Clock, Times, within_latency
from tensorchain.compression.network import Measured
from tensorchain.compression.request import Request
from tensorchain.compression.torch_clock import TorchClock
from tensorchain.compression.torch_gains import gains_of
from tensorchain.compression.torch_inputs import batches_of, call
from tensorchain.compression.torch_layers import copied, in_evaluation, torch_package, with_plans
from tensorchain.compression.torch_patches import patch_covariances
from tensorchain.compression.torch_refit import refit_network
from tensorchain.compression.torch_sites import sites_of


def compress(
    net: Any,
    example: Any,
    method: str = "auto",
    *,
    keep_macs: float | None = None,
    keep_params: float | None = None,
    keep_latency: float | None = None,
    calibration: Any = None,
    refit: bool | None = None,
    rounds: int = 1,
    clock: Clock | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    rng: int | np.random.Generator | None = 0,
    **options: Any,
) -> Any:
    """A compressed copy of a network.

    Parameters
    ----------
    net : torch.nn.Module
        Network with convolutions (over lines, images or volumes, in groups, transposed) or linear layers; it is not
        changed.
    example : torch.Tensor, tuple or dict
        An input, with which the sizes of all images are found.
    method : str, default "auto"
        For kernels of several taps: "cp3", "cp4", "tucker2", "tucker-cp", "btd" or "tc"; "auto" takes for each layer
        the one that serves the budget best.  Kernels of one tap and linear layers get an SVD.
    keep_macs, keep_params : float, optional
        The budget as a share of the dense network's multiplications, or parameters; give one.
    keep_latency : float, optional
        In their place, a share of the time of a pass over `example`: candidates of the layers are timed, and so is the
        network that comes out, beside the original, until it is within the share.
    calibration : torch.Tensor or iterable, optional
        Inputs without labels, some hundred: a tensor, a loader, a list of batches (inputs, or pairs with the inputs
        first), or a function that returns one; errors are then those of the layers' outputs.
    refit : bool, optional
        Whether all layers are then fitted to the outputs of the original network (`refit_network`); by default where
        there is `calibration`, unless `weight_bits` puts the weights on a grid.
    rounds : int, default 1
        Passes of `refit_network` over all layers.
    clock : Clock, optional
        What measures times, in place of PyTorch on this machine.
    checkpoint : str or os.PathLike[str], optional
        File in which measured curves and finished fits are kept; with an integer `rng` an interrupted run that is given
        it again goes on to the same result, and another budget starts from the same curves.
    rng : int or numpy.random.Generator, optional
        Seed or generator.
    options : object
        Fields of `Request`: stabilise, slack, fit_output, pointwise, keep, form, allocation, candidates, max_seconds,
        weight_bits, share_bits, jobs.

    Returns
    -------
    torch.nn.Module
        A new module in evaluation mode; `.report` says what was done.

    Raises
    ------
    ImportError
        Without PyTorch.
    TypeError
        When an option is of another kind.
    ValueError
        When an option is out of range or the budget cannot be met.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3))
    >>> images = torch.randn(2, 8, 12, 12)
    >>> small = compress(net, images[:1], "tc", keep_macs=0.4, candidates=3)
    >>> small(images).shape, small.report.macs[1] <= 0.4 * small.report.macs[0]
    (torch.Size([2, 16, 10, 10]), True)
    >>> [layer.method for layer in small.report.layers]
    ['tc', 'tc']
    """
    torch = torch_package()
    if not isinstance(net, torch.nn.Module):
        raise TypeError(f"net is {type(net).__name__}; a torch.nn.Module is needed")
    batches = None if calibration is None else batches_of(calibration, net=net)
    if refit is None:
        # Weights on a grid would leave it.
        refit = batches is not None and options.get("weight_bits") is None
    request = Request(method, keep_macs, keep_params, refit=refit, keep_latency=keep_latency, **options)
    if request.refit and batches is None:
        raise ValueError("refit needs calibration=, inputs of the network")
    measured = measured_of(net, example, request, batches)
    progress = measured.progress(checkpoint, request, rng)
    times, asked = Times(clock or TorchClock(net, example), copied(net).eval()), request
    if keep_latency is not None:
        least = measured.least_share(request, rng, progress, times)

        def attempt(share: float) -> tuple[float, float]:
            planned = measured.planned(request.at(share), rng, progress, times, blank=True)
            return share, times.share(with_plans(net, *planned), keep_latency)

        asked = request.at(within_latency(keep_latency, attempt, least=least))
    plans, report = measured.planned(asked, rng, progress, times)
    small = with_plans(net, plans, report)
    _try(small, example)
    if request.refit and batches is not None:
        refit_network(small, net, lambda: ((inputs, None) for inputs in batches()), rounds=rounds, rng=0)
    small.report = times.told(small.report, request, small)
    return small


def _try(small: Any, example: Any) -> None:
    """Run the example; what fails here would fail for the caller."""
    with torch_package().no_grad(), in_evaluation(small):
        try:
            call(small, example)
        except Exception as error:
            raise RuntimeError(
                f"the compressed network does not run on the example: {error}. Its own code may reach into layers; "
                "name these in keep=, so that they are left as they are"
            ) from error


def measured_of(net: Any, example: Any, request: Request, batches: Callable[[], Iterator[Any]] | None) -> Measured:
    """The layers of a network, and their covariances where there are calibration batches."""
    if request.fit_output and batches is None:
        raise ValueError("fit_output needs calibration=, inputs of the network")
    if request.method == "channels":
        raise ValueError("channels are taken out of ONNX graphs; export the network and call compress_onnx")
    probe = copied(net).eval()
    sites = sites_of(probe, example, whole=True)
    wanted = [site for site in sites if not request.refusal(site)]
    covariances = None if batches is None else patch_covariances(probe, wanted, batches)
    # After a refit errors count by what they do to the outputs; without one each layer has to hold its own.
    gains = gains_of(net, wanted, batches) if request.refit and batches is not None else None
    now = sum(parameter.numel() for parameter in net.parameters())
    return Measured(sites, now + sum(site.parameters - site.costs[0] for site in sites), covariances, gains)
