"""The evidence for a verdict in words, and the call that cures.

Every sentence states a measured figure and what it means.  The cure is code that can be pasted: it runs with `tc` the
package, `T` the tensor, `fit` the fit or `model` the model that was diagnosed, and `diagnosis` the diagnosis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from tensorchain.diagnosis.figures import CPFigures, Figures
from tensorchain.diagnosis.path import SensitivityPath
from tensorchain.diagnosis.restricted import Asked
from tensorchain.diagnosis.support import Support
from tensorchain.diagnosis.verdict import Thresholds, Verdict, grows
from tensorchain.models import Model

_ENOUGH = 1.05
"""A bound on the sensitivity may cost this factor in the error that can be reached ..."""
_SMALL = 1e-2
"""... or lead to this relative error, where the error has no floor."""


def explain(
    verdict: Verdict,
    figures: Figures,
    error: float | None,
    path: SensitivityPath | None,
    other: SensitivityPath | None,
    limits: Thresholds,
    support: Support | None = None,
) -> tuple[str, ...]:
    """Sentences, the decisive ones first."""
    sentences = [
        *_on_the_data(verdict, figures, error, support),
        *_on_the_path(verdict, figures, error, path, other, limits),
        *_on_the_blocks(verdict, figures, path, limits),
        *_on_the_components(figures.cp),
    ]
    if figures.spread is None:
        sentences.append("the model is too large for the spectrum of its Jacobian: its conditioning was not measured")
    if path is not None and not path.complete:
        sentences.append(f"the time limit cut the path short after {len(path)} stages")
    return tuple(sentences)


def _on_the_data(verdict: Verdict, figures: Figures, error: float | None, support: Support | None) -> Iterator[str]:
    if support is None:
        if verdict is Verdict.UNFINISHED:
            yield "the fit stopped at a limit, and not because it had converged; the tensor would tell what is left"
        if verdict is Verdict.EXPLAINS_LITTLE and error is not None:
            yield f"the model leaves {100.0 * error**2:.3g} % of the squared norm of the tensor"
        return
    share = f"the model explains {100.0 * support.explained:.4g} % of the squared norm of the data"
    if verdict is Verdict.UNDETERMINED:
        if support.entries < support.parameters:
            yield f"{support.entries} entries are observed, and the model has {support.parameters} free parameters"
        if support.nullity:
            many = "s" if support.nullity > 1 else ""
            yield (
                f"at the observed entries the Jacobian has {support.nullity} null direction{many} beyond the gauge, at "
                f"all entries {figures.nullity if figures.nullity is not None else 'an unknown number'}"
            )
    elif verdict is Verdict.EXPLAINS_LITTLE:
        yield (
            f"{share} with {support.parameters} free parameters for {support.entries} entries (F = "
            f"{support.evidence:.3g}; fits of noise have 2 to 3)"
        )
        return
    elif verdict is Verdict.OVER_RANKED and support.least_part and not figures.nullity:
        yield (
            f"without {support.least_part} the rest explains as much but for what noise would give (F = "
            f"{support.least_evidence:.3g}; noise gives 2 to 3)"
        )
    elif verdict is Verdict.ILL_CONDITIONED and support.spread is not None and support.spread > (figures.spread or 0.0):
        yield (
            f"singular values of the Jacobian at the observed entries spread over a factor {support.spread:.3g} modulo "
            "gauge: the data hardly tell some directions of the blocks"
        )
    yield share


def _on_the_path(
    verdict: Verdict,
    figures: Figures,
    error: float | None,
    path: SensitivityPath | None,
    other: SensitivityPath | None,
    limits: Thresholds,
) -> Iterator[str]:
    if path is None or error is None:
        if verdict is Verdict.DIVERGING:
            yield (
                f"cancellation {figures.cancellation:.3g} (1 is none): the terms of the model cancel, as in a "
                "divergent fit; with the tensor the path would tell for certain"
            )
            yield "the bound in the cure is a guess from the cancellation: with the tensor it is that of the path"
        return
    last = f"error {path.error[-1]:.3g} at sensitivity {path.sensitivity[-1]:.3g}"
    if grows(path, limits):
        trend = "has stalled" if path.stalls else "still creeps down"
        yield (
            f"along the path the sensitivity grows as penalty^-{path.slope:.2f} while the error {trend}: "
            f"{last}, with no end in sight"
        )
        if verdict is Verdict.STUCK and other is not None:
            yield (
                f"another start leads to error {other.error[-1]:.3g} at the finite sensitivity "
                f"{other.sensitivity[-1]:.3g}: the model is on a divergent branch"
            )
        elif figures.cancellation < limits.cancellation:
            yield (
                f"the model itself has not blown up (cancellation {figures.cancellation:.3g}): it was bounded, chosen "
                "for its sensitivity, or stopped early; beyond it the blocks grow"
            )
        if verdict is Verdict.DIVERGING and figures.sensitivity < knee(path):
            yield (
                "the sensitivity of the model is below the bound of the cure already: the cure lowers the error, and "
                "is not needed where the error is good enough"
            )
        return
    if verdict in (Verdict.STUCK, Verdict.UNFINISHED):
        yield f"the model has error {error:.3g}; the path from it leads to {last}"
        return
    yield f"along the path the sensitivity tends to a limit (exponent {path.slope:.2f}): {last}"


def _on_the_blocks(
    verdict: Verdict, figures: Figures, path: SensitivityPath | None, limits: Thresholds
) -> Iterator[str]:
    if verdict is not Verdict.DIVERGING and figures.cancellation >= limits.cancellation:
        yield f"cancellation {figures.cancellation:.3g} (1 is none): the terms of the model cancel"
    if figures.nullity:
        yield (
            f"the Jacobian has {figures.nullity} null direction{'s' if figures.nullity > 1 else ''} beyond the gauge: "
            "the blocks can move and the tensor does not"
        )
    elif figures.spread is not None and figures.spread >= limits.spread:
        yield (
            f"singular values of the Jacobian spread over a factor {figures.spread:.3g} modulo gauge: the worst "
            f"direction of the blocks is known {figures.spread:.3g} times less well than the best"
        )
    if figures.gauge_excess >= limits.gauge_excess:
        yield f"the sensitivity is {figures.gauge_excess:.3g} times that of the best gauge of the same tensor"
    if verdict is Verdict.HEALTHY:
        parts = [f"cancellation {figures.cancellation:.2g}", f"gauge excess {figures.gauge_excess:.3g}"]
        if figures.spread is not None:
            parts.append(f"spread of the Jacobian {figures.spread:.3g}")
        yield "all figures are in their healthy range: " + ", ".join(parts)
        if path is None:
            yield "without the tensor nothing is known about the path: pass it to exclude a hidden divergence"


def _on_the_components(figures: CPFigures | None) -> Iterator[str]:
    if figures is None or math.isnan(figures.opposed):
        return
    if figures.opposed < -0.9:
        yield (
            f"two components are nearly opposite (cosine {figures.opposed:.4f}), the largest component is "
            f"{figures.norms[0]:.3g} ||X||"
        )
    if figures.aligned > 0.9:
        yield f"two components are nearly the same (cosine {figures.aligned:.4f})"


def cure_for(
    verdict: Verdict,
    model: Model,
    figures: Figures,
    error: float | None,
    path: SensitivityPath | None,
    size: float,
    subject: str = "model",
    asked: Asked | None = None,
) -> str:
    """Code that cures, empty when nothing is wrong.

    Parameters
    ----------
    verdict, model, figures, error, path : object
        What was found.
    size : float
        ||T||, or ||X|| without the tensor.
    subject : str, default "model"
        The model in code: "model", or "fit.model".
    asked : Asked, optional
        Where its blocks may lie.
    """
    asked = Asked() if asked is None else asked
    if verdict is Verdict.BADLY_GAUGED:
        return f"model = tc.optimal_gauge({subject}{asked.gauge})"
    if verdict is Verdict.STUCK:
        return f"fit = tc.decompose(T, init=diagnosis.path.model, solver=tc.LM(){asked.keywords()})"
    if verdict is Verdict.UNFINISHED:
        return f"fit = tc.decompose(T, init={subject}, solver=tc.LM(max_iter=1000){asked.keywords()})"
    if verdict is Verdict.DIVERGING:
        bound = figures.sensitivity / figures.gauge_excess / figures.cancellation * 10.0 if path is None else knee(path)
        return f"fit = tc.decompose(T, init={subject}{asked.keywords(f'tc.SensitivityBound({bound:.3g})')})"
    if verdict in (Verdict.ILL_CONDITIONED, Verdict.UNDETERMINED):
        # A penalty of the size of the misfit shrinks what the data do not determine and nothing else.
        misfit = max(error if error is not None else 1e-3, 1e-6)
        weight = 0.1 * (misfit * size) ** 2 * figures.gauge_excess / figures.sensitivity
        return f"fit = tc.decompose(T, init={subject}{asked.keywords(f'tc.Penalty({weight:.3g})')})"
    name = repr(type(model).name) if type(model).name else type(model).__name__
    if verdict is Verdict.OVER_RANKED:
        ranks = [lower_rank(model.rank), model.rank]
        if asked.constraint:
            call = f"tc.cross_validate(T, {name}, rank, constraint={asked.constraint}, rng=0)"
            return f"held_out = [{call} for rank in {ranks!r}]"
        return f"profiles = tc.degeneracy_profile(T, {name}, {ranks!r})"
    if verdict is Verdict.EXPLAINS_LITTLE:
        constraint = f", constraint={asked.constraint}" if asked.constraint else ""
        return f"fit = tc.decompose(T, {name}, {higher_rank(model.rank)!r}, starts=10{constraint})"
    return ""


def knee(path: SensitivityPath) -> float:
    """The least sensitivity on the path that costs next to nothing in the error."""
    target = _ENOUGH * float(path.error[-1])
    if not path.stalls:
        target = max(target, _SMALL)
    return float(path.sensitivity[path.error <= target][0])


def lower_rank(rank: Any) -> Any:
    """The next lower rank to try: one less everywhere, one term less for a list of terms."""
    if isinstance(rank, list):
        return rank[:-1] if len(rank) > 1 else [lower_rank(rank[0])]
    if isinstance(rank, tuple):
        return tuple(max(1, value - 1) for value in rank)
    return max(1, rank - 1)


def higher_rank(rank: Any) -> Any:
    """The next higher rank to try: one more everywhere, one more term for a list of terms."""
    if isinstance(rank, list):
        return [*rank, rank[-1]]
    if isinstance(rank, tuple):
        return tuple(value + 1 for value in rank)
    return rank + 1
