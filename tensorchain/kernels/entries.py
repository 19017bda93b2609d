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
def add_products(target: Array, k: int, indices: Array, values: Array, stacked: Array, starts: Array) -> None:
    """The same with rows that are products of rows of the other blocks (CP): they are never stored.

    Shapes: target (I_k, R), indices (Z, N), values (Z,), stacked (sum I_n, R): all factors below one
    another, conjugated; starts (N,): where each begins.
    """
    order, width = indices.shape[1], stacked.shape[1]
    first = 1 if k == 0 else 0
    last = order - 2 if k == order - 1 else order - 1
    work = np.empty(width, dtype=stacked.dtype)
    for z in range(len(values)):
        line = target[indices[z, k]]
        row = stacked[starts[first] + indices[z, first]]
        if first == last:
            for p in range(width):
                line[p] += values[z] * row[p]
            continue
        for p in range(width):
            work[p] = values[z] * row[p]
        for n in range(first + 1, last):
            if n != k:
                row = stacked[starts[n] + indices[z, n]]
                for p in range(width):
                    work[p] *= row[p]
        row = stacked[starts[last] + indices[z, last]]
        for p in range(width):
            line[p] += work[p] * row[p]


@njit(cache=True, nogil=True)
def set_products(target: Array, indices: Array, stacked: Array, starts: Array) -> None:
    """target[z] = sum over r of the products of the rows that z touches: the entries of a CP.

    Shapes: target (Z,), indices (Z, N), stacked (sum I_n, R), starts (N,).
    """
    order, width = indices.shape[1], stacked.shape[1]
    work = np.empty(width, dtype=stacked.dtype)
    for z in range(len(target)):
        row = stacked[starts[0] + indices[z, 0]]
        for p in range(width):
            work[p] = row[p]
        for n in range(1, order):
            row = stacked[starts[n] + indices[z, n]]
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
