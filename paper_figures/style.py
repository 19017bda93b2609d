"""One look for all figures: column width, legible type, vector and raster.

Colours, markers and dashes are those of `tensorchain.plotting`.
"""

from __future__ import annotations

import os
import textwrap
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

WIDTH = 7.2
"""Inches: the text width of a two-column page."""
_CAPTION_SIZE = 7.5
_CHARACTERS = 128
"""Of a caption line at that size and width."""


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


def caption(figure: Figure, text: str) -> None:
    """What was run, below the panels."""
    lines = textwrap.fill(" ".join(text.split()), _CHARACTERS)
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=_CAPTION_SIZE, color="#333333")


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """NAME.pdf and NAME.png, each under a temporary name first."""
    saved = []
    for suffix, metadata in ((".pdf", {"CreationDate": None}), (".png", {"Software": None})):
        path, temporary = folder / f"{name}{suffix}", folder / f".{name}.tmp{suffix}"
        # Without a date, equal numbers give equal files.
        figure.savefig(temporary, dpi=200, metadata=metadata)
        os.replace(temporary, path)
        saved.append(path)
    return saved
