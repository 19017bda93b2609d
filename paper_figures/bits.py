"""Accuracy of Tucker-2 networks over the bits of weights and activations, and rounding errors: predicted and measured.

Shown: above, a ResNet-18 of width 16, trained on Fashion-MNIST, as Tucker-2 with 3 times fewer parameters, restored,
then with weights and activations of all layers on integer grids, as they are and after one more epoch with
straight-through gradients.  Below, for every convolution of several taps of a ResNet-20, as Tucker-2 and as a chain,
the relative error of the kernel that rounding its blocks makes, against the error that `quantization_error` predicts
before anything is rounded.

Paper: "CNN acceleration by low-rank approximation with quantized factors", on quantization; the prediction is this
package's own.  What differs: network and data are small, and the epoch is a part of the training images.  The lower
panel is always measured; above, `--quick` draws the rows that `python -m benchmarks.networks.study bits` measured and
that are shipped in benchmarks/networks/results, and `--full` measures again (needs PyTorch).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import tensorchain as tc
from benchmarks.networks import stored
from paper_figures import network_rows
from paper_figures.fits import decompose
from paper_figures.kernels import NETWORK as SMALLER
from paper_figures.kernels import PLAIN, WEIGHTS, layers
from paper_figures.network_rows import NETWORK
from paper_figures.results import Job, Row, Settings, column, groups
from paper_figures.style import new_figure
from tensorchain.compression import kernel_tensor
from tensorchain.compression.fitting import best_tucker2
from tensorchain.plotting import MARKERS, PALETTE

__all__ = ["NETWORK", "describe", "draw", "jobs", "parameters"]

PAIRS = ((8, 8), (6, 8), (4, 8), (3, 8), (2, 8), (8, 6), (8, 4), (8, 3), (8, 2))
BITS = (8, 6, 4, 3)
DIVIDE = 4
RUN = {"method": "tucker2", "budget": "params", "times": 3, "fit_output": True, "stabilised": True, "quantized": PAIRS}


def parameters(settings: Settings) -> dict[str, Any]:
    """What is run, in full."""
    told = network_rows.parameters(settings)
    return {"pairs": PAIRS, "bits": BITS, "divide": DIVIDE, "plain": repr(PLAIN), **told}


def jobs(settings: Settings) -> Iterator[Job]:
    """The runs of the study, and one layer as one model."""
    runs = [{**RUN, "seed": seed} for seed in network_rows.seeds(settings)]
    for job in network_rows.jobs(settings, runs):
        yield Job({**job.key, "layer": "all"}, job.run)
    for model in ("Tucker-2", "chain"):
        for layer in layers(SMALLER):
            key = {"network": SMALLER, "run_of": model, "layer": layer}
            yield Job(key, partial(measure, model, layer, settings.seed))


def measure(model: str, layer: str, seed: int) -> list[Row]:
    """Predicted and measured errors of rounding one kernel."""
    tensor = kernel_tensor(stored.read(WEIGHTS / f"{SMALLER}.safetensors").state[f"{layer}.weight"].astype(float))
    inputs, _, outputs = tensor.shape
    ranks = max(2, inputs // DIVIDE), max(2, outputs // DIVIDE)
    if model == "chain":
        found = decompose(tensor, "tc", (3, *ranks), solver=PLAIN, init="svd", rng=seed).model
    else:
        found = tc.optimal_gauge(best_tucker2(tensor, (2 * ranks[0], 2 * ranks[1])))
    rows = []
    for bits in BITS:
        moved = float(np.linalg.norm(tc.round_blocks(found, bits).full() - found.full())) / found.norm()
        rows.append({"stage": "kernel", "bits": bits, "predicted": tc.quantization_error(found, bits), "error": moved})
    return rows


def describe(rows: list[Row]) -> str:
    """The caption."""
    runs = [row for row in rows if row["stage"] in ("quantized", "trained")]
    return (
        f"Above: {network_rows.title()}, as Tucker-2 with 3 times fewer parameters, restored; weights have a step for "
        f"each output channel, activations one for each layer. {network_rows.epoch_text(runs)} Dotted: the dense "
        f"network in float32, {network_rows.dense_accuracy():.1f} %. {network_rows.seed_text(runs)} Below: kernels of "
        "several taps of a ResNet-20 as Tucker-2 and as chains by plain least squares, each block rounded with one "
        "step; on the line the prediction is what was measured."
    )


def draw(rows: list[Row]) -> Figure:
    """Accuracies above, rounding errors below."""
    figure = new_figure(5.6)
    grid = figure.subplot_mosaic([["weights", "activations"], ["errors", "errors"]], height_ratios=(1, 1.2))
    dense = network_rows.dense_accuracy()
    for position, (name, other, text) in enumerate(
        (("weights", "activation_bits", "weight_bits"), ("activations", "weight_bits", "activation_bits"))
    ):
        panel = grid[name]
        for k, (stage, label) in enumerate((("quantized", "rounded"), ("trained", "one more epoch"))):
            mine = [row for row in rows if row["stage"] == stage and float(row[other]) == 8]
            points = sorted((float(bits), np.mean(column(part, "test"))) for bits, part in groups(mine, text).items())
            across, up = [bits for bits, _ in points], [mean for _, mean in points]
            panel.plot(across, up, color=PALETTE[k], marker=MARKERS[k], markersize=4.5, label=label)
        panel.axhline(dense, color="black", linewidth=0.8, linestyle=(0, (1, 2)))
        panel.set(xlabel=f"bits of {name}", xticks=(2, 3, 4, 6, 8), ylim=(0, 100))
        panel.set_title(f"8 bits of {('activations', 'weights')[position]}")
        panel.grid(True, axis="y", color="#DDDDDD", linewidth=0.6)
    grid["weights"].set_ylabel("test accuracy (%)")
    grid["activations"].set_yticklabels([])
    for k, (text, place) in enumerate((("rounded", (2.6, 40.0)), ("after one more epoch", (3.4, 79.0)))):
        grid["weights"].text(*place, text, color=PALETTE[k], fontsize=8, va="center")
    kernels = [row for row in rows if row["stage"] == "kernel"]
    panel = grid["errors"]
    for k, (model, mine) in enumerate(groups(kernels, "run_of").items()):
        for j, (bits, part) in enumerate(groups(mine, "bits").items()):
            panel.plot(
                column(part, "predicted"), column(part, "error"), linestyle="none", marker=MARKERS[j], markersize=4,
                color=PALETTE[2 + k], label=f"{model}, {bits} bits", alpha=0.8,
            )  # fmt: skip
    ends = np.array([min(column(kernels, "predicted")), max(column(kernels, "predicted"))])
    panel.plot(ends, ends, color="black", linewidth=0.8, zorder=1)
    panel.set(
        xscale="log", yscale="log", xlabel="predicted relative error of the kernel", ylabel="measured relative error"
    )
    panel.grid(True, color="#DDDDDD", linewidth=0.6)
    panel.set_title("rounding the blocks of single kernels")
    panel.legend(loc="upper left", ncols=2)
    return figure
