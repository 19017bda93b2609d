"""The estimator: features by least squares, the conventions of scikit-learn, and nothing of it imported."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

import tensorchain as tc
from tensorchain.interop import Decomposition
from tests.cases import Case, four_models, gaussian

SHORT = tc.ALS(max_iter=5)
CASES = [
    case.as_type(dtype) for order in (2, 3, 5) for case in four_models(order) for dtype in ("float64", "complex128")
]


def fitted(case: Case, **options: Any) -> tuple[Decomposition, Any]:
    samples = case.tensor()
    return Decomposition(case.kind, case.rank, solver=SHORT, random_state=0, **options).fit(samples), samples


def design(model: Any) -> Any:
    """L of X_(1) = B L^T, column by column: the tensors of the unit rows."""
    k = model.network.block_of_mode[0]
    width = model.matrices[k].shape[1]
    units = model.with_matrix(k, np.eye(width, dtype=model.dtype)).full()
    return units.reshape(width, -1).T


@pytest.mark.parametrize("case", CASES, ids=str)
def test_transform_is_least_squares(case: Case) -> None:
    estimator, _ = fitted(case)
    new = gaussian((3, *case.shape[1:]), case.dtype, np.random.default_rng(7))
    features = estimator.transform(new)
    assert features.shape == (3, estimator.n_features_out_)
    L = design(estimator.fit_.model)
    by_hand = np.linalg.lstsq(L, new.reshape(3, -1).T, rcond=None)[0].T
    # Compared as samples: the features are not determined where columns of L depend on each other.
    assert_allclose(features @ L.T, by_hand @ L.T, atol=1e-5)
    restored = estimator.inverse_transform(features)
    assert_allclose(restored, (features @ L.T).reshape(new.shape), atol=1e-11)


@pytest.mark.parametrize("case", four_models(3), ids=str)
def test_fit_transform_returns_the_block_of_the_first_mode(case: Case) -> None:
    estimator, samples = fitted(case)
    again = clone(estimator)
    features = again.fit_transform(samples, y=[1])
    assert_array_equal(features, estimator.fit_.model.matrices[estimator.fit_.model.network.block_of_mode[0]])
    assert_array_equal(again.inverse_transform(features), again.fit_.model.full())


def test_new_samples_of_a_planted_model_are_restored() -> None:
    samples = tc.datasets.exact_chain((20, 6, 5), (2, 3, 2), np.random.default_rng(0)).tensor
    estimator = Decomposition("tc", (2, 3, 2), random_state=0, starts=3).fit(samples[:12])
    assert estimator.fit_.error < 1e-6
    assert_allclose(estimator.inverse_transform(estimator.transform(samples[12:])), samples[12:], atol=1e-5)


def test_missing_entries_do_not_count() -> None:
    rng = np.random.default_rng(0)
    samples = tc.datasets.exact_cp((20, 6, 5), 2, rng).tensor
    estimator = Decomposition("cp", 2, random_state=0).fit(samples[:12])
    observed = rng.random(samples[12:].shape) < 0.7
    broken = np.where(observed, samples[12:], 1e3)
    restored = estimator.inverse_transform(estimator.transform(tc.Masked(broken, observed)))
    assert_allclose(restored, samples[12:], atol=1e-6)


def test_a_start_takes_the_place_of_model_and_rank() -> None:
    start = tc.CP.random((6, 4, 3), 2, rng=0)
    estimator = Decomposition(init=start, solver=SHORT).fit(gaussian((6, 4, 3), float, np.random.default_rng(1)))
    assert type(estimator.fit_.model) is tc.CP


def test_parameters_and_copies() -> None:
    start = np.random.default_rng(3)
    estimator = Decomposition("cp", 3, solver=SHORT, constraint=tc.Penalty(0.1), starts=2, random_state=start)
    twin = clone(estimator)
    assert twin is not estimator
    assert twin.get_params()["rank"] == 3
    assert type(twin).__init__.__kwdefaults__.keys() < estimator.get_params().keys()
    assert estimator.set_params(rank=4, model="tc") is estimator
    assert (estimator.rank, estimator.model, twin.rank) == (4, "tc", 3)
    assert repr(Decomposition("cp", 3)) == "Decomposition(model='cp', rank=3)"
    with pytest.raises(ValueError, match="'ranks' is no parameter of Decomposition; known are model, rank"):
        estimator.set_params(ranks=2)


def test_it_works_in_pipelines_and_searches() -> None:
    rng = np.random.default_rng(0)
    planted = tc.datasets.exact_cp((40, 5, 4), 2, rng)
    labels = planted.model.matrices[0][:, 0] > 0.0
    pipeline = make_pipeline(Decomposition("cp", 2, random_state=0), LogisticRegression())
    assert pipeline.fit(planted.tensor[:30], labels[:30]).score(planted.tensor[30:], labels[30:]) >= 0.9
    search = GridSearchCV(
        make_pipeline(Decomposition("cp", 1, random_state=0), Ridge(1e-8)), {"decomposition__rank": [1, 2]}, cv=2
    )
    search.fit(planted.tensor, planted.model.matrices[0][:, 0])
    assert search.best_params_ == {"decomposition__rank": 2}


def test_it_says_when_it_is_not_fitted() -> None:
    estimator = Decomposition("cp", 2)
    with pytest.raises(NotFittedError):
        check_is_fitted(estimator)
    for call in (estimator.transform, estimator.inverse_transform):
        with pytest.raises(AttributeError, match="call fit"):
            call(np.ones((2, 2)))


def test_what_does_not_fit_is_refused() -> None:
    estimator, samples = fitted(four_models(3)[0])
    with pytest.raises(ValueError, match=r"samples of shape \(5, 3\) were given; those of `fit` have \(3, 5\)"):
        estimator.transform(np.ones((2, 5, 3)))
    with pytest.raises(ValueError, match=r"\(2, 9\) were given; \(samples, 3\) is needed"):
        estimator.inverse_transform(np.ones((2, 9)))
    with pytest.raises(ValueError, match="unknown"):
        Decomposition("cpx", 2).fit(samples)


@pytest.mark.parametrize("case", four_models(3), ids=str)
def test_the_score_is_what_is_explained(case: Case) -> None:
    estimator, _ = fitted(case)
    new = gaussian((3, *case.shape[1:]), case.dtype, np.random.default_rng(7))
    restored = estimator.inverse_transform(estimator.transform(new))
    expected = 1.0 - np.linalg.norm(new - restored) ** 2 / np.linalg.norm(new) ** 2
    assert estimator.score(new) == pytest.approx(expected, abs=1e-9)
    assert estimator.score(np.zeros_like(new)) == 1.0
    assert estimator.score(restored) == pytest.approx(1.0)


def test_the_score_of_missing_entries() -> None:
    rng = np.random.default_rng(0)
    samples = tc.datasets.exact_cp((20, 6, 5), 2, rng).tensor
    estimator = Decomposition("cp", 2, random_state=0).fit(samples[:12])
    observed = rng.random(samples[12:].shape) < 0.7
    assert estimator.score(tc.Masked(np.where(observed, samples[12:], 1e3), observed)) == pytest.approx(1.0)


def test_searches_need_no_target() -> None:
    samples = tc.datasets.exact_cp((24, 6, 5), 3, np.random.default_rng(0)).tensor
    search = GridSearchCV(Decomposition("cp", 1, random_state=0), {"rank": [1, 3]}, cv=2).fit(samples)
    assert search.best_params_ == {"rank": 3}


def test_data_frames_of_features() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.standard_normal((12, 5)), index=[f"s{i}" for i in range(12)])
    estimator = Decomposition("cp", 2, solver=SHORT, random_state=0)
    plain = estimator.fit_transform(frame)
    assert type(plain) is np.ndarray
    names = estimator.get_feature_names_out()
    assert names.tolist() == ["decomposition0", "decomposition1"]
    assert estimator.set_output(transform="pandas") is estimator
    for table in (estimator.fit_transform(frame), estimator.transform(frame)):
        assert table.index.tolist() == frame.index.tolist()
        assert table.columns.tolist() == names.tolist()
    assert_allclose(estimator.fit_transform(frame), plain)
    assert clone(estimator).fit_transform(frame).columns.tolist() == names.tolist()
    assert estimator.set_output(transform=None).transform(frame).shape == (12, 2)
    assert type(estimator.set_output(transform="default").transform(frame)) is np.ndarray
    with config_context(transform_output="pandas"):
        assert isinstance(Decomposition("cp", 2, solver=SHORT).fit_transform(frame), pd.DataFrame)
    with pytest.raises(ValueError, match="default, pandas, polars are known"):
        estimator.set_output(transform="arrow")
    with pytest.raises(AttributeError, match="call fit"):
        Decomposition().get_feature_names_out()


def test_pipelines_set_the_output_of_their_steps() -> None:
    rng = np.random.default_rng(0)
    pipeline = make_pipeline(Decomposition("cp", 2, solver=SHORT, random_state=0), StandardScaler())
    table = pipeline.set_output(transform="pandas").fit_transform(rng.standard_normal((12, 5)))
    assert table.columns.tolist() == ["decomposition0", "decomposition1"]


def test_a_data_frame_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    estimator = Decomposition("cp", 2, solver=SHORT).set_output(transform="polars")
    with pytest.raises(ImportError, match="polars were asked for by set_output"):
        estimator.fit_transform(np.random.default_rng(0).standard_normal((6, 5)))


@pytest.mark.parametrize("case", four_models(3), ids=str)
def test_transform_is_a_fit_with_all_other_blocks_fixed(case: Case) -> None:
    for constraint in (None, tc.NonNegative()):
        estimator, _ = fitted(case, constraint=constraint)
        new = np.abs(gaussian((7, *case.shape[1:]), case.dtype, np.random.default_rng(7)))
        model = estimator.fit_.model
        held = [name for name, mode in zip(model.block_names, model.network.modes, strict=True) if mode != 0]
        fit = tc.decompose(new, init=model, fixed=held, constraint=constraint, rng=0)
        assert_allclose(estimator.inverse_transform(estimator.transform(new)), fit.model.full(), atol=1e-6)
        # The same as an estimator.
        again = Decomposition(init=model, fixed=held, constraint=constraint, random_state=0).fit(new)
        assert_allclose(again.inverse_transform(again.transform(new)), fit.model.full(), atol=1e-6)
