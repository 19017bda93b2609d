"""Blocks that stay as they are: a model of new data with factors that are given, or a part of a model alone fitted.

With some blocks held, X is multilinear in the others, and nothing else changes: a fixed block is a block whose domain
is one point.  So it is a domain (:mod:`tensorchain.solvers.constraints.domain`) around the one of the other blocks:

    sweeps, joint steps     leave fixed blocks out
    gauge                   moves weight between free blocks only
    scale                   a factor on X goes on the free blocks
    the result              has the blocks as given, to the last bit, whatever scale the solver worked in

With one free block the problem is linear least squares: that is what `transform` of new samples is.

A start is a model whose fixed blocks fit the data.  Its other blocks may belong to data of another size: those that do,
and those that are zero beside others, are drawn, and each is then fitted with the others as they are (`begun`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from tensorchain.evaluation import Evaluator
from tensorchain.kernels import Array
from tensorchain.models import Model, Network
from tensorchain.solvers.constraints.base import Constraint
from tensorchain.solvers.constraints.domain import EVERYWHERE, Domain
from tensorchain.tensors import Tensor

AnyModel = TypeVar("AnyModel", bound=Model)


class FixedBlocks(Domain):
    """Some blocks at what they are, the others in another domain.

    Parameters
    ----------
    given : mapping of int to array
        The fixed blocks, in matrix form, by their number.
    others : Domain
        Of the free blocks.
    """

    def __init__(self, given: Mapping[int, Array], others: Domain = EVERYWHERE) -> None:
        self.given, self.others = dict(given), others

    def fixed(self, network: Network) -> frozenset[int]:
        """Blocks that stay as they are."""
        return frozenset(self.given)

    def restricted(self, network: Network) -> frozenset[int]:
        """Free blocks that may not lie everywhere."""
        return self.others.restricted(network) - frozenset(self.given)

    @property
    def whole(self) -> bool:
        """Whether no block is restricted or fixed."""
        return False

    def closed(self, network: Network) -> bool:
        """Whether a best approximation exists: linear least squares, or everything non-negative."""
        return len(network.modes) - len(self.given) <= 1 or self.others.closed(network)

    def __and__(self, other: Domain) -> Domain:
        if isinstance(other, FixedBlocks):
            return FixedBlocks(self.given | other.given, self.others & other.others)
        return FixedBlocks(self.given, self.others & other)

    def check(self, network: Network, dtype: Any, start: Model | None = None) -> None:
        """Refuse what the domain of the free blocks refuses; fixed blocks must lie in it too."""
        self.others.check(network, dtype, start)

    # -- moves --------------------------------------------------------------------------

    def floors(self, model: Model) -> list[Array] | None:
        """How far down each entry of each block may go; fixed blocks not at all."""
        floors = super().floors(model)
        if floors is None:
            return None
        return [np.zeros_like(floor) if k in self.given else floor for k, floor in enumerate(floors)]

    def drawn(self, model: AnyModel, rng: np.random.Generator) -> AnyModel:
        """Random free blocks."""
        return self._restored(self.others.drawn(model, rng), model.matrices)

    def scaled(self, model: AnyModel, factor: complex) -> AnyModel:
        """The model of factor * X, the factor spread over the free blocks."""
        size = abs(factor)
        free = [k for k in range(len(model.matrices)) if k not in self.given]
        matrices, part = list(model.matrices), size ** (1.0 / len(free))
        for k in free:
            matrices[k] = matrices[k] * part
        matrices[free[0]] = matrices[free[0]] * (factor / size)
        return model.with_matrices(matrices)

    def as_given(self, model: AnyModel) -> AnyModel:
        """The model with the fixed blocks to the last bit."""
        return self._restored(model, self.given)

    def _restored(self, model: AnyModel, blocks: Mapping[int, Array] | Sequence[Array]) -> AnyModel:
        matrices = list(model.matrices)
        for k in self.given:
            matrices[k] = blocks[k].astype(matrices[k].dtype, copy=False)
        return model.with_matrices(matrices)


class Fixed(Constraint):
    """The least error with some blocks of a model as they are.

    Parameters
    ----------
    model : Model
        Which has them, in the precision of the result.
    blocks : sequence of int
        Their numbers.
    """

    def __init__(self, model: Model, blocks: Sequence[int]) -> None:
        self.names = tuple(model.block_names[k] for k in blocks)
        self._domain = FixedBlocks({k: model.matrices[k] for k in blocks})

    @classmethod
    def of(cls, fixed: Any, init: Any, tensor: Tensor) -> Fixed:
        """What `decompose` was asked for by ``fixed=``.

        Parameters
        ----------
        fixed : int, str or sequence of these
            As in `blocks_named`.
        init : Model
            With the blocks.
        tensor : Tensor
            The data.

        Raises
        ------
        TypeError
            Where no model is given, and where it does not have what is asked for.
        ValueError
            Where no model is given, and where it does not have what is asked for.
        """
        if not isinstance(init, Model):
            raise ValueError(
                f"fixed={fixed!r} was given without a model: its blocks come from init=model, as init=fit.model or "
                "init=tc.CP([A, B, C])"
            )
        blocks = blocks_named(fixed, init, tensor.dimension_names)
        check_shape(init, blocks, tensor.shape)
        return cls(init.astype(np.complex128 if init.dtype.kind == "c" else tensor.dtype), blocks)

    @property
    def domain(self) -> Domain:
        """Where the blocks may lie."""
        return self._domain

    def __repr__(self) -> str:
        return f"fixed: {', '.join(self.names)}"


def blocks_named(fixed: Any, model: Model, names: Sequence[str] | None = None) -> list[int]:
    """Numbers of the blocks that `fixed` names.

    Parameters
    ----------
    fixed : int, str or sequence of these
        Modes by number, or by their name in the data; blocks by their name, "core" for that of a Tucker model and for
        those of block terms.
    model : Model
        Whose blocks they are.
    names : sequence of str, optional
        Of the modes of the data.

    Raises
    ------
    TypeError
        For something else than integers and names.
    ValueError
        For a mode or a name that the model does not have, and where no block is left free.

    Examples
    --------
    >>> import tensorchain as tc
    >>> from tensorchain.solvers.constraints.fixed import blocks_named
    >>> blocks_named((0, "core"), tc.Tucker.random((4, 5, 6), (2, 2, 2), rng=0))
    [0, 1]
    """
    named = [fixed] if isinstance(fixed, (int, str, np.integer)) else fixed
    if isinstance(fixed, bool) or not isinstance(named, (Sequence, np.ndarray)):
        raise TypeError(f"fixed is {fixed!r}; modes are needed, as fixed=(0, 2), or names of blocks, as fixed='core'")
    network, found = model.network, set()
    known = {name: k for k, name in enumerate(model.block_names)}
    known |= {"core" if len(network.terms) == 1 else "cores": k for k, mode in enumerate(network.modes) if mode is None}
    if names is not None and len(set(names)) == len(names):
        known |= {name: network.block_of_mode[mode] for mode, name in enumerate(names) if name not in known}
    for one in named:
        if isinstance(one, str):
            name = "cores" if one == "core" and "cores" in known else one
            if name not in known:
                raise ValueError(f"fixed names {one!r}, and the blocks are {', '.join(map(repr, known))}")
            found.add(known[name])
        elif isinstance(one, (int, np.integer)) and not isinstance(one, bool):
            if not -network.order <= one < network.order:
                raise ValueError(
                    f"fixed names mode {one}, and the tensor has {network.order} modes: modes are {-network.order} to "
                    f"{network.order - 1}"
                )
            found.add(network.block_of_mode[int(one)])
        else:
            raise TypeError(f"fixed holds {one!r}; modes are integers, blocks are named by strings")
    if not found:
        raise ValueError("fixed names no block; name some, as fixed=(0, 2), or leave it out")
    if len(found) == len(model.matrices):
        raise ValueError(
            "fixed names every block, so that nothing is left to fit; leave one free, or see T - model for what is "
            "missing"
        )
    return sorted(found)


def check_shape(model: Model, blocks: Sequence[int], shape: Sequence[int]) -> None:
    """Whether fixed blocks fit the data.

    Raises
    ------
    ValueError
        Where they do not.

    Examples
    --------
    >>> import tensorchain as tc
    >>> from tensorchain.solvers.constraints.fixed import check_shape
    >>> check_shape(tc.CP.random((4, 5, 6), 2, rng=0), [1, 2], (40, 5, 6))
    """
    if model.order != len(shape):
        raise ValueError(f"init has {model.order} modes, the tensor {len(shape)}; they must have the same")
    for k in blocks:
        mode = model.network.modes[k]
        if mode is not None and len(model.matrices[k]) != shape[mode]:
            raise ValueError(
                f"{model.block_names[k]} is fixed and has {len(model.matrices[k])} rows, and mode {mode} of the tensor "
                f"has {shape[mode]}; only free modes may have another size than init"
            )


def begun(model: Model, tensor: Tensor, domain: Domain, rng: np.random.Generator) -> Model:
    """A start with the fixed blocks of a model, for data whose other modes may have another size.

    Parameters
    ----------
    model : Model
        Free blocks of the wrong size, and free blocks of zeros where there are several, are made anew.
    tensor : Tensor
        The data, in the scale and dtype of the model.
    domain : Domain
        With the fixed blocks.
    rng : numpy.random.Generator
        For blocks that are made anew.

    Returns
    -------
    Model
        Of the shape of the data.
    """
    network, fixed = model.network, domain.fixed(model.network)
    sizes = [1 if mode is None else tensor.shape[mode] for mode in network.modes]
    other = [len(m) != size for m, size in zip(model.matrices, sizes, strict=True)]
    zero = [k not in fixed and not m.any() for k, m in enumerate(model.matrices)]
    fresh = [k for k in range(len(sizes)) if other[k] or (zero[k] and sum(zero) > 1)]
    if not fresh:
        return model
    matrices = list(model.matrices)
    for k in fresh:
        matrices[k] = np.zeros((sizes[k], matrices[k].shape[1]), matrices[k].dtype)
    drawn = domain.drawn(model.with_matrices(matrices), rng)
    for k in fresh:
        matrices[k] = drawn.matrices[k]
    return fitted_blocks(tensor.evaluator(model.with_matrices(matrices)), fresh, domain)


def fitted_blocks(at: Evaluator, blocks: Sequence[int], domain: Domain) -> Model:
    """The model that the evaluator holds, with some blocks at their best, one after the other.

    Parameters
    ----------
    at : Evaluator
        Of the data, at the model to begin with.
    blocks : sequence of int
        Which ones.
    domain : Domain
        In which they stay.

    Returns
    -------
    Model
    """
    for k in blocks:
        if k in domain.restricted(at.network):
            matrix = np.zeros_like(at.model.matrices[k])
            at.replace(k, domain.best_change(matrix, at.gram(k), at.rhs(k), fine=True))
        else:
            at.replace(k, at.system(k).solve(at.rhs(k)))
    return at.model
