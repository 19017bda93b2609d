"""Networks of others, compressed without training: as compressed, normalisations measured again, and refitted.

    python -m benchmarks.networks.without_training resnet20.safetensors --path cifar10-jpeg.tar.xz --methods cp3 auto
    python -m benchmarks.networks.without_training          # the ResNet-20 for digits that is shipped here: minutes

Reads the ResNets for CIFAR of He et al. (3 or 9 blocks a stage, widths 16, 32, 64; shortcuts without weights) with the
names `conv1 bn1 layer1.0.conv1 ... linear`, and images as folders or a tar of `train/<class>/*` and `test/<class>/*`,
such as CIFAR-10 written as JPEG.  For each method and share of the multiplications one row is printed: test accuracy in
percent refitted from `--calibration` training images without labels, as `compress` does by default, and the share of
test images on which the refitted network agrees with the dense one; with `--before` also the accuracy as compressed,
with ranks chosen for that, and with the normalisations measured again.  With `--onnx` the network is written as an ONNX
file, its normalisations multiplied into the weights, and `compress_onnx` takes the place of `compress`.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.networks import data, stored, train
from benchmarks.networks.graph import INPUT, OUTPUT, onnx_model
from benchmarks.networks.known import images, load, predicted
from benchmarks.networks.layouts import LAYOUTS, SIDE
from tensorchain.compression import compress, compress_onnx, recalibrate
from tensorchain.compression.onnx_session import OnnxSession

_DIGITS = Path(__file__).parent / "weights" / "resnet20-w8-digits-seed0.safetensors"
_FEED = 128
"""Images of one run of an ONNX model."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.networks.without_training", description=__doc__.split("\n")[0]
    )
    add_case(parser)
    parser.add_argument("--methods", nargs="+", default=["auto", "cp3", "btd", "tc", "tucker2"])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.33], help="of the multiplications")
    parser.add_argument("--before", action="store_true", help="the first two columns too, of fits without a refit")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--onnx", action="store_true", help="compress the network as an ONNX file")
    options = parser.parse_args(arguments)
    if options.onnx and options.before:
        parser.error("an ONNX file has no normalisations that could be measured again; leave --before out")
    if options.onnx and options.weights is not None and options.weights.stem not in LAYOUTS:
        parser.error(f"{options.weights.name} is no network of {', '.join(LAYOUTS)}; name the file so")
    net, calibration, pixels, labels = case_of(parser, options)
    file = written(options.weights, net) if options.onnx else None
    dense = predicted(net, pixels)
    print(f"dense: {100 * np.mean(dense == labels):.2f} % of {len(labels)} test images")
    print(
        f"{'method':<11}{'share':>6}{'compressed':>12}{'norms':>8}{'refitted':>10}{'agrees':>8}{'MACs':>7}{'seconds':>9}"
    )
    for share in options.shares:
        for method in options.methods:
            settings = {
                "keep_macs": share, "calibration": calibration, "jobs": options.jobs, "rng": options.seed,
                "stabilise": not options.plain,
            }  # fmt: skip
            before = ["-", "-"]
            if options.before:
                small = compress(net, calibration[:1], method, refit=False, **settings)
                norms = copy.deepcopy(small)
                recalibrate(norms, calibration.split(64))
                before = [f"{100 * np.mean(predicted(one, pixels) == labels):.2f}" for one in (small, norms)]
            start = time.perf_counter()
            found, macs = refitted(file or net, method, pixels, settings)
            seconds = time.perf_counter() - start
            row = f"{method:<11}{share:>6.2f}{before[0]:>12}{before[1]:>8}{100 * np.mean(found == labels):>10.2f}"
            row += f"{100 * np.mean(found == dense):>8.2f}{macs:>7.3f}"
            print(f"{row}{seconds:>9.0f}", flush=True)
    return 0


def refitted(net: Any, method: str, pixels: Tensor, settings: dict[str, Any]) -> tuple[np.ndarray, float]:
    """What the compressed network says of images, and its share of the multiplications; a module or an ONNX model."""
    calibration = settings["calibration"]
    if isinstance(net, nn.Module):
        small = compress(net, calibration[:1], method, **settings)
        return predicted(small, pixels), small.report.macs[1] / small.report.macs[0]
    feeds = [{INPUT: batch.numpy()} for batch in calibration.split(_FEED)]
    model, report = compress_onnx(net, method, **{**settings, "calibration": feeds})
    session = OnnxSession(model)
    classes = [session.run({INPUT: batch.numpy()})[OUTPUT].argmax(1) for batch in pixels.split(250)]
    return np.concatenate(classes), report.macs[1] / report.macs[0]


def written(weights: Path | None, net: nn.Module) -> Any:
    """The network as an ONNX model."""
    if weights is None:
        return onnx_model(stored.read(_DIGITS), 8)
    # The names of torchvision, as in the layouts.
    state = {name.replace("linear.", "fc."): values.numpy() for name, values in net.state_dict().items()}
    return onnx_model(stored.Stored(dict(LAYOUTS[weights.stem]), state), SIDE)


def add_case(parser: argparse.ArgumentParser) -> None:
    """The options that say which network, which images, and how it is fitted."""
    parser.add_argument("weights", type=Path, nargs="?", help=".safetensors of a ResNet for CIFAR; that for digits")
    parser.add_argument("--path", type=Path, help="folder or tar of train/<class>/* and test/<class>/*")
    parser.add_argument("--calibration", type=int, default=512, help="training images that are looked at")
    parser.add_argument("--test", type=int, default=0, help="test images, drawn at random; 0 for all")
    parser.add_argument("--plain", action="store_true", help="fits without control of the sensitivity")
    parser.add_argument("--seed", type=int, default=0)


def case_of(
    parser: argparse.ArgumentParser, options: argparse.Namespace
) -> tuple[nn.Module, Tensor, Tensor, np.ndarray]:
    """The network, images to look at, and test images with their labels."""
    if (options.weights is None) != (options.path is None):
        parser.error("weights and --path belong together; give both, or none for the digits")
    if options.weights is None:
        return digits(options.calibration, options.test)
    rng = np.random.default_rng(options.seed)
    calibration, _ = images(options.path, "train", options.calibration, rng)
    return load(options.weights), calibration, *images(options.path, "test", options.test, rng)


def digits(calibration: int, test: int) -> tuple[nn.Module, Tensor, Tensor, np.ndarray]:
    """The shipped ResNet-20 for scikit-learn's digits, images to look at, and test images with their labels."""
    net, header = train.trained(_DIGITS)
    splits = data.load(header["data"])
    seen = torch.cat([batch for batch, _ in train.loader(splits, "train", 250)])[:calibration]
    parts = list(train.loader(splits, "test", 250))
    pixels, labels = (torch.cat(one)[: test or None] for one in zip(*parts, strict=True))
    return net, seen, pixels, labels.numpy()


if __name__ == "__main__":
    sys.exit(main())
