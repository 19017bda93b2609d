"""How ill-conditioned is it to recover the blocks from the tensor, modulo gauge.

**CP.**  The published condition number of the rank decomposition: with U_r an orthonormal basis of the tangent
space, at the term a_r o b_r o c_r, of the set of rank-1 tensors,

    kappa = 1 / sigma_min([U_1 ... U_R])            (the Terracini matrix),

the largest factor, to first order, by which a change of X moves the rank-1 terms.  It depends on the directions of the
columns only.  For columns of unit norm J has the same range in each term; there the scale direction q_r, all factors of
term r stretched together, is counted with sqrt(N), so that U is J (I - sum_r (1 - 1/sqrt(N)) q_r q_r^H)
in other coordinates, and no basis needs to be formed.

**Every other model** is a single term, or terms that are not unique, and has no such number.  What is reported
is the relative condition number of the map from X to the blocks, each block measured by its own norm,

    kappa = sup sqrt(sum_k (||dB_k|| / ||B_k||)^2) / (||dX|| / ||X||) = ||X'|| / sigma_min(J'),

the change of the blocks being the least that gives dX, modulo gauge; X' and J' belong to the blocks divided by
their norms.  It is taken in the gauge of least sensitivity (`optimal_gauge`), which is unique up to unitary
matrices and numbers carried from block to block; neither changes kappa, so it belongs to the tensor and the
wiring: it depends neither on the gauge of the model nor on the scale of X.

**Data with gaps.**  Where a tensor is given of which entries are missing or weigh more, W^(1/2) J takes the place of J:
kappa then is for a change of the observed entries, measured with their weights, and ||X'|| is over these.

Both are infinite where J has null vectors beyond the gauge: the blocks are not identifiable.  Zero means below
1e-7 of the largest singular value if only J^H J could be formed, else below 1e-13 or so.

References: Breiding, Vannieuwenhoven, "The condition number of join decompositions", SIAM J. Matrix Anal. Appl.
(2018); Vannieuwenhoven, "Condition numbers for the tensor rank decomposition", Linear Algebra Appl. (2017).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorchain import kernels
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.models.network import Network
from tensorchain.stability.gauge import optimal_gauge
from tensorchain.stability.jacobian import compress, observed_values, outside_spectrum, spectrum
from tensorchain.stability.scales import common_scale, double_precision, ldexp, takes_fits, unit_blocks
from tensorchain.tensors import Tensor, as_tensor


@takes_fits
def condition_number(model: Model, tensor: Any = None) -> float:
    """Condition number of the decomposition, modulo gauge; infinite where the blocks are not identifiable.

    Parameters
    ----------
    model : Model
        Any model.  CP: the condition number of Breiding and Vannieuwenhoven, at least 1.  Others: the relative
        condition number of the blocks, each measured by its own norm, in the gauge of least sensitivity.
    tensor : array_like or Tensor, optional
        What the model was fitted to.  Where entries of it are missing, or have weights, the condition number is that of
        recovering the blocks from the entries that are observed; of complete data only the shape counts.

    Returns
    -------
    float
        A number that does not depend on the scale or the gauge of the model.  For a CPD of order 2 and rank above 1 it
        is infinite: a sum of rank-1 matrices is never unique.

    Raises
    ------
    TypeError
        When `model` is no model.
    ValueError
        When it holds NaN or infinity, or has more than 4000 parameters after compression of its tall blocks (before it,
        where entries are missing), or when the shapes differ.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> orthogonal = tc.CP([np.eye(3)] * 3)
    >>> round(tc.condition_number(orthogonal), 9)
    1.0
    >>> close = np.array([[1.0, 1.0], [0.0, 0.01]])
    >>> tc.condition_number(tc.CP([close] * 3)) > 100.0
    True

    Three entries determine a matrix of rank 1, less well than four:

    >>> ones = tc.CP([np.ones((2, 1))] * 2)
    >>> [round(tc.condition_number(ones, tc.Masked(np.array([[1, 1], [1, x]]))), 2) for x in (1.0, np.nan)]
    [1.0, 2.0]
    """
    checked, _ = unit_blocks(double_precision(model))
    observed = _observed(checked, tensor)
    if any(not matrix.any() for matrix in checked.matrices):
        return math.inf
    minimum = _terracini_minimum if is_canonical(checked.network) else _relative_minimum
    smallest = minimum(checked, observed)
    return 1.0 / smallest if smallest > 0.0 else math.inf


@takes_fits
def jacobian_singular_values(model: Model, tensor: Any = None) -> Array:
    """Singular values of J in the gauge of the model, decreasing, without the zeros that belong to the gauge.

    Parameters
    ----------
    model : Model
        Any model, with n parameters and gauge dimension g.
    tensor : array_like or Tensor, optional
        What the model was fitted to: where entries of it are missing, or have weights W, the values are those of
        W^(1/2) J, without the rows of J that are missing.  Zeros then are directions that the data do not determine.

    Returns
    -------
    ndarray
        (n - g,).  Zeros that remain are directions beyond the gauge in which X does not move.  Their squares sum to the
        sensitivity.

    Raises
    ------
    TypeError
        As `condition_number`.
    ValueError
        As `condition_number`.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> product = tc.CP([3.0 * np.ones((1, 1)), 4.0 * np.ones((1, 1))])  # x y: gradient (4, 3)
    >>> tc.jacobian_singular_values(product)
    array([5.])
    """
    unit, exponent = common_scale(double_precision(model))
    return ldexp(_values(unit, unit.gauge_dimension, _observed(unit, tensor)), (len(unit.matrices) - 1) * exponent)


def is_canonical(network: Network) -> bool:
    """Whether this is the wiring of a CPD: one index shared by all blocks, each with a mode."""
    bonds = network.terms[0].bonds
    alone = len(network.terms) == 1 and all(mode is not None for mode in network.modes)
    return alone and len(bonds[0]) == 1 and len(set(bonds)) == 1


def _observed(model: Model, tensor: Any) -> Tensor | None:
    """The data, where not all of them are seen alike."""
    if tensor is None:
        return None
    data = as_tensor(tensor)
    if data.shape != model.shape:
        raise ValueError(f"the model has shape {model.shape} and the tensor {data.shape}; they must be equal")
    return None if data.complete else data


def _values(model: Model, gauge: int, observed: Tensor | None, taper: Array | None = None) -> Array:
    """Singular values of J (I - V V^H) modulo gauge, of the whole model, decreasing.

    `taper` is V, (n, r): for the compressed model where all entries are seen.
    """
    if observed is not None:
        return observed_values(model, observed, gauge, taper=taper)
    compressed = compress(model)
    inside = spectrum(compressed.small, gauge, taper=taper).values
    outside = [
        np.repeat(outside_spectrum(compressed, k).values, compressed.outside(k))
        for k in range(len(compressed.small.matrices))
    ]
    return np.sort(np.concatenate([inside, *outside]))[::-1]


def _terracini_minimum(model: Model, observed: Tensor | None) -> float:
    """Smallest singular value of [U_1 ... U_R]."""
    sizes = [np.array([kernels.norm(column) for column in matrix.T]) for matrix in model.matrices]
    if any(np.any(size == 0.0) for size in sizes):
        return 0.0
    unit = model.with_matrices([matrix / size for matrix, size in zip(model.matrices, sizes, strict=True)])
    compressed = unit if observed is not None else compress(unit).small
    order, rank = unit.order, unit.network.widths[0]
    # Column r holds factor column r, in its place among the flattened rows: (c, R, R) to (c R, R).
    directions = [(matrix[:, :, None] * np.eye(rank)).reshape(matrix.size, rank) for matrix in compressed.matrices]
    stretch = np.concatenate(directions) / math.sqrt(order)
    # W W^H = (1 - 1/sqrt(N)) sum_r q_r q_r^H
    taper = stretch * math.sqrt(1.0 - 1.0 / math.sqrt(order))
    values = _values(unit, rank * (order - 1), observed, taper)
    return float(values[-1])


def _relative_minimum(model: Model, observed: Tensor | None) -> float:
    """sigma_min(J') / ||X'|| for blocks of unit norm, in the gauge of least sensitivity."""
    balanced = optimal_gauge(model)
    unit = balanced.with_matrices([matrix / kernels.norm(matrix) for matrix in balanced.matrices])
    size = unit.norm() if observed is None else _observed_norm(unit, observed)
    values = _values(unit, unit.gauge_dimension, observed)
    return float(values[-1]) / size if values.size and size > 0.0 else 0.0


def _observed_norm(model: Model, observed: Tensor) -> float:
    """||X||_W = ||T - X||_W for a T of zeros; X is J times a block."""
    steps = [model.matrices[0], *(np.zeros_like(matrix) for matrix in model.matrices[1:])]
    square = np.vdot(model.matrices[0], observed.gauss_newton_matvec(model, steps)[0])
    return math.sqrt(max(float(square.real), 0.0))
