"""Bits for each block, chosen from its sensitivity under a budget for all of them.

To first order the rounding errors of the blocks add up (:mod:`tensorchain.stability.quantization`):

    minimise   sum_k e_k(b_k)      subject to   sum_k n_k b_k <= budget,   b_k integer,

with n_k the entries of block k and e_k(b) its share of the expected squared error, c_k / (2^{b-1} - 1)^2.

This is a knapsack with one choice in each block.  It is solved exactly by dynamic programming over the
states (size, error) that no other state beats in both.  Since the e_k are convex, dropping
integrality of the rest gives a bound at once: the steps b -> b + 1 of all remaining blocks, taken in the order of
error saved per bit.  A state that cannot beat a known solution by this bound is dropped, and what
survives is small: usually some tens of states where 15^K allocations exist.

Reference: Kellerer, Pferschy, Pisinger, "Knapsack Problems" (2004), chapter 11, the multiple-choice knapsack.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.stability.perturbation import excess
from tensorchain.stability.quantization import (
    FEWEST_BITS,
    MOST_BITS,
    Scale,
    check_scale,
    levels,
    quantization_error,
    rounding_variance,
)
from tensorchain.stability.scales import double_precision, takes_fits, unit_blocks

_SLACK = 1e-12
"""Relative difference of errors within which two allocations are equally good."""


@dataclass(frozen=True)
class BitAllocation:
    """Bits for each block, beside the best that equal bits can do.

    Attributes
    ----------
    bits : tuple of int
        Bits of each block.
    size : int
        Bits of all entries together, at most the budget.
    error : float
        Predicted relative error of X, to all orders.
    uniform_bits, uniform_size, uniform_error : int or float
        The same for the largest equal number of bits within the budget.

    Examples
    --------
    >>> import tensorchain as tc
    >>> model = tc.TensorChain.random((16, 9, 16), (2, 5, 5), rng=0)
    >>> tc.allocate_bits(model, 5 * model.n_parameters).uniform_bits
    5
    """

    bits: tuple[int, ...]
    size: int
    error: float
    uniform_bits: int
    uniform_size: int
    uniform_error: float


@takes_fits
def allocate_bits(
    model: Model,
    budget_bits: int,
    *,
    min_bits: int = FEWEST_BITS,
    max_bits: int = MOST_BITS,
    scale: Scale = "block",
) -> BitAllocation:
    """Bits for each block that minimise the predicted error under a size budget.

    Parameters
    ----------
    model : Model
        Any model, best in the gauge of least sensitivity.
    budget_bits : int
        Most bits for all entries of all blocks together; scales are not counted.
    min_bits, max_bits : int, optional
        Limits for each block, within 2 to 16.
    scale : {"block", "slice"}, default "block"
        As in `quantization_error`.

    Returns
    -------
    BitAllocation
        The bits minimise the sum of the errors of the blocks, exactly; where the noise is so strong that the prediction
        to all orders finds equal bits better, equal bits are returned.

    Raises
    ------
    TypeError
        When `model` is no model, or the budget no integer.
    ValueError
        When the budget is below `min_bits` for every entry, a limit is outside 2 to 16, or X is zero.

    Examples
    --------
    >>> import tensorchain as tc
    >>> model = tc.TensorChain.random((16, 9, 16), (2, 5, 5), rng=0)
    >>> best = tc.allocate_bits(model, 5 * model.n_parameters)
    >>> best.uniform_bits, best.error <= best.uniform_error, best.size <= 5 * model.n_parameters
    (5, True, True)
    """
    checked = double_precision(model)
    budget, fewest, most = _checked(checked, budget_bits, min_bits, max_bits)
    check_scale(scale)
    sizes = [matrix.size for matrix in checked.matrices]
    choices = list(range(fewest, most + 1))
    bits = solve(sizes, block_errors(checked, choices, scale), choices, budget)
    uniform = min(budget // sum(sizes), most)
    error, plain = quantization_error(checked, bits, scale), quantization_error(checked, uniform, scale)
    if plain < error:
        bits, error = [uniform] * len(sizes), plain
    used = sum(n * b for n, b in zip(sizes, bits, strict=True))
    return BitAllocation(tuple(bits), used, error, uniform, uniform * sum(sizes), plain)


def block_errors(model: Model, choices: list[int], scale: Scale) -> Array:
    """e_k(b), the expected squared error from rounding block k alone, (K, choices), up to a common factor."""
    unit, _ = unit_blocks(model)
    table = np.empty((len(unit.matrices), len(choices)))
    for k, matrix in enumerate(unit.matrices):
        noise = [np.zeros(width) for width in unit.network.widths]
        noise[k] = rounding_variance(matrix, choices[0], scale).sum(axis=0)
        # D goes with 1 / levels.
        ratio = np.array([levels(choices[0]) / levels(b) for b in choices])
        table[k] = excess(unit, noise) * ratio * ratio
    return table


def solve(sizes: list[int], errors: Array, choices: list[int], budget: int) -> list[int]:
    """The choice for each block that minimises the sum of errors with sum of sizes * choice <= budget.

    Parameters
    ----------
    errors : ndarray
        (K, choices), each row convex and not increasing.
    """
    tails = [_Tail(sizes[k:], errors[k:], choices) for k in range(len(sizes) + 1)]
    known = tails[0].feasible(budget)
    used, error = np.zeros(1), np.zeros(1)
    back: list[tuple[Array, Array]] = []
    for k, size in enumerate(sizes):
        costs = np.add.outer(used, size * np.array(choices, dtype=float))
        sums = np.add.outer(error, errors[k])
        parent, choice = np.divmod(np.arange(costs.size), len(choices))
        costs, sums = costs.ravel(), sums.ravel()
        bound = sums + tails[k + 1].bound(budget - costs)
        keep = np.flatnonzero(bound <= known * (1.0 + _SLACK))
        # By size, then error: a state is beaten if an earlier one has no larger error.
        keep = keep[np.lexsort((sums[keep], costs[keep]))]
        lowest = np.minimum.accumulate(sums[keep])
        keep = keep[np.concatenate([[True], lowest[1:] < lowest[:-1]])]
        used, error = costs[keep], sums[keep]
        back.append((parent[keep], choice[keep]))
    state = int(np.argmin(error))
    bits = []
    for parents, taken in reversed(back):
        bits.append(choices[int(taken[state])])
        state = int(parents[state])
    return bits[::-1]


class _Tail:
    """The relaxed problem for the last blocks: error against size, piecewise linear and convex."""

    def __init__(self, sizes: list[int], errors: Array, choices: list[int]) -> None:
        self.start = float(sum(sizes)) * choices[0]
        self.errors = errors
        steps = np.repeat(np.array(sizes, dtype=float), len(choices) - 1)
        saved = (errors[:, :-1] - errors[:, 1:]).ravel()
        self.owners = np.repeat(np.arange(len(sizes)), len(choices) - 1)
        # A stable sort keeps the steps of a block in order, also where they save nothing.
        order = np.argsort(-saved / steps, kind="stable")
        self.steps, self.saved, self.owners = steps[order], saved[order], self.owners[order]

    def bound(self, room: Array) -> Array:
        """Least error of the relaxed problem at each size; infinite where the smallest choices do not fit."""
        sizes = np.concatenate([[self.start], self.start + np.cumsum(self.steps)])
        # Summed from the far end, so that small errors are not lost in large ones.
        errors = self.errors[:, -1].sum() + np.concatenate([np.cumsum(self.saved[::-1])[::-1], [0.0]])
        return np.where(room >= self.start, np.interp(room, sizes, errors), np.inf)

    def feasible(self, budget: int) -> float:
        """Error of a good allocation: steps in order of error saved per bit, those that still fit."""
        room = budget - self.start
        taken = np.zeros(len(self.errors), dtype=int)
        stopped = np.zeros(len(self.errors), dtype=bool)
        for step, owner in zip(self.steps, self.owners, strict=True):
            stopped[owner] |= step > room
            if not stopped[owner]:
                room -= step
                taken[owner] += 1
        return float(self.errors[np.arange(len(taken)), taken].sum())


def _checked(model: Model, budget: int, fewest: int, most: int) -> tuple[int, int, int]:
    for name, value in (("budget_bits", budget), ("min_bits", fewest), ("max_bits", most)):
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name} is {value!r}; an integer is needed")
    budget, fewest, most = int(budget), int(fewest), int(most)
    if not FEWEST_BITS <= fewest <= most <= MOST_BITS:
        raise ValueError(
            f"min_bits is {fewest} and max_bits {most}; {FEWEST_BITS} <= min_bits <= max_bits <= {MOST_BITS} is needed"
        )
    least = fewest * model.n_parameters
    if budget < least:
        raise ValueError(
            f"budget_bits is {budget}; {model.n_parameters} entries of at least {fewest} bits need {least}: raise the "
            "budget, or lower the rank"
        )
    return budget, fewest, most
