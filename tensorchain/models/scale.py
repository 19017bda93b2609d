"""The one place where figures pass between a tensor T and T / ||T||.

A factor c on X is c^(1/K) on each of the K blocks.  SS is a sum of squares of products of K - 1 blocks, so it takes
c^(2 (K - 1) / K), and the weight nu in ||T - X||^2 + nu SS takes c^2 over that, c^(2 / K).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Scale:
    """From the tensor of norm 1 to the tensor as given, and back.

    Parameters
    ----------
    norm : float
        ||T||.
    blocks : int
        K, the number of blocks of the model.

    Examples
    --------
    >>> scale = Scale(norm=8.0, blocks=3)
    >>> scale.sensitivity(1.0), scale.penalty(1.0), scale.unit_sensitivity(16.0)
    (16.0, 4.0, 1.0)
    """

    norm: float
    blocks: int

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
