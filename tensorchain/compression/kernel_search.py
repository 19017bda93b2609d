"""Search for a decomposition of the kernel of one layer, by the sweeps of `kernel_sweeps`.

**Starts.**  CP starts from the strongest singular pairs of the taps, chains and block terms from orthonormal groups;
where those do not fit (more columns than channels), from the singular vectors and random directions beside them.

**Least squares.**  `fitted` sweeps without a penalty.  For a fit that is to be stable, `path` comes too: from the same
start, sweeps with a penalty nu SS whose weight falls in equal ratios from one that decides the first sweeps to one that
is lost in rounding.  Its models are never degenerate, and it mostly ends at as small an error.  For small kernels,
which have many poor minima, the start without the path and random ones are tried as well, and the best end is taken.

**Correction.**  `relaxed` then lowers SS subject to ||W - X||^2 <= bound.  The multiplier nu is multiplied by 3^x after
each sweep, with x = (bound - ||W - X||^2) / slack clipped to [-1, 1]: it rises while the bound is met and falls while
it is not, and comes to rest where the bound is active.  The least SS that met the bound is returned.

Reference: Phan et al., "Stable low-rank tensor decomposition for compression of convolutional neural network" (2020),
for the correction.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from tensorchain.compression.kernel_sweeps import CPSweeps, GroupSweeps, Sweeps
from tensorchain.compression.sandwich import Sandwich
from tensorchain.compression.starts import leading_pairs, orthonormal_groups
from tensorchain.kernels import Array
from tensorchain.models import CP, Model, TensorChain

_PATH_SWEEPS, _FROM, _TO = 40, 1.0, 1e-5
"""Sweeps of the path, and nu SS / ||W||^2 at its ends, with SS that of the start after one sweep."""
_CORRECTION_SWEEPS, _FINISH_SWEEPS = 80, 10
_TRIES = 3
"""Random starts of the path for small kernels."""
_WORK = 5e9
"""Multiplications that one run of sweeps may take; wide kernels get fewer sweeps, but not fewer than `_FEWEST`."""
_FEWEST = 10
_EXACT = 1e-12
"""Squared relative error below which a kernel in single precision is exact."""


def searched(
    tensor: Array,
    kind: type[Model],
    rank: Any,
    *,
    rng: np.random.Generator,
    slack: float | None,
    outside: float = 0.0,
    sizes: tuple[int, ...] | None = None,
    small: bool = False,
    max_seconds: float | None = None,
) -> tuple[Model, bool]:
    """A model of a kernel, and whether its sensitivity is the least that was found within the slack.

    Parameters
    ----------
    tensor : ndarray
        (S, D, T), or (S, D1, D2, T) for CP of order 4.
    kind : type
        CP, TensorChain, or Sandwich with equal terms.
    rank : object
        Of the model.
    rng : numpy.random.Generator
    slack : float or None
        Relative increase of the error that the correction may use; None for plain least squares.
    outside : float, optional
        Squared error beyond that of this tensor, which no model of it can avoid.
    sizes : tuple of int, optional
        Rows that the blocks have in the layer, in the order of the modes of `tensor`.
    small : bool, optional
        Whether random starts are tried as well.
    max_seconds : float, optional
        Of the whole search.

    Returns
    -------
    tuple of (Model, bool)
        The model; whether the search came to its end, with a slack.
    """
    # Numbers near one: squares of squares neither overflow nor vanish.
    top = float(np.abs(tensor).max())
    size = top * float(np.linalg.norm(tensor / top))
    problem = started(tensor / size, kind, rank, rng, sizes)
    end = math.inf if max_seconds is None else time.perf_counter() + max_seconds
    count = max(_FEWEST, int(_WORK / problem.cost))
    start = problem.state
    if slack is None:
        fitted(problem, min(200, count), 1e-5, end)
        return model_of(problem, kind, size, tensor.shape), False
    found = []
    for trial in range(2 + _TRIES if small else 1):
        # The start, the start without the path, random ones of the scale of the first.
        problem.state = [
            block if trial < 2 else float(np.sqrt(np.mean(block**2))) * rng.standard_normal(block.shape)
            for block in start
        ]
        if trial == 1:
            error = fitted(problem, min(200, count), 1e-5, end)
        else:
            path(problem, min(_PATH_SWEEPS, count), end)
            error = fitted(problem, min(100, count), 1e-4, end)
        found.append((error, problem.sensitivity(), problem.state))
    least = min(error for error, _, _ in found)
    # At practically the same error the smaller sensitivity.
    error, _, problem.state = min((one for one in found if one[0] <= 1.002 * least), key=lambda one: one[1])
    _correct(problem, error, least, slack, outside / size / size, min(_CORRECTION_SWEEPS, count), end)
    return model_of(problem, kind, size, tensor.shape), time.perf_counter() < end


def finished(
    tensor: Array, model: Model, *, slack: float | None, max_seconds: float | None = None
) -> tuple[Model, bool]:
    """A model of a kernel from a good start, such as that of its core: a few sweeps, and the correction.

    Parameters
    ----------
    tensor : ndarray (S, D, T)
    model : CP, TensorChain or Sandwich
    slack, max_seconds : float or None
        As in `searched`.

    Returns
    -------
    tuple of (Model, bool)
        As from `searched`.
    """
    top = float(np.abs(tensor).max())
    size = top * float(np.linalg.norm(tensor / top))
    flat = np.ascontiguousarray((tensor / size).transpose(1, 0, 2))
    end = math.inf if max_seconds is None else time.perf_counter() + max_seconds
    problem: Sweeps
    if isinstance(model, CP):
        first, taps, last = model.blocks
        problem = CPSweeps(flat, [taps / size, first, last])
    else:
        first, core, last = blocks_of(model)
        problem = GroupSweeps(flat, (first, core / size, last))
    count = max(_FEWEST, int(_WORK / problem.cost))
    error = fitted(problem, min(_FINISH_SWEEPS, count), 1e-4, end)
    if slack is not None:
        _correct(problem, error, error, slack, 0.0, min(2 * _FINISH_SWEEPS, count), end)
    return model_of(problem, type(model), size, tensor.shape), slack is not None and time.perf_counter() < end


def _correct(problem: Sweeps, error: float, least: float, slack: float, beyond: float, sweeps: int, end: float) -> None:
    """`relaxed` up to (1 + slack) times the root of the least squared error, what is `beyond` the kernel included."""
    bound = (1.0 + slack) ** 2 * (least + beyond) - beyond
    # A bound of 1 is met by zero.
    bound = min(max(bound, _EXACT), (1.0 + math.sqrt(least)) ** 2 / 4.0)
    relaxed(problem, error, bound, sweeps, end)


def fitted(problem: Sweeps, sweeps: int, tol: float, end: float = math.inf) -> float:
    """Sweeps without a penalty until one lowers the squared error by less than `tol` of it; ||W - X||^2.

    Parameters
    ----------
    problem : Sweeps
        Its state is the start, and becomes the result.
    sweeps : int
        Most of them.
    tol : float
    end : float, optional
        Of `time.perf_counter`, when to stop.

    Returns
    -------
    float
        The squared error.
    """
    before = math.inf
    for _ in range(max(sweeps, 1)):
        now = problem.sweep(0.0)
        if before - now <= tol * now or time.perf_counter() > end:
            return now
        before = now
    return before


def path(problem: Sweeps, sweeps: int, end: float = math.inf) -> None:
    """Sweeps with a penalty that falls, from the state of the problem.

    Parameters
    ----------
    problem, sweeps, end : object
        As in `fitted`.
    """
    problem.sweep(0.0)
    scale = problem.energy / max(problem.sensitivity(), np.finfo(float).tiny)
    for share in np.geomspace(_FROM, _TO, sweeps):
        problem.sweep(float(share) * scale)
        if time.perf_counter() > end:
            return


def relaxed(problem: Sweeps, error: float, bound: float, sweeps: int, end: float = math.inf) -> None:
    """The least SS found with ||W - X||^2 <= bound, from a state whose squared error is `error`.

    Parameters
    ----------
    problem, sweeps, end : object
        As in `fitted`.
    error, bound : float
        Squared.
    """
    least = problem.sensitivity()
    slack = bound - error
    if not (slack > 0.0 and least > 0.0):
        return
    best, nu = problem.state, 0.3 * slack / least
    for _ in range(sweeps):
        reached = problem.sweep(nu)
        now = problem.sensitivity()
        if reached <= bound and now < least:
            best, least = problem.state, now
        nu *= 3.0 ** min(max((bound - reached) / slack, -1.0), 1.0)
        if time.perf_counter() > end:
            break
    problem.state = best


def started(
    tensor: Array, kind: type[Model], rank: Any, rng: np.random.Generator, sizes: tuple[int, ...] | None = None,
    sweeps: int = 2,
) -> Sweeps:  # fmt: skip
    """Sweeps for a kernel (S, D, T) or (S, D1, D2, T), at a start from its singular vectors.

    Parameters
    ----------
    tensor, kind, rank, rng, sizes : object
        As in `searched`.
    sweeps : int, optional
        Of orthonormal groups.

    Returns
    -------
    Sweeps
    """
    inputs, outputs = tensor.shape[0], tensor.shape[-1]
    flat = np.ascontiguousarray(tensor.reshape(inputs, -1, outputs).transpose(1, 0, 2))
    rows = sizes or tensor.shape
    if kind is CP:
        taps, first, last = leading_pairs(flat, int(rank), rng)
        factors = [taps] if tensor.ndim == 3 else _separated(taps, (tensor.shape[1], tensor.shape[2]))
        return CPSweeps(flat, [*factors, first, last], (*rows[1:-1], rows[0], rows[-1]))
    chain = kind is TensorChain
    if chain and np.ndim(rank) == 0:
        # One number for all bonds.
        rank = (rank, rank, rank)
    groups, (a, b) = (rank[0], rank[1:]) if chain else (len(rank), rank[0])
    counts = len(flat), int(rows[0]), int(rows[-1])
    if groups * a <= inputs and groups * b <= outputs:
        model, _ = orthonormal_groups(tensor, groups, (a, b), shared=chain, sweeps=sweeps)
        return GroupSweeps(flat, blocks_of(model), counts)
    first, last = _bases(tensor, groups, a, rng), _bases(tensor.transpose(2, 1, 0), groups, b, rng)
    core = rng.standard_normal((1 if chain else groups, len(flat), a, b))
    return GroupSweeps(flat, (first, core * float(np.linalg.norm(tensor) / np.linalg.norm(core)), last), counts)


def blocks_of(model: Model) -> tuple[Array, Array, Array]:
    """(f, S, a), (f or 1, D, a, b) and (f, T, b) of a chain or block terms."""
    if isinstance(model, TensorChain):
        first, core, last = model.cores
        return np.ascontiguousarray(first), np.ascontiguousarray(core.transpose(1, 0, 2))[None], last.transpose(2, 1, 0)
    if not isinstance(model, Sandwich):
        raise TypeError(f"model is {type(model).__name__}; a TensorChain or a Sandwich is needed")
    firsts, cores, lasts = zip(*model.terms, strict=True)
    return np.stack(firsts), np.stack(cores), np.stack(lasts)


def model_of(problem: Sweeps, kind: type[Model], size: float, shape: tuple[int, ...]) -> Model:
    """The blocks as a model of the kernel times `size`."""
    blocks = problem.state
    if kind is CP:
        order = [len(blocks) - 2, *range(len(blocks) - 2), len(blocks) - 1]
        root = size ** (1.0 / len(blocks))
        return CP([root * blocks[k] for k in order])
    root = size ** (1.0 / 3.0)
    first, core, last = (root * block for block in blocks)
    if kind is TensorChain:
        cores = [first, core[0].transpose(1, 0, 2), last.transpose(2, 1, 0)]
        return TensorChain([np.ascontiguousarray(part) for part in cores])
    return Sandwich(list(zip(first, core, last, strict=True)))


def _separated(taps: Array, window: tuple[int, int]) -> list[Array]:
    """The best factors (D1, R) and (D2, R) of each column (D1 D2, R)."""
    matrices = taps.T.reshape(-1, *window)
    u, s, vh = np.linalg.svd(matrices, full_matrices=False)
    root = np.sqrt(s[:, 0])
    return [np.ascontiguousarray((u[:, :, 0] * root[:, None]).T), np.ascontiguousarray((vh[:, 0] * root[:, None]).T)]


def _bases(tensor: Array, groups: int, width: int, rng: np.random.Generator) -> Array:
    """(f, S, a): all singular vectors of the first unfolding, dealt out to the groups, and random ones beyond them."""
    rows, count = len(tensor), groups * width
    unfolded = tensor.reshape(rows, -1)
    vectors = np.linalg.eigh(unfolded @ unfolded.T)[1][:, ::-1][:, :count]
    more = rng.standard_normal((rows, count - vectors.shape[1])) / math.sqrt(rows)
    whole = np.hstack([vectors, more])
    return np.ascontiguousarray(whole.reshape(rows, width, groups).transpose(2, 0, 1))
