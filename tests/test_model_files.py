"""Model files: what is written is read back, and nothing that a stranger writes is trusted.

A file is data: no pickle is opened, and anything damaged, cut or hostile ends in one ValueError that names it.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tensorchain as tc
from tensorchain.models import Model
from tests.cases import THREE, Case


def npz(path: Path, header: Any, *blocks: Any) -> Path:
    """A file in the format of `Model.save`, with any content."""
    text = header if isinstance(header, str) else json.dumps(header)
    np.savez(path, header=np.array(text), **{f"block_{k}": block for k, block in enumerate(blocks)})
    return path


def header_of(model: str, state: Any = None, **more: Any) -> dict[str, Any]:
    return {"format": 1, "model": model, "state": {} if state is None else state, "extra": {}, **more}


FACTORS = [np.ones((3, 2)), np.ones((4, 2))]

HOSTILE = {
    "another format": (header_of("cp", format=99), FACTORS),
    "an unknown model": (header_of("nonsense"), FACTORS),
    "a model that is no name": (header_of(["cp"]), FACTORS),  # type: ignore[arg-type]
    "no model": ({"format": 1}, FACTORS),
    "a header that is a list": ([1, 2], FACTORS),
    "a header that is no JSON": ("not json", FACTORS),
    "a deep header": ("[" * 100_000, FACTORS),
    "no blocks": (header_of("cp"), []),
    "blocks that do not fit": (header_of("cp"), [np.ones((3, 2)), np.ones((4, 3))]),
    "blocks of another order": (header_of("tc"), FACTORS),
    "NaN": (header_of("cp"), [np.full((3, 2), np.nan), np.ones((4, 2))]),
    "text": (header_of("cp"), [np.full((3, 2), "a"), np.ones((4, 2))]),
    "too many blocks": (header_of("cp"), [np.ones((1, 1))] * 12),
    "a BTD without ranks": (header_of("btd"), [np.ones((1, 1)), *FACTORS]),
    "ranks that are no list": (header_of("btd", {"ranks": 3}), [np.ones((1, 4)), *FACTORS]),
    "ranks that are text": (header_of("btd", {"ranks": ["ab"]}), [np.ones((1, 4)), *FACTORS]),
    "negative ranks": (header_of("btd", {"ranks": [[-2, 2]]}), [np.ones((1, 4)), *FACTORS]),
    "infinite ranks": (header_of("btd", {"ranks": [[float("inf"), 2]]}), [np.ones((1, 4)), *FACTORS]),
    "ranks beyond the blocks": (header_of("btd", {"ranks": [[2, 2], [2, 2]]}), [np.ones((1, 4)), *FACTORS]),
    "ranks of too high an order": (header_of("btd", {"ranks": [[1] * 40]}), [np.ones((1, 1)), *FACTORS]),
    "a state that is a list": (header_of("btd", [1]), [np.ones((1, 4)), *FACTORS]),
    "a Tucker model of a core alone": (header_of("tucker"), [np.ones((2, 2))]),
}


class TestHostileFiles:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_it_is_refused(self, name: str, tmp_path: Path) -> None:
        header, blocks = HOSTILE[name]
        with pytest.raises(ValueError, match=r".+"):
            tc.load(npz(tmp_path / "file.npz", header, *blocks))

    def test_a_pickle_is_never_opened(self, tmp_path: Path) -> None:
        class Bomb:
            def __reduce__(self) -> Any:
                return (Path.touch, (tmp_path / "exploded",))

        (tmp_path / "bare.npz").write_bytes(pickle.dumps(Bomb()))
        np.savez(tmp_path / "block.npz", header=np.array(json.dumps(header_of("cp"))), block_0=np.array([Bomb()]))
        np.savez(tmp_path / "header.npz", header=np.array(Bomb(), dtype=object), block_0=np.ones((2, 2)))
        (tmp_path / "exploded").unlink(missing_ok=True)
        for name in ("bare", "block", "header"):
            with pytest.raises(ValueError, match=name):
                tc.load(tmp_path / f"{name}.npz")
        assert not (tmp_path / "exploded").exists()

    def test_files_of_another_kind(self, tmp_path: Path) -> None:
        np.save(tmp_path / "array.npy", np.ones(3))
        (tmp_path / "empty.npz").write_bytes(b"")
        (tmp_path / "text.npz").write_text("hello")
        with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
            archive.writestr("header.npy", b"\x93NUMPY garbage")
        with zipfile.ZipFile(tmp_path / "names.npz", "w") as archive:
            archive.writestr("block_x.npy", b"")
        for name in ("array.npy", "empty.npz", "text.npz", "zip.npz", "names.npz"):
            with pytest.raises(ValueError, match=name):
                tc.load(tmp_path / name)
        with pytest.raises(ValueError, match="not a model file"):
            tc.load(tmp_path)
        with pytest.raises(FileNotFoundError):
            tc.load(tmp_path / "nothing.npz")

    def test_a_lost_block(self, tmp_path: Path) -> None:
        # What is left is a chain as well: only the file can tell that it is not the one that was saved.
        tc.TensorChain.random((3, 4, 2), 2, 0).save(tmp_path / "whole.npz")
        with np.load(tmp_path / "whole.npz") as archive:
            arrays = {name: archive[name] for name in archive.files}
        last = arrays.pop("block_2")
        np.savez(tmp_path / "lost.npz", **arrays)
        np.savez(tmp_path / "renamed.npz", clock_2=last, **arrays)
        for name in ("lost", "renamed"):
            with pytest.raises(ValueError, match=name):
                tc.load(tmp_path / f"{name}.npz")

    def test_a_shape_beyond_all_memory(self, tmp_path: Path) -> None:
        # The header of the array claims 8e18 bytes; the data are not there.
        claim = io.BytesIO()
        np.lib.format.write_array_header_1_0(claim, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**9)})
        header = io.BytesIO()
        np.save(header, np.array(json.dumps(header_of("cp"))))
        with zipfile.ZipFile(tmp_path / "vast.npz", "w") as archive:
            archive.writestr("header.npy", header.getvalue())
            archive.writestr("block_0.npy", claim.getvalue())
        with pytest.raises(ValueError, match="vast"):
            tc.load(tmp_path / "vast.npz")

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
    @given(data=st.data())
    def test_truncated_and_corrupt_files(self, data: st.DataObject, tmp_path: Path) -> None:
        model = tc.TensorChain.random((3, 4, 2), 2, 0)
        model.save(tmp_path / "whole.npz")
        content = (tmp_path / "whole.npz").read_bytes()
        cut = data.draw(st.integers(0, len(content) - 1), label="cut")
        (tmp_path / "cut.npz").write_bytes(content[:cut])
        with pytest.raises(ValueError, match="cut"):
            tc.load(tmp_path / "cut.npz")
        damaged = bytearray(content)
        position = data.draw(st.integers(0, len(content) - 1), label="position")
        damaged[position] ^= data.draw(st.integers(1, 255), label="flip")
        (tmp_path / "damaged.npz").write_bytes(bytes(damaged))
        try:
            again = tc.load(tmp_path / "damaged.npz")
        except ValueError:
            return
        # A byte that no reader looks at (a time stamp): the model must be whole.
        assert np.array_equal(again.full(), model.full())


class TestSave:
    def test_a_failed_save_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "model.npz"
        tc.CP.random((3, 4), 2, 0).save(path)
        before = path.read_bytes()

        def full_disk(*arguments: object, **keywords: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "savez", full_disk)
        with pytest.raises(OSError, match=r"No space.*model\.npz"):
            tc.CP.random((3, 4), 2, 1).save(path)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["model.npz"]

    def test_permissions_are_those_of_any_new_file(self, tmp_path: Path) -> None:
        (tmp_path / "plain").touch()
        tc.CP.random((3, 4), 2, 0).save(tmp_path / "model.npz")
        modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "model.npz")]
        assert modes[0] == modes[1]

    def test_the_path_is_taken_literally(self, tmp_path: Path) -> None:
        model = tc.CP.random((3, 4), 2, 0)
        model.save(tmp_path / "no suffix")
        model.save(str(tmp_path / "text.npz"))
        assert sorted(os.listdir(tmp_path)) == ["no suffix", "text.npz"]
        assert np.array_equal(tc.load(tmp_path / "no suffix").full(), model.full())
        with pytest.raises(FileNotFoundError):
            model.save(tmp_path / "nowhere" / "model.npz")

    def test_extra_figures_must_be_plain(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError):
            tc.CP.random((3, 4), 2, 0).save(tmp_path / "model.npz", extra=object())
        assert not os.listdir(tmp_path)

    def test_a_model_without_a_name_is_not_saved(self, tmp_path: Path) -> None:
        class Nameless(Model):
            pass

        model = Nameless.from_matrices(tc.CP.wiring((3, 4), 2), tc.CP.random((3, 4), 2, 0).matrices)
        with pytest.raises((TypeError, ValueError), match="name"):
            model.save(tmp_path / "model.npz")

    @pytest.mark.parametrize("case", THREE, ids=str)
    def test_a_fit_is_read_as_its_model(self, case: Case, tmp_path: Path) -> None:
        fit = tc.decompose(case.tensor(), case.kind, rank=case.rank, solver=tc.ALS(max_iter=3), rng=0)
        fit.save(tmp_path / "fit.npz")
        assert np.array_equal(tc.load(tmp_path / "fit.npz").model.full(), fit.model.full())
