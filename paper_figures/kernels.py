"""Sensitivity of every convolution of a trained network before and after correction, at practically the same error.

Shown: each kernel of several taps is decomposed as a tensor (S, D1 D2, T), as a chain, and as a CPD with as many
parameters.  *Before*: alternating least squares from singular vectors, in the gauge of least sensitivity.  *After*: the
least sensitive model found whose error is at most 1 % above that of before, starting there (`ErrorBound`).  Where the
two are far apart the layer degenerates: least squares pays for the last digits of its error with blocks that cancel.

Paper: "Stable low-rank tensor decomposition for compression of convolutional neural network", on error-preserving
correction, and "How to train your unstable looped tensor network", on sensitivity correction.  What differs: the
networks (ResNets of width 16 trained on Fashion-MNIST, shipped with the benchmarks) and the rule for the ranks, which
is the same share of the channels in every layer.  `--quick` measures ResNet-20, `--full` ResNet-18 too and more ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import benchmarks.networks
import tensorchain as tc
from benchmarks.networks import stored
from paper_figures.fits import decompose
from paper_figures.results import Job, Row, Settings, column, groups
from paper_figures.style import new_figure
from tensorchain.compression import kernel_tensor
from tensorchain.plotting import PALETTE

NETWORK = "resnet20-w16-fashion-mnist-seed0"
LARGER = "resnet18-w16-fashion-mnist-seed0"
WEIGHTS = Path(benchmarks.networks.__file__).parent / "weights"
PLAIN = tc.ALS(max_iter=300, tol=1e-6)
CORRECTION = tc.ALS(max_iter=150, tol=1e-4)
MARGIN = 1.01
BEFORE, AFTER = "least squares", "corrected, error + 1 %"


def parameters(settings: Settings) -> dict[str, Any]:
    """What is run, in full."""
    return {
        "networks": [NETWORK, LARGER] if settings.full else [NETWORK],
        "divide": [4, 3] if settings.full else [4],
        "models": ["chain", "CPD"],
        "plain": repr(PLAIN),
        "correction": repr(CORRECTION),
        "margin": MARGIN,
    }


def jobs(settings: Settings) -> Iterator[Job]:
    """One layer as one model."""
    told = parameters(settings)
    for network in told["networks"]:
        for divide in told["divide"]:
            for model in told["models"]:
                for layer in layers(network):
                    key = {"network": network, "model": model, "divide": divide, "layer": layer}
                    yield Job(key, partial(measure, network, model, divide, layer, settings.seed))


def layers(network: str) -> list[str]:
    """Convolutions of several taps and several inputs."""
    state = stored.read(WEIGHTS / f"{network}.safetensors").state
    return [
        name.removesuffix(".weight")
        for name, array in state.items()
        if array.ndim == 4 and array.shape[2] > 1 and array.shape[1] > 1
    ]


def measure(network: str, model: str, divide: int, layer: str, seed: int) -> list[Row]:
    """Error and relative sensitivity, before and after."""
    tensor = kernel_tensor(stored.read(WEIGHTS / f"{network}.safetensors").state[f"{layer}.weight"].astype(float))
    inputs, taps, outputs = tensor.shape
    bonds = (3, max(2, inputs // divide), max(2, outputs // divide))
    count = bonds[0] * bonds[1] * inputs + bonds[1] * bonds[2] * taps + bonds[2] * bonds[0] * outputs
    kind, rank = ("tc", bonds) if model == "chain" else ("cp", round(count / sum(tensor.shape)))
    before = decompose(tensor, kind, rank, solver=PLAIN, init="svd", rng=seed)
    bound = tc.ErrorBound(MARGIN * before.error)
    after = decompose(tensor, init=before.model, solver=CORRECTION, constraint=bound, rng=seed)
    common = {"shape": "x".join(map(str, tensor.shape)), "rank": str(rank).replace(",", "")}
    return [
        {
            **common,
            "method": method,
            "error": fit.error,
            "sensitivity": tc.optimal_gauge(fit.model).sensitivity(relative=True),
            "reason": fit.reason.name,
            "seconds": fit.seconds,
        }
        for method, fit in ((BEFORE, before), (AFTER, after))
    ]


def shown_rows(rows: list[Row]) -> tuple[tuple[str, ...], dict[tuple[str, ...], list[Row]]]:
    """The first network and its ranks, and its rows by model."""
    first = next(iter(groups(rows, "network", "divide")))
    return first, groups([row for row in rows if (row["network"], row["divide"]) == first], "model")


def drops(rows: list[Row], name: str) -> np.ndarray:
    """What the correction divides a column by, for each layer."""
    methods = groups(rows, "method")
    return np.array(column(methods[BEFORE], name)) / np.array(column(methods[AFTER], name))


def describe(rows: list[Row]) -> str:
    """The caption."""
    (network, divide), models = shown_rows(rows)
    told = []
    for model, mine in models.items():
        fall, rise = drops(mine, "sensitivity"), 1.0 / drops(mine, "error")
        errors = column(groups(mine, "method")[BEFORE], "error")
        told.append(
            f"{model}: {np.median(fall):.1f} times less sensitive (median; at most {fall.max():.0f}), errors "
            f"{min(errors):.2f} to {max(errors):.2f}, which grow by {100 * (rise.max() - 1):.1f} % at most"
        )
    return (
        f"The {len(next(iter(models.values()))) // 2} convolutions of several taps in {network}, as chains with bonds "
        f"(3, S/{divide}, T/{divide}) and as CPDs with as many parameters. Before: least squares in its best gauge. "
        f"After: the least sensitive model found from there with an error at most 1 % larger. {'; '.join(told)}."
    )


def draw(rows: list[Row]) -> Figure:
    """A line from before to after for each layer, a panel for each model; errors, which are alike, in the caption."""
    _, models = shown_rows(rows)
    layers_shown = len(next(iter(models.values()))) // 2
    figure = new_figure(1.0 + 0.19 * layers_shown)
    panels = figure.subplots(1, len(models), sharey=True, sharex=True, squeeze=False)[0]
    for panel, (model, mine) in zip(panels, models.items(), strict=True):
        methods = groups(mine, "method")
        places = np.arange(len(methods[BEFORE]))
        ends = [np.array(column(methods[method], "sensitivity")) for method in (BEFORE, AFTER)]
        panel.hlines(places, *ends, color="#BBBBBB", linewidth=2.0, zorder=1)
        for k, (method, values) in enumerate(zip((BEFORE, AFTER), ends, strict=True)):
            panel.plot(values, places, linestyle="none", marker="os"[k], color=PALETTE[1 - k], markersize=5 - k)
            # Named once, above the marks of the first layer.
            if panel is panels[0]:
                panel.annotate(
                    method.replace(", ", ",\n"), (values[0], places[0]), (0, 5), textcoords="offset points",
                    ha="center", va="bottom", fontsize=8, color=PALETTE[1 - k],
                )  # fmt: skip
        panel.set_title(f"{model} of each kernel")
        panel.set_xscale("log")
        panel.grid(True, axis="x", color="#DDDDDD", linewidth=0.6)
        panel.set_yticks(places, [row["layer"] for row in methods[BEFORE]], fontsize=7.5)
        panel.set_ylim(len(places) - 0.5, -2.2)
        panel.set_xlabel(r"sensitivity SS / $\Vert X\Vert^{2(K-1)/K}$")
    return figure
