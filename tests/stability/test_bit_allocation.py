"""Allocations of bits against all allocations, against equal bits, and in real rounding."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorchain as tc
from tensorchain.stability import BitAllocation, allocate_bits, quantization_error, round_blocks
from tensorchain.stability.bit_allocation import block_errors, solve
from tests.cases import Case, chain_case, cp_case, double, relative, tucker_case
from tests.stability.examples import MODELS, name

CHOICES = [2, 3, 4, 5, 6, 7]


def best_by_listing(sizes: list[int], errors: Any, budget: int) -> float:
    least = np.inf
    for picks in itertools.product(range(len(CHOICES)), repeat=len(sizes)):
        if sum(n * CHOICES[c] for n, c in zip(sizes, picks, strict=True)) <= budget:
            least = min(least, sum(errors[k, c] for k, c in enumerate(picks)))
    return least


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    powers=st.lists(st.floats(-8.0, 3.0), min_size=4, max_size=4),
    slack=st.integers(0, 600),
    dead=st.integers(0, 8),
)
def test_the_knapsack_is_solved_exactly(sizes: list[int], powers: list[float], slack: int, dead: int) -> None:
    errors = np.array([[10.0**p / (2 ** (b - 1) - 1) ** 2 for b in CHOICES] for p in powers[: len(sizes)]])
    if dead < len(sizes):
        errors[dead] = 0.0
    budget = 2 * sum(sizes) + slack
    bits = solve(sizes, errors, CHOICES, budget)
    assert sum(n * b for n, b in zip(sizes, bits, strict=True)) <= budget
    found = sum(errors[k, CHOICES.index(b)] for k, b in enumerate(bits))
    assert found <= best_by_listing(sizes, errors, budget) * (1 + 1e-12)


def lopsided(seed: int) -> Any:
    """Blocks of different sizes, one of them with a large entry that makes its step coarse."""
    shape = tuple(int(size) for size in np.random.default_rng(seed).integers(4, 40, 3))
    model = (tucker_case(shape, (3, 2, 4)) if seed % 2 else chain_case(shape, (2, 3, 2))).model(seed)
    spread = np.array(model.matrices[seed % 3])
    spread[0, 0] = 20.0
    return model.with_matrix(seed % 3, spread)


class TestBesideEqualBits:
    def test_never_worse_as_predicted(self) -> None:
        gains = []
        for seed in range(40):
            model = lopsided(seed)
            budget = model.n_parameters * (3 + seed % 6) + seed % 40
            for scale in ("block", "slice"):
                found = allocate_bits(model, budget, scale=scale)
                assert found.size == sum(n.size * b for n, b in zip(model.matrices, found.bits, strict=True)) <= budget
                assert found.error == quantization_error(model, found.bits, scale) <= found.uniform_error
                assert found.uniform_error == quantization_error(model, found.uniform_bits, scale)
                assert found.uniform_size == found.uniform_bits * model.n_parameters <= budget
                gains.append(found.error / found.uniform_error)
        assert np.median(gains) < 0.9

    def test_better_in_real_rounding(self) -> None:
        logs = []
        for seed in range(40):
            model = lopsided(seed)
            found = allocate_bits(model, 5 * model.n_parameters)
            chosen, equal = (
                relative(round_blocks(model, bits).full(), model.full()) for bits in (found.bits, found.uniform_bits)
            )
            logs.append(np.log(chosen / equal))
        # One rounding is one draw, so single models may go the other way.
        assert np.exp(np.mean(logs)) < 0.95
        assert np.mean(np.array(logs) <= 0.0) > 0.8


@pytest.mark.parametrize("scale", ["block", "slice"])
@pytest.mark.parametrize("case", MODELS, ids=name)
def test_errors_of_single_blocks(case: Case, scale: Any) -> None:
    """The table is what rounding one block alone is predicted to do."""
    model = double(case.model())
    choices = [4, 6, 16]
    table = block_errors(model, choices, scale)
    whole = [quantization_error(model, bits, scale) ** 2 for bits in choices]
    # The blocks add up to first order, and the first order is all there is at 16 bits.
    ratio = table.sum(axis=0) / np.array(whole)
    assert ratio[2] == pytest.approx(ratio[1], rel=0.1)
    assert np.all(ratio[:2] <= ratio[2] * (1 + 1e-12))
    assert table[0, 0] / table[0, 1] == pytest.approx((31 / 7) ** 2, rel=1e-12)


def test_limits_and_budgets() -> None:
    model = cp_case((10, 20, 5), 3).model()
    count = model.n_parameters
    assert allocate_bits(model, 2 * count).bits == (2, 2, 2)
    plenty = allocate_bits(model, 100 * count)
    assert plenty == BitAllocation((16, 16, 16), 16 * count, plenty.error, 16, 16 * count, plenty.error)
    narrow = allocate_bits(model, 6 * count, min_bits=5, max_bits=7)
    assert set(narrow.bits) <= {5, 6, 7}
    assert allocate_bits(model, 6 * count, min_bits=4, max_bits=4).bits == (4, 4, 4)


def test_a_free_block_gets_the_fewest_bits() -> None:
    # Signs are exact at any number of bits.
    model = tc.CP([np.array([[1.0], [-1.0]] * 50), np.random.default_rng(0).standard_normal((100, 1))])
    assert allocate_bits(model, 5 * 200).bits == (2, 8)


def test_equal_bits_where_the_noise_is_strong() -> None:
    # The sum of the errors of the blocks is least at (4, 2), their product, which all orders add up to, at (3, 3).
    factors = [np.ones((181, 1)), np.ones((157, 1))]
    factors[0][0], factors[1][0] = 11.25, 2.79
    for factor in factors:
        factor[1::2] *= -1.0
    model = tc.CP(factors)
    table = block_errors(model, CHOICES, "block")
    assert solve([181, 157], table, CHOICES, 1147) == [4, 2]
    found = allocate_bits(model, 1147)
    assert found.bits == (3, 3)
    assert found.error == found.uniform_error < quantization_error(model, [4, 2])


def test_many_large_blocks() -> None:
    model = cp_case((1009, 2003, 3001, 4001, 5003, 6007, 7001), 3).model()
    found = allocate_bits(model, 5 * model.n_parameters + 1234)
    assert found.size <= 5 * model.n_parameters + 1234
    assert found.error <= found.uniform_error


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"budget_bits": 10}, ValueError, "need 48"),
        ({"budget_bits": 1000.0}, TypeError, "budget_bits is 1000.0; an integer"),
        ({"budget_bits": True}, TypeError, "an integer"),
        ({"budget_bits": 1000, "min_bits": 1}, ValueError, "min_bits is 1"),
        ({"budget_bits": 1000, "max_bits": 17}, ValueError, "max_bits 17"),
        ({"budget_bits": 1000, "min_bits": 6, "max_bits": 5}, ValueError, "min_bits <= max_bits"),
        ({"budget_bits": 1000, "scale": "column"}, ValueError, "'block' or 'slice'"),
    ],
)
def test_bad_arguments(arguments: Any, error: type[Exception], words: str) -> None:
    model = cp_case((3, 4, 5), 2).model()
    with pytest.raises(error, match=words):
        allocate_bits(model, **arguments)


def test_a_zero_model() -> None:
    model = cp_case((3, 4, 5), 2).model().with_matrix(0, np.zeros((3, 2)))
    with pytest.raises(ValueError, match="zero everywhere"):
        allocate_bits(model, 1000)
