"""Formulas as pictures within the page: drawn when it is built, they load nothing and look alike in every browser.

ziamath lays out the MathML of latex2mathml with its own font of glyphs, and writes SVG.  Sizes are in em, and the
colour is that of the text, so that formulas follow both.
"""

from __future__ import annotations

import html
import re
from functools import cache
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

logger = logging.getLogger(__name__)
SIZE = 20.0
"""Of the type, in the units of the picture; an em of it is as wide as one of the text around."""
_SCALE = 1.2
"""The glyphs are a little small beside the text."""
_HIGHEST = 6.0
"""In em: brackets around a sum with a power are drawn without end."""


def setup(app: Any) -> dict[str, bool]:
    """Draw formulas as SVG."""
    app.add_html_math_renderer("svg", (inline, None), (display, None))
    app.config.html_math_renderer = "svg"
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def inline(translator: Any, node: Any) -> None:
    """A formula within a line."""
    translator.body.append(markup(node, within=True))
    raise nodes.SkipNode


def display(translator: Any, node: Any) -> None:
    """A formula of its own, which scrolls where the page is narrow."""
    translator.body.append(f'<div class="math formula">{markup(node, within=False)}</div>')
    raise nodes.SkipNode


def markup(node: Any, *, within: bool) -> str:
    """The picture; a warning where a command is unknown, and would be shown as it stands, or where it is too high."""
    text = node.astext()
    if "\\" in convert(text):
        logger.warning("a command in the formula %s is unknown", text, location=node)
        return html.escape(text)
    picture, height = drawn(text, within)
    if height > _HIGHEST:
        logger.warning("the formula %s is %.0f em high; write it in another way", text, height, location=node)
    return picture


@cache
def drawn(text: str, within: bool) -> tuple[str, float]:
    """SVG of a formula in TeX, as high as it stands above and below the line, and its height in em."""
    import ziamath

    ziamath.config.svg2 = False
    # Operators stand apart from what they are applied to.
    spaced = re.sub(r"\\operatorname\{(\w+)\}\s*(?=[A-Za-z\\])(?!\\left)", r"\\,\\operatorname{\1}\\,", text)
    formula = ziamath.Latex(spaced, size=SIZE, inline=within)
    (width, height), below = formula.getsize(), formula.getyofst()
    picture = re.sub(r'(<svg [^>]*?) width="[^"]*" height="[^"]*"', r"\1", formula.svg(), count=1)
    em = _SCALE / SIZE
    style = f"width: {width * em:.3f}em; height: {height * em:.3f}em; vertical-align: {below * em:.3f}em"
    said = html.escape(text, quote=True)
    told = f'<svg role="img" aria-label="{said}" fill="currentColor" style="{style}" '
    return picture.replace("<svg ", told, 1), height * em
