"""One choice for each layer under a budget for all of them.

Layer l offers choices j of cost c_lj (multiplications or parameters) and measured error e_lj:

    minimise   sum_l e_l(j_l)   subject to   sum_l c_l(j_l) <= budget.

This is the multiple-choice knapsack.  Its linear relaxation is solved greedily on the lower convex hulls of the layers
and bounds the optimum from below; partial choices are kept as states (cost, error) that no other state beats in both,
and dropped when their bound is no better than a known solution.  When nothing else is dropped the result is optimal;
if the states outgrow `max_states`, those of the best bound are kept and `gap` says how far from the optimum the
result can be at most.

`one_step` is the simple rule beside it: the same largest error for every layer.

References: Kellerer, Pferschy, Pisinger, "Knapsack Problems" (2004), chapter 11; Kozyrskiy, Phan, "CNN acceleration by
low-rank approximation with quantized factors" (2020), for the one-step choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tensorchain.kernels import Array

_SLACK = 1e-12


@dataclass(frozen=True)
class Allocation:
    """A choice for each layer.

    Attributes
    ----------
    choices : tuple of int
        Index of the choice of each layer.
    cost : float
        Sum of the costs, at most the budget.
    error : float
        Sum of the errors.
    bound : float
        No allocation within the budget has a smaller sum of errors.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain import compression
    >>> costs, errors = [np.array([1, 3])] * 2, [np.array([2.0, 0.0]), np.array([1.0, 0.0])]
    >>> compression.one_step(costs, errors, budget=4).cost
    4.0
    """

    choices: tuple[int, ...]
    cost: float
    error: float
    bound: float

    @property
    def gap(self) -> float:
        """How far the error can be above the optimum; 0 when the allocation is optimal."""
        return max(self.error - self.bound, 0.0)


def allocate(costs: Sequence[Array], errors: Sequence[Array], budget: float, *, max_states: int = 20_000) -> Allocation:
    """The choices of least total error within a budget.

    Parameters
    ----------
    costs, errors : sequence of ndarray
        For each layer the costs (J_l,) and errors (J_l,) of its choices.
    budget : float
        Most total cost.
    max_states : int, default 20000
        Most partial solutions kept.

    Returns
    -------
    Allocation
        The choices of least error within the budget.

    Raises
    ------
    ValueError
        When even the cheapest choices are beyond the budget, or the shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> best = allocate([np.array([1, 3]), np.array([1, 2])], [np.array([9.0, 0.0]), np.array([5.0, 1.0])], budget=4)
    >>> best.choices, best.cost, best.error, best.gap
    ((1, 0), 4.0, 5.0, 0.0)
    """
    tables = _checked(costs, errors, budget)
    order = [_efficient(cost, error) for cost, error in tables]
    tables = [(cost[keep], error[keep]) for (cost, error), keep in zip(tables, order, strict=True)]
    tails = [_Relaxed(tables[k:]) for k in range(len(tables) + 1)]
    known = tails[0].rounded_down(budget)
    best = sum(float(error[j]) for (_, error), j in zip(tables, known, strict=True))
    used, sums, dropped = np.zeros(1), np.zeros(1), np.inf
    back: list[tuple[Array, Array]] = []
    for k, (cost, error) in enumerate(tables):
        spent, reached = np.add.outer(used, cost).ravel(), np.add.outer(sums, error).ravel()
        parent, choice = np.divmod(np.arange(len(spent)), len(cost))
        bounds = reached + tails[k + 1].bound(budget - spent)
        keep = np.flatnonzero(bounds <= best * (1.0 + _SLACK) + 1e-300)
        keep = keep[np.lexsort((reached[keep], spent[keep]))]
        lowest = np.minimum.accumulate(reached[keep])
        keep = keep[np.concatenate([[True], lowest[1:] < lowest[:-1]])[: len(keep)]]
        if len(keep) > max_states:
            ranked = np.argsort(bounds[keep], kind="stable")
            dropped = min(dropped, float(bounds[keep[ranked[max_states:]]].min()))
            keep = keep[np.sort(ranked[:max_states])]
        used, sums = spent[keep], reached[keep]
        back.append((parent[keep], choice[keep]))
    picked = known
    if len(sums) and sums.min() <= best:
        state, reverse = int(np.argmin(sums)), []
        for parents, taken in reversed(back):
            reverse.append(int(taken[state]))
            state = int(parents[state])
        picked = reverse[::-1]
    total = sum(float(error[j]) for (_, error), j in zip(tables, picked, strict=True))
    spending = sum(float(cost[j]) for (cost, _), j in zip(tables, picked, strict=True))
    choices = tuple(int(keep[j]) for keep, j in zip(order, picked, strict=True))
    return Allocation(choices, spending, total, min(total, dropped))


def one_step(costs: Sequence[Array], errors: Sequence[Array], budget: float) -> Allocation:
    """The cheapest choices whose errors are all below a common limit, the smallest limit that meets the budget.

    It minimises the largest error.  `bound` is that of the sum of errors, from the relaxed problem.

    Parameters
    ----------
    costs : sequence of ndarray
        For each layer the costs (J_l,) of its choices.
    errors : sequence of ndarray
        For each layer the errors (J_l,) of its choices.
    budget : float
        Most total cost.

    Returns
    -------
    Allocation
        The choices.

    Examples
    --------
    >>> import numpy as np
    >>> costs, errors = [np.array([1, 3])] * 2, [np.array([2.0, 0.0]), np.array([1.0, 0.0])]
    >>> one_step(costs, errors, budget=4).choices
    (1, 0)
    """
    tables = _checked(costs, errors, budget)
    for limit in np.unique(np.concatenate([error for _, error in tables])):
        choices = []
        for cost, error in tables:
            allowed = np.flatnonzero(error <= limit)
            if not len(allowed):
                break
            cheapest = allowed[cost[allowed] == cost[allowed].min()]
            choices.append(int(cheapest[np.argmin(error[cheapest])]))
        if len(choices) < len(tables):
            continue
        spending = sum(float(cost[j]) for (cost, _), j in zip(tables, choices, strict=True))
        if spending <= budget:
            break
    total = sum(float(error[j]) for (_, error), j in zip(tables, choices, strict=True))
    hulls = [(cost[keep], error[keep]) for cost, error in tables for keep in [_efficient(cost, error)]]
    bound = float(_Relaxed(hulls).bound(np.array([budget], dtype=float))[0])
    return Allocation(tuple(choices), spending, total, min(bound, total))


class _Relaxed:
    """The linear relaxation for some layers: the least error at each budget, piecewise linear and convex."""

    def __init__(self, tables: Sequence[tuple[Array, Array]]) -> None:
        self.start = sum((float(cost[0]) for cost, _ in tables), 0.0)
        self.first = sum((float(error[0]) for _, error in tables), 0.0)
        steps = [(layer, i, j) for layer, (cost, error) in enumerate(tables) for i, j in _hull(cost, error)]
        self.layers = np.array([layer for layer, _, _ in steps], dtype=int)
        self.ends = np.array([j for _, _, j in steps], dtype=int)
        self.prices = np.array([float(tables[layer][0][j] - tables[layer][0][i]) for layer, i, j in steps])
        self.savings = np.array([float(tables[layer][1][i] - tables[layer][1][j]) for layer, i, j in steps])
        by_value = np.argsort(-self.savings / self.prices, kind="stable") if steps else np.empty(0, int)
        self.layers, self.ends = self.layers[by_value], self.ends[by_value]
        self.prices, self.savings = self.prices[by_value], self.savings[by_value]
        self.count = len(tables)

    def bound(self, room: Array) -> Array:
        """Least relaxed error at each budget; infinite where the cheapest choices do not fit."""
        at = self.start + np.concatenate([[0.0], np.cumsum(self.prices)])
        # Summed from the far end, so that small errors are not lost in large ones.
        last = self.first - float(self.savings.sum())
        values = max(last, 0.0) + np.concatenate([np.cumsum(self.savings[::-1])[::-1], [0.0]])
        return np.where(room >= self.start, np.interp(room, at, values), np.inf)

    def rounded_down(self, budget: float) -> list[int]:
        """A good feasible choice: steps by value for money, each layer until its next step does not fit."""
        room = budget - self.start
        choices, stopped = [0] * self.count, [False] * self.count
        for layer, end, price in zip(self.layers, self.ends, self.prices, strict=True):
            stopped[layer] = stopped[layer] or price > room
            if not stopped[layer]:
                room -= float(price)
                choices[layer] = int(end)
        return choices


def _efficient(cost: Array, error: Array) -> Array:
    """Choices that no other beats in both, by rising cost."""
    order = np.lexsort((error, cost))
    lowest = np.minimum.accumulate(error[order])
    return np.asarray(order[np.concatenate([[True], lowest[1:] < lowest[:-1]])])


def _hull(cost: Array, error: Array) -> list[tuple[int, int]]:
    """Edges (from, to) of the lower convex hull of an efficient curve."""
    hull: list[int] = []
    for j in range(len(cost)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (error[b] - error[a]) * (cost[j] - cost[a]) < (error[j] - error[a]) * (cost[b] - cost[a]):
                break
            hull.pop()
        hull.append(j)
    return list(pairwise(hull))


def _checked(costs: Sequence[Array], errors: Sequence[Array], budget: float) -> list[tuple[Array, Array]]:
    if len(costs) != len(errors) or not len(costs):
        raise ValueError(
            f"{len(costs)} layers have costs and {len(errors)} errors; one of each for every layer is needed"
        )
    tables = []
    for layer, (cost, error) in enumerate(zip(costs, errors, strict=True)):
        pair = np.asarray(cost, dtype=np.float64), np.asarray(error, dtype=np.float64)
        if pair[0].ndim != 1 or pair[0].shape != pair[1].shape or not len(pair[0]):
            raise ValueError(
                f"layer {layer} has costs {pair[0].shape} and errors {pair[1].shape}; equal lengths are needed"
            )
        if not (np.isfinite(pair[0]).all() and np.isfinite(pair[1]).all() and pair[1].min() >= 0.0):
            raise ValueError(f"layer {layer} has costs or errors that are negative or not finite")
        tables.append(pair)
    least = sum(float(cost.min()) for cost, _ in tables)
    if budget < least:
        raise ValueError(f"the budget is {budget:g}, the cheapest choices cost {least:g}; raise the budget")
    return tables
