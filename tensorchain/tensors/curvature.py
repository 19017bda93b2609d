"""L_k^H W L_k and J^H W J when entries have weights W, zero where they are missing.

With every entry observed, Grams follow from the model alone.  With weights they do not: each row i of a
block sees its own entries.  Let D_k[z] be the row of L_k at the entry z (`Model.design_rows`); it does not
depend on i, the index along the mode of block k itself.  Then

    G_k[i]             = sum_z W[i, z] conj(D_k[z]) D_k[z]^T                         (I_k, P_k, P_k),
    H_km[(i,p), (j,q)] = sum_r W[i, j, r] conj(D_k[j, r, p]) D_m[i, r, q],

where i, j are the indices along the modes of blocks k, m and r those along the other modes.  The first is
one matrix product of W, unfolded along i, with the products D[z, p]^* D[z, q], p <= q.  In the second, for
each i, W and D_k are multiplied element by element and one matrix product with D_m[i] follows.  A core has
no mode: its i takes one value and r runs over all other modes.  Everything is done in chunks of r, so
neither J nor the design matrices are held.

The Gram of a large core is not formed: it is applied through the values of the model, L_k^H (W * (L_k B)), and its
equations are solved by conjugate gradients, with the Gram of complete data times the mean weight as preconditioner.
Where entries are missing at random the two differ little: a dozen steps give six digits (measured here).

Cost: |W| P_k^2 multiplications for G_k, 2 |W| P_k P_m for H_km, whatever is missing.

References: Acar, Dunlavy, Kolda, Morup, "Scalable tensor factorizations for incomplete data" (2011).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorchain.kernels import Array, System, contract, diagonal_blocks
from tensorchain.models import Model
from tensorchain.models.core_system import CoreSystem
from tensorchain.tensors.boxes import Box, boxes
from tensorchain.tensors.dtypes import double_of

_NUMBERS = 1 << 21
"""Numbers in one temporary array (16 MB in double precision)."""
_UNFORMED = 256
"""Width of a core beyond which its Gram is not formed."""
_SOLVED = 1e-8
"""Relative residual of its equations."""
_CACHED = 1 << 17
"""Numbers that stay in the cache between the element-wise product and the matrix product."""


def unbiased_mode_gram(gram: Array, share: float) -> Array:
    """T_(n) T_(n)^H estimated from that of the zero-filled tensor, a share of whose entries is observed.

    With entries missing at random, a product of two different ones survives with probability share^2, the square
    of one with share: without the correction, the diagonal drowns the singular vectors where little is observed.
    """
    result = np.asarray(gram / share**2)
    np.fill_diagonal(result, gram.diagonal() / share)
    return result


def unformed(model: Model, k: int) -> bool:
    """Whether block k is a core whose Gram is not formed where entries have weights."""
    return model.network.modes[k] is None and model.network.widths[k] > _UNFORMED


def core_system(apply: Callable[[Array], Array], model: Model, k: int, mean_weight: float) -> System:
    """Normal equations of a core, from B -> B (L_k^H W L_k)^T."""
    whole = model.system(k)
    return CoreSystem(apply, lambda rhs: whole.solve(rhs) / mean_weight, size=mean_weight * whole.trace(), tol=_SOLVED)


def weighted_gram(model: Model, k: int, weight: Array) -> Array:
    """G_k for dense weights: (I_k, P_k, P_k), Hermitian; a core has one row."""
    mode = model.network.modes[k]
    count, width = model.matrices[k].shape
    dtype = double_of(*model.matrices)
    modes = [n for n in range(model.order) if n != mode]
    if mode is None:
        gram = np.zeros((1, width, width), dtype=dtype)
        for box in boxes(weight.shape, _limit(width)):
            flat = weight[box].ravel()
            seen = np.flatnonzero(flat)
            rows = _design(model, k, modes, box, dtype)[seen]
            gram[0] += (rows.conj() * flat[seen, None]).T @ rows
        return gram
    spread = np.moveaxis(weight, mode, 0)
    upper, lower = np.triu_indices(width)
    packed = np.zeros((count, len(upper)), dtype=dtype)
    for box in boxes(spread.shape[1:], _limit(count, len(upper))):
        rows = _design(model, k, modes, box, dtype)
        chunk = spread[(slice(None), *box)].reshape(count, -1).astype(np.float64, copy=False)
        packed += chunk @ (np.take(rows, upper, axis=1).conj() * np.take(rows, lower, axis=1))
    grams = np.empty((count, width, width), dtype=dtype)
    grams[:, lower, upper] = packed.conj()
    grams[:, upper, lower] = packed
    return grams


def weighted_normal_matrix(model: Model, weight: Array) -> Array:
    """J^H W J for dense weights, (n, n), its upper block triangle; blocks in matrix form flattened row by row."""
    starts = np.cumsum([0] + [matrix.size for matrix in model.matrices])
    result = np.zeros((starts[-1], starts[-1]), dtype=double_of(*model.matrices))
    for k, matrix in enumerate(model.matrices):
        count, width = matrix.shape
        here = slice(starts[k], starts[k + 1])
        diagonal_blocks(result, starts[k], count, width)[...] = weighted_gram(model, k, weight)
        for m in range(k + 1, len(model.matrices)):
            there = slice(starts[m], starts[m + 1])
            narrow_first = model.network.widths[k] <= model.network.widths[m]
            block = _cross(model, k, m, weight) if narrow_first else _cross(model, m, k, weight).conj().T
            result[here, there] = block
    return result


def _cross(model: Model, k: int, m: int, weight: Array) -> Array:
    """H_km, (I_k P_k, I_m P_m); cheapest when block k is the narrower one, for it is multiplied with W."""
    modes = model.network.modes
    ends = [mode for mode in (modes[k], modes[m]) if mode is not None]
    others = [n for n in range(model.order) if n not in ends]
    missing = tuple(axis for axis, mode in enumerate((modes[k], modes[m])) if mode is None)
    spread = np.expand_dims(weight.transpose(ends + others), missing)
    (rows, left_width), (columns, right_width) = model.matrices[k].shape, model.matrices[m].shape
    dtype = double_of(*model.matrices)
    result = np.zeros((rows, columns, left_width, right_width), dtype=dtype)
    for box in boxes(spread.shape[2:], _limit(columns * left_width, rows * right_width)):
        # L_k is seen along the mode of m and the others, L_m along the mode of k and the others.
        left = np.ascontiguousarray(_along(model, k, modes[m], columns, others, box, dtype).conj().swapaxes(1, 2))
        right = _along(model, m, modes[k], rows, others, box, dtype)
        step = max(1, _CACHED // left.size)
        for some in range(0, rows, step):
            these = slice(some, some + step)
            chunk = spread[(these, slice(None), *box)].reshape(-1, columns, 1, left.shape[2]).astype(np.float64)
            scaled = (chunk * left).reshape(len(chunk), columns * left_width, -1)
            result[these] += (scaled @ right[these]).reshape(-1, columns, left_width, right_width)
    return result.transpose(0, 2, 1, 3).reshape(rows * left_width, columns * right_width)


def _along(
    model: Model, k: int, mode: int | None, size: int, others: Sequence[int], box: Box, dtype: np.dtype[Any]
) -> Array:
    """Design rows of block k at all indices along `mode` and those of `box` along `others`: (size, box, P_k)."""
    modes, sides = list(others), box
    if mode is not None:
        modes, sides = [mode, *others], (slice(0, size), *box)
    return _design(model, k, modes, sides, dtype).reshape(size, -1, model.network.widths[k])


def _design(model: Model, k: int, modes: Sequence[int], box: Box, dtype: np.dtype[Any]) -> Array:
    """Design rows of block k at the positions of `box` along `modes`, (entries of the box, P_k)."""
    network = model.network
    sides: list[slice | Array | None] = [None] * model.order
    for mode, side in zip(modes, box, strict=True):
        sides[mode] = side
    inside = model.restrict(sides)
    target = "".join(network.output[mode] for mode in modes)
    parts = []
    for t, term in enumerate(network.terms):
        pairs = [(label, operand) for label, operand in zip(network.labels[t], inside.operands(t), strict=True)]
        del pairs[k]
        subscripts = ",".join(label for label, _ in pairs) + "->" + target + term.bonds[k]
        parts.append(contract(subscripts, *(operand for _, operand in pairs)).reshape(-1, term.widths[k]))
    rows = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return rows.astype(dtype, copy=False)


def _limit(*widths: int) -> int:
    """Length of a chunk with that many numbers for each position."""
    return max(1, _NUMBERS // max(widths))
