"""A reduced model has the sensitivities of the larger model that it stands for."""

import pickle
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tests.cases import gaussian

WIRINGS = [
    (tc.TensorChain, (5, 6, 7), (2, 2, 3)),
    (tc.CP, (4, 5, 6, 3), 2),
    (tc.Tucker, (5, 6, 7), (2, 3, 2)),
    (tc.BlockTerm, (9, 8, 9), [(2, 2, 2), (1, 2, 2)]),
]


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize(("kind", "shape", "rank"), WIRINGS)
def test_sensitivity_metrics_and_gauge_are_those_of_the_larger_model(
    kind: Any, shape: Any, rank: Any, dtype: Any
) -> None:
    core = kind.random(shape, rank, 0, dtype)
    rng = np.random.default_rng(1)
    blocks = []
    for k, (mode, block) in enumerate(zip(core.network.modes, core.matrices, strict=True)):
        basis = np.linalg.qr(gaussian((20 + 7 * k, len(block)), np.dtype(dtype), rng))[0]
        blocks.append(block if mode is None else basis @ block)
    large = core.with_matrices(blocks)
    small = core.with_row_counts(large.row_counts)
    assert small.sensitivity() == pytest.approx(large.sensitivity(), rel=1e-12)
    assert np.allclose(small.block_sensitivities(), large.block_sensitivities(), rtol=1e-12)
    for k in range(len(blocks)):
        np.testing.assert_allclose(small.sensitivity_metric(k), large.sensitivity_metric(k), rtol=1e-9, atol=1e-9)
    best = tc.optimal_gauge(large).sensitivity()
    assert tc.optimal_gauge(small).sensitivity() == pytest.approx(best, rel=1e-7)
    assert best < large.sensitivity()
    assert pickle.loads(pickle.dumps(small)).row_counts == large.row_counts
    assert small.with_matrix(0, 2 * small.matrices[0]).row_counts == large.row_counts


@pytest.mark.parametrize("size", [6, 40])
def test_programs_for_small_tensors_count_the_same_rows(size: int) -> None:
    core = tc.TensorChain.random((size, 5, 4), (2, 2, 2), 0)
    small = core.with_row_counts((60, 50, 40))
    source = tc.Dense(core.full())
    point = source.evaluator(small)
    assert point.error() < 1e-12
    for k in range(3):
        np.testing.assert_allclose(
            point.metric(k), core.with_row_counts((60, 50, 40)).sensitivity_metric(k), rtol=1e-12
        )
    other = source.evaluator(core)
    assert other.sensitivity() == pytest.approx(core.sensitivity(), rel=1e-12)
    np.testing.assert_allclose(other.metric(1), tc.TensorChain(core.blocks).sensitivity_metric(1), rtol=1e-12)
