"""Train a ResNet from scratch and write its weights.

Stochastic gradients with Nesterov momentum, a cosine schedule after one epoch of warm-up, random moves and mirror
images, label smoothing.  All randomness of an epoch comes from (seed, epoch), so a run that was stopped goes on
from its checkpoint as if it had not been.  The last weights are kept, not the best: nothing is chosen on validation
or test images, whose accuracies stand in the header of the file.

    python -m benchmarks.networks.train --network resnet18 --width 16 --epochs 24
    python -m benchmarks.networks.train --network resnet18 --start weights.safetensors --epochs 8 --rate 0.05

The second form is one more cycle of the cosine from weights that are there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.networks import data, resnet

WEIGHTS = Path(__file__).parent / "weights"


def main(arguments: list[str] | None = None) -> int:
    options = _options().parse_args(arguments)
    torch.set_num_threads(options.threads)
    splits = data.load(options.data, options.path)
    recipe = {
        "network": options.network, "width": options.width, "stem": options.stem, "data": splits.name,
        "classes": splits.classes, "channels": splits.channels, "epochs": options.epochs, "batch": options.batch,
        "rate": options.rate, "decay": options.decay, "seed": options.seed,
        "precision": options.precision,
    }  # fmt: skip
    if options.start is not None:
        recipe["start"] = trained(options.start)[1]
    name = f"{options.network}-w{options.width}-{splits.name}-seed{options.seed}"
    out = options.out or WEIGHTS / f"{name}.safetensors"
    checkpoint = options.checkpoint or Path(f"{out}.checkpoint")
    net, seconds = train(splits, recipe, checkpoint, options.start)
    figures = {f"{part}_accuracy": accuracy(net, splits, part) for part in ("validation", "test")}
    save(net, out, {**recipe, **figures, "seconds": round(seconds)})
    checkpoint.unlink(missing_ok=True)
    print(f"{out}: validation {figures['validation_accuracy']:.4f}, test {figures['test_accuracy']:.4f}")
    return 0


def train(
    splits: data.Splits, recipe: dict[str, Any], checkpoint: Path, start: Path | None = None
) -> tuple[nn.Module, float]:
    """The trained network and the seconds it took; goes on from `checkpoint` if there is one, or begins at `start`."""
    torch.manual_seed(recipe["seed"])
    net = build(recipe) if start is None else trained(start)[0]
    net.to(memory_format=torch.channels_last)
    optimizer = _optimizer(net, recipe)
    first, seconds = _resume(net, optimizer, checkpoint, recipe)
    for epoch in range(first, recipe["epochs"]):
        started = time.perf_counter()
        loss = _epoch(net, optimizer, splits, recipe, epoch)
        seconds += time.perf_counter() - started
        score = accuracy(net, splits, "validation")
        _write(checkpoint, net, optimizer, epoch + 1, seconds, recipe)
        print(
            f"epoch {epoch + 1}/{recipe['epochs']}  loss {loss:.4f}  validation {score:.4f}  {seconds:.0f} s",
            flush=True,
        )
    return net.eval(), seconds


def build(recipe: dict[str, Any]) -> nn.Module:
    """The network that a recipe, or the header of a weight file, names."""
    kind = resnet.NETWORKS[recipe["network"]]
    return kind(
        width=int(recipe["width"]),
        num_classes=int(recipe["classes"]),
        in_channels=int(recipe["channels"]),
        stem=recipe["stem"],
    )


def accuracy(net: nn.Module, splits: data.Splits, part: str = "test", batch: int = 500) -> float:
    """Share of images classified correctly."""
    net.eval()
    right = 0
    subset = getattr(splits, part)
    with torch.inference_mode():
        for images, labels in splits.batches(subset, batch):
            inputs = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
            right += int((net(inputs).argmax(1).numpy() == labels).sum())
    return right / len(subset)


def loader(
    splits: data.Splits, part: str, batch: int, rng: np.random.Generator | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of a part as tensors, augmented with `rng`."""
    crop = max(1, splits.side // 14)
    for images, labels in splits.batches(getattr(splits, part), batch, rng, crop):
        inputs = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
        yield inputs, torch.from_numpy(labels)


def save(net: nn.Module, path: Path, header: dict[str, Any]) -> None:
    """Weights as safetensors with the recipe and the accuracies in the header, written whole or not at all."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in net.state_dict().items()}
    temporary = path.with_name(path.name + ".part")
    save_file(state, temporary, metadata={"recipe": json.dumps(header, sort_keys=True)})
    os.replace(temporary, path)


def trained(path: str | os.PathLike[str]) -> tuple[nn.Module, dict[str, Any]]:
    """The network in a weight file that `save` wrote, and its header."""
    from safetensors import safe_open

    with safe_open(os.fspath(path), "pt") as file:
        header = json.loads((file.metadata() or {})["recipe"])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, a file is no dict
    net = build(header)
    net.load_state_dict(state)
    return net.eval(), header


def _epoch(
    net: nn.Module, optimizer: torch.optim.Optimizer, splits: data.Splits, recipe: dict[str, Any], epoch: int
) -> float:
    """One pass over the training images; the mean loss."""
    net.train()
    rng = np.random.default_rng([recipe["seed"], epoch])
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    steps = math.ceil(len(splits.train) / recipe["batch"])
    total = 0.0
    for step, (inputs, labels) in enumerate(loader(splits, "train", recipe["batch"], rng)):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(epoch + step / steps, recipe["epochs"], recipe["rate"])
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe["precision"] == "bfloat16"):
            loss = criterion(net(inputs), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += float(loss.detach())
        if sys.stderr.isatty():
            print(f"\repoch {epoch + 1}: {step + 1}/{steps}", end="", file=sys.stderr, flush=True)
    return total / steps


def rate_at(epoch: float, epochs: int, peak: float) -> float:
    """Learning rate: linear warm-up over the first epoch, then half a cosine to zero."""
    warm = min(1.0, epochs / 10)
    if epoch < warm:
        return peak * (epoch / warm + 1e-3)
    return 0.5 * peak * (1.0 + math.cos(math.pi * (epoch - warm) / (epochs - warm)))


def _optimizer(net: nn.Module, recipe: dict[str, Any]) -> torch.optim.Optimizer:
    """SGD; scales and biases are not decayed."""
    decayed = [p for p in net.parameters() if p.ndim > 1]
    free = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe["decay"]}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=recipe["rate"], momentum=0.9, nesterov=True)


def _resume(
    net: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path, recipe: dict[str, Any]
) -> tuple[int, float]:
    if not checkpoint.exists():
        return 0, 0.0
    state = torch.load(checkpoint, weights_only=True)
    if state["recipe"] != recipe:
        raise ValueError(f"{checkpoint} belongs to another run, {state['recipe']}; remove it or name another")
    net.load_state_dict(state["net"])
    optimizer.load_state_dict(state["optimizer"])
    return state["epoch"], state["seconds"]


def _write(
    checkpoint: Path,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    seconds: float,
    recipe: dict[str, Any],
) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    temporary = checkpoint.with_name(checkpoint.name + ".part")
    state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
    torch.save({**state, "seconds": seconds, "recipe": recipe}, temporary)
    os.replace(temporary, checkpoint)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks.train", description="Train a ResNet.")
    parser.add_argument("--network", choices=sorted(resnet.NETWORKS), default="resnet18")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--stem", choices=resnet.STEMS, default="cifar")
    parser.add_argument("--data", choices=sorted(data.DATA), default="fashion-mnist")
    parser.add_argument("--path", type=Path, help="folder of the data set's files")
    parser.add_argument("--start", type=Path, help="weights to begin with; at random by default")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.1, help="peak learning rate")
    parser.add_argument("--decay", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    # Processors with bfloat16 instructions train a third faster; figures are always taken in float32.
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checkpoint", type=Path, help="default: beside the weights")
    parser.add_argument("--out", type=Path, help="default: benchmarks/networks/weights/")
    return parser


if __name__ == "__main__":
    sys.exit(main())
