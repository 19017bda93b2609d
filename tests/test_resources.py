"""Memory that does not grow with the square of a core, and clocks that count everything in this call."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.fit import StopReason
from tests.cases import relative

SOLVERS = {"als": tc.ALS(max_iter=2), "lm": tc.LM(max_iter=2), "auto": None}


def peak(call: Any) -> float:
    """Most bytes at once, over those of before."""
    call()
    tracemalloc.start()
    try:
        call()
        return float(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


class TestMemory:
    """The Gram of a core R x R x R has R^6 numbers: 128 MB for R = 12 against 14 kB of the core."""

    RANK = 14

    def tensor(self) -> Any:
        rng = np.random.default_rng(0)
        return tc.Tucker.random((16, 15, 16), (self.RANK,) * 3, rng=rng).full() + rng.standard_normal((16, 15, 16))

    @pytest.mark.parametrize(
        "constraint", [None, tc.Penalty(1e-3), tc.SensitivityBound(1e3), tc.ErrorBound(0.5)], ids=str
    )
    @pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
    def test_solvers(self, solver: Any, constraint: Any) -> None:
        T = self.tensor()

        def fit() -> None:
            tc.decompose(
                T, "tucker", (self.RANK,) * 3, solver=solver, constraint=constraint, rng=0,
                callback=lambda iterate: iterate.iteration >= 3,
            )  # fmt: skip

        assert peak(fit) < 0.1 * 8 * self.RANK**6

    def test_terms(self) -> None:
        T = self.tensor()
        ranks = [(10, 10, 10), (9, 9, 9)]

        def fit() -> None:
            tc.decompose(T, "btd", ranks, solver=tc.ALS(max_iter=1), constraint=tc.Penalty(1e-3), rng=0)

        assert peak(fit) < 0.5 * 8 * (10**3 + 9**3) ** 2


class TestTime:
    def test_starts_count(self) -> None:
        # The second and third start, and the singular vectors of each, have no time of their own.
        T = np.random.default_rng(0).standard_normal((40, 40, 40))
        began = time.perf_counter()
        fit = tc.decompose(T, "cp", 8, init="svd", starts=500, solver=tc.ALS(tol=0.0, max_iter=10**6), max_seconds=0.3)
        assert fit.reason is StopReason.TIME_LIMIT
        assert len(fit.starts) < 500
        assert time.perf_counter() - began < 30.0
        assert fit.seconds <= time.perf_counter() - began

    @pytest.mark.parametrize("solver", [tc.ALS(tol=0.0, max_iter=10**6), tc.LM(tol=0.0, max_iter=10**6)], ids=repr)
    def test_a_checkpoint_does_not_use_up_the_time(self, tmp_path: Path, solver: Any) -> None:
        # Each call has its limit for itself: a job with one comes to its end by being started again.
        T = np.random.default_rng(0).standard_normal((6, 7, 8))
        seen: list[int] = []
        for _ in range(3):
            fit = tc.decompose(T, "cp", 4, solver=solver, max_seconds=0.2, checkpoint=tmp_path / "run.npz", rng=0)
            seen.append(fit.iterations)
            assert fit.error == pytest.approx(relative(fit.model.full(), T), rel=1e-6)
        assert fit.reason is not StopReason.TIME_LIMIT or seen[0] < seen[1] < seen[2]

    def test_interrupted_within_a_step(self) -> None:
        # Ctrl-C within a pass over the data, not only between iterates.
        class Slow(tc.Dense):
            calls = 0

            def scaled(self, factor: float) -> Any:
                return Slow(self.array * factor)

            def residual(self, model: Any) -> Any:
                Slow.calls += 1
                if Slow.calls == 8:
                    raise KeyboardInterrupt
                return super().residual(model)

            def evaluator(self, model: Any) -> Any:
                from tensorchain.evaluation import Evaluator

                return Evaluator(self, model)

        T = np.random.default_rng(0).standard_normal((4, 5, 6))
        fit = tc.decompose(Slow(T), "cp", 2, solver=tc.LM(), rng=0)
        assert fit.reason is StopReason.INTERRUPTED
        assert fit.error == pytest.approx(relative(fit.model.full(), T), rel=1e-6)
        assert fit.error <= fit.history.error.min() * (1 + 1e-9)
