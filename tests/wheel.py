"""Build the wheel, install it into an empty folder, and run tests against it: `python -m tests.wheel`.

What is tested is the copy in that folder: the tests run from a folder of their own, to which only `tests` is copied,
and fail when `tensorchain` comes from anywhere else.  Dependencies are those of this environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = (
    "test_wheel.py",
    "test_network.py",
    "test_stop_reasons.py",
    "test_model_files.py",
    "stability/test_perturbation.py",
)
"""What is run against the wheel: its metadata, wirings, solvers, files, and what is built on them."""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        wheel = build(place / "dist")
        target = place / "site"
        quiet = ("--quiet", "--disable-pip-version-check")
        run("-m", "pip", "install", *quiet, "--no-deps", "--no-compile", "--target", target, wheel)
        files = len(zipfile.ZipFile(wheel).namelist())
        sys.stdout.write(f"{wheel.name}: {wheel.stat().st_size / 1024:.0f} kB, {files} files\n")
        shutil.copytree(ROOT / "tests", place / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", place)
        environment = {**os.environ, "PYTHONPATH": str(target), "TENSORCHAIN_WHEEL": str(target)}
        chosen = [f"tests/{name}" for name in TESTS]
        options = ("-p", "no:cacheprovider", "-q", "-m", "not slow", "-n", "2")
        run("-m", "pytest", *options, *chosen, cwd=place, env=environment)
    return 0


def build(folder: Path) -> Path:
    """The wheel, built from a copy of what belongs to the package, so that no leftover is packed."""
    source = folder.parent / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "tensorchain", source / "tensorchain", ignore=shutil.ignore_patterns("__pycache__"))
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.whl"))


def run(*arguments: object, **options: object) -> None:
    """This Python with arguments; what it says on failure is shown by itself."""
    subprocess.run([sys.executable, *map(str, arguments)], check=True, **options)  # type: ignore[call-overload]


if __name__ == "__main__":
    sys.exit(main())
