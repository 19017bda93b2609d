"""Chains with and without sensitivity control on a trained network, at equal ranks: what rounding does to them.

Every 3 x 3 convolution with S > 1 inputs becomes a chain of bonds (3, S / divide, T / divide).  For each variant: mean
error and sensitivity of the kernels, then the accuracy in floating point and with the weights of the new layers rounded
to 8, 6 and 4 bits (one step a layer, minmax), the normalisations measured again on training images each time.

    python -m benchmarks.networks.rounding benchmarks/networks/weights/resnet18-w16-fashion-mnist-seed0.safetensors
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.networks import data, train
from tensorchain.compression import KernelFit, fit_kernel, module_of, quantize, recalibrate
from tensorchain.compression.torch_inputs import batches_of
from tensorchain.compression.torch_patches import patch_covariances
from tensorchain.compression.torch_sites import sites_of

BITS = (8, 6, 4)
VARIANTS = {
    "plain": (False, False), "stabilised": (True, False), "plain-output": (False, True), "output": (True, True),
}  # fmt: skip
"""Whether the sensitivity is controlled, and whether the error of the outputs is minimised."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks.rounding", description=__doc__.split("\n")[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--path", type=Path, help="folder of the data set's files")
    parser.add_argument("--divide", type=int, default=4, help="channels per bond (default 4)")
    parser.add_argument("--images", type=int, help="test images used; all by default")
    parser.add_argument("--variants", nargs="+", choices=sorted(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-seconds", type=float, default=60.0, help="limit of each run of a fit")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    net, header = train.trained(options.weights)
    splits = data.load(header["data"], options.path)
    if options.images:
        splits = replace(splits, test=data.Subset(splits.test.source, splits.test.indices[: options.images]))
    calibration = list(itertools.islice(train.loader(splits, "train", 250, np.random.default_rng(0)), 8))
    figures: dict[str, Any] = {"dense": {"accuracy": train.accuracy(net, splits), "test_images": len(splits.test)}}
    print(f"dense: {figures['dense']}", flush=True)
    for name in options.variants:
        small, fits = compressed(net, calibration, options, *VARIANTS[name])
        figures[name] = {
            "mean_error": float(np.mean([fit.error for fit in fits.values()])),
            "mean_output_error": float(np.mean([fit.output_error for fit in fits.values()])),
            "median_sensitivity": float(np.median([fit.sensitivity for fit in fits.values()])),
            "layers_stabilised": sum(fit.stabilised for fit in fits.values()),
            "accuracy_without_recalibration": train.accuracy(small, splits),
            "accuracy": accuracy(small, fits, splits, calibration, None),
            **{f"accuracy_{bits}_bits": accuracy(small, fits, splits, calibration, bits) for bits in BITS},
            "layers": {key: (fit.plan.rank, fit.error, fit.sensitivity) for key, fit in fits.items()},
        }
        shown = {key: value for key, value in figures[name].items() if key != "layers"}
        print(f"{name}: {shown}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def compressed(
    net: nn.Module, calibration: list[Any], options: argparse.Namespace, stabilise: bool, fit_output: bool
) -> tuple[nn.Module, dict[str, KernelFit]]:
    """The network with chains in it, and their fits."""
    small, fits = copy.deepcopy(net), {}
    sites = sites_of(net, calibration[0][0][:1])
    covariances = patch_covariances(net, sites, batches_of(calibration))
    for site in sites:
        outputs, inputs, rows, _ = site.kernel.shape
        if rows != 3 or inputs < 2 or site.groups > 1:
            continue
        rank = (3, max(2, inputs // options.divide), max(2, outputs // options.divide))
        fit = fit_kernel(
            site.kernel, "tc", rank, stabilise=stabilise, geometry=site.geometry, bias=site.bias,
            covariance=covariances[site.name][0], fit_output=fit_output, rng=options.seed,
            max_seconds=options.max_seconds,
        )  # fmt: skip
        fits[site.name] = fit
        parent, _, last = site.name.rpartition(".")
        owner = small.get_submodule(parent)
        setattr(owner, last, module_of(fit.plan, getattr(owner, last)))
    return small.eval(), fits


def accuracy(
    small: nn.Module, fits: dict[str, KernelFit], splits: data.Splits, calibration: list[Any], bits: int | None
) -> float:
    """Test accuracy with the new layers rounded."""
    if bits is None:
        rounded = copy.deepcopy(small)
    else:
        new = {
            name
            for name, module in small.named_modules()
            if name.rpartition(".")[0] in fits and hasattr(module, "weight")
        }
        rounded = quantize(small, calibration, dict.fromkeys(new, bits), None, per_channel=False, weight_range="minmax")
    recalibrate(rounded, calibration)
    return train.accuracy(rounded, splits)


if __name__ == "__main__":
    sys.exit(main())
