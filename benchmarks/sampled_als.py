"""Sampled beside plain alternating least squares on a large dense array: time of a sweep, time and error at the end.

An exact CP and an exact chain of the given size, with noise of a tenth of their norm, from one random start each.  The
best error that there can be is about 0.0995.

    python -m benchmarks.sampled_als [--quick] [--size 400]
"""

from __future__ import annotations

from typing import Any

import numpy as np

import tensorchain as tc
from benchmarks.timing import parser, save
from tensorchain.solvers.sampled import SampledALS


def noisy(kind: Any, size: int, rank: Any, rng: np.random.Generator) -> Any:
    """An array of norm 1, in single precision, made slab by slab."""
    truth = kind.random((size,) * 3, rank, rng, dtype=np.float32)
    truth = truth.scaled(1.0 / truth.norm())
    tensor = truth.full()
    for slab in tensor:
        slab += np.float32(0.1 * size**-1.5) * rng.standard_normal(slab.shape, dtype=np.float32)
    return tensor


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--size", type=int, help="of each mode; 200 by default, 60 with --quick")
    options.add_argument("--sweeps", type=int, default=60)
    given = options.parse_args()
    size = given.size or (60 if given.quick else 200)
    rows: list[dict[str, Any]] = []
    for kind, rank in ((tc.CP, 10), (tc.TensorChain, 4)):
        rng = np.random.default_rng(0)
        tensor = noisy(kind, size, rank, rng)
        start = kind.random(tensor.shape, rank, rng)
        for solver in (tc.ALS(max_iter=given.sweeps, tol=1e-4), SampledALS(max_iter=given.sweeps)):
            fit = tc.decompose(tensor, init=start, solver=solver, rng=0)
            steps = np.diff(fit.history.seconds)
            # The last step of a sampled run is the pass for the true error.
            sweep = steps[:-1] if isinstance(solver, SampledALS) else steps
            row = {
                "model": f"{kind.__name__} {rank}",
                "solver": type(solver).__name__,
                "sweeps": fit.iterations,
                "sweep ms": 1e3 * float(np.median(sweep)),
                "seconds": fit.seconds,
                "error": fit.error,
                "reason": fit.reason.name,
            }
            print(
                "  ".join(
                    f"{name} {value:.4g}" if isinstance(value, float) else f"{value}" for name, value in row.items()
                )
            )
            rows.append(row)
    save(given.results, "sampled_als", {"size": size, "rows": rows}, quick=given.quick)


if __name__ == "__main__":
    main()
