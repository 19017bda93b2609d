"""Looped tensor chain (TC, also called tensor ring): X(i_1..i_N) = tr(A_1(i_1) ... A_N(i_N)).

Core n has shape (R_n, I_n, R_{n+1}) with R_{N+1} = R_1; a tensor train is the case R_1 = 1.

The moments of a chain act as *transfer matrices*

    E_n[(a, a'), (b, b')] = sum_i conj(A_n[a, i, b]) A_n[a', i, b'],

||X||^2 = tr(E_1 ... E_N), and the Gram of core n is the loop with E_n left out, so all
Grams cost one product of R^2 x R^2 matrices from the left and one from the right.

References: Zhao et al., "Tensor ring decomposition" (2016); Phan et al., "How to train your
unstable looped tensor network" (2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from tensorchain.kernels import Array, contract
from tensorchain.models.base import Model, pad_columns
from tensorchain.models.network import Network
from tensorchain.models.validation import bond_letters, check_blocks, check_order, check_ranks


class TensorChain(Model):
    """Looped tensor chain.

    Parameters
    ----------
    cores : arrays of shape (R_n, I_n, R_{n+1}), N >= 2 of them, the last bond closing on the first.

    Raises
    ------
    ValueError when neighbouring bonds differ, a core is empty or holds NaN or infinity.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> chain = tc.TensorChain([np.ones((2, 4, 3)), np.ones((3, 5, 2))])
    >>> chain.shape, chain.bonds, float(chain.full()[0, 0])
    ((4, 5), (2, 3), 6.0)
    """

    name = "tc"

    def __init__(self, cores: Sequence[Any]) -> None:
        blocks = check_blocks("TensorChain", cores, ndim=3)
        check_order("TensorChain", len(blocks))
        for n, core in enumerate(blocks):
            after = (n + 1) % len(blocks)
            if core.shape[2] != blocks[after].shape[0]:
                raise ValueError(
                    f"TensorChain: core {n} has shape {core.shape} and core {after} {blocks[after].shape}; "
                    f"the last bond of core {n} must equal the first of core {after}"
                )
        network = chain_network(tuple(core.shape[0] for core in blocks))
        self._build(network, [_to_rows(core) for core in blocks])

    @classmethod
    def wiring(cls, shape: tuple[int, ...], rank: Any) -> Network:
        return chain_network(check_ranks("TensorChain", rank, len(shape)))

    @classmethod
    def svd_matrices(cls, network: Network, tensor: Any, rng: np.random.Generator) -> list[Array]:
        """Ring SVD: the first unfolding splits into R_1 R_2 singular vectors, a tensor-train SVD does the rest."""
        bonds = tuple(network.terms[0].shapes[n][0] for n in range(network.order))
        return [_to_rows(core) for core in ring_svd(tensor.to_dense(), bonds, rng)]

    @property
    def cores(self) -> tuple[Array, ...]:
        """Cores of shape (R_n, I_n, R_{n+1}); the same as `blocks`."""
        return self.blocks

    @cached_property
    def bonds(self) -> tuple[int, ...]:
        """(R_1, ..., R_N), R_n in front of core n."""
        return tuple(self.network.terms[0].shapes[n][0] for n in range(self.order))

    @property
    def rank(self) -> tuple[int, ...]:
        return self.bonds

    @property
    def block_names(self) -> tuple[str, ...]:
        return tuple(f"core {n + 1}" for n in range(self.order))

    def _to_block(self, k: int, matrix: Array) -> Array:
        left, right = self.network.terms[0].shapes[k]
        return matrix.reshape(-1, left, right).transpose(1, 0, 2)

    def _to_matrix(self, k: int, block: Array) -> Array:
        return _to_rows(block)

    @cached_property
    def transfers(self) -> list[Array]:
        """E_n as (R_n^2, R_{n+1}^2) matrices."""
        return self._to_transfers(self.moments)

    def _to_transfers(self, moments: Sequence[Array]) -> list[Array]:
        result = []
        for moment, (left, right) in zip(moments, self.network.terms[0].shapes, strict=True):
            ordered = moment.reshape(left, right, left, right).transpose(0, 2, 1, 3)
            result.append(ordered.reshape(left * left, right * right))
        return result

    def _from_loop(self, k: int, loop: Array) -> Array:
        """Gram of core k from the product of the other transfer matrices, (R_{k+1}^2, R_k^2)."""
        left, right = self.network.terms[0].shapes[k]
        ordered = loop.reshape(right, right, left, left).transpose(2, 0, 3, 1)
        return ordered.reshape(left * right, left * right)

    def gram_at(self, moments: Sequence[Array], k: int) -> Array:
        transfers = self.transfers if moments is self.moments else self._to_transfers(moments)
        return self._from_loop(k, _chained(transfers[k + 1 :] + transfers[:k]))

    def gram_jets(self, moments: Sequence[Array], directions: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        values = self.transfers if moments is self.moments else self._to_transfers(moments)
        slopes = self._to_transfers(directions)
        prefix, suffix = _running(values, slopes), _running(values[::-1], slopes[::-1], reverse=True)[::-1]
        grams, changes = [], []
        for k in range(len(values)):
            # suffix[k] = E_{k+1} ... E_N, prefix[k] = E_1 ... E_{k-1}; None stands for the empty product.
            loop, change = _product(suffix[k], prefix[k])
            grams.append(self._from_loop(k, loop))
            changes.append(self._from_loop(k, change))
        return grams, changes

    def _cross_gauss_newton(self, k: int, m: int, out: Array) -> None:
        # The loop is opened at k and m; what lies between them and what lies around are transfer products.
        shapes, transfers = self.network.terms[0].shapes, self.transfers
        (a, b), (c, d) = shapes[k], shapes[m]
        here, there = self.operands(0)[k], np.conj(self.operands(0)[m])
        between, around = transfers[k + 1 : m], transfers[m + 1 :] + transfers[:k]
        # left[i, a', b, (c, c')] = sum_b' B_k[i, a', b'] between[(b, b'), (c, c')]
        if between:
            inner = _chained(between).reshape(b, b, c * c).transpose(1, 0, 2).reshape(b, -1)
            left = (here.reshape(-1, b) @ inner).reshape(-1, a, b, c, c)
        else:
            left = here[:, :, None, None, :] * np.eye(b)[None, None, :, :, None]
        # right[j, c, d', (a, a')] = sum_d conj(B_m)[j, c, d] around[(d, d'), (a, a')]
        if around:
            outer = _chained(around).reshape(d, d * a * a)
            right = (there.reshape(-1, d) @ outer).reshape(-1, c, d, a, a)
        else:
            right = there[:, :, None, :, None] * np.eye(d)[None, None, :, None, :]
        # H[i, (a, b), j, (c', d')] = sum_{a', c} left[i, a', b, c, c'] right[j, c, d', a, a']
        value = contract("iAbcC,jcDaA->iabjCD", left, right)
        out.reshape(len(here), a, b, len(there), c, d)[...] = value

    @cached_property
    def gauge_dimension(self) -> int:
        """sum R_n^2 - 1: one invertible matrix on each bond, less the scalar that goes around the loop.

        Bonds wider than their cores can carry are counted numerically.
        """
        after = (*self.bonds[1:], self.bonds[0])
        wide = any(
            left > size * right or right > size * left or size == 1
            for left, right, size in zip(self.bonds, after, self.shape, strict=True)
        )
        return super().gauge_dimension if wide else sum(bond * bond for bond in self.bonds) - 1

    @classmethod
    def from_shared_block_term(cls, model: Any) -> TensorChain:
        """Order-3 chain equal to a `BlockTerm` whose terms share their core and their middle factor.

        Raises
        ------
        ValueError when the cores or the middle factors of the terms differ.
        """
        terms = model.terms
        if model.order != 3:
            raise ValueError(f"a BTD of order 3 is needed, this one has order {model.order}")
        core, middle = terms[0].core, terms[0].factors[1]
        for r, term in enumerate(terms):
            if not (np.array_equal(term.core, core) and np.array_equal(term.factors[1], middle)):
                raise ValueError(f"term {r} has another core or middle factor than term 0; all terms must share them")
        first = np.stack([term.factors[0] for term in terms])
        last = np.stack([term.factors[2].T for term in terms], axis=2)
        return cls([first, np.einsum("bjc,ij->bic", core, middle), last])


def chain_network(bonds: tuple[int, ...]) -> Network:
    """The wiring of a chain with these bonds."""
    letters = bond_letters(len(bonds))
    wiring = tuple(letters[n] + letters[(n + 1) % len(bonds)] for n in range(len(bonds)))
    return Network.single(wiring, dict(zip(letters, bonds, strict=True)), tuple(range(len(bonds))))


def ring_svd(array: Array, bonds: tuple[int, ...], rng: np.random.Generator) -> list[Array]:
    """Cores (R_n, I_n, R_{n+1}) of the ring SVD; bonds that the data cannot fill are filled with small noise.

    Reference: Zhao et al., "Tensor ring decomposition" (2016), the sequential SVD.
    """
    shape = array.shape
    closing = bonds[0]
    left, rest = _split(array.reshape(shape[0], -1), closing * bonds[1], rng)
    cores = [left.reshape(shape[0], closing, bonds[1]).transpose(1, 0, 2)]
    # The loop is cut: R_1 travels at the end of the remainder and closes on the last core.
    rest = rest.reshape(closing, bonds[1], -1).transpose(1, 2, 0).reshape(bonds[1], -1)
    for n in range(1, len(shape) - 1):
        left, rest = _split(rest.reshape(bonds[n] * shape[n], -1), bonds[n + 1], rng)
        cores.append(left.reshape(bonds[n], shape[n], bonds[n + 1]))
    cores.append(rest.reshape(bonds[-1], shape[-1], closing))
    return cores


def _split(matrix: Array, rank: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Truncated SVD as (U s^1/2, s^1/2 V^H), filled up to `rank`."""
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    root = np.sqrt(s)
    return pad_columns(u * root, rank, rng), pad_columns((root[:, None] * vh).T, rank, rng).T


def _to_rows(core: Array) -> Array:
    """(R_n, I_n, R_{n+1}) to (I_n, R_n R_{n+1})."""
    return core.transpose(1, 0, 2).reshape(core.shape[1], math.prod(core.shape[::2]))


def _chained(matrices: Sequence[Array]) -> Array:
    """Product of several matrices."""
    result = matrices[0]
    for matrix in matrices[1:]:
        result = result @ matrix
    return result


Jet = tuple[Array, Array]


def _product(left: Jet | None, right: Jet | None) -> Jet:
    """Product of two (value, derivative) pairs; None is the identity."""
    if left is None:
        assert right is not None
        return right
    if right is None:
        return left
    return left[0] @ right[0], left[1] @ right[0] + left[0] @ right[1]


def _running(values: Sequence[Array], slopes: Sequence[Array], reverse: bool = False) -> list[Jet | None]:
    """Products of all pairs before each position (after it, for the reversed order)."""
    running: Jet | None = None
    result: list[Jet | None] = []
    for pair in zip(values, slopes, strict=True):
        result.append(running)
        running = _product(pair, running) if reverse else _product(running, pair)
    return result
