"""EVBMF against the iteration it solves, allocations against all of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorchain.compression.allocation import allocate, one_step
from tensorchain.compression.ranks import energy_rank, evbmf, kept_above, multilinear_rank


def iterated(singular, rows, columns, noise, sweeps=20_000):
    """One component of empirical variational Bayes by alternating updates of its posteriors and priors."""
    a, b, var_a, var_b, prior_a, prior_b = np.sqrt(singular), np.sqrt(singular), 0.1, 0.1, 1.0, 1.0
    for _ in range(sweeps):
        var_a = noise / (b**2 + rows * var_b + noise / prior_a)
        a = var_a / noise * singular * b
        var_b = noise / (a**2 + columns * var_a + noise / prior_b)
        b = var_b / noise * singular * a
        prior_a, prior_b = a**2 / columns + var_a, b**2 / rows + var_b
    return a * b


@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (4, 9), (3, 30)])
def test_singular_values_kept_are_the_fixed_point_of_the_iteration(rows, columns):
    noise = 0.7
    lowest = np.sqrt(columns * noise * kept_above(rows / columns))
    singular = np.array([1.05, 1.6, 3.0])[::-1] * lowest
    matrix = np.zeros((rows, columns))
    matrix[[0, 1, 2], [0, 1, 2]] = singular
    found = evbmf(matrix, noise)
    assert found.rank == 3
    assert np.allclose(found.singular_values, [iterated(s, rows, columns, noise) for s in singular], rtol=1e-6)
    matrix[2, 2] = 0.99 * lowest
    assert evbmf(matrix.T, noise).rank == 2


@given(
    st.integers(15, 40),
    st.integers(15, 60),
    st.integers(0, 3),
    st.integers(0, 20),
    st.sampled_from([1e-120, 1.0, 1e120]),
)
@settings(max_examples=40)
def test_planted_ranks_and_noise_are_found_at_any_scale(rows, columns, rank, seed, scale):
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((size, 3)))[0][:, :rank] for size in (rows, columns))
    signal = 4.0 * (np.sqrt(rows) + np.sqrt(columns)) * left @ right.T
    found = evbmf(scale * (signal + rng.standard_normal((rows, columns))))
    assert found.rank == rank
    assert 0.5 < found.noise / scale**2 < 1.5


def test_matrices_without_noise_or_signal():
    rng = np.random.default_rng(0)
    assert evbmf(np.zeros((3, 4))).rank == 0
    assert evbmf(rng.standard_normal((30, 2)) @ rng.standard_normal((2, 40))).rank == 2
    assert evbmf(np.ones((1, 1))).rank in (0, 1)


def test_multilinear_ranks_of_a_planted_kernel():
    rng = np.random.default_rng(1)
    kernel = np.einsum("ta,sb,abij->tsij", *(rng.standard_normal(s) for s in ((24, 3), (16, 4), (3, 4, 3, 3))))
    noisy = kernel + 0.3 * rng.standard_normal(kernel.shape)
    assert multilinear_rank(noisy) == (4, 3)
    assert multilinear_rank(kernel, "energy", 1.0 - 1e-9) == (4, 3)


def test_energy_rank_at_its_ends():
    assert [energy_rank(np.array([3.0, 2.0, 1.0]), share) for share in (1e-9, 9 / 14, 0.65, 13 / 14, 1.0)] == [
        1,
        1,
        2,
        2,
        3,
    ]


def tables_of(seed, layers=4, most=6):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, most, layers)
    costs = [rng.integers(1, 30, count).astype(float) for count in counts]
    return costs, [rng.integers(0, 20, count) / 7.0 for count in counts]


def everything(costs, errors):
    for choices in itertools.product(*(range(len(cost)) for cost in costs)):
        pairs = list(zip(choices, costs, errors, strict=True))
        yield choices, sum(c[j] for j, c, _ in pairs), [e[j] for j, _, e in pairs]


@given(st.integers(0, 10_000), st.floats(0.0, 1.0))
def test_an_allocation_is_the_best_of_all(seed, share):
    costs, errors = tables_of(seed)
    least, most = sum(c.min() for c in costs), sum(c.max() for c in costs)
    budget = least + share * (most - least)
    found = allocate(costs, errors, budget)
    within = [(sum(e), max(e)) for _, cost, e in everything(costs, errors) if cost <= budget]
    assert found.error == pytest.approx(min(total for total, _ in within), abs=1e-9)
    assert found.gap <= 1e-9
    assert found.cost == sum(c[j] for c, j in zip(costs, found.choices, strict=True)) <= budget
    assert found.error == pytest.approx(sum(e[j] for e, j in zip(errors, found.choices, strict=True)))
    simple = one_step(costs, errors, budget)
    largest = max(e[j] for e, j in zip(errors, simple.choices, strict=True))
    assert largest == min(worst for _, worst in within)
    assert simple.cost <= budget
    assert simple.bound <= found.error + 1e-9 <= simple.error + 2e-9


@given(st.integers(0, 1000))
@settings(max_examples=30)
def test_few_states_still_give_a_true_bound(seed):
    costs, errors = tables_of(seed, layers=8, most=8)
    budget = 0.5 * sum(c.min() + c.max() for c in costs)
    exact, rough = allocate(costs, errors, budget), allocate(costs, errors, budget, max_states=2)
    assert rough.cost <= budget
    assert rough.bound <= exact.error + 1e-9 <= rough.error + 2e-9


def test_large_problems_are_solved_exactly():
    rng = np.random.default_rng(0)
    costs = [np.sort(rng.integers(1, 10**9, 40)).astype(float) for _ in range(50)]
    errors = [np.sort(rng.random(40))[::-1] for _ in costs]
    found = allocate(costs, errors, 0.3 * sum(c[-1] for c in costs))
    assert found.gap == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evbmf(np.zeros((0, 3))), "finite matrix"),
        (lambda: evbmf(np.array([[np.nan]])), "finite matrix"),
        (lambda: evbmf(np.eye(3), 0.0), "positive"),
        (lambda: energy_rank(np.ones(3), 0.0), "share"),
        (lambda: multilinear_rank(np.ones((2, 2, 3, 3)), "guess"), "evbmf"),
        (lambda: allocate([np.ones(2)], [], 3.0), "for every layer"),
        (lambda: allocate([np.ones(2)], [np.ones(3)], 3.0), "equal lengths"),
        (lambda: allocate([np.ones(2)], [-np.ones(2)], 3.0), "negative"),
        (lambda: one_step([np.full(2, 4.0)], [np.ones(2)], 3.0), "raise the budget"),
    ],
)
def test_what_cannot_be_chosen_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
