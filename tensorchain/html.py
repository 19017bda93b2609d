"""HTML of fits, models and diagnoses, for notebooks.

A table of the rows that `repr` prints, the network diagram of the model beside it, and the sensitivity of each block as
a bar.  All of it takes its colours from the page (`currentColor`, no background), so that it is legible in dark and
light themes; every text is escaped; there is no script, no style sheet, no link and no file from elsewhere.

This module is imported when a notebook asks for HTML, and only reads what it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from tensorchain.diagram import Diagram, layout
from tensorchain.labels import labels_of
from tensorchain.models import Model

if TYPE_CHECKING:
    from tensorchain.labels import Labels, Subject

_UNIT = 52.0
"""Pixels of a unit of the diagram."""
_WIDEST = 420.0
"""Pixels: a wider diagram is drawn smaller."""
_HEADING = "text-align:left;padding:1px 10px 1px 0;white-space:nowrap;vertical-align:top;font-weight:600"
_CELL = "text-align:left;padding:1px 10px 1px 0;vertical-align:top;max-width:46em"


def table(rows: Sequence[tuple[str, str]]) -> str:
    """(name, value) pairs as an HTML table.

    Examples
    --------
    >>> from tensorchain.html import table
    >>> "a &lt; b" in table([("rule", "a < b")])
    True
    """
    body = "".join(
        f'<tr><th style="{_HEADING}">{escape(name)}</th><td style="{_CELL}">{escape(value)}</td></tr>'
        for name, value in rows
    )
    return f"<table>{body}</table>"


def report(rows: Sequence[tuple[str, str]], subject: Subject) -> str:
    """The rows of a report, beside the network of its model."""
    labels = labels_of(subject)
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:1.5em;align-items:center">'
        f"<div>{table(rows)}</div><div>{network(labels)}</div></div>"
    )


def model_html(model: Model) -> str:
    """What a notebook shows of a model: its figures, the sensitivity of each block, its network.

    Parameters
    ----------
    model : Model
        Of any kind.

    Returns
    -------
    str
        HTML.

    Examples
    --------
    >>> import tensorchain as tc
    >>> from tensorchain.html import model_html
    >>> "factor 2" in model_html(tc.CP.random((3, 4), 2, rng=0))
    True
    """
    sizes = " \N{MULTIPLICATION SIGN} ".join(map(str, model.shape))
    entries = float(np.prod([float(size) for size in model.shape]))
    rows = [
        ("model", f"{type(model).__name__} {sizes}, rank {model.rank}, {model.dtype}"),
        ("parameters", f"{model.n_parameters} ({model.n_parameters / entries:.3g} of the tensor's entries)"),
    ]
    labels = labels_of(model)
    if all(np.all(np.isfinite(matrix)) for matrix in model.matrices):
        rows += [("norm", f"{model.norm():.4g}"), ("sensitivity", f"{model.sensitivity():.4g}")]
        blocks = _blocks(labels)
    else:
        rows.append(("values", "the blocks hold NaN or infinity"))
        blocks = ""
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:1.5em;align-items:center">'
        f"<div>{table(rows)}{blocks}</div><div>{network(labels)}</div></div>"
    )


def _blocks(labels: Labels) -> str:
    """Shape of each block and its share of the sensitivity, as a bar."""
    unit = labels.model._unit_scale()[0].block_sensitivities()
    total = float(unit.sum())
    lines = []
    for name, block, part in zip(labels.blocks, labels.model.blocks, unit, strict=True):
        share = float(part) / total if 0.0 < total < np.inf else 0.0
        bar = (
            '<svg width="102" height="10" role="img"><rect x="0.5" y="0.5" width="100" height="9" fill="none" '
            f'stroke="currentColor" stroke-opacity="0.4"/><rect x="0.5" y="0.5" width="{100 * share:.1f}" height="9" '
            'fill="currentColor" fill-opacity="0.6"/></svg>'
        )
        shape = " \N{MULTIPLICATION SIGN} ".join(map(str, block.shape))
        lines.append(
            f'<tr><th style="{_HEADING}">{escape(name)}</th><td style="{_CELL}">{shape}</td>'
            f'<td style="{_CELL}">{bar} {100 * share:.0f} %</td></tr>'
        )
    head = "".join(f'<th style="{_HEADING}">{title}</th>' for title in ("block", "shape", "share of the sensitivity"))
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def network(labels: Labels) -> str:
    """The network diagram of a model as inline SVG; what it shows is also told to screen readers."""
    model = labels.model
    drawn = layout(model.network, model.block_names, labels.modes)
    left, right, bottom, top = drawn.box
    width, height = _UNIT * (right - left), _UNIT * (top - bottom)
    shrink = min(1.0, _WIDEST / width)
    sizes = " by ".join(f"{name} {size}" for name, size in zip(labels.modes, model.shape, strict=True))
    title = f"Network of a {type(model).__name__}: {sizes}, rank {model.rank}"
    parts = [*_lines(drawn), *_legs(drawn, labels), *_nodes(drawn)]
    parts += [_text(at, "+", drawn, 18) for at in drawn.signs]
    more = f"<div>and {drawn.omitted} more terms</div>" if drawn.omitted else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{shrink * width:.0f}" '
        f'height="{shrink * height:.0f}" viewBox="0 0 {width:.1f} {height:.1f}" fill="none" stroke="currentColor" '
        f'font-family="sans-serif"><title>{escape(title)}</title>{"".join(parts)}</svg>{more}'
    )


def _lines(drawn: Diagram) -> list[str]:
    parts = []
    for line in drawn.lines:
        (x, y), (cx, cy), (ex, ey) = (_pixels(point, drawn) for point in (line.start, line.control, line.end))
        width = min(1.0 + 0.5 * (line.size.bit_length() - 1), 4.0)
        dots = ' stroke-dasharray="1.5 3"' if line.size == 1 else ""
        # A line ends at the rim of its blocks, whose inside shows the page.
        (x, y), (ex, ey) = _rim((x, y), (cx, cy), drawn), _rim((ex, ey), (cx, cy), drawn)
        parts.append(
            f'<path d="M{x:.1f} {y:.1f}Q{cx:.1f} {cy:.1f} {ex:.1f} {ey:.1f}" stroke-width="{width:.1f}"{dots}/>'
        )
        if line.label is not None:
            parts.append(_text(line.label, str(line.size), drawn, 11))
    return parts


def _rim(centre: tuple[float, float], towards: tuple[float, float], drawn: Diagram) -> tuple[float, float]:
    dx, dy = towards[0] - centre[0], towards[1] - centre[1]
    step = _UNIT * drawn.radius / float(np.hypot(dx, dy))
    return centre[0] + step * dx, centre[1] + step * dy


def _legs(drawn: Diagram, labels: Labels) -> list[str]:
    parts = []
    for leg in drawn.legs:
        (x, y), (ex, ey) = _pixels(leg.start, drawn), _pixels(leg.end, drawn)
        parts.append(f'<path d="M{x:.1f} {y:.1f}L{ex:.1f} {ey:.1f}"/>')
        at_x, at_y = leg.label
        parts.append(_text((at_x, at_y + 0.13), labels.modes[leg.mode], drawn, 11))
        parts.append(_text((at_x, at_y - 0.13), str(labels.model.shape[leg.mode]), drawn, 11))
    return parts


def _nodes(drawn: Diagram) -> list[str]:
    parts = []
    for node in drawn.nodes:
        (x, y), r = _pixels(node.at, drawn), _UNIT * drawn.radius
        if node.kind == "block":
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>')
        elif node.kind == "core":
            parts.append(f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r:.1f}" height="{2 * r:.1f}"/>')
        else:
            corners = ((x - r, y), (x, y - r), (x + r, y), (x, y + r))
            parts.append(f'<path d="M{"L".join(f"{cx:.1f} {cy:.1f}" for cx, cy in corners)}Z"/>')
        parts.append(_text(node.at, node.label, drawn, min(12.0, 3.2 * r / max(len(node.label), 1))))
    return parts


def _text(at: tuple[float, float], text: str, drawn: Diagram, size: float) -> str:
    x, y = _pixels(at, drawn)
    return (
        f'<text x="{x:.1f}" y="{y + 0.35 * size:.1f}" font-size="{size:.3g}" text-anchor="middle" stroke="none" '
        f'fill="currentColor">{escape(text)}</text>'
    )


def _pixels(point: tuple[float, float], drawn: Diagram) -> tuple[float, float]:
    """To the coordinates of the SVG, in which y points down."""
    left, _, _, top = drawn.box
    return _UNIT * (point[0] - left), _UNIT * (top - point[1])


Model.renderer = staticmethod(model_html)
