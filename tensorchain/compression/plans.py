"""From a decomposed kernel to the small convolutions that replace the layer.

A kernel W (T, S, D1, D2) is decomposed as the tensor (S, D1 D2, T) or (S, D1, D2, T).  Each model is a sandwich:

| model of the kernel      | layers                                                        | parameters               |
|--------------------------|---------------------------------------------------------------|--------------------------|
| CP, order 3              | S -> R, depthwise D1 x D2, R -> T                             | R (S + D1 D2 + T)        |
| CP, order 4              | S -> R, depthwise D1 x 1, depthwise 1 x D2, R -> T            | R (S + D1 + D2 + T)      |
| Tucker-2 (a, b)          | S -> a, D1 x D2 from a to b, b -> T                           | S a + D1 D2 a b + b T    |
| Tucker-2, CP of its core | S -> a -> R, depthwise, R -> b -> T | S a + R (a + D1 D2 + b) + b T |
| BTD, R terms (a, b)      | S -> R a, D1 x D2 in R groups from a to b, R b -> T           | R (S a + D1 D2 a b + b T) |
| TC (R1, R2, R3)          | S -> R1 R2, D1 x D2 from R2 to R3 in R1 folds, -> T | R1 R2 S + D1 D2 R2 R3 + R1 R3 T |
| SVD, 1 x 1 kernels       | S -> R, R -> T                                                | R (S + T)                |

Kernels over volumes (T, S, D1, D2, D3) have D1 D2 D3 taps in place of D1 D2; at order 4 the first axis is apart from
the other two.  For a transposed convolution the layer that carries the taps is transposed.

Source: design of the layers in Phan et al., "Stable low-rank tensor decomposition for compression of convolutional
neural network" (2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tensorchain.compression.conv import POINTWISE, Convolution, Fold, Geometry, LayerPlan, Sizes, Step, Unfold
from tensorchain.compression.sandwich import Sandwich
from tensorchain.kernels import Array
from tensorchain.models import CP, BlockTerm, Model, TensorChain, Tucker
from tensorchain.models.network import Network, Term


def kernel_tensor(kernel: Array, order: int = 3) -> Array:
    """The kernel (T, S, D1, ..) as a tensor: (S, T) at order 2, (S, all taps, T) at 3, (S, D1, other taps, T) at 4.

    Parameters
    ----------
    kernel : ndarray
        (T, S, D1, D2).
    order : int, default 3
        2, 3 or 4.

    Returns
    -------
    ndarray
        Without a copy where that can be.

    Examples
    --------
    >>> import numpy as np
    >>> kernel_tensor(np.zeros((8, 4, 3, 5))).shape, kernel_tensor(np.zeros((8, 4, 3, 5, 5)), order=4).shape
    ((4, 15, 8), (4, 3, 25, 8))
    """
    if kernel.ndim not in (4, 5):
        raise ValueError(f"the kernel has shape {kernel.shape}; (T, S, D1, D2), or one axis more, is needed")
    outputs, inputs, rows, *rest = kernel.shape
    columns = math.prod(rest)
    if order == 2 and rows * columns != 1:
        raise ValueError(f"a kernel of {rows * columns} taps is no matrix; use order 3 or 4")
    shapes = {2: (inputs, outputs), 3: (inputs, rows * columns, outputs), 4: (inputs, rows, columns, outputs)}
    if order not in shapes:
        raise ValueError(f"order is {order}; 2, 3 or 4 is needed")
    return np.ascontiguousarray(np.moveaxis(kernel, 0, -1).reshape(shapes[order]))


def tensor_kernel(tensor: Array, window: Sizes) -> Array:
    """The kernel (T, S, D1, ..) of a tensor that `kernel_tensor` made.

    Parameters
    ----------
    tensor : ndarray
        As `kernel_tensor` makes it.
    window : Sizes
        (D1, D2).

    Returns
    -------
    ndarray
        (T, S, D1, D2).

    Examples
    --------
    >>> import numpy as np
    >>> tensor_kernel(np.zeros((4, 15, 8)), (3, 5)).shape
    (8, 4, 3, 5)
    """
    whole = tensor.reshape(len(tensor), *window, tensor.shape[-1])
    return np.ascontiguousarray(np.moveaxis(whole, -1, 0))


def plan_of(
    model: Model,
    window: Sizes,
    geometry: Geometry = POINTWISE,
    bias: Array | None = None,
) -> LayerPlan:
    """The small convolutions of a decomposed kernel.

    Parameters
    ----------
    model : Model
        `CP` of order 2, 3 or 4; `Sandwich`, `BlockTerm` or `TensorChain` of order 3; `Tucker` of order 3.
    window : Sizes
        (D1, D2) of the kernel, or (D1, D2, D3).
    geometry : Geometry, optional
        Of the layer that is replaced.
    bias : ndarray, optional
        Of the layer that is replaced.

    Returns
    -------
    LayerPlan
        In the order of their application.

    Raises
    ------
    TypeError
        When the model is none of these.
    ValueError
        When the model does not fit the window.

    Examples
    --------
    >>> import tensorchain as tc
    >>> chain = tc.TensorChain.random((16, 9, 32), (2, 4, 5), rng=0)
    >>> plan = plan_of(chain, (3, 3))
    >>> [step.weight.shape for step in plan.convolutions], plan.kernel.shape
    ([(8, 16, 1, 1), (5, 4, 3, 3), (32, 10, 1, 1)], (32, 16, 3, 3))
    """
    expected = {2: (), 3: (math.prod(window),), 4: (window[0], math.prod(window[1:]))}.get(model.order)
    if expected is None or tuple(model.shape[1:-1]) != expected:
        raise ValueError(f"a model of shape {model.shape} is no kernel of {' x '.join(map(str, window))} taps")
    if isinstance(model, CP) and model.order == 2:
        return _svd(model, geometry, bias)
    if isinstance(model, CP):
        return _cp(model, window, geometry, bias)
    if isinstance(model, Tucker):
        model = BlockTerm([model])
    if isinstance(model, BlockTerm) and model.order == 3:
        terms = [
            (term.factors[0], np.einsum("ajb,dj->dab", term.core, term.factors[1]), term.factors[2])
            for term in model.terms
        ]
        model = Sandwich(terms)
    if isinstance(model, Sandwich):
        return _sandwich(model, window, geometry, bias)
    if isinstance(model, TensorChain) and model.order == 3:
        return _chain(model, window, geometry, bias)
    raise TypeError(f"a {type(model).__name__} of order {model.order} has no layers; use CP, BlockTerm or TensorChain")


def _svd(model: CP, geometry: Geometry, bias: Array | None) -> LayerPlan:
    first, last = model.factors
    axes, trivial = len(geometry.stride), Geometry.trivial(len(geometry.stride))
    # The layer with the smaller image does the stride, so that the other computes only what is needed.
    at = (trivial, geometry) if geometry.transposed else (geometry, trivial)
    steps = (Convolution(_point(first.T, axes), at[0]), Convolution(_point(last, axes), at[1], bias=bias))
    return LayerPlan("svd", model.rank, steps)


def _cp(model: CP, window: Sizes, geometry: Geometry, bias: Array | None) -> LayerPlan:
    first, *spatial, last = model.factors
    if model.order == 3:
        middle = [Convolution(spatial[0].T.reshape(-1, 1, *window), geometry, model.rank)]
    else:
        middle = [
            Convolution(
                spatial[0].T.reshape(-1, 1, window[0], *[1] * (len(window) - 1)), geometry.along(0), model.rank
            ),
            Convolution(
                spatial[1].T.reshape(-1, 1, 1, *window[1:]), geometry.along(*range(1, len(window))), model.rank
            ),
        ]
    steps = (_pointwise(first.T, window), *middle, _pointwise(last, window, bias))
    return LayerPlan(f"cp{model.order}", model.rank, steps)


def _sandwich(model: Sandwich, window: Sizes, geometry: Geometry, bias: Array | None) -> LayerPlan:
    """One group a term; terms of unequal ranks are filled up with zeros, as a grouped convolution needs."""
    inner, outer = max(a for a, _ in model.rank), max(b for _, b in model.rank)
    groups = len(model.rank)
    first = np.zeros((groups, inner, model.shape[0]), model.dtype)
    core = np.zeros((groups, outer, inner, *window), model.dtype)
    last = np.zeros((model.shape[2], groups, outer), model.dtype)
    for r, (left, spatial, right) in enumerate(model.terms):
        a, b = spatial.shape[1:]
        first[r, :a] = left.T
        core[r, :b, :a] = spatial.transpose(2, 1, 0).reshape(b, a, *window)
        last[:, r, :b] = right
    steps = (
        _pointwise(first.reshape(groups * inner, -1), window),
        Convolution(core.reshape(groups * outer, inner, *window), geometry, groups),
        _pointwise(last.reshape(-1, groups * outer), window, bias),
    )
    return LayerPlan("tucker2" if groups == 1 else "btd", model.rank, steps)


def _chain(model: TensorChain, window: Sizes, geometry: Geometry, bias: Array | None) -> LayerPlan:
    first, core, last = model.cores
    folds, inner, outer = model.bonds
    steps: list[Step] = [
        _pointwise(first.transpose(0, 2, 1).reshape(folds * inner, -1), window),
        Fold(folds),
        Convolution(core.transpose(2, 0, 1).reshape(outer, inner, *window), geometry),
        Unfold(folds),
        _pointwise(last.transpose(1, 2, 0).reshape(-1, folds * outer), window, bias),
    ]
    if folds == 1:
        steps = [step for step in steps if isinstance(step, Convolution)]
    return LayerPlan("tc", model.bonds, tuple(steps))


def tucker_cp(first: Array, core: CP, last: Array, window: Sizes, geometry: Geometry, bias: Array | None) -> LayerPlan:
    """The layers of a Tucker-2 with factors (S, a) and (T, b) whose core (a, D, b) is a CPD.

    Two pointwise layers in a row become one where that holds fewer numbers.
    """
    inner, spatial, outer = core.factors
    before = [_pointwise(matrix, window) for matrix in _chained([first.T, inner.T])]
    behind = [_pointwise(matrix, window) for matrix in _chained([outer, last])]
    behind[-1] = replace(behind[-1], bias=bias)
    middle = Convolution(spatial.T.reshape(-1, 1, *window), geometry, core.rank)
    return LayerPlan("tucker-cp", (first.shape[1], last.shape[1], core.rank), (*before, middle, *behind))


def tucker_cp_model(plan: LayerPlan) -> Model:
    """The layers of a plan that `tucker_cp` made as blocks of one model of the tensor (S, D1 D2, T)."""
    matrices = [layer.weight.reshape(len(layer.weight), -1) for layer in plan.convolutions]
    before, terms = _before(plan), plan.rank[2]
    behind = len(matrices) - before - 1
    sizes = tuple(zip("klr", (plan.rank[0], plan.rank[1], terms), strict=True))
    first = (("r",), (0,)) if before == 1 else (("k", "kr"), (0, None))
    last = (("r",), (2,)) if behind == 1 else (("rl", "l"), (None, 2))
    bonds, modes = (*first[0], "r", *last[0]), (*first[1], 1, *last[1])
    used = tuple(pair for pair in sizes if any(pair[0] in letters for letters in bonds))
    blocks = []
    for k, (matrix, mode) in enumerate(zip(matrices, modes, strict=True)):
        block = matrix if k > before and mode is not None else matrix.T
        blocks.append(np.ascontiguousarray(block if mode is not None else block.reshape(1, -1)))
    return Model.from_matrices(Network((Term(bonds, used),), modes), blocks)


def with_tucker_cp_model(plan: LayerPlan, model: Model) -> LayerPlan:
    """The plan with the blocks of a model that `tucker_cp_model` made as its weights."""
    before, steps = _before(plan), []
    for k, (layer, block, mode) in enumerate(zip(plan.convolutions, model.matrices, model.network.modes, strict=True)):
        outputs = len(layer.weight)
        matrix = block if k > before and mode is not None else block.reshape(-1, outputs).T
        steps.append(replace(layer, weight=np.ascontiguousarray(matrix).reshape(layer.weight.shape)))
    return replace(plan, steps=tuple(steps))


def _before(plan: LayerPlan) -> int:
    """Pointwise layers before the depthwise one: two, unless their product is smaller."""
    inputs, (rank, _, terms) = plan.convolutions[0].inputs, plan.rank
    return 1 if terms * inputs < rank * (inputs + terms) else 2


def _chained(matrices: Sequence[Array]) -> list[Array]:
    """Matrices applied one after the other, or their product if it is smaller."""
    product = matrices[1] @ matrices[0]
    return [product] if product.size < sum(matrix.size for matrix in matrices) else list(matrices)


def _point(matrix: Array, axes: int) -> Array:
    """A pointwise kernel (outputs, inputs, 1, ..)."""
    return np.ascontiguousarray(matrix).reshape(*matrix.shape, *[1] * axes)


def _pointwise(matrix: Array, window: Sizes, bias: Array | None = None) -> Convolution:
    """A pointwise convolution beside one of as many axes as the window."""
    return Convolution(_point(matrix, len(window)), Geometry.trivial(len(window)), bias=bias)
