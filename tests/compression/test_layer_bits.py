"""Bits shared out among the layers of a network."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import tensorchain as tc
from tensorchain.compression import allocate_layer_bits, compress, fit_kernel, quantize, quantizer, restore
from tensorchain.compression.torch_layers import plan_of_module

pytestmark = pytest.mark.usefixtures("one_thread")


def network():
    """Layers that differ in size and in what their errors do to the output."""
    net = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3),
    )  # fmt: skip
    return net.eval()


def images(count=3):
    generator = torch.Generator().manual_seed(2)
    return [(torch.randn(8, 2, 9, 9, generator=generator), torch.zeros(8, dtype=torch.long)) for _ in range(count)]


def change(net, other, inputs):
    with torch.no_grad():
        return float((net(inputs) - other(inputs)).norm() / net(inputs).norm())


def test_the_predicted_error_is_the_least_of_all_allocations():
    net, data = network(), images()
    best = allocate_layer_bits(net, 4.5, data, min_bits=3, max_bits=6)
    tables = {}
    for name, size in best.sizes.items():
        weight = net.get_submodule(name).weight.detach().double().numpy()
        for bits in range(3, 7):
            near = quantizer(weight, bits, axis=0, range_by="mse").rounded(weight)
            relative = np.sum((near - weight) ** 2) / np.sum(weight**2)
            tables[name, bits] = best.gains[name] * relative
        assert size == weight.size
    budget = 4.5 * sum(best.sizes.values())
    errors = [
        sum(tables[pair] for pair in zip(best.sizes, bits, strict=True))
        for bits in itertools.product(range(3, 7), repeat=len(best.sizes))
        if sum(n * b for n, b in zip(best.sizes.values(), bits, strict=True)) <= budget
    ]
    assert best.error == pytest.approx(min(errors), rel=1e-9)
    assert best.mean <= 4.5
    assert best.error <= best.uniform_error
    assert best.uniform_bits == 4
    assert all(name in str(best) for name in best.bits)


def test_gains_are_what_rounding_one_layer_does():
    net, data = network(), images()
    best = allocate_layer_bits(net, 4, data)
    rounded = quantize(net, data, {"2": 4}, None)
    weight, near = net[2].weight.detach().double(), rounded[2].weight.detach().double()
    relative = float(((near - weight) ** 2).sum() / (weight**2).sum())
    assert best.gains["2"] == pytest.approx(change(net, rounded, data[0][0]) ** 2 / relative, rel=1e-3)
    assert set(allocate_layer_bits(net, 4).gains.values()) == {1.0}


@pytest.mark.parametrize("mean_bits", [3.0, 5.5])
def test_allocated_bits_move_the_outputs_less_than_equal_ones(mean_bits):
    shared, equal = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        net, data = network(), images()
        rounded = quantize(net, data, "allocate", None, mean_bits=mean_bits)
        assert rounded.bits == rounded.allocation.bits
        assert rounded.allocation.mean <= mean_bits
        shared.append(change(net, rounded, data[1][0]))
        equal.append(change(net, quantize(net, data, int(mean_bits), None), data[1][0]))
    assert np.mean(shared) < np.mean(equal)


def test_layers_of_a_decomposition_count_by_their_sensitivity():
    net, data = network(), images()
    small = compress(net, data[0], "tc", keep_macs=0.5, form="fold", candidates=3, rng=0)
    best = allocate_layer_bits(small, 5, per_channel=False, weight_range="minmax")
    layer = next(layer for layer in small.report.layers if layer.method == "tc")
    plan = plan_of_module(small.get_submodule(layer.name), "tc", layer.rank)
    # The prediction for one block alone against the mean over random rounding noise of the same variance.
    rng = np.random.default_rng(0)
    inside = [name for name in best.bits if name.startswith(layer.name + ".")]
    assert len(inside) == 3
    sensitivities = plan.layer_sensitivities()
    assert sum(sensitivities) == pytest.approx(plan.sensitivity())
    chain = tc.TensorChain.random((8, 9, 12), (2, 3, 3), rng)
    from tensorchain.compression import plan_of

    expected = chain.block_sensitivities()
    assert plan_of(chain, (3, 3)).layer_sensitivities() == pytest.approx(expected.tolist())
    history = restore(quantize(small, data, "allocate", None, mean_bits=4.0), data, epochs=1, rate=0.01)
    assert len(history) == 1


def test_weights_on_a_grid_stay_there():
    net, data = network(), images()
    small = compress(net, data[0], "tucker2", keep_macs=0.5, candidates=3, weight_bits=4)
    layers = [layer for layer in small.report.layers if layer.bits is not None]
    assert layers
    assert all(set(layer.bits) == {4} and layer.error <= layer.rounded_error for layer in layers)
    for per_channel in (True, False):
        rounded = quantize(small, data, 4, None, per_channel=per_channel)
        for layer in layers:
            old, new = small.get_submodule(layer.name), rounded.get_submodule(layer.name)
            for a, b in zip(old, new, strict=True):
                assert torch.allclose(a.weight, b.weight, rtol=1e-5, atol=0.0)
    free = compress(net, data[0], "tucker2", keep_macs=0.5, candidates=3)
    assert change(small, quantize(small, data, dict.fromkeys(inside(small), 4), None), data[0][0]) < 1e-5
    assert change(free, quantize(free, data, dict.fromkeys(inside(free), 4), None), data[0][0]) > 1e-2


def inside(net):
    """Names of the convolutions that replaced others."""
    done = {layer.name for layer in net.report.layers if layer.method != "dense"}
    kinds = nn.Conv2d, nn.Linear
    return [name for name, m in net.named_modules() if isinstance(m, kinds) and name.rpartition(".")[0] in done]


def test_the_bits_of_one_kernel_are_those_of_allocate_bits():
    kernel = np.random.default_rng(3).standard_normal((10, 8, 3, 3))
    fit = fit_kernel(kernel, "tc", (2, 3, 3), weight_bits=5, share_bits=True, rng=0)
    free = fit_kernel(kernel, "tc", (2, 3, 3), rng=0).plan
    sizes = [layer.weight.size for layer in free.convolutions]
    cores = [free.convolutions[k].weight for k in range(3)]
    chain = tc.TensorChain(
        [
            cores[0].reshape(2, 3, 8).transpose(0, 2, 1),
            cores[1].reshape(3, 3, 9).transpose(1, 2, 0),
            cores[2].reshape(10, 2, 3).transpose(2, 0, 1),
        ]
    )
    assert fit.bits == tc.allocate_bits(chain, 5 * sum(sizes), max_bits=8).bits


@pytest.mark.parametrize(
    ("call", "message", "error"),
    [
        (lambda net, x: allocate_layer_bits(net, 9.0), "mean_bits", ValueError),
        (lambda net, x: allocate_layer_bits(net, 4.0, min_bits=1), "2 to 8", ValueError),
        (lambda net, x: allocate_layer_bits(net, 4.0, []), "no batch", ValueError),
        (lambda net, x: allocate_layer_bits(nn.ReLU(), 4.0), "no convolution", ValueError),
        (lambda net, x: quantize(net, x, "guess"), "allocate", ValueError),
    ],
)
def test_what_cannot_be_shared_out_is_refused(call, message, error):
    with pytest.raises(error, match=message):
        call(network(), images())
