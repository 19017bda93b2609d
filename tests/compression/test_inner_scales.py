"""Scales of inner channels: gradients, optimality, the network that stays the same, and what rounding then costs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tensorchain.compression import compress, compress_onnx, quantize, quantize_onnx
from tensorchain.compression.inner_scales import InnerChannels, with_room
from tensorchain.compression.onnx_inner import rescaled_inner
from tensorchain.compression.onnx_session import OnnxSession
from tensorchain.compression.torch_inner import rescale_inner

torch = pytest.importorskip("torch")


def channels(groups=1, per_channel=True, activations=127.5, seed=0, count=6):
    rng = np.random.default_rng(seed)
    low, high, energies = -np.exp(rng.standard_normal(count)), np.exp(rng.standard_normal(count)), None
    energies = 0.1 * np.maximum(-low, high) ** 2
    second = rng.standard_normal((groups, 4, count // groups, 9))
    return InnerChannels(
        low, high, energies, rng.standard_normal((count, 5)), second, rng.uniform(0.1, 1.0, (groups, 4)),
        activation_levels=activations, per_channel=per_channel, patch_energy=3.0,
    )  # fmt: skip


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("activations", [7.5, None])
def test_gradient_against_differences(groups, per_channel, activations):
    given = channels(groups, per_channel, activations)
    logs = 0.3 * np.random.default_rng(1).standard_normal(6)
    for norm in (4.0, 32.0):
        value, slope = given._error(logs, norm)
        steps = 1e-6 * np.eye(6)
        expected = [(given._error(logs + s, norm)[0] - given._error(logs - s, norm)[0]) / 2e-6 for s in steps]
        np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-7 * value)


@pytest.mark.parametrize("seed", range(4))
def test_no_scales_that_are_tried_are_better(seed):
    given, rng = channels(groups=2, seed=seed), np.random.default_rng(seed)
    scales = given.best_scales()
    best = given.error(scales)
    assert best < given.error(np.ones(6))
    assert given.error(3.0 * scales) == pytest.approx(best)
    for size in (0.03, 0.3, 1.0):
        tried = [given.error(scales * np.exp(size * rng.standard_normal(6))) for _ in range(100)]
        assert min(tried) > 0.98 * best


def test_the_formula_is_what_rounding_does():
    rng = np.random.default_rng(3)
    inputs, first = rng.standard_normal((4000, 8)), rng.standard_normal((5, 8)) * np.array([5.0, 1, 1, 0.2, 1])[:, None]
    second = rng.standard_normal((6, 5))
    inner = inputs @ first.T
    low, high, energies = inner.min(0), inner.max(0), np.mean(inner**2, 0)
    given = InnerChannels(low, high, energies, first, second.reshape(1, 6, 5, 1), activation_levels=15.5)
    for scales in (np.ones(5), given.best_scales()):
        scaled, weights = inner * scales, second / scales
        step = (max(scaled.max(), 0.0) - min(scaled.min(), 0.0)) / 31
        rows = np.abs(weights).max(1, keepdims=True) / 127.0
        rounded = np.rint(scaled / step) * step @ (np.rint(weights / rows) * rows).T
        measured = np.sum(np.mean((rounded - inner @ second.T) ** 2, 0))
        assert measured == pytest.approx(given.error(scales), rel=0.15)


def test_ends_have_room():
    low, high, energy = with_room(np.array([0.0]), np.array([1.0]), np.array([5.0]), np.array([5.0]), 10)
    assert (low[0], high[0], energy[0]) == (0.5 - 4 * 0.5, 0.5 + 4 * 0.5, 0.5)


def test_channels_that_are_not_used_stay():
    given = channels()
    dead = InnerChannels(np.zeros(6), np.zeros(6), np.zeros(6), given.first, given.second)
    assert (dead.best_scales() == 1.0).all()


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(6, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 20, 3, padding=1, stride=2),
        torch.nn.ReLU(), torch.nn.Conv2d(20, 8, 3), torch.nn.Flatten(), torch.nn.Linear(128, 10),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("method", ["cp3", "tucker2", "tc", "svd"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_torch_networks_lose_less_by_rounding(method, per_channel):
    images = torch.randn(64, 6, 12, 12, generator=torch.Generator().manual_seed(1)).cumsum(2)
    small = compress(network(), images[:1], method, keep_macs=0.5, candidates=3, stabilise=False)
    with torch.no_grad():
        expected = small(images)
        errors = [
            float((quantize(small, [images], 8, 6, per_channel=per_channel, inner_scales=on)(images) - expected).norm())
            for on in (False, True)
        ]
        names = {name: 8 for name, part in small.named_modules() if hasattr(part, "weight")}
        scales = rescale_inner(small, [images], names, names, per_channel=per_channel)
        torch.testing.assert_close(small(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert scales
    assert errors[1] < 0.97 * errors[0]


def test_weights_on_a_grid_and_shared_layers_keep_their_scales():
    images = torch.randn(16, 6, 12, 12)
    small = compress(network(), images[:1], "cp3", keep_macs=0.5, candidates=3, weight_bits=4)
    before = {name: part.weight.clone() for name, part in small.named_modules() if hasattr(part, "weight")}
    rounded = quantize(small, [images], 4, 8, per_channel=False)
    changed = [
        name for name, weight in before.items() if not torch.allclose(rounded.get_submodule(name).weight, weight)
    ]
    assert not [name for name in changed if "." in name]
    shared = torch.nn.Conv2d(4, 4, 1)
    net = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 1), shared, torch.nn.ReLU(), shared)
    assert not rescale_inner(net, [torch.randn(2, 4, 5, 5)], dict.fromkeys("013", 8), dict.fromkeys("013", 8))


@pytest.mark.parametrize("method", ["tucker2", "svd"])
def test_onnx_files_lose_less_by_rounding(method):
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array((rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32), n)
        for n, s in (("w1", (12, 8, 3, 3)), ("b1", (12,)), ("w2", (16, 12, 3, 3)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["c"]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ("n", 8, 12, 12)), ("y", None))]
    original = helper.make_model(
        helper.make_graph(nodes, "net", ends[:1], ends[1:], weights), opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )  # fmt: skip
    feeds = [{"x": rng.standard_normal((8, 8, 12, 12)).astype(np.float32).cumsum(2).cumsum(3)} for _ in range(4)]
    small, _ = compress_onnx(original, method, keep_macs=0.5, candidates=4, stabilise=False)

    def outputs(model):
        session = OnnxSession(model)
        return np.concatenate([session.run(feed)["y"] for feed in feeds])

    expected = outputs(small)
    np.testing.assert_allclose(outputs(rescaled_inner(small, feeds)), expected, atol=1e-4 * np.abs(expected).max())
    errors = [
        np.linalg.norm(outputs(quantize_onnx(small, iter(feeds), inner_scales=on)) - expected) for on in (False, True)
    ]
    assert errors[1] < 0.97 * errors[0]
