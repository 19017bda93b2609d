"""The one place where figures pass between a tensor T and T / ||T||.

A factor c on X is c^(1/K) on each of the K blocks.  SS is a sum of squares of products of K - 1 blocks, so it takes
c^(2 (K - 1) / K), and the weight nu in ||T - X||^2 + nu SS takes c^2 over that, c^(2 / K).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorchain.models.network import Network


@dataclass(frozen=True)
class Scale:
    """From the tensor of norm 1 to the tensor as given, and back.

    Parameters
    ----------
    norm : float
        ||T||.
    blocks : int
        K, the number of blocks of the model.
    start_sensitivity : float
        SS of a random start of norm 1, the unit of relative penalties.

    Examples
    --------
    >>> scale = Scale(norm=8.0, blocks=3)
    >>> scale.sensitivity(1.0), scale.penalty(1.0), scale.unit_sensitivity(16.0)
    (16.0, 4.0, 1.0)
    """

    norm: float
    blocks: int
    start_sensitivity: float = 1.0

    @classmethod
    def of(cls, norm: float, network: Network, shape: Sequence[int]) -> Scale:
        """The scale of a model.

        With independent normal entries of variance c^2 in all K blocks, E ||X||^2 = c^2K m and E I_k tr M_k =
        c^(2K - 2) m for every k, where m is the number of entries times the sum over terms of the product of their
        bonds.  Norm 1 means c^2K = 1 / m, so that SS = K m^(1/K).

        Examples
        --------
        >>> import tensorchain as tc
        >>> scale = Scale.of(8.0, tc.CP.wiring((4, 5, 6), 2), (4, 5, 6))
        >>> round(scale.start_sensitivity, 6) == round(3 * (2 * 4 * 5 * 6) ** (1 / 3), 6)
        True
        """
        blocks = len(network.modes)
        paths = math.fsum(math.prod(float(size) for _, size in term.sizes) for term in network.terms)
        size = math.log(paths) + math.fsum(math.log(size) for size in shape)
        return cls(norm, blocks, blocks * math.exp(size / blocks))

    def times(self, value: Any, degree: float) -> Any:
        """value ||T||^degree, where that is a number; infinite or zero where it is none."""
        # In steps: the power alone may overflow where the product does not.
        step = self.norm ** (0.25 * degree)
        with np.errstate(over="ignore", under="ignore"):
            return value * step * step * step * step

    def sensitivity(self, unit: Any) -> Any:
        """SS for T, from SS for T / ||T||."""
        return self.times(unit, 2.0 * (self.blocks - 1) / self.blocks)

    def unit_sensitivity(self, value: Any) -> Any:
        """SS for T / ||T||, from SS for T."""
        return self.times(value, -2.0 * (self.blocks - 1) / self.blocks)

    def penalty(self, unit: Any) -> Any:
        """nu for T, from nu for T / ||T||."""
        return self.times(unit, 2.0 / self.blocks)

    def unit_penalty(self, value: Any) -> Any:
        """nu for T / ||T||, from nu for T."""
        return self.times(value, -2.0 / self.blocks)
