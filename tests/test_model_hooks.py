"""What models do for notebooks and files through other modules: HTML, and the format that a path asks for."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file

import tensorchain as tc
from tensorchain.html import model_html
from tests.cases import THREE, Case


@pytest.mark.parametrize("case", THREE, ids=str)
def test_a_model_shows_itself_in_notebooks(case: Case) -> None:
    model = case.model()
    assert model._repr_html_() == model_html(model)


@pytest.mark.parametrize("case", THREE, ids=str)
def test_the_path_asks_for_the_format(case: Case, tmp_path: Path) -> None:
    model = case.model()
    for name in ("model.safetensors", "model.npz", "model"):
        model.save(tmp_path / name)
        assert_array_equal(tc.load(tmp_path / name).full(), model.full())
    assert (tmp_path / "model.npz").read_bytes()[:2] == (tmp_path / "model").read_bytes()[:2] == b"PK"
    assert len(load_file(tmp_path / "model.safetensors")) == len(model.blocks)


def test_a_fit_is_saved_with_its_report(tmp_path: Path) -> None:
    fit = tc.decompose(THREE[0].tensor(), "cp", 2, solver=tc.ALS(max_iter=3), rng=0)
    fit.save(tmp_path / "fit.safetensors")
    assert_array_equal(tc.load(tmp_path / "fit.safetensors").model.full(), fit.model.full())


def test_decompose_shows_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    T = THREE[0].tensor()
    alone = tc.decompose(T, "cp", 2, solver=tc.ALS(max_iter=5), starts=2, rng=0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    shown = tc.decompose(T, "cp", 2, solver=tc.ALS(max_iter=5), starts=2, rng=0, progress=True)
    assert_array_equal(alone.model.full(), shown.model.full())
    assert "start 2 of 2  iteration 5" in sys.stderr.getvalue()  # type: ignore[attr-defined]
