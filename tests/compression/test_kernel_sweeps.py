"""Sweeps written out for kernels, against models of the package, finite differences and the general solvers."""

from itertools import pairwise

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.compression.kernel_search import (
    blocks_of,
    finished,
    fitted,
    model_of,
    path,
    relaxed,
    searched,
    started,
)
from tensorchain.compression.kernel_sweeps import CPSweeps, GroupSweeps
from tensorchain.compression.sandwich import Sandwich
from tensorchain.models import CP, TensorChain
from tensorchain.stability import sensitivity

KINDS = [
    (CP, 5, (7, 6, 8)),
    (CP, 8, (4, 6, 5)),
    (CP, 6, (7, 2, 3, 8)),
    (TensorChain, (2, 3, 2), (7, 6, 8)),
    (TensorChain, (3, 3, 2), (5, 4, 7)),
    (TensorChain, (1, 2, 3), (5, 4, 7)),
    (Sandwich, [(2, 3)] * 2, (7, 6, 8)),
    (Sandwich, [(3, 2)] * 3, (6, 4, 5)),
]


@pytest.fixture(params=KINDS, ids=lambda case: f"{case[0].__name__}-{case[1]}-{len(case[2])}")
def case(request):
    return request.param


def noise(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def model_now(problem, kind, shape):
    return model_of(problem, kind, 1.0, shape)


def test_error_sensitivity_and_tensor_are_those_of_the_model(case):
    kind, rank, shape = case
    tensor = noise(shape)
    problem = started(tensor, kind, rank, np.random.default_rng(1))
    for nu in (0.0, 0.1, 0.01):
        error = problem.sweep(nu)
        model = model_now(problem, kind, shape)
        assert error == pytest.approx(float(np.sum((tensor - model.full()) ** 2)), rel=1e-9)
        assert problem.sensitivity() == pytest.approx(float(sensitivity(model)), rel=1e-9)
        flat = problem.full().transpose(1, 0, 2).reshape(shape)
        np.testing.assert_allclose(flat, model.full(), atol=1e-10)


@pytest.mark.parametrize("nu", [0.0, 0.03])
def test_the_last_block_is_at_its_minimum_and_no_sweep_rises(case, nu):
    kind, rank, shape = case
    tensor = noise(shape, 2)
    problem = started(tensor, kind, rank, np.random.default_rng(3))

    def value():
        return float(np.sum((tensor - model_now(problem, kind, shape).full()) ** 2)) + nu * problem.sensitivity()

    values = []
    for _ in range(6):
        problem.sweep(nu)
        values.append(value())
    assert all(after <= before * (1.0 + 1e-10) for before, after in pairwise(values))
    state = problem.state
    direction = noise(state[-1].shape, 4) * float(np.linalg.norm(state[-1])) * 1e-3
    around = []
    for sign in (1.0, -1.0):
        problem.state = [*state[:-1], state[-1] + sign * direction]
        around.append(value())
    # The quadratic is symmetric about its minimum.
    assert abs(around[0] - around[1]) < 1e-4 * (sum(around) - 2.0 * values[-1])


def test_every_block_is_solved_for_exactly(case):
    """At a fixed point no block has a gradient: the formula of each normal matrix, not of the last one alone."""
    kind, rank, shape = case
    tensor = noise(shape, 5)
    problem = started(tensor, kind, rank, np.random.default_rng(6))
    nu = 0.1
    for _ in range(1500):
        before = problem.state
        problem.sweep(nu)
        if all(np.abs(a - b).max() < 1e-7 for a, b in zip(before, problem.state, strict=True)):
            break
    state = problem.state

    def value(blocks):
        problem.state = blocks
        return float(np.sum((tensor - model_now(problem, kind, shape).full()) ** 2)) + nu * problem.sensitivity()

    for k, block in enumerate(state):
        direction = noise(block.shape, k)
        step = 1e-4 * float(np.linalg.norm(block)) / float(np.linalg.norm(direction))
        ends = [value([*state[:k], block + s * step * direction, *state[k + 1 :]]) for s in (1.0, -1.0)]
        assert abs(ends[0] - ends[1]) < 1e-2 * (sum(ends) - 2.0 * value(state))


def test_as_good_as_the_general_solver(case):
    kind, rank, shape = case
    tensor = noise(shape, 7) + 3.0 * tc.CP.random(shape, 2, rng=1).full()
    general = min(tc.decompose(tensor, kind, rank, solver=tc.ALS(max_iter=100), rng=seed).error for seed in range(2))
    model, _ = searched(tensor, kind, rank, rng=np.random.default_rng(0), slack=0.0, small=True)
    assert np.linalg.norm(tensor - model.full()) / np.linalg.norm(tensor) < 1.05 * general


def test_the_correction_meets_its_bound_and_lowers_the_sensitivity(case):
    kind, rank, shape = case
    tensor = noise(shape, 8)
    plain, stable = (
        searched(tensor, kind, rank, rng=np.random.default_rng(0), slack=slack, small=True) for slack in (None, 0.02)
    )
    errors = [float(np.linalg.norm(tensor - model.full())) for model, _ in (plain, stable)]
    assert (plain[1], stable[1]) == (False, True)
    assert errors[1] <= 1.0201 * errors[0]
    assert sensitivity(stable[0]) < sensitivity(plain[0])


@pytest.mark.parametrize("scale", [1e-170, 1e150])
def test_any_scale(case, scale):
    kind, rank, shape = case
    tensor = noise(shape, 9)
    one, other = (
        searched(tensor * s, kind, rank, rng=np.random.default_rng(0), slack=0.02)[0].full() / s for s in (1.0, scale)
    )
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "rank"), [(CP, 3), (TensorChain, (2, 2, 2)), (Sandwich, [(2, 2), (2, 2)])], ids=["cp", "tc", "btd"]
)
def test_exact_kernels_are_found(kind, rank):
    tensor = kind.random((8, 9, 7), rank, rng=5).full()
    model, _ = searched(tensor, kind, rank, rng=np.random.default_rng(0), slack=0.02, small=True)
    assert np.linalg.norm(tensor - model.full()) < 0.01 * np.linalg.norm(tensor)


@pytest.mark.parametrize(
    ("kind", "rank"), [(CP, 4), (TensorChain, (2, 2, 3)), (Sandwich, [(2, 2), (2, 2)])], ids=["cp", "tc", "btd"]
)
def test_a_fit_of_the_core_is_finished_on_the_kernel(kind, rank):
    tensor = noise((12, 4, 10), 10)
    start, _ = searched(tensor, kind, rank, rng=np.random.default_rng(0), slack=None)
    rough = start.with_matrices([m + 0.1 * noise(m.shape, n) for n, m in enumerate(start.matrices)])
    errors = [float(np.linalg.norm(tensor - m.full())) for m in (rough, finished(tensor, rough, slack=None)[0])]
    assert errors[1] < errors[0]
    stable, done = finished(tensor, start, slack=0.05)
    assert done
    assert np.linalg.norm(tensor - stable.full()) < 1.0501 * np.linalg.norm(tensor - start.full())
    assert sensitivity(stable) < sensitivity(start)


def test_rows_of_the_layer_count_in_the_sensitivity():
    """A kernel in its singular vectors has fewer rows than the layer: SS counts those of the layer."""
    kernel, basis = noise((5, 4, 6)), np.linalg.qr(noise((20, 4), 1))[0]
    blocks = [noise((n, 3), n) for n in (5, 4, 6)]
    small = CPSweeps(kernel, blocks, (5, 20, 6))
    large = CP([basis @ blocks[1], blocks[0], blocks[2]])
    assert small.sensitivity() == pytest.approx(float(sensitivity(large)))
    groups = noise((2, 4, 2), 2), noise((1, 5, 2, 3), 3), noise((2, 6, 3), 4)
    chain = GroupSweeps(kernel, groups, (5, 20, 6))
    tall = GroupSweeps(np.zeros((5, 20, 6)), (basis @ groups[0], groups[1], groups[2]))
    whole = model_of(tall, TensorChain, 1.0, (20, 5, 6))
    assert chain.sensitivity() == pytest.approx(float(sensitivity(whole)))
    np.testing.assert_array_equal(blocks_of(whole)[2], groups[2])


@pytest.mark.parametrize(
    "rank", [2, (2, 2, 2), [2, 2, 2], np.array([2, 2, 2])], ids=["number", "tuple", "list", "array"]
)
def test_ranks_of_a_chain_in_every_form(rank):
    tensor = noise((5, 4, 6), 11)
    model, _ = searched(tensor, TensorChain, rank, rng=np.random.default_rng(0), slack=0.02)
    assert model.bonds == (2, 2, 2)


def test_time_limits_and_nothing_to_gain():
    problem = started(noise((6, 4, 5)), CP, 3, np.random.default_rng(0))
    before = problem.state
    relaxed(problem, 1.0, 1.0, 10)
    assert problem.state is before
    path(problem, 40, end=0.0)
    assert fitted(problem, 40, 0.0, end=0.0) > 0.0
    _, done = searched(noise((6, 4, 5)), CP, 3, rng=np.random.default_rng(0), slack=0.02, max_seconds=0.0)
    assert not done
