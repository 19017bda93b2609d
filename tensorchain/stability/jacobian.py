"""The Jacobian J of X(theta), its singular values and right singular vectors modulo gauge.

Two observations make it cheap.

**Tall blocks are compressed.**  With B_k = Q R (Q of size I_k x P_k with orthonormal columns) the model equals
the small one with blocks R, in rotated coordinates.  A change of B_k outside the range of Q moves X by what
is orthogonal to everything else, so the spectrum of J is that of the small model and, I_k - P_k times, the square
roots of the eigenvalues of the Gram M_k.

**Gram first.**  The eigenvalues of J^H J give the singular values down to sqrt(eps) of the largest.  Where
the smallest comes near that, and the compressed tensor is small enough, J itself is formed and factorised,
which gives them down to eps.

Gauge directions are null vectors of J.  The g smallest singular values are left out, with g the gauge
dimension; if another one is zero too, X does not determine the blocks: not identifiable.

**Entries that are missing, or weigh more.**  W^(1/2) J takes the place of J, W being the weights.  Every row of a block
sees its own entries, so nothing is compressed; J^H W J is that of the data class, in memory for n^2 numbers and a pass
over the entries, and where few entries are observed J is formed at these.

Reference for the compression: Dewaele, Breiding, Vannieuwenhoven, "The condition number of many tensor
decompositions is invariant under Tucker compression" (2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy

from tensorchain.kernels import Array, contract
from tensorchain.models import Model
from tensorchain.models.network import MODE_LETTERS
from tensorchain.tensors import Tensor

_TRUSTED = 1e-10
"""Ratio of eigenvalues of J^H J down to which they are taken: their relative error is then below 1e-4."""
_EXPLICIT = 1 << 22
"""Most entries of J for which it is formed (32 MB in double)."""
_EPS = float(np.finfo(float).eps)
DENSE_LIMIT = 4000
"""Most parameters, after compression, for which J^H J is factorised (128 MB in double, a minute)."""


@dataclass(frozen=True)
class Compressed:
    """A model written as small blocks times orthonormal bases, B_k = bases[k] @ small.matrices[k].

    Attributes
    ----------
    small : Model
        The model with blocks (c_k, P_k), c_k = min(I_k, P_k).
    bases : tuple of ndarray or None
        (I_k, c_k), or None where the block is not tall and was left as it is.
    """

    small: Model
    bases: tuple[Array | None, ...]

    def outside(self, k: int) -> int:
        """Dimension I_k - c_k of the complement of the range of block k."""
        basis = self.bases[k]
        return 0 if basis is None else basis.shape[0] - basis.shape[1]


def compress(model: Model) -> Compressed:
    """QR decomposition of every block with more rows than columns."""
    matrices: list[Array] = []
    bases: list[Array | None] = []
    for matrix in model.matrices:
        if matrix.shape[0] > matrix.shape[1]:
            basis, small = scipy.linalg.qr(matrix, mode="economic", check_finite=False)
            matrices.append(small)
            bases.append(basis)
        else:
            matrices.append(matrix)
            bases.append(None)
    return Compressed(model.with_matrices(matrices), tuple(bases))


@dataclass(frozen=True)
class Spectrum:
    """Singular values of J, decreasing, gauge left out.

    Attributes
    ----------
    values : ndarray
        (n - g,); those below the rounding level are zero.
    vectors : ndarray or None
        Right singular vectors (n, n - g) in the same order, or None if not asked for.
    """

    values: Array
    vectors: Array | None

    @property
    def identifiable(self) -> bool:
        """Whether nothing but the gauge leaves X unchanged."""
        return bool(self.values.size and self.values[-1] > 0.0)


def spectrum(model: Model, gauge: int, *, taper: Array | None = None, vectors: bool = False) -> Spectrum:
    """Singular values of J, or of J (I - W W^H), without the `gauge` smallest.

    Parameters
    ----------
    model : Model
        Compressed, in double precision and of moderate scale.
    gauge : int
        Dimension g of the gauge orbit.
    taper : ndarray, optional
        W (n, r), as above; None for J itself.
    """
    count = model.n_parameters
    gauge = min(gauge, count)
    if count > DENSE_LIMIT:
        raise ValueError(
            f"the model has {count} parameters after compression; its Jacobian is factorised for at most "
            f"{DENSE_LIMIT}: analyse a model of lower rank, or use worst_direction and expected_error"
        )
    squares, basis = _eigen(_tapered(model.gauss_newton(), taper), vectors)
    # From large to small, gauge left out.
    squares = squares[::-1][: count - gauge]
    basis = basis if basis is None else basis[:, ::-1][:, : count - gauge]
    top = float(squares[0]) if squares.size else 0.0
    if squares.size and squares[-1] > _TRUSTED * top > 0.0:
        return Spectrum(np.sqrt(squares), basis)
    if math.prod(model.shape) * count <= _EXPLICIT:
        return _explicit_spectrum(model, gauge, taper, vectors)
    floor = count * _EPS * top
    return Spectrum(np.sqrt(np.where(squares > floor, squares, 0.0)), basis)


def observed_values(model: Model, tensor: Tensor, gauge: int, *, taper: Array | None = None) -> Array:
    """Singular values of W^(1/2) J, or of W^(1/2) J (I - V V^H), decreasing, without the `gauge` smallest.

    Parameters
    ----------
    model : Model
        In double precision and of moderate scale; not compressed.
    tensor : Tensor
        Whose entries are observed with the weights W.
    gauge, taper : int or ndarray
        As in `spectrum`.
    """
    count = model.n_parameters
    if count > DENSE_LIMIT:
        raise ValueError(
            f"the model has {count} parameters; its Jacobian at the observed entries is factorised for at most "
            f"{DENSE_LIMIT}: analyse a model of lower rank, or the model alone, without the tensor"
        )
    listed = tensor.observed_entries() if tensor.n_observed * count <= _EXPLICIT else None
    if listed is not None:
        matrix = jacobian_at(model, *listed)
        matrix = matrix if taper is None else matrix - (matrix @ taper) @ taper.conj().T
        values = scipy.linalg.svd(matrix, compute_uv=False, check_finite=False)
        values = np.where(values > max(matrix.shape) * _EPS * values[0], values, 0.0)
        return np.concatenate([values, np.zeros(count - len(values))])[: count - min(gauge, count)]
    # At least the upper triangle is there.
    upper = np.triu(tensor.gauss_newton(model))
    gram = upper + np.triu(upper, 1).conj().T
    squares = _eigen(_tapered(gram, taper), False)[0][::-1][: count - min(gauge, count)]
    top = float(squares[0]) if squares.size else 0.0
    return np.asarray(np.sqrt(np.where(squares > count * _EPS * top, squares, 0.0)))


def _tapered(gram: Array, taper: Array | None) -> Array:
    """(I - W W^H) J^H J (I - W W^H)."""
    if taper is None:
        return gram
    gram = gram - taper @ (taper.conj().T @ gram)
    return np.asarray(gram - (gram @ taper) @ taper.conj().T)


def _eigen(gram: Array, vectors: bool) -> tuple[Array, Array | None]:
    if not vectors:
        return np.asarray(scipy.linalg.eigh(gram, eigvals_only=True, check_finite=False)), None
    values, basis = scipy.linalg.eigh(gram, check_finite=False)
    return values, basis


def _explicit_spectrum(model: Model, gauge: int, taper: Array | None, vectors: bool) -> Spectrum:
    """The same from J itself, accurate to eps of the largest singular value."""
    matrix = jacobian(model)
    rows, count = matrix.shape
    if taper is not None:
        matrix = matrix - (matrix @ taper) @ taper.conj().T
    if rows > count:
        matrix = scipy.linalg.qr(matrix, mode="r", check_finite=False)[0][:count]
    basis: Array | None = None
    if vectors:
        _, values, rotation = scipy.linalg.svd(matrix, full_matrices=True, check_finite=False)
        basis = rotation.conj().T[:, : count - gauge]
    else:
        values = scipy.linalg.svd(matrix, compute_uv=False, check_finite=False)
    floor = max(rows, count) * _EPS * values[0]
    values = np.where(values > floor, values, 0.0)
    # A wide J has count - rows null vectors that the decomposition does not list.
    values = np.concatenate([values, np.zeros(count - len(values))])[: count - gauge]
    return Spectrum(values, basis)


def design(model: Model, k: int) -> Array:
    """L_k without the identity over I_k: (I_1, ..., I_N without the mode of block k, P_k)."""
    network = model.network
    mode = network.modes[k]
    others = "".join(letter for n, letter in enumerate(network.output) if n != mode)
    pieces = []
    for t, term in enumerate(network.terms):
        labels, operands = [], []
        for m, operand in enumerate(model.operands(t)):
            if m == k:
                continue
            carried = network.modes[m]
            labels.append(term.bonds[m] if carried is None else MODE_LETTERS[carried] + term.bonds[m])
            operands.append(operand[0] if carried is None else operand)
        value = contract(",".join(labels) + "->" + others + term.bonds[k], *operands)
        pieces.append(value.reshape(*value.shape[: len(others)], -1))
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=-1)


def jacobian(model: Model) -> Array:
    """J as a matrix (I_1 ... I_N, n), blocks in matrix form flattened row by row.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.stability.jacobian import jacobian
    >>> jacobian(tc.CP([3.0 * np.ones((1, 1)), 4.0 * np.ones((1, 1))]))
    array([[4., 3.]])
    """
    strips = []
    for k, matrix in enumerate(model.matrices):
        mode = model.network.modes[k]
        values = design(model, k)
        if mode is None:
            strips.append(values.reshape(-1, matrix.size))
            continue
        rows = matrix.shape[0]
        strip = np.zeros((*model.shape, *matrix.shape), dtype=values.dtype)
        # X[.., i, ..] depends on row i of B_k alone.
        view = np.moveaxis(strip, mode, 0)
        for i in range(rows):
            view[i, ..., i, :] = values
        strips.append(strip.reshape(-1, matrix.size))
    return np.concatenate(strips, axis=1)


def jacobian_at(model: Model, positions: Array, weights: Array) -> Array:
    """W^(1/2) J at some entries, (Z, n).

    Parameters
    ----------
    model : Model
        Any model.
    positions : ndarray
        (Z, N), from 0.
    weights : ndarray
        (Z,).

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.stability.jacobian import jacobian_at
    >>> jacobian_at(tc.CP([3.0 * np.ones((1, 1)), 4.0 * np.ones((1, 1))]), np.zeros((1, 2), int), np.array([0.25]))
    array([[2. , 1.5]])
    """
    strips = []
    for k, matrix in enumerate(model.matrices):
        rows, mode = model.design_rows(k, positions), model.network.modes[k]
        strip = np.zeros((len(rows), *matrix.shape), dtype=rows.dtype)
        strip[np.arange(len(rows)), 0 if mode is None else positions[:, mode]] = rows
        strips.append(strip.reshape(len(rows), -1))
    return np.asarray(np.sqrt(weights)[:, None] * np.concatenate(strips, axis=1))


def outside_spectrum(compressed: Compressed, k: int) -> Spectrum:
    """Singular values of J for changes of block k outside its range, (P_k,), and its right singular vectors.

    Each of them counts `compressed.outside(k)` times; there are none when the block is not tall.
    """
    small = compressed.small
    width = small.matrices[k].shape[1]
    if not compressed.outside(k):
        return Spectrum(np.zeros(0), np.zeros((width, 0)))
    squares, basis = scipy.linalg.eigh(small.gram(k), check_finite=False)
    squares, basis = squares[::-1], basis[:, ::-1]
    top = float(squares[0])
    if squares[-1] > _TRUSTED * top:
        return Spectrum(np.sqrt(squares), basis)
    if math.prod(small.shape) * width > _EXPLICIT:
        return Spectrum(np.sqrt(np.where(squares > width * _EPS * top, squares, 0.0)), basis)
    matrix = design(small, k).reshape(-1, width)
    _, values, rotation = scipy.linalg.svd(matrix, full_matrices=len(matrix) < width, check_finite=False)
    values = np.where(values > width * _EPS * values[0], values, 0.0)
    return Spectrum(np.concatenate([values, np.zeros(width - len(values))]), rotation.conj().T)
