"""Tables in long format: one row for each entry, with what its indices are called, and a value.

| who | what | price |
|---|---|---|
| ann | tea | 3.0 |
| bob | rye | 8.0 |

A column becomes a mode: the different names in it, in rising order, are its indices (of pandas' categories those that
occur, in their order).  Columns are read by name, so pandas is not imported: a dict of arrays will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tensorchain.kernels import Array
from tensorchain.tensors.outside import library_of, shown


class Table(NamedTuple):
    """A table as entries."""

    indices: Array
    values: Any
    shape: tuple[int, ...]
    weights: Any
    names: tuple[str, ...]
    labels: tuple[tuple[Any, ...], ...]


def read_table(frame: Any, columns: Sequence[str] | None, value: Any, weights: Any) -> Table:
    """The entries of a table, see `Observed.from_frame`."""
    if isinstance(columns, str):
        raise TypeError(f"columns is {columns!r}; a list of column names is needed, one for each mode")
    if library_of(frame) == "pandas":
        frame, columns, value = _flat(frame, columns, value)
    if not hasattr(frame, "__getitem__") or isinstance(frame, (list, tuple, str, np.ndarray)):
        raise TypeError(
            f"a {type(frame).__name__} was given; a table with named columns is needed, such as a pandas.DataFrame"
        )
    if columns is None or value is None:
        raise ValueError(
            'say which columns hold the indices and which the values: from_frame(frame, ["i", "j"], "value")'
        )
    found = [_indices(_column(frame, name), name) for name in columns]
    if len({len(codes) for codes, _ in found}) > 1:
        raise ValueError(f"the columns {', '.join(map(str, columns))} have different lengths; a row holds one of each")
    return Table(
        indices=np.stack([codes for codes, _ in found], axis=1) if found else np.empty((0, 0), dtype=np.int64),
        values=np.asarray(_column(frame, value)),
        shape=tuple(len(labels) for _, labels in found),
        weights=None if weights is None else np.asarray(_column(frame, weights)),
        names=tuple(map(str, columns)),
        labels=tuple(labels for _, labels in found),
    )


def _flat(frame: Any, columns: Sequence[str] | None, value: Any) -> tuple[Any, Sequence[str] | None, Any]:
    """A frame whose index has become columns, where those are asked for; a Series as a frame."""
    levels = [f"mode {n + 1}" if name is None else name for n, name in enumerate(frame.index.names)]
    if not hasattr(frame, "columns"):
        value = frame.name if frame.name is not None and frame.name not in levels else "value"
        frame = frame.rename(value).rename_axis(levels).reset_index()
        return frame, levels if columns is None else columns, value
    if columns is None or any(name not in frame.columns for name in columns):
        kept = [name for name in levels if name not in frame.columns]
        frame = frame.rename_axis(levels).reset_index(level=kept) if kept else frame
        columns = levels if columns is None and len(levels) > 1 else columns
    return frame, columns, value


def _column(frame: Any, name: Any) -> Any:
    try:
        return frame[name]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        names = ", ".join(repr(given) for given in list(getattr(frame, "columns", frame))[:10])
        raise ValueError(f"the table has no column {shown(name)}; it has {names}") from error


def _indices(column: Any, name: Any) -> tuple[Array, tuple[Any, ...]]:
    """Position of each row along a mode, and what the positions are called."""
    categories = getattr(column, "cat", None)
    if categories is not None and hasattr(categories, "codes"):
        codes = np.asarray(categories.codes, dtype=np.int64)
        _nothing_missing(codes < 0, name)
        seen, codes = np.unique(codes, return_inverse=True)
        return codes, tuple(np.asarray(categories.categories)[seen].tolist())
    if hasattr(column, "isna"):
        _nothing_missing(np.asarray(column.isna()), name)
    entries = np.asarray(column)
    if isinstance(column, (list, tuple)) and entries.dtype.kind not in "iufb":
        # Not as NumPy would have them: 3 beside "a" is a number.
        entries = np.array([*column, None], dtype=object)[:-1]
    if entries.ndim != 1:
        raise ValueError(f"column {name!r} has shape {entries.shape}; one name for each row is needed")
    if entries.dtype.kind in "OUST":
        # Names of different types have no order of their own.
        _nothing_missing(np.array([entry is None or entry != entry for entry in entries.tolist()], dtype=bool), name)
        labels = list(dict.fromkeys(entries.tolist()))
        try:
            labels.sort()
        except TypeError:
            labels.sort(key=lambda label: (type(label).__name__, str(label)))
        position = {label: n for n, label in enumerate(labels)}
        return np.array([position[entry] for entry in entries.tolist()], dtype=np.int64), tuple(labels)
    _nothing_missing(np.asarray(entries != entries), name)
    seen, codes = np.unique(entries, return_inverse=True)
    return codes.ravel().astype(np.int64), tuple(seen.tolist())


def _nothing_missing(missing: Array, name: Any) -> None:
    if missing.any():
        raise ValueError(
            f"column {name!r} is empty in {np.count_nonzero(missing)} rows, the first is row "
            f"{int(np.argmax(missing))}; every entry needs an index: drop these rows, as with frame.dropna()"
        )
