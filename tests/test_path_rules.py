"""What the sensitivity path concludes from its stages and from other paths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.solvers.path import Outcome, Point, Search, _Walk


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("model", "rank", "planted"),
    [("tc", 2, tc.datasets.exact_chain), ("cp", 3, tc.datasets.exact_cp)],
    ids=["tc", "cp"],
)
def test_an_error_that_only_the_penalty_costs_ends_the_path(model: str, rank: int, planted: Any, seed: int) -> None:
    # Stage by stage down to the smallest penalty it would take 28 stages.
    rng = np.random.default_rng(seed)
    T = planted((6, 6, 6), (2, 2, 2) if model == "tc" else rank, rng).tensor
    fit = tc.decompose(T, model, rank, solver=tc.Path(), rng=seed)
    assert fit.reason is tc.StopReason.EXACT
    assert len(fit.path) < 10


def point(error: float, sensitivity: float = 100.0, gap: float = 0.0) -> Point:
    return Point(tc.CP([np.ones((2, 1))] * 2), error, sensitivity, (gap, error**2), 1e-2)


@pytest.mark.parametrize(
    ("outcome", "error", "sensitivity", "agree"),
    [
        (Outcome.PLATEAU, 0.3 * 1.0005, 100.5, True),
        (Outcome.PLATEAU, 0.3 * 1.01, 100.5, False),
        (Outcome.PLATEAU, 0.4, 100.5, False),
        (Outcome.PLATEAU, 0.3, 150.0, False),
        (Outcome.DEGENERATE, 0.3 * 1.03, 1e6, True),
        (Outcome.DEGENERATE, 0.3 * 1.2, 1e6, False),
        (Outcome.BOUND, 0.3 * 1.01, 50.0, True),
        (Outcome.BOUND, 0.3 * 1.05, 100.0, False),
    ],
)
def test_when_two_paths_agree(outcome: Outcome, error: float, sensitivity: float, agree: bool) -> None:
    search = Search(best=point(0.3), outcome=outcome)
    assert _Walk._agree(search, point(error, sensitivity), outcome) is agree
    # A bound that is missed is no agreement.
    assert not _Walk._agree(search, point(error, sensitivity, gap=0.1), outcome)
