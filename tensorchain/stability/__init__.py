"""Measures of how a decomposition reacts to changes, and the changes of gauge that weaken it."""

from tensorchain.stability.bit_allocation import BitAllocation, allocate_bits
from tensorchain.stability.conditioning import condition_number, jacobian_singular_values
from tensorchain.stability.crib import CramerRaoBounds, crib
from tensorchain.stability.data_perturbation import block_response
from tensorchain.stability.gauge import optimal_gauge
from tensorchain.stability.matching import Match, factor_match
from tensorchain.stability.perturbation import Direction, expected_error, first_order_error, worst_direction
from tensorchain.stability.quantization import quantization_error, round_blocks
from tensorchain.stability.sensitivity import sensitivity, sensitivity_gradient

__all__ = [
    "BitAllocation",
    "CramerRaoBounds",
    "Direction",
    "Match",
    "allocate_bits",
    "block_response",
    "condition_number",
    "crib",
    "expected_error",
    "factor_match",
    "first_order_error",
    "jacobian_singular_values",
    "optimal_gauge",
    "quantization_error",
    "round_blocks",
    "sensitivity",
    "sensitivity_gradient",
    "worst_direction",
]
