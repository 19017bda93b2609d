"""One look for all figures: column width, legible type, vector and raster.

Colours, markers and dashes are those of `tensorchain.plotting`.
"""

from __future__ import annotations

import math
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from tensorchain.plotting import MARKERS, PALETTE

WIDTH = 5.6
"""Inches.  At this width type of 9 points is still legible in a column of 3.4 inches and on a phone."""
COLUMN = 3.4
"""Inches: the width of one column of a page."""
_PIXELS = 1440
"""Across a PNG file, whatever its width in print."""


def style() -> AbstractContextManager[None]:
    """The settings to draw in."""
    return mpl.rc_context(
        {
            "font.size": 9,
            "axes.titlesize": 9.5,
            "axes.labelsize": 9,
            "legend.fontsize": 8,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
            "lines.linewidth": 1.6,
            "axes.spines.right": False,
            "axes.spines.top": False,
            # Text stays text in the PDF.
            "pdf.fonttype": 42,
            "svg.hashsalt": "tensorchain",
        }
    )


def new_figure(height: float) -> Figure:
    """An empty figure of the common width; `height` in inches."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def shape_text(stored: str, gap: str = " ") -> str:
    """`7x7x7`, as shapes are stored, with multiplication signs."""
    return stored.replace("x", f"{gap}\N{MULTIPLICATION SIGN}{gap}")


def rank_text(rank: Any) -> str:
    """A rank in few characters, unbroken: `5`, `(3,3,3)`, and `2 x (3,3,3)` for equal block terms."""
    if isinstance(rank, list) and len(set(rank)) == 1:
        return f"{len(rank)}\N{MULTIPLICATION SIGN}{rank_text(tuple(rank[0]))}"
    return str(rank).replace(" ", "")


def legend_above(figure: Figure, panel: Axes) -> None:
    """One legend for all panels, above them: that of `panel`."""
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)


def few_ticks(panel: Axes) -> None:
    """Logarithmic axes with a faint grid; labels at powers of ten, or at 1, 2 and 5 where there are few of those.

    To be called when all is drawn, for the limits decide.
    """
    panel.set(xscale="log", yscale="log")
    for axis, (low, high) in ((panel.xaxis, panel.get_xlim()), (panel.yaxis, panel.get_ylim())):
        decades = math.log10(high / low)
        if decades < 0.7:
            axis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)))
        else:
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)))
        if decades < 2.5:
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    panel.grid(True, color="#DDDDDD", linewidth=0.6)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """NAME.pdf and NAME.png, each under a temporary name first."""
    saved = []
    for suffix, metadata in ((".pdf", {"CreationDate": None}), (".png", {"Software": None})):
        path, temporary = folder / f"{name}{suffix}", folder / f".{name}.tmp{suffix}"
        # Without a date, equal numbers give equal files.
        figure.savefig(temporary, dpi=_PIXELS / figure.get_figwidth(), metadata=metadata)
        os.replace(temporary, path)
        saved.append(path)
    return saved


def curve_style(position: int, *, stable: bool) -> dict[str, Any]:
    """How the curve of a method is drawn: solid with filled marks where the sensitivity is controlled, else dashed."""
    return {
        "color": PALETTE[position],
        "marker": MARKERS[position],
        "markersize": 4.5,
        "markerfacecolor": PALETTE[position] if stable else "white",
        "linestyle": "-" if stable else (0, (3, 2)),
        "linewidth": 1.4,
    }
