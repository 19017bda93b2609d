"""What an objective or a bound can be made of: functions r(theta) that are quadratic in each block.

A solver asks a quantity for

    value               r
    half_gradient       half of dr/dB_k for each block: v_k
    curvature           A_k, half of the second derivative in block k alone, as a matrix (P_k, P_k) for each row

so that with the other blocks fixed  r(B_k + D) = r + 2 <v_k, D> + <D, D A_k^T>,  exactly.  A quantity for which some
block does not count returns None there.  Quantities are equal by value: two bounds on one quantity are seen as such.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tensorchain.evaluation import Evaluator
from tensorchain.kernels import Array


@runtime_checkable
class Quantity(Protocol):
    """A function of the blocks that is quadratic in each of them."""

    def value(self, at: Evaluator) -> float:
        """r at the model that the evaluator holds."""
        ...

    def half_gradient(self, at: Evaluator) -> list[Array | None]:
        """Half of dr/dB_k for each block, in matrix form; None for a block that does not count."""
        ...

    def block_gradient(self, at: Evaluator, k: int) -> Array | None:
        """The same for block k alone."""
        ...

    def curvature(self, at: Evaluator, k: int) -> Array | None:
        """A_k, (P_k, P_k), Hermitian and positive semidefinite; None for zero."""
        ...

    def degree(self, blocks: int) -> float:
        """Power of ||T|| in r, for a model of so many blocks."""
        ...

    @property
    def falls_with_sensitivity(self) -> bool:
        """Whether the gauge of least sensitivity does not raise r."""
        ...


@dataclass(frozen=True)
class SquaredError:
    """||T - X||^2 over the observed entries."""

    def value(self, at: Evaluator) -> float:
        """r at the model that the evaluator holds."""
        return at.error() ** 2

    def half_gradient(self, at: Evaluator) -> list[Array | None]:
        """-J_k^H (T - X)."""
        return [-block for block in at.gradient()]

    def block_gradient(self, at: Evaluator, k: int) -> Array | None:
        """B_k M_k^T - L_k^H vec(T)."""
        return at.system(k).apply(at.model.matrices[k]) - at.rhs(k)

    def curvature(self, at: Evaluator, k: int) -> Array | None:
        """M_k; (I_k, P_k, P_k) where rows see different entries."""
        return at.gram(k)

    def degree(self, blocks: int) -> float:
        """Power of ||T|| in r."""
        return 2.0

    @property
    def falls_with_sensitivity(self) -> bool:
        """X does not change with the gauge."""
        return True


@dataclass(frozen=True)
class Sensitivity:
    """SS = sum_k I_k tr M_k = <B_k, B_k Q_k^T> + I_k tr M_k, for every k."""

    def value(self, at: Evaluator) -> float:
        """r at the model that the evaluator holds."""
        return at.sensitivity()

    def half_gradient(self, at: Evaluator) -> list[Array | None]:
        """B_k Q_k^T."""
        return [self.block_gradient(at, k) for k in range(len(at.model.matrices))]

    def block_gradient(self, at: Evaluator, k: int) -> Array | None:
        """B_k Q_k^T."""
        return at.model.matrices[k] @ at.metric(k).T

    def curvature(self, at: Evaluator, k: int) -> Array | None:
        """Q_k."""
        return at.metric(k)

    def degree(self, blocks: int) -> float:
        """Power of ||T|| in r."""
        return 2.0 * (blocks - 1) / blocks

    @property
    def falls_with_sensitivity(self) -> bool:
        """By definition."""
        return True
