"""The verdicts on a part of the labelled set, on seeds that had no part in choosing the thresholds."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from benchmarks.degeneracy.labelled import (
    EVALUATION,
    TUNING,
    LabelledCase,
    accuracy,
    cases,
    confusion,
    recipes,
    table,
    verdicts,
)
from tensorchain.diagnosis import Verdict
from tensorchain.models import BlockTerm


def test_the_full_set_is_large_and_covers_all_verdicts_and_models() -> None:
    everything = list(recipes())
    assert len(everything) * len(EVALUATION) >= 400
    assert {recipe.label for recipe in everything} == set(Verdict)
    assert not set(TUNING) & set(EVALUATION)
    for kind in ("cp", "tucker", "btd", "tc"):
        assert any(recipe.name.startswith(kind) for recipe in everything)


@pytest.fixture(scope="module")
def judged() -> list[object]:
    return list(verdicts(cases(EVALUATION[:1], quick=True)))


def test_one_verdict_of_each_kind_is_right() -> None:
    """The smallest of each, at a seed of its own."""
    chosen: dict[Verdict, LabelledCase] = {}
    for position, recipe in enumerate(recipes()):
        if recipe.quick and recipe.label not in chosen and "btd" not in recipe.name:
            pair = recipe.build(np.random.default_rng((EVALUATION[1], position)))
            if pair is not None:
                chosen[recipe.label] = LabelledCase(recipe.family, recipe.name, EVALUATION[1], recipe.label, *pair)
    counts = confusion(verdicts(chosen.values()))
    assert sum(counts.values()) >= 6
    assert accuracy(counts) > 0.8, "\n" + table(counts)


@pytest.mark.slow
def test_verdicts_are_right(judged: list[object]) -> None:
    counts = confusion(judged)  # type: ignore[arg-type]
    assert sum(counts.values()) >= 25
    assert accuracy(counts) > 0.9, "\n" + table(counts)
    labels = Counter(label for label, _ in counts.elements())
    assert set(labels) >= set(Verdict) - {Verdict.STUCK}


def test_accuracy_and_table_of_a_known_matrix() -> None:
    counts = Counter({(Verdict.HEALTHY, Verdict.HEALTHY): 3, (Verdict.DIVERGING, Verdict.HEALTHY): 1})
    assert accuracy(counts) == 0.75
    lines = table(counts).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["HEALTHY", "DIVERGING"]
    assert lines[2].split()[1] == "1"


def test_a_recipe_gives_the_same_case_twice() -> None:
    recipe = next(recipe for recipe in recipes() if recipe.family == "gauge" and recipe.quick)
    first, second = (recipe.build(np.random.default_rng((0, 1))) for _ in range(2))
    assert first is not None
    assert second is not None
    assert np.array_equal(first[0], second[0])
    assert all(np.array_equal(a, b) for a, b in zip(first[1].matrices, second[1].matrices, strict=True))
    assert not isinstance(first[1], BlockTerm)
