"""Networks that people know, with weights of others, and images as folders or tars of them.

`load` builds the network that fits the names of the arrays in a .safetensors file:

    conv1 bn1 layer1.0.conv1 ... linear, three stages      ResNets for CIFAR of He et al. (2015), widths 16, 32, 64, the
                                                           depth read off the names; shortcuts without weights
    the same with four stages and shortcut.0, shortcut.1   ResNet-18 with a 3 x 3 stem and no pooling

`resnet50` is that for ImageNet, with random weights, for times.  `images` reads `train/<class>/*` and `test/<class>/*`.

Reference: He, Zhang, Ren, Sun, "Deep residual learning for image recognition" (2015).
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.networks.resnet import resnet18

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


class Bottleneck(nn.Module):
    """1 x 1 to a quarter of the outputs, 3 x 3, and 1 x 1 back."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = outputs // 4
        self.conv1, self.bn1 = nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            matched = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(matched, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return torch.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class ResNet50(nn.Module):
    """Four stages of bottlenecks and a mean over the image, for ImageNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for stage, count in enumerate((3, 4, 6, 3), 1):
            width = 128 << stage
            blocks = [
                Bottleneck(inputs if k == 0 else width, width, 2 if stage > 1 and k == 0 else 1) for k in range(count)
            ]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            inputs = width
        self.linear = nn.Linear(inputs, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        return self.linear(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3)))


def resnet50() -> ResNet50:
    """For ImageNet, with random weights."""
    return ResNet50()


def load(path: Path) -> nn.Module:
    """The network of a file."""
    from safetensors.torch import load_file

    state = {name: values.float() if values.is_floating_point() else values for name, values in load_file(path).items()}
    wide = any(name.startswith("layer4.") for name in state)
    depth = 1 + max((int(name.split(".")[1]) for name in state if name.startswith("layer1.")), default=0)
    net: nn.Module = CifarResNet(depth)
    if wide:
        net = resnet18(width=64)
        # The names of torchvision.
        state = {
            name.replace(".shortcut.", ".downsample.").replace("linear.", "fc."): values
            for name, values in state.items()
        }
    missing, unexpected = net.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(
            f"{path} is no ResNet that is known: it lacks {missing[:3]}, and has {unexpected[:3]} beside it"
        )
    return net.eval()


def images(path: Path, part: str, count: int, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
    """Some images of a part, or all for 0, normalised, and the places of their classes in alphabetical order."""
    pixels, labels = decoded(path, part, count, rng)
    values = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255.0
    mean, deviation = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (MEAN, DEVIATION))
    return (values - mean) / deviation, labels


def decoded(
    path: Path, part: str, count: int, rng: np.random.Generator, jobs: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The same as bytes (n, height, width, 3); decoded by several processes with `jobs`."""
    found = sorted(_files(path, part))
    classes = sorted({name for name, _, _ in found})
    order = rng.permutation(len(found))[: count or None]
    contents = [found[k][2] for k in order]
    if jobs > 1 and len(contents) > 2000:
        with ProcessPoolExecutor(jobs) as pool:
            pixels = list(pool.map(_pixels, contents, chunksize=500))
    else:
        pixels = [_pixels(content) for content in contents]
    return np.stack(pixels), np.array([classes.index(found[k][0]) for k in order])


def _pixels(content: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


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
