"""Damaged files: each is read as what it was, or ends in a ValueError that names it; nothing in it is executed."""

from __future__ import annotations

import io
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tensorchain as tc

MARK = "run-by-a-pickle"


class Evil:
    """Leaves a mark where it is unpickled."""

    def __reduce__(self) -> Any:
        return open, (MARK, "w")


def mutant(raw: bytes, rng: np.random.Generator) -> bytes:
    """The bytes of an archive, changed in one of many ways."""
    way = int(rng.integers(14))
    content = bytearray(raw)
    if way == 0:
        return raw[: int(rng.integers(len(raw)))]
    if way <= 3:
        for _ in range(int(rng.choice([1, 1, 3, 20]))):
            content[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
        return bytes(content)
    if way == 4:
        start = int(rng.integers(len(raw)))
        return raw[:start] + rng.bytes(int(rng.integers(1, 50))) + raw[start:]
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = str(rng.choice([name for name in members if name != "header.npy"]))
    header = json.loads(str(np.load(io.BytesIO(members["header.npy"]))[()]))
    if way == 5:
        members.pop(str(rng.choice(list(members))))
    elif way == 6:
        members[name] = _npy(np.array([Evil()], dtype=object), pickled=True)
    elif way == 7:
        members[str(rng.choice(list(members)))] = pickle.dumps(Evil())
    elif way == 8:
        array = np.load(io.BytesIO(members[name]))
        array = array.astype(str(rng.choice(["S5", "U5", "f2", "M8[s]", "?", "G"])))
        members[name] = _npy(array)
    elif way == 9:
        array = np.load(io.BytesIO(members[name]))
        members[name] = _npy([array[..., None], array.ravel(), array[:0], array.T, np.array(3.0)][int(rng.integers(5))])
    elif way == 10:
        shape = str(rng.choice(["(1000000000, 1000000000)", "(-1, 3)", "(0, 3)", "None", "(4.5,)", "'x'"]))
        members[name] = members[name].replace(b"'shape': (", b"'shape': " + shape.encode() + b"#(", 1)
    elif way == 11:
        members["header.npy"] = _npy(np.array(json.dumps(_edited(header, rng), default=str)))
    elif way == 12:
        hostile = ["[" * 100_000, '{"a":' * 50_000, "null", "[]", "", "NaN", '"x"', "9" * 5000]
        members["header.npy"] = _npy(np.array(str(rng.choice(hostile))))
    else:
        members[str(rng.choice(["../../escape.npy", "block_99.npy", "x" * 300 + ".npy", "header"]))] = members[name]
    stream = io.BytesIO()
    compression = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for key, value in members.items():
            archive.writestr(key, value)
    return stream.getvalue()


def tensor_mutant(raw: bytes, rng: np.random.Generator) -> bytes:
    """The bytes of a .safetensors file, changed."""
    length = struct.unpack("<Q", raw[:8])[0]
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    way = int(rng.integers(6))
    if way == 0:
        return raw[: int(rng.integers(len(raw)))]
    if way <= 2:
        content = bytearray(raw)
        content[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
        return bytes(content)
    if way == 3:
        return struct.pack("<Q", int(rng.choice([0, 1, 2**40, 2**62, len(raw) * 2]))) + raw[8:]
    if way == 4:
        header["__metadata__"]["tensorchain"] = json.dumps(
            _edited(json.loads(header["__metadata__"]["tensorchain"]), rng)
        )
    else:
        name = str(rng.choice([name for name in header if name != "__metadata__"]))
        header[name] = _edited(header[name], rng)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def _edited(value: Any, rng: np.random.Generator) -> Any:
    """JSON with one part of it replaced."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = str(rng.choice(list(value)))
        return {**value, key: _edited(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = int(rng.integers(len(value)))
        return [*value[:place], _edited(value[place], rng), *value[place + 1 :]]
    choices = [None, -1, 0, 2, 10**30, 1.5, "x", [], {}, True, [[10**12, 1]], "cp", float("nan")]
    return choices[int(rng.integers(len(choices)))]


def _npy(array: Any, pickled: bool = False) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), allow_pickle=pickled)
    return stream.getvalue()


def outcome(read: Callable[[Path], Any], path: Path) -> str:
    """Empty where the file was refused as it should be, or read as something whole; else what went wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = read(path)
    except ValueError as error:
        return "" if len(str(error)) > 20 else f"a short message: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    model = found if isinstance(found, tc.Model) else found.model
    if not all(np.all(np.isfinite(block)) for block in model.blocks):
        return "a model that is not finite"
    with np.errstate(all="ignore"):
        model.full()
    repr(found)
    return ""
