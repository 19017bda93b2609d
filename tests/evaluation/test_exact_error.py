"""The error of a model at any size, held against extended precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.tensors import Dense, Lazy, Masked, Observed, Sparse
from tensorchain.tensors.projected import projected_cost, projected_error
from tests.cases import Case, block_term_case, chain_case, cp_case, gaussian, tucker_case

SHAPE = (7, 5, 6)
CASES = [
    cp_case(SHAPE, 3),
    tucker_case(SHAPE, (2, 3, 2)),
    block_term_case(SHAPE, [(1, 2, 2), (2, 2, 1)]),
    chain_case(SHAPE, (2, 1, 2)),
]
CASES += [case.as_type("complex128") for case in CASES]

extended = pytest.mark.skipif(
    np.finfo(np.longdouble).eps >= np.finfo(float).eps, reason="no extended precision on this machine"
)


def every_position(shape: tuple[int, ...]) -> Any:
    return np.argwhere(np.ones(shape, dtype=bool))


OPENED = {
    "dense": Dense,
    "masked": lambda T: Masked(T, np.ones(T.shape, dtype=bool)),
    "observed": lambda T: Observed(every_position(T.shape), T.ravel(), T.shape),
    "sparse": lambda T: Sparse(every_position(T.shape), T.ravel(), T.shape),
    "lazy": lambda T: Lazy(T, box_entries=50),
}


def near(model: Any, size: float, dtype: Any) -> tuple[Any, float]:
    """A tensor at this distance from the model, and the exact distance."""
    X = model.astype(np.result_type(model.dtype, np.longdouble)).full()
    noise = gaussian(X.shape, model.dtype, np.random.default_rng(1)) / np.sqrt(X.size)
    T = (X + size * np.linalg.norm(X.ravel().astype(np.complex128)) * noise).astype(dtype)
    return T, float(np.sqrt(np.sum(np.abs(T - X) ** 2)))


@extended
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kind", OPENED)
def test_double_precision(kind: str, case: Case) -> None:
    model = case.model()
    for size in (1e-1, 1e-5, 1e-9, 1e-12):
        T, truth = near(model, size, case.dtype)
        # A list of zeros and others has no extended precision: its differences are formed in double.
        accuracy = 1e-6 if kind != "sparse" or size > 1e-10 else 1e-3
        assert OPENED[kind](T).exact_error(model) == pytest.approx(truth, rel=accuracy)
        assert OPENED[kind](T).evaluator(model).error() == pytest.approx(truth, rel=max(1e-6, 1e-15 / size))


@extended
@pytest.mark.parametrize("case", CASES[:4], ids=str)
@pytest.mark.parametrize("kind", OPENED)
def test_single_precision(kind: str, case: Case) -> None:
    """The stored numbers are what counts: T and the blocks are taken as they are, and subtracted in double."""
    model = case.as_type("float32").model()
    for size in (1e-1, 1e-4, 1e-7):
        T, truth = near(model, size, np.float32)
        assert OPENED[kind](T).exact_error(model) == pytest.approx(truth, rel=1e-6)
        assert OPENED[kind](T).evaluator(model).error() == pytest.approx(truth, rel=1e-6)
        scaled = OPENED[kind](T).scaled(0.3)
        assert scaled.residual(model.scaled(0.3).astype(float)).norm == pytest.approx(
            0.3 * truth, rel=0.5 * 1e-6 / size
        )


@extended
@pytest.mark.parametrize("kind", OPENED)
def test_terms_that_cancel(kind: str) -> None:
    """X is a million times smaller than its terms: double precision has ten digits of it."""
    rng = np.random.default_rng(0)
    first = [rng.standard_normal((n, 1)) for n in SHAPE]
    model = tc.CP([np.hstack([1e6 * first[0], -1e6 * first[0] + rng.standard_normal(first[0].shape)])]
                  + [np.hstack([x, x]) for x in first[1:]])  # fmt: skip
    T, truth = near(model, 1e-11, np.float64)
    accuracy = {"sparse": 10.0}.get(kind, 1e-4)
    assert OPENED[kind](T).exact_error(model) == pytest.approx(truth, rel=accuracy)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("filled", [1.0, 0.2, 0.02])
def test_sparse_errors_in_subspaces(case: Case, filled: float) -> None:
    model, rng = case.model(), np.random.default_rng(0)
    T = np.where(rng.random(SHAPE) < filled, case.tensor(), 0.0)
    T[1, 2, 3] = 1.0
    where = np.argwhere(T != 0.0)
    expected = float(np.linalg.norm(T - model.full()))
    assert projected_error(where, T[tuple(where.T)], model) == pytest.approx(expected, rel=1e-12)
    assert 0.0 < projected_cost(where, model) < 1e6


@pytest.mark.parametrize("size", [0.0, 1e-5, 2.4e-8, 1e-11])
@pytest.mark.parametrize("kind", ["cp", "tucker", "tc"])
def test_large_sparse_tensors(kind: str, size: float) -> None:
    """More entries than can be formed, of a model whose zeros are exact."""
    shape, rng = (3000, 2000, 1000), np.random.default_rng(0)
    dense = tc.Model.registry[kind].random((3, 4, 2), 2, rng)
    T = dense.full()
    rows = [np.sort(rng.choice(n, m, replace=False)) for n, m in zip(shape, T.shape, strict=True)]
    where = np.stack(np.meshgrid(*rows, indexing="ij"), axis=-1).reshape(-1, 3)
    tensor = Sparse(where, T.ravel(), shape)
    blocks = []
    for mode, matrix in zip(dense.network.modes, dense.matrices, strict=True):
        block = np.array(matrix)
        if mode is not None:
            block = np.zeros((shape[mode], matrix.shape[1]))
            block[rows[mode]] = matrix
        blocks.append(block)
    truth = 0.0
    if size:
        # In a row of zeros the model has something.
        row = next(i for i in range(shape[0]) if i not in rows[0])
        k = dense.network.block_of_mode[0]
        moved = np.zeros_like(blocks[k])
        moved[row] = rng.standard_normal(moved.shape[1])
        change = dense.with_matrices([moved[[row]] if n == k else m for n, m in enumerate(dense.matrices)])
        blocks[k] = blocks[k] + moved * (size * tensor.norm() / change.norm())
        truth = size * tensor.norm()
    model = dense.with_matrices(blocks)
    for error in (tensor.exact_error(model), tensor.evaluator(model).error()):
        assert error == pytest.approx(truth, rel=1e-3, abs=1e-14 * tensor.norm())


def test_an_error_that_cannot_be_had_is_not_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upper bound is given in its place."""
    import tensorchain.tensors.sparse as module

    monkeypatch.setattr(module, "_RARELY", 0.0)
    monkeypatch.setattr(module, "_ENUMERATED", 0)
    model = tc.CP.random((5, 4, 3), 2, 0)
    tensor = OPENED["sparse"](model.full())
    assert 1e-9 * tensor.norm() < tensor.residual_norm(model) < 1e-5 * tensor.norm()
    assert tensor.exact_error(model) < 1e-13 * tensor.norm()


@pytest.mark.parametrize("exponent", [-150, 150])
@pytest.mark.parametrize("kind", OPENED)
def test_extreme_scales(kind: str, exponent: int) -> None:
    case = CASES[0]
    model = case.model()
    T, truth = near(model, 1e-3, np.float64)
    factor = 10.0**exponent
    found = OPENED[kind](T * factor).exact_error(model.scaled(factor))
    assert found / factor == pytest.approx(truth, rel=1e-6)
