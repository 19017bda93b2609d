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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

from tensorchain.fit_files import fit_from
from tensorchain.fit_writing import figures_of
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.models.validation import checked_wiring
from tensorchain.selection.fits import RankRow
from tensorchain.solvers.sealed import OtherProblemError, SealedFile, history_of, history_record, pack, unpacked

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
        self._file = SealedFile(path, "rank study", _FORMAT, what="a checkpoint of a rank study", work="study")
        self._read()

    def write(self, seed: int, rows: Sequence[RankRow], models: Sequence[Model]) -> None:
        """Write what is finished; where that fails the study goes on, with a warning."""
        arrays: dict[str, Array] = {}
        for n, row in enumerate(rows):
            pack(arrays, f"fit{n}", row.fit.model)
        for k, model in enumerate(models):
            pack(arrays, f"model{k}", model)
        header = {
            "problem": self.problem,
            "seed": seed,
            "rows": [_record_of(row) for row in rows],
            "models": [list(model.shape) for model in models],
        }
        self._file.write(header, arrays)

    def _read(self) -> None:
        with suppress(FileNotFoundError), self._file.understood():
            self._take(*self._file.read())

    def _take(self, header: dict[str, Any], arrays: dict[str, Array]) -> None:
        self._check_problem(self._file.name, header)
        rows = [self._row(record, arrays, n) for n, record in enumerate(header["rows"])]
        models = []
        for k, shape in enumerate(header["models"]):
            models.append(self._model(arrays, f"model{k}", tuple(shape), self.ranks[len(rows) - 1][1]))
        self.seed, self.rows, self.models = int(header["seed"]), rows, models

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
        fit = fit_from(self._model(arrays, f"fit{n}", self.shape, rank), record["fit"], history_of(record["history"]))
        figures = {name: _number(record[name]) for name in _FIGURES}
        held = tuple(float(_number(value)) for value in record["held_out_errors"])
        return RankRow(rank=label, fit=fit, held_out_errors=held, **figures)

    def _model(self, arrays: dict[str, Array], name: str, shape: tuple[int, ...], rank: Any) -> Model:
        network = checked_wiring(self.kind, shape, rank)
        rows = [1 if mode is None else shape[mode] for mode in network.modes]
        shapes = list(zip(rows, network.widths, strict=True))
        return self.kind.from_matrices(network, unpacked(arrays, name, shapes, "study"))


def _record_of(row: RankRow) -> dict[str, Any]:
    return {
        "rank": row.rank,
        **{name: _written(getattr(row, name)) for name in _FIGURES},
        "held_out_errors": [_written(value) for value in row.held_out_errors],
        "fit": figures_of(replace(row.fit, starts=())),
        "history": history_record(row.fit.history),
    }


def _written(value: Any) -> Any:
    """Numbers that JSON does not know as texts."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value
