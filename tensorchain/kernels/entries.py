"""Loops over listed entries of a tensor: what no matrix product can do.

Each entry z sits at a row i[z] of a block and has a *design row* D[z], the derivative of X at z with
respect to that row.  Contractions, Grams and J^H W J are sums over z of

    v[z] conj(D[z]),     w[z] conj(D[z]) D[z]^T,     w[z] conj(j[z]) j[z]^T,

scattered to the rows that z touches; j[z], a row of J, is the design rows of all blocks side by side.
The loops are compiled by numba and cached on disk, and run without the GIL, so that threads may share the
entries among them.  Numba is slow to import: import this module inside the function that needs it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tensorchain.kernels.linalg import Array


@njit(cache=True, nogil=True)
def add_rows(target: Array, index: Array, values: Array, rows: Array) -> None:
    """target[index[z]] += values[z] * rows[z] for every z.

    Shapes: target (I, P), index (Z,), values (Z,), rows (Z, P).
    """
    for z in range(len(index)):
        line, value = target[index[z]], values[z]
        for p in range(line.size):
            line[p] += value * rows[z, p]


@njit(cache=True, nogil=True)
def add_products(target: Array, k: int, indices: Array, values: Array, factors: tuple[Array, ...]) -> None:
    """The same with rows that are products of rows of the other factors (CP): they are never stored.

    Shapes: target (I_k, R), indices (Z, N), values (Z,), factors (I_n, R) for every mode, conjugated.
    """
    order, width = indices.shape[1], target.shape[1]
    if order == 3:
        # Without a row in between the loop runs half as fast again.
        first, last = 1 if k == 0 else 0, 1 if k == 2 else 2
        for z in range(len(values)):
            line, value = target[np.uint64(indices[z, k])], values[z]
            one, two = factors[first][np.uint64(indices[z, first])], factors[last][np.uint64(indices[z, last])]
            for p in range(width):
                line[p] += value * one[p] * two[p]
        return
    work = np.empty(width, dtype=target.dtype)
    for z in range(len(values)):
        for p in range(width):
            work[p] = values[z]
        for n in range(order):
            if n != k:
                row = factors[n][np.uint64(indices[z, n])]
                for p in range(width):
                    work[p] *= row[p]
        line = target[np.uint64(indices[z, k])]
        for p in range(width):
            line[p] += work[p]


@njit(cache=True, nogil=True)
def set_products(target: Array, indices: Array, factors: tuple[Array, ...]) -> None:
    """target[z] = sum over r of the products of the rows that z touches: the entries of a CP.

    Shapes: target (Z,), indices (Z, N), factors (I_n, R) for every mode.
    """
    order, width = indices.shape[1], factors[0].shape[1]
    work = np.empty(width, dtype=target.dtype)
    for z in range(len(target)):
        row = factors[0][indices[z, 0]]
        for p in range(width):
            work[p] = row[p]
        for n in range(1, order):
            row = factors[n][indices[z, n]]
            for p in range(width):
                work[p] *= row[p]
        target[z] = work.sum()


@njit(cache=True, nogil=True)
def add_grams(target: Array, index: Array, weights: Array, rows: Array) -> None:
    """target[index[z]] += weights[z] conj(rows[z]) rows[z]^T, lower triangles only.

    Shapes: target (I, P, P), index (Z,), weights (Z,), rows (Z, P).
    """
    for z in range(len(index)):
        gram = target[index[z]]
        for p in range(rows.shape[1]):
            factor = weights[z] * np.conj(rows[z, p])
            for q in range(p + 1):
                gram[p, q] += factor * rows[z, q]


@njit(cache=True, nogil=True)
def add_normal(target: Array, positions: Array, columns: Array, weights: Array, rows: Array) -> None:
    """J^H W J from the non-zero numbers of the rows of J, lower triangle only.

    Shapes: target (n, n); rows (Z, S): design rows of all blocks side by side; columns (K + 1,): where
    those of each block begin in `rows`, and S; positions (Z, K): where they begin in a row of J; weights (Z,).
    """
    count = positions.shape[1]
    for z in range(len(weights)):
        for m in range(count):
            for p in range(columns[m + 1] - columns[m]):
                line = target[positions[z, m] + p]
                factor = weights[z] * np.conj(rows[z, columns[m] + p])
                for k in range(m):
                    start, shift = positions[z, k], columns[k]
                    for q in range(columns[k + 1] - shift):
                        line[start + q] += factor * rows[z, shift + q]
                start, shift = positions[z, m], columns[m]
                for q in range(p + 1):
                    line[start + q] += factor * rows[z, shift + q]
