"""Data classes are pure data: nothing of a run stays in them, and several threads may use one."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tests.cases import THREE, Case, gaussian, halved, relative
from tests.tensors.sources import FULL, PARTIAL, Way, model_and_jacobian

WAYS = [*FULL, *PARTIAL]


def everything(tensor: Any, model: Any) -> list[Any]:
    """All answers, as arrays."""
    evaluator = tensor.evaluator(model)
    rng = np.random.default_rng(0)
    delta = [gaussian(matrix.shape, matrix.dtype, rng) for matrix in model.matrices]
    found: list[Any] = [evaluator.error(), *evaluator.gradient(), np.triu(evaluator.gauss_newton())]
    found += evaluator.gauss_newton_matvec(delta)
    for k in range(len(delta)):
        found += [evaluator.rhs(k), evaluator.system(k).apply(delta[k]), evaluator.metric(k)]
        found += [tensor.contract_all_but(model, k), tensor.gram(model, k)]
    residual = tensor.residual(model)
    return [*found, tensor.residual_norm(model), residual.norm, *residual.gradient, tensor.exact_error(model)]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_nothing_of_a_run_stays_in_the_data(way: Way) -> None:
    case = THREE[3]
    tensor = way.open(case.tensor(), way.weights(case.shape))
    # Figures of the data alone may be made when they are first asked for.
    tensor.norm()
    everything(tensor, case.model(1))
    before = {name: id(value) for name, value in vars(tensor).items()}
    everything(tensor, case.model(2))
    assert {name: id(value) for name, value in vars(tensor).items()} == before


@pytest.mark.parametrize("case", THREE, ids=str)
def test_nothing_of_the_data_stays_in_the_model(case: Case) -> None:
    model = case.model()
    alone = pickle.loads(pickle.dumps(model))
    everything(tc.Dense(case.tensor()), model)
    everything(tc.Dense(2.0 * case.tensor()), model)
    for k in range(len(model.matrices)):
        assert np.array_equal(model.moment(k), alone.moment(k))
        assert relative(model.gram(k), alone.gram(k)) < 1e-12
        assert relative(model.sensitivity_metric(k), alone.sensitivity_metric(k)) < 1e-12


@pytest.mark.parametrize("way", halved(way for way in WAYS if way.name != "lazy-dask"), ids=str)
def test_four_threads(way: Way) -> None:
    """With one model each, again and again."""
    case = THREE[0]
    tensor = way.open(case.tensor(), way.weights(case.shape))
    models = [model_and_jacobian(case)[0], *(case.model(seed) for seed in (1, 2, 3))]
    expected = [everything(tensor, model) for model in models]
    shared = models[0]

    def work(n: int) -> Sequence[Any]:
        found: list[Any] = []
        for _ in range(8):
            found = everything(tensor, models[n])
            # One model in all threads as well: what it caches follows from its blocks alone.
            shared.sensitivity_metric(0)
        return found

    with ThreadPoolExecutor(4) as pool:
        for found, right in zip(pool.map(work, range(4)), expected, strict=True):
            assert all(relative(a, b) < 1e-9 for a, b in zip(found, right, strict=True))


def test_threads_of_fits_give_the_fits_of_one() -> None:
    T = tc.Dense(THREE[3].tensor())

    def fit(seed: int) -> float:
        return tc.decompose(T, "tc", rank=2, solver=tc.LM(max_iter=20), rng=seed).error

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fit, range(8))) == [fit(seed) for seed in range(8)]
