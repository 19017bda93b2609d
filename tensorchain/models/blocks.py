"""Blocks in matrix form, and the tensor that a wiring makes of them.

Block k is held as a matrix B_k of shape (I_k, P_k): physical index first, all its bonds flattened behind (I_k = 1
for a core that carries no mode).  Then X is linear in each block with the others fixed,

    X = L_k(others) B_k,      L_k^H L_k = identity over I_k  (x)  M_k.

Here: immutable blocks, models made from others, and the values of X (all of them, single entries, first-order
changes), by contraction over the terms of the wiring (:mod:`tensorchain.models.network`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from tensorchain.kernels import Array, contract
from tensorchain.models.listing import Listing
from tensorchain.models.network import BATCH, Network

Self = TypeVar("Self", bound="Blocks")


class Blocks(Listing):
    """Immutable blocks on a wiring: the base of `Model`."""

    _moments: list[Array | None]
    _row_counts: tuple[int, ...] | None = None
    _make: Callable[[], Sequence[Array]]
    """Makes the blocks of a model that has none yet."""
    network: Network

    # -- construction -------------------------------------------------------------------

    @cached_property
    def _matrices(self) -> tuple[Array, ...]:
        # Set by `_build`, but for a model whose blocks are made when someone looks at them.
        return _frozen(self._make())

    def _build(self, network: Network, matrices: Sequence[Array] | Callable[[], Sequence[Array]]) -> None:
        """Blocks in matrix form, or what makes them when someone first looks at them."""
        self.network = network
        if callable(matrices):
            self._make = matrices
        else:
            self._matrices = _frozen(matrices)
        self._moments = [None] * len(network.modes)

    @classmethod
    def from_matrices(cls: type[Self], network: Network, matrices: Sequence[Array]) -> Self:
        """A model from its wiring and blocks in matrix form, unchecked.

        Parameters
        ----------
        network : Network
            The wiring.
        matrices : sequence of ndarray
            One matrix (I_k, P_k) for each block.

        Returns
        -------
        Model
            The model.
        """
        model = object.__new__(cls)
        model._build(network, matrices)
        return model

    def __reduce__(self) -> Any:
        # Caches stay behind, and blocks are frozen again on the other side.
        return _rebuilt, (type(self), self.network, [np.array(matrix) for matrix in self._matrices], self._row_counts)

    def with_matrices(self: Self, matrices: Sequence[Array], moments: Sequence[Array] | None = None) -> Self:
        """The same wiring with other blocks, in matrix form (I_k, P_k); sizes I_k may change.

        The arrays are not copied: the caller gives them away, and the moments B_k^H B_k with them where they are known.

        Parameters
        ----------
        matrices : sequence of ndarray
            One matrix (I_k, P_k) for each block.
        moments : sequence of ndarray, optional
            B_k^H B_k of each, where they are known.

        Returns
        -------
        Model
            With these blocks.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> model = tc.TensorChain.random((3, 4, 5), 2, rng=0)
        >>> np.allclose(model.with_matrices([2 * matrix for matrix in model.matrices]).full(), 8 * model.full())
        True
        """
        twin = object.__new__(type(self))
        twin._build(self.network, matrices)
        if moments is not None:
            twin._moments = list(moments)
        if self._row_counts is not None and list(map(len, twin._matrices)) == list(map(len, self._matrices)):
            twin._row_counts = self._row_counts
        return twin

    def deferred(self: Self, make: Callable[[], Sequence[Array]]) -> Self:
        """The same wiring and shape with blocks that are made when someone first looks at them.

        Parameters
        ----------
        make : callable
            Gives the blocks, in matrix form; they may lie on a device until then.

        Returns
        -------
        Model
            With the shape of this one.
        """
        twin = object.__new__(type(self))
        twin._build(self.network, make)
        twin._row_counts = self._row_counts
        twin.__dict__["shape"] = self.shape
        return twin

    def with_row_counts(self: Self, counts: Sequence[int] | None) -> Self:
        """The model as the core of one with I_k = counts[k] rows in block k, B_k = U_k B~_k with orthonormal U_k.

        Its sensitivity is then that of the larger model; None for a model that stands for itself.

        Parameters
        ----------
        counts : sequence of int or None
            Rows of each block of the larger model, or None.

        Returns
        -------
        Model
            With the same blocks.

        Examples
        --------
        >>> import tensorchain as tc
        >>> model = tc.CP.random((2, 2), 1, rng=0)
        >>> large = model.with_row_counts((20, 20))
        >>> bool(abs(large.sensitivity() - 10 * model.sensitivity()) < 1e-9)
        True
        """
        twin = self.with_matrices(self._matrices, self._moments)  # type: ignore[arg-type]
        twin._row_counts = None if counts is None else tuple(counts)
        return twin

    def with_matrix(self: Self, k: int, matrix: Array) -> Self:
        """Replace block k; what is cached of the others is kept.

        Parameters
        ----------
        k : int
            Position of the block, from 0.
        matrix : ndarray
            (I_k, P_k).

        Returns
        -------
        Model
            With the other blocks as they are.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> model = tc.TensorChain.random((3, 4, 5), 2, rng=0)
        >>> np.allclose(model.with_matrix(1, 2 * model.matrices[1]).full(), 2 * model.full())
        True
        """
        matrices = list(self._matrices)
        matrices[k] = matrix
        twin = self.with_matrices(matrices)
        twin._moments = list(self._moments)
        twin._moments[k] = None
        return twin

    def rescaled(self: Self, factors: Sequence[float]) -> Self:
        """Each block times a number; a block times 1 stays the same array, and moments that are cached are kept.

        Parameters
        ----------
        factors : sequence of float
            One number for each block.

        Returns
        -------
        Model
            With scaled blocks.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> model = tc.CP.random((3, 4), 2, rng=0)
        >>> np.allclose(model.rescaled([2.0, 3.0]).full(), 6 * model.full())
        True
        """
        pairs = list(zip(self._matrices, factors, strict=True))
        twin = self.with_matrices([m if factor == 1.0 else m * m.dtype.type(factor) for m, factor in pairs])
        for k, (moment, factor) in enumerate(zip(self._moments, factors, strict=True)):
            twin._moments[k] = None if moment is None else moment * factor**2
        return twin

    def astype(self: Self, dtype: Any) -> Self:
        """Blocks converted to `dtype`.

        Parameters
        ----------
        dtype : dtype
            What numpy.dtype takes: float32, float64 or complex128.

        Returns
        -------
        Model
            Of the same kind, with converted blocks.

        Examples
        --------
        >>> import tensorchain as tc
        >>> tc.CP.random((3, 4), 2, rng=0).astype("float32").dtype
        dtype('float32')
        """
        return self.with_matrices([matrix.astype(dtype, copy=False) for matrix in self._matrices])

    def restrict(self: Self, rows: Sequence[slice | Array | None]) -> Self:
        """The model of the sub-tensor X[rows[0], rows[1], ...], unchecked; None for all of a mode."""
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
    def row_counts(self) -> tuple[int, ...]:
        """I_k of each block as sensitivity counts them: rows of the block, or of the larger block it stands for."""
        if self._row_counts is not None:
            return self._row_counts
        return tuple(1 if mode is None else self.shape[mode] for mode in self.network.modes)

    @property
    def order(self) -> int:
        """The number of modes, N."""
        return self.network.order

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the entries: float32, float64 or complex128."""
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

    # -- values -------------------------------------------------------------------------

    @cached_property
    def _operands(self) -> list[list[Array]]:
        return self._split(self._matrices)

    def operands(self, t: int) -> list[Array]:
        """Blocks of term t, each of shape (I_k, *bonds).

        Parameters
        ----------
        t : int
            Of the term.

        Returns
        -------
        list of ndarray
            One array for each block.
        """
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
        """The tensor itself, shape (I_1, ..., I_N).

        Returns
        -------
        ndarray
            (I_1, ..., I_N).

        See Also
        --------
        entries : Single entries.
        restrict : Some rows of each mode, still as a model.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> tc.CP([np.array([[1.0], [2.0]]), np.array([[3.0], [4.0]])]).full()
        array([[3., 4.],
               [6., 8.]])
        """
        return self._evaluate(self._operands)

    def _evaluate(self, operands: list[list[Array]]) -> Array:
        values = [
            contract(subscripts, *parts) for subscripts, parts in zip(self.network.evaluations, operands, strict=True)
        ]
        return values[0] if len(values) == 1 else np.asarray(sum(values[1:], start=values[0]))

    def derivative(self, delta: Sequence[Array]) -> Array:
        """J delta: the first-order change of X when the blocks (matrix form) move by `delta`.

        Parameters
        ----------
        delta : sequence of ndarray
            One matrix (I_k, P_k) for each block.

        Returns
        -------
        ndarray
            (I_1, ..., I_N).

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> model = tc.CP.random((3, 4, 5), 2, rng=0)
        >>> change = model.derivative(model.blocks)  # all blocks in proportion: X grows three times as fast
        >>> np.allclose(change, 3 * model.full())
        True
        """
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
        k : int
            Position of the block, from 0.
        indices : ndarray
            (Z, N) integer positions; column of the mode of block k is not read.

        Returns
        -------
        ndarray
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


def _frozen(matrices: Sequence[Array]) -> tuple[Array, ...]:
    """Read-only arrays in C order."""
    frozen = []
    for matrix in matrices:
        array = np.ascontiguousarray(matrix)
        if array.flags.writeable:
            array = array.view()
            array.flags.writeable = False
        # A block that is frozen already stays the same array: evaluators see that it has not changed.
        frozen.append(array)
    return tuple(frozen)


def _rebuilt(kind: type[Self], network: Network, matrices: list[Array], row_counts: tuple[int, ...] | None) -> Self:
    """What a pickle holds, as a model."""
    model = kind.from_matrices(network, matrices)
    model._row_counts = row_counts
    return model
