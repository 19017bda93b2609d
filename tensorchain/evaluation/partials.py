"""Products of one array with the blocks of models, through partial products that are used again.

The array is contracted with the blocks of some modes (a *partial product*), and all blocks of the others are then
served from it: which modes these are is decided in :mod:`tensorchain.evaluation.tree`.  A partial product is good
until one of the blocks in it is replaced.  Who replaces them counts: `versions` holds one number for each block,
another one after each change.

Blocks that are merged before the product (a Khatri-Rao product for CP, a subchain for TC) are made in slices that
stay in the cache, so the memory beyond the array is that of one partial product for each term.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np

from tensorchain.evaluation.tree import Plan, filled, plans
from tensorchain.kernels import Array, contract, memory
from tensorchain.models import Model

_SMALL = 1 << 16
"""Entries of a partial product below which double precision costs nothing from there on."""

Versions = Sequence[int]


class Partials:
    """Partial products of an array, at most one for each term of the wiring.

    Parameters
    ----------
    array : ndarray
        The entries, in C order.
    """

    def __init__(self, array: Array) -> None:
        self.array = array
        self._found: dict[int, tuple[tuple[Any, ...], Array]] = {}
        """For each term what the partial product depends on, and the product."""

    def all_but(self, model: Model, k: int, versions: Versions | None = None) -> Array:
        """L_k^H vec(array) in double precision, (I_k, P_k); without `versions` the model must always be the same."""
        at = [0] * len(model.matrices) if versions is None else versions
        pieces = [self._term(model, t, k, at) for t in range(len(model.network.terms))]
        result = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)
        return result.astype(np.result_type(result, self.array, np.float64), copy=False)

    def state(self, model: Model, versions: Versions) -> list[list[int]]:
        """Which partial products are good now, in plain numbers: (term, block, plan)."""
        found = []
        for t in self._found:
            serving = (
                [t, k, n]
                for k in model.network.block_of_mode
                for n, plan in enumerate(plans(model.network, t, k, self.array.shape))
                if self._good(t, plan, versions) is not None
            )
            found += list(islice(serving, 1))
        return found

    def restore(self, model: Model, versions: Versions, state: Sequence[Sequence[int]]) -> None:
        """Make the partial products that `state` said."""
        for t, k, n in state:
            self._renewed(model, t, plans(model.network, t, k, self.array.shape)[n], versions)

    # -- inside -------------------------------------------------------------------------

    def _term(self, model: Model, t: int, k: int, versions: Versions) -> Array:
        """The product for one term, from a partial product that is there or is made."""
        choice = plans(model.network, t, k, self.array.shape)
        plan, partial = choice[0], None
        for candidate in choice:
            partial = self._good(t, candidate, versions)
            if partial is not None:
                plan = candidate
                break
        if partial is None:
            partial = self._renewed(model, t, plan, versions)
        small = partial.size <= _SMALL
        operands = [_conj(model.operands(t)[m]) if small else self._operand(model, t, m) for m in plan.rest]
        return plan.finished(contract, partial, operands).reshape(len(model.matrices[k]), -1)

    def _good(self, t: int, plan: Plan, versions: Versions) -> Array | None:
        """The partial product at hand, if it is that of the plan and its blocks are still the same."""
        found = self._found.get(t)
        return found[1] if found is not None and found[0] == _key(plan, versions) else None

    def _renewed(self, model: Model, t: int, plan: Plan, versions: Versions) -> Array:
        """The partial product of the plan, at hand from now on."""
        # The old one goes first: two at a time would double the memory.
        self._found.pop(t, None)
        partial = self._made(model, t, plan)
        self._found[t] = (_key(plan, versions), partial)
        return partial

    def _made(self, model: Model, t: int, plan: Plan) -> Array:
        """The array contracted with the blocks of some modes: open bonds first, then the other modes."""
        if plan.half is None:
            operands = [self._operand(model, t, m) for m in plan.used]
            return np.ascontiguousarray(contract(plan.sequence, self.array, *operands))
        # The half closes on few bonds: contract its blocks first, then one GEMM with the array.  A large half is
        # never whole: slices of its first mode follow one another while they are in the cache.
        before, _, behind = plan.matrices
        first = model.network.modes[plan.used[0]]
        assert first is not None
        length = self.array.shape[first]
        if before > 1 and behind > 1:
            half = self._half(model, t, plan, slice(None), plan.width)
            result = memory.empty((before, plan.width, behind), np.result_type(half, self.array))
            return np.matmul(half, self.array.reshape(plan.matrices), out=result).reshape(plan.shape)
        data = self.array.reshape(length, -1, behind) if before == 1 else self.array.reshape(before, length, -1)
        width = filled(plan.width)
        result = memory.empty((width, before * behind), self.array.dtype)
        for start in range(0, length, plan.step):
            some = slice(start, start + plan.step)
            half = self._half(model, t, plan, some, width)
            matrix = data[some].reshape(-1, behind) if before == 1 else data[:, some].reshape(before, -1).T
            if start == 0:
                result = np.matmul(half, matrix, out=result if half.dtype == self.array.dtype else None)
            else:
                result += half @ matrix
        return result[: plan.width].reshape(plan.shape)

    def _half(self, model: Model, t: int, plan: Plan, some: slice, width: int) -> Array:
        """Blocks of the modes that are summed, merged: open bonds by entries, with zeros up to `width`."""
        assert plan.half is not None
        operands = [self._operand(model, t, m, some if m == plan.used[0] else None) for m in plan.used]
        half = contract(plan.half, *operands).reshape(plan.width, -1)
        if width == plan.width:
            return half
        wide = np.zeros((width, half.shape[1]), half.dtype)
        wide[: plan.width] = half
        return wide

    def _operand(self, model: Model, t: int, m: int, rows: slice | None = None) -> Array:
        """Conjugated block, in the precision of the array, so that products with them run in it."""
        operand = model.operands(t)[m]
        if rows is not None:
            operand = operand[rows]
        complex_like = np.result_type(self.array, np.complex64)
        return _conj(operand).astype(complex_like if operand.dtype.kind == "c" else self.array.dtype, copy=False)


def _key(plan: Plan, versions: Versions) -> tuple[Any, ...]:
    return (plan.signature, *[versions[m] for m in plan.used])


def _conj(operand: Array) -> Array:
    return operand.conj() if operand.dtype.kind == "c" else operand
