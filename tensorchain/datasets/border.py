"""Border tensors: limits of models of a given rank that are, generically, no such model.

Take blocks A_1 ... A_N whose model vanishes, X(A) = 0, and any directions B_1 ... B_N.  By multilinearity

    X(A + eps B) / eps  =  T + O(eps),        T = sum_n X(A with A_n replaced by B_n),

so T is approximated as well as one likes by models of the same rank, with blocks of size eps^(-1/N).  The error has
infimum 0 and generically no minimum: along any minimising sequence the blocks diverge and their terms cancel.  These
are the hardest tensors for a solver, and their truth is known.

**CP.**  A pair of equal components of opposite sign vanishes: factor n holds the columns (a_n, a_n) with one sign
turned, and B_n = (b_n, 0).  Then T = b o a o a + a o b o a + a o a o b at order 3, of rank N and border rank 2.

**Chain.**  Cores that are upper triangular over their bonds, A_n(r, :, s) = 0 unless r <= s, the first one strictly:
a path r_1 < r_2 <= ... <= r_N <= r_1 cannot close, so every trace vanishes, also when the bonds are unequal.

References
----------
V. de Silva and L.-H. Lim, "Tensor rank and the ill-posedness of the best low-rank approximation problem", SIAM
Journal on Matrix Analysis and Applications 30, 2008.  J. M. Landsberg, Y. Qi, K. Ye, "On the geometry of tensor
network states", Quantum Information and Computation 12, 2012.  A.-H. Phan et al., "How to train unstable looped
tensor network", arXiv 2203.02617, 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np
from numpy.typing import DTypeLike

from tensorchain.datasets._arguments import (
    checked_count,
    checked_dtype,
    checked_generator,
    checked_real,
    checked_sizes,
    gaussian,
)
from tensorchain.datasets.planted import M
from tensorchain.kernels import Array, norm
from tensorchain.models import CP, TensorChain


@dataclass(frozen=True, eq=False)
class Border(Generic[M]):
    """A tensor on the border of a set of models, and a path that leads to it.

    Attributes
    ----------
    tensor : ndarray
        T, of norm 1.
    vanishing : Model
        The model with blocks A, X(A) = 0.
    directions : tuple of ndarray
        The blocks B, one to a block of `vanishing` and of its shape.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> border = tc.datasets.border_cp((4, 4, 4), np.random.default_rng(0))
    >>> border.tensor.shape
    (4, 4, 4)
    """

    tensor: Array
    vanishing: M
    directions: tuple[Array, ...]

    def approximant(self, epsilon: float) -> M:
        """The model X(A + eps B) / eps, at distance O(eps) from the tensor.

        Parameters
        ----------
        epsilon : float
            Step eps > 0.  The division is shared evenly: each block is multiplied by eps^(-1/N).

        Returns
        -------
        Model
            Of the same kind and rank as `vanishing`.

        Examples
        --------
        >>> import numpy as np
        >>> from tensorchain.datasets import border_chain
        >>> border = border_chain((5, 5, 5), (2, 2, 2), np.random.default_rng(0))
        >>> error = [np.linalg.norm(border.approximant(e).full() - border.tensor) for e in (1e-3, 1e-4)]
        >>> float(error[0] / error[1])
        10.0
        """
        epsilon = checked_real("epsilon", epsilon, np.finfo(np.float64).tiny)
        blocks = self.vanishing.blocks
        scale = epsilon ** (-1.0 / len(blocks))
        moved = [((a + epsilon * b) * scale).astype(a.dtype) for a, b in zip(blocks, self.directions, strict=True)]
        return self.vanishing.with_blocks(moved)


def border_cp(
    shape: Sequence[int], rng: np.random.Generator, *, rank: int = 2, dtype: DTypeLike = np.float64
) -> Border[CP]:
    """Draw a random tensor of border rank at most `rank` and, generically, of higher rank.

    It is a sum of rank // 2 tangents sum_n a_1 o ... o b_n o ... o a_N, and one rank-one tensor if `rank` is odd,
    all of Gaussian vectors.

    Parameters
    ----------
    shape : sequence of int
        The sizes (I_1, ..., I_N), N >= 3 (a matrix always has a best approximation), I_n >= 2.
    rng : numpy.random.Generator
        Where the vectors come from.
    rank : int
        Number of components R of the approximants, at least 2.
    dtype : dtype
        float32, float64 or complex128.

    Returns
    -------
    Border
        The tensor, of norm 1, and CP models of rank R that tend to it.

    Raises
    ------
    ValueError
        If the order, a size, the rank or the dtype is out of range.
    TypeError
        If `rng` is not a generator.

    Examples
    --------
    The unfoldings of one tangent have rank 2, and yet no CP of rank 2 equals it:

    >>> import numpy as np
    >>> from tensorchain.datasets import border_cp
    >>> border = border_cp((4, 4, 4), np.random.default_rng(0))
    >>> int(np.linalg.matrix_rank(border.tensor.reshape(4, 16)))
    2
    >>> border.approximant(1e-3).rank
    2
    """
    sizes = _checked_shape(shape)
    rank, dtype, rng = checked_count("rank", rank, 2), checked_dtype(dtype), checked_generator(rng)
    pairs, single = divmod(rank, 2)
    points, directions = [], []
    for n, size in enumerate(sizes):
        a, b = gaussian((size, pairs), rng, dtype), gaussian((size, pairs), rng, dtype)
        c = gaussian((size, single), rng, dtype)
        none = np.zeros_like(c)
        first = n == 0
        # The rank-one tensor c is the tangent whose point vanishes in mode 0 and moves along c there.
        points.append(np.concatenate([a, -a if first else a, none if first else c], axis=1))
        directions.append(np.concatenate([b, np.zeros_like(b), c if first else none], axis=1))
    return _border(CP(points), directions)


def border_chain(
    shape: Sequence[int], bonds: Sequence[int], rng: np.random.Generator, *, dtype: DTypeLike = np.float64
) -> Border[TensorChain]:
    """Draw a random limit of tensor chains of given bonds that is, generically, no such chain.

    Parameters
    ----------
    shape : sequence of int
        The sizes (I_1, ..., I_N), N >= 3, I_n >= 2.
    bonds : sequence of int
        The bonds (R_1, ..., R_N) of the approximants, R_n >= 2: an open chain (some R_n = 1) always has a best
        approximation.
    rng : numpy.random.Generator
        Where the cores come from.
    dtype : dtype
        float32, float64 or complex128.

    Returns
    -------
    Border
        The tensor, of norm 1, and chains of the given bonds that tend to it.

    Raises
    ------
    ValueError
        If the order, a size, a bond or the dtype is out of range.
    TypeError
        If `rng` is not a generator.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.datasets import border_chain
    >>> border = border_chain((4, 4, 4), (2, 3, 2), np.random.default_rng(0))
    >>> float(abs(border.vanishing.full()).max()), border.approximant(0.1).bonds
    (0.0, (2, 3, 2))
    """
    sizes = _checked_shape(shape)
    rows = checked_sizes("bonds", bonds, count=len(sizes), least=2)
    dtype, rng = checked_dtype(dtype), checked_generator(rng)
    points, directions = [], []
    for n, (left, size, right) in enumerate(zip(rows, sizes, rows[1:] + rows[:1], strict=True)):
        upper = np.triu(np.ones((left, right), dtype=bool), k=1 if n == 0 else 0)
        points.append(np.where(upper[:, None, :], gaussian((left, size, right), rng, dtype), dtype.type(0)))
        directions.append(gaussian((left, size, right), rng, dtype))
    return _border(TensorChain(points), directions)


def _checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    sizes = checked_sizes("shape", shape, least=2)
    if len(sizes) < 3:
        raise ValueError("shape has 2 entries, but a border tensor needs order 3: matrices have best approximations")
    return sizes


def _border(vanishing: M, directions: list[Array]) -> Border[M]:
    """Add up T = sum_n X(A with A_n := B_n) and scale B so that ||T|| = 1."""
    blocks = vanishing.blocks
    tensor = np.zeros(vanishing.shape, dtype=blocks[0].dtype)
    for n, direction in enumerate(directions):
        tensor += vanishing.with_blocks([*blocks[:n], direction, *blocks[n + 1 :]]).full()
    size = norm(tensor)
    scaled = tuple((direction / size).astype(direction.dtype) for direction in directions)
    return Border((tensor / size).astype(tensor.dtype), vanishing, scaled)
