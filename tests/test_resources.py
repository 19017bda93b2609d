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


class Seconds:
    """The clock of a run counts the time of this process, so that others on the machine do not count."""

    perf_counter = staticmethod(time.process_time)


def count_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorchain.solvers import loop, problem

    monkeypatch.setattr(problem, "time", Seconds)
    monkeypatch.setattr(loop, "time", Seconds)


SHAPE = (50, 51, 52)


def data(kind: str) -> Any:
    """Noisy data of one class, on which a pass over the entries takes some tens of milliseconds."""
    rng = np.random.default_rng(0)
    T = tc.CP.random(SHAPE, 5, rng=rng).full()
    T = T + 0.3 * np.linalg.norm(T) / np.sqrt(T.size) * rng.standard_normal(SHAPE)
    mask = rng.random(SHAPE) < 0.4
    few = rng.random(SHAPE) < 0.1
    at = np.argwhere(few)
    return {
        "dense": lambda: tc.Dense(T),
        "single": lambda: tc.Dense(T.astype(np.float32)),
        "masked": lambda: tc.Masked(T, mask),
        "weighted": lambda: tc.Masked(T.astype(np.float32), weights=mask * rng.uniform(0.1, 9.0, SHAPE)),
        "observed": lambda: tc.Observed(at, T[few], SHAPE),
        "sparse": lambda: tc.Sparse(at, T[few], SHAPE),
        "lazy": lambda: tc.Lazy(T, box_entries=10_000),
        "complex": lambda: tc.Masked(T * (1.0 + 1j), mask),
    }[kind]()


@pytest.fixture(scope="module")
def compiled() -> None:
    # What is compiled or imported at its first use is no part of a run.
    T = np.random.default_rng(0).standard_normal((4, 5, 6))
    for tensor in (
        tc.Observed(np.argwhere(T > -1.0), T[T > -1.0], T.shape),
        tc.Sparse([[1, 2, 3]], [1.0], T.shape),
    ):
        for options in ({"solver": tc.LM(max_iter=2)}, {"solver": tc.ALS(max_iter=2)}):
            for constraint in (None, tc.NonNegative()):
                tc.decompose(tensor, "tucker", (2, 2, 2), constraint=constraint, rng=0, **options)


@pytest.mark.usefixtures("compiled")
class TestTheLimitHolds:
    """Within a fifth and a second, though one sweep, step or start takes many times as long."""

    LIMIT = 0.05

    def held(self, monkeypatch: pytest.MonkeyPatch, *arguments: Any, **options: Any) -> None:
        count_own_time(monkeypatch)
        began = time.process_time()
        fit = tc.decompose(*arguments, **options, max_seconds=self.LIMIT, jobs=1, rng=0)
        assert time.process_time() - began < 1.2 * self.LIMIT + 1.0
        assert fit.reason is StopReason.TIME_LIMIT
        assert np.isfinite(fit.error)

    @pytest.mark.parametrize("solver", [tc.ALS(tol=0.0), tc.LM(tol=0.0), tc.Path(), tc.Auto()], ids=repr)
    @pytest.mark.parametrize("kind", ["masked", "weighted", "observed", "complex"])
    def test_passes_over_the_entries(self, monkeypatch: pytest.MonkeyPatch, kind: str, solver: Any) -> None:
        # The Gram of a core of 1000 numbers is made of 10^6 sums over the entries.
        self.held(monkeypatch, data(kind), "tucker", (10, 10, 10), solver=solver)

    @pytest.mark.parametrize(
        "constraint",
        [
            tc.Penalty(1e-3),
            tc.SensitivityBound(1e3),
            tc.ErrorBound(0.5),
            tc.NonNegative(),
            tc.SensitivityBound(1e3) & tc.ErrorBound(0.9),
        ],
        ids=repr,
    )
    @pytest.mark.parametrize("solver", [tc.ALS(tol=0.0), tc.Auto()], ids=repr)
    def test_constraints(self, monkeypatch: pytest.MonkeyPatch, constraint: Any, solver: Any) -> None:
        self.held(monkeypatch, data("masked"), "btd", [(6, 6, 6)] * 2, solver=solver, constraint=constraint)

    @pytest.mark.parametrize("kind", ["single", "sparse", "lazy"])
    def test_starts(self, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        for solver in (tc.ALS(tol=0.0, max_iter=10**6), tc.LM(tol=0.0, max_iter=10**6)):
            self.held(monkeypatch, data(kind), "tc", (4, 5, 6), init="svd", starts=3, solver=solver)
        self.held(monkeypatch, data(kind), "cp", 25, starts=3, constraint=tc.SensitivityBound(10.0))

    @pytest.mark.parametrize("constraint", [None, tc.NonNegative()], ids=repr)
    @pytest.mark.parametrize("kind", ["masked", "observed"])
    def test_cores_of_singular_vectors(self, monkeypatch: pytest.MonkeyPatch, kind: str, constraint: Any) -> None:
        T = data(kind)
        self.held(monkeypatch, T, "tucker", (10, 10, 10), init="svd", solver=tc.ALS(tol=0.0), constraint=constraint)

    def test_what_is_there_is_returned(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Blocks that were updated before the time was up count.
        calls = []

        def expired() -> bool:
            calls.append(1)
            return len(calls) > 40

        T = data("masked")
        monkeypatch.setattr("tensorchain.solvers.problem.Clock.expired", property(lambda clock: expired()))
        fit = tc.decompose(T, "tucker", (3, 3, 3), solver=tc.ALS(tol=0.0), constraint=tc.Penalty(1e-9), rng=0)
        assert fit.reason is StopReason.TIME_LIMIT
        assert fit.error < 0.99


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
    def test_a_checkpoint_does_not_use_up_the_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solver: Any
    ) -> None:
        count_own_time(monkeypatch)
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
