"""Choose and fit the decompositions of all layers of a network under one budget; no network library needed.

Each layer is a `Site`: its kernel and how it is used.  Every site gets a curve of measured candidates, its dense self
among them; :mod:`tensorchain.compression.allocation` chooses one for each under a budget for the whole network; the
chosen ranks are fitted with care (:mod:`tensorchain.compression.fitting`).  The adapters for PyTorch and ONNX make the
sites and put the resulting plans in place.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from tensorchain.compression.accounts import unmet_budget, unused_budget
from tensorchain.compression.allocation import Allocation, allocate, one_step
from tensorchain.compression.candidates import Candidate, curve
from tensorchain.compression.conv import LayerPlan
from tensorchain.compression.fitting import KernelFit, fit_kernel
from tensorchain.compression.groups import joined_curve, joined_fit
from tensorchain.compression.latency import Times, blank_of, forms_of
from tensorchain.compression.parallel import in_parallel
from tensorchain.compression.patches import PatchCovariance
from tensorchain.compression.progress import Progress, digest, plan_of_record, plan_record, rank_of_record
from tensorchain.compression.projections import PROJECTIONS, projected_curve, projected_fit
from tensorchain.compression.report import LayerReport, Report
from tensorchain.compression.request import Request, Site
from tensorchain.kernels import Array

Covariances = tuple[PatchCovariance, ...]
"""Of the patches that a layer sees, one for each of its groups."""


def plan_network(
    sites: Sequence[Site],
    request: Request,
    *,
    parameters: int,
    covariances: Mapping[str, Covariances] | None = None,
    rng: int | np.random.Generator | None = 0,
    progress: Progress | None = None,
    times: Times | None = None,
    blank: bool = False,
    gains: Mapping[str, float] | None = None,
) -> tuple[dict[str, LayerPlan], Report]:
    """The plans of all layers that change, and the report.

    Parameters
    ----------
    sites : sequence of Site
        The layers.
    request : Request
        What is asked for.
    parameters : int
        Of the whole network, those outside the sites included, when all its layers were dense.
    covariances : mapping of str to PatchCovariance, optional
        Of the input patches, by name; errors are then those of the outputs.
    rng : int or numpy.random.Generator, optional
        Seed or generator.
    progress : Progress, optional
        Where finished curves and fits are kept, and taken from.
    times : Times, optional
        Seconds that plans take, for the form "auto" and for a budget of time.
    blank : bool, default False
        Choose, but fit nothing: plans have the right shapes and no values.
    gains : mapping of str to float, optional
        Weights of the squared errors of layers in the choice, by name; 1 for those that are not named.

    Returns
    -------
    tuple of (dict of str to LayerPlan, Report)
        Plans by the name of the layer, and what was chosen.

    Raises
    ------
    ValueError
        When the budget cannot be met, or `keep` names no layer.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.compression import Geometry
    >>> kernel = np.random.default_rng(0).standard_normal((8, 8, 3, 3))
    >>> site = Site("conv", kernel, None, Geometry(padding=((1, 1), (1, 1))), (8, 8))
    >>> plans, report = plan_network([site], Request("tucker2", keep_macs=0.5), parameters=576)
    >>> plans["conv"].method, report.macs[1] <= 0.5 * report.macs[0]
    ('tucker2', True)
    """
    start = time.perf_counter()
    curves, seeds = measured_curves(sites, request, covariances=covariances, rng=rng, progress=progress, times=times)
    patches, done = covariances or {}, progress or Progress(None, "")
    costs, whole, rest = costs_of(sites, request, curves, parameters, times)
    least = sum(float(cost.min()) for cost in costs) + rest
    if request.keep_latency is None and request.share * whole < least:
        raise ValueError(unmet_budget(sites, request, least / whole, whole))
    weights = [(gains or {}).get(site.name, 1.0) for site in sites]
    errors = [w * np.array([p.error for p in points]) for w, points in zip(weights, curves, strict=True)]
    chosen = (allocate if request.allocation == "global" else one_step)(costs, errors, request.share * whole - rest)
    picked = [points[choice] for points, choice in zip(curves, chosen.choices, strict=True)]
    changed = [
        (s, choice, seed) for s, choice, seed in zip(sites, picked, seeds, strict=True) if choice.rank is not None
    ]
    fits = iter(_blank_fits(changed, request) if blank else _fits(changed, request, patches, done))
    plans, layers = {}, []
    for site, choice in zip(sites, picked, strict=True):
        if choice.rank is None:
            layers.append(stays(site, request.refusal(site) or "dense is best"))
            continue
        fit = next(fits)
        plan, form, seconds_of_forms = _formed(fit.plan, request, site, times)
        plans[site.name] = plan
        counts = (site.parameters, plan.parameters), (site.macs, plan.macs(site.image) * site.uses)
        figures = fit.error, fit.output_error, 1.0 if blank else plan.sensitivity(relative=True), fit.stabilised
        layers.append(
            LayerReport(
                site.name,
                plan.method,
                plan.rank,
                *figures,
                *counts,
                fit.bits,
                fit.rounded_error,
                form,
                seconds_of_forms,
            )
        )
    saved = sum(layer.parameters[0] - layer.parameters[1] for layer in layers)
    macs = sum(site.macs for site in sites), sum(layer.macs[1] for layer in layers)
    table = tuple(tuple(points) for points in curves)
    seconds = time.perf_counter() - start
    report = Report(tuple(layers), (parameters, parameters - saved), macs, chosen, table, seconds)
    return plans, replace(report, unused=unused_budget(report, request.share, request.budget))


def _formed(
    plan: LayerPlan, request: Request, site: Site, times: Times | None
) -> tuple[LayerPlan, str | None, tuple[float, float] | None]:
    """A plan in the form that was asked for, the name of the form, and the times of both."""
    forms = forms_of(plan)
    if len(forms) == 1:
        return plan, None, None
    if not request.both_forms:
        return forms[request.form == "fold"], request.form, None
    if times is None:
        raise ValueError("form='auto' needs something to run the layers with; give 'grouped' or 'fold'")
    grouped, fold = times.of(forms, site)
    return (plan, "fold", (grouped, fold)) if fold < grouped else (forms[0], "grouped", (grouped, fold))


def measured_curves(
    sites: Sequence[Site],
    request: Request,
    *,
    covariances: Mapping[str, Covariances] | None = None,
    rng: int | np.random.Generator | None = 0,
    progress: Progress | None = None,
    times: Times | None = None,
) -> tuple[list[list[Candidate]], list[int]]:
    """The candidates of all layers, each layer itself last, and a seed for the fit of each; see `plan_network`."""
    if request.keep_latency is not None and times is None:
        raise ValueError("keep_latency needs something to run the layers with; give keep_macs or keep_params")
    check_names(sites, request)
    if not sites:
        raise ValueError("the network has no layer with a matrix or kernels of its own; there is nothing to compress")
    patches, done = covariances or {}, progress or Progress(None, "")
    # Each piece of work has a seed of its own, so that it does not matter which were done before.
    seeds = np.random.default_rng(rng).integers(1 << 62, size=(len(sites), 2)).tolist()
    found = [_curve_found(site, request, done) for site in sites]
    missing = [k for k, points in enumerate(found) if points is None]
    work = [(_measure, (sites[k], request, patches.get(sites[k].name), seeds[k][0])) for k in missing]
    for k, points in zip(missing, in_parallel(work, request.jobs), strict=True):
        done.put(f"curve/{sites[k].name}", [asdict(point) for point in points])
        found[k] = points
    curves = [points or [] for points in found]
    if request.keep_latency is not None and times is not None:
        curves = [times.timed(site, points, refit=request.refit) for site, points in zip(sites, curves, strict=True)]
    return curves, [seed for _, seed in seeds]


def check_names(sites: Sequence[Site], request: Request) -> None:
    """ValueError where a layer is to be left alone that there is not."""
    known = [site.name for site in sites]
    unknown = [name for name in request.keep if name not in known]
    if unknown:
        raise ValueError(f"keep names {unknown[0]!r}, which is no layer with weights; there are {', '.join(known)}")


def costs_of(
    sites: Sequence[Site],
    request: Request,
    curves: Sequence[Sequence[Candidate]],
    parameters: int,
    times: Times | None = None,
) -> tuple[list[Array], float, float]:
    """What the budget counts: of each candidate, of the dense network, and of what is no layer's choice."""
    costs = [np.array([point.cost(request.budget) for point in points]) for points in curves]
    if request.budget == "keep_macs":
        whole = float(sum(site.macs for site in sites))
        if not whole:
            raise ValueError("keep_macs counts nothing here, since no layer multiplies; give keep_params")
        return costs, whole, 0.0
    if request.keep_latency is not None and times is not None:
        dense = float(sum(cost[-1] for cost in costs))
        # One by one layers may take longer than the whole network, of which nothing must be left below zero.
        faster = min(1.0, times.whole / dense) if dense > 0.0 else 1.0
        # Where no candidate is faster, rounding must leave room for the layers themselves.
        return [faster * cost for cost in costs], times.whole, times.whole * (1.0 - 1e-9) - faster * dense
    # Normalisations are no layer's choice, but their parameters count.
    return costs, float(parameters), float(parameters - sum(site.parameters for site in sites))


def untouched(sites: Sequence[Site], parameters: int, why: str) -> Report:
    """The report of a network in which every layer stays, and the reason."""
    layers = tuple(stays(site, site.refusal or why) for site in sites)
    macs = sum(site.macs for site in sites)
    nothing = Allocation((), float(macs), 0.0, 0.0)
    return Report(layers, (parameters, parameters), (macs, macs), nothing, (), 0.0)


def stays(site: Site, why: str) -> LayerReport:
    """The report of a layer that is not changed, and the reason."""
    method, rank = "dense", why
    if site.plan is not None:
        method, rank = site.plan.method, site.plan.rank
    now = site.costs
    return LayerReport(site.name, method, rank, None, None, None, None, (site.parameters, now[0]), (site.macs, now[1]))


def _curve_found(site: Site, request: Request, progress: Progress) -> list[Candidate] | None:
    """The candidates of a layer, itself last, where they need no work; None where they do."""
    if request.refusal(site):
        return [Candidate(None, *site.costs)]
    found = progress.get(f"curve/{site.name}")
    if found is None:
        return None
    return [Candidate(**{**row, "rank": rank_of_record(row["rank"])}) for row in found[0]]


def _measure(site: Site, request: Request, covariances: Covariances | None, seed: int) -> list[Candidate]:
    """Measured candidates of a layer, itself last."""
    parameters, macs = site.costs
    bias = 0 if site.bias is None else site.bias.size
    new_bias = len(site.kernel) if request.refit else bias
    generator, methods = np.random.default_rng(seed), request.methods_of(site)
    below = (parameters - bias) // site.groups, macs // site.uses // site.groups
    fitted = [method for method in methods if not _projected(method, request, covariances)]
    curves = []
    for part, covariance in zip(site.parts, covariances or [None] * site.groups, strict=True):
        common: dict[str, Any] = {
            "geometry": site.geometry, "image": site.image, "covariance": covariance, "below": below,
            "candidates": request.candidates,
        }  # fmt: skip
        grouped = request.form != "fold" or site.groups > 1
        points = curve(part, fitted, refit=request.refit, grouped=grouped, rng=generator, **common) if fitted else []
        curves.append(points + (projected_curve(part, **common) if len(fitted) < len(methods) else []))
    points = joined_curve(curves, _energies(site, covariances))
    points = [replace(p, parameters=p.parameters + new_bias, macs=p.macs * site.uses) for p in points]
    return [*points, Candidate(None, parameters, macs)]


def _projected(method: str, request: Request, covariances: Covariances | None) -> bool:
    """Whether a method is a projection: of a matrix too, where the inputs are known and weights are free."""
    return method in PROJECTIONS or (method == "svd" and covariances is not None and request.weight_bits is None)


def _energies(site: Site, covariances: Covariances | None) -> list[float]:
    """Of the outputs of each group, or of its kernel."""
    if covariances is None:
        return [float(np.sum(part.astype(np.float64) ** 2)) for part in site.parts]
    return [covariance.energy(part) for part, covariance in zip(site.parts, covariances, strict=True)]


def _blank_fits(work: Sequence[tuple[Site, Candidate, int]], request: Request) -> list[KernelFit]:
    """Plans of layers at their methods and ranks, without values."""
    return [
        KernelFit(
            plan=blank_of(site, choice, refit=request.refit),
            error=1.0,
            sensitivity=1.0,
            output_error=None,
            stabilised=False,
            seconds=0.0,
        )
        for site, choice, _ in work
    ]


def _fit_key(site: Site, choice: Candidate) -> str:
    return f"fit/{site.name}/{choice.method}/{choice.rank}"


def _fits(
    work: Sequence[tuple[Site, Candidate, int]],
    request: Request,
    patches: Mapping[str, Covariances],
    progress: Progress,
) -> list[KernelFit]:
    """The careful fits of layers at their methods and ranks; from the checkpoint where they are there."""
    fits: list[KernelFit | None] = [_fit_found(progress.get(_fit_key(site, choice))) for site, choice, _ in work]
    missing = [k for k, fit in enumerate(fits) if fit is None]
    jobs = [(_fit, (work[k][0], request, work[k][1], patches.get(work[k][0].name), work[k][2])) for k in missing]
    for k, fit in zip(missing, in_parallel(jobs, request.jobs), strict=True):
        record, arrays = plan_record(fit.plan)
        figures = {**{f.name: getattr(fit, f.name) for f in fields(fit)}, "plan": record}
        progress.put(_fit_key(work[k][0], work[k][1]), figures, arrays)
        fits[k] = fit
    return [fit for fit in fits if fit is not None]


def _fit_found(found: tuple[Any, dict[str, Array]] | None) -> KernelFit | None:
    if found is None:
        return None
    figures, arrays = found
    bits = None if figures["bits"] is None else tuple(figures["bits"])
    return KernelFit(**{**figures, "plan": plan_of_record(figures["plan"], arrays), "bits": bits})


def _fit(site: Site, request: Request, choice: Candidate, covariances: Covariances | None, seed: int) -> KernelFit:
    """The careful fit of a layer at its method and rank."""
    bias = np.zeros(len(site.kernel), site.kernel.dtype) if request.refit and site.bias is None else site.bias
    generator, parts = np.random.default_rng(seed), site.parts
    biases: Sequence[Array | None] = [None] * site.groups if bias is None else np.split(bias, site.groups)
    given = list(zip(parts, biases, covariances or [None] * site.groups, strict=True))
    if _projected(choice.method, request, covariances):
        projected = [
            projected_fit(part, choice.method, choice.rank, geometry=site.geometry, bias=own, covariance=covariance)
            for part, own, covariance in given
        ]
        return joined_fit(projected, parts, None if covariances is None else _energies(site, covariances))
    fits = [
        fit_kernel(
            part, choice.method, choice.rank, stabilise=request.stabilise, slack=request.slack,
            geometry=site.geometry, bias=own, covariance=covariance, fit_output=request.fit_output,
            weight_bits=request.weight_bits, share_bits=request.share_bits, rng=generator,
            max_seconds=request.max_seconds,
        )
        for part, own, covariance in given
    ]  # fmt: skip
    return joined_fit(fits, parts, None if covariances is None else _energies(site, covariances))


@dataclass(frozen=True)
class Measured:
    """What planning needs to know of a network.

    Attributes
    ----------
    sites : list of Site
        Its layers.
    parameters : int
        Of the whole network when all its layers are dense.
    covariances : dict of str to PatchCovariance or None
        Of the patches that the layers see, by name, or None.
    gains : dict of str to float or None
        Weights of the errors of layers in the choice of ranks, by name, or None.
    """

    sites: list[Site]
    parameters: int
    covariances: dict[str, Covariances] | None
    gains: dict[str, float] | None = None

    def problem(self, request: Request, rng: Any) -> str:
        """A digest of the layers and of what curves and fits depend on: all of the request but its budget."""
        options = replace(request, keep_macs=1.0, keep_params=None, keep_latency=None, allocation="global", jobs=1)
        parts: list[Any] = [options, int(rng) if isinstance(rng, (int, np.integer)) else "no seed"]
        for site in self.sites:
            parts += [site.name, site.kernel, site.bias if site.bias is not None else "", site.geometry, site.image]
        for name, covariances in (self.covariances or {}).items():
            parts += [name, *(covariance.matrix for covariance in covariances)]
        return digest(parts)

    def progress(self, checkpoint: str | os.PathLike[str] | None, request: Request, rng: Any) -> Progress:
        """What a checkpoint file holds of this problem."""
        if checkpoint is not None and (isinstance(rng, bool) or not isinstance(rng, (int, np.integer))):
            raise TypeError(f"rng is {rng!r}; with a checkpoint an integer is needed, so that the run can be continued")
        return Progress(checkpoint, self.problem(request, rng))

    def least_share(self, request: Request, rng: Any, progress: Progress, times: Times | None = None) -> float:
        """The smallest budget that can be met, as a share of the dense network."""
        curves, _ = measured_curves(
            self.sites, request, covariances=self.covariances, rng=rng, progress=progress, times=times
        )
        costs, whole, rest = costs_of(self.sites, request, curves, self.parameters, times)
        return (sum(float(cost.min()) for cost in costs) + rest) / whole

    def planned(
        self, request: Request, rng: Any, progress: Progress, times: Times | None = None, *, blank: bool = False
    ) -> tuple[dict[str, LayerPlan], Report]:
        """The plans of the layers that change, and the report."""
        return plan_network(
            self.sites, request, parameters=self.parameters, covariances=self.covariances, rng=rng, progress=progress,
            times=times, blank=blank, gains=self.gains if request.allocation == "global" else None,
        )  # fmt: skip
