"""Arrays with missing or weighted entries: minimise sum W |T - X|^2, W = 1 where observed and 0 elsewhere.

With W the weights as a tensor,

    L_k^H vec(W T)                      the contraction of a dense array, through its fast data source,
    J_k^H vec(W (T - X))                the same of the weighted residual, one slab at a time,
    L_k^H W L_k,  J^H W J               matrix products with W (:mod:`tensorchain.tensors.curvature`),
    J^H W J d                           J_k^H of the weighted first-order change W (J d), slab by slab.

Cost: that of a dense array, and |T| P_k^2 for each Gram, whatever is missing.  Where very few entries are
observed, `Observed` holds and visits only these.

References: Acar, Dunlavy, Kolda, Morup, "Scalable tensor factorizations for incomplete data" (2011).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from tensorchain import kernels
from tensorchain.evaluation import DenseEvaluator, Evaluator, Partials
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.tensors.base import Residual, Tensor
from tensorchain.tensors.boxes import Box, boxes, empty_blocks, in_double, part, rows_of, split
from tensorchain.tensors.curvature import unbiased_mode_gram, weighted_gram, weighted_normal_matrix
from tensorchain.tensors.dense import Dense, add_gradient
from tensorchain.tensors.dtypes import double_of
from tensorchain.tensors.intake import dense_numbers, moderate
from tensorchain.tensors.outside import Given, either, on_host, opened

_WHOLE = 1 << 21
"""Most entries of a residual that is held for its gradient (16 MB in double precision)."""


class Masked(Tensor):
    """An array of which some entries are missing, or count more than others.

    The error of a fit is over the observed entries: ||T - X||_W / ||T||_W.

    Parameters
    ----------
    array : array_like
        Numbers, order 2 to 50; what is not observed may be NaN.  Entries that a `numpy.ma` mask hides are missing, and
        the names of an `xarray.DataArray` are kept.
    mask : array_like of bool, optional
        Shaped like `array`, True where observed; by default what is not NaN and not hidden by a mask of the array, or
        what has a positive weight.  (A mask of `numpy.ma` says the opposite: True where missing.)
    weights : array_like, optional
        W >= 0, shaped like `array`.  Only their ratios matter: they are divided by their mean over the observed
        entries.  A weight of zero, or one that is masked, is a missing entry.

    Raises
    ------
    ValueError
        When the mask or the weights have another shape, weights are negative or not finite, an observed entry is NaN or
        infinite, or some slice of the tensor has no observed entry (its row of the blocks could be anything).
    TypeError
        For a mask that is not boolean, dtypes that are not numbers, and arrays that are sparse or on a device.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.tensors.masked import Masked
    >>> T = np.outer(np.arange(1.0, 7.0), np.arange(1.0, 6.0))
    >>> holes = T.copy()
    >>> holes[[0, 2, 3], [1, 4, 0]] = np.nan
    >>> fit = tc.decompose(Masked(holes), "cp", rank=1, rng=0)
    >>> bool(np.allclose(fit.model.full(), T))
    True
    """

    def __init__(self, array: Any, mask: Any = None, *, weights: Any = None) -> None:
        values, given = dense_numbers("Masked", array)
        hidden = given.missing
        observed = None if mask is None else _checked_mask(values, mask, given.names)
        weight = None
        if weights is not None:
            weight, unweighted = _checked_weights(values, weights, given.names)
            hidden = either(hidden, unweighted)
            observed = weight > 0 if observed is None else observed & (weight > 0)
        if observed is None:
            observed = ~np.isnan(values) if hidden is None else np.ones(values.shape, dtype=bool)
        if hidden is not None:
            observed = observed & ~hidden
        seen = [np.atleast_1d(observed.any(axis=tuple(_others(n, values.ndim)))) for n in range(values.ndim)]
        check_observed(values.shape, seen)
        kept, self.scale, size = moderate(np.where(observed, values, values.dtype.type(0)))
        if not np.isfinite(size):
            which = "the mask is True where an entry is observed; " if mask is not None else ""
            raise ValueError(
                f"an observed entry is NaN or infinite; {which}mask such entries, or give them the weight 0"
            )
        self._weight = observed
        if weight is not None and np.ptp(weight[observed]) > 0.0:
            real = np.float32 if values.dtype == np.float32 else np.float64
            self._weight = np.where(observed, weight / weight[observed].max(), 0.0)
            self._weight = (self._weight / self._weight[observed].mean()).astype(real)
            if not np.all(self._weight[observed] > 0):
                least = weight[observed].min() / weight[observed].max()
                raise ValueError(
                    f"the least weight is {least:.1e} of the largest, less than their precision holds; give such "
                    "entries the weight 0"
                )
            # In double precision: for large weights the rounding of W T would be that of all data.
            kept = np.multiply(kept, self._weight, dtype=double_of(kept))
        self._complete = self._weight.dtype == np.bool_ and bool(self._weight.all())
        self._data = Dense(kept)
        # Both scales are one: that of the entries, and what products with weights asked for.
        self.scale *= self._data.scale
        self._data = self._data.scaled(self.scale / self._data.scale)
        self._name(given)
        self.shape, self.dtype = self._data.shape, values.dtype
        self._norm = kernels.norm(np.array([self._size(self._data.array[box], box) for box in boxes(self.shape)]))

    def _described(self) -> list[str]:
        share = np.count_nonzero(self._weight) / self._weight.size
        weighted = [] if self._weight.dtype == bool else ["weighted"]
        return [str(self.dtype), f"{100.0 * share:.3g} % observed", *weighted]

    def _content(self) -> Iterable[Any]:
        weights = [] if self._weight.dtype == bool else [self._weight]
        return [self._data.array, np.packbits(self.observed), *weights]

    @property
    def observed(self) -> Array:
        """True where an entry counts; boolean, shaped like the tensor."""
        return np.asarray(self._weight > 0)

    @property
    def weights(self) -> Array | None:
        """W, shaped like the tensor, 0 where nothing is observed; None where all observed entries weigh the same."""
        return None if self._weight.dtype == bool else self._weight

    @property
    def n_observed(self) -> int:
        """How many entries count."""
        return int(np.count_nonzero(self._weight))

    def observed_entries(self) -> tuple[Array, Array] | None:
        positions = np.argwhere(self._weight)
        return positions, self._weight[tuple(positions.T)].astype(np.float64)

    @property
    def complete(self) -> bool:
        """Whether every entry counts, with the same weight."""
        return self._complete

    def scaled(self, factor: float) -> Masked:
        twin = object.__new__(Masked)
        twin.__dict__.update(self.__dict__)
        twin.scale = self.scale * factor
        twin._data = self._data.scaled(factor)
        return twin

    def norm(self) -> float:
        return self.scale * self._norm

    def contract_all_but(self, model: Model, k: int) -> Array:
        return self._data.contract_all_but(model, k)

    def evaluator(self, model: Model) -> Evaluator:
        return DenseEvaluator(self, model, self._data.array, scale=self._data.scale)

    def residual_norm(self, model: Model) -> float:
        model = in_double(model)
        return kernels.norm(np.array([self._size(self._error(model, box), box) for box in boxes(self.shape)]))

    def residual(self, model: Model) -> Residual:
        model = in_double(model)
        pieces = [(box, self._error(model, box)) for box in boxes(self.shape)] if self._small else None
        if pieces is None:
            return Residual(self.residual_norm(model), lambda: self._gradient(model, self._errors(model)))
        size = kernels.norm(np.array([self._size(piece, box) for box, piece in pieces]))
        return Residual(size, lambda: self._gradient(model, pieces))

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
        return weighted_gram(model, k, self._weight)

    def apply_gram(self, model: Model, k: int, matrix: Array) -> Array:
        image = model.with_matrix(k, matrix)
        result = np.zeros(matrix.shape, dtype=double_of(*image.matrices))
        for box in boxes(self.shape):
            piece = Partials(self._weight[box] * part(image, box).full())
            result[rows_of(model, k, box)] += piece.all_but(part(model, box), k)
        return result

    @cached_property
    def mean_weight(self) -> float:
        """Mean of W over all entries: the share that is observed, where all observed ones weigh 1."""
        return float(self._weight.mean(dtype=np.float64))

    def gauss_newton(self, model: Model) -> Array:
        return weighted_normal_matrix(model, self._weight)

    def gauss_newton_matvec(self, model: Model, delta: Sequence[Array]) -> list[Array]:
        blocks = empty_blocks(model, np.result_type(*delta))
        for box in boxes(self.shape):
            change = part(model, box).derivative(split(model, delta, box))
            add_gradient(blocks, model, box, self._weight[box] * change)
        return blocks

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
        filled = self._data if self._weight.dtype == bool else Dense(self.to_dense())
        return unbiased_mode_gram(filled.mode_gram(mode), np.count_nonzero(self._weight) / self._weight.size)

    def to_dense(self) -> Array:
        """The tensor with missing entries as zero.

        Returns
        -------
        ndarray
            (I_1, ..., I_N).
        """
        kept = self._data.to_dense()
        if self._weight.dtype == bool:
            return kept
        return np.divide(kept, self._weight, out=np.zeros_like(kept), where=self._weight > 0).astype(self.dtype)

    # -- inside -------------------------------------------------------------------------

    @property
    def _small(self) -> bool:
        """Whether the whole residual is kept for the gradient."""
        return self._weight.size <= _WHOLE

    def _error(self, model: Model, box: Box) -> Array:
        """W (T - X) in a box."""
        value = self._weight[box] * part(model, box).full()
        data = self._data.array[box]
        dtype = double_of(data, value)
        return np.asarray(np.subtract(np.multiply(data, self._data.scale, dtype=dtype), value, dtype=dtype))

    def _errors(self, model: Model) -> Iterator[tuple[Box, Array]]:
        return ((box, self._error(model, box)) for box in boxes(self.shape))

    def _size(self, piece: Array, box: Box) -> float:
        """Weighted norm of E from W E in a box."""
        if self._weight.dtype == bool:
            return kernels.norm(piece)
        weight = self._weight[box]
        return kernels.norm(piece[weight > 0] / np.sqrt(weight[weight > 0], dtype=np.float64))

    def _gradient(self, model: Model, pieces: Any) -> list[Array]:
        blocks = empty_blocks(model, self.dtype)
        for box, piece in pieces:
            add_gradient(blocks, model, box, piece)
        return blocks


def check_observed(shape: tuple[int, ...], seen: Sequence[Array]) -> None:
    """Every slice needs an observed entry; seen[n][i] tells whether slice i of mode n has one."""
    if not any(np.any(slices) for slices in seen):
        raise ValueError(f"no entry is observed among the {np.prod([float(s) for s in shape]):.3g} of shape {shape}")
    for mode, slices in enumerate(seen):
        empty = np.flatnonzero(~slices)
        if len(empty):
            names = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
            raise ValueError(
                f"no entry is observed in {len(empty)} of the {shape[mode]} slices of mode {mode + 1} (index {names}): "
                f"nothing determines their rows; drop these slices, as in np.delete(T, [{names}], axis={mode})"
            )


def _aligned(given: Given, names: tuple[str, ...] | None) -> Array:
    """An array whose dimensions have names, in the order of those of the tensor."""
    array = np.asarray(given.data)
    if names is None or given.names is None or given.names == names or sorted(given.names) != sorted(names):
        return array
    return array.transpose([given.names.index(name) for name in names])


def _checked_mask(values: Array, mask: Any, names: tuple[str, ...] | None) -> Array:
    given = on_host("Masked, mask", opened(mask))
    observed = _aligned(given, names)
    if observed.dtype != bool:
        raise TypeError(
            f"the mask has dtype {observed.dtype}; a boolean one is needed, True where observed: "
            "np.asarray(mask, dtype=bool), or weights=mask when the numbers are weights"
        )
    if observed.shape != values.shape:
        raise ValueError(f"the mask has shape {observed.shape} and the tensor {values.shape}; they must be equal")
    return observed if given.missing is None else observed & ~_aligned(replace(given, data=given.missing), names)


def _checked_weights(values: Array, weights: Any, names: tuple[str, ...] | None) -> tuple[Array, Array | None]:
    """The weights, and where they are masked."""
    inside = on_host("Masked, weights", opened(weights))
    given = _aligned(inside, names)
    if given.dtype.kind not in "iubf":
        raise TypeError(f"the weights have dtype {given.dtype}; real numbers are needed")
    if given.shape != values.shape:
        raise ValueError(f"the weights have shape {given.shape} and the tensor {values.shape}; they must be equal")
    hidden = None if inside.missing is None else _aligned(replace(inside, data=inside.missing), names)
    given = given.astype(np.float64)
    if hidden is not None:
        given = np.where(hidden, 0.0, given)
    if not np.all(np.isfinite(given)) or np.any(given < 0):
        raise ValueError("the weights hold NaN, infinity or negative numbers; finite weights >= 0 are needed")
    return given, hidden


def _others(mode: int, order: int) -> list[int]:
    return [n for n in range(order) if n != mode]
