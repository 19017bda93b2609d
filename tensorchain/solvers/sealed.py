"""Files of unfinished work: an archive of plain arrays with a JSON header, and a digest over all of it.

Written to a temporary name and renamed (:mod:`tensorchain.models.archives`), never unpickled.  A file whose content is
not what was written is refused, whatever it holds; a full disk costs the file and not the work, with one warning.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tensorchain.fit import History
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.models.archives import read_archive, write_archive
from tensorchain.models.atomic import clean, target_of
from tensorchain.tensors.intake import digest_of


class OtherProblemError(ValueError):
    """The file belongs to another problem."""


class SealedFile:
    """A file of unfinished work.

    Parameters
    ----------
    path : str or path-like
        The file; it need not exist, its folder must.
    key, version : str, int
        What the header says of the format.
    what, work : str
        What such a file is called, and what goes on without it, for messages.

    Raises
    ------
    ValueError
        When no file can be written there.
    """

    def __init__(self, path: str | os.PathLike[str], key: str, version: int, *, what: str, work: str) -> None:
        self.path, self.name, self._key, self._version = path, os.fspath(path), key, version
        self._what, self._work, self._failed = what, work, False
        target = target_of(path)
        if not target.parent.is_dir():
            raise ValueError(f"checkpoint {self.name!r}: there is no folder {os.fspath(target.parent)!r}")
        clean(target)

    def read(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Header and arrays, as they were written."""
        header, arrays = read_archive(self.path)
        if header[self._key] != self._version:
            raise ValueError(f"it has format {str(header[self._key])[:20]}, this version reads {self._version}")
        if header.pop("digest") != digest(header, arrays):
            raise ValueError("its content is not what was written")
        return header, arrays

    @contextmanager
    def understood(self) -> Iterator[None]:
        """Around all that is made of the content: whatever a damaged file holds becomes one clear error."""
        try:
            yield
        except (FileNotFoundError, OtherProblemError, MemoryError):
            raise
        except Exception as error:
            missing = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f"{self.name!r} is not {self._what} that can be read: {missing}; delete it to start anew"
            ) from error

    def write(self, content: dict[str, Any], arrays: dict[str, Array]) -> None:
        """Write the file; where that fails the work goes on, with a warning."""
        # As it will be read: tuples have become lists.
        header = json.loads(json.dumps({self._key: self._version, **content}, default=str))
        header["digest"] = digest(header, arrays)
        try:
            write_archive(self.path, json.dumps(header), arrays)
            self._failed = False
        except OSError as error:
            if not self._failed:
                warnings.warn(
                    f"the checkpoint {self.name!r} could not be written ({error.strerror or error}); the {self._work} "
                    "goes on without it",
                    RuntimeWarning,
                    stacklevel=3,
                )
            self._failed = True


def digest(header: dict[str, Any], arrays: dict[str, Array]) -> str:
    """Of a header and arrays, whatever their order."""
    text = json.dumps(header, sort_keys=True)
    return digest_of([text, *(part for name in sorted(arrays) for part in (name, arrays[name]))])


def pack(arrays: dict[str, Array], name: str, model: Model) -> None:
    """Add the blocks of a model."""
    for k, matrix in enumerate(model.matrices):
        arrays[f"{name}.{k}"] = matrix


def unpacked(arrays: dict[str, Array], name: str, shapes: Sequence[tuple[int, ...]], work: str) -> list[Array]:
    """The blocks of a model, which must have these shapes."""
    matrices = [arrays[f"{name}.{k}"] for k in range(len(shapes))]
    for matrix, shape in zip(matrices, shapes, strict=True):
        if matrix.shape != shape or matrix.dtype.kind not in "fc" or not np.all(np.isfinite(matrix)):
            raise ValueError(f"its model {name} does not fit the {work}")
    return matrices


def history_record(history: History) -> dict[str, list[float]]:
    """A history as lists."""
    return {key: getattr(history, key).tolist() for key in History.__dataclass_fields__}


def history_of(record: dict[str, list[float]]) -> History:
    """The history of a record."""
    return History(*(np.array(record[key], dtype=float) for key in History.__dataclass_fields__))
