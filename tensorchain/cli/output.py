"""Reports on stdout: a table for people, JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tensorchain.cli.errors import one_line

_WIDE = 10_000
"""Columns of an output that is no terminal: more than any table has."""


def print_report(rows: Iterable[tuple[str, str]], title: str) -> None:
    """(name, value) pairs as a table of two columns."""
    table = Table(box=box.SIMPLE, show_header=False, title=Text(one_line(title)), title_justify="left", pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(one_line(name)), Text(one_line(value)))
    _console().print(table)


def print_columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table whose first column is text, the others numbers."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for position, name in enumerate(header):
        table.add_column(name, justify="left" if position == 0 else "right")
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    _console().print(table)


def _console() -> Console:
    """Tables fit a terminal; in a pipe or a file they are as wide as they need to be."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDE)


def print_json(record: Mapping[str, Any]) -> None:
    """One JSON object; numbers that JSON does not know become null."""
    Console(soft_wrap=True).out(json.dumps(_plain(record), indent=2, allow_nan=False), highlight=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bool, str)) or value is None:
        return value
    number = value.item() if hasattr(value, "item") else value
    return None if isinstance(number, float) and not math.isfinite(number) else number
