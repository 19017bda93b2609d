"""From what a user gives to the door that reads it.

Libraries are recognised by the module of the type, so that none is imported for it.

| given | door |
|---|---|
| a door | itself |
| dask array, `numpy.memmap` | `Lazy` |
| scipy.sparse, pydata/sparse | `Sparse` |
| CuPy, PyTorch, JAX, any other array API | `Device` |
| `numpy.ma.MaskedArray` | `Masked` |
| `xarray.DataArray` | the door of its data, with the names of its dimensions |
| anything that becomes a NumPy array | `Dense` |
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorchain.tensors.base import Tensor
from tensorchain.tensors.dense import Dense
from tensorchain.tensors.device import Device
from tensorchain.tensors.lazy import Lazy
from tensorchain.tensors.masked import Masked
from tensorchain.tensors.sparse import Sparse


def as_tensor(tensor: Any) -> Tensor:
    """The door for what a user gives.

    Parameters
    ----------
    tensor : a door, or an array of NumPy, dask, scipy.sparse, sparse, CuPy, PyTorch, JAX or xarray, or nested lists.

    Raises
    ------
    TypeError, ValueError when the door refuses it; the message says what to change.

    Examples
    --------
    >>> import numpy as np, scipy.sparse
    >>> as_tensor(scipy.sparse.eye_array(3))
    Sparse(3 x 3, 3 entries, float64)
    >>> as_tensor(np.ma.masked_equal([[1, 2], [3, 0], [5, 6]], 0)).observed.sum().item()
    5
    """
    if isinstance(tensor, Tensor):
        return tensor
    library = type(tensor).__module__.partition(".")[0]
    if library == "xarray" and hasattr(tensor, "dims"):
        door = as_tensor(tensor.data)
        door.dimension_names = tuple(map(str, tensor.dims))
        return door
    if library == "dask" and hasattr(tensor, "to_delayed") and hasattr(tensor, "chunks"):
        return Lazy(tensor)
    if library == "scipy" and hasattr(tensor, "tocoo"):
        return Sparse.from_scipy(tensor)
    if library == "sparse":
        return Sparse.from_pydata(tensor)
    if isinstance(tensor, np.ma.MaskedArray):
        return Masked(tensor.data, ~np.ma.getmaskarray(tensor))
    if isinstance(tensor, np.memmap):
        return Lazy(tensor)
    if not isinstance(tensor, (np.ndarray, np.generic)) and (
        library == "torch" or hasattr(tensor, "__array_namespace__") or hasattr(tensor, "__cuda_array_interface__")
    ):
        return Device(tensor)
    return Dense(tensor)
