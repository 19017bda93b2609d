"""The versions that `make test-oldest` installs are the lower limits that the package states."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from tests import versions


def test_the_oldest_versions_are_those_of_the_metadata() -> None:
    metadata = configparser.ConfigParser()
    metadata.read(versions.ROOT / "setup.cfg")
    needed = metadata["options"]["install_requires"].split()
    least = {name: tuple(map(int, version.split("."))) for name, version in (line.split(">=") for line in needed)}
    lines = versions.CONSTRAINTS.read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    for name, version in least.items():
        numbers = tuple(int(part) for part in pinned[name].split(".") if part != "*")
        # rich>=13 begins with 13.0.
        assert (*version, 0)[: len(numbers)] == numbers
    assert metadata["options"]["python_requires"] == ">=3.10"


def test_a_python_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert versions.main(["oldest", "--python", "python3.0"]) == 0
    assert "not run" in capsys.readouterr().out


def test_all_named_tests_are_there() -> None:
    for name in (*versions.TESTS, *versions.MORE):
        assert (Path(versions.ROOT) / "tests" / name).exists()
