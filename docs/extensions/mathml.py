"""Formulas as MathML, which browsers draw themselves: the pages load nothing from elsewhere."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

logger = logging.getLogger(__name__)


def setup(app: Any) -> dict[str, bool]:
    """Draw formulas with MathML."""
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True}


def inline(translator: Any, node: Any) -> None:
    """A formula within a line."""
    translator.body.append(markup(node, "inline"))
    raise nodes.SkipNode


def display(translator: Any, node: Any) -> None:
    """A formula of its own, which scrolls where the page is narrow."""
    rows = markup(node, "block")
    translator.body.append(f'<div class="math" style="overflow-x: auto; margin: 1em 0">{rows}</div>')
    raise nodes.SkipNode


def markup(node: Any, kind: str) -> str:
    """MathML; a command that the converter does not know, and would show as it stands, is a warning."""
    made = convert(node.astext(), display=kind)
    if "\\" in made:
        logger.warning("a command in the formula %s is unknown", node.astext(), location=node)
    return made
