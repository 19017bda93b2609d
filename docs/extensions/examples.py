"""The Python on a page is run when the page is built, and what it prints and draws is shown below it.

All blocks of a page share their names, in order.  A block that raises is a warning, which `make docs` treats as an
error; tests/test_docs.py runs the same blocks without building pages.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from docutils import nodes

BLOCK = re.compile(r"^```python\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def setup(app: Any) -> dict[str, bool]:
    """Run the blocks of each page."""
    # Before the images of the page are collected.
    app.connect("doctree-read", show_results, priority=100)
    return {"parallel_read_safe": True}


def run(code: str, where: str, names: dict[str, Any]) -> str:
    """Run a block with the names of its page; what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, where, "exec"), names)
    return printed.getvalue()


def run_page(text: str, where: str) -> list[str]:
    """Run all blocks of a page in an empty folder; what each printed."""
    names: dict[str, Any] = {}
    with elsewhere():
        return [run(code, where, names) for code in BLOCK.findall(text)]


def show_results(app: Any, doctree: Any) -> None:
    """Put below each block what it printed and drew."""
    import matplotlib as mpl
    from sphinx.util import logging

    mpl.use("Agg")
    page = app.env.docname
    names: dict[str, Any] = {}
    blocks = [node for node in doctree.findall(nodes.literal_block) if node.get("language") == "python"]
    with elsewhere():
        for number, block in enumerate(blocks):
            try:
                printed = run(block.astext(), page, names)
            except Exception as error:
                logging.getLogger(__name__).warning("%s: %s", type(error).__name__, error, location=block)
                return
            results: list[Any] = []
            if printed:
                results.append(nodes.literal_block(printed, printed, language="text", classes=["output"]))
            results += pictures(app, f"{page.replace('/', '-')}-{number}")
            place = block.parent.index(block) + 1
            block.parent[place:place] = results


def pictures(app: Any, name: str) -> list[Any]:
    """The figures that are open, saved and closed."""
    import matplotlib.pyplot as plt

    folder = Path(app.srcdir) / "_build" / "examples"
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in plt.get_fignums():
        path = folder / f"{name}-{number}.png"
        figure = plt.figure(number)
        figure.savefig(path, dpi=150, bbox_inches="tight")
        plt.close(figure)
        said = ", ".join(axes.get_title() or axes.get_ylabel() for axes in figure.axes)
        made.append(nodes.image(uri=f"/_build/examples/{path.name}", alt=said, width="100%"))
    return made


@contextlib.contextmanager
def elsewhere() -> Any:
    """In a folder that is empty and removed afterwards."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)
