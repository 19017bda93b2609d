"""A fit that is saved comes back whole; files that claim more than they hold are refused before they are read."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.models import load as load_model
from tensorchain.models.archives import read_archive, write_archive
from tensorchain.models.atomic import replacing
from tests.cases import THREE, relative

CASES = [*THREE, THREE[0].as_type("complex128"), THREE[3].as_type("float32")]


def fit_of(case: Any, **options: Any) -> Any:
    return tc.decompose(case.tensor(), case.kind, case.rank, solver=tc.ALS(max_iter=4), rng=0, **options)


@pytest.mark.parametrize("ending", [".npz", ".safetensors", ""])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_fit_comes_back(case: Any, ending: str, tmp_path: Path) -> None:
    fit = fit_of(case, starts=3, jobs=1)
    path = tmp_path / f"fit{ending}"
    fit.save(path)
    again = tc.load(path)
    assert type(again) is tc.Fit
    for name in ("error", "sensitivity", "reason", "iterations", "seconds", "solver", "gap", "objective"):
        assert getattr(again, name) == getattr(fit, name)
    assert type(again.model) is type(fit.model)
    assert again.model.network == fit.model.network
    assert relative(again.model.full(), fit.model.full()) < 1e-15
    for name in ("error", "sensitivity", "penalty", "seconds"):
        assert np.array_equal(getattr(again.history, name), getattr(fit.history, name))
    assert [(s.error, s.reason, s.iterations) for s in again.starts] == [
        (s.error, s.reason, s.iterations) for s in fit.starts
    ]
    assert all(relative(a.model.full(), b.model.full()) < 1e-15 for a, b in zip(again.starts, fit.starts, strict=True))
    assert repr(again) == repr(fit)
    assert load_model(path).n_parameters == fit.model.n_parameters


def test_names_come_back(tmp_path: Path) -> None:
    table = {"i": ["a", "b"] * 3, "j": [1.5, 1.5, 2.5, 2.5, 3.5, 3.5], "v": [1.0, 2.0, 2.0, 4.0, 3.0, 6.0]}
    fit = tc.decompose(tc.Observed.from_frame(table, ["i", "j"], "v"), "cp", 1, rng=0)
    fit.save(tmp_path / "fit.npz")
    again = tc.load(tmp_path / "fit.npz")
    assert again.dimension_names == ("i", "j")
    assert again.labels == fit.labels == (("a", "b"), (1.5, 2.5, 3.5))


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    model = tc.CP.random((3, 4), 2, 0)
    model.save(tmp_path / "model.npz", report=[["error", "0.5"]])
    assert type(tc.load(tmp_path / "model.npz")) is tc.CP


def damaged(path: Path, change: Any) -> None:
    header, arrays = read_archive(path)
    change(header, arrays)
    write_archive(path, json.dumps(header), arrays)


@pytest.mark.parametrize(
    "change",
    [
        lambda h, a: h["fit"].pop("error"),
        lambda h, a: h["fit"].update(reason="WELL"),
        lambda h, a: h["fit"].update(iterations=1.5),
        lambda h, a: h["fit"].update(dimension_names=["a"]),
        lambda h, a: h["fit"].update(starts=[{}]),
        lambda h, a: h.update(fit=[1]),
        lambda h, a: a.update(history=np.ones((3, 2))),
        lambda h, a: a.update(history=np.array("x")),
        lambda h, a: a.update(start_1_block_0=np.ones((2, 2))),
        lambda h, a: a["start_0_block_0"].__setitem__((0, 0), np.nan),
        lambda h, a: h.update(arrays=3),
        lambda h, a: h["arrays"].append("block_0"),
    ],
)
def test_a_damaged_fit_is_a_value_error(change: Any, tmp_path: Path) -> None:
    fit_of(THREE[0], starts=2, jobs=1).save(tmp_path / "fit.npz")
    damaged(tmp_path / "fit.npz", change)
    with pytest.raises(ValueError, match=r"fit\.npz"):
        tc.load(tmp_path / "fit.npz")


def npy_header(shape: str, dtype: str = "<f8") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (10 + len(text)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


class TestBombs:
    def archive(self, path: Path, member: bytes, **options: Any) -> Path:
        header = io.BytesIO()
        np.save(header, np.array(json.dumps({"format": 1, "model": "cp", "blocks": 1, "state": {}, "extra": {}})))
        with zipfile.ZipFile(path, "w", **options) as archive:
            archive.writestr("header.npy", header.getvalue())
            archive.writestr("block_0.npy", member)
        return path

    def test_compressed_members(self, tmp_path: Path) -> None:
        content = npy_header("(1 << 20,)".replace("1 << 20", "1048576")) + bytes(8 << 20)
        path = self.archive(tmp_path / "bomb.npz", content, compression=zipfile.ZIP_DEFLATED)
        assert path.stat().st_size < 100_000
        with pytest.raises(ValueError, match=r"bomb\.npz.*compressed"):
            tc.load(path)

    @pytest.mark.parametrize("shape", ["(1000000000, 1000000000)", "(9223372036854775807,)", "(-1, 3)", "(3,)", "()"])
    def test_shapes_that_promise_more(self, shape: str, tmp_path: Path) -> None:
        path = self.archive(tmp_path / "vast.npz", npy_header(shape) + bytes(16))
        with pytest.raises(ValueError, match=r"vast\.npz.*does not fit"):
            tc.load(path)

    def test_members_that_overlap(self, tmp_path: Path) -> None:
        path = self.archive(tmp_path / "many.npz", npy_header("(100000,)") + bytes(800_000))
        content = bytearray(path.read_bytes())
        # A directory whose entries all point to the one member.
        begin = content.index(b"PK\x01\x02")
        end = content.index(b"PK\x05\x06")
        entries = bytes(content[begin:end])
        last = entries[entries.rindex(b"PK\x01\x02") :]
        directory = entries + last * 50
        tail = bytearray(content[end:])
        tail[8:12] = (52).to_bytes(2, "little") * 2
        tail[12:16] = len(directory).to_bytes(4, "little")
        path.write_bytes(bytes(content[:begin]) + directory + bytes(tail))
        with pytest.raises(ValueError, match=r"many\.npz"):
            tc.load(path)

    def test_objects(self, tmp_path: Path) -> None:
        path = self.archive(tmp_path / "evil.npz", npy_header("(2,)", "|O") + bytes(16))
        with pytest.raises(ValueError, match="Python objects"):
            tc.load(path)

    def test_checkpoints(self, tmp_path: Path) -> None:
        path = self.archive(tmp_path / "run.npz", bytes(1000), compression=zipfile.ZIP_DEFLATED)
        with pytest.raises(ValueError, match=r"run\.npz.*compressed.*delete it"):
            tc.decompose(np.eye(3), "cp", 1, checkpoint=path)
        tc.decompose(np.eye(3), "cp", 1, rng=0, checkpoint=tmp_path / "whole.npz")
        with pytest.raises(ValueError, match="checkpoint of a run"):
            tc.load(tmp_path / "whole.npz")


class TestWriting:
    def test_a_link_is_written_through(self, tmp_path: Path) -> None:
        (tmp_path / "far").mkdir()
        link = tmp_path / "fit.npz"
        link.symlink_to(tmp_path / "far" / "real.npz")
        for size in (3, 4):
            tc.CP.random((size, 4), 2, 0).save(link)
            assert link.is_symlink()
            assert tc.load(tmp_path / "far" / "real.npz").shape == (size, 4)
        assert [path.name for path in (tmp_path / "far").iterdir()] == ["real.npz"]

    def test_long_names(self, tmp_path: Path) -> None:
        path = tmp_path / ("n" * 246 + ".npz")
        tc.CP.random((3, 4), 2, 0).save(path)
        assert tc.load(path).shape == (3, 4)
        with pytest.raises(OSError, match="too long"):
            tc.CP.random((3, 4), 2, 0).save(tmp_path / ("n" * 260 + ".npz"))

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        for path in (tmp_path, Path("/dev/null")):
            with pytest.raises(ValueError, match="give the name of a file"):
                tc.CP.random((3, 4), 2, 0).save(path)

    @pytest.mark.parametrize("name", ["model.npz", "model.safetensors"])
    def test_a_folder_that_is_not_there_is_named(self, name: str, tmp_path: Path) -> None:
        missing = tmp_path / "results"
        with pytest.raises(FileNotFoundError, match="no such folder") as caught:
            tc.CP.random((3, 4), 2, 0).save(missing / name)
        assert caught.value.filename == str(missing)

    def test_rights_stay(self, tmp_path: Path) -> None:
        path = tmp_path / "fit.npz"
        path.touch()
        path.chmod(0o640)
        tc.CP.random((3, 4), 2, 0).save(path)
        assert path.stat().st_mode & 0o777 == 0o640

    def test_what_a_killed_process_left_is_removed(self, tmp_path: Path) -> None:
        code = (
            "import os, sys; from tensorchain.models.atomic import replacing\n"
            "with replacing(sys.argv[1]) as temporary:\n    temporary.write_text('half'); os._exit(9)"
        )
        path = tmp_path / "fit.npz"
        subprocess.run([sys.executable, "-c", code, str(path)], check=False)
        assert len(list(tmp_path.iterdir())) == 1
        with replacing(path) as own:
            # One that is still at work is left alone, whatever else it writes.
            with replacing(path) as other:
                assert {entry.name for entry in tmp_path.iterdir()} == {own.name, other.name}
            assert own.exists()
        assert [entry.name for entry in tmp_path.iterdir()] == ["fit.npz"]

    def test_an_error_leaves_the_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "fit.npz"
        path.write_text("old")
        with contextlib.suppress(KeyboardInterrupt), replacing(path) as temporary:
            temporary.write_text("new")
            raise KeyboardInterrupt
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["fit.npz"]
