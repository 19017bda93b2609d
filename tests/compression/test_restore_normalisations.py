"""Restoration measures normalisations again where that helps, and holds them where it would not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tensorchain.compression import compress, recalibrate, restore

pytestmark = pytest.mark.usefixtures("one_thread")


def made(axes):
    """A network over lines or images whose normalisations know its inputs."""
    torch.manual_seed(0)
    conv, norm = (nn.Conv1d, nn.BatchNorm1d) if axes == 1 else (nn.Conv2d, nn.BatchNorm2d)
    first = [conv(3, 12, 3, padding=1), norm(12), nn.ReLU(), conv(12, 12, 3, padding=1), norm(12), nn.ReLU()]
    net = nn.Sequential(*first, nn.Flatten(), nn.Linear(12 * 6**axes, 5))
    data = torch.randn(64, 3, *[6] * axes).cumsum(-1)
    recalibrate(net, [data])
    return net.eval(), data


def shrunk(net, data):
    """Layers that give less than they did, as least squares leave them."""
    return compress(net, data[:1], "cp3", keep_macs=0.5, keep=("0", "7"), calibration=data, candidates=4)


def distance(net, small, data):
    with torch.no_grad():
        return float(nn.functional.mse_loss(small(data), net(data)))


def statistics(net):
    return [buffer.clone() for name, buffer in net.named_buffers() if "running" in name]


def nothing(outputs, _):
    return 0.0 * outputs.sum()


@pytest.mark.parametrize("axes", [1, 2])
def test_a_refitted_network_does_not_lose_what_the_refit_gained(axes):
    net, data = made(axes)
    small = shrunk(net, data)
    worse = copy.deepcopy(small)
    recalibrate(worse, [data])
    start, before = distance(net, small, data), statistics(small)
    assert distance(net, worse, data) > 1.1 * start  # what measuring again would cost
    restore(small, [(data, data)], epochs=2, loss=nothing, teacher=net, sensitivity=0.0, decay=0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(small), strict=True))
    assert distance(net, small, data) < start
    assert not small[1].training


@pytest.mark.parametrize("axes", [1, 2])
def test_statistics_that_do_not_fit_are_measured_again(axes):
    net, data = made(axes)
    moved = copy.deepcopy(net)
    with torch.no_grad():
        moved[0].weight.mul_(3.0)
    far = distance(net, moved, data)
    restore(moved, [(data, data)], epochs=1, rate=1e-6, loss=nothing, teacher=net)
    assert distance(net, moved, data) < 0.01 * far
    assert torch.allclose(moved[1].running_var, 9.0 * net[1].running_var, rtol=0.2)


def test_a_rate_above_what_held_statistics_allow_trains_with_those_of_the_batches():
    net, data = made(2)
    small = shrunk(net, data)
    before = statistics(small)
    restore(small, [(data, data)], epochs=1, rate=10.0, loss=nothing, teacher=net)
    assert not any(torch.equal(a, b) for a, b in zip(before, statistics(small), strict=True))


def test_without_an_epoch_they_are_only_measured():
    net, data = made(2)
    small = shrunk(net, data)
    twin = copy.deepcopy(small)
    recalibrate(twin, [data])
    restore(small, iter([(data, data)]), epochs=0)
    assert all(torch.equal(a, b) for a, b in zip(statistics(small), statistics(twin), strict=True))


def test_networks_that_were_not_refitted_are_measured_whatever_the_loss_is():
    net, data = made(2)
    twin, loader = copy.deepcopy(net), [(data + 1.0, torch.randint(0, 5, (64,)))]
    recalibrate(twin, loader)
    restore(net, loader, epochs=1, rate=1e-9)
    # The step of training moves a tenth of the way to the statistics of the batch, which are those of all.
    for a, b in zip(statistics(net), statistics(twin), strict=True):
        assert torch.allclose(a, b, rtol=0.02, atol=1e-3)


def test_a_long_training_has_the_statistics_of_its_batches():
    net, data = made(1)
    small = shrunk(net, data)
    before = statistics(small)
    loader = [(part, part) for part in data.split(4)]
    restore(small, loader, epochs=4, loss=nothing, teacher=net, callback=lambda *_: True)  # 64 steps, of which 16
    assert not any(torch.equal(a, b) for a, b in zip(before, statistics(small), strict=True))
    small = shrunk(net, data)
    restore(small, lambda: iter(loader), epochs=3, loss=nothing, teacher=net, callback=lambda *_: True)
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(small), strict=True))
