"""Ranks of different models for one budget of parameters.

Models compare at equal size only.  The budget is the size of a looped chain, and CP gets the largest rank within it.
A multilinear rank has many shapes of equal size: of those within the budget, the one with the least bound on its error
is taken, which the singular values of the unfoldings tell before anything is fitted,

    sum_n sum_{r > R_n} s_r(T_(n))^2      (De Lathauwer, De Moor, Vandewalle, SIAM J. Matrix Anal. Appl. 21, 2000).

Block terms are all of one rank; together, K terms of rank (R_1 ... R_N) reach K R_n columns in mode n.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

TERMS = 2
"""Block terms of a BTD."""


def budget(bonds: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """Parameters of a chain with these bonds."""
    after = bonds[1:] + bonds[:1]
    return sum(left * size * right for left, size, right in zip(bonds, shape, after, strict=True))


def rank_within(name: str, tensor: np.ndarray, parameters: int, terms: int = TERMS) -> Any:
    """The rank that a model gets for that many parameters.

    Parameters
    ----------
    name : "cp", "tucker" or "btd".
    tensor : whose shape and singular values decide.
    parameters : the budget.
    terms : of a BTD.

    Raises
    ------
    ValueError
        If not even the least rank is within the budget, or the name is unknown.
    """
    shape = tensor.shape
    if name == "cp":
        rank: Any = parameters // sum(shape)
    elif name in ("tucker", "btd"):
        count = terms if name == "btd" else 1
        rank = _multilinear(tensor, parameters, count)
        rank = [rank] * count if name == "btd" and rank else rank
    else:
        raise ValueError(f"model {name!r} was asked for; 'cp', 'tucker' or 'btd' is needed")
    if not rank:
        raise ValueError(f"{parameters} parameters are too few for any {name} of shape {shape}")
    return rank


def _multilinear(tensor: np.ndarray, parameters: int, count: int) -> tuple[int, ...] | None:
    """The rank of least error bound of which `count` terms are within the budget."""
    shape = tensor.shape
    tails = [tail_energies(tensor, n) for n in range(len(shape))]
    best: tuple[float, int, tuple[int, ...]] | None = None
    for ranks in itertools.product(*(range(1, size + 1) for size in shape)):
        size = count * (math.prod(ranks) + sum(i * r for i, r in zip(shape, ranks, strict=True)))
        # A mode cannot have more directions than the others together.
        if size > parameters or any(r * r > math.prod(ranks) for r in ranks):
            continue
        bound = sum(tail[min(count * r, len(tail) - 1)] for tail, r in zip(tails, ranks, strict=True))
        # Of equal bounds the smaller model.
        if best is None or (bound, size, ranks) < best:
            best = (bound, size, ranks)
    return None if best is None else best[2]


def tail_energies(tensor: np.ndarray, mode: int) -> np.ndarray:
    """Sums of squared singular values of an unfolding from the r-th on, r = 0 ... I_n."""
    unfolded = np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)
    values = np.maximum(np.linalg.eigvalsh(unfolded @ unfolded.T)[::-1], 0.0)
    return np.append(np.cumsum(values[::-1])[::-1], 0.0)
