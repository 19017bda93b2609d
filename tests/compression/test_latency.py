"""A budget of time, with tables of times in place of a clock: what is chosen does not depend on the machine."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tensorchain.compression import Geometry, Request, compress_onnx, compress_onnx_within
from tensorchain.compression.candidates import Candidate
from tensorchain.compression.conv import Convolution, LayerPlan
from tensorchain.compression.latency import Times, blank_of, forms_of, within_latency
from tensorchain.compression.network import plan_network
from tensorchain.compression.onnx_clock import OnnxClock
from tensorchain.compression.onnx_layers import layers_of
from tensorchain.compression.onnx_nodes import layer_model
from tensorchain.compression.request import Site

RNG = np.random.default_rng(0)
CONVOLUTION = Geometry(padding=((1, 1), (1, 1)))


WIDTHS = (8, 16, 24, 12)


def chain(widths=WIDTHS, image=(9, 10)):
    """Convolutions one after another as a model."""
    steps = tuple(
        Convolution(RNG.standard_normal((b, a, 3, 3)).astype(np.float32), CONVOLUTION) for a, b in pairwise(widths)
    )
    return layer_model(LayerPlan("dense", None, steps), image)


class Table:
    """Each convolution takes `call`, and one more for each million multiplications; a model `rest` besides.

    `bias` is the factor by which single layers seem faster than they are within the model; what stands for the layer
    of number `slow` takes ten times as long, and folds `fold` times.
    """

    def __init__(self, call=0.0, rest=0.0, bias=1.0, fold=1.0, slow=None):
        self.call, self.rest, self.bias, self.fold, self.slow = call, rest, bias, fold, slow
        self.asked, self.models = [], 0

    def layers(self, plans, site):
        self.asked.append((site.name, len(plans)))
        one = [self.call * len(p.convolutions) + 1e-6 * p.macs(site.image) for p in plans]
        if self.slow is not None and len(site.kernel) == WIDTHS[self.slow + 1]:
            one = [s if p.method == "dense" else 10.0 * s + 1.0 for s, p in zip(one, plans, strict=True)]
        return [self.bias * s * (self.fold if len(forms_of(p)) > 1 else 1.0) for s, p in zip(one, plans, strict=True)]

    def networks(self, models):
        self.models += 1
        feed = {"x": np.zeros((1, 8, 9, 10), np.float32)}
        found = [layers_of(model, {}, feed) for model in models]
        return [self.rest + sum(self.call + 1e-6 * layer.site.macs for layer in layers) for layers in found]


@pytest.mark.parametrize("bias", [0.6, 1.0, 1.3])
@pytest.mark.parametrize(("method", "share"), [("svd", 0.5), ("svd", 0.8), ("tucker2", 0.5)])
def test_the_model_itself_is_within_the_share_whatever_its_layers_seemed_to_take(bias, method, share):
    model, clock = chain(), Table(call=2e-4, rest=0.05, bias=bias)
    small, report = compress_onnx(model, method, keep_latency=share, clock=clock, stabilise=False, candidates=6)
    before, after = clock.networks([model, small])
    assert report.run_seconds == (before, after)
    assert 0.8 * share < after / before <= share
    # A model of half the time has more than half of the multiplications where all else in it takes none off.
    assert report.macs[1] < share * report.macs[0]


def test_times_and_not_multiplications_choose():
    model, options = chain(), {"stabilise": False, "candidates": 6}
    by_macs, by_time = (
        compress_onnx(model, "tucker2", **budget, **options)[1]
        for budget in ({"keep_macs": 0.7}, {"keep_latency": 0.7, "clock": Table(slow=1)})
    )
    # The widest layer has most to spare, but its small convolutions are slower than it is.
    assert by_macs.layers[1].method == "tucker2"
    assert by_time.layers[1].method == "dense"
    assert "tucker2" in [layer.method for layer in by_time.layers]
    points = by_time.curves[1]
    assert min(point.macs for point in points) < points[-1].macs
    assert min(point.seconds for point in points) == points[-1].seconds


def test_a_time_that_cannot_be_reached_says_the_least_that_was_found():
    clock = Table(call=1e-3, rest=9.0)
    whole, parts = clock.networks([chain()])[0], 3
    with pytest.raises(
        ValueError, match=r"keep_latency=0\.5 cannot be reached: the fastest .* takes 0\.\d+ of"
    ) as told:
        compress_onnx(chain(), "svd", keep_latency=0.5, clock=clock, stabilise=False, candidates=3)
    least = float(str(told.value).split("takes ")[1].split()[0])
    assert (9.0 + 1e-3 * parts) / whole <= least < 1.0


def test_calibration_refits_what_the_clock_has_chosen():
    model, clock = chain(), Table(call=1e-4)
    feeds = [{"x": RNG.standard_normal((4, 8, 9, 10)).astype(np.float32)} for _ in range(2)]
    options = {"keep_latency": 0.6, "clock": clock, "calibration": feeds, "candidates": 4}
    plain, first = compress_onnx(model, "svd", refit=False, **options)
    fitted, second = compress_onnx(model, "svd", **options)
    for small, report in ((plain, first), (fitted, second)):
        before, after = clock.networks([model, small])
        assert (before, after) == report.run_seconds
        assert after <= 0.6 * before
    assert any(tensor.name.endswith("bias1") for tensor in fitted.graph.initializer)


def test_chains_take_the_faster_form_and_equal_layers_are_timed_once():
    for fold, form in ((0.5, "fold"), (2.0, "grouped")):
        clock = Table(fold=fold)
        _, report = compress_onnx(
            chain((8, 16, 16, 16)), "tc", keep_latency=0.6, clock=clock, stabilise=False, candidates=3
        )
        assert {layer.form for layer in report.layers if layer.method == "tc"} == {form}
        # The second and third layers have one shape.
        assert len({name for name, count in clock.asked if count > 2}) == 2


def test_the_search_goes_both_ways_and_takes_the_best_that_holds():
    tried = []

    def attempt(asked):
        tried.append(asked)
        return asked, 0.2 + 0.5 * asked**2

    asked = within_latency(0.5, attempt, least=0.1, rounds=12)
    assert 0.97 * 0.5 <= 0.2 + 0.5 * asked**2 <= 0.5
    assert tried[0] == 0.5
    with pytest.raises(ValueError, match=r"takes 0\.205 of"):
        within_latency(0.15, attempt, least=0.1)


def test_a_blank_plan_has_the_shapes_of_the_candidate():
    for groups, window, image in ((1, (3, 3), (7, 8)), (2, (3, 3), (7, 8)), (1, (1, 1), (1, 9))):
        kernel = RNG.standard_normal((12, 8 // groups, *window)).astype(np.float32)
        padding = tuple(((n // 2, n // 2)) for n in window)
        site = Site("a", kernel, None, Geometry(padding=padding), image, groups=groups)
        methods = ("svd",) if site.pointwise else ("cp3", "tucker2", "tucker-cp", "btd", "tc", "svd")
        for method in methods:
            request = Request(method, keep_macs=0.7, stabilise=False, candidates=3)
            plans, report = plan_network([site], request, parameters=kernel.size)
            plan = plans["a"]
            choice = report.curves[0][report.allocation.choices[0]]
            blank = blank_of(site, choice)
            shapes = [[c.weight.shape for c in p.convolutions] for p in (plan, *forms_of(blank))]
            assert shapes[0] in shapes[1:]
            assert blank.parameters <= choice.parameters
    assert blank_of(site, Candidate(None, *site.costs)).convolutions[0].weight.shape == kernel.shape


def test_the_runtime_times_every_kind_of_layer():
    from onnx import TensorProto, helper, numpy_helper

    def weight(*shape):
        return numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), "w")

    cases = (
        ("MatMul", (1, 5, 8), weight(8, 16), {}),
        ("Conv", (1, 8, 11), weight(16, 8, 3), {}),
        ("Conv", (1, 8, 6, 5), weight(16, 4, 3, 3), {"group": 2}),
        ("ConvTranspose", (1, 8, 4, 4), weight(8, 16, 2, 2), {"strides": [2, 2]}),
    )
    for operator, shape, array, attributes in cases:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape[1:]])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        node = helper.make_node(operator, ["x", "w"], ["y"], name="a", **attributes)
        opset = [helper.make_opsetid("", 17)]
        model = helper.make_model(helper.make_graph([node], "g", [x], [y], [array]), opset_imports=opset, ir_version=8)
        feed = {"x": np.zeros(shape, np.float32)}
        clock = OnnxClock(layers_of(model, {}, feed), feed)
        times = Times(clock, model)
        site = layers_of(model, {}, feed)[0].site
        points = [Candidate(1, 1, 1, 0.5, "svd" if site.pointwise else "svd-out"), Candidate(None, *site.costs)]
        found = times.timed(site, points)
        assert all(0.0 < point.seconds < 1.0 for point in found)
        assert times.whole > 0.0
        assert times.timed(site, points) == found


def test_what_does_not_go_together_is_said():
    model = chain()
    with pytest.raises(ValueError, match="give one of"):
        compress_onnx(model, keep_latency=0.5, keep_macs=0.5)
    with pytest.raises(ValueError, match="int8"):
        compress_onnx(model, keep_latency=0.5, time_int8=True)
    with pytest.raises(ValueError, match="above 0, up to 1"):
        compress_onnx(model, keep_latency=1.5)
    with pytest.raises(ValueError, match="needs something to run"):
        plan_network([Site("a", np.ones((4, 4, 3, 3)), None, Geometry(), (8, 8))], Request("cp3", keep_latency=0.5),
                     parameters=144)  # fmt: skip
    with pytest.raises(ValueError, match="give one of"):
        compress_onnx_within(model, calibration=[{"x": np.zeros((1, 8, 9, 10), np.float32)}], max_output_error=0.5,
                             keep_latency=0.5)  # fmt: skip
