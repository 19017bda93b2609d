"""Blocks that stay as they are: against least squares whose columns are built entry by entry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.optimize
from numpy.testing import assert_allclose, assert_array_equal

import tensorchain as tc
from tensorchain.solvers.constraints.fixed import FixedBlocks, blocks_named
from tests.cases import SOLVED, Case, crossed, jacobian_blocks, random_gauge
from tests.tensors.sources import FULL, PARTIAL, Way

SOLVERS = {"als": tc.ALS(), "lm": tc.LM(), "path": tc.Path(), "auto": None}
DTYPES = ["float32", "float64", "complex128"]


def columns(case: Case, model: Any, k: int) -> Any:
    """Columns of X as a linear function of block k: by the twin of the model, or as the other tests of J have them."""
    if case.dtype != "float64" or k:
        return jacobian_blocks(model)[k]
    found = []
    for position in range(model.matrices[k].size):
        unit = np.zeros_like(model.matrices[k])
        unit.flat[position] = 1.0
        found.append(np.asarray(case.twin(model.with_matrix(k, unit).blocks)).ravel())
    return np.stack(found, axis=1)


def by_least_squares(case: Case, model: Any, k: int, T: Any, weights: Any = None) -> tuple[Any, float]:
    """The best block k with the others as they are, and its relative error, by LAPACK."""
    root = np.ones(T.size) if weights is None else np.sqrt(weights).ravel()
    goal = root * np.where(root.reshape(T.shape) > 0, T, 0).ravel()
    design = root[:, None] * columns(case, model, k)
    best = np.linalg.lstsq(design, goal, rcond=None)[0]
    return best.reshape(model.matrices[k].shape), np.linalg.norm(goal - design @ best) / np.linalg.norm(goal)


def untouched(fit: tc.Fit, model: Any, free: set[int]) -> None:
    for k, (one, other) in enumerate(zip(fit.model.matrices, model.matrices, strict=True)):
        if k not in free:
            assert_array_equal(one, other)
            assert one.dtype == other.dtype


def all_but(model: Any, k: int) -> list[Any]:
    """`fixed` for all blocks but one."""
    return [name for m, name in enumerate(model.block_names) if m != k]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", SOLVED, ids=str)
def test_one_free_block_is_linear_least_squares(case: Case, dtype: str) -> None:
    case = case.as_type(dtype)
    T, model = case.tensor(), case.model(3)
    for k in range(len(model.matrices)) if dtype == "float64" else [1]:
        best, error = by_least_squares(case, model, k, T)
        for solver in [None] if dtype == "float32" else [None, tc.ALS(), tc.LM()]:
            fit = tc.decompose(T, init=model, fixed=all_but(model, k), solver=solver, rng=0)
            untouched(fit, model, {k})
            assert fit.converged, fit.reason
            assert fit.error == pytest.approx(error, rel=1e-4 if dtype == "float32" else 1e-9)
            assert fit.fixed == tuple(all_but(model, k))
            # Several blocks may give one X, as with a core that is wider than what surrounds it.
            shown = columns(case, model, k)
            apart = np.linalg.norm(shown @ (fit.model.matrices[k] - best).ravel())
            assert apart <= (1e-3 if dtype == "float32" else 1e-5) * np.linalg.norm(T)
            assert fit.sensitivity == pytest.approx(fit.model.sensitivity(), rel=1e-12)


@pytest.mark.parametrize("case", SOLVED, ids=str)
@pytest.mark.parametrize("name", SOLVERS)
def test_several_free_blocks_end_where_none_alone_is_better(case: Case, name: str) -> None:
    T, model = case.tensor(), case.model(3)
    held = model.network.block_of_mode[0]
    fit = tc.decompose(T, init=model, fixed=0, solver=SOLVERS[name], rng=0)
    untouched(fit, model, set(range(len(model.matrices))) - {held})
    assert fit.error == pytest.approx(np.linalg.norm(T - case.twin(fit.model.blocks)) / np.linalg.norm(T), rel=1e-9)
    for k in range(len(model.matrices)):
        least = by_least_squares(case, fit.model, k, T)[1]
        if k == held:
            assert least < fit.error * (1 - 1e-3)
        else:
            assert least > fit.error * (1 - 1e-5)


@crossed(2, way=[*FULL, *PARTIAL], case=[SOLVED[0], SOLVED[1]])
def test_every_data_class(case: Case, way: Way) -> None:
    T, model = case.tensor(), case.model(3)
    weights = way.weights(T.shape)
    k = model.network.block_of_mode[2]
    fit = tc.decompose(way.open(T, weights), init=model, fixed=all_but(model, k), rng=0)
    untouched(fit, model, {k})
    assert fit.error == pytest.approx(by_least_squares(case, model, k, T, weights)[1], rel=1e-7)
    both = tc.decompose(way.open(T, weights), init=model, fixed=0, solver=tc.LM(max_iter=10), rng=0)
    untouched(both, model, set(range(len(model.matrices))) - {model.network.block_of_mode[0]})
    assert both.error < fit.error * 1.5


@pytest.mark.parametrize("case", SOLVED, ids=str)
def test_data_of_another_size_in_free_modes(case: Case) -> None:
    model, rng = case.model(3), np.random.default_rng(1)
    T = rng.standard_normal((9, *case.shape[1:]))
    held = [name for name, mode in zip(model.block_names, model.network.modes, strict=True) if mode != 0]
    fit = tc.decompose(T, init=model, fixed=held, rng=0)
    k = model.network.block_of_mode[0]
    untouched(fit, model, {k})
    assert fit.model.shape == T.shape
    wide = model.with_matrix(k, np.zeros((9, model.matrices[k].shape[1])))
    assert fit.error == pytest.approx(by_least_squares(case, wide, k, T)[1], rel=1e-9)
    # Two modes of another size.
    T = rng.standard_normal((9, case.shape[1], 6))
    fit = tc.decompose(T, init=model, fixed=1, rng=0, starts=2)
    assert fit.model.shape == T.shape
    assert fit.error < 1.0
    assert_array_equal(
        fit.model.matrices[model.network.block_of_mode[1]], model.matrices[model.network.block_of_mode[1]]
    )


def test_a_start_of_zeros_is_no_trap() -> None:
    rng = np.random.default_rng(0)
    truth = tc.CP([rng.standard_normal((size, 2)) for size in (5, 6, 7)])
    start = tc.CP([truth.factors[0], np.zeros((6, 2)), np.zeros((7, 2))])
    fit = tc.decompose(truth.full(), init=start, fixed=0, rng=0)
    assert fit.error < 1e-6
    assert_array_equal(fit.model.factors[0], truth.factors[0])


@pytest.mark.parametrize("case", SOLVED, ids=str)
def test_non_negative_free_blocks(case: Case) -> None:
    rng = np.random.default_rng(2)
    model = case.model(3).with_matrices([np.abs(m) for m in case.model(3).matrices])
    T = model.full() + 3.0 * model.full().std() * rng.standard_normal(case.shape)
    k = model.network.block_of_mode[0]
    design = columns(case, model, k)
    least = scipy.optimize.nnls(design, T.ravel())[1] / np.linalg.norm(T)
    assert least > by_least_squares(case, model, k, T)[1] * (1 + 1e-6)
    for solver in (None, tc.ALS(), tc.LM()):
        fit = tc.decompose(T, init=model, fixed=all_but(model, k), constraint=tc.NonNegative(), solver=solver, rng=0)
        untouched(fit, model, {k})
        assert fit.model.matrices[k].min() >= 0.0
        assert fit.error == pytest.approx(least, rel=1e-7)


def test_non_negative_with_a_fixed_factor_of_both_signs() -> None:
    rng = np.random.default_rng(2)
    model = tc.CP([rng.standard_normal((4, 2)), rng.random((5, 2)), rng.random((6, 2))])
    T = rng.standard_normal(model.shape)
    with pytest.raises(ValueError, match=r"factor 1 of init has negative entries.*leave its mode out"):
        tc.decompose(T, init=model, fixed=0, constraint=tc.NonNegative())
    fit = tc.decompose(T, init=model, fixed=0, constraint=tc.NonNegative(modes=(1, 2)), rng=0)
    untouched(fit, model, {1, 2})
    assert min(factor.min() for factor in fit.model.factors[1:]) >= 0.0
    assert fit.nonnegative == ("factor 2", "factor 3")


@pytest.mark.parametrize("case", SOLVED, ids=str)
@pytest.mark.parametrize("name", SOLVERS)
def test_with_a_penalty(case: Case, name: str) -> None:
    T, model, nu = case.tensor(), case.model(3), 0.3
    k = model.network.block_of_mode[1]
    fit = tc.decompose(T, init=model, fixed=all_but(model, k), constraint=tc.Penalty(nu), solver=SOLVERS[name], rng=0)
    untouched(fit, model, {k})
    # SS = <B, B Q> + c is a quadratic form in the one block: its matrix by differences.
    size = model.matrices[k].size

    def sensitivity(flat: Any) -> float:
        return float(model.with_matrix(k, flat.reshape(model.matrices[k].shape)).sensitivity())

    units, zero = np.eye(size), sensitivity(np.zeros(size))
    alone = [sensitivity(u) - zero for u in units]
    Q = np.array([[0.5 * (sensitivity(u + v) - zero - a - b) for v, b in zip(units, alone, strict=True)]
                  for u, a in zip(units, alone, strict=True)])  # fmt: skip
    design = columns(case, model, k)
    best = np.linalg.solve(design.T @ design + nu * Q, design.T @ T.ravel())
    objective = np.sum((T.ravel() - design @ best) ** 2) + nu * sensitivity(best)
    found = np.linalg.norm(T - fit.model.full()) ** 2 + nu * fit.sensitivity
    assert found == pytest.approx(objective, rel=1e-6)


@pytest.mark.parametrize("case", [SOLVED[0], SOLVED[3]], ids=str)
@pytest.mark.parametrize("solver", [None, tc.ALS(), tc.LM()], ids=str)
def test_with_bounds(case: Case, solver: Any) -> None:
    T, model = case.tensor(), case.model(3)
    free = tc.decompose(T, init=model, fixed=1, solver=solver, rng=0)
    limit = 0.8 * free.sensitivity
    held = tc.decompose(T, init=model, fixed=1, constraint=tc.SensitivityBound(limit), solver=solver, rng=0)
    untouched(held, model, {0, 2})
    assert held.sensitivity <= limit * (1 + 1e-5)
    assert free.error < held.error < 1.0
    between = 0.5 * (free.error + held.error)
    mild = tc.decompose(T, init=model, fixed=1, constraint=tc.ErrorBound(between), solver=solver, rng=0)
    untouched(mild, model, {0, 2})
    assert mild.error <= between * (1 + 1e-5)
    assert mild.sensitivity < free.sensitivity
    again = free.at(error=between)
    untouched(again, model, {0, 2})
    assert again.error <= between * (1 + 1e-5)


@pytest.mark.parametrize("case", SOLVED, ids=str)
def test_the_gauge_does_not_move_fixed_blocks(case: Case) -> None:
    model = random_gauge(case.model(3), np.random.default_rng(1))
    k = model.network.block_of_mode[1]
    found = tc.optimal_gauge(model, fixed=(k,))
    assert_array_equal(found.matrices[k], model.matrices[k])
    assert_allclose(found.full(), model.full(), atol=1e-9 * np.abs(model.full()).max())
    assert tc.optimal_gauge(model).sensitivity() <= found.sensitivity() * (1 + 1e-9)
    assert found.sensitivity() <= model.sensitivity()
    # No scale of a free block against another one is better.
    free = [m for m in range(len(model.matrices)) if m != k]
    for factor in (0.9, 1.1):
        factors = [1.0] * len(model.matrices)
        factors[free[0]], factors[free[1]] = factor, 1.0 / factor
        assert found.rescaled(factors).sensitivity() >= found.sensitivity() * (1 - 1e-9)


@pytest.mark.parametrize("scale", [1e-120, 1e-3, 1e120])
def test_any_scale_of_the_data(scale: float) -> None:
    case = SOLVED[0]
    T, model = case.tensor() * scale, case.model(3)
    fit = tc.decompose(T, init=model, fixed=(0, 1), rng=0)
    untouched(fit, model, {2})
    assert fit.error == pytest.approx(by_least_squares(case, model, 2, case.tensor())[1], rel=1e-8)


def test_never_worse_than_the_start_and_exact_where_it_is() -> None:
    case = SOLVED[0]
    model = case.model(3)
    fit = tc.decompose(model.full(), init=model, fixed=(0, 2), rng=0)
    assert fit.reason is tc.StopReason.EXACT
    untouched(fit, model, {1})
    noisy = model.full() + 0.1 * case.tensor()
    start = np.linalg.norm(noisy - model.full()) / np.linalg.norm(noisy)
    for solver in SOLVERS.values():
        assert tc.decompose(noisy, init=model, fixed=1, solver=solver, rng=0, starts=2).error <= start


def test_an_interrupted_run_goes_on(tmp_path: Any) -> None:
    case = SOLVED[0]
    T, model, path = case.tensor(), case.model(3), tmp_path / "run"
    options = {"init": model, "fixed": 1, "solver": tc.ALS(tol=0.0, max_iter=30), "rng": 0}
    whole = tc.decompose(T, **options)
    tc.decompose(T, **options, checkpoint=path, callback=lambda it: it.iteration == 7)
    resumed = tc.decompose(T, **options, checkpoint=path)
    assert_array_equal(resumed.model.matrices[2], whole.model.matrices[2])
    with pytest.raises(ValueError, match="constraint"):
        tc.decompose(T, **{**options, "fixed": 2}, checkpoint=path)


def test_sampled_sweeps_leave_them_alone() -> None:
    rng = np.random.default_rng(0)
    truth = tc.CP([rng.standard_normal((20, 2)) for _ in range(3)])
    model = tc.CP([truth.factors[0], *(rng.standard_normal((20, 2)) for _ in range(2))])
    fit = tc.decompose(truth.full(), init=model, fixed=0, solver=tc.SampledALS(), rng=0)
    untouched(fit, model, {1, 2})
    assert fit.error < 1e-6


@pytest.mark.parametrize("solver", [None, tc.LM(), tc.Path()], ids=str)
def test_two_free_blocks_may_diverge_and_one_cannot(solver: Any) -> None:
    # Two slices that are tangents at one matrix of rank one, from three products of which the third is in both slices:
    # a product that grows, less the other two.
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 6))
    tangents = [np.outer(a, rng.standard_normal(6)) + np.outer(rng.standard_normal(6), b) for _ in range(2)]
    T, weights = np.stack(tangents, axis=2), np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    model = tc.CP([rng.standard_normal((6, 3)), rng.standard_normal((6, 3)), weights])
    fit = tc.decompose(T, init=model, fixed=2, solver=solver, rng=0)
    assert fit.reason is tc.StopReason.DIVERGING
    held = tc.decompose(T, init=model, fixed=2, constraint=tc.SensitivityBound(1e3), solver=solver, rng=0)
    assert held.converged
    untouched(held, model, {0, 1})
    assert tc.decompose(T, init=model, fixed=(0, 2), solver=solver, rng=0).converged


def test_names_and_files(tmp_path: Any) -> None:
    model = tc.Tucker.random((4, 5, 6), (2, 2, 2), rng=0)
    assert blocks_named(("core", -1), model) == [0, 3]
    assert blocks_named("factor 2", model) == [2]
    assert blocks_named("emission", model, ("sample", "excitation", "emission")) == [3]
    assert blocks_named("core", tc.BlockTerm.random((4, 5, 6), [(1, 1, 1)] * 2, rng=0)) == [0]
    fit = tc.decompose(np.random.default_rng(0).random((4, 5, 6)), init=model, fixed=("core", 2), rng=0)
    assert "factor 3" in repr(fit)
    fit.save(tmp_path / "fit.npz")
    assert tc.load(tmp_path / "fit.npz").fixed == ("core", "factor 3")


@pytest.mark.parametrize(
    ("keywords", "error", "words"),
    [
        ({"fixed": 0}, ValueError, "without a model"),
        ({"fixed": 0, "init": "svd"}, ValueError, "without a model"),
        ({"fixed": 3, "init": True}, ValueError, "names mode 3"),
        ({"fixed": (), "init": True}, ValueError, "names no block"),
        ({"fixed": (0, 1, 2), "init": True}, ValueError, "every block"),
        ({"fixed": "core", "init": True}, ValueError, "'factor 1'"),
        ({"fixed": 1.5, "init": True}, TypeError, "modes are needed"),
        ({"fixed": (0, True), "init": True}, TypeError, "holds True"),
        ({"fixed": 1, "init": "taller"}, ValueError, "factor 2 is fixed and has 9 rows"),
        ({"fixed": 1, "init": "longer"}, ValueError, "4 modes"),
        ({"init": "taller"}, ValueError, "fixed=... names the others"),
    ],
)
def test_errors_say_what_to_change(keywords: dict[str, Any], error: type[Exception], words: str) -> None:
    rng = np.random.default_rng(0)
    T, models = rng.random((4, 5, 6)), {
        True: tc.CP.random((4, 5, 6), 2, rng=0),
        "taller": tc.CP.random((4, 9, 6), 2, rng=0),
        "longer": tc.CP.random((4, 5, 6, 2), 2, rng=0),
    }  # fmt: skip
    init = keywords.get("init", "random")
    given = {**keywords, "init": models.get(init, init)}
    kind = {} if init in models else {"model": "cp", "rank": 2}
    with pytest.raises(error, match=words):
        tc.decompose(T, **kind, **given)


@pytest.mark.parametrize("solver", [tc.LM(dense_limit=1), tc.Path(), None], ids=str)
def test_signs_and_a_price_beside_fixed_blocks(solver: Any) -> None:
    case = SOLVED[0]
    model = case.model(3).with_matrices([np.abs(m) for m in case.model(3).matrices])
    T = np.abs(case.tensor())
    constraint = tc.NonNegative() & tc.Penalty(1e-2)
    fit = tc.decompose(T, init=model, fixed=0, constraint=constraint, solver=solver, rng=0)
    assert fit.converged
    untouched(fit, model, {1, 2})
    assert min(factor.min() for factor in fit.model.factors) >= 0.0
    for point in fit.path:
        assert_array_equal(point.model.factors[0], model.factors[0])


def test_the_precision_of_the_data_is_that_of_fixed_blocks() -> None:
    case = SOLVED[0]
    T, model = case.tensor(), case.model(3)
    single = tc.decompose(T.astype(np.float32), init=model, fixed=0, rng=0)
    assert single.model.dtype == np.float32
    assert_array_equal(single.model.factors[0], model.factors[0].astype(np.float32))
    turned = tc.decompose(T, init=model.astype(np.complex128), fixed=0, rng=0)
    assert turned.model.dtype == np.complex128
    assert_array_equal(turned.model.factors[0], model.factors[0])


@crossed(case=[case.as_type(dtype) for case in SOLVED for dtype in ("float64", "complex128")], held=[(), (0,), (1, 2)])
def test_a_multiple_is_taken_by_the_free_blocks(case: Case, held: tuple[int, ...]) -> None:
    model = case.model(3)
    domain = FixedBlocks({k: model.matrices[k] for k in held})
    for factor in (7.0, -1e-3, *([2.0 - 1j] if case.dtype == "complex128" else [])):
        scaled = domain.scaled(model, factor)
        assert_allclose(scaled.full(), factor * model.full(), rtol=1e-12, atol=1e-12 * abs(factor))
        for k in held:
            assert_array_equal(scaled.matrices[k], model.matrices[k])
        # Spread evenly.
        sizes = [np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(scaled.matrices, model.matrices, strict=True)]
        free = [size for k, size in enumerate(sizes) if k not in held]
        assert_allclose(free, abs(factor) ** (1.0 / len(free)))
