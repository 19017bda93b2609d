"""Plots of factors, starts and residuals: what is drawn is the data, over the coordinates and names that were given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal

import tensorchain as tc
from tensorchain.labels import labels_of
from tensorchain.plotting import (
    PALETTE,
    plot_factor,
    plot_factors,
    plot_reconstruction,
    plot_residual,
    plot_starts,
)
from tests.cases import Case, four_models, mostly_slow

mpl.use("Agg")

EVERY = [*four_models(2), *four_models(3), *(case.as_type("complex128") for case in four_models(3)[::3])]
DIMS = {"sample": list("abcd"), "place": None, "wavelength": np.linspace(400.0, 500.0, 20)}
MODEL = tc.CP.random((4, 3, 20), 2, rng=0)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def empty_axes() -> Any:
    return Figure().subplots()


def drawn(axes: Any) -> None:
    axes.figure.canvas.draw()


@pytest.mark.parametrize("case", mostly_slow(EVERY[::2] + EVERY[1::2], 5), ids=str)
def test_every_model_is_drawn_where_it_is_asked(case: Case) -> None:
    model = case.model()
    for mode in (0, -1):
        given = empty_axes()
        assert plot_factor(model, mode, given, title="a title") is given
        assert given.get_title() == "a title"
        drawn(given)
    assert not plt.get_fignums()
    axes = plot_factors(model)
    assert [ax.get_xlabel() for ax in axes] == [f"mode {n + 1}" for n in range(model.order)]
    assert len(plt.get_fignums()) == 1
    drawn(axes[0])


def test_lines_are_the_normal_form_over_coordinates() -> None:
    axes = plot_factor(MODEL, 2, dims=DIMS)
    lines = [line for line in axes.get_lines() if line.get_label().startswith("component")]
    assert len(lines) == 2
    for r, line in enumerate(lines):
        assert_array_equal(line.get_xdata(), DIMS["wavelength"])
        assert_allclose(line.get_ydata(), MODEL.normalized().factors[2][:, r])
        assert line.get_color() == PALETTE[r]
    assert len({line.get_linestyle() for line in lines}) == 2
    assert axes.get_xlabel() == "wavelength"
    assert axes.get_title() == "factor 3 (wavelength)"


def test_bars_stand_at_names() -> None:
    axes = plot_factor(MODEL, 0, dims=DIMS)
    assert [text.get_text() for text in axes.get_xticklabels()] == list("abcd")
    heights = np.array([bar.get_height() for bar in axes.patches]).reshape(2, 4)
    assert_allclose(heights, MODEL.normalized().factors[0].T)
    centres = np.array([bar.get_x() + bar.get_width() / 2 for bar in axes.patches]).reshape(2, 4)
    assert_allclose(centres.mean(axis=0), np.arange(4), atol=1e-12)
    assert np.all(np.diff(np.sort(centres.ravel())) > 0.9 * axes.patches[0].get_width())
    assert {to_hex(bar.get_facecolor()).upper() for bar in axes.patches} == set(PALETTE[:2])


@pytest.mark.parametrize(("kind", "lines"), [("line", 3), ("bar", 1)])
def test_the_kind_can_be_chosen(kind: Any, lines: int) -> None:
    # The line at zero is one, too.
    for mode in range(3):
        assert len(plot_factor(MODEL, mode, empty_axes(), dims=DIMS, kind=kind).get_lines()) == lines
    assert len(plot_factor(MODEL, 1, empty_axes()).patches) == 6
    assert not plot_factor(MODEL, 2, empty_axes()).patches


def test_tucker_shows_singular_vectors() -> None:
    tucker = tc.Tucker.random((4, 3, 20), (2, 2, 3), rng=0)
    axes = plot_factor(tucker, 2)
    truth = np.linalg.svd(np.moveaxis(tucker.full(), 2, 0).reshape(20, -1))[0]
    for r, line in enumerate(axes.get_lines()[:3]):
        assert abs(truth[:, r] @ line.get_ydata()) == pytest.approx(1.0)


def test_dead_components_are_left_out_and_many_are_told() -> None:
    dead = tc.CP([factor * [1.0, 0.0] for factor in MODEL.factors])
    assert len(plot_factor(dead, 2).get_lines()) == 2
    drawn(plot_factor(0 * MODEL, 2))
    many = tc.CP.random((4, 3, 20), 9, rng=0)
    axes = plot_factor(many, 2)
    assert axes.get_title() == "factor 3, 7 of 9 columns"
    assert len(axes.get_lines()) == 8
    chosen = plot_factor(many, 2, columns=[8])
    assert_allclose(chosen.get_lines()[0].get_ydata(), many.normalized().factors[2][:, 8])
    assert chosen.get_legend() is None


def test_one_legend_for_modes_that_share_it() -> None:
    assert [ax.get_legend() is not None for ax in plot_factors(MODEL)] == [False, False, True]
    chain = tc.TensorChain.random((4, 3, 20), (1, 2, 3), rng=0)
    assert all(ax.get_legend() is not None for ax in plot_factors(chain))


def test_names_come_from_the_fit() -> None:
    T = xr.DataArray(MODEL.full(), dims=list(DIMS))
    fit = tc.decompose(T, "cp", 2, solver=tc.ALS(max_iter=3), rng=0)
    assert [ax.get_xlabel() for ax in plot_factors(fit)] == list(DIMS)

    # Coordinates of the data are those of its fit.
    first, _, last = DIMS
    named = T.assign_coords({first: list("abcd"), last: DIMS[last]})
    more = tc.decompose(named, "cp", 2, solver=tc.ALS(max_iter=3), rng=0)
    assert [text.get_text() for text in plot_factor(more, 0).get_xticklabels()] == list("abcd")
    assert_array_equal(labels_of(more).dimensions[2].coordinates, DIMS[last])
    source = T.assign_coords(wavelength=DIMS["wavelength"])
    assert_array_equal(plot_factor(MODEL, 2, dims=source).get_lines()[0].get_xdata(), DIMS["wavelength"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": 3}, "mode 3 was asked for"),
        ({"kind": "pie"}, "kind is 'pie'"),
        ({"columns": []}, "columns is"),
        ({"columns": [2]}, "numbers from 0 to 1"),
        ({"dims": ["a"]}, "3 different names"),
    ],
)
def test_factors_that_are_not_there_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_factor(MODEL, **options)


def test_wrong_numbers_of_axes_and_other_subjects_are_refused() -> None:
    with pytest.raises(ValueError, match="1 axes were given for 3 modes"):
        plot_factors(MODEL, [empty_axes()])
    for plot in (plot_factor, plot_factors, lambda x: plot_residual(x, x), lambda x: plot_reconstruction(x, x)):
        with pytest.raises(TypeError, match="a fit or a model is needed"):
            plot(np.ones((3, 3)))


# -- starts ---------------------------------------------------------------------------------


@dataclass
class Start:
    """What plot_starts reads."""

    error: float
    sensitivity: float
    model: Any = None


def with_starts(starts: list[Start]) -> Any:
    fit = tc.decompose(MODEL.full(), "cp", 2, solver=tc.ALS(max_iter=2), rng=0)
    return replace(fit, starts=tuple(starts))  # type: ignore[arg-type]


def test_starts_are_points_of_error_and_sensitivity() -> None:
    given = empty_axes()
    axes = plot_starts(with_starts([Start(0.2, 30.0), Start(0.1, 400.0), Start(0.9, 5.0)]), given)
    assert axes is given
    assert_allclose(axes.collections[0].get_offsets(), [[0.2, 30.0], [0.1, 400.0], [0.9, 5.0]])
    assert_allclose(axes.collections[1].get_offsets(), [[0.1, 400.0]])
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_title()) == ("log", "log", "3 starts")
    drawn(axes)


def test_starts_are_coloured_by_their_match() -> None:
    other = tc.CP.random(MODEL.shape, 2, rng=1)
    axes = plot_starts(with_starts([Start(0.2, 30.0, other), Start(0.1, 30.0, MODEL), Start(0.1, 30.0, -MODEL)]))
    expected = [tc.factor_match(other, MODEL).score, 1.0, 1.0]
    assert_allclose(axes.collections[0].get_array(), expected, atol=1e-9)
    assert axes.collections[0].get_clim() == (0.0, 1.0)
    assert any("factor match" in other.get_ylabel() for other in axes.figure.axes)
    drawn(axes)


def test_starts_that_agree_are_not_spread_over_the_axes() -> None:
    axes = plot_starts(with_starts([Start(0.1, 30.0), Start(0.1 + 1e-12, 30.0 - 1e-9)]))
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "linear")
    for low, high in (axes.get_xlim(), axes.get_ylim()):
        assert high - low > 0.05 * high
    drawn(axes)


def test_starts_of_zeros_and_a_single_one() -> None:
    drawn(plot_starts(with_starts([Start(0.0, 0.0), Start(1.0, 5.0)])))
    with pytest.raises(ValueError, match="starts=10"):
        plot_starts(with_starts([Start(0.1, 1.0)]))


# -- residuals ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", four_models(3), ids=str)
@pytest.mark.parametrize("mode", [0, 1, -1])
def test_residuals_of_slices(case: Case, mode: int) -> None:
    model, T = case.model(), case.tensor()
    given = empty_axes()
    axes = plot_residual(model, T, mode, given)
    assert axes is given
    slices = [np.moveaxis(array, mode, 0) for array in (T, model.full())]
    expected = [np.linalg.norm(t - x) / np.linalg.norm(t) for t, x in zip(*slices, strict=True)]
    assert_allclose([bar.get_height() for bar in axes.patches], expected)
    assert_allclose(axes.get_lines()[0].get_ydata(), np.linalg.norm(T - model.full()) / np.linalg.norm(T))
    drawn(axes)


def test_missing_entries_do_not_count() -> None:
    rng = np.random.default_rng(0)
    T = MODEL.full() + 0.1 * rng.standard_normal(MODEL.shape)
    seen = rng.random(T.shape) < 0.6
    expected = [np.linalg.norm((T - MODEL.full())[i][seen[i]]) / np.linalg.norm(T[i][seen[i]]) for i in range(4)]
    for data in (
        np.where(seen, T, np.nan),
        np.ma.masked_array(T, ~seen),
        tc.Masked(np.where(seen, T, 1e9), seen),
        tc.Masked(T, weights=np.where(seen, 2.0 + rng.random(T.shape), 0.0)),
    ):
        axes = plot_residual(MODEL, data, 0, empty_axes())
        assert_allclose([bar.get_height() for bar in axes.patches], expected)
    for data in (T, tc.Dense(T)):
        lines = plot_residual(MODEL, data, 2, empty_axes(), dims=DIMS).get_lines()
        assert_array_equal(lines[0].get_xdata(), DIMS["wavelength"])


def test_empty_slices_leave_gaps() -> None:
    T = MODEL.full()
    T[1] = 0.0
    heights = [bar.get_height() for bar in plot_residual(MODEL, T, 0).patches]
    assert np.isnan(heights[1])
    assert_allclose(np.delete(heights, 1), 0.0, atol=1e-12)


def test_pictures_side_by_side() -> None:
    model = tc.CP.random((6, 7, 5), 2, rng=0)
    T = model.full() + np.random.default_rng(0).standard_normal(model.shape)
    given = empty_axes()
    axes = plot_reconstruction(model, T, ax=given)
    assert axes is given
    first, second, rest = (image.get_array() for image in axes.get_images())
    assert_allclose(first, T[..., 2])
    assert_allclose(second, model.full()[..., 2])
    assert_allclose(rest, (T - model.full())[..., 2])
    boxes = [image.get_extent() for image in axes.get_images()]
    assert boxes[0][1] < boxes[1][0] < boxes[1][1] < boxes[2][0]
    assert axes.get_images()[0].get_clim() == axes.get_images()[1].get_clim()
    error = np.linalg.norm((T - model.full())[..., 2]) / np.linalg.norm(T[..., 2])
    assert axes.get_title() == f"error {error:.3g} here"
    drawn(axes)
    for index, truth in (((0,), T[0]), ((slice(0, 3), 1), T[:3, 1])):
        assert_allclose(plot_reconstruction(model, T, index, empty_axes()).get_images()[0].get_array(), truth)


def test_pictures_in_colour() -> None:
    model = tc.Tucker.random((6, 7, 3), (3, 3, 2), rng=0)
    T = model.full()
    low, high = T.min(), T.max()
    axes = plot_reconstruction(model, 2 * T)
    assert_allclose(axes.get_images()[0].get_array(), (T - low) / (high - low), atol=1e-12)
    assert_allclose(axes.get_images()[1].get_array(), np.clip((0.5 * T - low) / (high - low), 0, 1), atol=1e-12)
    assert axes.get_images()[2].get_array().shape == (6, 7)
    drawn(axes)
    # What is missing is white.
    seen = np.ones(T.shape, dtype=bool)
    seen[2, 3] = False
    shown = plot_reconstruction(model, tc.Masked(T, seen)).get_images()[0].get_array()
    assert_allclose(shown[2, 3], 1.0)
    assert np.all(shown <= 1.0)
    assert shown[seen].min() == 0.0


def test_pictures_that_cannot_be_are_refused() -> None:
    model = tc.CP.random((6, 7, 5), 2, rng=0)
    T = model.full()
    with pytest.raises(ValueError, match=r"shape \(6, 7, 5\); a matrix, or a picture"):
        plot_reconstruction(model, T, ...)
    with pytest.raises(ValueError, match="they must be equal"):
        plot_reconstruction(model, T[1:])
    with pytest.raises(TypeError, match="complex"):
        plot_reconstruction(1j * model, 1j * T)
    with pytest.raises(TypeError, match="Sparse was given"):
        plot_residual(model, tc.Sparse([[0, 0, 0]], [1.0], T.shape))
    with pytest.raises(ValueError, match="mode 5"):
        plot_residual(model, T, 5)
