"""Model files: npz archives of plain arrays with a JSON header, never a pickle."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tensorchain.kernels import Array

FORMAT = 1


def write_npz(path: str | os.PathLike[str], header: str, arrays: dict[str, Array]) -> None:
    """Write header and arrays to `path` atomically."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, header=np.array(header), **arrays)  # type: ignore[arg-type]
        # mkstemp makes files private; give this one what `open` would have given.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_npz(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Array]]:
    """Header and blocks of a file written by `Model.save`; ValueError if it is anything else."""
    name = os.fspath(path)
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            header = json.loads(str(archive["header"][()]))
            arrays = {key: archive[key] for key in archive.files if key != "header"}
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{name!r} is not a model file of tensorchain: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{name!r} is not a model file that this version reads (format {FORMAT})")
    expected = [f"block_{k}" for k in range(len(arrays))]
    if header.get("blocks") != len(arrays) or set(arrays) != set(expected):
        raise ValueError(f"{name!r} is damaged: it holds {sorted(arrays)}, not {header.get('blocks')} blocks")
    return header, [arrays[key] for key in expected]
