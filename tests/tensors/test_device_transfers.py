"""What travels between the host and a device: counted on a device that cannot be read in passing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tests.cases import THREE, Case, crossed
from tests.tensors.counting import counted, there

CASES = [case.as_type(dtype) for dtype in ("float64", "float32", "complex128") for case in THREE]
PENALTIES = (0.0, 0.1)


@crossed(case=CASES, penalty=PENALTIES)
def test_sweeps_bring_back_one_small_array(case: Case, penalty: float) -> None:
    with counted() as counts:
        tensor = tc.Device(there(case.tensor()))
        # Opening looks at the data: the largest entry, and the norm.
        assert (counts.arrays, counts.sent) == (2, 1)
        at = tensor.evaluator(case.model().astype(np.result_type(case.dtype, np.float64)))
        at.begin()
        counts.reset()
        for count in (1, 4, 8):
            at.sweeps(count, penalty)
            # Single precision may have to measure the error anew, once.
            most = 1 + (case.dtype == "float32")
            assert counts.arrays <= most
            assert counts.numbers <= most * (2 * count + len(case.model().matrices))
            assert counts.sent == 0
            counts.reset()


@crossed(case=CASES, penalty=PENALTIES)
def test_a_fit_costs_what_the_documentation_says(case: Case, penalty: float) -> None:
    sweeps, blocks = 14, len(case.model().matrices)
    constraint = tc.Penalty(penalty) if penalty else None
    with counted() as counts:
        tensor = tc.Device(there(case.tensor()))
        counts.reset()
        solver = tc.ALS(max_iter=sweeps, tol=0)
        fit = tc.decompose(tensor, case.kind, case.rank, solver=solver, constraint=constraint, rng=0)
    checks = math.ceil(fit.iterations / 4)
    # The start and the checks, the blocks, and the error of what is returned; blocks go there at both ends.
    assert counts.arrays <= 1 + checks + blocks + 1 + (case.dtype == "float32")
    assert counts.sent <= 2 * blocks


@pytest.mark.parametrize("case", THREE, ids=str)
def test_a_joint_step_moves_blocks_and_one_number(case: Case) -> None:
    blocks = len(case.model().matrices)
    spent = []
    for steps in (3, 6):
        with counted() as counts:
            tensor = tc.Device(there(case.tensor()))
            solver = tc.LM(max_iter=steps, tol=0)
            fit = tc.decompose(tensor, case.kind, case.rank, solver=solver, constraint=tc.Penalty(0.1), rng=0)
            spent.append((counts.arrays, counts.sent))
        assert fit.iterations <= steps
    # A step: blocks there, its error back; where it is taken the gradient back.
    assert spent[1][0] - spent[0][0] <= 3 * (blocks + 1)
    assert spent[1][1] - spent[0][1] <= 3 * 2 * blocks


def test_models_between_checks_stay_there_unless_they_are_looked_at() -> None:
    seen: list[Any] = []
    with counted() as counts:
        tensor = tc.Device(there(THREE[0].tensor()))
        at = tensor.evaluator(THREE[0].model())
        rows = at.sweeps(4)
        counts.reset()
        seen = [rows[1].model.matrices, rows[1].model.matrices]
        assert counts.arrays == len(seen[0])
    truth = tc.Dense(THREE[0].tensor())
    for row in rows:
        assert row.error == pytest.approx(truth.residual_norm(row.model), rel=1e-10)
        assert row.sensitivity == pytest.approx(row.model.sensitivity(), rel=0.5)
