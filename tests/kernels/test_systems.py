"""Normal equations in every form against the explicit matrix."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pytest

from tensorchain.kernels import GramSystem, KroneckerSystem, cholesky, cholesky_solve
from tensorchain.kernels.systems import mode_product, solve_rows


def gram(size: int, rank: int, complex_like: bool, rng: np.random.Generator) -> Any:
    root = rng.standard_normal((rank, size)) + (1j * rng.standard_normal((rank, size)) if complex_like else 0.0)
    return root.conj().T @ root


@pytest.mark.parametrize("complex_like", [False, True])
@pytest.mark.parametrize("rank", [9, 4])
def test_least_norm_solutions(rank: int, complex_like: bool) -> None:
    rng = np.random.default_rng(0)
    M = gram(6, rank, complex_like, rng)
    rhs = rng.standard_normal((5, 6)) @ M.T
    expected = rhs @ np.linalg.pinv(M, rcond=1e-12, hermitian=True).T
    system = GramSystem(M)
    assert np.allclose(system.solve(rhs), expected, rtol=1e-9, atol=1e-11)
    assert np.allclose(system.apply(system.solve(rhs)), rhs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("complex_like", [False, True])
def test_one_gram_for_each_row(complex_like: bool) -> None:
    rng = np.random.default_rng(1)
    Ms = np.array([gram(4, rank, complex_like, rng) for rank in (6, 2, 4)])
    rhs = np.einsum("ipq,iq->ip", Ms, rng.standard_normal((3, 4)))
    expected = [np.linalg.pinv(M, rcond=1e-12, hermitian=True) @ row for M, row in zip(Ms, rhs, strict=True)]
    system = GramSystem(Ms)
    assert np.allclose(system.solve(rhs), expected, rtol=1e-9, atol=1e-11)
    assert np.allclose(system.apply(system.solve(rhs)), rhs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("complex_like", [False, True])
def test_kronecker_products_are_never_formed(complex_like: bool) -> None:
    rng = np.random.default_rng(2)
    factors = [gram(size, size + 2, complex_like, rng) for size in (2, 3, 4)]
    whole = reduce(np.kron, factors)
    block = rng.standard_normal((1, 24)) + (1j * rng.standard_normal((1, 24)) if complex_like else 0.0)
    system = KroneckerSystem(factors)
    assert np.allclose(system.apply(block), block @ whole.T, rtol=1e-11)
    assert np.allclose(system.solve(block @ whole.T), block, rtol=1e-7)


def test_mode_products() -> None:
    rng = np.random.default_rng(3)
    T, A = rng.standard_normal((3, 4, 5)), rng.standard_normal((2, 4))
    assert np.allclose(mode_product(T, A, 1), np.einsum("pj,ijk->ipk", A, T))
    B = rng.standard_normal((2, 5))
    assert np.allclose(mode_product(T, B, 2), np.einsum("pk,ijk->ijp", B, T))


def test_nothing_to_solve() -> None:
    assert np.all(solve_rows(np.zeros((3, 3)), np.ones((2, 3))) == 0.0)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_real_matrix_and_complex_rows(rows: int) -> None:
    rng = np.random.default_rng(rows)
    root = rng.standard_normal((3, 3))
    gram, rhs = root @ root.T, rng.standard_normal((rows, 3)) + 1j * rng.standard_normal((rows, 3))
    expected = np.linalg.solve(gram, rhs.T).T
    assert GramSystem(gram).solve(rhs) == pytest.approx(expected)
    assert KroneckerSystem([gram, np.eye(1)]).solve(rhs[:1]) == pytest.approx(expected[:1])
    factor = cholesky(gram)
    assert factor is not None
    assert cholesky_solve(factor, rhs[0]) == pytest.approx(expected[0])
