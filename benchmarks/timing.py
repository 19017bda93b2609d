"""How the benchmarks measure: same data, same threads, interleaved runs, medians, memory beyond the data.

Runs of all contestants alternate, after one run each that warms up, so that a slow spell of the machine falls on all
of them alike.  With one BLAS thread the time is processor time, which other processes do not lengthen; with more it
is time on the clock.  Peak memory is traced in a run of its own (tracemalloc sees every array of NumPy).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.files import replace_file

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Outcome:
    """What a contestant did in one run: how many units of work (sweeps, iterations), and its relative error.

    The error is a function, called when the clock has stopped.
    """

    units: int
    error: Callable[[], float]


Contestant = Callable[[], Outcome]


@dataclass(frozen=True)
class Timing:
    """Median and least time of a unit of work in milliseconds, the error at the end, and peak memory in MB."""

    median: float
    least: float
    error: float
    units: int
    memory: float

    def row(self) -> dict[str, float]:
        """As JSON."""
        return {name: value for name, value in vars(self).items() if value == value}


def compete(contestants: Mapping[str, Contestant], *, repeats: int, threads: int = 1) -> dict[str, Timing]:
    """Run all contestants in turn, `repeats` times, after a run that warms up and is traced for its memory."""
    clock = time.process_time if threads == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in contestants}
    outcomes: dict[str, Outcome] = {}
    peaks: dict[str, float] = {}
    with threadpool_limits(threads):
        for name, run in contestants.items():
            peaks[name] = peak_memory(run)
        for _ in range(repeats):
            for name, run in contestants.items():
                began = clock()
                outcome = run()
                times[name].append(1e3 * (clock() - began) / max(outcome.units, 1))
                outcomes[name] = outcome
    return {
        name: Timing(
            float(np.median(times[name])),
            min(times[name]),
            outcomes[name].error(),
            outcomes[name].units,
            peaks[name],
        )
        for name in contestants
    }


def peak_memory(run: Callable[[], object]) -> float:
    """Most memory in MB that was held at once during a run, beyond what was there before."""
    with traced() as peak:
        run()
    return peak[0]


@contextmanager
def traced() -> Iterator[list[float]]:
    """Peak memory in MB of the block, in a list of one number that is set at its end."""
    peak = [float("nan")]
    tracemalloc.start()
    try:
        yield peak
    finally:
        peak[0] = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()


def parser(doc: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="smaller problems and fewer runs")
    options.add_argument("--threads", type=int, default=1, help="BLAS threads")
    options.add_argument("--results", type=Path, default=RESULTS, help="folder of the figures")
    return options


def save(folder: Path, name: str, figures: dict[str, Any], *, quick: bool) -> None:
    """Write figures as JSON, with what they were measured on."""
    whole = {"machine": machine(), "quick": quick, **figures}
    replace_file(folder / f"{name}.json", json.dumps(whole, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Processor, cores, and the versions of the packages."""
    names = ("numpy", "scipy", "numba", "tensorly", "pyttb")
    versions: dict[str, str] = {}
    for name in names:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        **versions,
    }


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows))
