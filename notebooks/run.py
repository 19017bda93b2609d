"""Run the notebooks and keep their pictures: `python -m notebooks.run [NAME ...] [--full] [--images FOLDER]`.

A notebook in this folder has no outputs.  It is run in a kernel of its own, from this folder, with quick settings
unless `--full` is given; the last picture that it draws is written to FOLDER, under the name of the notebook, and
beside it as JSON what is drawn and from which code.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
TIMEOUT = 600


def paths(names: Sequence[str] = ()) -> list[Path]:
    """The notebooks, in order: all, or those whose names begin with one of `names`, and files elsewhere."""
    found = sorted(FOLDER.glob("*.ipynb"))
    elsewhere = [Path(name) for name in names if name.endswith(".ipynb")]
    return [path for path in found if not names or any(path.name.startswith(name) for name in names)] + elsewhere


RECORD = """
import json as _json
import matplotlib.pyplot as _plt
_drawn, _show = [], _plt.show


def _record(*arguments, **options):
    axes = [axes for number in _plt.get_fignums() for axes in _plt.figure(number).axes]
    lines = [line.get_ydata() for each in axes for line in each.lines]
    images = [image.get_array() for each in axes for image in each.images]
    _drawn.append({"lines": [[float(y) for y in line] for line in lines], "means": [float(i.mean()) for i in images]})
    _show(*arguments, **options)


_plt.show = _record
"""
"""Run before a notebook: what its pictures show is remembered as numbers."""
TELL = "print(_json.dumps(_drawn[-1] if _drawn else {}))"


def executed(path: Path, *, quick: bool = True) -> Any:
    """The notebook with its outputs; an error in a cell is raised.

    What the last picture shows is in `metadata.drawn`: ordinates of lines, means of images.
    """
    import nbformat
    from jupyter_client.manager import KernelManager
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    added = [nbformat.v4.new_code_cell(code) for code in (RECORD, TELL)]
    notebook.cells = [added[0], *notebook.cells, added[1]]
    environment = {key: value for key, value in os.environ.items() if key != "TENSORCHAIN_QUICK"}
    if quick:
        environment["TENSORCHAIN_QUICK"] = "1"
    # Notebooks choose their own way to show figures, and never the way of this process.
    environment.pop("MPLBACKEND", None)
    with tempfile.TemporaryDirectory() as sockets:
        # Sockets in files are for this user alone, and cannot collide with the ports of others.
        transport = {"transport": "ipc", "ip": f"{sockets}/kernel"} if os.name == "posix" else {}
        kernel = KernelManager(kernel_name="python3", **transport)
        resources = {"metadata": {"path": str(FOLDER)}}
        try:
            NotebookClient(notebook, km=kernel, timeout=TIMEOUT, resources=resources).execute(env=environment)
        finally:
            if kernel.has_kernel:
                kernel.shutdown_kernel(now=True)
    notebook.cells = notebook.cells[1:-1]
    notebook.metadata.drawn = json.loads(added[1].outputs[0].text)
    return notebook


def code_of(path: Path) -> str:
    """A digest of the code of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return hashlib.sha256("\n".join(code).encode()).hexdigest()[:16]


def pictures(notebook: Any) -> list[bytes]:
    """The PNG files among the outputs."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    images = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return [base64.b64decode(image) for image in images]


def printed(notebook: Any) -> str:
    """What the cells printed."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output["text"] for output in outputs if output.get("name") == "stdout")


def write(path: Path, content: bytes) -> None:
    """Write a file whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m notebooks.run", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="the beginning of a name, such as 02; all by default")
    parser.add_argument("--full", action="store_true", help="the settings of the text, not the quick ones")
    parser.add_argument("--images", type=Path, help="folder for one picture of each notebook")
    parser.add_argument("--outputs", type=Path, help="folder for the notebooks with their outputs")
    parser.add_argument("--show", action="store_true", help="print what the cells print")
    options = parser.parse_args(arguments)
    for path in paths(options.names):
        began = time.monotonic()
        notebook = executed(path, quick=not options.full)
        if options.show:
            print(printed(notebook))
        if options.images is not None:
            write(options.images / f"{path.stem}.png", pictures(notebook)[-1])
            told = {"code": code_of(path), "full": options.full, "drawn": notebook.metadata.drawn}
            write(options.images / f"{path.stem}.json", (json.dumps(told) + "\n").encode())
        if options.outputs is not None:
            write(options.outputs / path.name, json.dumps(notebook).encode())
        print(f"{path.name}: {time.monotonic() - began:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
