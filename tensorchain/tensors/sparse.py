"""Sparse tensors: a list of entries, all others are zero.

    L_k^H vec(T)        one pass over the entries (:mod:`tensorchain.tensors.coordinates`),
    ||T - X||^2         ||T||^2 - 2 <T, X> + ||X||^2 with ||X|| from the model,
    J_k^H (T - X)       L_k^H vec(T) - B_k M_k^T,
    J^H J               from the model alone: every entry is known.

So nothing of the size of the tensor is ever formed, and a step costs the entries that are there.  The short
formula for the error loses what is below 1e-8 ||T||: smaller errors come from differences that are formed, entry by
entry for small tensors, and in the subspaces of the blocks else (:mod:`tensorchain.tensors.projected`).  Where that
costs too much, an upper bound is given, which is at least 1e-8 ||T||.

Entries that are *missing* rather than zero are the business of `Observed` and `Masked`.

References: Bader and Kolda, "Efficient MATLAB computations with sparse and factored tensors" (2008).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from tensorchain import kernels
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.tensors.base import Residual
from tensorchain.tensors.boxes import boxes, in_double, part
from tensorchain.tensors.coordinates import Listed, checked_entries, sorted_entries
from tensorchain.tensors.dtypes import double_of
from tensorchain.tensors.projected import projected_cost, projected_error
from tensorchain.tensors.tables import read_table

_DIGITS = 1e6
"""How far ||T - X||^2 must be above its rounding error to be taken from the short formula."""
_ENUMERATED = 1 << 20
"""Most entries of a tensor whose small errors are computed one by one."""
_RARELY, _ONCE = 3e8, 1e12
"""Most multiplications for a small error: in each step of a run, and at the end of one."""


class Sparse(Listed):
    """A sparse tensor in coordinates (COO); what is not listed is zero.

    Parameters
    ----------
    indices : array_like of int
        (Z, N), one row for each entry, from 0.
    values : array_like
        (Z,), real or complex; float32, float64 and complex128 are kept.  Entries at one position are summed.
        None may be hidden by a `numpy.ma` mask: what is not listed is zero here, and missing in `Observed`.
    shape : sequence of int
        (I_1, ..., I_N), order 2 to 50.

    Raises
    ------
    ValueError
        For positions outside the shape, other numbers of positions than values, NaN or infinity.
    TypeError
        For indices that are not integers or values that are not numbers.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.tensors.sparse import Sparse
    >>> T = Sparse([[0, 0, 0], [1, 1, 1], [1, 1, 1]], [3.0, 1.0, 1.0], shape=(50, 60, 70))
    >>> T, T.to_dense()[1, 1, 1].item()
    (Sparse(50 x 60 x 70, 2 entries (0.000952 %), float64), 2.0)
    >>> tc.decompose(T, "cp", rank=2, rng=0).error < 1e-6
    True
    """

    def __init__(self, indices: Any, values: Any, shape: Any) -> None:
        given = checked_entries("Sparse", indices, values, shape)
        self.shape, self.scale = given.shape, given.scale
        order, starts = sorted_entries(given.indices, self.shape)
        self.indices = given.indices[order[starts]]
        self.values = np.add.reduceat(given.values[order], starts)
        self.dtype = self.values.dtype
        self._norm = kernels.norm(self.values)

    @classmethod
    def from_frame(cls, frame: Any, columns: Sequence[str] | None = None, value: Any = None) -> Sparse:
        """The entries in a table, such as one of counts: what it does not hold is zero, equal rows are summed.

        Parameters
        ----------
        frame : pandas.DataFrame or pandas.Series
            Or any table whose columns are read by name, such as a dict of arrays.  A Series with a MultiIndex needs
            nothing else.
        columns : sequence of str, optional
            Columns that hold the indices, one for each mode; by default the levels of the index.
        value : str, optional
            The column that holds the values; by default the Series itself.

        Returns
        -------
        Sparse
            With `dimension_names`, the names of the columns, and `labels`, for each mode what its indices stand for:
            the values that occur, in rising order (categories in theirs).

        Raises
        ------
        ValueError
            For columns that are not there, or that hold nothing in some row.
        TypeError
            For what is no table.

        See Also
        --------
        Observed.from_frame : The same where what the table does not hold is unknown.

        Examples
        --------
        >>> import tensorchain as tc
        >>> table = {"who": ["ann", "bob", "ann"], "word": ["tea", "rye", "tea"], "times": [3, 1, 2]}
        >>> T = tc.Sparse.from_frame(table, ["who", "word"], "times")
        >>> T.labels, T.to_dense().tolist()
        ((('ann', 'bob'), ('rye', 'tea')), [[0.0, 5.0], [1.0, 0.0]])
        """
        table = read_table(frame, columns, value, None)
        tensor = cls(table.indices, table.values, table.shape)
        tensor.dimension_names, tensor.labels = table.names, table.labels
        return tensor

    @classmethod
    def from_scipy(cls, matrix: Any) -> Sparse:
        """From a scipy.sparse array or matrix, which has order 2 (or an array of higher order in COO form).

        Parameters
        ----------
        matrix : scipy.sparse array or matrix
            In any format.

        Returns
        -------
        Sparse
            With the same entries.

        Examples
        --------
        >>> import scipy.sparse, tensorchain as tc
        >>> tc.Sparse.from_scipy(scipy.sparse.eye_array(3)).norm() ** 2  # doctest: +NUMBER
        3.0
        """
        listed = matrix.tocoo()
        columns = listed.coords if hasattr(listed, "coords") else (listed.row, listed.col)
        return cls(np.stack(columns, axis=1), listed.data, listed.shape)

    @classmethod
    def from_pydata(cls, array: Any) -> Sparse:
        """From an array of the package `sparse` (COO, GCXS or DOK), whose fill value must be zero.

        Parameters
        ----------
        array : array_like
            COO, GCXS or DOK.

        Returns
        -------
        Sparse
            With the same entries.

        Raises
        ------
        ValueError
            When the fill value is not zero.

        Examples
        --------
        >>> import numpy as np, sparse, tensorchain as tc
        >>> tc.Sparse.from_pydata(sparse.COO.from_numpy(np.eye(3))).shape
        (3, 3)
        """
        listed = array if hasattr(array, "coords") else array.tocoo() if hasattr(array, "tocoo") else array.to_coo()
        if listed.fill_value != 0:
            raise ValueError(f"the fill value is {listed.fill_value}; a sparse tensor needs 0: use array.todense()")
        return cls(listed.coords.T, listed.data, listed.shape)

    @classmethod
    def from_torch(cls, tensor: Any) -> Sparse:
        """From a sparse tensor of PyTorch, in whatever layout.

        Parameters
        ----------
        tensor : array_like or Tensor
            In any sparse layout.

        Returns
        -------
        Sparse
            With the same entries.

        Examples
        --------
        >>> import torch, tensorchain as tc
        >>> tc.Sparse.from_torch(torch.eye(3).to_sparse()).shape
        (3, 3)
        """
        listed = tensor.detach().to_sparse_coo().coalesce().cpu()
        return cls(listed.indices().T.numpy(), listed.values().numpy(), tuple(listed.shape))

    def _content(self) -> Iterable[Any]:
        return self.indices, self.values

    def norm(self) -> float:
        return self.scale * self._norm

    def residual_norm(self, model: Model) -> float:
        return self._measured(model, _RARELY)

    def exact_error(self, model: Model) -> float:
        return self._measured(model, _ONCE)

    def residual(self, model: Model) -> Residual:
        model = in_double(model)
        # The contraction that gives the norm is the first one of the gradient.
        first = self.contract_all_but(model, 0)

        def gradient() -> list[Array]:
            contracted = [first, *(self.contract_all_but(model, k) for k in range(1, len(model.matrices)))]
            return [
                values - self.apply_gram(model, k, matrix)
                for k, (values, matrix) in enumerate(zip(contracted, model.matrices, strict=True))
            ]

        return Residual(self._error(model, first), gradient)

    # -- inside -------------------------------------------------------------------------

    def _measured(self, model: Model, most: float) -> float:
        """||T - X||, in a scale where squares neither overflow nor vanish."""
        size, model = self.norm(), in_double(model)
        if size > 0.0 and not 1e-100 < size < 1e100:
            unit, model = self.scaled(1.0 / size), model.scaled(1.0 / size)
            return size * unit._error(model, unit.contract_all_but(model, 0), most)
        return self._error(model, self.contract_all_but(model, 0), most)

    def _error(self, model: Model, first: Array, most: float = _RARELY) -> float:
        """||T - X|| from L_0^H vec(T), and where that has lost its digits from T - X, for at most that many products.

        Beyond, it is an upper bound: the square and its rounding error.
        """
        size = self.norm()
        cross = float(np.vdot(model.matrices[0], first).real)
        square = size**2 - 2.0 * cross + model.norm() ** 2
        terms = math.sqrt(abs(float(np.vdot(model.matrices[0], model.matrices[0]).real) * model.gram_traces()[0]))
        lost = np.finfo(float).eps * (size + terms) ** 2
        if not square <= _DIGITS * lost:
            return math.sqrt(square)
        if math.prod(self.shape) <= _ENUMERATED:
            return self._enumerated_error(model)
        if projected_cost(self.indices, model) <= most:
            return projected_error(self.indices, np.multiply(self.values, self.scale, dtype=self._double), model)
        return math.sqrt(max(square, 0.0) + lost)

    @property
    def _double(self) -> np.dtype[Any]:
        return double_of(self.values)

    @cached_property
    def _in_memory_order(self) -> tuple[Array, Array]:
        """Entries as positions in a flat array, ascending, and their values."""
        flat = np.ravel_multi_index(tuple(self.indices.T), self.shape)
        order = np.argsort(flat)
        return flat[order], self.values[order]

    def _enumerated_error(self, model: Model) -> float:
        """||T - X|| from T - X itself, one box at a time; a box is one range of the flat array."""
        flat, values = self._in_memory_order
        norms, begin = [], 0
        model = in_double(model)
        for box in boxes(self.shape):
            piece = part(model, box).full()
            piece = piece.astype(double_of(piece, values)).ravel()
            here = slice(*np.searchsorted(flat, [begin, begin + piece.size]))
            piece[flat[here] - begin] -= np.multiply(values[here], self.scale, dtype=piece.dtype)
            norms.append(kernels.norm(piece))
            begin += piece.size
        return kernels.norm(np.array(norms))
