"""The figures' machinery: what is measured once is kept, what is drawn is what was measured."""

from __future__ import annotations

import functools
import json
import signal
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from rich.console import Console
from scipy.stats import binomtest

import tensorchain as tc
from paper_figures import border, success, trade_off
from paper_figures.__main__ import main
from paper_figures.catalogue import FIGURES, summary
from paper_figures.fits import decompose
from paper_figures.results import Job, Results, Settings, column, groups, provenance
from paper_figures.run import NothingToDrawError, draw_figures, outcomes
from paper_figures.style import style
from paper_figures.trace import Trace

SETTINGS = {"figure": "a", "seed": 0}


def job(number: int, rows: int = 2) -> Job:
    values = [{"value": 0.1 * number + row, "half": "" if row else "x"} for row in range(rows)]
    return Job({"kind": "k", "number": number}, lambda: values)


def test_results_resume_with_the_same_settings_only(tmp_path: Path) -> None:
    jobs = [job(0), job(1), job(2)]
    first = Results(tmp_path, "a", SETTINGS)
    assert first.missing(jobs) == jobs
    for done in jobs[:2]:
        first.add(done, done.run())
    again = Results(tmp_path, "a", SETTINGS)
    assert again.missing(jobs) == jobs[2:]
    assert again.rows == first.rows
    # Numbers come back to the last bit.
    assert column(again.rows, "value") == [0.0, 1.0, 0.1, 1.1]
    assert Results(tmp_path, "a", {**SETTINGS, "seed": 1}).rows == []
    assert Results(tmp_path, "a", None).rows == first.rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.json"]


def test_rows_keep_the_order_of_the_jobs(tmp_path: Path) -> None:
    jobs = [job(n) for n in range(4)]
    results = Results(tmp_path, "a", SETTINGS)
    results.missing(jobs)
    for done in (jobs[2], jobs[0], jobs[3], jobs[1]):
        results.add(done, done.run())
    assert column(results.rows, "number") == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [row["half"] for row in results.rows] == ["x", ""] * 4
    assert Results(tmp_path, "a", SETTINGS).rows == results.rows


def test_results_without_settings_are_not_believed(tmp_path: Path) -> None:
    first = Results(tmp_path, "a", SETTINGS)
    first.add(job(0), job(0).run())
    for damaged in ("", "{", "[]"):
        (tmp_path / "a.json").write_text(damaged)
        assert Results(tmp_path, "a", SETTINGS).rows == []


def test_settings_survive_json(tmp_path: Path) -> None:
    told = {"bonds": (3, 3), "cases": {"a": (1, 2)}}
    first = Results(tmp_path, "a", told)
    first.add(job(0), job(0).run())
    assert Results(tmp_path, "a", told).missing([job(0)]) == []


def test_groups_keep_their_order() -> None:
    rows = [{"a": "y", "b": 1}, {"a": "x", "b": 2}, {"a": "y", "b": 3}]
    assert list(groups(rows, "a")) == ["y", "x"]
    assert [row["b"] for row in groups(rows, "a")["y"]] == [1, 3]
    assert list(groups(rows, "a", "b")) == [("y", 1), ("x", 2), ("y", 3)]


def test_fingerprint_is_of_the_code_not_of_its_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    (package / "cli").mkdir(parents=True)
    (package / "solvers").mkdir()
    monkeypatch.setattr(tc, "__file__", str(package / "__init__.py"))

    def fingerprint(source: str, other: str = "") -> str:
        (package / "solvers" / "lm.py").write_text(source)
        (package / "cli" / "show.py").write_text(other)
        return provenance()["code"]

    before = fingerprint("x = 1\n")
    assert fingerprint("x = 1  # one\n\n", other="y = 3\n") == before
    assert fingerprint("x = 2\n") != before


# -- the runner, with a figure of its own ---------------------------------------------------


def toy_figure() -> Any:
    """Three jobs, of which the last fails until `broken` is cleared."""
    toy = types.ModuleType("toy", doc="A toy.\n\nMore.")
    toy.broken, toy.calls = True, []  # type: ignore[attr-defined]

    def measured(number: int) -> list[dict[str, Any]]:
        toy.calls.append(number)
        if number == 2 and toy.broken:
            raise KeyboardInterrupt
        return [{"value": float(number)}]

    def draw(rows: list[dict[str, Any]]) -> Figure:
        figure = Figure()
        figure.subplots().plot(column(rows, "value"))
        return figure

    toy.parameters = lambda settings: {"size": 9 if settings.full else 3}  # type: ignore[attr-defined]
    toy.jobs = lambda settings: [Job({"number": n}, lambda n=n: measured(n)) for n in range(3)]  # type: ignore[attr-defined]
    toy.draw = draw  # type: ignore[attr-defined]
    return toy


def test_runner_continues_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy, console = toy_figure(), Console(quiet=True)
    monkeypatch.setitem(FIGURES, "toy", toy)
    with pytest.raises(NothingToDrawError, match=r"toy\.csv"):
        draw_figures(["toy"], Settings(), tmp_path, redraw=True, console=console)
    with pytest.raises(KeyboardInterrupt):
        draw_figures(["toy"], Settings(), tmp_path, console=console)
    toy.broken = False
    pictures = draw_figures(["toy"], Settings(), tmp_path, images=tmp_path / "images", console=console)
    assert toy.calls == [0, 1, 2, 2]
    assert [path.name for path in pictures] == ["toy.pdf", "toy.png"]
    assert (tmp_path / "images" / "toy.png").read_bytes() == pictures[1].read_bytes()
    # Numbers that are there are drawn again, to the same bytes, and not measured again.
    before = [path.read_bytes() for path in pictures]
    draw_figures(["toy"], Settings(), tmp_path, console=console)
    draw_figures(["toy"], Settings(), tmp_path, redraw=True, console=console)
    assert [path.read_bytes() for path in pictures] == before
    assert len(toy.calls) == 4
    draw_figures(["toy"], Settings(), tmp_path, restart=True, console=console)
    assert len(toy.calls) == 7
    draw_figures(["toy"], Settings(full=True), tmp_path, console=console)
    assert len(toy.calls) == 10
    assert json.loads((tmp_path / "toy.json").read_text())["parameters"] == {"size": 9}


def square(number: int) -> list[dict[str, Any]]:
    return [{"value": float(number**2)}]


def test_several_workers_measure_the_same() -> None:
    jobs = [Job({"number": n}, functools.partial(square, n)) for n in range(5)]
    alone, together = ({job.key["number"]: rows for job, rows in outcomes(jobs, workers)} for workers in (1, 2))
    assert together == alone == {n: [{"value": float(n**2)}] for n in range(5)}


def test_an_interrupted_fit_is_no_measurement() -> None:
    def press(iterate: Any) -> None:
        if iterate.iteration == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        decompose(tc.datasets.inverse_radius(order=3, size=5), "cp", 2, rng=0, callback=press)


def test_command(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = toy_figure()
    monkeypatch.setitem(FIGURES, "toy", toy)
    assert main(["--list"]) == 0
    assert "toy         A toy." in capsys.readouterr().out
    assert main(["toy", "--redraw", "--out", str(tmp_path)]) == 2
    assert main(["toy", "--jobs", "1", "--out", str(tmp_path)]) == 130
    assert "goes on from here" in capsys.readouterr().err
    toy.broken = False
    assert main(["toy", "--quick", "--jobs", "1", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "toy.pdf").read_bytes().startswith(b"%PDF")
    for wrong in (["absent"], ["--seed", "-1"], ["--quick", "--full"]):
        with pytest.raises(SystemExit, match="2"):
            main(wrong)


# -- the figures ----------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True], ids=["quick", "full"])
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_says_what_it_runs(name: str, full: bool) -> None:
    module, settings = FIGURES[name], Settings(full=full, seed=3)
    assert len(summary(module)) > 20
    json.dumps(module.parameters(settings), allow_nan=False)
    jobs = list(module.jobs(settings))
    assert len({tuple(job.key.items()) for job in jobs}) == len(jobs)
    assert len({tuple(job.key) for job in jobs}) == 1
    assert len(jobs) < len(list(module.jobs(Settings(full=True)))) or full


def text_of(figure: Figure) -> str:
    with style():
        figure.canvas.draw()
    return " ".join(child.get_text() for child in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def rows_of(module: Any, starts: int = 1) -> list[dict[str, Any]]:
    """The rows of the first starts, as the runner stores them."""
    return [
        {**job.key, **row} for job in module.jobs(Settings()) if int(job.key["start"]) < starts for row in job.run()
    ]


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_draws_what_it_measures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("sklearn", "PIL", "tensorly"):
        pytest.importorskip(package)
    # Runs that are cut short draw as well as whole ones.
    monkeypatch.setattr(tc, "decompose", functools.partial(tc.decompose, max_seconds=0.1))
    module = FIGURES[name]
    rows = rows_of(module)
    text = text_of(module.draw(rows))
    for method in groups(rows, "method"):
        assert str(method) in text
    # The caption says what was run.
    assert "random start" in text
    assert "bonds" in text


def test_wilson_interval() -> None:
    for found, runs in ((0, 40), (7, 40), (40, 40), (1, 1)):
        expected = binomtest(found, runs).proportion_ci(method="wilson")
        assert_allclose(success.wilson(found, runs), (expected.low, expected.high), atol=1e-6)


def test_success_measures_the_error_of_each_method() -> None:
    pytest.importorskip("tensorly")
    for method in success.parameters(Settings())["solvers"]:
        [row] = success.measure((5, 5, 5), (1, 2, 2), method, (0, 1, 2))
        assert 0.0 <= row["error"] <= 1.0
        assert row["seconds"] > 0.0
        assert row["tensor"] == 1


@pytest.mark.parametrize("constraint", [None, tc.SensitivityBound(50.0)])
def test_trace_is_the_best_so_far_in_the_optimal_gauge(constraint: Any) -> None:
    tensor = tc.datasets.border_chain((5, 5, 5), (2, 2, 2), np.random.default_rng(0)).tensor
    trace = Trace(constraint)
    fit = tc.decompose(tensor, "tc", 2, constraint=constraint, rng=0, callback=trace)
    rows = trace.finish()
    assert rows[0]["iteration"] == 0
    assert rows[-1]["iteration"] == fit.iterations
    assert rows[-1]["error"] == pytest.approx(fit.error)
    assert rows[-1]["sensitivity"] == pytest.approx(fit.sensitivity, rel=1e-3)
    iterations = column(rows, "iteration")
    assert iterations == sorted(set(iterations))
    if constraint is None:
        assert np.all(np.diff(column(rows, "error")) <= 0.0)
    else:
        assert rows[-1]["sensitivity"] <= 50.0 * (1 + 1e-5)


def test_border_interpolates_between_kept_iterates() -> None:
    rows = [{"iteration": i, "error": e} for i, e in ((0, 1.0), (1, 0.5), (9, 0.1))]
    values = border.spread(rows, "error")
    assert_allclose(values[[0, 1, 9]], [1.0, 0.5, 0.1])
    # Halfway between 2 and 10 on a logarithmic axis, which begins with 1.
    assert_allclose(np.interp(np.log(np.sqrt(20.0)), np.log(np.arange(1, 11)), np.log(values)), np.log(np.sqrt(0.05)))


def test_trade_off_measures_in_the_scale_of_norm_one() -> None:
    pytest.importorskip("tensorly")
    options = {"steps": (20, 2, 2, 10), "bonds": (1, 2, 2, 2)}
    [*_, final] = trade_off.measure("fluorescence", options, "ALS", 0)
    tensor = trade_off.load("fluorescence", options)
    fit = tc.decompose(tensor / np.linalg.norm(tensor), "tc", (1, 2, 2, 2), solver=trade_off.METHODS["ALS"], rng=0)
    assert final["error"] == pytest.approx(fit.error, rel=1e-6)
    assert final["sensitivity"] == pytest.approx(fit.sensitivity, rel=1e-4)
