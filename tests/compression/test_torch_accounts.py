"""Multiplications of networks of other people, counted again from the outputs of their layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tensorchain.compression import compress, output_error, recalibrate
from tensorchain.compression.torch_inputs import call
from tensorchain.compression.torch_sites import sites_of

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = {"candidates": 3, "stabilise": False, "max_seconds": 1.0}


def counted(net, example):
    """Multiplications of every convolution and linear layer that is called, by name, from its outputs."""
    found, hooks = {}, []

    def see(module, inputs, output, name):
        if isinstance(module, nn.Linear):
            count = output.numel() * module.in_features
        elif module.transposed:
            count = inputs[0].numel() * module.weight[0].numel()
        else:
            count = output.numel() * module.weight[0].numel()
        found[name] = found.get(name, 0) + count

    kinds = nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
    for name, module in net.named_modules():
        if isinstance(module, kinds):
            hooks.append(module.register_forward_hook(lambda *given, name=name: see(*given, name)))
    with torch.no_grad():
        call(net, example)
    for hook in hooks:
        hook.remove()
    return found


class Inverted(nn.Module):
    """A block of MobileNetV3."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        wide = 3 * inputs
        self.expand = nn.Sequential(nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.Hardswish())
        self.depth = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, 4, 1), nn.ReLU(), nn.Conv2d(4, wide, 1), nn.Hardsigmoid()
        )
        self.project = nn.Conv2d(wide, outputs, 1, bias=False)

    def forward(self, x):
        x = self.depth(self.expand(x))
        return self.project(x * self.squeeze(x))


class UNet(nn.Module):
    """Down, up by a transposed convolution, and both side by side; a dictionary comes out."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")
        self.deep = nn.Conv2d(8, 12, 3, padding=1)
        self.up = nn.ConvTranspose2d(12, 8, 4, 2, 1)
        self.out = nn.ModuleDict({"mask": nn.Conv2d(16, 2, 1), "edge": nn.Conv2d(16, 1, 3, padding=1)})

    def forward(self, x):
        first = functional.silu(self.down(x))
        second = self.up(torch.relu(self.deep(functional.max_pool2d(first, 2))))
        both = torch.cat([first, second], 1)
        return {name: [layer(both)] for name, layer in self.out.items()}


class Audio(nn.Module):
    """Lines, dilated and in groups, then frames in the batch."""

    def __init__(self):
        super().__init__()
        self.lines = nn.Sequential(
            nn.Conv1d(2, 8, 9, 3, 4), nn.ReLU(), nn.Conv1d(8, 12, 3, padding=2, dilation=2, groups=2)
        )
        self.up = nn.ConvTranspose1d(12, 6, 4, 2, 1)
        self.frames = nn.Linear(6, 9)

    def forward(self, x):
        x = self.up(self.lines(x)).transpose(1, 2)
        return self.frames(x.reshape(-1, x.shape[-1])).reshape(len(x), -1, 9).mean(1)


class Pyramid(nn.Module):
    """One head at two sizes."""

    def __init__(self):
        super().__init__()
        self.first, self.head, self.score = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x):
        levels = [self.first(x), functional.avg_pool2d(self.first(x), 2)]
        return [self.score(self.head(level).flatten(2).transpose(1, 2)) for level in levels]


NETWORKS = {
    "mobile": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), Inverted(6, 8, 2), Inverted(8, 8, 1)), (3, 17, 15)),
    "unet": (UNet, (3, 12, 16)),
    "audio": (Audio, (2, 41)),
    "volume": (
        lambda: nn.Sequential(nn.Conv3d(2, 6, (1, 3, 3), (1, 2, 1)), nn.ReLU(), nn.ConvTranspose3d(6, 8, 2, 2)),
        (2, 4, 7, 6),
    ),
    "pyramid": (Pyramid, (3, 12, 10)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("samples", [1, 3])
def test_the_report_counts_what_the_layers_do(name, samples):
    make, shape = NETWORKS[name]
    net, example = make().eval(), torch.randn(samples, *shape)
    small = compress(net, example, "tucker2", keep_macs=0.8, **OPTIONS)
    counts = [counted(one, example) for one in (net, small)]
    names = [layer.name for layer in small.report.layers]
    assert len(set(names)) == len(names)
    for layer in small.report.layers:
        parts = [
            sum(count for key, count in found.items() if key == layer.name or key.startswith(f"{layer.name}."))
            for found in counts
        ]
        assert parts == [samples * count for count in layer.macs], layer.name
    assert [sum(found.values()) for found in counts] == [samples * count for count in small.report.macs]
    assert small.report.parameters == tuple(sum(p.numel() for p in one.parameters()) for one in (net, small))


class Attention(nn.Module):
    """Attention by hand, positions in a table, and a head that reads the embedding."""

    def __init__(self, fused):
        super().__init__()
        self.words, self.places = nn.Embedding(11, 8), nn.Parameter(torch.randn(1, 6, 8))
        self.qkv, self.fused = nn.Linear(8, 24), fused

    def forward(self, x):
        x = self.words(x) + self.places
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        if self.fused:
            x = functional.scaled_dot_product_attention(q, k, v)
        else:
            x = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
        return functional.linear(x.transpose(1, 2).flatten(2), self.words.weight)


@pytest.mark.parametrize("fused", [False, True])
def test_products_outside_of_layers_are_counted(fused):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Attention(fused)

        def forward(self, x):
            return self.inner(x)

    sites = {site.name: site for site in sites_of(Whole().eval(), torch.randint(0, 11, (3, 6)))}
    assert sites["inner.qkv"].macs == 6 * 8 * 24
    assert sites["inner.words"].macs == 6 * 8 * 11
    # A table of positions multiplies nothing; the products of the module that holds it are its own.
    assert sites["inner"].parameters == 48
    assert sites["inner"].macs == 2 * 6 * 6 * 8


def test_products_of_a_module_without_weights_have_a_line():
    class Gram(nn.Module):
        def forward(self, x):
            return x.flatten(2) @ x.flatten(2).transpose(1, 2)

    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Sequential(Gram())).eval()
    small = compress(net, torch.randn(2, 4, 6, 6), "tucker2", keep_macs=0.9, **OPTIONS)
    layers = {layer.name: layer for layer in small.report.layers}
    assert layers["1.0"].rank == "products without weights"
    assert layers["1.0"].macs == (8 * 8 * 16, 8 * 8 * 16)


def test_attention_to_something_else_counts_its_own_length():
    net = nn.MultiheadAttention(8, 2, kdim=5, vdim=7, batch_first=True)
    inputs = torch.randn(3, 4, 8), torch.randn(3, 9, 5), torch.randn(3, 9, 7)
    sites = {site.name: site for site in sites_of(net.eval(), inputs)}
    assert sites[""].macs == 4 * 8 * 8 + 9 * 5 * 8 + 9 * 7 * 8 + 2 * 4 * 9 * 8
    assert sites["out_proj"].macs == 4 * 8 * 8


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_count_each_step(kind):
    net = kind(6, 5, num_layers=2, bidirectional=True, batch_first=True).eval()
    (site,) = sites_of(net, torch.randn(3, 7, 6))
    assert site.macs == 7 * sum(p.numel() for p in net.parameters() if p.ndim == 2)
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(3, 7, 6), torch.tensor([7, 5, 3]), batch_first=True)
    (site,) = sites_of(net, (packed,))
    # The first tensor of a packed sequence has one row for each step of each sample.
    assert site.macs == sum(p.numel() for p in net.parameters() if p.ndim == 2)


def test_layers_with_hooks_stay():
    seen = []
    net = nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3)).eval()
    net[0].register_forward_hook(lambda *given: seen.append(given[2].shape))
    net[2].register_forward_pre_hook(lambda _, inputs: (2.0 * inputs[0],))
    small = compress(net, torch.randn(1, 6, 9, 9), "tucker2", keep_macs=0.97, **OPTIONS)
    layers = {layer.name: layer for layer in small.report.layers}
    assert layers["0"].rank == layers["2"].rank == "has hooks, which a new layer would not have"
    assert layers["3"].method == "tucker2"
    seen.clear()
    small(torch.randn(1, 6, 9, 9))
    assert len(seen) == 1


def test_a_bias_of_two_layers_is_counted_once_and_not_moved():
    net = nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3)).eval()
    net[2].bias = net[0].bias
    small = compress(
        net, torch.randn(1, 6, 9, 9), "tucker2", keep_macs=0.98, calibration=torch.randn(9, 6, 9, 9), **OPTIONS
    )
    assert {layer.name: layer.rank for layer in small.report.layers}["0"] == "shares its bias with 2"
    assert small[0].bias is small[2].bias
    assert torch.equal(small[0].bias, net[0].bias)
    assert small.report.parameters == tuple(sum(p.numel() for p in one.parameters()) for one in (net, small))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_parts_stay_and_are_counted():
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU()))
    net = nn.Sequential(nn.Conv2d(6, 6, 3), scripted).eval()
    example = torch.randn(2, 6, 9, 9)
    small = compress(net, example, "tucker2", keep_macs=0.9, **OPTIONS)
    layers = {layer.name: layer for layer in small.report.layers}
    assert layers["1.0"].rank == "scripted or traced"
    assert layers["1.0"].macs == (6 * 8 * 9 * 25,) * 2
    assert layers["0"].method == "tucker2"
    with pytest.raises(ValueError, match="scripted or traced"):
        compress(scripted, example, keep_macs=0.9)


def test_a_budget_that_cannot_be_met_is_explained():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.rnn = nn.Conv2d(1, 4, 3, padding=1), nn.GRU(20, 12, batch_first=True)

        def forward(self, x):
            return self.rnn(self.conv(x).permute(0, 3, 1, 2).flatten(2))[0]

    example = torch.randn(2, 1, 5, 7)
    rest = 7 * 12 * 3 * (20 + 12) / (7 * 12 * 3 * 32 + 35 * 9 * 4)
    with pytest.raises(ValueError, match=rf"rnn: a GRU, {rest:.3f}; conv: one channel"):
        compress(Reader().eval(), example, keep_macs=0.5, **OPTIONS)
    with pytest.raises(ValueError, match="nothing to compress"):
        compress(nn.ReLU(), example, keep_macs=0.5)
    with pytest.raises(ValueError, match="no layer multiplies"):
        compress(nn.Embedding(9, 4), torch.zeros(2, 3, dtype=torch.int64), keep_macs=0.5)


def test_a_network_with_state_comes_back_as_it_was():
    class Streaming(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.cache, self.kept = nn.Conv1d(6, 6, 3), {}, None
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
            self.register_buffer("last", torch.zeros(1))

        def forward(self, x):
            self.calls += 1
            self.last = x.mean((0, 1))
            self.cache["y"] = [self.conv(x)]
            return self.cache["y"][0]

    net = Streaming()
    net(torch.randn(2, 6, 9))
    small = compress(net, torch.randn(2, 6, 9), "svd", keep_macs=0.7, calibration=torch.randn(20, 6, 9), **OPTIONS)
    assert isinstance(small.conv, nn.Sequential)
    for one in (net, small):
        assert int(one.calls) == 1
        assert torch.equal(one.last, net.last)
    assert net.cache["y"][0].grad_fn is not None


def test_what_cannot_be_copied_is_named():
    net = nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU())
    net[1].log = open(__file__)  # noqa: SIM115
    with net[1].log, pytest.raises(TypeError, match=r"for its 1\.log"):
        compress(net, torch.randn(1, 6, 9, 9), keep_macs=0.5)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.SyncBatchNorm, nn.InstanceNorm2d])
def test_statistics_are_the_plain_mean_over_batches_and_come_back_after_an_error(kind):
    norm = kind(3, track_running_stats=True)
    net = nn.Sequential(norm).eval()
    data = [torch.randn(4, 3, 5, 5) + k for k in range(3)]
    recalibrate(net, data)
    assert np.allclose(norm.running_mean, torch.stack(data).mean((0, 1, 3, 4)), atol=1e-5)
    before, momentum = norm.running_mean.clone(), norm.momentum
    for broken in ([], [data[0], torch.randn(4)]):
        with pytest.raises((ValueError, RuntimeError)):
            recalibrate(net, broken)
        assert torch.equal(norm.running_mean, before)
        assert (norm.training, norm.momentum) == (False, momentum)


def test_a_network_that_was_compressed_is_compressed_and_refitted_again():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    images = torch.randn(40, 3, 9, 9).cumsum(2)
    first = compress(net, images[:1], "tucker2", keep_macs=0.5, calibration=images, **OPTIONS)
    second = compress(first, images[:1], "tucker2", keep_macs=0.3, calibration=images, **OPTIONS)
    counts = [sum(counted(one, images[:1]).values()) for one in (net, second)]
    assert tuple(counts) == second.report.macs
    assert counts[1] <= 0.3 * counts[0]
    plain = compress(first, images[:1], "tucker2", keep_macs=0.3, **OPTIONS)
    assert output_error(net, second, images) < output_error(net, plain, images)


def test_weights_that_are_no_real_numbers_stay():
    net = nn.Sequential(nn.Linear(8, 8, dtype=torch.complex64), nn.Linear(8, 8, dtype=torch.complex64))
    with pytest.raises(ValueError, match="weight of type complex64"):
        compress(net, torch.randn(2, 8, dtype=torch.complex64), keep_macs=0.5)
    with pytest.raises(ValueError, match="hold no tensor of real numbers"):
        output_error(net, net, torch.randn(2, 8, dtype=torch.complex64))


def test_a_module_that_fails_and_is_caught_leaves_the_count_right():
    class Fallback(nn.Module):
        def __init__(self):
            super().__init__()
            self.never, self.conv = nn.Linear(99, 4), nn.Conv2d(4, 6, 3)

        def forward(self, x):
            try:
                return self.never(x)
            except RuntimeError:
                x = self.conv(x).flatten(2)
                return x @ x.transpose(1, 2)

    sites = {site.name: site for site in sites_of(Fallback().eval(), torch.randn(2, 4, 6, 6))}
    assert (sites["conv"].macs, sites[""].macs) == (4 * 6 * 9 * 16, 6 * 6 * 16)
