"""The packed Gauss-Newton product of a small CPD against the explicit Jacobian, and steps that use it."""

from __future__ import annotations

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.evaluation import Evaluator
from tensorchain.models.cp_packed import PackedNewton
from tensorchain.solvers.constraints import Free, Lagrangian, Penalty
from tensorchain.solvers.normal_equations import NormalEquations
from tests.cases import cp_case, relative
from tests.test_cp_newton import damped

CASES = [((4, 3, 5), 2), ((2, 3, 4), 5), ((3, 2, 4, 3), 3), ((6, 5), 2), ((3, 1, 2, 2, 2), 2)]


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(("weight", "penalty"), [(1.0, 0.0), (0.7, 0.3)])
@pytest.mark.parametrize(("shape", "rank"), CASES)
def test_the_product(shape: tuple[int, ...], rank: int, weight: float, penalty: float, dtype: str) -> None:
    model = cp_case(shape, rank).as_type(dtype).model()
    delta = cp_case(shape, rank).as_type(dtype).model(seed=1).matrices
    packed = model.packed_newton(weight, penalty)
    assert packed is not None
    flat = np.concatenate([block.ravel() for block in delta])
    expected = weight * damped(model, penalty / weight, 0.2 / weight) @ flat
    image = packed.unpack(packed.apply(packed.pack(delta), 0.2))
    assert relative(np.concatenate([block.ravel() for block in image]), expected) < 1e-12


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_the_preconditioner_inverts_the_blocks_of_the_diagonal(dtype: str) -> None:
    model = cp_case((4, 3, 5), 3).as_type(dtype).model()
    packed = model.packed_newton(0.7, 0.3)
    assert packed is not None
    inverse = packed.block_inverse(0.1)
    assert inverse is not None
    solved = packed.unpack(packed.pack(model.matrices) @ inverse)
    for k, (block, found) in enumerate(zip(model.matrices, solved, strict=True)):
        system = 0.7 * model.gram(k) + 0.3 * model.sensitivity_metric(k) + 0.1 * np.eye(3)
        assert relative(found @ system.T, block) < 1e-10


def test_no_inverse_where_a_block_is_not_positive() -> None:
    packed = tc.CP.random((3, 4, 5), 2, rng=0).packed_newton(1.0, 0.0)
    assert packed is not None
    assert packed.block_inverse(-1e6) is None


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("penalty", [0.0, 0.01])
def test_a_step_is_that_of_single_blocks(penalty: float, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conjugate gradients come to the same step, within their tolerance made tight by many steps on few unknowns."""
    case = cp_case((4, 3, 5), 2).as_type(dtype)
    T = case.model(seed=3).full()
    model = case.model()
    constraint = Penalty(penalty) if penalty else Free()

    def step(packed: bool) -> tuple[np.ndarray, float]:
        if not packed:
            monkeypatch.setattr(tc.CP, "packed_newton", lambda *_: None)
        at = Evaluator(tc.Dense(T), model)
        values = constraint.measured(at)
        equations = NormalEquations(at, Lagrangian.of(constraint, values), values, dense_limit=0)
        assert isinstance(equations.packed, PackedNewton) == packed
        found = equations.solve(0.5)
        assert found is not None
        return np.concatenate([block.ravel() for block in found[0]]), found[1]

    one, two = step(packed=True), step(packed=False)
    assert relative(one[0], two[0]) < 1e-8
    assert one[1] == pytest.approx(two[1], rel=1e-8)


def test_where_it_is_not_taken() -> None:
    """Large factors, single precision, and other models."""
    assert tc.CP.random((300, 300, 300), 30, rng=0).packed_newton(1.0, 0.0) is None
    assert tc.CP.random((3, 4, 5), 2, rng=0).astype("float32").packed_newton(1.0, 0.0) is None
    assert tc.TensorChain.random((3, 4, 5), 2, rng=0).packed_newton(1.0, 0.0) is None
