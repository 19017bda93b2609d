"""Calibration inputs of a model out of a file of arrays.

A model of one input takes the array of a .npy file, or the only or named one of a .npz file.  A model of several inputs
takes the arrays of a .npz file that bear their names.  For each input an array has

- the axes of the input, images along the first: split into batches, of the size that the model asks for;
- the very shape of the input, where another array says how many runs there are: the same in every run (a state);
- one axis more: one run for each entry.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tensorchain.cli.errors import CommandError
from tensorchain.cli.reading import check_file, read_array
from tensorchain.compression.onnx_calibration import describe
from tensorchain.compression.onnx_reading import InputInfo
from tensorchain.kernels import Array

_BATCH = 32
_ENTRIES = 1 << 20
"""Images and numbers in one run."""


@dataclass(frozen=True)
class FileFeeds:
    """Feeds that are cut out of arrays as they are needed.

    Attributes
    ----------
    arrays : mapping of str to ndarray
        By name of the input.
    steps : mapping of str to int
        Entries along the first axis for each run; 0 for an array that is the same in every run, -1 for one with an axis
        more than the input.
    count : int
        Runs.
    """

    arrays: Mapping[str, Array]
    steps: Mapping[str, int]
    count: int

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for k in range(self.count):
            yield {name: self._part(name, k) for name in self.arrays}

    def _part(self, name: str, k: int) -> Array:
        step, array = self.steps[name], self.arrays[name]
        if step == 0:
            return array
        return array[k] if step < 0 else array[k * step : (k + 1) * step]


def read_feeds(path: str | Path, key: str | None, inputs: Sequence[InputInfo], *, runs: int = 1) -> FileFeeds:
    """The calibration inputs in a file.

    Parameters
    ----------
    path : str or Path
        Of the file.
    key : str or None
        Which array, for a model of one input.
    inputs : sequence of InputInfo
        Of the model.
    runs : int
        At least so many runs, where the model takes batches of any size and there are so many images.

    Raises
    ------
    CommandError
        If the file cannot be read, lacks an input, or its arrays do not fit the inputs or each other.
    """
    arrays = _arrays(check_file(path), key, inputs)
    return split(arrays, inputs, f"--calibration {path}", runs=runs)


def split(
    arrays: Mapping[str, Array], inputs: Sequence[InputInfo], where: str = "calibration", *, runs: int = 1
) -> FileFeeds:
    """Feeds from arrays by name of the input.

    Examples
    --------
    >>> import numpy as np
    >>> inputs = [InputInfo("x", np.dtype("f4"), (0, 8)), InputInfo("rate", np.dtype("i8"), ())]
    >>> feeds = split({"x": np.ones((40, 8)), "rate": np.array(16000)}, inputs)
    >>> [feed["x"].shape for feed in feeds]
    [(32, 8), (8, 8)]
    """
    entries = {
        one.name: len(arrays[one.name])
        for one in inputs
        if one.shape is not None and arrays[one.name].ndim == len(one.shape) + 1
    }
    rows = {}
    for one in inputs:
        array, shape = arrays[one.name], one.shape
        if shape is not None and array.ndim not in (len(shape), len(shape) + 1):
            raise CommandError(
                f"{where}: the array for {one.name!r} has shape {array.shape}; {describe(one)} is needed"
            )
        if one.name not in entries and array.ndim and not (shape and shape[0]):
            rows[one.name] = len(array)
    fixed = {
        one.name: one.shape[0]
        for one in inputs
        if one.shape and one.shape[0] and one.name not in entries and len(arrays[one.name]) != one.shape[0]
    }
    steps = dict.fromkeys(arrays, 0)
    if entries:
        counts = set(entries.values()) | set(rows.values())
        steps.update(dict.fromkeys(entries, -1))
        steps.update(dict.fromkeys(rows, 1))
    elif fixed:
        # A model of fixed batch takes whole batches only.
        counts = {len(arrays[name]) // size for name, size in fixed.items()} | set(rows.values())
        steps.update(fixed)
        steps.update(dict.fromkeys(rows, 1))
    elif rows:
        largest = max(math.prod(arrays[name].shape[1:]) for name in rows)
        step = min(_BATCH, max(1, _ENTRIES // max(largest, 1)), max(1, max(rows.values()) // runs))
        counts = {-(-count // step) for count in rows.values()} if len(set(rows.values())) == 1 else set(rows.values())
        steps.update(dict.fromkeys(rows, step))
    else:
        counts = {1}
    if len(counts) > 1:
        shapes = ", ".join(f"{name!r} {array.shape}" for name, array in arrays.items())
        raise CommandError(f"{where}: the arrays are for different numbers of runs: {shapes}")
    count = counts.pop()
    if not count:
        needed = ", ".join(f"{one.name!r} {describe(one)}" for one in inputs)
        raise CommandError(f"{where}: holds too few entries for one run; needed are {needed}")
    return FileFeeds(arrays, steps, count)


def _arrays(path: Path, key: str | None, inputs: Sequence[InputInfo]) -> dict[str, Array]:
    """The array of each input."""
    names = [one.name for one in inputs]
    held = _held(path)
    if len(names) == 1 and (key is not None or names[0] not in held):
        return {names[0]: np.asarray(read_array(path, key))}
    missing = [name for name in names if name not in held]
    if missing:
        needed = ", ".join(f"{one.name!r} {describe(one)}" for one in inputs)
        raise CommandError(
            f"--calibration {path}: has no array {missing[0]!r}; a .npz file with one for each input is needed: "
            f"{needed}"
        )
    return {name: np.asarray(read_array(path, name)) for name in names}


def _held(path: Path) -> Sequence[str]:
    """Names of the arrays in a .npz file, none for other files."""
    if path.suffix.lower() != ".npz":
        return ()
    try:
        with np.load(path, allow_pickle=False) as archive:
            files: Any = archive.files
            return list(files)
    except Exception as error:
        # What NumPy says of files that are none is how to read them unsafely.
        reason = "it is none" if "pickle" in str(error) else str(error) or type(error).__name__
        raise CommandError(f"{path}: not a readable .npz file: {reason}") from error
