"""Compressed PyTorch networks: layers equal to their kernels, budgets, restoration, rounding, export."""

from __future__ import annotations

import copy
import io
import itertools
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from tensorchain.compression import Geometry, compress, plan_of, quantize, recalibrate, restore
from tensorchain.compression.quantize import quantizer
from tensorchain.compression.sandwich import Sandwich
from tensorchain.compression.torch_layers import geometry_of, module_of, plan_of_module
from tensorchain.compression.torch_modules import fake_quantize_class
from tensorchain.compression.torch_sensitivity import Sensitivities, sensitivity_of
from tensorchain.compression.torch_sites import sites_of
from tensorchain.compression.training import decomposed
from tensorchain.models import CP, TensorChain

pytestmark = pytest.mark.usefixtures("one_thread")

METHODS = ("cp3", "cp4", "tucker2", "tucker-cp", "btd", "tc")


class Small(nn.Module):
    """A residual network with every kind of layer that is met."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 12, (3, 1), padding="same")
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.conv3 = nn.Conv2d(12, 16, 3, padding=2, dilation=2)
        self.point = nn.Conv2d(16, 16, 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(x + self.conv2(x) + self.depthwise(x))
        x = torch.relu(self.point(torch.relu(self.conv3(x))))
        return self.fc(x.mean((2, 3)))


def batches(count=4, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randn(size, 3, 12, 12, generator=generator) for _ in range(count)]
    return [(x, (x[:, 0].mean((1, 2)) > 0).long()) for x in images]


def plans(window, geometry, bias, rng):
    taps = window[0] * window[1]
    chain = plan_of(TensorChain.random((5, taps, 6), (2, 2, 3), rng), window, geometry, bias)
    yield from (chain, chain.grouped())
    yield plan_of(Sandwich.random((5, taps, 6), [(2, 3), (2, 1)], rng), window, geometry, bias)
    yield plan_of(CP.random((5, taps, 6), 4, rng), window, geometry, bias)
    yield plan_of(CP.random((5, *window, 6), 4, rng), window, geometry, bias)


@pytest.mark.parametrize("window", [(3, 3), (1, 5), (4, 2)])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), ((2, 3), (2, 1), (1, 2)), (1, "same", 2), (1, "valid", 1)]
)
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_modules_equal_the_convolution_with_their_kernel(window, stride, padding, dilation, mode):
    conv = nn.Conv2d(5, 6, window, stride, padding, dilation, padding_mode=mode)
    geometry, rng = geometry_of(conv), np.random.default_rng(0)
    if mode != "zeros" and any(a != b for a, b in geometry.padding):
        return
    images = torch.randn(2, 5, 13, 14)
    for plan in plans(window, geometry, conv.bias.detach().numpy(), rng):
        layers = module_of(plan, conv)
        with torch.no_grad():
            conv.weight.copy_(torch.from_numpy(plan.kernel))
            expected = conv(images)
            assert torch.allclose(layers(images), expected, atol=1e-5 * float(expected.abs().max()))
        assert sum(p.numel() for p in layers.parameters()) == plan.parameters


def test_sensitivity_with_a_gradient_is_that_of_the_plan():
    for plan in plans((3, 2), Geometry(), None, np.random.default_rng(1)):
        layers = module_of(plan).double()
        with torch.no_grad():
            for module, step in zip([m for m in layers if hasattr(m, "weight")], plan.convolutions, strict=True):
                module.weight.copy_(torch.from_numpy(np.array(step.weight)))
        value = sensitivity_of(layers)
        assert float(value.detach()) == pytest.approx(plan.sensitivity(), rel=1e-9)
        weights = [p for p in layers.parameters() if p.ndim == 4]
        gradients = torch.autograd.grad(value, weights)
        direction = [torch.randn_like(w) for w in weights]
        expected = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
        sides = []
        for step in (1e-5, -1e-5):
            moved = copy.deepcopy(layers)
            with torch.no_grad():
                for w, d in zip([p for p in moved.parameters() if p.ndim == 4], direction, strict=True):
                    w.add_(step * d)
                sides.append(float(sensitivity_of(moved).detach()))
        assert (sides[0] - sides[1]) / 2e-5 == pytest.approx(expected, rel=1e-5)


def test_sensitivities_of_several_layers_are_those_of_each():
    rng = np.random.default_rng(1)
    parts = [module_of(plan) for _ in range(3) for plan in plans((3, 2), Geometry(), None, rng)]
    together = Sensitivities(parts)().detach()
    alone = torch.stack([sensitivity_of(part).detach() for part in parts])
    assert torch.allclose(together, alone, rtol=1e-5)
    assert len(set(alone.tolist())) == len(parts)


def sequences():
    """Depthwise, in groups, with shared kernels, groups that do not nest, transposed, one layer, linear."""
    from tensorchain.compression.torch_modules import fold_class

    def conv(inputs, outputs, window, groups=1):
        return nn.Conv2d(inputs, outputs, window, groups=groups, bias=False)

    fold = fold_class()
    return [
        *(nn.Sequential(conv(5, r, 1), conv(r, r, 3, r), conv(r, 4 + r, 1)) for r in (5, 7, 9)),
        *(nn.Sequential(conv(5, 2 * a, 1), conv(2 * a, 2 * a + 2, 3, 2), conv(2 * a + 2, 9, 1)) for a in (3, 4)),
        *(
            nn.Sequential(conv(5, 3 * a, 1), fold(3, False), conv(a, 2, 3), fold(3, True), conv(6, 3 + a, 1))
            for a in (2, 4)
        ),
        nn.Sequential(conv(5, 7, 1), conv(7, 7, (3, 1), 7), conv(7, 7, (1, 3), 7), conv(7, 4, 1)),
        nn.Sequential(conv(6, 6, 3, 6), conv(6, 4, 1)),
        nn.Sequential(conv(6, 3, 1), conv(3, 3, (3, 1), 3)),
        nn.Sequential(conv(6, 12, 1, 3), conv(12, 4, 3, 2)),
        nn.Sequential(conv(8, 12, 1, 4), conv(12, 9, 3, 3)),
        nn.Sequential(conv(4, 6, 3)),
        nn.Sequential(conv(6, 6, 3, 6)),
        nn.Sequential(nn.ConvTranspose2d(6, 8, 1, groups=2, bias=False), nn.ConvTranspose2d(8, 4, 3, bias=False)),
        nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 6)),
    ]


def test_sensitivities_of_all_structures_and_their_gradients():
    """Padded and computed together, against the formula of plans, and against autograd of the composed kernel."""
    torch.manual_seed(3)
    parts = [part.double() for part in sequences()]
    whole = Sensitivities(parts)
    assert len(whole.batches) < len(parts)
    values = whole()
    shares = torch.rand(len(parts), dtype=torch.float64)
    (values * shares).sum().backward()
    for part, value, share in zip(parts, values.detach(), shares, strict=True):
        weights = [module.weight for module in part if hasattr(module, "weight")]
        assert float(value) == pytest.approx(plan_of_module(part, "", None).sensitivity(), rel=1e-9)
        for weight in weights:
            direction = torch.randn_like(weight)
            ends = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    weight.add_(step * direction)
                    ends.append(plan_of_module(part, "", None).sensitivity())
                    weight.sub_(step * direction)
            slope = float((weight.grad * direction).sum())
            assert (ends[0] - ends[1]) / 2e-5 * float(share) == pytest.approx(slope, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("change", ["channels_last", "bfloat16", "autocast", "frozen"])
def test_the_sensitivity_does_not_depend_on_how_weights_are_stored(change):
    torch.manual_seed(4)
    parts = sequences()
    expected = Sensitivities(parts)()
    expected.sum().backward()
    goals = [weight.grad.clone() for part in parts for weight in part.parameters() if weight.grad is not None]
    moved = copy.deepcopy(parts)
    for part in moved:
        part.zero_grad()
        if change == "bfloat16":
            part.bfloat16()
        elif change == "channels_last":
            part.to(memory_format=torch.channels_last)
    if change == "frozen":
        for weight in moved[0].parameters():
            weight.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16, enabled=change == "autocast"):
        found = Sensitivities(moved)()
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, rtol=0.05 if change == "bfloat16" else 1e-5)
    found.sum().backward()
    if change == "frozen":
        assert all(weight.grad is None for weight in moved[0].parameters())
        return
    grads = [weight.grad for part in moved for weight in part.parameters() if weight.grad is not None]
    for grad, goal in zip(grads, goals, strict=True):
        assert torch.allclose(grad.float(), goal, rtol=0.1 if change == "bfloat16" else 1e-4, atol=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_is_compressed_within_its_budget(method):
    net, example = Small(), torch.randn(2, 3, 12, 12)
    before = copy.deepcopy(net.state_dict())
    small = compress(net, example, method, keep_macs=0.6, stabilise=method == "tc", candidates=4)
    report = small.report
    assert report.macs[1] <= 0.6 * report.macs[0]
    assert report.allocation.gap == 0.0
    assert small(example).shape == (2, 5)
    assert report.parameters == (sum(p.numel() for p in net.parameters()), sum(p.numel() for p in small.parameters()))
    assert report.macs[1] == sum(site.macs for site in sites_of(small, example[:1]))
    layers = {layer.name: layer for layer in report.layers}
    assert layers["depthwise"].rank == "depthwise"
    assert any(layer.method == method for layer in report.layers)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert method in str(report)


def test_with_the_whole_budget_the_network_stays():
    net, example = Small().eval(), torch.randn(2, 3, 12, 12)
    small = compress(net, example, "tc", keep_macs=1.0, candidates=3)
    assert torch.equal(small(example), net(example))


def test_parameters_calibration_names_and_constraints():
    net, data = Small().eval(), batches()
    options = {"candidates": 4, "pointwise": False, "keep": ["conv2"], "form": "fold", "stabilise": False}
    small = compress(
        net,
        data[0],
        "tc",
        keep_params=0.7,
        calibration=data,
        refit=False,
        fit_output=True,
        allocation="one-step",
        **options,
    )
    report = small.report
    assert sum(p.numel() for p in small.parameters()) == report.parameters[1] <= 0.7 * report.parameters[0]
    layers = {layer.name: layer for layer in report.layers}
    assert (layers["conv2"].rank, layers["point"].rank) == ("kept on request", "1 x 1")
    assert any(type(m).__name__ == "ChannelFold" for m in small.modules())
    # What is reported is the error that the calibration images see.
    name, layer = next((n, v) for n, v in layers.items() if v.method == "tc")
    seen = []
    hook = net.get_submodule(name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for images, _ in data:
            net(images)
        hook.remove()
        bias = net.get_submodule(name).bias
        shift = 0.0 if bias is None else bias[:, None, None]
        outputs = [(net.get_submodule(name)(x), small.get_submodule(name)(x)) for x in seen]
        change = sum(float(((a - b) ** 2).sum()) for a, b in outputs)
        whole = sum(float(((a - shift) ** 2).sum()) for a, _ in outputs)
    assert layer.output_error == pytest.approx((change / whole) ** 0.5, rel=1e-3)


def test_a_compressed_network_is_exported_traced_and_pickled():
    net, example = Small().eval(), torch.randn(2, 3, 12, 12)
    for form in ("grouped", "fold"):
        small = compress(net, example, "tc", keep_macs=0.5, form=form, stabilise=False, candidates=3)
        expected = small(example)
        exported = torch.export.export(small, (example,)).module()
        assert torch.allclose(exported(example), expected, atol=1e-6)
        traced = torch.jit.trace(small, example)
        assert torch.allclose(traced(torch.cat([example, example]))[:2], expected, atol=1e-6)
        assert torch.equal(pickle.loads(pickle.dumps(small))(example), expected)
        file = io.BytesIO()
        torch.save(small.state_dict(), file)


def test_recalibration_measures_the_statistics():
    net, data = Small().train(), batches()
    recalibrate(net, data)
    with torch.no_grad():
        values = torch.cat([net.conv1(images) for images, _ in data])
    assert torch.allclose(net.bn1.running_mean, values.mean((0, 2, 3)), atol=1e-5)
    assert net.training
    assert net.bn1.momentum == 0.1
    with pytest.raises(ValueError, match="no batch"):
        recalibrate(net, [])


def test_restoration_lowers_the_loss_and_holds_the_sensitivity():
    net, data = Small(), batches(count=8)
    restore(net, data, epochs=4, rate=0.1)
    small = compress(net, data[0], "tc", keep_macs=0.4, candidates=4)
    loose, held = copy.deepcopy(small), copy.deepcopy(small)
    assert len(decomposed(small)) > 0
    free = restore(loose, data, epochs=3, rate=0.1, sensitivity=0.0)
    stable = restore(held, data, epochs=3, rate=0.1, sensitivity=1.0)
    assert stable[-1].loss < stable[0].loss
    assert stable[-1].sensitivity < free[-1].sensitivity
    assert not held.training
    stopped = restore(small, data, epochs=9, callback=lambda epoch, _: epoch == 0)
    assert len(stopped) == 1
    assert restore(small, data, epochs=0) == []


def test_a_teacher_is_followed():
    """With labels that say nothing, training still comes nearer to the outputs of the dense network."""
    net, data = Small().eval(), batches(count=4)
    images = torch.cat([inputs for inputs, _ in data])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    small = compress(net, data[0], "tc", keep_macs=0.4, candidates=3)
    recalibrate(small, data)

    def distance():
        with torch.no_grad():
            return float((small(images) - net(images)).norm())

    start = distance()
    restore(small, data, epochs=10, rate=0.05, loss=lambda outputs, labels: 0.0 * outputs.sum(), teacher=net.train())
    assert net.training
    net.eval()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert distance() < 0.7 * start


@pytest.mark.parametrize(("bits", "per_channel"), list(itertools.product((2, 4, 8), (True, False))))
def test_weights_and_inputs_lie_on_their_grids(bits, per_channel):
    net, data = Small().eval(), batches()
    rounded = quantize(net, data, bits, bits, per_channel=per_channel)
    weight = rounded.conv3.weight.detach()
    for channel in weight if per_channel else [weight]:
        assert len(torch.unique(channel)) <= 2**bits - 1
    seen = []
    handle = nn.Module.register_forward_pre_hook(rounded.point, lambda _, inputs: seen.append(inputs[0]))
    rounded(data[0][0])
    handle.remove()
    assert len(torch.unique(seen[0])) <= 2**bits
    assert len(torch.unique(net.conv3.weight)) > 2**bits


def test_more_bits_are_nearer_and_gradients_pass_through():
    net, data = Small().eval(), batches()
    images = data[0][0]
    with torch.no_grad():
        errors = [float((quantize(net, data, b, b)(images) - net(images)).norm()) for b in (2, 4, 8)]
    assert errors[0] > errors[1] > errors[2] > 0.0
    rounded = quantize(net, data, {"conv3": 3, "": 8}, None)
    assert len(torch.unique(rounded.conv3.weight[0])) <= 7
    history = restore(rounded, data, epochs=3, rate=0.05)
    assert history[-1].loss < history[0].loss
    assert len(torch.unique(rounded.conv3.weight[0])) <= 7


def test_straight_through_gradients_are_one_inside_the_range_and_zero_outside():
    x = torch.tensor([-9.0, -0.4, 0.3, 0.9, 9.0], requires_grad=True)
    grid = fake_quantize_class()(torch.tensor(0.5), torch.tensor(0.0), -3, 3, None)
    y = grid(x)
    assert torch.allclose(y, torch.tensor([-1.5, -0.5, 0.5, 1.0, 1.5]))
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    values = np.random.default_rng(0).standard_normal((3, 4, 2))
    numpy = quantizer(values, 3, symmetric=False, axis=0)
    tensors = (torch.from_numpy(numpy.step), torch.from_numpy(numpy.zero).double())
    assert np.allclose(
        fake_quantize_class()(*tensors, numpy.low, numpy.high, 0)(torch.from_numpy(values)), numpy.rounded(values)
    )


@pytest.mark.parametrize(
    ("call", "message", "error"),
    [
        (lambda net, x: compress("net", x, keep_macs=0.5), "torch.nn.Module", TypeError),
        (lambda net, x: compress(net, x, "qr", keep_macs=0.5), "method", ValueError),
        (lambda net, x: compress(net, x), "give one of", ValueError),
        (lambda net, x: compress(net, x, keep_macs=0.5, keep_params=0.5), "give one of", ValueError),
        (lambda net, x: compress(net, x, keep_macs=1.5), "share", ValueError),
        (lambda net, x: compress(net, x, keep_macs=0.5, weight_bits=1), "2 to 8", ValueError),
        (lambda net, x: compress(net, x, keep_macs=0.5, form="loop"), "form", ValueError),
        (lambda net, x: compress(net, x, keep_macs=0.5, allocation="luck"), "allocation", ValueError),
        (lambda net, x: compress(net, x, keep_macs=0.5, fit_output=True), "calibration", ValueError),
        (lambda net, x: compress(net, x, keep_macs=0.5, keep=["nothing"]), "no layer", ValueError),
        (lambda net, x: compress(net, x, keep_macs=0.001, candidates=3), "give a larger share", ValueError),
        (lambda net, x: compress(net, x, keep_macs=0.5, calibration=[], candidates=3), "no batch", ValueError),
        (lambda net, x: restore(net, [], epochs=-1), "epochs", ValueError),
        (lambda net, x: restore(net, iter([(x, x)]), epochs=2), "iterator", TypeError),
        (lambda net, x: restore(net, [], rate=0.0), "rate", ValueError),
        (lambda net, x: quantize(net, [x], 9), "2 to 8", ValueError),
        (lambda net, x: quantize(net, [x], {"nothing": 4}), "no convolution", ValueError),
        (lambda net, x: quantize(net, [], 4), "no batch", ValueError),
    ],
)
def test_what_cannot_be_done_is_refused(call, message, error):
    with pytest.raises(error, match=message):
        call(Small(), torch.randn(2, 3, 12, 12))
