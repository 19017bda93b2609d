"""CP figures against rank-one tensors written out, least squares on Kronecker products, and all permutations."""

from __future__ import annotations

import itertools
from functools import reduce
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.diagnosis import component_norms, congruences, core_consistency, factor_match_score
from tensorchain.diagnosis.cp import is_cp
from tests.cases import gaussian

SHAPES = [(4, 5), (4, 3, 5), (3, 4, 2, 3)]
DTYPES = ["float64", "complex128"]


def random_cp(shape: tuple[int, ...], rank: int, dtype: str = "float64", seed: int = 0) -> tc.CP:
    rng = np.random.default_rng(seed)
    return tc.CP([gaussian((size, rank), dtype, rng) for size in shape])


def components(model: Any) -> list[Any]:
    """The rank-one tensors, as vectors."""
    return [reduce(np.multiply.outer, [f[:, r] for f in model.factors]).ravel() for r in range(model.rank)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_norms_are_those_of_the_rank_one_tensors(shape: tuple[int, ...], dtype: str) -> None:
    model = random_cp(shape, 3, dtype)
    assert component_norms(model) == pytest.approx([np.linalg.norm(x) for x in components(model)], rel=1e-12)


def test_norms_keep_their_range() -> None:
    model = tc.CP([np.array([[1e200, 1.0]]), np.array([[1e150, 1.0]]), np.array([[1e-250, 1e-300]])])
    assert component_norms(model) == pytest.approx([1e100, 1e-300], rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_congruences_are_cosines_of_the_rank_one_tensors(shape: tuple[int, ...], dtype: str) -> None:
    model = random_cp(shape, 3, dtype)
    unit = np.array([x / np.linalg.norm(x) for x in components(model)])
    assert congruences(model) == pytest.approx(unit.conj() @ unit.T, abs=1e-12)


def test_congruences_of_chosen_modes_multiply() -> None:
    model = random_cp((4, 3, 5), 3)
    single = [congruences(model, [n]) for n in range(3)]
    for n, factor in enumerate(model.factors):
        unit = factor / np.linalg.norm(factor, axis=0)
        assert single[n] == pytest.approx(unit.T @ unit, abs=1e-12)
    assert congruences(model, [0, 2]) == pytest.approx(single[0] * single[2], abs=1e-12)
    assert congruences(model, [2, 1, 0]) == pytest.approx(congruences(model), abs=1e-12)


def test_a_component_that_is_zero_has_no_direction() -> None:
    model = tc.CP([np.array([[1.0, 0.0], [0.0, 0.0]]), np.eye(2), np.eye(2)])
    assert congruences(model).tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert component_norms(model).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_core_consistency_against_least_squares(shape: tuple[int, ...], dtype: str) -> None:
    rank = 2
    model = random_cp(shape, rank, dtype)
    tensor = model.full() + 0.3 * gaussian(shape, dtype, np.random.default_rng(5))
    # The same scale convention: norms shared evenly by the modes.
    norms = np.array([np.linalg.norm(x) for x in components(model)])
    factors = [f / np.linalg.norm(f, axis=0) * norms ** (1.0 / len(shape)) for f in model.factors]
    core, *_ = np.linalg.lstsq(reduce(np.kron, factors), tensor.ravel(), rcond=None)
    ideal = np.zeros((rank,) * len(shape))
    ideal[(range(rank),) * len(shape)] = 1.0
    distance = np.linalg.norm(core - ideal.ravel()) ** 2
    assert core_consistency(model, tensor) == pytest.approx(100.0 * (1.0 - distance / rank), rel=1e-9)
    expected = 100.0 * (1.0 - distance / np.linalg.norm(core) ** 2)
    assert core_consistency(model, tensor, normalised=True) == pytest.approx(expected, rel=1e-9)


def test_core_consistency_is_high_near_the_truth_and_falls_where_components_cancel() -> None:
    planted = tc.datasets.exact_cp((7, 6, 5), 2, np.random.default_rng(0), noise=0.05)
    fit = tc.decompose(planted.tensor, init=planted.model, solver=tc.LM())
    assert core_consistency(fit, planted.tensor) > 98.0
    border = tc.datasets.border_cp((7, 6, 5), np.random.default_rng(0))
    degenerate = border.approximant(1e-3)
    assert np.linalg.norm(degenerate.full() - border.tensor) < 1e-2
    assert core_consistency(degenerate, border.tensor) < 0.0


def test_core_consistency_does_not_see_scale() -> None:
    model = random_cp((4, 3, 5), 2)
    tensor = model.full() + 0.1 * gaussian((4, 3, 5), "float64", np.random.default_rng(1))
    moved = tc.CP([1e150 * model.factors[0], 1e-100 * model.factors[1], model.factors[2]])
    assert core_consistency(moved, 1e50 * tensor) == pytest.approx(core_consistency(model, tensor), rel=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", [True, False])
def test_factor_match_score_against_all_permutations(dtype: str, weights: bool) -> None:
    for seed in range(5):
        model, reference = random_cp((4, 3, 5), 4, dtype, seed), random_cp((4, 3, 5), 4, dtype, seed + 50)
        ours, theirs = components(model), components(reference)
        scores = np.empty((4, 4))
        for r, s in itertools.product(range(4), range(4)):
            p, q = np.linalg.norm(theirs[r]), np.linalg.norm(ours[s])
            penalty = 1.0 - abs(p - q) / max(p, q) if weights else 1.0
            scores[r, s] = penalty * abs(np.vdot(theirs[r], ours[s])) / (p * q)
        best = max(sum(scores[r, order[r]] for r in range(4)) for order in itertools.permutations(range(4)))
        match = factor_match_score(model, reference, weights=weights)
        assert match.score == pytest.approx(best / 4, rel=1e-12)
        assert [scores[r, s] for r, s in zip(match.reference, match.order, strict=True)] == pytest.approx(
            list(match.components), rel=1e-12
        )


def test_factor_match_score_forgives_order_signs_and_gauge_only() -> None:
    cp = random_cp((4, 3, 5), 3)
    order = [2, 0, 1]
    same = tc.CP([-3.0 * cp.factors[0][:, order], -0.5 * cp.factors[1][:, order], cp.factors[2][:, order] / 1.5])
    match = factor_match_score(same, cp)
    assert match.score == pytest.approx(1.0, abs=1e-12)
    assert [order[column] for column in match.order] == [0, 1, 2]
    twice = tc.CP([2.0 * cp.factors[0], cp.factors[1], cp.factors[2]])
    assert factor_match_score(twice, cp).score == pytest.approx(0.5, rel=1e-12)
    assert factor_match_score(twice, cp, weights=False).score == pytest.approx(1.0, rel=1e-12)


def test_components_that_are_missing_count_as_zero() -> None:
    cp = random_cp((4, 3, 5), 3)
    fewer = tc.CP([factor[:, :2] for factor in cp.factors])
    for match in (factor_match_score(fewer, cp), factor_match_score(cp, fewer)):
        assert match.score == pytest.approx(2.0 / 3.0, rel=1e-12)
        assert match.order == match.reference == (0, 1)


def test_a_cp_is_known_by_its_wiring() -> None:
    assert is_cp(random_cp((4, 3, 5), 1))
    assert not is_cp(tc.TensorChain.random((3, 3, 3), 1, 0))
    assert not is_cp(tc.Tucker.random((3, 3, 3), 1, 0))


def test_bad_input() -> None:
    cp, chain = random_cp((4, 3, 5), 2), tc.TensorChain.random((4, 3, 5), 2, 0)
    for figure in (component_norms, congruences):
        with pytest.raises(TypeError, match="for a CPD alone, and a TensorChain"):
            figure(chain)
    with pytest.raises(TypeError, match="for a CPD alone"):
        core_consistency(chain, np.ones((4, 3, 5)))
    with pytest.raises(TypeError, match="for a CPD alone"):
        factor_match_score(cp, chain)
    with pytest.raises(ValueError, match="must be equal"):
        core_consistency(cp, np.ones((4, 3, 4)))
    with pytest.raises(ValueError, match="must be equal"):
        factor_match_score(cp, random_cp((4, 3, 4), 2))
    with pytest.raises(ValueError, match="norm of the model is 0"):
        core_consistency(tc.CP([np.zeros((2, 1))] * 3), np.ones((2, 2, 2)))
    for modes in ([0, 0], [3], [-1], []):
        with pytest.raises(ValueError, match="numbers from 0 to 2"):
            congruences(cp, modes)


@pytest.mark.parametrize("make", ["masked", "observed", "weighted"])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_missing_entries_count_as_missing(make: str, dtype: str) -> None:
    """100 for an exact CPD, and the least-squares core over the observed entries for any other."""
    rng = np.random.default_rng(5)
    model = tc.CP.random((5, 4, 6), 2, rng, dtype=dtype)
    seen = rng.random(model.shape) < 0.8
    weights = seen * rng.uniform(0.5, 2.0, model.shape) if make == "weighted" else seen * 1.0
    for tensor in (model.full(), model.full() + 0.2 * rng.standard_normal(model.shape)):
        data: Any = tc.Masked(tensor, weights=weights)
        if make == "observed":
            data = tc.Observed(np.argwhere(seen), tensor[seen], model.shape)
        share = np.prod([np.linalg.norm(f, axis=0) for f in model.factors], axis=0) ** (1.0 / 3.0)
        factors = [f / np.linalg.norm(f, axis=0) * share for f in model.factors]
        design = np.einsum("ip,jq,kr->ijkpqr", *factors).reshape(tensor.size, -1)
        root = np.sqrt(weights).ravel()
        core = np.linalg.lstsq(root[:, None] * design, root * tensor.ravel(), rcond=None)[0].reshape(2, 2, 2)
        distance = core - np.einsum("pq,qr->pqr", np.eye(2), np.eye(2))
        expected = 100.0 * (1.0 - np.linalg.norm(distance) ** 2 / 2.0)
        assert core_consistency(model, data) == pytest.approx(expected, abs=1e-6)
    assert core_consistency(model, tc.Masked(model.full(), seen)) == pytest.approx(100.0, abs=1e-6)
