"""Blocks that lie on the quantization grid, fitted there instead of rounded afterwards.

The problem is least squares over integers,

    minimise ||T - X(B_1 .. B_K)||^2   subject to   B_k = step_k Q_k,   Q_k integers in -L .. L,   L = 2^(bits-1) - 1,

with one step for each block, or for each row of it.  Rounding the blocks of a good fit one by one lets their errors add
up; here every block answers to the rounding of the others.

**Alternating direction method of multipliers.**  X is linear in a block, so with the others fixed ||T - X||^2 is
quadratic in B_k, and its matrix is the Gram M_k.  B_k is split into a free copy B and a copy Z on the grid, with a
scaled dual variable U; this is repeated a few times for each block, then for the next:

    B = (W_k + rho (Z - U)) (M_k + rho)^{-1},       W_k = L_k^H vec(T)
    Z = the nearest point on the grid of B + U,     with the step of least squared rounding error
    U = U + B - Z.

The other blocks see Z.  rho is a share of the mean eigenvalue of M_k and grows by a constant factor each sweep: early
sweeps explore, late ones settle.  The best point on the grid that was met is kept.

**Descent on the grid.**  From there each integer moves to its best value with all others fixed, which has a closed form
by M_k, and each step to its least-squares value, as long as this pays.  Neither can raise the error.

With `roots` the error is that of (T - X) multiplied by a matrix in some modes, as the fit to a layer's output needs;
the quadratic of a block is then G (x) M_k with G = root^H root, which two eigendecompositions solve.

Cost: for each sweep one contraction of T for each block, and P_k^3 for the system.

References: Cherniuk et al., "Quantization aware factorization for deep neural network compression" (2023, arXiv
2308.04595), for fitting factors by this method; Boyd et al., "Distributed optimization and statistical learning via the
alternating direction method of multipliers" (2011), sections 3.1 and 9.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorchain.compression.quantize import quantizer
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.stability.quantization import Scale, check_scale, checked_bits, levels
from tensorchain.tensors import Tensor
from tensorchain.tensors.dispatch import as_tensor

_SPLITS = 3
"""Repetitions of B, Z, U for a block."""
_FIRST, _GROWTH = 0.1, 1.1
"""rho at the start as a share of the mean eigenvalue of M_k, and its factor for each sweep."""
_PASSES = 3
"""Passes over the columns of a block in one sweep of the descent."""
_GAIN = 1e-4
"""Relative decrease of the error by which a sweep of the descent pays."""


@dataclass(frozen=True)
class GridFit:
    """A model on the grid.

    Attributes
    ----------
    model : Model
        Its blocks are `steps[k] * integers[k]`.
    bits : tuple of int
        Of each block.
    steps : tuple of ndarray
        Of each block: (1, 1), or (I_k, 1) with a step for each row.
    error : float
        ||T - X|| / ||T||.
    rounded_error : float
        The same for the start rounded to the same bits, with the better of minmax and mse ranges.
    free_error : float
        The same for the start itself.
    sweeps : int
        Of the alternating method.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain import compression
    >>> import tensorchain as tc
    >>> model = tc.CP.random((4, 5, 6), 2, rng=0)
    >>> compression.fit_on_grid(model.full(), model, 6).bits
    (6, 6, 6)
    """

    model: Model
    bits: tuple[int, ...]
    steps: tuple[Array, ...]
    error: float
    rounded_error: float
    free_error: float
    sweeps: int

    @property
    def integers(self) -> list[Array]:
        """The integers of each block, (I_k, P_k)."""
        pairs = zip(self.model.matrices, self.steps, strict=True)
        return [np.rint(matrix / step).astype(np.int64) for matrix, step in pairs]


def fit_on_grid(
    tensor: Any,
    model: Model,
    bits: int | Sequence[int] = 4,
    *,
    scale: Scale = "block",
    roots: Sequence[Array | None] | None = None,
    max_iter: int = 60,
) -> GridFit:
    """A model whose blocks are integers times a step, nearest to a tensor.

    Parameters
    ----------
    tensor : array_like or Tensor
        What is approximated: an array, or any data source that sees all entries.
    model : Model
        The start, a good fit without rounding, best in the gauge of least sensitivity.
    bits : int or sequence of int, default 4
        2 to 16, one number or one for each block, such as `tc.allocate_bits(model, budget).bits`.
    scale : {"block", "slice"}, default "block"
        "block" for one step in each block, "slice" for one in each row of its matrix form.
    roots : sequence of ndarray or None, optional
        For each mode a square matrix that multiplies T - X before the error is measured, or None.
    max_iter : int, default 60
        Most sweeps of the alternating method; with 0 the rounded start only descends.

    Returns
    -------
    GridFit
        Its error is at most that of the rounded start.

    Raises
    ------
    TypeError
        When the data are complex, masked or weighted.
    ValueError
        When the shapes differ, or `bits` is out of range.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> T = np.random.default_rng(0).standard_normal((8, 9, 10))
    >>> free = tc.decompose(T, "tc", (2, 3, 3), rng=0).model
    >>> fit = fit_on_grid(T, free, bits=3)
    >>> fit.error < fit.rounded_error, max(int(abs(integers).max()) for integers in fit.integers)
    (True, 3)
    """
    problem = _Problem(tensor, model, roots)
    check_scale(scale)
    if max_iter < 0:
        raise ValueError(f"max_iter is {max_iter!r}; an integer >= 0 is needed")
    counts = checked_bits(bits, len(model.matrices))
    start = model.astype(np.float64)
    points = [_rounded(start, counts, scale, range_by) for range_by in ("minmax", "mse")]
    rounded, best = min((problem.error(point.model), n, point) for n, point in enumerate(points))[::2]
    trial, sweeps = _alternate(problem, start, best, counts, scale, max_iter)
    # Both ends of the alternating method may lie in another valley than the rounded start.
    best = min(
        (_descend(problem, point, counts, scale) for point in (best, trial)), key=lambda p: problem.error(p.model)
    )
    size = problem.size
    return GridFit(
        model=best.model,
        bits=tuple(counts),
        steps=tuple(best.steps),
        error=problem.error(best.model) / size,
        rounded_error=rounded / size,
        free_error=problem.error(start) / size,
        sweeps=sweeps,
    )


@dataclass
class _Point:
    """A model on the grid and the steps of its blocks."""

    model: Model
    steps: list[Array]


class _Problem:
    """||(T - X) x roots||: its value, and its quadratic in each block."""

    def __init__(self, tensor: Any, model: Model, roots: Sequence[Array | None] | None) -> None:
        if not isinstance(model, Model):
            raise TypeError(
                f"model is {type(model).__name__}; a model such as the one in `decompose(...).model` is needed"
            )
        source = as_tensor(tensor)
        if source.dtype.kind == "c" or model.dtype.kind == "c":
            raise TypeError("complex tensors have no integer grid here; fit the real and imaginary parts")
        if source.shape != model.shape:
            raise ValueError(f"the tensor has shape {source.shape}, the model {model.shape}; they must be equal")
        if not source.complete:
            raise TypeError(f"{type(source).__name__} sees only some entries, or weighs them; fill them in first")
        self.roots = list(roots) if roots is not None else [None] * source.order
        if len(self.roots) != source.order:
            raise ValueError(f"roots has {len(self.roots)} entries; one, or None, for each of the {source.order} modes")
        for mode, root in enumerate(self.roots):
            if root is not None and root.shape != (source.shape[mode],) * 2:
                raise ValueError(
                    f"the root of mode {mode} has shape {root.shape}; {(source.shape[mode],) * 2} is needed"
                )
        if any(root is not None for root in self.roots):
            values = source.to_dense()
            for mode, root in enumerate(self.roots):
                if root is not None:
                    values = np.moveaxis(np.tensordot(root, values, axes=(1, mode)), 0, mode)
            source = as_tensor(np.ascontiguousarray(values))
        self.source: Tensor = source
        self.size = source.norm()
        if not self.size > 0.0:
            raise ValueError("the tensor is zero everywhere: there is nothing to fit")
        self.modes = model.network.modes

    def seen(self, model: Model) -> Model:
        """The model of X multiplied by the roots."""
        parts = zip(model.matrices, map(self.root, range(len(self.modes))), strict=True)
        return model.with_matrices([matrix if root is None else root @ matrix for matrix, root in parts])

    def root(self, k: int) -> Array | None:
        """The root in the mode of block k."""
        mode = self.modes[k]
        return None if mode is None else self.roots[mode]

    def error(self, model: Model) -> float:
        """||(T - X) x roots||."""
        return self.source.residual_norm(self.seen(model))

    def quadratic(self, model: Model, k: int) -> tuple[Array, Array, Array | None]:
        """(M, W, G): ||T - X||^2 = <B, G B M> - 2 <B, W> + constant for block k; no G where it is the identity."""
        seen, root = self.seen(model), self.root(k)
        rhs = self.source.contract_all_but(seen, k)
        if root is None:
            return seen.gram(k), rhs, None
        return seen.gram(k), root.T @ rhs, root.T @ root


def _alternate(
    problem: _Problem, start: Model, first: _Point, bits: list[int], scale: Scale, max_iter: int
) -> tuple[_Point, int]:
    """The best point on the grid that the alternating method meets."""
    model, steps = first.model, list(first.steps)
    duals = [np.zeros_like(matrix) for matrix in start.matrices]
    best, least, share = first, problem.error(first.model), _FIRST
    for sweep in range(max_iter):
        before = model.matrices
        for k in range(len(duals)):
            gram, rhs, metric = problem.quadratic(model, k)
            solve = _Regularised(gram, metric, share)
            if solve.rho == 0.0:
                continue
            on_grid = model.matrices[k]
            for _ in range(_SPLITS):
                free = solve(rhs + solve.rho * (on_grid - duals[k]))
                on_grid, steps[k] = _nearest(free + duals[k], bits[k], steps[k], scale)
                duals[k] = duals[k] + free - on_grid
            model = model.with_matrix(k, on_grid)
        error = problem.error(model)
        if error < least:
            best, least = _Point(model, list(steps)), error
        if all(np.array_equal(new, old) for new, old in zip(model.matrices, before, strict=True)):
            return best, sweep + 1
        share *= _GROWTH
    return best, max_iter


class _Regularised:
    """V -> the solution B of G B M + rho B = V, with rho a share of the mean eigenvalue."""

    def __init__(self, gram: Array, metric: Array | None, share: float) -> None:
        self.values, self.vectors = np.linalg.eigh(gram)
        outer = np.ones(1)
        self.left: Array | None = None
        if metric is not None:
            outer, self.left = np.linalg.eigh(metric)
        self.rho = share * max(float(self.values.mean() * outer.mean()), 0.0)
        self.scales = np.maximum(np.outer(outer, self.values), 0.0) + self.rho

    def __call__(self, rhs: Array) -> Array:
        inner = (rhs if self.left is None else self.left.T @ rhs) @ self.vectors
        result = inner / self.scales @ self.vectors.T
        return np.asarray(result if self.left is None else self.left @ result)


def _nearest(values: Array, bits: int, step: Array, scale: Scale) -> tuple[Array, Array]:
    """The nearest point on the grid and its step: nearest integers and best step in turn, from the step before."""
    for _ in range(2):
        integers = _integers(values, step, bits)
        step = _refitted(step, _sum(values * integers, scale), _sum(integers * integers, scale))
    return _integers(values, step, bits) * step, step


def _integers(values: Array, step: Array, bits: int) -> Array:
    most = levels(bits)
    return np.asarray(np.clip(np.rint(values / step), -most, most))


def _refitted(step: Array, products: Array, squares: Array) -> Array:
    """products / squares; the old step where that is no positive number."""
    good = (products > 0.0) & (squares > 0.0)
    return np.where(good, products / np.where(good, squares, 1.0), step)


def _sum(values: Array, scale: Scale) -> Array:
    return np.asarray(values.sum(axis=1, keepdims=True) if scale == "slice" else values.sum(keepdims=True))


def _rounded(model: Model, bits: list[int], scale: Scale, range_by: str) -> _Point:
    """The model with its blocks rounded one by one."""
    matrices, steps = [], []
    for matrix, count in zip(model.matrices, bits, strict=True):
        step = _range(matrix, count, scale, range_by)
        matrices.append(_integers(matrix, step, count) * step)
        steps.append(step)
    return _Point(model.with_matrices(matrices), steps)


def _range(matrix: Array, bits: int, scale: Scale, range_by: str) -> Array:
    top = np.abs(matrix).max(axis=1, keepdims=True) if scale == "slice" else np.abs(matrix).max(keepdims=True)
    step = np.where(top > 0.0, top, 1.0) / levels(bits)
    if range_by == "minmax":
        return np.asarray(step)
    if bits <= 8:
        grid = quantizer(matrix, bits, axis=0 if scale == "slice" else None, range_by=range_by)
        return np.asarray(grid.step.reshape(step.shape))
    # Beyond 8 bits clipping gains nothing that matters.
    return _nearest(matrix, bits, step, scale)[1]


def _descend(problem: _Problem, point: _Point, bits: list[int], scale: Scale) -> _Point:
    """Integers and steps moved to their best values, one after the other, as long as this pays."""
    model, steps = point.model, list(point.steps)
    least = problem.error(model)
    best = point
    while True:
        for k, count in enumerate(bits):
            gram, rhs, metric = problem.quadratic(model, k)
            integers = np.rint(model.matrices[k] / steps[k])
            _move(integers, steps[k], gram, rhs, metric, levels(count))
            if scale == "block" or metric is None:
                curved = integers @ gram if metric is None else metric @ integers @ gram
                steps[k] = _refitted(steps[k], _sum(rhs * integers, scale), _sum(curved * integers, scale))
            model = model.with_matrix(k, integers * steps[k])
        error = problem.error(model)
        if error < least:
            best = _Point(model, list(steps))
        if error > (1.0 - _GAIN) * least:
            return best
        least = error


def _move(integers: Array, step: Array, gram: Array, rhs: Array, metric: Array | None, most: int) -> None:
    """Each integer to its best value with the others fixed, in place; rows are independent without a metric."""
    groups = [np.s_[:]] if metric is None else [np.s_[i : i + 1] for i in range(len(integers))]
    curved = (step * integers) @ gram
    slope = rhs - (curved if metric is None else metric @ curved)
    for _ in range(_PASSES):
        moved = False
        for rows in groups:
            own = 1.0 if metric is None else float(metric[rows, rows].item())
            size = np.broadcast_to(step, (len(integers), 1))[rows, 0]
            for j in np.flatnonzero(np.diag(gram) > 0.0):
                curvature = own * gram[j, j]
                if not curvature > 0.0:
                    continue
                target = np.clip(np.rint(integers[rows, j] + slope[rows, j] / (curvature * size)), -most, most)
                change = (target - integers[rows, j]) * size
                if not change.any():
                    continue
                moved = True
                integers[rows, j] = target
                along = change[:, None] if metric is None else metric[:, rows] * change
                slope -= along * gram[j]
        if not moved:
            return
