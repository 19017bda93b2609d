"""Seeing a large tensor one box at a time.

A *box* is a product of slices, one for each mode.  The part of a model that lies in a box is the same
model with fewer rows in its blocks (`Model.restrict`), so any sum over the entries of a tensor,

    ||T - X||^2,      J_k^H (T - X),      L_k^H vec(T),

is the sum over boxes of the same figure of the sub-tensor and the sub-model, added to the rows of the box.
Memory: one box.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tensorchain.kernels import Array
from tensorchain.kernels.interruption import check_time
from tensorchain.models import Model

Box = tuple[slice, ...]

BOX_ENTRIES = 1 << 17
"""Entries of a box: temporaries of 1 MB in double stay in the cache, twice as fast as 16 MB (measured here)."""


def boxes(shape: Sequence[int], limit: int = BOX_ENTRIES) -> Iterator[Box]:
    """Cut a tensor into boxes of at most `limit` entries, in the order of memory.

    Examples
    --------
    >>> [tuple((s.start, s.stop) for s in box) for box in boxes((3, 4), 8)]
    [((0, 2), (0, 4)), ((2, 3), (0, 4))]
    """
    if not shape:
        yield ()
        return
    size, rest = shape[0], math.prod(shape[1:])
    step = limit // rest
    if step >= 1:
        for start in range(0, size, step):
            check_time()
            yield (slice(start, min(start + step, size)), *(slice(0, extent) for extent in shape[1:]))
        return
    for start in range(size):
        for tail in boxes(shape[1:], limit):
            yield (slice(start, start + 1), *tail)


def part(model: Model, box: Box) -> Model:
    """The model of the sub-tensor in a box."""
    whole = all(side.stop - side.start == size for side, size in zip(box, model.shape, strict=True))
    return model if whole else model.restrict(box)


def rows_of(model: Model, k: int, box: Box) -> slice:
    """The rows of block k that a box touches; a core has one row, and every box touches it."""
    mode = model.network.modes[k]
    return slice(None) if mode is None else box[mode]


def split(model: Model, blocks: Sequence[Array], box: Box) -> list[Array]:
    """The rows in a box of each of `blocks`, which are shaped like those of the model."""
    return [block[rows_of(model, k, box)] for k, block in enumerate(blocks)]


def empty_blocks(model: Model, dtype: Any) -> list[Array]:
    """Zeros shaped like the blocks, in double precision, complex where either the model or `dtype` is."""
    double = np.result_type(np.float64, model.dtype, dtype)
    return [np.zeros(matrix.shape, dtype=double) for matrix in model.matrices]


def in_double(model: Model) -> Model:
    """The model with blocks in double precision at least, so that its values are; itself where they are already."""
    dtype = np.result_type(np.float64, model.dtype)
    return model if all(matrix.dtype == dtype for matrix in model.matrices) else model.astype(dtype)
