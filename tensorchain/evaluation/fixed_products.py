"""L_k^H vec(T) of a small array, on memory that stays where it is.

The products are those of :mod:`tensorchain.evaluation.partials`, written once as programs
(:mod:`tensorchain.kernels.program`) for a model of one term whose blocks all carry a mode: on a tensor of 20^4 entries
sweeps take three quarters of the time.  All partial products share one room, so there is one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorchain.evaluation.fixed_blocks import FixedBlocks
from tensorchain.evaluation.tree import Plan, filled, plans
from tensorchain.kernels import Array
from tensorchain.kernels.program import Program
from tensorchain.models import Network

Key = tuple[int, ...]


class FixedProducts:
    """Programs for the products of one array with blocks in fixed memory.

    Parameters
    ----------
    array : ndarray
        The entries, in C order and in double precision.
    network : Network
        The wiring, of one term without cores.
    blocks : FixedBlocks
        Where the blocks lie.
    scale : float
        A number that multiplies every product.
    """

    def __init__(self, array: Array, network: Network, blocks: FixedBlocks, *, scale: float) -> None:
        self._array, self._network, self._blocks, self._scale = array, network, blocks, scale
        self._rhs = [np.zeros_like(matrix) for matrix in blocks.matrices]
        self._plans = [plans(network, 0, k, array.shape) for k in range(len(blocks.matrices))]
        self._finish: dict[tuple[int, int], Program] = {}
        """From a partial product to W, for each block and plan; written when it is first asked for."""
        names = {plan.signature: number for number, plan in enumerate(p for choice in self._plans for p in choice)}
        self._names = [[names[plan.signature] for plan in choice] for choice in self._plans]
        """A number for each partial product, the same for plans that share one."""
        self._partials: dict[int, tuple[Array, Program]] = {}
        self._current: Key | None = None
        """Number and versions of the partial product in the room."""
        self._made = (0, 0)
        """The block and plan for which it was made."""
        every = [plan for choice in self._plans for plan in choice]
        self._room = np.zeros(max(filled(p.width) * p.matrices[0] * p.matrices[2] for p in every), array.dtype)

    @staticmethod
    def fit(network: Network, shape: tuple[int, ...]) -> bool:
        """Whether every partial product is made at once, not in slices."""
        for k in range(len(network.modes)):
            for plan in plans(network, 0, k, shape):
                mode = network.modes[plan.used[0]]
                if mode is None or plan.step < shape[mode]:
                    return False
        return True

    def rhs(self, k: int, versions: Sequence[int]) -> Array:
        """W_k, (I_k, P_k): the caller's until it is asked for again."""
        current = self._current
        n = next((n for n in range(len(self._plans[k])) if self._key(k, n, versions) == current), 0)
        partial = self._contract(k, n, versions)
        program = self._finish.get((k, n))
        if program is None:
            program = self._finish[k, n] = self._finishing(k, self._plans[k][n], partial)
        program.run()
        return self._rhs[k]

    def state(self, versions: Sequence[int]) -> list[list[int]]:
        """As of :meth:`tensorchain.evaluation.partials.Partials.state`."""
        good = self._current is not None and self._key(*self._made, versions) == self._current
        return [[0, *self._made]] if good else []

    def restore(self, versions: Sequence[int], state: Sequence[Sequence[int]]) -> None:
        """Make the partial product that `state` said."""
        for _, k, n in state:
            self._contract(k, n, versions)

    # -- inside -------------------------------------------------------------------------

    def _finishing(self, k: int, plan: Plan, partial: Array) -> Program:
        """From the partial product to W, with the scale of the tensor."""
        program, rhs = Program(), self._rhs[k]
        value = plan.finished(program.contract, partial, [self._blocks.conjugated[m] for m in plan.rest])
        program.call(np.multiply, value, self._scale, out=rhs.reshape(value.shape))
        return program

    def _contract(self, k: int, n: int, versions: Sequence[int]) -> Array:
        """The partial product of a plan, made where it is not at hand."""
        key = self._key(k, n, versions)
        found = self._partials.get(key[0])
        if found is None:
            found = self._partials[key[0]] = self._written(self._plans[k][n])
        if key != self._current:
            # An interrupt leaves nothing that could be taken for what was there.
            self._current = None
            found[1].run()
            self._current, self._made = key, (k, n)
        return found[0]

    def _key(self, k: int, n: int, versions: Sequence[int]) -> Key:
        return (self._names[k][n], *[versions[m] for m in self._plans[k][n].used])

    def _written(self, plan: Plan) -> tuple[Array, Program]:
        """A partial product in the room that all of them share, and its program."""
        program, (before, rows, behind) = Program(), plan.matrices
        if plan.half is None:
            value = program.contract(plan.sequence, self._array, *[self._blocks.conjugated[m] for m in plan.used])
            target = self._room[: value.size].reshape(plan.shape)
            program.call(np.copyto, target, value)
            return target, program
        width = plan.width if before > 1 and behind > 1 else filled(plan.width)
        half = program.contract(plan.half, *[self._blocks.conjugated[m] for m in plan.used])
        half = program.matrix(half, (plan.width, rows))
        if width > plan.width:
            wide = np.zeros((width, rows), half.dtype)
            program.call(np.copyto, wide[: plan.width], half)
            half = wide
        data = self._array.reshape(plan.matrices)
        room = self._room[: width * before * behind]
        if before > 1 and behind > 1:
            program.product(half, data, out=room.reshape(before, width, behind))
        else:
            program.product(half, data[0] if before == 1 else data[:, :, 0].T, out=room.reshape(width, -1))
        return room[: plan.width * before * behind].reshape(plan.shape), program
