"""Fits and models from files that `Fit.save` and `Model.save` wrote (:mod:`tensorchain.fit_writing`)."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from tensorchain.fit import Fit, History, Start, StopReason
from tensorchain.fit_writing import FIGURES, NUMBERS
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.models.base import model_from
from tensorchain.models.files import read_model


def load(path: str | os.PathLike[str]) -> Any:
    """Read what `Fit.save` or `Model.save` wrote.

    Parameters
    ----------
    path : str or path-like
        A file .npz or .safetensors; the content decides.  Nothing in it is executed.

    Returns
    -------
    Fit or Model
        A `Fit` where one was saved, with its error, reason, history and starts; the model is its `model`.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When it is not a model file, or damaged.

    Examples
    --------
    >>> import tempfile, pathlib, tensorchain as tc
    >>> fit = tc.decompose([[1.0, 2.0], [2.0, 4.0]], "cp", 1, rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "fit.npz")
    ...     fit.save(path)
    ...     again = tc.load(path)
    >>> again.error == fit.error, again.reason.name, again.model.shape
    (True, 'EXACT', (2, 2))
    """
    name = os.fspath(path)
    header, blocks, arrays = read_model(path)
    model = model_from(name, header, blocks)
    if "fit" not in header:
        return model
    try:
        return _fit(model, header["fit"], arrays)
    # Whatever a damaged header holds.
    except Exception as error:
        raise ValueError(f"{name!r} is damaged: its fit cannot be read ({error!r})") from error


def fit_from(model: Model, row: dict[str, Any], history: History, starts: tuple[Start, ...] = ()) -> Fit:
    """The fit of these figures; KeyError, TypeError or ValueError where they are none."""
    names, labels, standard = row["dimension_names"], row["labels"], row["standard_error"]
    if names is not None and len(names) != model.order:
        raise ValueError(f"{len(names)} names for {model.order} modes")
    error, sensitivity, seconds, gap, objective = (float(row[name]) for name in FIGURES)
    least = row.get("least_error")
    return Fit(
        model=model,
        error=error,
        sensitivity=sensitivity,
        seconds=seconds,
        gap=gap,
        objective=objective,
        reason=StopReason[row["reason"]],
        iterations=_count(row["iterations"]),
        history=history,
        solver=str(row["solver"]),
        starts=starts,
        dimension_names=None if names is None else tuple(map(str, names)),
        labels=None if labels is None else tuple(None if axis is None else tuple(axis) for axis in labels),
        fixed=tuple(map(str, row.get("fixed", ()))),
        nonnegative=tuple(map(str, row.get("nonnegative", ()))),
        standard_error=None if standard is None else float(standard),
        least_error=None if least is None else float(least),
    )


def _fit(model: Model, row: dict[str, Any], arrays: dict[str, Array]) -> Fit:
    rows = arrays["history"]
    if rows.ndim != 2 or len(rows) != len(History.__dataclass_fields__) or rows.dtype.kind != "f":
        raise ValueError(f"the history has shape {rows.shape} and dtype {rows.dtype}")
    rows = rows.astype(np.float64)
    starts = []
    for s, start in enumerate(row["starts"]):
        blocks = [arrays[f"start_{s}_block_{k}"] for k in range(len(model.blocks))]
        if [block.shape for block in blocks] != [block.shape for block in model.blocks]:
            raise ValueError(f"start {s} has blocks of other shapes than the model")
        if not all(np.all(np.isfinite(block)) for block in blocks):
            raise ValueError(f"start {s} holds NaN or infinity")
        figures = {name: float(start[name]) for name in NUMBERS}
        reason, iterations = StopReason[start["reason"]], _count(start["iterations"])
        starts.append(Start(model.with_blocks(blocks), **figures, reason=reason, iterations=iterations))
    return fit_from(model, row, History(*rows), tuple(starts))


def _count(value: Any) -> int:
    number = float(value)
    if not math.isfinite(number) or number != int(number) or number < 0:
        raise ValueError(f"{value!r} iterations")
    return int(number)
