"""The README: its Python runs as written, its claims hold, and what it points at exists."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from benchmarks import tables
from tensorchain import load
from tensorchain.cli import main
from tensorchain.fit import StopReason
from tensorchain.models import Model

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)


def half_error(fit: Any, tensor: Any) -> float:
    rounded = [block.astype(np.float16).astype(float) for block in fit.model.blocks]
    return float(np.linalg.norm(tensor - fit.model.with_blocks(rounded).full()))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The names that each block of Python leaves behind, and what it printed, in an empty folder."""
    pytest.importorskip("torch")
    mpl.use("Agg")
    names: dict[str, Any] = {}
    seen = []
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("readme"))
    try:
        for code in (code for language, code in BLOCKS if language == "python"):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, "README.md", "exec"), names)
            seen.append((dict(names), printed.getvalue()))
    finally:
        os.chdir(before)
    return seen


@pytest.mark.slow
def test_the_first_example_shows_what_the_text_says(shown: Any) -> None:
    names, printed = shown[0]
    free, stable, tensor = names["free"], names["stable"], names["T"]
    assert stable.sensitivity <= 1e3 * (1 + 1e-5)
    assert half_error(stable, tensor) < 2 * stable.error
    # "Far more accurate until it is rounded": that is what the example is there for.
    assert free.error < 0.1 * stable.error
    assert half_error(free, tensor) > 10 * half_error(stable, tensor)
    assert free.reason is StopReason.DIVERGING
    assert printed.count("rounded to 16 bits") == 2


@pytest.mark.slow
def test_the_example_of_own_data(shown: Any) -> None:
    names, printed = shown[1]
    sizes = [names[name].shape for name in ("samples", "times", "channels")]
    assert sizes == [(20, 3), (30, 3), (40, 3)]
    assert "HEALTHY" in printed


@pytest.mark.slow
def test_the_network_is_smaller(shown: Any) -> None:
    import torch

    names, printed = shown[2]
    before, after = names["small"].report.macs
    assert 0 < after <= 0.3 * before
    assert "MACs" in printed
    assert all(torch.isfinite(weights).all() for weights in names["q"].state_dict().values())


@pytest.mark.slow
def test_there_are_no_other_blocks(shown: Any) -> None:
    assert len(shown) == 3
    assert {language for language, _ in BLOCKS} == {"", "python"}


@pytest.mark.slow
def test_commands_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    lines = [line for language, code in BLOCKS if not language for line in code.splitlines()]
    for line in lines:
        program, *words = shlex.split(line, comments=True)
        if program == "python":
            exec(words[words.index("-c") + 1], {})
        elif program == "tensorchain":
            assert main(words) == 0, line
        else:
            assert program in ("make", "pip")
    assert sum(line.startswith("tensorchain ") for line in lines) >= 5
    assert {"data.npy", "fit.npz", "fit.png", "milder.npz", "tables"} <= {path.name for path in tmp_path.iterdir()}
    fit, milder = (load(name) for name in ("fit.npz", "milder.npz"))
    # "May be wrong by 1 %: its sensitivity is hundreds of times lower": the files hold what the text says.
    assert fit.reason is StopReason.DIVERGING
    assert milder.error <= 0.01 * (1 + 1e-5)
    assert fit.sensitivity > 200 * milder.sensitivity
    # The plot is a plot: neither empty nor of one colour.
    picture = mpl.image.imread("fit.png")
    assert picture[..., :3].std() > 0.01


def test_the_first_screen_has_all_that_it_needs() -> None:
    lines = TEXT.splitlines()
    first = "\n".join(lines[:40])
    for needed in ("make figures", "make test", "](docs/images/", "```python"):
        assert needed in first
    # Ten lines of code, without imports and blank lines.
    code = next(code for language, code in BLOCKS if language == "python")
    assert sum(bool(line) and not line.startswith("import") for line in code.splitlines()) <= 10


def test_the_speed_table_is_that_of_the_benchmarks() -> None:
    found = {path.stem: json.loads(path.read_text()) for path in tables.RESULTS.glob("*.json")}
    assert f"{tables.BEGIN}\n{tables.short(found)}\n{tables.END}" in TEXT


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"make ([a-z]+)", TEXT))
    assert {"figures", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_links_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    assert len(links) >= 10
    for path in links:
        assert (ROOT / path).exists(), path


def test_every_model_is_in_the_table() -> None:
    for name, kind in Model.registry.items():
        if kind.__module__.startswith("tensorchain."):
            assert f'`"{name}"` `{kind.__name__}`' in TEXT
