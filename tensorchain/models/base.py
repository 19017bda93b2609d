"""The protocol of a model: X(theta), linear in each of its blocks with the others fixed.

`Model` is a wiring and its public face.  Its values come from :mod:`tensorchain.models.blocks`, and Grams,
sensitivities and Gauss-Newton products from the multilinear form of :mod:`tensorchain.models.form`: all of it is
generic, so that a new model needs its wiring only.  What remains here: starts, the freedom of gauge, files, and the
shortcuts that a model may offer to the solvers where its structure allows them.

Long by its docstrings: the code alone has fewer than 200 lines.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np

from tensorchain.kernels import Array
from tensorchain.models.blocks import Blocks
from tensorchain.models.cp_packed import PackedNewton
from tensorchain.models.files import FORMAT, read_model, write_model
from tensorchain.models.form import Form
from tensorchain.models.listing import public_names
from tensorchain.models.network import Network
from tensorchain.models.refit import refitted
from tensorchain.models.rounding import Rounded, checked_error
from tensorchain.models.tables import Tabular
from tensorchain.models.validation import checked_wiring

Self = TypeVar("Self", bound="Model")

_FOR_USERS = frozenset(
    [
        *("astype", "block_names", "block_sensitivities", "blocks", "dtype", "full", "gauge_dimension", "inner"),
        *("n_parameters", "name", "network", "norm", "order", "random", "rank", "restrict", "rounded", "save"),
        *("least_sensitivity", "sensitivity", "shape"),
    ]
)
"""Of the names of `Blocks`, `Form` and `Model`, those that `dir` and `help` show."""


class Model(Tabular):
    """A tensor written as a contraction of blocks.

    Subclasses call `_build` once and give `blocks` (natural shapes) and `_state`
    (what `from_state` needs beside the blocks).  Instances are immutable.

    Examples
    --------
    >>> import tensorchain as tc
    >>> model = tc.decompose(tc.datasets.inverse_radius(order=3, size=6), "cp", rank=2, rng=0).model
    >>> isinstance(model, tc.Model), model.shape, len(model.blocks)
    (True, (6, 6, 6), 3)
    """

    name: ClassVar[str] = ""
    """Short name used by `decompose` and in files."""
    renderer: ClassVar[Callable[[Model], str] | None] = None
    """Set by `tensorchain.html`, which stands above the models."""
    registry: ClassVar[dict[str, type[Model]]] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        # A subclass that states no name of its own is saved under that of its base, and takes no one's place.
        if cls.__dict__.get("name"):
            cls.register()

    @classmethod
    def register(cls, *, replace: bool = False) -> None:
        """Enter the class under its `name`, for `decompose` and files; a class that states a `name` does it by itself.

        Parameters
        ----------
        replace : bool
            Whether to take the place of another class of this name.

        Raises
        ------
        ValueError
            When the class has no name, or another class has it.

        Examples
        --------
        >>> import tensorchain as tc
        >>> class Shifted(tc.CP):
        ...     "Is saved and loaded as a CP."
        >>> tc.Model.registry["cp"] is tc.CP
        True
        """
        if not cls.name:
            raise ValueError(f"{cls.__name__} has no `name` to be registered under; give the class one")
        taken = Model.registry.get(cls.name)
        # A class statement that is run again, as in a notebook, defines the same class anew.
        same = taken is None or (taken.__module__, taken.__qualname__) == (cls.__module__, cls.__qualname__)
        if not same and not replace:
            assert taken is not None
            raise ValueError(
                f"the name {cls.name!r} of {cls.__name__} is that of {taken.__module__}.{taken.__qualname__}; choose "
                "another, or leave out `name` and call register(replace=True) to take its place"
            )
        Model.registry[cls.name] = cls

    # -- starts -------------------------------------------------------------------------

    @classmethod
    def wiring(cls, shape: tuple[int, ...], rank: Any) -> Network:
        """The network for a tensor of this shape.

        Parameters
        ----------
        shape : tuple of int
            (I_1, ..., I_N).
        rank : int, tuple or list
            As in `decompose`.

        Returns
        -------
        Network
            Bonds, modes and terms.

        Raises
        ------
        ValueError
            When the rank does not fit the shape.

        Examples
        --------
        >>> import tensorchain as tc
        >>> len(tc.Tucker.wiring((4, 5), (2, 3)).modes)  # a core and two factors
        3
        """
        raise TypeError(f"{cls.__name__} has no `wiring(shape, rank)`; give a start with init=model instead")

    @classmethod
    def random(cls: type[Self], shape: Sequence[int], rank: Any, rng: Any = None, dtype: Any = np.float64) -> Self:
        """Independent standard normal entries in every block.

        Parameters
        ----------
        shape : sequence of int
            (I_1, ..., I_N).
        rank : int, tuple or list
            As in `decompose`.
        rng : int or numpy.random.Generator, optional
            Seed or `numpy.random.Generator`.
        dtype : dtype, default np.float64
            Of the blocks: float32, float64 or complex128.

        Returns
        -------
        Model
            A model of this kind.

        Raises
        ------
        ValueError
            When the rank does not fit the shape.

        Examples
        --------
        >>> import tensorchain as tc
        >>> tc.Tucker.random((4, 5, 6), (2, 3, 2), rng=0).shape
        (4, 5, 6)
        """
        generator = np.random.default_rng(rng)
        network = checked_wiring(cls, tuple(shape), rank)
        blank = [
            np.empty((1 if mode is None else shape[mode], width), dtype=dtype)
            for mode, width in zip(network.modes, network.widths, strict=True)
        ]
        return cls.from_matrices(network, blank).random_like(generator)

    def random_like(self: Self, rng: np.random.Generator) -> Self:
        """Independent standard normal entries, with the wiring, shape and dtype of this model.

        Parameters
        ----------
        rng : numpy.random.Generator
            Where the numbers come from.

        Returns
        -------
        Model
            A model with other blocks.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> model = tc.CP.random((3, 4), 2, rng=0)
        >>> model.random_like(np.random.default_rng(1)).rank
        2
        """
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

        `tensor` is a data source; where a block is wider than its mode, small noise fills the rest.

        Parameters
        ----------
        network : Network
            The wiring.
        tensor : array_like or Tensor
            A data class of :mod:`tensorchain.tensors`.
        rng : numpy.random.Generator
            For cores and for what singular vectors do not fill.

        Returns
        -------
        list of ndarray
            One matrix (I_k, P_k) for each block.
        """
        matrices = []
        for mode, width in zip(network.modes, network.widths, strict=True):
            if mode is None:
                matrices.append(rng.standard_normal((1, width)))
                continue
            _, vectors = np.linalg.eigh(tensor.mode_gram(mode))
            matrices.append(pad_columns(vectors[:, ::-1], width, rng))
        return matrices

    # -- fewer parameters ---------------------------------------------------------------

    def rounded(self, error: float = 1e-3) -> Rounded:
        """A model of the same kind with fewer parameters, within a relative error; the tensor is never formed.

        Tucker models and trains (chains with a bond of 1) are truncated in orthogonal form: the result is the best
        truncation of the HOSVD of a Tucker model, and within sqrt(N - 1) of the best train.  CP, block terms and loops
        lose one index of a bond at a time and are fitted again by alternating least squares: a local search, which
        need not find the smallest model within the error, and may raise the sensitivity.  Loops that were fitted with
        too large bonds often stay as they are: fit smaller bonds to the data instead.

        Parameters
        ----------
        error : float
            The largest ||X - Y|| / ||X||, from 0 to below 1.  With 0 only what does not change X goes, to rounding.

        Returns
        -------
        Rounded
            `model` and `error`, its true relative error.  The same model where nothing can go.

        Raises
        ------
        ValueError
            When `error` is out of range.

        References
        ----------
        L. De Lathauwer, B. De Moor, J. Vandewalle, "A multilinear singular value decomposition", 2000;
        I. Oseledets, "Tensor-train decomposition", 2011.

        Examples
        --------
        >>> import tensorchain as tc
        >>> cp = tc.CP.random((20, 20, 20), 3, rng=0)
        >>> doubled = cp + 2 * cp
        >>> small, error = doubled.rounded(error=1e-6)
        >>> doubled.rank, small.rank, error < 1e-6
        (6, 3, True)
        """
        return self._rounded(checked_error(error))

    def _rounded(self, error: float) -> Rounded:
        return Rounded(*refitted(self, error))

    # -- how it shows itself ------------------------------------------------------------

    def __repr__(self) -> str:
        sizes = " x ".join(map(str, self.shape))
        return f"{type(self).__name__}({sizes}, rank={self.rank}, {self.n_parameters} parameters, {self.dtype})"

    def _repr_html_(self) -> str | None:
        """What notebooks show; None, for the plain text, before `tensorchain.html` is imported."""
        return None if Model.renderer is None else Model.renderer(self)

    # -- shortcuts ----------------------------------------------------------------------

    def gram_factors(self, t: int, k: int) -> list[Array] | None:
        """M_k within term t as a Kronecker product of one matrix for each bond of block k; None where it is none.

        Parameters
        ----------
        t : int
            Of the term.
        k : int
            Position of the block, from 0.

        Returns
        -------
        list of ndarray or None
            One matrix for each bond; None where M_k is no such product.
        """
        return None

    def absorbed(self, k: int) -> Model | None:
        """The model whose core, block 0, has taken in factor k and carries its mode, for `rejoined`; None for most.

        Parameters
        ----------
        k : int
            Position of the block, from 0.

        Returns
        -------
        Model or None
            None for most models.
        """
        return None

    def rejoined(self: Self, k: int, rhs: Array) -> tuple[Self, float] | None:
        """Factor k and the core at their joint best, and ||X||^2; None where the other factors are deficient.

        `rhs` is L^H vec(T) for the core of `absorbed(k)`, (I_k, R_others).

        Parameters
        ----------
        k : int
            Position of the block, from 0.
        rhs : ndarray
            (I_k, R_others).

        Returns
        -------
        tuple of (type of the class, float) or None
            The model and ||X||^2, or None.
        """
        return None

    @property
    def has_damped_inverse(self) -> bool:
        """Whether `damped_inverse` is there and costs less than a Cholesky factor of J^H J."""
        return False

    def damped_inverse(self, penalty: float, damping: float) -> Callable[[Sequence[Array]], list[Array]] | None:
        """The inverse of J^H J + penalty Q + damping by the structure of the model; None where it breaks down.

        Parameters
        ----------
        penalty : float
            Weight of the metric of the sensitivity.
        damping : float
            Added to the diagonal.

        Returns
        -------
        callable or None
            From right-hand sides to solutions, one matrix for each block; None where it breaks down.
        """
        raise TypeError(f"{type(self).__name__} has no `damped_inverse`; ask `has_damped_inverse` first")

    def packed_newton(self, weight: float, penalty: float) -> PackedNewton | None:
        """weight J^H J + penalty Q in a form that is applied to all blocks of a small model at once.

        Parameters
        ----------
        weight : float
            Of J^H J.
        penalty : float
            Of the metric of the sensitivity.

        Returns
        -------
        PackedNewton or None
            None where the kind of model has no such form, or is too large for it to pay.
        """
        return None

    @property
    def least_sensitivity(self) -> float:
        """What the relative sensitivity of no model of these sizes, whatever its entries, is below; 0 where unknown.

        See Also
        --------
        sensitivity : With `relative=True`, that of this model.

        Notes
        -----
        With sizes I_1, ..., I_N and M the product of all sizes, CP of rank R and a loop of the smallest bond R:
        N M^(1/N) R^(2/N - 1), and P terms of a core and factors each: (N + 1) M^(1/(N+1)) P^(2/(N+1) - 1).
        Equal components, or terms, reach it.

        Examples
        --------
        >>> import tensorchain as tc
        >>> model = tc.optimal_gauge(tc.CP.random((10, 10, 10), rank=8, rng=0))
        >>> round(model.sensitivity(relative=True), 1), round(model.least_sensitivity, 1)
        (57.8, 15.0)
        """
        return 0.0

    # -- gauge --------------------------------------------------------------------------

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
        """Rebuild from `blocks` and `_state()`.

        Parameters
        ----------
        blocks : list of ndarray
            As they were saved.
        state : dict of str to object
            What `_state()` gave.

        Returns
        -------
        Model
            The model.
        """
        return cls(blocks)  # type: ignore[call-arg]

    def save(self, path: str | os.PathLike[str], **extra: Any) -> None:
        """Write a file, .safetensors where `path` ends so and .npz else, to a temporary name first and then renamed.

        Parameters
        ----------
        path : str or os.PathLike[str]
            Ends in .safetensors or .npz.
        **extra : object
            Further figures that JSON can hold, saved beside the model.

        See Also
        --------
        tensorchain.load : Reads the file.

        Examples
        --------
        >>> import os, tempfile
        >>> import tensorchain as tc
        >>> model = tc.CP.random((3, 4), 2, rng=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(os.path.join(folder, "model.npz"))
        ...     tc.load(os.path.join(folder, "model.npz")) == model
        True
        """
        header, arrays = model_file(self, extra)
        write_model(path, json.dumps(header), arrays)


Model._hooks = public_names(Blocks, Form, Model) - _FOR_USERS


def load(path: str | os.PathLike[str]) -> Model:
    """The model in a file written by `Model.save` or `Fit.save`.

    Raises
    ------
    FileNotFoundError
        When there is none.
    ValueError
        When the file is not a model file.
    """
    header, blocks, _ = read_model(path)
    return model_from(os.fspath(path), header, blocks)


def model_file(model: Model, extra: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Header and arrays of the file of a model; `extra` holds further figures."""
    if not model.name:
        raise TypeError(f"{type(model).__name__} has no `name`, so no file could be read back; give the class one")
    arrays = {f"block_{k}": block for k, block in enumerate(model.blocks)}
    header = {"format": FORMAT, "model": model.name, "blocks": len(arrays), "state": model._state(), "extra": extra}
    return header, arrays


def model_from(name: str, header: dict[str, Any], blocks: list[Array]) -> Model:
    """The model in the file `name`, from what was read."""
    kind = Model.registry.get(str(header.get("model")))
    if kind is None:
        known = ", ".join(sorted(Model.registry))
        raise ValueError(f"{name!r} holds a model {str(header.get('model'))[:40]!r}; known are {known}")
    try:
        return kind.from_state(blocks, header.get("state", {}))
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError(f"{name!r} is damaged: {error!r}") from error


def pad_columns(vectors: Array, width: int, rng: np.random.Generator, size: float = 0.1) -> Array:
    """The first `width` columns, filled up with noise of relative size `size` where there are fewer."""
    rows, given = vectors.shape
    if given >= width:
        return vectors[:, :width]
    scale = size * np.linalg.norm(vectors) / math.sqrt(vectors.size)
    return np.concatenate([vectors, scale * rng.standard_normal((rows, width - given))], axis=1)


def _along(operand: Array, axis: int, matrix: Array) -> Array:
    """Multiply `matrix` into one axis: result[..., p, ...] = sum_q matrix[p, q] operand[..., q, ...]."""
    return np.moveaxis(np.tensordot(matrix, operand, axes=(1, axis)), 0, axis)
