"""The command line: bounds without units, fixed modes, and what is said of a model that explains little."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tensorchain as tc
from tensorchain.cli import main

TENSOR = tc.datasets.inverse_radius(order=3, size=6)
PLAIN = ["--model", "cp", "--rank", "2", "--quiet"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("data.npy", TENSOR)
    np.save("large.npy", 255.0 * TENSOR)
    return tmp_path


@pytest.mark.parametrize("option", [("--max-sensitivity", "16"), ("--penalty", "0.01")])
def test_relative_options_do_not_depend_on_the_scale(folder: Path, option: tuple[str, str]) -> None:
    for name in ("data", "large"):
        words = ["decompose", f"{name}.npy", *PLAIN, *option, "--relative", "--out", f"{name}.npz"]
        assert main(words) == 0
    one, two = tc.load("data.npz"), tc.load("large.npz")
    assert one.error == pytest.approx(two.error, rel=1e-4)
    value = float(option[1])
    constraint = (
        tc.Penalty(value, relative=True) if "penalty" in option[0] else tc.SensitivityBound(value, relative=True)
    )
    assert one.error == pytest.approx(tc.decompose(TENSOR, "cp", 2, constraint=constraint, rng=0).error, rel=1e-6)
    assert one.error > tc.decompose(TENSOR, "cp", 2, rng=0).error


def test_a_bound_that_leaves_most_unexplained_says_so(folder: Path, capsys: Any) -> None:
    words = ["decompose", "large.npy", *PLAIN, "--max-sensitivity", "1", "--out", "fit.npz"]
    assert main([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    fit = tc.load("fit.npz")
    assert f"{100 * fit.error**2:.0f} % of the squared norm" in record["note"]
    assert fit.error**2 > 0.5
    assert record["note"] in repr(fit)
    assert main(["decompose", "large.npy", *PLAIN, "--out", "fit.npz"]) == 0
    assert "unexplained" not in capsys.readouterr().out


def test_fixed_modes(folder: Path, capsys: Any) -> None:
    assert main(["decompose", "data.npy", *PLAIN, "--non-negative", "--out", "fit.npz"]) == 0
    known = tc.load("fit.npz").model
    amounts = np.random.default_rng(0).uniform(size=(9, 2))
    np.save("new.npy", tc.CP([amounts, *known.factors[1:]]).full())
    words = ["decompose", "new.npy", "--init", "fit.npz", "--fixed", "1,-1", "--non-negative", "--quiet"]
    assert main([*words, "--out", "samples.npz"]) == 0
    found = tc.load("samples.npz").model
    assert_array_equal(found.factors[1], known.factors[1])
    assert_array_equal(found.factors[2], known.factors[2])
    assert_allclose(found.factors[0], amounts, atol=1e-6)
    # What a fit was asked for is known to who diagnoses it.
    capsys.readouterr()
    assert main(["diagnose", "samples.npz", "new.npy"]) == 0
    assert "a best approximation exists" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--relative"], "neither was given"),
        (["--max-error", "0.1", "--relative"], "neither was given"),
        (["--fixed", "1"], "add --init FILE"),
        (["--fixed", "1,"], "write 0,2 or core,1"),
    ],
)
def test_what_does_not_go_together(folder: Path, capsys: Any, options: list[str], words: str) -> None:
    assert main(["decompose", "data.npy", *PLAIN, *options, "--out", "fit.npz"]) == 2
    assert words in capsys.readouterr().err
    assert not Path("fit.npz").exists()


def test_empty_cells_name_the_option(folder: Path, capsys: Any) -> None:
    Path("table.csv").write_text("a,b,c\n1,2,3\n2,,6\n3,6,9\n", encoding="utf-8")
    words = ["decompose", "table.csv", "--model", "cp", "--rank", "1", "--quiet", "--out", "fit.npz"]
    assert main(words) == 2
    assert "--missing nan" in capsys.readouterr().err
    assert main([*words, "--missing", "nan"]) == 0
    assert tc.load("fit.npz").model.full()[1, 1] == pytest.approx(4.0)
