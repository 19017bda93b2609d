"""Files that are whole or absent: written under a temporary name beside the target, then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from tensorchain.cli.errors import CommandError


def check_target(option: str, path: str | Path, endings: tuple[str, ...] = ()) -> Path:
    """`path`, if a file of one of these endings (any, if none is given) can be written there.

    Checked before work starts, not after.
    """
    path = Path(path)
    if endings and path.suffix.lower() not in endings:
        raise CommandError(f"{option} {path}: the name must end in {' or '.join(endings)}")
    try:
        folder = path.parent
        if path.is_dir() or not folder.is_dir():
            raise CommandError(f"{option} {path}: {'is a folder' if path.is_dir() else f'no such folder {folder}'}")
        if not os.access(folder, os.W_OK):
            raise CommandError(f"{option} {path}: the folder {folder} cannot be written to")
    except (OSError, ValueError) as error:
        raise CommandError(f"{option} {path}: not a usable file name: {error}") from error
    return path


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file of the same ending, then give it the name `path`."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        # mkstemp makes files that only their owner reads; a plain file follows the umask.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
