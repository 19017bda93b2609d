"""Non-negative blocks: every model, every solver, every data class, and with every other constraint."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.optimize
from numpy.testing import assert_allclose

import tensorchain as tc
from tensorchain.kernels.nonnegative import descend, polish
from tensorchain.solvers.compressed import Compressed
from tensorchain.solvers.normal_equations import Floors
from tensorchain.solvers.reduction import reduce
from tests.cases import SOLVED, THREE, Case, crossed, jacobian_blocks
from tests.tensors.sources import FULL, PARTIAL, Way

SOLVERS = {"als": tc.ALS(max_iter=200), "lm": tc.LM(), "path": tc.Path(cycles=1), "auto": tc.Auto()}
CASES = [SOLVED[0], SOLVED[1], SOLVED[2], THREE[3]]


def data(case: Case, seed: int = 0, noise: float = 0.3) -> Any:
    """A non-negative model with noise, so that some entries of the best blocks are zero."""
    rng = np.random.default_rng(seed)
    blocks = [np.abs(m) * (rng.random(m.shape) < 0.8) for m in case.model(seed).matrices]
    T = case.model().with_matrices(blocks).full()
    return T + noise * T.std() * rng.standard_normal(T.shape)


def fitted(T: Any, case: Case, solver: Any, constraint: Any = None, **keywords: Any) -> tc.Fit:
    constraint = tc.NonNegative() if constraint is None else constraint
    keywords = {"rng": 0, "model": case.kind, "rank": case.rank, **keywords}
    return tc.decompose(T, solver=solver, constraint=constraint, **keywords)


def gains(model: Any, T: Any, weights: Any, penalty: float = 0.0, free: frozenset[int] = frozenset()) -> list[float]:
    """What scipy's NNLS on each block alone takes off ||T - X||^2 + penalty SS, relative to it."""
    root, found = np.sqrt(weights).ravel(), []
    target = root * np.where(weights > 0, T, 0.0).ravel()
    for k, (matrix, columns) in enumerate(zip(model.matrices, jacobian_blocks(model), strict=True)):
        design, goal = root[:, None] * columns, target
        constant = 0.0
        if penalty:
            # SS = <B, B Q> + what does not depend on B.
            factor = np.linalg.cholesky(model.sensitivity_metric(k) + 1e-14 * np.eye(matrix.shape[1])).T
            design = np.vstack([design, np.sqrt(penalty) * np.kron(np.eye(len(matrix)), factor)])
            goal = np.concatenate([goal, np.zeros(len(design) - len(goal))])
            constant = penalty * (model.sensitivity() - np.sum((factor @ matrix.T) ** 2))
        now = np.sum((goal - design @ matrix.ravel()) ** 2) + constant
        if k in free:
            best = np.linalg.lstsq(design, goal, rcond=None)[0]
        else:
            best = scipy.optimize.nnls(design, goal, maxiter=1000)[0]
        found.append(1.0 - (np.sum((goal - design @ best) ** 2) + constant) / now)
    return found


def feasible(model: Any) -> bool:
    return all(bool(np.all(matrix >= 0.0)) for matrix in model.matrices)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", SOLVERS)
def test_every_model_and_solver(case: Case, name: str) -> None:
    T = data(case)
    errors: list[float] = []
    fit = fitted(T, case, SOLVERS[name], callback=lambda it: errors.append(it.error))
    assert feasible(fit.model)
    assert fit.error == pytest.approx(np.linalg.norm(T - fit.model.full()) / np.linalg.norm(T), rel=1e-9)
    assert max(gains(fit.model, T, np.ones(T.shape))) < (1e-4 if name == "als" else 1e-5)
    assert fit.optimality is not None
    assert "KKT residual" in repr(fit)
    if name == "als":
        assert np.all(np.diff(errors) <= 1e-12)


@crossed(2, way=[*FULL, *PARTIAL], asked=[(CASES[0], tc.ALS(max_iter=15)), (CASES[3], tc.LM(max_iter=15))])
def test_every_data_class(way: Way, asked: tuple[Case, Any]) -> None:
    case, solver = asked
    T = data(case, noise=0.1)
    weights = way.weights(T.shape)
    fit = fitted(way.open(T, weights), case, solver)
    assert feasible(fit.model)
    seen = weights > 0
    missed = np.sum(weights[seen] * (T - fit.model.full())[seen] ** 2) / np.sum(weights[seen] * T[seen] ** 2)
    assert fit.error == pytest.approx(np.sqrt(missed), rel=1e-6)
    # What NNLS finds is what the Fit says.
    total = sum(gains(fit.model, T, weights / weights[seen].mean()))
    assert fit.optimality == pytest.approx(total, rel=0.05, abs=1e-6)


@pytest.mark.parametrize(
    ("case", "solver"), [(CASES[0], SOLVERS["als"]), *((case, tc.LM()) for case in CASES)], ids=str
)
def test_with_a_penalty(case: Case, solver: Any) -> None:
    T = data(case)
    T /= np.linalg.norm(T)
    fit = fitted(T, case, solver, tc.NonNegative() & tc.Penalty(1e-3))
    assert feasible(fit.model)
    assert max(gains(fit.model, T, np.ones(T.shape), penalty=1e-3)) < 1e-4


@pytest.mark.parametrize(("case", "name"), [(CASES[0], "als"), (CASES[3], "lm"), (CASES[0], "auto")], ids=str)
def test_with_bounds(case: Case, name: str) -> None:
    T = data(case)
    free = fitted(T, case, SOLVERS[name])
    bounded = fitted(T, case, SOLVERS[name], tc.SensitivityBound(0.7 * free.sensitivity) & tc.NonNegative())
    assert feasible(bounded.model)
    assert bounded.sensitivity <= 0.7 * free.sensitivity * (1 + 1e-5)
    assert free.error < bounded.error < 2 * free.error
    limit = 0.5 * (free.error + bounded.error)
    least = fitted(T, case, SOLVERS[name], tc.NonNegative() & tc.ErrorBound(limit))
    assert feasible(least.model)
    assert least.error <= limit * (1 + 1e-5)
    assert least.sensitivity < free.sensitivity


def test_chosen_modes_and_the_core() -> None:
    solver = tc.LM()
    case = SOLVED[1]
    rng = np.random.default_rng(1)
    T = rng.standard_normal(case.shape)
    fit = fitted(T, case, solver, tc.NonNegative(modes=(0, -1)))
    core, one, two, three = fit.model.matrices
    assert one.min() >= 0.0
    assert three.min() >= 0.0
    assert core.min() < 0.0
    assert two.min() < 0.0
    assert max(gains(fit.model, T, np.ones(T.shape), free=frozenset({0, 2}))) < 1e-4
    fit = fitted(T, case, solver, tc.NonNegative(1) & tc.NonNegative(modes=(), core=True))
    core, one, two, three = fit.model.matrices
    assert core.min() >= 0.0
    assert two.min() >= 0.0
    assert min(one.min(), three.min()) < 0.0


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("init", ["random", "svd"])
def test_starts(case: Case, init: str) -> None:
    first: list[Any] = []
    fit = fitted(data(case), case, tc.ALS(max_iter=3), init=init, starts=3, callback=lambda it: first.append(it.model))
    assert len(fit.starts) == 3
    assert all(feasible(model) for model in [*first, *(start.model for start in fit.starts)])


def test_a_start_is_heeded_or_refused() -> None:
    case = CASES[0]
    T = data(case)
    fit = fitted(T, case, tc.LM(), rng=2)
    again = fitted(T, case, tc.ALS(max_iter=2), init=fit.model)
    assert again.error <= fit.error * (1 + 1e-12)
    negative = fit.model.with_matrix(1, fit.model.matrices[1] - 1.0)
    with pytest.raises(ValueError, match=r"negative entries.*clip"):
        fitted(T, case, tc.LM(), init=negative)
    allowed = fitted(T, case, tc.LM(max_iter=5), tc.NonNegative((0, 2)), init=negative).model.matrices
    assert min(allowed[0].min(), allowed[2].min()) >= 0.0 > allowed[1].min()
    clipped = negative.with_matrices([B.clip(min=0) for B in negative.matrices])
    assert feasible(fitted(T, case, tc.LM(), init=clipped).model)


def test_sampled_sweeps() -> None:
    rng = np.random.default_rng(0)
    T = tc.CP([rng.uniform(size=(size, 2)) * (rng.random((size, 2)) < 0.6) for size in (14, 15, 16)]).full()
    T = T + 0.1 * T.std() * rng.standard_normal(T.shape)
    fit = tc.decompose(T, "cp", 2, solver=tc.SampledALS(max_iter=30), constraint=tc.NonNegative(), rng=0)
    best = tc.decompose(T, "cp", 2, constraint=tc.NonNegative(), rng=0)
    assert feasible(fit.model)
    assert best.error <= fit.error < 1.1 * best.error


def test_another_trade_off_stays_non_negative() -> None:
    T = data(CASES[0])
    for solver in (tc.Path(cycles=1), tc.Auto()):
        fit = fitted(T, CASES[0], solver)
        assert all(feasible(point.model) for point in fit.path)
        milder = fit.at(error=1.1 * fit.error)
        assert feasible(milder.model)
        assert milder.error <= 1.1 * fit.error * (1 + 1e-6)
        assert milder.sensitivity < fit.sensitivity


def test_a_gauge_of_positive_scales() -> None:
    rng = np.random.default_rng(3)
    for case in THREE:
        model = case.model().with_matrices([np.abs(m) for m in case.model(1).matrices])
        scaled = [np.abs(rng.standard_normal()) + 0.1 for _ in model.matrices]
        moved = tc.NonNegative().domain.optimal_gauge(model.rescaled(scaled))
        assert feasible(moved)
        assert_allclose(moved.full(), model.rescaled(scaled).full(), rtol=1e-10)
        assert moved.sensitivity() <= model.rescaled(scaled).sensitivity()
        # No positive scales on one bond lower it.
        for t, term in enumerate(moved.network.terms):
            for letter, k, m in term.gauge_bonds:
                for factor in (0.99, 1.01):
                    diagonal = np.ones(term.size_of[letter])
                    diagonal[0] = factor
                    other = _scaled(_scaled(moved, t, letter, k, diagonal), t, letter, m, 1.0 / diagonal)
                    assert_allclose(other.full(), moved.full(), rtol=1e-10)
                    assert other.sensitivity() > moved.sensitivity()


def _scaled(model: Any, t: int, letter: str, k: int, diagonal: Any) -> Any:
    from tests.cases import multiply_bond

    return multiply_bond(model, t, letter, k, np.diag(diagonal))


def test_single_precision_and_a_degenerate_tensor_cured() -> None:
    # A limit of CPs of rank 2 that is none, with entries >= 0.
    a, b = np.array([1.0, 0.2, 0.5, 0.1]), np.array([0.3, 1.0, 0.1, 0.4])
    T = sum(np.einsum("i,j,k->ijk", *vectors) for vectors in ([a, a, b], [a, b, a], [b, a, a]))
    free = tc.decompose(T, "cp", 2, solver="lm", rng=0)
    fit = tc.decompose(T, "cp", 2, constraint=tc.NonNegative(), rng=0)
    assert fit.reason is tc.StopReason.CONVERGED
    assert free.sensitivity > 100 * fit.sensitivity
    single = tc.decompose(T.astype(np.float32), "cp", 2, constraint=tc.NonNegative(), rng=0)
    assert single.model.dtype == np.float32
    assert feasible(single.model)
    assert single.error == pytest.approx(fit.error, rel=1e-4)


def test_what_is_refused() -> None:
    T = data(CASES[0])
    with pytest.raises(ValueError, match=r"mode 3 .*3 modes"):
        fitted(T, CASES[0], "als", tc.NonNegative(modes=3))
    with pytest.raises(ValueError, match="complex"):
        fitted(T + 1j, CASES[0], "als")
    with pytest.raises(ValueError, match="nothing would be non-negative"):
        tc.NonNegative(modes=())
    with pytest.raises(TypeError, match="integers"):
        tc.NonNegative(modes="all")
    with pytest.raises(TypeError, match="core"):
        tc.NonNegative(core="yes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="drop one of them"):
        _ = tc.NonNegative() & tc.Penalty(1.0) & tc.ErrorBound(0.1)
    with pytest.raises(TypeError):
        _ = tc.NonNegative() & 3  # type: ignore[operator]


@pytest.mark.parametrize("case", THREE, ids=str)
def test_contractions_with_a_core(case: Case) -> None:
    rng = np.random.default_rng(0)
    reduction = reduce(tc.Dense(rng.standard_normal(case.shape)), (2, 2, 3))
    seen, model = Compressed(reduction), case.model()
    dense = tc.Dense(np.einsum("abc,ia,jb,kc->ijk", reduction.core, *reduction.bases))
    for factor in (1.0, 3.0):
        one, two = seen.scaled(factor), dense.scaled(factor)
        assert one.norm() == pytest.approx(two.norm())
        assert one.residual_norm(model) == pytest.approx(two.residual_norm(model))
        for k in range(len(model.matrices)):
            assert_allclose(one.contract_all_but(model, k), two.contract_all_but(model, k), atol=1e-11)


def test_the_first_sweeps_see_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    T = tc.CP([rng.uniform(size=(size, 2)) for size in (14, 15, 16)]).full()
    T = T + 0.2 * T.std() * rng.standard_normal(T.shape)
    whole = tc.decompose(T, "cp", 2, constraint=tc.NonNegative(), rng=0)
    monkeypatch.setattr("tensorchain.solvers.within._SMALL", 100)
    fit = tc.decompose(T, "cp", 2, constraint=tc.NonNegative(), rng=0)
    assert "core 2x2x2" in fit.solver
    assert "core" not in whole.solver
    assert fit.converged
    assert fit.iterations < whole.iterations
    assert fit.error == pytest.approx(whole.error, rel=1e-7)
    assert feasible(fit.model)


def test_large_cores_are_not_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = SOLVED[1]
    T = data(case)
    for constraint in (tc.NonNegative(), tc.NonNegative() & tc.Penalty(1e-3)):
        formed = fitted(T, case, tc.ALS(max_iter=100), constraint)
        with monkeypatch.context() as patched:
            patched.setattr("tensorchain.solvers.blocks._FORMED", 1)
            fit = fitted(T, case, tc.ALS(max_iter=100), constraint)
        assert feasible(fit.model)
        assert np.any(fit.model.matrices[0] == 0.0) == np.any(formed.model.matrices[0] == 0.0)
        assert fit.objective == pytest.approx(formed.objective, rel=2e-2)


def test_conjugate_gradients_find_the_same() -> None:
    case = CASES[0]
    T = data(case)
    dense = fitted(T, case, tc.LM())
    iterative = fitted(
        T,
        case,
        tc.LM(dense_limit=1),
        init=dense.model.with_matrices([m + 0.01 * np.abs(m).mean() for m in dense.model.matrices]),
    )
    assert iterative.error == pytest.approx(dense.error, rel=1e-6)


def test_features_of_new_samples() -> None:
    T = data(CASES[0])
    model = tc.Decomposition("cp", 2, constraint=tc.NonNegative(), random_state=0).fit(T)
    rng = np.random.default_rng(5)
    samples = rng.standard_normal((6, *T.shape[1:]))
    design = np.einsum("jr,kr->jkr", *model.fit_.model.factors[1:]).reshape(-1, 2)
    expected = [scipy.optimize.nnls(design, sample.ravel())[0] for sample in samples]
    assert_allclose(model.transform(samples), expected, atol=1e-10)


@pytest.mark.parametrize("width", [1, 4, 9])
@pytest.mark.parametrize("each", [False, True])
def test_rows_at_their_best(width: int, each: bool) -> None:
    """Both loops against scipy's NNLS, from any start, with singular matrices too."""
    rng = np.random.default_rng(width)
    rows = 12
    designs = [rng.standard_normal((width + 2, width)) for _ in range(rows if each else 1)]
    targets = rng.standard_normal((rows, width + 2))
    grams = np.stack([d.T @ d for d in designs])
    block = np.abs(rng.standard_normal((rows, width))) * (rng.random((rows, width)) < 0.6)
    rhs = np.stack([d.T @ (t - d @ b) for d, t, b in zip(designs * (1 if each else rows), targets, block, strict=True)])
    slow, exact = np.zeros_like(block), np.zeros_like(block)
    descend(grams, rhs, -block, slow, 5000, 0.0)
    polish(grams, rhs, -block, exact, 100, 1e-14)
    for i in range(rows):
        best = scipy.optimize.nnls(designs[i if each else 0], targets[i])[0]
        assert_allclose(block[i] + exact[i], best, atol=1e-10)
        assert_allclose(block[i] + slow[i], best, atol=1e-6)
        assert np.all((block[i] + exact[i] == 0.0) == (best == 0.0))


def test_a_step_that_gains_nothing_is_shortened() -> None:
    # Along b the curvature is small, and with one entry cut off at its floor it is large: a step of full length rises.
    b, across = np.array([1.0, -3.0]), np.array([3.0, 1.0])
    A = np.outer(across, across) + 0.01 * np.eye(2)
    floors = Floors([np.array([-10.0]), np.array([-0.1])])
    found = floors.step(b, lambda step, free: np.zeros(np.count_nonzero(free)), lambda step: A @ step)
    assert found is not None
    step, predicted = found
    assert np.all(step >= floors.floor)
    assert predicted == pytest.approx(step @ (2.0 * b - A @ step))
    # The best along the way that is cut off, over all lengths; halving comes within a factor of it.
    ways = [np.maximum(length * b, floors.floor) for length in np.geomspace(1e-4, 1e3, 500)]
    assert predicted > 0.2 * max(float(way @ (2.0 * b - A @ way)) for way in ways) > 0.0
