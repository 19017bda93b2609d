"""The structured inverse of a CPD's damped Gauss-Newton matrix against the matrix itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.models.cp_newton import DampedInverse
from tests.cases import cp_case, relative


def damped(model: tc.CP, penalty: float, damping: float) -> Any:
    """J^H J + nu Q + mu from the explicit Jacobian, its columns by single moves of the parameters."""
    n = model.n_parameters
    columns, blocks = [], [np.zeros(m.shape, dtype=model.dtype) for m in model.matrices]
    for block in blocks:
        for index in np.ndindex(block.shape):
            block[index] = 1.0
            columns.append(model.derivative(blocks).ravel())
            block[index] = 0.0
    J = np.array(columns).T
    matrix = J.conj().T @ J + damping * np.eye(n)
    start = 0
    for k, m in enumerate(model.matrices):
        matrix[start : start + m.size, start : start + m.size] += penalty * np.kron(
            np.eye(len(m)), model.sensitivity_metric(k)
        )
        start += m.size
    return matrix


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("penalty", [0.0, 0.3])
@pytest.mark.parametrize(("shape", "rank"), [((4, 3, 5), 2), ((2, 3, 4), 5), ((3, 2, 4, 3), 3), ((6, 5), 2)])
def test_the_inverse(shape: tuple[int, ...], rank: int, penalty: float, dtype: str) -> None:
    model = cp_case(shape, rank).as_type(dtype).model()
    right = cp_case(shape, rank).as_type(dtype).model(seed=1).matrices
    solve = model.damped_inverse(penalty, 1e-2)
    assert solve is not None
    flat = np.concatenate([block.ravel() for block in solve(right)])
    expected = np.linalg.solve(damped(model, penalty, 1e-2), np.concatenate([block.ravel() for block in right]))
    assert relative(flat, expected) < 1e-9


def test_where_it_pays() -> None:
    assert cp_case((40, 40, 40), 5).model().has_damped_inverse
    assert not cp_case((4, 3, 5), 2).model().has_damped_inverse
    assert DampedInverse.size((40, 40, 3), 5) == 5 * (5 + 5 + 3)


def test_other_models_have_none() -> None:
    model = tc.TensorChain.random((4, 4, 4), 2, 0)
    assert not model.has_damped_inverse
    with pytest.raises(TypeError, match="has_damped_inverse"):
        model.damped_inverse(0.0, 1.0)


def test_a_fit_takes_the_same_steps() -> None:
    """Dense equations and structured ones lead to the same point."""
    rng = np.random.default_rng(0)
    T = tc.CP.random((30, 25, 20), 5, rng).full() + 0.1 * rng.standard_normal((30, 25, 20))
    start = tc.CP.random(T.shape, 5, 1)
    assert start.has_damped_inverse
    structured = tc.decompose(T, init=start, solver=tc.LM(max_iter=6))
    kind = type("PlainCP", (tc.CP,), {"has_damped_inverse": False, "name": None})
    plain = kind.from_matrices(start.network, start.matrices)
    dense = tc.decompose(T, init=plain, solver=tc.LM(max_iter=6, dense_limit=10**6))
    assert structured.error == pytest.approx(dense.error, rel=1e-6)


@pytest.mark.slow
def test_a_hundred_thousand_parameters() -> None:
    """Levenberg-Marquardt where a dense matrix would take 80 GB."""
    rng = np.random.default_rng(2)
    shape = (4000, 3500, 2500)
    truth = tc.CP.random(shape, 10, rng)
    where = np.unique(rng.integers(0, shape, (60_000, 3)), axis=0)
    start = truth.with_matrices([m + 0.02 * rng.standard_normal(m.shape) for m in truth.matrices])
    assert start.n_parameters == 100_000
    known = np.unique(np.concatenate([where, [[n % size for size in shape] for n in range(max(shape))]]), axis=0)
    source = tc.Observed(known, truth.entries(known), shape)
    fit = tc.decompose(source, init=start, solver=tc.LM(max_iter=4))
    first = tc.decompose(source, init=start, solver=tc.LM(max_iter=1))
    assert fit.error < 0.5 * first.history.error[0]
