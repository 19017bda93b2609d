"""Reports on stdout: a table for people, JSON for programs.

A reader such as `head` may have gone before the end.  The work is done then and its files are in their place, so the
command ends with the status of its work; only the rest of the report goes nowhere.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tensorchain.cli.errors import CommandError, Status, one_line

_WIDE = 10_000
"""Columns of an output that is no terminal: more than any table has."""


def print_report(rows: Iterable[tuple[str, str]], title: str) -> None:
    """(name, value) pairs as a table of two columns."""
    table = Table(box=box.SIMPLE, show_header=False, title=Text(one_line(title)), title_justify="left", pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(one_line(name)), Text(one_line(value)))
    _print(table)


def print_columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table whose first column is text, the others numbers."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for position, name in enumerate(header):
        table.add_column(name, justify="left" if position == 0 else "right")
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    _print(table)


def print_json(record: Mapping[str, Any]) -> None:
    """One JSON object; numbers that JSON does not know become null."""
    write(json.dumps(_plain(record), indent=2, allow_nan=False) + "\n")


def write(text: str) -> None:
    """Text as it is, on stdout."""
    with _reader():
        sys.stdout.write(text)


class _Console(Console):
    """Leaves it to the caller what happens when nobody reads on."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _print(table: Table) -> None:
    """Tables fit a terminal; in a pipe or a file they are as wide as they need to be."""
    console = _Console()
    with _reader():
        (console if console.is_terminal else _Console(width=_WIDE)).print(table)


@contextmanager
def _reader() -> Iterator[None]:
    """What is written inside is out afterwards, or `unread` says that nobody took it."""
    global unread
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # Python must not find out again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise CommandError(f"the report cannot be written to stdout: {error.strerror}", Status.FAILED) from error
        unread = True


unread = False
"""Whether the reader of stdout had gone before the report was at its end."""


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bool, str)) or value is None:
        return value
    number = value.item() if hasattr(value, "item") else value
    return None if isinstance(number, float) and not math.isfinite(number) else number
