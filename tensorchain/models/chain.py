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

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from tensorchain.kernels import Array
from tensorchain.models import least_sensitivity
from tensorchain.models.arithmetic import Arithmetic, direct_sum
from tensorchain.models.base import Model, pad_columns
from tensorchain.models.hooi import leading_vectors
from tensorchain.models.indexing import checked_mode
from tensorchain.models.network import Network
from tensorchain.models.normal_forms import orthogonal_train
from tensorchain.models.rounding import Rounded, rounded_train
from tensorchain.models.validation import bond_letters, check_blocks, check_order, check_ranks


class TensorChain(Model):
    """Looped tensor chain.

    Parameters
    ----------
    cores : sequence of object
        Arrays of shape (R_n, I_n, R_{n+1}), N >= 2 of them, the last bond closing on the first.

    Raises
    ------
    ValueError
        When neighbouring bonds differ, a core is empty or holds NaN or infinity.

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
        """Ring SVD: the first unfolding splits into R_1 R_2 singular vectors, a tensor-train SVD does the rest.

        Parameters
        ----------
        network : Network
            The wiring.
        tensor : array_like or Tensor
            A data class of :mod:`tensorchain.tensors`.
        rng : numpy.random.Generator
            For cores and for what singular vectors do not fill.

        Returns
        -------
        list of ndarray
            One matrix (I_k, P_k) for each block.
        """
        bonds = tuple(network.terms[0].shapes[n][0] for n in range(network.order))
        array = tensor.to_dense()
        array = array.astype(np.result_type(array, np.float64), copy=False)
        return [_to_rows(core) for core in ring_svd(array, bonds, rng)]

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

    def _build(self, network: Network, matrices: Sequence[Array] | Callable[[], Sequence[Array]]) -> None:
        super()._build(network, matrices)
        self._transfers: list[Array | None] = [None] * len(network.modes)

    def with_matrix(self, k: int, matrix: Array) -> TensorChain:
        twin = super().with_matrix(k, matrix)
        twin._transfers = list(self._transfers)
        twin._transfers[k] = None
        return twin

    def transfer(self, k: int) -> Array:
        """E_k as a matrix (R_k^2, R_{k+1}^2).

        Parameters
        ----------
        k : int
            Position of the block, from 0.

        Returns
        -------
        ndarray
            (R_k^2, R_{k+1}^2).

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> chain = tc.TensorChain.random((4, 5, 6), 2, rng=0)
        >>> loop = chain.transfer(0) @ chain.transfer(1) @ chain.transfer(2)
        >>> bool(np.isclose(np.trace(loop), chain.norm() ** 2))
        True
        """
        transfer = self._transfers[k]
        if transfer is None:
            transfer = self._transfers[k] = self._to_transfer(k, self.moment(k))
        return transfer

    def _to_transfer(self, k: int, moment: Array) -> Array:
        left, right = self.network.terms[0].shapes[k]
        ordered = moment.reshape(left, right, left, right).transpose(0, 2, 1, 3)
        return ordered.reshape(left * left, right * right)

    def _transfers_at(self, moments: Sequence[Array]) -> list[Array]:
        if moments is self.__dict__.get("moments"):
            return [self.transfer(k) for k in range(self.order)]
        return [self._to_transfer(k, moment) for k, moment in enumerate(moments)]

    def _from_loop(self, k: int, loop: Array) -> Array:
        """Gram of core k from the product of the other transfer matrices, (R_{k+1}^2, R_k^2)."""
        left, right = self.network.terms[0].shapes[k]
        ordered = loop.reshape(right, right, left, left).transpose(2, 0, 3, 1)
        return ordered.reshape(left * right, left * right)

    def gram_at(self, moments: Sequence[Array], k: int) -> Array:
        transfers = self._transfers_at(moments)
        loop = _chained(transfers[k + 1 :] + transfers[:k])
        assert loop is not None
        return self._from_loop(k, loop)

    def gram_derivatives(
        self, moments: Sequence[Array], directions: Sequence[Array]
    ) -> tuple[list[Array], list[Array]]:
        values, slopes = self._transfers_at(moments), self._transfers_at(directions)
        prefix, suffix = _running(values, slopes), _running(values[::-1], slopes[::-1], reverse=True)[::-1]
        grams, changes = [], []
        for k in range(len(values)):
            # suffix[k] = E_{k+1} ... E_N, prefix[k] = E_1 ... E_{k-1}; None stands for the empty product.
            loop, change = _product(suffix[k], prefix[k])
            grams.append(self._from_loop(k, loop))
            changes.append(self._from_loop(k, change))
        return grams, changes

    def gram_traces(self) -> list[float]:
        # tr M_k is the loop without E_k, closed by identities on both sides: vectors are enough.
        traces = []
        for k, (left, right) in enumerate(self.network.terms[0].shapes):
            vector = _IDENTITIES[right]
            for n in (*range(k + 1, self.order), *range(k)):
                vector = vector @ self.transfer(n)
            traces.append(float((vector @ _IDENTITIES[left]).real))
        return traces

    def _cross_gauss_newton(self, k: int, m: int, out: Array) -> None:
        # The loop is opened at k and m; what lies between them and what lies around are transfer products.
        shapes = self.network.terms[0].shapes
        (a, b), (c, d) = shapes[k], shapes[m]
        here, there = self.operands(0)[k], np.conj(self.operands(0)[m])
        i, j = len(here), len(there)
        between = _chained([self.transfer(n) for n in range(k + 1, m)])
        around = _chained([self.transfer(n) for n in (*range(m + 1, self.order), *range(k))])
        # H[i, (a, b), j, (c', d')] = sum_{a', c} left[i, a', b, c, c'] right[j, c, d', a, a'], where
        # left = sum_b' B_k[i, a', b'] between[(b, b'), (c, c')], or the identity in its place, and
        # right = sum_d conj(B_m)[j, c, d] around[(d, d'), (a, a')].
        if around is None and between is None:
            value = np.multiply.outer(here, there)
            ordered = value.transpose(0, 5, 4, 3, 2, 1)
        elif around is None:
            assert between is not None
            left = self._opened(here, between, b, c)
            # right is the identity from d to a, d' to a'.
            value = left.transpose(0, 2, 4, 1, 3).reshape(-1, c) @ there.transpose(1, 0, 2).reshape(c, -1)
            ordered = value.reshape(i, b, c, a, j, d).transpose(0, 5, 1, 4, 2, 3)
        else:
            right = (there.reshape(-1, d) @ around.reshape(d, d * a * a)).reshape(j, c, d, a, a)
            if between is None:
                # left is the identity from b to c, b' to c'.
                value = here.transpose(0, 2, 1).reshape(-1, a) @ right.reshape(-1, a).T
                ordered = value.reshape(i, c, j, b, d, a).transpose(0, 5, 3, 2, 1, 4)
            else:
                left = self._opened(here, between, b, c)
                one = left.transpose(0, 2, 4, 3, 1).reshape(-1, c * a)
                value = one @ right.transpose(1, 4, 0, 2, 3).reshape(c * a, -1)
                ordered = value.reshape(i, b, c, j, d, a).transpose(0, 5, 1, 3, 2, 4)
        out.reshape(i, a, b, j, c, d)[...] = ordered

    @staticmethod
    def _opened(core: Array, between: Array, b: int, c: int) -> Array:
        """sum_b' core[i, a', b'] between[(b, b'), (c, c')]: (i, a', b, c, c')."""
        inner = between.reshape(b, b, c * c).transpose(1, 0, 2).reshape(b, -1)
        return (core.reshape(-1, b) @ inner).reshape(core.shape[0], -1, b, c, c)

    def orthogonalized(self, center: int = -1) -> TensorChain:
        """The same train in canonical form: cores orthonormal towards a centre, which holds the norm.

        A train is a chain with a bond of 1.  With the centre at the last core all others are left orthogonal,
        sum_{a,i} conj(A[a, i, b]) A[a, i, b'] = delta_bb'; with the centre at the first they are right orthogonal.
        Where the bond of 1 is not the first, first and last count from it.

        Parameters
        ----------
        center : int
            The mode whose core holds the norm; negative ones count from the end.

        Returns
        -------
        TensorChain
            Bonds beyond what the shape can hold fall.

        Raises
        ------
        IndexError
            When there is no such mode.
        ValueError
            When no bond is 1: a loop has no such form.

        References
        ----------
        I. Oseledets, "Tensor-train decomposition", 2011.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> train = tc.TensorChain.random((4, 5, 6), (1, 3, 2), rng=0)
        >>> first, middle, last = train.orthogonalized(center=1).cores
        >>> bool(np.allclose(np.einsum("aib,aic->bc", first, first), np.eye(3)))
        True
        >>> bool(np.isclose(np.linalg.norm(middle), train.norm()))
        True
        """
        mode, cut = checked_mode(center, self.order), self._cut()
        if cut is None:
            raise ValueError(
                f"a chain with bonds {self.bonds} is a loop, which has no orthogonal form; a bond of 1 is needed, "
                "and tc.optimal_gauge(model) gives the gauge of least sensitivity"
            )
        cores = orthogonal_train([*self.cores[cut:], *self.cores[:cut]], (mode - cut) % self.order)
        return type(self)([*cores[self.order - cut :], *cores[: self.order - cut]])

    def _cut(self) -> int | None:
        """The first bond of 1, where the loop is open; None for a loop."""
        return self.bonds.index(1) if 1 in self.bonds else None

    def _rounded(self, error: float) -> Rounded:
        cut = self._cut()
        if cut is None:
            return super()._rounded(error)
        cores, reached = rounded_train([*self.cores[cut:], *self.cores[:cut]], error)
        small = type(self)([*cores[self.order - cut :], *cores[: self.order - cut]])
        return Rounded(small, reached) if small.n_parameters < self.n_parameters else Rounded(self, 0.0)

    def _without_mode(self, mode: int, row: Array) -> TensorChain:
        # The matrix A(v) of the core that goes is multiplied into the next one, or into the last but one.
        left, right = self.network.terms[0].shapes[mode]
        closed, cores = row.reshape(left, right), list(self.operands(0))
        bonds, after = list(self.bonds), mode + 1
        if after < self.order:
            cores[after] = np.einsum("ab,ibc->iac", closed, cores[after])
            del bonds[after]
        else:
            cores[mode - 1] = cores[mode - 1] @ closed
            del bonds[mode]
        del cores[mode]
        return type(self).from_matrices(chain_network(tuple(bonds)), [core.reshape(len(core), -1) for core in cores])

    def _reordered(self, order: tuple[int, ...]) -> Model:
        count = self.order
        for step in (1, -1):
            if all(
                (after - before) % count == step % count for before, after in itertools.pairwise((*order, order[0]))
            ):
                cores = [self.cores[n] if step == 1 else self.cores[n].transpose(2, 1, 0) for n in order]
                network = chain_network(tuple(core.shape[0] for core in cores))
                return type(self).from_matrices(network, [_to_rows(core) for core in cores])
        return super()._reordered(order)

    def _joined(self, other: Arithmetic) -> tuple[Network, list[Array]]:
        # A bond of one in both stays one: a sum of trains is a train.
        theirs = other.network.terms[0].shapes
        shared = next((n for n, bond in enumerate(self.bonds) if bond == theirs[n][0] == 1), None)
        matrices = []
        for n, (one, two) in enumerate(zip(self.operands(0), other.operands(0), strict=True)):
            common = [0, *([1] if n == shared else []), *([2] if (n + 1) % self.order == shared else [])]
            matrices.append(direct_sum(one, two, common).reshape(len(one), -1))
        bonds = [bond + theirs[n][0] for n, bond in enumerate(self.bonds)]
        if shared is not None:
            bonds[shared] = 1
        return chain_network(tuple(bonds)), matrices

    @property
    def least_sensitivity(self) -> float:
        """That of cores a_n x I, with I of the size R of the smallest bond: N (I_1 ... I_N)^(1/N) R^(2/N - 1)."""
        return least_sensitivity.of_loop(self.shape, min(self.bonds))

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

        Parameters
        ----------
        model : Model
            A `BlockTerm` of order 3.

        Returns
        -------
        TensorChain
            The same tensor.

        Raises
        ------
        ValueError
            When the cores or the middle factors of the terms differ.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> chain = tc.TensorChain.random((4, 5, 6), (2, 3, 3), rng=0)
        >>> np.allclose(tc.TensorChain.from_shared_block_term(tc.BlockTerm.shared(chain)).full(), chain.full())
        True
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


class _Identities(dict[int, Array]):
    """vec(1) for each bond that was asked for."""

    def __missing__(self, bond: int) -> Array:
        self[bond] = np.eye(bond).ravel()
        return self[bond]


_IDENTITIES = _Identities()


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
    u = leading_vectors(matrix, min(rank, *matrix.shape))
    rest = u.conj().T @ matrix
    root = np.sqrt(np.linalg.norm(rest, axis=1))
    inverse = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0.0)
    return pad_columns(u * root, rank, rng), pad_columns((inverse[:, None] * rest).T, rank, rng).T


def _to_rows(core: Array) -> Array:
    """(R_n, I_n, R_{n+1}) to (I_n, R_n R_{n+1})."""
    return core.transpose(1, 0, 2).reshape(core.shape[1], math.prod(core.shape[::2]))


def _chained(matrices: Sequence[Array]) -> Array | None:
    """Product of several matrices; None, for the identity, when there is none."""
    result: Array | None = None
    for matrix in matrices:
        result = matrix if result is None else result @ matrix
    return result


WithSlope = tuple[Array, Array]


def _product(left: WithSlope | None, right: WithSlope | None) -> WithSlope:
    """Product of two (value, derivative) pairs; None is the identity."""
    if left is None:
        assert right is not None
        return right
    if right is None:
        return left
    return left[0] @ right[0], left[1] @ right[0] + left[0] @ right[1]


def _running(values: Sequence[Array], slopes: Sequence[Array], reverse: bool = False) -> list[WithSlope | None]:
    """Products of all pairs before each position (after it, for the reversed order)."""
    running: WithSlope | None = None
    result: list[WithSlope | None] = []
    for pair in zip(values, slopes, strict=True):
        result.append(running)
        running = _product(pair, running) if reverse else _product(running, pair)
    return result
