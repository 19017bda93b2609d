"""Einsum as a plan: parsed, ordered and lowered to matrix products once, then replayed.

For given subscripts and shapes the order of pairwise contractions is searched once, and each pair is
lowered to

    transpose, reshape, one (batched) matrix product or element-wise product, reshape,

with all permutations and shapes worked out in advance.  A replay therefore costs a few microseconds
a step beside the arithmetic, which is what matters for the small contractions of a solver step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


Axes = tuple[int, ...] | None
"""A permutation, or None for none."""


class Step(NamedTuple):
    """One pairwise contraction of the operands at two positions; the result is appended."""

    left: int
    right: int
    left_axes: Axes
    left_shape: tuple[int, ...]
    right_axes: Axes
    right_shape: tuple[int, ...]
    multiply: bool
    shape: tuple[int, ...]


def contract(subscripts: str, *operands: Array) -> Array:
    """Einsum with explicit subscripts, e.g. ``"iab,jbc,kca->ijk"``.

    An index may be shared by any number of operands; none may be repeated within one operand.
    """
    return _plan(subscripts, tuple([operand.shape for operand in operands]))(*operands)


@lru_cache(maxsize=8192)
def _plan(subscripts: str, shapes: tuple[tuple[int, ...], ...]) -> Callable[..., Array]:
    inputs, output = subscripts.split("->")
    labels = inputs.split(",")
    repeated = [letters for letters in labels if len(set(letters)) < len(letters)]
    if repeated:
        raise ValueError(f"einsum {subscripts}: {repeated[0]!r} repeats an index within one operand")
    sizes: dict[str, int] = {}
    for letters, shape in zip(labels, shapes, strict=True):
        for letter, size in zip(letters, shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ValueError(f"einsum {subscripts}: index {letter} has sizes {sizes[letter]} and {size}")
    steps: list[Step] = []
    sums: list[tuple[int, tuple[int, ...]]] = []
    for position, letters in enumerate(labels):
        # Indices that nobody else holds are summed first.
        others = set(output).union(*(labels[:position] + labels[position + 1 :]))
        lonely = tuple(axis for axis, letter in enumerate(letters) if letter not in others)
        if lonely:
            sums.append((position, lonely))
            labels[position] = "".join(letter for letter in letters if letter in others)
    for left, right in _order(labels, output, sizes):
        kept = set(output).union(*(x for n, x in enumerate(labels) if n not in (left, right)))
        step, letters = _lower(left, right, labels[left], labels[right], kept, sizes)
        steps.append(step)
        labels = [x for n, x in enumerate(labels) if n not in (left, right)] + [letters]
    final = tuple(labels[0].index(letter) for letter in output)
    axes = None if final == tuple(range(len(output))) else final

    def replay(*operands: Array) -> Array:
        stack = list(operands)
        for position, lonely in sums:
            stack[position] = stack[position].sum(axis=lonely)
        for left, right, left_axes, left_shape, right_axes, right_shape, multiply, shape in steps:
            # left < right always holds.
            b, a = stack.pop(right), stack.pop(left)
            a = (a if left_axes is None else a.transpose(left_axes)).reshape(left_shape)
            b = (b if right_axes is None else b.transpose(right_axes)).reshape(right_shape)
            stack.append((a * b if multiply else a @ b).reshape(shape))
        return stack[0] if axes is None else stack[0].transpose(axes)

    return replay


def _order(labels: list[str], output: str, sizes: dict[str, int]) -> list[tuple[int, int]]:
    """Pairs to contract, as positions in the shrinking list of operands (results are appended)."""
    if len(labels) == 1:
        return []
    if len(labels) == 2:
        return [(0, 1)]
    dummies = [np.broadcast_to(np.float64(0.0), [sizes[x] for x in letters]) for letters in labels]
    strategy = "optimal" if len(labels) <= 5 else "greedy"
    path: list[tuple[int, ...]] = np.einsum_path(",".join(labels) + "->" + output, *dummies, optimize=strategy)[0][1:]
    pairs: list[tuple[int, int]] = []
    for group in path:
        # A group of more than two is contracted from the back; its results are appended at the end.
        members = sorted(group)
        count = len(labels) - len(pairs)
        pairs.append((members[-2], members[-1]))
        for member in reversed(members[:-2]):
            count -= 1
            pairs.append((member, count - 1))
    return pairs


def _lower(left: int, right: int, a: str, b: str, kept: set[str], sizes: dict[str, int]) -> tuple[Step, str]:
    batch = [x for x in a if x in b and x in kept]
    summed = [x for x in a if x in b and x not in kept]
    free_a = [x for x in a if x not in b]
    free_b = [x for x in b if x not in a]
    volume = [math.prod(sizes[x] for x in group) for group in (batch, free_a, summed, free_b)]
    multiply = not summed
    left_shape: tuple[int, ...]
    right_shape: tuple[int, ...]
    if multiply:
        left_shape, right_shape = (volume[0], volume[1], 1), (volume[0], 1, volume[3])
        left_order, right_order = batch + free_a, batch + free_b
    elif batch:
        left_shape, right_shape = (volume[0], volume[1], volume[2]), (volume[0], volume[2], volume[3])
        left_order, right_order = batch + free_a + summed, batch + summed + free_b
    else:
        left_shape, right_shape = (volume[1], volume[2]), (volume[2], volume[3])
        left_order, right_order = free_a + summed, summed + free_b
    letters = "".join(batch + free_a + free_b)
    step = Step(
        left,
        right,
        _axes(a, left_order),
        left_shape,
        _axes(b, right_order),
        right_shape,
        multiply,
        tuple(sizes[x] for x in letters),
    )
    return step, letters


def _axes(letters: str, order: list[str]) -> Axes:
    axes = tuple(letters.index(x) for x in order)
    return None if axes == tuple(range(len(axes))) else axes
