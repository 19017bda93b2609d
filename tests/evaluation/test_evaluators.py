"""Every evaluator against the generic one, which asks the tensor and the model anew each time."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.evaluation import DenseEvaluator, Evaluator, SmallEvaluator
from tensorchain.evaluation.device import DeviceEvaluator
from tensorchain.models import Model
from tensorchain.tensors import Dense, as_tensor
from tests.cases import THREE, Case, four_models, gaussian, jacobian, relative
from tests.tensors.sources import FULL, PARTIAL, Way

SHAPES = [
    ("cp", (9, 8), 3),
    ("tc", (7, 6), (2, 3)),
    ("cp", (9, 8, 7), 4),
    ("cp", (20, 19, 18), 15),
    ("tc", (9, 8, 7), (2, 3, 2)),
    ("tc", (30, 31, 32), (3, 2, 4)),
    ("tc", (30, 3, 30), 4),
    ("cp", (6, 5, 4, 5), 6),
    ("tc", (6, 5, 4, 5), (2, 1, 3, 2)),
    ("tc", (4, 5, 3, 4, 3), 2),
    ("cp", (4, 1, 3, 4, 1), 2),
]
"""Of models of one term without cores; some are small enough for Newton's programs, some are not."""


def made(kind: str, shape: tuple[int, ...], rank: Any, dtype: str = "float64") -> tuple[Dense, Model]:
    """A tensor with a scale, and a start."""
    rng = np.random.default_rng(0)
    start = Model.registry[kind].random(shape, rank, rng, dtype)
    return Dense(gaussian(shape, dtype, rng)).scaled(0.03), start


def fresh(model: Model) -> Model:
    """The same model with other arrays, so that nothing is cached and nothing is recognised."""
    return model.with_matrices([np.array(matrix) for matrix in model.matrices])


def check(evaluator: Evaluator, model: Model, rng: np.random.Generator, tol: float) -> None:
    """All answers at one model, in random order."""
    plain = Evaluator(evaluator.tensor, fresh(model))
    delta = [gaussian(matrix.shape, matrix.dtype, rng) for matrix in model.matrices]

    def products() -> None:
        for k in rng.permutation(len(model.matrices)):
            assert relative(evaluator.rhs(k), plain.rhs(k)) < tol

    def joint_products() -> None:
        for k in range(len(model.matrices)):
            mine, theirs = evaluator.joint_rhs(k), plain.joint_rhs(k)
            if mine is None:
                # Not every evaluator has it.
                assert theirs is None or isinstance(evaluator, DeviceEvaluator)
                continue
            assert theirs is not None
            assert relative(mine, theirs) < tol

    def systems() -> None:
        for k, block in enumerate(delta):
            assert relative(evaluator.gram(k), plain.gram(k)) < tol
            mine, theirs = evaluator.system(k), plain.system(k)
            assert relative(mine.apply(block), theirs.apply(block)) < tol
            assert mine.trace() == pytest.approx(theirs.trace(), rel=tol)
            assert mine.trace() == pytest.approx(np.trace(plain.gram(k), axis1=-2, axis2=-1).real.max(), rel=tol)

    def metrics() -> None:
        assert evaluator.sensitivity() == pytest.approx(plain.sensitivity(), rel=tol)
        for k, block in enumerate(delta):
            assert relative(evaluator.metric(k), plain.metric(k)) < tol
            assert relative(evaluator.apply_metric(k, block), block @ plain.metric(k).T) < tol

    def residuals() -> None:
        assert evaluator.error() == pytest.approx(plain.error(), rel=tol)
        for mine, theirs in zip(evaluator.gradient(), plain.gradient(), strict=True):
            assert relative(mine, theirs) < tol

    def curvature() -> None:
        assert relative(np.triu(evaluator.gauss_newton()), np.triu(plain.gauss_newton())) < tol
        for mine, theirs in zip(evaluator.gauss_newton_matvec(delta), plain.gauss_newton_matvec(delta), strict=True):
            assert relative(mine, theirs) < tol

    questions = [products, joint_products, systems, metrics, residuals]
    questions += [curvature] if model.n_parameters < 500 else []
    for n in rng.permutation(len(questions)):
        questions[n]()
    assert all(np.array_equal(a, b) for a, b in zip(evaluator.model.matrices, model.matrices, strict=True))


def walk(evaluator: Evaluator, start: Model, steps: int, tol: float = 1e-10) -> None:
    """Random moves: one block, all of them, some of them, back to where it was, rescaled."""
    rng = np.random.default_rng(1)
    model, before = start, start
    for _ in range(steps):
        check(evaluator, model, rng, tol)
        k = int(rng.integers(len(model.matrices)))
        block = gaussian(model.matrices[k].shape, model.dtype, rng)
        move = rng.integers(5)
        if move == 0:
            model, before = model.with_matrix(k, block.copy()), model
            evaluator.replace(k, block)
            continue
        if move == 1:
            model, before = model.random_like(rng), model
        elif move == 2:
            model, before = before, model
        elif move == 3:
            model = model.rescaled([2.0 ** int(n) for n in rng.integers(-1, 2, len(model.matrices))])
        else:
            model, before = model.with_matrix(k, block), model
        evaluator.hold(model)
    check(evaluator, model, rng, tol)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(("kind", "shape", "rank"), SHAPES)
def test_small_arrays(kind: str, shape: tuple[int, ...], rank: Any, dtype: str) -> None:
    tensor, start = made(kind, shape, rank, dtype)
    evaluator = tensor.evaluator(start)
    assert isinstance(evaluator, SmallEvaluator)
    walk(evaluator, start, 4)


@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32"])
@pytest.mark.parametrize("case", [*four_models(3), *four_models(4)], ids=str)
def test_arrays_in_any_memory(case: Case, dtype: str) -> None:
    tensor, start = Dense(case.as_type(dtype).tensor()).scaled(0.3), case.as_type(dtype).model()
    evaluator = DenseEvaluator(tensor, start, tensor.array, scale=tensor.scale)
    # Products over float32 data are made in float32, in another order from other partial products.
    walk(evaluator, start, 6, 1e-10 if dtype != "float32" else 3e-5)


@pytest.mark.parametrize("way", [*FULL, *PARTIAL], ids=str)
def test_every_data_class(way: Way) -> None:
    for case in THREE[:2] if way.name in ("lazy-dask", "device-torch") else THREE:
        tensor = way.open(case.tensor(), way.weights(case.shape)).scaled(0.37)
        start = case.model()
        # Sparse: the short formula for the error has seven digits of its square.
        walk(tensor.evaluator(start), start, 1 if "dask" in way.name else 3, 1e-7 if way.name == "sparse" else 1e-9)


@pytest.mark.parametrize("kind", ["tucker", "btd", "cp", "tc"])
def test_row_counts_are_those_of_the_model_that_is_held(kind: str) -> None:
    case = next(case for case in THREE if case.kind.name == kind)
    model = case.model()
    counts = [1 if mode is None else 11 + 7 * k for k, mode in enumerate(model.network.modes)]
    large = model.with_row_counts(counts)
    evaluator = Dense(case.tensor()).evaluator(large)
    for held in (large, model, large):
        evaluator.hold(held)
        check_sensitivities(evaluator, held)
    evaluator.replace(1, 2.0 * model.matrices[1])
    check_sensitivities(evaluator, large.with_matrix(1, 2.0 * model.matrices[1]))


def check_sensitivities(evaluator: Evaluator, model: Model) -> None:
    assert evaluator.sensitivity() == pytest.approx(model.sensitivity(), rel=1e-12)
    for k in range(len(model.matrices)):
        assert relative(evaluator.metric(k), model.sensitivity_metric(k)) < 1e-12


@pytest.mark.parametrize(
    ("tensor", "model"),
    [
        (np.ones((4, 5, 6)), tc.Tucker.random((4, 5, 6), 2, 0)),
        (np.ones((4, 5, 6)), tc.BlockTerm.random((4, 5, 6), [(1, 1, 1), (2, 2, 2)], 0)),
        (np.ones((4, 5, 6), np.float32), tc.CP.random((4, 5, 6), 2, 0, np.float32)),
        (np.ones((4, 5, 6)), tc.CP.random((4, 5, 6), 2, 0, np.complex128)),
        (np.ones((129, 128, 128)), tc.CP.random((129, 128, 128), 1, 0)),
    ],
    ids=["cores", "terms", "single precision", "complex model", "large"],
)
def test_programs_are_written_where_they_pay(tensor: Any, model: Model) -> None:
    assert type(as_tensor(tensor).evaluator(model)) is DenseEvaluator


def test_the_jacobian_agrees() -> None:
    """Not only with one another: with the explicit J."""
    tensor, model = made("tc", (4, 3, 5), (2, 3, 2), "complex128")
    J, error = jacobian(model), (tensor.to_dense() - model.full()).ravel()
    evaluator = tensor.evaluator(model)
    assert relative(np.concatenate([g.ravel() for g in evaluator.gradient()]), J.conj().T @ error) < 1e-11
    assert relative(np.triu(evaluator.gauss_newton()), np.triu(J.conj().T @ J)) < 1e-11


def test_products_and_gradients_belong_to_the_caller() -> None:
    for tensor, model in (made("cp", (5, 4, 3), 2), made("cp", (25, 26, 27), 2)):
        for evaluator in (tensor.evaluator(model), DenseEvaluator(tensor, model, tensor.array, scale=tensor.scale)):
            for k in range(3):
                evaluator.rhs(k)
                expected = evaluator.rhs(k).copy(), evaluator.gradient()[k].copy()
                for array in (evaluator.rhs(k), evaluator.gradient()[k]):
                    array *= 0.0
                assert np.array_equal(evaluator.rhs(k), expected[0])
                assert relative(evaluator.rhs(k), Evaluator(tensor, model).rhs(k)) < 1e-12


def test_models_that_were_handed_out_do_not_change() -> None:
    tensor, model = made("tc", (9, 8, 7), 2)
    evaluator = tensor.evaluator(model)
    evaluator.replace(0, 2.0 * model.matrices[0])
    first = evaluator.model
    before = [matrix.copy() for matrix in first.matrices]
    evaluator.replace(1, 3.0 * model.matrices[1])
    evaluator.hold(model)
    assert all(np.array_equal(a, b) for a, b in zip(before, first.matrices, strict=True))
    for k in range(3):
        assert relative(first.moment(k), fresh(first).moment(k)) < 1e-14
        with pytest.raises(ValueError, match="read-only"):
            first.matrices[k][0] = 1.0


@pytest.mark.parametrize("kind", ["any memory", "fixed memory"])
def test_models_of_another_wiring_are_refused(kind: str) -> None:
    tensor, model = made("cp", (9, 8, 7), 2)
    evaluator = tensor.evaluator(model)
    if kind == "any memory":
        evaluator = DenseEvaluator(tensor, model, tensor.array)
    with pytest.raises(ValueError, match="make another one"):
        evaluator.hold(tc.CP.random((9, 8, 7), 3, 0))
    with pytest.raises(ValueError, match="make another one"):
        evaluator.hold(tc.TensorChain.random((9, 8, 7), (2, 1, 1), 0))
    with pytest.raises(ValueError, match="make another one"):
        evaluator.hold(tc.CP.random((1, 8, 7), 2, 0))
    if kind == "fixed memory":
        with pytest.raises(ValueError, match="shape"):
            evaluator.replace(0, np.ones((1, 2)))
    assert (
        relative(evaluator.rhs(1), Evaluator(tensor, model).rhs(1) / (1.0 if kind == "fixed memory" else 0.03)) < 1e-12
    )


@pytest.mark.parametrize("kind", ["any memory", "fixed memory"])
@pytest.mark.parametrize(("wiring", "shape"), [("tc", (30, 31, 32)), ("cp", (6, 5, 4, 5)), ("tucker", (9, 8, 7))])
def test_an_evaluator_goes_on_where_another_was(kind: str, wiring: str, shape: tuple[int, ...]) -> None:
    tensor, model = made(wiring, shape, 2)

    def opened() -> Evaluator:
        return tensor.evaluator(model) if kind == "fixed memory" else DenseEvaluator(tensor, model, tensor.array)

    first = opened()
    assert first.state() == []
    for last in range(len(model.matrices)):
        first.rhs(last)
        second = opened()
        second.restore(json.loads(json.dumps(first.state())))
        assert second.state() == first.state() != []
        k = (last + 1) % len(model.matrices)
        assert np.array_equal(first.rhs(k), second.rhs(k))
    first.hold(model.random_like(np.random.default_rng(0)))
    assert first.state() == []
    with pytest.raises(ValueError, match="no partial products"):
        Evaluator(tensor, model).restore([[0, 0, 0]])


def test_an_interrupted_move_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor, first = made("tc", (4, 3, 5), 2)
    second = first.random_like(np.random.default_rng(1))
    evaluator = tensor.evaluator(first)
    before = evaluator.error(), evaluator.rhs(0)
    honest, count = np.copyto, iter(range(100))

    def interrupted(*arguments: Any, **options: Any) -> None:
        if next(count) == 1:
            raise KeyboardInterrupt
        honest(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(np, "copyto", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluator.hold(second)
    evaluator.hold(first)
    assert evaluator.error() == before[0]
    assert np.array_equal(evaluator.rhs(0), before[1])


def test_nothing_overflows_or_vanishes() -> None:
    """Errors whose squares are no numbers are measured with care."""
    rng = np.random.default_rng(0)
    model = tc.CP.random((4, 3, 5), 2, rng)
    tiny = model.with_matrices([matrix * 1e-60 for matrix in model.matrices])
    tensor = Dense(tiny.full() * (1.0 + 1e-3))
    expected = 1e-3 * float(np.linalg.norm(tensor.to_dense() / 1e-180)) * 1e-180
    assert tensor.evaluator(tiny).error() == pytest.approx(expected, rel=1e-6)
