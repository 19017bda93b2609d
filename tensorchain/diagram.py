"""Where the blocks of a wiring are drawn: the network diagram of any model, as plain geometry.

Blocks that carry a mode sit on the unit circle in the order of their modes, each with a leg that points outward; cores
sit inside.  A bond is a line between two blocks, a hyperedge a *hub* between three or more.  So a chain becomes a
ring, a CPD a star around one hub, a Tucker model a star around its core, and a block-term model one star for each term,
side by side.  Two bonds between the same blocks are bent apart, and so is a line that would cross a block.

The positions are used by :func:`tensorchain.plotting.plot_network` and by the HTML of a model, which therefore show the
same picture.  Cost: the square of the number of blocks.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from tensorchain.models.network import Network, Term

MOST_TERMS = 4
"""Terms that are drawn; of the others only the number is told."""
LEG = 0.42
"""Length of a leg outside its block."""
_LETTER = 0.065
"""Half the width of a letter, about."""
_TEXT = 0.3
"""Half the height of the two lines of text at the end of a leg."""
_LABEL = 0.17
"""Distance between a line and its number."""
_BEND = 0.32

Point = tuple[float, float]


@dataclass(frozen=True)
class Node:
    """A block, or the hub of a hyperedge.

    Attributes
    ----------
    at : Point
        Centre.
    label : str
        What stands inside: the number of the block or its name; the size, for a hub.
    kind : str
        "block" (carries a mode), "core" (carries none) or "hub".
    block : int or None
        Its position in `model.blocks`; None for a hub.
    """

    at: Point
    label: str
    kind: str
    block: int | None = None


@dataclass(frozen=True)
class Line:
    """A bond from `start` to `end`, bent through `control` (a quadratic Bezier curve), its size written at `label`.

    A spoke of a hub has no label: the hub says the size.
    """

    start: Point
    control: Point
    end: Point
    size: int
    label: Point | None


@dataclass(frozen=True)
class Leg:
    """The mode of a block: a line outward, with the number of the mode at `label`."""

    start: Point
    end: Point
    label: Point
    mode: int


@dataclass(frozen=True)
class Diagram:
    """All of it, in units of the circle's radius; y points up.

    Attributes
    ----------
    radius : float
        Of a block.
    signs : tuple of Point
        Where a plus stands between two terms.
    omitted : int
        Terms that are not drawn.
    box : tuple of (float, float, float, float)
        Left, right, bottom, top.
    """

    nodes: tuple[Node, ...]
    lines: tuple[Line, ...]
    legs: tuple[Leg, ...]
    radius: float
    signs: tuple[Point, ...]
    omitted: int
    box: tuple[float, float, float, float]


def layout(network: Network, block_names: tuple[str, ...], mode_names: tuple[str, ...]) -> Diagram:
    """Positions of all parts of a wiring.

    Parameters
    ----------
    network : Network
        `model.network`.
    block_names : tuple of str
        `model.block_names`; a number at the end of a name is taken for its label.
    mode_names : tuple of str
        What is written at the legs, for the room that it takes.

    Examples
    --------
    >>> import tensorchain as tc
    >>> from tensorchain.diagram import layout
    >>> chain = tc.TensorChain.random((4, 5, 6), (2, 3, 2), rng=0)
    >>> drawn = layout(chain.network, chain.block_names, ("time", "place", "band"))
    >>> [node.label for node in drawn.nodes], [line.size for line in drawn.lines], len(drawn.legs)
    (['1', '2', '3'], [2, 3, 2], 3)
    """
    radius = min(0.27, 0.68 * math.sin(math.pi / max(network.order, 3)))
    halves = tuple(_LETTER * max(3, len(name)) + 0.05 for name in mode_names)
    labels = tuple(_short(name) for name in block_names)
    shown = network.terms[:MOST_TERMS]
    nodes: list[Node] = []
    lines: list[Line] = []
    legs: list[Leg] = []
    ends = [leg.label for leg in _legs(network, _place(network, (0.0, 0.0), labels), (0.0, 0.0), radius, halves)]
    left = min(x - half for (x, _), half in zip(ends, halves, strict=True))
    right = max(x + half for (x, _), half in zip(ends, halves, strict=True))
    bottom, top = (side(y for _, y in ends) for side in (min, max))
    # Of two modes both lie on one line; more bonds than one between them bend above and below it.
    inner = (1.0 + radius) / 2 if network.order > 2 else _BEND + 2 * _LABEL
    bottom, top = min(bottom - _TEXT, -inner), max(top + _TEXT, inner)
    width = right - left + 0.45
    for t, term in enumerate(shown):
        centre = (width * t, 0.0)
        blocks = _place(network, centre, labels)
        hubs = _hubs(term, blocks)
        lines += _lines(term, blocks, hubs, centre, radius)
        legs += _legs(network, blocks, centre, radius, halves)
        nodes += [*blocks, *(hub for hub, _ in hubs)]
    signs = tuple((right + 0.225 + width * t, 0.0) for t in range(len(shown) - 1))
    box = (left, right + width * (len(shown) - 1), bottom, top)
    return Diagram(tuple(nodes), tuple(lines), tuple(legs), radius, signs, len(network.terms) - len(shown), box)


def _short(name: str) -> str:
    """`1` of `factor 1`; other names as they are."""
    last = name.rpartition(" ")[2]
    return last if last.isdigit() else name


def _place(network: Network, centre: Point, labels: tuple[str, ...]) -> list[Node]:
    """Blocks with a mode on the circle, clockwise from the top; cores inside."""
    cores = [k for k, mode in enumerate(network.modes) if mode is None]
    first = math.pi if network.order == 2 else math.pi / 2
    nodes = []
    for k, mode in enumerate(network.modes):
        if mode is None:
            at = _around(centre, 0.0 if len(cores) == 1 else 0.42, first - 2 * math.pi * cores.index(k) / len(cores))
        else:
            at = _around(centre, 1.0, first - 2 * math.pi * mode / network.order)
        nodes.append(Node(at, labels[k], "core" if mode is None else "block", k))
    return nodes


def _hubs(term: Term, blocks: list[Node]) -> list[tuple[Node, tuple[int, ...]]]:
    """A hub for each hyperedge, amid its blocks and away from every other node."""
    hubs: list[tuple[Node, tuple[int, ...]]] = []
    for letter, owners in term.hyperedges:
        middle = _mean([blocks[k].at for k in owners])
        taken = [node.at for node in blocks] + [hub.at for hub, _ in hubs]
        at, turn = middle, 0
        while any(math.dist(at, other) < 0.4 for other in taken) and turn < 24:
            at, turn = _around(middle, 0.45 + 0.02 * turn, 0.6 + 2.4 * turn), turn + 1
        hubs.append((Node(at, str(term.size_of[letter]), "hub"), owners))
    return hubs


def _lines(
    term: Term, blocks: list[Node], hubs: list[tuple[Node, tuple[int, ...]]], centre: Point, radius: float
) -> list[Line]:
    pairs = Counter((k, m) for _, k, m in term.gauge_bonds)
    drawn: Counter[tuple[int, int]] = Counter()
    lines = []
    for letter, k, m in term.gauge_bonds:
        start, end = blocks[k].at, blocks[m].at
        others = [node.at for node in (*blocks, *(hub for hub, _ in hubs)) if node.at not in (start, end)]
        parallel, rank = pairs[k, m], drawn[k, m]
        drawn[k, m] += 1
        bend = _BEND * (2 * rank - parallel + 1)
        if parallel == 1 and any(_distance(other, start, end) < 1.2 * radius for other in others):
            bend = _BEND
        lines.append(_line(start, end, bend, term.size_of[letter], centre))
    for hub, owners in hubs:
        for k in owners:
            middle = _mean([blocks[k].at, hub.at])
            lines.append(Line(blocks[k].at, middle, hub.at, int(hub.label), None))
    return lines


def _line(start: Point, end: Point, bend: float, size: int, centre: Point) -> Line:
    """A bond, with its number on the outer side."""
    middle, length = _mean([start, end]), math.dist(start, end)
    normal = ((start[1] - end[1]) / length, (end[0] - start[0]) / length)
    outward = normal[0] * (middle[0] - centre[0]) + normal[1] * (middle[1] - centre[1])
    if outward < -1e-9:
        normal = (-normal[0], -normal[1])
    # A quadratic curve passes half as far from the chord as its control point.
    control = (middle[0] + 2 * bend * normal[0], middle[1] + 2 * bend * normal[1])
    away = bend + math.copysign(_LABEL, bend or 1.0)
    return Line(start, control, end, size, (middle[0] + away * normal[0], middle[1] + away * normal[1]))


def _legs(network: Network, blocks: list[Node], centre: Point, radius: float, halves: tuple[float, ...]) -> list[Leg]:
    """Lines outward from the circle, by mode; their texts, of half the widths `halves`, keep clear of them."""
    legs = []
    for mode, half in enumerate(halves):
        node = blocks[network.block_of_mode[mode]]
        angle = math.atan2(node.at[1] - centre[1], node.at[0] - centre[0])
        start, end = _around(node.at, radius, angle), _around(node.at, radius + LEG, angle)
        label = end[0] + (half + 0.05) * math.cos(angle), end[1] + _TEXT * math.sin(angle)
        legs.append(Leg(start, end, label, mode))
    return legs


def _around(centre: Point, radius: float, angle: float) -> Point:
    return centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle)


def _mean(points: list[Point]) -> Point:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def _distance(point: Point, start: Point, end: Point) -> float:
    """From a point to a segment."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = ((point[0] - start[0]) * dx + (point[1] - start[1]) * dy) / (dx * dx + dy * dy)
    along = min(max(along, 0.0), 1.0)
    return math.dist(point, (start[0] + along * dx, start[1] + along * dy))
