"""Compressed networks that are written, and read in a process that has only the original's class."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tensorchain.compression import compress, compress_within, load_network, quantize, restore, save_network

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = {"candidates": 3, "stabilise": False, "max_seconds": 1.0}


class Net(nn.Module):
    """Layers of all kinds, two of them tied, one of them frozen."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding="same", padding_mode="circular")
        self.norm = nn.BatchNorm2d(8)
        self.groups = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=2, bias=False)
        self.up = nn.ConvTranspose2d(12, 6, 3, 2, 1, output_padding=1)
        self.even = nn.Conv2d(6, 6, (2, 4), padding="same", dilation=2)
        self.lines = nn.Conv1d(6, 8, 5)
        self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8)
        self.right.weight = self.left.weight
        self.score = nn.utils.parametrizations.weight_norm(nn.Linear(8, 5))
        self.groups.requires_grad_(False)

    def forward(self, x):
        x = self.even(self.up(self.groups(torch.relu(self.norm(self.first(x))))))
        x = self.lines(x.mean(2)).mean(2)
        return self.score(self.left(x).relu() + self.right(x))


IMAGES = torch.randn(12, 3, 8, 10, generator=torch.Generator().manual_seed(0))


def made(seed):
    torch.manual_seed(seed)
    return Net().eval()


@pytest.mark.parametrize(
    ("method", "form"), [("tc", "fold"), ("tc", "grouped"), ("btd", "grouped"), ("auto", "grouped")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_network_is_read_as_it_was(tmp_path, method, form, dtype):
    net, images = made(0).to(dtype), IMAGES.to(dtype)
    small = compress(net, images[:1], method, keep_macs=0.6, form=form, calibration=images, **OPTIONS)
    restore(small, [(images, torch.arange(12) % 5)], epochs=1, rate=1e-3)
    assert len({layer.method for layer in small.report.layers}) > 1
    save_network(small, tmp_path / "small.safetensors")
    again = load_network(made(1).to(dtype), tmp_path / "small.safetensors")
    assert torch.equal(again(images), small(images))
    assert str(again.report) == str(small.report)
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in small.parameters()]
    assert again.left.weight is again.right.weight
    assert sum(p.numel() for p in again.parameters()) == small.report.parameters[1]
    # What was read can be trained and compressed again as what was written.
    restore(again, [(images, torch.arange(12) % 5)], epochs=1, rate=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == ["small.safetensors"]


def test_the_state_goes_into_a_copy():
    net = made(0)
    small = compress(net, IMAGES[:1], "tucker2", keep_macs=0.6, **OPTIONS)
    again = copy.deepcopy(small)
    restore(small, [(IMAGES, torch.arange(12) % 5)], epochs=1, rate=0.1)
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(IMAGES), small(IMAGES))


def test_files_and_networks_that_do_not_fit_are_refused(tmp_path):
    net, path = made(0), tmp_path / "small.safetensors"
    small = compress(net, IMAGES[:1], "tucker2", keep_macs=0.6, **OPTIONS)
    save_network(small, path)
    with pytest.raises(ValueError, match="of another network"):
        load_network(nn.Sequential(nn.Conv2d(3, 8, 3)), path)
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        load_network(net, tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("no tensors in here")
    with pytest.raises(ValueError, match="no file that save_network wrote"):
        load_network(net, tmp_path / "text")
    with pytest.raises(ValueError, match="has no report"):
        save_network(net, path)
    with pytest.raises(ValueError, match="before quantize"):
        save_network(quantize(small, [IMAGES]), path)


def test_a_bound_on_a_network_of_half_precision():
    net = made(0).bfloat16()
    small = compress_within(
        net, IMAGES[:1].bfloat16(), "tucker2", calibration=IMAGES.bfloat16(), max_output_error=0.9, trials=5, **OPTIONS
    )
    assert small.report.macs[1] < small.report.macs[0]
