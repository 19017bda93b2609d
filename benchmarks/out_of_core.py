"""A tensor larger than the memory that the process may use, from disk through Dask, beside the speed of the disk.

A CP of known factors and noise is written to disk slab by slab.  Then the process limits its own memory to a
fraction of the tensor (an allocation beyond it fails), fits a model, and reports how many bytes a second went
through each pass, how many a plain read of the same files gets, and how often the default solver reads the tensor.
Files leave the page cache after each read, so that it is the disk that is measured.

    python -m benchmarks.out_of_core [--gigabytes 4 --limit 1]
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np

import tensorchain as tc
from benchmarks.timing import parser, save
from tensorchain.tensors.lazy import Lazy

SIDE = 512
"""Modes two and three."""
SLAB_BYTES = 1 << 25


def write(folder: Path, rows: int, thickness: int, rank: int, noise: float) -> tc.CP:
    """One file for each slab of rows."""
    rng = np.random.default_rng(0)
    truth = tc.CP.random((rows, SIDE, SIDE), rank, rng, dtype=np.float32)
    size = truth.norm() / np.sqrt(rows * SIDE * SIDE)
    for start in range(0, rows, thickness):
        slab = truth.restrict([slice(start, start + thickness), None, None]).full()
        slab += np.float32(noise * size) * rng.standard_normal(slab.shape, dtype=np.float32)
        slab.tofile(folder / f"{start // thickness}.bin")
        forget(folder / f"{start // thickness}.bin")
    return truth


def forget(path: Path) -> None:
    """Write a file out, and drop it from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(path: Path) -> Any:
    slab = np.fromfile(path, dtype=np.float32)
    forget(path)
    return slab


def lazy(folder: Path, rows: int, thickness: int, seen: list[int]) -> Lazy:
    """The tensor of the files; each slab that is read is added to `seen`."""

    def slab(block_info: Any = None) -> Any:
        where = block_info[None]["chunk-location"][0]
        seen.append(where)
        return read(folder / f"{where}.bin").reshape(-1, SIDE, SIDE)

    chunks = ((thickness,) * (rows // thickness), (SIDE,), (SIDE,))
    meta = np.empty((0, 0, 0), dtype=np.float32)
    return Lazy(dask.array.map_blocks(slab, chunks=chunks, dtype=np.float32, meta=meta))


def data_bytes() -> int:
    """Private memory of the process, what the limit counts."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmData"))


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument(
        "--gigabytes", type=float, help="size of the tensor, in float32; 2 by default, 0.75 with --quick"
    )
    options.add_argument("--limit", type=float, help="gigabytes for the process; 0.75 by default, 0.6 with --quick")
    options.add_argument("--rank", type=int, default=8)
    options.add_argument("--sweeps", type=int, default=3)
    options.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    given = options.parse_args()
    gigabytes, most = given.gigabytes or (0.75 if given.quick else 2.0), given.limit or (0.6 if given.quick else 0.75)
    thickness = SLAB_BYTES // (4 * SIDE * SIDE)
    rows = max(1, round(gigabytes * 2**30 / SLAB_BYTES)) * thickness
    size = 4 * rows * SIDE * SIDE
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        write(folder, rows, thickness, given.rank, noise=0.1)
        limit = int(most * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        began = time.perf_counter()
        for path in sorted(folder.iterdir()):
            read(path)
        disk = time.perf_counter() - began
        seen: list[int] = []
        source = lazy(folder, rows, thickness, seen)
        start = tc.CP.random(source.shape, given.rank, 1)
        with dask.config.set(scheduler="threads", num_workers=max(2, given.threads)):
            residual_began = time.perf_counter()
            assert len(source.residual(start).gradient) == 3
            residual = time.perf_counter() - residual_began
            fit = tc.decompose(source, init=start, solver=tc.ALS(max_iter=given.sweeps, tol=0.0))
            seen.clear()
            default_began = time.perf_counter()
            default = tc.decompose(source, "cp", given.rank, rng=0)
            seconds = time.perf_counter() - default_began
        sweep = float(np.median(np.diff(fit.history.seconds)))
        row = {
            "tensor": "x".join(map(str, source.shape)) + " float32",
            "tensor GB": size / 2**30,
            "limit GB": most,
            "tensor / limit": size / limit,
            "private memory at the end GB": data_bytes() / 2**30,
            "disk GB/s": size / disk / 2**30,
            "residual and gradient of all blocks GB/s": size / residual / 2**30,
            "ALS pass GB/s (three a sweep)": 3 * size / sweep / 2**30,
            "error": fit.error,
            "passes over the data, default solver": len(seen) * thickness / rows,
            "seconds, default solver": seconds,
            "error, default solver": default.error,
        }
    for label, value in row.items():
        print(f"{label:<42} {value:.4g}" if isinstance(value, float) else f"{label:<42} {value}")
    save(given.results, "out_of_core", row, quick=given.quick)


if __name__ == "__main__":
    main()
