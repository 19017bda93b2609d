"""The command line: tables, HDF5, folders, missing entries in; tables, arrays, pictures out; lines of progress."""

from __future__ import annotations

import csv
import json
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from rich.console import Console
from scipy.io import loadmat

import tensorchain as tc
from tensorchain.cli import main
from tensorchain.cli.errors import CommandError
from tensorchain.cli.progress import FitProgress
from tensorchain.cli.reading import read_array

RNG = np.random.default_rng(0)
TENSOR = tc.datasets.exact_cp((6, 5, 4), 2, RNG).tensor
PLAIN = ["--model", "cp", "--rank", "2"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def saved(folder: Path) -> tc.Model:
    model = tc.decompose(TENSOR, "cp", 2, rng=0).model
    model.save("fit.npz")
    return model


def complaint(capsys: Any) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return str(captured.err)


# -- tables ---------------------------------------------------------------------------------

TABLES = {
    "plain": ("1,2.5\n-3e2,4\n", [[1, 2.5], [-300, 4]]),
    "header": ("a,b\n1,2\n3,4\n", [[1, 2], [3, 4]]),
    "names of rows": (",400,410\nx,1,2\ny,3,4\n", [[1, 2], [3, 4]]),
    "both": ("name,a,b\nx,1,2\ny,3,4\n", [[1, 2], [3, 4]]),
    "corner left out": ("a,b\nx,1,2\ny,3,4\n", [[1, 2], [3, 4]]),
    "semicolons": ("1;2\n3;4\n", [[1, 2], [3, 4]]),
    "decimal commas": ("a;b\n1,5;2\n3;-4,25\n", [[1.5, 2], [3, -4.25]]),
    "tabs": ("1\t2\n3\t4\n", [[1, 2], [3, 4]]),
    "spaces": ("1  2\n 3 4 \n", [[1, 2], [3, 4]]),
    "missing": ("1,,3\n4,NA,nan\n", [[1, np.nan, 3], [4, np.nan, np.nan]]),
    "quotes, comments, marks": ('\ufeff# made\n"a, b",c\n"1","2"\n\n3,4\n', [[1, 2], [3, 4]]),
    "one line": ("1,2,3\n", [[1, 2, 3]]),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(folder: Path, name: str) -> None:
    text, expected = TABLES[name]
    for ending in ("csv", "tsv"):
        path = folder / f"t.{ending}"
        path.write_text(text, encoding="utf-8")
        assert_array_equal(read_array(path), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n3\n", "line 2 has 1 cells"),
        ("x,1,2\ny,3,4\n", "the first line may hold names or numbers"),
        ("1,2\n3,word\n", "'word', which is no number"),
        ("a,b\n", "no number"),
        ("a,b\nc,d\n", "no number"),
        ("\n# nothing\n", "no line of numbers"),
        ("x\ny\n", "names and no numbers"),
    ],
)
def test_tables_that_are_none(folder: Path, text: str, message: str) -> None:
    Path("t.csv").write_text(text)
    with pytest.raises(CommandError, match=message):
        read_array("t.csv")


def test_bytes_that_are_no_text(folder: Path) -> None:
    Path("t.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(CommandError, match=r"t\.csv"):
        read_array("t.csv")


# -- HDF5 -----------------------------------------------------------------------------------


def test_hdf5(folder: Path) -> None:
    with h5py.File("d.h5", "w") as file:
        file["group/T"] = TENSOR
        file["text"] = "no numbers"
        file["number"] = 3.0
    assert_array_equal(read_array("d.h5"), TENSOR)
    with h5py.File("d.h5", "a") as file:
        file["U"] = TENSOR[0]
        file["away"] = h5py.ExternalLink("other.h5", "/secret")
    with pytest.raises(CommandError, match="holds 2 arrays"):
        read_array("d.h5")
    for key in ("group/T", "/group/T"):
        assert_array_equal(read_array("d.h5", key), TENSOR)
    for key in ("away", "text", "absent"):
        with pytest.raises(CommandError, match="no array"):
            read_array("d.h5", key)
    Path("bad.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40))
    with pytest.raises(CommandError, match=r"bad\.h5"):
        read_array("bad.h5")


def test_matlab_files_that_are_hdf5(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = np.zeros(TENSOR.T.shape, dtype=[("real", float), ("imag", float)])
    pairs["real"], pairs["imag"] = TENSOR.T, 2 * TENSOR.T
    with h5py.File("m.mat", "w", userblock_size=512) as file:
        file["T"] = TENSOR.T
        file["text"] = np.array([[72, 105]], dtype=np.uint16)
        file["text"].attrs["MATLAB_class"] = np.bytes_("char")
        file["#refs#/a"] = np.ones((2, 2))
    with Path("m.mat").open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    assert_array_equal(read_array("m.mat"), TENSOR)
    with h5py.File("m.mat", "a") as file:
        file["Z"] = pairs
    assert_array_equal(read_array("m.mat", "Z"), (1 + 2j) * TENSOR)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CommandError, match=r"-v7, or install h5py"):
        read_array("m.mat")


def test_without_h5py(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("d.h5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(CommandError, match=r"tensorchain\[hdf5\]"):
        read_array("d.h5")


# -- folders --------------------------------------------------------------------------------


def test_folders_are_stacked_in_natural_order(folder: Path) -> None:
    Path("frames").mkdir()
    for number in (10, 9, 1):
        Image.fromarray(np.full((4, 3), number, dtype=np.uint8)).save(f"frames/f{number}.png")
    Path("frames/.hidden.png").write_bytes(b"")
    Path("frames/notes.txt").write_text("made by hand")
    stack = read_array("frames")
    assert stack.shape == (3, 4, 3)
    assert stack[:, 0, 0].tolist() == [1, 9, 10]
    Path("slabs").mkdir()
    for i, slab in enumerate(TENSOR):
        np.save(f"slabs/s{i}.npy", slab)
    assert_array_equal(read_array("slabs"), TENSOR)
    assert main(["decompose", "slabs", *PLAIN, "--out", "fit.npz", "--quiet"]) == 0
    assert tc.load("fit.npz").model.shape == TENSOR.shape


def test_folders_that_do_not_stack(folder: Path, capsys: Any) -> None:
    Path("f").mkdir()

    def refused(message: str) -> None:
        assert main(["decompose", "f", *PLAIN, "--out", "fit.npz"]) == 2
        assert message in complaint(capsys)

    refused("without files that are read")
    np.save("f/a.npy", TENSOR)
    refused("holds one file, a.npy")
    np.save("f/b.npy", TENSOR[:, :, 0])
    refused("b.npy: has shape (6, 5), and a.npy has (6, 5, 4)")
    Path("f/c.csv").write_text("1,2\n")
    refused("holds both a.npy and c.csv")
    with pytest.raises(CommandError, match="drop --key"):
        read_array("f", "x")


# -- missing entries ------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [np.nan, -9999.0])
def test_missing_entries_are_not_fitted(folder: Path, mark: float) -> None:
    seen = np.random.default_rng(1).random(TENSOR.shape) < 0.8
    np.save("holes.npy", np.where(seen, TENSOR, mark))
    assert main(["decompose", "holes.npy", *PLAIN, "--missing", str(mark), "--out", "fit.npz", "--quiet"]) == 0
    assert np.abs(tc.load("fit.npz").model.full() - TENSOR).max() < 1e-4


def test_missing_is_said_and_meant(folder: Path, capsys: Any) -> None:
    np.save("whole.npy", TENSOR)
    assert main(["decompose", "whole.npy", *PLAIN, "--missing", "nan", "--out", "fit.npz", "--quiet"]) == 0
    np.save("holes.npy", np.where(TENSOR > 0, TENSOR, np.nan))
    capsys.readouterr()
    assert main(["decompose", "holes.npy", *PLAIN, "--out", "fit.npz"]) == 2
    assert "holes.npy" in complaint(capsys)
    np.save("gone.npy", np.full(TENSOR.shape, 7))
    assert main(["decompose", "gone.npy", *PLAIN, "--missing", "7", "--out", "fit.npz"]) == 2
    assert "gone.npy" in complaint(capsys)
    assert main(["decompose", "gone.npy", *PLAIN, "--missing", "inf", "--out", "fit.npz"]) == 2
    assert "stands for a missing entry" in complaint(capsys)


# -- reconstruct ----------------------------------------------------------------------------


def test_reconstruct(saved: tc.Model, capsys: Any) -> None:
    full = saved.full()
    assert main(["reconstruct", "fit.npz", "--out", "full.npy"]) == 0
    assert "6 x 5 x 4" in capsys.readouterr().out
    assert_array_equal(np.load("full.npy"), full)
    for text, key in (("0:3,:,-1", np.s_[0:3, :, -1]), ("2", np.s_[2]), (":,1,::2", np.s_[:, 1, ::2])):
        assert main(["reconstruct", "fit.npz", "--out", "part.csv", "--at", text]) == 0
        assert_allclose(np.loadtxt("part.csv", delimiter=","), full[key], atol=1e-12)
    assert main(["reconstruct", "fit.npz", "--out", "one.npy", "--at", "1,2,3"]) == 0
    assert np.load("one.npy") == pytest.approx(full[1, 2, 3])
    assert main(["reconstruct", "fit.npz", "--out", "x.mat"]) == 0
    assert main(["reconstruct", "fit.npz", "--out", "x.h5"]) == 0
    assert_array_equal(loadmat("x.mat")["X"], full)
    assert_array_equal(read_array("x.h5"), full)


def test_reconstruct_a_picture(folder: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 6, 3))
    tc.Tucker(picture.astype(float), [np.eye(8), np.eye(6), np.eye(3)]).save("p.npz")
    assert main(["reconstruct", "p.npz", "--out", "p.png"]) == 0
    assert_array_equal(read_array("p.png"), picture)
    tc.Tucker(4.0 * picture - 300.0, [np.eye(8), np.eye(6), np.eye(3)]).save("p.npz")
    assert main(["reconstruct", "p.npz", "--at", ":,:,0", "--out", "p.png"]) == 0
    assert_array_equal(read_array("p.png"), np.clip(4 * picture[..., 0] - 300, 0, 255))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x.csv"], "choose a part with --at"),
        (["--out", "x.png", "--at", "0,0"], "a picture takes"),
        (["--out", "x.npy", "--at", "9"], "position 9 is out of range in mode 1"),
        (["--out", "x.npy", "--at", "0,0,0,0"], "4 indices"),
        (["--out", "x.npy", "--at", "a"], "is no index"),
        (["--out", "x.npy", "--at", "1:2:3:4"], "is no index"),
        (["--out", "x.npy", "--at", "1,,2"], "is no index"),
        (["--out", "x.txt"], "must end in"),
    ],
)
def test_reconstruct_refuses(saved: tc.Model, capsys: Any, arguments: Any, message: str) -> None:
    assert main(["reconstruct", "fit.npz", *arguments]) == 2
    assert message in complaint(capsys)
    assert sorted(path.name for path in Path().iterdir()) == ["fit.npz"]


# -- diagnose -------------------------------------------------------------------------------


def test_diagnose(saved: tc.Model, capsys: Any) -> None:
    np.save("data.npy", TENSOR)
    assert main(["diagnose", "fit.npz", "data.npy", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    truth = tc.diagnose(saved, TENSOR)
    assert record["verdict"] == truth.verdict.name == "HEALTHY"
    assert record["error"] == pytest.approx(truth.error, abs=1e-12)
    assert main(["diagnose", "fit.npz"]) == 0
    assert "HEALTHY" in capsys.readouterr().out
    np.save("other.npy", TENSOR[1:])
    for arguments, message in (
        (["fit.npz", "other.npy"], "shape"),
        (["fit.npz", "--missing", "nan"], "none was given"),
        (["data.npy"], "not a model file"),
    ):
        assert main(["diagnose", *arguments]) == 2
        assert message in complaint(capsys)


# -- export ---------------------------------------------------------------------------------


def rows_of(path: str) -> list[list[str]]:
    with Path(path).open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def test_export_tables(saved: tc.Model, capsys: Any) -> None:
    assert main(["export", "fit.npz", "--out", "tables", "--names", "sample,time,band"]) == 0
    assert sorted(path.name for path in Path("tables").iterdir()) == [
        "components.csv", "factor_1.csv", "factor_2.csv", "factor_3.csv",
    ]  # fmt: skip
    assert rows_of("tables/factor_2.csv")[0] == ["time", "component 1", "component 2"]
    assert_array_equal([list(map(float, row[1:])) for row in rows_of("tables/factor_2.csv")[1:]], saved.blocks[1])
    head, *rows = rows_of("tables/components.csv")
    assert head == ["component", "norm", "share", "closest", "cosine"]
    assert_allclose([float(row[1]) for row in rows], saved.components.norm)
    assert [row[3] for row in rows] == ["2", "1"]
    # Tables come back as they were written.
    assert_array_equal(read_array("tables/factor_1.csv")[:, 1:], saved.blocks[0])
    assert main(["export", "fit.npz", "--out", "tables", "--normalized"]) == 0
    weights, factors = saved.normalized()
    assert_allclose(read_array("tables/factor_3.csv")[:, 1:], factors[2])
    assert_allclose([float(row[1]) for row in rows_of("tables/components.csv")[1:]], weights)


def test_export_of_cores_and_complex_blocks(folder: Path) -> None:
    model = 1j * tc.Tucker.random((4, 3), (2, 2), rng=0)
    model.save("t.npz")
    assert main(["export", "t.npz", "--out", "tables"]) == 0
    core = rows_of("tables/core.csv")
    assert core[1][0] == "bond 1 = 1, bond 2 = 1"
    assert_allclose([complex(row[1]) for row in core[1:]], model.blocks[0].ravel())
    assert main(["export", "t.npz", "--out", "t.h5"]) == 0
    assert_array_equal(read_array("t.h5", "core"), model.blocks[0])


def test_export_arrays_and_models(saved: tc.Model) -> None:
    fit = tc.decompose(TENSOR, "cp", 2, rng=0)
    fit.save("fit.npz")
    for name in ("b.mat", "b.h5"):
        assert main(["export", "fit.npz", "--out", name]) == 0
        for n, block in enumerate(fit.model.blocks, start=1):
            assert_array_equal(read_array(name, f"factor_{n}"), block)
    assert main(["export", "fit.npz", "--out", "b.safetensors"]) == 0
    again = tc.load("b.safetensors")
    assert (again.model, again.error, again.reason) == (fit.model, fit.error, fit.reason)
    assert main(["show", "b.safetensors"]) == 0
    assert main(["export", "fit.npz", "--out", "c.npz", "--normalized"]) == 0
    assert_array_equal(tc.load("c.npz").factors[0], fit.model.normalized().factors[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x.txt"], "must end in"),
        (["--out", "x.mat", "--names", "a,b,c"], "--names is for tables"),
        (["--out", "x", "--names", "a,b"], "3 different names"),
        (["--out", "fit.npz"], "is the file that is read"),
    ],
)
def test_export_refuses(saved: tc.Model, capsys: Any, arguments: Any, message: str) -> None:
    assert main(["export", "fit.npz", *arguments]) == 2
    assert message in complaint(capsys)
    tc.Tucker.random((3, 4), 2, rng=0).save("t.npz")
    assert main(["export", "t.npz", "--out", "x", "--normalized"]) == 2
    assert "--normalized is for CP" in complaint(capsys)
    assert not Path("x").exists()


def test_iterations_are_limited_for_a_solver_that_has_such(folder: Path, capsys: Any) -> None:
    np.save("data.npy", TENSOR)
    assert main(["decompose", "data.npy", *PLAIN, "--max-iter", "3", "--out", "fit.npz"]) == 2
    assert "--max-iter is for --solver path, als and lm" in complaint(capsys)
    assert main(["decompose", "data.npy", *PLAIN, "--solver", "als", "--max-iter", "3", "--out", "fit.npz"]) == 0


# -- progress -------------------------------------------------------------------------------


def test_lines_of_progress(folder: Path, capsys: Any) -> None:
    np.save("data.npy", TENSOR)
    assert main(["decompose", "data.npy", *PLAIN, "--starts", "3", "--progress", "log", "--out", "fit.npz"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("start 1 of 3  iteration 0  error ")
    assert lines[-1].startswith("start 3 of 3  iteration ")
    assert " s of about " in lines[-1]
    assert not any("\x1b" in line or "\r" in line for line in lines)
    for options in (["--progress", "none"], ["--quiet", "--progress", "log"], []):
        assert main(["decompose", "data.npy", *PLAIN, "--out", "fit.npz", *options]) == 0
        assert capsys.readouterr().err == ""


def iterate(number: int) -> Any:
    from tensorchain.solvers import Iterate

    model = tc.CP.random((3, 4), 1, rng=0)
    fields = dict.fromkeys(Iterate.__dataclass_fields__)
    return Iterate(**{**fields, "iteration": number, "error": 0.5, "model": model, "sensitivity": 2.0})


def test_the_total_follows_from_the_starts_that_are_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, now = StringIO(), [0.0]
    with FitProgress(1.0, starts=4, mode="log", console=Console(file=stream)) as progress:
        monkeypatch.setattr(progress, "_elapsed", lambda: now[0])
        progress(iterate(0))
        assert progress.total() is None
        now[0] = 10.0
        progress(iterate(0))
        assert progress.total() == pytest.approx(40.0)
        now[0] = 30.0
        progress(iterate(0))
        assert progress.total() == pytest.approx(60.0)
    assert stream.getvalue().splitlines()[-1].endswith("time 30.0 s of about 60.0 s")
    with FitProgress(1.0, max_seconds=7.0, mode="none") as progress:
        progress(iterate(0))
        assert progress.total() == 7.0
    with FitProgress(1.0, mode="none") as progress:
        progress(iterate(0))
        assert progress.total() is None


def test_the_bar_shows_the_total() -> None:
    stream = StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system=None)
    with FitProgress(1.0, max_seconds=100.0, console=console) as progress:
        progress(iterate(0))
        progress._bar.refresh()
    assert "0:00/1:40" in stream.getvalue()
