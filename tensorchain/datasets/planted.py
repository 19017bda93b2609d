"""Tensors planted with a known model: exact or noisy, with factors as collinear as asked.

X = model + noise, with ||noise|| / ||model|| given.  **Collinearity** makes the same sense in every model: it is
the cosine c between any two columns of a block seen as a matrix (I_n, P_n), the physical index first: columns of
a factor in CP and Tucker, of all terms together in a block-term model, and mode-2 fibres A_n(r, :, s) of a core
in a chain.  As c grows to 1 all columns tend to one vector, components overlap, and alternating least squares
enters swamps.

Columns with cosines exactly c are an orthonormal basis times the Cholesky factor of (1 - c) I + c 1 1'.  They need
P_n <= I_n.  Wider blocks cannot have equal cosines; there the columns are sqrt(c) u + sqrt(1 - c) w_p with random
unit vectors w_p orthogonal to the unit vector u, and c is the mean of the cosines.

References
----------
G. Tomasi and R. Bro, "A comparison of algorithms for fitting the PARAFAC model", Computational Statistics & Data
Analysis 50, 2006.  A.-H. Phan, P. Tichavsky, A. Cichocki, "Low complexity damped Gauss-Newton algorithms for
CANDECOMP/PARAFAC", SIAM Journal on Matrix Analysis and Applications 34, 2013.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from tensorchain.datasets._arguments import (
    checked_count,
    checked_dtype,
    checked_generator,
    checked_real,
    checked_sizes,
    gaussian,
    orthonormal,
)
from tensorchain.datasets.corruptions import add_noise
from tensorchain.kernels import Array
from tensorchain.models import CP, BlockTerm, Model, TensorChain, Tucker

M = TypeVar("M", bound=Model)


@dataclass(frozen=True, eq=False)
class Planted(Generic[M]):
    """A tensor and the model planted in it.

    Attributes
    ----------
    tensor : ndarray
        The data, noise included.
    model : Model
        The truth: `tensor` is `model.full()` plus the noise.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> planted = tc.datasets.exact_cp((4, 5, 6), 2, np.random.default_rng(0))
    >>> np.allclose(planted.tensor, planted.model.full())
    True
    """

    tensor: Array
    model: M


def exact_cp(
    shape: Sequence[int],
    rank: int,
    rng: np.random.Generator,
    *,
    collinearity: float | None = None,
    noise: float = 0.0,
    dtype: DTypeLike = np.float64,
) -> Planted[CP]:
    """Plant a sum of `rank` rank-one tensors.

    Parameters
    ----------
    shape : sequence of int
        The sizes (I_1, ..., I_N), N >= 2.
    rank : int
        Number of components R.
    rng : numpy.random.Generator
        Where the factors and the noise come from.
    collinearity : float in [0, 1), optional
        Cosine between the columns of each factor, which then have unit norm.  By default entries are Gaussian.
    noise : float
        ||noise|| / ||model||.
    dtype : dtype
        float32, float64 or complex128.

    Returns
    -------
    Planted
        The tensor and the CP model of rank R.

    Raises
    ------
    ValueError
        If a size, the collinearity, the noise or the dtype is out of range.
    TypeError
        If `rng` is not a generator.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.datasets import exact_cp
    >>> planted = exact_cp((6, 5, 4), 3, np.random.default_rng(0), collinearity=0.9)
    >>> A = planted.model.blocks[0]
    >>> A.T @ A
    array([[1. , 0.9, 0.9],
           [0.9, 1. , 0.9],
           [0.9, 0.9, 1. ]])
    """
    sizes, rank = checked_sizes("shape", shape), checked_count("rank", rank)
    return _plant(CP([_columns(size, rank, rng, collinearity, dtype) for size in sizes]), noise, rng)


def exact_tucker(
    shape: Sequence[int],
    ranks: Sequence[int],
    rng: np.random.Generator,
    *,
    collinearity: float | None = None,
    noise: float = 0.0,
    dtype: DTypeLike = np.float64,
) -> Planted[Tucker]:
    """Plant a Tucker model with a Gaussian core.

    Collinear factors make the multilinear singular values spread: a factor has condition number
    sqrt((1 + (R_n - 1) c) / (1 - c)).

    Parameters
    ----------
    shape : sequence of int
        The sizes (I_1, ..., I_N), N >= 2.
    ranks : sequence of int
        The multilinear rank (R_1, ..., R_N), R_n <= I_n.
    rng : numpy.random.Generator
        Where the blocks and the noise come from.
    collinearity, noise : float, optional
        As in `exact_cp`.
    dtype : dtype, optional
        Of the tensor: float32, float64 or complex128.

    Returns
    -------
    Planted
        The tensor and the Tucker model.

    Raises
    ------
    TypeError
        As in `exact_cp`.
    ValueError
        As in `exact_cp`, and if some R_n > I_n.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.datasets import exact_tucker
    >>> X = exact_tucker((6, 5, 4), (2, 3, 2), np.random.default_rng(0)).tensor
    >>> [int(np.linalg.matrix_rank(np.moveaxis(X, n, 0).reshape(X.shape[n], -1))) for n in range(3)]
    [2, 3, 2]
    """
    sizes, ranks = _checked_ranks(shape, ranks)
    return _plant(Tucker(*_tucker_blocks(sizes, ranks, rng, collinearity, dtype)), noise, rng)


def exact_block_term(
    shape: Sequence[int],
    ranks: Sequence[int],
    rng: np.random.Generator,
    *,
    terms: int = 2,
    collinearity: float | None = None,
    noise: float = 0.0,
    dtype: DTypeLike = np.float64,
) -> Planted[BlockTerm]:
    """Plant a sum of Tucker models of one multilinear rank.

    Parameters
    ----------
    shape : sequence of int
        The sizes (I_1, ..., I_N), N >= 2.
    ranks : sequence of int
        The multilinear rank (R_1, ..., R_N) of every term, R_n <= I_n.
    rng : numpy.random.Generator
        Where the blocks and the noise come from.
    terms : int
        Number of terms.
    collinearity : float in [0, 1), optional
        Cosine between any two columns of mode n, of one term or of two, as in `exact_cp`.
    noise : float, optional
        As in `exact_cp`.
    dtype : dtype, optional
        Of the tensor: float32, float64 or complex128.

    Returns
    -------
    Planted
        The tensor and the block-term model.

    Raises
    ------
    TypeError
        As in `exact_tucker`.
    ValueError
        As in `exact_tucker`.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.datasets import exact_block_term
    >>> X = exact_block_term((6, 6, 6), (2, 2, 2), np.random.default_rng(0), terms=3).tensor
    >>> X.shape, int(np.linalg.matrix_rank(X.reshape(6, -1)))
    ((6, 6, 6), 6)
    """
    sizes, ranks = _checked_ranks(shape, ranks)
    terms = checked_count("terms", terms)
    stacked = [_columns(size, terms * rank, rng, collinearity, dtype) for size, rank in zip(sizes, ranks, strict=True)]
    factors = [np.split(block, terms, axis=1) for block in stacked]
    model = BlockTerm(
        [Tucker(gaussian(ranks, rng, checked_dtype(dtype)), [mode[t] for mode in factors]) for t in range(terms)]
    )
    return _plant(model, noise, rng)


def exact_chain(
    shape: Sequence[int],
    bonds: Sequence[int],
    rng: np.random.Generator,
    *,
    collinearity: float | None = None,
    noise: float = 0.0,
    dtype: DTypeLike = np.float64,
) -> Planted[TensorChain]:
    """Plant a tensor chain (a tensor ring), X(i_1 ... i_N) = tr(A_1(i_1) ... A_N(i_N)).

    Parameters
    ----------
    shape : sequence of int
        The sizes (I_1, ..., I_N), N >= 2.
    bonds : sequence of int
        The bonds (R_1, ..., R_N): core n has shape (R_n, I_n, R_{n+1}), with R_{N+1} = R_1.  R_1 = 1 opens the
        chain into a tensor train.
    rng : numpy.random.Generator
        Where the cores and the noise come from.
    collinearity : float in [0, 1), optional
        Cosine between the mode-2 fibres of each core; exact if R_n R_{n+1} <= I_n, on average otherwise.  By
        default entries are Gaussian.
    noise : float, optional
        As in `exact_cp`.
    dtype : dtype, optional
        Of the tensor: float32, float64 or complex128.

    Returns
    -------
    Planted
        The tensor and the chain.

    Raises
    ------
    TypeError
        As in `exact_cp`.
    ValueError
        As in `exact_cp`, and if there is not one bond a mode.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.datasets import exact_chain
    >>> planted = exact_chain((7, 6, 5), (2, 3, 4), np.random.default_rng(0), noise=0.01)
    >>> [core.shape for core in planted.model.blocks]
    [(2, 7, 3), (3, 6, 4), (4, 5, 2)]
    >>> X = planted.model.full()
    >>> float(np.linalg.norm(planted.tensor - X) / np.linalg.norm(X))
    0.010
    """
    sizes = checked_sizes("shape", shape)
    rows = checked_sizes("bonds", bonds, count=len(sizes))
    cores = []
    for size, left, right in zip(sizes, rows, rows[1:] + rows[:1], strict=True):
        fibres = _columns(size, left * right, rng, collinearity, dtype)
        cores.append(np.moveaxis(fibres.reshape(size, left, right), 0, 1))
    return _plant(TensorChain(cores), noise, rng)


def _plant(model: M, noise: float, rng: np.random.Generator) -> Planted[M]:
    noise = checked_real("noise", noise, 0.0)
    tensor = model.full()
    return Planted(add_noise(tensor, noise, rng) if noise else tensor, model)


def _checked_ranks(shape: Sequence[int], ranks: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    sizes = checked_sizes("shape", shape)
    widths = checked_sizes("ranks", ranks, count=len(sizes))
    for n, (size, rank) in enumerate(zip(sizes, widths, strict=True)):
        if rank > size:
            raise ValueError(f"ranks[{n}] is {rank}, but mode {n} has size {size}: a rank is at most the size")
    return sizes, widths


def _tucker_blocks(
    sizes: tuple[int, ...],
    ranks: tuple[int, ...],
    rng: np.random.Generator,
    collinearity: float | None,
    dtype: DTypeLike,
) -> tuple[Array, list[Array]]:
    factors = [_columns(size, rank, rng, collinearity, dtype) for size, rank in zip(sizes, ranks, strict=True)]
    return gaussian(ranks, rng, checked_dtype(dtype)), factors


def _columns(size: int, columns: int, rng: np.random.Generator, collinearity: float | None, dtype: DTypeLike) -> Array:
    """A block (size, columns): Gaussian, or unit columns with the given cosine between them."""
    dtype, rng = checked_dtype(dtype), checked_generator(rng)
    if collinearity is None:
        return gaussian((size, columns), rng, dtype)
    c = checked_real("collinearity", collinearity, 0.0, 1.0, open_high=True)
    if columns <= size:
        cosines = (1.0 - c) * np.eye(columns) + c
        return np.asarray(orthonormal(size, columns, rng, dtype) @ np.linalg.cholesky(cosines).T, dtype=dtype)
    common, directions = gaussian((size, 1), rng, dtype), gaussian((size, columns), rng, dtype)
    common /= np.linalg.norm(common)
    if size > 1:
        directions -= common @ (common.conj().T @ directions)
    directions /= np.linalg.norm(directions, axis=0)
    return np.asarray(np.sqrt(c) * common + np.sqrt(1.0 - c) * directions, dtype=dtype)
