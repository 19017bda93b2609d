"""What is done of a compression, in one file, so that an interrupted one goes on where it was.

The file is a safetensors archive: arrays, and in its header one JSON text with a record for each finished piece of work
(a layer's candidates, a layer's fit, a step with the restored weights).  It is written under a temporary name and
renamed after every piece.  It is never unpickled, and belongs to one problem: a digest of the kernels and the options.

Every piece of work has random numbers of its own, so what is read back is what would have been computed again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tensorchain.compression.conv import Convolution, Fold, Geometry, LayerPlan, Step, Unfold
from tensorchain.kernels import Array

_FORMAT = "1"


class Progress:
    """Records and arrays by key.

    Parameters
    ----------
    path : str or os.PathLike[str] or None
        The file, or None to keep nothing; it need not exist.
    problem : str
        Digest of what is computed; a file of another problem is refused.

    Raises
    ------
    ImportError
        Without safetensors.
    ValueError
        When the file is damaged or belongs to another problem.

    Examples
    --------
    >>> progress = Progress(None, "a problem").within("step1")
    >>> progress.put("score", 0.9)
    >>> progress.get("score"), progress.get("report")
    ((0.9, {}), None)
    """

    def __init__(self, path: str | os.PathLike[str] | None, problem: str) -> None:
        self.path = None if path is None else Path(path)
        self.problem = problem
        self.records: dict[str, Any] = {}
        self.arrays: dict[str, Array] = {}
        self.prefix = ""
        if self.path is not None:
            _safetensors()
            if self.path.exists():
                self._read()

    def within(self, prefix: str) -> Progress:
        """The same file with a prefix to every key."""
        view = object.__new__(Progress)
        view.__dict__ = {**self.__dict__, "prefix": f"{self.prefix}{prefix}/"}
        return view

    def get(self, key: str) -> tuple[Any, dict[str, Array]] | None:
        """The record of a key and its arrays by name, or None."""
        whole = self.prefix + key
        if whole not in self.records:
            return None
        start = f"{whole}:"
        return self.records[whole], {name[len(start) :]: v for name, v in self.arrays.items() if name.startswith(start)}

    def put(self, key: str, record: Any, arrays: Mapping[str, Array] | None = None) -> None:
        """Keep a record, of what JSON can hold, and its arrays, and write the file."""
        whole = self.prefix + key
        # Through JSON, so that a record reads the same in this run and in the next.
        self.records[whole] = json.loads(json.dumps(record))
        self.arrays.update({f"{whole}:{name}": np.ascontiguousarray(v) for name, v in (arrays or {}).items()})
        if self.path is not None:
            self._write(self.path)

    def _read(self) -> None:
        name = os.fspath(self.path or "")
        try:
            with _safetensors().safe_open(name, "np") as file:
                header = file.metadata() or {}
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, a file is no dict
            if header["compression"] != _FORMAT:
                raise ValueError(f"format {header['compression']}")
            records = json.loads(header["records"])
            problem = header["problem"]
        except Exception as error:
            raise ValueError(
                f"{name!r} is no checkpoint that can be read ({error}); delete it to start anew"
            ) from error
        if problem != self.problem:
            raise ValueError(
                f"{name!r} is the checkpoint of another compression; give the same network, example, data and options, "
                "or another file"
            )
        self.records.update(records)
        self.arrays.update(arrays)

    def _write(self, path: Path) -> None:
        header = {"compression": _FORMAT, "problem": self.problem, "records": json.dumps(self.records)}
        content = _safetensors().numpy.save(self.arrays, header)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def digest(parts: Iterable[Any]) -> str:
    """A digest of arrays and of the representations of everything else.

    Examples
    --------
    >>> import numpy as np
    >>> digest([np.zeros(3), "tc"]) == digest([np.zeros(3), "tc"]) != digest([np.ones(3), "tc"])
    True
    """
    whole = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            whole.update(f"{part.shape}{part.dtype}".encode())
            whole.update(np.ascontiguousarray(part).tobytes())
        else:
            whole.update(repr(part).encode())
        whole.update(b"\0")
    return whole.hexdigest()


def plan_record(plan: LayerPlan) -> tuple[dict[str, Any], dict[str, Array]]:
    """A plan as what JSON can hold, and its weights by name."""
    rows: list[dict[str, Any]] = []
    arrays: dict[str, Array] = {}
    for k, step in enumerate(plan.steps):
        if not isinstance(step, Convolution):
            rows.append({"kind": type(step).__name__, "groups": step.groups})
            continue
        row = {"kind": "Convolution", "groups": step.groups, **dataclasses.asdict(step.geometry)}
        rows.append({**row, "shape": step.weight.shape, "biased": step.bias is not None})
        arrays[f"weight{k}"] = step.weight
        if step.bias is not None:
            arrays[f"bias{k}"] = step.bias
    return {"method": plan.method, "rank": plan.rank, "steps": rows}, arrays


def plan_of_record(record: Mapping[str, Any], arrays: Mapping[str, Array] | None = None) -> LayerPlan:
    """The plan that `plan_record` took apart; with zeros for its weights where no arrays are given."""
    steps: list[Step] = []
    for k, row in enumerate(record["steps"]):
        if row["kind"] == "Convolution":
            padding = tuple(tuple(side) for side in row["padding"])
            spread = {"transposed": row["transposed"], "extra": tuple(row["extra"])}
            geometry = Geometry(tuple(row["stride"]), padding, tuple(row["dilation"]), **spread)
            if arrays is None:
                weight, bias = np.zeros(row["shape"]), np.zeros(row["shape"][0]) if row["biased"] else None
            else:
                weight, bias = arrays[f"weight{k}"], arrays.get(f"bias{k}")
            steps.append(Convolution(weight, geometry, row["groups"], bias))
        else:
            steps.append((Fold if row["kind"] == "Fold" else Unfold)(row["groups"]))
    return LayerPlan(record["method"], rank_of_record(record["rank"]), tuple(steps))


def rank_of_record(rank: Any) -> Any:
    """A rank that went through JSON, with its tuples again.

    Examples
    --------
    >>> rank_of_record([2, 3, 3]), rank_of_record([[2, 3], [2, 1]]), rank_of_record(5)
    ((2, 3, 3), [(2, 3), (2, 1)], 5)
    """
    if not isinstance(rank, list):
        return rank
    return [tuple(pair) for pair in rank] if rank and isinstance(rank[0], list) else tuple(rank)


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("a checkpoint needs safetensors: pip install tensorchain[torch], or safetensors") from error
    return safetensors
