"""Tables, HDF5 files and folders: what `tensorchain.cli.reading` reads beside NumPy, MATLAB and single pictures.

- **Tables** (.csv, .tsv): one matrix.  The delimiter is the first of tab, semicolon, comma and space that stands in the
  first line; a first line, or a first column, that holds words is taken for names and left out; so is a first line of
  numbers above a column of names, if its first cell is empty.  Empty cells, NA and nan are missing entries.  With
  semicolons a comma may stand for the decimal point.
- **HDF5** (.h5, .hdf5, and MATLAB's .mat of version 7.3): the data sets of numbers in the file itself; links to other
  files are not followed.
- **Folders**: pictures, .npy files or tables of one shape, in the natural order of their names (frame2 before frame10),
  stacked along the first mode.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tensorchain.cli.errors import CommandError
from tensorchain.kernels import Array

TABLES = (".csv", ".tsv")
HDF5 = (".h5", ".hdf5")
_PAIR, _NO_NUMBERS = ("real", "imag"), (b"char", b"cell", b"struct")
_MISSING = ("", "na", "n/a", "nan", "null", "none")
_DELIMITERS = "\t;, "


def read_table(path: Path) -> Array:
    """The matrix in a table, NaN where a cell is empty."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        lines = [line for line in stream if line.strip() and not line.startswith("#")]
    if not lines:
        raise CommandError(f"{path}: holds no line of numbers")
    delimiter = next((mark for mark in _DELIMITERS if mark in lines[0].strip()), ",")
    rows = [
        [cell.strip() for cell in row]
        for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=delimiter == " ")
    ]
    if delimiter == " ":
        rows = [[cell for cell in row if cell] for row in rows]
    commas = delimiter == ";" and not any("." in cell for row in rows[1:] for cell in row)
    table = [[_number(cell.replace(",", ".") if commas else cell) for cell in row] for row in rows]
    named = len(rows) > 1 and all(row[0] is None for row in table[1:])
    if named and table[0][0] is None and rows[0][1:] and None not in table[0][1:] and len(rows[0]) == len(rows[1]):
        raise CommandError(
            f"{path}: the first line may hold names or numbers ({rows[0][0][:40]!r}, {rows[0][1][:40]!r}, ...); leave "
            "its first cell empty if it holds names, or leave out the column of names"
        )
    first = 1 if len(rows) > 1 and (None in table[0] or (named and not rows[0][0])) else 0
    left = 1 if all(row[0] is None for row in table[first:]) else 0
    # The cell above a column of names may be absent.
    width = len(table[first])
    for number, row in enumerate(table[first:], start=first + 1):
        if len(row) != width:
            raise CommandError(f"{path}: line {number} has {len(row)} cells, the first of numbers has {width}")
        if any(value is None for value in row[left:]):
            wrong = next(cell for cell, value in zip(rows[number - 1][left:], row[left:], strict=True) if value is None)
            raise CommandError(f"{path}: line {number} holds {wrong[:40]!r}, which is no number")
    if width == left:
        raise CommandError(f"{path}: holds names and no numbers")
    return np.array([row[left:] for row in table[first:]], dtype=float)


def _number(cell: str) -> float | None:
    """None for a word."""
    if cell.lower() in _MISSING:
        return float("nan")
    try:
        return float(cell)
    except ValueError:
        return None


def read_hdf5(
    path: Path, key: str | None, choose: Callable[[Path, Sequence[str], str | None], str], *, matlab: bool = False
) -> Array:
    """A data set of an HDF5 file, or a variable of a MATLAB file of version 7.3, which is one.

    MATLAB writes the last mode first, complex numbers as pairs, and the content of cells under names that begin with #.
    """
    try:
        import h5py
    except ImportError as error:
        raise CommandError(f'{path}: reading HDF5 needs h5py: pip install "tensorchain[hdf5]"') from error
    with h5py.File(path, "r") as file:
        found: list[str] = []

        def visit(name: str, item: Any) -> None:
            numbers = isinstance(item, h5py.Dataset) and (item.dtype.kind in "biufc" or item.dtype.names == _PAIR)
            foreign = matlab and (name.startswith("#") or item.attrs.get("MATLAB_class") in _NO_NUMBERS)
            if numbers and not foreign and item.ndim > 0 and not item.external:
                found.append(name)

        file.visititems(visit)
        array = np.asarray(file[choose(path, found, None if key is None else key.strip("/"))][...])
    if array.dtype.names == _PAIR:
        array = array["real"] + 1j * array["imag"]
    return array.T if matlab else array


def read_folder(path: Path, read: Callable[[Path], Array], endings: Sequence[Sequence[str]]) -> Array:
    """The files of a folder, stacked.

    Parameters
    ----------
    path : Path
        Of the folder.
    read : callable
        Reads one file.
    endings : sequence of sequence of str
        Groups of endings that belong together; a folder may hold files of one group.

    Raises
    ------
    CommandError
        If there is no such file, files of several groups, or their shapes differ.
    """
    names = sorted(
        (entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith(".")), key=natural
    )
    groups = [[name for name in names if name.suffix.lower() in group] for group in endings]
    filled = [group for group in groups if group]
    if not filled:
        known = ", ".join(ending for group in endings for ending in group)
        raise CommandError(f"{path}: a folder without files that are read ({known})")
    if len(filled) > 1:
        raise CommandError(
            f"{path}: holds both {filled[0][0].name} and {filled[1][0].name}; files of one kind are needed"
        )
    if len(filled[0]) == 1:
        raise CommandError(f"{path}: a folder that holds one file, {filled[0][0].name}; give the name of that")
    arrays: list[Array] = []
    for name in filled[0]:
        array = read(name)
        if arrays and array.shape != arrays[0].shape:
            raise CommandError(
                f"{name}: has shape {array.shape}, and {filled[0][0].name} has {arrays[0].shape}; all need one shape"
            )
        arrays.append(array)
    return np.stack(arrays)


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Sorts numbers in names by their values.

    Examples
    --------
    >>> from tensorchain.cli.formats import natural
    >>> [path.name for path in sorted(map(Path, ["f10.png", "f9.png", "a.png"]), key=natural)]
    ['a.png', 'f9.png', 'f10.png']
    """
    parts = re.split(r"([0-9]+)", path.name)
    return [(0, int(part), "") if part.isdecimal() and part.isascii() else (1, 0, part) for part in parts]
