"""The rate that a loss can take, from its largest curvature."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tensorchain.compression import restore  # noqa: E402
from tensorchain.compression.curvature import largest_curvature, rate_for  # noqa: E402

nn = torch.nn


def test_the_curvature_is_the_largest_eigenvalue_of_the_hessian():
    """Against the whole Hessian by PyTorch, of either sign."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    images, goals = torch.randn(20, 4).double(), 3.0 * torch.randn(20, 2).double()
    sizes = [p.shape for p in net.parameters()]
    names = [name for name, _ in net.named_parameters()]

    def loss(flat):
        parts = flat.split([size.numel() for size in sizes])
        values = {name: part.view(size) for name, part, size in zip(names, parts, sizes, strict=True)}
        return ((torch.func.functional_call(net, values, images) - goals) ** 2).mean()

    flat = torch.cat([p.detach().flatten() for p in net.parameters()])
    expected = float(torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat)).abs().max())
    before = copy.deepcopy(net.state_dict())
    found = largest_curvature(net, lambda net: ((net(images) - goals) ** 2).mean(), steps=60)
    assert found == pytest.approx(expected, rel=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    quick = largest_curvature(net, lambda net: ((net(images) - goals) ** 2).mean())
    assert 0.5 * expected < quick < 1.01 * expected
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_rate_follows_the_scale_of_the_loss(scale):
    torch.manual_seed(1)
    net, images = nn.Linear(6, 3).double(), torch.randn(30, 6).double()
    one, other = (largest_curvature(net, lambda net, s=s: s * (net(images) ** 2).mean()) for s in (1.0, scale))
    assert other == pytest.approx(scale * one, rel=1e-3)
    assert rate_for(net, lambda net: scale * (net(images) ** 2).mean()) == pytest.approx(min(0.5 / other, 0.1))


def test_flat_losses_and_frozen_networks():
    net = nn.Linear(2, 2)
    assert rate_for(net, lambda net: 0.0 * net(torch.ones(1, 2)).sum()) == 0.01
    assert rate_for(net, lambda net: net(torch.full((1, 2), float("nan"))).sum()) == 0.01
    net.requires_grad_(False)
    assert largest_curvature(net, lambda net: net(torch.ones(1, 2)).sum()) == 0.0


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_restoration_with_the_default_rate_does_not_depend_on_the_scale_of_outputs(scale):
    """Outputs of any size are learned; a fixed rate that is good for one diverges for the other."""
    torch.manual_seed(2)
    images = torch.randn(64, 3, 6, 6)
    teacher = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()
    with torch.no_grad():
        teacher[-1].weight.mul_(scale)
    goals = teacher(images).detach()
    net = copy.deepcopy(teacher)
    with torch.no_grad():
        net[0].weight.add_(0.1 * torch.randn_like(net[0].weight))
    statistics = net[1].running_mean.clone()
    loader = [(images[n : n + 16], goals[n : n + 16]) for n in range(0, 64, 16)]
    history = restore(net, loader, epochs=8, loss=nn.functional.mse_loss)
    assert history[-1].loss < 0.7 * history[0].loss
    assert np.isfinite(history[-1].loss)
    assert not torch.equal(net[1].running_mean, statistics)


def test_the_rate_falls_within_an_epoch_whatever_the_loader_is(monkeypatch):
    """A function that returns batches has no length; its rates are those of a list."""
    torch.manual_seed(3)
    data = [(torch.randn(4, 3, 5, 5), torch.randint(0, 2, (4,))) for _ in range(5)]
    seen: dict[str, list[float]] = {}
    step = torch.optim.SGD.step
    for name, loader in (("list", data), ("function", lambda: iter(data))):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 2))
        seen[name] = rates = []

        def watched(self, *arguments, rates=rates, **options):
            rates.append(self.param_groups[0]["lr"])
            return step(self, *arguments, **options)

        monkeypatch.setattr(torch.optim.SGD, "step", watched)
        restore(net, loader, epochs=2, rate=0.1)
    assert seen["list"] == seen["function"]
    assert len(set(seen["list"])) == 10
    assert seen["list"] == sorted(seen["list"], reverse=True)
