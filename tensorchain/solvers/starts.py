r"""Where to begin: random blocks, singular vectors, and for CP the algebraic solution.

**random**    independent normal entries; the whole scaled by <X, T> / <X, X>, the best multiple of it.

**svd**       what a tree gets from singular vectors is quasi-optimal: HOSVD for Tucker, TT-SVD for a chain whose first
              bond is 1.  For a loop the first unfolding splits into R_1 R_2 singular vectors and a train does the
              rest (ring SVD).  CP and block terms take leading singular vectors of each mode.

**algebraic** CP of rank R <= the sizes of two groups of modes.  T, seen as an array (a, b, c) of three groups and
              compressed to (R, R, c), has slices G_k = A diag(c_k) B^T, so for two mixtures of slices

                  G_w G_v^-1 = A diag(w^T c_r / v^T c_r) A^-1:

              the eigenvectors are A.  The rows of A^-1 T_(1) are then b_r (x) c_r, one component each, and every
              vector is the leading one of a matrix of rank one.  Exact without noise; with noise, the best of some
              mixtures is a good start.  Real tensors may have complex pairs of eigenvectors: their real and imaginary
              parts span the same plane.

All of it is cheap on the core of :mod:`tensorchain.solvers.reduction`, and made for that.

References: Leurgans, Ross, Abel, "A decomposition for three-way arrays" (1993), for the algebraic solution;
Oseledets, "Tensor-train decomposition" (2011); Zhao et al., "Tensor ring decomposition" (2016).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tensorchain.kernels import Array
from tensorchain.models import CP, Model, TensorChain, Tucker
from tensorchain.models.chain import ring_svd
from tensorchain.models.hooi import leading_vectors
from tensorchain.solvers.reduction import reduce
from tensorchain.stability.gauge import optimal_gauge
from tensorchain.tensors import Tensor

_MIXTURES = 6
"""Pairs of random mixtures of slices that are tried."""
_MOST_GROUPED = 7
"""Order up to which all groupings of modes are looked at; of longer tensors, those of neighbours."""
_POWER_STEPS = 12
_GAUGE_TOL = 1e-2


def random_start(like: Model, tensor: Tensor, rng: np.random.Generator) -> Model:
    """Independent normal entries, scaled to fit."""
    return fitted_multiple(like.random_like(rng), tensor)


def singular_start(like: Model, tensor: Tensor, rng: np.random.Generator) -> Model:
    """Singular vectors: HOSVD, TT-SVD or ring SVD, by the kind of the model."""
    kind, network = type(like), like.network
    if kind is Tucker and tensor.complete:
        reduction = reduce(tensor, network.terms[0].shapes[0], rng)
        return like.with_matrices([reduction.core.reshape(1, -1), *reduction.bases])
    if isinstance(like, TensorChain) and 1 in like.bonds:
        matrices = _train(like, tensor, rng)
    else:
        matrices = kind.svd_matrices(network, tensor, rng)
    return fitted_multiple(like.with_matrices([matrix.astype(like.dtype, copy=False) for matrix in matrices]), tensor)


def algebraic_start(like: Model, tensor: Tensor, rng: np.random.Generator) -> Model | None:
    """The algebraic solution of a CP; None for other models, and where the rank is too high for it."""
    if not isinstance(like, CP):
        return None
    factors = algebraic_factors(tensor.to_dense(), like.rank, rng)
    return None if factors is None else optimal_gauge(like.with_matrices(factors), tol=_GAUGE_TOL)


STARTS: dict[str, Callable[[Model, Tensor, np.random.Generator], Model | None]] = {
    "random": random_start,
    "svd": singular_start,
    "algebraic": algebraic_start,
}
"""Each makes a start with the wiring, shape, dtype and row counts of a model, or None where it does not apply."""


def start_by(name: str, like: Model, tensor: Tensor, rng: np.random.Generator) -> Model | None:
    """The start of that name; None where the model has none, or the data are too large to give it."""
    try:
        return STARTS[name](like, tensor, rng)
    except TypeError:
        # A data class that cannot be held in memory whole, or give the Gram of a mode, says so.
        return None


def is_tree(model: Model) -> bool:
    """Whether the wiring has no loop, so that singular vectors are quasi-optimal: Tucker, chains with a bond of 1."""
    return type(model) is Tucker or (isinstance(model, TensorChain) and 1 in model.bonds)


def fitted_multiple(model: Model, tensor: Tensor) -> Model:
    """The multiple of X that is closest to T, <X, T> / <X, X> times X, in nearly its optimal gauge."""
    size = model.norm()
    if not 0.0 < size < math.inf:
        return model
    unit = optimal_gauge(model.scaled(1.0 / size), tol=_GAUGE_TOL)
    at = tensor.evaluator(unit)
    factor = complex(np.vdot(unit.matrices[0], at.rhs(0)))
    if not tensor.complete:
        # ||X||^2 over the observed entries, from ||T - X||^2: no Gram of a core is made.
        square = at.error() ** 2 - tensor.norm() ** 2 + 2.0 * factor.real
        factor = factor / square if square > 1e-12 * tensor.norm() ** 2 else complex(0.0)
    best = factor if unit.dtype.kind == "c" else factor.real
    if abs(best) < 1e-12 * tensor.norm():
        return unit.scaled(tensor.norm())
    scaled = unit.scaled(abs(best))
    return scaled.with_matrix(0, scaled.matrices[0] * (best / abs(best)))


def _train(like: TensorChain, tensor: Tensor, rng: np.random.Generator) -> list[Array]:
    """TT-SVD from the bond of 1 on, around the loop."""
    order, first = like.order, like.bonds.index(1)
    around = [(first + n) % order for n in range(order)]
    array = tensor.to_dense().transpose(around)
    array = array.astype(np.result_type(array, np.float64), copy=False)
    cores = ring_svd(array, tuple(like.bonds[n] for n in around), rng)
    matrices = {n: core.transpose(1, 0, 2).reshape(core.shape[1], -1) for n, core in zip(around, cores, strict=True)}
    return [matrices[n] for n in range(order)]


# -- the algebraic solution -------------------------------------------------------------------


def algebraic_factors(array: Array, rank: int, rng: np.random.Generator) -> list[Array] | None:
    """Factors (I_n, R) of a CP from eigenvectors; None where no grouping of the modes has room for R components.

    Parameters
    ----------
    array : ndarray
        T, of order 3 or more.
    rank : int
        R.
    rng : numpy.random.Generator
        For mixtures of slices.
    """
    grouping = _grouping(array.shape, rank)
    if grouping is None:
        return None
    ordered = array.transpose([n for group in grouping for n in group])
    sizes = [math.prod(array.shape[n] for n in group) for group in grouping]
    core, bases = _compressed(ordered.reshape(sizes), (rank, rank, min(sizes[2], rank * rank)))
    best: tuple[float, list[Array]] | None = None
    for _ in range(_MIXTURES):
        found = _components(core, rng)
        if found is not None and (best is None or found[0] < best[0]):
            best = found
    if best is None:
        return None
    factors: dict[int, Array] = {}
    for group, basis, block in zip(grouping, bases, best[1], strict=True):
        factors.update(zip(group, _split_columns(basis @ block, [array.shape[n] for n in group]), strict=True))
    return [factors[n] for n in range(array.ndim)]


def _grouping(shape: Sequence[int], rank: int) -> tuple[tuple[int, ...], ...] | None:
    """Three groups of modes, the first two of at least R entries and the third of two, as small as can be."""
    best: tuple[int, tuple[tuple[int, ...], ...]] | None = None
    for groups in _groupings(len(shape)):
        first, second, third = (math.prod(shape[n] for n in group) for group in groups)
        fits = min(first, second) >= rank and third >= min(2, rank)
        if fits and (best is None or first * second < best[0]):
            best = (first * second, groups)
    return None if best is None else best[1]


def _groupings(order: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    if order <= _MOST_GROUPED:
        for labels in itertools.product(range(3), repeat=order):
            groups = tuple(tuple(n for n, label in enumerate(labels) if label == g) for g in range(3))
            # The first two groups may change places.
            if all(groups) and groups[0] < groups[1]:
                yield groups
        return
    for one, two in itertools.combinations(range(1, order), 2):
        parts = [tuple(range(one)), tuple(range(one, two)), tuple(range(two, order))]
        for third in range(3):
            yield (*(part for n, part in enumerate(parts) if n != third), parts[third])


def _compressed(array: Array, sizes: Sequence[int]) -> tuple[Array, list[Array]]:
    """The array (a, b, c) in bases of its leading singular vectors, and these."""
    bases = []
    for n, size in enumerate(sizes):
        unfolded = np.moveaxis(array, n, 0).reshape(array.shape[n], -1)
        basis = np.eye(len(unfolded), dtype=array.dtype) if size >= len(unfolded) else leading_vectors(unfolded, size)
        array = np.moveaxis(np.tensordot(basis.conj().T, array, axes=(1, n)), 0, n)
        bases.append(basis)
    return array, bases


def _components(core: Array, rng: np.random.Generator) -> tuple[float, list[Array]] | None:
    """Error and factors of the CP of a core (R, R, c), from one pair of mixtures; None where both are singular."""
    rank = len(core)
    one, two = (core @ rng.standard_normal(core.shape[2]) for _ in range(2))
    try:
        values, first = np.linalg.eig(np.linalg.solve(two.T, one.T).T)
        if core.dtype.kind != "c" and first.dtype.kind == "c":
            first = np.where(values.imag < 0.0, first.imag, first.real)
        first = first / np.linalg.norm(first, axis=0)
        rows = np.linalg.solve(first, core.reshape(rank, -1)).reshape(core.shape)
    except np.linalg.LinAlgError:
        return None
    if not np.isfinite(rows).all():
        return None
    second, third = _rank_one(rows)
    error = float(np.linalg.norm(core - np.einsum("ar,br,cr->abc", first, second, third, optimize=True)))
    return error, [first, second, third]


def _rank_one(matrices: Array) -> tuple[Array, Array]:
    """u and v with M_r ~ u_r v_r^T for a stack of matrices (R, b, c): (b, R) and (c, R), v_r of norm 1; power steps."""
    largest = np.argmax(np.linalg.norm(matrices, axis=2), axis=1)
    right = matrices[np.arange(len(matrices)), largest].conj()[:, :, None]
    for _ in range(_POWER_STEPS):
        right = right / np.maximum(np.linalg.norm(right, axis=1, keepdims=True), np.finfo(float).tiny)
        left = matrices @ right
        right = matrices.conj().swapaxes(1, 2) @ left
    right = right / np.maximum(np.linalg.norm(right, axis=1, keepdims=True), np.finfo(float).tiny)
    return (matrices @ right)[:, :, 0].T, right[:, :, 0].conj().T


def _split_columns(columns: Array, shape: Sequence[int]) -> list[Array]:
    """Each column of a group of modes, seen as an array of that shape, as a product of vectors."""
    factors = []
    for size in shape[:-1]:
        stack = columns.T.reshape(columns.shape[1], size, -1)
        rest, vector = _rank_one(stack.swapaxes(1, 2))
        factors.append(vector)
        columns = rest
    return [*factors, columns]
