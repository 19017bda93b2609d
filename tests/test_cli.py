"""The command line: what is read and written, what is printed, and how it ends on bad and hostile input."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import pickle
import shlex
import signal
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from rich.console import Console
from scipy.io import savemat

import tensorchain as tc
from tensorchain.cli import COMMANDS, figures, main, make_parser
from tensorchain.cli import decompose as command
from tensorchain.cli.arguments import parse_rank
from tensorchain.cli.completion import SHELLS, Command, Word, described
from tensorchain.cli.errors import CommandError, Status, one_line
from tensorchain.cli.progress import FitProgress
from tensorchain.cli.reading import read_array
from tensorchain.cli.writing import replace_file
from tests.cases import mostly_slow, relative

TENSOR = tc.datasets.inverse_radius(order=3, size=6)
PLAIN = ["--model", "cp", "--rank", "2"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("data.npy", TENSOR)
    return tmp_path


def complaint(capsys: Any) -> str:
    """The one line on stderr; nothing may be on stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    return str(captured.err)


# -- the way things should go ---------------------------------------------------------------


def test_decompose_saves_what_the_library_computes(folder: Path, capsys: Any) -> None:
    assert main(["decompose", "data.npy", "--model", "tc", "--rank", "2,3,2", "--seed", "4", "--out", "fit.npz"]) == 0
    captured = capsys.readouterr()
    fit = tc.decompose(TENSOR, "tc", (2, 3, 2), rng=4)
    # The file is mapped: the array lies elsewhere in memory, and sums may be made in another order.
    saved = tc.load("fit.npz")
    assert relative(saved.model.full(), fit.model.full()) < 1e-4
    assert f"{saved.error:.4g}" in captured.out
    assert fit.reason.name in captured.out
    # Progress is for terminals.
    assert captured.err == ""


def test_show_prints_the_saved_report_and_the_blocks(folder: Path, capsys: Any) -> None:
    main(["decompose", "data.npy", *PLAIN, "--out", "fit.npz"])
    decomposed = capsys.readouterr().out
    assert main(["show", "fit.npz"]) == 0
    shown = capsys.readouterr().out
    for line in ("error", "sensitivity", "stopped"):
        assert next(row for row in shown.splitlines() if line in row) in decomposed
    assert shown.count("6 x 2") == 3


def test_show_as_json_splits_the_sensitivity(folder: Path, capsys: Any) -> None:
    main(["decompose", "data.npy", *PLAIN, "--out", "fit.npz", "--quiet"])
    capsys.readouterr()
    assert main(["show", "fit.npz", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    model = tc.load("fit.npz").model
    assert (record["model"], record["shape"], record["rank"], record["dtype"]) == ("cp", [6, 6, 6], 2, "float64")
    assert (record["parameters"], record["sensitivity"]) == (model.n_parameters, model.sensitivity())
    assert record["relative_sensitivity"] == model.sensitivity(relative=True)
    total = sum(block["sensitivity"] for block in record["blocks"])
    assert total == pytest.approx(tc.load("fit.npz").model.sensitivity())
    assert set(record["report"]) >= {"error", "stopped", "solver"}


def test_safetensors_in_and_out(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("safetensors")
    assert main(["decompose", "data.npy", *PLAIN, "--out", "fit.safetensors"]) == 0
    assert main(["decompose", "data.npy", *PLAIN, "--out", "fit.npz"]) == 0
    capsys.readouterr()
    shown = []
    for name in ("fit.safetensors", "fit.npz"):
        assert main(["show", name, "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record.pop("file") == name
        record["report"].pop("iterations")
        record["fit"].pop("seconds")
        assert record["report"]["holds"] == "a fit"
        shown.append(record)
    assert shown[0] == shown[1]
    # Found before the work, not after it.
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(command, "decompose", lambda *a, **k: pytest.fail("the work began"))
    assert main(["decompose", "data.npy", *PLAIN, "--out", "other.safetensors"]) == 2
    assert "tensorchain[interop]" in complaint(capsys)


def test_show_of_a_model_without_report(folder: Path, capsys: Any) -> None:
    tc.CP([np.ones((4, 1)), np.ones((5, 1))]).save("model.npz")
    assert main(["show", "model.npz"]) == 0
    out = capsys.readouterr().out
    assert "CP(4 x 5" in out
    assert "Fit.save" in out


def test_decompose_as_json(folder: Path, capsys: Any) -> None:
    status = main(["decompose", "data.npy", *PLAIN, "--starts", "3", "--out", "fit.npz", "--json"])
    record = json.loads(capsys.readouterr().out)
    fit = tc.decompose(TENSOR, "cp", 2, starts=3, rng=0)
    assert status == 0
    assert record["error"] == pytest.approx(fit.error, rel=1e-4)
    assert record["sensitivity"] == pytest.approx(fit.sensitivity, rel=1e-3)
    assert (record["reason"], record["shape"], record["rank"]) == (fit.reason.name, [6, 6, 6], 2)
    assert len(record["starts"]) == 3
    assert record["out"] == "fit.npz"


@pytest.mark.parametrize(
    ("option", "constraint"),
    [
        (["--max-sensitivity", "500"], tc.SensitivityBound(500.0)),
        (["--max-error", "0.05"], tc.ErrorBound(0.05)),
        (["--penalty", "1e-4"], tc.Penalty(1e-4)),
        (["--non-negative"], tc.NonNegative()),
        (["--non-negative", "--penalty", "1e-4"], tc.NonNegative() & tc.Penalty(1e-4)),
    ],
)
def test_constraints_reach_the_library(folder: Path, capsys: Any, option: Any, constraint: Any) -> None:
    assert main(["decompose", "data.npy", *PLAIN, *option, "--out", "fit.npz", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    expected = tc.decompose(TENSOR, "cp", 2, constraint=constraint, rng=0).sensitivity
    assert record["sensitivity"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("name", "solver"), [("als", tc.ALS(7)), ("lm", tc.LM(7)), ("path", tc.Path())])
def test_solvers_reach_the_library(folder: Path, capsys: Any, name: str, solver: Any) -> None:
    limit = [] if name == "path" else ["--max-iter", "7"]
    main(["decompose", "data.npy", *PLAIN, "--solver", name, *limit, "--out", "fit.npz", "--json"])
    record = json.loads(capsys.readouterr().out)
    assert record["solver"] == repr(solver)
    # The file is mapped: the array lies elsewhere in memory, and sums may be made in another order.
    expected = tc.decompose(TENSOR, "cp", 2, solver=solver, rng=0).error
    assert record["error"] == pytest.approx(expected, rel=1e-4, abs=1e-9)


@pytest.mark.filterwarnings("ignore:.*loky:UserWarning")
@pytest.mark.slow
def test_jobs_share_the_starts_and_change_nothing(folder: Path, capsys: Any) -> None:
    pytest.importorskip("joblib")
    arguments = ["decompose", "data.npy", *PLAIN, "--solver", "als", "--max-iter", "5", "--starts", "3", "--json"]
    records = []
    for jobs in ("1", "2"):
        assert main([*arguments, "--jobs", jobs, "--out", f"fit{jobs}.npz"]) == 0
        records.append(json.loads(capsys.readouterr().out))
    assert records[0]["error"] == records[1]["error"]
    assert [s["error"] for s in records[0]["starts"]] == [s["error"] for s in records[1]["starts"]]
    assert_array_equal(tc.load("fit1.npz").model.full(), tc.load("fit2.npz").model.full())


def test_a_checkpoint_goes_on_to_the_same_result(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["decompose", "data.npy", *PLAIN, "--solver", "lm", "--starts", "3", "--json"]
    assert main([*arguments, "--out", "whole.npz"]) == 0
    whole = json.loads(capsys.readouterr().out)
    resumed = [*arguments, "--checkpoint", "run.ckpt", "--out", "fit.npz"]
    with monkeypatch.context() as patch:
        patch.setattr(command, "decompose", interrupting(1))
        assert main(resumed) == 130
    assert Path("run.ckpt").is_file()
    capsys.readouterr()
    assert main(resumed) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["error"], len(record["starts"])) == (whole["error"], 3)
    assert_array_equal(tc.load("fit.npz").model.full(), tc.load("whole.npz").model.full())
    # The file belongs to this tensor, this model and this solver.
    assert main([*resumed, "--solver", "als"]) == 2
    assert "checkpoint of another problem" in complaint(capsys)


def test_starting_from_a_file_needs_no_model(folder: Path, capsys: Any) -> None:
    first = tc.decompose(TENSOR, "cp", 2, rng=0)
    first.save("first.npz")
    assert main(["decompose", "data.npy", "--init", "first.npz", "--max-error", "0.1", "--out", "b.npz", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["error"] <= 0.1 * (1 + 1e-5)
    assert record["sensitivity"] < first.sensitivity


def test_block_terms_take_one_rank_a_term(folder: Path, capsys: Any) -> None:
    arguments = ["decompose", "data.npy", "--model", "btd", "--max-iter", "3", "--solver", "als", "--out", "f.npz"]
    assert main([*arguments, "--rank", "2,2,2;1,1,1"]) == 0
    assert tc.load("f.npz").model.rank == [(2, 2, 2), (1, 1, 1)]
    assert main([*arguments, "--rank", "2,2,2"]) == 0
    assert tc.load("f.npz").model.rank == [(2, 2, 2)]
    capsys.readouterr()


@pytest.mark.parametrize("name", mostly_slow(["fit.svg", "fit.png", "fit.pdf"]))
def test_plot_is_written_whole(folder: Path, name: str, capsys: Any) -> None:
    assert main(["decompose", "data.npy", *PLAIN, "--out", "fit.npz", "--plot", name]) == 0
    start = {"fit.png": b"\x89PNG", "fit.pdf": b"%PDF", "fit.svg": b"<?xml"}[name]
    assert Path(name).read_bytes().startswith(start)
    # No temporary file stays behind.
    assert sorted(path.name for path in folder.iterdir()) == sorted(["data.npy", name, "fit.npz"])
    capsys.readouterr()


def test_version(capsys: Any) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tensorchain {tc.__version__}\n"


OWN = ["", "decompose", "show", "rank-study", "diagnose", "reconstruct", "export", "figures", "completion"]


@pytest.mark.parametrize("name", OWN)
def test_every_help_has_examples_that_parse_and_the_exit_status(name: str, capsys: Any) -> None:
    assert main([*name.split(), "--help"]) == 0
    out = capsys.readouterr().out
    examples = out.split("examples:\n")[1].split("\n\n")[0].splitlines()
    lines = [line.split(">")[0].split("|")[0].split("#")[0].strip() for line in examples]
    commands = [line for line in lines if line.startswith("tensorchain ")]
    assert len(commands) >= 2
    for line in commands:
        words = shlex.split(line)[1:]
        if "--help" not in words:
            assert make_parser().parse_args(words).command in ((name,) if name else [*OWN, "compress"])
    for status in (Status.OK, Status.FAILED, Status.BAD_INPUT, Status.INTERRUPTED):
        assert f"\n  {status.value:<4} " in out.split("exit status:")[1]


def test_help_fits_a_terminal_of_120_columns(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    for name in OWN:
        main([*name.split(), "--help"])
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 120


@pytest.mark.slow
def test_subprocess_end_to_end(folder: Path) -> None:
    base = [sys.executable, "-m", "tensorchain.cli"]
    made = subprocess.run(
        [*base, "decompose", "data.npy", *PLAIN, "--out", "fit.npz"], capture_output=True, text=True, check=False
    )
    assert (made.returncode, made.stderr) == (0, "")
    assert "error" in made.stdout
    failed = subprocess.run([*base, "show", "data.npy"], capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("tensorchain: error: ")


# -- what is read ---------------------------------------------------------------------------


def test_readers_return_what_was_stored(folder: Path) -> None:
    several = {"a": TENSOR, "b": np.arange(12.0).reshape(3, 4)}
    np.savez("one.npz", TENSOR)
    np.savez_compressed("several.npz", **several)
    savemat("one.mat", {"X": TENSOR, "name": "text", "number": 3.0})
    savemat("several.mat", several)
    assert_array_equal(read_array("data.npy"), TENSOR)
    assert_array_equal(read_array("one.npz"), TENSOR)
    assert_array_equal(read_array("one.mat"), TENSOR)
    for name in ("several.npz", "several.mat"):
        for key, array in several.items():
            assert_array_equal(read_array(name, key), array)


def test_npy_is_mapped_not_read(folder: Path) -> None:
    assert isinstance(read_array("data.npy"), np.memmap)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "CMYK", "I;16"])
def test_pictures_become_intensities(folder: Path, mode: str) -> None:
    image = pytest.importorskip("PIL.Image")
    levels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    picture = image.fromarray(levels)
    if mode == "I;16":
        picture = image.fromarray(levels[:, :, 0].astype(np.uint16) * 257)
    elif mode != "RGB":
        picture = picture.convert(mode)
    name = "picture.tif" if mode in ("CMYK", "I;16") else "picture.png"
    picture.save(name)
    array = read_array(name)
    expected = {"L": 2, "1": 2, "I;16": 2, "RGBA": 3}.get(mode, 3)
    assert array.ndim == expected
    assert array.shape[:2] == (5, 4)
    if mode == "RGB":
        assert_array_equal(array, levels)
    if mode == "I;16":
        assert_array_equal(array, levels[:, :, 0].astype(np.uint16) * 257)
    if mode == "1":
        assert set(np.unique(array)) <= {0, 255}


def test_missing_pillow_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("picture.png").write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(CommandError, match=r"tensorchain\[images\]"):
        read_array("picture.png")


# -- hostile and damaged files --------------------------------------------------------------


class Bomb:
    """Unpickled, it leaves a trace."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("exploded"),))


def npy_bytes(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def objects() -> bytes:
    return npy_bytes(np.array([Bomb(), Bomb()], dtype=object), allow_pickle=True)


def archive(name: str, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(name, "w") as stream:
        for member, content in members.items():
            stream.writestr(member, content)


def liar() -> bytes:
    """A header that promises an exabyte."""
    good = npy_bytes(np.zeros((2, 3)))
    return good.replace(b"(2, 3)", b"(2, %d)" % 10**17).replace(b" " * 17, b"", 1)


def whole_mat() -> bytes:
    stream = io.BytesIO()
    savemat(stream, {"X": TENSOR})
    return stream.getvalue()


HOSTILE: dict[str, tuple[str, Callable[[], bytes] | bytes]] = {
    "empty npy": ("f.npy", b""),
    "text as npy": ("f.npy", b"1,2,3\n4,5,6\n"),
    "pickle as npy": ("f.npy", lambda: pickle.dumps(Bomb())),
    "objects in npy": ("f.npy", objects),
    "cut npy": ("f.npy", lambda: npy_bytes(TENSOR)[:300]),
    "npy header of evil": ("f.npy", b"\x93NUMPY\x01\x00\x10\x00__import__('os')"),
    "npy that promises an exabyte": ("f.npy", liar),
    "zip as npy": ("f.npy", b"PK\x03\x04" + bytes(50)),
    "empty npz": ("f.npz", b""),
    "text as npz": ("f.npz", b"hello"),
    "cut npz": ("f.npz", b"PK\x03\x04" + bytes(50)),
    "text as mat": ("f.mat", b"hello"),
    "empty mat": ("f.mat", b""),
    "cut mat": ("f.mat", lambda: whole_mat()[:400]),
    "scrambled mat": ("f.mat", lambda: whole_mat()[:200] + bytes(range(256)) * 8),
    "hdf5 as mat": ("f.mat", b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n" + bytes(400)),
    "text as picture": ("f.png", b"hello"),
    "cut picture": ("f.png", b"\x89PNG\r\n\x1a\n" + bytes(20)),
    "no ending": ("file", b"hello"),
    "unknown ending": ("f.xls", b"1,2\n3,4\n"),
    "NaN": ("f.npy", lambda: npy_bytes(np.full((3, 3), np.nan))),
    "infinity": ("f.npy", lambda: npy_bytes(np.full((3, 3), np.inf))),
    "zeros": ("f.npy", lambda: npy_bytes(np.zeros((3, 3)))),
    "vector": ("f.npy", lambda: npy_bytes(np.ones(5))),
    "scalar": ("f.npy", lambda: npy_bytes(np.float64(3.0))),
    "no entries": ("f.npy", lambda: npy_bytes(np.ones((3, 0)))),
    "order 51": ("f.npy", lambda: npy_bytes(np.ones((1,) * 51))),
    "strings": ("f.npy", lambda: npy_bytes(np.array([["a", "b"], ["c", "d"]]))),
    "records": ("f.npy", lambda: npy_bytes(np.zeros((2, 2), dtype=[("x", float), ("y", int)]))),
    "dates": ("f.npy", lambda: npy_bytes(np.zeros((2, 2), dtype="datetime64[s]"))),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_bad_files_end_in_one_line(folder: Path, capsys: Any, case: str) -> None:
    name, content = HOSTILE[case]
    Path(name).write_bytes(content() if callable(content) else content)
    assert main(["decompose", name, *PLAIN, "--out", "fit.npz"]) == 2
    assert name in complaint(capsys)
    assert not Path("fit.npz").exists()
    assert not Path("exploded").exists()


def test_the_bomb_would_go_off(folder: Path) -> None:
    pickle.loads(pickle.dumps(Bomb()))
    assert Path("exploded").exists()


def test_archives_choose_by_key(folder: Path, capsys: Any) -> None:
    np.savez("several.npz", a=TENSOR, b=TENSOR)
    archive("odd.npz", {"a.npy": objects(), "note.txt": b"text", "good.npy": npy_bytes(TENSOR)})
    archive("empty.npz", {})
    savemat("several.mat", {"a": TENSOR, "b": TENSOR, "c": np.array(["text"], dtype=object)})
    savemat("none.mat", {"c": "text"})
    cases = [
        ("several.npz", None, "a, b; choose one with --key"),
        ("several.npz", "c", "no array 'c'; it holds a, b"),
        ("odd.npz", "a", "Python objects"),
        ("odd.npz", "note.txt", "note.txt is no array"),
        ("empty.npz", None, "holds no array"),
        ("several.mat", None, "a, b; choose one with --key"),
        ("several.mat", "z", "no array 'z'; it holds a, b"),
        ("several.mat", "c", "c is no full array of numbers"),
        ("none.mat", None, "holds no array"),
        ("data.npy", "a", "drop --key"),
    ]
    for name, key, message in cases:
        chosen = [] if key is None else ["--key", key]
        assert main(["decompose", name, *chosen, *PLAIN, "--out", "fit.npz"]) == 2
        assert message in complaint(capsys)
    assert_array_equal(read_array("odd.npz", "good"), TENSOR)


def test_many_names_are_not_all_listed(folder: Path, capsys: Any) -> None:
    np.savez("many.npz", **{f"array_{k}": np.ones((2, 2)) for k in range(500)})
    assert main(["decompose", "many.npz", *PLAIN, "--out", "fit.npz"]) == 2
    line = complaint(capsys)
    assert "and 492 more" in line
    assert len(line) < 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.npy", *PLAIN], "absent.npy: no such file"),
        ([".", *PLAIN], "holds one file, data.npy"),
        (["a\0b.npy", *PLAIN], "a?b.npy"),
        (["x" * 5000 + ".npy", *PLAIN], "File name too long"),
        (["data.npy", "--model", "tc", "--rank", "3,3"], "needs 3"),
        (["data.npy", "--model", "tc", "--rank", "90"], "lower the rank"),
        (["data.npy", "--model", "tc", "--rank", "2;2"], "rank"),
        (["data.npy", "--model", "btd", "--rank", "2"], "one rank per term"),
        (["data.npy", "--model", "cp"], "--model and --rank (or --error) are needed"),
        (["data.npy", "--init", "data.npy"], "not a model file"),
        (["data.npy", "--init", "absent.npz"], "absent.npz: no such file"),
        (["data.npy", *PLAIN, "--plot", "fit.txt"], ".png or .pdf or .svg"),
        (["data.npy", *PLAIN, "--plot", "nowhere/fit.png"], "no such folder nowhere"),
        (["date.npy", *PLAIN], "date.npy: no such file; did you mean data.npy?"),
        (["data.npy", *PLAIN, "--checkpoint", "nowhere/run"], "--checkpoint nowhere/run: no such folder nowhere"),
        (["data.npy", *PLAIN, "--checkpoint", "./data.npy"], "choose another name"),
        (["data.npy", *PLAIN, "--checkpoint", "fit.npz"], "choose another name"),
        (["data.npy", *PLAIN, "--checkpoint", "run", "--jobs", "2"], "drop one of them"),
    ],
)
def test_bad_arguments_end_in_one_line(folder: Path, capsys: Any, arguments: Any, message: str) -> None:
    assert main(["decompose", *arguments, "--out", "fit.npz"]) == 2
    assert message in complaint(capsys)
    assert not Path("fit.npz").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["decompose"],
        ["decompose", "data.npy", *PLAIN],
        ["decompose", "data.npy", "--out", "f.npz", "--model", "cp", "--rank", "0"],
        ["decompose", "data.npy", "--out", "f.npz", "--model", "cp", "--rank", "two"],
        ["decompose", "data.npy", "--out", "f.npz", "--model", "cp", "--rank", "2,,2"],
        ["decompose", "data.npy", "--out", "f.npz", "--model", "cp", "--rank", "-3"],
        ["decompose", "data.npy", "--out", "f.npz", "--model", "parafoc", "--rank", "2"],
        ["decompose", "data.npy", "--out", "f.npz", *PLAIN, "--solver", "sgd"],
        ["decompose", "data.npy", "--out", "f.npz", *PLAIN, "--starts", "0"],
        ["decompose", "data.npy", "--out", "f.npz", *PLAIN, "--seed", "-1"],
        ["decompose", "data.npy", "--out", "f.npz", *PLAIN, "--jobs", "0"],
        ["decompose", "data.npy", "--out", "f.npz", *PLAIN, "--jobs", "-2"],
        ["decompose", "data.npy", "--out", "f.npz", *PLAIN, "--jobs", "many"],
        ["decompose", "data.npy", "--out", "f.npz", *PLAIN, "--max-seconds", "nan"],
        ["decompose", "data.npy", "--out", "f.npz", *PLAIN, "--max-error", "inf"],
        ["decompose", "data.npy", "--out", "f.npz", *PLAIN, "--max-error", "0.1", "--penalty", "1"],
        ["show"],
        ["figures", "--quick", "--full"],
        ["figures", "--redraw", "--restart"],
        ["figures", "--seed", "-1"],
        ["figures", "--jobs", "0"],
        ["completion"],
        ["completion", "tcsh"],
    ],
)
def test_bad_options_end_in_one_line(folder: Path, capsys: Any, arguments: Any) -> None:
    assert main(arguments) == 2
    assert "--help" in complaint(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["decompse"], "no such choice: 'decompse'; did you mean decompose?"),
        (
            ["decompose", "t.npy", "tt", "--model", "cp", "--rank", "2", "--out", "m.npz"],
            "unrecognized arguments: tt; a kind of model is given as --model tt",
        ),
        (["zzz"], "no such choice: 'zzz'; there are decompose, show, rank-study, diagnose, reconstruct, export, "),
        (["decompose", "data.npy", "--out", "f.npz", "--model", "tuker", "--rank", "2"], "did you mean tucker?"),
        (["completion", "tcsh"], "there are bash, zsh, fish"),
    ],
    ids=["near", "positional", "far", "model", "shell"],
)
def test_mistyped_choices_get_a_hint(capsys: Any, arguments: Any, message: str) -> None:
    assert main(arguments) == 2
    assert message in complaint(capsys)


@pytest.mark.parametrize("out", ["fit.txt", "nowhere/fit.npz", "folder.npz"])
def test_bad_targets_are_found_before_the_work(
    folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    Path("folder.npz").mkdir()
    monkeypatch.setattr(command, "decompose", lambda *a, **k: pytest.fail("the work began"))
    assert main(["decompose", "data.npy", *PLAIN, "--out", out]) == 2
    assert out in complaint(capsys)


def test_the_input_is_never_overwritten(folder: Path, capsys: Any) -> None:
    np.savez("data.npz", TENSOR)
    before = Path("data.npz").read_bytes()
    assert main(["decompose", "data.npz", *PLAIN, "--out", "./data.npz"]) == 2
    assert "choose another name" in complaint(capsys)
    assert Path("data.npz").read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"PK\x03\x04" + bytes(40)],
    ids=["empty", "text", "cut"],
)
def test_show_refuses_other_files(folder: Path, capsys: Any, content: bytes) -> None:
    Path("bad.npz").write_bytes(content)
    assert main(["show", "bad.npz"]) == 2
    assert "bad.npz" in complaint(capsys)


def model_file(name: str, header: Any, blocks: Any = None) -> None:
    blocks = [np.ones((3, 2)), np.ones((4, 2))] if blocks is None else blocks
    text = header if isinstance(header, str) else json.dumps({"blocks": len(blocks), **header})
    np.savez(name, header=np.array(text), **{f"block_{k}": block for k, block in enumerate(blocks)})


@pytest.mark.parametrize(
    "header",
    [
        "not json",
        "[]",
        {},
        {"format": 1},
        {"format": 99, "model": "cp"},
        {"format": 1, "model": "hyper"},
        '{"format": 1',
    ],
)
def test_show_refuses_bad_headers(folder: Path, capsys: Any, header: Any) -> None:
    model_file("bad.npz", header)
    assert main(["show", "bad.npz"]) == 2
    assert "bad.npz" in complaint(capsys)


def test_show_refuses_blocks_that_are_no_model(folder: Path, capsys: Any) -> None:
    model_file("bad.npz", {"format": 1, "model": "cp", "state": {}}, [np.ones((3, 2)), np.ones((4, 5))])
    assert main(["show", "bad.npz"]) == 2
    complaint(capsys)
    model_file("bad.npz", {"format": 1, "model": "cp", "state": {}}, [np.ones((3, 2)), np.full((4, 2), np.nan)])
    assert main(["show", "bad.npz"]) == 2
    assert "NaN" in complaint(capsys)


@pytest.mark.parametrize("report", ["text", [["one"]], [1, 2], {}, None, [], [["a", "b", "c"]]])
def test_show_ignores_a_report_that_is_none(folder: Path, capsys: Any, report: Any) -> None:
    model_file("odd.npz", {"format": 1, "model": "cp", "state": {}, "extra": {"report": report}})
    assert main(["show", "odd.npz"]) == 0
    assert "CP(3 x 4" in capsys.readouterr().out


def test_a_report_cannot_move_the_cursor_or_colour_the_screen(folder: Path, capsys: Any) -> None:
    rows = [["[red]name", "\x1b[2J\x1b]0;title\x07[bold]value[/bold]\nsecond"], ["\x9b31m", "\u202e"]]
    model_file("odd.npz", {"format": 1, "model": "cp", "state": {}, "extra": {"report": rows}})
    assert main(["show", "odd.npz"]) == 0
    out = capsys.readouterr().out
    assert not set(out) & {"\x1b", "\x07", "\x9b", "\u202e"}
    assert "[bold]value[/bold] second" in out
    assert "[red]name" in out


def test_hostile_file_names_are_printed_harmlessly(folder: Path, capsys: Any) -> None:
    name = "\x1b[31m\n.npy"
    Path(name).write_bytes(b"nothing")
    assert main(["decompose", name, *PLAIN, "--out", "fit.npz"]) == 2
    assert "\x1b" not in complaint(capsys)
    assert one_line("a\tb\r\nc\x00") == "a b c?"


# -- endings --------------------------------------------------------------------------------


def test_a_bound_that_cannot_be_met_fails_and_saves(folder: Path, capsys: Any) -> None:
    assert main(["decompose", "data.npy", *PLAIN, "--max-error", "1e-9", "--out", "fit.npz"]) == 1
    assert "INFEASIBLE" in capsys.readouterr().out
    assert tc.load("fit.npz").model.shape == (6, 6, 6)


def interrupting(presses: int) -> Any:
    """`decompose`, with Ctrl-C pressed at the fourth iterate."""

    def run(*arguments: Any, callback: Any, **options: Any) -> Any:
        def press(iterate: Any) -> Any:
            if iterate.iteration == 3:
                for _ in range(presses):
                    signal.raise_signal(signal.SIGINT)
            return callback(iterate)

        return tc.decompose(*arguments, callback=press, **options)

    return run


@pytest.mark.parametrize("presses", [1, 2], ids=["once", "twice"])
def test_ctrl_c_saves_the_best_so_far(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, presses: int) -> None:
    monkeypatch.setattr(command, "decompose", interrupting(presses))
    before = signal.getsignal(signal.SIGINT)
    status = main(["decompose", "data.npy", *PLAIN, "--starts", "5", "--out", "fit.npz", "--json"])
    assert signal.getsignal(signal.SIGINT) is before
    record = json.loads(capsys.readouterr().out)
    assert (status, record["reason"]) == (130, "INTERRUPTED")
    saved = tc.load("fit.npz").model.full()
    assert np.linalg.norm(TENSOR - saved) / np.linalg.norm(TENSOR) == pytest.approx(record["error"], rel=1e-6)


def test_ctrl_c_before_anything_is_there(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "decompose", interrupted)
    assert main(["decompose", "data.npy", *PLAIN, "--out", "fit.npz"]) == 130
    assert "interrupted" in complaint(capsys)


def test_ctrl_c_stops_starts_in_other_processes(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = tc.decompose(TENSOR, "cp", 2, solver=tc.ALS(3), rng=0)

    def after_one_start(*arguments: Any, callback: Any, jobs: int, **options: Any) -> Any:
        assert (callback, jobs) == (None, 2)
        # What the library does: it returns the best of the starts that are finished.
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return finished

    def before_any(*arguments: Any, **options: Any) -> Any:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise RuntimeError("a worker process was stopped")

    arguments = ["decompose", "data.npy", *PLAIN, "--starts", "4", "--jobs", "2", "--out", "fit.npz"]
    monkeypatch.setattr(command, "decompose", before_any)
    assert main(arguments) == 130
    assert "interrupted" in complaint(capsys)
    assert not Path("fit.npz").exists()
    monkeypatch.setattr(command, "decompose", after_one_start)
    assert main([*arguments, "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["reason"] == "INTERRUPTED"
    assert_array_equal(tc.load("fit.npz").model.full(), finished.model.full())


@pytest.mark.parametrize(
    ("error", "message"),
    [(MemoryError("8 EiB"), "not enough memory: 8 EiB"), (RuntimeError("lost\nits way"), "RuntimeError: lost its way")],
)
def test_the_unexpected_takes_one_line_too(
    folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def failing(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(command, "decompose", failing)
    assert main(["decompose", "data.npy", *PLAIN, "--out", "fit.npz"]) == 1
    assert message in complaint(capsys)
    assert main(["--traceback", "decompose", "data.npy", *PLAIN, "--out", "fit.npz"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_write_that_fails_leaves_the_old_file(folder: Path) -> None:
    target = Path("fit.png")
    target.write_text("old")

    def broken(temporary: Path) -> None:
        temporary.write_text("half of it")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_file(target, broken)
    assert target.read_text() == "old"
    assert sorted(os.listdir(folder)) == ["data.npy", "fit.png"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_written_files_follow_the_umask(folder: Path) -> None:
    mask = os.umask(0o027)
    try:
        replace_file(Path("fit.svg"), lambda path: path.write_text("x"))
    finally:
        os.umask(mask)
    assert stat.S_IMODE(Path("fit.svg").stat().st_mode) == 0o640


# -- figures --------------------------------------------------------------------------------


SCRIPT = """
import json, os, signal, sys, time
if os.environ.get("TOLD") == "130":
    # A terminal sends Ctrl-C to both; what is measured is saved meanwhile.
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(0.3)
if "--die" in os.environ.get("TOLD", ""):
    os.kill(os.getpid(), signal.SIGKILL)
print(json.dumps({"argv": sys.argv[1:], "cwd": os.getcwd(), "path": os.environ["PYTHONPATH"]}))
sys.exit(int(os.environ.get("TOLD", "0")))
"""


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose scripts tell what they were asked."""
    root = tmp_path / "checkout"
    for name, text in (("paper_figures/__init__.py", ""), ("paper_figures/__main__.py", SCRIPT)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(figures, "checkout", lambda: root)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    return root


@pytest.mark.parametrize(
    ("given", "handed_over"),
    [
        ([], ["--list"]),
        (["--json"], ["--list", "--json"]),
        (["border", "--list"], ["--list"]),
        (["--quick"], ["--quick", "--seed", "0", "--"]),
        (["a", "b", "--full", "--seed", "3", "--json"], ["--full", "--json", "--seed", "3", "--", "a", "b"]),
        (["a", "--redraw", "--jobs", "2"], ["--redraw", "--seed", "0", "--jobs", "2", "--", "a"]),
        (["--restart"], ["--restart", "--seed", "0", "--"]),
    ],
    ids=["nothing", "json", "list", "quick", "full", "redraw", "restart"],
)
def test_figures_hands_over(scripts: Path, capfd: Any, given: Any, handed_over: Any) -> None:
    assert main(["figures", *given]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["argv"] == handed_over
    assert told["cwd"] == told["path"] == str(scripts)


def test_folders_are_those_of_the_caller(scripts: Path, capfd: Any) -> None:
    assert main(["figures", "a", "--out", "here", "--images", "pictures"]) == 0
    told = json.loads(capfd.readouterr().out)["argv"]
    assert told[told.index("--out") + 1] == str(scripts.parent / "here")
    assert told[told.index("--images") + 1] == str(scripts.parent / "pictures")


@pytest.mark.parametrize(("code", "status"), [("0", 0), ("2", 2), ("130", 130), ("5", 1), ("--die", 1)])
def test_the_exit_status_of_the_scripts_is_kept(
    scripts: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch, code: str, status: int
) -> None:
    monkeypatch.setenv("TOLD", code)
    assert main(["figures", "a"]) == status
    capfd.readouterr()


def test_figures_need_a_checkout(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figures, "__file__", str(tmp_path / "site-packages/tensorchain/cli/figures.py"))
    assert figures.checkout() is None
    assert main(["figures"]) == 2
    line = complaint(capsys)
    assert "source repository" in line
    assert tc.__version__ in line
    # The current folder will do; before it comes the folder around the package.
    for root in (tmp_path, tmp_path / "other"):
        for name in ("paper_figures/__main__.py", "tensorchain/_version.py"):
            (root / name).parent.mkdir(parents=True)
            (root / name).touch()
    assert figures.checkout() == tmp_path
    monkeypatch.setattr(figures, "__file__", str(tmp_path / "other/tensorchain/cli/figures.py"))
    assert figures.checkout() == tmp_path / "other"


# -- completion -----------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_option_and_choice(shell: str, capsys: Any) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    own, commands = described(make_parser())
    assert len(commands) == len(COMMANDS)
    for command_ in (own, *commands):
        assert command_.name in script
        for word in command_.words:
            for flag in word.flags:
                shown = flag if shell != "fish" else f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
                assert shown in script
            assert " ".join(word.choices) in script


def completed(script: str, *words: str) -> list[str]:
    """What bash offers for the last of `words`."""
    listed = " ".join(map(shlex.quote, words))
    ask = f"COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; _tensorchain; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    told = subprocess.run(["bash", "-uc", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
    assert told.stderr == ""
    return told.stdout.split()


def test_bash_completes(capsys: Any) -> None:
    main(["completion", "bash"])
    script = capsys.readouterr().out
    names = [command.__name__.rpartition(".")[2].replace("_", "-") for command in COMMANDS]
    assert completed(script, "tensorchain", "") == names
    assert "--ranks" in completed(script, "tensorchain", "rank-study", "--r")
    assert completed(script, "tensorchain", "--ver") == ["--version"]
    assert completed(script, "tensorchain", "decompose", "--max-s") == ["--max-sensitivity", "--max-seconds"]
    assert {"tc", "tt", "tucker"} <= set(completed(script, "tensorchain", "decompose", "--model", "t"))
    assert completed(script, "tensorchain", "--traceback", "decompose", "x", "--solver", "") == [
        "auto",
        "path",
        "als",
        "lm",
    ]
    assert completed(script, "tensorchain", "completion", "") == ["bash", "zsh", "fish"]
    # Nothing of ours: bash offers file names.
    assert completed(script, "tensorchain", "decompose", "--out", "") == []
    assert completed(script, "tensorchain", "show", "f") == []


def test_help_with_quotes_and_brackets_survives_the_shells() -> None:
    hard = Word(("--odd",), "it's [a: b] \\ $x", (), "", False)
    own = Command("tensorchain", "", ())
    one = Command("show", "it's $y", (hard,))
    assert r"'(--odd)--odd[it'\''s \[a\: b\] \\ $x]'" in SHELLS["zsh"](own, [one])
    assert r"-d 'it\'s [a: b] \\ $x'" in SHELLS["fish"](own, [one])
    assert completed(SHELLS["bash"](own, [one]), "tensorchain", "show", "--") == ["--odd"]


# -- pieces ---------------------------------------------------------------------------------


def test_ranks() -> None:
    assert parse_rank("7") == 7
    assert parse_rank(" 2, 3 ") == (2, 3)
    assert parse_rank("2,2;") == [(2, 2)]
    assert parse_rank("2,2; 3,1") == [(2, 2), (3, 1)]


def test_progress_shows_the_figures_of_the_tensor_as_given() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80)
    model = tc.CP([np.ones((2, 1))] * 3)
    with FitProgress(norm=8.0, starts=2, console=console) as progress:
        assert not progress(tc.Iterate(model, error=0.25, sensitivity=3.0, iteration=0))
        progress._bar.refresh()
    # Three blocks: SS of 8 T is 8^(4/3) times that of T.
    assert "sensitivity 4.8e+01" in stream.getvalue()
    assert "start 1/2" in stream.getvalue()
    assert "error 2.50e-01" in stream.getvalue()


def test_the_bar_is_full_when_the_time_is_up() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    model = tc.CP([np.ones((2, 1))] * 2)
    with FitProgress(norm=1.0, max_seconds=1e-9, console=console) as progress:
        progress(tc.Iterate(model, error=0.5, sensitivity=3.0))
    (task,) = progress._bar.tasks
    assert task.completed == task.total == 1e-9


def test_progress_is_silent_elsewhere() -> None:
    stream = io.StringIO()
    with FitProgress(norm=1.0, console=Console(file=stream)) as progress:
        progress(tc.Iterate(tc.CP([np.ones((2, 1))] * 2), error=0.5, sensitivity=3.0))
    assert stream.getvalue().strip() == ""


def test_progress_of_other_processes_shows_the_time_alone() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80)
    with FitProgress(norm=1.0, starts=4, follows=False, console=console) as progress:
        progress._bar.refresh()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert progress.interrupted
    assert "fitting, 4 starts in parallel" in stream.getvalue()
