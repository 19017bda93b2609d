"""A few hundred random fits, damaged files and kills; thousands by `make fuzz`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tests import judge
from tests.cases import crossed, mostly_slow
from tests.fuzz.__main__ import checkpoints, fits, kills, models

WORKERS = 6


@pytest.mark.parametrize("part", mostly_slow(range(WORKERS)))
def test_fits(part: int) -> None:
    counts, found = fits(range(part, 36, WORKERS))
    assert found == []
    assert counts["refused"] < 0.6 * sum(counts.values())


def test_model_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert models(range(100), tmp_path) == []


def test_checkpoint_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert checkpoints(range(45), tmp_path) == []


@pytest.mark.slow
def test_a_kill(tmp_path: Path) -> None:
    assert kills([1], tmp_path, times=1) == []


@crossed(
    every=2,
    constraint=[
        tc.Penalty(1e300),
        tc.SensitivityBound(1e300) & tc.Penalty(1e300),
        tc.SensitivityBound(1e-300) & tc.ErrorBound(0.5),
        tc.NonNegative() & tc.Penalty(1e-300),
    ],
    scale=[1e-180, 1e180],
)
def test_weights_and_limits_of_any_size(constraint: Any, scale: float) -> None:
    # In units of T / ||T|| they are beyond what can be multiplied; warnings are errors here.
    T = scale * np.random.default_rng(0).uniform(size=(2, 3, 2, 2))
    for solver in (tc.ALS(max_iter=20), tc.LM(max_iter=20), tc.Path(max_iter=20), tc.Auto()):
        fit = tc.decompose(T, "tc", (1, 2, 1, 1), constraint=constraint, solver=solver, rng=0)
        assert judge.complaints(fit, T, constraint) == []
