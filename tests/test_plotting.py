"""Plots: what is drawn is the data, on the axes that were given, in colours that all can tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal

import tensorchain as tc
from tensorchain import plotting
from tensorchain.fit import History
from tensorchain.plotting import (
    PALETTE,
    plot_block,
    plot_blocks,
    plot_history,
    plot_network,
    plot_runs,
    plot_sensitivity,
    plot_trade_off,
)
from tests.cases import Case, crossed, four_models, mostly_slow

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def history(errors: Any, sensitivities: Any) -> History:
    count = len(errors)
    return History(np.array(errors), np.array(sensitivities), np.zeros(count), np.arange(count) * 0.1)


def empty_axes() -> Any:
    return Figure().subplots()


def drawn(axes: Any) -> None:
    """Render, which is where bad values and labels fail; something dark is on the picture."""
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()
    assert np.asarray(canvas.buffer_rgba())[..., :3].min() < 128


def test_history_draws_error_left_and_sensitivity_right() -> None:
    given = empty_axes()
    axes = plot_history(history([1.0, 0.1, 0.01], [5.0, 50.0, 500.0]), ax=given, title="a run")
    right = next(other for other in axes.figure.axes if other is not axes)
    assert axes is given
    assert axes.get_title() == "a run"
    for side, values in ((axes, [1.0, 0.1, 0.01]), (right, [5.0, 50.0, 500.0])):
        assert side.get_yscale() == "log"
        assert_array_equal(side.get_lines()[0].get_xydata(), np.column_stack([range(3), values]))
    assert right.yaxis.get_label_position() == "right"
    assert "error" in axes.get_ylabel()
    assert "sensitivity" in right.get_ylabel()
    # Told apart without colour, too.
    assert axes.get_lines()[0].get_linestyle() != right.get_lines()[0].get_linestyle()
    drawn(axes)


def test_history_of_a_fit_opens_a_figure() -> None:
    fit = tc.decompose(tc.datasets.inverse_radius(order=3, size=6), "cp", rank=2, rng=0)
    axes = fit.plot()
    assert len(plt.get_fignums()) == 1
    assert_array_equal(axes.get_lines()[0].get_ydata(), fit.history.error)
    assert "CP" in axes.get_title()


@pytest.mark.parametrize(
    ("errors", "sensitivities"),
    [
        ([0.5], [3.0]),
        ([1.0, 0.0], [3.0, 4.0]),
        ([1.0, 1.0], [0.0, 0.0]),
        ([1e-12, 1e-13], [1e200, 1e250]),
        ([1.0, 0.5], [1e-250, 1e-240]),
    ],
    ids=["one point", "exact", "no sensitivity", "huge", "tiny"],
)
def test_history_of_extremes_renders(errors: Any, sensitivities: Any) -> None:
    drawn(plot_history(history(errors, sensitivities)))


def test_new_starts_are_marked_and_nothing_else() -> None:
    errors = [0.9, 0.2, 0.1, 1.0, 0.5, 0.3, 0.32, 1.0]
    sensitivities = [1.0, 1e2, 1e3, 5.0, 1e4, 1e4, 1e5, 1e8]
    # At 4 the error falls, at 6 it hardly rises; at 3 and 7 a start of its own begins.
    axes = plot_history(history(errors, sensitivities))
    assert [line.get_xdata()[0] for line in axes.get_lines()[1:]] == [3, 7]
    assert axes.get_legend() is not None
    # The first step of a run that was given a start goes to its bound.
    axes = plot_history(history([1e-6, 0.1, 0.01], [1e6, 1e3, 1e2]))
    assert len(axes.get_lines()) == 1
    drawn(plot_history(history([0.1, 1.0, 0.1, 1.0], [1.0, np.inf, np.inf, 0.0])))


def test_exact_error_is_drawn_at_the_floor() -> None:
    axes = plot_history(history([1.0, 0.0], [1.0, 1.0]))
    assert_array_equal(axes.get_lines()[0].get_ydata(), [1.0, 1e-17])


def test_empty_history_is_refused() -> None:
    with pytest.raises(ValueError, match="history is empty"):
        plot_history(history([], []))


def test_trade_off_places_every_run() -> None:
    given = empty_axes()
    methods = {"ALS": ([1e5, 2e6], [0.10, 0.11]), "path": ([3e2], [0.09])}
    axes = plot_trade_off(methods, ax=given, title="two methods")
    assert axes is given
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_title()) == ("log", "log", "two methods")
    for line, (name, (sensitivities, errors)) in zip(axes.get_lines(), methods.items(), strict=True):
        assert line.get_label() == name
        assert_array_equal(line.get_xydata(), np.column_stack([sensitivities, errors]))
    assert len({line.get_marker() for line in axes.get_lines()}) == 2
    drawn(axes)


def test_trade_off_refuses_what_it_cannot_draw() -> None:
    with pytest.raises(ValueError, match="'ALS' has 2 sensitivities and 1 errors"):
        plot_trade_off({"ALS": ([1.0, 2.0], [0.1])})
    with pytest.raises(ValueError, match="1 to 7 can be told apart"):
        plot_trade_off({str(k): ([1.0], [1.0]) for k in range(8)})
    with pytest.raises(ValueError, match="0 methods"):
        plot_trade_off({})


def test_runs_draw_quantiles_of_continued_runs() -> None:
    runs = [[1.0, 0.5, 0.25], [1.0, 0.1], [2.0, 0.4, 0.3]]
    axes = plot_runs({"ALS": runs}, ax=empty_axes(), quantiles=(0.25, 0.75))
    table = np.array([[1.0, 0.5, 0.25], [1.0, 0.1, 0.1], [2.0, 0.4, 0.3]])
    assert_allclose(axes.get_lines()[0].get_ydata(), np.median(table, axis=0))
    assert_array_equal(axes.get_lines()[0].get_xdata(), [1, 2, 3])
    outline = axes.collections[0].get_paths()[0].vertices
    for position in range(3):
        here = outline[outline[:, 0] == position + 1, 1]
        assert_allclose([here.min(), here.max()], np.quantile(table[:, position], (0.25, 0.75)))
    drawn(axes)


def test_runs_keep_colours_apart_across_axes() -> None:
    first = plot_runs({"a": [[1.0]], "b": [[1.0]]})
    second = plot_runs({"c": [[1.0]]}, first=2)
    lines = [*first.get_lines(), *second.get_lines()]
    assert [line.get_color() for line in lines] == list(PALETTE[:3])
    with pytest.raises(ValueError, match="1 to 5 can be told apart"):
        plot_runs({str(k): [[1.0]] for k in range(6)}, first=2)


@pytest.mark.parametrize("runs", [[], [[]], [[1.0], []]])
def test_runs_refuse_nothing(runs: Any) -> None:
    with pytest.raises(ValueError, match="no run, or an empty one"):
        plot_runs({"ALS": runs})


EVERY = [case for order in (2, 3, 5) for case in four_models(order)]
EVERY += [case.as_type("complex128") for case in four_models(3)]


def named_fit(kind: str = "tucker", rank: Any = (2, 3, 2)) -> tc.Fit:
    """A fit of a tensor whose dimensions have names."""
    T = np.random.default_rng(0).standard_normal((4, 5, 3))
    fit = tc.decompose(T, kind, rank, solver=tc.ALS(max_iter=2), rng=0)
    return replace(fit, dimension_names=("time", "place", "band"))


PLOTS = {
    "sensitivity": plot_sensitivity,
    "block": plot_block,
    "network": plot_network,
    "last block": lambda subject, ax=None, title=None: plot_block(subject, -1, ax, title),
}


@crossed(every=2, fast=16, case=EVERY[::-1], name=list(PLOTS))
def test_models_are_drawn_where_it_is_asked(case: Case, name: str) -> None:
    given = empty_axes()
    assert PLOTS[name](case.model(), ax=given, title="a title") is given
    assert given.get_title() == "a title"
    drawn(given)
    assert not plt.get_fignums()


@pytest.mark.parametrize("name", PLOTS)
@pytest.mark.parametrize("case", four_models(3), ids=str)
def test_models_open_a_figure(case: Case, name: str) -> None:
    axes = PLOTS[name](case.model())
    assert len(plt.get_fignums()) == 1
    assert axes.get_title()
    drawn(axes)


@pytest.mark.parametrize("name", PLOTS)
def test_only_fits_and_models_are_drawn(name: str) -> None:
    with pytest.raises(TypeError, match="a fit or a model is needed, and a ndarray was given"):
        PLOTS[name](np.ones((2, 2)))


class TestSensitivity:
    def test_the_bars_are_the_parts(self) -> None:
        model = four_models(3)[1].model()
        axes = plot_sensitivity(model, ax=empty_axes())
        expected = tc.sensitivity(model, per_block=True)
        assert_allclose([bar.get_width() for bar in axes.patches], expected)
        assert axes.get_title() == f"sensitivity {model.sensitivity():.3g}"
        shares = [text.get_text() for text in axes.texts]
        assert shares == [f"{100 * part / sum(expected):.0f} %" for part in expected]
        # The first block is on top.
        bottom, top = axes.get_ylim()
        assert bottom > top

    def test_several_models_are_told_apart(self) -> None:
        model = tc.datasets.bad_gauge(four_models(3)[3].model(), 100.0, np.random.default_rng(0))
        best = tc.optimal_gauge(model)
        axes = plot_sensitivity({"bad": model, "best": best}, ax=empty_axes(), title="gauges")
        assert axes.get_xscale() == "log"
        assert [text.get_text().split(":")[0] for text in axes.get_legend().get_texts()] == ["bad", "best"]
        one, other = axes.containers
        assert one[0].get_facecolor() != other[0].get_facecolor()
        # Side by side.
        for first, second in zip(one, other, strict=True):
            assert first.get_y() + first.get_height() <= second.get_y() + 1e-9
        # In the optimal gauge no block has more than another.
        assert_allclose([bar.get_width() for bar in other], best.sensitivity() / 3, rtol=1e-6)
        # Every bar begins within the axes.
        assert axes.get_xlim()[0] < min(bar.get_width() for bar in (*one, *other))
        assert axes.get_title() == "gauges"

    def test_the_axis_is_linear_from_zero_where_the_parts_are_alike(self) -> None:
        axes = plot_sensitivity(tc.optimal_gauge(four_models(3)[0].model()), ax=empty_axes())
        assert axes.get_xscale() == "linear"
        assert axes.get_xlim()[0] == 0.0

    def test_a_fit_tells_its_dimensions(self) -> None:
        axes = plot_sensitivity(named_fit(), ax=empty_axes())
        assert [tick.get_text() for tick in axes.get_yticklabels()] == [
            "core", "factor 1 (time)", "factor 2 (place)", "factor 3 (band)",
        ]  # fmt: skip

    def test_models_without_sensitivity_are_drawn(self) -> None:
        drawn(plot_sensitivity(tc.CP([np.zeros((3, 1)), np.zeros((4, 1))])))
        drawn(plot_sensitivity(tc.CP([np.zeros((3, 1)), np.ones((4, 1))])))

    def test_models_of_other_blocks_are_refused(self) -> None:
        models = {"cp": four_models(3)[0].model(), "tucker": four_models(3)[1].model()}
        with pytest.raises(ValueError, match="'tucker' has 4 blocks, the first model 3"):
            plot_sensitivity(models)
        with pytest.raises(ValueError, match="0 methods"):
            plot_sensitivity({})


class TestBlocks:
    def table(self, axes: Any) -> Any:
        return np.ma.filled(axes.get_images()[0].get_array().astype(float), np.nan)

    def test_a_factor_is_drawn_as_it_is(self) -> None:
        fit = named_fit()
        axes = plot_block(fit, 2, ax=empty_axes())
        assert_array_equal(self.table(axes), fit.model.factors[1])
        assert (axes.get_title(), axes.get_ylabel(), axes.get_xlabel()) == ("factor 2 (place)", "place", "bond")
        low, high = axes.get_images()[0].get_clim()
        assert low == -high == -np.abs(fit.model.factors[1]).max()

    def test_a_core_has_its_first_bond_down(self) -> None:
        model = tc.Tucker.random((4, 5, 3), (2, 3, 2), 0)
        axes = plot_block(model, 0, ax=empty_axes())
        assert_array_equal(self.table(axes), model.core.reshape(2, 6))
        assert (axes.get_ylabel(), axes.get_xlabel()) == ("bond 1", "bonds 2 to 3")
        # Lines between the values of bond 2.
        (lines,) = axes.collections
        assert [segment[0][0] for segment in lines.get_segments()] == [1.5, 3.5]

    def test_a_chain_has_its_mode_down(self) -> None:
        model = tc.TensorChain.random((4, 5, 3), (2, 3, 2), 0)
        axes = plot_block(model, -2, ax=empty_axes())
        assert_array_equal(self.table(axes), model.cores[1].transpose(1, 0, 2).reshape(5, 6))
        assert axes.get_xlabel().encode("ascii", "namereplace") == rb"3 \N{MULTIPLICATION SIGN} 2 bonds"

    def test_terms_stand_side_by_side(self) -> None:
        model = tc.BlockTerm.random((4, 5, 6), [(2, 2, 1), (1, 3, 2)], 0)
        cores, factors = (self.table(plot_block(model, k, ax=empty_axes())) for k in (0, 1))
        first, second = model.terms
        assert_array_equal(cores[:, :2], first.core.reshape(2, 2))
        assert np.isnan(cores[:, 2]).all()
        assert_array_equal(cores[:1, 3:], second.core.reshape(1, 6))
        assert np.isnan(cores[1:, 3:]).all()
        assert_array_equal(factors[:, :2], first.factors[0])
        assert_array_equal(factors[:, 3:], second.factors[0])

    def test_complex_blocks_are_drawn_by_magnitude(self) -> None:
        model = tc.CP.random((4, 5), 2, 0, dtype=complex)
        axes = plot_block(model, 0, ax=empty_axes())
        assert_allclose(self.table(axes), np.abs(model.factors[0]))
        assert axes.get_images()[0].get_clim()[0] == 0.0
        assert axes.get_xlabel() == "bond"

    def test_zero_blocks_are_drawn(self) -> None:
        drawn(plot_block(tc.CP([np.zeros((3, 2)), np.ones((4, 2)), np.ones((2, 2))])))

    @pytest.mark.parametrize("case", mostly_slow([four_models(2)[1], four_models(5)[2]]), ids=str)
    def test_all_of_them(self, case: Case) -> None:
        model = case.model()
        axes = plot_blocks(model)
        assert tuple(one.get_title() for one in axes) == model.block_names
        drawn(axes[0])
        given = list(Figure().subplots(1, len(axes)))
        assert plot_blocks(model, given) == given
        with pytest.raises(ValueError, match=f"1 axes were given for {len(axes)} blocks"):
            plot_blocks(model, given[:1])

    def test_spectra_are_lines(self) -> None:
        model = tc.CP.random((4, 30, 25), 2, 0)
        few, spectrum, other = plot_blocks(model)
        assert_array_equal(self.table(few), model.factors[0])
        assert_array_equal([line.get_ydata() for line in spectrum.get_lines()[:2]], model.factors[1].T)
        assert (spectrum.get_title(), spectrum.get_xlabel()) == ("factor 2", "mode 2")
        assert len(other.get_lines()) == 3
        # Many columns, complex entries, cores of chains: heat maps.
        for model in (tc.CP.random((30, 25), 9, 0), tc.CP.random((30, 25), 2, 0, dtype=complex)):
            assert all(axes.get_images() for axes in plot_blocks(model))
        assert all(axes.get_images() for axes in plot_blocks(tc.TensorChain.random((30, 30, 30), 2, 0)))

    def test_a_block_that_is_not_there(self) -> None:
        with pytest.raises(ValueError, match="block 3 was asked for, and the model has blocks 0 to 2"):
            plot_block(four_models(3)[0].model(), 3)


class TestNetwork:
    def test_sizes_and_names_are_written(self) -> None:
        axes = plot_network(named_fit(), ax=empty_axes())
        written = [text.get_text() for text in axes.texts]
        assert {"time\n4", "place\n5", "band\n3", "core", "1", "2", "3"} <= set(written)
        assert sorted(text for text in written if text in ("2", "3")) == ["2", "2", "2", "3", "3"]
        assert axes.get_aspect() == 1.0
        assert not axes.axison
        assert axes.get_title() == "Tucker, 41 parameters"

    @pytest.mark.parametrize("width", [2.5, 3.4, 7.0])
    @pytest.mark.parametrize("case", [*four_models(3), *four_models(5)], ids=str)
    def test_no_text_lies_on_another_and_all_is_inside(self, case: Case, width: float) -> None:
        model = case.model()
        terms = len(model.network.terms)
        figure = Figure(figsize=(width * (1 if terms == 1 else 1.6), width), layout="constrained")
        axes = plot_network(model, ax=figure.subplots(), title="")
        figure.canvas.draw()
        boxes = [text.get_window_extent() for text in axes.texts]
        frame = figure.bbox
        for n, box in enumerate(boxes):
            assert frame.x0 <= box.x0 < box.x1 <= frame.x1
            assert frame.y0 <= box.y0 < box.y1 <= frame.y1
            assert not any(box.shrunk(0.9, 0.8).overlaps(other.shrunk(0.9, 0.8)) for other in boxes[:n])

    def test_bonds_of_size_one_are_dotted_and_wide_ones_thick(self) -> None:
        axes = plot_network(tc.TensorChain.random((6, 6, 6), (1, 2, 9), 0), ax=empty_axes())
        lines = [patch for patch in axes.patches if not patch.get_fill()]
        assert [line.get_linestyle() == "-" or line.get_linestyle() == "solid" for line in lines] == [False, True, True]
        widths = [line.get_linewidth() for line in lines]
        assert widths == sorted(widths)
        assert widths[0] < widths[2]

    def test_terms_that_are_left_out_are_told(self) -> None:
        axes = plot_network(tc.BlockTerm.random((8, 9, 7), [(1, 1, 1)] * 6, 0), ax=empty_axes())
        assert axes.get_title().endswith("(2 more terms)")
        assert sum(text.get_text() == "+" for text in axes.texts) == 3


def luminance(colour: str) -> float:
    """Relative luminance of sRGB, as WCAG 2 defines it."""
    channels = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


# What the cones see: Machado, Oliveira, Fernandes (2009), severity 1.
BLINDNESS = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("kind", BLINDNESS)
def test_first_colours_stay_apart_for_colour_blind_eyes(kind: str) -> None:
    colours = np.array([mpl.colors.to_rgb(colour) for colour in PALETTE[:4]])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(BLINDNESS[kind]).T, 0.0, 1.0) ** (1 / 2.2)
    gaps = [np.linalg.norm(a - b) for k, a in enumerate(seen) for b in seen[:k]]
    assert min(gaps) > 0.1


@pytest.mark.parametrize("kind", BLINDNESS)
def test_heat_maps_tell_signs_apart_for_colour_blind_eyes(kind: str) -> None:
    real = plot_block(tc.CP([np.array([[-1.0, 0.0, 1.0]]), np.ones((2, 3)), np.ones((2, 3))]), ax=empty_axes())
    image = real.get_images()[0]
    colours = image.cmap(image.norm(np.array([-1.0, -0.5, 0.0, 0.5, 1.0])))[:, :3]
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(BLINDNESS[kind]).T, 0.0, 1.0) ** (1 / 2.2)
    gaps = [np.linalg.norm(a - b) for k, a in enumerate(seen) for b in seen[:k]]
    assert min(gaps) > 0.25


def test_colours_are_visible_on_white() -> None:
    contrast = [1.05 / (luminance(colour) + 0.05) for colour in PALETTE]
    assert min(contrast) > 2.0
    assert plotting.YELLOW not in PALETTE
