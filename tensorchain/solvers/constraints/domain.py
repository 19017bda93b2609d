"""Where the blocks of a model may lie: everywhere, at or above zero, or at what they are.

Beside what a constraint minimises and bounds it has a domain.  Solvers ask it, and nothing else, where it matters:

    sweeps          the best change of one block within the domain (`best_change`)
    joint steps     how far down each entry may go (`floors`)
    both            which blocks stay as they are (`fixed`)
    starts          random blocks (`drawn`), and blocks made for another purpose, moved into it (`folded`)
    gauge           only changes of gauge that do not leave it (`optimal_gauge`, `gauge_cycle`, `scaled`)
    reasons         whether a best approximation always exists in it (`closed`)

The edge of a domain is held exactly: an entry at the edge is zero, not nearly zero.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, TypeVar

import numpy as np

from tensorchain.kernels import Array
from tensorchain.models import Model, Network
from tensorchain.stability.gauge import gauge_cycle, optimal_gauge

AnyModel = TypeVar("AnyModel", bound=Model)

_SWEEPS, _SHARE = 3, 0.1
"""Most sweeps over a row, and the share of the first decrease at which a row is done, before an active set goes on."""
_WIDE_SWEEPS, _WIDE_SHARE = 10, 0.02
_FINE_SWEEPS, _FINE_SHARE = 300, 1e-6
_WIDE = 200
"""Width of a block beyond which there is no active set, but more sweeps, and yet more where the solution is asked for.

Up to it the solution costs hardly more than sweeps, and the sweeps over the blocks need fewer rounds (measured by
``python -m benchmarks.nonnegative --inner``)."""
_SLACK = 1e-14
"""Gradient at the edge that is rounding, relative to its terms."""
_FILL = 1e-2
"""Share of the mean of a block that entries get which singular vectors leave at zero."""


class Domain:
    """Everywhere."""

    def restricted(self, network: Network) -> frozenset[int]:
        """Free blocks that may not lie everywhere."""
        return frozenset()

    def fixed(self, network: Network) -> frozenset[int]:
        """Blocks that stay as they are."""
        return frozenset()

    @property
    def whole(self) -> bool:
        """Whether no block is restricted or fixed, in no model."""
        return True

    def closed(self, network: Network) -> bool:
        """Whether a best approximation exists for all data."""
        return False

    def __and__(self, other: Domain) -> Domain:
        """What lies in both."""
        return other

    def check(self, network: Network, dtype: Any, start: Model | None = None) -> None:
        """Refuse a model, a dtype or a start that the domain does not allow.

        Raises
        ------
        ValueError
            Saying what to change.
        """

    # -- moves --------------------------------------------------------------------------

    def floors(self, model: Model) -> list[Array] | None:
        """How far down each entry of each block may go, as changes <= 0; None where nothing is restricted."""
        restricted = self.restricted(model.network)
        if not restricted:
            return None
        return [-m if k in restricted else np.full(m.shape, -np.inf) for k, m in enumerate(model.matrices)]

    def best_change(self, matrix: Array, system: Array, rhs: Array, *, fine: bool = False) -> Array:
        """D that minimises <D, D M^T> - 2 <D, W> with B + D >= 0, for a block that is restricted.

        Parameters
        ----------
        matrix : ndarray
            B, (I, P).
        system : ndarray
            M, (P, P), or (I, P, P) for one in each row.
        rhs : ndarray
            W, (I, P).
        fine : bool, default False
            Whether to go on to the solution where that takes many sweeps; else the next sweep over the blocks does.
        """
        from tensorchain.kernels.nonnegative import descend, polish

        grams = np.ascontiguousarray(system if system.ndim == 3 else system[None])
        rhs, floor, change = np.ascontiguousarray(rhs), -matrix, np.zeros_like(matrix)
        if matrix.shape[1] <= _WIDE:
            descend(grams, rhs, floor, change, _SWEEPS, _SHARE)
            polish(grams, rhs, floor, change, 2 * matrix.shape[1] + 10, _SLACK)
        elif not fine:
            descend(grams, rhs, floor, change, _WIDE_SWEEPS, _WIDE_SHARE)
        if fine:
            # Wide blocks, and rows whose matrix is singular, on which the active set gives up.
            descend(grams, rhs, floor, change, _FINE_SWEEPS, _FINE_SHARE)
        return change

    def movable(self, model: Model) -> Array | None:
        """Which entries of all blocks, in one row, can move both ways; None for all."""
        fixed, floors = self.fixed(model.network), self.floors(model)
        if floors is not None:
            return np.concatenate([floor.ravel() for floor in floors]) < 0.0
        return free_entries(model, fixed) if fixed else None

    # -- models -------------------------------------------------------------------------

    def folded(self, model: AnyModel) -> AnyModel:
        """A model in the domain: entries of restricted blocks by their size."""
        return self._each(model, np.abs)

    def unfolded(self, model: AnyModel) -> AnyModel:
        """A start made of singular vectors, moved into the domain: of each column the half of larger norm.

        What is zero then gets a hundredth of the mean: sweeps seldom leave a zero that others hold there.
        """
        return self._each(model, _larger_half)

    def drawn(self, model: AnyModel, rng: np.random.Generator) -> AnyModel:
        """Random blocks in the domain: normal entries, and uniform ones in [0, 1) in blocks that are restricted."""
        restricted = self.restricted(model.network)
        if not restricted:
            return model.random_like(rng)
        blocks = []
        for k, matrix in enumerate(model.matrices):
            block = rng.uniform(size=matrix.shape) if k in restricted else rng.standard_normal(matrix.shape)
            blocks.append(block.astype(matrix.dtype, copy=False))
        return model.with_matrices(blocks)

    def optimal_gauge(self, model: AnyModel, *, tol: float = 1e-9) -> AnyModel:
        """The gauge of least sensitivity among those that do not leave the domain."""
        network = model.network
        return optimal_gauge(model, tol=tol, scaled=self.restricted(network), fixed=self.fixed(network))

    def gauge_cycle(self, model: AnyModel) -> AnyModel:
        """One step of the search for it."""
        network = model.network
        return gauge_cycle(model, scaled=self.restricted(network), fixed=self.fixed(network))

    def scaled(self, model: AnyModel, factor: complex) -> AnyModel:
        """The model of factor * X, factor not zero."""
        return model.scaled(factor)

    def as_given(self, model: AnyModel) -> AnyModel:
        """The model with its fixed blocks to the last bit, where there are some."""
        return model

    def _each(self, model: AnyModel, function: Any) -> AnyModel:
        restricted = self.restricted(model.network)
        if not restricted:
            return model
        return model.with_matrices([function(m) if k in restricted else m for k, m in enumerate(model.matrices)])


class NonNegativeBlocks(Domain):
    """Some blocks at or above zero.

    Parameters
    ----------
    modes : sequence of int or None
        Modes whose blocks are restricted; None for all.
    core : bool
        Whether blocks without a mode are restricted.
    """

    def __init__(self, modes: Sequence[int] | None, core: bool) -> None:
        self.modes = None if modes is None else frozenset(modes)
        self.core = core

    def restricted(self, network: Network) -> frozenset[int]:
        """Blocks that may not lie everywhere."""
        wanted = None if self.modes is None else {mode % network.order for mode in self.modes}
        return frozenset(
            k
            for k, mode in enumerate(network.modes)
            if (self.core if mode is None else wanted is None or mode in wanted)
        )

    @property
    def whole(self) -> bool:
        """Whether no block is restricted, in no model."""
        return False

    def closed(self, network: Network) -> bool:
        """Whether a best approximation exists: where no block can have parts that cancel those of others."""
        return len(self.restricted(network)) == len(network.modes)

    def __and__(self, other: Domain) -> Domain:
        if other.whole:
            return self
        if not isinstance(other, NonNegativeBlocks):
            return other & self
        modes = None if self.modes is None or other.modes is None else self.modes | other.modes
        return NonNegativeBlocks(None if modes is None else sorted(modes), self.core or other.core)

    def check(self, network: Network, dtype: Any, start: Model | None = None) -> None:
        """Refuse a model, a dtype or a start that the domain does not allow."""
        for mode in sorted(self.modes or ()):
            if not -network.order <= mode < network.order:
                raise ValueError(
                    f"NonNegative: mode {mode} was named, and the tensor has {network.order} modes: "
                    f"modes are {-network.order} to {network.order - 1}"
                )
        if np.dtype(dtype).kind == "c" or (start is not None and start.dtype.kind == "c"):
            what = "the tensor" if np.dtype(dtype).kind == "c" else "init"
            raise ValueError(
                f"NonNegative needs real numbers, and {what} is complex: "
                f"decompose its real part or its modulus, or drop the constraint"
            )
        if start is None:
            return
        for k in sorted(self.restricted(network)):
            least = float(start.matrices[k].min())
            if least < 0.0:
                raise ValueError(
                    f"NonNegative: {start.block_names[k]} of init has negative entries, the least is {least:.3g}: "
                    f"clip them, init.with_matrices([B.clip(min=0) for B in init.matrices]), or leave its mode out of "
                    "NonNegative(modes=...)"
                )


EVERYWHERE = Domain()


def free_entries(model: Model, fixed: Collection[int]) -> Array:
    """Which entries of all blocks, in one row, are not those of fixed blocks."""
    return np.concatenate([np.full(m.size, k not in fixed) for k, m in enumerate(model.matrices)])


def _larger_half(matrix: Array) -> Array:
    positive, negative = np.maximum(matrix, 0.0), np.maximum(-matrix, 0.0)
    half = np.where(np.linalg.norm(positive, axis=0) >= np.linalg.norm(negative, axis=0), positive, negative)
    return np.maximum(half, _FILL * float(half.mean()))
