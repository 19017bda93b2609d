"""A refitted network, restored with its normalisations held and with those of each batch.

    python -m benchmarks.networks.held resnet20.safetensors --path cifar10-jpeg.tar.xz --share 0.2
    python -m benchmarks.networks.held          # the ResNet-20 for digits that is shipped here

Networks and images as in :mod:`benchmarks.networks.without_training`; restored from labels of the first `--images`
training images, at the default rate.  Printed: steps of training, and test accuracy in percent.
"""

from __future__ import annotations

import argparse
import copy
import sys

import numpy as np
import torch

from benchmarks.networks import data, train
from benchmarks.networks.known import images, load, predicted
from benchmarks.networks.rows import WEIGHTS
from benchmarks.networks.without_training import add_case
from benchmarks.timing import table
from tensorchain.compression import compress, restore, training

BATCH = 64


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks.held", description=__doc__.split("\n")[0])
    add_case(parser)
    parser.add_argument("--method", default="cp3")
    parser.add_argument("--share", type=float, default=0.2, help="of the multiplications (0.2)")
    parser.add_argument("--images", type=int, nargs="+", default=[1024], help="training images with labels")
    parser.add_argument("--epochs", type=int, nargs="+", default=[1], help="one number for each of --images")
    options = parser.parse_args(arguments)
    most = max([*options.images, options.calibration])
    if options.weights is None:
        net, header = train.trained(WEIGHTS / "resnet20-w8-digits-seed0.safetensors")
        splits = data.load(header["data"])
        seen, pixels = (
            tuple(torch.cat(parts) for parts in zip(*train.loader(splits, part, 250), strict=True))
            for part in ("train", "test")
        )
    else:
        rng = np.random.default_rng(options.seed)
        net = load(options.weights)
        values, classes = images(options.path, "train", most, rng)
        seen = values, torch.from_numpy(classes)
        values, classes = images(options.path, "test", options.test, rng)
        pixels = values, torch.from_numpy(classes)
    calibration = seen[0][: options.calibration]

    def accuracy(one: torch.nn.Module) -> str:
        return f"{100 * np.mean(predicted(one.eval(), pixels[0]) == pixels[1].numpy()):.2f}"

    small = compress(
        net, calibration[:1], options.method, keep_macs=options.share, calibration=calibration, rng=options.seed,
        stabilise=not options.plain,
    )  # fmt: skip
    rows = [["refitted", "0", accuracy(small), ""]]
    for count, epochs in zip(options.images, options.epochs, strict=True):
        batches = list(zip(seen[0][:count].split(BATCH), seen[1][:count].split(BATCH), strict=True))
        figures = []
        for longest in (epochs * len(batches), 0):
            training._SHORT = longest  # what is compared
            tried = copy.deepcopy(small)
            restore(tried, batches, epochs)
            figures.append(accuracy(tried))
        rows.append(["restored", str(epochs * len(batches)), *figures])
    print(table(["network", "steps", "held", "of each batch"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
