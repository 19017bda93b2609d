"""A few hundred random fits, damaged files and kills; thousands by `make fuzz`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.__main__ import checkpoints, fits, kills, models

WORKERS = 3


@pytest.mark.parametrize("part", range(WORKERS))
def test_fits(part: int) -> None:
    counts, found = fits(range(part, 60, WORKERS))
    assert found == []
    assert counts["refused"] < 0.6 * sum(counts.values())


def test_model_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert models(range(200), tmp_path) == []


def test_checkpoint_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert checkpoints(range(90), tmp_path) == []


def test_a_kill(tmp_path: Path) -> None:
    assert kills([1], tmp_path, times=1) == []
