"""Factors from two halves of the samples: what is measured, and what the page tells of it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tensorchain as tc
from paper_figures import agreement, halves, other_models, replicability
from paper_figures.results import Settings, column, groups
from paper_figures.run import Results
from paper_figures.style import style

IMAGES = Path(__file__).parents[1] / "docs/images"
PAGE = (IMAGES.parent / "replicability.md").read_text(encoding="utf-8")


def stored(name: str) -> list[dict[str, Any]]:
    with (IMAGES / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def noisy(samples: int, seed: int, noise: float = 0.02) -> tuple[tc.CP, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = tc.CP([rng.standard_normal((size, 2)) for size in (samples, 5, 4)])
    exact = truth.full()
    return truth, exact + noise * exact.std() * rng.standard_normal(exact.shape)


def test_halves_are_all_samples_once() -> None:
    tensor = np.arange(13 * 2 * 2, dtype=float).reshape(13, 2, 2)
    one, two = agreement.halves(tensor, 3)
    assert (len(one), len(two)) == (7, 6)
    assert_allclose(np.sort(np.concatenate([one, two])[:, 0, 0]), tensor[:, 0, 0])
    assert not np.array_equal(one, agreement.halves(tensor, 4)[0])


def test_squared_norms_against_finite_differences() -> None:
    model = tc.CP.random((4, 3, 2), 2, rng=0)
    at = tc.tensors.Dense(model.full()).evaluator(model)
    quantity, change = agreement.SquaredNorms(), np.random.default_rng(1).standard_normal((3, 2))
    moved = model.with_blocks([model.blocks[0], model.blocks[1] + change, model.blocks[2]])
    after = quantity.value(tc.tensors.Dense(model.full()).evaluator(moved))
    slope = 2.0 * np.sum(quantity.block_gradient(at, 1) * change)
    assert_allclose(after, quantity.value(at) + slope + np.sum(change * (change @ quantity.curvature(at, 1).T)))


def test_fits_meet_their_errors_and_minimise_what_they_should() -> None:
    _, tensor = noisy(12, 0, noise=0.3)
    found = agreement.fits_of(tensor, 2, 1, 0)
    free = found["least error"].error
    for name, slack in {**agreement.SLACKS, "ridge": agreement.CONTROL}.items():
        assert_allclose(found[name].error, (1.0 + slack) * free, rtol=1e-4)

    def size(fit: tc.Fit) -> float:
        # The least over all scales of the columns, which the norms of the blocks depend on.
        norms = np.prod([np.linalg.norm(block, axis=0) for block in fit.model.blocks], axis=0)
        return float(np.sum(3.0 * norms ** (2.0 / 3.0)))

    ridge, mild = found["ridge"], found["1 %"]
    assert size(ridge) <= size(mild) * (1 + 1e-6)
    assert mild.sensitivity <= ridge.sensitivity * (1 + 1e-6)
    assert size(ridge) < size(found["least error"])


def test_held_out_error_against_a_dense_projection() -> None:
    truth, tensor = noisy(6, 1)
    tensor[2, 1, 3] = np.nan
    design = np.stack(
        [np.multiply.outer(b, c).ravel() for b, c in zip(truth.blocks[1].T, truth.blocks[2].T, strict=True)]
    )
    lost = size = 0.0
    for row in tensor.reshape(6, -1):
        seen = np.isfinite(row)
        part = design[:, seen]
        rest = row[seen] - np.linalg.solve(part @ part.T, part @ row[seen]) @ part
        lost, size = lost + rest @ rest, size + row[seen] @ row[seen]
    assert_allclose(agreement.held_out(truth, tensor), np.sqrt(lost / size), rtol=1e-8)


def test_planted_components_have_the_congruence_and_the_noise() -> None:
    truth, one, two = agreement.planted(0.7, 0.5, 4)
    for block in truth.blocks:
        assert_allclose(block.T @ block, 0.3 * np.eye(3) + 0.7, atol=1e-12)
    exact = truth.full()
    for tensor in (one, two):
        assert_allclose(np.linalg.norm(tensor - exact), 0.5 * np.linalg.norm(exact))
    assert np.linalg.norm(one - two) > 0.5 * np.linalg.norm(exact)


def test_rows_of_halves_and_their_null() -> None:
    _, tensor = noisy(16, 2)
    one, two = agreement.halves(tensor, 0)
    rows = replicability.compare_halves(one, two, 2, 1, 0)
    by_method = {row["method"]: row for row in rows}
    assert list(by_method) == ["least error", *agreement.SLACKS, "ridge", "ALS", "chosen", "permuted"]
    assert by_method["least error"]["match"] > 0.98 > by_method["permuted"]["match"]
    least = min(by_method[name]["held_out"] for name in replicability.CURVE)
    assert by_method["chosen"]["held_out"] == least
    # Held-out samples of a planted model are explained up to the noise.
    assert by_method["least error"]["held_out"] < 0.05


def test_interval_of_a_median() -> None:
    middle, low, high = replicability.interval([0.1, 0.2, 0.3, 0.4, 0.9])
    assert (middle, low <= middle <= high) == (0.3, True)
    assert low >= 0.1
    assert high <= 0.9
    assert replicability.interval([0.5] * 4) == (0.5, 0.5, 0.5)


def test_half_precision_moves_components_that_cancel() -> None:
    rng = np.random.default_rng(5)
    blocks = [rng.standard_normal((size, 2)) for size in (6, 5, 4)]
    plain = tc.CP(blocks)
    large = tc.CP([np.c_[block, 30.0 * extra, sign * 30.0 * extra] for block, sign, extra in cancelling(blocks, rng)])
    assert_allclose(large.full(), plain.full(), atol=1e-9)
    one, two = (halves.rounding_error(model, plain.full()) for model in (plain, large))
    assert 0.0 < one < 1e-3
    assert two > 10.0 * one


def cancelling(blocks: list[np.ndarray], rng: np.random.Generator) -> list[tuple[np.ndarray, float, np.ndarray]]:
    # Equal columns would round alike, so the scales differ from mode to mode; their product is -1.
    scales = (1.1, 1.0, -1.0 / 1.1)
    return [(block, scale, rng.standard_normal(len(block))) for block, scale in zip(blocks, scales, strict=True)]


def test_components_are_matched_and_of_one_sign() -> None:
    model = tc.CP.random((6, 5, 4), 3, rng=0)
    turned = tc.CP([model.blocks[0][:, ::-1], -model.blocks[1][:, ::-1], -model.blocks[2][:, ::-1]])
    (sizes, factor), (others, same) = halves.aligned(model, turned)
    assert_allclose(sizes, others)
    assert (np.diff(sizes) <= 0.0).all()
    assert_allclose(factor, same, atol=1e-12)
    assert_allclose(np.linalg.norm(factor, axis=0), 1.0)


@pytest.mark.parametrize("module", [replicability, halves, other_models], ids=["replicability", "halves", "other"])
def test_pictures_show_the_rows_and_stay_on_the_page(module: Any) -> None:
    name = module.__name__.rpartition(".")[2]
    rows = stored(name)
    with style():
        figure = module.draw(rows)
        figure.draw_without_rendering()
    for panel in figure.axes:
        for text in (*panel.texts, panel.title, panel.xaxis.label, *panel.get_xticklabels()):
            box = text.get_window_extent()
            if text.get_text().strip():
                assert text.get_fontsize() >= 7.0
                assert figure.bbox.x0 - 1 <= box.x0 <= box.x1 <= figure.bbox.x1 + 1, text.get_text()
    if module is replicability:
        drawn = figure.axes[0].get_lines()[0].get_ydata()
        case, rank = replicability.series(rows)[0]
        by_method = replicability.methods_of(rows, case, rank)
        assert_allclose(drawn, [np.median(column(by_method[method], "match")) for method in replicability.CURVE])


def test_the_page_tells_the_stored_numbers() -> None:
    rows = stored("replicability")
    for kind in ("measured", "planted"):
        assert replicability.table(rows, kind) in PAGE
    assert replicability.describe(rows) in PAGE
    assert halves.describe(stored("halves")) in PAGE
    others = stored("other_models")
    assert other_models.table(others) in PAGE
    assert other_models.describe(others) in PAGE
    for module, name in ((replicability, "replicability"), (halves, "halves"), (other_models, "other_models")):
        assert (IMAGES / f"{name}.txt").read_text(encoding="utf-8").strip() == module.describe(stored(name))
    # All that the runs ask for is there.
    pytest.importorskip("tensorly")
    asked = {tuple(map(str, job.key.values())) for job in replicability.jobs(Settings(full=True))}
    assert asked == set(groups(rows, "case", "rank", "start"))
    asked = {tuple(map(str, job.key.values())) for job in other_models.jobs(Settings())}
    assert asked == set(groups(others, "case", "model", "start"))
    assert Results(IMAGES, "replicability", None).rows == rows


def test_other_models_of_halves() -> None:
    """The match of each is that of the public function; the same half twice matches, shuffled rows do not."""
    _, tensor = noisy(12, 0)
    rows = groups(other_models.compare((tensor, tensor.copy()), "Tucker, ranks 2", 0), "method")
    assert set(rows) == set(other_models.METHODS)
    assert float(rows["least error"][0]["match"]) > 0.999
    assert float(rows["permuted"][0]["match"]) < 0.95
    assert_allclose(rows["1 %"][0]["error"], 1.01 * rows["least error"][0]["error"], rtol=1e-3)


def test_what_the_page_concludes_holds_in_the_rows() -> None:
    found = groups(stored("replicability"), "case", "rank")

    def spread(case: str, rank: int, method: str) -> tuple[float, float, float]:
        rows = groups(found[case, str(rank)], "method")[method]
        return replicability.interval(column(rows, "match"))

    for rank, wins in ((3, (37, 10)), (4, (48, 2))):
        assert replicability.wins(found["COVID serology", str(rank)]) == wins
        assert spread("COVID serology", rank, "least error")[2] < spread("COVID serology", rank, "1 %")[1]
        assert spread("COVID serology", rank, "ridge")[0] < spread("COVID serology", rank, "1 %")[0]
        assert spread("COVID serology", rank, "chosen")[0] < spread("COVID serology", rank, "1 %")[0]
    shown = groups(stored("halves"), "method")
    for drawn, method in (("least error", "least error"), ("1 % more error", "1 %")):
        assert float(shown[drawn][0]["match"]) < spread("COVID serology", 3, method)[0]
    for rank in (5, 6):
        better, worse = replicability.wins(found["COVID serology", str(rank)])
        assert abs(better - worse) <= 4
    for rank, wins in ((3, (37, 7)), (4, (31, 12)), (5, (38, 5))):
        assert replicability.wins(found["IL-2", str(rank)]) == wins
        gain = spread("IL-2", rank, "1 %")[0] - spread("IL-2", rank, "least error")[0]
        assert 0.035 < gain < 0.1
    assert spread("IL-2", 3, "least error")[0] < spread("IL-2", 3, "1 %")[0] <= spread("IL-2", 3, "ridge")[0] + 0.02
    for case in (
        "planted, congruence 0, noise 1",
        "planted, congruence 0.5, noise 0.3",
        "planted, congruence 0.8, noise 0.1",
    ):
        assert replicability.wins(found[case, "3"]) == (0, 0)
        by_method = groups(found[case, "3"], "method")
        apart = [np.median(column(by_method[method], "from_truth")) for method in replicability.FROM_TRUTH]
        assert (np.diff(apart) > 0.0).all()
    hard = "planted, congruence 0.9, noise 0.5"
    assert spread(hard, 3, "ridge")[0] < spread(hard, 3, "least error")[0] < spread(hard, 3, "chosen")[0]
