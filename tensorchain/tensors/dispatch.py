"""From what a user gives to the data source that reads it.

Libraries are recognised by the module of the type, so that none is imported for it.

| given | data source |
|---|---|
| a data source | itself |
| dask array, `numpy.memmap` | `Lazy` |
| scipy.sparse, pydata/sparse, sparse tensors of PyTorch | `Sparse` |
| CuPy, PyTorch, JAX, any other array API | `Device` |
| `numpy.ma.MaskedArray`, lists of them, dask arrays of them | `Masked` |
| `xarray.DataArray` | the data source of its data, with the names of its dimensions |
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
from tensorchain.tensors.outside import library_of, lies_elsewhere, opened
from tensorchain.tensors.sparse import Sparse


def as_tensor(tensor: Any) -> Tensor:
    """The data source for what a user gives.

    Parameters
    ----------
    tensor : Tensor or array_like
        A data class, or an array of NumPy, dask, scipy.sparse, sparse, CuPy, PyTorch, JAX or xarray, or nested lists.

    Returns
    -------
    Tensor

    Raises
    ------
    TypeError
        When it is of no kind that can be a tensor; the message says what to change.
    ValueError
        When its numbers or its shape are refused; the message says what to change.

    Examples
    --------
    >>> import numpy as np, scipy.sparse
    >>> as_tensor(scipy.sparse.eye_array(3))
    Sparse(3 x 3, 3 entries (33.3 %), float64)
    >>> as_tensor(np.ma.masked_equal([[1, 2], [3, 0], [5, 6]], 0)).observed.sum().item()
    5
    """
    if isinstance(tensor, Tensor):
        return tensor
    given = opened(tensor)
    data, library = given.data, library_of(given.data)
    if given.missing is not None:
        return Masked(tensor)
    made = _of_library(data, library)
    if made is None:
        return Dense(tensor)
    made.dimension_names, made.labels = given.names, given.labels
    return made


def _of_library(data: Any, library: str) -> Tensor | None:
    """The data class for an array of a library; None for what becomes a NumPy array."""
    if library == "dask" and hasattr(data, "to_delayed") and hasattr(data, "chunks"):
        # Which entries are masked is seen when the chunks are computed; a Lazy has no missing entries.
        return Masked(data) if isinstance(getattr(data, "_meta", None), np.ma.MaskedArray) else Lazy(data)
    if library == "scipy" and hasattr(data, "tocoo"):
        return Sparse.from_scipy(data)
    if library == "sparse":
        return Sparse.from_pydata(data)
    if isinstance(data, np.memmap):
        return Lazy(data)
    if library == "torch" and "sparse" in str(getattr(data, "layout", "")):
        return Sparse.from_torch(data)
    if lies_elsewhere(data):
        return Device(data)
    return None
