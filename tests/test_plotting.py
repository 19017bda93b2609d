"""Plots: what is drawn is the data, on the axes that were given, in colours that all can tell apart."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal

import tensorchain as tc
from tensorchain import plotting
from tensorchain.fit import History
from tensorchain.plotting import PALETTE, plot_history, plot_runs, plot_trade_off

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
    """Render, which is where bad values and labels fail."""
    axes.figure.canvas.draw()


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


def test_colours_are_visible_on_white() -> None:
    contrast = [1.05 / (luminance(colour) + 0.05) for colour in PALETTE]
    assert min(contrast) > 2.0
    assert plotting.YELLOW not in PALETTE


def test_importing_the_package_leaves_matplotlib_alone() -> None:
    code = "import sys, tensorchain, tensorchain.cli, tensorchain.plotting; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
