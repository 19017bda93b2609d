"""Refit a replaced layer to the outputs of the original one, from second moments that are collected batch by batch.

**The problem.**  A compressed network gives its layer the inputs x; the original network gave the outputs y at the same
image and position.  The layer is linear, so the best weights W and bias b are those of

    minimise   mean |y - W x - b|^2  +  ridge * v ||W - W0||_F^2,       v = mean variance of an input,

where W0 are the weights before.  It is solved layer by layer in the order of execution; each layer then also repairs
what the layers before it have changed.

**Streaming.**  All that the problem needs of the data are the means of x and y and the centred sums

    S_xx = sum (x - mx)(x - mx)',     S_xy = sum (x - mx)(y - my)',     S_yy = sum |y - my|^2,

p x p, p x T and a number, however many images there are.  Two batches of n and m rows, whose means differ by d_x and
d_y, have together S_xx = S_xx(1) + S_xx(2) + d_x d_x' n m / (n + m), and the others alike (Chan, Golub, LeVeque): no
digits are lost where the means are large.  Then b = my - W mx, and W solves

    (S_xx + ridge v n) (W - W0)' = S_xy - S_xx W0'.

**Which x.**  With x the inputs of the last pointwise layer, `refit_last` refits this one.  With x the patches that the
whole layer sees, :mod:`tensorchain.compression.refit_factors` refits all small convolutions from the same moments.

Cost: p^2 + p T multiplications for each row, and p^3 / 3 for the solution.

References: Chan, Golub, LeVeque, "Algorithms for computing the sample variance" (1983), for the sums; He, Zhang, Sun,
"Channel pruning for accelerating very deep neural networks" (2017), for least squares against the original's outputs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import scipy

from tensorchain.compression.conv import Convolution, LayerPlan
from tensorchain.kernels import Array

RIDGE = 1e-3
"""Weight of the change of the weights, relative to the mean variance of an input."""
MOST_INPUTS = 6000
"""Longest patch p whose layer is refitted: its moments take 8 p^2 bytes, 290 MB."""
_FLOOR = 1e-9
"""Least ridge: where the matrix is singular, rounding of 1e-16 in the right side stays below 1e-7 in the result."""
_BLOCK = 1 << 21
"""Most numbers that are converted to double precision at once."""


class Moments:
    """Means and centred second moments of inputs and targets, summed over batches in double precision.

    Parameters
    ----------
    inputs, targets : int
        Length p of an input and T of a target.

    Attributes
    ----------
    count : int
        Rows seen.
    input_mean, target_mean : ndarray (p,), (T,)
    square, cross : ndarray (p, p), (p, T)
        Centred sums S_xx and S_xy.
    energy : float
        Centred sum S_yy.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((50, 3))
    >>> moments = Moments(3, 2)
    >>> for batch in (x[:20], x[20:]):
    ...     moments.add(batch, batch @ np.ones((3, 2)) + 5.0)
    >>> weight, bias = moments.least_squares(np.zeros((2, 3)), ridge=0.0)
    >>> np.allclose(weight, 1.0), np.allclose(bias, 5.0), moments.count
    (True, True, 50)
    """

    def __init__(self, inputs: int, targets: int) -> None:
        self.count = 0
        self.input_mean, self.target_mean = np.zeros(inputs), np.zeros(targets)
        self.square, self.cross = np.zeros((inputs, inputs)), np.zeros((inputs, targets))
        self.energy = 0.0

    def add(self, inputs: Array, targets: Array) -> None:
        """Take in a batch.

        Parameters
        ----------
        inputs, targets : ndarray (Z, p), (Z, T)
            Real, of any precision.

        Raises
        ------
        ValueError
            When the shapes do not fit, or an entry is not finite.

        Examples
        --------
        >>> import numpy as np
        >>> from tensorchain.compression import Moments
        >>> moments = Moments(1, 1)
        >>> moments.add(np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [3.0], [5.0]]))
        >>> moments.count
        3
        """
        expected = len(self.input_mean), len(self.target_mean)
        if inputs.ndim != 2 or targets.ndim != 2 or len(inputs) != len(targets):
            raise ValueError(f"inputs {inputs.shape} and targets {targets.shape} were given; rows in pairs are needed")
        if (inputs.shape[1], targets.shape[1]) != expected:
            raise ValueError(f"rows of {inputs.shape[1]} and {targets.shape[1]} numbers were given, not {expected}")
        rows = max(1, _BLOCK // sum(expected))
        for start in range(0, len(inputs), rows):
            here = slice(start, start + rows)
            self._add(inputs[here].astype(np.float64), targets[here].astype(np.float64))

    def _add(self, x: Array, y: Array) -> None:
        x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
        if not (np.isfinite(x_mean).all() and np.isfinite(y_mean).all()):
            raise ValueError(
                "inputs or targets hold NaN or infinity; give calibration inputs that the network can take"
            )
        x, y = x - x_mean, y - y_mean
        self.merge(len(x), x_mean, y_mean, square=x.T @ x, cross=x.T @ y, energy=float(np.vdot(y, y)))

    def merge(
        self, count: int, input_mean: Array, target_mean: Array, *, square: Array, cross: Array, energy: float
    ) -> None:
        """Take in the moments of further rows, one or more, made elsewhere; the parameters are as the attributes.

        Parameters
        ----------
        count : int
            Rows.
        input_mean : ndarray
            (p,).
        target_mean : ndarray
            (T,).
        square : ndarray
            (p, p).
        cross : ndarray
            (T, p).
        energy : float
            Of the targets.
        """
        if not (np.isfinite(input_mean).all() and np.isfinite(target_mean).all()):
            raise ValueError(
                "inputs or targets hold NaN or infinity; give calibration inputs that the network can take"
            )
        x_step, y_step = input_mean - self.input_mean, target_mean - self.target_mean
        total = self.count + count
        weight = self.count * count / total
        self.square += square + weight * np.outer(x_step, x_step)
        self.cross += cross + weight * np.outer(x_step, y_step)
        self.energy += energy + weight * float(y_step @ y_step)
        self.input_mean += x_step * (count / total)
        self.target_mean += y_step * (count / total)
        self.count = total

    def aimed(self, rows: Iterable[tuple[Array, Array]]) -> Moments:
        """The moments of the same inputs with other targets.

        Parameters
        ----------
        rows : iterable of tuple of (ndarray, ndarray)
            Inputs (Z, p), all of those that were added, and the new targets (Z, T).

        Returns
        -------
        Moments

        Examples
        --------
        >>> import numpy as np
        >>> from tensorchain.compression import Moments
        >>> x, moments = np.array([[0.0], [1.0], [2.0]]), Moments(1, 1)
        >>> moments.add(x, x)
        >>> moments.aimed([(x, 3.0 * x + 1.0)]).relative_error(np.array([[3.0]]))
        0.0
        """
        found = copy.copy(self)
        found.cross, total = np.zeros_like(self.cross), np.zeros_like(self.target_mean)
        squares = 0.0
        # Targets are taken from the old mean, so that no digits are lost where it is large.
        for inputs, targets in rows:
            x, step = inputs - self.input_mean, targets.astype(np.float64) - self.target_mean
            found.cross += x.T @ step
            total += step.sum(axis=0)
            squares += float(np.vdot(step, step))
        found.target_mean = self.target_mean + total / max(self.count, 1)
        found.energy = max(squares - float(total @ total) / max(self.count, 1), 0.0)
        return found

    @property
    def covariance(self) -> Array:
        """S_xx / n, (p, p)."""
        return self.square / max(self.count, 1)

    @property
    def cross_covariance(self) -> Array:
        """S_xy / n, (p, T)."""
        return self.cross / max(self.count, 1)

    def best_bias(self, weight: Array) -> Array:
        """my - W mx, the best bias (T,) beside weights (T, p).

        Parameters
        ----------
        weight : ndarray
            (T, p).

        Returns
        -------
        ndarray
            (T,).
        """
        return np.asarray(self.target_mean - weight @ self.input_mean)

    def relative_error(self, weight: Array, bias: Array | None = None) -> float:
        """Root of the mean of |y - W x - b|^2, relative to that of |y - my|^2.

        Parameters
        ----------
        weight : ndarray (T, p)
        bias : ndarray (T,), optional
            The best one when not given.

        Returns
        -------
        float
            0 where the targets do not vary and are met.

        Examples
        --------
        >>> import numpy as np
        >>> from tensorchain.compression import Moments
        >>> moments = Moments(1, 1)
        >>> moments.add(np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [3.0], [5.0]]))
        >>> moments.relative_error(np.array([[2.0]]))
        0.0
        """
        weight = weight.astype(np.float64)
        left = self.energy - 2.0 * float(np.sum(weight.T * self.cross)) + float(np.sum((weight @ self.square) * weight))
        # What cancels to less than its rounding error is no error.
        left = max(left, 0.0)
        if bias is not None:
            left += self.count * float(np.sum((self.best_bias(weight) - bias) ** 2))
        if left == 0.0:
            return 0.0
        return math.sqrt(left / self.energy) if self.energy > 0.0 else math.inf

    def least_squares(self, weight: Array, *, ridge: float = RIDGE) -> tuple[Array, Array]:
        """The best weights near given ones, and the best bias.

        Parameters
        ----------
        weight : ndarray (T, p)
            W0; inputs that never vary, or never by themselves, leave their part of it as it is.
        ridge : float
            Weight of ||W - W0||^2 relative to the mean variance of an input.

        Returns
        -------
        tuple of (ndarray, ndarray)
            Weight, bias : ndarray (T, p), (T,).

        Raises
        ------
        ValueError
            When no row was added, or `ridge` is negative.

        Examples
        --------
        >>> import numpy as np
        >>> from tensorchain.compression import Moments
        >>> moments = Moments(1, 1)
        >>> moments.add(np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [3.0], [5.0]]))
        >>> weight, bias = moments.least_squares(np.zeros((1, 1)), ridge=1e-12)
        >>> bool(np.allclose([weight[0, 0], bias[0]], [2.0, 1.0]))
        True
        """
        if not ridge >= 0.0:
            raise ValueError(f"ridge is {ridge!r}; a number >= 0 is needed")
        if self.count == 0:
            raise ValueError("no calibration row was seen; give one batch of inputs or more")
        weight = weight.astype(np.float64)
        gap = self.cross - self.square @ weight.T
        weight = weight + solve_positive(self.square, gap, ridge).T
        return weight, self.best_bias(weight)


def solve_positive(square: Array, right: Array, ridge: float = 0.0) -> Array:
    """(square + ridge v)^{-1} right, for a positive semidefinite matrix whose mean diagonal entry is v.

    Directions in which the matrix is zero to rounding get no part of the solution that rounding would blow up.

    Parameters
    ----------
    square, right : ndarray (p, p), (p, T)
    ridge : float

    Returns
    -------
    ndarray
        (p, T).

    Examples
    --------
    >>> import numpy as np
    >>> solve_positive(np.diag([2.0, 0.0]), np.array([[4.0], [0.0]]))[:, 0].round(6).tolist()
    [2.0, 0.0]
    """
    mean = float(np.trace(square)) / max(len(square), 1)
    if not mean > 0.0:
        return np.zeros(right.shape)
    damped = square + max(ridge, _FLOOR) * mean * np.eye(len(square))
    return np.asarray(scipy.linalg.cho_solve(scipy.linalg.cho_factor(damped, lower=True), right))


def refit_last(plan: LayerPlan, moments: Moments, *, ridge: float = RIDGE) -> LayerPlan:
    """The plan with new weights and a new bias in its last convolution, which has to be pointwise.

    Parameters
    ----------
    plan : LayerPlan
    moments : Moments
        Of the inputs of the last convolution in the compressed network, and of the outputs of the original layer.
    ridge : float
        As in `Moments.least_squares`.

    Returns
    -------
    LayerPlan
        In the dtype of `plan`.

    Raises
    ------
    ValueError
        When the last convolution is not pointwise, or does not fit the moments.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.compression import fit_kernel
    >>> rng = np.random.default_rng(0)
    >>> kernel = rng.standard_normal((6, 4, 1, 1))
    >>> plan = fit_kernel(kernel, "svd", 2).plan
    >>> x = rng.standard_normal((200, 4)) * [3.0, 1.0, 1.0, 0.1]
    >>> first = plan.convolutions[0].weight[:, :, 0, 0]
    >>> moments = Moments(2, 6)
    >>> moments.add(x @ first.T, x @ kernel[:, :, 0, 0].T + 1.0)
    >>> better = refit_last(plan, moments)
    >>> last = better.convolutions[-1]
    >>> moments.relative_error(last.weight[:, :, 0, 0], last.bias) < moments.relative_error(
    ...     plan.convolutions[-1].weight[:, :, 0, 0])
    True
    """
    last = plan.convolutions[-1]
    if last.window != (1, 1) or last.groups != 1:
        raise ValueError(
            f"the last convolution has {last.window} taps and {last.groups} groups; 1 x 1 and 1 are needed"
        )
    weight, bias = moments.least_squares(last.weight[:, :, 0, 0], ridge=ridge)
    return with_last(plan, weight, bias)


def with_last(plan: LayerPlan, weight: Array, bias: Array) -> LayerPlan:
    """The plan with weights (T, p) and a bias (T,) in its last, pointwise convolution."""
    last = plan.convolutions[-1]
    dtype = last.weight.dtype
    new = replace(last, weight=weight.reshape(last.weight.shape).astype(dtype), bias=bias.astype(dtype))
    steps = list(plan.steps)
    steps[max(k for k, step in enumerate(steps) if isinstance(step, Convolution))] = new
    return replace(plan, steps=tuple(steps))
