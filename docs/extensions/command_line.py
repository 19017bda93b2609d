"""The directive `command-help`: what `tensorchain COMMAND --help` prints, taken from the parser itself."""

from __future__ import annotations

import argparse
import os
from typing import Any
from unittest import mock

from docutils import nodes
from docutils.parsers.rst import Directive

from tensorchain.cli import make_parser


class CommandHelp(Directive):
    """The help of every command, a section each."""

    def run(self) -> list[nodes.Node]:
        made: list[nodes.Node] = []
        for name, parser in parsers().items():
            section = nodes.section(ids=[f"command-{name}"])
            section += nodes.title(text=f"tensorchain {name}")
            # The width and the absence of colours must not depend on the terminal of the build.
            with mock.patch.dict(os.environ, {"COLUMNS": "88", "NO_COLOR": "1"}):
                help_text = parser.format_help()
            section += nodes.literal_block(help_text, help_text, language="text")
            made.append(section)
        return made


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by name."""
    for action in make_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise RuntimeError("the command line has no commands")


def setup(app: Any) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
