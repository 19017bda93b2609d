"""The default rate of `restore` beside others, on the ResNet-20 for digits that is shipped here.

    python -m benchmarks.networks.rates [--methods tucker2 cp3] [--rates 0.001 0.01 0.1]

The network is compressed, as it is or refitted, and restored from labels or from the outputs of the dense network
alone.  Printed for each rate: test accuracy in percent, and the relative distance of the outputs from those of the
dense network.
"""

from __future__ import annotations

import argparse
import copy
import sys
from typing import Any

import numpy as np
import torch

from benchmarks.networks import data, train
from benchmarks.networks.known import predicted
from benchmarks.networks.rows import WEIGHTS
from benchmarks.timing import table
from tensorchain.compression import compress, restore


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks.rates", description=__doc__.split("\n")[0])
    parser.add_argument("--methods", nargs="+", default=["tucker2", "cp3"])
    parser.add_argument("--share", type=float, default=0.25, help="of the multiplications (0.25)")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2, 3e-2, 1e-1])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=0, help="training images, 0 for all")
    options = parser.parse_args(arguments)
    net, header = train.trained(WEIGHTS / "resnet20-w8-digits-seed0.safetensors")
    net.eval()
    splits = data.load(header["data"])
    batches = list(train.loader(splits, "train", 32))[: -(-options.images // 32) or None]
    parts = list(train.loader(splits, "test", 250))
    pixels, labels = (torch.cat(one) for one in zip(*parts, strict=True))
    with torch.no_grad():
        wanted = net(pixels)

    def row(small: Any, rate: float | None, **told: Any) -> str:
        tried = copy.deepcopy(small)
        restore(tried, batches, options.epochs, rate=rate, **told)
        with torch.no_grad():
            distance = float((tried(pixels) - wanted).norm() / wanted.norm())
        return f"{100 * np.mean(predicted(tried, pixels) == labels.numpy()):.1f}, {distance:.2f}"

    goals: dict[str, dict[str, Any]] = {
        "labels": {},
        "outputs": {"teacher": net, "loss": lambda outputs, _: 0.0 * outputs.sum()},
    }
    rows = []
    for method in options.methods:
        for refitted in (False, True):
            seen = torch.cat([images for images, _ in batches])[:256] if refitted else None
            small = compress(net, batches[0][0][:1], method, keep_macs=options.share, calibration=seen)
            for goal, told in goals.items():
                figures = [row(small, rate, **told) for rate in [None, *options.rates]]
                rows.append([method, "refitted" if refitted else "compressed", goal, *figures])
    print(table(["method", "start", "restored from", "default", *map(str, options.rates)], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
