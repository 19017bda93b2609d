"""What is chosen by calibration inputs that were not fitted: ridges, covariances, layers to be fitted; and gains."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import multivariate_normal

from tensorchain.compression import fit_kernel
from tensorchain.compression.conv import Convolution, LayerPlan
from tensorchain.compression.held_out import RIDGES, Halves, refit_held_out
from tensorchain.compression.onnx_gains import gains_of
from tensorchain.compression.onnx_layers import layers_of
from tensorchain.compression.onnx_refit import Judge
from tensorchain.compression.onnx_session import OnnxSession
from tensorchain.compression.onnx_trial import error_of_outputs
from tensorchain.compression.patches import SHARES, shrunk
from tensorchain.compression.refit import Moments


def rows(count, inputs, seed, spread=2.0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, inputs)) * np.geomspace(1.0, 10.0**-spread, inputs)


def halves_of(x, y):
    found = Halves(x.shape[1], y.shape[1])
    for turn, part in enumerate(np.split(np.arange(len(x)), 2)):
        found.add(x[part], y[part], turn=turn, turns=2)
    return found


@pytest.mark.parametrize("count", [40, 4000])
def test_the_ridge_is_the_best_for_the_other_half(count):
    kernel = np.random.default_rng(0).standard_normal((4, 30, 1, 1))
    x = rows(count, 30, 1)
    # The true weights are near to the kernel, but for directions that vary much.
    truth = kernel.reshape(4, 30) + np.where(np.arange(30) < 5, 1.0, 0.0)
    y = x @ truth.T + 0.3 * np.random.default_rng(2).standard_normal((count, 4))
    halves = halves_of(x, y)
    plan = LayerPlan("dense", None, (Convolution(kernel),))
    whole, half, chosen = refit_held_out(plan, kernel, halves)
    # The slow twin: ridge regression towards the kernel on rows, for each ridge.
    first, second = (slice(0, count // 2), slice(count // 2, None))
    start, errors, found = kernel.reshape(4, 30), [], []
    for ridge in RIDGES:
        mx, my = x[first].mean(0), y[first].mean(0)
        a, b = x[first] - mx, y[first] - my
        strength = ridge * np.mean(np.sum(a * a, axis=0))
        weight = start + np.linalg.solve(a.T @ a + strength * np.eye(30), a.T @ (b - a @ start.T)).T
        errors.append(np.sum((y[second] - my - (x[second] - mx) @ weight.T) ** 2))
        found.append(weight)
    best = int(np.argmin(errors))
    assert chosen == RIDGES[best]
    assert np.allclose(half.kernel.reshape(4, 30), found[best], atol=1e-8)
    gaps = [np.linalg.norm((one.reshape(4, 30) - truth) * np.std(x, axis=0)) for one in (kernel, whole.kernel)]
    assert gaps[1] < 0.5 * gaps[0]
    assert RIDGES[0] < RIDGES[best] < RIDGES[-1]


def test_plans_of_several_convolutions_and_single_batches_are_fitted_too():
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((6, 4, 3, 3))
    plan = fit_kernel(kernel, "tucker2", (2, 3)).plan
    x = rng.standard_normal((4000, 36)) * np.linspace(0.1, 3.0, 36)
    y = x @ kernel.reshape(6, 36).T
    halves = Halves(36, 6)
    halves.add(x, y, turn=0, turns=1)
    assert (halves.first.count, halves.second.count) == (2000, 2000)
    whole = Moments(36, 6)
    whole.add(x, y)
    assert np.allclose(halves.whole.square, whole.square)
    assert np.allclose(halves.whole.cross, whole.cross)
    better = refit_held_out(plan, kernel, halves)[0]
    errors = [whole.relative_error(p.kernel.reshape(6, 36)) for p in (plan, better)]
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("count", [8, 30, 3000])
def test_a_covariance_is_drawn_to_the_identity_as_far_as_the_likelihood_of_other_samples_rises(count):
    x = rows(2 * count, 12, 0, spread=1.0)
    halves = [part.T @ part / count for part in (x[:count], x[count:])]
    found = shrunk(sum(halves) / 2.0, *halves)
    mean = np.trace(halves[0]) / 12 * np.eye(12)
    likelihoods = []
    for share in SHARES:
        normal = multivariate_normal(np.zeros(12), (1.0 - share) * halves[0] + share * mean, allow_singular=False)
        likelihoods.append(float(np.mean(normal.logpdf(x[count:]))))
    best = next((k for k in range(len(SHARES) - 1) if likelihoods[k + 1] <= likelihoods[k]), len(SHARES) - 1)
    whole = sum(halves) / 2.0
    share = SHARES[best]
    assert np.allclose(found, (1.0 - share) * whole + share * np.trace(whole) / 12 * np.eye(12))
    assert np.linalg.eigvalsh(found)[0] > 0.0


def network(last="Identity"):
    """Two convolutions with something between them."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w1", (6, 3, 3, 3)), ("b1", (6,)), ("w2", (4, 6, 1, 1)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node(last, ["a"], ["b"]), helper.make_node("Conv", ["b", "w2"], ["y"], name="second"),
    ]  # fmt: skip
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, 8, 8))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 4, 8, 8))
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def feeds_of(count, images=2):
    return [{"x": np.random.default_rng(k).standard_normal((images, 3, 8, 8)).astype(np.float32)} for k in range(count)]


def test_gains_are_relative_errors_of_the_outputs():
    proto, feeds = network(), feeds_of(2, images=30)
    layers = layers_of(proto, {}, feeds[0])
    gains = gains_of(proto, layers, feeds)
    # The last layer is the output, moved channel by channel: its gain is 1 whatever the signs.
    assert gains["second"] == pytest.approx(1.0, rel=0.02)
    # Before it stands a matrix: with random signs the mean gain over draws is that of an error like the values.
    session = OnnxSession(proto, ["a"])
    a = np.concatenate([session.run(feed, ["a"])["a"] for feed in feeds]).swapaxes(0, 1).reshape(6, -1)
    a = a - a.mean(1, keepdims=True)
    matrix = layers[1].site.kernel.reshape(4, 6).astype(float)
    signs = 0.2 * np.random.default_rng(0).choice([-1.0, 1.0], 6)
    change, values = matrix @ (signs[:, None] * a), matrix @ a
    expected = np.sqrt(np.mean(np.sum(change**2, axis=1) / np.sum(values**2, axis=1))) / 0.2
    assert gains["first"] == pytest.approx(expected, rel=0.05)


def test_layers_behind_which_nothing_answers_have_small_gains_or_none():
    proto, feeds = network(), feeds_of(2, images=4)
    layers = layers_of(proto, {}, feeds[0])
    # The output is a whole number, which no error of a layer moves by parts.
    del proto.graph.output[:]
    proto.graph.node.append(helper.make_node("ArgMax", ["y"], ["n"], axis=1))
    proto.graph.output.append(helper.make_tensor_value_info("n", TensorProto.INT64, None))
    assert gains_of(proto, layers, feeds) == {}
    # The second layer is seen, the first one only through a gate that is shut.
    proto = network("Mul")
    proto.graph.node[1].input.append("shut")
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "shut"))
    nodes = [helper.make_node("Conv", ["x", "w3"], ["c"], name="third"), helper.make_node("Add", ["y", "c"], ["z"])]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w3"))
    proto.graph.output[0].name = "z"
    gains = gains_of(proto, layers_of(proto, {}, feeds[0]), feeds)
    assert gains["third"] == pytest.approx(1.0, rel=0.15)
    assert gains["first"] == gains["second"] == pytest.approx(1e-3 * gains["third"])


def test_channels_of_an_output_are_measured_by_what_they_vary_themselves():
    rng = np.random.default_rng(0)
    y = rng.standard_normal((20, 3, 7)) * np.array([100.0, 0.01, 0.0])[:, None] + 5.0
    z = y + rng.standard_normal(y.shape) * np.array([1.0, 0.005, 0.0])[:, None]
    ratios = [np.sum((z - y)[:, k] ** 2) / np.sum((y - y.mean(0))[:, k] ** 2) for k in range(2)]
    halves = [[{"y": one[:10]}, {"y": one[10:]}] for one in (y, z)]
    assert error_of_outputs(*halves) == pytest.approx(np.sqrt(np.mean(ratios)))
    # Outputs count alike, and those that are no real numbers not at all.
    both = [[{"y": one, "flat": two, "n": np.arange(3)}] for one, two in ((y, y[:, 0, 0]), (z, z[:, 0, 0]))]
    flat = np.sum((z - y)[:, 0, 0] ** 2) / np.sum((y - 0.0)[:, 0, 0] ** 2)
    assert error_of_outputs(*both) == pytest.approx(np.sqrt((np.mean(ratios) + flat) / 2.0))
    # Runs of several lengths have no mean of each entry.
    runs = [[{"y": one[:, :, :4]}, {"y": one[:, :, 4:]}] for one in (y, z)]
    assert error_of_outputs(*runs) == pytest.approx(np.linalg.norm(z - y) / np.linalg.norm(y))


def test_layers_that_need_no_fit_are_judged_by_outputs():
    proto, feeds = network("Relu"), feeds_of(4)
    original = OnnxSession(proto)
    judge = Judge.of(original, feeds, 4)
    assert [list(feed) for feed in judge.feeds] == [["x"], ["x"]]
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(judge.feeds, feeds[1::2], strict=True))
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    opened = OnnxSession(proto, open_constants=["w1", "b1", "w2"])
    spoilt = {**weights, "w2": 0.5 * weights["w2"]}
    assert judge.measured(opened, weights) < 1e-6
    assert judge.better(opened, spoilt, {"w2": 0.8 * weights["w2"]})
    assert not judge.better(opened, {**spoilt, "w2": 0.8 * weights["w2"]}, {"w2": 0.7 * weights["w2"]})
    judge.passed()
    assert judge.error is None
