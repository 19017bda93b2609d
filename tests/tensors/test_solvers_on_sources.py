"""Every solver, constraint and model through every data source: the same fit as from the dense array."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tests.cases import SHAPE, Case, block_term_case, chain_case, combined, cp_case, crossed, relative, tucker_case
from tests.tensors.sources import FULL, PARTIAL, Way

SOLVERS = [tc.ALS(max_iter=5), tc.LM(max_iter=3), tc.Path(stage_iter=2, max_iter=2, cycles=1)]
"""Cut short, so that rounding has no time to grow."""

MODELS = [
    cp_case(SHAPE[:3], 3),
    tucker_case(SHAPE[:3], (2, 3, 2)),
    block_term_case(SHAPE[:3], [(2, 2, 2), (1, 2, 2)]),
    chain_case(SHAPE[:3], (2, 1, 3)),
]

CONSTRAINTS = {
    "free": None,
    "penalty": tc.Penalty(0.02),
    "sensitivity": tc.SensitivityBound(60.0),
    "error": tc.ErrorBound(0.8),
}

RUNS = [
    pytest.param(case, solver, name, id=f"{case.kind.name}-{type(solver).__name__}-{name}")
    for case, solver, name in combined(MODELS, SOLVERS, list(CONSTRAINTS))
    # Root searches run a solver many times: two models are enough where the steps are joint.
    if name in ("free", "penalty") or isinstance(solver, tc.ALS) or case.kind in (tc.CP, tc.TensorChain)
]

SLOW = [pytest.param(*run.values, marks=pytest.mark.slow, id=run.id) for run in RUNS[1::2]]

QUICK = [way for way in FULL if way.name not in ("dense", "lazy-dask")]
BOUNDED = [way for way in QUICK if way.name in ("masked", "sparse", "device-strict")]
"""For root searches: the data sources that are not alike."""
DASK = [way for way in FULL if way.name == "lazy-dask"]


def fitted(way: Way, case: Case, solver: Any, constraint: Any) -> Any:
    source = way.open(case.tensor(), way.weights(case.shape))
    return tc.decompose(source, case.kind, case.rank, solver=solver, constraint=constraint, rng=1)


@pytest.mark.parametrize(("case", "solver", "name"), [*RUNS[::2], *SLOW])
def test_all_sources_give_the_same_fit(case: Case, solver: Any, name: str) -> None:
    constraint = CONSTRAINTS[name]
    expected = fitted(FULL[0], case, solver, constraint)
    for way in BOUNDED if name in ("sensitivity", "error") else QUICK:
        fit = fitted(way, case, solver, constraint)
        assert fit.error == pytest.approx(expected.error, rel=1e-5), way
        assert fit.sensitivity == pytest.approx(expected.sensitivity, rel=1e-3), way
        assert relative(fit.model.full(), expected.model.full()) < 1e-3, way


@crossed(every=2, case=MODELS, name=list(CONSTRAINTS))
def test_dask_gives_the_same_fit(case: Case, name: str) -> None:
    """One solver: each pass over the data takes milliseconds."""
    solver = tc.ALS(max_iter=3)
    expected = fitted(FULL[0], case, solver, CONSTRAINTS[name])
    fit = fitted(DASK[0], case, solver, CONSTRAINTS[name])
    assert relative(fit.model.full(), expected.model.full()) < 1e-6


@pytest.mark.parametrize(("case", "solver", "name"), [*RUNS[::2], *SLOW])
def test_dense_and_listed_holes_give_the_same_fit(case: Case, solver: Any, name: str) -> None:
    """`Masked` and `Observed` share no code for Grams and J^H W J."""
    by_name = {way.name: way for way in PARTIAL}
    for kind in ("holes", "weights") if name in ("free", "penalty") else ("weights",):
        expected = fitted(by_name[f"masked-{kind}"], case, solver, CONSTRAINTS[name])
        fit = fitted(by_name[f"observed-{kind}"], case, solver, CONSTRAINTS[name])
        assert fit.error == pytest.approx(expected.error, rel=1e-5)
        assert relative(fit.model.full(), expected.model.full()) < 1e-3


@crossed(every=2, way=[*QUICK, *PARTIAL], case=[case.as_type("complex128") for case in MODELS])
def test_complex_data(way: Way, case: Case) -> None:
    """The error that is reported is that of the model that is returned, over the observed entries."""
    fit = fitted(way, case, tc.LM(max_iter=10), None)
    weights, tensor = way.weights(case.shape), case.tensor()
    size = np.sqrt(np.sum(weights * np.abs(tensor) ** 2))
    error = np.sqrt(np.sum(weights * np.abs(tensor - fit.model.full()) ** 2))
    assert fit.error == pytest.approx(error / size, rel=1e-8)
    assert fit.history.error[-1] < fit.history.error[0]
