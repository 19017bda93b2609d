"""Einsum as a plan: parsed, ordered and lowered to matrix products once, then replayed.

For given subscripts and shapes the order of pairwise contractions is searched once, and each pair is
lowered to

    transpose, reshape, one (batched) matrix product or element-wise product, reshape,

with all permutations and shapes worked out in advance.  A replay therefore costs a few microseconds
a step beside the arithmetic, which is what matters for the small contractions of a solver step.  Operands need
no more than `transpose`, `reshape`, `sum`, `*` and `@`: they may be arrays of another library.

A pair is lowered in one of three ways, tried in this order.

1. **In output order** (`_in_order`), for the last product where the result is large: it is written as the output
   wants it, one matrix for each value of the first indices, and never permuted.  "arb,bsc->asrc": for each a and s
   the (r, b) matrix of a times the (b, c) matrix of s.
2. **In place** (`_in_place`), where an operand is large: it is not transposed, which would be a copy, slower than
   the product.  It is read as it lies, as a stack of matrices made of its last two groups of indices, and multiplied
   matrix by matrix; summed indices among those that count the matrices are summed in the end.  "ijk,jr->irk" with a
   large T: for each i the (r, j) matrix times T[i], (j, k).
3. **By copy** (`_lower`), for what is small: both operands are permuted to (batch, free, summed) and (batch, summed,
   free), and one batched product follows; element by element where no index is summed.  "ir,jr->ijr": a column
   times a row for each r.

So the order of the indices of large operands is for the caller to choose: indices that stay (bonds) in front of those
that go.
"""

from __future__ import annotations

import math
import string
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tensorchain.kernels import memory

Array = NDArray[Any]

_LARGE = 1 << 13
"""Entries from which an operand is not transposed, and a result goes to recycled memory."""
_LEAST_MATRIX = 256
"""Entries of the matrices of a stack below which a copy is the lesser evil."""


_ALPHABET = string.ascii_letters
"""The letters that NumPy's einsum takes."""
_SWAPS = [(*range(n - 2), n - 1, n - 2) for n in range(65)]
"""The permutation that exchanges the last two of n axes."""


class View(NamedTuple):
    """An operand as a stack of matrices: permuted, reshaped, and its last two axes exchanged."""

    axes: tuple[int, ...] | None
    shape: tuple[int, ...]
    swap: bool = False

    def of(self, array: Array) -> Array:
        """The operand in this form."""
        array = (array if self.axes is None else array.transpose(self.axes)).reshape(self.shape)
        return array.transpose(_SWAPS[len(self.shape)]) if self.swap else array


class Step(NamedTuple):
    """One pairwise contraction of the operands at two positions; the result is appended."""

    left: int
    right: int
    left_view: View
    right_view: View
    right_first: bool
    """Whether the product is right times left."""
    multiply: bool
    """Whether it is element by element."""
    stored: tuple[int, ...] | None
    """Shape of a large product, which goes to recycled memory."""
    summed: tuple[int, ...]
    """Axes of the stack that are summed in the end."""
    shape: tuple[int, ...]


def contract(subscripts: str, *operands: Array) -> Array:
    """Einsum with explicit subscripts, e.g. ``"iab,jbc,kca->ijk"``.

    An index may be shared by any number of operands; none may be repeated within one operand.  Any character but
    a comma and those of the arrow can be an index, so that contractions of fifty operands can be written.
    """
    return _plan(subscripts, tuple([operand.shape for operand in operands]))(*operands)


class Lowered(NamedTuple):
    """A contraction as steps.

    sums : (position, axes) of indices that nobody else holds, summed first.
    order : of the operands; None where they stay as they are.
    axes : permutation of the result of the last step; None for none.
    """

    sums: tuple[tuple[int, tuple[int, ...]], ...]
    order: tuple[int, ...] | None
    steps: tuple[Step, ...]
    axes: tuple[int, ...] | None


@lru_cache(maxsize=8192)
def lowered(subscripts: str, shapes: tuple[tuple[int, ...], ...]) -> Lowered:
    """The steps of a contraction."""
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
    sums: list[tuple[int, tuple[int, ...]]] = []
    for position, letters in enumerate(labels):
        # Indices that nobody else holds are summed first.
        others = set(output).union(*(labels[:position] + labels[position + 1 :]))
        lonely = tuple(axis for axis, letter in enumerate(letters) if letter not in others)
        if lonely:
            sums.append((position, lonely))
            labels[position] = "".join(letter for letter in letters if letter in others)
    order, steps, letters = _best_steps(labels, output, sizes)
    return Lowered(tuple(sums), order, tuple(steps), _axes(letters, output))


@lru_cache(maxsize=8192)
def _plan(subscripts: str, shapes: tuple[tuple[int, ...], ...]) -> Callable[..., Array]:
    sums, order, steps, axes = lowered(subscripts, shapes)

    def replay(*operands: Array) -> Array:
        stack = list(operands)
        for position, lonely in sums:
            stack[position] = stack[position].sum(axis=lonely)
        if order is not None:
            stack = [stack[position] for position in order]
        for left, right, left_view, right_view, right_first, multiply, stored, summed, shape in steps:
            # left < right always holds.
            b, a = right_view.of(stack.pop(right)), left_view.of(stack.pop(left))
            if right_first:
                a, b = b, a
            if stored is None or type(a) is not np.ndarray:
                product = a * b if multiply else a @ b
            else:
                into = memory.empty(stored, a.dtype if a.dtype == b.dtype else np.result_type(a, b))
                product = np.multiply(a, b, out=into) if multiply else np.matmul(a, b, out=into)
            if summed:
                product = product.sum(axis=summed)
            stack.append(product.reshape(shape))
        return stack[0] if axes is None else stack[0].transpose(axes)

    return replay


def _best_steps(
    labels: list[str], output: str, sizes: dict[str, int]
) -> tuple[tuple[int, ...] | None, list[Step], str]:
    """Order of the operands, steps, and letters of the result.

    Where the result is large, rotations of the operands are tried: of equal contractions one may leave it in the
    order that is asked for, and another not.
    """
    best: tuple[tuple[int, ...] | None, list[Step], str] = (None, *_steps(labels, output, sizes))
    if len(labels) < 3 or _volume(output, sizes) < _LARGE or best[2] == output:
        return best
    least = _cost(labels, output, sizes)
    for shift in range(1, len(labels)):
        order = (*range(shift, len(labels)), *range(shift))
        rotated = [labels[position] for position in order]
        steps, letters = _steps(rotated, output, sizes)
        if letters == output and _cost(rotated, output, sizes) <= least:
            return order, steps, letters
    return best


def _steps(labels: list[str], output: str, sizes: dict[str, int]) -> tuple[list[Step], str]:
    """The steps, and the letters of the result."""
    steps: list[Step] = []
    for left, right in _order(labels, output, sizes):
        kept = set(output).union(*(x for n, x in enumerate(labels) if n not in (left, right)))
        step, letters = (len(labels) == 2 and _in_order(labels[0], labels[1], output, sizes)) or _lower(
            left, right, labels[left], labels[right], kept, sizes
        )
        steps.append(step)
        labels = [x for n, x in enumerate(labels) if n not in (left, right)] + [letters]
    return steps, labels[0]


def _cost(labels: list[str], output: str, sizes: dict[str, int]) -> int:
    """Multiplications."""
    cost = 0
    for left, right in _order(labels, output, sizes):
        rest = [x for n, x in enumerate(labels) if n not in (left, right)]
        every = "".join(dict.fromkeys(labels[left] + labels[right]))
        cost += _volume(every, sizes)
        labels = [*rest, "".join(x for x in every if x in set(output).union(*rest))]
    return cost


def _order(labels: list[str], output: str, sizes: dict[str, int]) -> list[tuple[int, int]]:
    """Pairs to contract, as positions in the shrinking list of operands (results are appended)."""
    if len(labels) == 1:
        return []
    if len(labels) == 2:
        return [(0, 1)]
    if len(sizes) > len(_ALPHABET):
        return _greedy_order(labels, output, sizes)
    # NumPy's search takes the letters of one alphabet, and callers have more.
    renamed = str.maketrans(dict(zip(sizes, _ALPHABET, strict=False)))
    subscripts = (",".join(labels) + "->" + output).translate(renamed)
    dummies = [np.broadcast_to(np.float64(0.0), [sizes[x] for x in letters]) for letters in labels]
    strategy = "optimal" if len(labels) <= 5 else "greedy"
    path: list[tuple[int, ...]] = np.einsum_path(subscripts, *dummies, optimize=strategy)[0][1:]
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


def _greedy_order(labels: list[str], output: str, sizes: dict[str, int]) -> list[tuple[int, int]]:
    """Pairs as in `_order`, each the one whose product adds least to what is held.

    Operands that share an index of few holders are paired first: the bonds of a chain before the batch that all share.
    """
    labels, pairs = list(labels), []
    while len(labels) > 1:
        counts = Counter(output)
        for letters in labels:
            counts.update(letters)
        holders: dict[str, list[int]] = {}
        for position, letters in enumerate(labels):
            for letter in letters:
                holders.setdefault(letter, []).append(position)
        shared = [owners for owners in holders.values() if len(owners) > 1]
        fewest = min(map(len, shared), default=0)
        near = {pair for owners in shared if len(owners) == fewest for pair in combinations(owners, 2)}
        volumes = [_volume(letters, sizes) for letters in labels]
        best: tuple[int, tuple[int, int], str] | None = None
        for left, right in sorted(near) or combinations(range(len(labels)), 2):
            a, b = labels[left], labels[right]
            result = "".join(x for x in dict.fromkeys(a + b) if counts[x] > (x in a) + (x in b))
            added = _volume(result, sizes) - volumes[left] - volumes[right]
            if best is None or added < best[0]:
                best = added, (left, right), result
        assert best is not None
        _, (left, right), result = best
        pairs.append((left, right))
        labels = [letters for n, letters in enumerate(labels) if n not in (left, right)] + [result]
    return pairs


def _lower(left: int, right: int, a: str, b: str, kept: set[str], sizes: dict[str, int]) -> tuple[Step, str]:
    """One pair as a matrix product, or element by element where no index is summed."""
    batch = "".join(x for x in a if x in b and x in kept)
    summed = "".join(x for x in a if x in b and x not in kept)
    free_a = "".join(x for x in a if x not in b)
    free_b = "".join(x for x in b if x not in a)
    if summed:
        step = _in_place(left, right, a, b, batch, summed, sizes)
        if step is not None:
            return step
        left_view = _view(a, (batch, free_a, summed), sizes)
        right_view = _view(b, (batch, summed, free_b), sizes)
    else:
        count, rows, columns = (_volume(group, sizes) for group in (batch, free_a, free_b))
        left_view = View(_axes(a, batch + free_a), (count, rows, 1))
        right_view = View(_axes(b, batch + free_b), (count, 1, columns))
    letters = batch + free_a + free_b
    stored = tuple(_volume(group, sizes) for group in ((batch,) if batch or not summed else ()) + (free_a, free_b))
    large = math.prod(stored) >= _LARGE
    shape = tuple(sizes[x] for x in letters)
    return Step(left, right, left_view, right_view, False, not summed, stored if large else None, (), shape), letters


def _in_order(a: str, b: str, output: str, sizes: dict[str, int]) -> tuple[Step, str] | None:
    """The last product, written as the output wants it, where that is large and would have to be permuted."""
    summed = "".join(x for x in a if x in b and x not in output)
    if not summed or _volume(output, sizes) < _LARGE:
        return None
    both = "".join(x for x in a if x in b)
    last = _run(output, "".join(x for x in b if x not in a), both)
    before = _run(output[: len(output) - len(last)], "".join(x for x in b if x not in a), both)
    count = output[: len(output) - len(last) - len(before)]
    if not before or not count or _volume(last + before, sizes) < _LEAST_MATRIX:
        return None
    views: list[View] = []
    for letters in (a, b):
        rows, columns = (before, summed) if before[0] in letters else (summed, last)
        view = _view(letters, ("".join(x for x in count if x in letters), rows, columns), sizes)
        counts = tuple(sizes[x] if x in letters else 1 for x in count)
        views.append(view._replace(shape=(*counts, *view.shape[-2:])))
    stored = (*(sizes[x] for x in count), _volume(before, sizes), _volume(last, sizes))
    shape = tuple(sizes[x] for x in output)
    return Step(0, 1, views[0], views[1], last[0] in a, False, stored, (), shape), output


def _in_place(
    left: int, right: int, a: str, b: str, batch: str, summed: str, sizes: dict[str, int]
) -> tuple[Step, str] | None:
    """The product with the larger operand read as it lies; None where it is small, or a copy costs less.

    The smaller operand comes first: to BLAS a wide matrix on the right is cheaper than a tall one on the left.
    """
    right_large = _volume(b, sizes) > _volume(a, sizes)
    large, small = (b, a) if right_large else (a, b)
    last = _run(large, summed, batch)
    before = _run(large[: len(large) - len(last)], summed, batch)
    count = large[: len(large) - len(last) - len(before)]
    inner, kept = (last, before) if last and last[0] in summed else (before, last)
    if _volume(large, sizes) < _LARGE or not inner:
        return None
    others = "".join(x for x in small if x not in large)
    stored = (*(sizes[x] for x in count), _volume(others, sizes), _volume(kept, sizes))
    if count and _volume(last + before, sizes) < _LEAST_MATRIX:
        return None
    repeats = tuple(n for n, x in enumerate(count) if x in summed)
    if repeats and math.prod(stored) > _volume(large, sizes):
        return None
    large_view = View(None, (*stored[:-2], *(_volume(group, sizes) for group in (before, last))), swap=inner == last)
    small_view = _view(small, ("".join(x for x in count if x in small), others, inner), sizes)
    # Letters that count matrices of the large operand alone: the small one is repeated.
    counts = tuple(sizes[x] if x in small else 1 for x in count)
    matrix = small_view.shape[-2:]
    small_view = small_view._replace(shape=(*counts, *matrix))
    letters = "".join(x for x in count if x not in summed) + others + kept
    views = (small_view, large_view) if right_large else (large_view, small_view)
    step = Step(
        left,
        right,
        *views,
        right_first=not right_large,
        multiply=False,
        stored=stored if math.prod(stored) >= _LARGE else None,
        summed=repeats,
        shape=tuple(sizes[x] for x in letters),
    )
    return step, letters


def _run(letters: str, summed: str, batch: str) -> str:
    """The longest run of letters at the end that are all summed, or all free."""
    start = len(letters)
    while start and letters[start - 1] not in batch and (letters[start - 1] in summed) == (letters[-1] in summed):
        start -= 1
    return letters[start:]


def _view(letters: str, groups: tuple[str, str, str], sizes: dict[str, int]) -> View:
    """An operand as (stack, rows, columns), without a copy where its letters allow it."""
    stack, rows, columns = groups
    front = (_volume(stack, sizes),) if stack else ()
    if letters == stack + columns + rows:
        return View(None, (*front, _volume(columns, sizes), _volume(rows, sizes)), swap=True)
    axes = _axes(letters, stack + rows + columns)
    return View(axes, (*front, _volume(rows, sizes), _volume(columns, sizes)))


def _volume(letters: Iterable[str], sizes: dict[str, int]) -> int:
    return math.prod(sizes[x] for x in letters)


def _axes(letters: str, order: str) -> tuple[int, ...] | None:
    return None if letters == order else tuple(letters.index(x) for x in order)
