"""Weights that were trained elsewhere, made ready for the study: torchvision's ResNet-18 and ResNet-34 and the like.

    python -m benchmarks.networks.adopt resnet18.pth --data imagenet --out mine.safetensors
    python -m benchmarks.networks.study --weights mine.safetensors --path folder/of/imagenet

Network, width, stem, channels and classes are read off the shapes of the weights.  Normalisation of the images stays
that of this benchmark (mean and deviation of the training images), so figures before recalibration may differ from
those of the source.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.networks import data, train
from benchmarks.networks.stored import BLOCKS


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks.adopt", description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, help=".safetensors, or .pth that holds tensors alone")
    parser.add_argument("--data", choices=sorted(data.DATA), required=True, help="what the network was trained on")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    state = read_state(options.file)
    recipe = recipe_of(state, options.data)
    net = train.build(recipe)
    net.load_state_dict(state)
    train.save(net, options.out, recipe)
    print(f"{options.out}: {recipe}")
    return 0


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by name; nothing else in it is run."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state: Any = torch.load(path, map_location="cpu", weights_only=True)
    # Training scripts often keep the weights among other things.
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    return {name.removeprefix("module."): value for name, value in state.items()}


def recipe_of(state: Mapping[str, torch.Tensor], name: str) -> dict[str, Any]:
    """What the shapes say of a network.

    Raises
    ------
    ValueError when it is no ResNet of basic blocks that this benchmark knows.
    """
    needed = ("conv1.weight", "fc.weight", "layer1.0.conv1.weight")
    absent = [key for key in needed if key not in state]
    if absent or "layer1.0.conv3.weight" in state:
        why = f"{absent[0]} is missing" if absent else "its blocks have three convolutions"
        raise ValueError(f"the weights are those of no ResNet of basic blocks: {why}")
    stages = max(int(key[5]) for key in state if key.startswith("layer"))
    blocks = tuple(
        1 + max(int(key.split(".")[1]) for key in state if key.startswith(f"layer{stage + 1}."))
        for stage in range(stages)
    )
    known = {counts: network for network, counts in BLOCKS.items()}
    if blocks not in known:
        raise ValueError(f"blocks {blocks} are those of no known network; known are {', '.join(map(str, known))}")
    width, channels, rows, _ = state["conv1.weight"].shape
    return {
        "network": known[blocks], "width": width, "channels": channels, "stem": "imagenet" if rows == 7 else "cifar",
        "classes": len(state["fc.weight"]), "data": name,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
