"""Cramer-Rao bounds of the blocks: how well any unbiased estimator can do from noisy data.

For T = X(theta) + white Gaussian noise of deviation s the Fisher information is J^H J / s^2, singular along the gauge
directions.  With the gauge fixed by minimum norm (errors orthogonal to the gauge directions) the bound is

    cov(theta) >= s^2 (J^H J)^+,

the pseudo-inverse on the complement of the gauge directions.  Complex noise is circular with
E|noise|^2 = s^2, and variances are E|error|^2.

**CP.**  The angle between an estimated column and the true one does not depend on the gauge.  With P the projector
orthogonal to column a its mean square, to first order, is

    E angle^2 = tr(P cov(a) P) / ||a||^2 .

The covariance is never formed: with the singular value decomposition J = U S V^H on the complement, entry p has
variance s^2 sum_j |V[p, j]|^2 / S_j^2.  Tall blocks are compressed first (:mod:`tensorchain.stability.jacobian`);
changes outside the range of block k have covariance s^2 M_k^{-1} for each row.  Cost: n_c^3 for n_c compressed
parameters.

References: Tichavsky, Koldovsky, "Stability of CANDECOMP-PARAFAC tensor decomposition", ICASSP (2011); Tichavsky, Phan,
Koldovsky, "Cramer-Rao-induced bounds for CANDECOMP/PARAFAC tensor decomposition", IEEE TSP (2013).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tensorchain import kernels
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.stability.conditioning import is_canonical
from tensorchain.stability.jacobian import Compressed, Spectrum, compress, outside_spectrum, spectrum
from tensorchain.stability.scales import common_scale, double_precision, scalar_ldexp, takes_fits


@dataclass(frozen=True)
class CramerRaoBounds:
    """Lower bounds for unbiased estimators of the blocks, gauge fixed by minimum norm.

    Attributes
    ----------
    noise : float
        Standard deviation of the noise on each entry of the tensor.
    variances : tuple of ndarray
        For each block, in its natural shape, the variance of each entry.
    total : float
        Their sum, s^2 tr (J^H J)^+.
    angular_errors : tuple of ndarray or None
        CP only: for each factor the mean squared angle, in rad^2, between each estimated column and the true one, (R,);
        None for other models.

    Examples
    --------
    >>> import tensorchain as tc
    >>> model = tc.CP.random((5, 6, 7), 2, rng=0)
    >>> len(tc.crib(model, 0.1).variances)
    3
    """

    noise: float
    variances: tuple[Array, ...]
    total: float
    angular_errors: tuple[Array, ...] | None


@takes_fits
def crib(model: Model, noise: float) -> CramerRaoBounds:
    """Cramer-Rao bounds of the blocks under white Gaussian noise on the tensor.

    Parameters
    ----------
    model : Model
        The true decomposition, in the gauge in which the blocks are compared.
    noise : float
        Standard deviation of the noise on each entry; for complex tensors E|noise|^2 = noise^2.

    Returns
    -------
    CramerRaoBounds
        They are first order in the noise: met by a least-squares fit while noise is small.

    Raises
    ------
    TypeError
        When `model` is no model, or `noise` no number.
    ValueError
        When `noise` is negative or not finite, when X does not determine the blocks up to gauge (no unbiased estimator
        exists), or the model has more than 4000 parameters after compression of its tall blocks.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> vector = np.array([[1.0], [0.0]])
    >>> bounds = tc.crib(tc.CP([vector] * 3), 0.1)  # one rank-1 term: one free angle in each factor
    >>> [float(angle[0].round(12)) for angle in bounds.angular_errors]
    [0.01, 0.01, 0.01]
    """
    deviation = checked_noise(noise)
    unit, exponent = common_scale(double_precision(model))
    compressed = compress(unit)
    inside = spectrum(compressed.small, unit.gauge_dimension, vectors=True)
    outside = [outside_spectrum(compressed, k) for k in range(len(unit.matrices))]
    _check_identifiable(unit, inside, outside)
    # Rows of V / S: entry p of theta has variance s^2 || row p ||^2.
    assert inside.vectors is not None
    rows = inside.vectors / inside.values
    beyond = [_inverse_gram_diagonal(part) for part in outside]
    variances = _entry_variances(compressed, rows, beyond)
    # X' = X / 2^(K e), so that noise counts in units of 2^(K e), and block entries in units of 2^e.
    shift = 1 - len(unit.matrices)
    scale = scalar_ldexp(deviation, shift * exponent)
    with np.errstate(over="ignore", under="ignore"):
        scaled = [(np.sqrt(block) * scale) ** 2 for block in variances]
        angles = None
        if is_canonical(unit.network):
            angular = scalar_ldexp(scale, -exponent)
            angles = tuple((np.sqrt(value) * angular) ** 2 for value in _column_angles(compressed, rows, beyond))
    return CramerRaoBounds(
        deviation,
        tuple(unit._to_block(k, block) for k, block in enumerate(scaled)),
        float(sum(block.sum() for block in scaled)),
        angles,
    )


def _check_identifiable(unit: Model, inside: Spectrum, outside: list[Spectrum]) -> None:
    if inside.identifiable and all(part.identifiable for part in outside if part.values.size):
        return
    raise ValueError(
        f"the tensor does not determine the blocks of this {type(unit).__name__} up to its {unit.gauge_dimension} "
        "gauge directions (condition_number is infinite), so no bound exists: lower the rank, or remove blocks or "
        "components that are zero"
    )


def _parts(small: Model, rows: Array) -> Iterator[Array]:
    """The rows of V / S that belong to each block, (c_k, P_k, n - g)."""
    start = 0
    for matrix in small.matrices:
        yield rows[start : start + matrix.size].reshape(*matrix.shape, rows.shape[1])
        start += matrix.size


def _inverse_gram_diagonal(outside: Spectrum) -> Array:
    """Diagonal of M_k^{-1}, (P_k,); zeros where the block is not tall."""
    assert outside.vectors is not None
    return np.asarray(np.sum(np.abs(outside.vectors / outside.values) ** 2, axis=1))


def _entry_variances(compressed: Compressed, rows: Array, beyond: list[Array]) -> list[Array]:
    """Variances for noise of deviation one, in matrix form (I_k, P_k)."""
    result = []
    for part, basis, inverse in zip(_parts(compressed.small, rows), compressed.bases, beyond, strict=True):
        if basis is None:
            result.append(np.sum(np.abs(part) ** 2, axis=2))
            continue
        # Entry (i, p) is basis[i] . (column p of the small block).
        columns = [np.sum(np.abs(basis @ part[:, p]) ** 2, axis=1) for p in range(part.shape[1])]
        rest = 1.0 - np.sum(np.abs(basis) ** 2, axis=1)
        result.append(np.array(columns).T + np.maximum(rest, 0.0)[:, None] * inverse)
    return result


def _column_angles(compressed: Compressed, rows: Array, beyond: list[Array]) -> list[Array]:
    """tr(P cov P) / ||a||^2 of each column of each factor, for noise of deviation one."""
    result = []
    for k, part in enumerate(_parts(compressed.small, rows)):
        matrix = compressed.small.matrices[k]
        angles = np.empty(matrix.shape[1])
        for r, column in enumerate(matrix.T):
            size = kernels.norm(column)
            axis = column / size
            # The part along the column is taken out before squaring: the difference of traces would cancel.
            across = part[:, r] - np.outer(axis, axis.conj() @ part[:, r])
            angles[r] = (np.sum(np.abs(across) ** 2) + compressed.outside(k) * beyond[k][r]) / size**2
        result.append(angles)
    return result


def checked_noise(noise: float) -> float:
    """A finite deviation that is not negative."""
    try:
        value = float(noise)
    except (TypeError, ValueError):
        raise TypeError(f"noise is {noise!r}; a standard deviation is needed") from None
    if not (math.isfinite(value) and value >= 0.0):
        raise ValueError(f"noise is {noise!r}; a standard deviation must be finite and not negative")
    return value
