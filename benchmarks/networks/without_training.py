"""Networks of others, compressed without training: as compressed, normalisations measured again, and refitted.

    python -m benchmarks.networks.without_training resnet20.safetensors --path cifar10-jpeg.tar.xz --methods cp3 auto
    python -m benchmarks.networks.without_training          # the ResNet-20 for digits that is shipped here: minutes

Reads the ResNets for CIFAR of He et al. (3 or 9 blocks a stage, widths 16, 32, 64; shortcuts without weights) with the
names `conv1 bn1 layer1.0.conv1 ... linear`, and images as folders or a tar of `train/<class>/*` and `test/<class>/*`,
such as CIFAR-10 written as JPEG.  For each method and share of the multiplications one row is printed: test accuracy in
percent as compressed, with the normalisations measured again, and refitted from `--calibration` training images without
labels (:func:`tensorchain.compression.refit_network`), with the share of test images on which the refitted network
agrees with the dense one.
"""

from __future__ import annotations

import argparse
import copy
import io
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.networks import data, train
from tensorchain.compression import compress, recalibrate, refit_network

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Shortcut(nn.Module):
    """Every second pixel, and channels of zeros on either side: a shortcut without weights."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more))


class Block(nn.Module):
    """relu(shortcut(x) + bn2(conv2(relu(bn1(conv1(x))))))."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, outputs // inputs, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if inputs == outputs else Shortcut((outputs - inputs) // 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class CifarResNet(nn.Module):
    """A ResNet for CIFAR with some blocks in each of three stages."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = 16, 16, 32, 64
        for stage in (1, 2, 3):
            first = Block(widths[stage - 1], widths[stage])
            rest = [Block(widths[stage], widths[stage]) for _ in range(blocks - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(first, *rest))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.networks.without_training", description=__doc__.split("\n")[0]
    )
    parser.add_argument("weights", type=Path, nargs="?", help=".safetensors of a ResNet for CIFAR; that for digits")
    parser.add_argument("--path", type=Path, help="folder or tar of train/<class>/* and test/<class>/*")
    parser.add_argument("--methods", nargs="+", default=["auto", "cp3", "btd", "tc", "tucker2"])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.33], help="of the multiplications")
    parser.add_argument("--calibration", type=int, default=512, help="training images that are looked at")
    parser.add_argument("--test", type=int, default=0, help="test images, drawn at random; 0 for all")
    parser.add_argument("--plain", action="store_true", help="fits without control of the sensitivity")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if (options.weights is None) != (options.path is None):
        parser.error("weights and --path belong together; give both, or none for the digits")
    rng = np.random.default_rng(options.seed)
    net: nn.Module
    if options.weights is None:
        net, calibration, pixels, labels = digits(options.calibration, options.test)
    else:
        net = load(options.weights)
        calibration, _ = images(options.path, "train", options.calibration, rng)
        pixels, labels = images(options.path, "test", options.test, rng)
    dense = predicted(net, pixels)
    print(f"dense: {100 * np.mean(dense == labels):.2f} % of {len(labels)} test images")
    print(
        f"{'method':<11}{'share':>6}{'compressed':>12}{'norms':>8}{'refitted':>10}{'agrees':>8}{'MACs':>7}{'seconds':>14}"
    )
    for share in options.shares:
        for method in options.methods:
            start = time.perf_counter()
            small = compress(
                net, calibration[:1], method, keep_macs=share, calibration=calibration, refit=False, jobs=options.jobs,
                rng=options.seed, stabilise=not options.plain,
            )  # fmt: skip
            fitted = time.perf_counter()
            norms, refitted = copy.deepcopy(small), copy.deepcopy(small)
            recalibrate(norms, calibration.split(64))
            middle = time.perf_counter()
            refit_network(refitted, net, calibration)
            end = time.perf_counter()
            found = predicted(refitted, pixels)
            scores = [
                100 * np.mean(values == labels) for values in (predicted(small, pixels), predicted(norms, pixels))
            ]
            row = f"{method:<11}{share:>6.2f}{scores[0]:>12.2f}{scores[1]:>8.2f}{100 * np.mean(found == labels):>10.2f}"
            row += f"{100 * np.mean(found == dense):>8.2f}{small.report.macs[1] / small.report.macs[0]:>7.3f}"
            print(f"{row}{fitted - start:>7.0f}{end - middle:>7.0f}", flush=True)
    return 0


def digits(calibration: int, test: int) -> tuple[nn.Module, Tensor, Tensor, np.ndarray]:
    """The shipped ResNet-20 for scikit-learn's digits, images to look at, and test images with their labels."""
    net, header = train.trained(Path(__file__).parent / "weights" / "resnet20-w8-digits-seed0.safetensors")
    splits = data.load(header["data"])
    seen = torch.cat([batch for batch, _ in train.loader(splits, "train", 250)])[:calibration]
    parts = list(train.loader(splits, "test", 250))
    pixels, labels = (torch.cat(one)[: test or None] for one in zip(*parts, strict=True))
    return net, seen, pixels, labels.numpy()


def load(path: Path) -> CifarResNet:
    """The network of a file; its depth is read off the names."""
    from safetensors.torch import load_file

    state = load_file(path)
    net = CifarResNet(1 + max(int(name.split(".")[1]) for name in state if name.startswith("layer1.")))
    missing, unexpected = net.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"{path} is no ResNet for CIFAR: it lacks {missing[:3]}, and has {unexpected[:3]} beside it")
    return net.eval()


def images(path: Path, part: str, count: int, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
    """Some images of a part, or all for 0, normalised, and the places of their classes in alphabetical order."""
    from PIL import Image

    found = sorted(_files(path, part))
    classes = sorted({name for name, _, _ in found})
    order = rng.permutation(len(found))[: count or None]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(found[k][2])).convert("RGB")) for k in order])
    values = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255.0
    mean, deviation = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (MEAN, DEVIATION))
    return (values - mean) / deviation, np.array([classes.index(found[k][0]) for k in order])


def _files(path: Path, part: str) -> Iterator[tuple[str, str, bytes]]:
    """Class, name and content of each image file."""
    if path.is_dir():
        for file in path.glob(f"**/{part}/*/*"):
            yield file.parent.name, file.name, file.read_bytes()
        return
    with tarfile.open(path) as archive:
        for member in archive:
            names = member.name.split("/")
            content = archive.extractfile(member) if member.isfile() and len(names) > 2 and names[-3] == part else None
            if content is not None:
                yield names[-2], names[-1], content.read()


@torch.inference_mode()
def predicted(net: nn.Module, pixels: Tensor) -> np.ndarray:
    """The class of each image."""
    return torch.cat([net(batch).argmax(1) for batch in pixels.split(250)]).numpy()


if __name__ == "__main__":
    sys.exit(main())
