"""Sweep of alternating least squares for a CP of a sparse tensor, beside pyttb: same entries, same start, same process.

Entries are placed at random, as is hardest for the cache.  Runs of the two packages alternate, and the medians of
the time of one sweep are compared, with the errors after the same number of sweeps beside them, and the most
memory that a product with all factors but one takes beyond the tensor.

    python -m benchmarks.sparse_cp [--quick] [--entries 1e7]
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pyttb
from threadpoolctl import threadpool_limits

import tensorchain as tc
from benchmarks.timing import parser, save
from tensorchain.tensors.sparse import Sparse


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def peak(work: Callable[[], Any]) -> float:
    """Most megabytes that are allocated on the way."""
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / 2**20


def measure(size: int, entries: int, rank: int, sweeps: int, repeats: int, threads: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    built, ours = seconds(
        lambda: Sparse(rng.integers(0, size, (entries, 3)), rng.standard_normal(entries), (size,) * 3)
    )
    start = tc.CP.random(ours.shape, rank, rng)
    theirs = pyttb.sptensor(ours.indices.astype(np.int64), ours.values[:, None], ours.shape)
    guess = pyttb.ktensor([np.array(factor) for factor in start.factors])

    def our_fit() -> tc.Fit:
        return tc.decompose(ours, init=start, solver=tc.ALS(max_iter=sweeps, tol=0.0))

    def their_fit() -> Any:
        return pyttb.cp_als(theirs, rank, maxiters=sweeps, stoptol=0.0, init=guess, printitn=0)

    ours.contract_all_but(start, 0)  # Compiles, or reads the compiled code from disk.
    ours_s, theirs_s = [], []
    for _ in range(repeats):
        fit = our_fit()
        ours_s.append(float(np.median(np.diff(fit.history.seconds))))
        spent, found = seconds(their_fit)
        theirs_s.append(spent / sweeps)
    error = float(np.sqrt(ours.norm() ** 2 + found[0].norm() ** 2 - 2 * theirs.innerprod(found[0])) / ours.norm())
    return {
        "shape": list(ours.shape),
        "entries": len(ours.values),
        "rank": rank,
        "sweeps": sweeps,
        "threads": threads,
        "tensorchain sweep s": statistics.median(ours_s),
        "pyttb sweep s": statistics.median(theirs_s),
        "ratio": statistics.median(theirs_s) / statistics.median(ours_s),
        "tensorchain error": float(fit.history.error[-1]),
        "pyttb error": error,
        "tensorchain sorting s": built,
        "tensor MB": (ours.indices.nbytes + ours.values.nbytes) / 2**20,
        "tensorchain peak MB": peak(lambda: ours.contract_all_but(start, 1)),
        "pyttb peak MB": peak(lambda: theirs.mttkrp(guess, 1)),
    }


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--entries", type=float, help="1e7 by default, 1e5 with --quick")
    options.add_argument("--size", type=float, default=1e5, help="of each of the three modes")
    options.add_argument("--rank", type=int, default=16)
    options.add_argument("--sweeps", type=int, default=2)
    options.add_argument("--repeats", type=int, default=3)
    given = options.parse_args()
    entries = int(given.entries or (1e5 if given.quick else 1e7))
    with threadpool_limits(given.threads):
        row = measure(int(given.size), entries, given.rank, given.sweeps, given.repeats, given.threads)
    for name, value in row.items():
        print(f"{name:<24} {value:.4g}" if isinstance(value, float) else f"{name:<24} {value}")
    save(given.results, "sparse_cp", row, quick=given.quick)


if __name__ == "__main__":
    main()
