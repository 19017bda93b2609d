"""Diagnosis of fits whose blocks may not lie everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tensorchain as tc
from tensorchain.diagnosis.restricted import asked_of, free_parameters, values_within
from tensorchain.solvers.constraints.domain import NonNegativeBlocks
from tensorchain.solvers.constraints.fixed import FixedBlocks
from tests.cases import SOLVED, Case, crossed, jacobian, mostly_slow


def sparse_model(case: Case, seed: int = 0) -> Any:
    """Non-negative blocks, a third of the entries zero."""
    rng = np.random.default_rng(seed)
    return case.model(seed).with_matrices([np.abs(m) * (rng.random(m.shape) < 0.67) for m in case.model(seed).matrices])


def by_columns(model: Any, movable: Any, weights: Any = None) -> Any:
    """Singular values of the columns of J that can move, the zeros included."""
    J = jacobian(model)[:, movable]
    return np.linalg.svd(J if weights is None else np.sqrt(weights).ravel()[:, None] * J, compute_uv=False)


@pytest.mark.parametrize("case", SOLVED, ids=str)
@pytest.mark.parametrize("gaps", [False, True])
def test_directions_within_a_domain(case: Case, gaps: bool) -> None:
    model = sparse_model(case)
    sizes = [m.size for m in model.matrices]
    k = model.network.block_of_mode[1]
    moving = {
        "signs": np.concatenate([m.ravel() > 0.0 for m in model.matrices]),
        "fixed": np.concatenate([np.full(size, n != k) for n, size in enumerate(sizes)]),
    }
    moving["both"] = moving["signs"] & moving["fixed"]
    signs = NonNegativeBlocks(None, core=True)
    given = {k: model.matrices[k]}
    domains = {"signs": signs, "fixed": FixedBlocks(given), "both": FixedBlocks(given, signs)}
    weights = np.random.default_rng(5).uniform(0.5, 2.0, case.shape) if gaps else None
    weights = None if weights is None else weights / weights.mean()
    T = None if weights is None else tc.Masked(np.ones(case.shape), weights=weights)
    for name, domain in domains.items():
        whole = by_columns(model, moving[name], weights)
        found = values_within(model, domain, T)
        assert found is not None
        # All that is left out is zero, and so are directions that are no gauge.
        assert_allclose(found, whole[: len(found)], rtol=1e-5, atol=1e-6 * whole[0])
        assert np.all(whole[len(found) :] <= 1e-9 * whole[0])
        assert free_parameters(model, domain) == len(found)


def test_gauges_that_leave_the_domain_are_none() -> None:
    # In a product of matrices every turn of the bond is a gauge; with enough zeros only scales are left.
    interior = tc.CP([np.full((3, 2), 1.0) + np.eye(3, 2), np.full((4, 2), 1.0) + np.eye(4, 2)])
    assert free_parameters(interior, NonNegativeBlocks(None, core=True)) == 14 - 4
    chain = tc.TensorChain([np.eye(3)[None], np.eye(3)[:, :, None]])
    signs = NonNegativeBlocks(None, core=True)
    assert chain.gauge_dimension == 9
    # Six entries move, and three scales of them change nothing.
    assert free_parameters(chain, signs) == 3
    assert free_parameters(chain, FixedBlocks({0: chain.matrices[0]})) == 9


def non_negative_data(seed: int, kind: str) -> Any:
    rng = np.random.default_rng(seed)
    if kind == "border":
        return tc.datasets.border_cp((6, 6, 6), rng).tensor
    if kind == "uniform":
        return rng.uniform(size=(7, 7, 7))
    model = tc.CP([rng.uniform(size=(size, 3)) * (rng.uniform(size=(size, 3)) < 0.7) for size in (6, 7, 8)])
    T = model.full()
    return T + 0.2 * T.std() * rng.standard_normal(T.shape)


@crossed(every=2, kind=["border", "uniform", "planted"], seed=[0, 1])
def test_a_solution_within_the_domain_is_no_fault(kind: str, seed: int) -> None:
    T = non_negative_data(seed, kind)
    fit = tc.decompose(T, "cp", 3, constraint=tc.NonNegative(), starts=3, rng=seed)
    assert fit.converged
    found = tc.diagnose(fit, T)
    assert found.verdict.name not in ("STUCK", "UNFINISHED", "DIVERGING", "BADLY_GAUGED"), found
    assert any("a best approximation exists" in sentence for sentence in found.evidence)
    for model in () if found.path is None else found.path.models:
        assert min(float(factor.min()) for factor in model.factors) >= 0.0
    # The same for the model alone, whose domain is named.
    again = tc.diagnose(fit.model, T, constraint=tc.NonNegative())
    assert again.verdict is found.verdict
    # Without that, the figures are those of a model of another problem.
    assert tc.diagnose(fit.model).figures.nullity is not None


def test_cures_stay_in_the_domain() -> None:
    T = non_negative_data(3, "planted")
    short = tc.decompose(T, "cp", 3, constraint=tc.NonNegative(), solver=tc.ALS(max_iter=1), rng=0)
    found = tc.diagnose(short, T)
    assert found.verdict.name in ("STUCK", "UNFINISHED")
    assert "constraint=tc.NonNegative()" in found.cure
    names = {"tc": tc, "T": T, "fit": short, "diagnosis": found}
    exec(found.cure, names)
    cured: Any = names["fit"]
    assert cured.error < short.error
    assert cured.nonnegative == short.nonnegative
    assert tc.diagnose(cured, T).verdict.name not in ("STUCK", "UNFINISHED")


def test_fixed_blocks_are_seen_and_stay() -> None:
    rng = np.random.default_rng(0)
    truth = tc.CP([rng.standard_normal((size, 3)) for size in (6, 7, 8)])
    T = truth.full() + 0.1 * rng.standard_normal((6, 7, 8))
    start = tc.CP([truth.factors[0], *(rng.standard_normal((size, 3)) for size in (7, 8))])
    fit = tc.decompose(T, init=start, fixed=0, rng=0)
    assert tc.diagnose(fit, T).verdict.name == "HEALTHY"
    short = tc.decompose(T, init=start, fixed=0, solver=tc.ALS(max_iter=1), rng=0)
    found = tc.diagnose(short, T)
    assert found.verdict.name in ("STUCK", "UNFINISHED")
    names = {"tc": tc, "T": T, "fit": short, "diagnosis": found}
    exec(found.cure, names)
    cured: Any = names["fit"]
    assert cured.error == pytest.approx(fit.error, rel=1e-5)
    assert_array_equal(cured.model.factors[0], truth.factors[0])
    # Of wrong factors a better fit is not within reach.
    wrong = tc.decompose(T, init=tc.CP([rng.standard_normal((6, 3)), *truth.factors[1:]]), fixed=(0, 1), rng=0)
    assert tc.diagnose(wrong, T).verdict.name not in ("STUCK", "UNFINISHED", "DIVERGING")


@pytest.mark.parametrize("solver", mostly_slow([tc.LM(), None]), ids=str)
def test_reasons_where_signs_do_and_do_not_hold_it(solver: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = (np.abs(rng.standard_normal((2, 6))) for _ in range(2))
    c, d = rng.standard_normal((2, 6))
    # a1 o c o c + ..., with what may not be negative in the first mode alone: parts cancel by the signs of the others.
    T = np.einsum("i,j,k->ijk", b[0], c, c) + np.einsum("i,j,k->ijk", a[0], d, c) + np.einsum("i,j,k->ijk", a[0], c, d)
    runs = tc.decompose(T, "cp", 2, constraint=tc.NonNegative(modes=0), solver=solver, rng=0)
    assert runs.reason is tc.StopReason.DIVERGING
    held = tc.decompose(T, "cp", 2, constraint=tc.NonNegative(), solver=solver, rng=0)
    assert held.converged
    assert held.sensitivity < 1e3 * np.linalg.norm(T) ** (4 / 3)
    bounded = tc.NonNegative(modes=0) & tc.SensitivityBound(1e3)
    assert tc.decompose(T, "cp", 2, constraint=bounded, rng=0).converged


def test_what_a_fit_was_asked_in_code() -> None:
    T = np.random.default_rng(0).uniform(size=(4, 5, 6))
    tucker = tc.decompose(T, "tucker", 2, constraint=tc.NonNegative(), rng=0, solver=tc.ALS(max_iter=2))
    assert asked_of(tucker).keywords() == ", constraint=tc.NonNegative()"
    open_core = tc.NonNegative(core=False)
    tucker = tc.decompose(T, "tucker", 2, constraint=open_core, rng=0, solver=tc.ALS(max_iter=2))
    assert asked_of(tucker).keywords() == ", constraint=tc.NonNegative(core=False)"
    core = tc.decompose(
        T, "tucker", 2, constraint=tc.NonNegative(modes=(), core=True), rng=0, solver=tc.ALS(max_iter=2)
    )
    assert asked_of(core).keywords("tc.Penalty(1)") == (
        ", constraint=tc.NonNegative(modes=(), core=True) & tc.Penalty(1)"
    )
    held = tc.decompose(T, init=tucker, fixed=(0, 1), constraint=open_core, rng=0, solver=tc.ALS(max_iter=2))
    assert asked_of(held).keywords() == ", constraint=tc.NonNegative(core=False), fixed=('factor 1', 'factor 2')"
    assert asked_of(tc.decompose(T, "cp", 1, rng=0)).keywords() == ""
