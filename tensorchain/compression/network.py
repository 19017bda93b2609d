"""Choose and fit the decompositions of all layers of a network under one budget; no network library needed.

Each layer is a `Site`: its kernel and how it is used.  Every site gets a curve of measured candidates, its dense self
among them; :mod:`tensorchain.compression.allocation` chooses one for each under a budget for the whole network; the
chosen ranks are fitted with care (:mod:`tensorchain.compression.fitting`).  The adapters for PyTorch and ONNX make the
sites and put the resulting plans in place.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorchain.compression.allocation import Allocation, allocate, one_step
from tensorchain.compression.candidates import Candidate, curve
from tensorchain.compression.conv import Geometry, LayerPlan, Pair
from tensorchain.compression.fitting import METHODS, fit_kernel
from tensorchain.compression.patches import PatchCovariance
from tensorchain.kernels import Array
from tensorchain.solvers import Constraint

FORMS = ("grouped", "fold")
ALLOCATIONS = ("global", "one-step")


@dataclass(frozen=True)
class Site:
    """A layer that could be replaced.

    Attributes
    ----------
    name : of the layer.
    kernel : (T, S, D1, D2), the weights of one group where there are several.
    bias : (T,) or None.
    geometry : of the convolution.
    image : height and width of its input.
    uses : how often it is applied in one pass.
    refusal : why it must stay as it is; empty where it need not.
    parameters : numbers stored now.
    """

    name: str
    kernel: Array
    bias: Array | None
    geometry: Geometry
    image: Pair
    uses: int = 1
    refusal: str = ""

    @property
    def parameters(self) -> int:
        """Numbers stored."""
        return self.kernel.size + (0 if self.bias is None else self.bias.size)

    @property
    def macs(self) -> int:
        """Multiplications of the dense layer in one pass."""
        window = int(self.kernel.shape[2]), int(self.kernel.shape[3])
        height, width = self.geometry.output_size(window, self.image)
        return int(self.kernel.size) * height * width * self.uses

    @property
    def pointwise(self) -> bool:
        """Whether it is a matrix."""
        return bool(self.kernel.shape[2:] == (1, 1))


@dataclass(frozen=True)
class LayerReport:
    """What became of one layer.

    Attributes
    ----------
    name : of the layer.
    method, rank : of the decomposition; "dense", and the reason, where the layer stayed.
    error, output_error, sensitivity, stabilised : as in `KernelFit`; None for a layer that stayed.
    parameters, macs : before and after.
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


@dataclass(frozen=True)
class Report:
    """What a compression did; `str` gives a table.

    Attributes
    ----------
    layers : one entry for every layer that holds weights.
    parameters, macs : of the whole network, before and after; parameters include biases and normalisations.
    allocation : the choice among the measured candidates, with the proof of its gap.
    curves : for each layer the candidates that were measured, the dense layer last.
    seconds : time taken.
    """

    layers: tuple[LayerReport, ...]
    parameters: Pair
    macs: Pair
    allocation: Allocation
    curves: tuple[tuple[Candidate, ...], ...]
    seconds: float

    def __str__(self) -> str:
        rows = [f"{'layer':<26}{'method':<11}{'rank':<20}{'error':>8}{'sensitivity':>13}{'MACs kept':>11}"]
        for layer in self.layers:
            error = "" if layer.error is None else f"{layer.error:.4f}"
            sensitivity = "" if layer.sensitivity is None else f"{layer.sensitivity:.3g}"
            kept = layer.macs[1] / layer.macs[0]
            rows.append(f"{layer.name:<26}{layer.method:<11}{layer.rank!s:<20}{error:>8}{sensitivity:>13}{kept:>11.3f}")
        for name, (before, after) in (("parameters", self.parameters), ("MACs", self.macs)):
            rows.append(f"{name}: {before} -> {after}, {before / after:.2f} x fewer")
        return "\n".join(rows)


@dataclass(frozen=True)
class Request:
    """What is asked of a compression; the adapters document the fields for their callers.

    Attributes
    ----------
    method : for kernels of several taps, one of `METHODS` but "svd", which serves matrices.
    keep_macs, keep_params : the budget, as a share of the dense network; one of them.
    stabilise, slack, fit_output, max_seconds : as in `fit_kernel`.
    pointwise : whether 1 x 1 and linear layers are compressed, by SVD.
    keep : names of layers to leave alone.
    form : "grouped" or "fold", for chains.
    allocation : "global" for the least sum of squared errors, "one-step" for the least largest one.
    rungs : ranks measured on each ladder.
    """

    method: str
    keep_macs: float | None = None
    keep_params: float | None = None
    stabilise: bool | Constraint = True
    slack: float = 0.02
    fit_output: bool = False
    pointwise: bool = True
    keep: tuple[str, ...] = ()
    form: str = "grouped"
    allocation: str = "global"
    rungs: int = 6
    max_seconds: float | None = 30.0

    def __post_init__(self) -> None:
        known = [method for method in METHODS if method != "svd"]
        if self.method not in known:
            raise ValueError(f"method is {self.method!r}; one of {', '.join(known)} is needed")
        if (self.keep_macs is None) == (self.keep_params is None):
            raise ValueError("give one of keep_macs and keep_params, a share of the dense network such as 0.3")
        share = self.share
        if not 0.0 < share <= 1.0:
            raise ValueError(f"the share to keep is {share!r}; a number above 0, up to 1, is needed")
        if self.form not in FORMS:
            raise ValueError(f"form is {self.form!r}; {' or '.join(FORMS)} is needed")
        if self.allocation not in ALLOCATIONS:
            raise ValueError(f"allocation is {self.allocation!r}; {' or '.join(ALLOCATIONS)} is needed")

    @property
    def share(self) -> float:
        """The share of the dense network to keep."""
        return self.keep_params if self.keep_macs is None else self.keep_macs  # type: ignore[return-value]

    def method_of(self, site: Site) -> str:
        """The method for one layer."""
        return "svd" if site.pointwise else self.method

    def refusal(self, site: Site) -> str:
        """Why a layer stays as it is, or nothing."""
        if site.name in self.keep:
            return "kept on request"
        if site.refusal:
            return site.refusal
        if site.pointwise and not self.pointwise:
            return "1 x 1"
        if min(site.kernel.shape[:2]) < 2:
            return "one channel"
        if not np.isfinite(site.kernel).all() or not site.kernel.any():
            return "zero, or not finite"
        return ""


def plan_network(
    sites: Sequence[Site],
    request: Request,
    *,
    parameters: int,
    covariances: Mapping[str, PatchCovariance] | None = None,
    rng: int | np.random.Generator | None = 0,
) -> tuple[dict[str, LayerPlan], Report]:
    """The plans of all layers that change, and the report.

    Parameters
    ----------
    sites : the layers.
    parameters : of the whole network, those outside the sites included.
    covariances : of the input patches, by name; errors are then those of the outputs.
    rng : seed or generator.

    Raises
    ------
    ValueError when the budget cannot be met, or `keep` names no layer.

    Examples
    --------
    >>> import numpy as np
    >>> kernel = np.random.default_rng(0).standard_normal((8, 8, 3, 3))
    >>> site = Site("conv", kernel, None, Geometry(padding=((1, 1), (1, 1))), (8, 8))
    >>> plans, report = plan_network([site], Request("tucker2", keep_macs=0.5), parameters=576)
    >>> plans["conv"].method, report.macs[1] <= 0.5 * report.macs[0]
    ('tucker2', True)
    """
    start, generator = time.perf_counter(), np.random.default_rng(rng)
    known = [site.name for site in sites]
    unknown = [name for name in request.keep if name not in known]
    if unknown:
        raise ValueError(f"keep names {unknown[0]!r}, which is no layer with weights; there are {', '.join(known)}")
    patches = covariances or {}
    curves = [_curve(site, request, patches.get(site.name), generator) for site in sites]
    macs = sum(site.macs for site in sites)
    by_macs = request.keep_macs is not None
    # Normalisations are no layer's choice, but their parameters count.
    rest = 0 if by_macs else parameters - sum(site.parameters for site in sites)
    chosen = (allocate if request.allocation == "global" else one_step)(
        [np.array([float(p.macs if by_macs else p.parameters) for p in points]) for points in curves],
        [np.array([p.error for p in points]) for points in curves],
        request.share * (macs if by_macs else parameters) - rest,
    )
    plans, layers = {}, []
    for site, points, choice in zip(sites, curves, chosen.choices, strict=True):
        same = (site.parameters, site.parameters), (site.macs, site.macs)
        if points[choice].rank is None:
            why = request.refusal(site) or "dense is best"
            layers.append(LayerReport(site.name, "dense", why, None, None, None, None, *same))
            continue
        fit = fit_kernel(
            site.kernel, request.method_of(site), points[choice].rank, stabilise=request.stabilise, slack=request.slack,
            geometry=site.geometry, bias=site.bias, covariance=patches.get(site.name), fit_output=request.fit_output,
            rng=generator, max_seconds=request.max_seconds,
        )  # fmt: skip
        plan = fit.plan.grouped() if request.form == "grouped" else fit.plan
        plans[site.name] = plan
        counts = (site.parameters, plan.parameters), (site.macs, plan.macs(site.image) * site.uses)
        figures = fit.error, fit.output_error, plan.sensitivity(relative=True), fit.stabilised
        layers.append(LayerReport(site.name, plan.method, plan.rank, *figures, *counts))
    saved = sum(layer.parameters[0] - layer.parameters[1] for layer in layers)
    after = parameters - saved, sum(layer.macs[1] for layer in layers)
    table = tuple(tuple(points) for points in curves)
    seconds = time.perf_counter() - start
    return plans, Report(tuple(layers), (parameters, after[0]), (macs, after[1]), chosen, table, seconds)


def _curve(
    site: Site, request: Request, covariance: PatchCovariance | None, rng: np.random.Generator
) -> list[Candidate]:
    """Measured candidates of a layer, its dense self last; the bias stays with any of them."""
    dense = Candidate(None, site.parameters, site.macs)
    if request.refusal(site):
        return [dense]
    points = curve(
        site.kernel, request.method_of(site), geometry=site.geometry, image=site.image, covariance=covariance,
        rungs=request.rungs, grouped=request.form == "grouped", rng=rng,
    )  # fmt: skip
    bias = 0 if site.bias is None else site.bias.size
    return [*(Candidate(p.rank, p.parameters + bias, p.macs * site.uses, p.error) for p in points), dense]
