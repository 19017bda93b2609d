"""Outputs that a ReLU cuts: where that is found, what is asked of a fit, and ranks chosen by effect on the outputs."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tensorchain.compression import Request, compress, refit_network
from tensorchain.compression import torch_refit as refit
from tensorchain.compression.cuts import Cut
from tensorchain.compression.torch_cuts import cuts_of, watched
from tensorchain.compression.torch_gains import gains_of
from tensorchain.compression.torch_network import measured_of
from tensorchain.compression.torch_sites import sites_of

pytestmark = pytest.mark.usefixtures("one_thread")


class Shapes(nn.Module):
    """Ways from a layer to functions that cut, and ways that are no such."""

    def __init__(self):
        super().__init__()
        names = "plain normal inplace six hard added early twice_used smooth last"
        for name in names.split():
            setattr(self, name, nn.Conv2d(4, 4, 3, padding=1))
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = torch.relu(self.plain(x))
        x = self.relu(self.norm(self.normal(x)))
        x = functional.relu(self.inplace(x), inplace=True)
        x = functional.relu6(self.six(x))
        x = functional.hardtanh(self.hard(x), -0.5, 0.25)
        y = self.added(x)
        y += x
        x = y.relu_()
        before = x + self.early(x)  # used again behind the function that cuts
        x = before + functional.relu(before)
        y = self.twice_used(x)
        x = y.relu() + y.mean()
        x = functional.silu(self.smooth(x))
        return self.last(x)


def images(count=64, channels=4, size=8):
    noise = torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(0))
    return functional.avg_pool2d(functional.pad(noise, (1, 1, 1, 1)), 3, 1) * 2.0


def test_only_outputs_of_which_nothing_else_is_seen_are_cut():
    torch.manual_seed(0)
    net = Shapes().eval()
    names = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    relu = Cut(0.0, float("inf"))
    assert cuts_of(net, names, images(2)) == {
        "plain": relu, "normal": relu, "inplace": relu, "six": Cut(0.0, 6.0), "hard": Cut(-0.5, 0.25), "added": relu,
    }  # fmt: skip
    net.train()
    assert "normal" not in cuts_of(net, names, images(2))  # statistics of a batch depend on all outputs


def test_an_output_of_the_network_and_a_layer_that_is_called_twice_are_not_cut():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.again = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            y = self.conv(x)
            return torch.relu(self.again(torch.relu(self.again(torch.relu(y))))), [y]

    assert cuts_of(Both().eval(), ["conv", "again"], images(2)) == {}


def test_slopes_say_what_a_change_of_the_outputs_does_before_the_cut():
    torch.manual_seed(1)
    net = Shapes().eval()
    with torch.no_grad():
        net.norm.weight.copy_(torch.tensor([2.0, -1.0, 0.5, 3.0]))
        net.norm.running_var.copy_(torch.tensor([4.0, 0.5, 1.0, 2.0]))
    data = images(3)
    for name in ("normal", "added"):
        seen = []
        moved = copy.deepcopy(net)
        with torch.no_grad():
            moved.get_submodule(name).bias.add_(torch.arange(4.0))

        def see(way, u, _, seen=seen):
            seen.append((way, u.clone()))

        for one in (net, moved):
            with torch.no_grad(), watched(one, [name], see, outputs=True):
                one(data)
        (one, u), (other, v) = seen
        assert torch.allclose(v - u, one.slope * (other.output - one.output), atol=1e-5)


class Block(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)
        self.fc = nn.Linear(width, 6)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)) + x)
        return self.fc(torch.relu(self.conv3(x)).mean((2, 3)))


def made():
    torch.manual_seed(3)
    net = Block()
    for _ in range(3):
        net(images(256))
    with torch.no_grad():
        for norm in (net.bn1, net.bn2):
            norm.bias.fill_(-0.5)  # most outputs are cut
    return net.eval()


def seen_error(net, small):
    """Relative error of what passes the ReLU behind the second layer, without the code that finds it."""
    found = []
    for one in (net, small):
        with torch.no_grad():
            first = torch.relu(one.bn1(one.conv1(images(96))))
            found.append(torch.relu(one.bn2(one.conv2(first)) + first))
    return float((found[1] - found[0]).norm() / found[0].norm())


@pytest.mark.parametrize("method", ["cp3", "tucker2"])
def test_what_passes_is_fitted_better_when_nothing_is_asked_of_what_is_cut(method, monkeypatch):
    net, data = made(), images(96)
    options = {"keep_macs": 0.4, "keep": ("conv1", "fc"), "stabilise": False, "candidates": 4}
    raw = compress(net, data[:1], method, calibration=data, refit=False, **options)
    errors = {}
    for turns in (1, 3):
        small = copy.deepcopy(raw)
        monkeypatch.setattr(refit, "FITS", turns)
        refit_network(small, net, data)
        errors[turns] = seen_error(net, small)
    assert errors[3] < 0.97 * errors[1]


def test_inputs_that_do_not_fit_into_memory_are_computed_again(monkeypatch):
    net, data = made(), images(96)
    raw = compress(net, data[:1], "tucker2", keep_macs=0.4, calibration=data, refit=False, candidates=4)
    results = []
    for most in (1 << 26, 1000):
        small = copy.deepcopy(raw)
        monkeypatch.setattr("tensorchain.compression.torch_targets._HELD", most)
        refit_network(small, net, data, positions=20)
        with torch.no_grad():
            results.append(small(data))
    assert torch.allclose(*results, atol=1e-4)


def test_gains_are_what_noise_in_a_layer_does_to_the_outputs():
    """To first order, measured with noise of each channel's variance."""
    net, data = made(), images(64)
    names = ("conv1", "conv2", "conv3", "fc")
    gains = gains_of(net, [s for s in sites_of(net, data[:1]) if s.name in names], lambda: iter(data.split(32)))
    effects = {}
    with torch.no_grad():
        clean = net(data)
        for name in names:
            total = 0.0
            for draw in range(12):
                generator = torch.Generator().manual_seed(draw)

                def noisy(_, __, y, generator=generator):
                    axes = (0, *range(2, y.ndim))
                    scale = y.var(axes, correction=0).sqrt().reshape(1, -1, *[1] * (y.ndim - 2))
                    return y + 1e-3 * scale * torch.randn(y.shape, generator=generator)

                hook = net.get_submodule(name).register_forward_hook(noisy)
                change = (net(data) - clean) / clean.std(0, correction=0)
                total += float(change.square().sum())
                hook.remove()
            effects[name] = total
    ratios = np.array([gains[name] ** 2 / effects[name] for name in names])
    assert ratios.max() < 1.6 * ratios.min()
    assert max(effects.values()) > 3.0 * min(effects.values())


def test_gains_do_not_depend_on_the_units_of_the_outputs():
    """A detector has coordinates in pixels beside scores; a channel that does not vary says nothing."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 1)]
    net = nn.Sequential(*layers).eval()
    data, sites = images(32), sites_of(net, images(1))
    found = []
    for units in ([1.0, 1.0, 1.0, 1.0, 0.0], [1e3, 1e-2, 1.0, 5.0, 0.0]):
        scaled = copy.deepcopy(net)
        with torch.no_grad():
            scaled[2].weight.mul_(torch.tensor(units).reshape(-1, 1, 1, 1))
        found.append(gains_of(scaled, sites, lambda: iter(data.split(16))))
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_gains_choose_the_ranks_and_are_left_out_where_there_is_no_gradient():
    net, data = made(), images(32)
    request = Request("tucker2", keep_macs=0.3, refit=True, candidates=4)
    measured = measured_of(net, data[:1], request, lambda: iter(data.split(16)))
    assert measured.gains is not None

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            with torch.no_grad():
                return self.net(x)

    assert measured_of(Fixed(), data[:1], request, lambda: iter(data.split(16))).gains is None
    small = compress(Fixed().eval(), data[:1], "tucker2", keep_macs=0.3, calibration=data, candidates=4)
    assert small.report.macs[1] <= 0.3 * small.report.macs[0]
