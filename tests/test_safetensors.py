"""Models in .safetensors files: read back exactly, by others too, and refused when they are not what they claim."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file, save_file

import tensorchain as tc
from tensorchain.models.archives import read_archive
from tensorchain.models.files import read_model, write_model
from tests.cases import ALL, THREE, Case


def header_of(model: Any, **more: Any) -> str:
    return json.dumps(
        {"format": 1, "model": model.name, "blocks": len(model.blocks), "state": model._state(), "extra": {}, **more}
    )


def write(path: Path, model: Any) -> Path:
    write_model(path, header_of(model), {f"block_{k}": block for k, block in enumerate(model.blocks)})
    return path


def read(path: Path) -> Any:
    header, blocks, _ = read_model(path)
    return tc.Model.registry[header["model"]].from_state(blocks, header["state"])


@pytest.mark.parametrize("case", ALL, ids=str)
def test_it_comes_back_exactly(case: Case, tmp_path: Path) -> None:
    model = case.model()
    again = read(write(tmp_path / "model.safetensors", model))
    assert type(again) is type(model)
    assert again.dtype == model.dtype
    for one, other in zip(model.blocks, again.blocks, strict=True):
        assert_array_equal(one, other)


def test_others_read_the_blocks(tmp_path: Path) -> None:
    model = tc.Tucker.random((3, 4, 5), (2, 3, 2), 0)
    arrays = load_file(write(tmp_path / "model.safetensors", model))
    assert sorted(arrays) == ["block_0", "block_1", "block_2", "block_3"]
    assert_array_equal(arrays["block_0"], model.core)


def test_complex_blocks_are_pairs_of_real_numbers(tmp_path: Path) -> None:
    model = tc.CP.random((3, 4), 2, 0, dtype=np.complex128)
    arrays = load_file(write(tmp_path / "model.safetensors", model))
    assert arrays["block_1"].shape == (4, 2, 2)
    assert_array_equal(arrays["block_1"][..., 0] + 1j * arrays["block_1"][..., 1], model.factors[1])


def test_the_content_tells_the_format(tmp_path: Path) -> None:
    model = THREE[3].model()
    write(tmp_path / "model.safetensors", model).rename(tmp_path / "safe.bin")
    write(tmp_path / "model.npz", model).rename(tmp_path / "zip.safetensors")
    for name in ("safe.bin", "zip.safetensors"):
        assert_array_equal(read(tmp_path / name).full(), model.full())
    header, _ = read_archive(tmp_path / "zip.safetensors")
    assert header["model"] == "tc"


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "model.safetensors", THREE[0].model())
    before = path.read_bytes()

    def full_disk(*arguments: object, **keywords: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        write(path, THREE[3].model())
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


def test_it_says_which_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "model.safetensors", THREE[0].model())
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"pip install tensorchain\[interop\]"):
        read(path)
    with pytest.raises(ImportError, match=r"pip install tensorchain\[interop\]"):
        write(path, THREE[0].model())


BLOCKS = {"block_0": np.ones((3, 2)), "block_1": np.ones((4, 2))}
GOOD = header_of(tc.CP([np.ones((3, 2)), np.ones((4, 2))]))

HOSTILE = {
    "no metadata": (BLOCKS, None),
    "metadata of another program": (BLOCKS, {"format": "pt"}),
    "a header that is no JSON": (BLOCKS, {"tensorchain": "not json"}),
    "a deep header": (BLOCKS, {"tensorchain": "[" * 100_000}),
    "a header that is a list": (BLOCKS, {"tensorchain": "[1]"}),
    "another format": (BLOCKS, {"tensorchain": GOOD.replace('"format": 1', '"format": 9')}),
    "a lost block": ({"block_0": BLOCKS["block_0"]}, {"tensorchain": GOOD}),
    "a block of another name": ({**BLOCKS, "weights": np.ones(2)}, {"tensorchain": GOOD}),
    "pairs that are none": (BLOCKS, {"tensorchain": GOOD, "complex": '["block_0", "block_7"]'}),
    "pairs of three": ({**BLOCKS, "block_0": np.ones((3, 3))}, {"tensorchain": GOOD, "complex": '["block_0"]'}),
    "pairs that are no list": (BLOCKS, {"tensorchain": GOOD, "complex": "3"}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(name: str, tmp_path: Path) -> None:
    arrays, metadata = HOSTILE[name]
    save_file(arrays, tmp_path / "file.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=r"file\.safetensors"):
        read_model(tmp_path / "file.safetensors")


def raw(head: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(head) if length is None else length) + head + data


CLAIM = b'{"block_0":{"dtype":"F64","shape":[1000000000,1000000000],"data_offsets":[0,8000000000000000000]}}'


@pytest.mark.parametrize(
    "content",
    {
        "empty": b"",
        "text": b"hello, this is no model",
        "a length beyond the file": raw(b"{}", 2**63),
        "a shape beyond all memory": raw(CLAIM),
        "an unknown type": raw(b'{"block_0":{"dtype":"F128","shape":[1],"data_offsets":[0,16]}}', data=bytes(16)),
        "half precision of another kind": raw(
            b'{"__metadata__":{"tensorchain":"{}"},"block_0":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}',
            data=bytes(2),
        ),
    }.values(),
    ids=["empty", "text", "length", "vast", "unknown type", "bfloat16"],
)
def test_a_made_up_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "made.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"made\.safetensors"):
        read_model(tmp_path / "made.safetensors")


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_model(tmp_path / "nothing.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ValueError, match=r"folder\.safetensors"):
        read_model(tmp_path / "folder.safetensors")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_truncated_files_are_refused_and_corrupt_ones_never_crash(data: st.DataObject, tmp_path: Path) -> None:
    content = write(tmp_path / "whole.safetensors", tc.TensorChain.random((3, 4, 2), 2, 0)).read_bytes()
    cut = data.draw(st.integers(0, len(content) - 1), label="cut")
    (tmp_path / "cut.safetensors").write_bytes(content[:cut])
    with pytest.raises(ValueError, match=r"cut\.safetensors"):
        read_model(tmp_path / "cut.safetensors")
    damaged = bytearray(content)
    damaged[data.draw(st.integers(0, len(content) - 1), label="position")] ^= data.draw(
        st.integers(1, 255), label="flip"
    )
    (tmp_path / "damaged.safetensors").write_bytes(bytes(damaged))
    try:
        _, blocks, _ = read_model(tmp_path / "damaged.safetensors")
    except ValueError:
        return
    # A flipped bit of a number cannot be told from another number: the format has no checksum.
    assert len(blocks) == 3
