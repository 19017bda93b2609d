"""Products of an array on a device with the blocks of a model, through partial products that are used again.

Which blocks are contracted first, and which products they then serve, is decided as on the host
(:mod:`tensorchain.evaluation.tree`).  What differs is what a device is good at: each partial product is one large
matrix product, with the array read as it lies and the merged blocks whole, and nothing is cut into slices.

Memory beyond the array: one partial product for each term, and the merged blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np

from tensorchain.evaluation.tree import Plan, plans
from tensorchain.kernels.namespace import Namespace
from tensorchain.models.network import Network

_SMALL = 1 << 18
"""Entries of a partial product up to which what follows is made in the precision of the answer."""


class Operands(Protocol):
    """Blocks as the products need them."""

    network: Network

    def conjugate(self, t: int, k: int, dtype: np.dtype[Any]) -> Any:
        """Block k of term t, conjugated, in this dtype."""
        ...

    @property
    def versions(self) -> Sequence[int]:
        """A number for each block, another one after each change."""
        ...


class Absorbed:
    """The blocks of a model whose core has taken in one factor: all others, and no core.

    Parameters
    ----------
    blocks : Operands
        Of the model.
    network : Network
        Of the model whose core has taken in factor k.
    k : int
        The factor.
    """

    def __init__(self, blocks: Operands, network: Network, k: int) -> None:
        self._blocks, self.network = blocks, network
        self._places = [0, *(m for m in range(len(blocks.versions)) if m not in (0, k))]

    def conjugate(self, t: int, k: int, dtype: np.dtype[Any]) -> Any:
        """Block k of the absorbed model."""
        return self._blocks.conjugate(t, self._places[k], dtype)

    @property
    def versions(self) -> list[int]:
        """Those of the blocks; the core is never multiplied."""
        return [-1, *(self._blocks.versions[place] for place in self._places[1:])]


class DevicePartials:
    """Partial products of an array, at most one for each term of the wiring.

    Parameters
    ----------
    array : array_like
        The entries.
    namespace : Namespace
        Where they are.
    """

    def __init__(self, array: Any, namespace: Namespace) -> None:
        self.array, self.namespace = array, namespace
        self.shape, self._dtype = tuple(array.shape), namespace.dtype(array)
        self._found: dict[int, tuple[tuple[Any, ...], Any]] = {}

    def all_but(self, blocks: Operands, k: int, dtype: np.dtype[Any]) -> Any:
        """L_k^H vec(array), (I_k, P_k), sums in the precision of the array, in the dtype that is asked for."""
        pieces = [self._term(blocks, t, k, dtype) for t in range(len(blocks.network.terms))]
        result = pieces[0] if len(pieces) == 1 else self.namespace.xp.concat(pieces, axis=1)
        return self.namespace.cast(result, dtype)

    def state(self, blocks: Operands) -> list[list[int]]:
        """Which partial products are good now, in plain numbers: (term, block, plan)."""
        found = []
        for t in self._found:
            serving = (
                [t, k, n]
                for k in blocks.network.block_of_mode
                for n, plan in enumerate(plans(blocks.network, t, k, self.shape))
                if self._good(t, plan, blocks) is not None
            )
            found += list(islice(serving, 1))
        return found

    def restore(self, blocks: Operands, state: Sequence[Sequence[int]]) -> None:
        """Make the partial products that `state` said."""
        for t, k, n in state:
            self._renewed(blocks, t, plans(blocks.network, t, k, self.shape)[n])

    # -- inside -------------------------------------------------------------------------

    def _term(self, blocks: Operands, t: int, k: int, dtype: np.dtype[Any]) -> Any:
        choice = plans(blocks.network, t, k, self.shape)
        plan, partial = choice[0], None
        for candidate in choice:
            partial = self._good(t, candidate, blocks)
            if partial is not None:
                plan = candidate
                break
        if partial is None:
            partial = self._renewed(blocks, t, plan)
        names, mode = self.namespace, blocks.network.modes[k]
        rows = 1 if mode is None else self.shape[mode]
        if plan.final is None:
            return names.transpose(names.reshape(partial, (plan.width, -1)))
        # The first product rounds once; a small one that follows need not.
        finer = dtype if math.prod(plan.shape) <= _SMALL else self._dtype
        rest = [blocks.conjugate(t, m, finer) for m in plan.rest]
        return names.reshape(names.contract(plan.final, names.cast(partial, finer), *rest), (rows, -1))

    def _good(self, t: int, plan: Plan, blocks: Operands) -> Any:
        found = self._found.get(t)
        return found[1] if found is not None and found[0] == _key(plan, blocks.versions) else None

    def _renewed(self, blocks: Operands, t: int, plan: Plan) -> Any:
        # The old one goes first: two at a time would double the memory.
        self._found.pop(t, None)
        partial = self._made(blocks, t, plan)
        self._found[t] = (_key(plan, blocks.versions), partial)
        return partial

    def _made(self, blocks: Operands, t: int, plan: Plan) -> Any:
        """The array contracted with the blocks of some modes."""
        names = self.namespace
        operands = [blocks.conjugate(t, m, self._dtype) for m in plan.used]
        if plan.half is None:
            return names.contract(plan.sequence, self.array, *operands)
        half = names.reshape(names.contract(plan.half, *operands), (plan.width, -1))
        before, rows, behind = plan.matrices
        if before > 1 and behind > 1:
            return names.reshape(names.matmul(half, names.reshape(self.array, plan.matrices)), plan.shape)
        if before == 1:
            return names.reshape(names.matmul(half, names.reshape(self.array, (rows, behind))), plan.shape)
        matrix = names.transpose(names.reshape(self.array, (before, rows)))
        return names.reshape(names.matmul(half, matrix), plan.shape)


def _key(plan: Plan, versions: Sequence[int]) -> tuple[Any, ...]:
    return (plan.signature, *[versions[m] for m in plan.used])
