"""The figures, by name."""

from __future__ import annotations

from types import ModuleType

from paper_figures import border, success, trade_off

FIGURES: dict[str, ModuleType] = {
    "trade_off": trade_off,
    "border": border,
    "success": success,
}


def summary(module: ModuleType) -> str:
    """The first line of what a figure says of itself."""
    return (module.__doc__ or "").strip().splitlines()[0]
