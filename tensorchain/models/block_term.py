"""Block-term decomposition (BTD): a sum of Tucker terms, X = sum_r [[G_r; U_r^(1), ..., U_r^(N)]].

Block n stacks the factors U_r^(n) of all terms side by side, (I_n, sum_r R_n^(r)); block 0 stacks
the flattened cores.  So the BTD is multilinear in N + 1 blocks, whatever its number of terms.

**Shared cores are a looped chain.**  With one core G (R_2, I_2, R_3) for all R_1 terms, the term r being
[[G; A_1(r,:,:)^T, I, A_3(:,:,r)]], the sum is the order-3 chain with cores A_1, G, A_3:
X(i,j,k) = sum_r sum_{b,c} A_1(r,i,b) G(b,j,c) A_3(c,k,r).  `BlockTerm.shared` and `TensorChain.from_shared_block_term`
convert both ways, exactly.

References: De Lathauwer, "Decompositions of a higher-order tensor in block terms" (2008);
Phan et al., "How to train your unstable looped tensor network" (2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorchain.kernels import Array, norm
from tensorchain.models.arithmetic import Arithmetic
from tensorchain.models.arrays import ArrayLike
from tensorchain.models.chain import TensorChain
from tensorchain.models.core_terms import CoreTerms
from tensorchain.models.network import Network
from tensorchain.models.tucker import (
    Tucker,
    check_multilinear_rank,
    check_tucker,
    closed_terms,
    reordered_terms,
    tucker_network,
)
from tensorchain.models.validation import check_blocks, check_ranks, shown_rank


class BlockTerm(CoreTerms):
    """Block-term decomposition.

    Parameters
    ----------
    terms : sequence of object
        `Tucker` models, or pairs (core, factors), of one shape.

    Raises
    ------
    ValueError
        When there is no term or the terms differ in shape.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> rank_one = tc.Tucker(np.ones((1, 1, 1)), [np.ones((2, 1))] * 3)
    >>> btd = tc.BlockTerm([rank_one, rank_one])
    >>> btd.rank, float(btd.full()[0, 0, 0])
    ([(1, 1, 1), (1, 1, 1)], 2.0)
    """

    name = "btd"

    def __init__(self, terms: Sequence[Any]) -> None:
        if len(terms) == 0:
            raise ValueError("BlockTerm: no term was given; one or more Tucker models are needed")
        parts = [(t.core, t.factors) if isinstance(t, Tucker) else (t[0], t[1]) for t in terms]
        checked = []
        for core, factors in parts:
            blocks = check_blocks("BlockTerm", [core, *factors])
            check_tucker("BlockTerm", blocks[0], blocks[1:])
            checked.append(blocks)
        shapes = [tuple(factor.shape[0] for factor in blocks[1:]) for blocks in checked]
        if len(set(shapes)) > 1:
            raise ValueError(f"BlockTerm: terms have shapes {shapes}; all need the same shape")
        dtype = np.result_type(*(block for blocks in checked for block in blocks))
        cores = [blocks[0].reshape(1, -1) for blocks in checked]
        stacked = [np.concatenate(cores, axis=1).astype(dtype, copy=False)]
        stacked += [
            np.concatenate([blocks[n + 1] for blocks in checked], axis=1).astype(dtype, copy=False)
            for n in range(len(shapes[0]))
        ]
        self._build(tucker_network([blocks[0].shape for blocks in checked]), stacked)

    @classmethod
    def wiring(cls, shape: tuple[int, ...], rank: Any) -> Network:
        if not isinstance(rank, (list, tuple)) or not rank or any(isinstance(r, int) for r in rank):
            needed = "a list with one rank per term is needed: [(2, 2, 2), (3, 3, 3)]"
            raise TypeError(f"BlockTerm: rank {shown_rank(rank)} was given; {needed}")
        ranks = [check_ranks("BlockTerm", r, len(shape)) for r in rank]
        for r in ranks:
            check_multilinear_rank("BlockTerm", r, shape)
        return tucker_network(ranks)

    @property
    def terms(self) -> tuple[Tucker, ...]:
        """The Tucker terms."""
        parts = [self.operands(t) for t in range(len(self.network.terms))]
        return tuple(Tucker(operands[0][0], operands[1:]) for operands in parts)

    @property
    def rank(self) -> list[tuple[int, ...]]:
        """Multilinear rank of each term."""
        return [term.shapes[0] for term in self.network.terms]

    @property
    def block_names(self) -> tuple[str, ...]:
        return ("cores", *(f"factors {n + 1}" for n in range(self.order)))

    @classmethod
    def shared(cls, chain: TensorChain) -> BlockTerm:
        """The BTD with one shared core that equals an order-3 chain: R_1 terms, the core is A_2 in each.

        Term r has multilinear rank (R_2, I_2, R_3); the middle factor is the identity, so the core carries
        the second mode of the tensor itself.

        Parameters
        ----------
        chain : TensorChain
            Of order 3.

        Returns
        -------
        BlockTerm
            With R_1 terms.

        Raises
        ------
        ValueError
            When the chain is not of order 3.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> chain = tc.TensorChain.random((4, 5, 6), (2, 3, 3), rng=0)
        >>> np.allclose(tc.BlockTerm.shared(chain).full(), chain.full())
        True
        """
        if chain.order != 3:
            raise ValueError(f"a BTD with a shared core equals a chain of order 3; this chain has order {chain.order}")
        first, core, last = chain.cores
        identity = np.eye(core.shape[1], dtype=core.dtype)
        return cls([(core, [first[r], identity, last[:, :, r].T]) for r in range(chain.bonds[0])])

    def _parts(self) -> list[ArrayLike]:
        return list(self.terms)

    def orthogonalized(self) -> BlockTerm:
        """The same tensor with each term as its HOSVD (`Tucker.orthogonalized`), terms of larger norm first.

        Returns
        -------
        BlockTerm

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> btd = tc.BlockTerm.random((6, 7, 8), [(2, 2, 2), (1, 2, 2)], rng=0)
        >>> bool(np.allclose(btd.orthogonalized(), btd))
        True
        """
        terms = [term.orthogonalized() for term in self.terms]
        return type(self)(sorted(terms, key=lambda term: -norm(term.core)))

    def _without_mode(self, mode: int, row: Array) -> BlockTerm:
        return type(self).from_matrices(*closed_terms(self, mode, row))

    def _reordered(self, order: tuple[int, ...]) -> BlockTerm:
        return type(self).from_matrices(*reordered_terms(self, order))

    def _joined(self, other: Arithmetic) -> tuple[Network, list[Array]]:
        return self._terms_of_both(other)

    def _state(self) -> dict[str, Any]:
        return {"ranks": self.rank}

    @classmethod
    def from_state(cls, blocks: list[Array], state: dict[str, Any]) -> BlockTerm:
        network = tucker_network([tuple(int(r) for r in rank) for rank in state["ranks"]])
        cores, *factors = check_blocks("BlockTerm", blocks, ndim=2)
        terms = []
        for columns, term in zip(network.columns, network.terms, strict=True):
            core = cores[:, columns[0]].reshape(term.shapes[0])
            terms.append((core, [factor[:, columns[n + 1]] for n, factor in enumerate(factors)]))
        return cls(terms)
