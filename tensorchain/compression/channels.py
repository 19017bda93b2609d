r"""Which channels can be taken out of a network, chosen one after another by what the layers behind them lose.

A layer with weights W sees patches x of covariance C.  Without the channels B its best weights on the others are a
least-squares problem, and with H = C^{-1} on the channels that are left its output loses

    tr( W_B (H_BB)^{-1} W_B' ),      W <- W - W_B (H_BB)^{-1} H_B.,      H <- H - H_.B (H_BB)^{-1} H_B.

(the step of the optimal brain surgeon, and of backward elimination in regression).  A channel saves multiplications, or
parameters, in every layer that reads or writes it, so at each step that class of channels goes for which

    sum over the layers that read it of gain * loss / energy of their output, over the cost that it saves,

is least, until the budget is met.  No layer is split in two: what is left is the same network with narrower layers,
whose weights have absorbed what could be predicted of the channels that are gone.

Cost: p^2 D for each channel and layer that reads it, p = S D numbers of a patch.

References: Hassibi, Stork, "Second order derivatives for network pruning: optimal brain surgeon" (1993); Chee et al.,
"Model preserving compression for neural networks" (2022), for interpolative decompositions of what layers see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tensorchain.kernels import Array

_RIDGE = 1e-9
"""Part of the mean variance that is added to each entry of a patch, so that the inverse exists."""
_LEAST = 0.1
"""Share of the channels of a layer that is left at least."""


class BudgetError(ValueError):
    """A budget that is not met with the fewest channels; `cost` is what is left then."""

    def __init__(self, reason: str, cost: float) -> None:
        super().__init__(reason)
        self.cost = cost


@dataclass
class Reader:
    """A layer that reads channels.

    Parameters
    ----------
    kernel : ndarray
        (T, S, D1, ..).
    covariance : ndarray or None
        Of its patches, (p, p); None where no channel that it reads can go.
    columns, rows : ndarray
        Classes of its inputs (S,) and outputs (T,), -1 for those that stay.
    cost : float
        Of the layer with all its channels: multiplications or parameters.
    gain : float, default 1
        Weight of its loss.
    """

    kernel: Array
    covariance: Array | None
    columns: Array
    rows: Array
    cost: float
    gain: float = 1.0

    def __post_init__(self) -> None:
        self.inputs, self.outputs = self.kernel.shape[1], len(self.kernel)
        self.taps = self.kernel[0, 0].size
        self.weight = self.kernel.reshape(self.outputs, self.inputs, self.taps).astype(np.float64)
        self.open = np.ones(self.inputs, bool)
        self.written = np.ones(self.outputs, bool)
        # Inputs of one class, (n, k) for all classes with k of them.
        free, counts = np.unique(self.columns[self.columns >= 0], return_counts=True)
        own = [np.flatnonzero(self.columns == one) for one in free]
        self.together = [
            np.array([at for at, count in zip(own, counts, strict=True) if count == k])
            for k in np.unique(counts[counts > 1])
        ]
        if self.covariance is None:
            return
        size = len(self.covariance)
        mean = float(np.trace(self.covariance)) / size
        metric = self.covariance + (_RIDGE * mean if mean > 0.0 else 1.0) * np.eye(size)
        self.inverse = np.linalg.inv(metric)
        flat = self.weight.reshape(self.outputs, -1)
        self.energy = float(np.sum((flat @ metric) * flat)) or 1.0

    def losses(self) -> Array:
        """What the output loses with each input alone, relative to its energy; (S,).

        Inputs of one class go together, and each stands for its part of what is lost without all of them.
        """
        if self.covariance is None:
            return np.zeros(self.inputs)
        size, taps = self.inputs, self.taps
        blocks = self.inverse.reshape(size, taps, size, taps)[np.arange(size), :, np.arange(size)]
        weight = self.weight[self.written].transpose(1, 2, 0)
        found = np.zeros(size)
        found[self.open] = np.sum(
            weight[self.open] * np.linalg.solve(blocks[self.open], weight[self.open]), axis=(1, 2)
        )
        for group in self.together:
            here = group[self.open[group[:, 0]]]
            at = (here[:, :, None] * taps + np.arange(taps)).reshape(len(here), -1)
            block, rows = self.inverse[at[:, :, None], at[:, None]], weight[here].reshape(*at.shape, -1)
            found[here] = np.sum(rows * np.linalg.solve(block, rows), axis=(1, 2))[:, None] / group.shape[1]
        return found.clip(0.0) * (self.gain / self.energy)

    def close(self, columns: Array) -> None:
        """Take inputs out, and let the others answer for them."""
        if self.covariance is not None:
            at = (columns[:, None] * self.taps + np.arange(self.taps)).ravel()
            block = np.linalg.solve(self.inverse[np.ix_(at, at)], self.inverse[at])
            flat = self.weight.reshape(self.outputs, -1)
            flat -= flat[:, at] @ block
            self.inverse -= self.inverse[:, at] @ block
            # What is gone stays out of the way of the solutions above.
            self.inverse[at], self.inverse[:, at] = 0.0, 0.0
            flat[:, at] = 0.0
        self.open[columns] = False


def narrowed(
    readers: Mapping[str, Reader], count: int, budget: float, *, others: Array | None = None, fixed: float = 0.0
) -> Array:
    """Which classes of channels stay, (count,) of bool.

    Parameters
    ----------
    readers : mapping of str to Reader
        All layers; they are used up.
    count : int
        Of classes.
    budget : float
        Most cost.
    others : ndarray, optional
        What each class costs besides: in depthwise layers, and in constants with an entry for each channel, (count,).
    fixed : float, default 0
        The cost of all else.

    Returns
    -------
    ndarray

    Raises
    ------
    BudgetError
        When the budget is not met with a tenth of the channels.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> first = Reader(rng.standard_normal((6, 4, 1, 1)), None, np.full(4, -1), np.arange(6), 24.0)
    >>> hidden = rng.standard_normal((100, 6)) * [1, 1, 1, 0.01, 1, 1]
    >>> second = Reader(rng.standard_normal((5, 6, 1, 1)), np.cov(hidden.T), np.arange(6), np.full(5, -1), 30.0)
    >>> narrowed({"first": first, "second": second}, 6, 45.0)
    array([ True,  True,  True, False,  True,  True])
    """
    layers = list(readers.values())
    depthwise = np.zeros(count) if others is None else others
    reads = _incidence([one.columns for one in layers], count)
    writes = _incidence([one.rows for one in layers], count)
    costs = np.array([one.cost for one in layers])
    widths = [np.array([one.inputs for one in layers], float), np.array([one.outputs for one in layers], float)]
    ends = [np.ceil(_LEAST * width) for width in widths]
    open_, alive = widths[0].copy(), np.ones(count, bool)
    written = widths[1].copy()
    losses = [_by_class(one.losses(), one.columns, count) for one in layers]
    while True:
        now = costs * open_ / widths[0] * written / widths[1]
        if fixed + float(now.sum()) + float(depthwise[alive].sum()) <= budget:
            return alive
        saved = reads @ (now / open_) + writes @ (now / written) + depthwise
        stuck = ((reads > open_ - ends[0]) & (reads > 0)) | ((writes > written - ends[1]) & (writes > 0))
        allowed = alive & ~stuck.any(1) & (saved > 0.0)
        if not allowed.any():
            left = fixed + float(now.sum()) + float(depthwise[alive].sum())
            raise BudgetError(
                f"the budget is {budget:.4g}; with the fewest channels a cost of {left:.4g} is left", left
            )
        value = np.where(allowed, np.sum(losses, axis=0) / np.maximum(saved, 1e-300), np.inf)
        gone = int(np.argmin(value))
        alive[gone] = False
        for k in np.flatnonzero(reads[gone] + writes[gone]):
            one = layers[k]
            if reads[gone, k]:
                one.close(np.flatnonzero(one.columns == gone))
                open_[k] -= reads[gone, k]
            if writes[gone, k]:
                one.written[one.rows == gone] = False
                written[k] -= writes[gone, k]
            losses[k] = _by_class(one.losses(), one.columns, count)


def _incidence(classes: list[Array], count: int) -> Array:
    """How often each class stands in each list, (count, lists)."""
    found = np.zeros((count, len(classes)))
    for k, one in enumerate(classes):
        np.add.at(found[:, k], one[one >= 0], 1.0)
    return found


def _by_class(losses: Array, columns: Array, count: int) -> Array:
    """Losses of inputs summed by class, (count,)."""
    free = columns >= 0
    return np.bincount(columns[free], losses[free], minlength=count) if free.any() else np.zeros(count)
