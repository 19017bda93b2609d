"""The rank of a matrix by empirical variational Bayes: how many components stand out of the noise.

An L x M matrix (L <= M) is modelled as B A' plus
Gaussian noise of variance v, with Gaussian priors on the columns of A and B, whose variances are learnt.  The minimum
of the variational free energy is known in closed form: it keeps the singular value s exactly if x = s^2 / (M v) is
above

    x_ = (1 + tau_)(1 + alpha / tau_),   alpha = L / M,   tau_ the root of  phi(tau) + phi(tau / alpha),
    phi(z) = log(1 + z) / z - 1/2,

and shrinks it to (s/2)(1 - (L + M) v / s^2 + sqrt((1 - (L + M) v / s^2)^2 - 4 L M v^2 / s^4)).  The noise variance
minimises the free energy, a function of one variable that is searched over the interval that holds the minimum.

Reference: Nakajima, Sugiyama, Babacan, Tomioka, "Global analytic solution of fully-observed variational Bayesian matrix
factorization" (2013), theorems 2 to 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tensorchain.kernels.linalg import Array


@dataclass(frozen=True)
class VariationalRank:
    """Solution of EVBMF.

    Attributes
    ----------
    rank : int
        Components kept.
    singular_values : ndarray
        Shrunken singular values of the components kept.
    noise : float
        Variance v of the noise.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain import compression
    >>> compression.evbmf(np.diag([3.0, 2.0, 0.0]) + 1e-3).rank <= 3
    True
    """

    rank: int
    singular_values: Array
    noise: float


def evbmf(matrix: Array, noise: float | None = None) -> VariationalRank:
    """The rank of a matrix by empirical variational Bayes.

    Parameters
    ----------
    matrix : ndarray
        (L, M), real.
    noise : float, optional
        Variance of the noise; estimated when None.

    Returns
    -------
    VariationalRank
        Rank, singular values and noise.

    Raises
    ------
    ValueError
        When the matrix has no entry, or holds NaN or infinity, or `noise` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> signal = rng.standard_normal((40, 3)) @ rng.standard_normal((3, 60))
    >>> evbmf(signal + 0.5 * rng.standard_normal((40, 60))).rank
    3
    """
    if matrix.ndim != 2 or matrix.size == 0 or not np.isfinite(matrix).all():
        raise ValueError(f"a finite matrix is needed, an array of shape {matrix.shape} was given")
    if noise is not None and not noise > 0.0:
        raise ValueError(f"noise is {noise!r}; a positive variance, or None, is needed")
    singular = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    return evbmf_of_values(singular, max(matrix.shape), noise)


def evbmf_of_values(singular: Array, columns: int, noise: float | None = None) -> VariationalRank:
    """The same from singular values, decreasing, of a matrix of the longer side `columns`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> matrix = np.outer(np.ones(20), np.ones(30)) + 0.1 * rng.standard_normal((20, 30))
    >>> evbmf_of_values(np.linalg.svd(matrix, compute_uv=False), 30).rank
    1
    """
    rows, top = len(singular), float(singular[0])
    if top == 0.0:
        return VariationalRank(0, np.empty(0), 0.0 if noise is None else noise)
    # In units of the largest singular value, so that nothing overflows.
    scaled = singular / top
    ratio = rows / columns
    threshold = kept_above(ratio)
    variance = _noise(scaled, rows, columns, threshold) if noise is None else noise / top / top
    keep = scaled**2 > columns * variance * threshold
    kept = scaled[keep]
    share = variance / kept**2
    inner = 1.0 - (rows + columns) * share
    shrunken = 0.5 * kept * (inner + np.sqrt(inner**2 - 4.0 * rows * columns * share**2))
    return VariationalRank(int(keep.sum()), shrunken * top, variance * top * top)


def kept_above(ratio: float) -> float:
    """x_, the threshold on s^2 / (M v), for L / M = ratio.

    Examples
    --------
    >>> round(kept_above(1.0), 4)
    4.9107
    """
    import scipy.optimize

    tau = scipy.optimize.brentq(lambda value: _phi(value) + _phi(value / ratio), 1e-9 * ratio, 10.0)
    return float((1.0 + tau) * (1.0 + ratio / tau))


def _phi(z: float) -> float:
    return math.log1p(z) / z - 0.5


def _noise(singular: Array, rows: int, columns: int, threshold: float) -> float:
    """The variance of least free energy."""
    ratio = rows / columns
    squares = singular**2
    # At most this many components can be kept (theorem 5), so the others bound the noise from below.
    most = min(math.ceil(rows / (1.0 + ratio)) - 1, rows - 1)
    upper = float(squares.sum()) / (rows * columns)
    lower = max(float(squares[most]) / (columns * threshold), float(squares[most:].mean()) / columns)
    # A matrix of low rank has no noise; then rounding is the noise, M eps in a singular value of 1.
    lower = min(max(lower, columns * np.finfo(np.float64).eps ** 2), upper)
    grid = np.geomspace(lower, upper, 200) if upper > lower else np.array([upper])
    energies = [_free_energy(value, squares, columns, ratio, threshold) for value in grid]
    at = int(np.argmin(energies))
    left, right = grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)]
    if not right > left:
        return float(grid[at])
    import scipy.optimize

    found = scipy.optimize.minimize_scalar(
        lambda log: _free_energy(math.exp(log), squares, columns, ratio, threshold),
        bounds=(math.log(left), math.log(right)),
        method="bounded",
    )
    return math.exp(found.x) if found.fun < energies[at] else float(grid[at])


def _free_energy(noise: float, squares: Array, columns: int, ratio: float, threshold: float) -> float:
    """Free energy of the noise variance, up to constants and the factor M / 2 (theorem 4)."""
    x = np.maximum(squares / (columns * noise), 1e-300)
    kept = x[x > threshold]
    shifted = kept - (1.0 + ratio)
    tau = 0.5 * (shifted + np.sqrt(shifted**2 - 4.0 * ratio))
    gain = np.log((tau + 1.0) / kept) + ratio * np.log(tau / ratio + 1.0) - tau
    # x - log x for every component; the part of it that depends on the noise is kept.
    rest = x[x <= threshold]
    return float(np.sum(rest - np.log(rest)) + np.sum(kept + gain))
