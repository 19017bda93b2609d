"""The doors to the data: the only code that touches it."""

from tensorchain.tensors.base import Gradient, Tensor
from tensorchain.tensors.dense import Dense, as_tensor

__all__ = ["Dense", "Gradient", "Tensor", "as_tensor"]
