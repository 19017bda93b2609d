"""A study in one file, rank by rank, so that an interrupted one goes on where it was.

As the checkpoints of fits (:mod:`tensorchain.solvers.checkpoint`): an archive of plain arrays with a JSON header and a
digest of all of it, written to a temporary name and renamed, never unpickled.  The file belongs to one problem: the
digest of the data, the model, the solver, the constraint, the numbers of starts, folds and splits.  Its ranks are the
first ones of the study, in order; the study may have more of them, and goes on from the models of the last one that is
finished, with the random numbers of the interrupted run.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from tensorchain.fit import History
from tensorchain.fit_files import fit_from
from tensorchain.fit_writing import figures_of
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.models.archives import read_archive, write_archive
from tensorchain.models.atomic import clean, target_of
from tensorchain.models.validation import checked_wiring
from tensorchain.selection.fits import RankRow
from tensorchain.solvers.checkpoint import OtherProblemError
from tensorchain.tensors.intake import digest_of

_FORMAT = 1
_FIGURES = tuple(each.name for each in fields(RankRow) if each.name not in ("rank", "fit", "held_out_errors"))


class Store:
    """The file of a study.

    Parameters
    ----------
    path : str or path-like
        The file; it need not exist, its folder must.
    problem : mapping of str
        What is studied, part by part; a file of another problem is refused.
    kind : subclass of Model
        Type of Model.
    ranks : sequence of pairs
        The ranks of the study in the order of their parameters, as given, and as the class takes them.
    shape : tuple of int
        Of the tensor.

    Attributes
    ----------
    seed : int or None
        Of the run that wrote the file.
    rows : list of RankRow
        The ranks that are finished.
    models : list of Model
        From which the next rank goes on.

    Raises
    ------
    ValueError
        When no file can be written there, or the file is damaged or belongs to another problem.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        problem: Mapping[str, str],
        kind: type[Model],
        *,
        ranks: Sequence[tuple[Any, Any]],
        shape: tuple[int, ...],
    ) -> None:
        self.path, self.problem, self.kind, self.ranks, self.shape = path, dict(problem), kind, list(ranks), shape
        self.seed: int | None = None
        self.rows: list[RankRow] = []
        self.models: list[Model] = []
        self._failed = False
        target = target_of(path)
        if not target.parent.is_dir():
            raise ValueError(f"checkpoint {os.fspath(path)!r}: there is no folder {os.fspath(target.parent)!r}")
        clean(target)
        self._read()

    def write(self, seed: int, rows: Sequence[RankRow], models: Sequence[Model]) -> None:
        """Write what is finished; where that fails the study goes on, with a warning."""
        arrays: dict[str, Array] = {}
        for n, row in enumerate(rows):
            _pack(arrays, f"fit{n}", row.fit.model)
        for k, model in enumerate(models):
            _pack(arrays, f"model{k}", model)
        header = {
            "rank study": _FORMAT,
            "problem": self.problem,
            "seed": seed,
            "rows": [_record_of(row) for row in rows],
            "models": [list(model.shape) for model in models],
        }
        # As it will be read: tuples have become lists.
        header = json.loads(json.dumps(header, default=str))
        header["digest"] = _digest(header, arrays)
        try:
            write_archive(self.path, json.dumps(header), arrays)
            self._failed = False
        except OSError as error:
            if not self._failed:
                warnings.warn(
                    f"the checkpoint {os.fspath(self.path)!r} could not be written ({error.strerror or error}); the "
                    "study goes on without it",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self._failed = True

    def _read(self) -> None:
        name = os.fspath(self.path)
        try:
            header, arrays = read_archive(self.path)
            if header["rank study"] != _FORMAT:
                raise ValueError(f"it has format {str(header['rank study'])[:20]}, this version reads {_FORMAT}")
            if header.pop("digest") != _digest(header, arrays):
                raise ValueError("its content is not what was written")
            self._check_problem(name, header)
            rows = [self._row(record, arrays, n) for n, record in enumerate(header["rows"])]
            models = []
            for k, shape in enumerate(header["models"]):
                models.append(self._model(arrays, f"model{k}", tuple(shape), self.ranks[len(rows) - 1][1]))
            self.seed, self.rows, self.models = int(header["seed"]), rows, models
        except FileNotFoundError:
            return
        except (OtherProblemError, MemoryError):
            raise
        # Whatever a damaged file holds.
        except Exception as error:
            what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f"{name!r} is not a checkpoint of a rank study that can be read: {what}; delete it to start anew"
            ) from error

    def _check_problem(self, name: str, header: Any) -> None:
        problem = header["problem"]
        parts = [part for part in self.problem if problem.get(part) != self.problem[part]]
        if parts:
            told = "; ".join(
                f"{part} then: {str(problem.get(part))[:200]}, now: {self.problem[part]}" for part in parts
            )
            raise OtherProblemError(
                f"{name!r} is the checkpoint of another study ({told}). Give the same tensor, model and options, or "
                "another file"
            )
        finished = [record["rank"] for record in header["rows"]]
        first = json.loads(json.dumps([label for label, _ in self.ranks[: len(finished)]]))
        if finished != first or len(finished) > len(self.ranks):
            raise OtherProblemError(
                f"{name!r} has the ranks {finished} and the study begins with {first}: give the same ranks, and more "
                "if you like, or another file"
            )

    def _row(self, record: dict[str, Any], arrays: dict[str, Array], n: int) -> RankRow:
        label, rank = self.ranks[n]
        history = History(*(np.array(record["history"][key], dtype=float) for key in History.__dataclass_fields__))
        fit = fit_from(self._model(arrays, f"fit{n}", self.shape, rank), record["fit"], history)
        figures = {name: _number(record[name]) for name in _FIGURES}
        held = tuple(float(_number(value)) for value in record["held_out_errors"])
        return RankRow(rank=label, fit=fit, held_out_errors=held, **figures)

    def _model(self, arrays: dict[str, Array], name: str, shape: tuple[int, ...], rank: Any) -> Model:
        network = checked_wiring(self.kind, shape, rank)
        rows = [1 if mode is None else shape[mode] for mode in network.modes]
        matrices = [arrays[f"{name}.{k}"] for k in range(len(network.modes))]
        for matrix, size, width in zip(matrices, rows, network.widths, strict=True):
            if matrix.shape != (size, width) or matrix.dtype.kind not in "fc" or not np.all(np.isfinite(matrix)):
                raise ValueError(f"its model {name} does not fit the study")
        return self.kind.from_matrices(network, matrices)


def _record_of(row: RankRow) -> dict[str, Any]:
    history = {key: getattr(row.fit.history, key).tolist() for key in History.__dataclass_fields__}
    return {
        "rank": row.rank,
        **{name: _written(getattr(row, name)) for name in _FIGURES},
        "held_out_errors": [_written(value) for value in row.held_out_errors],
        "fit": figures_of(replace(row.fit, starts=())),
        "history": history,
    }


def _written(value: Any) -> Any:
    """Numbers that JSON does not know as texts."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value


def _digest(header: dict[str, Any], arrays: dict[str, Array]) -> str:
    text = json.dumps(header, sort_keys=True)
    return digest_of([text, *(part for name in sorted(arrays) for part in (name, arrays[name]))])


def _pack(arrays: dict[str, Array], name: str, model: Model) -> None:
    for k, matrix in enumerate(model.matrices):
        arrays[f"{name}.{k}"] = matrix
