"""The sensitivity of a fit to a layer's outputs is that of the outputs."""

from __future__ import annotations

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.compression import PatchCovariance, fit_kernel


def covariance(channels, taps, rng):
    """A product of channels and taps, as the fit takes it to be; channels differ a hundredfold."""
    mix = rng.standard_normal((taps, taps))
    second = mix @ mix.T / taps + 0.1 * np.eye(taps)
    return PatchCovariance(np.kron(np.diag(np.geomspace(1.0, 100.0, channels)), second), channels)


@pytest.mark.parametrize("rank", [(2, 3, 3), (3, 2, 4)])
def test_noise_in_the_weights_changes_the_outputs_by_the_sensitivity_in_the_metric_of_the_fit(rank):
    """E |dW x|^2 = s^2 SS of the model whose blocks are multiplied by the roots, relative to the mean square of x."""
    rng = np.random.default_rng(0)
    channels, taps, outputs = 6, 9, 8
    patches = covariance(channels, taps, rng)
    roots = patches.roots(floor=0.0)
    chain = tc.TensorChain.random((channels, taps, outputs), rank, rng=1)
    first, second, last = chain.matrices
    # Large where the inputs are small, so that both metrics differ.
    chain = chain.with_matrices([first / np.sqrt(np.geomspace(1.0, 100.0, channels))[:, None], second, last])
    first = chain.matrices[0]
    moved = chain.with_matrices([roots[0] @ first, roots[1] @ second, last])
    scale, total, draws, size = np.trace(patches.matrix) / len(patches.matrix), 0.0, 300, 1e-4
    kernel = chain.full()
    for _ in range(draws):
        noisy = chain.with_matrices([block + size * rng.standard_normal(block.shape) for block in chain.matrices])
        change = (noisy.full() - kernel).reshape(channels * taps, outputs).T
        total += patches.energy(change.reshape(outputs, channels, 3, 3))
    assert total / draws / size**2 == pytest.approx(scale * tc.sensitivity(moved), rel=0.1)
    assert abs(tc.sensitivity(chain) / tc.sensitivity(moved) - 1.0) > 0.3  # that of the kernel is another


def test_stabilised_fits_to_outputs_hold_them_at_four_bits():
    from tensorchain.compression.quantize import quantizer

    rng = np.random.default_rng(2)
    kernel = rng.standard_normal((16, 16, 3, 3)) * np.linspace(0.2, 1.0, 16)[:, None, None, None]
    patches = covariance(16, 9, rng)
    losses = {}
    for stabilise in (False, True):
        plan = fit_kernel(
            kernel, "tc", (3, 5, 5), covariance=patches, fit_output=True, stabilise=stabilise, rng=0
        ).plan  # fmt: skip
        blocks = [step.weight.astype(float) for step in plan.convolutions]
        rounded = [quantizer(block, 4, axis=None, range_by="minmax").rounded(block) for block in blocks]
        near = composed_with(plan, rounded)
        losses[stabilise] = patches.relative_error(near, plan.kernel)
    assert losses[True] < 0.5 * losses[False]


def composed_with(plan, weights):
    from dataclasses import replace

    given = iter(weights)
    steps = [replace(step, weight=next(given)) if hasattr(step, "weight") else step for step in plan.steps]
    return replace(plan, steps=tuple(steps)).kernel
