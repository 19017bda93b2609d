"""||T - X|| for a sparse tensor T, as exact as T - X itself, without forming either.

||T||^2 - 2 <T, X> + ||X||^2 has no digits left below 1e-8 ||T||.  Let U_n be an orthonormal basis of the columns of the
block of mode n, (I_n, J_n), P_n = U_n U_n^H, and T_n = T x_1 U_1^H ... x_n U_n^H.  The parts are orthogonal:

    ||T - X||^2 = sum_n ||(1 - P_n) T_{n-1}||^2 + ||T_N - X~||^2,        X = X~ x_1 U_1 ... x_N U_N.

Every norm is that of a difference that is formed.  T_n is dense in the modes 1..n and a list in the others; the longest
mode goes first, so that the list soon is short.

Cost: fibers of T_{n-1} along mode n, times their length, times J_n; in the first mode I_1 J_1 for each fiber of T that
is not empty.
"""

from __future__ import annotations

import math

import numpy as np

from tensorchain import kernels
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.tensors.dtypes import double_of

_CHUNK = 1 << 20
"""Numbers in the fibers that are formed at once (8 MB in double precision)."""
_HELD = 1 << 26
"""Most numbers in T_n."""


def projected_cost(indices: Array, model: Model) -> float:
    """Multiplications of `projected_error`; infinite where it would need too much memory."""
    widths = {mode: min(model.matrices[k].shape) for mode, k in enumerate(model.network.block_of_mode)}
    order = sorted(range(model.order), key=lambda mode: -model.shape[mode])
    cost, dense, rest = 0.0, 1, list(range(model.order))
    for mode in order:
        rest.remove(mode)
        # An upper bound that takes no sorting: fibers are at most as many as entries, or positions.
        fibers = min(len(indices), math.prod(model.shape[n] for n in rest))
        cost += float(fibers) * model.shape[mode] * widths[mode] * dense
        dense *= widths[mode]
        if fibers * dense > _HELD:
            return math.inf
    return cost


def projected_error(indices: Array, values: Array, model: Model) -> float:
    """||T - X||.

    Parameters
    ----------
    indices, values : ndarray
        (Z, N) and (Z,), the entries of T, each position once.
    model : Model
        X.
    """
    dtype = double_of(values, *model.matrices)
    bases: dict[int, Array] = {}
    small = [matrix.astype(dtype, copy=False) for matrix in model.matrices]
    for mode, k in enumerate(model.network.block_of_mode):
        bases[mode], small[k] = np.linalg.qr(small[k])
    order = sorted(range(model.order), key=lambda mode: -model.shape[mode])
    rest = list(range(model.order))
    current = values.astype(dtype).reshape(-1, 1)
    """T_n: listed positions, by entries of the modes that are done."""
    norms = []
    for mode in order:
        rest.remove(mode)
        others, fiber = np.unique(indices[:, rest], axis=0, return_inverse=True)
        if not rest:
            others, fiber = indices[:1, :0], np.zeros(len(indices), dtype=np.int64)
        current, outside = _contracted(current, indices[:, mode], fiber.ravel(), bases[mode])
        norms.append(outside)
        positions = np.zeros((len(others), model.order), dtype=indices.dtype)
        positions[:, rest] = others
        indices = positions
    core = model.with_matrices(small).full().transpose(order)
    # The modes that are done were appended one after the other.
    norms.append(kernels.norm(current.reshape(core.shape) - core))
    return float(np.linalg.norm(norms))


def _contracted(current: Array, rows: Array, fiber: Array, basis: Array) -> tuple[Array, float]:
    """U^H along one mode, (fibers, done, J), flattened; and the norm of what lies outside of the span of U.

    current : (Z, done); entry z lies in row rows[z] of fiber[z].
    """
    length, width = basis.shape
    order = np.argsort(fiber, kind="stable")
    current, rows, fiber = current[order], rows[order], fiber[order]
    count, done = int(fiber[-1]) + 1, current.shape[1]
    result = np.empty((count, done, width), dtype=current.dtype)
    step = max(1, _CHUNK // (length * done))
    norms = [0.0]
    for start in range(0, count, step):
        some = slice(*np.searchsorted(fiber, [start, start + step]))
        whole = np.zeros((min(step, count - start), length, done), dtype=current.dtype)
        # A fiber has each row once.
        whole[fiber[some] - start, rows[some]] = current[some]
        unfolded = whole.swapaxes(1, 2)
        inside = unfolded @ basis.conj()
        result[start : start + step] = inside
        if width < length:
            norms.append(kernels.norm(unfolded - inside @ basis.T))
    return result.reshape(count, -1), float(np.linalg.norm(norms))
