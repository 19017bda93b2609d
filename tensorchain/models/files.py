"""Model files: plain arrays with a JSON header, as .npz archives or as .safetensors; never a pickle.

Both hold the blocks in their natural shapes as `block_0`, `block_1`, ..., and one JSON header: the format, the name of
the model, how many blocks it has, what else it needs (its state), and the report of the fit.  A saved fit has further
arrays, which the header lists (:mod:`tensorchain.fit_files`).

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
from typing import Any

import numpy as np

from tensorchain.kernels import Array
from tensorchain.models.archives import read_archive, write_archive
from tensorchain.models.atomic import replacing

FORMAT = 1
_SUFFIX = ".safetensors"


def write_model(path: str | os.PathLike[str], header: str, arrays: dict[str, Array]) -> None:
    """Write header and arrays to `path`, in the format that its ending asks for: .safetensors, else npz."""
    if os.fspath(path).endswith(_SUFFIX):
        write_safetensors(path, header, arrays)
    else:
        write_archive(path, header, arrays)


def read_model(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Array], dict[str, Array]]:
    """Header, blocks and further arrays of a file written by `Model.save` or `Fit.save`, whatever its format.

    Raises
    ------
    FileNotFoundError
        When there is none.
    ValueError
        When the file is not a model file.
    """
    header, arrays = _read_safetensors(path) if _is_safetensors(path) else _read_npz(path)
    return _checked(os.fspath(path), header, arrays)


def _read_npz(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Array]]:
    try:
        return read_archive(path)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)!r} is not a model file of tensorchain: {error}") from error


def write_safetensors(path: str | os.PathLike[str], header: str, arrays: dict[str, Array]) -> None:
    """Write header and arrays to `path` atomically, in the format of the package safetensors."""
    save = _safetensors("numpy").save
    pairs = sorted(name for name, array in arrays.items() if array.dtype.kind == "c")
    plain = {
        name: np.ascontiguousarray(np.stack([array.real, array.imag], axis=-1) if name in pairs else array)
        for name, array in arrays.items()
    }
    content = save(plain, metadata={"tensorchain": header, "complex": json.dumps(pairs)})
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _read_safetensors(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Array]]:
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
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{os.fspath(path)!r} is not a model file of tensorchain: {error}") from error
    return header, arrays


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


def _checked(name: str, header: Any, arrays: dict[str, Array]) -> tuple[dict[str, Any], list[Array], dict[str, Array]]:
    """What is in the file, if it is whole."""
    if isinstance(header, dict) and "checkpoint" in header:
        raise ValueError(
            f"{name!r} is a checkpoint of a run, not a model; give it as checkpoint= to go on with the run"
        )
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{name!r} is not a model file that this version reads (format {FORMAT})")
    others = header.get("arrays", [])
    if not isinstance(others, list) or not all(isinstance(other, str) for other in others):
        raise ValueError(f"{name!r} is damaged: its header lists no names of arrays")
    count = len(arrays) - len(others)
    expected = [f"block_{k}" for k in range(count)]
    if header.get("blocks") != count or set(arrays) != {*expected, *others}:
        found = ", ".join(sorted(arrays)[:10])
        raise ValueError(f"{name!r} is damaged: it holds {found[:200]}, not {str(header.get('blocks'))[:20]} blocks")
    return header, [arrays[key] for key in expected], {key: arrays[key] for key in others}
