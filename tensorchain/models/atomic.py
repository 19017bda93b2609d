"""Files that are whole or absent: written beside their place under a temporary name, and renamed.

The temporary name tells the file, the machine and the process that it belongs to.  A process that is killed while it
writes leaves one behind; the next one that writes the same file finds that its process is gone, and removes it.

A symbolic link is written through: the file that it points to is replaced, and the link stays.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_COUNT = itertools.count()
_LONGEST_ENDING = 12


def target_of(path: str | os.PathLike[str]) -> Path:
    """The file that is written: where a link points to, else the path itself.

    Raises
    ------
    ValueError
        When it is a folder, or a device or pipe, which cannot be replaced.
    """
    target = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return target
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "no ordinary file"
        raise ValueError(f"{os.fspath(path)!r} is {kind}; give the name of a file")
    return target


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The name of an empty file to fill; it takes the place of `path` at the end, and is removed on an error."""
    target = target_of(path)
    if not target.parent.is_dir():
        # Not in terms of the temporary name, which nobody has given.
        raise FileNotFoundError(errno.ENOENT, "no such folder", os.fspath(target.parent))
    clean(target)
    ending = target.suffix if len(target.suffix) <= _LONGEST_ENDING else ""
    temporary = target.parent / f"{_prefix(target)}{os.getpid()}-{next(_COUNT)}{ending}"
    with _named(temporary, target):
        # Made here and by nobody else, with the rights that `open` gives.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            with suppress(FileNotFoundError):
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            yield temporary
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def _named(temporary: Path, target: Path) -> Iterator[None]:
    """Errors of the system, such as a full disk, name the file that was asked for and not the temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or os.fspath(error.filename) == os.fspath(temporary)):
            error.filename = os.fspath(target)
        raise


def clean(target: Path) -> None:
    """Remove what processes of this machine that are gone left behind of this file."""
    prefix = _prefix(target)
    with suppress(OSError):
        for entry in os.scandir(target.parent):
            found = re.match(re.escape(prefix) + r"(\d+)-", entry.name)
            if found and not _runs(int(found[1])):
                with suppress(OSError):
                    os.unlink(entry.path)


def _prefix(target: Path) -> str:
    """Of temporary names: short, whatever the length of the name of the file."""
    host = hashlib.blake2b(socket.gethostname().encode(), digest_size=3).hexdigest()
    name = hashlib.blake2b(os.fsencode(target.name), digest_size=6).hexdigest()
    return f".tensorchain-{name}-{host}-"


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # It belongs to another user.
        return True
    return True
