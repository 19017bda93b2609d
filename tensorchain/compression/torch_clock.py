"""Seconds of layers and of whole networks in PyTorch, for a budget of time and for the form of a chain."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tensorchain.compression.conv import LayerPlan
from tensorchain.compression.latency import runs_of
from tensorchain.compression.request import Site
from tensorchain.compression.torch_inputs import batch_of, call, first_tensor
from tensorchain.compression.torch_layers import axes_of, is_linear, module_of, torch_package

_RUNS, _WARM = 15, 3


class TorchClock:
    """Times in PyTorch, on the device and in the dtype of a network, with the batch of its example.

    Parameters
    ----------
    net : torch.nn.Module
        The network.
    example : torch.Tensor, tuple or dict
        An input.
    """

    def __init__(self, net: Any, example: Any) -> None:
        self.net, self.example, self.batch = net, example, batch_of(example)

    def layers(self, plans: Sequence[LayerPlan], site: Site) -> list[float]:
        """Median seconds of each plan in place of a layer, for one pass of the network."""
        old = self.net.get_submodule(site.name)
        reference = next(old.parameters())
        channels, images = site.kernel.shape[1] * site.groups, self.batch * site.uses // site.calls
        size = () if is_linear(old) else site.image[len(site.image) - axes_of(old) :]
        values = reference.new_zeros((images, channels, *size))
        modules = [module_of(plan, old).eval() for plan in plans]
        found = _seconds([partial(module, values) for module in modules])
        return [site.calls * seconds for seconds in found]

    def networks(self, networks: Sequence[Any]) -> list[float]:
        """Median seconds of a pass of each network, in turn."""
        passes = [partial(call, net, self.example) for net in networks]
        return _seconds(passes, runs_of(max(_seconds(passes, 1)), _RUNS))


def _seconds(passes: Sequence[Callable[[], Any]], runs: int = _RUNS) -> list[float]:
    """Median seconds of functions that are called in turn."""
    seconds = np.empty((runs, len(passes)))
    with torch_package().inference_mode():
        for run in range(-_WARM, runs):
            for n, one in enumerate(passes):
                start = time.perf_counter()
                tensor = first_tensor(one())
                if tensor is not None:
                    # The copy of one number waits for the device.
                    tensor.flatten()[0].item()
                if run >= 0:
                    seconds[run, n] = time.perf_counter() - start
    return [float(value) for value in np.median(seconds, axis=0)]
