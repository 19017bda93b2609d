"""Rows of networks that others trained, as the jobs of a figure: means over seeds of one rate and one device.

benchmarks/networks/results has two files of them: in known-own-rate.csv `restore` found the rate of each fit by itself,
in known.csv it was 0.02 for all.  The weights, the images and the GPU are not part of this package, so `--quick` and
`--full` draw the same rows; `python -m benchmarks.networks.study_gpu` measures them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.networks.rows import RESULTS
from paper_figures import network_rows
from paper_figures.results import Job, Row, column, groups

FILES = {"own": "known-own-rate.csv", "0.02": "known.csv"}
"""By the rate of restoration, the preferred one first."""
NETWORKS = {
    "resnet20-cifar10": "ResNet-20",
    "resnet56-cifar10": "ResNet-56",
    "resnet18-w64-cifar10-jpeg": "ResNet-18",
}
NAMES = {**network_rows.NAMES, "svd": "SVD", "auto": "auto"}
"""Methods as they are called in pictures."""
BITS = ("bits8", "bits6", "bits4")


def parameters(names: Sequence[str] = tuple(FILES.values())) -> dict[str, Any]:
    """Where the numbers come from; sizes are part of it, so that new rows are drawn anew."""
    found = {name: RESULTS / name for name in names}
    return {"measured": {name: path.stat().st_size if path.exists() else 0 for name, path in found.items()}}


def jobs(
    stages: Sequence[str],
    rates: Sequence[str] = tuple(FILES),
    folder: Path = RESULTS,
    methods: Sequence[str] = tuple(NAMES),
) -> Iterator[Job]:
    """The dense networks, and a job for each case that has these stages; its row is a mean over seeds.

    Parameters
    ----------
    stages : columns that every seed of a mean has.
    rates : the files to read, the preferred one first: a case comes from one of them.
    folder : of the files.
    methods : those that are shown, beside the dense networks.
    """
    shown = [row for row in cases(stages, rates, folder) if row["method"] in ("dense", *methods)]
    for row in shown:
        key = {name: row[name] for name in ("network", "method", "fit", "times")}
        yield Job(key, partial(_without, row, tuple(key)))


def cases(stages: Sequence[str], rates: Sequence[str] = tuple(FILES), folder: Path = RESULTS) -> list[Row]:
    """One row for each network, method, fit and number of times fewer multiplications."""
    found: dict[tuple[str, ...], Row] = {}
    for rate in rates:
        rows_of_rate = [row for row in read(folder / FILES[rate]) if row["network"] in NETWORKS]
        for case, rows in groups(rows_of_rate, "network", "method", "fit", "times").items():
            if case not in found and (mean := _mean(rows, stages)) is not None:
                found[case] = {**mean, "rate": "" if case[1] == "dense" else rate}
    order = list(NETWORKS), ["dense", *NAMES], ["dense", "stabilised", "plain"]

    def place(row: Row) -> tuple[float, ...]:
        places = (names.index(row[name]) for name, names in zip(("network", "method", "fit"), order, strict=True))
        return float(row["times"]), *places

    return sorted(found.values(), key=place)


def dense(rows: Sequence[Row], network: str) -> Row:
    """The row of the network as it is."""
    return next(row for row in rows if row["network"] == network and row["method"] == "dense")


def compressed(rows: Sequence[Row]) -> list[Row]:
    """The others."""
    return [row for row in rows if row["method"] != "dense"]


def data_text(rows: Sequence[Row]) -> str:
    """Networks and data in words."""
    names = [NETWORKS[network] for network in groups(rows, "network")]
    others = [name for name in names if name != "ResNet-18"]
    told = f"{' and '.join(others)} with weights of others, trained on the pixels of CIFAR-10"
    if len(others) < len(names):
        told += ", and a ResNet-18 of full width"
    return f"{told}; data: CIFAR-10 written as JPEG, all 10,000 test images"


def device_text(rows: Sequence[Row]) -> str:
    """Where the rows were measured."""
    first, *others = sorted(groups(compressed(rows), "device").items(), key=lambda item: -len(item[1]))
    told = [_device(first[0])]
    for name, mine in others:
        cases = [f"{NAMES[method]} of {NETWORKS[network]}" for network, method in groups(mine, "network", "method")]
        told.append(f"on {_device(name)}: {', '.join(cases)}")
    return f"Measured on {'; '.join(told)}."


def rate_text(rows: Sequence[Row]) -> str:
    """At which rates they were restored."""
    texts = {"own": "the rate that each fit allows, found from the curvature of its loss", "0.02": "a rate of 0.02"}
    return " and ".join(texts[rate] for rate in FILES if rate in groups(compressed(rows), "rate"))


def seed_text(rows: Sequence[Row]) -> str:
    """How many seeds stand behind the means."""
    found = []
    for times, same in sorted(groups(compressed(rows), "times").items(), key=lambda item: float(item[0])):
        told = []
        for network, mine in groups(same, "network").items():
            counts = sorted({int(row["seeds"]) for row in mine})
            count = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
            told.append(f"{NETWORKS[network]} {count}")
        found.append(f"{', '.join(told)} at {float(times):g} times fewer multiplications")
    return f"Seeds of the means: {'; '.join(found)}."


def _mean(rows: Sequence[Row], stages: Sequence[str]) -> Row | None:
    """Over the seeds that have all stages, of the device with the most of them; None without any."""
    if rows[0]["method"] == "dense":
        return {**{name: rows[0][name] for name in ("network", "method", "fit", "times", "dense", *BITS)}, "seeds": "1"}
    whole = [row for row in rows if all(row[name] for name in stages)]
    if not whole:
        return None
    mine = max(groups(whole, "device").values(), key=len)
    means = {name: round(sum(column(mine, name)) / len(mine), 3) for name in stages}
    same = {name: mine[0][name] for name in ("network", "method", "fit", "times", "device")}
    return {**same, "seeds": len(mine), **means}


def _device(name: str) -> str:
    return "a processor" if name == "processor" else f"one {name}"


def _without(row: Row, names: Sequence[str]) -> list[Row]:
    return [{name: value for name, value in row.items() if name not in names}]


def read(path: Path) -> list[Row]:
    """The rows of a file; none without it."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
