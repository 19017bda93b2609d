"""Functions of many variables, sampled on a grid.

X(i_1 ... i_N) = f(x_{i_1}, ..., x_{i_N}).  Smooth functions have fast-decaying unfoldings, so they are the
classical test of chains at high order, where the answer is known: the ranks are small, and the best error falls
geometrically with them.

References
----------
I. V. Oseledets, "Constructive representation of functions in low-rank tensor formats", Constructive
Approximation 37, 2013.  L. Trefethen, "Cubature, approximation, and isotropy in the hypercube", SIAM Review 59,
2017.  H. H. Rosenbrock, "An automatic method for finding the greatest or least value of a function", The
Computer Journal 3, 1960.  D. Hilbert, "Ein Beitrag zur Theorie des Legendre'schen Polynoms", Acta Mathematica
18, 1894.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tensorchain.datasets._arguments import checked_count, checked_sizes


def inverse_radius(order: int = 5, size: int = 10) -> NDArray[np.float64]:
    """Sample (1 + x_1^2 + ... + x_N^2)^(-1/2) on an even grid of [0, 1]^N.

    Symmetric in its modes and of full rank in every unfolding, with singular values that fall geometrically.

    Parameters
    ----------
    order : int
        Number of variables N, at least 2.
    size : int
        Grid points a variable, at least 2, both ends included.

    Returns
    -------
    ndarray
        Shape (size,) * order.

    Examples
    --------
    >>> from tensorchain.datasets import inverse_radius
    >>> X = inverse_radius(order=3, size=5)
    >>> X.shape, float(X[0, 0, 0]), float(X[4, 4, 4])
    ((5, 5, 5), 1.0, 0.5)
    """
    order, size = checked_count("order", order, 2), checked_count("size", size, 2)
    squares = np.linspace(0.0, 1.0, size) ** 2
    return np.asarray(1.0 / np.sqrt(1.0 + _sum_over_modes([squares] * order)), dtype=np.float64)


def hilbert(shape: Sequence[int]) -> NDArray[np.float64]:
    """Hilbert's tensor 1 / (i_1 + ... + i_N + 1), with i_n counted from 0.

    Each unfolding is so ill-conditioned that a normal equation loses half of the digits: a test of what a solver
    does with a Gram matrix that is singular to rounding.

    Parameters
    ----------
    shape : sequence of int
        The sizes (I_1, ..., I_N), N >= 2.

    Returns
    -------
    ndarray
        Shape (I_1, ..., I_N).

    Examples
    --------
    >>> from tensorchain.datasets import hilbert
    >>> 1.0 / hilbert((2, 3))
    array([[1., 2., 3.],
           [2., 3., 4.]])
    """
    sizes = checked_sizes("shape", shape)
    return 1.0 / (_sum_over_modes([np.arange(size, dtype=np.float64) for size in sizes]) + 1.0)


def rosenbrock(order: int = 5, size: int = 10) -> NDArray[np.float64]:
    """Sample Rosenbrock's function on an even grid of [-2, 2]^N.

    f(x) = sum_{n < N} 100 (x_{n+1} - x_n^2)^2 + (1 - x_n)^2.  Neighbours alone are coupled, so an open chain (a
    tensor train) of bonds 3 is exact at any order.

    Parameters
    ----------
    order : int
        Number of variables N, at least 2.
    size : int
        Grid points a variable, at least 2, both ends included.

    Returns
    -------
    ndarray
        Shape (size,) * order.

    Examples
    --------
    The minimum, at x = (1, ..., 1), is on the grid when size is a multiple of 4 plus 1:

    >>> from tensorchain.datasets import rosenbrock
    >>> X = rosenbrock(order=4, size=5)
    >>> float(X.min()), float(X[3, 3, 3, 3])
    (0.0, 0.0)
    """
    order, size = checked_count("order", order, 2), checked_count("size", size, 2)
    x = np.linspace(-2.0, 2.0, size)
    pair = 100.0 * (x[None, :] - x[:, None] ** 2) ** 2 + (1.0 - x[:, None]) ** 2
    total = np.zeros((size,) * order)
    for n in range(order - 1):
        total += pair.reshape((1,) * n + (size, size) + (1,) * (order - 2 - n))
    return total


def _sum_over_modes(vectors: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The tensor v_1(i_1) + ... + v_N(i_N)."""
    total = np.zeros(())
    for vector in vectors:
        total = total[..., None] + vector
    return total
