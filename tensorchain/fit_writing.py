"""A fit as a file: the model, its figures, its history, and the models of all starts.

A saved fit is a model file (:mod:`tensorchain.models.files`) with more in it, so whoever wants the model alone can read
that.  Figures are JSON in the header, under "fit"; arrays are

    history            (4, n): error, sensitivity, penalty, seconds of each iteration,
    start_s_block_k    block k of start s, in the shape of that of the model.

What reads it is :mod:`tensorchain.fit_files`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorchain.models.base import model_file
from tensorchain.models.files import write_model

if TYPE_CHECKING:
    from tensorchain.fit import Fit

NUMBERS = ("error", "sensitivity", "seconds")
"""Figures of a start ..."""
FIGURES = (*NUMBERS, "gap", "objective")
"""... and of a fit, that are written as they are."""


def save_fit(fit: Fit, path: str | os.PathLike[str]) -> None:
    """Write a fit, see `Fit.save`."""
    header, arrays = model_file(fit.model, {"report": fit.report()})
    more = {"history": np.array([getattr(fit.history, name) for name in history_fields(fit)])}
    for s, start in enumerate(fit.starts):
        more.update({f"start_{s}_block_{k}": block for k, block in enumerate(start.model.blocks)})
    header |= {"fit": figures_of(fit), "arrays": list(more)}
    write_model(path, json.dumps(header, default=str), arrays | more)


def figures_of(fit: Fit) -> dict[str, Any]:
    """All of a fit but its arrays, as JSON."""
    return {
        **{name: getattr(fit, name) for name in FIGURES},
        "reason": fit.reason.name,
        "iterations": fit.iterations,
        "solver": fit.solver,
        "standard_error": fit.standard_error,
        "least_error": fit.least_error,
        "dimension_names": fit.dimension_names,
        "labels": fit.labels,
        "fixed": fit.fixed,
        "nonnegative": fit.nonnegative,
        "starts": [
            {
                **{name: getattr(start, name) for name in NUMBERS},
                "reason": start.reason.name,
                "iterations": start.iterations,
            }
            for start in fit.starts
        ],
    }


def history_fields(fit: Fit) -> list[str]:
    """Names of the columns of a history."""
    return [field.name for field in dataclasses.fields(fit.history)]
