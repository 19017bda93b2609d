"""Tucker decomposition (TKD): X = core x_1 U_1 ... x_N U_N.

Block 0 is the core (R_1, ..., R_N), block n the factor U_n (I_n, R_n).  The Gram of the core
is the Kronecker product of the U_n^H U_n; that of a factor closes all other modes of the core.

Reference: Kolda and Bader, "Tensor decompositions and applications" (2009), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorchain.kernels import Array
from tensorchain.models.core_terms import CoreTerms
from tensorchain.models.network import Network, Term
from tensorchain.models.normal_forms import orthogonal_tucker
from tensorchain.models.rounding import Rounded, rounded_tucker
from tensorchain.models.validation import bond_letters, check_blocks, check_order, check_ranks


class Tucker(CoreTerms):
    """Tucker decomposition of multilinear rank (R_1, ..., R_N).

    Parameters
    ----------
    core : array_like
        Array (R_1, ..., R_N).
    factors : sequence of object
        Arrays of shape (I_n, R_n).

    Raises
    ------
    ValueError
        When the columns of a factor differ from the size of the core, a block is empty, or holds NaN or infinity.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> tucker = tc.Tucker(np.ones((1, 1)), [np.ones((3, 1)), np.ones((4, 1))])
    >>> tucker.shape, tucker.multilinear_rank, float(tucker.full()[0, 0])
    ((3, 4), (1, 1), 1.0)
    """

    name = "tucker"

    def __init__(self, core: Any, factors: Sequence[Any]) -> None:
        blocks = check_blocks("Tucker", [core, *factors])
        check_tucker("Tucker", blocks[0], blocks[1:])
        self._build(tucker_network((blocks[0].shape,)), [blocks[0].reshape(1, -1), *blocks[1:]])

    @classmethod
    def wiring(cls, shape: tuple[int, ...], rank: Any) -> Network:
        ranks = check_ranks("Tucker", rank, len(shape))
        check_multilinear_rank("Tucker", ranks, shape)
        return tucker_network((ranks,))

    @property
    def core(self) -> Array:
        """Core (R_1, ..., R_N)."""
        return self.blocks[0]

    @property
    def factors(self) -> tuple[Array, ...]:
        """Factors (I_n, R_n)."""
        return self.blocks[1:]

    @property
    def multilinear_rank(self) -> tuple[int, ...]:
        """(R_1, ..., R_N)."""
        return self.network.terms[0].shapes[0]

    @property
    def rank(self) -> tuple[int, ...]:
        return self.multilinear_rank

    @property
    def block_names(self) -> tuple[str, ...]:
        return ("core", *(f"factor {n + 1}" for n in range(self.order)))

    def _to_block(self, k: int, matrix: Array) -> Array:
        return matrix.reshape(self.multilinear_rank) if k == 0 else matrix

    def _to_matrix(self, k: int, block: Array) -> Array:
        return block.reshape(1, -1) if k == 0 else block

    def orthogonalized(self) -> Tucker:
        """The same tensor with orthonormal factors and an all-orthogonal core: its HOSVD.

        The slices of the core along each mode are orthogonal and their norms, the singular values of the unfolding,
        fall.  In each column the leading entry is positive.  Ranks beyond what the shape can hold fall.

        Returns
        -------
        Tucker

        References
        ----------
        L. De Lathauwer, B. De Moor, J. Vandewalle, "A multilinear singular value decomposition", 2000.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> tucker = tc.Tucker.random((6, 7, 8), (2, 3, 2), rng=0)
        >>> form = tucker.orthogonalized()
        >>> bool(np.allclose(form, tucker)), bool(np.allclose(form.factors[1].T @ form.factors[1], np.eye(3)))
        (True, True)
        """
        return type(self)(*orthogonal_tucker(self.core, self.factors))

    def _rounded(self, error: float) -> Rounded:
        core, factors, reached = rounded_tucker(self.core, self.factors, error)
        small = type(self)(core, factors)
        return Rounded(small, reached) if small.n_parameters < self.n_parameters else Rounded(self, 0.0)

    def _without_mode(self, mode: int, row: Array) -> Tucker:
        return type(self).from_matrices(*closed_terms(self, mode, row))

    def _reordered(self, order: tuple[int, ...]) -> Tucker:
        return type(self).from_matrices(*reordered_terms(self, order))

    @classmethod
    def from_state(cls, blocks: list[Array], state: dict[str, Any]) -> Tucker:
        return cls(blocks[0], blocks[1:])


def closed_terms(model: CoreTerms, mode: int, row: Array) -> tuple[Network, list[Array]]:
    """A sum of Tucker terms whose factor of a mode has become one row, multiplied into the cores."""
    network, cores, ranks = model.network, [], []
    for t, columns in enumerate(network.columns):
        core = np.tensordot(model.operands(t)[0][0], row[columns[mode + 1]], axes=(mode, 0))
        cores.append(core.reshape(1, -1))
        ranks.append(core.shape)
    factors = [matrix for k, matrix in enumerate(model.matrices) if k not in (0, mode + 1)]
    return tucker_network(ranks), [np.concatenate(cores, axis=1), *factors]


def reordered_terms(model: CoreTerms, order: tuple[int, ...]) -> tuple[Network, list[Array]]:
    """A sum of Tucker terms with its modes in another order."""
    cores = [model.operands(t)[0][0].transpose(order) for t in range(len(model.network.terms))]
    stacked = np.concatenate([core.reshape(1, -1) for core in cores], axis=1)
    return tucker_network([core.shape for core in cores]), [stacked, *(model.matrices[n + 1] for n in order)]


def check_tucker(kind: str, core: Array, factors: Sequence[Array]) -> None:
    """Core and factors must fit."""
    check_order(kind, core.ndim)
    if len(factors) != core.ndim:
        raise ValueError(f"{kind}: a core of shape {core.shape} needs {core.ndim} factors, {len(factors)} were given")
    for n, factor in enumerate(factors):
        if factor.ndim != 2 or factor.shape[1] != core.shape[n]:
            raise ValueError(
                f"{kind}: factor {n} has shape {factor.shape}; it needs shape (I_{n + 1}, {core.shape[n]}) "
                f"for a core of shape {core.shape}"
            )


def check_multilinear_rank(kind: str, ranks: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """A factor has no more columns than rows."""
    if any(rank > size for rank, size in zip(ranks, shape, strict=True)):
        raise ValueError(f"{kind}: multilinear rank {ranks} is beyond the shape {shape}; each rank is at most its size")


def tucker_network(ranks: Sequence[tuple[int, ...]]) -> Network:
    """The wiring of a sum of Tucker terms with these multilinear ranks."""
    order = len(ranks[0])
    letters = bond_letters(order)
    terms = tuple(Term((letters, *letters), tuple(zip(letters, rank, strict=True))) for rank in ranks)
    return Network(terms, (None, *range(order)))
