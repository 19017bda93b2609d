"""Labelled cases for `diagnose`: models and tensors of which the verdict is known from how they were made.

| family | tensor | model | verdict |
|---|---|---|---|
| exact | a planted model | the truth, or a fit from beside it | HEALTHY |
| noisy | a planted model and 1 to 30 % noise | a fit | HEALTHY |
| gauge | as exact or noisy | the model in gauges of condition 10 to 1000 | BADLY_GAUGED |
| collinear | planted with cosines 0.97 to 0.999 | the truth in its best gauge, or a fit | ILL_CONDITIONED |
| over-ranked | a planted model | a fit of higher rank | OVER_RANKED |
| border | a border tensor | fits by four methods, or an approximant | DIVERGING |
| swamp | a planted chain | a plain fit that ended in a swamp | STUCK |

Border tensors exist for CP, for chains, and for block terms of rank (1, ..., 1), which are CPs; Tucker models of a
given rank are a closed set, so nothing diverges.  Collinear Tucker factors are a matter of gauge and are left out.

Thresholds of the verdicts were chosen on the seeds `TUNING` alone; `EVALUATION` was held back.

    python -m benchmarks.degeneracy.labelled [--seeds tuning|evaluation|0,1,...] [--without-tensor] [--csv FILE]

prints the confusion matrix, rows the labels and columns the verdicts, and for each threshold the figures that lie
nearest to it on either side.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import tensorchain as tc
from tensorchain import datasets as ds
from tensorchain.diagnosis import Diagnosis, Thresholds, Verdict, diagnose
from tensorchain.diagnosis.support import without_parts
from tensorchain.models import Model

TUNING = (0, 1, 2, 3)
EVALUATION = (100, 101, 102, 103, 104, 105)

COSINES = (0.97, 0.99, 0.999)

Pair = tuple[Any, Any]
Builder = Callable[[np.random.Generator], Pair | None]


@dataclass(frozen=True)
class LabelledCase:
    """One model with the tensor it belongs to."""

    family: str
    name: str
    seed: int
    label: Verdict
    tensor: Any
    model: Any
    """A model, or a fit."""


@dataclass(frozen=True)
class Recipe:
    """How to make a case from a seed; None when the seed gives none."""

    family: str
    name: str
    label: Verdict
    build: Builder
    quick: bool = False
    """Small enough for the tests."""


# -- planted models ---------------------------------------------------------------------------

Planter = Callable[..., Any]


def _planters() -> dict[str, tuple[Planter, bool]]:
    """Identifiable models: name -> (planter(rng, **options), small)."""
    return {
        "cp 6x6x6 r3": (lambda rng, **o: ds.exact_cp((6, 6, 6), 3, rng, **o), True),
        "cp 8x7x6 r4": (lambda rng, **o: ds.exact_cp((8, 7, 6), 4, rng, **o), False),
        "cp 5x4x5x4 r3": (lambda rng, **o: ds.exact_cp((5, 4, 5, 4), 3, rng, **o), False),
        "cp complex 5x6x7 r3": (lambda rng, **o: ds.exact_cp((5, 6, 7), 3, rng, dtype=complex, **o), False),
        "tucker 7x6x5 (3,2,2)": (lambda rng, **o: ds.exact_tucker((7, 6, 5), (3, 2, 2), rng, **o), True),
        "tucker 5x5x5x5 (2,2,2,2)": (lambda rng, **o: ds.exact_tucker((5, 5, 5, 5), (2, 2, 2, 2), rng, **o), False),
        "btd 8x8x8 2x(2,2,2)": (lambda rng, **o: ds.exact_block_term((8, 8, 8), (2, 2, 2), rng, **o), True),
        "btd 9x8x7 3x(2,2,2)": (lambda rng, **o: ds.exact_block_term((9, 8, 7), (2, 2, 2), rng, terms=3, **o), False),
        "tc 6x6x6 (2,2,2)": (lambda rng, **o: ds.exact_chain((6, 6, 6), (2, 2, 2), rng, **o), True),
        "tc 7x7x7 (3,3,3)": (lambda rng, **o: ds.exact_chain((7, 7, 7), (3, 3, 3), rng, **o), False),
        "tc 6x7x8 (2,3,2)": (lambda rng, **o: ds.exact_chain((6, 7, 8), (2, 3, 2), rng, **o), False),
        "tc 5x5x5x5 (2,2,2,2)": (lambda rng, **o: ds.exact_chain((5, 5, 5, 5), (2, 2, 2, 2), rng, **o), False),
        "tc 4^5 (2,...)": (lambda rng, **o: ds.exact_chain((4,) * 5, (2,) * 5, rng, **o), False),
        "tc complex 6x6x6 (2,2,2)": (
            lambda rng, **o: ds.exact_chain((6, 6, 6), (2, 2, 2), rng, dtype=complex, **o),
            False,
        ),
    }


def _beside(model: Model, rng: np.random.Generator, size: float = 0.01) -> Model:
    """The model with its blocks moved a little."""
    return model.with_matrices(
        [
            matrix + size * np.std(matrix) * rng.standard_normal(matrix.shape).astype(matrix.dtype)
            for matrix in model.matrices
        ]
    )


def _exact(planter: Planter) -> Builder:
    def build(rng: np.random.Generator) -> Pair:
        planted = planter(rng)
        if rng.random() < 0.5:
            return planted.tensor, planted.model
        return planted.tensor, tc.decompose(planted.tensor, init=_beside(planted.model, rng), solver=tc.LM()).model

    return build


_DROWNED = 10.0
"""F of the weakest part of the truth below which noise may hide it, so that no verdict is the right one."""


def _stands_out(planted: Any, noise: float) -> bool:
    """Whether every part of the truth is above the noise: F from what the clean tensor loses without it."""
    if noise == 0.0:
        return True
    truth, clean = planted.model, tc.Dense(planted.model.full())
    parameters = truth.n_parameters - truth.gauge_dimension
    for smaller, _ in without_parts(tc.optimal_gauge(truth)):
        fewer = parameters - (smaller.n_parameters - smaller.gauge_dimension)
        lost = tc.decompose(clean, init=smaller, solver=tc.LM(max_iter=50)).error
        if fewer > 0 and lost**2 / fewer < _DROWNED * noise**2 / clean.n_observed:
            return False
    return True


def _noisy(planter: Planter) -> Builder:
    def build(rng: np.random.Generator) -> Pair | None:
        noise = float(rng.choice([0.01, 0.1, 0.3]))
        planted = planter(rng, noise=noise)
        if not _stands_out(planted, noise):
            return None
        return planted.tensor, tc.decompose(planted.tensor, init=planted.model, solver=tc.LM()).model

    return build


def _gauge(planter: Planter) -> Builder:
    def build(rng: np.random.Generator) -> Pair | None:
        noise = float(rng.choice([0.0, 0.05]))
        planted = planter(rng, noise=noise)
        if not _stands_out(planted, noise):
            return None
        model = tc.decompose(planted.tensor, init=planted.model, solver=tc.LM()).model
        return planted.tensor, ds.bad_gauge(model, float(rng.choice([10.0, 100.0, 1000.0])), rng)

    return build


def _collinear(planter: Planter, cosines: tuple[float, ...]) -> Builder:
    def build(rng: np.random.Generator) -> Pair:
        noise = float(rng.choice([0.0, 1e-6]))
        planted = planter(rng, collinearity=float(rng.choice(cosines)), noise=noise)
        if noise == 0.0:
            return planted.tensor, tc.optimal_gauge(planted.model)
        return planted.tensor, tc.decompose(planted.tensor, init=planted.model, solver=tc.LM()).model

    return build


def _over_ranked(planter: Planter, rank: Any) -> Builder:
    def build(rng: np.random.Generator) -> Pair:
        planted = planter(rng)
        kind = type(planted.model)
        return planted.tensor, tc.decompose(planted.tensor, kind, rank, rng=rng, starts=2).model

    return build


def _border(make: Callable[[np.random.Generator], Any], kind: str, rank: Any) -> Builder:
    def build(rng: np.random.Generator) -> Pair:
        border = make(rng)
        way = int(rng.integers(5))
        if way == 0 and kind != "btd":
            return border.tensor, border.approximant(float(10.0 ** rng.uniform(-4.0, -1.0)))
        plain = tc.LM(max_iter=200)
        solver: Any = (plain, plain, tc.ALS(max_iter=300), tc.Path(), tc.Path())[way]
        bound = tc.SensitivityBound(300.0) if way == 4 else None
        fit = tc.decompose(border.tensor, kind, rank, solver=solver, constraint=bound, rng=rng)
        return border.tensor, fit.model

    return build


def _swamp(planter: Planter) -> Builder:
    def build(rng: np.random.Generator) -> Pair | None:
        planted = planter(rng)
        for solver in (tc.LM(max_iter=200), tc.ALS(max_iter=300)):
            fit = tc.decompose(planted.tensor, type(planted.model), planted.model.rank, solver=solver, rng=rng)
            if fit.error > 1e-2 and fit.sensitivity > 3.0 * planted.model.sensitivity():
                return planted.tensor, fit.model
        return None

    return build


def _noisy_over_ranked(planter: Planter, rank: Any) -> Builder:
    def build(rng: np.random.Generator) -> Pair | None:
        planted = planter(rng, noise=float(rng.choice([0.01, 0.1])))
        fit = tc.decompose(planted.tensor, type(planted.model), rank, rng=rng, starts=2)
        # What fits noise may have no best approximation either; then both verdicts are right.
        return None if fit.reason is tc.StopReason.DIVERGING else (planted.tensor, fit)

    return build


def _mask(shape: tuple[int, ...], share: float, rng: np.random.Generator) -> Any:
    """Entries observed at random, some in every slice."""
    seen = rng.random(shape) < share
    for n, size in enumerate(shape):
        for i in range(size):
            for _ in range(8):
                seen[tuple(i if m == n else rng.integers(extent) for m, extent in enumerate(shape))] = True
    return seen


def _masked(planter: Planter) -> Builder:
    def build(rng: np.random.Generator) -> Pair | None:
        noise = float(rng.choice([0.0, 0.05]))
        planted = planter(rng, noise=noise)
        if not _stands_out(planted, noise):
            return None
        seen = _mask(planted.tensor.shape, float(rng.choice([0.6, 0.8])), rng)
        data: Any = tc.Masked(planted.tensor, seen)
        if rng.random() < 0.5:
            data = tc.Observed(np.argwhere(seen), planted.tensor[seen], planted.tensor.shape)
        return data, tc.decompose(data, init=planted.model, solver=tc.LM())

    return build


def _undetermined(planter: Planter) -> Builder:
    def build(rng: np.random.Generator) -> Pair:
        planted = planter(rng)
        shape = planted.tensor.shape
        way = int(rng.integers(3))
        seen = _mask(shape, 0.8, rng)
        if way == 0:
            # One entry in a slice.
            seen[0] = False
            seen[(0, *(rng.integers(size) for size in shape[1:]))] = True
        elif way == 1:
            # Two blocks that share no index.
            sides = [np.arange(size) < size // 2 for size in shape]
            seen = np.ones(shape, dtype=bool)
            for n, side in enumerate(sides):
                other = sides[(n + 1) % len(shape)]
                turned = [1] * len(shape)
                turned[n] = -1
                next_turned = [1] * len(shape)
                next_turned[(n + 1) % len(shape)] = -1
                seen &= side.reshape(turned) == other.reshape(next_turned)
        else:
            # Fewer entries than parameters.
            few = planted.model.n_parameters - planted.model.gauge_dimension - 3
            seen = np.zeros(shape, dtype=bool)
            seen[tuple(np.arange(max(shape)) % size for size in shape)] = True
            free = rng.permutation(np.flatnonzero(~seen.ravel()))
            seen.ravel()[free[: few - int(seen.sum())]] = True
        data = tc.Masked(planted.tensor, seen)
        return data, tc.decompose(data, init=_beside(planted.model, rng, 0.1), solver=tc.LM(max_iter=50))

    return build


def _unfinished(planter: Planter) -> Builder:
    def build(rng: np.random.Generator) -> Pair | None:
        planted = planter(rng, noise=0.1)
        best = tc.decompose(planted.tensor, init=planted.model, solver=tc.LM()).error
        start = _beside(planted.model, rng, 1.0)
        for steps in (1, 2, 3, 5, 8, 13):
            fit = tc.decompose(planted.tensor, init=start, solver=tc.ALS(max_iter=steps), rng=rng)
            if 1.05 * best < fit.error < 1.35 * best and fit.reason is tc.StopReason.ITERATION_LIMIT:
                return planted.tensor, fit
        return None

    return build


def _noise(shape: tuple[int, ...], kind: str, rank: Any) -> Builder:
    def build(rng: np.random.Generator) -> Pair:
        data = rng.standard_normal(shape)
        return data, tc.decompose(data, kind, rank, rng=rng, starts=2)

    return build


def recipes() -> Iterator[Recipe]:
    """All recipes, in a fixed order."""
    planters = _planters()
    for family, label, wrap in (
        ("exact", Verdict.HEALTHY, _exact),
        ("noisy", Verdict.HEALTHY, _noisy),
        ("gauge", Verdict.BADLY_GAUGED, _gauge),
    ):
        for name, (planter, small) in planters.items():
            yield Recipe(family, name, label, wrap(planter), small)
    collinear: dict[str, tuple[Planter, tuple[float, ...], bool]] = {
        "cp 6x6x6 r3": (planters["cp 6x6x6 r3"][0], COSINES, True),
        "cp 8x7x6 r4": (planters["cp 8x7x6 r4"][0], COSINES, False),
        "cp 5x4x5x4 r3": (planters["cp 5x4x5x4 r3"][0], COSINES, False),
        "cp complex 5x6x7 r3": (planters["cp complex 5x6x7 r3"][0], COSINES, False),
        "btd 8x8x8 2x(2,2,2)": (planters["btd 8x8x8 2x(2,2,2)"][0], COSINES, True),
        "tc 6x6x6 (2,2,2)": (planters["tc 6x6x6 (2,2,2)"][0], COSINES, True),
        "tc 9x9x9 (3,3,3)": (lambda rng, **o: ds.exact_chain((9, 9, 9), (3, 3, 3), rng, **o), COSINES, False),
        "tc 5x5x5x5 (2,2,2,2)": (planters["tc 5x5x5x5 (2,2,2,2)"][0], COSINES, False),
    }
    for name, (planter, cosines, small) in collinear.items():
        yield Recipe("collinear", name, Verdict.ILL_CONDITIONED, _collinear(planter, cosines), small)
    for name, rank, small in (
        ("cp 6x6x6 r3", 4, True),
        ("cp 8x7x6 r4", 6, False),
        ("cp 5x4x5x4 r3", 4, False),
        ("tucker 7x6x5 (3,2,2)", (4, 3, 2), True),
        ("tucker 5x5x5x5 (2,2,2,2)", (3, 3, 3, 3), False),
        ("btd 8x8x8 2x(2,2,2)", [(2, 2, 2), (2, 2, 2), (1, 1, 1)], True),
        ("tc 6x6x6 (2,2,2)", (3, 2, 2), True),
        ("tc 7x7x7 (3,3,3)", (4, 3, 3), False),
        ("tc 6x7x8 (2,3,2)", (3, 3, 3), False),
        ("tc 5x5x5x5 (2,2,2,2)", (3, 2, 3, 2), False),
    ):
        yield Recipe(
            "over-ranked", f"{name} as {rank}", Verdict.OVER_RANKED, _over_ranked(planters[name][0], rank), small
        )
    borders: dict[str, tuple[Any, str, Any, bool]] = {
        "cp 6x6x6 r2": (lambda rng: ds.border_cp((6, 6, 6), rng), "cp", 2, True),
        "cp 6x5x4 r3": (lambda rng: ds.border_cp((6, 5, 4), rng, rank=3), "cp", 3, True),
        "cp 6x6x6 r4": (lambda rng: ds.border_cp((6, 6, 6), rng, rank=4), "cp", 4, False),
        "cp 4x4x4x4 r2": (lambda rng: ds.border_cp((4, 4, 4, 4), rng), "cp", 2, False),
        "cp complex 5x5x5 r2": (lambda rng: ds.border_cp((5, 5, 5), rng, dtype=complex), "cp", 2, False),
        "btd 6x6x6 2x(1,1,1)": (lambda rng: ds.border_cp((6, 6, 6), rng), "btd", [(1, 1, 1), (1, 1, 1)], False),
        "tc 6x6x6 (2,2,2)": (lambda rng: ds.border_chain((6, 6, 6), (2, 2, 2), rng), "tc", (2, 2, 2), True),
        "tc 7x7x7 (3,3,3)": (lambda rng: ds.border_chain((7, 7, 7), (3, 3, 3), rng), "tc", (3, 3, 3), False),
        "tc 6x7x6 (2,3,2)": (lambda rng: ds.border_chain((6, 7, 6), (2, 3, 2), rng), "tc", (2, 3, 2), False),
        "tc 5x5x5x5 (2,2,2,2)": (lambda rng: ds.border_chain((5,) * 4, (2,) * 4, rng), "tc", (2,) * 4, False),
        "tc complex 6x6x6 (2,2,2)": (
            lambda rng: ds.border_chain((6, 6, 6), (2, 2, 2), rng, dtype=complex),
            "tc",
            (2, 2, 2),
            False,
        ),
    }
    for name, (make, kind, rank, small) in borders.items():
        yield Recipe("border", name, Verdict.DIVERGING, _border(make, kind, rank), small)
    yield from _of_the_data(planters)
    for name in ("tc 7x7x7 (3,3,3)", "tc 6x7x8 (2,3,2)", "tc 6x6x6 (2,2,2)"):
        yield Recipe("swamp", name, Verdict.STUCK, _swamp(planters[name][0]))


def _of_the_data(planters: dict[str, tuple[Planter, bool]]) -> Iterator[Recipe]:
    """Fits that the data do not bear out, and masked ones that they do."""
    for name, rank, small in (
        ("cp 6x6x6 r3", 4, True),
        ("cp 6x6x6 r3", 5, False),
        ("cp 8x7x6 r4", 5, False),
        ("cp 5x4x5x4 r3", 4, False),
        ("tucker 7x6x5 (3,2,2)", (4, 2, 2), False),
        ("tucker 7x6x5 (3,2,2)", (4, 3, 3), True),
        ("btd 8x8x8 2x(2,2,2)", [(2, 2, 2), (2, 2, 2), (1, 1, 1)], False),
        ("tc 6x6x6 (2,2,2)", (3, 2, 2), True),
        ("tc 7x7x7 (3,3,3)", (4, 3, 3), False),
    ):
        build = _noisy_over_ranked(planters[name][0], rank)
        yield Recipe("noisy over-ranked", f"{name} as {rank}", Verdict.OVER_RANKED, build, small)
    for name in ("cp 8x7x6 r4", "cp 5x4x5x4 r3", "tucker 7x6x5 (3,2,2)", "btd 8x8x8 2x(2,2,2)", "tc 7x7x7 (3,3,3)"):
        yield Recipe("masked", name, Verdict.HEALTHY, _masked(planters[name][0]), name.startswith("tucker"))
    for name in ("cp 6x6x6 r3", "cp 8x7x6 r4", "tucker 7x6x5 (3,2,2)", "btd 8x8x8 2x(2,2,2)", "tc 6x6x6 (2,2,2)"):
        build = _undetermined(planters[name][0])
        yield Recipe("undetermined", name, Verdict.UNDETERMINED, build, name.startswith("cp 6"))
    for name in ("cp 6x6x6 r3", "cp 8x7x6 r4", "tucker 5x5x5x5 (2,2,2,2)", "tc 7x7x7 (3,3,3)"):
        yield Recipe("unfinished", name, Verdict.UNFINISHED, _unfinished(planters[name][0]), name.startswith("cp"))
    for shape, kind, rank, small in (
        ((10, 10, 10), "cp", 1, True),
        ((8, 7, 6), "cp", 3, False),
        ((8, 8, 8), "tucker", (2, 2, 2), True),
        ((7, 7, 7), "tc", (2, 2, 2), False),
        ((5, 6, 5, 4), "btd", [(2, 2, 2, 2)], False),
        ((20, 15), "cp", 2, False),
    ):
        name = f"{kind} {rank} of {'x'.join(map(str, shape))}"
        yield Recipe("noise", name, Verdict.EXPLAINS_LITTLE, _noise(shape, kind, rank), small)


def cases(seeds: tuple[int, ...], *, quick: bool = False) -> Iterator[LabelledCase]:
    """Every recipe at every seed; with `quick` the small ones."""
    for seed in seeds:
        for position, recipe in enumerate(recipes()):
            if quick and not recipe.quick:
                continue
            pair = recipe.build(np.random.default_rng((seed, position)))
            if pair is not None:
                yield LabelledCase(recipe.family, recipe.name, seed, recipe.label, *pair)


# -- judgement --------------------------------------------------------------------------------


def verdicts(given: Iterable[LabelledCase], *, with_tensor: bool = True) -> Iterator[tuple[LabelledCase, Diagnosis]]:
    """Each case with its diagnosis."""
    for case in given:
        yield case, diagnose(case.model, case.tensor if with_tensor else None)


def confusion(pairs: Iterable[tuple[LabelledCase, Diagnosis]]) -> Counter[tuple[Verdict, Verdict]]:
    """How often each (label, verdict) occurred."""
    return Counter((case.label, diagnosis.verdict) for case, diagnosis in pairs)


def accuracy(counts: Counter[tuple[Verdict, Verdict]]) -> float:
    """Share of the cases whose verdict is their label."""
    return sum(n for (label, verdict), n in counts.items() if label is verdict) / max(sum(counts.values()), 1)


def table(counts: Counter[tuple[Verdict, Verdict]]) -> str:
    """The confusion matrix as text."""
    names = [verdict.name for verdict in Verdict]
    width = max(map(len, names)) + 1
    lines = [" " * width + "".join(name.rjust(width) for name in names)]
    for label in Verdict:
        row = [counts.get((label, verdict), 0) for verdict in Verdict]
        if any(row):
            lines.append(label.name.ljust(width) + "".join(str(n or ".").rjust(width) for n in row))
    return "\n".join(lines)


def margins(pairs: Sequence[tuple[LabelledCase, Diagnosis]]) -> str:
    """For each threshold: the largest figure of the cases that belong below it, the least of those above it."""
    limits, healthy = Thresholds(), {Verdict.HEALTHY}
    finite = set(Verdict) - {Verdict.DIVERGING, Verdict.STUCK, Verdict.UNDETERMINED}
    ill = {Verdict.ILL_CONDITIONED, Verdict.OVER_RANKED}
    questions: list[tuple[str, float, Callable[[Diagnosis], float | None], set[Verdict], set[Verdict]]] = [
        ("slope", limits.slope, lambda d: d.path.slope if d.path else None, finite, {Verdict.DIVERGING}),
        ("cancellation", limits.cancellation, lambda d: d.figures.cancellation, finite, {Verdict.DIVERGING}),
        ("spread", limits.spread, lambda d: d.figures.spread, healthy | {Verdict.BADLY_GAUGED}, ill),
        (
            "needed",
            limits.needed,
            lambda d: d.support.least_evidence if d.support else None,
            {Verdict.OVER_RANKED},
            healthy,
        ),
        (
            "noise",
            limits.noise,
            lambda d: d.support.evidence if d.support else None,
            {Verdict.EXPLAINS_LITTLE},
            healthy,
        ),
        ("gauge_excess", limits.gauge_excess, lambda d: d.figures.gauge_excess, healthy, {Verdict.BADLY_GAUGED}),
    ]
    lines = []
    for name, limit, figure, below, above in questions:
        low = [
            value for case, d in pairs if case.label in below and (value := figure(d)) is not None and value == value
        ]
        high = [
            value for case, d in pairs if case.label in above and (value := figure(d)) is not None and value == value
        ]
        if low and high:
            lines.append(f"{name:<13} {max(low):10.3g}  < {limit:5.3g} <=  {min(high):<10.3g}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> float:
    """Diagnose the labelled set, print the confusion matrix, and return the accuracy."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.degeneracy.labelled", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--seeds", default="evaluation", help="'tuning', 'evaluation' or numbers: 0,1,2")
    parser.add_argument("--quick", action="store_true", help="small cases only")
    parser.add_argument("--without-tensor", action="store_true", help="judge the models alone")
    parser.add_argument("--csv", help="write one row a case")
    options = parser.parse_args(arguments)
    named = {"tuning": TUNING, "evaluation": EVALUATION}
    seeds = named.get(options.seeds) or tuple(int(seed) for seed in options.seeds.split(","))
    began = time.perf_counter()
    pairs = []
    for case, diagnosis in verdicts(cases(seeds, quick=options.quick), with_tensor=not options.without_tensor):
        pairs.append((case, diagnosis))
        if diagnosis.verdict is not case.label:
            print(f"{case.label.name} called {diagnosis.verdict.name}: {case.family}, {case.name}, seed {case.seed}")
    counts = confusion(pairs)
    print(table(counts))
    print(
        f"{len(pairs)} cases, {100.0 * accuracy(counts):.1f} % right, {time.perf_counter() - began:.0f} s with the fits"
    )
    print(margins(pairs))
    if options.csv:
        _write(options.csv, pairs)
    return accuracy(counts)


def _write(path: str, pairs: Sequence[tuple[LabelledCase, Diagnosis]]) -> None:
    names = ["family", "name", "seed", "label", "verdict", "error", "slope"]
    names += ["cancellation", "spread", "nullity", "gauge_excess", "sensitivity"]
    with open(f"{path}.part", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for case, d in pairs:
            figures = [getattr(d.figures, name) for name in names[7:]]
            slope = "" if d.path is None else d.path.slope
            head = [case.family, case.name, case.seed, case.label.name, d.verdict.name, d.error, slope]
            writer.writerow([*head, *figures])
    os.replace(f"{path}.part", path)


if __name__ == "__main__":
    main()
