"""The algebra of cores and factors against the generic contractions, and HOOI against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.models.base import Model
from tensorchain.models.hooi import leading_vectors
from tests.cases import Case, block_term_case, relative, tucker_case

CASES = [
    tucker_case((4, 3, 5), (2, 3, 2)),
    tucker_case((3, 4), (2, 3)),
    tucker_case((4, 3, 5, 2), (2, 2, 3, 2)),
    block_term_case((4, 3, 5), [(2, 2, 2), (1, 2, 3)]),
    block_term_case((4, 3, 5), [(2, 2, 2), (2, 2, 2)]),
    block_term_case((3, 4, 2, 3), [(2, 1, 2, 2), (1, 3, 1, 2), (2, 2, 2, 1)]),
]
TYPED = [case.as_type(dtype) for case in CASES for dtype in ("float64", "complex128")]


def plain(model: Model) -> Model:
    """The same wiring through the generic contractions only."""
    kind = type("Plain", (Model,), {"wiring": classmethod(lambda cls, shape, rank: model.network)})
    return kind.from_matrices(model.network, model.matrices)


@pytest.mark.parametrize("case", TYPED, ids=str)
def test_everything_equals_the_generic_contractions(case: Case) -> None:
    model, twin = case.model(), plain(case.model())
    other = case.model(seed=1)
    for k in range(len(model.matrices)):
        assert relative(model.gram(k), twin.gram(k)) < 1e-12
        assert relative(model.sensitivity_metric(k), twin.sensitivity_metric(k)) < 1e-12
        assert relative(model.system(k).apply(other.matrices[k]), other.matrices[k] @ twin.gram(k).T) < 1e-12
    assert np.allclose(model.gram_traces(), [np.trace(twin.gram(k)).real for k in range(len(twin.matrices))])
    upper = np.triu_indices(model.n_parameters)
    assert relative(model.gauss_newton()[upper], twin.gauss_newton()[upper]) < 1e-12
    for mine, theirs in zip(
        model.gauss_newton_matvec(other.matrices), twin.gauss_newton_matvec(other.matrices), strict=True
    ):
        assert relative(mine, theirs) < 1e-12


@pytest.mark.parametrize("penalty", [0.0, 0.2])
@pytest.mark.parametrize("case", TYPED, ids=str)
def test_damped_solvers(case: Case, penalty: float) -> None:
    model = case.model()
    for k, block in enumerate(case.model(seed=1).matrices):
        solve = model.damped_solver(k, penalty, 0.1)
        assert solve is not None
        width = model.network.widths[k]
        system = model.gram(k) + penalty * model.sensitivity_metric(k) + 0.1 * np.eye(width)
        # Rows b of the solution with b M^T = r, up to the side of the conjugate that blocks are written on.
        assert relative(solve(block), np.linalg.solve(system, block.T).T) < 1e-10


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(("rows", "columns", "count"), [(8, 20, 3), (20, 8, 3), (6, 2, 4), (5, 5, 5)])
def test_leading_vectors(rows: int, columns: int, count: int, dtype: str) -> None:
    rng = np.random.default_rng(0)
    A: Any = rng.standard_normal((rows, columns)).astype(dtype)
    if dtype == "complex128":
        A = A + 1j * rng.standard_normal((rows, columns))
    U = leading_vectors(A, count)
    assert U.shape == (rows, count)
    assert np.allclose(U.conj().T @ U, np.eye(count), atol=1e-12)
    values = np.linalg.svd(A, compute_uv=False)
    assert np.linalg.norm(U.conj().T @ A) == pytest.approx(np.linalg.norm(values[:count]), rel=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("smallest", [1.0, 1e-1, 1e-3, 1e-6, 1e-10])
def test_leading_vectors_over_a_wide_spectrum(smallest: float, dtype: str) -> None:
    rng = np.random.default_rng(0)
    values = np.geomspace(1.0, smallest, 5)
    left, right = (np.linalg.qr(rng.standard_normal((n, 5)).astype(dtype))[0] for n in (40, 60))
    U = leading_vectors((left * values) @ right.conj().T, 4)
    assert np.allclose(U.conj().T @ U, np.eye(4), atol=1e-14)
    if smallest < 1.0:
        # Rounding of the matrix turns its singular vectors by eps over the smallest that is kept.
        angle = np.linalg.norm(U - left[:, :4] @ (left[:, :4].conj().T @ U))
        assert angle < 100 * np.finfo(float).eps / values[3]


@pytest.mark.parametrize("orthonormal", [(), (1,), (1, 2, 3)])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_a_joint_update_is_the_best_factor_and_core(dtype: str, orthonormal: tuple[int, ...]) -> None:
    case = tucker_case((6, 5, 7), (2, 3, 2)).as_type(dtype)
    T, model = case.tensor(), case.model()
    for k in orthonormal:
        model = model.with_matrix(k, 3.0 * np.linalg.qr(model.matrices[k])[0])
    for k in (1, 2, 3):
        absorbed = model.absorbed(k)
        assert absorbed is not None
        found = model.rejoined(k, tc.Dense(T).contract_all_but(absorbed, 0))
        assert found is not None
        updated, explained = found
        # With orthonormal bases Q of the other factors the best error is what the leading singular values leave.
        projected = T
        for n, factor in enumerate(model.factors):
            if n != k - 1:
                Q = np.linalg.qr(factor)[0]
                projected = np.moveaxis(np.tensordot(Q.conj().T, projected, (1, n)), 0, n)
        values = np.linalg.svd(np.moveaxis(projected, k - 1, 0).reshape(T.shape[k - 1], -1), compute_uv=False)
        best = float(np.sum(values[: model.rank[k - 1]] ** 2))
        assert explained == pytest.approx(best, rel=1e-10)
        assert np.linalg.norm(T - updated.full()) ** 2 == pytest.approx(np.linalg.norm(T) ** 2 - best, rel=1e-10)


def test_a_sweep_is_hooi() -> None:
    """ALS from a HOSVD takes the same path as the textbook algorithm."""
    rng = np.random.default_rng(3)
    T = rng.standard_normal((9, 8, 7))
    factors = [np.linalg.svd(np.moveaxis(T, n, 0).reshape(T.shape[n], -1))[0][:, :3] for n in range(3)]
    core = np.einsum("ijk,ia,jb,kc->abc", T, *factors)
    fit = tc.decompose(T, init=tc.Tucker(core, factors), solver=tc.ALS(max_iter=4, tol=0.0))
    for _ in range(4):
        for n in range(3):
            others = [m for m in range(3) if m != n]
            Y = np.moveaxis(T, [n, *others], [0, 1, 2])
            Y = np.einsum("ijk,jb,kc->ibc", Y, factors[others[0]], factors[others[1]])
            factors[n] = np.linalg.svd(Y.reshape(len(Y), -1), full_matrices=False)[0][:, :3]
    core = np.einsum("ijk,ia,jb,kc->abc", T, *factors)
    error = np.linalg.norm(T - np.einsum("abc,ia,jb,kc->ijk", core, *factors)) / np.linalg.norm(T)
    assert fit.error == pytest.approx(float(error), rel=1e-9)
