"""Data with gaps: time and error on entries that were held out.

    python -m benchmarks.gaps [--quick] [--rows NAME ...]

*entries*: a million entries of a CP model of 1000 x 800 x 300, rank 8, with noise of 10 %.  The default solver beside
our sweeps, and beside twenty sweeps of ridge regression from a small start, row by row, in plain NumPy.

*photograph*: 160 x 107 x 3, of which 30 % are observed.  A Tucker model of rank (20, 20, 3) with several penalties
beside CP and TC of several ranks with the same ones: which of them predicts the missing entries best, and in what time.
Nothing is chosen by the entries that are held out: all of them are printed.

Times are on the clock, on all threads that `--threads` allows.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import tensorchain as tc
from benchmarks.default import quiet
from benchmarks.timing import parser, save, table

Array = Any
_PENALTIES = (0.01, 0.03, 0.055, 0.1)
"""Relative, as in `tc.Penalty`."""


def entries(count: int) -> tuple[tc.Observed, Array, Array]:
    """Observed entries, and the positions and values of others."""
    rng = np.random.default_rng(0)
    shape = (1000, 800, 300)
    factors = [rng.standard_normal((size, 8)) for size in shape]
    indices = np.unique(np.stack([rng.integers(0, size, count) for size in shape], axis=1), axis=0)
    signal = np.einsum("zr,zr,zr->z", *[factor[indices[:, n]] for n, factor in enumerate(factors)])
    values = signal + 0.1 * signal.std() * rng.standard_normal(len(signal))
    held_out = rng.random(len(values)) < 0.02
    return tc.Observed(indices[~held_out], values[~held_out], shape), indices[held_out], values[held_out]


def photograph() -> tuple[tc.Masked, Array, Array]:
    """Observed entries, and the positions and values of the others."""
    from sklearn.datasets import load_sample_image

    picture = (load_sample_image("china.jpg")[::4, ::4][:107, :160] / 255.0).transpose(1, 0, 2)
    observed = np.random.default_rng(0).random(picture.shape) < 0.3
    return tc.Masked(picture, mask=observed), np.argwhere(~observed), picture[~observed]


def ridge(data: tc.Observed, rank: int, sweeps: int, seed: int) -> tc.CP:
    """Alternating ridge regression, row by row, from a small start."""
    rng = np.random.default_rng(seed)
    factors = [0.1 * rng.standard_normal((size, rank)) for size in data.shape]
    orders = [np.argsort(data.indices[:, n], kind="stable") for n in range(3)]
    price = 1e-3 * len(data.values) / sum(data.shape)
    for _ in range(sweeps):
        for n, order in enumerate(orders):
            others = [m for m in range(3) if m != n]
            design = np.prod([factors[m][data.indices[order, m]] for m in others], axis=0)
            ends = np.searchsorted(data.indices[order, n], np.arange(data.shape[n] + 1))
            for row, (first, last) in enumerate(itertools.pairwise(ends)):
                part = design[first:last]
                system = part.T @ part + price * np.eye(rank)
                factors[n][row] = np.linalg.solve(system, part.T @ data.values[order[first:last]])
    return tc.CP(factors)


def measured(find: Callable[[], tc.Model | tc.Fit], data: tc.Tensor, where: Array, values: Array) -> dict[str, float]:
    """Seconds, relative error, and relative error on the entries held out."""
    began = time.perf_counter()
    with quiet():
        found = find()
    seconds = time.perf_counter() - began
    model = found.model if isinstance(found, tc.Fit) else found
    away = np.linalg.norm(values - model.entries(where)) / np.linalg.norm(values)
    return {"seconds": seconds, "error": data.residual_norm(model) / data.norm(), "held_out": float(away)}


def of_entries(quick: bool) -> dict[str, dict[str, float]]:
    data, where, values = entries(100_000 if quick else 1_000_000)
    ways: dict[str, Callable[[], tc.Model | tc.Fit]] = {
        "default": lambda: tc.decompose(data, "cp", 8, rng=0),
        "ALS, 50 sweeps": lambda: tc.decompose(data, "cp", 8, rng=0, solver=tc.ALS(max_iter=50)),
        "ridge in NumPy, 20 sweeps": lambda: ridge(data, 8, 20, seed=0),
    }
    return {name: measured(way, data, where, values) for name, way in ways.items()}


def of_photograph(quick: bool) -> dict[str, dict[str, float]]:
    data, where, values = photograph()
    candidates: list[tuple[str, Any]] = [("tucker", (20, 20, 3))]
    candidates += [("cp", rank) for rank in ((10,) if quick else (5, 10, 20, 30))]
    candidates += [("tc", bonds) for bonds in (((2, 4, 4),) if quick else ((2, 4, 4), (3, 6, 6), (3, 10, 10)))]
    sweeps = tc.ALS(max_iter=100, tol=1e-4)
    found = {}
    for model, rank in candidates:
        for price in _PENALTIES:
            name = f"{model} {rank}, penalty {price:g}"
            constraint = tc.Penalty(price, relative=True)

            def way(model: str = model, rank: Any = rank, constraint: tc.Penalty = constraint) -> tc.Fit:
                return tc.decompose(data, model, rank, rng=0, solver=sweeps, constraint=constraint)

            found[name] = measured(way, data, where, values)
    return found


ROWS = {"entries": of_entries, "photograph": of_photograph}


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS), help="rows to be measured")
    given = options.parse_args()
    results = {}
    with threadpool_limits(given.threads):
        for row in given.rows:
            results[row] = ROWS[row](given.quick)
            body = [
                [name, f"{r['seconds']:.3g} s", f"{r['error']:.4g}", f"{r['held_out']:.4g}"]
                for name, r in results[row].items()
            ]
            print(table([row, "time", "error", "held out"], body), end="\n\n", flush=True)
    if set(given.rows) == set(ROWS):
        save(given.results, "gaps", {"threads": given.threads, "rows": results}, quick=given.quick)


if __name__ == "__main__":
    main()
