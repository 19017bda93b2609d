"""What a solver may ask of the data.

A *data source* answers three questions about a tensor T (shape (I_1, ..., I_N)) and a model X:

    norm()                          ||T||
    contract_all_but(model, k)      L_k^H vec(T), in matrix form (I_k, P_k)
    residual_norm(model)            ||T - X||

and the rest has a default here in terms of them.  Data sources that see only part of the entries
(missing or weighted data) also override the curvature: `solve_gram`, `gauss_newton`, `matvec`.

All answers come as double; sums over float32 data are made in float32, at its speed and rounding.
A data source carries a scale: solvers work on T / ||T||, and no copy of the data is made for that.

Long by its docstrings: the code alone has fewer than 200 lines.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np

from tensorchain.evaluation import Evaluator
from tensorchain.kernels import Array, GramSystem, System
from tensorchain.models import Model
from tensorchain.tensors.curvature import core_system, unformed
from tensorchain.tensors.intake import digest_of
from tensorchain.tensors.outside import Given, Labels

Source = TypeVar("Source", bound="Tensor")

_DOUBLE = 1e-9
"""Residual relative to the terms of X that has six digits in double precision."""
_EXTENDED = 1 << 29
"""Most products that are made in extended precision: some seconds."""


class Residual:
    """T - X at one model: its norm at once, its gradient when asked (a rejected step never asks).

    Attributes
    ----------
    norm : float
        ||T - X||_F.
    """

    def __init__(self, norm: float, gradient: Callable[[], list[Array]]) -> None:
        self.norm = norm
        self._make = gradient

    @cached_property
    def gradient(self) -> list[Array]:
        """J_k^H (T - X) for each block, in matrix form."""
        return self._make()


class Tensor(ABC):
    """A tensor that is given somewhere; `scale` multiplies every answer.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> isinstance(tc.Dense(np.ones((2, 3))), tc.Tensor)
    True
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float = 1.0
    dimension_names: tuple[str, ...] | None = None
    """What the modes are called, where the data had names."""
    labels: Labels | None = None
    """For each mode what its indices are called, or None."""

    def __repr__(self) -> str:
        names = self.dimension_names or ("",) * len(self.shape)
        sizes = " x ".join(f"{name} {size}".strip() for name, size in zip(names, self.shape, strict=True))
        return f"{type(self).__name__}({', '.join([sizes, *self._described()])})"

    def _described(self) -> list[str]:
        """What `repr` says after the shape."""
        return [str(self.dtype)]

    def digest(self) -> str:
        """A digest of the entries, the mask, the weights and the class: equal for equal data, other for others.

        It identifies checkpoints, so that a run goes on with the data that it began with.  One pass over the data.

        Returns
        -------
        str
            In hexadecimal.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> one, same, other = (tc.Dense(np.full((2, 2), value)).digest() for value in (1.0, 1.0, 2.0))
        >>> one == same, one == other
        (True, False)
        """
        return digest_of([type(self).__name__, self.shape, str(self.dtype), self.scale, *self._content()])

    def _content(self) -> Iterable[Any]:
        """Arrays and numbers that say what the data are."""
        raise TypeError(f"{type(self).__name__} has no digest, so its runs have no checkpoint; write `_content`")

    def _name(self, given: Given) -> None:
        """Take over the names that came with the data."""
        self.dimension_names, self.labels = given.names, given.labels

    @property
    def order(self) -> int:
        """The number of modes, N."""
        return len(self.shape)

    @property
    def n_observed(self) -> int:
        """Entries that count: all of them, or those that are observed."""
        return math.prod(self.shape)

    def computed(self: Source) -> Source:
        """The tensor as a run computes with it: small ones in double precision, with the rounding of the data.

        Returns
        -------
        Source
            Small tensors in double precision.
        """
        return self

    def near(self) -> Tensor:
        """The tensor where a solver of many small steps is fastest: few entries of a device come to the host.

        Returns
        -------
        Tensor
            In memory, or the same.
        """
        return self

    def reduced(self, sizes: Sequence[int], rng: np.random.Generator) -> tuple[Array, list[Array]] | None:
        """Core and orthonormal bases of these sizes, T ~ G x_1 U_1 ... x_N U_N, made where the data are.

        None for data that have no way of their own: :mod:`tensorchain.solvers.reduction` then asks for products.

        Parameters
        ----------
        sizes : sequence of int
            Of the core.
        rng : numpy.random.Generator
            For what is drawn.

        Returns
        -------
        tuple of (ndarray, list of ndarray) or None
            The core, and a basis for each mode.
        """
        return None

    @property
    def rounding(self) -> float:
        """Relative rounding of the data, by their type."""
        return 0.5 * float(np.finfo(self.dtype).eps)

    @abstractmethod
    def scaled(self: Source, factor: float) -> Source:
        """The data source of factor * T, sharing the data.

        Parameters
        ----------
        factor : float
            What every entry is multiplied by.

        Returns
        -------
        Source
            Of the same class; the data are shared.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> tc.Dense(np.ones((2, 2))).scaled(3.0).norm()
        6.0
        """

    @abstractmethod
    def norm(self) -> float:
        """||T||_F (over the observed entries, with their weights).

        Returns
        -------
        float
            The Frobenius norm.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> tc.Masked(np.array([[3.0, np.nan], [0.0, 4.0]])).norm()
        5.0
        """

    def evaluator(self, model: Model) -> Evaluator:
        """What a run computes with: buffers and partial products belong to it, nothing of them to the tensor.

        Parameters
        ----------
        model : Model
            The model to begin with; the evaluator is for models of its wiring, shape and dtype.

        Returns
        -------
        Evaluator
            For one thread.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> model = tc.CP.random((4, 5, 6), 2, rng=0)
        >>> evaluator = tc.Dense(2.0 * model.full()).evaluator(model)
        >>> bool(np.isclose(evaluator.error(), model.norm()))
        True
        >>> evaluator.replace(0, 2.0 * model.matrices[0])
        >>> evaluator.error() < 1e-12
        True
        """
        return Evaluator(self, model)

    @property
    def in_memory(self) -> Array | None:
        """The array where all of it is in memory, else None."""
        return None

    @abstractmethod
    def contract_all_but(self, model: Model, k: int) -> Array:
        """L_k^H vec(T): MTTKRP for CP, TTM chain for Tucker, T times subchain for TC; (I_k, P_k).

        Parameters
        ----------
        model : Model
            Its blocks but one are contracted.
        k : int
            Position of the block, from 0.

        Returns
        -------
        ndarray
            (I_k, P_k).
        """

    def residual_norm(self, model: Model) -> float:
        """||T - X||_F.

        The default uses ||T||^2 - 2 <T, X> + ||X||^2, which loses what is below 1e-8 ||T||.

        Parameters
        ----------
        model : Model
            Of the same shape.

        Returns
        -------
        float
            ||T - X||_F.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> model = tc.CP([np.ones((2, 1)), np.ones((2, 1))])
        >>> tc.Dense(np.full((2, 2), 3.0)).residual_norm(model)
        4.0
        """
        cross = np.vdot(model.matrices[0], self.contract_all_but(model, 0)).real
        square = self.norm() ** 2 - 2.0 * float(cross) + model.norm() ** 2
        return float(np.sqrt(max(square, 0.0)))

    def exact_error(self, model: Model) -> float:
        """||T - X||_F for the record: for the model that a run returns, once.

        In double precision X has an error of 1e-16 times the size of its terms.  Where the residual is not far above
        that, it is formed again in extended precision, if the machine has one and it does not take too long: then
        errors of 1e-12 ||T|| have six digits.

        Parameters
        ----------
        model : Model
            X, of the shape of T.

        Returns
        -------
        float
            ||T - X||_F, over the observed entries, with their weights.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> model = tc.CP.random((4, 5, 6), 2, rng=0)
        >>> T = model.full()
        >>> T[0, 0, 0] += 1.0
        >>> round(tc.Dense(T).exact_error(model), 12)
        1.0
        """
        error, wide = self.residual_norm(model), np.result_type(model.dtype, self.dtype, np.longdouble)
        if np.finfo(wide).eps >= np.finfo(np.float64).eps or self._visited * max(model.network.widths) > _EXTENDED:
            return error
        with np.errstate(all="ignore"):
            terms = math.sqrt(abs(float(np.vdot(model.matrices[0], model.matrices[0]).real) * model.gram_traces()[0]))
        size = max(self.norm(), terms if math.isfinite(terms) else 0.0)
        return error if error >= _DOUBLE * size else self.residual_norm(model.astype(wide))

    @property
    def _visited(self) -> int:
        """Entries that a residual is made of."""
        return math.prod(self.shape)

    def residual(self, model: Model) -> Residual:
        """T - X, ready to give its norm and its gradient.

        Parameters
        ----------
        model : Model
            Of the same shape.

        Returns
        -------
        Residual
            What gives norm and gradient.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> model = tc.CP([np.ones((2, 1)), np.ones((2, 1))])
        >>> tc.Dense(np.full((2, 2), 3.0)).residual(model).norm
        4.0
        """

        def gradient() -> list[Array]:
            return [
                self.contract_all_but(model, k) - self.apply_gram(model, k, matrix)
                for k, matrix in enumerate(model.matrices)
            ]

        return Residual(self.residual_norm(model), gradient)

    def gram(self, model: Model, k: int) -> Array:
        """L_k^H L_k over the observed entries: (P_k, P_k), or (I_k, P_k, P_k) when rows differ.

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
        return model.gram(k)

    def observed_entries(self) -> tuple[Array, Array] | None:
        """(positions (Z, N), weights (Z,)) of the entries that count; None where they cannot be listed, or all do.

        Returns
        -------
        tuple of (ndarray, ndarray) or None
            Positions and weights, or None.
        """
        return None

    @property
    def complete(self) -> bool:
        """Whether every entry counts, with the same weight."""
        return type(self).gram is Tensor.gram

    @property
    def weights(self) -> Array | None:
        """Those of the observed entries; None where all weigh the same."""
        return None

    @property
    def mean_weight(self) -> float:
        """Mean of W over all entries: the share that is observed, where all observed ones weigh 1."""
        return 1.0

    def system(self, model: Model, k: int) -> System:
        """L_k^H L_k over the observed entries, to apply to block k and to solve.

        Parameters
        ----------
        model : Model
            Whose L_k is meant.
        k : int
            Position of the block, from 0.

        Returns
        -------
        System
            To apply to block k and to solve.
        """
        if self.complete:
            return model.system(k)
        if unformed(model, k):
            return core_system(partial(self.apply_gram, model, k), model, k, self.mean_weight)
        return GramSystem(self.gram(model, k))

    def apply_gram(self, model: Model, k: int, matrix: Array) -> Array:
        """L_k^H L_k applied to a block in matrix form.

        Parameters
        ----------
        model : Model
            Whose L_k is meant.
        k : int
            Position of the block, from 0.
        matrix : ndarray
            (I_k, P_k).

        Returns
        -------
        ndarray
            (I_k, P_k).
        """
        return GramSystem(self.gram(model, k)).apply(matrix) if not self.complete else model.system(k).apply(matrix)

    def gauss_newton(self, model: Model) -> Array:
        """J^H J over the observed entries, (n, n), at least its upper block triangle; holds until the next call.

        Parameters
        ----------
        model : Model
            Whose Jacobian is meant.

        Returns
        -------
        ndarray
            (n, n).
        """
        return model.gauss_newton(upper=True)

    def gauss_newton_matvec(self, model: Model, delta: Sequence[Array]) -> list[Array]:
        """J^H J delta over the observed entries, without forming J.

        Parameters
        ----------
        model : Model
            Whose Jacobian is meant.
        delta : sequence of ndarray
            One matrix (I_k, P_k) for each block.

        Returns
        -------
        list of ndarray
            One matrix for each block.
        """
        return model.gauss_newton_matvec(delta)

    def mode_gram(self, mode: int) -> Array:
        """T_(n) T_(n)^H, (I_n, I_n), for starts from singular vectors.

        Parameters
        ----------
        mode : int
            From 0.

        Returns
        -------
        ndarray
            (I_n, I_n).
        """
        raise TypeError(f"{type(self).__name__} cannot give singular vectors; use init='random' or a model")

    def mode_grams(self, modes: Sequence[int]) -> list[Array]:
        """`mode_gram` of several modes, from as few passes over the data as there can be.

        Parameters
        ----------
        modes : sequence of int
            From 0.

        Returns
        -------
        list of ndarray
            One Gram for each of them.
        """
        return [self.mode_gram(mode) for mode in modes]

    def to_dense(self) -> Array:
        """The tensor as an array, missing entries as zero.

        Returns
        -------
        ndarray
            (I_1, ..., I_N).

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> tc.Sparse([[0, 1]], [2.0], shape=(2, 2)).to_dense()
        array([[0., 2.],
               [0., 0.]])
        """
        raise TypeError(f"{type(self).__name__} cannot be held in memory whole; use init='random' or a model")
