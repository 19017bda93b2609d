"""Networks of other people: kinds of layers, of modules and of inputs, and accounts that are true."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.flop_counter import FlopCounterMode

from tensorchain.compression import compress, recalibrate, refit_network, restore
from tensorchain.compression.torch_sites import sites_of

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = {"candidates": 3, "stabilise": False}


def conv(inputs=12, outputs=12, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def checked(net, example, **options):
    """A compressed network whose report says what its parameters are."""
    net.eval()
    small = compress(net, example, "tucker2", **{"keep_macs": 0.5, **OPTIONS, **options})
    report = small.report
    assert report.parameters == tuple(sum(p.numel() for p in n.parameters()) for n in (net, small))
    assert report.macs[1] <= options.get("keep_macs", 0.5) * report.macs[0]
    return small, {layer.name: layer for layer in report.layers}


class Mixed(nn.Module):
    """Layers of other kinds beside convolutions."""

    def __init__(self):
        super().__init__()
        self.line = nn.Conv1d(4, 6, 5, stride=2, padding=2)
        self.up = nn.ConvTranspose2d(6, 12, 2, stride=2)
        self.conv = conv()
        self.grouped = conv(groups=3)
        self.volume = nn.Conv3d(1, 2, 3, padding="same")
        self.norm = nn.LayerNorm(12)
        self.embedding = nn.Embedding(7, 12)
        self.unused = nn.Linear(50, 50)
        self.fc = nn.Linear(12, 12)

    def forward(self, x):
        x = self.line(x)
        x = self.up(x[..., None].expand(-1, -1, -1, x.shape[-1]))
        x = self.grouped(torch.relu(self.conv(x)))
        x = self.volume(x[:, None]).sum(1).mean((2, 3))
        return self.fc(self.norm(x) + self.embedding.weight[0])


def test_every_layer_is_listed_and_counted():
    net, example = Mixed(), torch.randn(2, 4, 10)
    small, layers = checked(net, example, keep_macs=0.9)
    assert layers["volume"].rank == "one channel"
    assert layers["unused"].rank == "not called"
    assert layers["embedding"].rank == "its weight is read by other code"
    assert layers["conv"].method == "tucker2"
    counter = FlopCounterMode(display=False)
    for module, macs in ((net, small.report.macs[0]), (small, small.report.macs[1])):
        with counter, torch.no_grad():
            module(example)
        assert counter.get_total_flops() == 2 * len(example) * macs
    assert "unused" in str(small.report)


def test_a_module_under_two_names_is_replaced_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = conv()
            self.again = nn.ModuleList([self.first])

        def forward(self, x):
            return self.again[0](torch.relu(self.first(x)))

    small, layers = checked(Twice(), torch.randn(1, 12, 8, 8))
    assert small.first is small.again[0]
    assert [name for name, layer in layers.items() if layer.method == "tucker2"] == ["first"]
    assert layers["first"].macs[0] == 2 * 12 * 12 * 9 * 64


def test_tied_weights_stay_and_are_counted_once():
    net = nn.Sequential(conv(bias=False), nn.ReLU(), conv(bias=False), conv())
    net[2].weight = net[0].weight
    small, layers = checked(net, torch.randn(1, 12, 8, 8), keep_macs=0.8)
    assert layers["0"].rank == "shares its weight with 2"
    assert layers["3"].method == "tucker2"
    assert small[0].weight is small[2].weight
    assert layers["0"].parameters[0] + layers["2"].parameters[0] == net[0].weight.numel()


@pytest.mark.parametrize("batch_first", [True, False])
def test_layers_whose_weights_other_code_reads_stay(batch_first):
    net = nn.Sequential(
        nn.Linear(16, 32), nn.Linear(32, 16), nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=batch_first)
    ).eval()
    example = torch.randn(3, 5, 16)
    small, layers = checked(net, example, keep_macs=0.9)
    with torch.no_grad():
        assert small(example).shape == (3, 5, 16)
    small.train()(example)
    if batch_first:
        assert layers["2.linear1"].method == "dense"
    assert any(layer.method == "svd" for layer in layers.values())


def test_a_layer_that_is_reached_into_is_found_by_the_example():
    class Sneaky(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv()

        def forward(self, x):
            return self.conv(x) / self.conv.out_channels

    net = Sneaky()
    with pytest.raises(RuntimeError, match="keep="):
        compress(net, torch.randn(1, 12, 8, 8), "tucker2", keep_macs=0.5, **OPTIONS)


@pytest.mark.parametrize("layer", [conv(8, 8), nn.Linear(32, 32)])
def test_a_bare_layer_is_replaced(layer):
    example = torch.randn(2, 8, 6, 6) if isinstance(layer, nn.Conv2d) else torch.randn(2, 32)
    small, layers = checked(layer, example)
    assert list(layers) == [""]
    assert isinstance(small, nn.Sequential)
    data = torch.randn(64, *example.shape[1:])
    with torch.no_grad():
        before = (small(data) - layer(data)).norm()
        refit_network(small, layer, data)
        assert (small(data) - layer(data)).norm() < before


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = conv(), conv()

    def forward(self, images, *, scale, more=None):
        first, (second, _) = images
        return self.left(input=first) * scale + self.right(second)


def test_inputs_by_name_and_nested():
    net = Named().eval()
    inputs = {"images": (torch.randn(2, 12, 8, 8), [torch.randn(2, 12, 8, 8), None]), "scale": 2.0}
    small, layers = checked(net, inputs, calibration=[inputs] * 3)
    assert {layer.method for layer in layers.values()} == {"tucker2"}
    with torch.no_grad():
        assert small(**inputs).shape == (2, 12, 8, 8)


def test_several_positional_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv()

        def forward(self, x, y):
            return self.conv(x + y)

    pair = torch.randn(2, 12, 8, 8), torch.randn(2, 12, 8, 8)
    small, _ = checked(Two(), pair, calibration=[(pair, None)] * 2)
    assert small(*pair).shape == (2, 12, 8, 8)


def weight_normed():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(conv())


def pruned():
    layer = conv()
    prune.l1_unstructured(layer, "weight", amount=0.3)
    return layer


@pytest.mark.parametrize("make", [weight_normed, pruned, lambda: parametrizations.weight_norm(conv())])
def test_computed_weights_are_replaced_by_what_they_are(make):
    net = nn.Sequential(make(), nn.ReLU(), make())
    example = torch.randn(2, 12, 8, 8)
    expected = net(example)
    before = copy.deepcopy({name: value.detach() for name, value in net.state_dict().items()})
    small = compress(net.eval(), example, "tucker2", keep_macs=0.4, calibration=torch.randn(64, 12, 8, 8), **OPTIONS)
    layers = {layer.name: layer for layer in small.report.layers}
    assert layers["2"].method == "tucker2"
    assert isinstance(small[2], nn.Sequential)
    assert torch.equal(net(example), expected)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    assert small.report.parameters[1] == sum(p.numel() for p in small.parameters())


def test_what_was_frozen_stays_frozen():
    net = nn.Sequential(conv(), nn.BatchNorm2d(12), conv(), nn.BatchNorm2d(12))
    for module in net[:2]:
        module.requires_grad_(False)
    example = torch.randn(8, 12, 8, 8)
    small, layers = checked(net, example)
    assert layers["0"].method == layers["2"].method == "tucker2"
    assert [any(p.requires_grad for p in small[k].parameters()) for k in range(4)] == [False, False, True, True]
    frozen, free = small[1].running_mean.clone(), small[3].running_mean.clone()
    recalibrate(small, [example + 3.0])
    assert torch.equal(small[1].running_mean, frozen)
    assert not torch.equal(small[3].running_mean, free)


def test_data_parallel():
    net, example = nn.DataParallel(nn.Sequential(conv(), nn.ReLU(), conv())), torch.randn(4, 12, 8, 8)
    small, layers = checked(net, example, calibration=torch.randn(16, 12, 8, 8))
    assert isinstance(small, nn.DataParallel)
    assert "module.0" in layers


def test_looking_leaves_no_trace():
    net, example = Mixed().eval(), torch.randn(2, 4, 10)
    kinds = [type(module) for module in net.modules()]
    sites = sites_of(net, example)
    assert [type(module) for module in net.modules()] == kinds
    assert [site.name for site in sites[:4]] == ["line", "up", "conv", "grouped"]
    with pytest.raises(RuntimeError):
        sites_of(net, torch.randn(2, 5, 10))
    assert [type(module) for module in net.modules()] == kinds


def test_labels_that_are_no_classes_need_a_loss():
    net = nn.Sequential(conv(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.randn(16, 12, 8, 8)
    with pytest.raises(TypeError, match="loss="):
        restore(net, [(images, torch.randn(16, 12))], epochs=1)
    history = restore(net, [(images, torch.randn(16, 12))], epochs=2, loss=nn.functional.mse_loss)
    assert len(history) == 2
    assert len(restore(net, [(images, torch.randn(16, 12).softmax(1))], epochs=1)) == 1


def test_the_sensitivity_in_one_of_several_steps_holds_it_as_well():
    data = [(torch.randn(16, 12, 8, 8), torch.randint(0, 12, (16,))) for _ in range(8)]
    net = nn.Sequential(conv(), nn.ReLU(), conv(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    ends = {}
    for every in (1, 4):
        for weight in (0.0, 10.0):
            small = compress(net, data[0][0], "tc", keep_macs=0.4, **OPTIONS)
            options = {"epochs": 3, "rate": 0.003, "momentum": 0.0, "decay": 0.0}
            ends[every, weight] = restore(small, data, every=every, sensitivity=weight, **options)[-1].sensitivity
    assert ends[1, 10.0] < 0.97 * ends[1, 0.0]
    assert ends[4, 10.0] < 0.97 * ends[4, 0.0]
    assert ends[4, 10.0] == pytest.approx(ends[1, 10.0], rel=0.1)


def test_normalisations_that_are_frozen_keep_their_statistics_in_training():
    net = nn.Sequential(conv(), nn.BatchNorm2d(12), conv(), nn.BatchNorm2d(12), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net[1].requires_grad_(False)
    frozen, free = net[1].running_mean.clone(), net[3].running_mean.clone()
    restore(net, [(torch.randn(8, 12, 8, 8) + 1.0, torch.randint(0, 12, (8,)))] * 2, epochs=2)
    assert torch.equal(net[1].running_mean, frozen)
    assert not torch.equal(net[3].running_mean, free)


def test_a_budget_that_is_not_used_is_said():
    net = nn.Sequential(conv(), nn.ReLU(), conv())
    small, _ = checked(net, torch.randn(1, 12, 8, 8), keep_macs=0.99, candidates=2, keep=("2",))
    used = small.report.macs[1] / small.report.macs[0]
    assert f"0.99 was asked for, {used:.3f} is used" in small.report.unused
    assert small.report.unused in str(small.report)


def test_the_default_takes_the_best_method_for_each_layer():
    net = nn.Sequential(conv(), nn.ReLU(), conv()).eval()
    example = torch.randn(1, 12, 8, 8)
    options = {"keep_macs": 0.4, "candidates": 4, "stabilise": False, "max_seconds": 2.0}
    best = compress(net, example, **options).report
    one = compress(net, example, "tucker2", **options).report
    assert best.allocation.error <= one.allocation.error
    assert len({point.method for points in best.curves for point in points}) > 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_restoration_computes_outputs_in_another_type(dtype):
    seen = []

    class Seen(nn.Module):
        def forward(self, x):
            seen.append(x.dtype)
            return x

    net = nn.Sequential(conv(), nn.ReLU(), conv(), Seen(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    small = compress(net, torch.randn(2, 12, 8, 8), "tc", keep_macs=0.4, **OPTIONS)
    data = [(torch.randn(16, 12, 8, 8), torch.randint(0, 12, (16,)))] * 2
    seen.clear()
    history = restore(small, data, epochs=1, autocast=dtype, teacher=net)
    assert dtype in seen
    assert {p.dtype for p in small.parameters()} == {torch.float32}
    assert history[0].loss > 0.0
    with pytest.raises(ValueError, match="autocast"):
        restore(small, data, epochs=1, autocast=torch.int8)


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.Conv3d])
def test_channels_stay_last(kind):
    last = torch.channels_last if kind is nn.Conv2d else torch.channels_last_3d
    net = nn.Sequential(kind(12, 12, 3, padding=1), nn.ReLU(), kind(12, 12, 3, padding=1)).eval()
    net = net.to(memory_format=last)
    sizes = [6] * (2 if kind is nn.Conv2d else 3)
    data = torch.randn(4, 12, *sizes).to(memory_format=last)
    small = compress(net, data[:1], "tucker2", keep_macs=0.5, calibration=data, **OPTIONS)
    spatial = small[0][1].weight
    assert spatial.is_contiguous(memory_format=last)
    assert not spatial.is_contiguous()
    assert torch.allclose(small(data), small(data.contiguous()), atol=1e-5)
