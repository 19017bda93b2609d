"""Eigenvectors by three steps of LAPACK, and Cholesky factors, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.linalg import lapack

from tensorchain.kernels import cholesky, cholesky_solve, leading_eigenpairs
from tensorchain.kernels.linalg import cholesky_solution


def hermitian(values: Any, dtype: str) -> Any:
    """A matrix with these eigenvalues."""
    rng = np.random.default_rng(0)
    basis: Any = rng.standard_normal((len(values), len(values))).astype(dtype)
    if dtype == "complex128":
        basis = basis + 1j * rng.standard_normal(basis.shape)
    basis = np.linalg.qr(basis)[0]
    return (basis * values) @ basis.conj().T


def check(matrix: Any, count: int) -> None:
    values, vectors = leading_eigenpairs(matrix, count)
    assert vectors.shape == (len(matrix), count)
    assert vectors.dtype == matrix.dtype
    expected = np.linalg.eigvalsh(matrix)
    assert values.shape == (count,)
    largest = max(abs(expected[0]), abs(expected[-1]), 1e-300)
    assert np.allclose(vectors.conj().T @ vectors, np.eye(count), atol=1e-12)
    assert np.allclose(values, expected[len(matrix) - count :], rtol=0.0, atol=1e-13 * largest * len(matrix))
    difference = matrix @ vectors - vectors * expected[len(matrix) - count :]
    assert np.linalg.norm(difference) <= 1e-12 * largest * len(matrix)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(("size", "count"), [(1, 1), (5, 2), (40, 3), (40, 39), (90, 1), (150, 15)])
def test_leading_eigenpairs(size: int, count: int, dtype: str) -> None:
    check(hermitian(np.linspace(-1.0, 3.0, size), dtype), count)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(
    "values",
    [np.zeros(50), np.ones(50), np.repeat([0.0, 1.0], 25), np.logspace(-200, -150, 50), np.logspace(-15, 0, 50)],
    ids=["zero", "one", "two clusters", "tiny", "graded"],
)
def test_eigenvalues_that_are_hard_to_tell_apart(values: Any, dtype: str) -> None:
    check(hermitian(values, dtype), 7)


def test_all_are_asked_for_where_some_are_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = hermitian(np.linspace(0.0, 1.0, 60), "float64")
    monkeypatch.setattr(lapack, "dstemr", lambda d, *rest: (0, d, np.zeros((len(d), len(d))), 7))
    check(matrix, 4)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("shape", [(30,), (30, 1), (30, 4)])
def test_cholesky(shape: tuple[int, ...], dtype: str) -> None:
    matrix = hermitian(np.linspace(0.5, 3.0, 30), dtype)
    rhs: Any = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    if dtype == "complex128":
        rhs = rhs * (1.0 + 2.0j)
    given = matrix.copy(), rhs.copy()
    factor = cholesky(np.triu(matrix))
    assert factor is not None
    solution = cholesky_solve(factor, rhs)
    assert solution.shape == shape
    assert np.allclose(solution, np.linalg.solve(matrix, rhs), rtol=1e-12, atol=1e-12)
    if rhs.ndim == 2:
        again, together = cholesky_solution(np.triu(matrix), rhs)
        assert again is not None
        assert np.allclose(np.tril(again), np.tril(factor), rtol=1e-14, atol=1e-14)
        assert np.allclose(together, solution, rtol=1e-14, atol=1e-14)
    assert np.array_equal(matrix, given[0])
    assert np.array_equal(rhs, given[1])


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_no_cholesky_factor_of_an_indefinite_matrix(dtype: str) -> None:
    matrix = hermitian(np.linspace(-0.1, 3.0, 30), dtype)
    assert cholesky(matrix) is None
    assert cholesky_solution(matrix, np.ones((30, 2), dtype))[0] is None
