"""The default solver: the contract of every solver, which way it takes, and what the slack buys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tests.cases import SOLVED, Case
from tests.solver_contract import SolverContract, few, fit_of, same_model


@pytest.mark.parametrize("solver", [tc.Auto()], ids=["auto"])
@pytest.mark.parametrize("case", SOLVED, ids=str)
class TestContract(SolverContract):
    def test_the_same_seed_gives_the_same_bits(self, case: Case, solver: Any) -> None:
        # Other seeds may give the same model: singular vectors and eigenvectors come before anything random.
        one, two = (fit_of(case, solver, rng=7, callback=few) for _ in range(2))
        assert same_model(one.model, two.model)
        assert np.array_equal(one.history.error, two.history.error)
