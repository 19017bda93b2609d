"""Model files: plain arrays with a JSON header, as .npz archives or as .safetensors; never a pickle.

Both hold the blocks in their natural shapes as `block_0`, `block_1`, ..., and one JSON header: the format, the name of
the model, how many blocks it has, what else it needs (its state), and the report of the fit.

| | npz | safetensors |
|---|---|---|
| header | a text array `header` | the metadata `tensorchain` |
| complex blocks | as they are | as pairs of real numbers, (..., 2); the metadata `complex` names them |
| needs | NumPy | the package safetensors (extra `interop`) |

The ending of the path chooses the format of a new file, its content that of an old one.  A file is written under a
temporary name and renamed, so an interrupted save leaves the old one; whatever is read is checked, and a file that is
cut, changed or made up ends in one ValueError that names it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tensorchain.kernels import Array

FORMAT = 1
_SUFFIX = ".safetensors"


def write_model(path: str | os.PathLike[str], header: str, arrays: dict[str, Array]) -> None:
    """Write header and arrays to `path`, in the format that its ending asks for: .safetensors, else npz."""
    if os.fspath(path).endswith(_SUFFIX):
        write_safetensors(path, header, arrays)
    else:
        write_npz(path, header, arrays)


def read_model(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Array]]:
    """Header and blocks of a file written by `Model.save`, whatever its format.

    Raises
    ------
    FileNotFoundError, or ValueError when the file is not a model file.
    """
    return read_safetensors(path) if _is_safetensors(path) else read_npz(path)


def write_npz(path: str | os.PathLike[str], header: str, arrays: dict[str, Array]) -> None:
    """Write header and arrays to `path` atomically."""
    _replace(path, lambda stream: np.savez(stream, header=np.array(header), **arrays))  # type: ignore[arg-type]


def read_npz(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Array]]:
    """Header and blocks of a file written by `Model.save`; ValueError if it is anything else."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            header = json.loads(str(archive["header"][()]))
            arrays = {key: archive[key] for key in archive.files if key != "header"}
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{os.fspath(path)!r} is not a model file of tensorchain: {error}") from error
    return _checked(os.fspath(path), header, arrays)


def write_safetensors(path: str | os.PathLike[str], header: str, arrays: dict[str, Array]) -> None:
    """Write header and arrays to `path` atomically, in the format of the package safetensors."""
    save = _safetensors("numpy").save
    pairs = sorted(name for name, array in arrays.items() if array.dtype.kind == "c")
    plain = {
        name: np.ascontiguousarray(np.stack([array.real, array.imag], axis=-1) if name in pairs else array)
        for name, array in arrays.items()
    }
    content = save(plain, metadata={"tensorchain": header, "complex": json.dumps(pairs)})
    _replace(path, lambda stream: stream.write(content))


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Array]]:
    """Header and blocks of a .safetensors file written by `Model.save`; ValueError if it is anything else."""
    opened = _safetensors("").safe_open
    try:
        with opened(os.fspath(path), framework="np") as archive:
            metadata = archive.metadata() or {}
            if "tensorchain" not in metadata:
                raise ValueError("it has no header of tensorchain")
            header, pairs = json.loads(metadata["tensorchain"]), json.loads(metadata.get("complex", "[]"))
            arrays = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
        for name in pairs:
            arrays[name] = _from_pairs(arrays[name])
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{os.fspath(path)!r} is not a model file of tensorchain: {error}") from error
    return _checked(os.fspath(path), header, arrays)


def _from_pairs(array: Array) -> Array:
    if array.ndim < 1 or array.shape[-1] != 2 or array.dtype.kind != "f":
        raise ValueError(f"a complex block of shape {array.shape} and dtype {array.dtype} is no array of pairs")
    return array[..., 0] + 1j * array[..., 1]


def _is_safetensors(path: str | os.PathLike[str]) -> bool:
    """By content: an archive begins with PK, a safetensors file with 8 bytes of length and a brace."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(9)
    except FileNotFoundError:
        raise
    except OSError:
        # A folder, say; the reader tells.
        return False
    return not head.startswith(b"PK") and (head[8:] == b"{" or os.fspath(path).endswith(_SUFFIX))


def _safetensors(part: str) -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(f"{_SUFFIX} files need the package safetensors: pip install tensorchain[interop]") from error
    return getattr(safetensors, part) if part else safetensors


def _checked(name: str, header: Any, arrays: dict[str, Array]) -> tuple[dict[str, Any], list[Array]]:
    """What is in the file, if it is whole."""
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{name!r} is not a model file that this version reads (format {FORMAT})")
    expected = [f"block_{k}" for k in range(len(arrays))]
    if header.get("blocks") != len(arrays) or set(arrays) != set(expected):
        raise ValueError(f"{name!r} is damaged: it holds {sorted(arrays)}, not {header.get('blocks')} blocks")
    return header, [arrays[key] for key in expected]


def _replace(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Write a file under a temporary name beside `path`, and rename it."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
        # mkstemp makes files private; give this one what `open` would have given.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
