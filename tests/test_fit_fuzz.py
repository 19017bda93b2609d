"""Random problems, constraints, starts, dtypes and solvers: every Fit is judged by `tests.judge`.

The suite runs a few; ``TENSORCHAIN_FUZZ=2000`` asks for more, and ``TENSORCHAIN_FUZZ=2000:3000`` for these seeds.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tests import judge
from tests.cases import block_term_case, chain_case, cp_case, gaussian, mostly_slow, tucker_case

KINDS = [
    cp_case((4, 3, 5), 2),
    tucker_case((4, 3, 4), (2, 2, 2)),
    block_term_case((4, 3, 4), [(1, 1, 1), (1, 2, 2)]),
    chain_case((3, 4, 3), (2, 2, 2)),
    cp_case((3, 2, 3, 2), 2),
    chain_case((4, 3, 4), (1, 2, 2)),
    tucker_case((4, 5), (2, 2)),
    block_term_case((4, 3, 3), [(2, 2, 2), (1, 1, 1)]),
]
SOLVERS = [tc.ALS(max_iter=60), tc.LM(max_iter=150), tc.Path(cycles=2), None]


def seeds() -> range:
    first, _, last = os.environ.get("TENSORCHAIN_FUZZ", "24").partition(":")
    return range(int(first), int(last)) if last else range(int(first))


def problem(seed: int) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
    """T, constraint, start, solver, arguments."""
    rng = np.random.default_rng(seed)
    case = KINDS[rng.integers(len(KINDS))].as_type(rng.choice(["float64", "float64", "complex128", "float32"]))
    wide = "complex128" if case.dtype == "complex128" else "float64"
    truth = tc.optimal_gauge(case.as_type(wide).model(int(rng.integers(100)))).scaled(10.0 ** rng.choice([0, 0, 4, -5]))
    T = truth.full()
    noise = gaussian(T.shape, T.dtype, rng)
    T = (T + rng.choice([0, 0, 1e-3, 0.1, 1.0]) * np.linalg.norm(T) / np.linalg.norm(noise) * noise).astype(case.dtype)
    ss = truth.sensitivity()
    price = tc.Penalty(float(10.0 ** rng.uniform(-6, -1)) * float(np.linalg.norm(T)) ** 2 / ss)
    stable = tc.SensitivityBound(float(rng.choice([0.05, 0.5, 0.9, 3.0])) * ss)
    close = tc.ErrorBound(float(rng.choice([1e-5, 0.03, 0.2, 0.6, 0.95])))
    constraint = [None, price, stable, close, stable & price, stable & close][rng.integers(6)]
    matrices = [np.array(m) for m in truth.matrices]
    kind = rng.choice(["exact", "near", "zero", "column", "huge", "random", "svd"])
    if kind == "near":
        matrices = [m + 1e-4 * np.linalg.norm(m) * gaussian(m.shape, m.dtype, rng) for m in matrices]
    elif kind == "zero":
        matrices = [np.zeros_like(m) for m in matrices]
    elif kind == "column":
        for matrix in matrices:
            matrix[:, 0] = 0.0
    elif kind == "huge":
        matrices[0], matrices[-1] = matrices[0] * 1e100, matrices[-1] * 1e-100
    start = None if kind in ("random", "svd") else truth.with_matrices(matrices)
    arguments = {"model": case.kind, "rank": case.rank, "init": str(kind)} if start is None else {"init": start}
    return T, constraint, start, SOLVERS[rng.integers(len(SOLVERS))], arguments


@pytest.mark.parametrize("seed", mostly_slow(seeds(), 8))
def test_the_fit_is_true(seed: int) -> None:
    T, constraint, start, solver, arguments = problem(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = tc.decompose(T, solver=solver, constraint=constraint, rng=seed, **arguments)
    assert judge.complaints(fit, T, constraint, start) == []
