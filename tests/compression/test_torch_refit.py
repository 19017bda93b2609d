"""A compressed network refitted to its original from inputs without labels."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tensorchain.compression import compress, refit_network
from tensorchain.compression.torch_inputs import batches_of
from tensorchain.compression.torch_patches import outputs_of, rows_of
from tensorchain.compression.torch_sites import sites_of
from tests.cases import mostly_slow

pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    """Convolutions of several kinds, a normalisation, a layer that is used twice, and a classifier."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.twice = nn.Conv2d(12, 12, (3, 1), padding="same", padding_mode="circular")
        self.point = nn.Conv2d(12, 16, 1, stride=2)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(x + self.twice(torch.relu(self.twice(x))))
        return self.fc(torch.relu(self.depthwise(self.point(x))).mean((2, 3)))


def images(count=96, seed=0):
    """Smooth images: their patches are far from white."""
    noise = torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return nn.functional.avg_pool2d(nn.functional.pad(noise, (1, 1, 1, 1)), 3, 1) * 2.0


def trained():
    torch.manual_seed(1)
    net = Net()
    net(images()), net.eval()  # the normalisation sees the images
    return net


def gap(net, small, x):
    with torch.no_grad():
        y = net(x)
        return float((y - small(x)).norm() / (y - y.mean(0)).norm())


@pytest.mark.parametrize(
    ("method", "form"),
    mostly_slow([("tc", "fold"), *((m, "grouped") for m in ("tc", "cp3", "tucker2", "cp4", "tucker-cp", "btd"))], 4),
)
def test_outputs_come_nearer_on_images_that_were_not_seen(method, form):
    net, fresh = trained(), images(seed=5)
    options = {"keep_macs": 0.6, "stabilise": False, "candidates": 4, "form": form}
    small = compress(net, images(2), method, calibration=images(), refit=False, **options)
    better = compress(net, images(2), method, calibration=images(), **options)
    assert gap(net, better, fresh) < 0.95 * gap(net, small, fresh)
    assert better.report.macs[1] <= 0.6 * better.report.macs[0]
    assert better.report.parameters[1] == sum(p.numel() for p in better.parameters())
    changed = [layer for layer in better.report.layers if layer.method != "dense"]
    assert changed
    assert all(0.0 <= layer.output_error < 1.0 for layer in changed)


def test_what_is_reported_is_the_error_that_the_images_see():
    net, data = trained(), images()
    small = compress(net, data[:2], "tucker2", keep_macs=0.9, keep=("twice", "point"), calibration=data, candidates=4)
    name = "conv1"
    layer = next(layer for layer in small.report.layers if layer.name == name)
    assert layer.method == "tucker2"
    seen = {}
    for key, module in (("small", small), ("net", net)):
        module.get_submodule(name).register_forward_hook(lambda _, __, y, key=key: seen.setdefault(key, []).append(y))
        with torch.no_grad():
            module(data)
    ours, theirs = (torch.cat(seen[key]).transpose(0, 1).flatten(1) for key in ("small", "net"))
    spread = (theirs - theirs.mean(1, keepdim=True)).norm()
    assert layer.output_error == pytest.approx(float((ours - theirs).norm() / spread), rel=1e-3)


def test_a_network_that_is_exact_stays():
    net, data = trained(), images()
    twin = copy.deepcopy(net)
    refit_network(twin, net, data)
    assert gap(net, twin, data) < 1e-4


def test_layers_that_stay_repair_what_was_changed_before_them():
    net, data = trained(), images()
    small = compress(net, data[:2], "tucker2", keep_macs=0.5, keep=("fc", "point"), candidates=4)
    with_them, without = copy.deepcopy(small), copy.deepcopy(small)
    refit_network(with_them, net, data)
    refit_network(without, net, data, dense=False)
    assert torch.equal(without.fc.weight, net.fc.weight)
    assert not torch.equal(with_them.fc.weight, net.fc.weight)
    assert not torch.equal(with_them.depthwise.weight, net.depthwise.weight)
    assert gap(net, with_them, images(seed=3)) < gap(net, without, images(seed=3))


def test_frozen_layers_and_weights_on_a_grid_stay():
    net, data = trained(), images()
    for parameter in net.fc.parameters():
        parameter.requires_grad_(False)
    small = compress(net, data[:2], "tucker2", keep_macs=0.5, keep=("fc",), candidates=4, calibration=data)
    assert torch.equal(small.fc.weight, net.fc.weight)
    rounded = compress(net, data[:2], "tucker2", keep_macs=0.5, candidates=4, weight_bits=4, calibration=data)
    name = next(layer.name for layer in rounded.report.layers if layer.bits is not None)
    before = [p.clone() for p in rounded.get_submodule(name).parameters()]
    refit_network(rounded, net, data)
    assert all(torch.equal(a, b) for a, b in zip(before, rounded.get_submodule(name).parameters(), strict=True))


def test_modes_hooks_and_original_are_left_as_they_were():
    net, data = trained(), images()
    small = compress(net, data[:2], "tucker2", keep_macs=0.5, candidates=4).train()
    before = copy.deepcopy(net.state_dict())
    names = []
    refit_network(small, net.train(), data, callback=lambda name, start, end: names.append((name, end <= start + 1e-6)))
    assert small.training
    assert net.training
    assert [name for name, _ in names] == ["conv1", "twice", "point", "depthwise", "fc"]
    assert all(better for _, better in names)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for both in (net, small) for m in both.modules())


def test_batches_do_not_matter_where_all_positions_are_used():
    net, data = trained(), images(64)
    small = [compress(net, data[:2], "tc", keep_macs=0.5, candidates=3, stabilise=False) for _ in range(2)]
    refit_network(small[0], net, data)
    refit_network(small[1], net, lambda: [(part, None) for part in data.split(7)])
    for a, b in zip(small[0].parameters(), small[1].parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_rows_are_the_patches_and_their_outputs(monkeypatch):
    net, data = trained(), images(5)
    conv = net.twice
    site = next(site for site in sites_of(net, data) if site.name == "twice")
    x = torch.randn(5, 12, 6, 6)
    y = conv(x).detach()
    monkeypatch.setattr("tensorchain.compression.torch_patches._NUMBERS", 500)
    for positions, count in ((None, 5 * 36), (7, 5 * 7)):
        pieces = list(rows_of(conv, site, x, positions=positions, rng=np.random.default_rng(0)))
        targets = outputs_of(conv, site, y, positions=positions, rng=np.random.default_rng(0))[0]
        assert len(pieces) > 1
        rows = torch.cat(pieces, 1)[0]
        assert len(rows) == count
        expected = rows @ conv.weight.flatten(1).T + conv.bias
        assert torch.allclose(expected, targets, atol=1e-5)


def test_originals_outputs_that_do_not_fit_in_memory_together_are_taken_in_turn(monkeypatch):
    net, data = trained(), images(64)
    small = [compress(net, data[:2], "cp3", keep_macs=0.5, candidates=3, stabilise=False) for _ in range(2)]
    refit_network(small[0], net, data, rounds=2)
    monkeypatch.setattr("tensorchain.compression.torch_refit._GOALS", 1)
    refit_network(small[1], net, data, rounds=2)
    for a, b in zip(small[0].parameters(), small[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_kinds_of_calibration():
    data = images(130)
    assert [len(part) for part in batches_of(data)()] == [64, 64, 2]
    for given in (list(data.split(50)), lambda: data.split(50), iter(list(data.split(50)))):
        passes = batches_of(given)
        assert [len(part) for part in passes()] == [len(part) for part in passes()] == [50, 50, 30]
    with pytest.raises(TypeError, match="a loader"):
        batches_of(3)
    with pytest.raises(ValueError, match="no batch"):
        list(batches_of([])())
    net = trained()
    with pytest.raises(ValueError, match="needs calibration"):
        compress(net, data[:1], keep_macs=0.5, refit=True)
    with pytest.raises(ValueError, match="positive"):
        refit_network(net, net, data, rounds=0)


def test_loaders_that_shuffle_give_pairs_of_equal_images():
    net, data = trained(), images(96)
    small = [compress(net, data[:2], "cp3", keep_macs=0.5, candidates=3, stabilise=False) for _ in range(2)]
    refit_network(small[0], net, list(data.split(32)))
    loader = torch.utils.data.DataLoader(data, 32, shuffle=True)
    refit_network(small[1], net, loader)
    gaps = [gap(net, one, images(seed=3)) for one in small]
    assert gaps[1] == pytest.approx(gaps[0], rel=0.1)


def test_single_vectors_and_sequences_are_refitted():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 20), nn.Tanh(), nn.Linear(20, 16)).eval()
    for shape in ((16,), (5, 16), (3, 5, 16)):
        data = [torch.randn(*shape) for _ in range(60)]
        small = compress(net, data[0], keep_macs=0.6, candidates=4)
        before = sum(float((small(x) - net(x)).detach().norm()) for x in data)
        refit_network(small, net, data)
        assert sum(float((small(x) - net(x)).detach().norm()) for x in data) < before
