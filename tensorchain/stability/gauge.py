"""The gauge of least sensitivity, in closed form, for every model.

Inserting G and G^-1 on a bond leaves X unchanged, and of SS = sum_n I_n tr M_n only the terms of the
two blocks that share the bond move.  With Lm and Rm the Grams of these blocks traced down to the bond
and weighted by their I_k, they are

    tr(Rm S) + tr(Lm S^-1),        S = G G^H,

least at the matrix geometric mean S = Rm^{-1/2} (Rm^{1/2} Lm Rm^{1/2})^{1/2} Rm^{-1/2}.  As in balanced
truncation of linear systems no inverse is needed: with Lm = B B^H, Rm = A A^H and the singular value
decomposition A^H B = U s V^H,

    G = B V s^{-1/2},       G^-1 = s^{-1/2} U^H A^H,

after which both traced Grams are diag(s).  On a hyperedge (the r of CP) only scales move; with
d_n[r] = I_n M_n[r, r] the best are alpha_n[r]^2 = d_n[r] / (geometric mean over n of d_n[r]).
SS is geodesically convex on the gauge group, so cycling over the bonds converges to its global minimum.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from scipy import linalg

from tensorchain.kernels import Array
from tensorchain.models import Model

AnyModel = TypeVar("AnyModel", bound=Model)

_RIDGE = 1e-15


def optimal_gauge(model: AnyModel, *, tol: float = 1e-9, max_cycles: int = 500) -> AnyModel:
    """The same tensor with the least sensitivity that any gauge gives.

    Parameters
    ----------
    model : any model; it is not changed.
    tol : relative decrease of SS in a cycle over all bonds at which to stop.
    max_cycles : most cycles.

    Returns
    -------
    A model of the same wiring; X is unchanged up to rounding, SS is never larger.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> lopsided = tc.CP([1e3 * np.ones((2, 1)), 1e-3 * np.ones((2, 1))])
    >>> lopsided.sensitivity(), round(tc.optimal_gauge(lopsided).sensitivity(), 6)
    (4000000.000004, 8.0)
    """
    unit, exponent = model._unit_scale()
    best, lowest = unit, float(unit.block_sensitivities().sum())
    current, value = best, lowest
    for _ in range(max_cycles):
        current = gauge_cycle(current)
        previous, value = value, float(current.block_sensitivities().sum())
        if 0.0 < value < lowest:
            best, lowest = current, value
        if not value < previous * (1.0 - tol):
            break
    if best is unit:
        return model
    if exponent == 0:
        return best
    factor = float(np.ldexp(1.0, exponent))
    return best.with_matrices([matrix * matrix.dtype.type(factor) for matrix in best.matrices])


def gauge_cycle(model: AnyModel) -> AnyModel:
    """One optimal change of gauge on every bond and hyperedge, in turn."""
    dtype = model.dtype
    double = np.complex128 if dtype.kind == "c" else np.float64
    current = model.astype(double)
    for t, term in enumerate(current.network.terms):
        for letter, k, m in term.gauge_bonds:
            current = _balance_bond(current, t, letter, k, m)
        for letter, owners in term.hyperedges:
            current = _balance_hyperedge(current, t, letter, owners)
    return current.astype(dtype)


def traced_gram(model: Model, t: int, letter: str, k: int) -> Array:
    """Gram of block k within term t, traced down to one of its bonds and weighted by I_k: (R, R)."""
    columns, bonds = model.network.columns[t][k], model.network.terms[t].bonds[k]
    shape = model.network.terms[t].shapes[k]
    gram = model.gram(k)[columns, columns].reshape(shape + shape)
    upper = bonds.replace(letter, letter.upper())
    return np.asarray(np.einsum(f"{bonds}{upper}->{letter}{letter.upper()}", gram)) * model.matrices[k].shape[0]


def _balance_bond(model: AnyModel, t: int, letter: str, k: int, m: int) -> AnyModel:
    """Geometric-mean gauge on a bond between blocks k and m: B_k takes G, B_m takes G^-1.

    tr M_k sees B_m and so G^-1, tr M_m sees B_k and so G.
    """
    left, right = traced_gram(model, t, letter, k), traced_gram(model, t, letter, m)
    # Rows of a Gram belong to the conjugated side: tr M_m = tr(Rm S), but tr M_k = tr(Lm^T S^-1).
    lower, upper = _factor(left.T), _factor(right)
    if lower is None or upper is None:
        return model
    u, s, vh = linalg.svd(upper.conj().T @ lower, check_finite=False)
    s = np.maximum(s, np.finfo(float).tiny)
    root = 1.0 / np.sqrt(s)
    gauge = (lower @ vh.conj().T) * root
    inverse = root[:, None] * (u.conj().T @ upper.conj().T)
    if not (np.all(np.isfinite(gauge)) and np.all(np.isfinite(inverse))):
        return model
    # B_k[.., b] G[b, c] and G^-1[c, b] B_m[.., b]
    moved = _multiply(model, t, letter, k, gauge.T)
    return _multiply(moved, t, letter, m, inverse)


def _balance_hyperedge(model: AnyModel, t: int, letter: str, owners: tuple[int, ...]) -> AnyModel:
    weights = np.array([np.diag(traced_gram(model, t, letter, k)).real for k in owners])
    alive = np.all(weights > 0.0, axis=0)
    safe = np.where(alive, weights, 1.0)
    logs = np.log(safe)
    # A component with a zero column adds nothing to X: without it SS is least.
    scales = np.where(alive, np.exp(0.5 * (logs - logs.mean(axis=0))), 0.0)
    for k, scale in zip(owners, scales, strict=True):
        model = _multiply(model, t, letter, k, np.diag(scale))
    return model


def _multiply(model: AnyModel, t: int, letter: str, k: int, matrix: Array) -> AnyModel:
    """Multiply `matrix` into one bond of block k, within term t."""
    columns, bonds = model.network.columns[t][k], model.network.terms[t].bonds[k]
    operand = model.operands(t)[k]
    changed = np.moveaxis(np.tensordot(operand, matrix, axes=(1 + bonds.index(letter), 1)), -1, 1 + bonds.index(letter))
    target = np.array(model.matrices[k])
    target[:, columns] = changed.reshape(target.shape[0], -1)
    return model.with_matrix(k, target)


def _factor(gram: Array) -> Array | None:
    """B with gram = B B^H, after a relative ridge that keeps the gauge finite on a rank-deficient bond."""
    size = float(np.trace(gram).real)
    if not 0.0 < size < np.inf:
        return None
    values, vectors = linalg.eigh(gram, check_finite=False)
    return np.asarray(vectors * np.sqrt(np.maximum(values, _RIDGE * size)))
