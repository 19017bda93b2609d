"""The README: its Python runs as written, its claims hold, and what it points at exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from tensorchain.cli import make_parser
from tensorchain.fit import StopReason
from tensorchain.models import Model, load

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)


def half_error(fit: Any, tensor: Any) -> float:
    rounded = [block.astype(np.float16).astype(float) for block in fit.model.blocks]
    return float(np.linalg.norm(tensor - fit.model.with_blocks(rounded).full()))


def test_python_runs_and_shows_what_the_text_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    names: dict[str, Any] = {}
    blocks = [code for language, code in BLOCKS if language == "python"]
    assert blocks
    for code in blocks:
        exec(compile(code, "README.md", "exec"), names)
    free, tame, tensor = names["free"], names["tame"], names["T"]
    assert tame.sensitivity <= 1e3 * (1 + 1e-5)
    assert half_error(tame, tensor) < 2 * tame.error
    # "Far more accurate, until": that is what the example is there for.
    assert free.error < 0.1 * tame.error
    assert half_error(free, tensor) > 10 * half_error(tame, tensor)
    assert free.reason is StopReason.DIVERGING
    assert (tmp_path / "tame.png").stat().st_size > 1000
    np.testing.assert_array_equal(load("tame.npz").full(), tame.model.full())
    assert capsys.readouterr().out.count("in half precision") == 2


def test_commands_parse() -> None:
    lines = [line for language, code in BLOCKS if not language for line in code.splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith("tensorchain ")]
    assert len(commands) >= 3
    for _, *words in commands:
        assert make_parser().parse_args(words).command == words[0]


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"make ([a-z]+)", TEXT))
    assert {"figures", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_links_and_paths_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    paths = re.findall(r"^\| `([^|]+)` \|", TEXT.partition("## Where things are")[2], flags=re.MULTILINE)
    assert len(links) >= 4
    assert len(paths) >= 5
    for path in [*links, *(part for cell in paths for part in cell.split("`, `"))]:
        assert (ROOT / path).exists(), path


def test_every_model_is_in_the_table() -> None:
    for name, kind in Model.registry.items():
        if kind.__module__.startswith("tensorchain."):
            assert f'`"{name}"` `{kind.__name__}`' in TEXT
