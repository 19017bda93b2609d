"""Factor match: against brute force over permutations, principal angles by SciPy, and under every change of gauge."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.linalg

import tensorchain as tc
from tests.cases import Case, cp_case, four_models, gaussian, random_gauge

DTYPES = ("float64", "complex128")


def cosine(one: Any, two: Any) -> float:
    return abs(np.vdot(one, two)) / (np.linalg.norm(one) * np.linalg.norm(two))


def best(table: Any) -> float:
    """The largest mean of matched entries, by trying every matching."""
    table = table if len(table) <= len(table[0]) else table.T
    rows, columns = table.shape
    sums = [sum(table[r, p] for r, p in enumerate(places)) for places in itertools.permutations(range(columns), rows)]
    return max(sums) / columns


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rank", "other_rank"), [(3, 3), (2, 4), (4, 2)])
def test_components_against_every_matching(rank: int, other_rank: int, dtype: str) -> None:
    one, two = cp_case((4, 3, 5), rank).as_type(dtype).model(0), cp_case((4, 3, 5), other_rank).as_type(dtype).model(1)
    tensors = [[part.full() for part in model.components] for model in (one, two)]
    table = np.array([[cosine(a, b) for b in tensors[1]] for a in tensors[0]])
    match = tc.factor_match(one, two)
    assert match.score == pytest.approx(best(table), rel=1e-10)
    assert match.score == pytest.approx(tc.factor_match_score(one, two, weights=False).score, rel=1e-10)
    found = [table[r, s] for r, s in enumerate(match.order) if s >= 0]
    assert sum(found) / max(rank, other_rank) == pytest.approx(match.score, rel=1e-10)


@pytest.mark.parametrize("case", [c.as_type(d) for c in four_models(3) for d in DTYPES], ids=str)
def test_gauges_order_signs_and_sizes_do_not_count(case: Case) -> None:
    model = case.model()
    other = -7.0 * random_gauge(model, np.random.default_rng(0), 0.3)
    match = tc.factor_match(model, other)
    assert match.score == pytest.approx(1.0, abs=1e-7)
    assert tc.factor_match(model, case.model(1)).score < 0.99


def test_subspaces_against_principal_angles() -> None:
    for dtype in DTYPES:
        rng = np.random.default_rng(0)
        ranks = ((2, 2, 3), (3, 2, 1))
        one, two = (
            tc.Tucker(
                gaussian(r, dtype, rng), [gaussian((n, p), dtype, rng) for n, p in zip((6, 5, 7), r, strict=True)]
            )
            for r in ranks
        )
        match = tc.factor_match(one, two)
        for mode in range(3):
            unfolded = [np.moveaxis(m.full(), mode, 0).reshape(m.shape[mode], -1) for m in (one, two)]
            bases = [np.linalg.svd(u)[0][:, : np.linalg.matrix_rank(u)] for u in unfolded]
            angles = scipy.linalg.subspace_angles(*bases)
            widest = max(basis.shape[1] for basis in bases)
            assert match.modes[mode] == pytest.approx(np.sqrt(np.sum(np.cos(angles) ** 2) / widest), rel=1e-9)
        assert match.score == pytest.approx(np.prod(match.modes), rel=1e-12)
        assert match.order == ()


def test_terms_are_matched_by_their_tensors() -> None:
    one = tc.BlockTerm.random((5, 6, 7), [(2, 2, 2), (1, 2, 2), (2, 1, 1)], rng=0)
    two = tc.BlockTerm([one.terms[2], one.terms[0], tc.Tucker.random((5, 6, 7), (2, 2, 2), rng=1)])
    table = np.array([[cosine(a.full(), b.full()) for b in two.terms] for a in one.terms])
    match = tc.factor_match(one, two)
    assert match.score == pytest.approx(best(table), rel=1e-10)
    assert match.order == (1, 2, 0)
    assert tc.factor_match(one, one, modes=[1, 2]).score == pytest.approx(1.0, abs=1e-9)


def test_one_component_is_one_figure() -> None:
    one, two = tc.CP.random((5, 6, 7), 1, rng=0), tc.CP.random((5, 6, 7), 1, rng=1)
    as_tucker = [tc.Tucker(np.ones((1, 1, 1)), model.factors) for model in (one, two)]
    as_terms = [tc.BlockTerm([model]) for model in as_tucker]
    scores = [tc.factor_match(*pair).score for pair in ((one, two), as_tucker, as_terms, (one, as_tucker[1]))]
    assert scores == pytest.approx([scores[0]] * 4, rel=1e-10)


def test_halves_of_the_samples() -> None:
    rng = np.random.default_rng(0)
    planted = tc.CP.random((20, 6, 7), 3, rng=rng)
    halves = [tc.decompose(planted.full()[part], "cp", 3, rng=0).model for part in (slice(0, 9), slice(9, 20))]
    with pytest.raises(ValueError, match="mode 0 has size 9 and 11"):
        tc.factor_match(*halves)
    match = tc.factor_match(*halves, modes=[1, 2])
    assert match.score > 1.0 - 1e-6
    assert len(match.modes) == 2


def test_modes_that_say_nothing() -> None:
    wide = tc.TensorChain.random((4, 5, 30), 2, rng=0)
    match = tc.factor_match(wide, tc.TensorChain.random((4, 5, 30), 2, rng=1))
    assert np.isnan(match.modes[0])
    assert match.score == pytest.approx(match.modes[1] * match.modes[2])
    with pytest.raises(ValueError, match="says nothing"):
        tc.factor_match(wide, wide, modes=[0])


def test_what_does_not_fit_is_refused() -> None:
    cp = tc.CP.random((4, 5, 6), 2, rng=0)
    with pytest.raises(ValueError, match="orders 3 and 2"):
        tc.factor_match(cp, tc.CP.random((4, 5), 2, rng=0))
    for modes in ([], [0, 0], [3], [-1]):
        with pytest.raises(ValueError, match="different numbers from 0 to 2"):
            tc.factor_match(cp, cp, modes=modes)
    with pytest.raises(TypeError, match=r"fit\.model"):
        tc.factor_match(cp, 5)  # type: ignore[arg-type]
    assert tc.factor_match(cp, cp, modes=1).score == pytest.approx(1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="norm 0"):
        tc.factor_match(cp, 0 * cp)


@pytest.mark.parametrize("factor", [1e-100, 1e100])
def test_extremes_of_scale(factor: float) -> None:
    for case in four_models(3):
        assert tc.factor_match(case.model(), factor * case.model()).score == pytest.approx(1.0, abs=1e-7)
