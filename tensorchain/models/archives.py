"""Archives of plain arrays (.npz), written stored and read with suspicion.

An archive of ours is as large as its arrays: members are stored, not compressed.  So whatever claims to hold more than
the file has bytes is refused before anything is allocated: compressed members, members that overlap, arrays whose shape
and dtype ask for other than the bytes that are there.  Nothing is ever unpickled.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from typing import Any

import numpy as np
from numpy.lib import format as npy

from tensorchain.kernels import Array
from tensorchain.models.atomic import replacing

_ENDING = ".npy"


def write_archive(path: str | os.PathLike[str], header: str, arrays: dict[str, Array]) -> None:
    """Write header and arrays to `path` atomically."""
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, header=np.array(header), **arrays)  # type: ignore[arg-type]


def read_archive(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Array]]:
    """The header, as JSON, and the arrays of an archive.

    Raises
    ------
    FileNotFoundError
        When there is none.
    ValueError
        When it is no archive of ours; whatever is wrong with it.
    """
    try:
        arrays = _read(path)
        header = arrays.pop("header")
        if header.shape != () or header.dtype.kind != "U":
            raise ValueError("its header is no text")
        return json.loads(str(header[()])), arrays
    except (FileNotFoundError, MemoryError):
        raise
    except KeyError:
        raise ValueError("it has no header") from None
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    # Readers raise whatever a damaged file makes them stumble over.
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _read(path: str | os.PathLike[str]) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    with open(path, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            for member in members:
                if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                    raise ValueError(f"its member {member.filename[:40]!r} is compressed or encrypted; ours are stored")
            if sum(member.file_size for member in members) > size:
                raise ValueError(f"its members claim more than the {size} bytes of the file")
            for member in members:
                name = member.filename.removesuffix(_ENDING)
                if name in arrays or not member.filename.endswith(_ENDING):
                    raise ValueError(f"its member {member.filename[:40]!r} is unexpected")
                arrays[name] = _array(archive.read(member))
    return arrays


def _array(content: bytes) -> Array:
    """An array from the bytes of a .npy file; their number must be that of its shape and dtype."""
    stream = io.BytesIO(content)
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array is in version {version} of NumPy's format")
    shape, fortran, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(stream)
    if dtype.hasobject:
        raise ValueError("an array holds Python objects, which could run code and are not read")
    start, count = stream.tell(), math.prod(shape)
    if min(shape, default=0) < 0 or count * dtype.itemsize != len(content) - start:
        raise ValueError(f"an array of shape {shape} and dtype {dtype} does not fit its {len(content) - start} bytes")
    flat = np.frombuffer(content, dtype=dtype, count=count, offset=start)
    return np.array(flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape))
