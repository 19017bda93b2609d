"""`tensorchain export`: the blocks of a saved decomposition for other programs."""

from __future__ import annotations

import argparse
import csv
import re
from pathlib import Path
from typing import Any

import numpy as np

from tensorchain.cli.errors import EXIT_STATUS, CommandError, Status
from tensorchain.cli.output import print_report
from tensorchain.cli.reading import check_file
from tensorchain.cli.reconstruct import hdf5
from tensorchain.cli.writing import check_target, replace_file
from tensorchain.fit import Fit
from tensorchain.fit_files import load as load_whole
from tensorchain.models import CP, Model, load
from tensorchain.models.dimensions import dimensions_of
from tensorchain.models.files import read_model
from tensorchain.models.tables import column_names

DESCRIPTION = """\
Write the blocks of a decomposition.  --out may be a folder, which gets a table (.csv) for each block and one of the
components; a file .mat or .h5, with one array for each block in its natural shape; or .npz or .safetensors, a model
file in the other format.
"""

EPILOG = f"""\
examples:
  tensorchain export fit.npz --out tables --normalized --names sample,excitation,emission
  tensorchain export fit.npz --out fit.mat
  tensorchain export fit.npz --out fit.safetensors

{EXIT_STATUS}"""

_FILES = (".mat", ".h5", ".npz", ".safetensors")


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "export",
        help="write the blocks of a saved decomposition as tables or arrays",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("file", metavar="FIT.npz", help="written by `tensorchain decompose`: .npz or .safetensors")
    parser.add_argument("--out", required=True, metavar="DIR", help=f"a folder, or a file {', '.join(_FILES)}")
    parser.add_argument(
        "--normalized", action="store_true",
        help="of a CP: unit columns by falling weight, the weights in the table of components",
    )  # fmt: skip
    parser.add_argument("--names", metavar="A,B,C", help="what the modes are called in the tables")


def run(arguments: argparse.Namespace) -> Status:
    """Read, convert, write."""
    path, out = check_file(arguments.file), Path(arguments.out)
    try:
        header, *_ = read_model(path)
        model = load(path)
    except (ValueError, ImportError) as error:
        raise CommandError(str(error)) from error
    if arguments.normalized:
        if not isinstance(model, CP):
            raise CommandError(f"--normalized is for CP, and {path} holds a {type(model).__name__}; leave it out")
        model = CP(model.normalized().factors) if out.suffix else model
    if out.suffix:
        _write_file(arguments, model, header, path, check_target("--out", out, _FILES))
        return Status.OK
    try:
        names = [d.name for d in dimensions_of(model.shape, arguments.names and arguments.names.split(","))]
    except ValueError as error:
        raise CommandError(f"--names: {error}") from error
    written = _write_tables(model, names, _folder(out), arguments.normalized)
    print_report([("saved", str(file)) for file in written], title=str(path))
    return Status.OK


def _write_file(arguments: argparse.Namespace, model: Model, header: dict[str, Any], path: Path, out: Path) -> None:
    if arguments.names is not None:
        raise CommandError("--names is for tables; leave it out, or give a folder as --out")
    if out.exists() and out.samefile(path):
        raise CommandError(f"--out {out}: is the file that is read; choose another name")
    arrays = {_file_name(name): block for name, block in zip(model.block_names, model.blocks, strict=True)}
    if out.suffix == ".mat":
        from scipy.io import savemat

        replace_file(out, lambda temporary: savemat(temporary, arrays))
    elif out.suffix == ".h5":
        library = hdf5()

        def write(temporary: Path) -> None:
            with library.File(temporary, "w") as file:
                for name, array in arrays.items():
                    file[name] = array

        replace_file(out, write)
    else:
        extra = header.get("extra")
        try:
            whole = load_whole(path)
            if isinstance(whole, Fit) and not arguments.normalized:
                whole.save(out)
            else:
                model.save(out, **(extra if isinstance(extra, dict) else {}))
        except ImportError as error:
            raise CommandError(f"--out {out}: {error}") from error
    print_report([(name, str(array.shape)) for name, array in arrays.items()] + [("saved", str(out))], title=str(path))


def _folder(path: Path) -> Path:
    """The folder, made where it is not there."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise CommandError(f"--out {path}: cannot be made a folder: {error.strerror}") from error
    return path


def _write_tables(model: Model, names: list[str], folder: Path, normalized: bool) -> list[Path]:
    """One table a block, and one of the components."""
    if normalized and isinstance(model, CP):
        # Components in the order of the columns that are written.
        components = CP.from_weights(*model.normalized()).components
        shown: Model = CP(model.normalized().factors)
    else:
        components, shown = model.components, model
    written = []
    for k, (name, mode) in enumerate(zip(shown.block_names, shown.network.modes, strict=True)):
        columns, table = column_names(shown.network, k), shown.matrices[k]
        if mode is None:
            rows = [[column, *_cells([value])] for column, value in zip(columns, table[0], strict=True)]
            written.append(_write(folder, name, [["bonds", "entry"], *rows]))
        else:
            lines = [[str(i), *_cells(row)] for i, row in enumerate(table)]
            written.append(_write(folder, name, [[names[mode], *columns], *lines]))
    head = ["component", "norm", "share", "closest", "cosine"]
    figures = zip(components.norm, components.share, components.closest + 1, components.cosine, strict=True)
    rows = [[str(r), *_cells(row)] for r, row in enumerate(figures, start=1)]
    written.append(_write(folder, "components", [head, *rows]))
    return written


def _write(folder: Path, name: str, rows: list[list[str]]) -> Path:
    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows(rows)

    target = folder / f"{_file_name(name)}.csv"
    replace_file(target, write)
    return target


def _cells(values: Any) -> list[str]:
    """Numbers in full precision, whole ones as such."""
    return [str(value) if isinstance(value, (int, np.integer)) else repr(value.item()).strip("()") for value in values]


def _file_name(name: str) -> str:
    """`factor 2` as `factor_2`."""
    return re.sub(r"\W+", "_", name)
