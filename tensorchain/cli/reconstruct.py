"""`tensorchain reconstruct`: the tensor of a saved decomposition, or a part of it, as a file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tensorchain.cli.arguments import parse_index
from tensorchain.cli.errors import EXIT_STATUS, CommandError, Status
from tensorchain.cli.output import print_report
from tensorchain.cli.reading import PICTURES, check_file
from tensorchain.cli.writing import check_target, replace_file
from tensorchain.kernels import Array
from tensorchain.models import load

DESCRIPTION = """\
Write the tensor that a decomposition stands for, or the part that --at names, without forming the rest.

A picture takes (rows, columns) or (rows, columns, 3), in the units 0 to 255 in which `tensorchain decompose` reads
pictures: numbers are rounded, and cut off at both ends.  A table (.csv) takes a vector or a matrix.
"""

EPILOG = f"""\
examples:
  tensorchain reconstruct fit.npz --out full.npy
  tensorchain reconstruct fit.npz --at 0:10,:,3 --out part.csv
  tensorchain reconstruct photo.npz --out photo.png

{EXIT_STATUS}"""


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "reconstruct",
        help="write the tensor of a saved decomposition",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("file", metavar="FIT.npz", help="written by `tensorchain decompose`: .npz or .safetensors")
    parser.add_argument("--out", required=True, metavar="FILE", help=", ".join(WRITERS))
    parser.add_argument("--at", type=parse_index, metavar="INDEX", help="positions and slices from 0, as 0:3,:,5")


def run(arguments: argparse.Namespace) -> Status:
    """Read, evaluate, write."""
    target = check_target("--out", arguments.out, tuple(WRITERS))
    path = check_file(arguments.file)
    if target.exists() and target.samefile(path):
        raise CommandError(f"--out {target}: is the file that is read; choose another name")
    try:
        model = load(path)
        array = model.full() if arguments.at is None else np.asarray(model[arguments.at])
    except (ValueError, IndexError, ImportError) as error:
        raise CommandError(f"{arguments.file}: {error}") from error
    write = WRITERS[target.suffix.lower()]
    replace_file(target, lambda temporary: write(temporary, array))
    sizes = " x ".join(map(str, array.shape)) or "one number"
    print_report([("shape", sizes), ("dtype", str(array.dtype)), ("saved", str(target))], title=str(path))
    return Status.OK


def write_array(path: Path, array: Array) -> None:
    """A .npy file."""
    np.save(path, array)


def write_table(path: Path, array: Array) -> None:
    """A .csv file, numbers in full precision."""
    if array.ndim > 2 or array.dtype.kind == "c":
        raise CommandError(
            f"--out: a table takes real vectors and matrices, and shape {array.shape} of {array.dtype} is at hand; "
            "choose a part with --at, or .npy"
        )
    np.savetxt(path, np.atleast_1d(array), delimiter=",", fmt="%.17g")


def write_matlab(path: Path, array: Array) -> None:
    """A .mat file with the variable X."""
    from scipy.io import savemat

    savemat(path, {"X": array})


def write_hdf5(path: Path, array: Array) -> None:
    """A .h5 file with the data set X."""
    with hdf5().File(path, "w") as file:
        file["X"] = array


def hdf5() -> Any:
    """The package h5py."""
    try:
        import h5py
    except ImportError as error:
        raise CommandError('writing HDF5 needs h5py: pip install "tensorchain[hdf5]"') from error
    return h5py


def write_picture(path: Path, array: Array) -> None:
    """A picture of 8 bits."""
    try:
        from PIL import Image
    except ImportError as error:
        raise CommandError('writing pictures needs Pillow: pip install "tensorchain[images]"') from error
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not fits or array.dtype.kind == "c":
        raise CommandError(
            f"--out: a picture takes (rows, columns) or (rows, columns, 3) of real numbers, and shape {array.shape} of "
            f"{array.dtype} is at hand; choose a part with --at"
        )
    Image.fromarray(np.clip(np.rint(array), 0, 255).astype(np.uint8)).save(path)


WRITERS: dict[str, Callable[[Path, Array], None]] = {
    ".npy": write_array,
    ".csv": write_table,
    ".mat": write_matlab,
    ".h5": write_hdf5,
    **dict.fromkeys(
        (ending for ending in PICTURES if ending in (".png", ".jpg", ".jpeg", ".tif", ".tiff")), write_picture
    ),
}
