"""Bad gauges: the same tensor from blocks that are badly scaled.

Blocks are not unique.  On every bond of a model an invertible matrix and its inverse can be inserted:

    chain     A_n -> A_n G,  A_{n+1} -> G^-1 A_{n+1}
    Tucker    U_n -> U_n G_n,  core -> core x_n G_n^-1     (block terms: each term by itself)
    CP        a_r^(n) -> s_n,r a_r^(n)  with  prod_n s_n,r = 1

The tensor stays, and the sensitivity grows without bound with the condition numbers.  Such inputs tell a method that
depends on the gauge (plain damping, rounding of the blocks) from one that does not, and have a known optimum.

References
----------
A.-H. Phan et al., "How to train unstable looped tensor network", arXiv 2203.02617, 2022.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from tensorchain.datasets._arguments import checked_generator, checked_real, gaussian, orthonormal
from tensorchain.datasets.planted import M
from tensorchain.kernels import Array
from tensorchain.models import CP, BlockTerm, TensorChain, Tucker


def bad_gauge(model: M, condition: float, rng: np.random.Generator) -> M:
    """Rewrite a model in random, ill-conditioned gauges; its tensor stays the same.

    Parameters
    ----------
    model : CP, Tucker, BlockTerm or TensorChain
        The model to rewrite.
    condition : float
        At least 1.  In a chain, Tucker or block-term model the condition number of every inserted matrix, whose
        singular values are spaced evenly on a log scale from condition^(1/2) to condition^(-1/2) (on a bond of size
        1 it is the number condition^(1/2)).  In a CP the ratio of the largest to the smallest factor by which the
        columns of one component are multiplied.
    rng : numpy.random.Generator
        Where the matrices come from.

    Returns
    -------
    Model
        Of the same kind, shape and rank.  The tensor is the same up to rounding, which `condition` amplifies.

    Raises
    ------
    ValueError
        If `condition` is below 1.
    TypeError
        If `model` is of another kind, or `rng` no generator.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.datasets import bad_gauge, exact_chain
    >>> rng = np.random.default_rng(0)
    >>> good = exact_chain((4, 5, 6), (2, 3, 2), rng).model
    >>> bad = bad_gauge(good, 100.0, rng)
    >>> bool(np.allclose(good.full(), bad.full())), bool(bad.sensitivity() > 100 * good.sensitivity())
    (True, True)
    """
    condition, rng = checked_real("condition", condition, 1.0), checked_generator(rng)
    if isinstance(model, CP):
        return model.with_blocks(_rescale_columns(model.blocks, condition, rng))
    if isinstance(model, TensorChain):
        return model.with_blocks(_regauge_bonds(model.blocks, condition, rng))
    if isinstance(model, Tucker):
        return model.with_blocks(_regauge_core(model.blocks, condition, rng))
    if isinstance(model, BlockTerm):
        parts = [_regauge_core(term.blocks, condition, rng) for term in model.terms]
        terms = [(core, factors) for core, *factors in parts]
        return model.with_blocks(BlockTerm(terms).blocks)
    raise TypeError(f"model is {type(model).__name__}, but CP, Tucker, BlockTerm or TensorChain is needed")


def _rescale_columns(factors: tuple[Array, ...], condition: float, rng: np.random.Generator) -> list[Array]:
    """Multiply the columns of each component by numbers whose product is 1 and whose spread is `condition`."""
    exponents = rng.standard_normal((len(factors), factors[0].shape[1]))
    exponents -= exponents.mean(axis=0)
    exponents *= math.log(condition) / np.ptp(exponents, axis=0)
    return [(factor * np.exp(row)).astype(factor.dtype) for factor, row in zip(factors, exponents, strict=True)]


def _regauge_bonds(cores: tuple[Array, ...], condition: float, rng: np.random.Generator) -> list[Array]:
    """Insert G_n G_n^-1 on the bond before each core, the bond that closes the loop included."""
    pairs = [_gauge(core.shape[0], condition, rng, core.dtype) for core in cores]
    after = pairs[1:] + pairs[:1]
    return [
        np.einsum("ab,bic,cd->aid", inverse, core, gauge, optimize=True).astype(core.dtype)
        for core, (_, inverse), (gauge, _) in zip(cores, pairs, after, strict=True)
    ]


def _regauge_core(blocks: tuple[Array, ...], condition: float, rng: np.random.Generator) -> list[Array]:
    """Insert G_n G_n^-1 between a core and each of its factors."""
    core, *factors = blocks
    moved, changed = [], core
    for n, factor in enumerate(factors):
        gauge, inverse = _gauge(factor.shape[1], condition, rng, factor.dtype)
        moved.append((factor @ gauge).astype(factor.dtype))
        changed = np.moveaxis(np.tensordot(inverse, changed, axes=(1, n)), 0, n)
    return [changed.astype(core.dtype), *moved]


def _gauge(size: int, condition: float, rng: np.random.Generator, dtype: DTypeLike) -> tuple[Array, Array]:
    """A random matrix of the given condition number, and its inverse from the same singular vectors."""
    if size == 1:
        sign = gaussian((1, 1), rng, np.result_type(dtype, np.float64))
        gauge = math.sqrt(condition) * sign / np.abs(sign)
        return gauge, 1.0 / gauge
    left, right = (orthonormal(size, size, rng, np.result_type(dtype, np.float64)) for _ in range(2))
    singular = np.geomspace(math.sqrt(condition), 1.0 / math.sqrt(condition), size)
    return (left * singular) @ right.conj().T, (right / singular) @ left.conj().T
