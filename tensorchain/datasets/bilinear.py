"""Matrix multiplication as a tensor: its CP rank is the number of products an algorithm needs.

The product of an n x m matrix A by an m x p matrix B is bilinear, so it is a tensor of order 3.  Written as

    <n, m, p> = sum_{i,j,k} e_ij o e_jk o e_ki,        of shape (nm, mp, pn),

its value at (vec A, vec B, vec C) is tr(A B C), and it keeps its form when modes are rotated.  Every entry is 0 or
1, and there are nmp ones.  A CP of rank R is an algorithm with R multiplications: 7 for <2, 2, 2> (Strassen), at most
23 for <3, 3, 3> (Laderman).  Between the border rank and the rank, fits diverge, so it is a hard and famous test.
As a chain the tensor is exact with bonds (n, m, p), which is the form it has in the formula.

References
----------
V. Strassen, "Gaussian elimination is not optimal", Numerische Mathematik 13, 1969.  J. D. Laderman, "A
noncommutative algorithm for multiplying 3 x 3 matrices using 23 multiplications", Bulletin of the AMS 82, 1976.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tensorchain.datasets._arguments import checked_count
from tensorchain.datasets.planted import Planted
from tensorchain.models import CP


def matmul(n: int, m: int, p: int) -> NDArray[np.float64]:
    """Build the tensor of the multiplication of an n x m by an m x p matrix.

    Parameters
    ----------
    n, m, p : int
        Sizes of the matrices, at least 1.

    Returns
    -------
    ndarray, shape (n m, m p, p n)
        T[i m + j, j p + k, k n + i] = 1, zeros elsewhere; its squared norm is n m p.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.datasets import matmul
    >>> A, B = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    >>> C = np.einsum("xyz,x,y->z", matmul(2, 3, 4), A.ravel(), B.ravel())
    >>> np.array_equal(C.reshape(4, 2).T, A @ B)
    True
    """
    n, m, p = checked_count("n", n), checked_count("m", m), checked_count("p", p)
    tensor = np.zeros((n * m, m * p, p * n))
    i, j, k = np.ogrid[:n, :m, :p]
    tensor[i * m + j, j * p + k, k * n + i] = 1.0
    return tensor


def strassen() -> Planted[CP]:
    """Strassen's algorithm: `matmul(2, 2, 2)` as an exact CP of rank 7.

    Returns
    -------
    Planted
        The tensor (4, 4, 4) and its CP of rank 7, with entries 0 and +-1.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.datasets import matmul, strassen
    >>> planted = strassen()
    >>> planted.model.rank, np.array_equal(planted.model.full(), matmul(2, 2, 2))
    (7, True)
    """
    # Rows: 11, 12, 21, 22 of A, of B, and of the transpose of C = A B.  Columns: the products M_1 ... M_7.
    a = [[1, 0, 1, 0, 1, -1, 0], [0, 0, 0, 0, 1, 0, 1], [0, 1, 0, 0, 0, 1, 0], [1, 1, 0, 1, 0, 0, -1]]
    b = [[1, 1, 0, -1, 0, 1, 0], [0, 0, 1, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0, 1], [1, 0, -1, 0, 1, 0, 1]]
    c = [[1, 0, 0, 1, -1, 0, 1], [0, 1, 0, 1, 0, 0, 0], [0, 0, 1, 0, 1, 0, 0], [1, -1, 1, 0, 0, 1, 0]]
    return Planted(matmul(2, 2, 2), CP([np.array(rows, dtype=np.float64) for rows in (a, b, c)]))
