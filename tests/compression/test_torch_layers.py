"""Lines, volumes, groups and transposed convolutions of PyTorch: against PyTorch itself with the composed kernel."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from tensorchain.compression import compress, fit_kernel, module_of, quantize, refit_network, restore  # noqa: E402
from tensorchain.compression.groups import groups_of, joined, kernel_of, split  # noqa: E402
from tensorchain.compression.refit import Moments  # noqa: E402
from tensorchain.compression.torch_layers import plan_of_module, stored_weight, weight_of  # noqa: E402
from tensorchain.compression.torch_patches import add_rows, outputs_of, patch_covariances, rows_of  # noqa: E402
from tensorchain.compression.torch_sensitivity import sensitivity_of  # noqa: E402
from tensorchain.compression.torch_sites import sites_of  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
]

LAYERS = {
    "line": (lambda: nn.Conv1d(6, 8, 5, stride=2, padding=3, dilation=2), (20,)),
    "line, same": (lambda: nn.Conv1d(6, 8, 4, padding="same", padding_mode="zeros"), (11,)),
    "line, circular": (lambda: nn.Conv1d(6, 8, 3, padding=1, padding_mode="circular"), (11,)),
    "image in groups": (lambda: nn.Conv2d(12, 8, (3, 2), stride=(1, 2), padding=1, groups=2), (7, 6)),
    "line in groups": (lambda: nn.Conv1d(12, 18, 3, padding=1, groups=3), (9,)),
    "volume": (lambda: nn.Conv3d(6, 8, (3, 2, 3), (1, 2, 1), (1, 0, 1), bias=False), (4, 5, 6)),
    "volume in groups": (lambda: nn.Conv3d(8, 8, (3, 1, 2), padding=(1, 0, 0), groups=2), (4, 3, 5)),
    "up": (lambda: nn.ConvTranspose2d(6, 8, 2, stride=2), (5, 4)),
    "up, uneven": (
        lambda: nn.ConvTranspose2d(6, 8, (3, 4), (2, 3), (1, 0), output_padding=(1, 2), dilation=(2, 1)), (5, 4),
    ),
    "up in groups": (lambda: nn.ConvTranspose2d(8, 12, 3, 2, 1, groups=2, bias=False), (5, 4)),
    "up, line": (lambda: nn.ConvTranspose1d(6, 8, 4, 2, 1), (7,)),
    "up, volume": (lambda: nn.ConvTranspose3d(6, 8, 2, 2), (3, 2, 3)),
    "up, a point": (lambda: nn.ConvTranspose2d(6, 8, 1, 2, output_padding=1), (5, 4)),
}  # fmt: skip
RANKS = {"cp3": 3, "cp4": 3, "tucker2": (2, 3), "tucker-cp": (2, 2, 3), "btd": [(1, 2), (1, 2)], "tc": (2, 1, 2)}


def layer_of(name):
    torch.manual_seed(0)
    make, size = LAYERS[name]
    layer = make().double()
    return layer, torch.randn(3, layer.in_channels, *size, dtype=torch.float64)


def site_of(layer, inputs):
    (site,) = sites_of(nn.Sequential(layer), inputs)
    return site


@pytest.mark.parametrize("name", LAYERS)
def test_a_kernel_is_stored_as_it_was_read(name):
    layer, _ = layer_of(name)
    assert np.array_equal(stored_weight(weight_of(layer), layer), layer.weight.detach().numpy())


@pytest.mark.parametrize("name", LAYERS)
def test_plans_are_the_layer_with_the_composed_kernel(name):
    layer, inputs = layer_of(name)
    site = site_of(layer, inputs)
    bias = None if layer.bias is None else layer.bias.detach().numpy()
    lines = 1 in site.kernel.shape[2:3]
    point = site.pointwise
    for method, rank in {"svd": 2}.items() if point else RANKS.items():
        if method == "cp4" and lines:
            continue
        fits = [
            fit_kernel(part, method, rank, geometry=site.geometry, bias=own, stabilise=False, rng=0).plan
            for part, own in zip(
                site.parts, [None] * site.groups if bias is None else np.split(bias, site.groups), strict=True
            )
        ]
        plan = joined(fits)
        module = module_of(plan, layer)
        twin = copy.deepcopy(layer)
        with torch.no_grad():
            twin.weight.copy_(torch.from_numpy(stored_weight(kernel_of(plan, site.groups), layer)))
            expected = twin(inputs)
            assert torch.allclose(module(inputs), expected, atol=1e-12 * float(expected.abs().max()))
        # The slow definition, and the way back from the modules.
        values = inputs.numpy() if inputs.ndim > 3 else inputs.numpy()[:, :, None]
        if "circular" not in name:
            assert np.allclose(plan.apply(values).reshape(expected.shape), expected.numpy(), atol=1e-12)
        again = plan_of_module(module, plan.method, plan.rank)
        assert again.geometry == plan.geometry == site.geometry
        assert np.allclose(kernel_of(again, groups_of(again)), kernel_of(plan, site.groups))
        assert float(sensitivity_of(module).detach()) == pytest.approx(plan.sensitivity(), rel=1e-9)
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            module(inputs)
        assert counter.get_total_flops() == 2 * len(inputs) * plan.macs(site.image)
        assert sum(p.numel() for p in module.parameters()) == plan.parameters


@pytest.mark.parametrize("name", LAYERS)
def test_patches_give_the_outputs(name, monkeypatch):
    layer, inputs = layer_of(name)
    site = site_of(layer, inputs)
    outputs = layer(inputs).detach()
    shift = 0.0 if layer.bias is None else layer.bias.detach().reshape(site.groups, 1, -1)
    monkeypatch.setattr("tensorchain.compression.torch_patches._NUMBERS", 1000)
    kernels = torch.from_numpy(site.parts).flatten(2)
    for positions in (None, 5):
        pieces = rows_of(layer, site, inputs, positions=positions, rng=np.random.default_rng(0))
        goals = outputs_of(layer, site, outputs, positions=positions, rng=np.random.default_rng(0))
        rows = torch.cat(list(pieces), 1)
        assert rows.shape[1] == 3 * min(positions or 10_000, outputs[0, 0].numel())
        assert torch.allclose(rows @ kernels.transpose(1, 2) + shift, goals, atol=1e-12)
    # The error of the output by second moments is that of the outputs.
    (covariances,) = patch_covariances(nn.Sequential(layer), [site], lambda: iter([inputs])).values()
    change = np.random.default_rng(1).standard_normal(site.kernel.shape)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.weight.add_(torch.from_numpy(stored_weight(change, layer)))
        moved = (twin(inputs) - outputs).square().sum(1).mean()
    parts = change.reshape(site.parts.shape)
    energy = sum(covariance.energy(part) for covariance, part in zip(covariances, parts, strict=True))
    assert energy == pytest.approx(float(moved), rel=1e-9)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "line, circular"])
def test_layers_are_found_counted_and_replaced(name):
    layer, inputs = layer_of(name)
    net = nn.Sequential(layer, nn.Tanh()).eval()
    method = "tucker2" if "groups" in name else "cp3"
    small = compress(net, inputs, method, keep_macs=0.8, candidates=4, stabilise=False)
    (entry,) = small.report.layers
    assert entry.method in (method, "svd")
    assert small.report.parameters == tuple(sum(p.numel() for p in n.parameters()) for n in (net, small))
    for model, macs in ((net, small.report.macs[0]), (small, small.report.macs[1])):
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            model(inputs)
        assert counter.get_total_flops() == 2 * len(inputs) * macs
    plan = plan_of_module(small[0], entry.method, entry.rank)
    kernel = weight_of(layer)
    groups = getattr(layer, "groups", 1)
    error = np.linalg.norm(kernel_of(plan, groups) - kernel) / np.linalg.norm(kernel)
    assert entry.error == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_a_refit_lowers_the_error_of_the_outputs_to_what_is_reported(name):
    layer, _ = layer_of(name)
    _, size = LAYERS[name]
    data = torch.randn(40, layer.in_channels, *size, dtype=torch.float64).cumsum(-1)
    net = nn.Sequential(layer).eval()
    small = compress(net, data[:1], "tucker2", keep_macs=0.8, candidates=4, stabilise=False)
    with torch.no_grad():
        wanted = net(data)
        before = float((small(data) - wanted).norm())
        refit_network(small, net, data, positions=10_000)
        after = float((small(data) - wanted).norm())
    assert after < before
    mean = wanted.transpose(0, 1).flatten(1).mean(1)
    spread = (wanted - mean.reshape(-1, *[1] * len(size))).norm()
    assert small.report.layers[0].output_error == pytest.approx(after / float(spread), rel=1e-3)


def test_groups_are_fitted_one_by_one():
    rng = np.random.default_rng(0)
    kernels = rng.standard_normal((3, 5, 4, 3, 3))
    fits = [fit_kernel(kernel, "btd", [(2, 2), (2, 2)], stabilise=False, rng=0) for kernel in kernels]
    plan = joined([fit.plan for fit in fits])
    assert groups_of(plan) == 3
    for part, fit in zip(split(plan, 3), fits, strict=True):
        assert np.allclose(part.kernel, fit.plan.kernel)
    with pytest.raises(ValueError, match="is not in 2 groups"):
        split(plan, 2)


def test_networks_of_other_kinds_go_all_the_way():
    class Video(nn.Module):
        """Volumes, lines and groups, and a way up."""

        def __init__(self):
            super().__init__()
            self.stem = nn.Conv3d(3, 8, (3, 3, 3), padding=1)
            self.norm = nn.BatchNorm3d(8)
            self.mix = nn.Conv3d(8, 12, (1, 3, 3), padding=(0, 1, 1), groups=2)
            self.line = nn.Conv1d(12, 12, 3, padding=1)
            self.up = nn.ConvTranspose1d(12, 6, 2, 2)
            self.head = nn.Linear(6, 4)

        def forward(self, x):
            x = torch.relu(self.mix(torch.relu(self.norm(self.stem(x)))))
            x = self.up(torch.tanh(self.line(x.mean((3, 4)))))
            return self.head(x.mean(2))

    torch.manual_seed(0)
    net, data = Video().eval(), torch.randn(24, 3, 4, 6, 6)
    small = compress(net, data[:1], "cp3", keep_macs=0.5, candidates=4, stabilise=False, calibration=data)
    methods = {layer.name: layer.method for layer in small.report.layers}
    assert methods["stem"] == "cp3"
    assert set(methods) == {"stem", "mix", "line", "up", "head"}
    labels = torch.randint(0, 4, (24,))
    history = restore(small, [(data, labels)] * 2, epochs=1)
    assert np.isfinite(history[-1].loss)


def test_moments_of_groups_are_those_of_their_own_channels():
    layer, inputs = layer_of("image in groups")
    site = site_of(layer, inputs)
    moments = [Moments(part[0].size, len(part)) for part in site.parts]
    goals = outputs_of(layer, site, layer(inputs).detach())
    for own, row, goal in zip(moments, torch.cat(list(rows_of(layer, site, inputs)), 1), goals, strict=True):
        add_rows(own, row, goal)
    for own, part in zip(moments, site.parts, strict=True):
        assert own.relative_error(part.reshape(len(part), -1)) < 1e-7


def test_a_layer_that_is_told_its_output_size_stays():
    class Sized(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.conv = nn.ConvTranspose2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3)

        def forward(self, x):
            return self.conv(self.up(x, output_size=[12, 12]))

    small = compress(Sized().eval(), torch.randn(1, 8, 6, 6), "cp3", keep_macs=0.9, candidates=4)
    assert {layer.name: layer.rank for layer in small.report.layers}["up"] == "called with more than its input"


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_is_counted(batch_first):
    net = nn.Sequential(nn.Linear(16, 16), nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=batch_first)).eval()
    sites = {site.name: site for site in sites_of(net, torch.randn(3, 5, 16))}
    rows, (samples, steps) = 5, (3, 5) if batch_first else (5, 3)
    # Of queries with keys, and of weights with values, for each of 3 along the first axis.
    attention = 2 * samples * steps * steps * 16 // 3
    assert sites["0"].macs == rows * 256
    assert sites["1.self_attn"].macs == 3 * rows * 256 + attention
    assert sites["1.self_attn.out_proj"].macs == rows * 256
    assert sites["1.linear1"].macs == sites["1.linear2"].macs == rows * 512


def test_images_folded_into_the_batch_are_counted():
    class Frames(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 8, 3)

        def forward(self, x):
            return self.conv(x.flatten(0, 1))

    (site,) = sites_of(Frames(), torch.randn(2, 7, 4, 6, 6))
    assert site.macs == 7 * 4 * 8 * 9 * 16


@pytest.mark.parametrize("name", ["line", "up", "volume", "up in groups"])
def test_weights_of_all_kinds_are_rounded_channel_by_channel(name):
    layer, inputs = layer_of(name)
    rounded = quantize(nn.Sequential(layer), [inputs], weight_bits=3, activation_bits=None)
    weight = rounded[0].weight.detach()
    channels = weight.transpose(0, 1) if layer.transposed else weight
    assert all(len(torch.unique(channel)) <= 7 for channel in channels)
    assert len(torch.unique(weight)) > 7
