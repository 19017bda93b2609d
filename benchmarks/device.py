"""One device: sweeps beside TensorLy on the same backend, the default solver, and where small systems belong.

    python -m benchmarks.device            the first CUDA device, or else the CPU with small problems
    python -m benchmarks.device --cpu      small problems on the CPU: a minute

PyTorch holds the data and is TensorLy's backend.  A time of a sweep is the difference of two calls, of a few sweeps and
of some more, over the number of these, median of three; the device is waited for before the clock is read.  Rows are
measured one by one, each guarded, and the JSON is written after each, so that what is done is not lost; rows that would
begin after `--seconds` are left out, and say so.

| rows | |
|---|---|
| sweep | time of a sweep, ours and TensorLy's, beside the time of one pass over the data |
| default | time to the end of the default solver, its error over the best that was found, and TensorLy's ALS |
| agreement | the default on the device beside the host: the same error |
| system | a Cholesky factor and a solution of n unknowns, host and device: where LM's small work is done faster |
| accepted | whether arrays of CuPy and JAX are taken, where these are installed |
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tensorchain as tc
from benchmarks.files import replace_file

RESULTS = Path(__file__).parent / "results"
_LIMIT = 215.0
"""Seconds after which no other row begins."""


@dataclass(frozen=True)
class Sweep:
    """A row of sweeps; `wanted` is the ratio of TensorLy's time to ours that was set out to be reached."""

    name: str
    kind: type[tc.Model]
    shape: tuple[int, ...]
    rank: int
    dtype: str
    sweeps: int
    wanted: float | None = None


@dataclass(frozen=True)
class Default:
    """A row of the default solver, on a planted model with 10 % noise; `wanted` in seconds."""

    name: str
    kind: type[tc.Model]
    shape: tuple[int, ...]
    rank: int
    dtype: str = "float32"
    wanted: float | None = None


SWEEPS = (
    Sweep("CP 200^3, rank 32, float64", tc.CP, (200,) * 3, 32, "float64", 24, 1.5),
    Sweep("CP 600^3, rank 32, float32", tc.CP, (600,) * 3, 32, "float32", 12, 1.5),
    Sweep("CP 100^4, rank 32, float32", tc.CP, (100,) * 4, 32, "float32", 12, 2.0),
    Sweep("TC 60^3, bonds 5, float64", tc.TensorChain, (60,) * 3, 5, "float64", 24, 1.5),
    Sweep("TC 400^3, bonds 8, float32", tc.TensorChain, (400,) * 3, 8, "float32", 12, 2.0),
    Sweep("TC 60^4, bonds 5, float32", tc.TensorChain, (60,) * 4, 5, "float32", 12, 1.5),
    Sweep("Tucker 400^3, ranks 20, float32", tc.Tucker, (400,) * 3, 20, "float32", 12, 3.0),
    Sweep("Tucker 800^3, ranks 20, float32", tc.Tucker, (800,) * 3, 20, "float32", 8, 3.0),
    Sweep("CP 1200^3, rank 32, float32", tc.CP, (1200,) * 3, 32, "float32", 8, 2.0),
)
DEFAULTS = (
    Default("CP 400^3, rank 20", tc.CP, (400,) * 3, 20, wanted=0.4),
    Default("TC 200^3, bonds 5", tc.TensorChain, (200,) * 3, 5, wanted=0.5),
)
SMALL_SWEEPS = (
    Sweep("CP 60^3, rank 8, float64", tc.CP, (60,) * 3, 8, "float64", 8),
    Sweep("TC 30^3, bonds 3, float32", tc.TensorChain, (30,) * 3, 3, "float32", 8),
    Sweep("Tucker 60^3, ranks 6, float32", tc.Tucker, (60,) * 3, 6, "float32", 8),
)
SMALL_DEFAULTS = (
    Default("CP 70^3, rank 5", tc.CP, (70,) * 3, 5),
    Default("TC 70^3, bonds 2", tc.TensorChain, (70,) * 3, 2),
)
SYSTEMS = (100, 200, 400, 800, 1600, 3200)
AGREEMENT: tuple[tuple[str, Any, tuple[int, ...]], ...] = (
    ("cp", 6, (70, 71, 72)),
    ("tc", 3, (70, 71, 72)),
    ("tucker", (4, 4, 4), (70, 71, 72)),
    ("btd", [(2, 2, 2), (3, 3, 3)], (70, 71, 72)),
)


@dataclass
class Bench:
    """The device, the clock, and what was measured so far."""

    device: torch.device
    path: Path
    small: bool
    limit: float
    began: float = field(default_factory=time.perf_counter)
    figures: dict[str, Any] = field(default_factory=dict)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object]) -> float:
        """Time of one call."""
        self.wait()
        began = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - began

    def median(self, work: Callable[[], object], repeats: int = 3) -> float:
        """Median time of some calls, after one that warms up."""
        work()
        return float(np.median([self.seconds(work) for _ in range(repeats)]))

    def add(self, kind: str, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        """A row: measured, printed, written; an exception is its result where it raises one."""
        row: dict[str, Any] = {"kind": kind, "name": name}
        if time.perf_counter() - self.began > self.limit:
            row["left out"] = f"after {self.limit:.0f} s"
        else:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    row.update(measure())
            except Exception as error:
                row["failed"] = f"{type(error).__name__}: {error}"[:300]
                row["where"] = traceback.format_exc().strip().splitlines()[-3:]
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.figures.setdefault("rows", []).append(row)
        print(line(row), flush=True)
        self.write()

    def write(self) -> None:
        """The JSON as it stands."""
        self.figures["seconds"] = round(time.perf_counter() - self.began, 1)
        replace_file(self.path, json.dumps(self.figures, indent=1) + "\n")


def sweep(bench: Bench, row: Sweep) -> dict[str, Any]:
    """Ours and TensorLy's time of a sweep."""
    generator = torch.Generator(device=bench.device).manual_seed(0)
    dtype = getattr(torch, row.dtype)
    tensor = torch.randn(*row.shape, device=bench.device, dtype=dtype, generator=generator)
    source = tc.Device(tensor)
    size = tensor.numel() * tensor.element_size()
    few = 4

    def ours(count: int) -> Any:
        return tc.decompose(source, row.kind, row.rank, solver=tc.ALS(max_iter=count, tol=0), rng=0)

    fit = ours(few + row.sweeps)
    # In single precision a run may end before its last sweep, where rounding raises the error.
    made = fit.iterations - few
    found: dict[str, Any] = {"ms": _each(bench, ours, few, row.sweeps, made), "wanted": row.wanted}
    found["pass ms"] = 1e3 * size / bench.figures["bandwidth"]
    found["error"], found["sweeps"] = fit.error, fit.iterations
    peer = _peer(row, tensor)
    if peer is not None:
        try:
            theirs = found["TensorLy"] = _each(bench, peer, few, row.sweeps, row.sweeps)
            found["TensorLy / ours"] = theirs / found["ms"] if theirs and found["ms"] else None
        except Exception as error:
            found["TensorLy"] = f"{type(error).__name__}: {error}"[:200]
    return found


def _each(bench: Bench, call: Callable[[int], Any], few: int, more: int, made: int) -> float | None:
    """Milliseconds of a sweep, without what a call costs beside its sweeps; None where the clock says nothing.

    `more` are asked for beyond a few, and `made` of them are made.
    """
    least = bench.median(lambda: call(few))
    spent = bench.median(lambda: call(few + more)) - least
    return 1e3 * spent / made if spent > 0.0 and made > 0 else None


def _peer(row: Sweep, tensor: Any) -> Callable[[int], Any] | None:
    """TensorLy's way of the same sweeps, where it is installed."""
    try:
        import tensorly
        from tensorly.decomposition import parafac, tensor_ring_als, tucker
    except ImportError:
        return None
    tensorly.set_backend("pytorch")
    if row.kind is tc.CP:
        return lambda n: parafac(tensor, row.rank, n_iter_max=n, tol=0, init="random", random_state=0)
    if row.kind is tc.Tucker:
        ranks = [row.rank] * len(row.shape)
        return lambda n: tucker(tensor, ranks, n_iter_max=n, tol=0, init="random", random_state=0)
    bonds = [row.rank] * (len(row.shape) + 1)
    return lambda n: tensor_ring_als(tensor, bonds, ls_solve="normal_eq", n_iter_max=n, tol=0, random_state=0)


def default(bench: Bench, row: Default) -> dict[str, Any]:
    """Time of the default solver, and how near it comes to the best that is found."""
    model = row.kind.random(row.shape, row.rank, 0)
    exact = torch.from_numpy(model.full()).to(bench.device, getattr(torch, row.dtype))
    generator = torch.Generator(device=bench.device).manual_seed(1)
    noise = torch.randn(exact.shape, device=bench.device, dtype=exact.dtype, generator=generator)
    tensor = exact + 0.1 * exact.norm() / math.sqrt(exact.numel()) * noise
    del exact, noise
    source = tc.Device(tensor)
    # From the planted model: the minimiser that everyone looks for.
    best = tc.decompose(source, init=model, solver=tc.ALS(max_iter=40, tol=1e-9)).error
    tc.decompose(source, row.kind, row.rank, rng=1)
    fits: list[Any] = []
    times = [bench.seconds(lambda: fits.append(tc.decompose(source, row.kind, row.rank, rng=0))) for _ in range(2)]
    best = min(best, *(fit.error for fit in fits))
    found = {"seconds": min(times), "error": fits[0].error, "error / best": fits[0].error / best, "wanted": row.wanted}
    found |= {"way": fits[0].solver, "iterations": fits[0].iterations, "reason": fits[0].reason.name}
    if row.kind is tc.CP:
        try:
            import tensorly
            from tensorly.decomposition import parafac

            tensorly.set_backend("pytorch")
            got: list[Any] = []
            found["TensorLy seconds"] = bench.seconds(
                lambda: got.append(parafac(tensor, row.rank, n_iter_max=200, tol=1e-8, init="random", random_state=0))
            )
            rest = tensor - tensorly.cp_to_tensor(got[0])
            found["TensorLy error / best"] = float(rest.norm() / tensor.norm()) / best
        except Exception as error:
            found["TensorLy seconds"] = f"{type(error).__name__}: {error}"[:200]
    return found


def agreement(bench: Bench, kind: str, rank: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """The default on the device beside the host."""
    rng = np.random.default_rng(0)
    models = {"cp": tc.CP, "tc": tc.TensorChain, "tucker": tc.Tucker, "btd": tc.BlockTerm}
    tensor = models[kind].random(shape, rank, rng).full()
    tensor = tensor + 0.05 * np.linalg.norm(tensor) / math.sqrt(tensor.size) * rng.standard_normal(shape)
    there = torch.from_numpy(tensor).to(bench.device)
    fits: list[Any] = []
    found = {
        "host s": bench.seconds(lambda: fits.append(tc.decompose(tensor, kind, rank, rng=0))),
        "device s": bench.seconds(lambda: fits.append(tc.decompose(there, kind, rank, rng=0))),
    }
    return {**found, "error": fits[1].error, "device / host": fits[1].error / fits[0].error}


def system(bench: Bench, size: int) -> dict[str, Any]:
    """A positive definite system: on the host, and on the device with its right-hand side coming and going."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((size, size))
    matrix, rhs = root @ root.T + size * np.eye(size), rng.standard_normal((size, 1))
    dtype = torch.float32 if bench.device.type == "mps" else torch.float64
    there = torch.from_numpy(matrix).to(bench.device, dtype)

    def host() -> Any:
        from scipy.linalg import cho_factor, cho_solve

        return cho_solve(cho_factor(matrix, check_finite=False), rhs, check_finite=False)

    def device() -> Any:
        factor = torch.linalg.cholesky_ex(there)[0]
        return torch.cholesky_solve(torch.from_numpy(rhs).to(bench.device, dtype), factor).cpu()

    return {"host ms": 1e3 * bench.median(host), "device ms": 1e3 * bench.median(device)}


def accepted(library: str) -> dict[str, Any]:
    """Whether an array of a library is decomposed; the library is imported here."""
    tensor = tc.CP.random((20, 21, 22), 3, 0).full()
    try:
        if library == "cupy":
            import cupy

            array = cupy.asarray(tensor)
        else:
            import jax

            jax.config.update("jax_enable_x64", True)
            array = jax.numpy.asarray(tensor)
    except ImportError:
        return {"not installed": True}
    fit = tc.decompose(array, "cp", 3, solver=tc.ALS(max_iter=30), rng=0)
    return {"taken as": repr(tc.Device(array)), "error": fit.error}


def line(row: dict[str, Any]) -> str:
    """A row as it is printed."""
    hidden = ("kind", "name", "where")
    shown = (f"{name} {_short(value)}" for name, value in row.items() if name not in hidden and value is not None)
    return f"{row['kind']:9} {row['name']:32} " + "  ".join(shown)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def bandwidth(bench: Bench) -> float:
    """Bytes read and written a second by a copy."""
    first = torch.empty((1 << 22) if bench.small else (1 << 28), device=bench.device)
    second = torch.empty_like(first)
    return 2 * first.numel() * first.element_size() / bench.median(lambda: second.copy_(first))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cpu", action="store_true", help="small problems on the CPU")
    options.add_argument("--quick", action="store_true", help="the same as --cpu")
    options.add_argument("--seconds", type=float, default=_LIMIT, help="no other row begins after so long")
    options.add_argument("--results", type=Path, default=RESULTS, help="folder of the figures")
    given = options.parse_args()
    small = given.cpu or given.quick or not torch.cuda.is_available()
    device = torch.device("cpu" if small else "cuda:0")
    torch.backends.cuda.matmul.allow_tf32 = False
    if small:
        torch.set_num_threads(1)
    card = platform.processor() or platform.machine() if small else torch.cuda.get_device_name(device)
    name = "device_cpu" if small else "device_" + re.sub(r"\W+", "_", card).strip("_").lower()
    bench = Bench(device, given.results / f"{name}.json", small, given.seconds)
    versions = {"torch": torch.__version__, "numpy": np.__version__, "tensorchain": tc.__version__}
    bench.figures.update({"card": card, "small": small, "versions": versions, "bandwidth": bandwidth(bench)})
    print(f"{card}, torch {torch.__version__}: copies at {bench.figures['bandwidth'] / 1e12:.3g} TB/s", flush=True)
    for one in SMALL_SWEEPS if small else SWEEPS:
        bench.add("sweep", one.name, lambda one=one: sweep(bench, one))
    for two in SMALL_DEFAULTS if small else DEFAULTS:
        bench.add("default", two.name, lambda two=two: default(bench, two))
    for kind, rank, shape in AGREEMENT:
        bench.add("agreement", kind, lambda kind=kind, rank=rank, shape=shape: agreement(bench, kind, rank, shape))
    for size in SYSTEMS[:3] if small else SYSTEMS:
        bench.add("system", f"{size} unknowns", lambda size=size: system(bench, size))
    for library in ("cupy", "jax"):
        bench.add("accepted", library, lambda library=library: accepted(library))
    print(bench.path)


if __name__ == "__main__":
    main()
