"""Free sweeps take the same steps with every evaluator, and their error is that of the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.evaluation import DenseEvaluator, Evaluator, SmallEvaluator
from tensorchain.models import Model
from tensorchain.solvers.sweeps import starting_error, sweep
from tensorchain.tensors import Dense, Masked
from tests.cases import THREE, Case, crossed, relative
from tests.evaluation.test_evaluators import SHAPES, made

COMPLEX = [case.as_type("complex128") for case in THREE]


def measured(evaluator: Evaluator) -> float:
    """||T - X|| by the entries."""
    return float(np.linalg.norm(evaluator.tensor.to_dense() - evaluator.model.full()))


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(("kind", "shape", "rank"), SHAPES)
def test_small_arrays_take_the_same_steps(kind: str, shape: tuple[int, ...], rank: Any, dtype: str) -> None:
    tensor, start = made(kind, shape, rank, dtype)
    ours, plain = tensor.evaluator(start), Evaluator(tensor, start)
    assert isinstance(ours, SmallEvaluator)
    errors = [starting_error(evaluator) for evaluator in (ours, plain)]
    assert errors[0] == pytest.approx(measured(plain), rel=1e-10)
    for _ in range(4):
        errors = [sweep(evaluator, error) for evaluator, error in zip((ours, plain), errors, strict=True)]
        assert errors == pytest.approx([measured(ours), measured(plain)], rel=1e-7)
        assert relative(ours.model.full(), plain.model.full()) < 1e-6
        assert all(relative(ours.model.moment(k), plain.model.moment(k)) < 1e-6 for k in range(len(start.matrices)))


@pytest.mark.parametrize("case", [*THREE, *COMPLEX], ids=str)
def test_arrays_in_any_memory_take_the_same_steps(case: Case) -> None:
    tensor, start = Dense(case.tensor()).scaled(0.2), case.model()
    ours, plain = DenseEvaluator(tensor, start, tensor.array, scale=tensor.scale), Evaluator(tensor, start)
    errors = [starting_error(evaluator) for evaluator in (ours, plain)]
    for _ in range(4):
        before = errors
        errors = [sweep(evaluator, error) for evaluator, error in zip((ours, plain), errors, strict=True)]
        assert errors[0] <= before[0] * (1.0 + 1e-12)
        assert errors == pytest.approx([measured(ours), measured(plain)], rel=1e-7)
        assert relative(ours.model.full(), plain.model.full()) < 1e-6


def test_tucker_takes_the_joint_step() -> None:
    """HOOI: after one sweep the error is that of the projection on the factors."""
    tensor, start = Dense(THREE[1].tensor()), THREE[1].model()
    evaluator = tensor.evaluator(start)
    error = sweep(evaluator, starting_error(evaluator))
    bases = [np.linalg.qr(factor)[0] for factor in evaluator.model.matrices[1:]]
    core = np.einsum("ijk,ia,jb,kc->abc", tensor.array, *bases)
    assert error**2 == pytest.approx(tensor.norm() ** 2 - np.sum(core**2), rel=1e-10)


@pytest.mark.parametrize("kind", ["any memory", "fixed memory"])
def test_equations_without_a_unique_solution(kind: str) -> None:
    """Two equal columns: M is singular."""
    rng = np.random.default_rng(0)
    factors = [np.repeat(rng.standard_normal((n, 1)), 2, axis=1) for n in (6, 5, 4)]
    tensor, start = Dense(rng.standard_normal((6, 5, 4))), tc.CP(factors)
    evaluator = tensor.evaluator(start) if kind == "fixed memory" else Evaluator(tensor, start)
    error = starting_error(evaluator)
    for _ in range(3):
        before, error = error, sweep(evaluator, error)
        assert error <= before * (1.0 + 1e-12)
        assert error == pytest.approx(measured(evaluator), rel=1e-8)


def test_a_step_that_does_not_lower_the_error_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor, start = made("cp", (9, 8, 7), 3)
    evaluator = Evaluator(tensor, start)
    honest = Evaluator.system

    class Wrong:
        """A solution that points uphill."""

        def __init__(self, system: Any) -> None:
            self.apply, self.trace, self._solve = system.apply, system.trace, system.solve

        def solve(self, rhs: Any) -> Any:
            return -self._solve(rhs)

    monkeypatch.setattr(Evaluator, "system", lambda self, k: Wrong(honest(self, k)))
    error = measured(evaluator)
    assert sweep(evaluator, error) == error
    assert all(a is b for a, b in zip(evaluator.model.matrices, start.matrices, strict=True))


@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["dense", "masked"])
def test_the_error_is_that_of_the_model_where_terms_cancel(kind: str, dtype: str, size: float) -> None:
    """Blocks that are much larger than their product: the short formula has lost its digits."""
    rng = np.random.default_rng(0)
    array = rng.standard_normal((6, 5, 4)).astype(dtype)
    tensor = Dense(array) if kind == "dense" else Masked(array, rng.random(array.shape) < 0.9)
    a, b, c = (rng.standard_normal((n, 1)) for n in array.shape)
    near = [np.hstack([x, x + rng.standard_normal(x.shape) / size]) for x in (a, b, c)]
    start = tc.CP([near[0] * [size, -size], near[1], near[2]])
    evaluator = tensor.evaluator(start)
    error = starting_error(evaluator)
    for _ in range(2):
        weight = tensor.observed if isinstance(tensor, Masked) else 1.0
        truth = np.linalg.norm(weight * (array.astype(float) - evaluator.model.full()))
        assert error == pytest.approx(truth, rel=1e-3)
        error = sweep(evaluator, error)


def test_errors_of_single_precision_matrices_are_true() -> None:
    """Rank 3 asked of matrices of rank 2: one column is free to run off."""
    checked = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        T = (rng.standard_normal((3, 2)) @ rng.standard_normal((2, 5))).astype(np.float32)
        tensor = Dense(T)
        evaluator = tensor.evaluator(tc.CP.random(T.shape, 3, rng))
        error = starting_error(evaluator)
        for _ in range(15):
            error = sweep(evaluator, error)
            truth = float(np.linalg.norm(T.astype(float) - evaluator.model.full()))
            assert error == pytest.approx(truth, rel=1e-2, abs=1e-12 * tensor.norm())
            checked += 1
    assert checked == 600


@crossed(
    every=2, constraint=[None, tc.Penalty(1e-3), tc.ErrorBound(0.9)], solver=[tc.LM(max_iter=40), tc.Path(max_iter=40)]
)
def test_solvers_take_the_same_way(solver: Any, constraint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    T = tc.datasets.border_chain((6, 6, 6), (2, 2, 2), np.random.default_rng(0)).tensor
    start: Model = tc.TensorChain.random(T.shape, 2, 1)
    ways = [tc.decompose(T, init=start, solver=solver, constraint=constraint, rng=0)]
    monkeypatch.setattr(SmallEvaluator, "fits", lambda *_: False)
    ways.append(tc.decompose(T, init=start, solver=solver, constraint=constraint, rng=0))
    count = min(len(ways[0].history), len(ways[1].history), 10)
    assert ways[0].history.error[:count] == pytest.approx(ways[1].history.error[:count], rel=1e-6)
    assert ways[0].error == pytest.approx(ways[1].error, rel=0.1)
