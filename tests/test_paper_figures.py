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
from matplotlib.text import Text
from numpy.testing import assert_allclose
from rich.console import Console
from scipy.stats import binomtest

import tensorchain as tc
from paper_figures import data, equal, perturbation, shared_core, success, trade_off
from paper_figures.__main__ import folder_of, main
from paper_figures.catalogue import FIGURES, summary
from paper_figures.fits import decompose
from paper_figures.results import Job, Results, Settings, column, fingerprint, groups
from paper_figures.run import NothingToDrawError, draw_figures, outcomes
from paper_figures.style import WIDTH, few_ticks, rank_text, style
from paper_figures.trace import Trace, spread
from tests.cases import mostly_slow

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

    def of(source: str, other: str = "") -> str:
        (package / "solvers" / "lm.py").write_text(source)
        (package / "cli" / "show.py").write_text(other)
        fingerprint.cache_clear()
        return fingerprint()

    before = of("x = 1\n")
    assert of("x = 1  # one\n\n", other="y = 3\n") == before
    assert of("x = 2\n") != before
    fingerprint.cache_clear()


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
    toy.describe = lambda rows: f"{len(rows)} numbers."  # type: ignore[attr-defined]
    return toy


@pytest.mark.slow
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
    assert (tmp_path / "images" / "toy.txt").read_text(encoding="utf-8") == "3 numbers.\n"
    assert (tmp_path / "images" / "toy.csv").read_bytes() == (tmp_path / "toy.csv").read_bytes()
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


def test_several_workers_measure_the_same() -> None:
    # A function of Python itself: workers need not import this file.
    jobs = [Job({"number": n}, functools.partial(list, [{"value": float(n**2)}])) for n in range(5)]
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
    assert ["toy", "A", "toy."] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert main(["--list", "--json"]) == 0
    assert {"name": "toy", "summary": "A toy."} in json.loads(capsys.readouterr().out)["figures"]
    assert main(["toy", "--redraw", "--out", str(tmp_path)]) == 2
    assert main(["toy", "--jobs", "1", "--out", str(tmp_path)]) == 130
    assert "goes on from here" in capsys.readouterr().err
    toy.broken = False
    assert main(["toy", "--quick", "--jobs", "1", "--out", str(tmp_path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["full"], record["seed"]) == (False, 0)
    [written] = record["figures"]
    for word, beginning in (("pdf", b"%PDF"), ("png", b"\x89PNG"), ("numbers", b"number,value\n"), ("settings", b"{")):
        assert Path(written[word]).read_bytes().startswith(beginning)
    for wrong in (["absent"], ["--seed", "-1"], ["--jobs", "0"], ["absent", "--list"]):
        assert main(wrong) == 2
        captured = capsys.readouterr()
        assert (captured.out, captured.err.count("\n")) == ("", 1)
    with pytest.raises(SystemExit, match="2"):
        main(["--quick", "--full"])


def test_a_missing_package_is_named(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = toy_figure()

    def absent(settings: Settings) -> list[Job]:
        raise ImportError("photograph() needs scikit-learn")

    toy.jobs = absent
    monkeypatch.setitem(FIGURES, "toy", toy)
    assert main(["toy", "--out", str(tmp_path)]) == 2
    assert "needs scikit-learn; install" in capsys.readouterr().err


def test_quick_runs_never_overwrite_full_ones() -> None:
    folders = [folder_of(Settings(full, seed)) for full in (False, True) for seed in (0, 3)]
    assert [folder.name for folder in folders] == ["out", "seed3", "full", "full-seed3"]
    assert all("out" in folder.parts for folder in folders)


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
    # What is shipped is drawn whole.
    assert len(jobs) < len(list(module.jobs(Settings(full=True)))) or full or hasattr(module, "SHIPPED")


OTHERS = ("halves", "replicability", "other_models")
FITS = [
    name
    for name, module in FIGURES.items()
    if not hasattr(module, "NETWORK") and not hasattr(module, "SHIPPED") and name not in OTHERS
]
"""Figures of fits from random starts; those of networks, and of halves of the samples, have tests of their own."""


@pytest.mark.parametrize("name", [*FITS, *(name for name in FIGURES if hasattr(FIGURES[name], "SHIPPED"))])
def test_every_figure_says_what_it_shows_and_where_it_belongs(name: str) -> None:
    text = " ".join((FIGURES[name].__doc__ or "").split())
    for needed in ("Shown: ", "Paper: ", "What differs: "):
        assert needed in text


IMAGES = Path(__file__).parents[1] / "docs" / "images"


@pytest.mark.parametrize("name", FIGURES)
def test_pictures_in_the_documentation_stand_beside_their_numbers(name: str) -> None:
    for ending in ("png", "csv", "json", "txt"):
        assert (IMAGES / f"{name}.{ending}").exists(), f"python -m paper_figures {name} --images docs/images"
    rows = Results(IMAGES, name, None).rows
    told = json.loads((IMAGES / f"{name}.json").read_text(encoding="utf-8"))
    assert told["figure"] == name
    assert len(rows) > 3
    # The caption is that of these numbers, and all of them can be drawn.
    assert (IMAGES / f"{name}.txt").read_text(encoding="utf-8").strip() == FIGURES[name].describe(rows)
    with style():
        assert FIGURES[name].draw(rows).axes


def rows_of(module: Any, starts: int = 1) -> list[dict[str, Any]]:
    """The rows of the first starts, as the runner stores them."""
    return [
        {**job.key, **row} for job in module.jobs(Settings()) if int(job.key["start"]) < starts for row in job.run()
    ]


@pytest.mark.parametrize("name", mostly_slow(sorted(FITS, key="border".__eq__, reverse=True)))
def test_every_figure_draws_what_it_measures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("sklearn", "PIL", "tensorly", "safetensors"):
        pytest.importorskip(package)
    # Runs that are cut short draw as well as whole ones.
    monkeypatch.setattr(tc, "decompose", functools.partial(tc.decompose, max_seconds=0.02))
    monkeypatch.setattr(tc, "degeneracy_profile", functools.partial(tc.degeneracy_profile, max_seconds=0.02))
    monkeypatch.setattr(success, "SWEEPS", 5)
    draw = perturbation.monte_carlo
    monkeypatch.setattr(perturbation, "monte_carlo", lambda model, sigma, _, rng: draw(model, sigma, 10, rng))
    module = FIGURES[name]
    rows = rows_of(module)
    with style():
        figure = module.draw(rows)
        figure.draw_without_rendering()
    texts = labels_of(figure)
    bars = [label for panel in figure.axes for label in panel.get_xticklabels()]
    shown = " ".join(text.get_text() for text in [*texts, *bars])
    # What is told apart in the rows is told apart in the picture.
    for column_ in ("case", "state", *(["tensor"] if name == "instability" else [])):
        for value in groups([row for row in rows if column_ in row], column_):
            word = success.label(value) if module is success else getattr(module, "KINDS", {}).get(value, value)
            assert word.split()[0] in shown
    assert "random start" in module.describe(rows)
    # Legible: nothing below 7.5 points, and nothing beyond the edge.
    assert figure.get_figwidth() == WIDTH
    for text in texts:
        box = text.get_window_extent()
        assert text.get_fontsize() >= 7.5, text.get_text()
        assert figure.bbox.x0 - 1 <= box.x0 <= box.x1 <= figure.bbox.x1 + 1, text.get_text()


def labels_of(figure: Figure) -> list[Text]:
    """All that is written in a figure but the numbers along the axes."""
    legends = [*figure.legends, *filter(None, (panel.get_legend() for panel in figure.axes))]
    texts = [*figure.texts, *(text for legend in legends for text in legend.get_texts())]
    for panel in figure.axes:
        texts += [panel.title, panel.xaxis.label, panel.yaxis.label, *panel.texts]
    return [text for text in texts if text.get_text().strip() and text.get_visible()]


def test_wilson_interval() -> None:
    for found, runs in ((0, 40), (7, 40), (40, 40), (1, 1)):
        expected = binomtest(found, runs).proportion_ci(method="wilson")
        assert_allclose(success.wilson(found, runs), (expected.low, expected.high), atol=1e-6)


def test_success_measures_the_error_of_each_method() -> None:
    for package in ("tensorly", "pyttb"):
        pytest.importorskip(package)
    for method in success.parameters(Settings())["methods"]:
        cases: list[Any] = [("cp", (2, 2, 2), 7)]
        if method != "pyttb CP-ALS":
            cases.append(("tc", (5, 5, 5), (1, 2, 2)))
        for model, sizes, rank in cases:
            [row] = success.measure(model, sizes, rank, method, (0, 1, 2))
            assert 0.0 <= row["error"] < 0.7
            assert row["seconds"] > 0.0
            assert row["tensor"] == 1


def test_cases_in_two_short_lines() -> None:
    assert success.label("7x7x7 bonds 3,3,3") == "$7^3$\nbonds 3"
    assert success.label("9x8x7 bonds 2,3,4") == "9\N{MULTIPLICATION SIGN}8\N{MULTIPLICATION SIGN}7\nbonds 2,3,4"
    assert success.label("<2,3,3> rank 15") == "<2,3,3>\nrank 15"


def test_success_gives_all_methods_the_same_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def watch(tensor: Any, model: str, rank: Any, seed: int, sweeps: int = 0) -> float:
        seen.append(tensor)
        return 1.0

    monkeypatch.setattr(success, "METHODS", {"a": watch, "b": watch})
    success.prepare.cache_clear()
    for method in ("a", "b"):
        success.measure("tc", (4, 4, 4), (2, 2, 2), method, (0, 1, 2))
    success.prepare.cache_clear()
    # The first call of each is the preparation.
    assert_allclose(seen[1], seen[3])
    assert np.abs(seen[0] - seen[1]).max() > 0.1


@pytest.mark.parametrize("constraint", [None, tc.SensitivityBound(50.0)])
def test_trace_is_the_best_so_far_in_the_optimal_gauge(constraint: Any) -> None:
    tensor = tc.datasets.border_chain((5, 5, 5), (2, 2, 2), np.random.default_rng(0)).tensor
    trace = Trace()
    fit = tc.decompose(tensor, "tc", 2, solver="path", constraint=constraint, rng=0, callback=trace)
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


def test_curves_interpolate_between_kept_iterates() -> None:
    rows = [{"iteration": i, "error": e} for i, e in ((0, 1.0), (1, 0.5), (9, 0.1))]
    values = spread(rows, "error")
    assert_allclose(values[[0, 1, 9]], [1.0, 0.5, 0.1])
    # Halfway between 2 and 10 on a logarithmic axis, which begins with 1.
    assert_allclose(np.interp(np.log(np.sqrt(20.0)), np.log(np.arange(1, 11)), np.log(values)), np.log(np.sqrt(0.05)))


# -- perturbation ---------------------------------------------------------------------------


def test_the_curves_of_the_perturbation_agree_with_its_marks() -> None:
    rng = np.random.default_rng(1)
    model = tc.TensorChain.random((4, 5, 3), 2, rng)
    for sigma in (0.01, 0.5):
        mean, deviation = perturbation.monte_carlo(model, sigma, 400, rng)
        assert abs(mean - tc.expected_error(model, sigma)) < 5 * deviation
        # The mean is sharp enough to tell the exact curve from the first-order line, where they differ.
        assert 0.0 < deviation < 0.1 * mean
    assert mean > 1.3 * tc.first_order_error(model, 0.5)


def test_the_three_states_have_one_error_and_falling_sensitivity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perturbation, "solver", lambda full: tc.ALS(max_iter=100))
    tensor = tc.datasets.border_chain((7, 7, 7), (3, 3, 3), np.random.default_rng(0)).tensor
    plain, gauged, corrected = perturbation.states(tensor, "tc", (3, 3, 3), Settings(), 0)
    assert_allclose(gauged.full(), plain.full(), atol=1e-7)
    error = np.linalg.norm(tensor - plain.full())
    assert np.linalg.norm(tensor - corrected.full()) <= error * (1 + 1e-5)
    assert corrected.sensitivity() < 0.9 * gauged.sensitivity()
    assert gauged.sensitivity() < plain.sensitivity()


# -- equal size, and block terms --------------------------------------------------------------


def test_budgets_count_parameters() -> None:
    for bonds, shape in (((2, 3, 4), (5, 6, 7)), ((1, 2, 2, 3), (3, 4, 5, 2))):
        assert equal.budget(bonds, shape) == tc.TensorChain.random(shape, bonds, 0).n_parameters


@pytest.mark.parametrize("name", ["cp", "tucker", "btd"])
def test_ranks_within_a_budget(name: str) -> None:
    tensor = np.random.default_rng(0).standard_normal((5, 6, 7))
    model = {"cp": tc.CP, "tucker": tc.Tucker, "btd": tc.BlockTerm}[name]
    for parameters in (90, 120, 200):
        rank = equal.rank_within(name, tensor, parameters)
        size = model.random(tensor.shape, rank, 0).n_parameters
        assert 0.7 * parameters <= size <= parameters
    with pytest.raises(ValueError, match="too few"):
        equal.rank_within(name, tensor, 5)
    with pytest.raises(ValueError, match="'cp', 'tucker' or 'btd'"):
        equal.rank_within("tt", tensor, 100)


def test_tail_energies_are_those_of_the_unfoldings() -> None:
    tensor = np.random.default_rng(0).standard_normal((4, 5, 6))
    for mode in range(3):
        values = np.linalg.svd(np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1), compute_uv=False)
        expected = [np.sum(values[r:] ** 2) for r in range(len(values) + 1)]
        assert_allclose(equal.tail_energies(tensor, mode), expected, rtol=1e-10, atol=1e-12)


def test_the_chosen_rank_finds_what_was_planted() -> None:
    planted = tc.datasets.exact_tucker((6, 7, 8), (2, 3, 4), np.random.default_rng(0))
    assert equal.rank_within("tucker", planted.tensor, planted.model.n_parameters) == (2, 3, 4)


@pytest.mark.parametrize("bonds", [(2, 2, 2), (3, 2, 4), (2, 3, 3)])
def test_a_chain_without_sharing_is_the_same_tensor(bonds: Any) -> None:
    chain = tc.TensorChain.random((5, 6, 7), bonds, 0)
    terms = shared_core.without_sharing(chain)
    assert_allclose(terms.full(), chain.full(), atol=1e-12)
    left, right = bonds[1:]
    assert terms.rank == [(left, min(6, left * right), right)] * bonds[0]


def test_freed_cores_are_never_worse_than_the_chain() -> None:
    for job in list(shared_core.jobs(Settings()))[:1]:
        rows = {row["method"]: row for row in job.run()}
        assert rows[shared_core.SAME]["error"] == pytest.approx(rows[shared_core.CHAIN]["error"], rel=1e-6)
        assert rows[shared_core.FREE]["error"] < rows[shared_core.CHAIN]["error"]
        assert rows[shared_core.EQUAL]["parameters"] <= rows[shared_core.CHAIN]["parameters"]
        assert rows[shared_core.FREE]["parameters"] > rows[shared_core.CHAIN]["parameters"]


@pytest.mark.parametrize("full", [False, True], ids=["quick", "full"])
def test_ranks_suit_the_tensors_of_every_size(full: bool) -> None:
    for package in ("sklearn", "PIL", "tensorly", "safetensors"):
        pytest.importorskip(package)
    settings = Settings(full=full)
    for case, (model, rank) in perturbation.parameters(settings)["cases"].items():
        tc.Model.registry[model].wiring(data.load(case, settings).shape, rank)
    for case, bonds in trade_off.parameters(settings)["cases"].items():
        tc.Model.registry["tc"].wiring(data.load(case, settings).shape, bonds)
    for case in shared_core.parameters(settings)["cases"]:
        assert shared_core.tensor_of(case, settings).ndim == 3


# -- trade-off --------------------------------------------------------------------------------


def test_what_another_beats_in_both_is_no_part_of_the_curve() -> None:
    pairs = [(1, 5), (2, 3), (2, 4), (3, 3.5), (4, 1), (5, 1), (0.5, 9)]
    rows = [{"sensitivity": s, "error": e} for s, e in pairs]
    front = trade_off.unbeaten(rows)
    assert [(row["sensitivity"], row["error"]) for row in front] == [(0.5, 9), (1, 5), (2, 3), (4, 1)]


def test_trade_off_measures_in_the_scale_of_norm_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = 7.0 * tc.datasets.inverse_radius(order=3, size=5)
    monkeypatch.setattr(trade_off, "load", lambda case, settings: tensor)
    monkeypatch.setattr(trade_off, "QUICK", {"a": (2, 2, 2)})
    *stages, plain = trade_off.measure("a", "cp", Settings(), 0)
    rank = 60 // 15
    fit = tc.decompose(tensor / np.linalg.norm(tensor), "cp", rank, solver=trade_off.solver(False), rng=0)
    assert (plain["method"], plain["parameters"]) == ("ALS", 60)
    assert plain["error"] == pytest.approx(fit.error, rel=1e-6)
    assert plain["sensitivity"] == pytest.approx(fit.sensitivity, rel=1e-4)
    assert {row["method"] for row in stages} == {"path"}
    assert stages[0]["penalty"] > stages[-1]["penalty"]
    assert stages[0]["error"] > stages[-1]["error"]


# -- data -------------------------------------------------------------------------------------


def test_kernels_are_read_as_inputs_taps_outputs(tmp_path: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    kernel = np.random.default_rng(0).standard_normal((5, 4, 3, 3)).astype(np.float32)
    numpy.save_file({"conv.weight": kernel, "bias": np.zeros(5, dtype=np.float32)}, tmp_path / "w.safetensors")
    tensor = data.kernel(tmp_path / "w.safetensors", "conv.weight")
    assert (tensor.shape, tensor.dtype) == ((4, 9, 5), np.float64)
    assert tensor[1, 3 * 2 + 1, 4] == kernel[4, 1, 2, 1]
    with pytest.raises(KeyError, match=r"it has conv\.weight"):
        data.kernel(tmp_path / "w.safetensors", "fc.weight")


def test_tensors_whose_data_are_missing_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("border tensor", "photograph", "fluorescence", "trained kernel")
    monkeypatch.setattr(data, "find_spec", lambda package: None if package == "sklearn" else object())
    monkeypatch.setattr(data, "WEIGHTS", Path("nowhere"))
    assert data.available(names) == ("border tensor", "fluorescence")
    with pytest.raises(ValueError, match="'ocean'"):
        data.load("ocean", Settings())


# -- style ------------------------------------------------------------------------------------


def test_short_axes_get_labels_and_long_ones_powers_of_ten() -> None:
    figure = Figure()
    panel = figure.subplots()
    panel.plot([10.0, 30.0], [1.0, 1e6])
    few_ticks(panel)
    figure.draw_without_rendering()
    labels = [[text.get_text() for text in axis.get_ticklabels()] for axis in (panel.xaxis, panel.yaxis)]
    assert "20" in labels[0]
    assert len(labels[1]) <= 12
    assert any("10^{" in text for text in labels[1])


def test_ranks_in_few_characters() -> None:
    assert rank_text(5) == "5"
    assert rank_text((3, 3)) == "(3,3)"
    assert rank_text([(2, 2), (2, 2)]) == "2\N{MULTIPLICATION SIGN}(2,2)"
    assert rank_text([(2, 2), (1, 2)]) == "[(2,2),(1,2)]"
