"""How small the sensitivity of a model of given sizes can be, whatever its entries.

**A loop** of N cores with the smallest bond R, and a CP of rank R, whose components are such a loop of diagonal cores.
For the matrices A_1 ... A_N of one entry x = tr(A_1 ... A_N), and the products P_n of all but A_n in their cyclic
order,

    (A_1 ... A_N)^(N-1) = P_N P_{N-1} ... P_1,

since each side goes around the loop N - 1 times.  So the eigenvalues l of A_1 ... A_N, at most R of them not zero, have
by the inequalities of Weyl, Horn and Hoelder

    sum |l|^(2 (N-1) / N) <= (||P_1|| ... ||P_N||)^(2/N),      |x|^(2 (N-1)) <= R^(N-2) (||P_1|| ... ||P_N||)^2.

Summed over all entries with the inequality of Loomis and Whitney, with S_n the sum of ||P_n||^2 over its entries,

    ||X||^(2 (N-1)) <= R^(N-2) S_1 ... S_N,

and SS = sum_n I_n S_n is at least N times the geometric mean of its terms.  Equal components, or cores a_n x I, reach
the bound.

**Terms with a core.**  With U_n the factors of one term X, and s_n the rest of it, X_(n) = U_n s_n, so that
||X|| <= ||U_n|| ||s_n|| for each n.  With c = ||U_1|| ... ||U_N||, SS = c^2 + sum_n I_n ||s_n||^2 is at least N + 1
times the geometric mean of its terms, and c ||s_1|| ... ||s_N|| >= ||X||^N.  For a sum of terms the norms add up to at
least that of the sum, and equal terms are the best.

References: R. Horn and C. Johnson, "Topics in Matrix Analysis" (1991), section 3.3, for eigenvalues and singular values
of products; L. Loomis and H. Whitney, "An inequality related to the isoperimetric inequality" (1949).
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def of_loop(shape: Sequence[int], bond: int) -> float:
    """N (I_1 ... I_N)^(1/N) R^(2/N - 1), of the relative sensitivity.

    Parameters
    ----------
    shape : sequence of int
        Sizes I_n.
    bond : int
        The smallest bond R, or the rank of a CP.

    Returns
    -------
    float
        The bound.
    """
    order = len(shape)
    return float(order * _mean(shape, order) * bond ** (2.0 / order - 1.0))


def of_terms(shape: Sequence[int], count: int) -> float:
    """(N + 1) (I_1 ... I_N)^(1/(N+1)) P^(2/(N+1) - 1), of the relative sensitivity.

    Parameters
    ----------
    shape : sequence of int
        Sizes I_n.
    count : int
        Terms P, each of a core and N factors.

    Returns
    -------
    float
        The bound.
    """
    blocks = len(shape) + 1
    return float(blocks * _mean(shape, blocks) * count ** (2.0 / blocks - 1.0))


def _mean(sizes: Sequence[int], count: int) -> float:
    """Geometric mean of the sizes and ones, `count` in all."""
    return math.exp(sum(math.log(size) for size in sizes) / count)
