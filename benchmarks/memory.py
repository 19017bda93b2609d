"""Most memory that a fit of a tensor of 400^3 holds beyond the tensor itself, beside TensorLy and pyttb.

The tensor has 512 MB in double precision; three sweeps each, from the same start where a package takes one.  Memory is
traced with tracemalloc, which sees every array of NumPy, in this process and beyond what was there before the call.

    python -m benchmarks.memory [--quick]
"""

from __future__ import annotations

from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import tensorchain as tc
from benchmarks import peers
from benchmarks.timing import Contestant, parser, peak_memory, save, table

SWEEPS = 3
WANTED = 0.3
"""Most memory beyond the tensor, as a share of it."""


def contestants(tensor: Any) -> dict[str, dict[str, Contestant]]:
    """By model, then by package; ours first."""
    shape = tensor.shape
    cp, chain, tucker = tc.CP.random(shape, 32, 1), tc.TensorChain.random(shape, 5, 1), tc.Tucker.random(shape, 15, 1)
    terms = tc.BlockTerm.random(shape, [(5, 5, 5)] * 3, 1)
    return {
        "CP, rank 32": {
            "tensorchain": peers.ours(tensor, cp, SWEEPS),
            "TensorLy": peers.tensorly_cp(tensor, cp, SWEEPS),
            "pyttb": peers.pyttb_cp(tensor, cp, SWEEPS),
        },
        "TC, bonds 5": {
            "tensorchain": peers.ours(tensor, chain, SWEEPS),
            "TensorLy normal_eq": peers.tensorly_chain(tensor, chain.bonds, SWEEPS, "normal_eq"),
            "TensorLy lstsq": peers.tensorly_chain(tensor, chain.bonds, SWEEPS, "lstsq"),
        },
        "Tucker, ranks 15": {
            "tensorchain": peers.ours(tensor, tucker, SWEEPS),
            "TensorLy": peers.tensorly_tucker(tensor, tucker.rank, SWEEPS),
            "pyttb": peers.pyttb_tucker(tensor, tucker.rank, SWEEPS),
        },
        "BTD, 3 terms (5, 5, 5)": {"tensorchain": peers.ours(tensor, terms, SWEEPS)},
    }


def main() -> None:
    given = parser(__doc__ or "").parse_args()
    size = 60 if given.quick else 400
    tensor = np.random.default_rng(0).standard_normal((size,) * 3)
    whole = tensor.nbytes / 2**20
    rows = []
    with threadpool_limits(given.threads):
        for model, runs in contestants(tensor).items():
            for package, run in runs.items():
                peak = peak_memory(run)
                rows.append({"model": model, "package": package, "peak MB": peak, "share": peak / whole})
                print(f"{model:24} {package:20} {peak:8.1f} MB  {peak / whole:.3f} of the tensor", flush=True)
    save(given.results, "memory", {"shape": tensor.shape, "tensor MB": whole, "rows": rows}, quick=given.quick)


def lines(figures: dict[str, Any]) -> str:
    """The table of saved figures."""
    rows = [
        [row["model"], row["package"], f"{row['peak MB']:.0f}", f"{row['share']:.3f}", str(WANTED) if own else ""]
        for row in figures["rows"]
        for own in [row["package"] == "tensorchain"]
    ]
    return table(["model", "package", "peak MB beyond the tensor", "share of the tensor", "wanted below"], rows)


if __name__ == "__main__":
    main()
