"""Starts of fits of a kernel, from singular vectors: orthonormal groups for chains and block terms, pairs for CP.

**Orthonormal groups.**  A chain or BTD with f groups is X = sum_g A_g G_g B_g' on every tap, with A_g (S, a) and B_g
(T, b); in a chain all G_g are one G.  Alternating least squares needs the Gram of G, a matrix of order a b: for 512
channels that is tens of thousands.  If A = [A_1 .. A_f] and B = [B_1 .. B_f] have orthonormal columns (f a <= S and
f b <= T), no Gram is needed: with W_g = A_g' W B_g on every tap,

    ||W - X||^2 = ||W||^2 - 2 sum_g <W_g, G_g> + sum_g ||G_g||^2,

so the best G_g is W_g; in a chain it is w_g G, of the leading singular pair of all W_g as rows (the weights w_g go into
A_g).  With G given, <W, X> is largest when A is the polar factor of [W B_1 G_1' .. W B_f G_f'], summed over the taps,
and B likewise.  Each step lowers the error.

Orthonormal columns also make the sensitivity small: no two groups can cancel each other.

Cost of a sweep: 2 S D T (a + b) f multiplications, and two polar factors.

Reference: Kroonenberg, De Leeuw, "Principal component analysis of three-mode data by means of alternating least squares
algorithms" (1980), for the same idea in Tucker models.
"""

from __future__ import annotations

import numpy as np

from tensorchain.compression.sandwich import Sandwich
from tensorchain.kernels import Array
from tensorchain.models import TensorChain

Bases = tuple[Array, Array]


def leading_pairs(tensor: Array, rank: int, rng: np.random.Generator) -> list[Array]:
    """Blocks of a CPD of (D, S, T): the R strongest singular pairs of all slices, made orthogonal first.

    Parameters
    ----------
    tensor : ndarray (D, S, T)
        With few slices.
    rank : int
        R; where there are fewer pairs, small random ones follow.
    rng : numpy.random.Generator

    Returns
    -------
    list of ndarray
        (D, R), (S, R), (T, R).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> tensor = np.einsum("d,s,t->dst", *(rng.standard_normal(n) for n in (3, 4, 5)))
    >>> taps, first, last = leading_pairs(tensor, 2, rng)
    >>> np.allclose(np.einsum("dr,sr,tr->dst", taps, first, last), tensor, atol=1e-4)
    True
    """
    rows = tensor.reshape(len(tensor), -1)
    _, axes = np.linalg.eigh(rows @ rows.T)
    u, s, vh = np.linalg.svd(np.tensordot(axes.T, tensor, axes=1), full_matrices=False)
    order = np.argsort(-s, axis=None)[:rank]
    which, pair = np.unravel_index(order, s.shape)
    root = np.cbrt(s[which, pair])
    blocks = [axes[:, which] * root, u[which, :, pair].T * root, vh[which, pair].T * root]
    if len(order) < rank:
        small = 1e-3 * (float(root.max()) or 1.0)
        blocks = [np.hstack([block, small * rng.standard_normal((len(block), rank - len(order)))]) for block in blocks]
    return [np.ascontiguousarray(block) for block in blocks]


def orthonormal_groups(
    tensor: Array, groups: int, ranks: tuple[int, int], *, shared: bool, sweeps: int = 12, tol: float = 1e-3
) -> tuple[TensorChain | Sandwich, float]:
    """A chain (`shared`) or block terms of a kernel, from leading singular vectors and alternating polar factors.

    Parameters
    ----------
    tensor : ndarray (S, D, T)
    groups, ranks : int, (int, int)
        f and (a, b), with f a <= S and f b <= T.
    shared : bool
        Whether all groups have one G: a chain of bonds (f, a, b); else a `Sandwich` of f terms (a, b).
    sweeps : int
        Most sweeps.
    tol : float
        A sweep that lowers the squared error by less than this share of it is the last.

    Returns
    -------
    tuple of (TensorChain or Sandwich, float)
        Model : TensorChain or Sandwich error : float ||W - X|| / ||W||.

    Raises
    ------
    ValueError
        When the groups are too wide to be orthonormal.

    Examples
    --------
    >>> import numpy as np
    >>> tensor = np.random.default_rng(0).standard_normal((8, 9, 6))
    >>> chain, error = orthonormal_groups(tensor, 2, (3, 2), shared=True)
    >>> chain.bonds, bool(np.isclose(error, np.linalg.norm(tensor - chain.full()) / np.linalg.norm(tensor)))
    ((2, 3, 2), True)
    """
    (inputs, _, outputs), (a, b) = tensor.shape, ranks
    if not (1 <= groups * a <= inputs and 1 <= groups * b <= outputs):
        raise ValueError(f"{groups} groups of {ranks} are wider than a kernel of {inputs} and {outputs} channels")
    flat = np.ascontiguousarray(tensor.transpose(1, 0, 2))
    energy = float(np.vdot(flat, flat))
    vectors = _leading(tensor, groups * a), _leading(tensor.transpose(2, 1, 0), groups * b)
    # Strong and weak vectors for every group, or the strongest for the first: whichever is better after a sweep or two.
    starts = [vectors] if groups == 1 else [vectors, (_dealt(vectors[0], groups), _dealt(vectors[1], groups))]
    first, last = max(
        (_improved(flat, start, groups, shared, min(sweeps, 2), tol) for start in starts),
        key=lambda bases: _core(bases[0].T @ (flat @ bases[1]), groups, shared)[1],
    )
    first, last = _improved(flat, (first, last), groups, shared, max(sweeps - 2, 0), tol)
    core, fitted = _core(first.T @ (flat @ last), groups, shared)
    error = float(np.sqrt(max(energy - fitted, 0.0) / energy)) if energy > 0.0 else 0.0
    firsts, lasts = first.reshape(inputs, groups, a), last.reshape(outputs, groups, b)
    if not shared:
        return Sandwich([(firsts[:, g], core[g], lasts[:, g]) for g in range(groups)]), error
    sizes = np.linalg.norm(core.reshape(groups, -1), axis=1)
    weights = np.sign(np.einsum("gdab,dab->g", core, core[int(np.argmax(sizes))])) * sizes / (sizes.max() or 1.0)
    cores = [
        firsts.transpose(1, 0, 2) * weights[:, None, None],
        core[int(np.argmax(sizes))].transpose(1, 0, 2),
        lasts.transpose(2, 0, 1),
    ]
    return TensorChain([np.ascontiguousarray(part) for part in cores]), error


def _improved(flat: Array, bases: Bases, groups: int, shared: bool, sweeps: int, tol: float) -> Bases:
    """A (S, f a) and B (T, f b) after some sweeps."""
    first, last = bases
    energy, fitted = float(np.vdot(flat, flat)), -np.inf
    for _ in range(sweeps):
        half = flat @ last
        before = fitted
        core, fitted = _core(first.T @ half, groups, shared)
        if fitted - before <= tol * (energy - fitted):
            break
        first = _polar(_gathered(half, core, groups))
        back = np.swapaxes(flat, 1, 2) @ first
        core, _ = _core(np.swapaxes(back, 1, 2) @ last, groups, shared)
        last = _polar(_gathered(back, np.swapaxes(core, 2, 3), groups))
    return first, last


def _leading(tensor: Array, width: int) -> Array:
    """Leading left singular vectors of the first unfolding."""
    rows = tensor.reshape(len(tensor), -1)
    return np.ascontiguousarray(np.linalg.eigh(rows @ rows.T)[1][:, ::-1][:, :width])


def _dealt(vectors: Array, groups: int) -> Array:
    """The columns dealt out in turn to the groups."""
    return np.ascontiguousarray(vectors.reshape(len(vectors), -1, groups).swapaxes(1, 2)).reshape(vectors.shape)


def _core(whole: Array, groups: int, shared: bool) -> tuple[Array, float]:
    """The best w_g G_g (groups, D, a, b) from A' W B (D, f a, f b), and 2 <W, X> - ||X||^2."""
    taps, a, b = len(whole), whole.shape[1] // groups, whole.shape[2] // groups
    blocks = whole.reshape(taps, groups, a, groups, b)
    own = np.stack([blocks[:, g, :, g] for g in range(groups)])
    if shared and groups > 1:
        rows = own.reshape(groups, -1)
        weights = np.linalg.eigh(rows @ rows.T)[1][:, -1]
        own = np.outer(weights, weights @ rows).reshape(own.shape)
    return own, float(np.vdot(own, own))


def _gathered(half: Array, core: Array, groups: int) -> Array:
    """[sum over taps of W B_g G_g'] for all g, (S, f a), from W B (D, S, f b)."""
    width = half.shape[2] // groups
    parts = [
        np.tensordot(half[:, :, g * width : (g + 1) * width], core[g], axes=((0, 2), (0, 2))) for g in range(groups)
    ]
    return np.concatenate(parts, axis=1)


def _polar(matrix: Array) -> Array:
    """The matrix with orthonormal columns that is nearest."""
    u, _, vh = np.linalg.svd(matrix, full_matrices=False)
    return np.asarray(u @ vh)
