"""Rank studies: figures against independent computation, the rule, resumption, and data of every class."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.cli import main
from tensorchain.folds import Entries
from tensorchain.models.growth import grown_to
from tensorchain.models.validation import checked_wiring
from tensorchain.selection import RankRow, StudyStep
from tensorchain.selection.fits import determined
from tensorchain.selection.progress import StudyProgress
from tensorchain.selection.quick import Quick
from tensorchain.selection.rule import judge
from tests.cases import mostly_slow

SHAPE = (9, 8, 7)
QUICK: dict[str, Any] = {"starts": 1, "folds": 3, "splits": 1, "rng": 0}
FEW: dict[str, Any] = {"starts": 2, "folds": 2, "splits": 1, "rng": 0, "solver": tc.ALS(max_iter=20)}
"""Where the mechanics are tested, and not what is found."""


def planted(rank: int = 2, noise: float = 0.1, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Any:
    return tc.datasets.exact_cp(shape, rank, np.random.default_rng(seed), noise=noise).tensor


@pytest.fixture(scope="module")
def study() -> tc.RankStudy:
    return tc.rank_study(planted(), "cp", range(1, 4), starts=2, folds=4, splits=1, rng=7)


# -- figures --------------------------------------------------------------------------------


def test_figures_are_those_of_the_fits(study: tc.RankStudy) -> None:
    T = planted()
    free = [rank * (sum(SHAPE) - 2) for rank in (1, 2, 3)]
    errors = [1.0]
    for row, parameters, before in zip(study.rows, free, [0, *free], strict=False):
        X = row.fit.model.full()
        errors.append(float(np.linalg.norm(T - X) / np.linalg.norm(T)))
        assert row.error == pytest.approx(errors[-1], rel=1e-9)
        assert row.parameters == row.rank * sum(SHAPE)
        assert row.core_consistency == pytest.approx(tc.core_consistency(row.fit.model, T))
        assert row.sensitivity == pytest.approx(tc.sensitivity(row.fit.model, relative=True))
        explained = (errors[-2] ** 2 - errors[-1] ** 2) / (parameters - before)
        assert row.gain == pytest.approx(explained / (errors[-1] ** 2 / (T.size - parameters)), rel=1e-6)
        assert row.held_out == pytest.approx(np.mean(row.held_out_errors))
        assert row.held_out_standard_error == pytest.approx(np.std(row.held_out_errors, ddof=1) / 2.0)


def test_held_out_error_by_hand(study: tc.RankStudy) -> None:
    T = planted()
    # The folds are those of `cross_validate` with the same seed.
    member = np.random.default_rng(study.seed).permutation(np.arange(T.size) % 4).reshape(SHAPE)
    assert study.seed == 7
    for f in range(4):
        fit = tc.decompose(tc.Masked(T, member != f), "cp", 2, rng=0)
        out = member == f
        held = np.linalg.norm((T - fit.model.full())[out]) / np.linalg.norm(T[out])
        assert study[2].held_out_errors[f] == pytest.approx(held, rel=1e-3)
    crossed = tc.cross_validate(T, "cp", 2, folds=4, solver=Quick(), rng=7)
    assert study[2].held_out_errors == pytest.approx(crossed.errors, rel=1e-3)


def test_halves_share_all_modes_but_one(study: tc.RankStudy) -> None:
    T = planted()
    pair = Entries.of(tc.Dense(T)).halves(0, np.random.default_rng(3))
    assert pair is not None
    one, two = (half.to_dense() for half in pair)
    assert (len(one), len(two)) == (4, 5)
    rows = {tuple(row.ravel()) for row in T}
    assert {tuple(row.ravel()) for half in (one, two) for row in half} == rows
    fits = [tc.decompose(half, "cp", 2, rng=0).model for half in (one, two)]
    assert min(tc.factor_match(*fits, [1, 2]).components) > 0.95
    assert study[2].halves_match > 0.95
    assert study[3].halves_match < 0.8
    assert study.split_mode == 0


def test_components_of_a_match() -> None:
    model = tc.CP.random((5, 6, 7), 3, rng=0)
    factors = [factor.copy() for factor in model.factors]
    factors[0][:, 1] = np.random.default_rng(1).standard_normal(5)
    match = tc.factor_match(tc.CP([factor[:, [2, 0, 1]] for factor in factors]), model)
    assert match.components[:2] == pytest.approx((1.0, 1.0))
    a, b = factors[0][:, 1], model.factors[0][:, 1]
    cosine = abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b)
    assert match.components[2] == pytest.approx(cosine)
    assert match.score == pytest.approx(np.mean(match.components))
    assert tc.factor_match(model, tc.CP.random((5, 6, 7), 2, rng=0)).components.count(0.0) == 1
    assert tc.factor_match(*(tc.Tucker.random((5, 6, 7), (2, 2, 2), rng=0),) * 2).components == ()


# -- the recommendation -----------------------------------------------------------------------


@pytest.mark.parametrize("rank", mostly_slow([2, 1, 4], 2))
def test_planted_ranks(rank: int) -> None:
    shape = (12, 11, 10)
    study = tc.rank_study(planted(rank, 0.1, rank, shape), "cp", range(max(1, rank - 1), rank + 2), **QUICK)
    assert study.recommended == rank
    assert study.clear
    assert study.fit is study[rank].fit
    assert study.conclusion() == f"rank {rank}"
    assert study.evidence[0].startswith(f"{rank}: least held-out error")


@pytest.mark.parametrize(
    ("model", "truth", "ranks", "right"),
    mostly_slow(
        [
            ("tucker", tc.Tucker.random(SHAPE, (2, 3, 2), rng=1), [(2, 2, 2), (3, 3, 3), (2, 3, 2), 1], (2, 3, 2)),
            ("tt", tc.TensorChain.random(SHAPE, (1, 3, 2), rng=1), [1, (2, 2), (3, 2), (3, 3)], (3, 2)),
            ("tc", tc.TensorChain.random((6, 7, 6), 2, rng=1), [2, 1], 2),
            ("btd", tc.BlockTerm.random((6, 5, 6), [(2, 1, 2)] * 2, rng=2), [[(2, 1, 2)], [(2, 1, 2)] * 2], None),
        ],
        3,
    ),
)
def test_other_models_by_held_out_error(model: str, truth: Any, ranks: list[Any], right: Any) -> None:
    clean = truth.full()
    noise = np.random.default_rng(0).standard_normal(clean.shape)
    T = clean + 0.05 * np.linalg.norm(clean) / np.linalg.norm(noise) * noise
    study = tc.rank_study(T, model, ranks, starts=1, folds=3 if model[0] == "t" else 2, splits=0, rng=0)
    assert study.recommended == (right or ranks[-1])
    # What is recommended can be asked for.
    again = tc.decompose(T, model, study.recommended, rng=0)
    assert again.model.n_parameters == study[study.recommended].parameters
    sizes = [row.parameters for row in study]
    assert sizes == sorted(sizes)


def test_the_largest_rank_is_no_end() -> None:
    study = tc.rank_study(planted(4, 0.05), "cp", [1, 2], **QUICK)
    assert study.recommended == 2
    assert not study.clear
    assert study.conclusion() == "not clear: 2 or more"
    assert "study larger ones" in study.evidence[-1]


def test_noise_alone_is_clear_at_no_rank() -> None:
    study = tc.rank_study(np.random.default_rng(0).standard_normal(SHAPE), "cp", [1, 2], **QUICK)
    assert not study.clear
    assert any("no better than zeros" in text for text in study.judgement.objections[0])
    assert any("fit of noise" in text for text in study.judgement.objections[0])


def test_exact_data_need_no_larger_rank() -> None:
    study = tc.rank_study(planted(2, 0.0), "cp", range(1, 5), **QUICK)
    assert study.recommended == 2
    assert study.clear
    assert study[2].error < 1e-7
    assert any("nothing to explain" in text for text in study.judgement.objections[2])


def row(rank: int, held: float, **figures: Any) -> RankRow:
    """A row with held-out errors of spread 0.01 around a mean, the same in all folds."""
    defaults = {
        "parameters": 10 * rank, "error": 0.9 * held, "gain": 50.0, "core_consistency": 95.0, "starts_near": 3,
        "starts_match": 0.99, "halves_match": 0.97, "sensitivity": 10.0, "reason": "CONVERGED", "seconds": 0.1,
    }  # fmt: skip
    errors = figures.pop("errors", None) or tuple(held + 0.01 * step for step in (-1, 0, 1, 0))
    fit = tc.decompose(np.ones((2, 2)), "cp", 1, rng=0)
    return RankRow(rank=rank, held_out=held, held_out_errors=errors, fit=fit, **{**defaults, **figures})


WORSE = {"halves_match": 0.2, "gain": 2.5}


def test_rule_one_candidate_is_clear() -> None:
    found = judge([row(1, 0.5), row(2, 0.1), row(3, 0.11, **WORSE)], unique=True)
    assert (found.recommended, found.clear, found.candidates) == (2, True, (2,))
    assert found.objections[1] == ()


def test_rule_several_candidates_are_not() -> None:
    # The third is better in three folds of four: within a standard error of its own difference.
    near = row(2, 0.1, errors=(0.09, 0.1, 0.11, 0.10))
    close = row(3, 0.0995, errors=(0.091, 0.1, 0.109, 0.098))
    found = judge([row(1, 0.5), near, close, row(4, 0.2, **WORSE)], unique=True)
    assert (found.recommended, found.clear, found.candidates) == (2, False, (2, 3))
    assert "one standard error" in found.evidence[0]


@pytest.mark.parametrize(
    ("figures", "fragment"),
    [
        ({"halves_match": 0.5}, "other half"),
        ({"starts_match": 0.5}, "starts"),
        ({"core_consistency": 10.0, "halves_match": math.nan}, "core consistency 10"),
        ({"reason": "DIVERGING"}, "diverges"),
    ],
)
def test_rule_predicts_well_and_does_not_replicate(figures: dict[str, Any], fragment: str) -> None:
    rows = [row(1, 0.5), row(2, 0.2), row(3, 0.1, **figures), row(4, 0.12, **figures, gain=2.0)]
    found = judge(rows, unique=True)
    assert (found.recommended, found.clear, found.candidates) == (2, False, (2, 3))
    assert any(fragment in text for text in found.objections[2])
    if fragment in ("other half", "starts"):
        # Models without unique components are judged by what they predict.
        assert judge(rows, unique=False).recommended == 3


def test_rule_halves_stand_above_core_consistency() -> None:
    # On measured data of order four and more the core consistency falls where halves still agree.
    low = {"core_consistency": -200.0}
    rows = [row(1, 0.5), row(2, 0.2, **low), row(3, 0.1, **low), row(4, 0.2, **low, **WORSE)]
    found = judge(rows, unique=True)
    assert (found.recommended, found.clear, found.candidates) == (3, False, (3,))
    blind = [dataclasses.replace(each, halves_match=math.nan) for each in rows]
    assert judge(blind, unique=True).candidates == (1, 3)


def test_rule_paired_differences_and_outliers() -> None:
    # Folds of unequal difficulty: 0.002 above in each of them is clear, far below the spread of the folds.
    base = (0.1, 0.2, 0.3, 0.4)
    above = tuple(value + 0.002 + 0.0005 * step for value, step in zip(base, (1, -1, 1, -1), strict=True))
    found = judge([row(2, 0.25, errors=base), row(3, 0.252, errors=above, gain=9.0)], unique=True)
    assert "standard errors above" in found.objections[1][0]
    # One fold alone far off has a standard error as large as its distance.
    wild = (0.0999, 0.0999, 0.0999, 5.0)
    found = judge([row(2, 0.1, errors=(0.1,) * 4), row(3, float(np.mean(wild)), errors=wild, gain=9.0)], unique=True)
    assert "the least is 0.1" in found.objections[1][0]


# -- what comes in ----------------------------------------------------------------------------


def test_classes_of_data_agree() -> None:
    T = planted(2, 0.05)
    seen = np.random.default_rng(1).random(SHAPE) < 0.85
    masked = tc.rank_study(tc.Masked(T, seen), "cp", [1, 2], **FEW)
    listed = tc.rank_study(tc.Observed(np.argwhere(seen), T[seen], SHAPE), "cp", [1, 2], **FEW)
    assert [r.held_out for r in masked] == pytest.approx([r.held_out for r in listed], rel=1e-3)
    dense = tc.rank_study(T, "cp", [1, 2], **FEW)
    others = (tc.Sparse(np.argwhere(np.ones(SHAPE)), T.ravel(), SHAPE), 1e60 * T, T.astype(np.float32))
    for data in others:
        found = tc.rank_study(data, "cp", [1, 2], **FEW)
        assert [r.held_out for r in found] == pytest.approx([r.held_out for r in dense], rel=1e-3)


@pytest.mark.slow
def test_masked_and_complex_data() -> None:
    T = planted(2, 0.05)
    seen = np.random.default_rng(1).random(SHAPE) < 0.85
    assert tc.rank_study(tc.Masked(T, seen), "cp", [1, 2, 3], **QUICK).recommended == 2
    assert tc.rank_study(T * (1 + 1j), "cp", [1, 2], **QUICK)[2].held_out < 0.1


def test_constraints_hold_for_every_fit() -> None:
    rng = np.random.default_rng(0)
    truth = tc.CP([rng.uniform(size=(n, 2)) for n in SHAPE]).full()
    T = truth + 0.02 * rng.standard_normal(SHAPE)
    study = tc.rank_study(T, "cp", [1, 2, 3], constraint=tc.NonNegative(), **QUICK)
    assert study.recommended == 2
    assert all(matrix.min() >= 0.0 for r in study for matrix in r.fit.model.matrices)


@pytest.mark.slow
def test_halves_where_they_say_something() -> None:
    assert determined(tc.CP, (4, 4, 4), 5)
    assert not determined(tc.CP, (3, 4, 4), 5)
    assert not determined(tc.CP, (8, 8), 2)
    assert not determined(tc.Tucker, (4, 8, 8), (5, 5, 5))
    wide = tc.rank_study(planted(2, 0.1, shape=(8, 8, 8)), "tucker", [[2, 2, 2], np.array([5, 5, 5])], **FEW)
    assert wide[(2, 2, 2)].halves_match > 0.9
    assert math.isnan(wide[(5, 5, 5)].halves_match)
    # Too short to be halved, or a matrix, whose components are not unique.
    short = tc.rank_study(planted(2, 0.1, shape=(3, 3, 3, 3)), "cp", [1, 2], **FEW)
    assert short.splits == 0
    matrix = tc.rank_study(planted(2, 0.1, shape=(9, 8)), "cp", [1, 2, 3], **QUICK)
    assert math.isnan(matrix[2].halves_match)
    assert math.isnan(matrix[2].starts_match)
    assert matrix.recommended == 2


@pytest.mark.parametrize(
    ("changed", "error", "fragment"),
    [
        ({"ranks": []}, ValueError, "empty"),
        ({"ranks": 3}, TypeError, "range"),
        ({"ranks": [0]}, ValueError, "at least 1"),
        ({"ranks": [200]}, ValueError, "lower the rank"),
        ({"folds": 1}, ValueError, "folds"),
        ({"starts": 0}, ValueError, "starts"),
        ({"splits": -1}, ValueError, "splits"),
        ({"split_mode": 3}, ValueError, "split_mode"),
        ({"jobs": 0}, ValueError, "jobs"),
        ({"max_seconds": -1}, ValueError, "max_seconds"),
        ({"model": "nothing"}, ValueError, "unknown"),
        ({"model": 5}, TypeError, "name or a subclass"),
        ({"rank": 3}, TypeError, "ranks=range"),
        ({"seed": 3}, TypeError, "rng=0"),
        ({"checkpoint": "absent/run"}, ValueError, "no folder"),
    ],
)
def test_errors_say_how_to_mend(changed: dict[str, Any], error: Any, fragment: str) -> None:
    keywords = {"model": "cp", "ranks": [1, 2], **changed}
    with pytest.raises(error, match=fragment):
        tc.rank_study(planted(), keywords.pop("model"), keywords.pop("ranks"), **keywords)


def test_data_without_folds_are_refused() -> None:
    class Endless(tc.Dense):
        pass

    with pytest.raises(TypeError, match="cannot be divided"):
        tc.rank_study(tc.Lazy(planted()), "cp", [1], **FEW)
    assert tc.rank_study(Endless(planted()), "cp", [1], **FEW).rows


# -- how it runs -------------------------------------------------------------------------------


def figures(study: tc.RankStudy) -> list[Any]:
    rows = [dataclasses.replace(r, seconds=0.0) for r in study]
    return [[str(getattr(r, f.name)) for f in dataclasses.fields(r) if f.name != "fit"] for r in rows]


@pytest.mark.slow
def test_resumed_studies_are_the_same(tmp_path: Path) -> None:
    T, file = planted(), tmp_path / "study"
    whole = tc.rank_study(T, "cp", range(1, 4), **QUICK)
    first = tc.rank_study(T, "cp", range(1, 3), checkpoint=file, **QUICK)
    assert figures(first) == figures(whole)[:2]
    done: list[StudyStep] = []
    again = tc.rank_study(T, "cp", range(1, 4), checkpoint=file, callback=done.append, **QUICK)
    assert figures(again) == figures(whole)
    # Finished ranks are not fitted again.
    assert {step.number for step in done} == {2}
    assert np.array_equal(again[2].fit.model.full(), whole[2].fit.model.full())
    assert again.recommended == whole.recommended
    done.clear()
    assert figures(tc.rank_study(T, "cp", range(1, 4), checkpoint=file, callback=done.append, **QUICK)) == figures(
        whole
    )
    assert not done


def test_checkpoints_of_other_studies_are_refused(tmp_path: Path) -> None:
    T, file = planted(), tmp_path / "study"
    small = {"starts": 1, "folds": 2, "splits": 0}
    tc.rank_study(T, "tucker", [1, (2, 2, 2)], checkpoint=file, rng=0, **small)
    for data, model, ranks, more in (
        (T + 1, "tucker", [1, (2, 2, 2)], small),
        (T, "cp", [1, 2], small),
        (T, "tucker", [(2, 2, 2)], small),
        (T, "tucker", [1], small),
        (T, "tucker", [1, (2, 2, 2)], {**small, "folds": 3}),
    ):
        with pytest.raises(ValueError, match="another file"):
            tc.rank_study(data, model, ranks, checkpoint=file, rng=0, **more)
    content = file.read_bytes()
    for damage in (content[: len(content) // 2], content[:900] + b"x" + content[901:], b"no archive"):
        file.write_bytes(damage)
        with pytest.raises(ValueError, match="delete it"):
            tc.rank_study(T, "tucker", [1, (2, 2, 2)], checkpoint=file, rng=0, **small)


def test_seeds_workers_and_limits() -> None:
    T = planted()
    one, two = (tc.rank_study(T, "cp", [1, 2], **FEW) for _ in range(2))
    assert figures(one) == figures(two)
    assert figures(tc.rank_study(T, "cp", [1, 2], **{**FEW, "rng": 1})) != figures(one)
    drawn = tc.rank_study(T, "cp", [1], **{**FEW, "rng": np.random.default_rng(3)})
    assert figures(drawn) == figures(tc.rank_study(T, "cp", [1], **{**FEW, "rng": drawn.seed}))
    short = tc.rank_study(T, "cp", [1, 2, 3], max_seconds=1e-6, **FEW)
    assert len(short) == 1
    assert not short.complete
    assert "unfinished" in repr(short)
    stopped = tc.rank_study(T, "cp", [1, 2, 3], callback=lambda step: step.number == 1, **FEW)
    assert [r.rank for r in stopped] == [1]
    # The first rank is finished in any case.
    assert len(tc.rank_study(T, "cp", [1, 2], callback=lambda step: True, **FEW)) == 1


def test_workers_find_the_same() -> None:
    pytest.importorskip("joblib")
    import joblib

    T = planted()
    steps: list[StudyStep] = []
    with joblib.parallel_config("threading"):
        shared = tc.rank_study(T, "cp", [1, 2], jobs=2, callback=steps.append, **FEW)
    assert [r.held_out for r in shared] == pytest.approx([r.held_out for r in tc.rank_study(T, "cp", [1, 2], **FEW)])
    assert [step.number for step in steps] == [0, 1]


def test_models_grow_to_a_rank() -> None:
    rng = np.random.default_rng(0)
    for model, rank in (
        (tc.CP.random((4, 5, 6), 2, rng=0), 4),
        (tc.TensorChain.random((4, 5, 6), (1, 2, 2), rng=0), (1, 3, 4)),
        (tc.BlockTerm.random((4, 5, 6), [(2, 1, 2)], rng=0), [(2, 2, 2), (1, 2, 1)]),
    ):
        network = checked_wiring(type(model), model.shape, rank)
        grown = grown_to(model, network, rng)
        assert grown.network == network
        assert 0 < np.linalg.norm(grown.full() - model.full()) < 0.5 * np.linalg.norm(model.full())


# -- what is shown -----------------------------------------------------------------------------


def test_table_words_and_records(study: tc.RankStudy) -> None:
    lines = repr(study).splitlines()
    assert lines[0] == "Ranks of a CP, 9 x 8 x 7: 2 starts, 4 folds, 1 splits of mode 0"
    assert [line.split()[0] for line in lines[2:5]] == ["1", "2", "3"]
    assert lines[5].split() == ["recommended", "rank", "2"]
    assert len(set(map(len, lines[1:5]))) == 1
    html = study._repr_html_()
    assert html.count("<tr>") == 4 + len(study.report())
    assert html.count('font-weight:600">') >= 10
    json.dumps(study.to_dict())
    with pytest.raises(KeyError, match="there are 1, 2, 3"):
        study[9]
    pd = pytest.importorskip("pandas")
    frame = study.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert frame["held_out"].tolist() == [r.held_out for r in study]


def test_plot(study: tc.RankStudy) -> None:
    plt = pytest.importorskip("matplotlib.pyplot")
    figure, own = plt.subplots()
    axes = study.plot(ax=own)
    assert axes is own
    drawn = axes.get_lines()[0].get_ydata()
    assert drawn == pytest.approx([r.error for r in study])
    assert "rank 2" in axes.get_title()
    [other] = [each for each in figure.axes if each is not own]
    assert other.get_lines()[0].get_ydata() == pytest.approx([r.halves_match for r in study])
    plt.close(figure)


def test_progress_in_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with StudyProgress(stream=stream) as shown:
        tc.rank_study(planted(), "cp", [1, 2], callback=shown, **FEW)
    assert "rank 2 (2 of 2)  fit 6 of 6" in stream.getvalue()


# -- on the command line -----------------------------------------------------------------------


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("data.npy", planted())
    base = ["rank-study", "data.npy", "--model", "cp", "--starts", "1", "--folds", "3", "--splits", "1"]
    assert main([*base, "--ranks", "1-3", "--out", "study.html", "--progress", "log", "--checkpoint", "run"]) == 0
    out, err = capsys.readouterr()
    assert "recommended" in out
    assert "rank 2" in out
    assert [line.split()[1] for line in err.splitlines()] == ["1", "2", "3"]
    assert "<table>" in Path("study.html").read_text()
    assert main([*base, "--ranks", "1,2,3", "--json", "--checkpoint", "run", "--out", "study.csv"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["recommended"] == 2
    assert [r["rank"] for r in record["ranks"]] == [1, 2, 3]
    expected = tc.rank_study(planted(), "cp", [1, 2, 3], **QUICK)
    assert [r["held_out"] for r in record["ranks"]] == pytest.approx([r.held_out for r in expected], rel=1e-6)
    table = Path("study.csv").read_text().splitlines()
    assert len(table) == 4
    assert float(table[2].split(",")[2]) == pytest.approx(record["ranks"][1]["error"])
    for bad, fragment in (
        (["--ranks", "3-1"], "no range"),
        (["--ranks", "x"], "no rank"),
        (["--ranks", "1-2", "--folds", "1"], "folds"),
        (["--ranks", "1-2", "--out", "study.txt"], "must end in"),
        (["--ranks", "1-2", "--out", "data.npy"], "must end in"),
        (["--ranks", "1-2", "--checkpoint", "data.npy"], "is read"),
        (["--ranks", "300"], "lower the rank"),
    ):
        assert main([*base, *bad]) == 2
        assert fragment in capsys.readouterr().err


@pytest.mark.slow
def test_command_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    np.save("data.npy", planted())
    base = ["rank-study", "data.npy", "--model", "tucker", "--starts", "1", "--folds", "2", "--splits", "0"]
    assert main([*base, "--ranks", "1,1,1 2,2,2", "--out", "study.png"]) == 0
    assert "(2, 2, 2)" in capsys.readouterr().out
    assert Path("study.png").read_bytes().startswith(b"\x89PNG")
