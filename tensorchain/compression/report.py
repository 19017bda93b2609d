"""What a compression did: per layer, for the whole network, and what was tried on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tensorchain.compression.allocation import Allocation
from tensorchain.compression.candidates import Candidate
from tensorchain.compression.conv import Pair
from tensorchain.compression.progress import rank_of_record


@dataclass(frozen=True)
class LayerReport:
    """What became of one layer.

    Attributes
    ----------
    name : str
        Of the layer.
    method, rank : str or int, tuple or list
        Of the decomposition; "dense", and the reason, where the layer stayed.
    error, output_error, sensitivity, stabilised : float or None or bool
        As in `KernelFit`; None for a layer that stayed.
    parameters, macs : tuple of (int, int)
        Before and after.
    bits, rounded_error : tuple of int or None or float or None
        As in `KernelFit`; None where the weights are free.
    form : str or None
        "grouped" or "fold" for a chain in several groups, else None.
    form_seconds : tuple of (float, float) or None
        Median times of the two forms, where they were measured.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain import compression
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3)).eval()
    >>> small = compression.compress(net, torch.randn(1, 8, 8, 8), "tucker2", keep_macs=0.5, rng=0)
    >>> small.report.layers[0].method
    'tucker2'
    """

    name: str
    method: str
    rank: Any
    error: float | None
    output_error: float | None
    sensitivity: float | None
    stabilised: bool | None
    parameters: Pair
    macs: Pair
    bits: tuple[int, ...] | None = None
    rounded_error: float | None = None
    form: str | None = None
    form_seconds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Report:
    """What a compression did; `str` gives a table.

    Attributes
    ----------
    layers : tuple of LayerReport
        One entry for every layer that holds weights.
    parameters, macs : tuple of (int, int)
        Of the whole network, before and after; parameters include biases and normalisations.
    allocation : Allocation
        The choice among the measured candidates, with the proof of its gap.
    curves : tuple of tuple of Candidate
        For each layer the candidates that were measured, the dense layer last.
    seconds : float
        Time taken.
    unused : str
        Why less than the budget is used, in words; empty where it is used.
    steps : tuple of StepReport
        What was tried on the way, where ranks were chosen in several steps or by accuracy.
    refitted : bool
        Whether the layers were fitted to the outputs of the original network.
    run_seconds : tuple of (float, float) or None
        Median times of a run before and after, in turn, where the budget was a time.
    run_images : int or None
        Images of such a run, where the clock says how many they are.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain import compression
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3)).eval()
    >>> small = compression.compress(net, torch.randn(1, 8, 8, 8), "tucker2", keep_macs=0.5, rng=0)
    >>> small.report.macs[1] <= 0.5 * small.report.macs[0]
    True
    """

    layers: tuple[LayerReport, ...]
    parameters: Pair
    macs: Pair
    allocation: Allocation
    curves: tuple[tuple[Candidate, ...], ...]
    seconds: float
    unused: str = ""
    steps: tuple[StepReport, ...] = ()
    refitted: bool = False
    run_seconds: tuple[float, float] | None = None
    run_images: int | None = None

    def __str__(self) -> str:
        rounded = any(layer.bits for layer in self.layers)
        rows = [f"{'layer':<26}{'method':<11}{'rank':<20}{'error':>8}{'sensitivity':>13}{'MACs kept':>11}"]
        rows[0] += f"{'form':>9}" + (f"{'rounded':>9}  bits" if rounded else "")
        for layer in self.layers:
            error = "" if layer.error is None else f"{layer.error:.4f}"
            sensitivity = "" if layer.sensitivity is None else f"{layer.sensitivity:.3g}"
            kept = f"{layer.macs[1] / layer.macs[0]:.3f}" if layer.macs[0] else ""
            name = layer.name or "(the network)"
            row = f"{name:<26}{layer.method:<11}{layer.rank!s:<20}{error:>8}{sensitivity:>13}{kept:>11}"
            row += f"{layer.form or '':>9}"
            if layer.bits is not None:
                row += f"{layer.rounded_error:>9.4f}  {','.join(map(str, layer.bits))}"
            rows.append(row.rstrip())
        for name, (before, after) in (("parameters", self.parameters), ("MACs", self.macs)):
            rows.append(f"{name}: {before} -> {after}, {before / max(after, 1):.2f} x fewer")
        if self.run_seconds is not None:
            first, last = self.run_seconds
            what = f"time of {images_in_words(self.run_images)}"
            rows.append(f"{what}: {1e3 * first:.3g} -> {1e3 * last:.3g} ms, {last / first:.3f} of it")
        if self.unused:
            rows.append(self.unused)
        for n, step in enumerate(self.steps, start=1):
            score = "" if step.score is None else f", score {step.score:.4f}"
            verdict = "accepted" if step.accepted else "undone"
            shares = step.report.macs[1] / step.report.macs[0], step.report.parameters[1] / step.report.parameters[0]
            rows.append(
                f"step {n}: share {step.share:.3f}, MACs {shares[0]:.3f}, parameters {shares[1]:.3f}{score}: {verdict}"
            )
        return "\n".join(rows)


@dataclass(frozen=True)
class StepReport:
    """One step, or trial, on the way to a compressed network.

    Attributes
    ----------
    share : float
        The budget that was asked for, as a share of the dense network.
    score : float or None
        Of the network after restoration; None where none was asked for.
    accepted : bool
        Whether the step was kept.
    report : Report
        What was chosen, with the curves and the allocation that it was chosen from.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain import compression
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3)).eval()
    >>> small = compression.compress(net, torch.randn(1, 8, 8, 8), "tucker2", keep_macs=0.5, rng=0)
    >>> small.report.steps
    ()
    """

    share: float
    score: float | None
    accepted: bool
    report: Report


def images_in_words(count: int | None) -> str:
    """What a run takes.

    Examples
    --------
    >>> images_in_words(1), images_in_words(16), images_in_words(None)
    ('one image', '16 images', 'a run')
    """
    return "a run" if count is None else "one image" if count == 1 else f"{count} images"


def report_of_record(row: Mapping[str, Any]) -> Report:
    """A report, without its steps, that went through `dataclasses.asdict` and JSON."""
    layers = []
    for layer in row["layers"]:
        pairs = {key: tuple(layer[key]) for key in ("parameters", "macs")}
        bits = None if layer["bits"] is None else tuple(layer["bits"])
        seconds = None if layer["form_seconds"] is None else tuple(layer["form_seconds"])
        others = {"rank": rank_of_record(layer["rank"]), "bits": bits, "form_seconds": seconds}
        layers.append(LayerReport(**{**layer, **pairs, **others}))
    curves = tuple(
        tuple(Candidate(**{**point, "rank": rank_of_record(point["rank"])}) for point in points)
        for points in row["curves"]
    )
    allocation = Allocation(**{**row["allocation"], "choices": tuple(row["allocation"]["choices"])})
    parameters, macs = (tuple(row[key]) for key in ("parameters", "macs"))
    figures = parameters, macs, allocation, curves, row["seconds"], row["unused"]
    return Report(tuple(layers), *figures, refitted=row.get("refitted", False))
