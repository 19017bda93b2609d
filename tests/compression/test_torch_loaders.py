"""What people have as loaders: tensors, lists, functions, generators, dictionaries, pairs of inputs, many labels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import prune, spectral_norm, weight_norm

from tensorchain.compression import agreement, compress, compress_within, output_error, quantize, recalibrate, restore

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = {"candidates": 3, "stabilise": False}


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    ).eval()


IMAGES = torch.randn(80, 3, 7, 7, generator=torch.Generator().manual_seed(1)).cumsum(2)
HALVES = [IMAGES[:64], IMAGES[64:]]
"""As a tensor is split."""
LOADERS = {
    "tensor": lambda: IMAGES,
    "list": lambda: HALVES,
    "pairs": lambda: [[half, "labels"] for half in HALVES],
    "names": lambda: [{"input": half, "label": 3} for half in HALVES],
    "function": lambda: lambda: iter(HALVES),
    "generator": lambda: (half for half in HALVES),
}


@pytest.mark.parametrize("name", LOADERS)
def test_all_loaders_give_the_same(name):
    net = classifier()
    results = []
    for loader in (LOADERS["list"], LOADERS[name]):
        again = classifier()
        recalibrate(again, loader())
        small = compress(net, IMAGES[:1], "tucker2", keep_macs=0.6, calibration=loader(), **OPTIONS)
        results.append([again[1].running_var, small(IMAGES), quantize(net, loader(), 4, 4)(IMAGES)])
    for expected, found in zip(*results, strict=True):
        assert torch.equal(expected, found)


class Pair(nn.Module):
    """Two inputs that have to be, and one that may be."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 6)

    def forward(self, left, right, scale=1.0):
        sides = [torch.relu(self.conv(input=side)) for side in (left, right)]
        return {"y": self.fc(input=(sides[0] - scale * sides[1]).mean((2, 3)))}


@pytest.mark.parametrize("wrap", [lambda net: net, nn.DataParallel])
def test_pairs_of_inputs_are_no_inputs_and_labels(wrap):
    torch.manual_seed(0)
    net = wrap(Pair().eval())
    inputs = IMAGES[:40], IMAGES[40:]
    named = {"left": IMAGES[:40], "right": IMAGES[40:], "label": 2}
    results = [
        compress(net, inputs, "tucker2", keep_macs=0.6, calibration=[batch], **OPTIONS)
        for batch in (inputs, (inputs, "labels"), named)
    ]
    with torch.no_grad():
        first, *others = (small(*inputs)["y"] for small in results)
        assert all(torch.equal(first, other) for other in others)
    rounded = quantize(net, [inputs], 8, 8)
    assert 0.0 < output_error(net, rounded, [inputs]) < 0.1
    allocated = quantize(net, [named], "allocate", 8, mean_bits=5)
    assert 0.0 < output_error(net, allocated, [named]) < 0.3


def test_inputs_by_other_names_are_explained():
    with pytest.raises(TypeError, match=r"named 'image'.*the network takes \(input\)"):
        compress(classifier(), {"image": IMAGES}, keep_macs=0.5)
    with pytest.raises(TypeError, match=r"torch\.from_numpy"):
        compress(classifier(), IMAGES, keep_macs=0.5, calibration=IMAGES.numpy())
    with pytest.raises(TypeError, match="a tensor of images, a loader"):
        recalibrate(classifier(), {"input": IMAGES})
    with pytest.raises(ValueError, match="0 sees NaN"):
        compress(classifier(), IMAGES[:1], keep_macs=0.5, calibration=IMAGES / 0.0)


LABELS = torch.randint(0, 5, (80,), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "labels",
    [LABELS.int(), LABELS.to(torch.uint8), LABELS.to(torch.int8), nn.functional.one_hot(LABELS, 5).float()],
    ids=lambda labels: str(labels.dtype),
)
def test_labels_of_all_types_are_the_same_classes(labels):
    expected = restore(classifier(), [(IMAGES, LABELS)] * 2, epochs=1, rate=0.01)[0].loss
    assert restore(classifier(), [(IMAGES, labels)] * 2, epochs=1, rate=0.01)[0].loss == pytest.approx(
        expected, rel=1e-5
    )
    named = [{"input": IMAGES, "labels": labels}] * 2
    assert restore(classifier(), named, epochs=1, rate=0.01)[0].loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        (IMAGES, "a batch is a Tensor"),
        ((IMAGES, LABELS, LABELS), "a tuple of 3 parts"),
        ({"input": IMAGES}, "a mapping of 'input'"),
        ((IMAGES, None), "give teacher="),
        ((IMAGES, LABELS.numpy()), "labels are ndarray"),
        ((IMAGES, LABELS[:, None]), r"\(80, 1\).*class numbers \(80,\) are needed"),
        ((IMAGES, LABELS + 1), "up to 5.*5 classes"),
        ((IMAGES, LABELS[:, None] == torch.arange(5)), "torch.bool.*loss="),
        ((IMAGES, torch.full((80, 5), math.nan)), "no shares of classes"),
        ((IMAGES * math.inf, LABELS), "no number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_batches_that_do_not_fit_are_refused(batch, reason):
    net = classifier()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises((TypeError, ValueError), match=reason):
        restore(net, [batch], epochs=1)
    for name, value in net.state_dict().items():
        if "running" not in name and "tracked" not in name:
            assert torch.equal(value, before[name])


def test_a_loss_that_is_no_number_leaves_the_weights_of_the_epoch_before():
    net = classifier()
    before = [weight.clone() for weight in net.parameters()]
    with pytest.raises(ValueError, match="smaller rate="):
        restore(net, [(IMAGES, LABELS)] * 9, epochs=1, rate=1e30)
    assert all(torch.equal(one, two) for one, two in zip(before, net.parameters(), strict=True))


def test_a_teacher_needs_no_labels():
    torch.manual_seed(0)
    net, inputs = Pair().eval(), (IMAGES[:40], IMAGES[40:])
    small = compress(net, inputs, "tucker2", keep_macs=0.4, **OPTIONS)
    before = output_error(net, small, [inputs])
    restore(small, [(inputs, None)] * 8, epochs=4, teacher=net, sensitivity=0.0)
    assert output_error(net, small, [inputs]) < 0.9 * before


def test_all_inputs_may_be_asked_to_agree():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(147, 30))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(30, 4) @ torch.randn(4, 147))
    small = compress_within(net, IMAGES[:1], calibration=IMAGES, min_agreement=1.0, trials=5, **OPTIONS)
    assert agreement(net, small, IMAGES) == 1.0
    assert small.report.macs[1] < small.report.macs[0]
    with pytest.raises(ValueError, match="no trial holds max_output_error=1e-06; at a share of"):
        compress_within(classifier(), IMAGES[:1], calibration=IMAGES, max_output_error=1e-6, trials=2, **OPTIONS)
    with pytest.raises(ValueError, match=r"shape \(80,\)"):
        agreement(nn.Flatten(0), nn.Flatten(0), [torch.zeros(80)])


def pruned(layer):
    prune.l1_unstructured(layer, "weight", amount=0.5)
    return layer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compute", [pruned, weight_norm, spectral_norm])
def test_weights_that_hooks_compute_are_rounded(compute):
    net = classifier()
    compute(net[0])
    net(IMAGES)
    rounded = quantize(net.eval(), IMAGES, 8, None)
    assert output_error(net, rounded, IMAGES) < 0.1
    wanted, found = net[0].weight.detach(), rounded[0].weight.detach()
    assert float((wanted - found).abs().max()) <= 0.51 * float(wanted.abs().max()) / 127
    if compute is pruned:
        assert torch.equal(found == 0.0, (wanted == 0.0) | (found == 0.0))
        assert float((found[wanted == 0.0]).abs().max()) == 0.0
    restore(rounded, [(IMAGES, LABELS)], epochs=1)
