"""What measurement does to a tensor: noise, gaps and gross errors, each of a stated amount.

Amounts are met exactly, not on average: a relative noise of 0.01 is 0.01 of the norm, and a fraction of 0.3 is
that share of the entries, to the nearest integer.  So an experiment at "1 % noise" has a floor that is known.
"""

from __future__ import annotations

import math

import numpy as np

from tensorchain.datasets._arguments import checked_generator, checked_real, gaussian
from tensorchain.kernels import Array, norm


def add_noise(tensor: Array, level: float, rng: np.random.Generator) -> Array:
    """Add Gaussian noise of a given size relative to the tensor.

    Parameters
    ----------
    tensor : ndarray
        Real or complex, of any shape.
    level : float
        ||noise|| / ||tensor||, met exactly; 20 log10(1 / level) is the signal-to-noise ratio in dB.
    rng : numpy.random.Generator
        Where the noise comes from.

    Returns
    -------
    ndarray
        A new array of the same shape and dtype (integers become float64).

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.datasets import add_noise
    >>> X = np.ones((3, 4, 5))
    >>> Y = add_noise(X, 0.1, np.random.default_rng(0))
    >>> float(np.linalg.norm(Y - X) / np.linalg.norm(X))
    0.100
    """
    clean = _floating(tensor)
    level = checked_real("level", level, 0.0)
    noise = gaussian(clean.shape, checked_generator(rng), clean.dtype)
    size = norm(noise)
    if level == 0.0 or size == 0.0:
        return clean.copy()
    return np.asarray(clean + (level * (norm(clean) / size)) * noise, dtype=clean.dtype)


def incomplete(tensor: Array, fraction: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Lose a fraction of the entries, chosen at random.

    Parameters
    ----------
    tensor : ndarray
        Real or complex, of any shape.
    fraction : float
        Share of the entries to lose, in [0, 1); the nearest whole number of entries is lost.
    rng : numpy.random.Generator
        Chooses which.

    Returns
    -------
    observed : ndarray
        A copy with NaN where an entry is lost (integers become float64).
    mask : ndarray of bool
        True where an entry is kept.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.datasets import incomplete
    >>> X, mask = incomplete(np.ones((4, 5)), 0.25, np.random.default_rng(0))
    >>> int(np.isnan(X).sum()), int(mask.sum())
    (5, 15)
    """
    observed = _floating(tensor).copy()
    fraction = checked_real("fraction", fraction, 0.0, 1.0, open_high=True)
    mask = ~_random_mask(observed.shape, fraction, checked_generator(rng))
    observed[~mask] = np.nan
    return observed, mask


def outliers(tensor: Array, fraction: float, magnitude: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Add gross errors to a fraction of the entries, chosen at random.

    Parameters
    ----------
    tensor : ndarray
        Real or complex, of any shape.
    fraction : float
        Share of the entries to hit, in [0, 1]; the nearest whole number of entries is hit.
    magnitude : float
        Size of every error in units of the root mean square of the tensor.  The sign (for complex data the phase)
        is random.
    rng : numpy.random.Generator
        Chooses where, and the signs.

    Returns
    -------
    corrupted : ndarray
        A copy with the errors added (integers become float64).
    where : ndarray of bool
        True where an error was added.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.datasets import outliers
    >>> X, where = outliers(np.ones((4, 5)), 0.1, 50.0, np.random.default_rng(0))
    >>> np.unique(np.abs(X[where] - 1.0)), int(where.sum())
    (array([50.]), 2)
    """
    corrupted = _floating(tensor).copy()
    fraction = checked_real("fraction", fraction, 0.0, 1.0)
    magnitude = checked_real("magnitude", magnitude, 0.0)
    where = _random_mask(corrupted.shape, fraction, checked_generator(rng))
    hits = int(where.sum())
    root_mean_square = norm(corrupted) / math.sqrt(max(corrupted.size, 1))
    directions: Array = rng.choice([-1.0, 1.0], size=hits)
    if corrupted.dtype.kind == "c":
        directions = np.exp(2j * np.pi * rng.random(hits))
    corrupted[where] += (magnitude * root_mean_square * directions).astype(corrupted.dtype)
    return corrupted, where


def _floating(tensor: Array) -> Array:
    """`tensor` in a dtype that holds fractions and NaN."""
    array = np.asarray(tensor)
    if array.dtype.kind in "fc":
        return array
    if array.dtype.kind in "biu":
        return array.astype(np.float64)
    raise TypeError(f"tensor has dtype {array.dtype}, but numbers are needed")


def _random_mask(shape: tuple[int, ...], fraction: float, rng: np.random.Generator) -> Array:
    """True at a random `fraction` of the positions."""
    size = math.prod(shape)
    mask = np.zeros(size, dtype=bool)
    mask[rng.choice(size, size=round(fraction * size), replace=False)] = True
    return mask.reshape(shape)
