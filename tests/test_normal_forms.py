"""Normal forms: the same tensor, the properties that define the form, and one result for all gauges of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tensorchain as tc
from tests.cases import Case, cp_case, four_models, gaussian, random_gauge, relative

ORDERS = [
    case.as_type(dtype)
    for order in (2, 3, 4)
    for case in four_models(order)
    for dtype in ("float64", "complex128", "float32")
]
CPS = [case for case in ORDERS if case.kind is tc.CP]
TUCKERS = [case for case in ORDERS if case.kind is tc.Tucker]
BLOCK_TERMS = [case for case in ORDERS if case.kind is tc.BlockTerm]


def outer(weights: Any, factors: Any) -> Any:
    """sum_r w_r a_r o b_r o ..., component by component."""
    total = 0.0
    for r, weight in enumerate(weights):
        term = np.array(weight)
        for factor in factors:
            term = np.multiply.outer(term, factor[:, r])
        total = total + term
    return total


def unit(matrix: Any, tol: float) -> None:
    gram = matrix.conj().T @ matrix
    assert_allclose(gram, np.eye(len(gram)), atol=20 * tol)


# -- CP -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CPS, ids=str)
def test_weights_and_unit_columns(case: Case) -> None:
    model = case.model()
    weights, factors = model.normalized()
    assert relative(outer(weights, factors), model.full()) < 10 * case.tol
    assert all(factor.dtype == case.dtype for factor in factors)
    assert np.all(np.diff(weights) <= 0.0)
    assert_allclose(sorted(weights), sorted(tc.component_norms(model)), rtol=1e-5)
    for factor in factors:
        assert_allclose(np.linalg.norm(factor, axis=0), 1.0, rtol=10 * case.tol)
    for factor in factors[1:]:
        leading = factor[np.abs(factor).argmax(axis=0), np.arange(case.rank)]
        assert np.all(leading.real > 0.0)
        assert_allclose(leading.imag, 0.0, atol=10 * case.tol)
    assert relative(tc.CP.from_weights(weights, factors).full(), model.full()) < 10 * case.tol


@pytest.mark.parametrize("case", [cp_case((4, 3, 5), 3).as_type(d) for d in ("float64", "complex128")], ids=str)
def test_every_gauge_has_one_normal_form(case: Case) -> None:
    model = case.model()
    truth = model.normalized()
    rng = np.random.default_rng(0)
    for _ in range(5):
        order = rng.permutation(case.rank)
        phases = np.exp(2j * np.pi * rng.random((2, case.rank))) if case.dtype == "complex128" else None
        first, second = np.sign(rng.standard_normal((2, case.rank))) if phases is None else phases
        a, b, c = random_gauge(model, rng).matrices
        moved = tc.CP([(a * first)[:, order], (b * second)[:, order], (c / (first * second))[:, order]])
        form = moved.normalized()
        for one, two in zip((form.weights, *form.factors), (truth.weights, *truth.factors), strict=True):
            assert_allclose(one, two, atol=1e-9)


def test_fits_of_every_seed_have_one_normal_form() -> None:
    T = tc.datasets.exact_cp((6, 7, 8), 3, np.random.default_rng(2)).tensor
    T = tc.datasets.add_noise(T, 0.05, np.random.default_rng(3))
    forms = [tc.decompose(T, "cp", 3, rng=seed).model.normalized() for seed in range(3)]
    for form in forms[1:]:
        assert_allclose(form.weights, forms[0].weights, rtol=1e-4)
        for one, two in zip(form.factors, forms[0].factors, strict=True):
            assert_allclose(one, two, atol=1e-3)


def test_ties_of_weights_and_of_entries_do_not_hang_on_rounding() -> None:
    # Orthogonal components of one weight, and columns whose two leading entries have opposite signs.
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 3)))[0]
    flat = np.array([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]]) / np.sqrt(2.0)
    truth = None
    for seed in range(6):
        rng = np.random.default_rng(seed)
        order, noise = rng.permutation(3), 1.0 + 1e-14 * rng.standard_normal((2, 3))
        weights, factors = tc.CP([basis[:, order], (flat * noise)[:, order], (-flat * noise)[:, order]]).normalized()
        truth = (weights, *factors) if truth is None else truth
        for one, two in zip((weights, *factors), truth, strict=True):
            assert_allclose(one, two, atol=1e-12)


def test_extremes_of_scale_and_zero_components() -> None:
    ones = np.ones((2, 2))
    weights, factors = tc.CP([ones * [1e200, 1e-200], ones * [1e200, 1e-200], ones * [1e-250, 1e250]]).normalized()
    assert_allclose(weights, np.array([1e150, 1e-150]) * 2**1.5, rtol=1e-12)
    assert_allclose(factors[0], np.sqrt(0.5))
    weights, factors = tc.CP([ones * [0.0, 3.0], ones]).normalized()
    assert_allclose(weights, [6.0, 0.0])
    assert_allclose([factor[:, 1] for factor in factors], 0.0)


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weights of shape \(3,\) were given for 2 columns"):
        tc.CP.from_weights(np.ones(3), [np.ones((4, 2)), np.ones((5, 2))])
    model = tc.CP.from_weights([-8.0, 0.0], [np.ones((2, 2))] * 3)
    assert_allclose(model.full(), -8.0)


# -- Tucker and block terms -----------------------------------------------------------------


@pytest.mark.parametrize("case", TUCKERS, ids=str)
def test_tucker_becomes_its_hosvd(case: Case) -> None:
    model = case.model()
    form = model.orthogonalized()
    full = model.full()
    assert type(form) is tc.Tucker
    assert form.dtype == case.dtype
    assert relative(form.full(), full) < 10 * case.tol
    for n, factor in enumerate(form.factors):
        unit(factor, case.tol)
        leading = factor[np.abs(factor).argmax(axis=0), np.arange(factor.shape[1])]
        assert np.all(leading.real > 0.0)
        slices = np.moveaxis(form.core, n, 0).reshape(form.core.shape[n], -1)
        gram = slices @ slices.conj().T
        # Singular values of the unfolding of the whole tensor.
        values = np.linalg.svd(np.moveaxis(full, n, 0).reshape(case.shape[n], -1), compute_uv=False)
        scale = values[0] ** 2
        assert_allclose(gram, np.diag(values[: len(gram)] ** 2), atol=50 * case.tol * scale)


def test_every_gauge_of_a_tucker_model_has_one_hosvd() -> None:
    model = tc.Tucker.random((4, 5, 6), (2, 3, 2), rng=0)
    truth = model.orthogonalized()
    for seed in range(4):
        form = random_gauge(model, np.random.default_rng(seed), 0.5).orthogonalized()
        for one, two in zip(form.blocks, truth.blocks, strict=True):
            assert_allclose(one, two, atol=1e-8)


def test_ranks_that_nothing_fills_fall() -> None:
    wide = tc.Tucker.random((3, 4, 5), (3, 1, 2), rng=0)
    wide = wide + wide
    assert wide.rank == (6, 2, 4)
    form = wide.orthogonalized()
    assert all(rank <= size for rank, size in zip(form.rank, form.shape, strict=True))
    assert relative(form.full(), wide.full()) < 1e-12


@pytest.mark.parametrize("case", BLOCK_TERMS, ids=str)
def test_block_terms_are_orthogonal_term_by_term(case: Case) -> None:
    model = case.model()
    form = model.orthogonalized()
    assert relative(form.full(), model.full()) < 10 * case.tol
    norms = [np.linalg.norm(term.full()) for term in form.terms]
    assert norms == sorted(norms, reverse=True)
    for term in form.terms:
        assert np.linalg.norm(term.core) == pytest.approx(np.linalg.norm(term.full()), rel=10 * case.tol)
        for factor in term.factors:
            unit(factor, case.tol)


# -- trains ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32"])
@pytest.mark.parametrize("bonds", [(1, 2, 3, 2), (2, 1, 3, 2), (2, 3, 2, 1)], ids=str)
def test_canonical_trains(bonds: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(0)
    shape, count = (4, 3, 5, 4), 4
    cut = bonds.index(1)
    train = tc.TensorChain(
        [gaussian((bonds[n], shape[n], bonds[(n + 1) % count]), dtype, rng) for n in range(count)]
    )  # fmt: skip
    tol = 1e-4 if dtype == "float32" else 1e-11
    for center in range(-1, count):
        form = train.orthogonalized(center)
        assert form.dtype == dtype
        assert form.bonds[cut] == 1
        assert relative(form.full(), train.full()) < tol
        place = (center % count - cut) % count
        for position in range(count):
            core = form.cores[(position + cut) % count]
            if position < place:
                gram = np.einsum("aib,aic->bc", core.conj(), core)
            elif position > place:
                gram = np.einsum("bia,cia->bc", core, core.conj())
            else:
                assert np.linalg.norm(core) == pytest.approx(np.linalg.norm(train.full()), rel=tol)
                continue
            assert_allclose(gram, np.eye(len(gram)), atol=tol)


def test_bonds_that_the_shape_cannot_hold_fall() -> None:
    train = tc.TensorChain.random((2, 3, 4), (1, 2, 4), rng=0)
    train = train + train
    form = train.orthogonalized(0)
    assert train.bonds == (1, 4, 8)
    assert relative(form.full(), train.full()) < 1e-12
    assert form.bonds[2] <= 4


def test_loops_have_no_canonical_form() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2, 2\) is a loop.*optimal_gauge"):
        tc.TensorChain.random((3, 3, 3), 2, rng=0).orthogonalized()
    with pytest.raises(IndexError, match="has modes 0 to 2"):
        tc.TensorChain.random((3, 3, 3), (1, 2, 2), rng=0).orthogonalized(3)
