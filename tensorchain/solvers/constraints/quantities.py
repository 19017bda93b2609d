"""What an objective or a bound can be made of: functions r(theta) that are quadratic in each block.

With v_k half of dr/dB_k and A_k half of the second derivative in block k alone, a matrix (P_k, P_k) for each row,

    r(B_k + D) = r + 2 <v_k, D> + <D, D A_k^T>

exactly, with the other blocks fixed.  A new quantity is a subclass of `Quantity` that gives `value`, `block_gradient`,
`curvature` and `degree`; quantities are compared by value, so that two bounds on one quantity are seen as such.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from tensorchain.evaluation import Evaluator
from tensorchain.kernels import Array


class Quantity(ABC):
    """A function of the blocks that is quadratic in each of them."""

    @abstractmethod
    def value(self, at: Evaluator) -> float:
        """r at the model that the evaluator holds."""

    @abstractmethod
    def block_gradient(self, at: Evaluator, k: int) -> Array | None:
        """v_k, (I_k, P_k); None for a block that does not count."""

    @abstractmethod
    def curvature(self, at: Evaluator, k: int) -> Array | None:
        """A_k, (P_k, P_k), Hermitian and positive semidefinite; None for a block that does not count."""

    @abstractmethod
    def degree(self, blocks: int) -> float:
        """Power of ||T|| in r, for a model of so many blocks."""

    @property
    def falls_with_sensitivity(self) -> bool:
        """Whether the gauge of least sensitivity does not raise r."""
        return False

    def half_gradient(self, at: Evaluator) -> list[Array | None]:
        """v_k for each block."""
        return [self.block_gradient(at, k) for k in range(len(at.model.matrices))]

    def apply(self, at: Evaluator, k: int, block: Array) -> Array | None:
        """D A_k^T, for a change D of block k; None for a block that does not count."""
        matrix = self.curvature(at, k)
        return None if matrix is None else block @ matrix.T


@dataclass(frozen=True)
class SquaredError(Quantity):
    """||T - X||^2 over the observed entries."""

    def value(self, at: Evaluator) -> float:
        return at.error() ** 2

    def half_gradient(self, at: Evaluator) -> list[Array | None]:
        return [-block for block in at.gradient()]

    def block_gradient(self, at: Evaluator, k: int) -> Array | None:
        return at.system(k).apply(at.model.matrices[k]) - at.rhs(k)

    def curvature(self, at: Evaluator, k: int) -> Array | None:
        """M_k; (I_k, P_k, P_k) where rows see different entries."""
        return at.gram(k)

    def apply(self, at: Evaluator, k: int, block: Array) -> Array | None:
        return at.system(k).apply(block)

    def degree(self, blocks: int) -> float:
        return 2.0

    @property
    def falls_with_sensitivity(self) -> bool:
        return True


@dataclass(frozen=True)
class Sensitivity(Quantity):
    """SS = sum_k I_k tr M_k = <B_k, B_k Q_k^T> + I_k tr M_k, for every k."""

    def value(self, at: Evaluator) -> float:
        return at.sensitivity()

    def block_gradient(self, at: Evaluator, k: int) -> Array | None:
        return at.apply_metric(k, at.model.matrices[k])

    def curvature(self, at: Evaluator, k: int) -> Array | None:
        """Q_k."""
        return at.metric(k)

    def apply(self, at: Evaluator, k: int, block: Array) -> Array | None:
        return at.apply_metric(k, block)

    def degree(self, blocks: int) -> float:
        return 2.0 * (blocks - 1) / blocks

    @property
    def falls_with_sensitivity(self) -> bool:
        return True
