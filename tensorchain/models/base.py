"""The protocol of a model: X(theta), linear in each of its blocks with the others fixed.

**Matrix form.**  Block k is held as a matrix B_k of shape (I_k, P_k): physical index
first, all its bonds flattened behind (I_k = 1 for a core that carries no mode).  Then

    X = L_k(others) B_k,      L_k^H L_k = identity over I_k  (x)  M_k,    M_k = gram(k).

**One multilinear form.**  With the moments C_k = B_k^H B_k (P_k x P_k),

    ||X||^2 = F(C_1, ..., C_K),      M_k = dF/dC_k,

and F is linear in each C_k.  The rest follows from directional derivatives of M_k:

    inner(other)        F at the cross moments B_k^H B'_k
    SS = ||J||_F^2      sum_k I_k tr M_k
    Q_k                 derivative of M_k along D_n = I_n * identity  (SS = <B_k, B_k Q_k> + I_k tr M_k)
    J^H J delta         derivative of M_k along D_n = B_n^H delta_n
    E||X(theta+noise)||^2   F at C_k + s^2 I_k * identity             (tensorchain.stability.perturbation)

Here all of it is done by generic contraction over the wiring of the model
(:mod:`tensorchain.models.network`); a model overrides `gram_at`, `gram_jets` or
`gauss_newton` only to be faster, and the tests hold the override against this file.

Longer than other files on purpose: it is the whole protocol, generic in the wiring, in one place.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np

from tensorchain.kernels import (
    Array,
    GramSystem,
    System,
    cholesky,
    cholesky_solve,
    contract,
    diagonal_blocks,
    memory,
    norm,
)
from tensorchain.models.files import FORMAT, read_npz, write_npz
from tensorchain.models.network import BATCH, COLUMN, ROW, Network
from tensorchain.models.validation import checked_wiring

Self = TypeVar("Self", bound="Model")

_SLAB, _EVALUATED = 1 << 21, 100_000_000
"""Entries of X evaluated at once, and at most, where the moments have lost its norm."""


class Model:
    """A tensor written as a contraction of blocks.

    Subclasses call `_build` once and give `blocks` (natural shapes) and `_state`
    (what `from_state` needs beside the blocks).  Instances are immutable.
    """

    name: ClassVar[str] = ""
    """Short name used by `decompose` and in files."""
    registry: ClassVar[dict[str, type[Model]]] = {}

    _matrices: tuple[Array, ...]
    _moments: list[Array | None]
    network: Network

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if cls.name:
            Model.registry[cls.name] = cls

    # -- construction -------------------------------------------------------------------

    def _build(self, network: Network, matrices: Sequence[Array]) -> None:
        self.network = network
        frozen = []
        for matrix in matrices:
            array = np.ascontiguousarray(matrix)
            if array.flags.writeable:
                array = array.view()
                array.flags.writeable = False
            # A block that is frozen already keeps its identity: doors recognise what they have multiplied.
            frozen.append(array)
        self._matrices = tuple(frozen)
        self._moments = [None] * len(frozen)

    @classmethod
    def wiring(cls, shape: tuple[int, ...], rank: Any) -> Network:
        """The network for a tensor of this shape; ValueError when `rank` does not fit it."""
        raise TypeError(f"{cls.__name__} has no `wiring(shape, rank)`; give a start with init=model instead")

    @classmethod
    def from_matrices(cls: type[Self], network: Network, matrices: Sequence[Array]) -> Self:
        """A model from its wiring and blocks in matrix form, unchecked."""
        model = object.__new__(cls)
        model._build(network, matrices)
        return model

    @classmethod
    def random(cls: type[Self], shape: Sequence[int], rank: Any, rng: Any = None, dtype: Any = np.float64) -> Self:
        """Independent standard normal entries in every block.

        Parameters
        ----------
        shape : (I_1, ..., I_N).
        rank : as in `decompose`.
        rng : seed or `numpy.random.Generator`.
        """
        generator = np.random.default_rng(rng)
        network = checked_wiring(cls, tuple(shape), rank)
        blank = [
            np.empty((1 if mode is None else shape[mode], width), dtype=dtype)
            for mode, width in zip(network.modes, network.widths, strict=True)
        ]
        return cls.from_matrices(network, blank).random_like(generator)

    def random_like(self: Self, rng: np.random.Generator) -> Self:
        """Independent standard normal entries, with the wiring, shape and dtype of this model."""
        fresh = []
        for matrix in self._matrices:
            block = rng.standard_normal(matrix.shape)
            if self.dtype.kind == "c":
                block = (block + 1j * rng.standard_normal(matrix.shape)) / math.sqrt(2.0)
            fresh.append(block.astype(matrix.dtype, copy=False))
        return self.with_matrices(fresh)

    @classmethod
    def svd_matrices(cls, network: Network, tensor: Any, rng: np.random.Generator) -> list[Array]:
        """Start from singular vectors: leading ones of each unfolding; cores are random and fitted later.

        `tensor` is a door; where a block is wider than its mode, small noise fills the rest.
        """
        matrices = []
        for mode, width in zip(network.modes, network.widths, strict=True):
            if mode is None:
                matrices.append(rng.standard_normal((1, width)))
                continue
            _, vectors = np.linalg.eigh(tensor.mode_gram(mode))
            matrices.append(pad_columns(vectors[:, ::-1], width, rng))
        return matrices

    def __reduce__(self) -> Any:
        # Caches stay behind, and blocks are frozen again on the other side.
        return type(self).from_matrices, (self.network, [np.array(matrix) for matrix in self._matrices])

    def with_matrices(self: Self, matrices: Sequence[Array]) -> Self:
        """The same wiring with other blocks, in matrix form (I_k, P_k); sizes I_k may change.

        The arrays are not copied: the caller gives them away.
        """
        twin = object.__new__(type(self))
        twin._build(self.network, matrices)
        return twin

    def with_matrix(self: Self, k: int, matrix: Array) -> Self:
        """Replace block k; what is cached of the others is kept."""
        matrices = list(self._matrices)
        matrices[k] = matrix
        twin = self.with_matrices(matrices)
        twin._moments = list(self._moments)
        twin._moments[k] = None
        return twin

    def rescaled(self: Self, factors: Sequence[float]) -> Self:
        """Each block times a number; a block times 1 stays the same array, and moments that are cached are kept."""
        pairs = list(zip(self._matrices, factors, strict=True))
        twin = self.with_matrices([m if factor == 1.0 else m * m.dtype.type(factor) for m, factor in pairs])
        for k, (moment, factor) in enumerate(zip(self._moments, factors, strict=True)):
            twin._moments[k] = None if moment is None else moment * factor**2
        return twin

    def with_blocks(self: Self, blocks: Sequence[Array]) -> Self:
        """The same wiring with other blocks in their natural shapes."""
        if len(blocks) != len(self._matrices):
            raise ValueError(f"{type(self).__name__} has {len(self._matrices)} blocks, {len(blocks)} were given")
        matrices = [self._to_matrix(k, np.array(block)) for k, block in enumerate(blocks)]
        for k, (matrix, width) in enumerate(zip(matrices, self.network.widths, strict=True)):
            if matrix.ndim != 2 or matrix.shape[1] != width:
                raise ValueError(
                    f"block {k} has shape {np.shape(blocks[k])}, which does not fit one of shape {self.blocks[k].shape}"
                )
        return self.with_matrices(matrices)

    def astype(self: Self, dtype: Any) -> Self:
        """Blocks converted to `dtype`."""
        return self.with_matrices([matrix.astype(dtype, copy=False) for matrix in self._matrices])

    def scaled(self: Self, factor: float) -> Self:
        """The model of factor * X, the factor spread evenly over the blocks (factor > 0)."""
        share = factor ** (1.0 / len(self._matrices))
        return self.with_matrices([matrix * matrix.dtype.type(share) for matrix in self._matrices])

    def restrict(self: Self, rows: Sequence[slice | Array | None]) -> Self:
        """The model of the sub-tensor X[rows[0], rows[1], ...] (None keeps a whole mode)."""
        return self.with_matrices(
            [
                matrix if mode is None or rows[mode] is None else matrix[rows[mode]]
                for matrix, mode in zip(self._matrices, self.network.modes, strict=True)
            ]
        )

    # -- what it is ---------------------------------------------------------------------

    @property
    def matrices(self) -> tuple[Array, ...]:
        """Blocks in matrix form, (I_k, P_k), read-only."""
        return self._matrices

    @property
    def blocks(self) -> tuple[Array, ...]:
        """Blocks in their natural shapes, read-only."""
        return tuple(self._to_block(k, matrix) for k, matrix in enumerate(self._matrices))

    def _to_block(self, k: int, matrix: Array) -> Array:
        """Matrix form to natural shape; the default is the matrix itself."""
        return matrix

    def _to_matrix(self, k: int, block: Array) -> Array:
        return block

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(I_1, ..., I_N)."""
        return tuple(self._matrices[k].shape[0] for k in self.network.block_of_mode)

    @property
    def order(self) -> int:
        return self.network.order

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.result_type(*self._matrices)

    @property
    def n_parameters(self) -> int:
        """Stored numbers, gauge freedom included."""
        return sum(matrix.size for matrix in self._matrices)

    @property
    def rank(self) -> Any:
        """What `decompose` takes as `rank` to get a model of this wiring."""
        return self.network.terms[0].shapes[0]

    @property
    def block_names(self) -> tuple[str, ...]:
        """A name for each block, for reports and plots."""
        return tuple(f"block {k + 1}" for k in range(len(self._matrices)))

    def __repr__(self) -> str:
        sizes = " x ".join(map(str, self.shape))
        return f"{type(self).__name__}({sizes}, rank={self.rank}, {self.n_parameters} parameters, {self.dtype})"

    # -- values -------------------------------------------------------------------------

    @cached_property
    def _operands(self) -> list[list[Array]]:
        return self._split(self._matrices)

    def operands(self, t: int) -> list[Array]:
        """Blocks of term t, each of shape (I_k, *bonds)."""
        return self._operands[t]

    def _split(self, matrices: Sequence[Array]) -> list[list[Array]]:
        """Matrix forms to the operands of each term."""
        network = self.network
        if len(network.terms) == 1:
            shapes = network.terms[0].shapes
            return [[m.reshape(m.shape[0], *shape) for m, shape in zip(matrices, shapes, strict=True)]]
        return [
            [
                m[:, columns].reshape(m.shape[0], *shape)
                for m, columns, shape in zip(matrices, network.columns[t], term.shapes, strict=True)
            ]
            for t, term in enumerate(network.terms)
        ]

    def full(self) -> Array:
        """The tensor itself, shape (I_1, ..., I_N)."""
        return self._evaluate(self._operands)

    def _evaluate(self, operands: list[list[Array]]) -> Array:
        values = [
            contract(subscripts, *parts) for subscripts, parts in zip(self.network.evaluations, operands, strict=True)
        ]
        return values[0] if len(values) == 1 else np.asarray(sum(values[1:], start=values[0]))

    def derivative(self, delta: Sequence[Array]) -> Array:
        """J delta: the first-order change of X when the blocks (matrix form) move by `delta`."""
        return sum(
            (
                self._evaluate(self._split([*self._matrices[:k], change, *self._matrices[k + 1 :]]))
                for k, change in enumerate(delta)
            ),
            start=np.zeros(self.shape, dtype=self.dtype),
        )

    def design_rows(self, k: int, indices: Array) -> Array:
        """Rows of L_k at given entries.

        Parameters
        ----------
        indices : (Z, N) integer positions; column of the mode of block k is not read.

        Returns
        -------
        (Z, P_k) array D with X[indices[z]] = B_k[indices[z, mode of k]] . D[z].
        """
        rows = []
        for t, term in enumerate(self.network.terms):
            labels, gathered = [], []
            for m, operand in enumerate(self.operands(t)):
                if m == k:
                    continue
                mode = self.network.modes[m]
                if mode is None:
                    labels.append(term.bonds[m])
                    gathered.append(operand[0])
                else:
                    labels.append(BATCH + term.bonds[m])
                    gathered.append(operand[indices[:, mode]])
            value = contract(",".join(labels) + "->" + BATCH + term.bonds[k], *gathered)
            rows.append(value.reshape(len(indices), -1))
        return rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)

    def entries(self, indices: Array) -> Array:
        """X at the positions `indices` (Z, N)."""
        k = self.network.block_of_mode[0]
        return np.asarray(np.einsum("zp,zp->z", self._matrices[k][indices[:, 0]], self.design_rows(k, indices)))

    # -- the multilinear form -----------------------------------------------------------

    def moment(self, k: int) -> Array:
        """C_k = B_k^H B_k, in double precision."""
        moment = self._moments[k]
        if moment is None:
            moment = self._moments[k] = _moment(self._matrices[k], self._matrices[k])
        return moment

    @cached_property
    def moments(self) -> tuple[Array, ...]:
        """All C_k."""
        return tuple([self.moment(k) for k in range(len(self._matrices))])

    @cached_property
    def identity_moments(self) -> tuple[Array, ...]:
        """I_k * identity: the second moment of unit noise on block k."""
        return tuple(
            matrix.shape[0] * unit for matrix, unit in zip(self._matrices, self.network.identities, strict=True)
        )

    def gram_at(self, moments: Sequence[Array], k: int) -> Array:
        """M_k = dF/dC_k at any moments, (P_k, P_k); rows belong to the conjugated side."""
        return self._gram_of(moments, k)

    def _gram_of(self, moments: Sequence[Array] | None, k: int) -> Array:
        rows = []
        for s, lower in enumerate(self.network.terms):
            row = []
            for t, upper in enumerate(self.network.terms):
                labels, operands = self._moment_operands(moments, s, t, (k,))
                target = lower.bonds[k] + upper.bonds[k].upper()
                value = contract(",".join(labels) + "->" + target, *operands)
                row.append(value.reshape(lower.widths[k], upper.widths[k]))
            rows.append(row)
        return rows[0][0] if len(rows) == 1 else np.block(rows)

    def _moment_operands(
        self, moments: Sequence[Array] | None, s: int, t: int, without: tuple[int, ...]
    ) -> tuple[list[str], list[Array]]:
        """Moments between terms s (conjugated) and t, of all blocks but `without`, with their letters.

        With None for the moments those of this model; a core has one row, so that its moment is the product
        of two vectors, which is not formed.
        """
        network = self.network
        lower, upper = network.terms[s], network.terms[t]
        labels, operands = [], []
        for m, mode in enumerate(network.modes):
            if m in without:
                continue
            if mode is None and moments is None:
                double = np.result_type(self._matrices[m], np.float64)
                labels += [lower.bonds[m], upper.bonds[m].upper()]
                operands += [np.conj(self.operands(s)[m][0]).astype(double, copy=False)]
                operands += [self.operands(t)[m][0].astype(double, copy=False)]
                continue
            moment = self.moment(m) if moments is None else moments[m]
            block = moment[network.columns[s][m], network.columns[t][m]]
            operands.append(block.reshape(lower.shapes[m] + upper.shapes[m]))
            labels.append(lower.bonds[m] + upper.bonds[m].upper())
        return labels, operands

    def gram_jets(self, moments: Sequence[Array], directions: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """All M_k and their derivatives along `directions`.

        dM_k = sum over n != k of M_k with C_n replaced by D_n.
        """
        grams, slopes = [], []
        for k in range(len(moments)):
            grams.append(self.gram_at(moments, k))
            slope = np.zeros_like(grams[-1])
            for n in range(len(moments)):
                if n != k:
                    slope = slope + self.gram_at([*moments[:n], directions[n], *moments[n + 1 :]], k)
            slopes.append(slope)
        return grams, slopes

    @cached_property
    def _jets(self) -> tuple[list[Array], list[Array]]:
        return self.gram_jets(self.moments, self.identity_moments)

    @cached_property
    def grams(self) -> list[Array]:
        """All M_k; without their derivatives where no one asked for these."""
        if "_jets" in self.__dict__:
            return self._jets[0]
        if self.network.has_cores:
            return [self._gram_of(None, k) for k in range(len(self._matrices))]
        return self.all_grams(self.moments)

    def all_grams(self, moments: Sequence[Array]) -> list[Array]:
        """M_k at any moments, for every k."""
        return [self.gram_at(moments, k) for k in range(len(moments))]

    def gram(self, k: int) -> Array:
        """M_k = L_k^H L_k without the identity over I_k: (P_k, P_k), Hermitian."""
        if "_jets" in self.__dict__ or "grams" in self.__dict__:
            return self.grams[k]
        return self._gram_of(None, k) if self.network.has_cores else self.gram_at(self.moments, k)

    def gram_factors(self, t: int, k: int) -> list[Array] | None:
        """M_k within term t as a Kronecker product of one matrix for each bond of block k; None where it is none."""
        return None

    def system(self, k: int) -> System:
        """L_k^H L_k, to apply to block k and to solve."""
        return GramSystem(self.gram(k))

    def damped_solver(self, k: int, penalty: float, damping: float) -> Callable[[Array], Array] | None:
        """The inverse of M_k + penalty Q_k + damping, applied to a block; None where it is not positive definite."""
        system = self.gram(k) + damping * np.eye(self.network.widths[k])
        if penalty:
            system = system + penalty * self.sensitivity_metric(k)
        factor = cholesky(system)
        return None if factor is None else lambda block: cholesky_solve(factor, np.ascontiguousarray(block.T)).T

    def absorbed(self, k: int) -> Model | None:
        """The model with factor k in its core and an identity in its place, for `rejoined`; None for most models."""
        return None

    def rejoined(self: Self, k: int, rhs: Array) -> tuple[Self, float] | None:
        """Factor k and the core at their joint best, and ||X||^2; None where the other factors are deficient.

        `rhs` is L^H vec(T) for the core of `absorbed(k)`.
        """
        return None

    @property
    def has_damped_inverse(self) -> bool:
        """Whether `damped_inverse` is there and costs less than a Cholesky factor of J^H J."""
        return False

    def damped_inverse(self, penalty: float, damping: float) -> Callable[[Sequence[Array]], list[Array]] | None:
        """The inverse of J^H J + penalty Q + damping by the structure of the model; None where it breaks down."""
        raise TypeError(f"{type(self).__name__} has no `damped_inverse`; ask `has_damped_inverse` first")

    def gram_traces(self) -> list[float]:
        """tr M_k of each block, without the Grams."""
        traces = []
        for k in range(len(self._matrices)):
            total = 0.0
            for t, term in enumerate(self.network.terms):
                labels, operands = self._moment_operands(None, t, t, (k,))
                for letter in term.bonds[k]:
                    labels.append(letter + letter.upper())
                    operands.append(np.eye(term.size_of[letter]))
                total += float(contract(",".join(labels) + "->", *operands).real)
            traces.append(total)
        return traces

    def sensitivity_metric(self, k: int) -> Array:
        """Q_k with SS = <B_k, B_k Q_k^T> + I_k tr M_k; the gradient of SS in B_k is 2 B_k Q_k^T."""
        return self._jets[1][k]

    def block_sensitivities(self) -> Array:
        """||dX/dblock_k||_F^2 = I_k tr M_k for each block; their sum is SS."""
        if "_jets" in self.__dict__ or "grams" in self.__dict__:
            traces = [float(np.trace(gram).real) for gram in self.grams]
        else:
            traces = self.gram_traces()
        return np.array([len(matrix) * trace for matrix, trace in zip(self._matrices, traces, strict=True)])

    def sensitivity(self, relative: bool = False) -> float:
        """SS = ||J||_F^2, the expected squared change of X per unit variance of noise on the blocks.

        With `relative`, SS / ||X||^(2(K-1)/K), which does not change when X is scaled.
        Source: Tichavsky, Phan, Cichocki, "Sensitivity in tensor decomposition" (2019).
        """
        unit, exponent = self._unit_scale()
        count = len(self._matrices)
        value = float(unit.block_sensitivities().sum())
        if relative:
            size = unit.norm()
            if size == 0.0:
                raise ValueError("the relative sensitivity of a zero tensor is undefined; use relative=False")
            return float(value / size ** (2 * (count - 1) / count))
        return _power(value, 2 * (count - 1) * exponent)

    def _unit_scale(self: Self) -> tuple[Self, int]:
        """(model / 2^(K e), e) with blocks of moderate size: squares neither overflow nor vanish."""
        largest = [float(np.abs(matrix).max(initial=0.0)) for matrix in self._matrices]
        if min(largest) == 0.0 or 1e-12 < min(largest) <= max(largest) < 1e12:
            return self, 0
        exponent = round(sum(math.log2(value) for value in largest) / len(largest))
        # One common exponent keeps the balance between blocks, on which SS depends.
        return self.with_matrices([_ldexp(matrix, -exponent) for matrix in self._matrices]), exponent

    def inner(self, other: Model) -> complex | float:
        """<self, other> = sum conj(self) * other, without forming either tensor."""
        if self.shape != other.shape:
            raise ValueError(f"inner product needs equal shapes, got {self.shape} and {other.shape}")
        total: complex = 0.0
        for s in range(len(self.network.terms)):
            lower = self.network.labels[s]
            conjugated = [np.conj(operand) for operand in self.operands(s)]
            for t, term in enumerate(other.network.terms):
                upper = [p + b.upper() for p, b in zip(other.network.physical, term.bonds, strict=True)]
                value = contract(",".join([*lower, *upper]) + "->", *conjugated, *other.operands(t))
                total += complex(value)
        return total if "c" in (self.dtype.kind, other.dtype.kind) else total.real

    def norm(self) -> float:
        """||X||_F from the moments, without forming X.

        In a gauge so bad that terms 1e10 times larger than X cancel, the moments have lost it: then X is
        evaluated slab by slab, as long as it has at most 1e8 entries.
        """
        unit, exponent = self._unit_scale()
        k = min(range(len(self._matrices)), key=self.network.widths.__getitem__)
        moment, gram = unit.moment(k), unit.gram(k)
        square = float(np.sum(moment * gram).real)
        bound = float(np.trace(moment).real * np.trace(gram).real)
        if square < 1e-10 * bound and math.prod(self.shape) <= _EVALUATED:
            size = unit._evaluated_norm()
        else:
            size = math.sqrt(max(square, 0.0))
        return _power(size, len(self._matrices) * exponent)

    def _evaluated_norm(self) -> float:
        rows = self.shape[0]
        step = max(1, rows * _SLAB // math.prod(self.shape))
        rest = [None] * (self.order - 1)
        return math.hypot(
            *(norm(self.restrict([slice(start, start + step), *rest]).full()) for start in range(0, rows, step))
        )

    # -- Gauss-Newton -------------------------------------------------------------------

    def gauss_newton(self, upper: bool = False) -> Array:
        """J^H J, (n, n) with n = n_parameters, blocks in matrix form flattened row by row.

        With `upper` the blocks below the diagonal are left undefined, for solvers that do not read them.
        """
        starts = [0, *itertools.accumulate([matrix.size for matrix in self._matrices])]
        result = memory.empty((starts[-1], starts[-1]), np.result_type(self.dtype, np.float64))
        for k, matrix in enumerate(self._matrices):
            rows, width = matrix.shape
            result[starts[k] : starts[k + 1], starts[k] : starts[k + 1]] = 0.0
            diagonal_blocks(result, starts[k], rows, width)[...] = self.gram(k)
            for m in range(k + 1, len(self._matrices)):
                block = result[starts[k] : starts[k + 1], starts[m] : starts[m + 1]]
                self._cross_gauss_newton(k, m, block.reshape(rows, width, *self._matrices[m].shape))
                if not upper:
                    result[starts[m] : starts[m + 1], starts[k] : starts[k + 1]] = block.conj().T
        return result

    def _cross_gauss_newton(self, k: int, m: int, out: Array) -> None:
        """Write J_k^H J_m for two blocks k < m into `out`, (I_k, P_k, I_m, P_m).

        A block that is differentiated leaves its bonds open on one side and itself on the other:
        B_k closes the unconjugated side at k, conj(B_m) closes the conjugated side at m.
        """
        network = self.network
        for s, lower in enumerate(network.terms):
            conjugated = np.conj(self.operands(s)[m])
            for t, upper in enumerate(network.terms):
                labels, operands = self._moment_operands(None, s, t, (k, m))
                labels += [ROW + upper.bonds[k].upper(), COLUMN + lower.bonds[m]]
                operands += [self.operands(t)[k], conjugated]
                target = ROW + lower.bonds[k] + COLUMN + upper.bonds[m].upper()
                value = contract(",".join(labels) + "->" + target, *operands)
                target_view = out[:, network.columns[s][k], :, network.columns[t][m]]
                target_view[...] = value.reshape(target_view.shape)

    def gauss_newton_matvec(self, delta: Sequence[Array]) -> list[Array]:
        """J^H J delta without forming J: delta_k M_k^T + B_k dM_k^T, dM_k along D_n = B_n^H delta_n."""
        directions = [_moment(matrix, change) for matrix, change in zip(self._matrices, delta, strict=True)]
        grams, slopes = self.gram_jets(self.moments, directions)
        return [
            change @ gram.T + matrix @ slope.T
            for matrix, change, gram, slope in zip(self._matrices, delta, grams, slopes, strict=True)
        ]

    @cached_property
    def gauge_dimension(self) -> int:
        """Dimension of the set of block changes that leave X unchanged to first order by a change of gauge.

        R^2 per bond, R (d - 1) per hyperedge of d blocks, less what acts twice (a scalar around a loop):
        the rank of the gauge action, found numerically.
        """
        directions = list(self._gauge_directions())
        return int(np.linalg.matrix_rank(np.array(directions), tol=1e-8)) if directions else 0

    def _gauge_directions(self) -> Iterator[Array]:
        """Tangent vectors (flattened blocks) of the gauge group at a generic point of this wiring."""
        generator = np.random.default_rng(0)
        generic = self.with_matrices([generator.standard_normal(matrix.shape) for matrix in self._matrices])
        for t, term in enumerate(self.network.terms):
            operands = generic.operands(t)
            pairs = [(letter, (k, m), True) for letter, k, m in term.gauge_bonds]
            pairs += [(letter, (o[0], m), False) for letter, o in term.hyperedges for m in o[1:]]
            for letter, (k, m), whole in pairs:
                size = term.size_of[letter]
                for p in range(size):
                    for q in range(size) if whole else (p,):
                        unit = np.zeros((size, size))
                        unit[p, q] = 1.0
                        blocks = [np.zeros(matrix.shape) for matrix in self._matrices]
                        for block, move in ((k, unit.T), (m, -unit)):
                            change = _along(operands[block], 1 + term.bonds[block].index(letter), move)
                            blocks[block][:, self.network.columns[t][block]] = change.reshape(len(change), -1)
                        yield np.concatenate([block.ravel() for block in blocks])

    # -- files --------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        """What `from_state` needs beside the blocks, as JSON."""
        return {}

    @classmethod
    def from_state(cls, blocks: list[Array], state: dict[str, Any]) -> Model:
        """Rebuild from `blocks` and `_state()`."""
        return cls(blocks)  # type: ignore[call-arg]

    def save(self, path: str | os.PathLike[str], **extra: Any) -> None:
        """Write an .npz file (no pickle), to a temporary name first and then renamed.

        `extra` holds further JSON-able figures, kept beside the model.
        """
        if not self.name:
            raise TypeError(f"{type(self).__name__} has no `name`, so no file could be read back; give the class one")
        arrays = {f"block_{k}": block for k, block in enumerate(self.blocks)}
        header = {
            "format": FORMAT,
            "model": self.name,
            "blocks": len(arrays),
            "state": self._state(),
            "extra": extra,
        }
        write_npz(path, json.dumps(header), arrays)


def load(path: str | os.PathLike[str]) -> Model:
    """Read a model written by `Model.save` or `Fit.save`.

    Raises
    ------
    FileNotFoundError, or ValueError when the file is not a model file.
    """
    header, blocks = read_npz(path)
    kind = Model.registry.get(str(header.get("model")))
    if kind is None:
        known = ", ".join(sorted(Model.registry))
        raise ValueError(f"{os.fspath(path)!r} holds a model {header.get('model')!r}; known are {known}")
    try:
        return kind.from_state(blocks, header.get("state", {}))
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError(f"{os.fspath(path)!r} is damaged: {error!r}") from error


def pad_columns(vectors: Array, width: int, rng: np.random.Generator, size: float = 0.1) -> Array:
    """The first `width` columns, filled up with noise of relative size `size` where there are fewer."""
    rows, given = vectors.shape
    if given >= width:
        return vectors[:, :width]
    scale = size * np.linalg.norm(vectors) / math.sqrt(vectors.size)
    return np.concatenate([vectors, scale * rng.standard_normal((rows, width - given))], axis=1)


def _moment(left: Array, right: Array) -> Array:
    """B^H B' in double precision."""
    double = np.complex128 if np.iscomplexobj(left) or np.iscomplexobj(right) else np.float64
    return np.asarray(left.conj().T.astype(double, copy=False) @ right.astype(double, copy=False))


def _along(operand: Array, axis: int, matrix: Array) -> Array:
    """Multiply `matrix` into one axis: result[..., p, ...] = sum_q matrix[p, q] operand[..., q, ...]."""
    return np.moveaxis(np.tensordot(matrix, operand, axes=(1, axis)), 0, axis)


def _power(value: float, exponent: int) -> float:
    """value * 2^exponent, infinite where that overflows."""
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.inf


def _ldexp(matrix: Array, exponent: int) -> Array:
    factor = np.ldexp(1.0, exponent // 2), np.ldexp(1.0, exponent - exponent // 2)
    return np.asarray(matrix * matrix.dtype.type(factor[0]) * matrix.dtype.type(factor[1]))
