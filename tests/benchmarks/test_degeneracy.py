"""The benchmark on degenerate tensors: its quick form, resuming, limits, and its profiles on rows made by hand."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

import tensorchain as tc
from benchmarks.degeneracy import methods as methods_module
from benchmarks.degeneracy.__main__ import main
from benchmarks.degeneracy.figures import STYLES, data_profile, rates, sensitivity_profile, successes, summary
from benchmarks.degeneracy.methods import ALL, Method, Outcome, attempt, methods
from benchmarks.degeneracy.problems import BORDER, EXACT, suite
from benchmarks.degeneracy.runner import Row, Table, Task, execute, read, run_all, tasks

mpl.use("Agg")

ROW = Row(
    problem="p", family="exact", model="cp", method="LM", package="tensorchain", seed=0, limit=1.0, target=1e-6,
    error=1e-9, sensitivity=10.0, gauged_sensitivity=9.0, relative_sensitivity=1.0, seconds=2.0, reached=1.0,
    iterations=5, stopped="EXACT",
)  # fmt: skip


# -- the suite and the methods ----------------------------------------------------------------


def test_problems_are_what_they_say() -> None:
    problems = suite()
    assert len({problem.name for problem in problems}) == len(problems) >= 25
    assert {problem.model for problem in problems} == set(ALL)
    for problem in problems:
        tensor = problem.make(0)
        assert np.array_equal(tensor, problem.make(0))
        assert np.array_equal(tensor, problem.make(1)) != problem.random
        kind = tc.Model.registry[problem.model]
        assert kind.random(tensor.shape, problem.rank, 0).shape == tensor.shape
        if problem.family == "border":
            assert problem.target == BORDER
        if problem.family in ("exact", "collinear", "matmul"):
            assert problem.target == EXACT


def test_noisy_targets_are_above_the_planted_error() -> None:
    for problem in suite():
        if problem.family == "noisy":
            assert problem.target is not None
            planted = tc.datasets.exact_cp((8, 8, 8), 4, np.random.default_rng((7, 0)), noise=0.05)
            truth = np.linalg.norm(planted.tensor - planted.model.full()) / np.linalg.norm(planted.tensor)
            assert truth < problem.target < 1.05 * truth


def test_every_method_has_a_style_and_a_name_of_its_own() -> None:
    names = [method.name for method in methods()]
    assert len(set(names)) == len(names)
    assert set(names) <= set(STYLES)


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_every_method_returns_a_model_of_the_right_kind(method: Method) -> None:
    for model in method.models:
        # The ring SVD needs R_1 R_2 <= I_1.
        name = "tc 5^4 (2,2,2,2)" if model == "tc" else model
        problem = next(p for p in suite() if p.name.startswith(name) and p.family == "exact")
        tensor = problem.make(0)
        outcome, seconds = attempt(method, problem, tensor, 0, 0.05)
        assert seconds < 10.0
        if outcome.model is None:
            assert outcome.stopped == "TIME_LIMIT"
            continue
        assert outcome.model.shape == tensor.shape
        assert type(outcome.model) is tc.Model.registry[model]
        assert np.linalg.norm(outcome.model.full() - tensor) < 2.0 * np.linalg.norm(tensor)
        if outcome.reached is not None:
            assert 0.0 <= outcome.reached <= seconds


def test_scipy_gets_the_gradient_and_jacobian_of_its_function() -> None:
    problem = next(p for p in suite() if p.name == "tc 7x7x7 (3,3,3)")
    flat = methods_module._Flat(problem, problem.make(0), np.random.default_rng(0), 100.0)
    point, step = flat.best, 1e-6
    rng = np.random.default_rng(1)
    _, gradient = flat.value_and_gradient(point)
    matrix = flat.jacobian(point)
    for _ in range(3):
        direction = rng.standard_normal(point.shape)
        up, down = point + step * direction, point - step * direction
        slope = (flat.value_and_gradient(up)[0] - flat.value_and_gradient(down)[0]) / (2.0 * step)
        assert slope == pytest.approx(float(gradient @ direction), rel=1e-5)
        change = (flat.residual(up) - flat.residual(down)) / (2.0 * step)
        assert np.linalg.norm(change - matrix @ direction) < 1e-5 * np.linalg.norm(change)


def test_weights_of_a_peer_are_shared_by_the_factors() -> None:
    rng = np.random.default_rng(0)
    factors = [rng.standard_normal((size, 2)) for size in (3, 4, 5)]
    model = methods_module._weighted(np.array([-2.0, 3.0]), factors)
    expected = np.einsum("r,ir,jr,kr->ijk", [-2.0, 3.0], *factors)
    assert np.allclose(model.full(), expected)


def _method(run: Any) -> Method:
    return Method("LM", "tensorchain", ("cp",), run, "tensorchain")


def test_failures_and_endless_runs_become_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = suite()[0]
    tensor = problem.make(0)

    def fails(*_: Any) -> Outcome:
        raise np.linalg.LinAlgError("Singular matrix\nand more")

    def endless(*_: Any) -> Outcome:
        while True:
            time.sleep(0.01)

    outcome, _ = attempt(_method(fails), problem, tensor, 0, 1.0)
    assert outcome == Outcome(None, "LinAlgError: Singular matrix")
    monkeypatch.setattr(methods_module, "GRACE", 0.2)
    outcome, seconds = attempt(_method(endless), problem, tensor, 0, 0.1)
    assert outcome == Outcome(None, "TIME_LIMIT")
    assert 0.4 <= seconds < 10.0


# -- the table --------------------------------------------------------------------------------


def test_the_table_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "runs.csv"
    table = Table(path)
    rows = [ROW, replace(ROW, seed=1, target=math.nan, error=math.nan, stopped="a, 'quoted' \"text\"")]
    for row in rows:
        table.add(row)
    table.write()
    assert [file.name for file in path.parent.iterdir()] == ["runs.csv"]
    again = read(path)
    assert again[0] == ROW
    assert repr(again[1]) == repr(rows[1])


def test_rows_that_are_there_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Task] = []

    def fake(task: Task) -> Row:
        calls.append(task)
        return replace(ROW, problem=task.problem, method=task.method, seed=task.seed, limit=task.limit)

    monkeypatch.setattr("benchmarks.degeneracy.runner.execute", fake)
    seen: list[tuple[int, int]] = []
    wanted = [Task("p", "LM", seed, 1.0) for seed in range(3)]
    table = Table(tmp_path / "runs.csv")
    run_all(wanted[:2], table, 1, lambda done, total, task: seen.append((done, total)))
    rows = run_all(wanted, Table(tmp_path / "runs.csv"), 1, lambda done, total, task: seen.append((done, total)))
    assert [task.seed for task in calls] == [0, 1, 2]
    assert [row.seed for row in rows] == [0, 1, 2]
    assert seen == [(0, 2), (1, 2), (2, 2), (2, 3), (3, 3)]
    # Another limit is another run.
    run_all([Task("p", "LM", 0, 5.0)], Table(tmp_path / "runs.csv"), 1, lambda *_: None)
    assert calls[-1].limit == 5.0


def test_a_run_that_is_killed_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(task: Task) -> Row:
        if task.seed == 1:
            raise KeyboardInterrupt
        return replace(ROW, seed=task.seed)

    monkeypatch.setattr("benchmarks.degeneracy.runner.execute", fake)
    with pytest.raises(KeyboardInterrupt):
        run_all([Task("p", "LM", s, 1.0) for s in range(3)], Table(tmp_path / "runs.csv"), 1, lambda *_: None)
    assert [row.seed for row in read(tmp_path / "runs.csv")] == [0]


def test_tasks_pair_methods_with_the_models_they_fit() -> None:
    wanted = list(tasks(suite(), methods(), 3, 1.0))
    models = {problem.name: problem.model for problem in suite()}
    assert {task.method for task in wanted if models[task.problem] == "btd"} <= {
        method.name for method in methods() if "btd" in method.models
    }
    ring = [task for task in wanted if task.method == "ring SVD" and task.problem.startswith("matmul")]
    assert [task.seed for task in ring] == [0]


def test_a_row_measures_what_was_returned() -> None:
    row = execute(Task("cp 8x8x8 r4", "LM", 0, 5.0))
    problem = suite()[0]
    tensor = problem.make(0)
    fit = tc.decompose(tensor, "cp", 4, solver=tc.LM(max_iter=5000), rng=np.random.default_rng((11, 0)))
    assert row.error == pytest.approx(fit.error, abs=1e-12)
    assert row.sensitivity == pytest.approx(fit.sensitivity, rel=1e-9)
    assert row.gauged_sensitivity == pytest.approx(row.sensitivity, rel=1e-3)
    assert row.relative_sensitivity == pytest.approx(row.sensitivity / problem.tame_sensitivity(tensor), rel=1e-9)
    assert 0.0 < row.reached <= row.seconds


# -- success and profiles ---------------------------------------------------------------------


def rows_of(errors: Sequence[float], target: float = 1e-6) -> list[Row]:
    names = list(STYLES)
    return [replace(ROW, method=names[k], error=error, target=target) for k, error in enumerate(errors)]


def test_success_is_judged_by_the_target_or_by_the_best() -> None:
    assert successes(rows_of([1e-9, 2e-6, math.nan])) == [True, False, False]
    assert successes(rows_of([0.101, 0.1, 0.11, math.nan], target=math.nan)) == [True, True, False, False]
    # The best counts for its own tensor alone.
    other = [replace(row, seed=1) for row in rows_of([0.2], target=math.nan)]
    assert successes([*rows_of([0.1], target=math.nan), *other]) == [True, True]


def test_rates_and_summary() -> None:
    rows = [*rows_of([1e-9, 1.0]), replace(ROW, method="path", family="border", error=1.0)]
    assert rates(rows) == {"path": {"exact": (1, 1), "border": (0, 1)}, "path bounded": {"exact": (0, 1)}}
    assert [line.split() for line in summary(rows).splitlines()] == [
        ["exact", "border"],
        ["path", "1/1", "0/1"],
        ["path", "bounded", "0/1"],
    ]


def test_data_profiles_count_the_runs_that_met_the_target() -> None:
    rows = [
        replace(ROW, seed=0, reached=3.0),
        replace(ROW, seed=1, reached=math.nan, seconds=1.5),
        replace(ROW, seed=2, error=1.0),
    ]
    values, count = data_profile(rows)["LM"]
    assert values.tolist() == [1.5, 3.0]
    assert count == 3


def test_sensitivity_profiles_are_relative_to_the_best_success() -> None:
    rows = [
        replace(ROW, method="LM", sensitivity=30.0),
        replace(ROW, method="path", sensitivity=10.0),
        replace(ROW, method="ALS", sensitivity=1.0, error=1.0),
    ]
    profile = sensitivity_profile(rows)
    assert profile["LM"][0].tolist() == [3.0]
    assert profile["path"][0].tolist() == [1.0]
    assert profile["ALS"][0].tolist() == []
    assert profile["ALS"][1] == 1


# -- all of it --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_quick_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.perf_counter()
    rows = main(["--quick", "--limit", "0.4", "--jobs", "1", "--only", "cp", "--out", str(tmp_path)])
    assert time.perf_counter() - began < 60.0
    for name in ("success", "time", "sensitivity"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    with (tmp_path / "runs.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(rows) >= 10
    assert {line["package"] for line in lines} >= {"tensorchain", "SciPy"}
    exact = [row for row in rows if row.family == "exact" and row.method == "path"]
    assert any(successes(exact))
    assert "path" in capsys.readouterr().out
    # Again: nothing is left to be done.
    stamps = [line["seconds"] for line in lines]
    assert [str(row.seconds) for row in read(tmp_path / "runs.csv")] == stamps
    began = time.perf_counter()
    again = main(["--quick", "--limit", "0.4", "--jobs", "1", "--only", "cp", "--out", str(tmp_path)])
    assert [row.seconds for row in again] == [row.seconds for row in rows]


def test_an_unknown_problem_is_named() -> None:
    with pytest.raises(SystemExit, match="no problem has 'xyz'"):
        main(["--only", "xyz"])
