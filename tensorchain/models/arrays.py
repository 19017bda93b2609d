"""Models as arrays: entries, parts, sums, multiples and products with vectors, none of which forms the tensor.

    m[i, j, k]           a number          A(i) B(j) ... closed at these rows
    m[2:5, :, 0]         a smaller model   rows of the blocks; a mode with one position is closed and goes
    m + n, m - n         ranks add         blocks side by side: the direct sum along all bonds
    2 * m, -m, m / 2     same ranks
    m.contract(n, v)     a smaller model   block n is closed by v, and its bonds join the neighbours
    m.transpose(order)   modes in another order

What has one mode left is an array, what has none a number: models have two modes or more.

Sums are those of :mod:`tensorchain.models.arithmetic`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tensorchain.kernels import Array
from tensorchain.models.arithmetic import Arithmetic
from tensorchain.models.indexing import checked_entries, checked_mode, checked_rows, selected
from tensorchain.models.network import Network
from tensorchain.models.validation import check_blocks

if TYPE_CHECKING:
    from tensorchain.models.base import Model

Self = TypeVar("Self", bound="ArrayLike")


class ArrayLike(Arithmetic):
    """What models share with arrays."""

    # -- size ---------------------------------------------------------------------------

    @property
    def ndim(self) -> int:
        """Number of modes, as `order`."""
        return self.order

    @property
    def size(self) -> int:
        """Number of entries of the tensor, I_1 ... I_N; `n_parameters` is what is stored."""
        total = 1
        for extent in self.shape:
            total *= extent
        return total

    def __len__(self) -> int:
        return self.shape[0]

    def __bool__(self) -> bool:
        # Without this a model would be true by its length.
        return True

    # -- values -------------------------------------------------------------------------

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a model is no array in memory; leave out copy=False to have its entries computed")
        full = self.full()
        return full if dtype is None else full.astype(dtype, copy=False)

    def entries(self, indices: Any) -> Array:
        """X at some positions, without forming X.

        Parameters
        ----------
        indices : array_like of int, (Z, N)
            Positions from 0, such as a list of tuples; negative ones count from the end.  Further leading
            dimensions are those of the result.

        Returns
        -------
        ndarray
            (Z,).

        Raises
        ------
        TypeError
            When positions are no integers.
        IndexError
            When there is another number of them than of modes, or one is out of range.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> cp = tc.CP([np.array([[1.0], [2.0]]), np.array([[1.0], [10.0], [100.0]])])
        >>> cp.entries([(0, 0), (1, 2), (-1, -1)])
        array([  1., 200., 200.])
        """
        checked = checked_entries(self.shape, indices)
        flat = checked.reshape(-1, self.order)
        if not len(flat):
            return np.zeros(checked.shape[:-1], dtype=self.dtype)
        k = self.network.block_of_mode[0]
        values = np.asarray(np.einsum("zp,zp->z", self._matrices[k][flat[:, 0]], self.design_rows(k, flat)))
        return values if checked.ndim == 2 else values.reshape(checked.shape[:-1])

    def restrict(self: Self, rows: Sequence[Any]) -> Self:
        """The model of the sub-tensor X[rows[0], rows[1], ...], of the same order.

        Parameters
        ----------
        rows : sequence, one for each mode
            A slice, positions, a mask of the mode, or None for all of it.  Positions of several modes stand for all
            combinations, as `numpy.ix_`.

        Returns
        -------
        Model

        Raises
        ------
        TypeError
            When one position is given without brackets, which would drop a mode.
        IndexError
            When there is not one selection for each mode, one is out of range, or nothing is left of a mode.

        Examples
        --------
        >>> import tensorchain as tc
        >>> tc.CP.random((7, 7, 7), 2, rng=0).restrict([[0], slice(2, 5), None]).shape
        (1, 3, 7)
        """
        return super().restrict(checked_rows(self.shape, rows))

    def __getitem__(self, key: Any) -> Any:
        parts, points = selected(self.shape, key)
        if points is not None:
            return self.entries(points)
        open_modes = [mode for mode, part in enumerate(parts) if not isinstance(part, int)]
        if not open_modes:
            return self.entries([parts])[0]
        if len(open_modes) == 1:
            rows = [slice(part, part + 1) if isinstance(part, int) else part for part in parts]
            return super().restrict(rows).full().reshape(-1)
        result: ArrayLike = super().restrict([None if isinstance(part, int) else part for part in parts])
        # From the last mode on: positions of those before it stay.
        for mode in reversed(range(self.order)):
            part = parts[mode]
            if isinstance(part, int):
                result = result._without_mode(mode, result._matrices[result.network.block_of_mode[mode]][part])
        return result

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def contract(self, mode: int, vector: Any) -> Any:
        """Product with a vector along one mode: sum_i X(..., i, ...) v(i), which has one mode less.

        Parameters
        ----------
        mode : int
            From 0; negative ones count from the end.
        vector : array_like, (I_mode,)
            It is not conjugated.

        Returns
        -------
        Model
            Of the same kind and ranks; the array (I,) where one mode is left.

        Raises
        ------
        IndexError
            When there is no such mode.
        ValueError
            When the vector has another shape, or holds NaN or infinity.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> chain = tc.TensorChain.random((4, 5, 6), 2, rng=0)
        >>> part = chain.contract(1, np.ones(5))
        >>> part, bool(np.allclose(part, chain.full().sum(axis=1)))
        (TensorChain(4 x 6, rank=(2, 2), 40 parameters, float64), True)
        """
        number = checked_mode(mode, self.order)
        weights = np.asarray(vector)
        if weights.shape != (self.shape[number],):
            raise ValueError(
                f"a vector of shape {weights.shape} was given for mode {number}; ({self.shape[number]},) is needed"
            )
        (weights,) = check_blocks("contract", [weights])
        k = self.network.block_of_mode[number]
        row = weights @ self._matrices[k]
        if self.order == 2:
            return self.with_matrix(k, row[None]).full().reshape(-1)
        return self._without_mode(number, row)

    def transpose(self, order: Sequence[int] | None = None) -> Model:
        """The modes in another order, as `numpy.transpose`.

        Parameters
        ----------
        order : sequence of int, optional
            Where each mode of the result comes from; by default the modes are reversed.

        Returns
        -------
        Model
            Of the same kind and ranks, its blocks in the order of the new modes.  A chain of order 4 or more in which
            the order is neither a rotation nor its reverse has neighbours that are none any more: its result has
            the same blocks and numbers, but is a plain `Model`, which cannot be saved.

        Raises
        ------
        TypeError
            When `order` is a number.
        ValueError
            When it does not name each mode once.

        Examples
        --------
        >>> import tensorchain as tc
        >>> tc.TensorChain.random((4, 5, 6), (1, 2, 3), rng=0).transpose((1, 2, 0))
        TensorChain(5 x 6 x 4, rank=(2, 3, 1), 56 parameters, float64)
        """
        if isinstance(order, (int, np.integer)):
            raise TypeError(f"order {order!r} was given; all {self.order} modes in one tuple are needed")
        given = tuple(reversed(range(self.order))) if order is None else tuple(order)
        modes = tuple(checked_mode(mode, self.order) for mode in given)
        if sorted(modes) != list(range(self.order)):
            raise ValueError(f"order {given} was given; each of the modes 0 to {self.order - 1} is needed once")
        return self._reordered(modes)

    @property
    def T(self) -> Model:
        """The modes in reverse order."""
        return self.transpose()

    def with_blocks(self: Self, blocks: Sequence[Any]) -> Self:
        """The same wiring with other blocks, in their natural shapes.

        Parameters
        ----------
        blocks : sequence of array_like
            Shaped as `model.blocks`.

        Returns
        -------
        Model

        Raises
        ------
        ValueError
            When there is another number of blocks, one has another shape, or holds NaN or infinity.
        TypeError
            When one holds no numbers.

        Examples
        --------
        >>> import tensorchain as tc
        >>> cp = tc.CP.random((3, 4), 2, rng=0)
        >>> bool((cp.with_blocks([2 * cp.blocks[0], cp.blocks[1]]).full() == 2 * cp.full()).all())
        True
        """
        kind, old = type(self).__name__, self.blocks
        if not hasattr(blocks, "__len__"):
            raise TypeError(f"{kind}: blocks is a {type(blocks).__name__}; a sequence of {len(old)} arrays is needed")
        if len(blocks) != len(old):
            raise ValueError(f"{kind} has {len(old)} blocks, {len(blocks)} were given")
        arrays = check_blocks(kind, blocks)
        for k, (array, block) in enumerate(zip(arrays, old, strict=True)):
            if array.shape != block.shape:
                raise ValueError(
                    f"block {k} has shape {array.shape}; shape {block.shape} is needed, as in model.blocks"
                )
        return self.with_matrices([self._to_matrix(k, array) for k, array in enumerate(arrays)])

    # -- what a kind of model knows better ----------------------------------------------

    def _without_mode(self, mode: int, row: Array) -> ArrayLike:
        """The model without a mode, whose block has become `row` (P_k,); order 3 or more."""
        modes = tuple(None if m == mode else m if m is None or m < mode else m - 1 for m in self.network.modes)
        matrices = list(self._matrices)
        matrices[self.network.block_of_mode[mode]] = row[None]
        return _plain(Network(self.network.terms, modes), matrices)

    def _reordered(self, order: tuple[int, ...]) -> Model:
        modes = tuple(None if m is None else order.index(m) for m in self.network.modes)
        return _plain(Network(self.network.terms, modes), self._matrices)


def _plain(network: Network, matrices: Sequence[Array]) -> Model:
    from tensorchain.models.base import Model

    return Model.from_matrices(network, matrices)
