"""Outputs of ONNX layers that are cut: where that is found, which targets are made, and what a fit gains."""

from __future__ import annotations

import math

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from tensorchain.compression import compress_onnx, onnx_refit, try_models  # noqa: E402
from tensorchain.compression.conv import Convolution, LayerPlan  # noqa: E402
from tensorchain.compression.cuts import Cut  # noqa: E402
from tensorchain.compression.onnx_cuts import CutRows, OnnxCut, cuts_of, sides  # noqa: E402
from tensorchain.compression.onnx_layers import layers_of  # noqa: E402
from tensorchain.compression.refit import Moments  # noqa: E402

RELU = Cut(0.0, math.inf)


def model(nodes, channels=4, outputs=("z",), opset=17, **arrays):
    weights = {"w": np.random.default_rng(0).standard_normal((channels, channels, 1, 1)), **arrays}
    tensors = [numpy_helper.from_array(np.asarray(v, np.float32), name) for name, v in weights.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", channels, 6, 6))
    ends = [helper.make_empty_tensor_value_info(name) for name in outputs]
    for end in ends:
        end.CopyFrom(helper.make_tensor_value_info(end.name, TensorProto.FLOAT, None))
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="layer"), *nodes], "net", [x], ends, tensors
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def found(proto):
    return cuts_of(proto, layers_of(proto, {"x": (1, 4, 6, 6)}))


NORM = {"scale": [2.0, -1.0, 0.5, 3.0], "b": [0.0] * 4, "m": [0.0] * 4, "v": [4.0, 0.5, 1.0, 2.0]}


@pytest.mark.parametrize(
    ("nodes", "cut", "value"),
    [
        ([node("Relu", "y", "z")], RELU, "y"),
        ([node("Add", "y x", "u"), node("Relu", "u", "z")], RELU, "u"),
        ([node("Add", "x y", "u"), node("Identity", "u", "i"), node("Relu", "i", "z")], RELU, "i"),
        ([node("Clip", "y low high", "z")], Cut(-0.5, 6.0), "y"),
        ([node("Clip", "y low", "z")], Cut(-0.5, math.inf), "y"),
        ([node("HardSwish", "y", "z")], Cut(-3.0, math.inf), "y"),
        ([node("HardSigmoid", "y", "z", alpha=0.25)], Cut(-2.0, 2.0), "y"),
        ([node("Sigmoid", "y", "z")], None, ""),
        ([node("Mul", "y x", "u"), node("Relu", "u", "z")], None, ""),
        ([node("Add", "y y", "u"), node("Relu", "u", "z")], None, ""),
        # y is read twice; and seen as an output.
        ([node("Relu", "y", "r"), node("Add", "r y", "z")], None, ""),
        ([node("Clip", "low y", "z")], None, ""),
    ],
)
def test_only_outputs_of_which_nothing_else_is_seen_are_cut(nodes, cut, value):
    proto = model(nodes, low=-0.5, high=6.0)
    assert found(proto) == ({} if cut is None else {"layer": OnnxCut(cut, value)})
    proto.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    assert found(proto) == {}


def test_old_clips_and_normalisations():
    proto = model([node("Clip", "y", "z", min=-1.0, max=2.0)], opset=10)
    assert found(proto)["layer"].cut == Cut(-1.0, 2.0)
    proto = model([node("BatchNormalization", "y scale b m v", "u", epsilon=1e-3), node("Relu", "u", "z")], **NORM)
    expected = np.array(NORM["scale"]) / np.sqrt(np.array(NORM["v"]) + 1e-3)
    assert np.allclose(found(proto)["layer"].slope, expected)
    assert np.allclose(found(proto)["layer"].of(np.array([0, 2])).slope, expected[[0, 2]])


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("cut", [RELU, Cut(-0.3, 0.4)])
def test_targets_ask_for_what_passes_the_cut(groups, cut):
    rng = np.random.default_rng(0)
    width, outputs, count = 5, 3, 40
    kernels = rng.standard_normal((groups, outputs, width, 1, 1))
    plans = [LayerPlan("dense", None, (Convolution(kernel, bias=rng.standard_normal(outputs)),)) for kernel in kernels]
    slope = rng.choice([-1.0, 2.0, 0.5], groups * outputs)
    rows, seen = CutRows(OnnxCut(cut, "u", slope), groups), []
    moments = [Moments(width, outputs) for _ in range(groups)]
    for _ in range(2):
        x, y, z = (rng.standard_normal((count, groups * n)) for n in (width, outputs, outputs))
        added, before = rng.standard_normal((2, count, groups * outputs))
        side = sides(cut, slope * y + before)
        assert set(np.unique(side)) == ({-1, 0} if cut is RELU else {-1, 0, 1})
        rows.add(x, y, side, (z, slope * z + added))
        seen.append((x, y, side, added))
        for k, own in enumerate(moments):
            own.add(x[:, k * width : (k + 1) * width], y[:, k * outputs : (k + 1) * outputs])
    asked = rows.asked_for(plans, moments)
    # The slow twin, entry by entry.
    for k, plan in enumerate(plans):
        expected = Moments(width, outputs)
        for x, y, side, added in seen:
            goals = y[:, k * outputs : (k + 1) * outputs].copy()
            for n, t in np.ndindex(*goals.shape):
                at = k * outputs + t
                given = plan.kernel[t].ravel() @ x[n, k * width : (k + 1) * width] + plan.convolutions[0].bias[t]
                u = slope[at] * given + added[n, at]
                if (side[n, at] < 0 and u <= cut.low) or (side[n, at] > 0 and u >= cut.high):
                    goals[n, t] = given
            expected.add(x[:, k * width : (k + 1) * width], goals)
        for name in ("square", "cross", "target_mean", "input_mean", "energy", "count"):
            assert np.allclose(getattr(asked[k], name), getattr(expected, name), rtol=1e-4, atol=1e-4), name
        assert not np.allclose(asked[k].cross, moments[k].cross, rtol=1e-2)


def test_rows_that_do_not_fit_into_memory_are_not_held(monkeypatch):
    monkeypatch.setattr("tensorchain.compression.onnx_cuts._HELD", 100)
    rows, x = CutRows(OnnxCut(RELU, "u"), 1), np.ones((10, 4))
    for _ in range(4):
        rows.add(x, x, np.zeros((10, 4), np.int8), (x, x))
        assert rows.asked_for([], []) is None
    assert rows.rows == []


def relu_network():
    """Two layers whose outputs are cut, one behind an addition, and a last one."""
    rng = np.random.default_rng(3)
    arrays = {
        name: rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) / 2)
        for name, shape in (("w1", (24, 4, 3, 3)), ("w2", (24, 24, 3, 3)), ("w3", (6, 24, 1, 1)))
    }
    arrays.update(b1=-0.8 * np.ones(24), b2=-0.8 * np.ones(24))
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        node("Conv", "x w1 b1", "a", name="first", **pads), node("Relu", "a", "s"),
        node("Conv", "s w2 b2", "c", name="second", **pads), node("Add", "c s", "d"), node("Relu", "d", "e"),
        node("Conv", "e w3", "z", name="last"),
    ]  # fmt: skip
    proto = model(nodes, **arrays)
    del proto.graph.node[0]
    return proto


def test_a_fit_that_asks_for_less_brings_the_outputs_nearer(monkeypatch):
    proto = relu_network()
    images = np.random.default_rng(1).standard_normal((160, 4, 16, 16)).cumsum(2).cumsum(3)[:, :, 10:, 10:]
    images = (images / images.std()).astype(np.float32)
    feeds = [{"x": images[k : k + 16]} for k in range(0, 160, 16)]
    errors = []
    for fits in (3, 1):
        monkeypatch.setattr(onnx_refit, "FITS", fits)
        small, _ = compress_onnx(
            proto, "tucker2", keep_macs=0.3, calibration=feeds[:6], candidates=4, stabilise=False, rng=0
        )
        errors.append(try_models(proto, small, feeds[6:]).outputs[0].error)
    assert errors[0] < 0.97 * errors[1]
