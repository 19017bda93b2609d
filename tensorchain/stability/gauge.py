"""The gauge of least sensitivity, in closed form, for every model.

Inserting G and G^-1 on a bond leaves X unchanged.  A block B_k that becomes B_k g sees its Gram M_k become
(g^-1)^* M_k (g^-1)^T, so that the whole search works on the Grams, computed once, and the blocks move at the end:

    SS = sum_k I_k <M_k, H_k>,        H_k the Kronecker product of one H for each bond of block k.

With all bonds but one held, and Lm and Rm the Grams of the two blocks that share it, weighted by their I_k and
contracted with the H of their other bonds, what moves is

    tr(Rm S) + tr(Lm S^-1),        S = G G^H,

least at the matrix geometric mean S = Rm^{-1/2} (Rm^{1/2} Lm Rm^{1/2})^{1/2} Rm^{-1/2}.  As in balanced
truncation of linear systems no inverse is needed: with Lm = B B^H, Rm = A A^H and the singular value
decomposition A^H B = U s V^H,

    G = B V s^{-1/2},       G^-1 = s^{-1/2} U^H A^H,

after which both traced Grams are diag(s).  On a hyperedge (the r of CP) only scales move; with
d_n[r] = I_n M_n[r, r] the best are alpha_n[r]^2 = d_n[r] / (geometric mean over n of d_n[r]).
SS is geodesically convex on the gauge group, so cycling over the bonds converges to its global minimum; slowly where
the best of one bond depends much on its neighbours.

**Relaxation.**  There a bond goes beyond its best.  Let the geodesic from its gauge now, t = 0, reach the best gauge at
t = 1; relaxed, it goes to t = w.  Seen from the best gauge, where both traced Grams are diag(s), the bond holds
f(Y) = tr(s Y) + tr(s Y^-1) with Y = S^{1 - t} for a positive S, and f(Y) = f(Y^-1).  So f at t is f at 2 - t, and f is
convex in t with its least value at t = 1: for every 0 < w < 2 it is below f at t = 0, whatever S is.  The w that is
taken follows from the ratio of two cycles' gains, as in successive over-relaxation of linear systems.

Reference for the choice of w: Young, "Iterative Solution of Large Linear Systems" (1971).

Cost of a cycle: P_k^2 operations for each bond of each block.  The Grams are computed anew when the gauge has
moved far, since rounding of the first ones then counts, and once at the end, to check.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TypeVar

import numpy as np
import scipy

from tensorchain.kernels import Array
from tensorchain.kernels.interruption import check_time
from tensorchain.kernels.linalg import lapack, trace
from tensorchain.models import Model
from tensorchain.stability.scales import takes_fits

AnyModel = TypeVar("AnyModel", bound=Model)

_RIDGE = 1e-15
_TINY = float(np.finfo(float).tiny)
_SLOW, _SETTLED = 0.5, 5
"""Decrease of SS over that of the cycle before, above which bonds go beyond their best; cycles before it is told."""
_LARGEST_RELAXATION = 1.9
_FAR = 1e8
"""Condition number of S on some bond beyond which the Grams are computed anew."""


@takes_fits
def optimal_gauge(
    model: AnyModel,
    *,
    tol: float = 1e-9,
    max_cycles: int = 500,
    scaled: Collection[int] = (),
    fixed: Collection[int] = (),
) -> AnyModel:
    """The same tensor with the least sensitivity that any gauge gives.

    Parameters
    ----------
    model : Model
        Any model; it is not changed.
    tol : float, default 1e-09
        Relative decrease of SS in a cycle over all bonds at which to stop.
    max_cycles : int, default 500
        Most cycles.
    scaled : collection of int, optional
        Blocks whose entries may only be scaled by positive numbers, so that they keep their signs: on the bonds of
        these, G is diagonal.
    fixed : collection of int, optional
        Blocks that stay as they are: on the bonds of these G is the identity.

    Returns
    -------
    Model
        A model of the same wiring; X is unchanged up to rounding, SS is never larger.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> lopsided = tc.CP([1e3 * np.ones((2, 1)), 1e-3 * np.ones((2, 1))])
    >>> lopsided.sensitivity(), round(tc.optimal_gauge(lopsided).sensitivity(), 6)
    (4000000.000004, 8.0)
    """
    unit, exponent = model._unit_scale()
    current = unit.astype(np.complex128 if model.dtype.kind == "c" else np.float64)
    best, lowest = current, float(current.block_sensitivities().sum())
    value, start, left = lowest, current, max_cycles
    while left > 0:
        search = _Search(current, scaled, fixed)
        reached, cycles = search.run(value, tol, left)
        left -= cycles
        current = search.applied(current)
        previous, value = value, float(current.block_sensitivities().sum())
        if 0.0 < value < lowest:
            best, lowest = current, value
        # What the search promised is checked on the blocks; where rounding spoilt it, it goes on from there.
        if not value < previous * (1.0 - tol) or (not search.far and abs(value - reached) <= tol * value):
            break
    if best is start:
        return model
    best = best.astype(model.dtype)
    if exponent == 0:
        return best
    factor = float(np.ldexp(1.0, exponent))
    return best.with_matrices([matrix * matrix.dtype.type(factor) for matrix in best.matrices])


def gauge_cycle(model: AnyModel, *, scaled: Collection[int] = (), fixed: Collection[int] = ()) -> AnyModel:
    """One optimal change of gauge on every bond and hyperedge, in turn; `scaled`, `fixed` as in `optimal_gauge`."""
    search = _Search(model.astype(np.complex128 if model.dtype.kind == "c" else np.float64), scaled, fixed)
    search.cycle()
    return search.applied(model).astype(model.dtype)


class _Search:
    """Gauges of all bonds and hyperedges, and the Grams that they are chosen from.

    grams[t][k] : I_k M_k within term t, with one axis of length R^2 for each bond (pairs row, column); a list of one
        vector for each bond where it is their outer product.
    metrics[t][k] : the H of each bond of block k, flattened likewise.
    gauges : (t, letter, k) -> what is multiplied into that bond of block k in the end, (R, R) or the scales (R,).
    relaxation : w, 1 for the best gauge of each bond as the others are.
    scaled : blocks on whose bonds only scales move.
    fixed : blocks on whose bonds nothing moves.
    """

    def __init__(self, model: Model, scaled: Collection[int] = (), fixed: Collection[int] = ()) -> None:
        network = model.network
        self.scaled, self.fixed = frozenset(scaled), frozenset(fixed)
        self.network, self.far, self.relaxation = network, False, 1.0
        self.gauges: dict[tuple[int, str, int], Array] = {}
        self.grams: list[list[Array | list[Array]]] = []
        self.metrics: list[list[list[Array]]] = []
        for columns, term in zip(network.columns, network.terms, strict=True):
            self.grams.append([])
            for k, (part, shape) in enumerate(zip(columns, term.shapes, strict=True)):
                factors = model.gram_factors(len(self.grams) - 1, k)
                if factors is not None:
                    first, *rest = (factor.ravel() for factor in factors)
                    self.grams[-1].append([first * model.row_counts[k], *rest])
                    continue
                gram = model.gram(k)[part, part].reshape(shape + shape)
                pairs = [axis for n in range(len(shape)) for axis in (n, n + len(shape))]
                squares = [size * size for size in shape]
                self.grams[-1].append(gram.transpose(pairs).reshape(squares) * model.row_counts[k])
            self.metrics.append([[np.eye(size).ravel() for size in shape] for shape in term.shapes])

    def run(self, value: float, tol: float, max_cycles: int) -> tuple[float, int]:
        """Cycle until SS falls by less than `tol`; the SS that is reached, and the number of cycles."""
        values, settled = [value], 0
        while len(values) <= max_cycles:
            values.append(self.cycle())
            settled += 1
            if self.far or not values[-1] < values[-2] * (1.0 - tol):
                break
            if settled >= _SETTLED:
                ratio = ((values[-2] - values[-1]) / (values[-5] - values[-4])) ** (1 / 3)
                better = _best_relaxation(ratio, self.relaxation)
                if better > self.relaxation:
                    self.relaxation, settled = better, 0
        return values[-1], len(values) - 1

    def cycle(self) -> float:
        """Each bond and hyperedge at its best once; SS afterwards."""
        for t, term in enumerate(self.network.terms):
            for letter, k, m in term.gauge_bonds:
                check_time()
                if k in self.fixed or m in self.fixed:
                    continue
                if k in self.scaled or m in self.scaled:
                    self._balance_hyperedge(t, letter, (k, m))
                else:
                    self._balance_bond(t, letter, k, m)
            for letter, owners in term.hyperedges:
                free = tuple(k for k in owners if k not in self.fixed)
                if len(free) > 1:
                    self._balance_hyperedge(t, letter, free)
        return self.sensitivity()

    def sensitivity(self) -> float:
        total = 0.0
        for grams, metrics in zip(self.grams, self.metrics, strict=True):
            for gram, metric in zip(grams, metrics, strict=True):
                total += float((_traced(gram, metric, 0) @ metric[0] if metric else np.asarray(gram)).real)
        return total

    def applied(self, model: AnyModel) -> AnyModel:
        """The model in the gauge that was found."""
        targets = [np.array(matrix) for matrix in model.matrices]
        operands = [list(model.operands(t)) for t in range(len(self.network.terms))]
        for (t, letter, k), matrix in self.gauges.items():
            axis = 1 + self.network.terms[t].bonds[k].index(letter)
            operand = operands[t][k]
            if matrix.ndim == 1:
                operands[t][k] = operand * matrix.reshape(-1, *[1] * (operand.ndim - axis - 1))
            else:
                operands[t][k] = np.moveaxis(np.tensordot(operand, matrix, axes=(axis, 1)), -1, axis)
        for t, columns in enumerate(self.network.columns):
            for target, part, operand in zip(targets, columns, operands[t], strict=True):
                target[:, part] = operand.reshape(len(operand), -1)
        return model.with_matrices(targets)

    def _traced_gram(self, t: int, letter: str, k: int) -> tuple[Array, int]:
        """Gram of block k contracted with the H of its other bonds, (R, R), and the place of the bond in the block."""
        place = self.network.terms[t].bonds[k].index(letter)
        size = self.network.terms[t].shapes[k][place]
        return _traced(self.grams[t][k], self.metrics[t][k], place).reshape(size, size), place

    def _balance_bond(self, t: int, letter: str, k: int, m: int) -> None:
        """Geometric-mean gauge on a bond between blocks k and m: B_k takes G, B_m takes G^-1.

        tr M_k sees B_m and so G^-1, tr M_m sees B_k and so G.
        """
        (left, here), (right, there) = self._traced_gram(t, letter, k), self._traced_gram(t, letter, m)
        # Rows of a Gram belong to the conjugated side: tr M_m = tr(Rm S), but tr M_k = tr(Lm^T S^-1).
        lower, upper = _factor(left.T), _factor(right)
        if lower is None or upper is None:
            return
        product = upper.conj().T @ lower
        gesdd = lapack("gesdd", product)
        u, s, vh, info = gesdd(product)
        if info:
            return
        s = np.maximum(s, _TINY)
        root = 1.0 / np.sqrt(s)
        gauge = (lower @ vh.conj().T) * root
        inverse = root[:, None] * (u.conj().T @ upper.conj().T)
        if self.relaxation > 1.0 and (t, letter, m) in self.gauges:
            # The way from the old gauge is U z V^H in the new one.
            _, z, vh, info = gesdd(self.gauges[t, letter, m] @ gauge)
            if info or not z[-1] > 0.0:
                return
            beyond = z ** (self.relaxation - 1.0)
            gauge, inverse = (gauge @ vh.conj().T) * beyond, (vh @ inverse) / beyond[:, None]
        # tr(S^-1) tr(S)
        spread = float(np.vdot(inverse, inverse).real) * float(np.vdot(gauge, gauge).real)
        if not math.isfinite(spread):
            return
        self.far |= spread > _FAR
        metric, dual = inverse.conj().T @ inverse, gauge.conj() @ gauge.T
        self.metrics[t][k][here], self.metrics[t][m][there] = metric.ravel(), dual.ravel()
        # B_k[.., b] G[b, c] and G^-1[c, b] B_m[.., b]
        self.gauges[t, letter, k], self.gauges[t, letter, m] = gauge.T, inverse

    def _balance_hyperedge(self, t: int, letter: str, owners: tuple[int, ...]) -> None:
        traced = [self._traced_gram(t, letter, k) for k in owners]
        weights = np.array([np.diag(gram).real for gram, _ in traced])
        alive = np.all(weights > 0.0, axis=0)
        logs = np.log(np.where(alive, weights, 1.0))
        logs -= logs.mean(axis=0)
        # A component with a zero column adds nothing to X: without it SS is least.  A zero of a non-negative block may
        # rise again, if the other blocks are there.
        rest = 1.0 if self.scaled else 0.0
        scales, metrics = np.where(alive, np.exp(0.5 * logs), rest), np.where(alive, np.exp(-logs), rest)
        for k, (_, place), scale, metric in zip(owners, traced, scales, metrics, strict=True):
            self.gauges[t, letter, k] = scale
            self.metrics[t][k][place] = np.diag(metric).ravel()


def _best_relaxation(ratio: float, relaxation: float) -> float:
    """The relaxation of fastest convergence, from the ratio of two decreases of SS in a row under another one.

    Errors of the gauge fall by the root of that ratio, z, in a cycle; without relaxation they would by
    (z + w - 1)^2 / (z w^2), as long as the slowest part of them is real.
    """
    if not max(_SLOW, (relaxation - 1.0) ** 2) < ratio < 1.0:
        return relaxation
    z = math.sqrt(ratio)
    plain = (z + relaxation - 1.0) ** 2 / (z * relaxation**2)
    return min(2.0 / (1.0 + math.sqrt(max(1.0 - plain, 0.0))), _LARGEST_RELAXATION)


def _traced(gram: Array | list[Array], metrics: list[Array], place: int) -> Array:
    """Contract all axes but one with their H, from both ends."""
    if isinstance(gram, list):
        others = [vector @ metric for m, (vector, metric) in enumerate(zip(gram, metrics, strict=True)) if m != place]
        return np.asarray(gram[place] * math.prod(others))
    value = gram
    for metric in metrics[:place:-1]:
        value = value @ metric
    for metric in metrics[:place]:
        value = (metric @ value.reshape(len(metric), -1)).reshape(value.shape[1:])
    return value


def _factor(gram: Array) -> Array | None:
    """B with gram = B B^H: by Cholesky, or after a relative ridge that keeps the gauge finite on a deficient bond."""
    size = trace(gram)
    if not 0.0 < size < np.inf:
        return None
    factor, info = lapack("potrf", gram)(gram, lower=1, clean=1)
    if info == 0 and min(factor.diagonal().real.tolist()) ** 2 > _RIDGE * size:
        return np.asarray(factor)
    values, vectors = scipy.linalg.eigh(gram, check_finite=False)
    return np.asarray(vectors * np.sqrt(np.maximum(values, _RIDGE * size)))
