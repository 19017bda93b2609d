"""The error of a layer's output, from the covariance of its input patches.

A convolution is linear in the patch x (S D1 D2 numbers) that it sees, so a change E of its kernel, unfolded as
(T, S D1 D2), changes the output by

    mean |E x|^2 = tr(E C E'),      C = mean x x',

with the mean over positions and images.  C is collected once from calibration data and then measures any change of
the kernel without running the network.

**Fitting to the output.**  Least squares in this norm is plain least squares of W C^{1/2}.  A decomposition keeps
its form only under C = C_taps (x) C_channels, so C is replaced by the product of its partial traces,
C_S (x) C_D / tr C: W is multiplied by the roots in its modes, decomposed, and the factors of these modes are
multiplied by the inverse roots.  The approximation concerns only which error is minimised; what is reported is
measured with the whole C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from tensorchain.compression.refit import solve_positive
from tensorchain.compression.walk import lowest_from
from tensorchain.kernels import Array

SHARES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0)
"""Shares of the diagonal that are tried in a covariance."""
_BEGIN = SHARES.index(1e-4)
"""The share that is tried first."""


def shrunk(covariance: Array, first: Array, second: Array) -> Array:
    """A covariance drawn towards its diagonal, as far as inputs that it has not seen ask for.

    Of fewer samples than numbers, or of many that are alike, the sample covariance has directions without variance,
    which a choice of ranks or channels would take for free.  With (1 - a) S_1 + a diag(S) from one half of the inputs,
    S of both, a rises as long as

        -log det S_1(a) - tr S_1(a)^{-1} S_2,

    the likelihood of the other half, does.  The result has the units of the numbers: where one of them is measured in
    another unit, so are its row and column.

    Parameters
    ----------
    covariance, first, second : ndarray
        (p, p), of all inputs and of each half.

    Returns
    -------
    ndarray

    Examples
    --------
    >>> import numpy as np
    >>> def least(n):
    ...     x = np.random.default_rng(0).standard_normal((2, n, 20))
    ...     halves = [part.T @ part / n for part in x]
    ...     return round(float(np.linalg.eigvalsh(shrunk(sum(halves) / 2, *halves))[0]), 1)
    >>> least(100000)
    1.0
    >>> least(12) > 0.3  # of 24 samples of 20 numbers
    True
    """
    deviation = np.sqrt(np.diagonal(covariance).clip(0.0))
    # A number that never varies has no unit, and no likelihood.
    varies = np.flatnonzero(deviation > 0.0)
    size, units = len(varies), np.outer(deviation[varies], deviation[varies])
    one, other = (half[np.ix_(varies, varies)] / units for half in (first, second))

    def unlikely(place: int) -> float:
        share = SHARES[place]
        trial = (1.0 - share) * one
        trial.flat[:: size + 1] += share
        factor, singular = scipy.linalg.lapack.dpotrf(trial, lower=1, overwrite_a=1)
        if singular:
            return math.inf
        logarithm = 2.0 * float(np.sum(np.log(np.diagonal(factor))))
        inverse, _ = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
        # Only the lower half of the inverse is there.
        trace = 2.0 * float(np.sum(np.tril(inverse, -1) * other)) + float(np.diagonal(inverse) @ np.diagonal(other))
        return logarithm + trace

    best = SHARES[lowest_from(_BEGIN, len(SHARES), unlikely) if size else 0]
    return np.asarray((1.0 - best) * covariance + best * np.diag(np.diagonal(covariance)))


@dataclass(frozen=True)
class PatchCovariance:
    """Second moments of the input patches of a layer.

    Parameters
    ----------
    matrix : ndarray
        (S D, S D), positive semidefinite; channels first, then taps.
    channels : int
        S.
    mean : ndarray or None
        (S D,), of the patches, where the moments are centred.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.random.default_rng(0).standard_normal((4, 2, 9, 9))
    >>> covariance = PatchCovariance.from_patches(images.transpose(0, 2, 3, 1).reshape(-1, 2), channels=2)
    >>> kernel = np.ones((1, 2, 1, 1))
    >>> expected = np.mean(images.sum(axis=1) ** 2)
    >>> bool(np.isclose(covariance.energy(kernel), expected))
    True
    """

    matrix: Array
    channels: int
    mean: Array | None = None

    def __post_init__(self) -> None:
        size = len(self.matrix)
        if self.matrix.shape != (size, size) or size % self.channels:
            raise ValueError(f"a covariance of shape {self.matrix.shape} does not fit {self.channels} channels")

    @classmethod
    def from_patches(cls, patches: Array, channels: int) -> PatchCovariance:
        """From patches (Z, S D), channels first.

        Parameters
        ----------
        patches : ndarray
            (Z, S D), channels first.
        channels : int
            S.

        Returns
        -------
        PatchCovariance
            Of these patches.

        Examples
        --------
        >>> import numpy as np
        >>> from tensorchain.compression import PatchCovariance
        >>> PatchCovariance.from_patches(np.eye(2), 2).channels
        2
        """
        patches = patches.astype(np.float64, copy=False)
        return cls(patches.T @ patches / len(patches), channels)

    def energy(self, kernel: Array) -> float:
        """Mean |W x|^2 over patches, for a kernel (T, S, D1, ..).

        Parameters
        ----------
        kernel : ndarray
            (T, S, D1, D2).

        Returns
        -------
        float
            Mean over the patches.

        Examples
        --------
        >>> import numpy as np
        >>> from tensorchain.compression import PatchCovariance
        >>> PatchCovariance.from_patches(np.eye(2), 2).energy(np.ones((1, 2, 1, 1)))
        1.0
        """
        rows = kernel.reshape(len(kernel), -1).astype(np.float64, copy=False)
        if rows.shape[1] != len(self.matrix):
            raise ValueError(f"a kernel of shape {kernel.shape} does not fit patches of {len(self.matrix)} numbers")
        return max(float(np.sum((rows @ self.matrix) * rows)), 0.0)

    def relative_error(self, approximation: Array, kernel: Array) -> float:
        """Error of the output relative to the output, both without bias.

        Parameters
        ----------
        approximation : ndarray
            (T, S, D1, D2).
        kernel : ndarray
            (T, S, D1, D2).

        Returns
        -------
        float
            0 for equal outputs.

        Examples
        --------
        >>> import numpy as np
        >>> from tensorchain.compression import PatchCovariance
        >>> PatchCovariance.from_patches(np.eye(2), 2).relative_error(np.zeros((1, 2, 1, 1)), np.ones((1, 2, 1, 1)))
        1.0
        """
        whole = self.energy(kernel)
        return math.sqrt(self.energy(approximation - kernel) / whole) if whole > 0.0 else 0.0

    def refitted_error(self, approximation: Array, kernel: Array) -> float:
        """Error of the output relative to the output when the last, pointwise, layer is fitted to it again.

        The outputs are then any combinations of those of the approximation X: with V = W C X' and G = X C X',

            error^2 = 1 - tr(V G^{-1} V') / tr(W C W').

        Parameters
        ----------
        approximation, kernel : ndarray
            (T, S, D1, ..).

        Returns
        -------
        float

        Raises
        ------
        ValueError
            When the kernels do not fit the patches.

        Examples
        --------
        >>> import numpy as np
        >>> covariance = PatchCovariance(np.eye(2), channels=2)
        >>> kernel = np.array([[2.0, 0.0], [0.0, 0.0]])[:, :, None, None]
        >>> covariance.refitted_error(0.5 * kernel, kernel) < covariance.relative_error(0.5 * kernel, kernel)
        True
        """
        whole = self.energy(kernel)
        if not whole > 0.0:
            return 0.0
        wanted, rows = (values.reshape(len(values), -1).astype(np.float64) for values in (kernel, approximation))
        half = rows @ self.matrix
        cross = half @ wanted.T
        gained = float(np.sum(cross * solve_positive(half @ rows.T, cross)))
        # The ridge that singular G need leaves a small error where there is none.
        return min(math.sqrt(max(1.0 - gained / whole, 0.0)), self.relative_error(approximation, kernel))

    def roots(self, floor: float = 1e-3) -> tuple[Array, Array]:
        """Symmetric roots of C_S (S, S) and C_D (D, D), each of mean eigenvalue 1.

        Parameters
        ----------
        floor : float, default 0.001
            Smallest eigenvalue, relative to the mean: directions that no patch uses stay determined.

        Returns
        -------
        tuple of (ndarray, ndarray)
            For channels and taps.

        Examples
        --------
        >>> import numpy as np
        >>> from tensorchain.compression import PatchCovariance
        >>> channels, taps = PatchCovariance.from_patches(np.eye(2), 2).roots()
        >>> channels.shape, taps.shape
        ((2, 2), (1, 1))
        """
        blocks = self.matrix.reshape(self.channels, -1, self.channels, len(self.matrix) // self.channels)
        return _root(np.einsum("sdtd->st", blocks), floor), _root(np.einsum("sdse->de", blocks), floor)


def _root(matrix: Array, floor: float) -> Array:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2.0)
    mean = float(values.mean())
    if not mean > 0.0:
        return np.eye(len(matrix))
    return np.asarray((vectors * np.sqrt(np.maximum(values / mean, floor))) @ vectors.T)
