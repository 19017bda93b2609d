"""Condition numbers against their definitions, written out with explicit bases."""

from __future__ import annotations

import importlib
import itertools
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.stability import condition_number
from tensorchain.stability.jacobian import jacobian as explicit_jacobian
from tests.cases import Case, block_term_case, chain_case, cp_case, double, jacobian, random_gauge, tucker_case
from tests.stability.examples import HUB, LOOSE_HUB, name

CPS = [
    case.as_type(dtype)
    for case in [cp_case((4, 3, 5), 2), cp_case((5, 4, 6), 3), cp_case((3, 3, 2, 3), 3), cp_case((12, 9, 7), 4)]
    for dtype in ("float64", "complex128")
]
OTHERS = [
    case.as_type(dtype)
    for case in [
        tucker_case((4, 5, 6), (2, 3, 2)),
        tucker_case((4, 5), (2, 2)),
        block_term_case((6, 7, 6), [(2, 2, 2), (1, 2, 2)]),
        chain_case((4, 5, 6), (2, 3, 2)),
        chain_case((4, 3, 4, 3), (2, 2, 1, 2)),
        chain_case((6, 5), (2, 1)),
        HUB,
    ]
    for dtype in ("float64", "complex128")
]


def kron(vectors: Any) -> Any:
    result = np.ones(1)
    for vector in vectors:
        result = np.kron(result, vector)
    return result


def terracini(factors: Any) -> Any:
    """[U_1 ... U_R], each an orthonormal basis of the tangent space at one rank-1 term."""
    strips = []
    for columns in zip(*(factor.T for factor in factors), strict=True):
        units = [column / np.linalg.norm(column) for column in columns]
        tangents = [kron(units)]
        for n, unit in enumerate(units):
            # Orthonormal complement of the unit vector, from a full QR decomposition.
            complement = np.linalg.qr(np.concatenate([unit[:, None], np.eye(len(unit))], axis=1))[0][:, 1:]
            tangents += [kron([*units[:n], direction, *units[n + 1 :]]) for direction in complement.T]
        basis = np.stack(tangents, axis=1)
        assert np.allclose(basis.conj().T @ basis, np.eye(basis.shape[1]))
        strips.append(basis)
    return np.concatenate(strips, axis=1)


class TestCP:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("case", CPS, ids=name)
    def test_published_definition(self, case: Case, seed: int) -> None:
        model = case.model(seed)
        truth = 1.0 / np.linalg.svd(terracini(model.factors), compute_uv=False)[-1]
        assert condition_number(model) == pytest.approx(truth, rel=1e-7)

    @pytest.mark.parametrize("order", [3, 4, 5])
    def test_orthogonal_terms_are_perfect(self, order: int) -> None:
        assert condition_number(tc.CP([np.eye(3)] * order)) == pytest.approx(1.0, rel=1e-12)

    @pytest.mark.parametrize("order", [2, 3, 6])
    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
    def test_one_component_is_perfect(self, order: int, dtype: str) -> None:
        assert condition_number(cp_case((3, 4, 2, 3, 2, 4)[:order], 1).as_type(dtype).model()) == pytest.approx(1.0)

    @pytest.mark.parametrize("seed", range(3))
    def test_it_bounds_the_movement_of_the_terms(self, seed: int) -> None:
        # Along the worst tangent the terms move kappa times as much as X does, to first order.
        model = cp_case((4, 3, 5), 3).model(seed)
        basis = terracini(model.factors)
        _, values, vectors = np.linalg.svd(basis, full_matrices=False)
        change = (basis @ vectors[-1]).reshape(model.shape)
        response = tc.stability.block_response(model, change)
        step = 1e-7
        moved = model.with_blocks([b + step * d for b, d in zip(model.blocks, response, strict=True)])
        terms = [
            kron([factor[:, r] for factor in other.factors]) for other in (moved, model) for r in range(model.rank)
        ]
        drift = np.linalg.norm(np.concatenate(terms[:3]) - np.concatenate(terms[3:]))
        assert drift / (step * np.linalg.norm(change)) == pytest.approx(condition_number(model), rel=1e-4)
        assert values[-1] < 0.9

    def test_scales_of_the_columns_do_not_matter(self) -> None:
        model = cp_case((4, 3, 5), 3).model()
        rng = np.random.default_rng(0)
        scaled = tc.CP([factor * 10.0 ** rng.uniform(-90, 90, 3) for factor in model.factors])
        assert condition_number(scaled) == pytest.approx(condition_number(model), rel=1e-9)

    def test_it_grows_as_columns_close_in(self) -> None:
        found = []
        for angle in (1.0, 1e-1, 1e-2, 1e-3, 1e-4):
            column = np.array([[np.cos(angle), 1.0], [np.sin(angle), 0.0]])
            model = tc.CP([column] * 3)
            truth = 1.0 / np.linalg.svd(terracini(model.factors), compute_uv=False)[-1]
            found.append(condition_number(model))
            assert found[-1] == pytest.approx(truth, rel=1e-4)
        assert all(later > 5 * earlier for earlier, later in itertools.pairwise(found))

    @pytest.mark.parametrize(
        "model",
        [
            pytest.param(cp_case((4, 5), 2).model(), id="a matrix"),
            pytest.param(cp_case((2, 2, 2), 3).model(), id="more unknowns than entries"),
            pytest.param(tc.CP([np.ones((3, 2))] * 3), id="equal components"),
            pytest.param(tc.CP([np.eye(3)[:, :2], np.eye(3)[:, :2], np.ones((3, 2))]), id="a matrix in disguise"),
            pytest.param(tc.CP([np.array([[1.0, 0.0], [2.0, 0.0]])] * 3), id="a zero component"),
            pytest.param(tc.CP([np.zeros((2, 2)), np.eye(2), np.eye(2)]), id="a zero block"),
        ],
    )
    def test_what_is_not_identifiable(self, model: Any) -> None:
        assert condition_number(model) == np.inf


class TestOthers:
    @pytest.mark.parametrize("case", OTHERS, ids=name)
    def test_definition(self, case: Case) -> None:
        model = tc.optimal_gauge(case.model())
        weights = np.concatenate([np.full(matrix.size, np.linalg.norm(matrix)) for matrix in model.matrices])
        values = np.linalg.svd(jacobian(model) * weights, compute_uv=False)
        truth = np.linalg.norm(model.full()) / values[model.n_parameters - case.gauge - 1]
        assert condition_number(case.model()) == pytest.approx(truth, rel=1e-5)

    @pytest.mark.parametrize("condition", [10.0, 1e3])
    @pytest.mark.parametrize("case", OTHERS, ids=name)
    def test_neither_gauge_nor_scale_matter(self, case: Case, condition: float) -> None:
        model = case.model(1)
        truth = condition_number(model)
        assert 0.0 < truth < 1e4
        other = random_gauge(model, np.random.default_rng(1), condition=condition)
        assert condition_number(other) == pytest.approx(truth, rel=1e-3)
        scaled = model.with_matrices([m * 10.0**p for m, p in zip(model.matrices, (60, -90, 20, 5), strict=False)])
        assert condition_number(scaled) == pytest.approx(truth, rel=1e-4)

    @pytest.mark.parametrize("case", OTHERS, ids=name)
    def test_float32(self, case: Case) -> None:
        single = case.as_type("float32").model()
        assert condition_number(single) == pytest.approx(condition_number(double(single)), rel=1e-9)

    def test_it_grows_as_a_bond_closes(self) -> None:
        # A Tucker model whose last core slice fades loses a rank.
        found = []
        for size in (1.0, 1e-1, 1e-2, 1e-3):
            core = np.zeros((2, 2, 2))
            core[0, 0, 0], core[1, 1, 1] = 1.0, size
            found.append(condition_number(tc.Tucker(core, [np.eye(4)[:, :2]] * 3)))
        assert all(later > 2 * earlier for earlier, later in itertools.pairwise(found))

    @pytest.mark.parametrize(
        "model",
        [
            pytest.param(chain_case((6, 5), (2, 2)).model(), id="a loop of two cores"),
            pytest.param(chain_case((2, 2, 2), (3, 3, 3)).model(), id="more unknowns than entries"),
            pytest.param(tucker_case((6, 3, 3), (5, 2, 2)).model(), id="a core wider than high"),
            pytest.param(
                tucker_case((4, 5, 6), (2, 2, 2)).model().with_matrix(0, np.eye(1, 8)), id="a core of rank one"
            ),
            pytest.param(LOOSE_HUB.model(), id="a core with symmetries"),
            pytest.param(chain_case((4, 5, 6), (2, 2, 2)).model().with_matrix(1, np.zeros((5, 4))), id="a zero block"),
        ],
    )
    def test_what_is_not_identifiable(self, model: Any) -> None:
        assert condition_number(model) == np.inf


def test_bad_input() -> None:
    with pytest.raises(TypeError, match="a model"):
        condition_number(np.eye(3))
    broken = cp_case((3, 3, 3), 2).model().with_matrix(0, np.full((3, 2), np.inf))
    with pytest.raises(ValueError, match="NaN or infinity"):
        condition_number(broken)


class TestDataWithGaps:
    """W^(1/2) J written out, and the tangent spaces at the rank-1 terms; J^H W J where J is too large to be formed."""

    @staticmethod
    def tensors(case: Case) -> list[tuple[Any, Any]]:
        """Data that see a part of the entries, and their weights."""
        rng = np.random.default_rng(5)
        T = case.model(3).full()
        mask = rng.random(T.shape) < 0.85
        mask[tuple(np.arange(max(T.shape)) % size for size in T.shape)] = True
        uneven = mask * rng.uniform(0.2, 5.0, T.shape)
        at = np.argwhere(mask)
        return [
            (tc.Masked(T, mask), mask * 1.0),
            (tc.Masked(T, weights=uneven), uneven / uneven[mask].mean()),
            (tc.Observed(at, T[mask], T.shape, weights=uneven[mask]), uneven / uneven[mask].mean()),
        ]

    @pytest.mark.parametrize("explicit", [True, False])
    @pytest.mark.parametrize("case", [CPS[0], CPS[3], OTHERS[1], OTHERS[6]], ids=name)
    def test_singular_values(self, case: Case, explicit: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        if not explicit:
            module = importlib.import_module("tensorchain.stability.jacobian")
            monkeypatch.setattr(module, "_EXPLICIT", 0)
        model = case.model(1)
        every = explicit_jacobian(model)
        for data, weights in self.tensors(case):
            J = np.sqrt(weights).ravel()[:, None] * every
            values = np.linalg.svd(J, compute_uv=False)
            values = np.concatenate([values, np.zeros(J.shape[1])])[: model.n_parameters - model.gauge_dimension]
            found = tc.stability.jacobian_singular_values(model, data)
            assert found == pytest.approx(values, rel=1e-6, abs=1e-7 * values[0])

    @pytest.mark.parametrize("case", CPS[:4], ids=name)
    def test_cp(self, case: Case) -> None:
        model = case.model(2)
        for data, weights in self.tensors(case):
            whole = np.sqrt(weights).ravel()[:, None] * terracini(model.matrices)
            least = np.linalg.svd(whole, compute_uv=False)[-1]
            assert condition_number(model, data) == pytest.approx(1.0 / least, rel=1e-6)

    @pytest.mark.parametrize("case", [*OTHERS[:3], OTHERS[6], OTHERS[-2]], ids=name)
    def test_others_do_not_depend_on_the_gauge(self, case: Case) -> None:
        model, pairs = case.model(2), self.tensors(case)
        first, balanced = pairs[0][0], tc.optimal_gauge(model)
        for data, weights in pairs:
            unit = balanced.with_matrices([m / np.linalg.norm(m) for m in balanced.matrices])
            J = np.sqrt(weights).ravel()[:, None] * explicit_jacobian(unit)
            size = np.linalg.norm(np.sqrt(weights) * unit.full())
            values = np.concatenate([np.linalg.svd(J, compute_uv=False), np.zeros(J.shape[1])])
            least = values[model.n_parameters - model.gauge_dimension - 1]
            found = condition_number(model, data)
            if least < 1e-12 * values[0]:
                assert found == np.inf
                continue
            assert found == pytest.approx(size / least, rel=1e-5)
            if data is not first:
                continue
            turned = random_gauge(model, np.random.default_rng(0))
            assert condition_number(turned, data) == pytest.approx(found, rel=1e-5)

    def test_complete_data_change_nothing(self) -> None:
        model = CPS[1].model(0)
        T = model.full()
        for data in (T, tc.Masked(T), tc.Sparse(np.argwhere(T), T[T != 0], T.shape)):
            assert condition_number(model, data) == condition_number(model)
        with pytest.raises(ValueError, match="shape"):
            condition_number(model, T[:-1])

    def test_what_is_not_determined_is_infinite(self) -> None:
        # Two blocks that share no slice: their scales in each mode are free.
        T = np.full((4, 4, 4), np.nan)
        T[:2, :2, :2], T[2:, 2:, 2:] = 1.0, 2.0
        model = tc.CP([np.array([[1.0], [1.0], [2.0], [1.0]])] * 3)
        data = tc.Masked(T)
        assert condition_number(model) < 10.0
        assert condition_number(model, data) == np.inf
        assert np.count_nonzero(tc.stability.jacobian_singular_values(model, data) < 1e-10) == 2

    def test_memory_is_that_of_the_parameters(self) -> None:
        import tracemalloc

        model = tc.CP.random((40, 41, 42), 3, rng=0)
        mask = np.random.default_rng(0).random(model.shape) < 0.7
        data = tc.Masked(model.full(), mask)
        tracemalloc.start()
        condition_number(model, data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # J at the observed entries would be 48,000 x 369 numbers, 140 MB.
        assert peak < 70e6
