"""Rounded activations of compressed networks, with and without scales of the inner channels chosen for rounding.

    python -m benchmarks.networks.activations resnet20.safetensors --path cifar10-jpeg.tar.xz --methods cp3 tc
    python -m benchmarks.networks.activations          # the ResNet-20 for digits that is shipped here

Networks and images as in :mod:`benchmarks.networks.without_training`.  For each method the network is compressed and
refitted, then rounded by `quantize` to pairs of bits for weights and activations: test accuracy in percent with the
scales as the fit left them, and with those of :mod:`tensorchain.compression.inner_scales`.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from benchmarks.networks.known import predicted
from benchmarks.networks.without_training import add_case, case_of
from tensorchain.compression import compress, quantize

BITS = ((8, 8), (8, 6), (8, 4), (6, 8), (4, 8))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.networks.activations", description=__doc__.split("\n")[0]
    )
    add_case(parser)
    parser.add_argument("--methods", nargs="+", default=["cp3", "tc", "tucker2"])
    parser.add_argument("--share", type=float, default=0.33, help="of the multiplications (0.33)")
    options = parser.parse_args(arguments)
    net, calibration, pixels, labels = case_of(parser, options)
    print(f"dense: {100 * np.mean(predicted(net, pixels) == labels):.2f} % of {len(labels)} test images")
    print(f"{'method':<11}{'rounded to':<12}{'as fitted':>11}{'scales chosen':>15}")
    for method in options.methods:
        small = compress(
            net, calibration[:1], method, keep_macs=options.share, calibration=calibration, rng=options.seed,
            stabilise=not options.plain,
        )  # fmt: skip
        print(f"{method:<11}{'no':<12}{100 * np.mean(predicted(small, pixels) == labels):>11.2f}", flush=True)
        batches = list(calibration.split(64))
        for weights, activations in BITS:
            figures = [
                100
                * np.mean(predicted(quantize(small, batches, weights, activations, inner_scales=on), pixels) == labels)
                for on in (False, True)
            ]
            print(f"{method:<11}{f'{weights}, {activations}':<12}{figures[0]:>11.2f}{figures[1]:>15.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
