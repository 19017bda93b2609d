"""What the sensitivity term adds to a step of `restore`: time, and operations that PyTorch launches.

    python -m benchmarks.networks.restore_cost [resnet56.safetensors] [--device cuda] [--method tc cp3] [--every 4]

The network, one that `benchmarks.networks.known` reads or ResNet-56 with random weights, is compressed and trained on
random images.  Steps with and without the term are timed in turn.  Printed for each method: milliseconds of a step
without the term and with it in one of `--every` steps, their ratio, the same with the term in each step, and the
operations of a step and of the term alone, counted by PyTorch's profiler (kernels on a GPU, operators on a processor).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.networks.known import CifarResNet, load
from benchmarks.timing import table
from tensorchain.compression import compress
from tensorchain.compression.torch_sensitivity import Sensitivities
from tensorchain.compression.training import decomposed

HEADER = ["method", "without, ms", "with, ms", "ratio", "each step, ms", "operations", "of the term"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.networks.restore_cost", description=__doc__.split("\n")[0]
    )
    parser.add_argument("weights", type=Path, nargs="?", help=".safetensors; ResNet-56 with random weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--methods", nargs="+", default=["tc", "cp3"])
    parser.add_argument("--share", type=float, default=0.33)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--every", type=int, default=4, help="steps from one with the term to the next (4)")
    parser.add_argument("--steps", type=int, default=20, help="of each kind")
    parser.add_argument("--blocks", type=int, default=9, help="of each stage, of the random network")
    parser.add_argument("--precision", choices=["single", "bfloat16"], default="single")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    net = CifarResNet(options.blocks) if options.weights is None else load(options.weights)
    rows = []
    for method in options.methods:
        small = compress(net, torch.zeros(1, 3, 32, 32), method, keep_macs=options.share, stabilise=False, candidates=4)
        rows.append([method, *_measured(small.to(options.device), options)])
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else "processor"
    print(f"{name}, batches of {options.batch}, {options.precision}, the term in one of {options.every} steps")
    print(table(HEADER, rows))
    return 0


def _measured(net: Any, options: argparse.Namespace) -> list[str]:
    """A row of the table."""
    device = options.device
    fast = device.startswith("cuda")
    if fast:
        net = net.to(memory_format=torch.channels_last)
    images = torch.randn(options.batch, 3, 32, 32, device=device)
    labels = torch.randint(0, 10, (options.batch,), device=device)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9, nesterov=True)
    measured = Sensitivities(decomposed(net))
    start = measured().detach()
    net.train()

    def step(term: bool) -> None:
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=options.precision == "bfloat16"):
            loss = torch.nn.functional.cross_entropy(net(images), labels)
        if term:
            loss = loss + 1e-2 * (measured() / start).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def timed(steps: int, every: int) -> float:
        """Milliseconds of a step."""
        _wait(fast)
        begin = time.perf_counter()
        for n in range(steps):
            step(every > 0 and n % every == 0)
        _wait(fast)
        return (time.perf_counter() - begin) * 1e3 / steps

    for every in (0, 1):
        timed(3, every)
    rounds = max(options.steps // options.every, 1)
    times = np.array([[timed(options.every, every) for every in (0, options.every, 1)] for _ in range(rounds)])
    without, within, each = np.median(times, axis=0)
    counts = [_operations(lambda term=term: step(term), fast) for term in (False, True)]
    return [
        f"{without:.1f}", f"{within:.1f}", f"{np.median(times[:, 1] / times[:, 0]):.3f}", f"{each:.1f}",
        str(counts[0]), str(counts[1] - counts[0]),
    ]  # fmt: skip


def _wait(fast: bool) -> None:
    if fast:
        torch.cuda.synchronize()


def _operations(work: Callable[[], None], fast: bool) -> int:
    """Kernels that are launched, or operators that are called without being called by another."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if fast else [ProfilerActivity.CPU]
    with profile(activities=kinds) as found:
        work()
        _wait(fast)
    if fast:
        return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in found.events())
    return sum(event.name.startswith("aten::") for event in found.events())


if __name__ == "__main__":
    sys.exit(main())
