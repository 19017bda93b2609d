"""The directive `gallery`: every figure of `paper_figures` that has a picture in docs/images, with what it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from paper_figures.catalogue import FIGURES


class Gallery(SphinxDirective):
    """A section for each figure."""

    def run(self) -> list[nodes.Node]:
        images = Path(self.env.srcdir) / "images"
        made: list[nodes.Node] = []
        for name, module in FIGURES.items():
            if not (images / f"{name}.png").exists():
                continue
            text = " ".join((module.__doc__ or "").partition("\n\n")[0].split())
            section = nodes.section(ids=[f"figure-{name.replace('_', '-')}"])
            section += nodes.title(text=text.rstrip("."))
            section += nodes.literal_block(f"tensorchain figures {name}", f"tensorchain figures {name}", language="sh")
            section += nodes.image(uri=f"/images/{name}.png", alt=text, width="100%")
            caption = images / f"{name}.txt"
            self.env.note_dependency(str(caption))
            if caption.exists():
                said = caption.read_text(encoding="utf-8").strip()
                section += nodes.paragraph("", "", nodes.emphasis(text=said), classes=["caption"])
            made.append(section)
        return made


def setup(app: Any) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("gallery", Gallery)
    return {"parallel_read_safe": True}
