"""A reduced tensor as data for models of the full shape.

With T ~ G x_1 U_1 ... x_N U_N, a contraction with all blocks but one is that of the core with the blocks U_m^H B_m:

    L_k(B)^H vec(G x_1 U_1 ... x_N U_N) = U_n (L_k(U^H B)^H vec(G)),

so that a sweep costs the core, while the blocks stay blocks of T, with signs that a constraint may ask about.  X need
not lie in the span of the bases, and what T has outside of it is not seen: such sweeps are a start for others on T.
"""

from __future__ import annotations

from dataclasses import replace

from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.solvers.reduction import Reduction
from tensorchain.tensors import Tensor


class Compressed(Tensor):
    """G x_1 U_1 ... x_N U_N.

    Parameters
    ----------
    reduction : Reduction
        Core and bases.
    """

    def __init__(self, reduction: Reduction) -> None:
        self.reduction = reduction
        self.shape = tuple(len(basis) for basis in reduction.bases)
        self.dtype = reduction.core.dtype

    def scaled(self, factor: float) -> Compressed:
        """The data source of factor * T."""
        given = self.reduction
        core, remainder = given.core * factor, given.remainder * factor**2
        return Compressed(replace(given, core=core, norm=given.norm * abs(factor), remainder=remainder))

    def norm(self) -> float:
        """||G||."""
        return self.reduction.core_norm

    def contract_all_but(self, model: Model, k: int) -> Array:
        """L_k^H vec(T), (I_k, P_k)."""
        product = self.reduction.tensor.contract_all_but(self.reduction.lower(model), k)
        mode = model.network.modes[k]
        return product if mode is None else self.reduction.bases[mode] @ product
