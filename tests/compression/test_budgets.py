"""The smallest network within a bound on its outputs, without labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tensorchain.compression import LayerPlan, agreement, compress, compress_within, output_error
from tensorchain.compression.conv import Convolution
from tensorchain.compression.torch_clock import TorchClock
from tensorchain.compression.torch_sites import sites_of

pytestmark = pytest.mark.usefixtures("one_thread")


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 8)).eval()


def images(count, seed):
    noise = torch.randn(count, 3, 10, 10, generator=torch.Generator().manual_seed(seed))
    return nn.functional.avg_pool2d(noise, 3, 1, 1) * 3.0


class Several(nn.Module):
    def __init__(self, shift):
        super().__init__()
        self.shift = shift

    def forward(self, x):
        return {"first": x + self.shift, "rest": [2.0 * x, torch.ones(3, dtype=torch.long)]}


@pytest.mark.slow
def test_the_bound_holds_and_a_tighter_one_costs_more():
    net, data = network(), images(64, 0)
    costs = []
    for bound in (0.5, 0.1):
        small = compress_within(net, data[:1], calibration=data, max_output_error=bound, trials=4, candidates=3)
        assert output_error(net, small, data) <= bound
        assert small.report.parameters[1] == sum(p.numel() for p in small.parameters())
        accepted = [step for step in small.report.steps if step.accepted]
        assert small.report.macs[1] == min(step.report.macs[1] for step in accepted)
        costs.append(small.report.macs[1])
    assert costs[0] < costs[1]


def test_agreement_on_other_inputs():
    net, data, fresh = network(), images(64, 0), images(96, 1)
    small = compress_within(
        net,
        data[:1],
        "tucker2",
        calibration=data,
        min_agreement=0.8,
        measured_on=fresh,
        trials=4,
        candidates=4,
        by="params",
    )
    assert agreement(net, small, fresh) >= 0.8
    assert small.report.parameters[1] < small.report.parameters[0]
    with torch.no_grad():
        assert agreement(net, small, fresh.split(7)) == np.mean(
            (net(fresh).argmax(1) == small(fresh).argmax(1)).numpy()
        )


def test_errors_are_those_of_all_outputs_at_once():
    x = torch.randn(10, 4, dtype=torch.float64) + 5.0
    spread = (x - x.mean(0)).norm() ** 2 * 5.0
    expected = float(torch.sqrt(40.0 * 0.25 / spread))
    for given in (x, x.split(3), lambda: [(part, None) for part in x.split(4)]):
        assert output_error(Several(0.0), Several(0.5), given) == pytest.approx(expected)
    assert output_error(Several(0.0), Several(0.0), x) == 0.0
    constant = torch.ones(3, 2)
    assert output_error(Several(0.0), Several(0.5), constant) == np.inf


@pytest.mark.parametrize(
    "options", [{}, {"max_output_error": 0.1, "min_agreement": 0.9}, {"max_output_error": 1.5}, {"min_agreement": 0.0}]
)
def test_one_bound_within_its_range_is_needed(options):
    with pytest.raises(ValueError, match=r"max_output_error|min_agreement"):
        compress_within(network(), images(1, 0), calibration=images(4, 0), **options)


class Multiplications:
    """A clock by multiplications, and a constant for all else."""

    def layers(self, plans, site):
        return [0.7 * plan.macs(site.image) * site.uses for plan in plans]

    def networks(self, networks):
        return [1e4 + whole_macs(net) for net in networks]


def whole_macs(net):
    sites = sites_of(net.eval(), images(1, 0), whole=True)
    return sum(site.costs[1] for site in sites)


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_a_budget_of_time_holds_for_the_network_itself(share):
    net, clock = network(), Multiplications()
    small = compress(net, images(1, 0), "tucker2", keep_latency=share, clock=clock, stabilise=False, candidates=6)
    before, after = clock.networks([net, small])
    assert small.report.run_seconds == (before, after)
    assert 0.6 * share < after / before <= share
    assert f"{after / before:.3f} of it" in str(small.report)
    with pytest.raises(ValueError, match="cannot be reached"):
        compress(net, images(1, 0), "tucker2", keep_latency=0.01, clock=clock, stabilise=False, candidates=3)
    with pytest.raises(ValueError, match="export the network"):
        compress(net, images(1, 0), "channels", keep_macs=0.5)
    with pytest.raises(ValueError, match="budget of `compress` alone"):
        compress_within(net, images(1, 0), calibration=images(2, 0), max_output_error=0.5, keep_latency=share)


def test_pytorch_times_layers_and_networks():
    net, data = network(), images(2, 0)
    clock = TorchClock(net, data)
    for site in sites_of(net, data, whole=True):
        plan = LayerPlan("dense", None, (Convolution(site.kernel, site.geometry),))
        assert 0.0 < clock.layers([plan], site)[0] < 10.0
    assert min(clock.networks([net, net])) > 0.0
    small = compress(net, data, "tucker2", keep_latency=1.0, stabilise=False, candidates=3)
    assert small(data).shape == net(data).shape
