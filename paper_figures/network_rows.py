"""Rows of the compression study as the jobs of a figure: those that are shipped, or measured again.

`--quick` reads benchmarks/networks/results/NETWORK.csv, which `python -m benchmarks.networks.study` wrote; `--full`
does the runs itself, with all training images in an epoch and three seeds, which needs PyTorch and the data.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any

from benchmarks.networks.rows import RESULTS, WEIGHTS, Results
from paper_figures.results import Job, Row, Settings

NETWORK = "resnet18-w16-fashion-mnist-seed0"
NAMES = {
    "tc": "TC",
    "btd": "BTD",
    "cp3": "CPD, order 3",
    "cp4": "CPD, order 4",
    "tucker2": "Tucker-2",
    "tucker-cp": "Tucker-2 + CPD",
}
"""Methods as they are called in pictures."""


def parameters(settings: Settings) -> dict[str, Any]:
    """Where the numbers come from; the shipped file is part of it, so that a new one is drawn anew."""
    if settings.full:
        return {"network": NETWORK, "measured": "here, on all training images"}
    file = RESULTS / f"{NETWORK}.csv"
    return {"network": NETWORK, "measured": file.name, "bytes": os.path.getsize(file) if file.exists() else 0}


def seeds(settings: Settings) -> Sequence[int]:
    """Seeds of the runs."""
    return range(settings.seed, settings.seed + 3) if settings.full else (0,)


def jobs(settings: Settings, runs: Sequence[dict[str, Any]]) -> Iterator[Job]:
    """A job for each run: arguments of `benchmarks.networks.experiment.Run` without the network."""
    for told in runs:
        # Names of runs are made by the study; here a text of the arguments has to do.
        key = {"network": NETWORK, "run_of": " ".join(f"{name}={value}" for name, value in told.items())}
        yield Job(key, partial(measured if settings.full else shipped, told))


def shipped(told: dict[str, Any]) -> list[Row]:
    """The shipped rows of a run; none if it is not among them."""
    wanted = {name: str(value) for name, value in told.items() if name not in ("bits", "quantized", "int8")}
    wanted.setdefault("fit_output", "False")
    wanted.setdefault("selection", "global")
    wanted.setdefault("budget", "macs")
    rows = [row for row in _rows() if all(_same(row.get(name, ""), value) for name, value in wanted.items())]
    quantized = [row["run"] for row in rows if row["stage"] == "quantized"]
    # The run with few bits is told from the one without by what it measured.
    chosen = [row for row in rows if (row["run"] in quantized) == bool(told.get("quantized"))]
    return [{name: value for name, value in row.items() if name != "network"} for row in chosen]


def measured(told: dict[str, Any]) -> list[Row]:
    """A run done here."""
    from benchmarks.networks.experiment import Run, run

    bench = _bench()
    rows, _, _ = run(bench, Run(NETWORK, **told, images=len(bench.splits.train)))
    return [{name: value for name, value in row.items() if name != "network"} for row in rows]


def dense_row() -> Row:
    """The dense network as the study measured it."""
    return next(row for row in _rows() if row["run"] == "dense")


def dense_accuracy() -> float:
    """Test accuracy of the dense network, in percent."""
    return float(dense_row()["test"])


def title() -> str:
    """The network in words."""
    return "ResNet-18 of width 16, trained on Fashion-MNIST"


def epoch_text(rows: Sequence[Row]) -> str:
    """What an epoch is."""
    images = sorted({int(row["images"]) for row in rows})
    return f"An epoch is {' or '.join(f'{n:,}' for n in images)} of the 55,000 training images, drawn anew each time."


def seed_text(rows: Sequence[Row]) -> str:
    """How many seeds."""
    count = len({row["seed"] for row in rows})
    return "One seed." if count == 1 else f"Means over {count} seeds."


def _same(stored: str, wanted: str) -> bool:
    try:
        return float(stored) == float(wanted)
    except ValueError:
        return stored == wanted


@cache
def _rows() -> tuple[Row, ...]:
    return tuple(Results(RESULTS, NETWORK).rows)


@cache
def _bench() -> Any:
    from benchmarks.networks import data, stored
    from benchmarks.networks.experiment import Bench

    path = WEIGHTS / f"{NETWORK}.safetensors"
    return Bench(path, data.load(stored.read(path).recipe["data"]))
