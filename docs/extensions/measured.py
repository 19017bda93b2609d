"""The directive `measured`: a Markdown file that a benchmark wrote, or a line that says how to write it.

```{measured} ../benchmarks/results/sweeps.md
make bench
```
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from myst_parser.mocking import MockState
from sphinx.util.docutils import SphinxDirective


class Measured(SphinxDirective):
    """Include the file of the argument; without it, name the command in the body."""

    required_arguments = 1
    has_content = True
    state: MockState

    def run(self) -> list[nodes.Node]:
        path = Path(self.get_source_info()[0]).parent / self.arguments[0]
        self.env.note_dependency(str(path))
        if not path.exists():
            note = nodes.paragraph(text="Not measured on this machine yet; to measure: ")
            note += nodes.literal(text=" ".join(self.content))
            return [note]
        holder = nodes.container()
        self.state.nested_parse(path.read_text(encoding="utf-8").splitlines(), 0, holder)
        return list(holder.children)


def setup(app: Any) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("measured", Measured)
    return {"parallel_read_safe": True}
