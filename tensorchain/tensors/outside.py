"""What a user hands over, opened: the array, its mask, the names of its dimensions.

Arrays come wrapped: with a mask (`numpy.ma`, also inside lists), with names and coordinates (xarray), on a device
(PyTorch).  Each data class opens what it is given here, so that a mask counts and a name is read wherever they come in.
What is no tensor (a table, a model, a path, several arrays at once) is refused with the call that makes one of it.

Libraries are recognised by the module of the type, so that none is imported for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tensorchain.kernels import Array
from tensorchain.models import Model

Labels = tuple[tuple[Any, ...] | None, ...]
"""For each mode the names of its indices, or None."""


@dataclass(frozen=True)
class Given:
    """What was handed over, opened.

    Attributes
    ----------
    data : object
        The array: of NumPy, dask, or anything else that can be sliced; lists have become arrays.
    missing : ndarray or None
        True where a mask says so; None without a mask.
    names : tuple of str or None
        Of the dimensions.
    labels : Labels or None
        Of the indices of each mode, where there are some.
    """

    data: Any
    missing: Array | None = None
    names: tuple[str, ...] | None = None
    labels: Labels | None = None


def library_of(given: Any) -> str:
    """The package that the type of an object comes from."""
    return type(given).__module__.partition(".")[0]


def lies_elsewhere(data: Any) -> bool:
    """Whether it is an array of another library that computes: CuPy, PyTorch, JAX, any array API."""
    if isinstance(data, (np.ndarray, np.generic)):
        return False
    named = hasattr(data, "__array_namespace__") or hasattr(data, "__cuda_array_interface__")
    return named or library_of(data) == "torch"


def opened(given: Any) -> Given:
    """Open what a user gives.

    Raises
    ------
    TypeError
        For what is no tensor, ValueError for lists that are ragged; the message says what to give instead.
    """
    library = library_of(given)
    if library == "xarray" and hasattr(given, "dims") and not hasattr(given, "data_vars"):
        inside = opened(given.data)
        return replace(inside, names=tuple(map(str, given.dims)), labels=_coordinates(given))
    refuse(given)
    if isinstance(given, np.ma.MaskedArray):
        return Given(np.asarray(given.data), np.ma.getmaskarray(given))
    if isinstance(given, (list, tuple)):
        missing = _mask_of(given)
        return Given(_array_of(given), missing)
    return Given(given)


def on_host(kind: str, given: Given) -> Given:
    """The same with a NumPy array; data that are not dense, or not to be read at once, are refused."""
    data = given.data
    library = library_of(data)
    if library == "torch":
        return replace(given, data=_from_torch(data))
    if library == "scipy" and hasattr(data, "tocoo"):
        raise TypeError(f"{kind}: a scipy.sparse matrix was given; use tc.Sparse.from_scipy(T), or T.toarray()")
    if library == "sparse":
        raise TypeError(
            f"{kind}: a sparse.{type(data).__name__} was given; use tc.Sparse.from_pydata(T) where the entries that it "
            "leaves out are zero, tc.Observed(T.coords.T, T.data, T.shape) where they are missing"
        )
    if hasattr(data, "__cuda_array_interface__"):
        raise TypeError(f"{kind}: a {library}.{type(data).__name__} is on a device; use tc.Device(T)")
    if library == "dask" and hasattr(data, "compute"):
        inside = opened(data.compute())
        return replace(given, data=inside.data, missing=either(given.missing, inside.missing))
    return replace(given, data=_array_of(data))


def either(one: Array | None, other: Array | None) -> Array | None:
    """True where one of two masks is."""
    if one is None or other is None:
        return other if one is None else one
    return one | other


def refuse(given: Any) -> None:
    """Raise TypeError for what is no tensor."""
    library, kind = library_of(given), type(given).__name__
    if given is None:
        raise TypeError("None was given; an array, nested lists or a data class such as tc.Masked is needed")
    if isinstance(given, (str, bytes, os.PathLike)):
        raise TypeError("a path or text was given; read the file first, as with np.load(path)")
    if isinstance(given, Model) or isinstance(getattr(given, "model", None), Model):
        where = "" if isinstance(given, Model) else ".model"
        raise TypeError(f"a {kind} was given where the tensor belongs; its tensor is {kind.lower()}{where}.full()")
    if library == "xarray":
        names = ", ".join(map(repr, list(getattr(given, "data_vars", []))[:5]))
        raise TypeError(f"an xarray.{kind} of variables {names} was given; pick one, as in dataset[name]")
    if library == "pandas" and kind == "Series":
        raise TypeError(
            "a pandas.Series was given; one with a MultiIndex is read by tc.Observed.from_frame(series), a vector has "
            "no decomposition"
        )
    if library in ("pandas", "polars"):
        raise TypeError(
            f"a {library}.{kind} was given, which may be a list of entries or a matrix; for entries, "
            'tc.Observed.from_frame(frame, ["i", "j", "k"], "value"), or tc.Sparse.from_frame where the rest is zero; '
            "for a matrix, frame.to_numpy()"
        )
    if library == "pyttb":
        advice = {"tensor": "T.data", "sptensor": "tc.Sparse(T.subs, T.vals.ravel(), T.shape)"}
        raise TypeError(
            f"a pyttb.{kind} was given; pass {advice.get(kind, 'tc.interop.from_pyttb(T), which is a model: .full()')}"
        )
    if library == "tensorly":
        raise TypeError(
            f"a TensorLy {kind} was given, which is a decomposition; tc.interop.from_tensorly(T) makes a model of it, "
            "and its tensor is .full()"
        )
    if isinstance(given, (Mapping, Set)):
        raise TypeError(f"a {kind} was given; an array or nested lists are needed")


def shown(value: Any) -> str:
    """`value` in a message: short, and never a whole array or report.

    Examples
    --------
    >>> import numpy as np
    >>> shown("svd"), shown(np.ones((3, 4)))
    ("'svd'", 'an array of shape (3, 4)')
    """
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and not isinstance(value, Model):
        return f"an array of shape {shape}"
    plain = (str, bytes, int, float, complex, tuple, list, dict, type, Model)
    text = repr(value) if value is None or isinstance(value, plain) else ""
    return text if 0 < len(text) <= 80 and "\n" not in text else f"a {type(value).__name__}"


def _coordinates(given: Any) -> Labels | None:
    """Of a DataArray the coordinates of each dimension."""
    coordinates = getattr(given, "coords", None)
    if coordinates is None:
        return None
    found = tuple(
        tuple(np.asarray(coordinates[name]).tolist())
        if name in coordinates and coordinates[name].dims == (name,)
        else None
        for name in given.dims
    )
    return found if any(labels is not None for labels in found) else None


def _mask_of(given: Any) -> Array | None:
    """The mask of nested lists with masked arrays or numbers among them; None where there are none."""
    if isinstance(given, np.ma.MaskedArray):
        return np.ma.getmaskarray(given)
    if not isinstance(given, (list, tuple)):
        return None
    masks = [_mask_of(item) for item in given]
    if all(mask is None for mask in masks):
        return None
    shapes = {np.shape(_plain(item)) for item in given}
    if len(shapes) > 1:
        raise ValueError(f"the list is ragged: its items have shapes {', '.join(map(str, sorted(shapes)[:4]))}")
    shape = shapes.pop()
    return np.stack([np.zeros(shape, dtype=bool) if mask is None else mask for mask in masks])


def _array_of(given: Any) -> Array:
    """An array of nested lists, or of what offers itself as an array."""
    if isinstance(given, np.ndarray):
        return np.asarray(given)
    try:
        with np.errstate(all="ignore"):
            return np.asarray(_plain(given))
    except MemoryError:
        raise
    except Exception as error:
        ragged = _ragged(given)
        if ragged:
            raise ValueError(
                f"the list is ragged: {ragged}; every list of one level must have the same length"
            ) from error
        raise TypeError(f"a {type(given).__name__} cannot be read as an array of numbers: {error}") from error


def _plain(given: Any) -> Any:
    """Nested lists whose masked numbers have become their data."""
    if isinstance(given, np.ma.core.MaskedConstant):
        return 0.0
    if isinstance(given, np.ma.MaskedArray):
        return given.data
    return [_plain(item) for item in given] if isinstance(given, (list, tuple)) else given


def _ragged(given: Any, where: str = "T") -> str:
    """Where nested lists differ in length, in words; empty where they do not."""
    if not isinstance(given, (list, tuple)):
        return ""
    lengths = [np.shape(item)[:1] if isinstance(item, np.ndarray) else _length(item) for item in given]
    for n, length in enumerate(lengths):
        if length != lengths[0]:
            one, other = (f"{size[0]} items" if size else "one number" for size in (lengths[0], length))
            return f"{where}[0] has {one} and {where}[{n}] has {other}"
    return next(filter(None, (_ragged(item, f"{where}[{n}]") for n, item in enumerate(given))), "") or _across(given)


def _length(item: Any) -> tuple[int, ...]:
    return (len(item),) if isinstance(item, (list, tuple)) else ()


def _across(given: Any) -> str:
    """Lists of one level that differ from parent to parent."""
    sizes = [np.shape(item) for item in given] if not any(_ragged(item) for item in given) else []
    for n, size in enumerate(sizes):
        if size != sizes[0]:
            return f"T[0] has shape {sizes[0]} and T[{n}] has {size}"
    return ""


def _from_torch(tensor: Any) -> Array:
    refuse_torch(tensor)
    held = tensor.detach().resolve_conj().resolve_neg().cpu()
    # NumPy has no bfloat16.
    return np.asarray((held.float() if str(held.dtype) == "torch.bfloat16" else held).numpy())


def refuse_torch(tensor: Any) -> None:
    """Raise TypeError or ValueError for tensors of PyTorch that hold no dense data."""
    if str(tensor.layout) != "torch.strided":
        raise TypeError(
            f"a torch tensor of layout {tensor.layout} was given; in COO form it is "
            "tc.Sparse(T.indices().T, T.values(), T.shape), T = T.coalesce() before"
        )
    if tensor.device.type == "meta":
        raise ValueError("a torch tensor on the device 'meta' was given, which holds no numbers; load its data first")
