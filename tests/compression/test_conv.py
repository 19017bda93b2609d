"""Plans of small convolutions against the convolution with the composed kernel, and SS against Jacobians."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorchain.compression.conv import Convolution, Fold, Geometry, LayerPlan, Unfold, convolve
from tensorchain.compression.plans import kernel_tensor, plan_of, tensor_kernel, tucker_cp
from tensorchain.compression.sandwich import Sandwich
from tensorchain.models import CP, BlockTerm, TensorChain, Tucker

GEOMETRIES = [
    Geometry(),
    Geometry(padding=((1, 1), (1, 1))),
    Geometry(stride=(2, 2), padding=((1, 1), (1, 1))),
    Geometry(stride=(2, 1), padding=((0, 1), (2, 0)), dilation=(1, 2)),
    Geometry(stride=(3, 2), padding=((2, 2), (3, 1)), dilation=(2, 3)),
]
WINDOWS = [(3, 3), (1, 3), (5, 2), (1, 1)]


def models(window, rng):
    """Every model of a kernel with 5 inputs and 6 outputs."""
    taps = window[0] * window[1]
    shape = (5, taps, 6)
    yield "cp3", CP.random(shape, 4, rng)
    yield "tc", TensorChain.random(shape, (1, 3, 2), rng)
    yield "tucker2", Sandwich.random(shape, [(2, 3)], rng)
    yield "tucker2", Tucker.random(shape, (2, min(2, taps), 2), rng)
    if taps == 1:
        yield "svd", CP.random((5, 6), 3, rng)
        return
    yield "cp4", CP.random((5, *window, 6), 3, rng)
    yield "btd", Sandwich.random(shape, [(2, 3), (2, 3), (2, 3)], rng)
    yield "btd", BlockTerm.random(shape, [(2, 1, 3), (3, min(3, taps), 1)], rng)
    yield "tc", TensorChain.random(shape, (2, 3, 2), rng)


def twin(kernel, bias, geometry, images):
    """The convolution by scalar loops."""
    outputs, _, rows, columns = kernel.shape
    (top, bottom), (left, right) = geometry.padding
    height = (images.shape[2] + top + bottom - geometry.dilation[0] * (rows - 1) - 1) // geometry.stride[0] + 1
    width = (images.shape[3] + left + right - geometry.dilation[1] * (columns - 1) - 1) // geometry.stride[1] + 1
    result = np.zeros((len(images), outputs, height, width))
    for y, x, p, q in itertools.product(range(height), range(width), range(rows), range(columns)):
        row = geometry.stride[0] * y + geometry.dilation[0] * p - top
        column = geometry.stride[1] * x + geometry.dilation[1] * q - left
        if 0 <= row < images.shape[2] and 0 <= column < images.shape[3]:
            result[:, :, y, x] += images[:, :, row, column] @ kernel[:, :, p, q].T
    return result + bias[:, None, None]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_plan_equals_the_convolution_with_the_models_kernel(window, geometry):
    rng = np.random.default_rng(0)
    images, bias = rng.standard_normal((2, 5, 11, 13)), rng.standard_normal(6)
    for name, model in models(window, rng):
        plan = plan_of(model, window, geometry, bias)
        assert plan.method == name
        kernel = tensor_kernel(model.full(), window)
        expected = twin(kernel, bias, geometry, images)
        scale = np.abs(expected).max()
        assert np.allclose(plan.kernel, kernel, atol=1e-12 * np.abs(kernel).max())
        assert np.allclose(plan.apply(images), expected, atol=1e-12 * scale)
        assert np.allclose(plan.grouped().apply(images), expected, atol=1e-12 * scale)
        assert expected.shape[2:] == plan.output_size((11, 13))


@pytest.mark.parametrize(("ranks", "layers"), [((2, 3, 5), 5), ((4, 5, 3), 3), ((1, 5, 3), 4)])
def test_tucker_then_cp_merges_pointwise_layers_only_where_that_is_smaller(ranks, layers):
    rng = np.random.default_rng(1)
    a, b, r = ranks
    inputs, outputs = (16, 16) if layers == 5 else (5, 6)
    first, last, core = (
        rng.standard_normal((inputs, a)),
        rng.standard_normal((outputs, b)),
        CP.random((a, 9, b), r, rng),
    )
    plan = tucker_cp(first, core, last, (3, 3), GEOMETRIES[2], None)
    tensor = np.einsum("sa,ar,dr,br,tb->sdt", first, *core.factors, last)
    assert np.allclose(plan.kernel, tensor_kernel(tensor, (3, 3)))
    assert len(plan.steps) == layers


def test_parameters_and_macs_by_their_formulas():
    rng = np.random.default_rng(2)
    geometry = Geometry(stride=(2, 2), padding=((1, 1), (1, 1)))
    pixels, small = 14 * 14, 7 * 7
    chain = plan_of(TensorChain.random((16, 9, 32), (2, 3, 4), rng), (3, 3), geometry, np.zeros(32))
    assert chain.parameters == 2 * 3 * 16 + 9 * 3 * 4 + 2 * 4 * 32 + 32
    assert chain.macs((14, 14)) == pixels * 2 * 3 * 16 + small * (2 * 9 * 3 * 4 + 2 * 4 * 32)
    assert chain.grouped().macs((14, 14)) == chain.macs((14, 14))
    assert chain.grouped().parameters == chain.parameters + 9 * 3 * 4
    cp = plan_of(CP.random((16, 3, 3, 32), 5, rng), (3, 3), geometry)
    assert cp.parameters == 5 * (16 + 3 + 3 + 32)
    assert cp.macs((14, 14)) == 5 * (16 * pixels + 3 * 7 * 14 + 3 * small + 32 * small)
    svd = plan_of(CP.random((16, 32), 5, rng), (1, 1), Geometry(stride=(2, 2)))
    assert svd.macs((14, 14)) == small * 5 * (16 + 32)


def jacobian_energy(plan):
    """SS by finite steps along every stored number: exact, for the kernel is linear in each."""
    total = 0.0
    for k, step in enumerate(plan.steps):
        if not isinstance(step, Convolution):
            continue
        for position in np.ndindex(step.weight.shape):
            weight = step.weight.copy()
            weight[position] += 1.0
            steps = (*plan.steps[:k], Convolution(weight, step.geometry, step.groups), *plan.steps[k + 1 :])
            total += np.linalg.norm(LayerPlan("moved", None, steps).kernel - plan.kernel) ** 2
    return total


@pytest.mark.parametrize("window", [(3, 2), (1, 1)])
def test_sensitivity_of_a_plan_is_that_of_its_stored_numbers(window):
    rng = np.random.default_rng(3)
    for _, model in models(window, rng):
        plan = plan_of(model, window)
        assert plan.sensitivity() == pytest.approx(jacobian_energy(plan), rel=1e-9)
        assert plan.grouped().sensitivity() == pytest.approx(jacobian_energy(plan.grouped()), rel=1e-9)


def test_sensitivity_of_a_plan_is_that_of_the_model():
    rng = np.random.default_rng(4)
    for name, model in models((3, 2), rng):
        if type(model) not in (Tucker, BlockTerm):  # their spatial factor is no block of the layer
            assert plan_of(model, (3, 2)).sensitivity() == pytest.approx(model.sensitivity(), rel=1e-10), name
    plan = plan_of(model, (3, 2))
    assert plan.sensitivity(relative=True) == pytest.approx(model.sensitivity(relative=True))


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(2, 4))
def test_kernel_and_tensor_go_back_and_forth(outputs, inputs, rows, columns, order):
    kernel = np.random.default_rng(0).standard_normal((outputs, inputs, rows, columns))
    if order == 2 and rows * columns > 1:
        with pytest.raises(ValueError, match="no matrix"):
            kernel_tensor(kernel, order)
        return
    tensor = kernel_tensor(kernel, order)
    assert tensor.ndim == order
    assert np.array_equal(tensor_kernel(tensor, (rows, columns)), kernel)
    assert tensor.reshape(inputs, rows, columns, outputs)[-1, 0, -1, 0] == kernel[0, -1, 0, -1]


def test_grouped_reference_convolution_is_one_convolution_a_group():
    rng = np.random.default_rng(5)
    layer = Convolution(rng.standard_normal((6, 2, 3, 3)), GEOMETRIES[2], 3, rng.standard_normal(6))
    images = rng.standard_normal((2, 6, 7, 8))
    parts = [
        twin(
            layer.weight[2 * g : 2 * g + 2], layer.bias[2 * g : 2 * g + 2], layer.geometry, images[:, 2 * g : 2 * g + 2]
        )
        for g in range(3)
    ]
    assert np.allclose(convolve(images, layer), np.concatenate(parts, axis=1))


def test_folds_undo_each_other():
    images = np.random.default_rng(6).standard_normal((2, 6, 3, 3))
    assert np.array_equal(LayerPlan("fold", None, (Fold(3), Unfold(3))).apply(images), images)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Geometry(stride=(0, 1)), "at least 1"),
        (lambda: Geometry(padding=((0, -1), (0, 0))), "not negative"),
        (lambda: Geometry().output_size((3, 3), (2, 5)), "does not fit"),
        (lambda: kernel_tensor(np.zeros((2, 3, 4))), "is needed"),
        (lambda: kernel_tensor(np.zeros((2, 3, 3, 3)), 5), "2, 3 or 4"),
        (lambda: plan_of(CP.random((4, 9, 5), 2, 0), (2, 4)), "no kernel of 2 x 4"),
        (lambda: plan_of(CP.random((4, 3, 3, 5), 2, 0), (3, 4)), "no kernel of 3 x 4"),
        (lambda: convolve(np.zeros((1, 2, 4, 4)), Convolution(np.zeros((3, 5, 1, 1)))), "is needed"),
        (lambda: Sandwich([]), "no term"),
        (lambda: Sandwich([(np.ones((3, 2)), np.ones((9, 3, 2)), np.ones((4, 2)))]), "are needed"),
        (lambda: Sandwich.random((3, 9, 4), [(4, 2)]), "outside"),
        (
            lambda: LayerPlan("zero", None, (Convolution(np.zeros((2, 2, 1, 1))),)).sensitivity(relative=True),
            "undefined",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_other_models_have_no_layers():
    with pytest.raises(TypeError, match="has no layers"):
        plan_of(TensorChain.random((4, 3, 3, 5), 2, 0), (3, 3))
    with pytest.raises(TypeError, match="one pair per term"):
        Sandwich.random((3, 9, 4), 2)
