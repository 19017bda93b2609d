"""ResNets with torchvision's layout of names, at any width.

A stage s has `blocks[s]` basic blocks (two 3 x 3 convolutions and a shortcut) of `width * 2^s` channels and
halves the image, except the first.  `conv1 bn1 layer1 ... layer4 fc` and, inside a block, `conv1 bn1 conv2 bn2
downsample.0 downsample.1` are the names that torchvision uses, so `resnet18(width=64, stem="imagenet")` reads its
checkpoints and `stem="cifar"` those of the usual 32 x 32 variant.

Reference: He, Zhang, Ren, Sun, "Deep residual learning for image recognition" (2016).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

STEMS = ("cifar", "imagenet")


class BasicBlock(nn.Module):
    """relu(shortcut(x) + bn2(conv2(relu(bn1(conv1(x))))))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + shortcut)


class ResNet(nn.Module):
    """A ResNet of basic blocks.

    Parameters
    ----------
    blocks : blocks of each stage; (2, 2, 2, 2) is ResNet-18, (3, 4, 6, 3) ResNet-34, (3, 3, 3) ResNet-20.
    width : channels of the first stage; 64 in the paper's ImageNet networks.
    stem : "imagenet" (7 x 7 with stride 2, then pooling) or "cifar" (3 x 3 with stride 1).
    """

    def __init__(
        self, blocks: Sequence[int], *, width: int, num_classes: int = 10, in_channels: int = 3, stem: str = "cifar"
    ) -> None:
        super().__init__()
        if stem not in STEMS:
            raise ValueError(f"stem is {stem!r}; one of {', '.join(STEMS)} is needed")
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, 2, 1)
        else:
            self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.stages = len(blocks)
        inputs = width
        for stage, count in enumerate(blocks):
            outputs = width << stage
            strides = [1 if stage == 0 else 2] + [1] * (count - 1)
            layers = []
            for stride in strides:
                layers.append(BasicBlock(inputs, outputs, stride))
                inputs = outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        """He's initialisation; each block starts as its shortcut, which trains faster at few epochs."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18(*, width: int = 16, num_classes: int = 10, in_channels: int = 3, stem: str = "cifar") -> ResNet:
    """ResNet-18; 0.70 million weights at width 16."""
    return ResNet((2, 2, 2, 2), width=width, num_classes=num_classes, in_channels=in_channels, stem=stem)


def resnet34(*, width: int = 16, num_classes: int = 10, in_channels: int = 3, stem: str = "cifar") -> ResNet:
    """ResNet-34."""
    return ResNet((3, 4, 6, 3), width=width, num_classes=num_classes, in_channels=in_channels, stem=stem)


def resnet20(*, width: int = 16, num_classes: int = 10, in_channels: int = 3, stem: str = "cifar") -> ResNet:
    """ResNet-20, the paper's CIFAR network, with 1 x 1 convolutions in the shortcuts."""
    return ResNet((3, 3, 3), width=width, num_classes=num_classes, in_channels=in_channels, stem=stem)


NETWORKS = {"resnet18": resnet18, "resnet20": resnet20, "resnet34": resnet34}
