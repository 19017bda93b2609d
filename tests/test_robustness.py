"""Whatever the tensor: no NaN, no warning, a Fit that tells the truth, and an ALS error that never rises.

Several seeds of each kind of tensor, for each model and solver; `make fuzz` takes thousands.  Tensors are tiny and a
callback cuts the runs short: what breaks a solver (a singular Gram, an overflow, a zero block) breaks it in its first
steps.  Warnings are errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorchain as tc
from tests.cases import combined, gaussian, halved, relative

SEEDS = range(3)
SHAPE = (3, 2, 3)
MODELS: dict[str, Any] = {"cp": 3, "tucker": (2, 2, 2), "btd": [(2, 1, 2), (1, 1, 1)], "tc": (2, 1, 2)}
SOLVERS = {"als": tc.ALS(max_iter=10), "lm": tc.LM(max_iter=10), "path": tc.Path()}

TENSORS: dict[str, Callable[[np.random.Generator], Any]] = {
    "random": lambda rng: rng.standard_normal(SHAPE),
    "rank-deficient": lambda rng: np.einsum("i,j,k", *(rng.standard_normal(size) for size in SHAPE)),
    "all-equal": lambda rng: np.full(SHAPE, rng.uniform(-3, 3)),
    "tiny": lambda rng: 1e-150 * rng.standard_normal(SHAPE),
    "huge": lambda rng: 1e150 * rng.standard_normal(SHAPE),
}

ODD: dict[str, Callable[[np.random.Generator], Any]] = {
    "one entry": lambda rng: np.eye(18)[0].reshape(SHAPE),
    "integers": lambda rng: rng.integers(-9, 10, SHAPE) + np.eye(18, dtype=int)[0].reshape(SHAPE),
    "a zero slice": lambda rng: rng.standard_normal(SHAPE) * np.array([1.0, 0.0, 1.0])[:, None, None],
    "two scales": lambda rng: rng.standard_normal(SHAPE) * np.array([1e-12, 1.0, 1e12])[:, None, None],
    "alternating": lambda rng: np.indices(SHAPE).sum(axis=0) % 2 * 2.0 - 1.0,
    "single": lambda rng: rng.standard_normal(SHAPE).astype(np.float32),
    "tiny in single": lambda rng: (1e-30 * rng.standard_normal(SHAPE)).astype(np.float32),
    "complex": lambda rng: gaussian(SHAPE, "complex128", rng),
    "complex rank one": lambda rng: np.einsum("i,j,k", *(gaussian((size,), "complex128", rng) for size in SHAPE)),
}


def stop(iterate: tc.Iterate) -> bool:
    return iterate.iteration >= 6


def check(fit: tc.Fit, T: Any, solver: str) -> None:
    # Scaled to order one: at 1e150 the norm of T - X would overflow here.
    size = np.abs(T).max()
    T, full = T / size, fit.model.full() / size
    assert np.all(np.isfinite(full))
    assert np.isfinite(fit.error)
    assert np.isfinite(fit.sensitivity)
    assert fit.error <= 1.0 + 1e-9
    assert fit.error == pytest.approx(relative(full, T), rel=1e-4, abs=2e-6 if T.dtype == np.float32 else 1e-8)
    assert np.all(np.isfinite(fit.history.error))
    if solver == "als":
        assert np.all(np.diff(fit.history.error) <= 0.0)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("model", MODELS)
class TestSeeds:
    @pytest.mark.parametrize("kind", TENSORS)
    def test_free(self, kind: str, model: str, solver: str) -> None:
        for seed in SEEDS:
            T = TENSORS[kind](np.random.default_rng(seed))
            fit = tc.decompose(T, model, MODELS[model], solver=SOLVERS[solver], rng=seed, callback=stop)
            check(fit, T, solver)


class TestOddTensors:
    @pytest.mark.parametrize(("kind", "model", "solver"), combined(list(ODD), list(MODELS), list(SOLVERS)))
    def test_free(self, kind: str, model: str, solver: str) -> None:
        for seed in range(2):
            T = ODD[kind](np.random.default_rng(seed))
            fit = tc.decompose(T, model, MODELS[model], solver=SOLVERS[solver], rng=seed, callback=stop)
            check(fit, T, solver)

    @pytest.mark.parametrize(("kind", "model", "solver"), combined(list(TENSORS), list(MODELS), list(SOLVERS)))
    def test_svd_starts(self, kind: str, model: str, solver: str) -> None:
        for seed in range(2):
            T = TENSORS[kind](np.random.default_rng(seed))
            fit = tc.decompose(T, model, MODELS[model], solver=SOLVERS[solver], init="svd", rng=seed, callback=stop)
            check(fit, T, solver)

    @pytest.mark.parametrize(
        ("kind", "constraint", "model", "solver"),
        halved(combined(list(TENSORS), ["penalty", "sensitivity", "error"], list(MODELS), list(SOLVERS))),
    )
    def test_constraints(self, kind: str, constraint: str, model: str, solver: str) -> None:
        T = TENSORS[kind](np.random.default_rng(0))
        size = float(np.abs(T).max()) * np.sqrt(T.size)
        blocks = 3 if model in ("cp", "tc") else 4
        bound = {
            "penalty": tc.Penalty(1e-2 * size ** (2 / blocks)),
            "sensitivity": tc.SensitivityBound(3.0 * size ** (2 * (blocks - 1) / blocks)),
            "error": tc.ErrorBound(0.9),
        }[constraint]
        fit = tc.decompose(T, model, MODELS[model], solver=SOLVERS[solver], constraint=bound, rng=0, callback=stop)
        assert np.all(np.isfinite(fit.model.full() / size))
        assert np.isfinite(fit.error)
        assert np.isfinite(fit.sensitivity)

    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize("model", MODELS)
    def test_the_largest_ranks_that_are_allowed(self, model: str, solver: str) -> None:
        ranks = {"cp": 6, "tucker": SHAPE, "btd": [SHAPE], "tc": (3, 2, 2)}
        T = np.random.default_rng(0).standard_normal(SHAPE)
        fit = tc.decompose(T, model, ranks[model], solver=SOLVERS[solver], rng=0, callback=stop)
        check(fit, T, solver)


class TestProperties:
    @given(
        seed=st.integers(0, 2**16),
        shape=st.lists(st.integers(1, 4), min_size=2, max_size=5).map(tuple),
        solver=st.sampled_from(list(SOLVERS)),
        model=st.sampled_from(["cp", "tc", "tucker"]),
        exponent=st.integers(-150, 150),
        rank=st.integers(1, 3),
    )
    def test_any_shape_and_scale(
        self, seed: int, shape: tuple[int, ...], solver: str, model: str, exponent: int, rank: int
    ) -> None:
        T = 10.0**exponent * np.random.default_rng(seed).standard_normal(shape)
        ranks: Any = tuple(min(rank, size) for size in shape) if model == "tucker" else rank
        try:
            fit = tc.decompose(T, model, ranks, solver=SOLVERS[solver], rng=seed, callback=stop)
        except ValueError as error:
            assert "beyond the size" in str(error)  # noqa: PT017 - other errors must surface as they are
            return
        check(fit, T, solver)
