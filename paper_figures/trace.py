"""The way of a run: the model that it would return if it were stopped, over the iterations.

A run may pass better models than the one it is at, as the path does when it begins again from another start; so each
row here is the best iterate so far, in the order that the constraint gives.  Its sensitivity is taken in the optimal
gauge: there it depends on the tensor of the model alone and not on how its blocks share their weight, which a solver
is free to choose, and runs of different solvers compare.  Finding that gauge costs more than an iteration does, so
rows are taken at `DENSITY` iterations a decade.
"""

from __future__ import annotations

import numpy as np

import tensorchain as tc
from paper_figures.results import Row, column

DENSITY = 24


class Trace:
    """A callback of `decompose` that keeps the best iterate so far.

    Attributes
    ----------
    rows : iteration, error, sensitivity in the optimal gauge (for ||T|| = 1), penalty, and the Frobenius norm of the
        largest block.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._best: tc.Iterate | None = None
        self._merit = (float("inf"), float("inf"))
        self._last = 0

    def __call__(self, iterate: tc.Iterate) -> None:
        merit = (0.0, iterate.error**2) if iterate.merit is None else iterate.merit
        if merit <= self._merit:
            self._best, self._merit = iterate, merit
        self._last = iterate.iteration
        if iterate.iteration == 0 or step(iterate.iteration) > step(iterate.iteration - 1):
            self._keep()

    def finish(self) -> list[Row]:
        """The rows, that of the last iteration included."""
        if self.rows and self.rows[-1]["iteration"] != self._last:
            self._keep()
        return self.rows

    def _keep(self) -> None:
        assert self._best is not None
        model = tc.optimal_gauge(self._best.model, tol=1e-4)
        self.rows.append(
            {
                "iteration": self._last,
                "error": self._best.error,
                "sensitivity": model.sensitivity(),
                "penalty": self._best.penalty,
                "largest_block": max(float(np.linalg.norm(block)) for block in model.blocks),
            }
        )


def step(iteration: int) -> int:
    """Position of an iteration on a logarithmic scale."""
    return int(DENSITY * np.log10(iteration + 1))


def spread(run: list[Row], name: str) -> np.ndarray:
    """Values at every iteration: between the iterates that were kept, straight in a doubly logarithmic picture."""
    there = np.array(column(run, "iteration"))
    every = np.arange(there[-1] + 1)
    return np.exp(np.interp(np.log(every + 1), np.log(there + 1), np.log(np.maximum(column(run, name), 1e-300))))
