"""Measures of how a decomposition reacts to changes, and the transformations that tame it."""

from tensorchain.stability.gauge import optimal_gauge
from tensorchain.stability.sensitivity import sensitivity

__all__ = ["optimal_gauge", "sensitivity"]
