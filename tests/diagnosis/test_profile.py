"""Profiles: the trade-off between error and sensitivity, one rank or several, and their plot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

import tensorchain as tc
from tensorchain.diagnosis import DegeneracyProfile, degeneracy_profile, trace_path
from tensorchain.plotting import plot_profiles

mpl.use("Agg")


@pytest.fixture(scope="module")
def planted() -> Any:
    return tc.datasets.exact_cp((6, 5, 4), 3, np.random.default_rng(0), noise=0.02)


@pytest.fixture(scope="module")
def three(planted: Any) -> list[DegeneracyProfile]:
    return list(degeneracy_profile(planted.tensor, "cp", [2, 3, 4], rng=0))


def test_the_right_rank_shows(three: list[DegeneracyProfile]) -> None:
    assert [profile.rank for profile in three] == [2, 3, 4]
    two, right, four = three
    assert right.error[-1] < 0.02 < 0.2 * two.error[-1]
    assert four.error[-1] < right.error[-1] < 1.3 * four.error[-1]
    assert right.slope == pytest.approx(0.0, abs=1e-3)


def test_curves_are_trade_offs(planted: Any, three: list[DegeneracyProfile]) -> None:
    for profile in three[:2]:
        assert len(profile) == len(profile.models) == len(profile.error) == len(profile.sensitivity)
        assert np.all(np.diff(profile.penalty) < 0.0)
        assert np.all(np.diff(profile.error) < 1e-9)
        assert np.all(np.diff(profile.sensitivity) > -1e-3 * profile.sensitivity[1:])
        for model, error, sensitivity in zip(profile.models, profile.error, profile.sensitivity, strict=True):
            misfit = np.linalg.norm(planted.tensor - model.full()) / np.linalg.norm(planted.tensor)
            assert misfit == pytest.approx(error, rel=1e-6)
            assert model.sensitivity() == pytest.approx(sensitivity, rel=1e-2)
        # From where the penalty costs much of the tensor to where it costs nothing.
        assert profile.error[0] > 1.5 * profile.error[-1]


def test_no_model_beats_the_curve(planted: Any, three: list[DegeneracyProfile]) -> None:
    """A fit bounded at a sensitivity on the curve has the error of the curve."""
    right = three[1]
    k = 3
    fit = tc.decompose(planted.tensor, init=planted.model, constraint=tc.SensitivityBound(float(right.sensitivity[k])))
    assert fit.error == pytest.approx(right.error[k], rel=2e-2)


def test_the_downward_half_is_the_path(planted: Any) -> None:
    fit = tc.decompose(planted.tensor, init=planted.model, solver=tc.LM())
    profile = degeneracy_profile(planted.tensor, fit.model, decades=3)
    path = trace_path(fit, planted.tensor, decades=3)
    assert profile.error[-len(path) :] == pytest.approx(path.error, rel=1e-12)
    assert profile.slope == path.slope


def test_the_tamest_model_of_an_error(three: list[DegeneracyProfile]) -> None:
    right = three[1]
    model = right.least_sensitive(0.1)
    chosen = right.models.index(model)
    assert right.error[chosen] <= 0.1
    assert right.sensitivity[chosen] == right.sensitivity[right.error <= 0.1].min()
    with pytest.raises(ValueError, match="raise the rank"):
        right.least_sensitive(1e-9)


def test_a_rank_may_itself_be_a_list() -> None:
    planted = tc.datasets.exact_block_term((5, 5, 5), (1, 1, 1), np.random.default_rng(0), terms=2)
    one = degeneracy_profile(planted.tensor, "btd", [(1, 1, 1), (1, 1, 1)], rng=0, decades=2)
    assert one.rank == [(1, 1, 1), (1, 1, 1)]
    several = degeneracy_profile(planted.tensor, "btd", [[(1, 1, 1)], [(1, 1, 1), (1, 1, 1)]], rng=0, decades=2)
    assert [profile.rank for profile in several] == [[(1, 1, 1)], [(1, 1, 1), (1, 1, 1)]]
    chains = degeneracy_profile(planted.tensor, tc.TensorChain, [(1, 1, 1), (1, 2, 2)], rng=0, decades=2)
    assert [profile.rank for profile in chains] == [(1, 1, 1), (1, 2, 2)]
    tuckers = degeneracy_profile(planted.tensor, "tucker", [1, 2], rng=0, decades=2)
    assert [profile.rank for profile in tuckers] == [(1, 1, 1), (2, 2, 2)]


def test_a_border_tensor_has_a_curve_without_end() -> None:
    border = tc.datasets.border_cp((4, 4, 4), np.random.default_rng(0))
    profile = degeneracy_profile(border.tensor, border.approximant(0.1))
    assert profile.slope == pytest.approx(0.25, abs=0.02)
    assert profile.n_parameters == 24


def test_plots(three: list[DegeneracyProfile]) -> None:
    import matplotlib.pyplot as plt

    axes = three[1].plot()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["CP, rank 3"]
    assert np.array_equal(axes.get_lines()[0].get_ydata(), three[1].error)
    assert np.array_equal(axes.get_lines()[0].get_xdata(), three[1].sensitivity)
    ended, endless = [replace(profile, slope=0.0) for profile in three], replace(three[0], slope=0.3)
    figure, own = plt.subplots()
    assert plot_profiles([*ended, endless], ax=own, title="ranks") is own
    assert own.get_title() == "ranks"
    assert own.get_xscale() == own.get_yscale() == "log"
    assert len(own.get_legend().get_texts()) == 4
    # A dot where a curve ends, an arrow where it does not.
    assert len(own.get_lines()) == 4 + 3
    assert sum(text.arrow_patch is not None for text in own.texts) == 1
    figure.canvas.draw()
    plt.close("all")


def test_bad_input(planted: Any) -> None:
    with pytest.raises(ValueError, match="empty list"):
        degeneracy_profile(planted.tensor, "cp", [])
    with pytest.raises(ValueError, match="known are"):
        degeneracy_profile(planted.tensor, "cpx", 2)
    with pytest.raises((TypeError, ValueError), match="rank"):
        degeneracy_profile(planted.tensor, "cp")
    with pytest.raises(ValueError, match="must be equal"):
        degeneracy_profile(planted.tensor[1:], planted.model)
    with pytest.raises(ValueError, match="0 methods"):
        plot_profiles([])
