"""Docstrings of the package as pages: NumPy sections, formulas kept as they stand in the code.

The docstrings are plain text first.  Formulas are indented paragraphs, and ||X|| is a norm and not a substitution.
What reStructuredText needs for that is added here:

- a section header becomes a rubric, `name : type` and what is indented below it a definition,
- an indented paragraph becomes a literal block, and a table of bars a table,
- bars outside of code are escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tensorchain.models import Model

FIELDS = ("Parameters", "Attributes", "Returns", "Yields", "Raises", "Warns", "See Also")
SECTIONS = (*FIELDS, "Examples", "References", "Notes")
EMPHASIS = re.compile(r"(^\s*\* |(?<![\w*])\*\*?[^\s*](?:[^*]*[^\s*])?\*\*?(?![\w*]))")
"""What stars are for: the bullet of a list, and words between one or two of them."""


OF_MODELS = {f"reference/{name}" for name in ("models", "cp", "tucker", "block_term", "tensor_chain")}
"""Pages for those who call models."""


def setup(app: Any) -> dict[str, bool]:
    """Rewrite each docstring."""
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}


def process(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Rewrite the lines of one docstring in place."""
    lines[:] = list(converted(lines))


def skip(app: Any, what: str, name: str, thing: Any, skipped: bool, options: Any) -> bool | None:
    """Fields of a named tuple are said in its docstring already; hooks of models have a page for implementers."""
    if app.env.docname in OF_MODELS and name in Model._hooks:
        return True
    return True if (getattr(thing, "__doc__", None) or "").startswith("Alias for field number") else None


def converted(lines: list[str]) -> Iterator[str]:
    """The docstring as reStructuredText."""
    for section, body in sections(lines):
        if section:
            yield from (f".. rubric:: {section}", "")
        if section in FIELDS:
            yield from definitions(body)
        else:
            yield from prose(body)
        yield ""


def sections(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(name, lines) of each section; the text before the first has no name."""
    name, body = "", []
    skip = False
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if skip:
            skip = False
        elif line in SECTIONS and re.fullmatch(r"-{3,}", following):
            yield name, body
            name, body, skip = line, [], True
        else:
            body.append(line)
    yield name, body


def entries(body: list[str]) -> Iterator[tuple[str, list[str]]]:
    """A line that is not indented, and the indented ones below it."""
    head, below = "", []
    for line in body:
        if not line or line.startswith(" "):
            below.append(line)
            continue
        if head:
            yield head, below
        head, below = line, []
    if head:
        yield head, below


def definitions(body: list[str]) -> Iterator[str]:
    """`name : type`, or a name alone, as definitions; without anything below it is a line."""
    for head, below in entries(body):
        name, colon, text = head.partition(" : ")
        below = [line[4:] for line in below]
        if colon and not any(below):
            # What is said of a name in its own line, as under "See Also".
            yield escaped(name)
            yield f"    {escaped(text)}"
        else:
            yield escaped(name) + (f" : {escaped(text)}" if colon else "")
            yield from (f"    {line}" for line in prose(below))
        yield ""


def prose(lines: list[str]) -> Iterator[str]:
    """Paragraphs; indented ones become literal, and tables of bars become tables."""
    literal = example = False
    previous = ""
    rest = list(lines)
    while rest:
        line = rest.pop(0)
        if line.startswith(">>>"):
            example = True
        elif not line:
            example = False
        if line.startswith("|") and not example and rest and re.match(r"\|\s*:?-", rest[0]):
            rows = [line]
            while rest and rest[0].startswith("|"):
                rows.append(rest.pop(0))
            yield from table(rows)
            previous = ""
            continue
        if not example and not line.startswith(" "):
            line = line.replace("``", "`")
        # Code between backticks may run over the end of a line.
        while line.count("`") % 2 and not line.startswith(" ") and not example and rest and rest[0]:
            line = f"{line} {rest.pop(0).strip()}".replace("``", "`")
        block = line.startswith("  ")
        if line and not example:
            if block and not previous and not literal:
                yield from ("::", "")
                literal = True
            elif not block:
                literal = False
        if literal:
            # Names of modules and functions are links in text alone.
            line = re.sub(r":\w+:`([^`]+)`", r"\1", line)
        yield line if literal or example else escaped(line)
        previous = line


def table(rows: list[str]) -> Iterator[str]:
    """Rows of cells between bars, the first one the header."""
    # Bars between spaces part the cells; those of a norm stand at what they enclose.
    cells = [
        [cell.strip() for cell in re.split(r"(?<=\s)\|(?=\s)", f" {row} ")[1:-1]]
        for row in rows
        if set(row) - set("|-: ")
    ]
    yield from ("", ".. list-table::", "   :header-rows: 1", "")
    for row in cells:
        for number, cell in enumerate(row):
            yield ("   * - " if not number else "     - ") + escaped(cell)
    yield ""


def escaped(line: str) -> str:
    """Without a meaning to reStructuredText outside of backticks: bars, lone stars, underscores at an end."""
    parts = line.split("`")
    for n in range(0, len(parts), 2):
        text = parts[n].replace("|", "\\|")
        text = re.sub(r"(?<=\w)_(?!\w)", r"\\_", text)
        text = "".join(part if EMPHASIS.fullmatch(part) else part.replace("*", "\\*") for part in EMPHASIS.split(text))
        # A name in backticks ends at a space, also in a plural.
        parts[n] = re.sub(r"^(?=\w)", r"\\ ", text) if n else text
    return "`".join(parts)
