"""Which modes of a dense tensor are contracted first, so that several blocks are served by one pass over it.

A *partial* is T contracted with the blocks of some modes; it serves every other block until one of those that it
was made from is replaced.  So the modes to contract are those whose blocks were updated last:

- order 3: mode n - 1 goes when block n asks, and the partial serves n and n + 1.  Three passes over T make two sweeps,
  and the iterates are those of plain sweeps.  Where the modes are so uneven that it costs more, two of them go;
- other orders: the modes are cut into two halves, and the partial without the one serves all blocks of the other:
  two passes a sweep.

A partial has its bonds in front and its modes behind: products are then a small matrix times a wide one, which BLAS
does fastest, and nothing large is ever transposed.  Without the middle one of three modes it has them in between,
and the product is one for each index of the first mode.

References: Phan, Tichavsky, Cichocki, "Fast alternating LS algorithms for high order CANDECOMP/PARAFAC tensor
factorizations" (2013), for the halves; Ma and Solomonik, "Efficient parallel CP decomposition with pairwise
perturbation and multi-sweep dimension tree" (2021), for partials that outlive a sweep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from tensorchain.kernels import Array
from tensorchain.models.network import Network, Term

_HALF = 1 << 18
"""Entries of a slice of the blocks of one half, merged (2 MB in double)."""
_SKINNY = 2
"""How much longer a multiplication takes in the products that follow, whose matrices are narrow, than in the pass."""


class Plan(NamedTuple):
    """How L_k^H vec(T) is computed for one term and block."""

    used: tuple[int, ...]
    """Blocks that the partial product contains."""
    half: str | None
    """Subscripts that merge these blocks before the product with T, or None to go one by one."""
    sequence: str
    """Subscripts of the product one by one."""
    matrices: tuple[int, int, int]
    """T as a stack of matrices: kept modes before those that are summed, the summed ones, kept modes behind."""
    width: int
    """Product of the open bonds."""
    cost: float
    """Multiplications of the partial."""
    step: int
    """Rows of the first summed mode that are merged at once, since a large half is made in slices."""
    shape: tuple[int, ...]
    """Shape of the partial: open bonds, kept modes; the bonds after the first mode where the middle one is summed."""
    signature: tuple[Any, ...]
    """What the partial depends on beside the blocks: its subscripts and the bonds of the blocks."""
    final: str | None
    """Subscripts of the rest, from the partial to (I_k, P_k); None when the partial is the result."""
    rest: tuple[int, ...]

    def finished(self, contract: Callable[..., Array], partial: Array, blocks: Sequence[Array]) -> Array:
        """From the partial and the conjugated blocks of `rest` to the product, (I_k, P_k) or (I_k, *bonds).

        `contract` takes subscripts and arrays, as :func:`tensorchain.kernels.contract`.
        """
        if self.final is None:
            return partial.reshape(self.width, -1).T
        return contract(self.final, partial, *blocks)


@lru_cache(maxsize=4096)
def plans(network: Network, t: int, k: int, shape: tuple[int, ...]) -> tuple[Plan, ...]:
    """The plans by which block k can be served, the one to choose where no partial is at hand first."""
    mode = network.modes[k]
    found = [(gone, _plan(network, t, k, shape, gone)) for gone in _cuts(shape) if mode not in gone]

    def cost(choice: tuple[tuple[int, ...], Plan]) -> float:
        gone, plan = choice
        each = _cost(network.terms[t], [network.block_of_mode[n] for n in _kept(shape, gone)], plan)
        return each if mode is None else each / _served(mode, gone, len(shape))

    return tuple(plan for _, plan in sorted(found, key=cost))


def _cuts(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The sets of modes that may be contracted first, each of modes that follow one another."""
    order = len(shape)
    if order == 3:
        return (0,), (1,), (2,), (0, 1), (1, 2)
    # Halves: the larger one is as small as can be; on a tie the left one is the shorter.
    cut = min(range(1, order), key=lambda c: max(math.prod(shape[:c]), math.prod(shape[c:])))
    return tuple(range(cut)), tuple(range(cut, order))


def _served(mode: int, gone: tuple[int, ...], order: int) -> int:
    """Blocks that a sweep can update from `mode` on before it comes to one that is in the partial."""
    return next(count for count in range(1, order) if (mode + count) % order in gone)


def _cost(term: Term, kept: Sequence[int], plan: Plan) -> float:
    """Multiplications of a partial, and of the product that follows for each of the blocks `kept`."""
    if len(kept) == 1:
        return plan.cost
    opened = set("".join(term.bonds[m] for m in plan.used))
    fresh = [math.prod(term.size_of[x] for x in term.bonds[m] if x not in opened) for m in kept]
    return plan.cost + _SKINNY * math.prod(plan.shape) * sum(fresh)


def _plan(network: Network, t: int, k: int, shape: tuple[int, ...], gone: tuple[int, ...]) -> Plan:
    term, labels = network.terms[t], network.labels[t]
    kept = _kept(shape, gone)
    used = tuple(network.block_of_mode[n] for n in gone)
    outside = "".join(bonds for m, bonds in enumerate(term.bonds) if m not in used)
    open_bonds = "".join(dict.fromkeys(x for m in used for x in term.bonds[m] if x in outside))
    matrices = tuple(math.prod(shape[n] for n in range(*span)) for span in _spans(shape, gone))
    middle = matrices[0] > 1 and matrices[2] > 1
    if middle:
        open_bonds = _towards(open_bonds, [term.bonds[network.block_of_mode[n]] for n in kept])
    front = kept[:1] if middle else ()
    behind = kept[len(front) :]
    letters = "".join(network.output[n] for n in front) + open_bonds + "".join(network.output[n] for n in behind)
    width = math.prod(term.size_of[x] for x in open_bonds)
    rows, size = matrices[1], math.prod(shape)
    blocks = ",".join(labels[m] for m in used)
    modes = "".join(network.output[n] for n in gone)
    # Merging pays where the half closes on no more bonds than its outermost block alone.
    outermost = used[-1] if gone[-1] == len(shape) - 1 else used[0]
    merged = width <= term.widths[outermost]
    rest = tuple(m for m in range(len(labels)) if m != k and m not in used)
    target = (network.physical[k] if network.modes[k] is not None else "") + term.bonds[k]
    final = ",".join([letters, *(labels[m] for m in rest)]) + "->" + target
    slices = width * rows // _HALF
    # Each slice adds to the whole result.
    sliced = not middle and slices >= 2 and 2 * slices * size < rows * rows
    bonds = tuple(term.size_of[x] for x in open_bonds)
    return Plan(
        used=used,
        half=f"{blocks}->{open_bonds}{modes}" if merged else None,
        sequence=f"{network.output},{blocks}->{letters}",
        matrices=(matrices[0], rows, matrices[2]),
        width=width,
        cost=size * width if merged else _one_by_one(term, used, [shape[n] for n in gone], size),
        step=max(1, shape[gone[0]] // slices) if sliced else shape[gone[0]],
        shape=(*(shape[n] for n in front), *bonds, *(shape[n] for n in behind)),
        signature=(blocks, letters, *(term.shapes[m] for m in used)),
        final=None if not rest and target == letters[len(open_bonds) :] + open_bonds else final,
        rest=rest,
    )


def _kept(shape: tuple[int, ...], gone: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in range(len(shape)) if n not in gone)


def _spans(shape: tuple[int, ...], gone: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Modes in front of `gone` (which follow one another), those, and the modes behind."""
    return (0, gone[0]), (gone[0], gone[-1] + 1), (gone[-1] + 1, len(shape))


def _towards(bonds: str, kept: Sequence[str]) -> str:
    """Bonds in between two modes: those of the first block in front, those of the last behind."""
    return "".join(sorted(bonds, key=lambda x: (x in kept[-1]) - (x in kept[0])))


def _one_by_one(term: Term, used: tuple[int, ...], sizes: list[int], volume: int) -> int:
    """Multiplications when blocks with one bond each follow one another."""
    cost = 0
    for m, size in sorted(zip(used, sizes, strict=True), key=lambda pair: term.widths[pair[0]] / pair[1]):
        cost += volume * term.widths[m]
        volume = volume // size * term.widths[m]
    return cost


def filled(width: int) -> int:
    """Rows of a product with T: BLAS takes them by eight, and the last few cost as much as eight (measured here)."""
    return width + -width % 8 if width % 8 > 4 else width
