"""Weights fitted on a quantization grid beside weights that are fitted and then rounded.

For each method and number of bits: relative errors of the kernel without rounding, rounded (the better of minmax and
mse ranges, one step for each layer), after descent on the grid alone, and after the alternating method and descent; as
means over kernels, with the processor seconds of the last.  All start from the same stabilised fit.

    python -m benchmarks.grid                                     # kernels with falling singular values, from seeds
    python -m benchmarks.grid --weights FILE.safetensors          # 3 x 3 kernels of a trained network
    python -m benchmarks.grid --plain                             # start from plain least squares
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tensorchain.compression import fit_on_grid, kernel_tensor
from tensorchain.compression.fitting import _Search
from tensorchain.kernels import Array

METHODS = ("tc", "cp3", "btd", "tucker2")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grid", description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, help="safetensors file whose 3 x 3 kernels are taken")
    parser.add_argument("--kernels", type=int, default=6, help="how many kernels (default 6)")
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4, 6, 8])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--plain", action="store_true", help="start from fits without control of the sensitivity")
    options = parser.parse_args(arguments)
    tensors = list(trained(options.weights, options.kernels) if options.weights else synthetic(options.kernels))
    print(f"{len(tensors)} kernels, {'plain' if options.plain else 'stabilised'} starts")
    print(f"{'method':<9}{'bits':>5}{'free':>9}{'rounded':>9}{'descent':>9}{'fitted':>9}{'seconds':>9}")
    for method in options.methods:
        search = _Search(not options.plain, 0.02, np.random.default_rng(0), None, None)
        starts = [search.model(tensor, method, rank_of(method, tensor)) for tensor in tensors]
        for bits in options.bits:
            rows = []
            for tensor, start in zip(tensors, starts, strict=True):
                descent = fit_on_grid(tensor, start, bits, max_iter=0)
                began = time.process_time()
                fit = fit_on_grid(tensor, start, bits)
                rows.append((fit.free_error, fit.rounded_error, descent.error, fit.error, time.process_time() - began))
            means = "".join(f"{value:>9.4f}" for value in np.mean(rows, axis=0))
            print(f"{method:<9}{bits:>5}{means}", flush=True)
    return 0


def rank_of(method: str, tensor: Array) -> Any:
    """Ranks at which the layers hold about a third of the kernel's numbers."""
    inputs, _, outputs = tensor.shape
    small = max(2, inputs // 3), max(2, outputs // 3)
    halves = max(2, inputs // 4), max(2, outputs // 4)
    return {"tc": (3, *halves), "cp3": max(2, inputs * outputs * 3 // (inputs + outputs + 9)), "btd": [halves] * 2,
            "tucker2": (small[0] + small[0] // 2, small[1] + small[1] // 2)}[method]  # fmt: skip


def synthetic(count: int) -> Iterator[Array]:
    """Kernels (16, 9, 24) with singular values that fall as those of trained ones do."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        tensor = rng.standard_normal((16, 9, 24))
        for axis in (0, 2):
            size = tensor.shape[axis]
            basis = np.linalg.qr(rng.standard_normal((size, size)))[0] * np.exp(-0.2 * np.arange(size))
            tensor = np.moveaxis(np.tensordot(basis, tensor, axes=(1, axis)), 0, axis)
        yield np.ascontiguousarray(tensor)


def trained(path: Path, count: int) -> Iterator[Array]:
    """The first 3 x 3 kernels of a weight file with several inputs."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        names = [name for name in sorted(file.keys()) if name.endswith("weight")]
        kernels = [value for name in names if (value := file.get_tensor(name)).ndim == 4]
    good = [kernel for kernel in kernels if kernel.shape[2:] == (3, 3) and min(kernel.shape[:2]) > 4]
    for kernel in good[:count]:
        yield kernel_tensor(kernel.astype(np.float64))


if __name__ == "__main__":
    sys.exit(main())
