"""What every model promises, as one class of tests.

Subclass `ModelContract` and parametrise it with cases; see test_models.py and test_fifth_model.py:

    @pytest.mark.parametrize("case", CASES, ids=str)
    class TestMyModel(ModelContract): ...

The truth is always something slower: loops over entries, the Jacobian column by column, finite differences
(exact where the function is quadratic), or the generic base class behind an override.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tensorchain as tc
from tensorchain.models import Model
from tests.cases import Case, double, gaussian, jacobian, jacobian_blocks, random_gauge, relative


def moments_like(model: Any, seed: int) -> list[Any]:
    """Generic positive definite matrices of the sizes of the moments."""
    rng = np.random.default_rng(seed)
    roots = [
        gaussian((width, width), model.dtype, rng).astype(np.result_type(model.dtype, float))
        for width in model.network.widths
    ]
    return [root.conj().T @ root for root in roots]


def change_of(model: Any, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [gaussian(matrix.shape, matrix.dtype, rng) for matrix in model.matrices]


class Values:
    """The tensor, its entries, and its dependence on the blocks."""

    def test_full_equals_the_twin(self, case: Case) -> None:
        model = case.model()
        full = model.full()
        assert full.shape == case.shape
        assert full.dtype == case.dtype
        assert relative(full, case.twin(double(model).blocks)) < case.tol

    def test_what_it_says_of_itself(self, case: Case) -> None:
        model = case.model()
        assert model.shape == case.shape
        assert model.order == len(case.shape)
        assert model.dtype == case.dtype
        assert model.n_parameters == sum(block.size for block in model.blocks)
        assert len(model.block_names) == len(set(model.block_names)) == len(model.blocks)
        assert str(model.n_parameters) in repr(model)
        assert type(model).__name__ in repr(model)

    def test_the_rank_it_reports_makes_the_same_wiring(self, case: Case) -> None:
        model = case.model()
        assert case.kind.wiring(case.shape, model.rank) == model.network

    def test_random_is_seeded_and_of_unit_variance(self, case: Case) -> None:
        draws = [
            case.kind.random(case.shape, case.rank, rng, dtype=case.dtype) for rng in (3, np.random.default_rng(3))
        ]
        for one, two in zip(draws[0].matrices, draws[1].matrices, strict=True):
            assert_array_equal(one, two)
        assert draws[0].dtype == case.dtype
        many = [case.kind.random(case.shape, case.rank, seed, dtype=case.dtype) for seed in range(40)]
        square = np.mean([np.abs(entry) ** 2 for m in many for block in m.matrices for entry in block.ravel()])
        assert 0.8 < square < 1.25

    def test_derivative_equals_finite_differences(self, case: Case) -> None:
        model = double(case.model())
        delta = change_of(model, 1)
        step = 1e-4
        moved = [
            model.with_matrices([b + sign * step * d for b, d in zip(model.matrices, delta, strict=True)]).full()
            for sign in (1, -1)
        ]
        assert relative(model.derivative(delta), (moved[0] - moved[1]) / (2 * step)) < 1e-6

    def test_it_is_linear_in_each_block(self, case: Case) -> None:
        model = case.model()
        for k, change in enumerate(change_of(model, 2)):
            alone = model.with_matrix(k, change).full()
            moved = model.with_matrix(k, 2 * model.matrices[k] - 3 * change).full()
            assert relative(moved, 2 * model.full() - 3 * alone) < 10 * case.tol

    def test_entries_and_design_rows(self, case: Case) -> None:
        model = case.model()
        rng = np.random.default_rng(0)
        where = np.stack([rng.integers(size, size=17) for size in case.shape], axis=1)
        expected = model.full()[tuple(where.T)]
        assert_allclose(model.entries(where), expected, rtol=0, atol=case.tol * np.abs(model.full()).max())
        for k, matrix in enumerate(model.matrices):
            mode = model.network.modes[k]
            rows = matrix[where[:, mode]] if mode is not None else matrix[[0] * len(where)]
            design = model.design_rows(k, where)
            assert design.shape == (len(where), matrix.shape[1])
            values = np.einsum("zp,zp->z", rows, design)
            assert_allclose(values, expected, rtol=0, atol=case.tol * np.abs(model.full()).max())

    def test_restrict_is_the_model_of_a_part(self, case: Case) -> None:
        model = case.model()
        rows: list[Any] = [None] * model.order
        rows[0], rows[-1] = slice(1, 3), np.array([1, 0, 0])
        part = model.restrict(rows)
        assert relative(part.full(), model.full()[1:3][..., [1, 0, 0]]) < case.tol
        assert part.shape == part.full().shape

    def test_scaled_multiplies_the_tensor(self, case: Case) -> None:
        model = case.model()
        assert relative(model.scaled(7.5).full(), 7.5 * model.full()) < case.tol
        assert model.scaled(7.5).dtype == case.dtype
        sizes = [
            np.linalg.norm(b) / np.linalg.norm(a)
            for a, b in zip(model.matrices, model.scaled(7.5).matrices, strict=True)
        ]
        assert_allclose(sizes, sizes[0], rtol=1e-5)

    def test_inner_and_norm(self, case: Case) -> None:
        left, right = case.model(0), case.model(1)
        one, two = double(left).full(), double(right).full()
        scale = np.linalg.norm(one) * np.linalg.norm(two)
        assert abs(left.inner(right) - np.vdot(one, two)) < case.tol * scale
        assert isinstance(left.inner(right), complex if case.dtype == "complex128" else float)
        assert left.norm() == pytest.approx(np.linalg.norm(one), rel=case.tol)

    def test_inner_with_another_kind_of_model(self, case: Case) -> None:
        other = tc.CP.random(case.shape, 2, 5, dtype="complex128")
        model = double(case.model())
        truth = np.vdot(model.full(), other.full())
        assert abs(model.inner(other) - truth) < 1e-11 * model.norm() * other.norm()
        assert abs(other.inner(model) - np.conj(truth)) < 1e-11 * model.norm() * other.norm()
        with pytest.raises(ValueError, match="equal shapes"):
            model.inner(tc.CP.random((9, 9), 1, 0))


class Grams:
    """The multilinear form: Grams, sensitivities and J^H J, against the Jacobian column by column."""

    def test_gram_is_the_inner_product_of_the_design(self, case: Case) -> None:
        model = case.model()
        for k, columns in enumerate(jacobian_blocks(double(model))):
            whole = np.kron(np.eye(len(model.matrices[k])), model.gram(k))
            assert relative(whole, columns.conj().T @ columns) < case.tol
            assert relative(model.gram_at(model.moments, k), model.gram(k)) < 1e-12

    def test_gauss_newton_is_the_jacobian_squared(self, case: Case) -> None:
        model = case.model()
        J = jacobian(double(model))
        assert relative(model.gauss_newton(), J.conj().T @ J) < case.tol

    def test_gauss_newton_matvec(self, case: Case) -> None:
        model = double(case.model())
        delta = change_of(model, 3)
        product = model.gauss_newton() @ np.concatenate([d.ravel() for d in delta])
        image = model.gauss_newton_matvec(delta)
        assert [block.shape for block in image] == [matrix.shape for matrix in model.matrices]
        assert relative(np.concatenate([block.ravel() for block in image]), product) < case.tol

    def test_the_adjoint_of_the_derivative(self, case: Case) -> None:
        model = double(case.model())
        x, y = change_of(model, 4), case.tensor()
        source = tc.Dense(y.astype(model.dtype))
        forward = np.vdot(model.derivative(x), y)
        back = sum(np.vdot(d, source.contract_all_but(model, k)) for k, d in enumerate(x))
        assert abs(forward - back) < 1e-11 * np.linalg.norm(y) * np.linalg.norm(model.derivative(x))

    def test_overrides_equal_the_generic_form(self, case: Case) -> None:
        model = double(case.model())
        moments, directions = moments_like(model, 5), moments_like(model, 6)
        # Directions need not be Hermitian: B^H delta is not.
        directions = [d @ m for d, m in zip(directions, moments, strict=True)]
        fast, slow = model.gram_derivatives(moments, directions), Model.gram_derivatives(model, moments, directions)
        for k in range(len(moments)):
            assert relative(model.gram_at(moments, k), Model.gram_at(model, moments, k)) < 1e-12
            assert relative(fast[0][k], slow[0][k]) < 1e-12
            assert relative(fast[1][k], slow[1][k]) < 1e-12
        generic = Model.from_matrices.__func__(PlainModel, model.network, model.matrices)  # type: ignore[attr-defined]
        assert relative(model.gauss_newton(), generic.gauss_newton()) < 1e-12

    def test_the_form_gives_the_norm_and_is_linear_in_each_moment(self, case: Case) -> None:
        model = double(case.model())
        moments = list(moments_like(model, 7))
        values = [np.sum(moments[k] * model.gram_at(moments, k)).real for k in range(len(moments))]
        assert_allclose(values, values[0], rtol=1e-10)
        values = [np.sum(model.moments[k] * model.gram(k)).real for k in range(len(moments))]
        assert_allclose(values, np.linalg.norm(model.full()) ** 2, rtol=1e-10)

    def test_sensitivity_is_the_squared_norm_of_the_jacobian(self, case: Case) -> None:
        model = case.model()
        shares = [np.linalg.norm(columns) ** 2 for columns in jacobian_blocks(double(model))]
        assert_allclose(model.block_sensitivities(), shares, rtol=case.tol)
        assert model.sensitivity() == pytest.approx(sum(shares), rel=case.tol)
        assert tc.sensitivity(model) == model.sensitivity()
        assert_allclose(tc.sensitivity(model, per_block=True), shares, rtol=case.tol)

    def test_sensitivity_is_quadratic_in_each_block(self, case: Case) -> None:
        model = case.model()
        total = model.sensitivity()
        for k, matrix in enumerate(double(model).matrices):
            Q = model.sensitivity_metric(k)
            assert relative(Q, Q.conj().T) < 1e-12
            quadratic = np.vdot(matrix, matrix @ Q.T).real
            assert quadratic + model.block_sensitivities()[k] == pytest.approx(total, rel=case.tol)

    def test_gradient_of_the_sensitivity(self, case: Case) -> None:
        # SS is quadratic in a block: a central difference has no truncation error.
        model = double(case.model())
        for k, change in enumerate(change_of(model, 8)):
            matrix = model.matrices[k]
            up, down = (model.with_matrix(k, matrix + sign * change).sensitivity() for sign in (1, -1))
            slope = 2 * np.vdot(change, matrix @ model.sensitivity_metric(k).T).real
            assert (up - down) / 2 == pytest.approx(slope, abs=1e-10 * (up + down))

    def test_relative_sensitivity_has_no_scale(self, case: Case) -> None:
        model = case.model()
        blocks = len(model.matrices)
        expected = model.sensitivity() / model.norm() ** (2 * (blocks - 1) / blocks)
        for factor in (1.0, 1e-3, 50.0):
            assert model.scaled(factor).sensitivity(relative=True) == pytest.approx(expected, rel=case.tol)

    def test_gauges_are_null_directions(self, case: Case) -> None:
        model = double(case.model())
        assert model.gauge_dimension == case.gauge
        values = np.linalg.eigvalsh(model.gauss_newton())
        assert np.sum(values < 1e-10 * values[-1]) >= case.gauge

    def test_another_gauge_is_the_same_tensor(self, case: Case) -> None:
        model = double(case.model())
        other = random_gauge(model, np.random.default_rng(9), 0.3)
        assert relative(other.full(), model.full()) < 1e-9
        assert relative(other.matrices[-1], model.matrices[-1]) > 1e-2


class Keeping:
    """Immutability, blocks in and out, files."""

    def test_arrays_cannot_be_written(self, case: Case) -> None:
        model = case.model()
        for array in itertools.chain(model.blocks, model.matrices):
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0.0

    def test_changes_make_new_models(self, case: Case) -> None:
        model = case.model()
        before = [matrix.copy() for matrix in model.matrices]
        values = model.full(), model.sensitivity(), model.gram(0).copy()
        model.with_matrix(0, 2 * model.matrices[0]).sensitivity()
        model.with_matrices([3 * matrix for matrix in model.matrices]).gauss_newton()
        model.with_blocks([4 * block for block in model.blocks]).full()
        model.scaled(2.0).norm()
        model.astype("complex128").full()
        tc.optimal_gauge(model)
        for matrix, old in zip(model.matrices, before, strict=True):
            assert_array_equal(matrix, old)
        assert_array_equal(model.full(), values[0])
        assert model.sensitivity() == values[1]
        assert_array_equal(model.gram(0), values[2])

    def test_what_is_kept_of_other_blocks_is_right(self, case: Case) -> None:
        model = case.model()
        model.gram(0), model.sensitivity()
        for k, change in enumerate(change_of(model, 10)):
            fresh = model.with_matrices([*model.matrices[:k], change, *model.matrices[k + 1 :]])
            kept = model.with_matrix(k, change)
            assert kept.sensitivity() == pytest.approx(fresh.sensitivity(), rel=1e-13)
            assert kept.norm() == pytest.approx(fresh.norm(), rel=1e-13)
            assert relative(kept.gram(k), fresh.gram(k)) < 1e-13

    def test_blocks_in_and_out(self, case: Case) -> None:
        model = case.model()
        again = model.with_blocks(model.blocks)
        for one, two in zip(model.matrices, again.matrices, strict=True):
            assert_array_equal(one, two)
        with pytest.raises(ValueError, match="blocks"):
            model.with_blocks(model.blocks[:-1])

    def test_save_and_load(self, case: Case, tmp_path: Path) -> None:
        model = case.model()
        model.save(tmp_path / "model.npz", note="kept")
        again = tc.load(tmp_path / "model.npz")
        assert type(again) is case.kind
        assert again.network == model.network
        for one, two in zip(model.matrices, again.matrices, strict=True):
            assert_array_equal(one, two)
            assert one.dtype == two.dtype


class ModelContract(Values, Grams, Keeping):
    """All of it."""


class PlainModel(Model):
    """A model without overrides: the generic contraction over the wiring."""
