"""Time of a sweep of alternating least squares beside TensorLy, pyttb and the speed of the matrix product.

The time of a whole call, everything included, over the number of its sweeps.  The tensors are planted models of
twice the rank that is fitted, with noise, so that no contestant is done before the last sweep.

    python -m benchmarks.sweeps [--quick] [--threads N]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import tensorchain as tc
from benchmarks import peers
from benchmarks.timing import Contestant, Outcome, Timing, compete, parser, save, table


@dataclass(frozen=True)
class Row:
    """One problem.

    target : what was set out to be reached, ratio of the peer's time to ours by name of the peer.
    """

    name: str
    kind: type[tc.Model]
    shape: tuple[int, ...]
    rank: Any
    sweeps: int
    target: dict[str, float]


ROWS = (
    Row("CP 200^3, rank 32", tc.CP, (200,) * 3, 32, 20, {"pyttb": 2.0, "two GEMMs": 1 / 1.4}),
    Row("CP 40^4, rank 16", tc.CP, (40,) * 4, 16, 30, {"TensorLy": 4.0}),
    Row("TC 60^3, bonds 5", tc.TensorChain, (60,) * 3, 5, 200, {"TensorLy normal_eq": 5.0, "TensorLy lstsq": 30.0}),
    Row("TC 20^4, bonds 4", tc.TensorChain, (20,) * 4, 4, 200, {"TensorLy normal_eq": 8.0, "TensorLy lstsq": 35.0}),
    Row("Tucker 150^3, ranks 15", tc.Tucker, (150,) * 3, 15, 20, {"TensorLy": 2.0, "pyttb": 2.0}),
)

QUICK = (
    Row("CP 60^3, rank 8", tc.CP, (60,) * 3, 8, 10, {}),
    Row("TC 20^3, bonds 3", tc.TensorChain, (20,) * 3, 3, 10, {}),
    Row("Tucker 40^3, ranks 5", tc.Tucker, (40,) * 3, 5, 10, {}),
)


def planted(kind: type[tc.Model], shape: tuple[int, ...], rank: int, noise: float = 0.3) -> Any:
    """A model of this rank, of norm 1, plus noise of norm `noise`: Gaussian blocks, or collinear components for CP."""
    rng = np.random.default_rng(0)
    if kind is tc.CP:
        signal = tc.datasets.exact_cp(shape, rank, rng, collinearity=0.9).tensor
    else:
        signal = kind.random(shape, rank, rng).full()
    error = rng.standard_normal(shape)
    return signal / np.linalg.norm(signal) + noise / np.linalg.norm(error) * error


def contestants(row: Row, tensor: Any) -> dict[str, Contestant]:
    """Ours first."""
    start = row.kind.random(row.shape, row.rank, 1)
    found: dict[str, Contestant] = {"tensorchain": peers.ours(tensor, start, row.sweeps)}
    if isinstance(start, tc.CP):
        found["TensorLy"] = peers.tensorly_cp(tensor, start, row.sweeps)
        found["TensorLy, no errors"] = peers.tensorly_cp(tensor, start, row.sweeps, errors=False)
        found["pyttb"] = peers.pyttb_cp(tensor, start, row.sweeps)
    elif isinstance(start, tc.Tucker):
        found["TensorLy"] = peers.tensorly_tucker(tensor, start.rank, row.sweeps)
        found["pyttb"] = peers.pyttb_tucker(tensor, start.rank, row.sweeps)
    elif isinstance(start, tc.TensorChain):
        for solve in ("normal_eq", "lstsq"):
            for errors in (True, False):
                name = f"TensorLy {solve}" + ("" if errors else ", no errors")
                found[name] = peers.tensorly_chain(tensor, start.bonds, row.sweeps, solve, errors=errors)
    bonds = row.rank**2 if row.kind is tc.TensorChain else row.rank
    found["two GEMMs"] = two_products(tensor, bonds, row.sweeps)
    return found


def two_products(tensor: Any, rank: int, sweeps: int) -> Contestant:
    """The two passes over the data that a sweep needs at least, bare matrix products of one half of the modes each."""
    rng = np.random.default_rng(0)
    half = math.prod(tensor.shape[: tensor.ndim // 2])
    data = tensor.reshape(half, -1)
    left, right = rng.standard_normal((rank, half)), rng.standard_normal((rank, data.shape[1]))
    first, second = np.empty((rank, data.shape[1])), np.empty((rank, half))

    def run() -> Outcome:
        for _ in range(sweeps):
            np.matmul(left, data, out=first)
            np.matmul(right, data.T, out=second)
        return Outcome(sweeps, lambda: float("nan"))

    return run


def compared(timings: dict[str, Timing]) -> dict[str, float]:
    """Time of each peer over ours."""
    mine = timings["tensorchain"].median
    return {name: timing.median / mine for name, timing in timings.items() if name != "tensorchain"}


def measure(rows: tuple[Row, ...], repeats: int, threads: int, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """All problems, as JSON."""
    results = []
    for row in rows:
        tensor = planted(row.kind, row.shape, 2 * row.rank)
        timings = compete(contestants(row, tensor), repeats=repeats, threads=threads)
        ratios = compared(timings)
        results.append(
            {
                "name": row.name,
                "unit": "sweep",
                "tensor MB": tensor.nbytes / 2**20,
                "timings": {name: timing.row() for name, timing in timings.items()},
                "ratios": ratios,
                "targets": row.target,
            }
        )
        report(lines(results[-1]))
    return results


def lines(result: dict[str, Any]) -> str:
    """The table of one problem."""
    rows = []
    for name, timing in result["timings"].items():
        ratio = result["ratios"].get(name)
        target = result["targets"].get(name)
        error = timing.get("error")
        rows.append(
            [
                f"{name} ({timing['units']} {result['unit']}s)",
                f"{timing['median']:.3g}",
                f"{timing['least']:.3g}",
                "" if error is None else f"{error:.5f}",
                "" if ratio is None else f"{ratio:.2f}",
                "" if target is None else f"{target:.2g}",
                f"{timing['memory']:.0f}",
            ]
        )
    header = [result["name"], f"ms a {result['unit']}", "least", "error", "time / ours", "wanted", "peak MB"]
    return table(header, rows) + "\n"


def main() -> None:
    options = parser(__doc__ or "")
    given = options.parse_args()
    rows = QUICK if given.quick else ROWS
    results = measure(rows, 2 if given.quick else 7, given.threads, print)
    name = "sweeps" if given.threads == 1 else f"sweeps_{given.threads}_threads"
    save(given.results, name, {"threads": given.threads, "rows": results}, quick=given.quick)


if __name__ == "__main__":
    main()
