"""A tensor of which a few entries are known: a list of entries, all others are missing.

This is completion in the large (ratings, sensor logs): only the observed entries are held and visited.  With
w[z] their weights (1 by default), x[z] the model at them (`Model.entries`) and D_k[z] its design rows,

    ||T - X||_W^2       sum_z w[z] |t[z] - x[z]|^2, entry by entry, exact at any error,
    J_k^H W (T - X)     one pass over the entries with v = w (t - x) (:mod:`tensorchain.tensors.coordinates`),
    G_k[i]              sum over z with i_k[z] = i of  w[z] conj(D_k[z]) D_k[z]^T,        (I_k, P_k, P_k),
    J^H W J             sum_z w[z] conj(j[z]) j[z]^T, where row j[z] of J is D_1[z], ..., D_K[z] at the rows of the
                        blocks that z touches,
    J^H W J d           two passes: the first-order change at the entries, and its contraction.

Cost: Z P_k^2 / 2 multiplications for G_k, Z (sum P_k)^2 / 2 for J^H W J; nothing of the size of the tensor.

References: Acar, Dunlavy, Kolda, Morup, "Scalable tensor factorizations for incomplete data" (2011).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tensorchain import kernels
from tensorchain.evaluation import Evaluator
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.tensors.base import Residual
from tensorchain.tensors.boxes import empty_blocks, in_double
from tensorchain.tensors.coordinates import (
    Listed,
    checked_entries,
    chunks,
    contract_listed,
    is_product,
    ordered_factors,
    sorted_entries,
)
from tensorchain.tensors.curvature import unbiased_mode_gram
from tensorchain.tensors.dtypes import double_of
from tensorchain.tensors.masked import check_observed
from tensorchain.tensors.outside import on_host, opened
from tensorchain.tensors.tables import read_table

_CHUNK = 1 << 20
"""Numbers in the design rows of a chunk (8 MB in double precision)."""
_COUNTED = 1 << 20
"""Slices of a mode up to which those without an entry are found and named."""
_WHOLE = 1 << 23
"""Most numbers in design rows that an evaluator holds (64 MB in double precision)."""


class Observed(Listed):
    """The known entries of a tensor, in coordinates; what is not listed is missing.

    The error of a fit is over the observed entries: ||T - X||_W / ||T||_W.

    Parameters
    ----------
    indices : array_like of int
        (Z, N), one row for each entry, from 0; no position twice.
    values : array_like
        (Z,), real or complex; float32, float64 and complex128 are kept.  Entries that a `numpy.ma` mask hides are
        missing.
    shape : sequence of int
        (I_1, ..., I_N), order 2 to 50.
    weights : array_like, optional
        (Z,), positive.  Only their ratios matter: they are divided by their mean.

    Raises
    ------
    ValueError
        For positions outside the shape or given twice, NaN, weights that are not positive, or slices of the tensor
        without any entry.
    TypeError
        For indices that are not integers or values that are not numbers.

    See Also
    --------
    Observed.from_frame : from a table with names instead of positions.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.tensors.observed import Observed
    >>> rng = np.random.default_rng(0)
    >>> truth = tc.CP.random((40, 50, 60), rank=2, rng=rng)
    >>> where = np.unique(rng.integers(0, truth.shape, (4000, 3)), axis=0)
    >>> fit = tc.decompose(Observed(where, truth.entries(where), truth.shape), "cp", rank=2, rng=0)
    >>> bool(np.allclose(fit.model.full(), truth.full(), atol=1e-5))
    True
    """

    def __init__(self, indices: Any, values: Any, shape: Any, *, weights: Any = None) -> None:
        given = checked_entries("Observed", indices, values, shape)
        positions, numbers, self.shape, self.scale = given.indices, given.values, given.shape, given.scale
        if max(self.shape) > max(len(positions), _COUNTED):
            mode = self.shape.index(max(self.shape))
            raise ValueError(
                f"Observed: {len(positions)} entries cannot reach the {self.shape[mode]} slices of mode {mode + 1}; "
                f"number those that hold an entry: np.unique(indices[:, {mode}], return_inverse=True)"
            )
        order, starts = sorted_entries(positions, self.shape)
        if len(starts) < len(order):
            repeated = np.flatnonzero(np.diff(starts, append=len(order)) > 1)[0]
            twice = positions[order[starts[repeated]]]
            raise ValueError(
                f"Observed: {len(order) - len(starts)} positions are given more than once, such as {twice.tolist()}; "
                "average their values first (weights= counts them)"
            )
        seen = [np.bincount(positions[:, n], minlength=size) > 0 for n, size in enumerate(self.shape)]
        check_observed(self.shape, seen)
        self.indices, self.values = positions[order], numbers[order]
        self.dtype = self.values.dtype
        self._weights = None if weights is None else _checked_weights(weights, given.chosen, len(order))[order]
        self._complete = weights is None and len(order) == math.prod(self.shape)
        self._norm = self._size(self.values)

    @classmethod
    def from_frame(
        cls, frame: Any, columns: Sequence[str] | None = None, value: Any = None, *, weights: Any = None
    ) -> Any:
        """The entries in a table: one row for each, with the names of its indices and a value.

        Parameters
        ----------
        frame : pandas.DataFrame or pandas.Series
            Or any table whose columns are read by name, such as a dict of arrays.  A Series with a MultiIndex needs
            nothing else.
        columns : sequence of str, optional
            Columns that hold the indices, one for each mode; by default the levels of the index.
        value : str, optional
            The column that holds the values; by default the Series itself.
        weights : str, optional
            The column that holds the weights.

        Returns
        -------
        Observed
            With `dimension_names`, the names of the columns, and `labels`, for each mode what its indices stand for:
            the values that occur, in rising order (categories in theirs).

        Raises
        ------
        ValueError
            For columns that are not there, that hold nothing in some row, and entries given twice.
        TypeError
            For what is no table.

        Examples
        --------
        >>> import tensorchain as tc
        >>> table = {"who": ["ann", "bob", "ann", "bob"], "what": ["tea", "tea", "rye", "rye"], "price": [3.0, 4, 6, 8]}
        >>> T = tc.Observed.from_frame(table, ["who", "what"], "price")
        >>> T, T.labels
        (Observed(who 2 x what 2, 4 entries (100 %), float64), (('ann', 'bob'), ('rye', 'tea')))
        """
        table = read_table(frame, columns, value, weights)
        tensor = cls(table.indices, table.values, table.shape, weights=table.weights)
        tensor.dimension_names, tensor.labels = table.names, table.labels
        return tensor

    def _content(self) -> Iterable[Any]:
        return (self.indices, self.values) if self._weights is None else (self.indices, self.values, self._weights)

    def _described(self) -> list[str]:
        return [*super()._described(), *([] if self._weights is None else ["weighted"])]

    @property
    def weights(self) -> Array | None:
        """The weight of each entry; None where all weigh the same."""
        return self._weights

    @property
    def n_observed(self) -> int:
        """How many entries count."""
        return len(self.values)

    def observed_entries(self) -> tuple[Array, Array] | None:
        return self.indices, self._weights_of(slice(0, len(self.values)))

    @property
    def complete(self) -> bool:
        """Whether every entry counts, with the same weight."""
        return self._complete

    def norm(self) -> float:
        return self.scale * self._norm

    def residual_norm(self, model: Model) -> float:
        return self._size(self._difference(model))

    def residual(self, model: Model) -> Residual:
        difference = self._difference(model)

        def gradient() -> list[Array]:
            masses = self._weighted(difference)
            return [contract_listed(model, k, self.indices, masses) for k in range(len(model.matrices))]

        return Residual(self._size(difference), gradient)

    @property
    def _visited(self) -> int:
        return len(self.values)

    def gram(self, model: Model, k: int) -> Array:
        """L_k^H W L_k, one Gram for each row: (I_k, P_k, P_k).

        Parameters
        ----------
        model : Model
            Whose L_k is meant.
        k : int
            Position of the block, from 0.

        Returns
        -------
        ndarray
            (P_k, P_k), or (I_k, P_k, P_k) when rows differ.
        """
        from tensorchain.kernels import entries

        mode = model.network.modes[k]
        count, width = model.matrices[k].shape
        grams = np.zeros((count, width, width), dtype=double_of(*model.matrices))
        for chunk in chunks(slice(0, len(self.values)), _CHUNK // width):
            rows = model.design_rows(k, self.indices[chunk]).astype(grams.dtype, copy=False)
            weights = self._weights_of(chunk)
            if mode is None:
                grams[0] += (rows.conj() * weights[:, None]).T @ rows
            else:
                entries.add_grams(grams, self.indices[chunk, mode], weights, rows)
        return grams if mode is None else _mirrored(grams)

    def apply_gram(self, model: Model, k: int, matrix: Array) -> Array:
        values = self._values_of(model.with_matrix(k, matrix))
        weights = 1.0 if self._weights is None else self._weights
        return contract_listed(model, k, self.indices, weights * values)

    @property
    def mean_weight(self) -> float:
        """Mean of W over all entries: the share that is observed, where all observed ones weigh 1."""
        return len(self.values) / math.prod(self.shape)

    def evaluator(self, model: Model) -> Evaluator:
        width = sum(model.network.widths)
        return ObservedEvaluator(self, model) if len(self.values) * width <= _WHOLE else Evaluator(self, model)

    def gauss_newton(self, model: Model) -> Array:
        return self._gauss_newton(model, self._designs(model))

    def gauss_newton_matvec(self, model: Model, delta: Sequence[Array]) -> list[Array]:
        return self._gauss_newton_matvec(model, delta, self._designs(model))

    def mode_gram(self, mode: int) -> Array:
        """Unbiased estimate of T_(n) T_(n)^H from the observed entries, (I_n, I_n).

        Parameters
        ----------
        mode : int
            From 0.

        Returns
        -------
        ndarray
            (I_n, I_n).
        """
        return unbiased_mode_gram(super().mode_gram(mode), len(self.values) / math.prod(self.shape))

    # -- inside -------------------------------------------------------------------------

    def _difference(self, model: Model) -> Array:
        """T - X at the entries, (Z,)."""
        values = self._values_of(model)
        return np.subtract(np.multiply(self.values, self.scale, dtype=values.dtype), values, out=values)

    def _values_of(self, model: Model) -> Array:
        """X at the entries, (Z,), in double precision."""
        from tensorchain.kernels import entries

        model = in_double(model)
        dtype = double_of(self.values, *model.matrices)
        result = np.empty(len(self.values), dtype=dtype)
        if is_product(model) and dtype in (np.float64, np.complex128):
            entries.set_products(result, self.indices, ordered_factors(model, dtype))
        else:
            for chunk in chunks(slice(0, len(result)), _CHUNK // max(model.network.widths)):
                result[chunk] = model.entries(self.indices[chunk])
        return result

    def _gauss_newton(self, model: Model, designs: Iterable[tuple[slice, Array]]) -> Array:
        from tensorchain.kernels import entries

        modes, widths = model.network.modes, model.network.widths
        columns = np.concatenate([[0], np.cumsum(widths)])
        starts = np.cumsum([0] + [matrix.size for matrix in model.matrices])
        target = np.zeros((starts[-1], starts[-1]), dtype=double_of(*model.matrices))
        for chunk, rows in designs:
            positions = np.empty((len(rows), len(modes)), dtype=np.int64)
            for k, mode in enumerate(modes):
                positions[:, k] = starts[k]
                if mode is not None:
                    positions[:, k] += self.indices[chunk, mode].astype(np.int64) * widths[k]
            entries.add_normal(target, positions, columns, self._weights_of(chunk), rows)
        return _mirrored(target)

    def _gauss_newton_matvec(
        self, model: Model, delta: Sequence[Array], designs: Iterable[tuple[slice, Array]]
    ) -> list[Array]:
        from tensorchain.kernels import entries

        blocks = empty_blocks(model, np.result_type(*delta))
        dtype, modes = blocks[0].dtype, model.network.modes
        ends = np.cumsum(model.network.widths)[:-1]
        for chunk, rows in designs:
            mass = np.zeros(len(rows), dtype=dtype)
            for mode, design, step in zip(modes, np.split(rows, ends, axis=1), delta, strict=True):
                mass += (
                    np.einsum("zp,zp->z", design, step[self.indices[chunk, mode]])
                    if mode is not None
                    else design @ step[0]
                )
            mass *= self._weights_of(chunk)
            for mode, design, block in zip(
                modes, np.split(rows.conj().astype(dtype, copy=False), ends, axis=1), blocks, strict=True
            ):
                if mode is None:
                    block[0] += mass @ design
                else:
                    entries.add_rows(block, self.indices[chunk, mode], mass, design)
        return blocks

    def _designs(self, model: Model) -> Iterator[tuple[slice, Array]]:
        """Chunks of entries with the design rows of all blocks side by side, (entries, sum P_k)."""
        whole = slice(0, len(self.values))
        for chunk in chunks(whole, _CHUNK // sum(model.network.widths)):
            yield chunk, _side_by_side(model, self.indices[chunk])

    def _masses(self) -> Array:
        return self._weighted(self.values)

    def _weighted(self, numbers: Array) -> Array:
        return numbers if self._weights is None else numbers * self._weights

    def _weights_of(self, chunk: slice) -> Array:
        return np.ones(chunk.stop - chunk.start) if self._weights is None else self._weights[chunk]

    def _size(self, numbers: Array) -> float:
        """Weighted norm of numbers at the entries."""
        return kernels.norm(numbers if self._weights is None else numbers * np.sqrt(self._weights))


class ObservedEvaluator(Evaluator):
    """Holds the design rows of its model: conjugate gradients ask for them again and again."""

    tensor: Observed
    _rows: Array | None = None

    def hold(self, model: Model) -> None:
        if model is not self.model:
            self._rows = None
        super().hold(model)

    def gauss_newton(self) -> Array:
        return self.tensor._gauss_newton(self.model, self._designs())

    def gauss_newton_matvec(self, delta: Sequence[Array]) -> list[Array]:
        return self.tensor._gauss_newton_matvec(self.model, delta, self._designs())

    def _designs(self) -> list[tuple[slice, Array]]:
        if self._rows is None:
            self._rows = _side_by_side(self.model, self.tensor.indices)
        return [(slice(0, len(self._rows)), self._rows)]


def _side_by_side(model: Model, indices: Array) -> Array:
    rows = [model.design_rows(k, indices) for k in range(len(model.matrices))]
    return np.concatenate(rows, axis=1, dtype=double_of(*model.matrices))


def _checked_weights(weights: Any, chosen: Array | None, count: int) -> Array:
    """Weights of the `count` entries that are held, with mean 1; `chosen` says which of those given they are."""
    inside = on_host("Observed, weights", opened(weights))
    given = inside.data
    if given.dtype.kind not in "iubf":
        raise TypeError(f"Observed: weights have dtype {given.dtype}; real numbers are needed")
    expected = count if chosen is None else len(chosen)
    if given.shape != (expected,):
        raise ValueError(
            f"Observed: weights have shape {given.shape}; one number for each of the {expected} entries is needed"
        )
    if inside.missing is not None and inside.missing.any():
        raise ValueError("Observed: some weights are masked; drop the entries that should not count")
    given = given.astype(np.float64) if chosen is None else given.astype(np.float64)[chosen]
    if not np.all(np.isfinite(given)) or np.any(given <= 0):
        raise ValueError("Observed: weights hold NaN, infinity or numbers <= 0; drop entries that should not count")
    given = given / given.max()
    return np.asarray(given / given.mean())


def _mirrored(lower: Array) -> Array:
    """The Hermitian matrices whose lower triangles are given, the rest being zero."""
    return np.asarray(lower + np.tril(lower, -1).conj().swapaxes(-1, -2))
