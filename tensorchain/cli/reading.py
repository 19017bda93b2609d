"""Arrays out of files: NumPy, MATLAB, HDF5, tables, and pictures, alone or in folders.

What a file holds is never executed: NumPy files are read without pickle.  A damaged or hostile file, whatever the
reader below raises, ends in one `CommandError` that names the file.

Supported are .npy (mapped into memory, not read whole), .npz, .mat, the pictures that Pillow opens, and what
:mod:`tensorchain.cli.formats` adds.  Where a file holds several arrays, `key` names one.
"""

from __future__ import annotations

import difflib
import importlib.util
import itertools
import os
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from tensorchain.cli.errors import CommandError
from tensorchain.cli.formats import HDF5, TABLES, read_folder, read_hdf5, read_table
from tensorchain.kernels import Array

PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_NUMBERS = ("double", "single", "logical", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
_MAGIC = b"\x93NUMPY"
_SHOWN = 8
"""Names of arrays listed in a message."""
_SCANNED = 1000
"""Files looked at for a hint."""


def read_array(path: str | Path, key: str | None = None) -> Array:
    """The array in a file.

    Parameters
    ----------
    path : str or Path
        Of a file, whose ending decides, or of a folder of pictures, .npy files or tables of one shape.
    key : str, optional
        Name of the array, where the file holds several.

    Returns
    -------
    ndarray
        As it is stored; pictures (rows, columns) or (rows, columns, channels) in the units of the file; the files of a
        folder stacked along the first mode.

    Raises
    ------
    CommandError
        If the file is missing or damaged, holds Python objects, or `key` does not choose one array.

    Examples
    --------
    >>> import numpy as np, tempfile, pathlib
    >>> from tensorchain.cli.reading import read_array
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "several.npz")
    ...     np.savez(path, a=np.ones((2, 3)), b=np.ones((4, 5)))
    ...     read_array(path, key="b").shape
    (4, 5)
    """
    path = check_source(path)
    if path.is_dir():
        if key is not None:
            raise CommandError(f"{path}: --key {key} was given, and the files of a folder hold one array; drop --key")
        return read_folder(path, read_array, (PICTURES, (".npy",), TABLES))
    suffix = path.suffix.lower()
    reader = _READERS.get(suffix)
    if reader is None:
        raise CommandError(
            f"{path}: no reader for {suffix or 'a name without ending'!r}; {', '.join(_READERS)} are read"
        )
    if key is not None and suffix not in (".npz", ".mat", *HDF5):
        raise CommandError(f"{path}: --key {key} was given, and {suffix} files hold one array; drop --key")
    try:
        with warnings.catch_warnings():
            # Readers warn of oddities in a file that they read nonetheless.
            warnings.simplefilter("ignore")
            array: Array = reader(path, key)
            return array
    except (CommandError, MemoryError):
        raise
    # Readers raise whatever a damaged file makes them stumble over.
    except Exception as error:
        raise CommandError(f"{path}: not a readable {suffix} file: {str(error) or type(error).__name__}") from error


def check_file(path: str | Path) -> Path:
    """`path`, if it names a file."""
    path = Path(path)
    try:
        if path.is_file():
            return path
        found = path.exists()
    except (OSError, ValueError) as error:
        raise CommandError(f"{path}: not a usable file name: {error}") from error
    raise CommandError(f"{path}: {'not a file' if found else f'no such file{_similar(path)}'}")


def check_source(path: str | Path) -> Path:
    """`path`, if it names a file or a folder."""
    path = Path(path)
    try:
        if path.is_dir():
            return path
    except (OSError, ValueError) as error:
        raise CommandError(f"{path}: not a usable file name: {error}") from error
    return check_file(path)


def _similar(path: Path) -> str:
    """A hint at files beside `path` whose names are close to its own."""
    try:
        names = [entry.name for entry in itertools.islice(os.scandir(path.parent), _SCANNED) if entry.is_file()]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=2)
    return f"; did you mean {' or '.join(str(path.parent / name) for name in close)}?" if close else ""


def _read_npy(path: Path, key: str | None) -> Array:
    with path.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise CommandError(f"{path}: not a .npy file, or a pickle, which could run code and is not read")
    try:
        return np.asanyarray(open_memmap(path, mode="r"))
    except ValueError as error:
        raise (_objects(path) if "Python objects" in str(error) else error) from error


def _read_npz(path: Path, key: str | None) -> Array:
    if not zipfile.is_zipfile(path):
        raise CommandError(f"{path}: not a .npz file, which is a zip archive of arrays")
    with np.load(path, allow_pickle=False) as archive:
        name = _choose(path, archive.files, key)
        try:
            array = archive[name]
        except ValueError as error:
            raise (_objects(path) if "Object arrays" in str(error) else error) from error
        # Members that are no arrays come as bytes.
        if not isinstance(array, np.ndarray):
            raise CommandError(f"{path}: {name} is no array")
        return array


def _read_mat(path: Path, key: str | None) -> Array:
    from scipy.io import loadmat, whosmat

    try:
        listed = whosmat(path, appendmat=False)
    except NotImplementedError as error:
        if importlib.util.find_spec("h5py") is None:
            raise CommandError(
                f"{path}: a MATLAB file of version 7.3 (HDF5); save it with the option -v7, or install h5py: "
                'pip install "tensorchain[hdf5]"'
            ) from error
        return read_hdf5(path, key, _choose, matlab=True)
    # MATLAB stores numbers as 1 x 1 matrices.
    arrays = [name for name, shape, kind in listed if kind in _NUMBERS and np.prod(shape, dtype=float) > 1]
    if key is not None and key not in arrays and key in (name for name, _, _ in listed):
        raise CommandError(f"{path}: {key} is no full array of numbers; choose one of {_listed(arrays)} with --key")
    name = _choose(path, arrays, key)
    return np.asarray(loadmat(path, appendmat=False, variable_names=[name])[name])


def _read_picture(path: Path, key: str | None) -> Array:
    try:
        from PIL import Image
    except ImportError as error:
        raise CommandError(f'{path}: reading pictures needs Pillow: pip install "tensorchain[images]"') from error
    with Image.open(path) as image:
        # Indices into a palette are no intensities; one bit a pixel is 0 or 255 as in grey pictures.
        flat = {"1": "L", "P": "RGB", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB", "LAB": "RGB"}
        return np.asarray(image.convert(flat[image.mode]) if image.mode in flat else image)


def _choose(path: Path, names: Sequence[str], key: str | None) -> str:
    if key is not None:
        if key not in names:
            raise CommandError(f"{path}: no array {key!r}; it holds {_listed(names)}")
        return key
    if not names:
        raise CommandError(f"{path}: holds no array of numbers")
    if len(names) > 1:
        raise CommandError(f"{path}: holds {len(names)} arrays, {_listed(names)}; choose one with --key")
    return names[0]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(name[:40] for name in names[:_SHOWN]) + more) or "none"


def _objects(path: Path) -> CommandError:
    return CommandError(
        f"{path}: holds Python objects, which could run code and are not read; save an array of numbers"
    )


_READERS: dict[str, Callable[[Path, str | None], Any]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".mat": _read_mat,
    **dict.fromkeys(TABLES, lambda path, key: read_table(path)),
    **dict.fromkeys(HDF5, lambda path, key: read_hdf5(path, key, _choose)),
    **dict.fromkeys(PICTURES, _read_picture),
}
