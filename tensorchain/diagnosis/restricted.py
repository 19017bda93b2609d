"""Fits whose blocks may not lie everywhere: non-negative ones, and ones with fixed blocks.

What is asked of a model is asked within its domain.  A direction counts only in the entries that can move both ways,
not in fixed blocks and not in entries at the edge; with S the choice of these entries

    spread, nullity        of J S, without the gauge directions that lie in the range of S
    free parameters        the entries of S, less these directions
    gauge excess           of the gauges that do not leave the domain: positive scales, between free blocks
    paths                  within the domain, from starts in it

Where all blocks are non-negative parts cannot cancel, and a best approximation exists: nothing diverges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tensorchain.fit import Fit
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.solvers.constraints import Domain
from tensorchain.solvers.constraints.domain import EVERYWHERE, NonNegativeBlocks
from tensorchain.solvers.constraints.fixed import FixedBlocks
from tensorchain.stability.gauge_tangent import gauge_tangent
from tensorchain.tensors import Tensor

_DEPENDENT = 1e-8
"""Singular values of gauge directions in the entries that cannot move, below which a direction is not in these."""


@dataclass(frozen=True)
class Asked:
    """The domain of a fit, in code.

    Attributes
    ----------
    domain : Domain
        Where its blocks may lie.
    constraint, fixed : str
        Keywords that ask for it in `decompose`; empty for everywhere.
    gauge : str
        Keywords for `optimal_gauge`.
    """

    domain: Domain = EVERYWHERE
    constraint: str = ""
    fixed: str = ""
    gauge: str = ""

    def keywords(self, constraint: str = "") -> str:
        """To be added to a call of `decompose`, with another constraint beside that of the domain."""
        parts = [part for part in (self.constraint, constraint) if part]
        joined = f", constraint={' & '.join(parts)}" if parts else ""
        return joined + (f", fixed={self.fixed}" if self.fixed else "")


def asked_of(fit: Fit) -> Asked:
    """What a fit was asked for, from what it says of its blocks.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.diagnosis.restricted import asked_of
    >>> T = np.random.default_rng(0).uniform(size=(3, 4, 5))
    >>> asked_of(tc.decompose(T, "cp", 2, constraint=tc.NonNegative(modes=(0, 2)), rng=0)).keywords()
    ', constraint=tc.NonNegative(modes=(0, 2))'
    """
    model, network = fit.model, fit.model.network
    number = {name: k for k, name in enumerate(model.block_names)}
    fixed = [number[name] for name in fit.fixed if name in number]
    signed = {number[name] for name in fit.nonnegative if name in number}
    return _asked(model, fixed, signed | _non_negative(model, fixed) if signed else set(), network.order)


def asked_in(domain: Domain, model: Model) -> Asked:
    """The same for a model alone, whose domain is given."""
    fixed, signed = sorted(domain.fixed(model.network)), set(domain.restricted(model.network))
    return _asked(model, fixed, signed | _non_negative(model, fixed) if signed else set(), model.network.order)


def _non_negative(model: Model, blocks: list[int]) -> set[int]:
    return {k for k in blocks if model.dtype.kind != "c" and float(model.matrices[k].min()) >= 0.0}


def _asked(model: Model, fixed: list[int], signed: set[int], order: int) -> Asked:
    modes = [mode for k in sorted(signed) if (mode := model.network.modes[k]) is not None]
    cores = {k for k, mode in enumerate(model.network.modes) if mode is None}
    core = bool(cores & signed)
    domain: Domain = NonNegativeBlocks(modes, core) if signed else EVERYWHERE
    constraint = ""
    if signed:
        given = [] if len(modes) == order else [f"modes={tuple(modes)}"]
        given += [f"core={core}"] if cores and core != (not given) else []
        constraint = f"tc.NonNegative({', '.join(given)})"
    names = tuple(model.block_names[k] for k in fixed)
    if fixed:
        domain = FixedBlocks({k: model.matrices[k] for k in fixed}, domain)
    scaled = tuple(sorted(signed - set(fixed)))
    gauge = (f", scaled={scaled}" if scaled else "") + (f", fixed={tuple(fixed)}" if fixed else "")
    return Asked(domain, constraint, repr(names) if names else "", gauge)


def values_within(model: Model, domain: Domain, tensor: Tensor | None = None) -> Array | None:
    """Singular values of J S, decreasing, without the zeros of the gauge; None where every entry can move.

    Parameters
    ----------
    model : Model
        In double precision.
    domain : Domain
        Where its blocks may lie.
    tensor : Tensor, optional
        Whose observed entries and weights count; every entry without it.
    """
    movable = domain.movable(model)
    if movable is None:
        return None
    matrix = np.array(model.gauss_newton() if tensor is None else tensor.gauss_newton(model))
    # Only the upper triangle of blocks need be there.
    matrix = np.triu(matrix) + np.triu(matrix, 1).conj().T
    values = np.linalg.eigvalsh(matrix[np.ix_(movable, movable)])[::-1]
    left = values[: len(values) - gauge_within(model, movable)]
    return np.sqrt(np.maximum(left, 0.0))


def gauge_within(model: Model, movable: Array) -> int:
    """How many gauge directions move no entry that cannot move."""
    tangent = gauge_tangent(model)
    outside = tangent[~movable]
    values = np.linalg.svd(outside, compute_uv=False) if outside.size else np.zeros(0)
    return int(tangent.shape[1]) - int(np.count_nonzero(values > _DEPENDENT))


def free_parameters(model: Model, domain: Domain) -> int:
    """Numbers in a model that can move both ways, less the gauge directions among them."""
    movable = domain.movable(model)
    if movable is None:
        return model.n_parameters - model.gauge_dimension
    return int(np.count_nonzero(movable)) - gauge_within(model, movable)
