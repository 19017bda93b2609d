"""Run the numerical tests on other versions of Python and of what the package needs.

    python -m tests.versions oldest [--python python3.10] [arguments of pytest]
    python -m tests.versions newest [--python python3.13] [arguments of pytest]

The first installs the versions in `tests/oldest.txt`, the lower limits of `setup.cfg`; the second the newest that there
are.  Each has an environment of its own, `.venv-oldest` and `.venv-newest`, which is built once.  Where that Python is
not to be found nothing is run, and the last line says so.
"""

from __future__ import annotations

import argparse
import glob
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.processors import TESTS

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "tests" / "oldest.txt"
BESIDE = (
    "array-api-strict",
    "dask[array,distributed]",
    "hypothesis>=6.100",
    "joblib>=1.3",
    "pandas>=2.0",
    "pyttb>=1.7",
    "pytest>=8.0",
    "pytest-xdist>=3.5",
    "safetensors>=0.4",
    "sparse>=0.15",
    "tensorly>=0.8",
    "xarray>=2023.1",
)
"""What the tests need beside the package."""
MORE = ("stability", "diagnosis", "test_constraints.py", "test_models.py", "test_fit_files.py", "test_plotting.py")
"""Tests beside those of :mod:`tests.processors`."""


def interpreter(name: str) -> str | None:
    """The path of a Python that runs, by its name: on the search path, or where pyenv has it."""
    minor = name.removeprefix("python")
    places = [
        shutil.which(name),
        *sorted(glob.glob(f"{os.environ.get('PYENV_ROOT', Path.home() / '.pyenv')}/versions/{minor}.*/bin/python")),
    ]
    for place in places:
        if place and subprocess.run([place, "-V"], capture_output=True, check=False).returncode == 0:
            return place
    return None


def built(kind: str, python: str) -> Path:
    """The Python of the environment, which is made where it is not there or older than what it is made of."""
    folder = ROOT / f".venv-{kind}"
    stamp, inside = folder / ".installed", folder / "bin" / "python"
    sources = [ROOT / "setup.cfg", *([CONSTRAINTS] if kind == "oldest" else [])]
    if stamp.exists() and all(stamp.stat().st_mtime >= source.stat().st_mtime for source in sources):
        return inside
    subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
    chosen = ["--constraint", str(CONSTRAINTS)] if kind == "oldest" else ["--upgrade"]
    pip = [str(inside), "-m", "pip", "install", "--quiet", *chosen]
    subprocess.run([*pip, "--editable", str(ROOT), *BESIDE], check=True)
    stamp.touch()
    return inside


def main(arguments: Sequence[str]) -> int:
    """Build the environment and run the tests in it."""
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=["oldest", "newest"])
    parser.add_argument("--python", help="the Python to take (default: python3.10, python3.13)")
    options, rest = parser.parse_known_args(arguments)
    name = options.python or {"oldest": "python3.10", "newest": "python3.13"}[options.kind]
    python = interpreter(name)
    if python is None:
        sys.stdout.write(f"{name} is not on this machine: the tests on the {options.kind} versions were not run\n")
        return 0
    inside = built(options.kind, python)
    tests = [f"tests/{test}" for test in (*TESTS, *MORE)]
    return subprocess.run([str(inside), "-m", "pytest", "-q", *tests, *rest], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
