"""`diagnose`: one case of every verdict with its evidence and a cure that works; the rules alone; the reports."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.diagnosis import (
    Diagnosis,
    Figures,
    SensitivityPath,
    Thresholds,
    Verdict,
    diagnose,
    measure,
)
from tensorchain.diagnosis.evidence import knee, lower_rank
from tensorchain.diagnosis.verdict import judge
from tests.cases import mostly_slow
from tests.stability.examples import HUB


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def cured(diagnosis: Diagnosis, tensor: Any, model: Any) -> dict[str, Any]:
    """Run the code of the cure and return what it defines."""
    fit = model if isinstance(model, tc.Fit) else None
    names = {"tc": tc, "T": tensor, "model": model, "fit": fit, "diagnosis": diagnosis}
    exec(diagnosis.cure, names)
    return names


# -- one case of each verdict -----------------------------------------------------------------

PLANTED = [
    tc.datasets.exact_cp((6, 5, 4), 3, rng(), noise=0.02),
    tc.datasets.exact_cp((6, 5, 4), 3, rng(), noise=0.02, dtype=complex),
    tc.datasets.exact_tucker((6, 5, 4), (3, 2, 2), rng(), noise=0.02),
    tc.datasets.exact_block_term((6, 6, 6), (2, 2, 2), rng(), noise=0.02),
    tc.datasets.exact_chain((6, 6, 6), (2, 2, 2), rng(), noise=0.02),
    tc.datasets.exact_chain((5, 4), (1, 2), rng(), noise=0.02),
    tc.datasets.exact_cp((5, 4), 2, rng(), noise=0.02),
    tc.datasets.exact_chain((4, 4, 4), (1, 1, 1), rng(), noise=0.02),
]


@pytest.mark.parametrize(
    "planted", mostly_slow([*PLANTED[:3], *PLANTED[4:], PLANTED[3]], 7), ids=lambda planted: str(planted.model)
)
def test_healthy(planted: Any) -> None:
    fit = tc.decompose(planted.tensor, init=planted.model, solver=tc.LM())
    beside, alone = diagnose(fit, planted.tensor), diagnose(fit)
    for diagnosis in (beside, alone):
        assert diagnosis.verdict is Verdict.HEALTHY
        assert diagnosis.healthy
        assert diagnosis.cure == ""
    assert beside.error == pytest.approx(fit.error, rel=1e-6)
    assert alone.error == fit.error
    assert diagnose(fit.model).error is alone.path is None


@pytest.mark.parametrize(
    "planted", mostly_slow([*PLANTED[1:3], PLANTED[4], PLANTED[3]], 3), ids=lambda planted: str(planted.model)
)
def test_badly_gauged(planted: Any) -> None:
    good = tc.decompose(planted.tensor, init=planted.model, solver=tc.LM()).model
    model = tc.datasets.bad_gauge(good, 100.0, rng(1))
    for diagnosis in (diagnose(model, planted.tensor), diagnose(model)):
        assert diagnosis.verdict is Verdict.BADLY_GAUGED
        assert any("times that of the best gauge" in sentence for sentence in diagnosis.evidence)
        better = cured(diagnosis, planted.tensor, model)["model"]
        assert better.sensitivity() == pytest.approx(good.sensitivity(), rel=1e-3)
    assert diagnose(better, planted.tensor).healthy


@pytest.mark.parametrize(
    "planted",
    mostly_slow(
        [
            tc.datasets.exact_cp((6, 6, 6), 3, rng(), collinearity=0.995),
            tc.datasets.exact_chain((6, 6, 6), (2, 2, 2), rng(), collinearity=0.995),
            tc.datasets.exact_block_term((8, 8, 8), (2, 2, 2), rng(), collinearity=0.995),
        ],
        2,
    ),
    ids=["cp", "tc", "btd"],
)
def test_ill_conditioned(planted: Any) -> None:
    model = tc.optimal_gauge(planted.model)
    tensor = tc.datasets.add_noise(planted.tensor, 1e-5, rng(1))
    for diagnosis in (diagnose(model, tensor), diagnose(model)):
        assert diagnosis.verdict is Verdict.ILL_CONDITIONED
        assert any("spread over a factor" in sentence for sentence in diagnosis.evidence)
    fit = cured(diagnose(model, tensor), tensor, model)["fit"]
    assert fit.error < 1e-4
    # Penalised, two noises move the blocks less than they do without.
    other = tc.datasets.add_noise(planted.tensor, 1e-5, rng(2))
    plain = [tc.decompose(t, init=model, solver=tc.LM()) for t in (tensor, other)]
    stable = [cured(diagnose(model, tensor), t, model)["fit"] for t in (tensor, other)]
    assert max(f.sensitivity for f in stable) <= 1.01 * max(f.sensitivity for f in plain)


@pytest.mark.parametrize(
    ("planted", "kind", "rank", "lower"),
    [
        (tc.datasets.exact_cp((6, 6, 6), 3, rng()), "cp", 4, 3),
        (tc.datasets.exact_tucker((6, 5, 4), (2, 2, 2), rng()), "tucker", (3, 3, 3), (2, 2, 2)),
        (tc.datasets.exact_chain((6, 6, 6), (2, 2, 2), rng()), "tc", (3, 3, 3), (2, 2, 2)),
    ],
    ids=["cp", "tucker", "tc"],
)
def test_over_ranked(planted: Any, kind: str, rank: Any, lower: Any) -> None:
    fit = tc.decompose(planted.tensor, kind, rank, rng=0, starts=2)
    assert fit.error < 1e-6
    diagnosis = diagnose(fit, planted.tensor)
    assert diagnosis.verdict is Verdict.OVER_RANKED
    assert any("null direction" in sentence for sentence in diagnosis.evidence)
    profiles = cured(diagnosis, planted.tensor, fit)["profiles"]
    assert [profile.rank for profile in profiles] == [lower, rank]
    assert profiles[0].error[-1] < 1e-4


@pytest.mark.parametrize(
    ("border", "kind", "rank"),
    mostly_slow(
        [
            (tc.datasets.border_cp((5, 5, 5), rng()), "cp", 2),
            (tc.datasets.border_chain((6, 6, 6), (2, 2, 2), rng()), "tc", 2),
            (tc.datasets.border_cp((4, 4, 4), rng(), dtype=complex), "cp", 2),
            (tc.datasets.border_cp((3, 3, 3), rng()), "btd", [(1, 1, 1), (1, 1, 1)]),
        ],
        1,
    ),
    ids=["cp", "tc", "complex cp", "btd"],
)
def test_diverging(border: Any, kind: str, rank: Any) -> None:
    fit = tc.decompose(border.tensor, kind, rank, solver=tc.LM(max_iter=150), rng=0)
    diagnosis = diagnose(fit, border.tensor, starts=1)
    assert diagnosis.verdict is Verdict.DIVERGING
    assert diagnosis.path is not None
    assert diagnosis.path.slope > 0.2
    assert any("sensitivity grows as penalty^-0." in sentence for sentence in diagnosis.evidence)
    assert diagnose(fit).verdict is Verdict.DIVERGING
    stable = cured(diagnosis, border.tensor, fit)["fit"]
    assert stable.sensitivity < 1.01 * knee(diagnosis.path)
    assert stable.error < 0.05
    again = diagnose(stable, border.tensor, starts=0)
    assert again.verdict is Verdict.DIVERGING
    assert any("the model itself has not blown up" in sentence for sentence in again.evidence)
    assert again.path is not None
    below = "the sensitivity of the model is below the bound of the cure already"
    assert not any(below in sentence for sentence in diagnosis.evidence)
    lowered = stable.sensitivity < knee(again.path)
    assert any(below in sentence for sentence in again.evidence) is bool(lowered)


def test_stuck_too_early() -> None:
    planted = PLANTED[4]
    early = tc.decompose(planted.tensor, "tc", 2, solver=tc.ALS(max_iter=3), rng=0)
    diagnosis = diagnose(early, planted.tensor)
    assert diagnosis.verdict is Verdict.STUCK
    fit = cured(diagnosis, planted.tensor, early)["fit"]
    assert fit.error < 0.7 * early.error
    assert diagnose(fit, planted.tensor).healthy


@pytest.mark.slow
def test_stuck_on_a_divergent_branch_is_seen_by_another_start() -> None:
    """The border path itself diverges, but this tensor is also an exact model with other blocks."""
    exact = tc.datasets.exact_chain((6, 7, 8), (2, 3, 2), rng(1))
    found = None
    for seed in range(12):
        fit = tc.decompose(exact.tensor, "tc", (2, 3, 2), solver=tc.ALS(max_iter=300), rng=seed)
        alone = diagnose(fit, exact.tensor, starts=0)
        if alone.verdict is Verdict.DIVERGING:
            found = fit
            break
    assert found is not None, "no start ended on a divergent branch"
    diagnosis = diagnose(found, exact.tensor, starts=4)
    assert diagnosis.verdict is Verdict.STUCK
    assert any("another start leads to error" in sentence for sentence in diagnosis.evidence)
    assert cured(diagnosis, exact.tensor, found.model)["fit"].error < 1e-6


def test_the_wrong_size_is_stuck() -> None:
    planted = PLANTED[0]
    diagnosis = diagnose(planted.model, 10.0 * planted.tensor)
    assert diagnosis.verdict is Verdict.STUCK
    assert diagnosis.error == pytest.approx(0.9, abs=0.01)


def test_a_real_model_of_a_complex_tensor_is_stuck() -> None:
    planted = PLANTED[1]
    model = tc.CP([factor.real.copy() for factor in planted.model.factors])
    diagnosis = diagnose(model, planted.tensor)
    assert diagnosis.verdict is Verdict.STUCK
    assert diagnosis.path is not None
    assert diagnosis.path.model.dtype == complex
    assert diagnosis.path.error[-1] < 0.03


def test_missing_entries() -> None:
    from tensorchain.tensors.masked import Masked

    planted = PLANTED[0]
    observed, mask = tc.datasets.incomplete(planted.tensor, 0.2, rng(4))
    source = Masked(np.where(mask, observed, 0.0), mask)
    fit = tc.decompose(source, init=planted.model, solver=tc.LM())
    diagnosis = diagnose(fit, source)
    assert diagnosis.verdict is Verdict.HEALTHY
    misfit = np.linalg.norm(np.where(mask, planted.tensor - fit.model.full(), 0.0))
    assert diagnosis.error == pytest.approx(misfit / np.linalg.norm(planted.tensor[mask]), rel=1e-6)


@pytest.mark.slow
def test_a_fifth_model() -> None:
    tensor = tc.datasets.add_noise(HUB.model().full(), 0.01, rng())
    model = tc.decompose(tensor, init=HUB.model(), solver=tc.LM()).model
    diagnosis = diagnose(model, tensor)
    assert diagnosis.verdict in (Verdict.HEALTHY, Verdict.ILL_CONDITIONED)
    assert "Hub" in repr(diagnosis)


# -- the rules alone --------------------------------------------------------------------------


def path(slope: float, error: float = 0.1, model: Any = None) -> SensitivityPath:
    penalty = np.logspace(0, -7, 15)
    values = (penalty / penalty[-1]) ** -slope
    model = tc.CP([np.eye(3)] * 3) if model is None else model
    return SensitivityPath(penalty, np.full(15, error), values, np.ones(15, dtype=int), (model,) * 15)


FINE: Figures = measure(tc.CP([np.eye(3)] * 3))


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, Verdict.HEALTHY),
        ({"gauge_excess": 2.01}, Verdict.BADLY_GAUGED),
        ({"gauge_excess": 1.99}, Verdict.HEALTHY),
        ({"spread": 101.0, "gauge_excess": 9.0}, Verdict.ILL_CONDITIONED),
        ({"nullity": 1, "spread": np.inf}, Verdict.OVER_RANKED),
        ({"spread": None, "nullity": None}, Verdict.HEALTHY),
    ],
)
def test_figures_decide_when_the_path_is_flat(changes: dict[str, Any], verdict: Verdict) -> None:
    assert judge(replace(FINE, **changes)) is verdict
    assert judge(replace(FINE, **changes), 0.1, path(0.0)) is verdict
    # What the figures say does not matter when the sensitivity grows.
    assert judge(replace(FINE, **changes), 0.1, path(0.3)) is Verdict.DIVERGING


def test_cancellation_decides_only_without_a_tensor() -> None:
    cancelling = replace(FINE, cancellation=50.0)
    assert judge(cancelling) is Verdict.DIVERGING
    assert judge(cancelling, 0.1, path(0.0)) is Verdict.HEALTHY


def test_better_models_within_reach() -> None:
    assert judge(FINE, 0.2, path(0.0, error=0.1)) is Verdict.STUCK
    assert judge(FINE, 0.2, path(0.0, error=0.19)) is Verdict.UNFINISHED
    assert judge(FINE, 0.2, path(0.0, error=0.19), bounded=True) is Verdict.HEALTHY
    assert judge(FINE, 0.2, path(0.0, error=0.199)) is Verdict.HEALTHY
    # Less error for much more sensitivity is a trade, not a swamp.
    dear = tc.datasets.border_cp((3, 3, 3), rng()).approximant(0.05)
    assert dear.sensitivity(relative=True) > 10.0 * FINE.relative_sensitivity
    assert judge(FINE, 0.2, path(0.0, error=0.1, model=dear)) is Verdict.HEALTHY
    # The same model twice as large has four times the sensitivity at order 3, and is no dearer.
    twice = tc.CP([2.0 * np.eye(3)] * 3)
    assert judge(FINE, 0.2, path(0.0, error=0.1, model=twice)) is Verdict.STUCK
    assert judge(FINE, 1e-7, path(0.0, error=1e-9)) is Verdict.HEALTHY
    other = path(0.0, error=0.01)
    assert judge(FINE, 0.1, path(0.3), other) is Verdict.STUCK
    assert judge(FINE, 0.1, path(0.3, error=0.011), other) is Verdict.DIVERGING
    assert judge(FINE, 0.1, path(0.3), path(0.3, error=0.01)) is Verdict.DIVERGING


def test_thresholds_can_be_set() -> None:
    assert judge(FINE, limits=Thresholds(spread=1.0)) is Verdict.ILL_CONDITIONED
    planted = PLANTED[4]
    strict = diagnose(planted.model, planted.tensor, limits=Thresholds(gauge_excess=1.0 + 1e-6))
    assert strict.verdict is Verdict.BADLY_GAUGED


def test_the_next_lower_rank() -> None:
    assert [lower_rank(rank) for rank in (3, 1, (3, 1, 2))] == [2, 1, (2, 1, 1)]
    assert lower_rank([(2, 2, 2), (1, 1, 1)]) == [(2, 2, 2)]
    assert lower_rank([(2, 2, 2)]) == [(1, 1, 1)]


def test_the_knee_of_a_path() -> None:
    flat = replace(path(0.3), error=np.maximum(np.logspace(0, -3.5, 15), 0.02))
    assert knee(flat) == flat.sensitivity[flat.error <= 0.021][0]
    falling = replace(path(0.3), error=np.logspace(0, -3.5, 15))
    assert knee(falling) == falling.sensitivity[falling.error <= 0.01][0]


# -- reports and arguments --------------------------------------------------------------------


def test_reports() -> None:
    border = tc.datasets.border_cp((4, 4, 4), rng())
    model = border.approximant(1e-2)
    diagnosis = diagnose(model, border.tensor, starts=0)
    text, html = repr(diagnosis), diagnosis._repr_html_()
    for word in ("verdict", "DIVERGING", "evidence", "cure", "SensitivityBound", "factor 1 69 %", "at 8 bits", "path"):
        assert word in text
        assert word in html
    assert "<script" not in html
    assert html.count("<tr>") == len(diagnosis.report())
    for name, value in diagnosis.report():
        assert f"{name:<13} {value}" in text
    given = json.loads(json.dumps(diagnosis.to_dict()))
    assert given["verdict"] == "DIVERGING"
    assert given["cure"] == diagnosis.cure
    assert given["figures"]["cancellation"] == diagnosis.figures.cancellation
    assert given["path"]["slope"] == diagnosis.path.slope  # type: ignore[union-attr]
    assert len(given["path"]["error"]) == 15
    assert json.loads(json.dumps(diagnose(model).to_dict()))["path"] is None


def test_large_models_say_what_was_not_measured() -> None:
    diagnosis = diagnose(tc.TensorChain.random((16,) * 4, 6, 0))
    assert any("too large for the spectrum" in sentence for sentence in diagnosis.evidence)


def test_the_time_limit() -> None:
    planted = PLANTED[4]
    began = time.perf_counter()
    diagnosis = diagnose(planted.model, planted.tensor, max_seconds=1e-3)
    assert time.perf_counter() - began < 5.0
    assert any("the time limit cut the path short" in sentence for sentence in diagnosis.evidence)


def test_the_same_seed_gives_the_same_diagnosis() -> None:
    border = tc.datasets.border_cp((4, 4, 4), rng())
    first, second = (diagnose(border.approximant(0.01), border.tensor, starts=1, rng=5) for _ in range(2))
    assert repr(first) == repr(second)


def test_bad_input() -> None:
    planted = PLANTED[0]
    with pytest.raises(TypeError, match="model such as CP"):
        diagnose(planted.tensor)
    with pytest.raises(TypeError, match="model such as CP"):
        diagnose(planted.tensor, planted.model)
    with pytest.raises(ValueError, match="must be equal"):
        diagnose(planted.model, planted.tensor[1:])
    with pytest.raises(ValueError, match="tensor is zero"):
        diagnose(planted.model, 0.0 * planted.tensor)
    with pytest.raises(ValueError, match="zero everywhere"):
        diagnose(tc.CP([np.zeros((2, 1)), np.ones((2, 1))]))
    with pytest.raises(ValueError, match="NaN or infinity"):
        diagnose(planted.model, np.full((6, 5, 4), np.nan))
    with pytest.raises(ValueError, match="starts is -1"):
        diagnose(planted.model, planted.tensor, starts=-1)
    with pytest.raises(ValueError, match="max_seconds is 0"):
        diagnose(planted.model, planted.tensor, max_seconds=0)


def test_the_time_limit_is_that_of_the_whole_diagnosis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it for the path from the model; other starts share what is left, and none begins after the end."""
    from tensorchain.diagnosis import degeneracy

    given: list[float] = []
    whole = degeneracy.trace_path

    def timed(*arguments: Any, max_seconds: float, **options: Any) -> Any:
        given.append(max_seconds)
        path = whole(*arguments, **options)
        clock.now += 3.0
        return path

    class Ticking(degeneracy.Clock):
        now = 0.0

        def __init__(self, limit: float | None = None) -> None:
            super().__init__(limit)
            self.limit = limit

        @property
        def left(self) -> float | None:
            return None if self.limit is None else max(self.limit - Ticking.now, 0.0)

        @property
        def expired(self) -> bool:
            return self.left == 0.0

    clock = Ticking
    monkeypatch.setattr(degeneracy, "trace_path", timed)
    monkeypatch.setattr(degeneracy, "Clock", Ticking)
    border = tc.datasets.border_cp((4, 4, 4), np.random.default_rng(0))
    diagnose(border.approximant(1e-2), border.tensor, starts=5, max_seconds=8.0)
    assert given == [4.0, 5.0, 2.0]
