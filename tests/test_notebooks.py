"""The notebooks: kept without outputs, and each runs from top to bottom with its quick settings."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from matplotlib.image import imread

from notebooks.run import code_of, paths, pictures, printed

NOTEBOOKS = {path.stem: path for path in paths()}
ROOT = Path(__file__).parents[1]

SAID = {
    "01_first_fit": ["same fit: True"],
    "02_why_they_blow_up": ["DIVERGING", "CONVERGED"],
    "03_fast_matrix_multiplication": ["verified with integers", "c22 = ", "solutions tried"],
    "04_compressing_a_network": ["stabilised", "float: 0.", "ResNet-56  TC"],
    "05_missing_and_big_data": ["error on entries never seen", "through dask"],
    "06_a_fluorescence_study": ["recommended: 3", "factor match of two halves: 0.9", "same fit: True"],
}
"""What each notebook must come to say."""


def test_every_notebook_is_named_here_and_in_the_documentation() -> None:
    assert list(NOTEBOOKS) == sorted(SAID)
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    assert re.findall(r"\(images/(\w+)\.png\)", page) == sorted(SAID)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the clients of kernels leave sockets behind."""
    command = [sys.executable, "-m", "notebooks.run", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.slow
def test_it_runs(name: str, tmp_path: Path) -> None:
    done = run(name, "--outputs", tmp_path)
    assert done.returncode == 0, done.stderr
    notebook: Any = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
    assert pictures(notebook)[-1].startswith(b"\x89PNG")
    text = printed(notebook)
    for words in SAID[name]:
        assert words in text
    compare(name, notebook.metadata.drawn)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []


def compare(name: str, drawn: dict[str, list[Any]]) -> None:
    """The picture in the documentation shows what this run has drawn: its data, not its pixels."""
    told = json.loads((ROOT / "docs" / "images" / f"{name}.json").read_text(encoding="utf-8"))
    assert drawn["lines"] or drawn["means"]
    assert [len(line) for line in drawn["lines"]] == [len(line) for line in told["drawn"]["lines"]] or told["full"]
    if not told["full"]:
        # Solvers come to the same answers elsewhere, not to the same digits.
        for mine, shown in zip(drawn["lines"], told["drawn"]["lines"], strict=True):
            np.testing.assert_allclose(np.median(np.abs(mine)), np.median(np.abs(shown)), rtol=0.1, atol=1e-12)
        np.testing.assert_allclose(drawn["means"], told["drawn"]["means"], rtol=0.02)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_its_picture_is_that_of_its_code(name: str) -> None:
    told = json.loads((ROOT / "docs" / "images" / f"{name}.json").read_text(encoding="utf-8"))
    assert told["code"] == code_of(NOTEBOOKS[name]), f"draw it again: make notebooks ARGS='{name[:2]}'"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_kept_clean(name: str) -> None:
    text = NOTEBOOKS[name].read_text(encoding="utf-8")
    notebook: Any = nbformat.reads(text, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
    assert text == nbformat.writes(notebook) + "\n"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    identities = [cell.id for cell in notebook.cells]
    assert len(identities) == len(set(identities))
    for cell in notebook.cells:
        assert not cell.metadata
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert notebook.cells[0].source.startswith("# ")


def written(folder: Path, code: str) -> Path:
    path = folder / "07_small.ipynb"
    small = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    path.write_text(nbformat.writes(small), encoding="utf-8")
    return path


@pytest.mark.slow
def test_an_error_in_a_cell_is_an_error(tmp_path: Path) -> None:
    done = run(written(tmp_path, "1 / 0"))
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stderr


def test_pictures_are_written(tmp_path: Path) -> None:
    path = written(tmp_path, "import matplotlib.pyplot as plt\nprint('drawn')\nplt.plot([1, 2])\nplt.show()")
    before = path.read_text(encoding="utf-8")
    done = run(path, "--show", "--images", tmp_path / "images")
    assert done.returncode == 0, done.stderr
    assert "drawn" in done.stdout
    assert imread(tmp_path / "images" / "07_small.png").ndim == 3
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["07_small.json", "07_small.png"]
    assert json.loads((tmp_path / "images" / "07_small.json").read_text())["drawn"]["lines"] == [[1.0, 2.0]]
    assert path.read_text(encoding="utf-8") == before
