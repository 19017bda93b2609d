"""A kernel as a sum of sandwiches: pointwise, spatial, pointwise.

The kernel of a convolution is held as a tensor (S, D1 D2, T).  A `Sandwich` of R terms (a_r, b_r) is

    X(s, d, t) = sum_r sum_{p < a_r, q < b_r} A_r(s, p) G_r(d, p, q) B_r(t, q),

the block-term decomposition with the spatial factor multiplied into the cores: the blocks are the weights that are
deployed, so its sensitivity is that of the deployed layer.  One term is Tucker-2.

It is a model like any other: the wiring is given, all else follows from it.

References: De Lathauwer, "Decompositions of a higher-order tensor in block terms" (2008); Kim et al., "Compression of
deep convolutional neural networks for fast and low power mobile applications" (2016), for Tucker-2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.models.network import Network, Term


class Sandwich(Model):
    """Sum of Tucker-2 terms of an order-3 tensor.

    Parameters
    ----------
    terms : sequence of tuple of (ndarray, ndarray, ndarray)
        Triples A_r (S, a_r), G_r (D, a_r, b_r), B_r (T, b_r).

    Examples
    --------
    >>> import numpy as np
    >>> term = np.ones((4, 2)), np.ones((9, 2, 3)), np.ones((5, 3))
    >>> Sandwich([term, term]).shape, Sandwich([term, term]).rank
    ((4, 9, 5), [(2, 3), (2, 3)])
    """

    def __init__(self, terms: Sequence[tuple[Array, Array, Array]]) -> None:
        ranks = []
        for first, core, last in terms:
            if core.ndim != 3 or first.shape[1:] != core.shape[1:2] or last.shape[1:] != core.shape[2:]:
                shapes = first.shape, core.shape, last.shape
                raise ValueError(f"Sandwich: a term has shapes {shapes}; (S, a), (D, a, b) and (T, b) are needed")
            ranks.append((int(core.shape[1]), int(core.shape[2])))
        if not ranks:
            raise ValueError("Sandwich: no term was given; one or more are needed")
        parts = [(first, core.reshape(len(core), -1), last) for first, core, last in terms]
        self._build(sandwich_network(ranks), [np.concatenate(blocks, axis=1) for blocks in zip(*parts, strict=True)])

    @classmethod
    def wiring(cls, shape: tuple[int, ...], rank: Any) -> Network:
        if len(shape) != 3:
            raise ValueError(f"Sandwich: a tensor (S, D, T) of order 3 is needed, shape {shape} was given")
        pairs = [tuple(pair) for pair in rank] if isinstance(rank, (list, tuple)) else []
        if not pairs or any(len(pair) != 2 for pair in pairs):
            raise TypeError(f"Sandwich: rank {rank!r} was given; a list with one pair per term is needed: [(4, 4)]")
        for inner, outer in pairs:
            if not (1 <= inner <= shape[0] and 1 <= outer <= shape[2]):
                raise ValueError(f"Sandwich: rank {(inner, outer)} is outside 1 .. {(shape[0], shape[2])}")
        return sandwich_network([(int(inner), int(outer)) for inner, outer in pairs])

    @property
    def rank(self) -> list[tuple[int, ...]]:
        """(a_r, b_r) of each term."""
        return [term.shapes[1] for term in self.network.terms]

    @property
    def terms(self) -> list[tuple[Array, Array, Array]]:
        """A_r (S, a_r), G_r (D, a_r, b_r), B_r (T, b_r) of each term."""
        return [(parts[0], parts[1], parts[2]) for parts in map(self.operands, range(len(self.network.terms)))]

    def gram_factors(self, t: int, k: int) -> list[Array] | None:
        first, core, last = self.terms[t]
        if k == 1:
            # L takes G to A G B': its Gram is a product, and is not formed.
            return [first.T @ first, last.T @ last]
        if k == 0:
            return [np.tensordot(core @ (last.T @ last), core, axes=((0, 2), (0, 2)))]
        return [np.tensordot(np.swapaxes(core, 1, 2) @ (first.T @ first), core, axes=((0, 2), (0, 1)))]

    def gram_traces(self) -> list[float]:
        return [
            float(
                sum(np.prod([np.trace(part) for part in self.gram_factors(t, k) or []]) for t in range(len(self.rank)))
            )
            for k in range(3)
        ]

    @property
    def block_names(self) -> tuple[str, ...]:
        return "first pointwise", "spatial", "last pointwise"


def sandwich_network(ranks: Sequence[tuple[int, int]]) -> Network:
    """The wiring for these pairs of ranks."""
    terms = tuple(Term(("k", "kl", "l"), (("k", inner), ("l", outer))) for inner, outer in ranks)
    return Network(terms, (0, 1, 2))
