"""Relative penalties and bounds: one number for data of all scales."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.models.scale import Scale
from tensorchain.solvers.constraints import Sensitivity, SquaredError
from tests.cases import mostly_slow

CASES = [("cp", 3), ("tucker", (2, 3, 2)), ("tc", (2, 3, 2)), ("btd", [(2, 2, 2), (1, 2, 2)])]


@pytest.mark.parametrize(("model", "rank"), CASES)
def test_the_unit_is_the_sensitivity_of_a_random_start(model: str, rank: Any) -> None:
    shape = (8, 9, 10)
    kind = tc.Model.registry[model]
    scale = Scale.of(7.0, kind.wiring(shape, rank), shape)
    starts = [kind.random(shape, rank, seed) for seed in range(400)]
    blocks = len(starts[0].matrices)
    square = np.mean([start.norm() ** 2 for start in starts])
    mean = np.mean([start.sensitivity() for start in starts])
    # Scaled to a mean squared norm of 1.
    assert mean / square ** ((blocks - 1) / blocks) == pytest.approx(scale.start_sensitivity, rel=0.1)


@pytest.mark.parametrize(("model", "rank"), CASES)
@pytest.mark.parametrize("c", [1.0, 1e-7, 1e90])
def test_what_is_minimised_and_bounded(model: str, rank: Any, c: float) -> None:
    shape = (5, 4, 6)
    T = c * np.random.default_rng(0).standard_normal(shape)
    size = float(np.linalg.norm(T))
    scale = Scale.of(size, tc.Model.registry[model].wiring(shape, rank), shape)
    penalty = tc.Penalty(0.3, relative=True).normalised(scale)
    weights = {part.quantity: part.weight for part in penalty.objective}
    assert weights == {SquaredError(): 1.0, Sensitivity(): 0.3 / scale.start_sensitivity}
    # The same as the weight in the units of T.
    plain = tc.Penalty(float(scale.penalty(0.3 / scale.start_sensitivity)))
    assert {p.quantity: p.weight for p in plain.normalised(scale).objective} == pytest.approx(weights)
    bound = tc.SensitivityBound(3.0, relative=True).normalised(scale).bounds
    assert [(b.quantity, b.limit) for b in bound] == [(Sensitivity(), 3.0)]


@pytest.mark.parametrize(("model", "rank"), mostly_slow(CASES, 2))
def test_fits_do_not_depend_on_the_scale(model: str, rank: Any) -> None:
    T = np.random.default_rng(0).standard_normal((5, 4, 6))
    for constraint in (tc.Penalty(0.05, relative=True), tc.SensitivityBound(6.0, relative=True)):
        one, two = (
            tc.decompose(c * T, model, rank, constraint=constraint, solver=tc.ALS(max_iter=8), rng=0)
            for c in (1.0, 2.0**40)
        )
        assert one.error == pytest.approx(two.error, rel=1e-6)
        exponent = 2.0 * (len(one.model.matrices) - 1) / len(one.model.matrices)
        assert two.sensitivity == pytest.approx(one.sensitivity * 2.0 ** (40 * exponent), rel=1e-5)


@pytest.mark.parametrize(("model", "rank"), CASES[:3:2])
def test_relative_bounds_hold(model: str, rank: Any) -> None:
    T = 1e5 * np.random.default_rng(0).standard_normal((5, 4, 6))
    fit = tc.decompose(T, model, rank, constraint=tc.SensitivityBound(6.0, relative=True), rng=0)
    blocks = len(fit.model.matrices)
    assert fit.sensitivity <= 6.0 * np.linalg.norm(T) ** (2.0 * (blocks - 1) / blocks) * (1 + 1e-6)


def test_they_join_with_others() -> None:
    scale = Scale(100.0, 3, 10.0)
    both = (tc.Penalty(0.1, relative=True) & tc.Penalty(2.0)).normalised(scale)
    weights = [part.weight for part in both.objective if part.quantity == Sensitivity()]
    assert weights == [pytest.approx(0.01 + float(scale.unit_penalty(2.0)))]
    for one, two in ((5.0, 1e9), (5.0, 1.0)):
        bounds = (tc.SensitivityBound(one, relative=True) & tc.SensitivityBound(two)).normalised(scale).bounds
        assert [b.limit for b in bounds] == [pytest.approx(min(one, float(scale.unit_sensitivity(two))))]


def test_how_they_show_themselves() -> None:
    assert repr(tc.Penalty(0.5)) == "Penalty(weight=0.5)"
    assert repr(tc.Penalty(0.5, relative=True)) == "Penalty(weight=0.5, relative=True)"
    assert eval(repr(tc.SensitivityBound(2.0, relative=True)), vars(tc)) == tc.SensitivityBound(2.0, relative=True)
    with pytest.raises(TypeError, match="relative"):
        tc.Penalty(0.5, relative=1)  # type: ignore[arg-type]
