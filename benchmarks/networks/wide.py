"""How long wide kernels take: the curve of candidates, and the careful fit of one of them.

    python -m benchmarks.networks.wide [--channels 64 128 256] [--methods tc btd cp3 tucker2]

The kernels are random, of 3 x 3 taps, with singular values of both channel modes that fall like those of trained
layers.  Times are processor time with one thread; the memory is what one run adds to the kernel at its peak.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.timing import peak_memory, table
from tensorchain.compression import Geometry, fit_kernel
from tensorchain.compression.candidates import curve
from tensorchain.compression.request import SPATIAL

HEADER = ("channels", "method", "candidates", "curve, s", "rank", "share", "fit, s", "error", "MB")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks.wide", description=__doc__.split("\n")[0])
    parser.add_argument("--channels", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--methods", nargs="+", choices=SPATIAL, default=["tc", "btd", "cp3", "tucker2"])
    parser.add_argument("--share", type=float, default=0.3, help="of the multiplications, for the fit (0.3)")
    parser.add_argument("--plain", action="store_true", help="fits without control of the sensitivity")
    options = parser.parse_args(arguments)
    rows = []
    for channels in options.channels:
        kernel = made(channels)
        for method in options.methods:
            rows.append(measured(kernel, method, options))
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    print(table(list(HEADER), [list(row) for row in rows]))
    return 0


def made(channels: int) -> np.ndarray:
    """A kernel (T, S, 3, 3)."""
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((channels, channels, 3, 3))
    for axis in (0, 1):
        mixing = np.linalg.qr(rng.standard_normal((channels, channels)))[0] * np.arange(1, channels + 1) ** -0.5
        kernel = np.moveaxis(np.tensordot(mixing, kernel, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(kernel)


def measured(kernel: np.ndarray, method: str, options: argparse.Namespace) -> tuple[str, ...]:
    """A row of the table."""
    same = Geometry(padding=((1, 1), (1, 1)))
    with threadpool_limits(1):
        start = time.process_time()
        points = curve(kernel, method, geometry=same, image=(16, 16), rng=0)
        between = time.process_time()
        dense = kernel.size * 256
        point = min(points, key=lambda one: abs(one.macs / dense - options.share))

        def fit() -> Any:
            return fit_kernel(kernel, method, point.rank, geometry=same, stabilise=not options.plain, rng=0)

        middle = time.process_time()
        error = fit().error
        end = time.process_time()
        memory = peak_memory(fit) if kernel.size < 1 << 20 else float("nan")
    figures = f"{between - start:.1f}", _short(point.rank), f"{point.macs / dense:.2f}", f"{end - middle:.1f}"
    return (str(len(kernel)), method, str(len(points)), *figures, f"{error:.3f}", f"{memory:.0f}")


def _short(rank: Any) -> str:
    """A rank in a few characters."""
    return f"{len(rank)} x {rank[0]}" if isinstance(rank, list) else str(rank)


if __name__ == "__main__":
    sys.exit(main())
