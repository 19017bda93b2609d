"""Plain sweeps of alternating least squares: each block at its best, with the others as they are.

The update of block k is written as a correction, D = (W - B M) M^{-1} with W = L_k^H vec(T), which keeps its accuracy
where M is nearly singular, and one that does not lower the error is not taken: the error never rises.

    ||T - L (B + D)||^2 = ||T||^2 - <B + D, 2 W - (B + D) M>.

A factor is followed by the cores, where the model has some; in a Tucker model both take their joint best, from
the leading singular vectors of the product of T with the other factors: that is HOOI.

References: Kolda and Bader, "Tensor decompositions and applications" (2009), section 3.4, and section 4.2 for HOOI.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tensorchain.models import Model
from tensorchain.tensors import Tensor

_EXPLICIT = 1e3
"""Below this multiple of the root of the rounding (1e-5 in double precision) the error is computed entry by entry:
the short formula, ||T||^2 - 2 <T, X> + ||X||^2, has lost its digits."""


class Sweeper(Protocol):
    """Sweeps over the blocks of models of one wiring, for one tensor."""

    def error(self, model: Model) -> float:
        """||T - X||, from the product with T that the first update needs anyway."""
        ...

    def sweep(self, model: Model, error: float) -> tuple[Model, float]:
        """Every block updated once, and ||T - X||."""
        ...

    def kept(self, model: Model) -> list[list[int]]:
        """As :meth:`tensorchain.tensors.Tensor.kept`."""
        ...

    def keep(self, model: Model, kept: Sequence[Sequence[int]]) -> None:
        """As :meth:`tensorchain.tensors.Tensor.keep`."""
        ...


class Sweeps:
    """Sweeps through any door, over any model."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.norm = tensor, tensor.norm()
        self.kept, self.keep = tensor.kept, tensor.keep

    def error(self, model: Model) -> float:
        """||T - X||."""
        k = model.network.block_of_mode[0]
        matrix = model.matrices[k]
        rhs = self.tensor.contract_all_but(model, k)
        image = self.tensor.system(model, k).apply(matrix)
        return model_error(self.tensor, model, self.norm**2 - float(np.vdot(matrix, 2.0 * rhs - image).real))

    def sweep(self, model: Model, error: float) -> tuple[Model, float]:
        """Every block updated once, and ||T - X||."""
        square = error**2
        for step in sweep_steps(model):
            joint = self._joint_update(model, step[0]) if len(step) > 1 else None
            if joint is not None:
                model, explained = joint
                square = self.norm**2 - explained
                continue
            for k in step:
                model, square = self._update(model, k, square)
        return model, model_error(self.tensor, model, square)

    def _update(self, model: Model, k: int, square: float) -> tuple[Model, float]:
        """The model with block k at its best, and ||T - X||^2; both as they were where that is no better."""
        matrix, system = model.matrices[k], self.tensor.system(model, k)
        rhs = self.tensor.contract_all_but(model, k)
        residual = rhs - system.apply(matrix)
        change = system.solve(residual)
        image = system.apply(change)
        # ||T - L(B + D)||^2 - ||T - L B||^2
        difference = float(np.vdot(change, image - 2.0 * residual).real)
        if not difference < 0.0:
            return model, square
        updated = matrix + change
        # With L^H L (B + D) = W - R + L^H L D.
        square = self.norm**2 - float(np.vdot(updated, rhs + residual - image).real)
        return model.with_matrix(k, updated), square

    def _joint_update(self, model: Model, k: int) -> tuple[Model, float] | None:
        """Factor k and the core at their joint best, and ||X||^2, for models that know it."""
        whole = model.absorbed(k) if self.tensor.complete else None
        return None if whole is None else model.rejoined(k, self.tensor.contract_all_but(whole, 0))


def model_error(tensor: Tensor, model: Model, square: float) -> float:
    """||T - X|| from its square by the short formula, or entry by entry where that has lost its digits."""
    error = float(np.sqrt(max(square, 0.0)))
    return tensor.residual_norm(model) if error < _EXPLICIT * np.sqrt(tensor.rounding) else error


def sweep_steps(model: Model) -> list[list[int]]:
    """The factors in the order of their modes, each followed by the cores: partial products of the data are reused."""
    network = model.network
    return [[factor, *network.update_order[network.order :]] for factor in network.block_of_mode]
