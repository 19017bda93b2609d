"""The doors to the data: the only code that touches it."""

from tensorchain.tensors.base import Residual, Tensor
from tensorchain.tensors.dense import Dense, as_tensor

__all__ = ["Dense", "Residual", "Tensor", "as_tensor"]
