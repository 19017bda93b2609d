"""`diagnose`: is a decomposition healthy, and if not, what is wrong and which call cures it.

A fit that has diverged looks good: its error is small.  What betrays it is elsewhere: in blocks that grow and
cancel, in rounding that destroys it, in a sensitivity that has no limit.  `diagnose` measures these figures
(:mod:`tensorchain.diagnosis.figures`), follows the sensitivity path when the tensor is there
(:mod:`tensorchain.diagnosis.path`), pronounces a verdict (:mod:`tensorchain.diagnosis.verdict`) and gives the evidence
and the cure (:mod:`tensorchain.diagnosis.evidence`).

Cost: without the tensor a few milliseconds for a small model.  With it some ten Levenberg-Marquardt stages of few
iterations each, about as much as one fit; a suspected divergence costs a path or two from other starts in addition.

Reference: Phan et al., "How to train your unstable looped tensor network" (2022).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from tensorchain.diagnosis.evidence import cure_for, explain
from tensorchain.diagnosis.figures import SPECTRUM_LIMIT, Figures, measure, tensor_norm
from tensorchain.diagnosis.path import DECADES, FIRST_SHARE, SensitivityPath, trace_path
from tensorchain.diagnosis.restricted import Asked, asked_in, asked_of
from tensorchain.diagnosis.support import Support, support_of
from tensorchain.diagnosis.verdict import Other, Thresholds, Verdict, grows, is_better, judge, questioned
from tensorchain.fit import Fit, StopReason
from tensorchain.labels import block_names
from tensorchain.models import Model
from tensorchain.solvers.constraints import Constraint, Domain
from tensorchain.solvers.loop import children
from tensorchain.solvers.problem import Clock
from tensorchain.stability.scales import model_of
from tensorchain.tensors import Tensor, as_tensor

_LIMITS = (
    StopReason.ITERATION_LIMIT,
    StopReason.TIME_LIMIT,
    StopReason.INTERRUPTED,
    StopReason.CALLBACK,
    StopReason.NON_FINITE,
)
"""Reasons of a fit that was stopped."""
_OWN = 0.5
"""Share of the time limit for the path from the model."""
_START_SHARE = 0.3
"""nu SS / ||T||^2 at the first stage of a path from a random start."""


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found.

    Attributes
    ----------
    verdict : Verdict
        What is wrong; its value says it in words.
    evidence : tuple of str
        Sentences with the figures that led to the verdict, the decisive ones first.
    cure : str
        The call that cures, as code; empty when nothing is wrong.
    figures : Figures
        All measured figures of the model.
    error : float or None
        ||T - X|| / ||T||; without the tensor that of the fit, None for a model alone.
    support : Support or None
        What the data say: how much of them is explained, determined, needed; None without the tensor.
    path : SensitivityPath or None
        The sensitivity path from the model (from another start where that showed the model to be stuck), None without
        the tensor.

    Examples
    --------
    >>> import tensorchain as tc
    >>> tc.diagnose(tc.CP.random((3, 4), 1, rng=0)).verdict.name
    'HEALTHY'
    """

    verdict: Verdict
    evidence: tuple[str, ...]
    cure: str
    figures: Figures
    error: float | None = None
    path: SensitivityPath | None = field(default=None, repr=False)
    support: Support | None = field(default=None, repr=False)

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return self.verdict.healthy

    def report(self) -> list[tuple[str, str]]:
        """(name, value) pairs: what `repr` prints.

        Returns
        -------
        list of tuple of (str, str)
            In the order in which `repr` prints them.

        Examples
        --------
        >>> import tensorchain as tc
        >>> T = tc.datasets.inverse_radius(order=3, size=6)
        >>> dict(tc.diagnose(tc.CP.random((3, 4), 1, rng=0)).report())["model"][:2]
        'CP'
        """
        figures = self.figures
        shares = zip(figures.block_names, figures.shares, strict=True)
        rows = [("verdict", f"{self.verdict.name}: {self.verdict.value}")]
        rows += [("evidence" if not n else "", sentence) for n, sentence in enumerate(self.evidence)]
        rows += [
            ("cure", self.cure or "none needed"),
            ("model", figures.model),
            ("sensitivity", f"{figures.sensitivity:.4g} (relative {figures.relative_sensitivity:.3g})"),
            ("by block", ", ".join(f"{name} {100.0 * share:.0f} %" for name, share in shares)),
            ("gauge excess", f"{figures.gauge_excess:.4g}"),
            ("cancellation", f"{figures.cancellation:.3g}"),
        ]
        if figures.spread is not None:
            rows.append(("conditioning", f"{figures.condition:.3g} (spread of the Jacobian {figures.spread:.3g})"))
        if figures.cp is not None:
            cp = figures.cp
            rows.append(("components", f"norms {cp.norms[0]:.3g} to {cp.norms[-1]:.3g} of ||X||"))
            rows.append(("congruences", f"{cp.opposed:.3f} to {cp.aligned:.3f}, condition number {cp.condition:.3g}"))
        rounding = ", ".join(f"{100.0 * value:.2g} % at {bits} bits" for bits, value in figures.rounding)
        rows.append(("rounding", f"expected error {rounding}"))
        if self.error is not None:
            rows.append(("error", f"{self.error:.4g}"))
        if self.support is not None:
            rows.append(("explained", f"{100.0 * self.support.explained:.4g} % of the squared norm of the data"))
        if self.path is not None:
            rows.append(("path", _path_row(self.path)))
        return rows

    def __repr__(self) -> str:
        return "\n".join(f"{name:<13} {value}" for name, value in self.report())

    def _repr_html_(self) -> str:
        from tensorchain.html import table

        return table(self.report())

    def to_dict(self) -> dict[str, Any]:
        """All of it as numbers, strings, lists and dicts, for a log or a file; the models are left out.

        Returns
        -------
        dict of str to object
            Ready for JSON.

        Examples
        --------
        >>> import tensorchain as tc
        >>> tc.diagnose(tc.CP.random((3, 4), 1, rng=0)).to_dict()["verdict"]
        'HEALTHY'
        """
        path = None
        if self.path is not None:
            names = ("penalty", "error", "sensitivity", "iterations")
            path = {name: getattr(self.path, name).tolist() for name in names}
            path |= {"slope": self.path.slope, "error_slope": self.path.error_slope, "stalls": self.path.stalls}
        return {
            "verdict": self.verdict.name,
            "meaning": self.verdict.value,
            "evidence": list(self.evidence),
            "cure": self.cure,
            "figures": asdict(self.figures),
            "error": self.error,
            "support": None if self.support is None else asdict(self.support),
            "path": path,
        }


def diagnose(
    fit_or_model: Fit | Model,
    tensor: Any = None,
    *,
    starts: int = 2,
    rng: int | np.random.Generator = 0,
    max_seconds: float | None = None,
    limits: Thresholds | None = None,
    constraint: Constraint | None = None,
) -> Diagnosis:
    """Measure a decomposition and say what is wrong with it.

    Parameters
    ----------
    fit_or_model : Fit or Model
        What `decompose` returned, or any model.
    tensor : array_like or Tensor, optional
        The tensor that it approximates, an array or a data source of :mod:`tensorchain.tensors`.  Without it the
        figures of the model alone decide; with it the sensitivity path is traced and tells for certain.
    starts : int, default 2
        Paths from other random starts by which a suspected divergence is questioned, and a model that looks healthy
        (one of them).
    rng : int or numpy.random.Generator, default 0
        Seed or generator for these starts.
    max_seconds : float, optional
        Time limit for all: half of it, at most, for the path from the model, and what is left for those from other
        starts.  Paths that were cut short say so in the evidence.
    limits : Thresholds, optional
        Thresholds of the verdicts, by default `Thresholds()`.
    constraint : Constraint, optional
        That of a model without its fit, where it restricts blocks: `NonNegative()`.  A fit says so itself, and which
        blocks were fixed; what leaves their domain does not count, and cures stay in it.

    Returns
    -------
    Diagnosis

    Raises
    ------
    TypeError
        When there is no model.
    ValueError
        When the model holds NaN or infinity, the model or the tensor is zero, or their shapes differ.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> rng = np.random.default_rng(0)
    >>> good = tc.datasets.exact_chain((5, 6, 7), (2, 3, 2), rng)
    >>> tc.diagnose(good.model, good.tensor).verdict.name
    'HEALTHY'
    >>> bad = tc.diagnose(tc.datasets.bad_gauge(good.model, 100.0, rng))
    >>> bad.verdict.name, bad.cure
    ('BADLY_GAUGED', 'model = tc.optimal_gauge(model)')
    """
    limits = Thresholds() if limits is None else limits
    fit, model = (fit_or_model, fit_or_model.model) if isinstance(fit_or_model, Fit) else (None, model_of(fit_or_model))
    subject = "model" if fit is None else "fit.model"
    if starts < 0:
        raise ValueError(f"starts is {starts!r}; an integer of at least 0 is needed")
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"max_seconds is {max_seconds!r}; a positive number, or None, is needed")
    source = None if tensor is None else as_tensor(tensor)
    names = None if fit is None else fit.dimension_names
    if names is None and source is not None:
        names = source.dimension_names
    asked = _asked(fit, model, constraint)
    figures = replace(measure(model, asked.domain), block_names=block_names(model, names))
    closed = asked.domain.closed(model.network)
    stopped = fit is not None and fit.reason in _LIMITS
    if source is None:
        size = tensor_norm(model)
        known = None if fit is None else fit.error
        verdict = judge(figures, known, limits=limits, stopped=stopped)
        evidence = explain(verdict, figures, known, None, None, limits) + _on_the_domain(closed)
        cure = cure_for(verdict, model, figures, None, None, size, subject, asked)
        return Diagnosis(verdict, evidence, cure, figures, known)
    clock = Clock(max_seconds)
    own = None if max_seconds is None else _OWN * max_seconds
    path = trace_path(model, source, max_seconds=own, domain=asked.domain)
    size = source.norm()
    error = source.residual_norm(model) / size
    support = support_of(source, model, error, limit=SPECTRUM_LIMIT, clock=clock, domain=asked.domain)
    paths = partial(_paths, source, model, rng=np.random.default_rng(rng), clock=clock, domain=asked.domain)
    # Where nothing can diverge the growth of SS along a path has an end.
    other = None if closed else _best_other(path, paths(starts), limits)
    # Under a bound the objective is no error alone, or more error is the price.
    bounded = fit is not None and (fit.gap > 0.0 or not math.isclose(fit.objective, fit.error**2, rel_tol=1e-6))
    stabilised = fit is not None and fit.reason is StopReason.STABILISED
    verdict = judge(
        figures, error, path, other, limits,
        support=support, stopped=stopped, fitted=fit is not None, bounded=bounded, stabilised=stabilised, closed=closed,
    )  # fmt: skip
    found = None
    if verdict in (Verdict.HEALTHY, Verdict.BADLY_GAUGED) and not stabilised:
        here, least = (path.model, float(path.error[-1])) if path.error[-1] <= error else (model, error)
        found = _another(source, here, least, paths(min(starts, 1)), limits)
        second = Verdict.HEALTHY if found is None else questioned(least, found, source.complete, limits)
        if second is Verdict.HEALTHY or (second is Verdict.STUCK and bounded):
            found = None
        else:
            verdict = second
    evidence = explain(verdict, figures, error, path, other if found is None else found.path, limits, support)
    evidence += _on_the_domain(closed)
    if found is not None:
        there = f"another start leads to error {found.path.error[-1]:.3g}"
        evidence = (f"{there} with a tensor {found.distance:.3g} ||T|| away from that of the model", *evidence)
        other = found.path
    shown = other if verdict is Verdict.STUCK and other is not None else path
    cure = cure_for(verdict, model, figures, error, path, size, subject, asked)
    return Diagnosis(verdict, evidence, cure, figures, error, shown, support)


def _asked(fit: Fit | None, model: Model, constraint: Constraint | None) -> Asked:
    """The domain of the fit, or of a model."""
    if constraint is None:
        return Asked() if fit is None else asked_of(fit)
    constraint.domain.check(model.network, model.dtype, model)
    return asked_in(constraint.domain, model)


def _on_the_domain(closed: bool) -> tuple[str, ...]:
    return ("a best approximation exists: no parts of such blocks can grow and cancel",) if closed else ()


def _another(
    source: Tensor, model: Model, error: float, paths: Iterator[SensitivityPath], limits: Thresholds
) -> Other | None:
    """The path of least error from other starts, if one comes to the error of the model; None without any."""
    best: Other | None = None
    for path in paths:
        if best is None or path.error[-1] < best.path.error[-1]:
            best = Other(path, _distance(model, path.model) / source.norm())
        if best.path.error[-1] <= error / limits.unfinished:
            break
    return best


def _distance(one: Model, two: Model) -> float:
    """||X - Y|| from inner products: to 1e-8 of their norms."""
    square = one.norm() ** 2 - 2.0 * complex(one.inner(two)).real + two.norm() ** 2
    return math.sqrt(max(square, 0.0))


def _paths(
    source: Tensor,
    model: Model,
    starts: int,
    *,
    rng: np.random.Generator,
    clock: Clock,
    domain: Domain,
) -> Iterator[SensitivityPath]:
    """Paths from random starts, while there is time."""
    double = np.complex128 if model.dtype.kind == "c" or source.dtype.kind == "c" else np.float64
    # From a random start the penalty begins where it leads, not where it only shrinks blocks.
    decades = DECADES + math.log10(_START_SHARE / FIRST_SHARE)
    for child in children(rng, starts):
        if clock.expired:
            return
        start = domain.drawn(model.astype(double), child)
        start = domain.scaled(start, source.norm() / tensor_norm(start))
        yield trace_path(start, source, share=_START_SHARE, decades=decades, max_seconds=clock.left, domain=domain)


def _best_other(path: SensitivityPath, paths: Iterator[SensitivityPath], limits: Thresholds) -> SensitivityPath | None:
    """When the sensitivity grows: the path of least error that is stable, from other starts; None if there is none."""
    if not grows(path, limits):
        return None
    best: SensitivityPath | None = None
    for found in paths:
        # A path that was cut short has not shown what it does in the end.
        if found.complete and not grows(found, limits) and (best is None or found.error[-1] < best.error[-1]):
            best = found
        if best is not None and is_better(float(best.error[-1]), float(path.error[-1]), limits):
            break
    return best


def _path_row(path: SensitivityPath) -> str:
    return (
        f"{len(path)} stages, sensitivity ~ penalty^-{max(path.slope, 0.0):.2f}, error {path.error[0]:.3g} to "
        f"{path.error[-1]:.3g}, sensitivity {path.sensitivity[0]:.3g} to {path.sensitivity[-1]:.3g}"
    )
