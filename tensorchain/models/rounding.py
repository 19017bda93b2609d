"""Fewer parameters for a model within an error: rounding, without forming the tensor.

**Tucker.**  In the HOSVD form X = core x_n U_n with orthonormal U_n, leaving out trailing slices of the core is an
orthogonal projection: the squared error is the sum of the squares of what is left out, exactly.  With all partial sums
of |core|^2 at hand, every choice of ranks is looked at, and the one of fewest parameters within the error is taken: the
best truncation of the HOSVD; the best approximation of these ranks may be closer by up to a factor of sqrt(N).

**Trains.**  Made orthonormal from the right, a train is cut bond by bond from the left by SVD.  Each cut is an
orthogonal projection of what the ones before have left, so the squared errors add, exactly; each bond gets an equal
share of what is left of the budget.  The result is within sqrt(N - 1) of the best train of its bonds.

All else is in :mod:`tensorchain.models.refit`.

References: De Lathauwer, De Moor, Vandewalle, "A multilinear singular value decomposition" (2000); Oseledets,
"Tensor-train decomposition" (2011), algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorchain.kernels import Array, norm
from tensorchain.models.normal_forms import orthogonal_train, orthogonal_tucker

if TYPE_CHECKING:
    from tensorchain.models.base import Model


class Rounded(NamedTuple):
    """A model of fewer parameters.

    Attributes
    ----------
    model : Model
        Of the same kind.
    error : float
        Its distance from the model that was rounded, relative to the norm of that one.
    """

    model: Model
    error: float


def checked_error(error: Any) -> float:
    """A relative error from 0 to below 1.

    Raises
    ------
    ValueError
        When it is not.
    """
    try:
        value = float(error)
    except (TypeError, ValueError):
        value = math.nan
    if not 0.0 <= value < 1.0:
        raise ValueError(f"error is {error!r}; a relative error from 0 to below 1 is needed")
    return value


def rounded_tucker(core: Array, factors: Sequence[Array], error: float) -> tuple[Array, list[Array], float]:
    """Core, factors and relative error of the smallest truncation of the HOSVD within `error`."""
    core, bases = orthogonal_tucker(core, factors)
    total = norm(core)
    if total == 0.0:
        ranks: tuple[int, ...] = (1,) * core.ndim
        return core[tuple(map(slice, ranks))], [basis[:, :1] for basis in bases], 0.0
    unit = np.abs(core.astype(np.result_type(core, np.float64)) / total) ** 2
    budget = max(error, _rounding(core)) ** 2
    inside, tails = unit, np.zeros(())
    for n in range(core.ndim):
        inside = np.cumsum(inside, axis=n)
        slices = unit.sum(axis=tuple(m for m in range(core.ndim) if m != n))
        # Without the cancellation of 1 - inside, an upper bound: what the modes leave out, one by one.
        tail = np.append(np.cumsum(slices[::-1])[::-1][1:], 0.0)
        tails = np.add.outer(tails, tail)
    left_out = np.minimum(tails, np.maximum(1.0 - inside, 0.0) + 1e-14)
    sizes = [np.arange(1, size + 1, dtype=float) for size in core.shape]
    parameters = np.ones(())
    for size in sizes:
        parameters = np.multiply.outer(parameters, size)
    for n, (size, basis) in enumerate(zip(sizes, bases, strict=True)):
        parameters = parameters + (len(basis) * size).reshape([-1 if m == n else 1 for m in range(core.ndim)])
    parameters = np.where(left_out <= budget, parameters, np.inf)
    ranks = tuple(int(place) + 1 for place in np.unravel_index(int(np.argmin(parameters)), core.shape))
    corner = tuple(map(slice, ranks))
    rest = core.copy()
    rest[corner] = 0.0
    return core[corner], [basis[:, :rank] for basis, rank in zip(bases, ranks, strict=True)], norm(rest) / total


def rounded_train(cores: Sequence[Array], error: float) -> tuple[list[Array], float]:
    """Cores and relative error of a train, cut bond by bond within `error`."""
    cores = orthogonal_train(cores, 0)
    total = norm(cores[0])
    if total == 0.0:
        return [np.zeros((1, core.shape[1], 1), dtype=core.dtype) for core in cores], 0.0
    limit = max(error, _rounding(cores[0])) * total
    spent: list[float] = []
    for n in range(len(cores) - 1):
        left, size, right = cores[n].shape
        u, s, vh = np.linalg.svd(cores[n].reshape(left * size, right), full_matrices=False)
        available = math.sqrt(max(limit**2 - math.fsum(e**2 for e in spent), 0.0) / (len(cores) - 1 - n))
        # tails[r]: what is left out with r singular values.
        tails = np.sqrt(np.append(np.cumsum((s.astype(np.float64) ** 2)[::-1])[::-1], 0.0))
        rank = max(1, int(np.argmax(tails <= available)))
        spent.append(float(tails[rank]))
        cores[n] = u[:, :rank].reshape(left, size, rank)
        cores[n + 1] = np.einsum("ab,bic->aic", s[:rank, None] * vh[:rank], cores[n + 1])
    return cores, math.hypot(*spent) / total


def _rounding(array: Array) -> float:
    """Relative error of the arithmetic: what is smaller cannot be told from zero."""
    return 4.0 * float(np.finfo(array.dtype).eps) * math.sqrt(array.size)
