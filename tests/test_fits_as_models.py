"""Every function that takes a model takes a fit, and the model comes before the tensor."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.diagnosis import trace_path

T = tc.datasets.exact_cp((5, 4, 6), 2, np.random.default_rng(0), noise=0.05).tensor
FIT = tc.decompose(T, "cp", 2, solver=tc.LM(), rng=0)

CALLS: dict[str, Any] = {
    "allocate_bits": lambda m: tc.allocate_bits(m, 6 * 30).bits,
    "block_response": lambda m: tc.block_response(m, 1e-3 * T, T)[0],
    "component_norms": tc.component_norms,
    "condition_number": tc.condition_number,
    "congruences": tc.congruences,
    "core_consistency": lambda m: tc.core_consistency(m, T),
    "crib": lambda m: tc.crib(m, 0.1).blocks[0] if hasattr(tc.crib(m, 0.1), "blocks") else 0.0,
    "estimate_error": lambda m: tc.estimate_error(m, T, samples=50, rng=0).value,
    "expected_error": lambda m: tc.expected_error(m, 0.1),
    "factor_match_score": lambda m: tc.factor_match_score(m, m).score,
    "first_order_error": lambda m: tc.first_order_error(m, 0.1),
    "jacobian_singular_values": tc.jacobian_singular_values,
    "optimal_gauge": lambda m: tc.optimal_gauge(m).matrices[0],
    "quantization_error": lambda m: tc.quantization_error(m, 6),
    "round_blocks": lambda m: tc.round_blocks(m, 6).matrices[0],
    "sensitivity": tc.sensitivity,
    "sensitivity_gradient": lambda m: tc.sensitivity_gradient(m)[0],
    "trace_path": lambda m: trace_path(m, T, decades=1).error,
    "worst_direction": lambda m: tc.worst_direction(m).gain,
    "decompose": lambda m: tc.decompose(T, init=m, solver=tc.LM(max_iter=2)).error,
}


@pytest.mark.parametrize("name", CALLS)
def test_fits_are_models(name: str) -> None:
    assert np.array_equal(np.asarray(CALLS[name](FIT)), np.asarray(CALLS[name](FIT.model)))


@pytest.mark.parametrize("name", [name for name in tc.__all__ if callable(getattr(tc, name)) and name[0].islower()])
def test_the_model_comes_first(name: str) -> None:
    names = list(inspect.signature(getattr(tc, name)).parameters)
    first = [name for name in names if name in ("model", "fit_or_model", "tensor")][:1]
    # These take what kind of model is to be fitted, and no model that is there.
    if name not in ("decompose", "degeneracy_profile", "cross_validate", "rank_study") and "tensor" in names:
        assert first != ["tensor"]


@pytest.mark.parametrize("init", [np.ones((50, 50)), T, {"a": 1}, tc.Dense(T)])
def test_messages_are_short(init: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        tc.decompose(T, "cp", 2, init=init)
    assert len(str(caught.value)) < 200
