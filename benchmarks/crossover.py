"""Where conjugate gradients and CP's structured inverse overtake a Cholesky factor of J^T J in Levenberg-Marquardt.

Every way runs from the same start to the same tolerance; processor seconds, iterations and the error at the end.
"exact" problems are planted models of the rank that is fitted with little noise, those of CP with collinear components
(cosines 0.95), where steps must be accurate; "noisy" ones are planted models of twice that rank with much noise.

    python -m benchmarks.crossover [--quick]
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import tensorchain as tc
from benchmarks.timing import parser, save, table

PROBLEMS: tuple[tuple[type[tc.Model], tuple[int, ...], Any], ...] = (
    (tc.TensorChain, (10,) * 3, 3),
    (tc.TensorChain, (20,) * 3, 3),
    (tc.TensorChain, (30,) * 3, 4),
    (tc.TensorChain, (60,) * 3, 4),
    (tc.CP, (20,) * 3, 5),
    (tc.CP, (40,) * 3, 5),
    (tc.CP, (40,) * 3, 10),
    (tc.CP, (100,) * 3, 10),
)
NEVER, ALWAYS = 10**9, 0


def main() -> None:
    given = parser(__doc__ or "").parse_args()
    rows = []
    with threadpool_limits(given.threads):
        for kind, shape, rank in PROBLEMS[:1] if given.quick else PROBLEMS:
            for hard in (True, False):
                rows += list(measure(kind, shape, rank, hard, seconds=2.0 if given.quick else 30.0))
    print(lines(rows))
    save(given.results, "crossover", {"threads": given.threads, "rows": rows}, quick=given.quick)


def measure(
    kind: type[tc.Model], shape: tuple[int, ...], rank: int, hard: bool, seconds: float
) -> Iterator[dict[str, Any]]:
    """One problem by every way."""
    rng = np.random.default_rng(0)
    if hard and kind is tc.CP:
        signal = tc.datasets.exact_cp(shape, rank, rng, collinearity=0.95).tensor
    else:
        signal = kind.random(shape, rank if hard else 2 * rank, rng).full()
    noise = rng.standard_normal(shape)
    tensor = signal / np.linalg.norm(signal) + (0.001 if hard else 0.3) * noise / np.linalg.norm(noise)
    start = kind.random(shape, rank, 1)
    ways = {"Cholesky": NEVER, "conjugate gradients": ALWAYS}
    if start.has_damped_inverse:
        ways["structured"] = ALWAYS
    for way, limit in ways.items():
        with structure(way == "structured"):
            began = time.process_time()
            solver = tc.LM(max_iter=200, tol=1e-6, dense_limit=limit)
            fit = tc.decompose(tensor, init=start, solver=solver, max_seconds=seconds)
            spent = time.process_time() - began
        yield {
            "model": kind.name,
            "shape": shape,
            "rank": rank,
            "problem": "exact" if hard else "noisy",
            "parameters": start.n_parameters,
            "way": way,
            "seconds": spent,
            "iterations": fit.iterations,
            "error": fit.error,
            "reason": fit.reason.name,
        }


@contextmanager
def structure(used: bool) -> Iterator[None]:
    """With CP's structured inverse, or without."""
    kept = tc.CP.has_damped_inverse
    if not used:
        tc.CP.has_damped_inverse = property(lambda self: False)  # type: ignore[method-assign]
    try:
        yield
    finally:
        tc.CP.has_damped_inverse = kept  # type: ignore[method-assign]


def lines(rows: list[dict[str, Any]]) -> str:
    """A line for each problem and way."""
    text = [
        [
            f"{row['model']} {'x'.join(map(str, row['shape']))}, rank {row['rank']}, {row['problem']}",
            str(row["parameters"]),
            row["way"],
            f"{row['seconds']:.2f}",
            str(row["iterations"]),
            f"{row['error']:.5f}",
        ]
        for row in rows
    ]
    return table(["problem", "parameters", "way", "seconds", "iterations", "error"], text)


if __name__ == "__main__":
    main()
