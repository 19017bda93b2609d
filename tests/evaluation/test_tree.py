"""Every way to contract a dense tensor in two steps, and how many passes over the data a sweep takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.evaluation import Partials, SmallEvaluator
from tensorchain.evaluation.fixed_products import FixedProducts
from tensorchain.evaluation.tree import plans
from tensorchain.tensors import Dense
from tensorchain.tensors.dense import add_gradient
from tests.cases import SMALL, Case, relative
from tests.tensors.sources import model_and_jacobian

CASES = [*SMALL, *(case.as_type("float32") for case in SMALL), *(case.as_type("complex128") for case in SMALL)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_plan_gives_the_same(case: Case) -> None:
    model, jacobian = model_and_jacobian(case)
    T = case.tensor()
    flat = jacobian.conj().T @ T.ravel()
    ends = np.cumsum([matrix.size for matrix in model.matrices])
    pieces = [p.reshape(m.shape) for p, m in zip(np.split(flat, ends[:-1]), model.matrices, strict=True)]
    network = model.network
    for k, expected in enumerate(pieces):
        columns = [term[k] for term in network.columns]
        for t in range(len(network.terms)):
            for n in range(len(plans(network, t, k, T.shape))):
                products, versions = Partials(T), list(range(len(pieces)))
                products.restore(model, versions, [[t, k, n]])
                value = products.all_but(model, k, versions)[:, columns[t]]
                assert relative(value, expected[:, columns[t]]) <= case.tol


@pytest.fixture(params=["any memory", "fixed memory"])
def passes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A list to which each pass over the data adds a plan."""
    made: list[Any] = []
    partial, contract = Partials._made, FixedProducts._contract

    def counted(self: Partials, model: Any, t: int, plan: Any) -> Any:
        made.append(plan)
        return partial(self, model, t, plan)

    def watched(self: FixedProducts, k: int, n: int, versions: Any) -> Any:
        before = self._current
        result = contract(self, k, n, versions)
        made.extend([(k, n)] if self._current != before else [])
        return result

    monkeypatch.setattr(Partials, "_made", counted)
    monkeypatch.setattr(FixedProducts, "_contract", watched)
    if request.param == "any memory":
        monkeypatch.setattr(SmallEvaluator, "fits", lambda *_: False)
    return made


@pytest.mark.parametrize(
    ("model", "rank", "shape", "wanted"),
    [
        ("tc", 2, (30, 31, 32), 15),
        ("cp", 4, (30, 31, 32), 15),
        ("tucker", 3, (30, 31, 32), 15),
        ("tc", 2, (6, 5, 6, 5), 20),
        ("cp", 4, (6, 5, 6, 5), 20),
    ],
)
def test_passes_of_ten_sweeps(passes: Any, model: str, rank: int, shape: tuple[int, ...], wanted: int) -> None:
    T = np.random.default_rng(0).standard_normal(shape)
    start = tc.Model.registry[model].random(shape, rank, 1)
    fit = tc.decompose(T, init=start, solver=tc.ALS(max_iter=40, tol=0.0))
    before = len(passes)
    fit = tc.decompose(T, init=fit.model, solver=tc.ALS(max_iter=10, tol=0.0))
    assert fit.iterations == 10
    # Blocks that are rescaled have to be multiplied again, which happens once or twice at the start.
    assert wanted <= len(passes) - before <= wanted + 2


@pytest.mark.parametrize("shape", [(30, 31, 32), (6, 5, 6, 5)])
@pytest.mark.parametrize(("kind", "rank"), [("tucker", 3), ("btd", [(2,) * 4]), ("tc", 2)])
def test_passes_of_a_gradient(passes: Any, kind: str, rank: Any, shape: tuple[int, ...]) -> None:
    """Cores come last, and are served by what is there."""
    rank = [terms[: len(shape)] for terms in rank] if kind == "btd" else rank
    model = tc.Model.registry[kind].random(shape, rank, 1)
    add_gradient([np.zeros(m.shape) for m in model.matrices], model, tuple(slice(0, n) for n in shape), np.ones(shape))
    assert len(passes) == 2


def test_uneven_modes_are_not_blown_up() -> None:
    """A short mode with wide bonds stays in the tensor: without it the partial would be larger than the data."""
    network = tc.TensorChain.wiring((64, 9, 64), 5)
    for k in range(3):
        first = plans(network, 0, k, (64, 9, 64))[0]
        assert network.block_of_mode[1] not in first.used or len(first.used) == 2


def test_rows_that_are_filled_up_are_not_seen() -> None:
    """Products of 15 rows are made with 16."""
    rng = np.random.default_rng(0)
    T = rng.standard_normal((20, 21, 22))
    model = tc.CP.random(T.shape, 15, rng)
    for k, subscripts in enumerate(["ijk,jr,kr->ir", "ijk,ir,kr->jr", "ijk,ir,jr->kr"]):
        others = [factor for n, factor in enumerate(model.factors) if n != k]
        assert relative(Dense(T).contract_all_but(model, k), np.einsum(subscripts, T, *others)) < 1e-12
