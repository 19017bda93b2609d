"""Networks as arrays and descriptions in one file, dense or compressed, read without PyTorch.

A weight file is safetensors; its header holds two texts in JSON:

    recipe   how the network was built and trained (:mod:`benchmarks.networks.train`)
    plans    for each layer that was replaced, the small convolutions in its place: groups, stride, padding, dilation,
             or how many groups are folded into the batch

The state of the file has the names of PyTorch's modules: `layer1.0.conv1.weight` of a dense layer,
`layer1.0.conv1.2.weight` of the third step of one that was replaced.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tensorchain.compression.conv import Convolution, Fold, Geometry, LayerPlan, Step, Unfold

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet20": (3, 3, 3), "resnet34": (3, 4, 6, 3)}
"""Blocks of each stage, as in :mod:`benchmarks.networks.resnet`."""


@dataclass(frozen=True)
class Stored:
    """A network.

    Attributes
    ----------
    recipe : network, width, stem, channels, classes, and what training added; blocks of each stage, if not in `BLOCKS`.
    state : arrays by name.
    plans : descriptions of the steps of each layer that was replaced.
    """

    recipe: Mapping[str, Any]
    state: Mapping[str, np.ndarray]
    plans: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    def layer(self, name: str, stride: int = 1, padding: int = 0) -> tuple[Step, ...]:
        """The steps of a layer; `stride` and `padding` are those of its dense form."""
        if name in self.plans:
            return tuple(_step(told, self.state, f"{name}.{k}") for k, told in enumerate(self.plans[name]))
        weight = self.state[f"{name}.weight"]
        if weight.ndim == 2:
            weight = weight[:, :, None, None]
        geometry = Geometry((stride, stride), ((padding, padding), (padding, padding)))
        return (Convolution(weight, geometry, bias=self.state.get(f"{name}.bias")),)

    def blocks(self) -> list[tuple[str, int, bool]]:
        """Name, stride and whether there is a convolution in the shortcut, of every block."""
        found = []
        for stage, count in enumerate(self.recipe.get("blocks") or BLOCKS[self.recipe["network"]]):
            for block in range(count):
                name = f"layer{stage + 1}.{block}"
                found.append((name, 2 if stage and not block else 1, f"{name}.downsample.1.weight" in self.state))
        return found

    def convolutions(self) -> list[tuple[str, int, int]]:
        """Name, stride and padding of every convolution, in the order of their use."""
        large = self.recipe["stem"] == "imagenet"
        found = [("conv1", 2 if large else 1, 3 if large else 1)]
        for name, stride, shortcut in self.blocks():
            found += [(f"{name}.conv1", stride, 1), (f"{name}.conv2", 1, 1)]
            if shortcut:
                found.append((f"{name}.downsample.0", stride, 0))
        return found

    @property
    def parameters(self) -> int:
        """Numbers that are trained."""
        running = ("running_mean", "running_var", "num_batches_tracked")
        return sum(array.size for name, array in self.state.items() if not name.endswith(running))

    def macs(self, side: int) -> int:
        """Multiplications of all convolutions and linear layers for one image of this height and width."""
        image, total = (side, side), 0
        sizes: dict[str, tuple[int, int]] = {}
        for name, stride, padding in self.convolutions():
            # A block's shortcut sees what its first convolution sees.
            owner = name.rpartition(".downsample")[0]
            seen = sizes[owner] if owner else image
            if name.endswith(".conv1"):
                sizes[name.rpartition(".")[0]] = image
            plan = LayerPlan("", None, self.layer(name, stride, padding))
            total += plan.macs(seen)
            image = plan.output_size(seen)
            if name == "conv1" and self.recipe["stem"] == "imagenet":
                image = ((image[0] + 1) // 2, (image[1] + 1) // 2)
        return total + LayerPlan("", None, self.layer("fc")).macs((1, 1))

    def with_plans(self, plans: Mapping[str, LayerPlan]) -> Stored:
        """Layers replaced by plans, each with the weights it comes with."""
        state, told = dict(self.state), dict(self.plans)
        for name, plan in plans.items():
            for key in [key for key in state if key == f"{name}.weight" or key.startswith(f"{name}.")]:
                del state[key]
            told[name] = [describe(step) for step in plan.steps]
            for k, step in enumerate(plan.steps):
                if isinstance(step, Convolution):
                    state[f"{name}.{k}.weight"] = step.weight.astype(np.float32)
                    if step.bias is not None:
                        state[f"{name}.{k}.bias"] = step.bias.astype(np.float32)
        return replace(self, state=state, plans=told)


def read(path: str | os.PathLike[str]) -> Stored:
    """The network in a file that `write`, or training, wrote."""
    from safetensors import safe_open

    with safe_open(os.fspath(path), "np") as file:
        told = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, a file is no dict
    if "recipe" not in told:
        raise ValueError(f"{os.fspath(path)!r} has no recipe in its header; it was not written by this benchmark")
    return Stored(json.loads(told["recipe"]), state, json.loads(told.get("plans", "{}")))


def write(network: Stored, path: Path) -> None:
    """One file, written whole or not at all."""
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    told = {"recipe": json.dumps(network.recipe, sort_keys=True), "plans": json.dumps(network.plans, sort_keys=True)}
    save_file({name: np.ascontiguousarray(array) for name, array in network.state.items()}, temporary, metadata=told)
    os.replace(temporary, path)


def describe(step: Step) -> dict[str, Any]:
    """A step without its weights."""
    if not isinstance(step, Convolution):
        return {"kind": "fold" if isinstance(step, Fold) else "unfold", "groups": step.groups}
    geometry = step.geometry
    return {
        "kind": "conv",
        "groups": step.groups,
        "stride": geometry.stride,
        "padding": geometry.padding,
        "dilation": geometry.dilation,
    }


def _step(told: Mapping[str, Any], state: Mapping[str, np.ndarray], name: str) -> Step:
    if told["kind"] != "conv":
        return Fold(told["groups"]) if told["kind"] == "fold" else Unfold(told["groups"])
    weight = state[f"{name}.weight"]
    if weight.ndim == 2:
        weight = weight[:, :, None, None]
    stride, dilation = (told["stride"][0], told["stride"][1]), (told["dilation"][0], told["dilation"][1])
    (top, bottom), (left, right) = told["padding"]
    geometry = Geometry(stride, ((top, bottom), (left, right)), dilation)
    return Convolution(weight, geometry, told["groups"], state.get(f"{name}.bias"))
