"""Weights that an ONNX file keeps in other files beside it, as PyTorch's exporter writes them by default.

What a file holds is written by others: it may name files in its own folder and below, and no others, and none by a
link.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from tensorchain.compression.onnx_session import onnx_package

MOST_BYTES = (1 << 31) - (1 << 20)
"""A file in the format of protocol buffers holds 2 GB; some of them are for what is no weight."""


def take_in(tensors: Iterable[Any], folder: Path) -> None:
    """Read the tensors that are kept in other files, in place.

    Parameters
    ----------
    tensors : iterable of onnx.TensorProto
        All of a model.
    folder : Path
        Where the model lies.

    Raises
    ------
    ValueError
        When a file is missing, too short, or none that may be read, or all are more than one file can hold.
    """
    external = [tensor for tensor in tensors if is_external(tensor)]
    total = 0
    for tensor in external:
        path, start, length = place_of(tensor, folder)
        try:
            with path.open("rb") as file:
                length = path.stat().st_size - start if length is None else length
                total += max(length, 0)
                if total > MOST_BYTES:
                    raise ValueError("the weights are more than the 2 GB that one ONNX file can hold")
                file.seek(start)
                data = file.read(length)
        except OSError as error:
            raise ValueError(
                f"weight {tensor.name!r} is kept in {path.name!r} beside the file, which cannot be read ({error}); put "
                "it there, or export the model as a single file"
            ) from error
        if length < 0 or len(data) < length:
            raise ValueError(f"{path.name!r} ends before weight {tensor.name!r}; copy both files again")
        tensor.raw_data = data
        del tensor.external_data[:]
        tensor.data_location = onnx_package().TensorProto.DEFAULT


def is_external(tensor: Any) -> bool:
    """Whether a tensor is kept in another file."""
    return bool(tensor.data_location == onnx_package().TensorProto.EXTERNAL)


def place_of(tensor: Any, folder: Path) -> tuple[Path, int, int | None]:
    """The file of a tensor, where in it the tensor starts, and how many bytes it has; None for all that follow."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    names = PurePosixPath(location), PureWindowsPath(location)
    allowed = bool(location) and not any(one.is_absolute() or one.drive or ".." in one.parts for one in names)
    path = folder / location
    # A link, or a folder that is one, could lead anywhere.
    if not allowed or path.resolve() != folder.resolve() / PurePosixPath(location):
        raise ValueError(
            f"weight {tensor.name!r} is kept outside the file, in {location!r}, which is not below the model's folder; "
            "export the model as a single file"
        )
    try:
        start = int(entries.get("offset", 0))
        length = int(entries["length"]) if "length" in entries else None
    except ValueError as error:
        raise ValueError(f"weight {tensor.name!r} is kept outside the file at no number of bytes") from error
    if start < 0 or (length is not None and length < 0):
        raise ValueError(f"weight {tensor.name!r} is kept outside the file at a negative number of bytes")
    return path, start, length
