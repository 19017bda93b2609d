"""Imports form no circle, those inside functions included, but for the packages' own parts."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "tensorchain"


def layers() -> dict[str, set[str]]:
    """For each top-level part of the package the others that it imports, for types alone left out."""
    found: dict[str, set[str]] = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        here = parts[0]
        if here == "__init__":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        typed = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and id(node) not in typed:
                names = node.module.split(".")
                if names[0] == "tensorchain" and len(names) > 1 and names[1] != here:
                    found.setdefault(here, set()).add(names[1])
    return found


@pytest.mark.slow
def test_no_circle_between_the_parts() -> None:
    edges = layers()
    assert {"solvers", "models", "tensors", "api"} <= set(edges)
    done: set[str] = set()

    def visit(part: str, way: tuple[str, ...]) -> None:
        assert part not in way, f"a circle of imports: {' -> '.join((*way[way.index(part) :], part))}"
        if part in done:
            return
        for other in sorted(edges.get(part, ())):
            visit(other, (*way, part))
        done.add(part)

    for part in sorted(edges):
        visit(part, ())
