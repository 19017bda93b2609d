"""Files that are whole or absent: checked before the work starts, renamed into their place at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tensorchain.cli.errors import CommandError
from tensorchain.models.atomic import replacing, target_of


def check_target(option: str, path: str | Path, endings: tuple[str, ...] = ()) -> Path:
    """`path`, if a file of one of these endings (any, if none is given) can be written there.

    Checked before work starts, not after: an empty file is made beside it and removed again.
    """
    path = Path(path)
    if endings and path.suffix.lower() not in endings:
        raise CommandError(f"{option} {path}: the name must end in {' or '.join(endings)}")
    try:
        target = target_of(path)
        if not target.parent.is_dir():
            raise CommandError(f"{option} {path}: no such folder {target.parent}")
        if not path.name:
            raise CommandError(f"{option} {path}: names no file")
    except (OSError, ValueError) as error:
        raise CommandError(f"{option} {path}: not a usable file name: {error}") from error
    try:
        with replacing(path) as temporary:
            temporary.unlink()
            raise _CheckedError
    except _CheckedError:
        return path
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CommandError(f"{option} {path}: cannot be written: {reason}") from error


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file of the same ending, then give it the name `path`."""
    with replacing(path) as temporary:
        write(temporary)


class _CheckedError(Exception):
    """The file could be written, and is not."""
