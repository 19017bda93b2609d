"""The package as it is installed: its version, its marker for type checkers, its command, its metadata."""

from __future__ import annotations

import importlib.resources
import os
import re
import subprocess
import sys
from importlib.metadata import distribution, entry_points
from pathlib import Path

import tensorchain as tc

ROOT = Path(__file__).parents[1]
HERE = Path(tc.__file__).parent


def test_it_is_the_copy_that_is_to_be_tested() -> None:
    wanted = os.environ.get("TENSORCHAIN_WHEEL", str(ROOT))
    assert HERE.parent == Path(wanted).resolve()


def test_the_version_comes_from_one_place() -> None:
    assert distribution("tensorchain").version == tc.__version__
    said = subprocess.run(
        [sys.executable, "-m", "tensorchain.cli", "--version"], check=True, capture_output=True, text=True
    )
    assert tc.__version__ in said.stdout
    sources = {path.name: path.read_text(encoding="utf-8") for path in HERE.rglob("*.py")}
    written = [name for name, text in sources.items() if re.search(r"^__version__\s*=", text, re.MULTILINE)]
    assert written == ["_version.py"]


def test_it_is_marked_as_typed() -> None:
    assert importlib.resources.files("tensorchain").joinpath("py.typed").is_file()


def test_the_command_is_installed() -> None:
    command = next(entry for entry in entry_points(group="console_scripts") if entry.name == "tensorchain")
    from tensorchain import cli

    assert command.load() is cli.main


def test_extras_are_named_in_the_metadata() -> None:
    extras = set(distribution("tensorchain").metadata.get_all("Provides-Extra") or ())
    assert {"torch", "onnx", "dask", "sparse", "parallel", "images", "figures", "peers"} <= extras
    assert {"dev", "docs", "notebooks"} <= extras


def test_importing_it_brings_in_nothing_optional_and_nothing_slow() -> None:
    # SciPy's parts and numba take as long as all the rest: they wait until they are used.
    optional = ("torch", "onnx", "dask", "sklearn", "pandas", "numba", "matplotlib", "scipy.linalg", "scipy.optimize")
    code = f"import sys, tensorchain; print([name for name in {optional} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert said.stdout.strip() == "[]"
