"""Orders up to fifty, wherever the data fit: letters of the wiring are no limit, and sizes of arrays are."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.kernels import contract
from tensorchain.models.network import BOND_LETTERS, CORE_LETTERS, MODE_LETTERS
from tests.cases import gaussian, mostly_slow, relative


def by_products(train: Any, indices: Any) -> Any:
    """Entries of a chain, one matrix product after the other."""
    values = []
    for position in indices:
        product = np.eye(train.bonds[0])
        for core, i in zip(train.cores, position, strict=True):
            product = product @ core[:, i, :]
        values.append(np.trace(product))
    return np.array(values)


def train_of(order: int, size: int = 2, bond: int = 2, loop: int = 1, dtype: str = "float64") -> Any:
    model = tc.TensorChain.random((size,) * order, (loop,) + (bond,) * (order - 1), 0)
    rng = np.random.default_rng(order)
    return model.with_matrices([gaussian(matrix.shape, dtype, rng) for matrix in model.matrices])


def test_letters_are_distinct() -> None:
    every = MODE_LETTERS + BOND_LETTERS + BOND_LETTERS.upper() + CORE_LETTERS + "ZAB"
    assert len(set(every)) == len(every)
    assert len(MODE_LETTERS) == 50
    assert len(BOND_LETTERS) == len(BOND_LETTERS.upper()) >= 50
    assert not set(every) & set(",->")


@pytest.mark.parametrize("count", [3, 20, 30, 60])
@pytest.mark.parametrize("batch", [False, True])
def test_contractions_of_many_operands(count: int, batch: bool) -> None:
    """A ring of matrices, closed or along a batch that all of them share."""
    letters = [chr(0x4E00 + n) for n in range(count)]
    rng = np.random.default_rng(count)
    front = "Z" if batch else ""
    labels = [front + letters[n] + letters[(n + 1) % count] for n in range(count)]
    operands = [rng.standard_normal((3,) * batch + (2, 2)) for _ in range(count)]
    expected = [
        np.trace(np.linalg.multi_dot([m[z] if batch else m for m in operands])) for z in range(3 if batch else 1)
    ]
    value = np.atleast_1d(contract(",".join(labels) + "->" + front, *operands))
    assert relative(value, np.array(expected)) < 1e-12


@pytest.mark.parametrize(("order", "loop", "dtype"), [(11, 2, "float64"), (16, 1, "complex128"), (14, 3, "float32")])
def test_values_of_long_chains(order: int, loop: int, dtype: str) -> None:
    train = train_of(order, loop=loop, dtype=dtype)
    whole = train.full()
    where = np.random.default_rng(0).integers(0, 2, (40, order))
    tolerance = 1e-4 if dtype == "float32" else 1e-12
    assert relative(whole[tuple(where.T)], by_products(train, where)) < tolerance
    assert relative(train.entries(where), by_products(train, where)) < tolerance
    assert train.norm() == pytest.approx(np.linalg.norm(whole), rel=tolerance)


@pytest.mark.parametrize("order", [24, 50])
def test_sensitivity_and_gauge_of_the_longest(order: int) -> None:
    """SS = sum_k ||dX/dA_k||^2 by transfer matrices, made one by one."""
    train = train_of(order, loop=2)
    moments = [np.einsum("aib,cid->acbd", core, core) for core in train.cores]
    chained = [m.reshape(m.shape[0] * m.shape[1], -1) for m in moments]
    expected = 0.0
    for k in range(order):
        loop = np.linalg.multi_dot([*chained[k + 1 :], *chained[:k]])
        left, _, right = train.cores[k].shape
        expected += 2.0 * np.einsum("bbaa->", loop.reshape(right, right, left, left))
    assert train.sensitivity() == pytest.approx(expected, rel=1e-10)
    balanced = tc.optimal_gauge(train, tol=1e-2)
    where = np.random.default_rng(0).integers(0, 2, (20, order))
    assert relative(balanced.entries(where), train.entries(where)) < 1e-9
    assert balanced.sensitivity() <= train.sensitivity()


@pytest.mark.parametrize(
    ("solver", "init"), [(tc.ALS(max_iter=6), "svd"), (tc.ALS(max_iter=6), "random"), (tc.LM(max_iter=8), "svd")]
)
def test_quantised_functions(solver: Any, init: str) -> None:
    """A sine on 2^14 points is a train of bonds 2."""
    values = np.sin(7.0 * np.linspace(0.0, 1.0, 2**14)).reshape((2,) * 14)
    fit = tc.decompose(values, "tc", (1,) + (2,) * 13, solver=solver, init=init, rng=0)
    assert fit.error < 1e-4


@pytest.mark.parametrize("kind", [tc.Sparse, tc.Observed])
@pytest.mark.parametrize(("model", "rank"), mostly_slow([("tc", (1,) + (2,) * 29), ("cp", 2)]))
def test_entries_of_order_thirty(kind: Any, model: str, rank: Any) -> None:
    rng = np.random.default_rng(3)
    where = np.unique(rng.integers(0, 2, (400, 30)), axis=0)
    values = rng.standard_normal(len(where))
    fit = tc.decompose(kind(where, values, (2,) * 30), model, rank, solver=tc.ALS(max_iter=2), rng=0)
    assert fit.model.shape == (2,) * 30
    found = fit.model.entries(where)
    square = np.sum((values - found) ** 2)
    if kind is tc.Sparse:
        square += fit.model.norm() ** 2 - np.sum(found**2)
    assert fit.error == pytest.approx(np.sqrt(square) / np.linalg.norm(values), rel=1e-6)


def test_files_of_long_chains(tmp_path: Any) -> None:
    train = train_of(50)
    train.save(tmp_path / "train.npz")
    assert tc.load(tmp_path / "train.npz").network == train.network


def test_beyond_is_refused() -> None:
    with pytest.raises(ValueError, match="orders 2 to 50"):
        tc.TensorChain([np.ones((1, 2, 1))] * 51)
    with pytest.raises(ValueError, match="orders 2 to 50"):
        tc.Sparse(np.zeros((1, 51), dtype=int), [1.0], (2,) * 51)


def test_short_equations_are_in_letters_of_numpy() -> None:
    for order in (3, 10, 20):
        (term,) = tc.interop.to_einsum(train_of(order))
        assert set(term.equation) <= set(string.ascii_letters + ",->")
        assert relative(np.einsum(term.equation, *term.operands, optimize=True), train_of(order).full()) < 1e-12
