"""The smallest ONNX model within a bound on its outputs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tensorchain.compression import compress_onnx_within, try_models
from tensorchain.compression.onnx_session import OnnxSession
from tests.cases import mostly_slow


def classifier(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"w1": (16, 6, 3, 3), "w2": (20, 16, 3, 3), "w3": (20, 5)}
    weights = [
        numpy_helper.from_array((rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32), n)
        for n, s in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["c"], strides=[2, 2]),
        helper.make_node("ReduceMean", ["c"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["m", "w3"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ("n", 6, 11, 11)), ("y", None))]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def feeds(seed=1, count=3):
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((20, 6, 11, 11)).astype(np.float32).cumsum(2).cumsum(3)} for _ in range(count)]


@pytest.mark.parametrize("by", mostly_slow(["macs", "params"]))
def test_the_bound_holds_and_a_tighter_one_costs_more(by):
    original, given, sizes = classifier(), feeds(), []
    for bound in (0.3, 0.15):
        small, report = compress_onnx_within(
            original, "svd", calibration=given, max_output_error=bound, by=by, trials=5, candidates=4
        )
        assert try_models(original, small, given, runs=1).outputs[0].error <= bound
        accepted = [step for step in report.steps if step.accepted]
        assert min(step.share for step in accepted) == accepted[-1].share
        pair = report.macs if by == "macs" else report.parameters
        sizes.append(pair[1] / pair[0])
    assert sizes[0] < sizes[1] < 1.0


def test_agreement_on_inputs_of_its_own():
    original, fresh = classifier(), feeds(2)
    small, report = compress_onnx_within(
        original, "svd", calibration=feeds(), min_agreement=0.9, measured_on=fresh, trials=4, candidates=4
    )
    both = [np.concatenate([OnnxSession(m).run(f)["y"] for f in fresh]).argmax(1) for m in (original, small)]
    assert np.mean(both[0] == both[1]) >= 0.9
    assert report.macs[1] < report.macs[0]


def test_what_is_wrong_is_said():
    original, given = classifier(), feeds(count=1)
    with pytest.raises(ValueError, match=r"no trial holds max_output_error=1e-06; at a share of "):
        compress_onnx_within(original, "svd", calibration=given, max_output_error=1e-6, trials=2, candidates=3)
    with pytest.raises(ValueError, match="give one of"):
        compress_onnx_within(original, calibration=given)
    with pytest.raises(ValueError, match=r"min_agreement is 1\.5"):
        compress_onnx_within(original, calibration=given, min_agreement=1.5)
    with pytest.raises(ValueError, match="by is 'bytes'"):
        compress_onnx_within(original, calibration=given, min_agreement=0.5, by="bytes")
