"""Ranks in several steps and by accuracy: budgets, evidence, and runs that were interrupted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from tensorchain.compression import compress, compress_in_steps, compress_to_score, recalibrate, restore
from tensorchain.compression.progress import Progress, plan_of_record, plan_record
from tensorchain.compression.torch_layers import plan_of_module
from tensorchain.compression.torch_sites import sites_of
from tests.cases import mostly_slow

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
]


def network():
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, 1, 1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, 2, "valid", 2),
        nn.ReLU(),
        nn.Conv2d(16, 16, (4, 3), padding="same"),
        nn.ReLU(),
        nn.Conv2d(16, 16, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).eval()


def batches(count=3, size=16):
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(size, 3, 12, 12, generator=generator) for _ in range(count)]
    return [(x, (2 * x[:, 0].mean((1, 2)) > x[:, 1, 3:6, 3:6].mean((1, 2))).long()) for x in images]


def agreement(net, images):
    """A score that falls as a network leaves the dense one: minus the relative change of its outputs."""

    def score(small):
        with torch.no_grad():
            expected = net(images)
            return -float((small(images) - expected).norm() / expected.norm())

    return score


def size_kept(net):
    """A score that falls with every step: the share of the parameters, less that of the dense network."""
    whole = sum(p.numel() for p in net.parameters())
    return lambda small: sum(p.numel() for p in small.parameters()) / whole - 1.0


class InterruptedRunError(Exception):
    pass


def interrupting(function, at):
    """The function, but its call number `at` ends the run."""
    calls = []

    def wrapped(net):
        calls.append(0)
        if len(calls) == at:
            raise InterruptedRunError
        return function(net)

    return wrapped


def same(first, second):
    """Two networks with equal weights and reports, but for the times."""
    states = first.state_dict(), second.state_dict()
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    def timeless(report):
        inner = [dataclasses.replace(s, report=dataclasses.replace(s.report, seconds=0.0)) for s in report.steps]
        return dataclasses.replace(report, seconds=0.0, steps=tuple(inner))

    assert timeless(first.report) == timeless(second.report)


OPTIONS = {"candidates": 3, "stabilise": False}


@pytest.mark.parametrize("method", ["tc", "tucker-cp", "cp4"])
def test_steps_reach_the_budget_and_start_from_the_layers_as_they_are(method):
    net, data = network(), batches()
    seen = []

    def restoring(small):
        with torch.no_grad():
            for weight in small.parameters():
                weight.mul_(1.0 + 0.01 * torch.randn_like(weight))
        seen.append(small)

    small = compress_in_steps(
        net, data[0], method, keep_macs=0.3, steps=2, restoring=restoring, candidates=4, stabilise=False
    )
    report = small.report
    assert [step.share for step in report.steps] == pytest.approx([0.3**0.5, 0.3])
    assert [step.score for step in report.steps] == [None, None]
    for step in report.steps:
        assert step.report.macs[1] <= step.share * step.report.macs[0]
    assert report.macs[0] == sum(site.macs for site in sites_of(net, data[0]))
    assert report.macs[1] == sum(site.macs for site in sites_of(small, data[0]))
    assert report.parameters == (sum(p.numel() for p in net.parameters()), sum(p.numel() for p in small.parameters()))
    # The second step decomposes what the restored first one computes, not the dense kernels.
    before = {layer.name: layer for layer in report.steps[0].report.layers}
    changed = [layer for layer in report.layers if layer.rank != before[layer.name].rank]
    assert changed
    for layer in changed:
        if before[layer.name].method == "dense":
            continue
        first = before[layer.name]
        old = plan_of_module(seen[0].get_submodule(layer.name), first.method, first.rank).kernel
        new = plan_of_module(small.get_submodule(layer.name), layer.method, layer.rank).kernel
        moved = float(np.linalg.norm(new - old) / np.linalg.norm(old))
        assert moved == pytest.approx(layer.error, abs=0.05)
    assert "step 2" in str(report)


def test_a_decomposed_layer_is_one_site_that_computes_the_same():
    net, data = network(), batches()
    for form in ("grouped", "fold"):
        small = compress(net, data[0], "tc", keep_macs=0.5, form=form, **OPTIONS)
        sites = {site.name: site for site in sites_of(small, data[0], whole=True)}
        assert [site.name for site in sites_of(net, data[0])] == list(sites)
        for layer in small.report.layers:
            site = sites[layer.name]
            assert (site.costs, site.macs) == ((layer.parameters[1], layer.macs[1]), layer.macs[0])
            if layer.method == "dense" or site.pointwise:
                continue
            module = small.get_submodule(layer.name)
            images = torch.randn(2, site.kernel.shape[1], *site.image)
            (top, bottom), (left, right) = site.geometry.padding
            with torch.no_grad():
                expected = nn.functional.conv2d(
                    nn.functional.pad(images, (left, right, top, bottom)), torch.from_numpy(site.kernel).float(),
                    torch.from_numpy(site.bias).float() if site.bias is not None else None, site.geometry.stride, 0,
                    site.geometry.dilation,
                )  # fmt: skip
                assert torch.allclose(module(images), expected, atol=1e-5)


def test_a_step_that_loses_too_much_is_undone():
    net, data = network(), batches()
    score = size_kept(net)
    loose = compress_in_steps(net, data[0], "tc", evaluate=score, max_drop=10.0, steps=3, **OPTIONS)
    assert [step.accepted for step in loose.report.steps] == [True] * 3
    assert [step.share for step in loose.report.steps] == pytest.approx([0.7, 0.49, 0.343])
    drops = [-step.score for step in loose.report.steps]
    held = compress_in_steps(net, data[0], "tc", evaluate=score, max_drop=(drops[0] + drops[1]) / 2, steps=3, **OPTIONS)
    assert [step.accepted for step in held.report.steps] == [True, False]
    assert score(held) == held.report.steps[0].score
    assert held.report.macs == held.report.steps[0].report.macs
    none = compress_in_steps(net, data[0], "tc", keep_macs=0.2, evaluate=score, max_drop=0.0, steps=2, **OPTIONS)
    assert [step.accepted for step in none.report.steps] == [False]
    assert torch.equal(none(data[0][0]), net(data[0][0]))
    assert {layer.method for layer in none.report.layers} == {"dense"}


@pytest.mark.parametrize("by", ["macs", "params"])
def test_the_smallest_budget_that_holds_the_score(by):
    net, data = network(), batches()
    score = size_kept(net)
    small = compress_to_score(
        net, data[0], "tucker2", evaluate=score, max_drop=0.4, by=by, trials=5, allocation="one-step", **OPTIONS
    )
    steps = small.report.steps
    assert len(steps) == 5
    accepted = [step for step in steps if step.accepted]
    assert score(small) == min(accepted, key=lambda step: step.share).score >= -0.4
    # Bisection: whatever was refused asked for less than whatever was kept.
    refused = [step.share for step in steps if not step.accepted]
    assert refused
    assert max(refused) < min(step.share for step in accepted)
    for step in steps:
        counted = step.report.macs if by == "macs" else step.report.parameters
        assert counted[1] <= step.share * counted[0]
    with pytest.raises(ValueError, match="no budget held"):
        compress_to_score(net, data[0], "tucker2", evaluate=score, max_drop=0.0, trials=1, **OPTIONS)


@pytest.mark.parametrize(("scored", "restored"), mostly_slow([(3, 9), (2, 9), (9, 2)]))
def test_an_interrupted_run_goes_on_to_the_same_result(tmp_path, scored, restored):
    net, data = network(), batches()
    score = agreement(net, data[0][0])

    def restoring(small):
        order = torch.randperm(len(data)).tolist()
        restore(small, [data[n] for n in order], epochs=1, rate=0.01)

    options = {"keep_macs": 0.4, "steps": 2, "calibration": data, "form": "fold", **OPTIONS}
    whole = compress_in_steps(net, data[0], "tc", evaluate=score, restoring=restoring, **options)
    path = tmp_path / "run.safetensors"
    both = {"evaluate": interrupting(score, scored), "restoring": interrupting(restoring, restored)}
    with pytest.raises(InterruptedRunError):
        compress_in_steps(net, data[0], "tc", checkpoint=path, max_drop=9.0, **both, **options)
    before = torch.random.get_rng_state()
    resumed = compress_in_steps(
        net, data[0], "tc", checkpoint=path, max_drop=9.0, evaluate=score, restoring=restoring, **options
    )
    assert torch.equal(before, torch.random.get_rng_state())
    same(whole, resumed)
    # A finished run needs no work: neither function is called.
    again = compress_in_steps(
        net, data[0], "tc", checkpoint=path, max_drop=9.0, evaluate=interrupting(score, 1),
        restoring=interrupting(restoring, 1), **options,
    )  # fmt: skip
    same(whole, again)
    assert [name.name for name in tmp_path.iterdir()] == ["run.safetensors"]


def test_trials_by_score_go_on_as_well(tmp_path):
    net, data = network(), batches()
    score, path = agreement(net, data[0][0]), tmp_path / "trials"
    options = {"max_drop": 0.5, "trials": 3, "restoring": lambda small: recalibrate(small, data), **OPTIONS}
    whole = compress_to_score(net, data[0], "tucker2", evaluate=score, **options)
    with pytest.raises(InterruptedRunError):
        compress_to_score(net, data[0], "tucker2", evaluate=interrupting(score, 3), checkpoint=path, **options)
    same(whole, compress_to_score(net, data[0], "tucker2", evaluate=score, checkpoint=path, **options))


def test_compress_keeps_its_curves_and_fits(tmp_path, monkeypatch):
    net, data = network(), batches()
    path = tmp_path / "curves"
    whole = compress(net, data[0], "tc", keep_macs=0.5, **OPTIONS)
    from tensorchain.compression import network as planning

    fits = []

    def failing(*arguments, **keywords):
        fits.append(0)
        if len(fits) == 2:
            raise InterruptedRunError
        return fit_kernel(*arguments, **keywords)

    fit_kernel = planning.fit_kernel
    monkeypatch.setattr(planning, "fit_kernel", failing)
    with pytest.raises(InterruptedRunError):
        compress(net, data[0], "tc", keep_macs=0.5, checkpoint=path, **OPTIONS)
    fits.extend([0] * 9)
    monkeypatch.setattr(planning, "curve", lambda *_, **__: pytest.fail("a curve was measured again"))
    same(whole, compress(net, data[0], "tc", keep_macs=0.5, checkpoint=path, **OPTIONS))
    # Other budgets start from the same curves.
    other = compress(net, data[0], "tc", keep_params=0.5, checkpoint=path, **OPTIONS)
    assert other.report.parameters[1] <= 0.5 * other.report.parameters[0]
    with pytest.raises(ValueError, match="another compression"):
        compress(net, data[0], "tc", keep_macs=0.5, checkpoint=path, candidates=4, stabilise=False)
    with pytest.raises(TypeError, match="integer"):
        compress(net, data[0], "tc", keep_macs=0.5, checkpoint=path, rng=None, **OPTIONS)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="delete it"):
        compress(net, data[0], "tc", keep_macs=0.5, checkpoint=path, **OPTIONS)


def test_plans_survive_a_file(tmp_path):
    small = compress(network(), batches()[0], "tc", keep_macs=0.5, form="fold", **OPTIONS)
    progress = Progress(tmp_path / "plans", "x")
    for layer in small.report.layers:
        if layer.method != "dense":
            plan = plan_of_module(small.get_submodule(layer.name), layer.method, layer.rank)
            progress.put(layer.name, *plan_record(plan))
            record, arrays = Progress(tmp_path / "plans", "x").get(layer.name)
            back = plan_of_record(record, arrays)
            assert (back.method, back.rank) == (plan.method, plan.rank)
            images = np.random.default_rng(0).standard_normal((1, plan.convolutions[0].inputs, 12, 12))
            assert np.array_equal(back.apply(images), plan.apply(images))
            assert plan_of_record(record).parameters == plan.parameters


@pytest.mark.parametrize(
    ("options", "message", "error"),
    [
        ({"keep_macs": 0.5, "steps": 0}, "steps", ValueError),
        ({"keep_macs": 0.5, "max_drop": 0.1}, "evaluate", ValueError),
        ({"max_drop": -1.0, "evaluate": len}, "max_drop", ValueError),
        ({"keep_macs": 0.5, "rng": None}, "integer", TypeError),
        ({}, "give one of", ValueError),
        ({"keep_macs": 0.5, "evaluate": lambda net: float("nan")}, "finite", ValueError),
        ({"keep_macs": 0.5, "fit_output": True}, "calibration", ValueError),
    ],
)
def test_what_cannot_be_done_in_steps_is_refused(options, message, error):
    with pytest.raises(error, match=message):
        compress_in_steps(network(), batches()[0], "tc", **{"steps": 1, **OPTIONS, **options})


def test_scores_are_counted_in_macs_or_parameters():
    with pytest.raises(ValueError, match="'macs' or 'params'"):
        compress_to_score(network(), batches()[0], evaluate=len, max_drop=0.1, by="bytes")
