"""How the blocks of a fit move when the tensor does: T -> T + dT, to first order, gauge fixed.

At a stationary point of ||T - X(theta)||^2, with e = T - X, J^H e = 0.  Differentiating,

    J^H J dtheta - S conj(dtheta) = J^H dT,          S[a, b] = < d^2 X / dtheta_a dtheta_b, e >,

with <x, y> = sum conj(x) y.  S vanishes where the fit is exact, which leaves the least-squares solution
dtheta = J^+ dT; elsewhere it is what Gauss-Newton leaves out, and the answer is wrong without it.  Since X is linear in
each block, S has no blocks on its diagonal, and S_km is e contracted with all blocks but k and m.

The matrix is singular along the gauge directions, along which the objective is constant.  The equations are solved on
the orthogonal complement of these, so dtheta has minimum norm among all responses that differ by gauge.  For complex
blocks S couples dtheta to its conjugate and real and imaginary parts are solved for together.

Cost: (n - g)^3 for n parameters (8 times as much when complex), and one contraction of e for each pair of blocks.

Reference: the implicit function theorem; Fletcher, "Practical Methods of Optimization" (1987), section 6.1, for the
residual term.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy

from tensorchain import kernels
from tensorchain.kernels import Array, contract
from tensorchain.models import Model
from tensorchain.stability.gauge_tangent import gauge_complement
from tensorchain.stability.jacobian import DENSE_LIMIT
from tensorchain.stability.perturbation import split_flat
from tensorchain.stability.scales import common_scale, double_precision, largest, ldexp, takes_fits
from tensorchain.tensors import Dense, as_tensor

_STATIONARY = 1e-3
"""Largest Newton step to the stationary point, relative to ||theta||, of a model taken for stationary."""
_SINGULAR = 1e-13


@takes_fits
def block_response(model: Model, change: Any, tensor: Any = None) -> list[Array]:
    """First-order change of the blocks of a least-squares fit when the tensor changes by `change`.

    Parameters
    ----------
    model : Model
        The fit: a stationary point of ||T - X||.
    change : array_like
        DT, array (or dense data source) of the shape of the model.
    tensor : array_like or Tensor, optional
        T, where the fit is not exact; None for an exact fit, T = X.

    Returns
    -------
    list of ndarray
        Changes of the blocks in their natural shapes, in double precision: d theta of minimum norm among those that
        differ by gauge.  Refitting T + h dT gives theta + h dtheta + O(h^2), up to gauge.

    Raises
    ------
    TypeError
        When `model` is no model.
    ValueError
        When a shape differs from that of the model, the model is not a stationary point for `tensor`, T does not
        determine the blocks up to gauge, or the model has more than 4000 parameters.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> model = tc.CP([np.array([[2.0], [0.0]]), np.array([[2.0], [0.0]])])  # X = 4 e_1 e_1'
    >>> change = np.array([[0.0, 0.0], [1.0, 0.0]])
    >>> left, right = tc.block_response(model, change)
    >>> left.ravel(), right.ravel()
    (array([0. , 0.5]), array([0., 0.]))
    """
    unit, exponent = common_scale(double_precision(model))
    # Data scale with the K-th power of the blocks.
    shift = -len(unit.matrices) * exponent
    direction = _dense("change", change, unit)
    size = largest(direction)
    if size == 0.0:
        return [np.zeros(block.shape, dtype=unit.dtype) for block in unit.blocks]
    residual = None if tensor is None else ldexp(_dense("tensor", tensor, unit), shift) - unit.full()
    # The response is linear in the change: any scale of it will do.
    power = int(np.frexp(size)[1])
    direction = ldexp(direction, -power)
    dtype = np.result_type(unit.dtype, direction, *([] if residual is None else [residual]))
    direction = direction.astype(dtype, copy=False)
    equations = _Equations(unit.astype(dtype), residual)
    if residual is not None:
        equations.check_stationary(residual)
    flat = equations.solve(direction)
    blocks = split_flat(unit, ldexp(flat, exponent + shift + power))
    return [unit._to_block(k, block) for k, block in enumerate(blocks)]


class _Equations:
    """The equations above on the complement of the gauge directions, diagonalised once."""

    def __init__(self, model: Model, residual: Array | None) -> None:
        if model.n_parameters > DENSE_LIMIT:
            raise ValueError(f"the model has {model.n_parameters} parameters; at most {DENSE_LIMIT} are supported")
        self.model = model
        self.complex = model.dtype.kind == "c"
        gram = model.gauss_newton()
        curvature = np.zeros_like(gram) if residual is None else _residual_curvature(model, residual)
        basis = gauge_complement(model)
        if self.complex:
            hessian = np.block(
                [
                    [gram.real - curvature.real, -gram.imag - curvature.imag],
                    [gram.imag - curvature.imag, gram.real + curvature.real],
                ]
            )
            basis = np.block([[basis.real, -basis.imag], [basis.imag, basis.real]])
        else:
            hessian = gram - curvature
        self.values, vectors = scipy.linalg.eigh(basis.T @ hessian @ basis, check_finite=False)
        self.vectors = basis @ vectors
        top = float(np.abs(self.values).max(initial=0.0))
        if not np.abs(self.values).min(initial=np.inf) > _SINGULAR * top:
            raise ValueError(
                f"the tensor does not determine the blocks of this {type(model).__name__} up to gauge: the Hessian is "
                "singular on the complement of the gauge directions; lower the rank"
            )

    def solve(self, direction: Array) -> Array:
        """d theta (flat) for the change `direction` of the tensor."""
        source = Dense(direction)
        pieces = [source.contract_all_but(self.model, k).ravel() for k in range(len(self.model.matrices))]
        flat = np.concatenate(pieces)
        if not self.complex:
            return np.asarray(self.vectors @ ((self.vectors.T @ flat) / self.values))
        stacked = np.concatenate([flat.real, flat.imag])
        solution = self.vectors @ ((self.vectors.T @ stacked) / self.values)
        return np.asarray(solution[: flat.size] + 1j * solution[flat.size :])

    def check_stationary(self, residual: Array) -> None:
        """A Newton step towards the stationary point must be short."""
        step = kernels.norm(self.solve(residual))
        size = float(np.linalg.norm([kernels.norm(matrix) for matrix in self.model.matrices]))
        if step > _STATIONARY * size:
            raise ValueError(
                "the model is not a stationary point of ||T - X||: a Newton step moves its blocks by "
                f"{step / size:.1e} of their norm, more than {_STATIONARY:.0e}; fit it further, without a penalty "
                "(LM with a smaller tol)"
            )


def _residual_curvature(model: Model, residual: Array) -> Array:
    """S, (n, n), complex symmetric: S_km = < d^2 X / dB_k dB_m, e >."""
    sizes = [matrix.size for matrix in model.matrices]
    starts = np.cumsum([0, *sizes])
    result = np.zeros((starts[-1], starts[-1]), dtype=np.result_type(model.dtype, residual))
    for k in range(len(sizes)):
        for m in range(k + 1, len(sizes)):
            block = _cross_curvature(model, residual, k, m).reshape(sizes[k], sizes[m])
            result[starts[k] : starts[k + 1], starts[m] : starts[m + 1]] = block
            result[starts[m] : starts[m + 1], starts[k] : starts[k + 1]] = block.T
    return result


def _cross_curvature(model: Model, residual: Array, k: int, m: int) -> Array:
    """e contracted with the conjugates of all blocks but k and m: (I_k, P_k, I_m, P_m)."""
    network = model.network
    physical = ["" if mode is None else letter for letter, mode in zip(network.physical, network.modes, strict=True)]
    (rows, width), (columns, depth) = model.matrices[k].shape, model.matrices[m].shape
    result = np.zeros((rows, width, columns, depth), dtype=np.result_type(model.dtype, residual))
    for t, term in enumerate(network.terms):
        labels, operands = [network.output], [residual]
        for n, operand in enumerate(model.operands(t)):
            if n not in (k, m):
                labels.append(physical[n] + term.bonds[n])
                operands.append(np.conj(operand if physical[n] else operand[0]))
        right = term.bonds[m]
        # A bond that k and m share joins them directly: an identity between two letters.
        for letter in set(right) & set(term.bonds[k]):
            right = right.replace(letter, letter.upper())
            labels.append(letter + letter.upper())
            operands.append(np.eye(term.size_of[letter]))
        target = physical[k] + term.bonds[k] + physical[m] + right
        value = contract(",".join(labels) + "->" + target, *operands)
        shape = (rows, term.widths[k], columns, term.widths[m])
        result[:, network.columns[t][k], :, network.columns[t][m]] = value.reshape(shape)
    return result


def _dense(name: str, given: Any, model: Model) -> Array:
    """The array behind `given`, of the shape of the model."""
    # Sizes beyond 1e154 overflow in a first look at the norm.
    with np.errstate(over="ignore"):
        source = as_tensor(given)
    if not isinstance(source, Dense):
        raise TypeError(f"{name} is a {type(source).__name__}; an array or a Dense tensor is needed")
    if source.shape != model.shape:
        raise ValueError(f"{name} has shape {source.shape}, the model {model.shape}; they must be equal")
    array = source.to_dense()
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64, copy=False)
