"""The path that a fit carries, and other trade-offs on it."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.regularisation import PathPoint, RegularisationPath
from tests.cases import mostly_slow, relative


def noisy_border(seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    T = tc.datasets.border_cp((6, 5, 7), rng).tensor
    return T + 0.02 * np.linalg.norm(T) / np.sqrt(T.size) * rng.standard_normal(T.shape)


@pytest.mark.parametrize(("solver", "noise"), mostly_slow([("path", True), ("path", False), ("auto", False)]))
def test_the_figures_of_the_path_are_those_of_its_models(solver: str, noise: bool) -> None:
    T = 1e4 * (noisy_border() if noise else tc.datasets.border_cp((6, 5, 7), np.random.default_rng(0)).tensor)
    fit = tc.decompose(T, "cp", rank=2, solver=solver, rng=0)
    assert len(fit.path) > 4
    assert np.all(np.diff(fit.path.error) < 0)
    assert np.all(np.diff(fit.path.sensitivity) > 0)
    for point in fit.path:
        assert relative(point.model.full(), T) == pytest.approx(point.error, rel=1e-6)
        assert tc.optimal_gauge(point.model).sensitivity() <= point.sensitivity * (1 + 1e-6)
        # A minimiser of ||T - X||^2 + nu SS is not improved by shrinking it a little.
        before = np.linalg.norm(T - point.model.full()) ** 2 + point.penalty * point.model.sensitivity()
        for factor in (0.99, 1.01):
            other = point.model.scaled(factor)
            after = np.linalg.norm(T - other.full()) ** 2 + point.penalty * other.sensitivity()
            assert before <= after * (1 + 1e-4)


def test_another_trade_off_on_the_same_data() -> None:
    T = noisy_border(1)
    fit = tc.decompose(T, "cp", rank=2, solver="path", rng=0)
    mild = fit.at(error=1.2 * fit.error)
    assert relative(mild.model.full(), T) <= 1.2 * fit.error * (1 + 1e-6)
    assert mild.sensitivity < fit.sensitivity
    milder = fit.at(sensitivity=0.5 * mild.sensitivity)
    assert milder.model.sensitivity() <= 0.5 * mild.sensitivity * (1 + 1e-6)
    assert milder.error > mild.error
    for wrong in ({}, {"error": 0.1, "sensitivity": 10.0}):
        with pytest.raises(ValueError, match="needs one of error= and sensitivity="):
            fit.at(**wrong)
    with pytest.raises(RuntimeError, match=r"init=fit.model"):
        pickle.loads(pickle.dumps(fit)).at(error=0.1)


def point(error: float, sensitivity: float) -> PathPoint:
    return PathPoint(0.0, error, sensitivity, tc.CP([np.ones((2, 1)), np.ones((2, 1))]))


def test_points_that_are_beaten_are_left_out() -> None:
    path = RegularisationPath.of(
        [point(0.5, 1.0), point(0.6, 2.0), point(0.1, 10.0), point(0.1, 20.0), point(0.3, 5.0)]
    )
    assert list(path.error) == [0.5, 0.3, 0.1]
    assert list(path.sensitivity) == [1.0, 5.0, 10.0]
    assert path.within(error=0.35) is path[1]
    assert path.within(sensitivity=7.0) is path[1]
    assert path.within(error=0.01) is None


def test_the_corner() -> None:
    errors = [1.0, 0.1, 0.09, 0.08]
    path = RegularisationPath.of([point(e, 10.0**n) for n, e in enumerate(errors)])
    assert path.knee is path[1]
    straight = RegularisationPath.of([point(10.0**-n, 10.0**n) for n in range(4)])
    assert straight.knee is straight[3]
    assert RegularisationPath().knee is None
    assert "no points" in repr(RegularisationPath())


def test_a_long_path_prints_both_ends() -> None:
    points = [point(1.0 / n, float(n)) for n in range(1, 60)]
    assert len(repr(RegularisationPath.of(points[:20])).splitlines()) == 21
    lines = repr(RegularisationPath.of(points)).splitlines()
    assert lines[11].split() == ["...", "39", "more"]
    shown = [float(line.split()[2]) for line in lines[1:11] + lines[12:]]
    assert shown == [*range(1, 11), *range(50, 60)]
