"""The four models: the contract, their errors, identities between them, extreme scales."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import tensorchain as tc
from tensorchain.models import CP, BlockTerm, Model, TensorChain, Tucker
from tests.cases import (
    ALL,
    THREE,
    Case,
    block_term_case,
    chain_case,
    cp_case,
    double,
    four_models,
    halved,
    jacobian,
    relative,
    tucker_case,
)
from tests.model_contract import ModelContract


@pytest.mark.parametrize("case", halved(ALL), ids=str)
class TestModels(ModelContract):
    """Orders 2 to 6, real and complex, double and single."""


LARGE_ENOUGH = [
    cp_case((4, 5), 3),
    cp_case((4, 5, 4), 3),
    cp_case((3, 4, 3, 2), 3),
    tucker_case((5, 6), (3, 3)),
    tucker_case((4, 5, 4), (2, 3, 2)),
    tucker_case((3, 3, 3, 3), (2, 2, 2, 2)),
    block_term_case((6, 6, 6), [(2, 2, 2), (2, 2, 2)]),
    block_term_case((6, 7, 6), [(2, 3, 2), (2, 2, 2)]),
    chain_case((6, 6, 6), (2, 2, 2)),
    chain_case((5, 6, 6, 4), (2, 2, 3, 2)),
    chain_case((4, 6, 4), (1, 2, 2)),
]


class TestGaugeDimension:
    """Where the modes are large enough, nothing but the gauge leaves X unchanged."""

    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    @pytest.mark.parametrize("case", LARGE_ENOUGH, ids=str)
    def test_it_is_the_nullity_of_the_jacobian(self, case: Case, dtype: str) -> None:
        model = case.as_type(dtype).model(3)
        singular = np.linalg.svd(jacobian(model), compute_uv=False)
        nullity = model.n_parameters - int(np.sum(singular > 1e-9 * singular[0]))
        assert nullity == model.gauge_dimension == case.gauge

    @pytest.mark.parametrize("case", LARGE_ENOUGH, ids=str)
    def test_closed_forms_equal_the_rank_of_the_gauge_action(self, case: Case) -> None:
        model = case.model()
        assert Model.gauge_dimension.func(model) == case.gauge  # type: ignore[attr-defined]


def ones(*shape: int) -> Any:
    return np.ones(shape)


BAD_BLOCKS = [
    pytest.param(lambda: CP([ones(3, 2), ones(3, 3)]), ValueError, r"\[2, 3\] columns", id="cp-columns"),
    pytest.param(lambda: CP([ones(3, 2)]), ValueError, "order 1", id="cp-order-1"),
    pytest.param(lambda: CP([]), ValueError, "order 0", id="cp-nothing"),
    pytest.param(lambda: CP([ones(2, 1)] * 51), ValueError, "order 51", id="cp-order-51"),
    pytest.param(lambda: CP([ones(3), ones(3)]), ValueError, "2 dimensions", id="cp-vectors"),
    pytest.param(lambda: CP([ones(3, 0), ones(3, 0)]), ValueError, "empty", id="cp-rank-0"),
    pytest.param(lambda: CP([ones(0, 2), ones(3, 2)]), ValueError, "empty", id="cp-no-rows"),
    pytest.param(lambda: CP([ones(3, 2) * np.nan, ones(3, 2)]), ValueError, "NaN", id="cp-nan"),
    pytest.param(lambda: CP([ones(3, 2), ones(3, 2) * np.inf]), ValueError, "infinity", id="cp-inf"),
    pytest.param(lambda: CP([ones(3, 2).astype(object)] * 2), TypeError, "object", id="cp-object"),
    pytest.param(lambda: CP([np.full((3, 2), "a")] * 2), TypeError, "dtype", id="cp-strings"),
    pytest.param(lambda: Tucker(ones(2, 2), [ones(3, 2)]), ValueError, "2 factors, 1", id="tucker-few"),
    pytest.param(lambda: Tucker(ones(2, 2), [ones(3, 2), ones(3, 3)]), ValueError, "factor 1", id="tucker-columns"),
    pytest.param(lambda: Tucker(ones(2), [ones(3, 2)]), ValueError, "order 1", id="tucker-order-1"),
    pytest.param(lambda: Tucker(ones(2, 0), [ones(3, 2), ones(3, 0)]), ValueError, "empty", id="tucker-empty"),
    pytest.param(lambda: Tucker(ones(1, 1) * np.nan, [ones(3, 1)] * 2), ValueError, "NaN", id="tucker-nan"),
    pytest.param(lambda: BlockTerm([]), ValueError, "no term", id="btd-nothing"),
    pytest.param(
        lambda: BlockTerm([(ones(1, 1), [ones(3, 1), ones(n, 1)]) for n in (3, 4)]),
        ValueError,
        "same shape",
        id="btd-shapes",
    ),
    pytest.param(lambda: BlockTerm([(ones(1, 2), [ones(3, 1)] * 2)]), ValueError, "factor 1", id="btd-columns"),
    pytest.param(lambda: TensorChain([ones(2, 3, 2), ones(3, 3, 2)]), ValueError, "bond", id="tc-bonds"),
    pytest.param(lambda: TensorChain([ones(1, 3, 2), ones(2, 3, 2)]), ValueError, "core 1", id="tc-open"),
    pytest.param(lambda: TensorChain([ones(1, 3, 1)]), ValueError, "order 1", id="tc-order-1"),
    pytest.param(lambda: TensorChain([ones(3, 2), ones(2, 3)]), ValueError, "3 dimensions", id="tc-matrices"),
    pytest.param(lambda: TensorChain([ones(1, 0, 1), ones(1, 3, 1)]), ValueError, "empty", id="tc-empty"),
]


class TestConstructors:
    @pytest.mark.parametrize(("make", "error", "fragment"), BAD_BLOCKS)
    def test_bad_blocks(self, make: Any, error: type[Exception], fragment: str) -> None:
        with pytest.raises(error, match=fragment):
            make()

    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("int32", "float64"),
            ("bool", "float64"),
            ("float16", "float32"),
            ("float32", "float32"),
            ("longdouble", "float64"),
            ("complex64", "complex128"),
            ("clongdouble", "complex128"),
        ],
    )
    def test_dtypes(self, given: str, kept: str) -> None:
        assert CP([np.ones((2, 1), dtype=given)] * 3).dtype == kept
        assert TensorChain([np.ones((1, 2, 1), dtype=given)] * 3).dtype == kept

    def test_blocks_of_different_precision_meet_in_the_larger(self) -> None:
        model = CP([ones(2, 1).astype("float32"), ones(3, 1), ones(2, 1).astype("complex64")])
        assert {matrix.dtype for matrix in model.matrices} == {np.dtype("complex128")}

    @pytest.mark.parametrize("case", THREE, ids=str)
    def test_blocks_of_the_constructor_are_copied(self, case: Case) -> None:
        template = case.model()
        blocks = [np.array(block) for block in template.blocks]
        model = case.kind.from_state(blocks, template._state())
        before = model.full()
        for block in blocks:
            block[...] = 7.0
        assert_array_equal(model.full(), before)

    @pytest.mark.parametrize("case", THREE, ids=str)
    def test_lists_are_taken(self, case: Case) -> None:
        model = case.model()
        again = case.kind.from_state([block.tolist() for block in model.blocks], model._state())
        assert relative(again.full(), model.full()) < 1e-15

    @pytest.mark.parametrize("case", THREE, ids=str)
    def test_blocks_that_do_not_fit_are_refused(self, case: Case) -> None:
        model = case.model()
        blocks = [np.array(block) for block in model.blocks]
        blocks[-1] = np.concatenate([blocks[-1], blocks[-1]], axis=-1)
        with pytest.raises(ValueError, match=r"shape|fit|columns|bond"):
            model.with_blocks(blocks)


class TestIdentities:
    """Models that are special cases of one another."""

    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    def test_shared_block_term_and_chain(self, dtype: str) -> None:
        chain = TensorChain.random((4, 3, 5), (2, 3, 2), 0, dtype=dtype)
        shared = BlockTerm.shared(chain)
        assert len(shared.terms) == 2
        assert relative(shared.full(), chain.full()) < 1e-14
        again = TensorChain.from_shared_block_term(shared)
        for one, two in zip(again.cores, chain.cores, strict=True):
            assert_array_equal(one, two)

    def test_a_middle_factor_that_is_no_identity_moves_into_the_core(self) -> None:
        rng = np.random.default_rng(0)
        core, middle = rng.standard_normal((2, 3, 2)), rng.standard_normal((4, 3))
        terms = [(core, [rng.standard_normal((5, 2)), middle, rng.standard_normal((6, 2))]) for _ in range(3)]
        shared = BlockTerm(terms)
        chain = TensorChain.from_shared_block_term(shared)
        assert chain.bonds == (3, 2, 2)
        assert relative(chain.full(), shared.full()) < 1e-14

    def test_what_is_not_shared_is_refused(self) -> None:
        with pytest.raises(ValueError, match="term 1"):
            TensorChain.from_shared_block_term(BlockTerm.random((4, 4, 4), [(2, 2, 2), (2, 2, 2)], 0))
        with pytest.raises(ValueError, match="order 4"):
            TensorChain.from_shared_block_term(BlockTerm.random((3, 3, 3, 3), [(2, 2, 2, 2)], 0))
        with pytest.raises(ValueError, match="order 4"):
            BlockTerm.shared(TensorChain.random((3, 3, 3, 3), 2, 0))

    def test_bonds_of_one_make_a_cp_of_rank_one(self) -> None:
        chain = TensorChain.random((4, 3, 5), 1, 0)
        cp = CP(chain.matrices)
        assert relative(cp.full(), chain.full()) < 1e-15
        assert cp.sensitivity() == pytest.approx(chain.sensitivity(), rel=1e-13)

    def test_one_term_is_a_tucker_model(self) -> None:
        tucker = Tucker.random((4, 3, 5), (2, 3, 2), 0)
        btd = BlockTerm([tucker])
        assert relative(btd.full(), tucker.full()) < 1e-15
        assert btd.sensitivity() == pytest.approx(tucker.sensitivity(), rel=1e-13)
        assert_array_equal(btd.terms[0].core, tucker.core)

    def test_superdiagonal_core_is_cp(self) -> None:
        cp = CP.random((4, 3, 5), 2, 0)
        core = np.zeros((2, 2, 2))
        core[0, 0, 0] = core[1, 1, 1] = 1.0
        assert relative(Tucker(core, cp.factors).full(), cp.full()) < 1e-14


SCALES = [-150, -75, 0, 75, 150]


class TestExtremeScales:
    @pytest.mark.parametrize("exponent", SCALES)
    @pytest.mark.parametrize("case", [c for n in (2, 3, 6) for c in four_models(n)], ids=str)
    def test_norm_and_sensitivity_of_a_scaled_model(self, case: Case, exponent: int) -> None:
        model = case.model()
        blocks = len(model.matrices)
        huge = model.scaled(10.0**exponent)
        assert huge.norm() == pytest.approx(10.0**exponent * model.norm(), rel=1e-11, abs=0)
        power = exponent * 2 * (blocks - 1) / blocks
        assert huge.sensitivity() == pytest.approx(10.0**power * model.sensitivity(), rel=1e-9, abs=0)
        assert huge.sensitivity(relative=True) == pytest.approx(model.sensitivity(relative=True), rel=1e-9)
        best = tc.optimal_gauge(huge)
        assert best.norm() == pytest.approx(huge.norm(), rel=1e-10, abs=0)
        assert best.sensitivity() <= huge.sensitivity()

    @pytest.mark.parametrize("case", THREE, ids=str)
    def test_lopsided_blocks(self, case: Case) -> None:
        model = case.model()
        first, second, *rest = model.matrices
        lopsided = model.with_matrices([first * 1e150, second * 1e-150, *rest])
        assert lopsided.norm() == pytest.approx(model.norm(), rel=1e-11)
        assert np.isfinite(lopsided.sensitivity())
        # Two powers of 1e150 in SS: the block that is multiplied by 1e150 is squared in the derivative by another.
        assert lopsided.sensitivity() == pytest.approx(1e300 * model.block_sensitivities()[1], rel=1e-9)
        best = tc.optimal_gauge(lopsided)
        assert best.sensitivity() == pytest.approx(tc.optimal_gauge(model).sensitivity(), rel=1e-6)

    @pytest.mark.parametrize("case", THREE, ids=str)
    def test_zero_blocks(self, case: Case) -> None:
        model = case.model()
        zero = model.with_matrix(0, 0 * model.matrices[0])
        assert zero.norm() == 0.0
        assert np.all(np.isfinite(tc.optimal_gauge(zero).full()))
        with pytest.raises(ValueError, match="zero"):
            zero.sensitivity(relative=True)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any of the four models at orders 2 to 7 with sizes and ranks 1 to 3."""
    order = draw(st.integers(2, 7))
    shape = tuple(draw(st.lists(st.integers(1, 3), min_size=order, max_size=order)))
    below = st.tuples(*(st.integers(1, size) for size in shape))
    case = draw(
        st.one_of(
            st.integers(1, 4).map(lambda rank: cp_case(shape, rank)),
            below.map(lambda rank: tucker_case(shape, rank)),
            st.lists(below, min_size=1, max_size=3).map(lambda ranks: block_term_case(shape, ranks)),
            st.tuples(*[st.integers(1, 3)] * order).map(lambda bonds: chain_case(shape, bonds)),
        )
    )
    return case.as_type(draw(st.sampled_from(["float32", "float64", "complex128"])))


class TestProperties:
    @given(case=cases(), seed=st.integers(0, 2**16))
    def test_values_and_sensitivities(self, case: Case, seed: int) -> None:
        model = case.model(seed)
        truth = case.twin(double(model).blocks)
        size = np.prod([np.linalg.norm(matrix) for matrix in model.matrices])
        assert np.linalg.norm(model.full() - truth) < 10 * case.tol * size
        # ||X||^2 is a difference of larger numbers where blocks cancel: the norm keeps half of the digits.
        assert abs(model.norm() - np.linalg.norm(truth)) < 1e-6 * size
        total = sum(model.with_matrix(k, 0 * matrix).sensitivity() for k, matrix in enumerate(model.matrices))
        # Without block k only its own derivative is left.
        assert total == pytest.approx(model.sensitivity(), rel=1e-10)

    @given(case=cases(), seed=st.integers(0, 2**16), exponent=st.floats(-150, 150))
    def test_scales(self, case: Case, seed: int, exponent: float) -> None:
        model = double(case.model(seed))
        factor = 10.0**exponent
        size = np.prod([np.linalg.norm(matrix) for matrix in model.matrices])
        assert model.scaled(factor).norm() / factor == pytest.approx(model.norm(), rel=1e-9, abs=1e-7 * size)
        power = 2 * (len(model.matrices) - 1) / len(model.matrices)
        assert model.scaled(factor).sensitivity() == pytest.approx(model.sensitivity() * factor**power, rel=1e-9, abs=0)

    @given(case=cases(), seed=st.integers(0, 2**16))
    def test_gauss_newton_is_positive_and_symmetric(self, case: Case, seed: int) -> None:
        model = double(case.model(seed))
        matrix = model.gauss_newton()
        assert relative(matrix, matrix.conj().T) < 1e-12
        values = np.linalg.eigvalsh(matrix)
        assert values[0] >= -1e-12 * values[-1]
        assert values.sum() == pytest.approx(model.sensitivity(), rel=1e-10)


@pytest.mark.parametrize("scale", [1e7, 1e9])
@pytest.mark.parametrize("kind", ["cp", "btd"])
def test_the_norm_of_terms_that_cancel(kind: str, scale: float) -> None:
    # The moments hold squares of terms scale^2 times larger than X: they have lost it, and X is evaluated.
    rng = np.random.default_rng(0)
    a, b, c, d = (rng.standard_normal((size, 1)) for size in (4, 5, 6, 4))
    near = a + d / scale
    if kind == "cp":
        model: Any = tc.CP([np.hstack([scale * near, -scale * a]), np.hstack([b, b]), np.hstack([c, c])])
    else:
        core = np.full((1, 1, 1), scale)
        model = tc.BlockTerm([tc.Tucker(core, [near, b, c]), tc.Tucker(-core, [a, b, c])])
    truth = np.linalg.norm(d) * np.linalg.norm(b) * np.linalg.norm(c)
    assert model.norm() == pytest.approx(truth, rel=1e-5)
