r"""A small core that stands for the tensor: fits of many iterations cost the core, and the data are read a few times.

If the block of mode n has P_n columns and I_n > P_n, only P_n directions of that mode matter.  With orthonormal bases
U_n, (I_n, J_n), and the core G = T x_1 U_1^H ... x_N U_N^H, every model with blocks B_n = U_n B~_n has

    ||T - X||^2 = (||T||^2 - ||G||^2) + ||G - X~||^2,        B_n^H B_n = B~_n^H B~_n.

So X~, fitted to G, is X, fitted to T, and all that follows from moments is the same for both: Grams, the metrics of
the sensitivity, and SS itself once I_k is counted in the large model (`Blocks.with_row_counts`).  Nothing is lost in

    J_n = min(I_n, P_n, product of the other J),    P_n = R (CP), R_n (Tucker), R_n R_{n+1} (TC), sum of R_n (BTD)

directions if T is a model of these ranks.  If it is not, the best model of T lies near the span of the leading ones,
and is reached by a few sweeps over T from the best model of G.

**The bases** are those of a sequentially truncated higher-order SVD: the leading eigenvectors of T_(n) T_(n)^H for one
mode, T projected onto them, and so on with what is left, in the order that costs least.  Eigenvectors of a Gram have
lost the directions below 1e-8 of the largest singular value (3e-4 where sums are made in single precision): where some
may be needed, a step of subspace iteration, V <- orth(T_(n) orth(T_(n)^H V)), brings them back.

**Data that are not in memory** are read twice: one pass for the Grams of all modes but the longest, one to project
on them; what remains of the longest mode is in memory.  Where a mode is too long for its Gram (or the data give none,
as sparse data do), its directions come from products with a random CP model, and one step of HOOI.

Cost in memory: one Gram, I^(N+1) / 2 multiplications for the first mode, less for the others.

References: Vannieuwenhoven, Vandebril, Meerbergen, "A new truncation strategy for the higher-order singular value
decomposition" (2012); Bro and Andersson, "Improving the speed of multiway algorithms" (1998), for compression first;
Halko, Martinsson, Tropp, "Finding structure with randomness" (2011).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from tensorchain import kernels
from tensorchain.kernels import Array, leading_eigenpairs
from tensorchain.models import CP, Model, Network, Tucker
from tensorchain.models.hooi import leading_vectors
from tensorchain.tensors import Dense, Tensor

AnyModel = TypeVar("AnyModel", bound=Model)

_SLAB = 1 << 20
"""Entries that are copied at once where an unfolding is no view."""
_LONG = 4096
"""Size of a mode from which its Gram is not formed: 128 MB in double precision."""
_SPARE = 8
"""Columns of a random product beyond those that are asked for."""
_SHORT = 1e6
"""Multiple of the rounding below which ||T||^2 - ||G||^2, as a share of ||T||^2, has lost too many digits."""
_WIDE_SPECTRUM = (1e-4, 1e-1)
"""Ratio of the least to the largest eigenvalue below which a basis is improved: sums in double and in single precision.

The basis of a direction with singular value s is off by eps s_1^2 / s^2, and T on it by eps s_1^2 / s."""
_SPANNED = 1e-12
"""Share of a block outside of a basis that is rounding."""
_LEAST_SAVING = 2.0
"""How many times smaller than the tensor a core has to be."""


@dataclass(frozen=True)
class Reduction:
    """A tensor as a core between orthonormal bases, T ~ G x_1 U_1 ... x_N U_N.

    Attributes
    ----------
    core : ndarray
        G, (J_1, ..., J_N), in double precision.
    bases : tuple of ndarray
        U_n, (I_n, J_n), with orthonormal columns.
    norm : float
        ||T||.
    remainder : float
        ||T||^2 - ||G||^2, what no model between these bases reaches.
    """

    core: Array
    bases: tuple[Array, ...]
    norm: float
    remainder: float

    @cached_property
    def tensor(self) -> Dense:
        """The core as data for a solver."""
        return Dense(self.core)

    @cached_property
    def core_norm(self) -> float:
        """||G||."""
        return kernels.norm(self.core)

    @property
    def floor(self) -> float:
        """The least relative error of T that a model between these bases can have."""
        return math.sqrt(self.remainder) / self.norm

    def lift(self, model: AnyModel) -> AnyModel:
        """The model of T that a model of G stands for: B_n = U_n B~_n."""
        return model.with_matrices(self._each(model, lambda basis, block: basis @ block)).with_row_counts(None)

    def lower(self, model: AnyModel) -> AnyModel:
        """The model of G with blocks U_n^H B_n: the same one if the blocks lie in the span of the bases."""
        lowered = model.with_matrices(self._each(model, lambda basis, block: basis.conj().T @ block))
        return lowered.with_row_counts(self.row_counts(model.network))

    def row_counts(self, network: Network) -> tuple[int, ...]:
        """I_k of each block of a model of T."""
        return tuple(1 if mode is None else len(self.bases[mode]) for mode in network.modes)

    def error(self, core_error: float) -> float:
        """Relative error of T from that of G."""
        return math.hypot(math.sqrt(self.remainder), core_error * self.core_norm) / self.norm

    def core_error(self, error: float) -> float:
        """Relative error of G from that of T: a bound on the one is a bound on the other.

        Raises
        ------
        ValueError
            If no model between the bases has so small an error.
        """
        square = (error * self.norm) ** 2 - self.remainder
        if square < 0.0:
            raise ValueError(
                f"no model between these bases has a relative error of {error:.6g}; the least is {self.floor:.6g}: "
                "reduce to more columns, or fit to the tensor itself"
            )
        return math.sqrt(square) / self.core_norm

    def _each(self, model: Model, product: object) -> list[Array]:
        assert callable(product)
        return [
            block if mode is None else product(self.bases[mode], block)
            for mode, block in zip(model.network.modes, model.matrices, strict=True)
        ]


def reduced_shape(network: Network, shape: Sequence[int]) -> tuple[int, ...]:
    """(J_1, ..., J_N) for models of a wiring: bounds on their multilinear ranks.

    Examples
    --------
    >>> import tensorchain as tc
    >>> reduced_shape(tc.CP.wiring((100, 100, 3), 10), (100, 100, 3))
    (10, 10, 3)
    >>> reduced_shape(tc.TensorChain.wiring((50, 60, 70), (2, 3, 4)), (50, 60, 70))
    (6, 12, 8)
    """
    sizes = [min(size, network.widths[network.block_of_mode[n]]) for n, size in enumerate(shape)]
    # A rank is at most the product of the others; a mode that falls lowers the bounds of the others in turn.
    while True:
        bounded = [min(size, math.prod(sizes[:n] + sizes[n + 1 :])) for n, size in enumerate(sizes)]
        if bounded == sizes:
            return tuple(sizes)
        sizes = bounded


def worthwhile(network: Network, shape: Sequence[int]) -> bool:
    """Whether the core is so much smaller than the tensor that a fit to it costs less."""
    return _LEAST_SAVING * math.prod(reduced_shape(network, shape)) <= math.prod(shape)


def reduce(tensor: Tensor, sizes: Sequence[int], rng: np.random.Generator | None = None) -> Reduction:
    """Reduce a tensor to a core of these sizes.

    Parameters
    ----------
    tensor : Tensor
        Complete data.
    sizes : sequence of int
        (J_1, ..., J_N), as from `reduced_shape`.
    rng : numpy.random.Generator, optional
        For random products, where the data give no Grams.

    Raises
    ------
    ValueError
        For data with missing or weighted entries.

    Examples
    --------
    >>> import tensorchain as tc
    >>> model = tc.CP.random((20, 30, 40), 3, 0)
    >>> reduction = reduce(tc.Dense(model.full()), (3, 3, 3))
    >>> reduction.core.shape, reduction.floor < 1e-12
    ((3, 3, 3), True)
    """
    if not tensor.complete:
        raise ValueError(
            f"{tensor!r} has missing or weighted entries; only complete tensors have a core, fit it as it is"
        )
    array, generator = tensor.in_memory, np.random.default_rng(rng)
    found = tensor.reduced(sizes, generator) if array is None else None
    if array is not None:
        core, bases = _in_memory(array, sizes)
        core = core * tensor.scale
    elif found is not None:
        core, bases = found
    else:
        core, bases = _from_products(tensor, sizes, generator)
    norm = tensor.norm()
    remainder = max(norm**2 - kernels.norm(core) ** 2, 0.0)
    if (array is not None or found is not None) and remainder < _SHORT * tensor.rounding * norm**2:
        remainder = tensor.residual_norm(Tucker.from_matrices(_wiring(core.shape), [core.reshape(1, -1), *bases])) ** 2
    return Reduction(core, tuple(bases), norm, remainder)


def _wiring(sizes: Sequence[int]) -> Network:
    return Tucker.wiring(tuple(sizes), tuple(sizes))


def estimated(tensor: Tensor, sizes: Sequence[int], rng: np.random.Generator | None = None) -> Reduction:
    """Core and bases as they would be without the gaps, from data with missing entries: for starts.

    With entries missing at random, the Grams that such data give are unbiased, and so is, up to a factor, the product
    of the data, gaps as zeros, with the bases.  `remainder` is not known: 0.
    """
    core, bases = _from_products(tensor, sizes, np.random.default_rng(rng))
    return Reduction(core, tuple(bases), tensor.norm(), 0.0)


def widened(reduction: Reduction, tensor: Tensor, model: Model) -> Reduction:
    """A reduction in whose span a model lies as well: its bases, and the directions that the model adds to them.

    One pass over the data.
    """
    bases = []
    for n, basis in enumerate(reduction.bases):
        block = model.matrices[model.network.block_of_mode[n]]
        rest = block - basis @ (basis.conj().T @ block)
        room = min(len(basis) - basis.shape[1], block.shape[1])
        if room <= 0 or np.linalg.norm(rest) <= _SPANNED * np.linalg.norm(block):
            bases.append(basis)
            continue
        fresh = leading_vectors(rest, min(room, rest.shape[1]))
        bases.append(np.linalg.qr(np.concatenate([basis, fresh], axis=1))[0])
    sizes = [basis.shape[1] for basis in bases]
    longest = max(range(tensor.order), key=lambda n: tensor.shape[n])
    rest = bases[longest].conj().T @ _all_but(tensor, bases, longest)
    left = [size for n, size in enumerate(sizes) if n != longest]
    core = np.ascontiguousarray(np.moveaxis(rest.reshape(-1, *left), 0, longest))
    remainder = max(reduction.norm**2 - kernels.norm(core) ** 2, 0.0)
    return Reduction(core, tuple(bases), reduction.norm, remainder)


# -- arrays in memory -------------------------------------------------------------------------


def _in_memory(array: Array, sizes: Sequence[int]) -> tuple[Array, list[Array]]:
    """Core, in double precision, and bases: one mode after the other, those first whose Gram costs least."""
    double = np.result_type(array, np.float64)
    bases = [np.eye(size, dtype=double) for size in array.shape]
    waiting = {n for n, size in enumerate(array.shape) if sizes[n] < size}
    while waiting:
        sides = {n: min(array.shape[n], array.size // array.shape[n]) for n in waiting}
        mode = min(waiting, key=lambda n: (sides[n], n))
        waiting.remove(mode)
        array, bases[mode] = _projected(array, mode, sizes[mode])
    return array.astype(double, copy=False), bases


def _projected(array: Array, mode: int, size: int) -> tuple[Array, Array]:
    """The array with one mode projected onto its leading singular vectors, and these."""
    slices = array.reshape(math.prod(array.shape[:mode]), array.shape[mode], -1)
    if slices.shape[0] * slices.shape[2] <= slices.shape[1]:
        unfolded = slices.swapaxes(0, 1).reshape(slices.shape[1], -1).astype(np.result_type(array, np.float64))
        basis = _left_vectors(unfolded, size)
        projection = _product(slices, basis)
    else:
        values, basis = leading_eigenpairs(_gram(slices), size)
        basis = _orthonormal(basis)
        projection = _product(slices, basis)
        if not values[0] > _WIDE_SPECTRUM[array.dtype.itemsize == 4] * values[-1]:
            right = np.linalg.qr(projection.swapaxes(0, 1).reshape(size, -1).conj().T)[0]
            basis = np.linalg.qr(_back(slices, right))[0]
            projection = _product(slices, basis)
    return projection.reshape(*array.shape[:mode], size, *array.shape[mode + 1 :]), basis


def _left_vectors(matrix: Array, size: int) -> Array:
    """Leading left singular vectors of a matrix (I, P), P <= I, from its Gram or, where that is too coarse, its SVD."""
    values, right = leading_eigenpairs(matrix.conj().T @ matrix, size)
    if values[0] > _WIDE_SPECTRUM[0] * values[-1]:
        return np.linalg.qr(matrix @ right)[0]
    return np.linalg.svd(matrix, full_matrices=False)[0][:, :size]


def _gram(slices: Array) -> Array:
    """T_(n) T_(n)^H from T as (A, I_n, B); sums in the precision of T over slabs, and in double over all of them."""
    size = slices.shape[1]
    gram = np.zeros((size, size), dtype=np.result_type(slices, np.float64))
    for slab in _slabs(slices):
        gram += slab @ slab.conj().T
    return gram


def _product(slices: Array, basis: Array) -> Array:
    """U^H T_(n), as (A, J_n, B), in double precision; sums are made in the precision of T."""
    product = np.matmul(basis.conj().T.astype(slices.dtype, copy=False), slices)
    return np.asarray(product, dtype=np.result_type(product, np.float64))


def _back(slices: Array, right: Array) -> Array:
    """T_(n) right, (I_n, J_n), in double precision; rows of `right` are the entries of (A, B)."""
    result = np.zeros((slices.shape[1], right.shape[1]), dtype=np.result_type(slices, np.float64))
    start = 0
    for slab in _slabs(slices):
        result += slab @ right[start : start + slab.shape[1]]
        start += slab.shape[1]
    return result


def _slabs(slices: Array) -> Iterator[Array]:
    """T_(n) in pieces (I_n, columns): views where T lies so in memory."""
    count, size, rest = slices.shape
    if count == 1:
        for start in range(0, rest, max(1, _SLAB // size)):
            yield slices[0, :, start : start + max(1, _SLAB // size)]
        return
    step = max(1, _SLAB // (size * rest))
    for start in range(0, count, step):
        yield slices[start : start + step].swapaxes(0, 1).reshape(size, -1)


def _orthonormal(vectors: Array) -> Array:
    """Orthonormal to the last digit: what LAPACK returns is so to two or three digits less."""
    return np.asarray(1.5 * vectors - vectors @ (0.5 * (vectors.conj().T @ vectors)))


# -- data elsewhere ---------------------------------------------------------------------------


def _from_products(tensor: Tensor, sizes: Sequence[int], rng: np.random.Generator) -> tuple[Array, list[Array]]:
    """Core and bases of data that are not in memory.

    The longest mode is never cut nor squared: the others are projected first, and it is the one that then remains.
    """
    longest = max(range(tensor.order), key=lambda n: tensor.shape[n])
    double = np.dtype(np.complex128 if tensor.dtype.kind == "c" else np.float64)
    bases = [np.eye(size, wanted, dtype=double) for size, wanted in zip(tensor.shape, sizes, strict=True)]
    others = [n for n, size in enumerate(tensor.shape) if n != longest and sizes[n] < size]
    grams = _grams(tensor, others)
    for n, gram in grams.items():
        bases[n] = _orthonormal(leading_eigenpairs(gram, sizes[n])[1])
    long = [n for n in others if n not in grams]
    for n in long:
        bases[n] = _sketched(tensor, n, sizes[n], rng)
    for n in long:
        bases[n] = leading_vectors(_all_but(tensor, bases, n), sizes[n])
    rest = _all_but(tensor, bases, longest)
    left = [size for n, size in enumerate(sizes) if n != longest]
    if sizes[longest] < tensor.shape[longest]:
        bases[longest] = leading_vectors(rest, sizes[longest])
        rest = bases[longest].conj().T @ rest
    return np.ascontiguousarray(np.moveaxis(rest.reshape(-1, *left), 0, longest)), bases


def _grams(tensor: Tensor, modes: Sequence[int]) -> dict[int, Array]:
    """Grams of the modes that have one, in one pass over the data."""
    short = [n for n in modes if tensor.shape[n] <= _LONG]
    try:
        return dict(zip(short, tensor.mode_grams(short), strict=True)) if short else {}
    except TypeError:
        return {}


def _sketched(tensor: Tensor, mode: int, size: int, rng: np.random.Generator) -> Array:
    """Directions of a mode from the product with a random CP model."""
    columns = min(size + _SPARE, tensor.shape[mode])
    model = CP.from_matrices(
        CP.wiring(tensor.shape, columns), [rng.standard_normal((length, columns)) for length in tensor.shape]
    )
    return leading_vectors(tensor.contract_all_but(model, mode), size)


def _all_but(tensor: Tensor, bases: Sequence[Array], mode: int) -> Array:
    """T projected in all modes but one, unfolded: (I_n, product of the other J), from one pass."""
    sizes = [basis.shape[1] for basis in bases]
    whole = Tucker.from_matrices(_wiring(sizes), [np.zeros((1, math.prod(sizes))), *bases]).absorbed(mode + 1)
    assert whole is not None
    return tensor.contract_all_but(whole, 0)
