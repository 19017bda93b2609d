"""Least squares with a lower bound on every entry, row by row:

    min  <D, D M^T> - 2 <D, W>      over      D >= F,

for a symmetric positive semidefinite M (P, P), the same for all rows or one for each, (I, P, P).

`descend` takes one entry after the other to its best (for a block of a CP: the sweeps of hierarchical ALS, over rows in
place of columns, so that each row ends when it is done).  `polish` goes on to the solution with an active set, after
Lawson and Hanson, from where it is: with the right active set that is one small Cholesky factor for each row.

The loops are compiled by numba and cached on disk.  Numba is slow to import: import this module inside the function
that needs it.

References: Cichocki and Phan, "Fast local algorithms for large scale nonnegative matrix and tensor factorizations"
(2009); Gillis and Glineur, "Accelerated multiplicative updates and hierarchical ALS algorithms for nonnegative matrix
factorization" (2012), for when to stop; Lawson and Hanson, "Solving Least Squares Problems" (1974), chapter 23.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tensorchain.kernels.linalg import Array


@njit(cache=True, nogil=True)
def descend(gram: Array, rhs: Array, floor: Array, change: Array, most: int, share: float) -> None:
    """Sweeps over the entries of each row of `change`, in place.

    Parameters
    ----------
    gram : ndarray
        M, (1, P, P) or (I, P, P).
    rhs, floor, change : ndarray
        W, F and D, (I, P); D >= F.
    most : int
        Sweeps over a row at most.
    share : float
        Part of the decrease of the first sweep below which a row is done.
    """
    rows, width = change.shape
    gradient = np.empty(width)
    for i in range(rows):
        matrix = gram[i if len(gram) > 1 else 0]
        row, low = change[i], floor[i]
        for p in range(width):
            gradient[p] = -rhs[i, p]
        for q in range(width):
            if row[q] != 0.0:
                for p in range(width):
                    gradient[p] += row[q] * matrix[q, p]
        first = 0.0
        for sweep in range(most):
            fall = 0.0
            for p in range(width):
                size = matrix[p, p]
                if size <= 0.0:
                    continue
                value = max(row[p] - gradient[p] / size, low[p])
                step = value - row[p]
                if step != 0.0:
                    fall -= step * (2.0 * gradient[p] + size * step)
                    row[p] = value
                    for q in range(width):
                        gradient[q] += step * matrix[p, q]
            if sweep == 0:
                first = fall
            if fall <= share * first:
                break


@njit(cache=True, nogil=True)
def polish(gram: Array, rhs: Array, floor: Array, change: Array, most: int, slack: float) -> None:
    """Each row of `change` at its best, in place, by an active set; a row whose matrix is singular stays as it is.

    Parameters
    ----------
    gram, rhs, floor, change : ndarray
        As in `descend`.
    most : int
        Changes of the active set of a row at most.
    slack : float
        Of the size of the terms of a gradient, up to which it counts as zero.
    """
    rows, width = change.shape
    factor, solution = np.empty((width, width)), np.empty(width)
    free = np.empty(width, dtype=np.int64)
    for i in range(rows):
        matrix = gram[i if len(gram) > 1 else 0]
        row, low, target = change[i], floor[i], rhs[i]
        count = 0
        for p in range(width):
            if row[p] > low[p]:
                free[count] = p
                count += 1
        for _ in range(most):
            # M_ff x = W_f - M_fa F_a, with x the entries that are free.
            sound = True
            for a in range(count):
                p = free[a]
                value = target[p]
                for q in range(width):
                    if not row[q] > low[q]:
                        value -= matrix[p, q] * row[q]
                # An entry that has just been freed is still at its floor.
                for b in range(count):
                    q = free[b]
                    if not row[q] > low[q]:
                        value += matrix[p, q] * row[q]
                solution[a] = value
                for b in range(a + 1):
                    entry = matrix[p, free[b]]
                    for c in range(b):
                        entry -= factor[a, c] * factor[b, c]
                    if a == b:
                        if not entry > 1e-14 * matrix[p, p]:
                            sound = False
                            break
                        factor[a, a] = np.sqrt(entry)
                    else:
                        factor[a, b] = entry / factor[b, b]
                if not sound:
                    break
            if not sound:
                break
            for a in range(count):
                for b in range(a):
                    solution[a] -= factor[a, b] * solution[b]
                solution[a] /= factor[a, a]
            for a in range(count - 1, -1, -1):
                for b in range(a + 1, count):
                    solution[a] -= factor[b, a] * solution[b]
                solution[a] /= factor[a, a]
            # As far towards it as the floor allows.
            part, last = 1.0, -1
            for a in range(count):
                p = free[a]
                if solution[a] < low[p] and row[p] - solution[a] > 0.0:
                    reach = (row[p] - low[p]) / (row[p] - solution[a])
                    if reach < part:
                        part, last = reach, p
            left = 0
            for a in range(count):
                p = free[a]
                value = solution[a] if part == 1.0 else row[p] + part * (solution[a] - row[p])
                row[p] = max(value, low[p]) if p != last else low[p]
                if row[p] > low[p]:
                    free[left] = p
                    left += 1
            count = left
            if part < 1.0:
                continue
            # The entry at its floor that gains most by rising.
            best, steepest = -1, 0.0
            for p in range(width):
                if not row[p] > low[p] and matrix[p, p] > 0.0:
                    value, size = target[p], abs(target[p])
                    for q in range(width):
                        term = matrix[p, q] * row[q]
                        value -= term
                        size += abs(term)
                    if value > slack * size and value * value / matrix[p, p] > steepest:
                        best, steepest = p, value * value / matrix[p, p]
            if best < 0:
                break
            free[count] = best
            count += 1
