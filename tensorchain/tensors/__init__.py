"""The data sources to the data: the only code that touches it."""

from tensorchain.tensors.base import Residual, Tensor
from tensorchain.tensors.dense import Dense
from tensorchain.tensors.device import Device
from tensorchain.tensors.dispatch import as_tensor
from tensorchain.tensors.lazy import Lazy
from tensorchain.tensors.masked import Masked
from tensorchain.tensors.observed import Observed
from tensorchain.tensors.sparse import Sparse

__all__ = ["Dense", "Device", "Lazy", "Masked", "Observed", "Residual", "Sparse", "Tensor", "as_tensor"]
